//! EngineConfig of `http`, `server` and `location` levels, and its merge.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::group_location::{self, GroupLocation};
use super::header_rules::HeaderRules;
use super::interpreters::RegisteredApplication;
use super::log::ApplicationLog;
use super::main::MainConf;
use super::mounts::{LocationPath, Mount, MountCell, MountedLocation};
use super::settings::{Settings, settings};
use super::values::{EnvironVariable, Pass, Status, StatusKind, Threads};
use super::{content_handler, environment_file, setters};
use crate::app::limits::Limits;
use crate::app::source_files::{Mechanism, Patterns, Reloading};
use crate::app::specification::{Callable, Placement, Specification};
use crate::nginx::access::{AccessControl, OwnAccess};
use crate::nginx::conf::{ComplexValue, Conf, CoreLocation, page_size};
use crate::nginx::directive::{HTTP_SERVER_LOCATION, LOCATION, LOCATION_IF_LIMIT, location};
use crate::nginx::sys::{
    NGX_CONF_1MORE as ONE_OR_MORE, NGX_CONF_FLAG as FLAG, NGX_CONF_NOARGS as NO_ARGS, NGX_CONF_TAKE1 as TAKE1,
    NGX_CONF_TAKE2 as TAKE2, NGX_CONF_TAKE12 as TAKE12, NGX_CONF_TAKE23 as TAKE23, NGX_CONF_TAKE123 as TAKE123,
    NGX_CONF_TAKE1234 as TAKE1234,
};
use crate::nginx::upstream::UpstreamSettings;
use crate::python::threads::Gil;

settings! {
    /// Directives of `http`, `server` and `location`, each of which inherits from the outer level.
    pub struct LocationSettings of LocationConf by location;

    /// Runs a WSGI application for the requests of a location.
    pass: Pass, LOCATION_IF_LIMIT | TAKE123, setters::pass;
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
    /// Sets environment variables of the application from a file.
    env_file: Vec<(String, String)>, HTTP_SERVER_LOCATION | TAKE1, setters::env_file;
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
    /// Writes the output of the application to a log of its own.
    log: Option<Arc<ApplicationLog>> => "off", HTTP_SERVER_LOCATION | TAKE12, super::log::log;
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
    /// Shows the state of the applications and workers.
    status: Status, LOCATION | NO_ARGS | TAKE1, setters::status;
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
    /// In the front, the part of the location in a process group.
    group: Option<GroupPart>,
    /// That of an outer location, if this location has no `wsgi_pass`.
    group_around: Option<GroupPart>,
    /// Access control that applies to the location.
    access: AccessControl,
    /// The part of it that stands in the location itself.
    own_access: OwnAccess,
    /// This nginx is an instance of a process group, and its requests come from the front.
    is_instance: bool,
}

/// Part of a location in its process group.
#[derive(Clone, Debug)]
struct GroupPart {
    /// Number of the location in the instance.
    id: String,
    /// Its directives there.
    directives: String,
    /// Number of its upstream.
    upstream: usize,
    /// File and line of its `wsgi_pass`.
    source_location: String,
}

impl LocationConf {
    /// Inherits the settings of the outer level, and registers the application of the location.
    ///
    /// # Errors
    /// nginx has logged the cause.
    pub fn merge(&mut self, outer: &Self, conf: &Conf, main: &mut MainConf) -> Result<(), ()> {
        let location = conf.core_location();
        // `if` and `limit_except` are parts of their location; a nested location needs a `wsgi_pass` of its own.
        let has_own_pass = self.settings.pass.is_some();
        let has_pass = has_own_pass || location.is_unnamed();
        let has_status = self.settings.status.is_some() || location.is_unnamed();
        self.settings.inherit(&outer.settings);
        if !has_pass {
            self.settings.pass = None;
        }
        if !has_status {
            self.settings.status = None;
        }
        self.merge_status(&location, outer, conf, main)?;
        self.is_instance = main.is_instance();
        self.header_rules = Arc::new(self.merged_header_rules());
        self.buffering = Arc::new(self.merged_buffering(&location));
        if location.is_unnamed() {
            self.path.clone_from(&outer.path);
            if location.is_limit_except()
                && !location.has_handler()
                && self.settings.pass.as_ref().is_some_and(|pass| pass.process.is_none())
                && let Some(handler) = content_handler::get()
            {
                location.set_handler(handler);
            }
        } else {
            self.path = path_of(&location, &outer.path);
        }
        let Some(pass) = self.pass().cloned() else { return self.refuse_inherited_headers(outer, conf) };
        if !has_own_pass {
            self.refuse_inherited_headers(outer, conf)?;
        }
        let mut application = self.registered(&pass);
        let application = match &pass.process {
            None => main.register(application),
            Some(group) => {
                if let Some(threads) = main.threads_of_group(group) {
                    application.threads = threads;
                }
                let part = self.group_part(&pass, application.threads, outer, conf, main);
                let text = group_location::block(&part.id, &part.directives);
                let id = part.id.clone();
                self.group = Some(part);
                conf.set_upstream(&self.upstream_settings())?;
                main.register_in_group(group, GroupLocation { id, text, application })
            }
        };
        main.mount(MountedLocation {
            server: conf.server(),
            application: application.clone(),
            path: self.path.clone(),
            script_name: self.script_name().copied(),
            mount: self.mount.clone(),
        });
        self.application = Some(application);
        Ok(())
    }

