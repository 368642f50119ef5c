//! ngx-http-wsgi: an nginx module that runs Python WSGI applications inside nginx workers.
//!
//! This file has the exported module table and the functions that nginx calls: while it reads a configuration, at the start
//! and end of a worker, and for each request. Each only calls a room below. The rooms, lowest first, use only rooms before
//! them: [`os`], [`python`] and [`status`]; [`nginx`], [`wsgi`] and [`app`]; [`engine`]; [`conf`]; [`worker`]; [`reload`]; [`process_group`];
//! [`http`].

#[cfg(not(pyo3_disable_reference_pool))]
compile_error!(
    "RUSTFLAGS replaces the flags of .cargo/config.toml, without which a reference could be released in the wrong \
     interpreter: unset it, or add \"--cfg pyo3_disable_reference_pool\""
);

mod app;
mod conf;
mod engine;
mod http;
mod nginx;
mod os;
mod process_group;
mod python;
mod reload;
mod status;
mod sync;
mod worker;
mod wsgi;

use std::ffi::{c_char, c_void};
use std::ptr;

use ngx::core::Status;
use ngx::http::{HttpModule, HttpModuleLocationConf, HttpModuleMainConf};

use conf::content_handler::Handlers;
use conf::location::LocationConf;
use conf::main::MainConf;
use conf::process_group::upstream_name;
use nginx::conf::Conf;
use nginx::cycle::{NewCycle, ReadReason};
use nginx::log::{Level, Log};
use nginx::log_files::StartingCycle;
use nginx::request::Request;
use nginx::sys;
use nginx::worker_process::{self, Role};
use reload::version_commit::VersionCommit;
use worker::balance::Rooms;
use worker::config::WorkerConfig;

/// Modules of this file, for nginx's `load_module`. (The macro of the `ngx` crate exports one module only.)
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static mut ngx_modules: [*const sys::ngx_module_t; 3] =
    [&raw const ngx_http_wsgi_module, &raw const ngx_wsgi_check_module, ptr::null()];

/// Names of [`ngx_modules`], in the same order.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static mut ngx_module_names: [*const c_char; 3] =
    [c"ngx_http_wsgi_module".as_ptr(), c"ngx_wsgi_check_module".as_ptr(), ptr::null()];

/// Empty: no ordering constraint relative to other modules.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static mut ngx_module_order: [*const c_char; 1] = [ptr::null()];

/// HTTP module.
#[allow(non_upper_case_globals)]
pub static mut ngx_http_wsgi_module: sys::ngx_module_t = sys::ngx_module_t {
    ctx: (&raw const CONTEXT).cast_mut().cast(),
    commands: (&raw mut COMMANDS).cast(),
    type_: sys::NGX_HTTP_MODULE as usize,
    init_process: Some(init_process),
    exit_process: Some(exit_process),
    ..sys::ngx_module_t::default()
};

/// Core module, for a hook that HTTP modules lack: the whole configuration has been read and can still be refused.
#[allow(non_upper_case_globals)]
pub static mut ngx_wsgi_check_module: sys::ngx_module_t = sys::ngx_module_t {
    ctx: (&raw mut CHECK_CONTEXT).cast(),
    type_: sys::NGX_CORE_MODULE as usize,
    init_module: Some(init_module),
    exit_master: Some(exit_master),
    ..sys::ngx_module_t::default()
};

static mut CHECK_CONTEXT: sys::ngx_core_module_t =
    sys::ngx_core_module_t { name: ngx::ngx_string!("wsgi_check"), create_conf: None, init_conf: Some(init_conf) };

static CONTEXT: sys::ngx_http_module_t = sys::ngx_http_module_t {
    preconfiguration: Some(preconfiguration),
    postconfiguration: Some(postconfiguration),
    create_main_conf: Some(Module::create_main_conf),
    init_main_conf: None,
    create_srv_conf: None,
    merge_srv_conf: None,
    create_loc_conf: Some(Module::create_loc_conf),
    merge_loc_conf: Some(merge_loc_conf),
};

static mut COMMANDS: [sys::ngx_command_t; conf::directives::DIRECTIVES.len()] = conf::directives::DIRECTIVES;

/// Words of shared memory for the version commit of one application, for as many workers as nginx can have
/// (NGX_MAX_PROCESSES).
const VERSION_COMMIT_WORDS: usize = VersionCommit::words(1024);

/// Words of shared memory for the balance between as many workers.
const BALANCE_WORDS: usize = worker::balance::words(1024);

/// Maker of the configurations, in the pool of their cycle, which drops them.
struct Module;

// SAFETY: create_main_conf makes a value of this type.
unsafe impl HttpModuleMainConf for Module {
    type MainConf = MainConf;
}

