//! Check that applications can be loaded: loads them as a worker would, one after the other.

use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::interpreter::{EngineConfig, InterpreterSpec, PreparedInterpreter};
use super::thread::STACK_SIZE;
use crate::app::application::Application;
use crate::python::crash::STANDARD_ERROR;
use crate::python::log::{Record, Sink};
use crate::python::{log, traceback};

/// An interpreter and the applications to load in it.
pub struct InterpreterCheck {
    pub spec: InterpreterSpec,
    pub applications: Vec<Arc<Application>>,
}

/// Loads the applications of all `interpreters`, each with its callable and middleware. This thread gets the main
/// interpreter, which is the first. Output and tracebacks go to standard error, and so do the stacks of all threads
/// shortly before `limit` and after a crash.
///
/// Calls `loaded` for each application, with class and message of the exception if it has raised one. The process
/// cannot be used for anything else afterwards.
///
/// # Errors
/// The reason why an interpreter could not be started. Its applications, and those of later interpreters, were not
/// loaded.
pub fn load_all(
    engine_config: &EngineConfig,
    interpreters: &[InterpreterCheck],
    limit: Duration,
    mut loaded: impl FnMut(Result<(), String>) + Send,
) -> Result<(), String> {
    log::set_worker_sink(Arc::new(StandardError));
    let deadline = Instant::now() + limit;
    let Some((main, others)) = interpreters.split_first() else { return Ok(()) };
    load(engine_config, main, deadline, &mut loaded)?;
    for other in others {
        // A thread belongs to one interpreter.
        let loading = || load(engine_config, other, deadline, &mut loaded);
        let builder = thread::Builder::new().stack_size(STACK_SIZE);
        thread::scope(|scope| {
            let thread =
                builder.spawn_scoped(scope, loading).map_err(|error| format!("cannot start a thread: {error}"))?;
            thread.join().unwrap_or_else(|_| Err("internal error of the WSGI module".to_owned()))
        })?;
    }
    Ok(())
}

fn load(
    engine_config: &EngineConfig,
    InterpreterCheck { spec, applications }: &InterpreterCheck,
    deadline: Instant,
    loaded: &mut impl FnMut(Result<(), String>),
) -> Result<(), String> {
    let (prepared, mut attach_thread) =
        PreparedInterpreter::start(engine_config, spec).map_err(|error| error.to_string())?;
    attach_thread.attach(move |py| {
        let left = deadline.saturating_duration_since(Instant::now());
        schedule_stack_dump(py, left).map_err(|error| traceback::format(&error, py))?;
        for application in applications {
            let result = prepared.loader.try_load(py, application);
            loaded(result.map_err(|failure| {
                log::error(&failure.traceback);
                failure.summary
            }));
        }
        // While attached: its objects belong to the interpreter.
        drop(prepared);
        Ok(())
    })
}

/// Makes `faulthandler` write the stacks of all threads shortly before `limit`.
fn schedule_stack_dump(py: Python<'_>, limit: Duration) -> PyResult<()> {
    const BEFORE: Duration = Duration::from_secs(1);
    let Ok(faulthandler) = py.import("faulthandler") else {
        // An interpreter with its own GIL cannot import it.
        return Ok(());
    };
    let after = limit - BEFORE.min(limit / 4);
    let (repeat, exit) = (false, false);
    faulthandler.call_method1("dump_traceback_later", (after.as_secs_f64(), repeat, STANDARD_ERROR, exit))?;
    Ok(())
}

/// Log of the check.
struct StandardError;

impl Sink for StandardError {
    fn write(&self, record: Record) {
        // One write for each text, so that texts of several threads do not mix. A failure cannot be reported.
        let _ = std::io::stderr().write_all(format!("{}\n", record.text()).as_bytes());
    }
}
