//! Configuration of `http`, `server` and `location` levels, and its merge.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::directives::LocationSettings;
use super::header_rules::HeaderRules;
use super::main::{MainConf, content_handler};
use super::mounts::{LocationPath, Mount, MountCell, MountedLocation};
use super::settings::Settings;
use crate::app::limits::Limits;
use crate::app::source_files::Reloading;
use crate::app::specification::{Callable, Placement, Specification, Target};
use crate::nginx::conf::{ComplexValue, Conf, CoreLocation};

/// Threads that run the calls of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The event loop thread.
    Off,
    /// This many pool threads of each worker process.
    Pool(usize),
}

/// Limits of the buffers of a response, between the application and the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buffering {
    /// `wsgi_output_buffering`: whether small chunks are joined, up to `memory`.
    pub join: bool,
    /// `wsgi_output_buffer_size`, in bytes.
    pub memory: usize,
    /// `wsgi_max_temp_file_size`, in bytes.
    pub file: u64,
    /// `wsgi_temp_path`: directory for the temporary file.
    pub directory: PathBuf,
    /// `wsgi_write_buffer_size`: data passed to `write()` is joined up to so many bytes; 0 without
    /// `wsgi_write_buffering`.
    pub write_join: usize,
}

/// A `wsgi_var`: a key of environ.
#[derive(Clone, Debug)]
pub struct EnvironVariable {
    pub name: String,
    pub value: ComplexValue,
    pub if_not_empty: bool,
}

/// A `wsgi_pass`.
#[derive(Clone, Debug)]
pub struct Pass {
    pub target: Target,
    pub callable: Callable,
    /// File and line of the directive.
    pub source_location: String,
}

/// Configuration of one level: its settings, and after the merge the values that are derived from them.
#[derive(Debug, Default)]
pub struct LocationConf {
    pub(super) settings: LocationSettings,
    header_rules: Arc<HeaderRules>,
    buffering: Arc<Buffering>,
    /// Paths that the location serves.
    path: LocationPath,
    mount: MountCell,
    application: Option<Arc<Specification>>,
}

impl LocationConf {
    /// Inherits the settings of the outer level, and registers the application of the location.
    pub fn merge(&mut self, outer: &Self, conf: &Conf, main: &mut MainConf) {
        let location = conf.core_location();
        // `if` and `limit_except` are parts of their location; a nested location needs a `wsgi_pass` of its own.
        let has_pass = self.settings.pass.is_some() || location.is_unnamed();
        self.settings.inherit(&outer.settings);
        if !has_pass {
            self.settings.pass = None;
        }
        self.header_rules = Arc::new(self.merged_header_rules());
        self.buffering = Arc::new(self.merged_buffering(&location));
        if location.is_unnamed() {
            self.path.clone_from(&outer.path);
            if location.is_limit_except()
                && !location.has_handler()
                && self.settings.pass.is_some()
                && let Some(handler) = content_handler()
            {
                location.set_handler(handler);
            }
        } else {
            self.path = path_of(&location, &outer.path);
        }
        if let Some(pass) = self.pass() {
            let specification = Specification {
                target: pass.target.clone(),
                callable: pass.callable.clone(),
                middleware: self.middleware().cloned().unwrap_or_default(),
                placement: self.placement(),
            };
            let application = main.register(specification, self, &pass.source_location);
            main.mount(MountedLocation {
                server: conf.server(),
                application: application.clone(),
                path: self.path.clone(),
                script_name: self.script_name().copied(),
                mount: self.mount.clone(),
            });
            self.application = Some(application);
        }
    }

    fn merged_header_rules(&self) -> HeaderRules {
        let hide = self.hide_header().map(Vec::as_slice).unwrap_or_default();
        let pass = self.pass_header().map(Vec::as_slice).unwrap_or_default();
        HeaderRules::new(self.allow_ranges(), self.intercept_errors(), hide, pass)
    }

    fn merged_buffering(&self, location: &CoreLocation) -> Buffering {
        Buffering {
            join: self.output_buffering(),
            memory: self.output_buffer_size(),
            file: self.max_temp_file_size(),
            // nginx has created that directory, its workers may write there, and its disk was chosen for such files.
            directory: self.temp_path().cloned().unwrap_or_else(|| location.client_body_temp_path()),
            write_join: if self.write_buffering() { self.write_buffer_size() } else { 0 },
        }
    }

    fn placement(&self) -> Placement {
        match self.interpreter() {
            _ if !self.enable_subinterpreters() || self.use_main_interpreter() => Placement::Main,
            Some(name) => Placement::Named(name.clone()),
            None => Placement::Alone,
        }
    }

    /// Returns the application of this location.
    pub fn application(&self) -> Option<&Arc<Specification>> {
        self.application.as_ref()
    }

    /// Returns the mount of the application, once the whole configuration is read.
    pub fn mount(&self) -> &Mount {
        self.mount.get_or_init(Mount::default)
    }

    /// Returns the rules for the headers of responses.
    pub fn header_rules(&self) -> &Arc<HeaderRules> {
        &self.header_rules
    }

    /// Returns the limits of the buffers of a response.
    pub fn buffering(&self) -> &Arc<Buffering> {
        &self.buffering
    }

    /// Returns the limits of the calls of this location. A time of 0 is no limit.
    pub fn limits(&self) -> Limits {
        let limit = |time: Duration| (!time.is_zero()).then_some(time);
        Limits {
            queue: self.queue(),
            queue_timeout: limit(self.queue_timeout()),
            request_timeout: limit(self.request_timeout()),
            slow_request: limit(self.slow_request()),
        }
    }

    /// Returns how the application is reloaded; `None` without `wsgi_script_reloading`.
    pub fn reloading(&self) -> Option<Reloading> {
        let patterns = self.reload_watch().cloned().unwrap_or_default();
        self.script_reloading().then(|| Reloading { mechanism: self.reload_mechanism(), patterns })
    }

    /// Returns the `wsgi_interpreter` that has no effect, because sub-interpreters are not enabled.
    pub fn unused_interpreter(&self) -> Option<&str> {
        let is_unused = !self.enable_subinterpreters() && !self.use_main_interpreter();
        self.interpreter().filter(|_| is_unused).map(String::as_str)
    }
}

/// Returns the paths of a location that stands in a location with the paths `outer`, or in a server.
fn path_of(location: &CoreLocation, outer: &LocationPath) -> LocationPath {
    if let Some(prefix) = location.prefix() {
        return LocationPath::Prefix(prefix.to_vec());
    }
    match (location.exact(), outer) {
        (Some(path), _) => LocationPath::Within(path.to_vec()),
        (None, _) if location.is_named() => LocationPath::Named,
        (None, LocationPath::Prefix(path) | LocationPath::Within(path)) => LocationPath::Within(path.clone()),
        (None, LocationPath::Named) => LocationPath::Named,
    }
}
