//! Detection of child processes that an application has forked. They have no part in the requests of their parent.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

static IS_CHILD: AtomicBool = AtomicBool::new(false);
static IN_CHILD: OnceLock<fn()> = OnceLock::new();

/// Registers a handler for all forks of this process, by Python or by C code. Call it once, before Python is started.
///
/// # Errors
/// If the system has no memory for it.
pub fn register() -> Result<(), Errno> {
    extern "C" fn after_fork() {
        IS_CHILD.store(true, Ordering::Relaxed);
        if let Some(hook) = IN_CHILD.get() {
            hook();
        }
    }
    // SAFETY: the function is static. Neither it nor its hook allocates memory or takes a lock.
    match unsafe { libc::pthread_atfork(None, None, Some(after_fork)) } {
        0 => Ok(()),
        error => Err(Errno::from_raw(error)),
    }
}

/// Sets the function that runs in every forked child, in the thread that forked it. Only the first call has an effect.
///
/// It may only do what a signal handler may, as other threads may have held any lock.
pub fn set_in_child(hook: fn()) {
    let _ = IN_CHILD.set(hook);
}

/// Returns whether this process was forked from the one that started Python: a copy of a worker, with one thread.
pub fn is_child() -> bool {
    IS_CHILD.load(Ordering::Relaxed)
}

/// Refuses a forked child access to the request of its parent: connection and event loop belong to the parent, and
/// their descriptors may be other files in the child.
///
/// # Errors
/// `OSError` in a forked child.
pub fn refuse_child() -> PyResult<()> {
    if is_child() {
        return Err(PyOSError::new_err("a forked process has no part in the request of its parent"));
    }
    Ok(())
}
