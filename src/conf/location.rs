//! The configuration of one level: what is set here, and after merging what holds here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::header_rules::HeaderRules;
use super::main::{MainConf, content_handler};
use super::mounts::{Mount, Mounted, Place, Slot};
use crate::app::limits::Limits;
use crate::app::source_files::{Mechanism, Patterns, Reloading};
use crate::app::specification::{Callable, Placement, Specification, Target};
use crate::nginx::conf::{ComplexValue, Conf, CoreLocation, page_size};
use crate::python::threads::Gil;

/// Where calls of an application run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// On the event loop thread.
    Off,
    /// On this many pool threads of the worker.
    Pool(usize),
}

impl Default for Threads {
    fn default() -> Self {
        Self::Pool(4)
    }
}

/// What an answer may take between the application and the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buffering {
    /// `wsgi_output_buffering`: small chunks are joined up to `memory`.
    pub join: bool,
    /// `wsgi_output_buffer_size`, in bytes.
    pub memory: usize,
    /// `wsgi_max_temp_file_size`, in bytes.
    pub file: u64,
    /// Where the temporary file is made.
    pub directory: PathBuf,
    /// Up to how many bytes what is given to `write()` is joined; 0 without `wsgi_write_buffering`.
    pub write_join: usize,
}

/// One `wsgi_var`.
#[derive(Clone, Debug)]
pub struct EnvironVariable {
    pub name: String,
    pub value: ComplexValue,
    pub if_not_empty: bool,
}

/// One `wsgi_pass` as it was written.
#[derive(Clone, Debug)]
pub struct Pass {
    pub target: Target,
    pub callable: Callable,
    /// File and line, for messages.
    pub place: String,
}

/// The directives of one level. `None` is "not set here"; after [`LocationConf::merge`] the accessors give defaults.
#[derive(Debug, Default)]
pub struct LocationConf {
    pub pass: Option<Pass>,
    pub script_name: Option<ComplexValue>,
    pub variables: Option<Vec<EnvironVariable>>,
    pub middleware: Option<Vec<(String, Callable)>>,
    pub environment: Option<Vec<(String, String)>>,
    pub pass_authorization: Option<bool>,
    pub preload: Option<bool>,
    pub enable_subinterpreters: Option<bool>,
    pub use_main_interpreter: Option<bool>,
    pub interpreter: Option<String>,
    pub interpreter_gil: Option<Gil>,
    pub interpreters: Option<usize>,
    pub threads: Option<Threads>,
    pub queue: Option<usize>,
    pub queue_timeout: Option<Duration>,
    pub request_timeout: Option<Duration>,
    pub slow_request: Option<Duration>,
    pub debug: Option<bool>,
    pub request_buffering: Option<bool>,
    pub output_buffering: Option<bool>,
    pub output_buffer_size: Option<usize>,
    pub max_temp_file_size: Option<u64>,
    pub temp_path: Option<PathBuf>,
    pub write_buffering: Option<bool>,
    pub write_buffer_size: Option<usize>,
    pub allow_ranges: Option<bool>,
    pub optimize_send_headers: Option<bool>,
    pub intercept_errors: Option<bool>,
    pub hide_headers: Option<Vec<String>>,
    pub pass_headers: Option<Vec<String>>,
    pub script_reloading: Option<bool>,
    pub reload_mechanism: Option<Mechanism>,
    pub reload_watch: Option<Patterns>,

    buffering: Arc<Buffering>,
    place: Place,
    mount: Slot,
    application: Option<Arc<Specification>>,
    header_rules: Arc<HeaderRules>,
}

