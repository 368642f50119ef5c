//! Threads that run Python code, and panics in a part of a call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::python::crash::SignalStack;
use crate::python::log;
use crate::python::native_class::panic_text;
use crate::wsgi::transport::{End, Transport};

/// Stack size of threads that run Python code, as of a Python process: deep recursion must end in `RecursionError`, not
/// in a crash.
pub const STACK_SIZE: usize = 8 * 1024 * 1024;

/// Starts a thread that may run Python code.
pub fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    let body = || {
        let _stack = SignalStack::new();
        body();
    };
    thread::Builder::new().name(name).stack_size(STACK_SIZE).spawn(body)
}

/// Runs a part of a call. Logs a panic, fails the response with it, and returns `None`.
pub fn guarded<R>(transport: &Arc<dyn Transport>, body: impl FnOnce() -> R) -> Option<R> {
    let _entered = log::enter(transport.clone().sink());
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => Some(result),
        Err(panic) => {
            log::error(&format!("internal error of the WSGI module: {}", panic_text(&*panic)));
            transport.end_response(End::Failed, true);
            transport.close_call();
            None
        }
    }
}
