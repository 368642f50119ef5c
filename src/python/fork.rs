//! Children that an application makes: what they must not inherit from the server.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use pyo3::exceptions::PySystemExit;
use pyo3::ffi;
use pyo3::prelude::*;

use super::class::{Arguments, Method};
use super::{log, traceback};

static IN_CHILD: OnceLock<fn()> = OnceLock::new();

/// Names what runs in every child that the application forks, in the forking thread. The first call counts.
pub fn set_in_child(hook: fn()) {
    let _ = IN_CHILD.set(hook);
}

/// `_after_fork_in_child()` for the prelude, which registers it with `os.register_at_fork`.
pub static AFTER_FORK_IN_CHILD: Method =
    Method::function(c"_after_fork_in_child", |arguments: &Arguments<'_, '_, ()>| {
        log::leave_sinks();
        if let Some(hook) = IN_CHILD.get() {
            hook();
        }
        Ok(arguments.py.None().into_bound(arguments.py))
    });

static BEFORE_EXEC: OnceLock<fn()> = OnceLock::new();

/// Names what runs before the application starts another program, in the thread that does. The first call counts.
///
/// To be called before Python is initialised.
pub fn set_before_exec(hook: fn()) {
    if BEFORE_EXEC.set(hook).is_ok() {
        // SAFETY: allowed before initialisation; the function is static and needs no data.
        unsafe { super::missing::PySys_AddAuditHook(Some(audit), std::ptr::null_mut()) };
    }
}

/// The audit events (PEP 578) of functions that start a program. `subprocess` closes descriptors itself, but can be told
/// not to.
const STARTS_A_PROGRAM: [&CStr; 5] = [c"os.system", c"os.posix_spawn", c"os.exec", c"os.spawn", c"subprocess.Popen"];

unsafe extern "C" fn audit(event: *const c_char, _arguments: *mut ffi::PyObject, _data: *mut c_void) -> c_int {
    // SAFETY: CPython passes the null-terminated name of the event.
    let event = unsafe { CStr::from_ptr(event) };
    if STARTS_A_PROGRAM.contains(&event)
        && let Some(hook) = BEFORE_EXEC.get()
    {
        hook();
    }
    0
}

/// Ends this process if the application forked it, as a Python program ends that returned or raised `error`.
///
/// A child that comes out of the application must not go on as a second worker: it would take the events of the first.
pub fn end_child(py: Python<'_>, error: Option<&PyErr>) {
    if !log::is_forked() {
        return;
    }
    let status = error.map_or(0, |error| exit_status(py, error));
    log::flush();
    // SAFETY: ends this process, which is no worker, without the destructors of the worker it is a copy of.
    unsafe { libc::_exit(status) }
}

fn exit_status(py: Python<'_>, error: &PyErr) -> c_int {
    if !error.is_instance_of::<PySystemExit>(py) {
        log::error(&traceback::format(error, py));
        return 1;
    }
    match error.value(py).getattr("code") {
        Ok(code) if code.is_none() => 0,
        Ok(code) => code.extract().unwrap_or(1),
        Err(_) => 1,
    }
}