impl LocationConf {
    /// Fills what is not set here from the outer level, and registers the application of the location.
    pub fn merge(&mut self, outer: &Self, conf: &Conf, main: &mut MainConf) {
        inherit(&mut self.script_name, &outer.script_name);
        inherit(&mut self.variables, &outer.variables);
        inherit(&mut self.middleware, &outer.middleware);
        inherit(&mut self.environment, &outer.environment);
        inherit(&mut self.pass_authorization, &outer.pass_authorization);
        inherit(&mut self.preload, &outer.preload);
        inherit(&mut self.enable_subinterpreters, &outer.enable_subinterpreters);
        inherit(&mut self.use_main_interpreter, &outer.use_main_interpreter);
        inherit(&mut self.interpreter, &outer.interpreter);
        inherit(&mut self.interpreter_gil, &outer.interpreter_gil);
        inherit(&mut self.interpreters, &outer.interpreters);
        inherit(&mut self.threads, &outer.threads);
        inherit(&mut self.queue, &outer.queue);
        inherit(&mut self.queue_timeout, &outer.queue_timeout);
        inherit(&mut self.request_timeout, &outer.request_timeout);
        inherit(&mut self.slow_request, &outer.slow_request);
        inherit(&mut self.debug, &outer.debug);
        inherit(&mut self.request_buffering, &outer.request_buffering);
        inherit(&mut self.output_buffering, &outer.output_buffering);
        inherit(&mut self.output_buffer_size, &outer.output_buffer_size);
        inherit(&mut self.max_temp_file_size, &outer.max_temp_file_size);
        inherit(&mut self.temp_path, &outer.temp_path);
        inherit(&mut self.write_buffering, &outer.write_buffering);
        inherit(&mut self.write_buffer_size, &outer.write_buffer_size);
        inherit(&mut self.allow_ranges, &outer.allow_ranges);
        inherit(&mut self.optimize_send_headers, &outer.optimize_send_headers);
        inherit(&mut self.intercept_errors, &outer.intercept_errors);
        inherit(&mut self.hide_headers, &outer.hide_headers);
        inherit(&mut self.pass_headers, &outer.pass_headers);
        inherit(&mut self.script_reloading, &outer.script_reloading);
        inherit(&mut self.reload_mechanism, &outer.reload_mechanism);
        inherit(&mut self.reload_watch, &outer.reload_watch);
        self.header_rules = Arc::new(HeaderRules::new(
            self.allow_ranges(),
            self.intercept_errors(),
            self.hide_headers.as_deref().unwrap_or_default(),
            self.pass_headers.as_deref().unwrap_or_default(),
        ));

        let location = conf.core_location();
        self.buffering = Arc::new(self.merged_buffering(&location));
        if location.is_unnamed() {
            // `if` and `limit_except` stand in a location and are a part of it.
            self.place.clone_from(&outer.place);
            inherit(&mut self.pass, &outer.pass);
            if location.is_limit_except()
                && !location.has_handler()
                && self.pass.is_some()
                && let Some(handler) = content_handler()
            {
                location.set_handler(handler);
            }
        } else {
            self.place = place_of(&location, &outer.place);
        }
        if let Some(pass) = &self.pass {
            let specification = Specification {
                target: pass.target.clone(),
                callable: pass.callable.clone(),
                middleware: self.middleware.clone().unwrap_or_default(),
                placement: self.placement(),
            };
            let application = main.register(specification, self, &pass.place);
            main.mount(Mounted {
                server: conf.server(),
                application: application.clone(),
                place: self.place.clone(),
                script_name: self.script_name,
                slot: self.mount.clone(),
            });
            self.application = Some(application);
        }
    }

    fn merged_buffering(&self, location: &CoreLocation) -> Buffering {
        let write_buffer_size = self.write_buffer_size.unwrap_or_else(page_size);
        Buffering {
            join: self.output_buffering.unwrap_or(false),
            memory: self.output_buffer_size.unwrap_or(64 * 1024),
            file: self.max_temp_file_size.unwrap_or(1024 * 1024 * 1024),
            // nginx has made that folder, on a disk that was chosen for such things, and its workers may write there.
            directory: self.temp_path.clone().unwrap_or_else(|| location.client_body_temp_path()),
            write_join: if self.write_buffering.unwrap_or(false) { write_buffer_size } else { 0 },
        }
    }

    /// How answers are kept for their clients.
    pub fn buffering(&self) -> &Arc<Buffering> {
        &self.buffering
    }

