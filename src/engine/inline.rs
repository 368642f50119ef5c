//! `wsgi_threads off`: calls run on the event loop thread, which is Python's main thread as well.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;

use super::guarded;
use super::inline_limits::{CallClock, InlineLimiter};
use super::interpreter::{Configuration, InterpreterSpec, PreparedInterpreter};
use super::limits::Limits;
use crate::app::application::{Application, Reload};
use crate::app::source_files::Mechanism;
use crate::python::log;
use crate::wsgi::body_iter::Progress;
use crate::wsgi::call::{Call, Running};
use crate::wsgi::transport::{self, Transport};

/// The engine. All methods but [`Inline::has`] are for the event loop thread.
pub struct Inline {
    /// Or why Python could not be started.
    python: Result<Started, String>,
    /// What `$wsgi_thread` calls this thread.
    thread: Arc<str>,
    interpreter: Arc<str>,
}

/// What lives as long as the process, which never finalises Python.
#[derive(Clone, Copy)]
struct Started {
    prepared: &'static PreparedInterpreter,
    watch: &'static InlineLimiter,
}

/// How long an answer may go on before the event loop sees to others; a piece is never interrupted.
const TURN: Duration = Duration::from_millis(5);

/// A call whose answer waits for the client, or for its next turn.
struct Suspended {
    running: Running,
    exchange: Arc<dyn Transport>,
    watch: &'static InlineLimiter,
    clock: Option<CallClock>,
}

impl Inline {
    /// Starts Python on this thread.
    pub fn start(configuration: &Configuration, spec: &InterpreterSpec) -> Self {
        let python = PreparedInterpreter::start(configuration, spec).map(|(prepared, _)| {
            let prepared = &*Box::leak(Box::new(prepared));
            Started { prepared, watch: Python::attach(|py| InlineLimiter::new(py, prepared)) }
        });
        if let Err(error) = &python {
            log::error(error);
        }
        Self { python, thread: "main".into(), interpreter: spec.name.clone() }
    }

    /// Loads an application now instead of at its first request.
    pub fn preload(&self, application: &Application) {
        if let Ok(Started { prepared, .. }) = &self.python {
            // A failure is in the log; the first request tries again.
            let _ = load(prepared, application);
        }
    }

    /// Whether an application is loaded. On any thread.
    pub fn has(&self, application: &Application) -> bool {
        self.python.as_ref().is_ok_and(|Started { prepared, .. }| prepared.loader.has(application))
    }

    /// Runs a call until it is over or its answer has to wait.
    pub fn run(&self, application: &Application, call: Call, limits: &Limits) -> Option<Box<dyn transport::Suspended>> {
        let exchange = call.exchange.clone();
        let Started { prepared, watch } = match &self.python {
            Ok(started) => *started,
            Err(error) => {
                guarded(&exchange, || call.refuse(error));
                return None;
            }
        };
        if !prepared.loader.has(application) {
            let loaded = guarded(&exchange, || load(prepared, application))?;
            if let Err(traceback) = loaded {
                guarded(&exchange, || call.refuse(&traceback));
                return None;
            }
        } else if let Some(Reload { files, mechanism: Mechanism::Module }) = application.reload()
            && files.is_stale()
        {
            files.note();
            guarded(&exchange, || Python::attach(|py| prepared.loader.reload(py, application)))?;
        }
        let since = application.look_at_clock();
        let mut clock = CallClock::new(&call, limits);
        exchange.start(&self.thread, &self.interpreter);
        let running = watch.during(&mut clock, || {
            guarded(&exchange, || {
                Python::attach(|py| {
                    let callable = prepared.loader.callable(py, application)?;
                    Some(call.start(py, &prepared.environ_template, &callable))
                })
            })
        })??;
        let suspended = transport::Suspended::resume(Box::new(Suspended { running, exchange, watch, clock }));
        if since.is_some() {
            Python::attach(|py| prepared.loader.note_modules(py, application, since));
        }
        suspended
    }

    /// Runs what the application wants run at the end.
    pub fn shut_down(&self, limit: Duration) {
        if let Ok(Started { prepared, .. }) = &self.python {
            Python::attach(|py| prepared.interpreter.shut_down(py, limit));
        }
    }
}

/// Loads an application as its files are now.
fn load(prepared: &PreparedInterpreter, application: &Application) -> Result<(), String> {
    application.note_files();
    Python::attach(|py| prepared.loader.load(py, application, false))
}

impl transport::Suspended for Suspended {
    fn resume(self: Box<Self>) -> Option<Box<dyn transport::Suspended>> {
        let Self { mut running, exchange, watch, mut clock } = *self;
        let progressed = watch.during(&mut clock, || {
            guarded(&exchange, || {
                Python::attach(|py| match running.advance(py, Some(TURN)) {
                    Progress::Done => {
                        running.finish(py).close();
                        None
                    }
                    progress => Some((progress, running)),
                })
            })
        });
        let (progress, running) = progressed??;
        let suspended = Box::new(Self { running, exchange: exchange.clone(), watch, clock });
        match progress {
            Progress::File { body, last } => {
                exchange.send_file(body, last, suspended);
                None
            }
            _ => Some(suspended),
        }
    }

    fn abandon(self: Box<Self>) {
        let Self { running, exchange, watch, mut clock } = *self;
        watch.during(&mut clock, || guarded(&exchange, || Python::attach(|py| running.finish(py).close())));
    }
}
