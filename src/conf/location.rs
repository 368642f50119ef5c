//! EngineConfig of `http`, `server` and `location` levels, and its merge.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::header_rules::HeaderRules;
use super::interpreters::RegisteredApplication;
use super::main::MainConf;
use super::mounts::{LocationPath, Mount, MountCell, MountedLocation};
use super::settings::{Settings, settings};
use super::values::{EnvironVariable, Pass, Threads};
use super::{content_handler, setters};
use crate::app::limits::Limits;
use crate::app::source_files::{Mechanism, Patterns, Reloading};
use crate::app::specification::{Callable, Placement, Specification};
use crate::nginx::conf::{ComplexValue, Conf, CoreLocation, page_size};
use crate::nginx::directive::{HTTP_SERVER_LOCATION, LOCATION_IF_LIMIT, location};
use crate::nginx::sys::{
    NGX_CONF_1MORE as ONE_OR_MORE, NGX_CONF_FLAG as FLAG, NGX_CONF_TAKE1 as TAKE1, NGX_CONF_TAKE2 as TAKE2,
    NGX_CONF_TAKE12 as TAKE12, NGX_CONF_TAKE23 as TAKE23, NGX_CONF_TAKE1234 as TAKE1234,
};
use crate::python::threads::Gil;

settings! {
    /// Directives of `http`, `server` and `location`, each of which inherits from the outer level.
    pub struct LocationSettings of LocationConf by location;

    /// Runs a WSGI application for the requests of a location.
    pass: Pass, LOCATION_IF_LIMIT | TAKE12, setters::pass;
    /// Sets `SCRIPT_NAME`, the mount point of the application.
    script_name: ComplexValue => "(the location's prefix)", HTTP_SERVER_LOCATION | TAKE1, setters::script_name;
    /// Adds a key to environ or replaces one.
    var: Vec<EnvironVariable>, HTTP_SERVER_LOCATION | TAKE23, setters::var;
    /// Wraps the application in WSGI middleware.
    middleware: Vec<(String, Callable)>, HTTP_SERVER_LOCATION | TAKE12, setters::middleware;
    /// Passes the `Authorization` header to the application.
    pass_authorization: bool = true, HTTP_SERVER_LOCATION | FLAG, setters::flag;
    /// Imports the application when a worker process starts.
    preload: bool = true, HTTP_SERVER_LOCATION | FLAG, setters::flag;
    /// Sets an environment variable of the application.
    env: Vec<(String, String)>, HTTP_SERVER_LOCATION | TAKE2, setters::env;
    /// Gives each application its own Python interpreter.
    enable_subinterpreters: bool = false, HTTP_SERVER_LOCATION | FLAG, setters::flag;
    /// Keeps one application in the main interpreter.
    use_main_interpreter: bool = false, HTTP_SERVER_LOCATION | FLAG, setters::flag;
    /// Names an interpreter that several applications share.
    interpreter: String, HTTP_SERVER_LOCATION | TAKE1, setters::interpreter;
    /// Selects a shared or a separate global interpreter lock.
    interpreter_gil: Gil = Gil::Shared, HTTP_SERVER_LOCATION | TAKE1, setters::interpreter_gil;
    /// Sets the number of copies of the interpreter in each worker process.
    interpreters: usize = 1, HTTP_SERVER_LOCATION | TAKE1, setters::interpreters;
    /// Sets the number of threads that run the application in each worker process.
    threads: Threads = Threads::Pool(4), HTTP_SERVER_LOCATION | TAKE1, setters::threads;
    /// Limits the number of calls that wait for a thread.
    queue: usize = 1000, HTTP_SERVER_LOCATION | TAKE1, setters::number;
    /// Limits the time that a call waits before it starts.
    queue_timeout: Duration = Duration::from_secs(60), HTTP_SERVER_LOCATION | TAKE1, setters::time;
    /// Limits the time that a call runs.
    request_timeout: Duration = Duration::ZERO, HTTP_SERVER_LOCATION | TAKE1, setters::time;
    /// Logs the Python stack of a call that runs longer than this time.
    slow_request: Duration = Duration::ZERO, HTTP_SERVER_LOCATION | TAKE1, setters::time;
    /// Reads the complete request body before the call starts.
    request_buffering: bool = true, HTTP_SERVER_LOCATION | FLAG, setters::flag;
    /// Joins small chunks of a response before they are sent.
    output_buffering: bool = false, HTTP_SERVER_LOCATION | FLAG, setters::flag;
    /// Limits the memory that holds the unsent part of a response.
    output_buffer_size: usize = 64 * 1024, HTTP_SERVER_LOCATION | TAKE1, setters::buffer_size;
    /// Limits the temporary file that holds the unsent part of a response.
    max_temp_file_size: u64 = 1024 * 1024 * 1024, HTTP_SERVER_LOCATION | TAKE1, setters::size;
    /// Sets the directory for temporary files.
    temp_path: PathBuf, HTTP_SERVER_LOCATION | TAKE1234, setters::temp_path;
    /// Joins small pieces of data that are passed to `write()`.
    write_buffering: bool = false, HTTP_SERVER_LOCATION | FLAG, setters::flag;
    /// Sets the size of the buffer for `write()`.
    write_buffer_size: usize = page_size() => "4k|8k", HTTP_SERVER_LOCATION | TAKE1, setters::buffer_size;
    /// Lets nginx answer `Range` requests from complete responses.
    allow_ranges: bool = false, HTTP_SERVER_LOCATION | FLAG, setters::flag;
    /// Ends the iteration early if the client needs no response body.
    optimize_send_headers: bool = false, HTTP_SERVER_LOCATION | FLAG, setters::flag;
    /// Replaces error responses of the application by `error_page`.
    intercept_errors: bool = false, HTTP_SERVER_LOCATION | FLAG, setters::flag;
    /// Removes a response header of the application.
    hide_header: Vec<String>, HTTP_SERVER_LOCATION | TAKE1, setters::header_name;
    /// Passes a response header that is removed otherwise.
    pass_header: Vec<String>, HTTP_SERVER_LOCATION | TAKE1, setters::header_name;
    /// Shows the traceback of an uncaught exception in the browser.
    debug: bool = false, HTTP_SERVER_LOCATION | FLAG, setters::flag;
    /// Loads the application again when its files change.
    script_reloading: bool = false, HTTP_SERVER_LOCATION | FLAG, setters::flag;
    /// Selects how changed code replaces the running code.
    reload_mechanism: Mechanism = Mechanism::Module, HTTP_SERVER_LOCATION | TAKE1, setters::reload_mechanism;
    /// Names further files that trigger a reload of the application.
    reload_watch: Patterns, HTTP_SERVER_LOCATION | ONE_OR_MORE, setters::reload_watch;
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

/// EngineConfig of one level: its settings, and after the merge the values that are derived from them.
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
                && let Some(handler) = content_handler::get()
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
            let application = main.register(RegisteredApplication {
                specification: Arc::new(specification),
                preload: self.preload(),
                reloading: self.reloading(),
                threads: self.threads(),
                gil: self.interpreter_gil(),
                copies: self.interpreters(),
                unused_interpreter: self.unused_interpreter().map(str::to_owned),
                request_buffering: self.request_buffering(),
                environment: self.env().cloned().unwrap_or_default(),
                source_location: pass.source_location.clone(),
            });
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
    fn reloading(&self) -> Option<Reloading> {
        let patterns = self.reload_watch().cloned().unwrap_or_default();
        self.script_reloading().then(|| Reloading { mechanism: self.reload_mechanism(), patterns })
    }

    /// Returns the `wsgi_interpreter` that has no effect, because sub-interpreters are not enabled.
    fn unused_interpreter(&self) -> Option<&str> {
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
