//! The directives of the module: type, default, contexts, number of arguments and setter of each.

use std::path::PathBuf;
use std::time::Duration;

use super::location::{EnvironVariable, LocationConf, Pass, Threads};
use super::main::{Located, MainConf, MaxRequests};
use super::setters;
use super::settings::{Settings, settings};
use crate::app::source_files::{Mechanism, Patterns};
use crate::app::specification::Callable;
use crate::nginx::conf::{ComplexValue, page_size};
use crate::nginx::directive::{HTTP, HTTP_SERVER_LOCATION, LOCATION_IF_LIMIT, location, main};
use crate::nginx::sys::{
    NGX_CONF_1MORE as ONE_OR_MORE, NGX_CONF_FLAG as FLAG, NGX_CONF_TAKE1 as TAKE1, NGX_CONF_TAKE2 as TAKE2,
    NGX_CONF_TAKE12 as TAKE12, NGX_CONF_TAKE23 as TAKE23, NGX_CONF_TAKE1234 as TAKE1234, ngx_command_t,
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

settings! {
    /// Directives of the `http` block only.
    pub struct MainSettings of MainConf by main;

    /// Imports each application during `nginx -t` and before a reload.
    check: bool = true, HTTP | FLAG, setters::flag;
    /// Limits the time of all imports of `wsgi_check` together.
    check_timeout: Duration = Duration::from_secs(30), HTTP | TAKE1, setters::positive_time;
    /// Names the virtual environment or the installation prefix of Python.
    python_home: Located<PathBuf>, HTTP | TAKE1, setters::python_home;
    /// Names the Python interpreter whose packages are used.
    python_executable: Located<PathBuf>, HTTP | TAKE1, setters::python_executable;
    /// Adds directories to the front of `sys.path`.
    python_path: Located<Vec<PathBuf>>, HTTP | ONE_OR_MORE, setters::python_path;
    /// Sets the optimization level, like `python -O`.
    python_optimize: Located<u8> = 0.into(), HTTP | TAKE1, setters::python_optimize;
    /// Recycles a worker process after this number of calls.
    max_requests: MaxRequests = MaxRequests { calls: 0, jitter: 0 }, HTTP | TAKE12, setters::max_requests;
    /// Recycles a worker process whose memory exceeds this size.
    max_memory: u64 = 0, HTTP | TAKE1, setters::size;
    /// Limits the time that an exiting worker process waits for its calls.
    shutdown_timeout: Duration = Duration::from_secs(10), HTTP | TAKE1, setters::time;
}

const LENGTH: usize = LocationSettings::COMMANDS.len() + MainSettings::COMMANDS.len() + 1;

/// Directive table of the module, with the empty entry that ends it.
pub const DIRECTIVES: [ngx_command_t; LENGTH] = {
    let mut table = [ngx_command_t::empty(); LENGTH];
    let (locations, rest) = table.split_at_mut(LocationSettings::COMMANDS.len());
    locations.copy_from_slice(LocationSettings::COMMANDS);
    rest.split_at_mut(MainSettings::COMMANDS.len()).0.copy_from_slice(MainSettings::COMMANDS);
    table
};