// SAFETY: create_loc_conf makes a value of this type.
unsafe impl HttpModuleLocationConf for Module {
    type LocationConf = LocationConf;
}

// SAFETY: create_main_conf makes a value of this type.
unsafe impl nginx::conf::MainConfiguration for MainConf {}

// SAFETY: create_loc_conf makes a value of this type.
unsafe impl nginx::request::LocationConfiguration for LocationConf {}

impl HttpModule for Module {
    fn module() -> &'static sys::ngx_module_t {
        let module = &raw const ngx_http_wsgi_module;
        // SAFETY: nginx writes to the module while it loads it, before it calls any function here.
        unsafe { &*module }
    }
}

unsafe extern "C" fn preconfiguration(cf: *mut sys::ngx_conf_t) -> isize {
    nginx::guard(Status::NGX_ERROR.into(), || {
        nginx::module::set_ctx_index(Module::module().ctx_index);
        conf::content_handler::set(Handlers {
            pass: content_handler,
            dispatch: dispatch_handler,
            status: status_handler,
        });
        // SAFETY: nginx passes the parser's state.
        let conf = unsafe { Conf::new(cf) };
        let variables = http::variables::VARIABLES.iter().chain(&http::variables::FOR_INSTANCE);
        match nginx::variable::register(&conf, variables) {
            Ok(()) => Status::NGX_OK.into(),
            Err(()) => Status::NGX_ERROR.into(),
        }
    })
}

unsafe extern "C" fn merge_loc_conf(cf: *mut sys::ngx_conf_t, outer: *mut c_void, here: *mut c_void) -> *mut c_char {
    nginx::guard(ngx::core::NGX_CONF_ERROR.cast(), || {
        // SAFETY: nginx passes two different configurations that create_loc_conf made; no other reference to them or to the
        // main configuration exists.
        let (conf, outer, here) =
            unsafe { (Conf::new(cf), &*outer.cast::<LocationConf>(), &mut *here.cast::<LocationConf>()) };
        // SAFETY: as above.
        match here.merge(outer, &conf, unsafe { conf.main_conf::<MainConf>() }) {
            Ok(()) => ptr::null_mut(),
            Err(()) => ngx::core::NGX_CONF_ERROR.cast(),
        }
    })
}

unsafe extern "C" fn postconfiguration(cf: *mut sys::ngx_conf_t) -> isize {
    nginx::guard(Status::NGX_ERROR.into(), || {
        // SAFETY: nginx passes the parser's state; all locations are merged, and no reference to the configuration exists.
        let conf = unsafe { Conf::new(cf) };
        // SAFETY: as above.
        let main = unsafe { conf.main_conf::<MainConf>() };
        if let Err(problem) = main.validate() {
            conf.emerg(&problem);
            return Status::NGX_ERROR.into();
        }
        main.resolve_mounts();
        let upstreams: Vec<_> = main.process_groups().iter().map(|group| upstream_name(&group.name)).collect();
        let is_allowed = |request: Request| request.location_conf::<LocationConf>().group_location().is_some();
        if nginx::upstream::wrap_peers(&conf, upstreams.iter().map(String::as_str), is_allowed).is_err() {
            return Status::NGX_ERROR.into();
        }
        match main
            .share(&conf, VERSION_COMMIT_WORDS, BALANCE_WORDS)
            .and_then(|()| nginx::request::withheld_body::withhold_from_subrequests(&conf))
        {
            Ok(()) => Status::NGX_OK.into(),
            Err(()) => Status::NGX_ERROR.into(),
        }
    })
}

/// Runs `wsgi_check`. (If `init_module` fails, nginx exits, also at a reload.)
unsafe extern "C" fn init_conf(cycle: *mut sys::ngx_cycle_t, _: *mut c_void) -> *mut c_char {
    let error = ngx::core::NGX_CONF_ERROR;
    nginx::guard(error, || {
        // SAFETY: nginx passes the cycle whose configuration it has read; create_main_conf makes this type.
        let (conf, cycle) = unsafe { (nginx::module::main_conf::<MainConf>(cycle), NewCycle::new(cycle)) };
        let Some(conf) = conf else { return ptr::null_mut() };
        // Both, so that one test of a configuration shows all its errors.
        let embedded = reload::check::run(conf, cycle);
        match embedded.and(process_group::check::run(conf, cycle)) {
            Ok(()) => ptr::null_mut(),
            Err(reload::check::CheckFailed) => error,
        }
    })
}

