//! ngx-http-wsgi: an nginx module that runs Python WSGI applications inside nginx workers.
//!
//! This file has the exported module table and the functions that nginx calls: while it reads a configuration, at the start
//! and end of a worker, and for each request. Each only calls a room below. The rooms, lowest first, use only rooms before
//! them: [`os`] and [`python`]; [`nginx`], [`wsgi`] and [`app`]; [`engine`]; [`conf`]; [`worker`]; [`reload`]; [`http`].

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
mod python;
mod reload;
mod sync;
mod worker;
mod wsgi;

use std::ffi::{c_char, c_void};
use std::ptr;

use ngx::core::Status;
use ngx::http::{HttpModule, HttpModuleLocationConf, HttpModuleMainConf};

use conf::location::LocationConf;
use conf::main::MainConf;
use nginx::conf::Conf;
use nginx::cycle::NewCycle;
use nginx::log::{Level, Log};
use nginx::request::Request;
use nginx::sys;
use nginx::worker_process::{self, Role};
use reload::version_commit::VersionCommit;
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
        conf::content_handler::set(content_handler);
        // SAFETY: nginx passes the parser's state.
        let conf = unsafe { Conf::new(cf) };
        match nginx::variable::register(&conf, &http::variables::VARIABLES) {
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
        here.merge(outer, &conf, unsafe { conf.main_conf::<MainConf>() });
        ptr::null_mut()
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
        match conf.map(|conf| reload::check::run(conf, cycle)) {
            None | Some(Ok(())) => ptr::null_mut(),
            Some(Err(reload::check::CheckFailed)) => error,
        }
    })
}

/// Handles a request of a location with `wsgi_pass`.
unsafe extern "C" fn content_handler(request: *mut sys::ngx_http_request_t) -> isize {
    nginx::guard(500, || {
        // SAFETY: nginx passes a live request on the event loop thread.
        match unsafe { Request::new(request) } {
            Some(request) => {
                // SAFETY: create_loc_conf makes this type.
                let conf = unsafe { request.location_conf::<LocationConf>() };
                request.read_body(conf.request_buffering(), body_read).0
            }
            None => 500,
        }
    })
}

/// Called by nginx once the request body is read, or as soon as it can be streamed.
unsafe extern "C" fn body_read(request: *mut sys::ngx_http_request_t) {
    nginx::guard((), || {
        // SAFETY: nginx passes the live request.
        let Some(request) = (unsafe { Request::new(request) }) else {
            return;
        };
        // SAFETY: create_loc_conf makes this type.
        http::handler::run(request, unsafe { request.location_conf::<LocationConf>() });
    });
}

/// Starts a worker: its environment, fork server, Python and reloads, in this order. Never returns an error: the master
/// would not start the worker again.
unsafe extern "C" fn init_process(cycle: *mut sys::ngx_cycle_t) -> isize {
    nginx::guard((), || {
        if worker_process::role() == Role::Other {
            return;
        }
        // SAFETY: nginx passes the live cycle; create_main_conf makes this type.
        let Some(conf) = (unsafe { nginx::module::main_conf::<MainConf>(cycle) }) else {
            return;
        };
        // SAFETY: as above.
        let workers = unsafe { worker_process::worker_count(cycle) };
        let Some(config) = WorkerConfig::new(conf, workers > 1) else {
            return;
        };
        worker_process::reset_sigchld();
        os::system::leave_inaccessible_directory();
        // SAFETY: nginx passes the live cycle before it runs the event loop.
        unsafe { nginx::sockets::close_on_exec(cycle) };
        // SAFETY: nginx's process has one thread until the worker is started.
        unsafe { python::runtime::set_environment(&config.environment) };
        let preflight_server = reload::process::start_preflight_server(&config);
        let balance_words = conf.balance_words().and_then(|shared| shared.get(..worker::balance::words(workers)));
        match worker::start(config, balance_words) {
            Ok(worker) => reload::start(worker, preflight_server, conf.version_commits(), workers),
            Err(error) => {
                let message = format!("wsgi: cannot start the worker: {error}");
                Log::cycle().write(Level::Alert, &message);
            }
        }
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
    });
}
