//! Where calls run: on the event loop thread, or on pool threads of the worker.

pub mod check;
pub mod inline;
pub mod python;
pub mod threads;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::python::class::panic_text;
use crate::python::log;
use crate::wsgi::exchange::{End, Exchange};

/// Runs a part of a call: a panic ends here, in the log, and the answer fails.
fn guarded<R>(exchange: &Arc<dyn Exchange>, body: impl FnOnce() -> R) -> Option<R> {
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
