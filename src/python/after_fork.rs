//! State of a child process that an application has forked: it is one, and has no part in the requests of its parent.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

static IS_CHILD: AtomicBool = AtomicBool::new(false);
static IN_CHILD: OnceLock<fn()> = OnceLock::new();

/// Notes each fork of this process from now on, by Python or by C code. To be called once, when Python is started.
///
/// # Errors
/// When the system has no memory for it.
pub fn watch() -> Result<(), String> {
    extern "C" fn after_fork() {
        IS_CHILD.store(true, Ordering::Relaxed);
        if let Some(hook) = IN_CHILD.get() {
            hook();
        }
    }
    // SAFETY: the function is static, and allocates and locks nothing, as little as its hook does.
    match unsafe { libc::pthread_atfork(None, None, Some(after_fork)) } {
        0 => Ok(()),
        error => Err(format!("cannot watch for forks: {}", std::io::Error::from_raw_os_error(error))),
    }
}

/// Names what runs in every forked child, in the thread that forked it. The first call counts.
///
/// Between `fork` and `exec` the hook may only do what a signal handler may: other threads may have held any lock.
pub fn set_in_child(hook: fn()) {
    let _ = IN_CHILD.set(hook);
}

/// Whether this process was forked from the one that Python was started in: a copy of a worker with one thread.
pub fn is_child() -> bool {
    IS_CHILD.load(Ordering::Relaxed)
}

/// Keeps a forked child from the request of its parent: the client's connection and the event loop are the parent's, and
/// their descriptors may be other files here by now.
///
/// # Errors
/// `OSError` in a forked child.
pub fn refuse_child() -> PyResult<()> {
    if is_child() {
        return Err(PyOSError::new_err("a forked process has no part in the request of its parent"));
    }
    Ok(())
}