    pub fn request_buffering(&self) -> bool {
        self.request_buffering.unwrap_or(true)
    }

    pub fn optimize_send_headers(&self) -> bool {
        self.optimize_send_headers.unwrap_or(false)
    }

    /// The application of this location.
    pub fn application(&self) -> Option<&Arc<Specification>> {
        self.application.as_ref()
    }

    /// Where the application is mounted, once the whole configuration is read.
    pub fn mount(&self) -> &Mount {
        self.mount.get_or_init(Mount::default)
    }

    pub fn pass_authorization(&self) -> bool {
        self.pass_authorization.unwrap_or(true)
    }

    pub fn preload(&self) -> bool {
        self.preload.unwrap_or(true)
    }

    fn placement(&self) -> Placement {
        match &self.interpreter {
            _ if !self.enable_subinterpreters() || self.use_main_interpreter() => Placement::Main,
            Some(name) => Placement::Named(name.clone()),
            None => Placement::Alone,
        }
    }

    /// The `wsgi_interpreter` of a location without sub-interpreters.
    pub fn idle_interpreter(&self) -> Option<&str> {
        let idle = !self.enable_subinterpreters() && !self.use_main_interpreter();
        self.interpreter.as_deref().filter(|_| idle)
    }

    pub fn enable_subinterpreters(&self) -> bool {
        self.enable_subinterpreters.unwrap_or(false)
    }

    pub fn use_main_interpreter(&self) -> bool {
        self.use_main_interpreter.unwrap_or(false)
    }

    pub fn interpreter_gil(&self) -> Gil {
        self.interpreter_gil.unwrap_or_default()
    }

    /// How many copies of its interpreter a worker has.
    pub fn interpreters(&self) -> usize {
        self.interpreters.unwrap_or(1)
    }

    pub fn threads(&self) -> Threads {
        self.threads.unwrap_or_default()
    }

    /// What the calls of this location may take. A time of 0 is no limit.
    pub fn limits(&self) -> Limits {
        let limit = |time: Duration| (!time.is_zero()).then_some(time);
        Limits {
            queue: self.queue.unwrap_or(1000),
            queue_timeout: limit(self.queue_timeout.unwrap_or(Duration::from_secs(60))),
            request_timeout: limit(self.request_timeout.unwrap_or(Duration::from_secs(0))),
            slow_request: limit(self.slow_request.unwrap_or(Duration::from_secs(0))),
        }
    }

    pub fn debug(&self) -> bool {
        self.debug.unwrap_or(false)
    }

    pub fn allow_ranges(&self) -> bool {
        self.allow_ranges.unwrap_or(false)
    }

    pub fn intercept_errors(&self) -> bool {
        self.intercept_errors.unwrap_or(false)
    }

    /// How its application is reloaded, if it is.
    pub fn reloading(&self) -> Option<Reloading> {
        let mechanism = self.reload_mechanism.unwrap_or_default();
        let patterns = self.reload_watch.clone().unwrap_or_default();
        self.script_reloading.unwrap_or(false).then_some(Reloading { mechanism, patterns })
    }

    /// What holds for the heads of this location's answers.
    pub fn header_rules(&self) -> &Arc<HeaderRules> {
        &self.header_rules
    }
}

/// Where a location stands that is directly in one at `outer`, or in the server.
fn place_of(location: &CoreLocation, outer: &Place) -> Place {
    if let Some(prefix) = location.prefix() {
        return Place::Prefix(prefix.to_vec());
    }
    match (location.exact(), outer) {
        (Some(path), _) => Place::Within(path.to_vec()),
        (None, _) if location.is_named() => Place::Named,
        (None, Place::Prefix(path) | Place::Within(path)) => Place::Within(path.clone()),
        (None, Place::Named) => Place::Named,
    }
}

fn inherit<T: Clone>(here: &mut Option<T>, outer: &Option<T>) {
    if here.is_none() {
        here.clone_from(outer);
    }
}