    /// Checks `wsgi_status`, and notes the access control of the location.
    fn merge_status(
        &mut self,
        location: &CoreLocation,
        outer: &Self,
        conf: &Conf,
        main: &mut MainConf,
    ) -> Result<(), ()> {
        self.access = conf.access_control();
        self.own_access = self.access.own(&outer.access);
        if location.is_unnamed() {
            self.own_access = self.own_access.or(outer.own_access);
        }
        let Some(status) = self.status() else { return Ok(()) };
        if self.settings.pass.is_some() {
            conf.emerg(&format!(
                "\"wsgi_status\" directive is in a location with \"wsgi_pass\" in {}: give it a location of its own",
                status.source_location
            ));
            return Err(());
        }
        if location.is_limit_except()
            && !location.has_handler()
            && let Some(handler) = content_handler::status()
        {
            location.set_handler(handler);
        }
        main.add_status(status);
        Ok(())
    }

    /// Refuses a `proxy_pass` of another server that would get the headers for a process group.
    fn refuse_inherited_headers(&mut self, outer: &Self, conf: &Conf) -> Result<(), ()> {
        let Some(part) = outer.group.as_ref().or(outer.group_around.as_ref()) else { return Ok(()) };
        let upstream = conf.proxy_upstream();
        // An `if` block inherits `proxy_pass` as well.
        if conf.has_proxy_pass() && !(conf.core_location().is_unnamed() && upstream == part.upstream) {
            let name = String::from_utf8_lossy(conf.core_location().name()).into_owned();
            conf.emerg(&format!(
                "location \"{name}\" with \"proxy_pass\" is in the location with \"wsgi_pass\" and \"process\" in {}, whose \
                 headers it would send: put it outside",
                part.source_location
            ));
            return Err(());
        }
        self.group_around = Some(part.clone());
        Ok(())
    }

    fn upstream_settings(&self) -> UpstreamSettings<'_> {
        UpstreamSettings {
            intercept_errors: self.intercept_errors(),
            allow_ranges: self.allow_ranges(),
            request_buffering: self.request_buffering(),
            pass_headers: self.pass_header().into_iter().flatten().map(String::as_str).collect(),
        }
    }

    fn registered(&self, pass: &Pass) -> RegisteredApplication {
        let specification = Specification {
            target: pass.target.clone(),
            callable: pass.callable.clone(),
            middleware: self.middleware().cloned().unwrap_or_default(),
            placement: self.placement(),
        };
        RegisteredApplication {
            specification: Arc::new(specification),
            preload: self.preload(),
            reloading: self.reloading(),
            threads: self.threads(),
            gil: self.interpreter_gil(),
            copies: self.interpreters(),
            unused_interpreter: self.unused_interpreter().map(str::to_owned),
            request_buffering: self.request_buffering(),
            environment: self.environment(),
            source_location: pass.source_location.clone(),
            log: self.log().cloned().flatten(),
        }
    }

    /// Returns the part of this location in its process group. An `if` or `limit_except` block that changes nothing shares
    /// that of its location.
    fn group_part(&self, pass: &Pass, threads: Threads, outer: &Self, conf: &Conf, main: &mut MainConf) -> GroupPart {
        let location = conf.core_location();
        let directives = group_location::directives(self, pass, threads, location.server_tokens());
        let shares = |part: &&GroupPart| {
            let group_of_outer = outer.pass().and_then(|pass| pass.process.as_ref());
            location.is_unnamed() && part.directives == directives && group_of_outer == pass.process.as_ref()
        };
        if let Some(part) = outer.group.as_ref().filter(shares) {
            return part.clone();
        }
        let kind = match () {
            () if location.is_limit_except() => "limit_except",
            () if location.is_unnamed() => "if",
            () if location.is_named() => "named",
            () if location.exact().is_some() => "exact",
            () if location.prefix().is_some() => "prefix",
            () => "regex",
        };
        let id = main.next_location_id(&conf.server_names(), kind, location.name());
        let (upstream, source_location) = (conf.proxy_upstream(), pass.source_location.clone());
        GroupPart { id, directives, upstream, source_location }
    }

    fn merged_header_rules(&self) -> HeaderRules {
        let hide = self.hide_header().map(Vec::as_slice).unwrap_or_default();
        let pass = self.pass_header().map(Vec::as_slice).unwrap_or_default();
        if self.is_instance {
            HeaderRules::of_instance(self.allow_ranges(), hide, pass)
        } else {
            HeaderRules::new(self.allow_ranges(), self.intercept_errors(), hide, pass)
        }
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

    /// Returns the variables of `wsgi_env_file` and `wsgi_env`, each once.
    pub(super) fn environment(&self) -> Vec<(String, String)> {
        let file = self.env_file().map(Vec::as_slice).unwrap_or_default();
        environment_file::merged(file, self.env().map(Vec::as_slice).unwrap_or_default())
    }

    fn placement(&self) -> Placement {
        match self.interpreter() {
            _ if !self.enable_subinterpreters() || self.use_main_interpreter() => Placement::Main,
            Some(name) => Placement::Named(name.clone()),
            None => Placement::Alone,
        }
    }

    /// Returns the number of this location in the instances of its process group, `None` without one.
    pub fn group_location(&self) -> Option<&str> {
        self.group.as_ref().map(|part| part.id.as_str())
    }

    /// Returns whether this nginx is an instance of a process group, so that requests come from the front.
    pub fn is_instance(&self) -> bool {
        self.is_instance
    }

    /// Returns what `wsgi_status` shows here, `None` without the directive.
    pub fn status_kind(&self) -> Option<StatusKind> {
        self.status().map(|status| status.kind)
    }

    /// Returns the access control that stands in this location itself.
    pub fn own_access(&self) -> OwnAccess {
        self.own_access
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
