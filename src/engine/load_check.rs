//! Loads applications as a worker would, one after the other, to see whether they can be.

use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::STACK_SIZE;
use super::interpreter::{Configuration, InterpreterSpec, PreparedInterpreter};
use crate::app::application::Application;
use crate::python::crash::STANDARD_ERROR;
use crate::python::log::{Level, Sink};
use crate::python::{log, traceback};

/// An interpreter with the applications to load there.
pub type Candidates = (InterpreterSpec, Vec<Arc<Application>>);

/// Starts Python on this thread, which has the main interpreter, the first of `interpreters`, and loads the applications
/// of all, each with its callable and middleware. What they write, and tracebacks, goes to standard error; so does the
/// stack of every thread shortly before `limit`, and at a crash.
///
/// `loaded` gets, for each, nothing or class and message of the exception. The process is good for nothing else after.
///
/// # Errors
/// Why an interpreter cannot be started: nothing of it, or of those behind it, was loaded.
pub fn load_all(
    configuration: &Configuration,
    interpreters: &[Candidates],
    limit: Duration,
    mut loaded: impl FnMut(Result<(), String>) + Send,
) -> Result<(), String> {
    log::set_worker_sink(Arc::new(StandardError));
    let deadline = Instant::now() + limit;
    let Some((main, others)) = interpreters.split_first() else { return Ok(()) };
    load(configuration, main, deadline, &mut loaded)?;
    for other in others {
        // A thread belongs to one interpreter.
        let loading = || load(configuration, other, deadline, &mut loaded);
        let builder = thread::Builder::new().stack_size(STACK_SIZE);
        thread::scope(|scope| {
            let thread = builder.spawn_scoped(scope, loading).map_err(|error| format!("no thread: {error}"))?;
            thread.join().unwrap_or_else(|_| Err("internal error of the WSGI module".to_owned()))
        })?;
    }
    Ok(())
}

fn load(
    configuration: &Configuration,
    (spec, applications): &Candidates,
    deadline: Instant,
    loaded: &mut impl FnMut(Result<(), String>),
) -> Result<(), String> {
    let (prepared, mut attach_thread) = PreparedInterpreter::start(configuration, spec)?;
    attach_thread.attach(move |py| {
        let left = deadline.saturating_duration_since(Instant::now());
        show_stacks(py, left).map_err(|error| traceback::format(&error, py))?;
        for application in applications {
            let result = prepared.loader.try_load(py, application);
            loaded(result.map_err(|failure| {
                log::error(&failure.traceback);
                failure.summary
            }));
        }
        // In here, as its objects belong to the interpreter.
        drop(prepared);
        Ok(())
    })
}

/// Lets `faulthandler` write what an import that takes too long was doing.
fn show_stacks(py: Python<'_>, limit: Duration) -> PyResult<()> {
    const BEFORE: Duration = Duration::from_secs(1);
    let Ok(faulthandler) = py.import("faulthandler") else {
        // An interpreter with a GIL of its own cannot load it.
        return Ok(());
    };
    let after = limit - BEFORE.min(limit / 4);
    let (repeat, exit) = (false, false);
    faulthandler.call_method1("dump_traceback_later", (after.as_secs_f64(), repeat, STANDARD_ERROR, exit))?;
    Ok(())
}

/// Where the text of the interpreter goes.
struct StandardError;

impl Sink for StandardError {
    fn write(&self, _: Level, text: &str) {
        // One write a text, so that it is not mixed with that of another thread. Nobody can be told that it failed.
        let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
    }
}