/// Starts the process groups, or gives them their new configuration. Runs in the process that becomes the master, and in the
/// master at each reload, where nginx exits if this returns an error.
unsafe extern "C" fn init_module(cycle: *mut sys::ngx_cycle_t) -> isize {
    let done = Status::NGX_OK.into();
    nginx::guard(done, || {
        // SAFETY: nginx passes the cycle whose configuration it has read; create_main_conf makes this type.
        let conf = unsafe { nginx::module::main_conf::<MainConf>(cycle) };
        // SAFETY: as above; nginx uses the cycle from now on.
        let (cycle, starting) = unsafe { (NewCycle::new(cycle), StartingCycle::new(cycle)) };
        match conf.map(|conf| process_group::apply(conf, cycle, starting)) {
            Some(Err(_)) if cycle.read_reason() != ReadReason::Reload => Status::NGX_ERROR.into(),
            _ => done,
        }
    })
}

/// Ends the process groups, once the master has no workers left.
unsafe extern "C" fn exit_master(_: *mut sys::ngx_cycle_t) {
    nginx::guard((), process_group::master::end);
}

/// Handles a request of a location with `wsgi_pass`.
unsafe extern "C" fn content_handler(request: *mut sys::ngx_http_request_t) -> isize {
    nginx::guard(500, || {
        // SAFETY: nginx passes a live request on the event loop thread.
        match unsafe { Request::new(request) } {
            Some(request) => {
                let conf = request.location_conf::<LocationConf>();
                request.read_body(conf.request_buffering(), body_read).0
            }
            None => 500,
        }
    })
}

/// Handles a request of the front in an instance of a process group.
unsafe extern "C" fn dispatch_handler(request: *mut sys::ngx_http_request_t) -> isize {
    nginx::guard(500, || {
        // SAFETY: nginx passes a live request on the event loop thread.
        let request = unsafe { Request::new(request) };
        request.map_or(500, |request| http::dispatch::run(request).0)
    })
}

/// Handles a request of a location with `wsgi_status`.
unsafe extern "C" fn status_handler(request: *mut sys::ngx_http_request_t) -> isize {
    nginx::guard(500, || {
        // SAFETY: nginx passes a live request on the event loop thread.
        let request = unsafe { Request::new(request) };
        request.map_or(500, |request| http::status::run(request, request.location_conf::<LocationConf>()).0)
    })
}

/// Called by nginx once the request body is read, or as soon as it can be streamed.
unsafe extern "C" fn body_read(request: *mut sys::ngx_http_request_t) {
    nginx::guard((), || {
        // SAFETY: nginx passes the live request.
        let Some(request) = (unsafe { Request::new(request) }) else {
            return;
        };
        http::handler::run(request, request.location_conf::<LocationConf>());
    });
}

/// Starts a worker: its environment, fork server, Python and reloads, in this order. Never returns an error: the master
/// would not start the worker again.
unsafe extern "C" fn init_process(cycle: *mut sys::ngx_cycle_t) -> isize {
    nginx::guard((), || {
        process_group::master::close_in_child();
        if worker_process::role() == Role::Other {
            return;
        }
        // SAFETY: nginx passes the live cycle; create_main_conf makes this type.
        let Some(conf) = (unsafe { nginx::module::main_conf::<MainConf>(cycle) }) else {
            return;
        };
        process_group::init_worker(conf);
        // SAFETY: as above.
        let workers = unsafe { worker_process::worker_count(cycle) };
        worker::status::start(conf);
        http::status::prepare(conf);
        let Some(config) = WorkerConfig::new(conf, conf.processes(workers) > 1) else {
            worker::status::note_loaded();
            // It may be the front of process groups.
            return http::status::start(conf);
        };
        let rooms_of_group = process_group::count_calls(conf, config.capacity());
        worker_process::reset_sigchld();
        os::system::leave_inaccessible_directory();
        // SAFETY: nginx passes the live cycle before it runs the event loop.
        unsafe { nginx::sockets::close_on_exec(cycle) };
        // SAFETY: nginx's process has one thread until the worker is started.
        unsafe { python::runtime::set_environment(&config.environment) };
        let preflight_server = reload::process::start_preflight_server(&config);
        // None without wsgi_balance.
        let words = conf.balance_words().and_then(|shared| shared.get(..worker::balance::words(workers)));
        let rooms = words.map(|words| rooms_of_group.unwrap_or_else(|| Rooms::of_workers(words)));
        match worker::start(config, rooms) {
            Ok(worker) => reload::start(worker, preflight_server, conf.version_commits(), workers),
            Err(error) => {
                let message = format!("wsgi: cannot start the worker: {error}");
                Log::cycle().write(Level::Alert, &message);
            }
        }
        http::status::start(conf);
    });
    Status::NGX_OK.into()
}

/// Ends a worker.
unsafe extern "C" fn exit_process(_: *mut sys::ngx_cycle_t) {
    nginx::guard((), || {
        reload::leave();
        if let Some(worker) = worker::get() {
            worker.shut_down();
        }
        if let Some(status) = worker::status::get() {
            status.end();
        }
    });
}
