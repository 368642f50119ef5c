//! Where calls run: on the event loop thread, or on pool threads of the worker.

pub mod inline;
mod inline_limits;
pub mod interpreter;
pub mod limits;
pub mod load_check;
pub mod pool;
pub mod versions;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::python::crash::SignalStack;
use crate::python::log;
use crate::python::native_class::panic_text;
use crate::wsgi::transport::{End, Transport};

/// As a thread of `python` itself has it; deep recursion must end in RecursionError and not in a crash.
const STACK_SIZE: usize = 8 * 1024 * 1024;

/// Starts a thread that may run Python.
fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    let body = || {
        let _stack = SignalStack::new();
        body();
    };
    thread::Builder::new().name(name).stack_size(STACK_SIZE).spawn(body)
}

/// Runs a part of a call: a panic ends here, in the log, and the answer fails.
fn guarded<R>(exchange: &Arc<dyn Transport>, body: impl FnOnce() -> R) -> Option<R> {
    let _entered = log::enter(exchange.clone().sink());
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => Some(result),
        Err(panic) => {
            log::error(&format!("internal error of the WSGI module: {}", panic_text(&*panic)));
            exchange.end(End::Failed, true);
            exchange.closed();
            None
        }
    }
}
