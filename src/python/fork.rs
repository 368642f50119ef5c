//! Child processes of applications: programs that they start, which must not inherit all descriptors, and the end of
//! forked children that return from application code.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use pyo3::exceptions::PySystemExit;
use pyo3::ffi;
use pyo3::prelude::*;

use super::{after_fork, log, traceback};

static BEFORE_EXEC: OnceLock<fn()> = OnceLock::new();

/// Sets the function that runs before an application starts another program, in the same thread. Only the first call
/// has an effect.
///
/// Call it before Python is initialised.
pub fn set_before_exec(hook: fn()) {
    if BEFORE_EXEC.set(hook).is_ok() {
        // SAFETY: allowed before initialisation; the function is static and needs no data.
        unsafe { crate::python::missing::PySys_AddAuditHook(Some(audit), std::ptr::null_mut()) };
    }
}

/// The audit events (PEP 578) of functions that start a program. `subprocess` closes descriptors itself by default, but
/// has an option not to.
const EXEC_EVENTS: [&CStr; 5] = [c"os.system", c"os.posix_spawn", c"os.exec", c"os.spawn", c"subprocess.Popen"];

/// The audit events of functions that fork, in the main interpreter: in sub-interpreters these functions are replaced.
const FORK_EVENTS: [&CStr; 2] = [c"os.fork", c"os.forkpty"];

unsafe extern "C" fn audit(event: *const c_char, _arguments: *mut ffi::PyObject, _data: *mut c_void) -> c_int {
    // SAFETY: CPython passes the null-terminated name of the event.
    let event = unsafe { CStr::from_ptr(event) };
    if EXEC_EVENTS.contains(&event)
        && let Some(hook) = BEFORE_EXEC.get()
    {
        hook();
    }
    if FORK_EVENTS.contains(&event) && has_sub_interpreters() {
        let message =
            c"a worker that has sub-interpreters cannot fork: use subprocess, or multiprocessing with the start \
            method spawn, or give this application an nginx of its own";
        // SAFETY: the thread that raises the event is attached. The function that raises it fails with this error.
        unsafe { ffi::PyErr_SetString(ffi::PyExc_RuntimeError, message.as_ptr()) };
        return -1;
    }
    0
}

/// Returns whether there are interpreters beside the main one. A forked child would have to remove them, where Python
/// 3.11 deadlocks and Python 3.13 aborts.
fn has_sub_interpreters() -> bool {
    // SAFETY: the list contains at least the main interpreter, and the calling thread is attached; the newest one is
    // first.
    unsafe { !ffi::PyInterpreterState_Next(ffi::PyInterpreterState_Head()).is_null() }
}

/// Ends this process if it is a forked child, as a Python program ends that has returned or raised `error`.
///
/// Call it wherever code of an application returns, before any lock is taken: a child that continued would be a second
/// worker, and take the events of the first.
pub fn end_child(py: Python<'_>, error: Option<&PyErr>) {
    if !after_fork::is_child() {
        return;
    }
    let status = error.map_or(0, |error| exit_status(py, error));
    log::flush();
    // SAFETY: ends this process, which is no worker, without the destructors of the worker that it is a copy of.
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
