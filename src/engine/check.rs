//! Loads applications as a worker would, one after the other, to see whether they can be.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;

use super::python::{Configuration, World};
use crate::app::application::Application;
use crate::app::specification::Specification;
use crate::python::log::{Level, Sink};
use crate::python::{fork, log, traceback};

/// Starts Python on this thread and loads `applications`, each with its callable and middleware. What they write, and
/// tracebacks, goes to standard error; so does the stack of every thread shortly before `limit`, and at a crash.
///
/// `loaded` gets, for each, nothing or class and message of the exception. The process is good for nothing else after.
///
/// # Errors
/// Why Python cannot be started: nothing was loaded.
pub fn load_all(
    configuration: &Configuration,
    applications: &[Arc<Specification>],
    limit: Duration,
    mut loaded: impl FnMut(Result<(), String>),
) -> Result<(), String> {
    log::set_worker_sink(Arc::new(StandardError));
    let world = World::start(configuration)?;
    Python::attach(|py| {
        show_stacks(py, limit).map_err(|error| traceback::format(&error, py))?;
        for specification in applications {
            let result = Application::new(Specification::clone(specification)).try_load(py, &world.loader);
            // A process that the import has forked may come out of it as well.
            fork::end_child(py, None);
            loaded(result.map_err(|failure| {
                log::error(&failure.traceback);
                failure.summary
            }));
        }
        Ok(())
    })
}

/// Lets `faulthandler` write where a crash happened, and what an import that takes too long was doing.
fn show_stacks(py: Python<'_>, limit: Duration) -> PyResult<()> {
    const STANDARD_ERROR: i32 = 2;
    const BEFORE: Duration = Duration::from_secs(1);
    let faulthandler = py.import("faulthandler")?;
    faulthandler.call_method1("enable", (STANDARD_ERROR,))?;
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
