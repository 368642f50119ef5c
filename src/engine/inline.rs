//! `wsgi_threads off`: calls run on the event loop thread, which is also Python's main thread.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;

use super::call_clock::CallClock;
use super::inline_limits::{EVENT_LOOP_THREAD, InlineLimiter, LimitedCall};
use super::interpreter::{EngineConfig, InterpreterError, InterpreterSpec, PreparedInterpreter};
use super::thread::guarded;
use crate::app::application::{Application, Reload};
use crate::app::source_files::Mechanism;
use crate::python::log;
use crate::wsgi::body_iter::Progress;
use crate::wsgi::call::{Call, Running};
use crate::wsgi::transport::{Suspended, Transport};

/// Engine of the event loop thread. Only [`Inline::has_loaded`] may be called on other threads.
pub struct Inline {
    /// Python, or the reason why it could not be started.
    python: Result<Started, InterpreterError>,
    /// Value of `$wsgi_thread`.
    thread: Arc<str>,
    interpreter: Arc<str>,
}

/// Interpreter and limiter, which live as long as the process: Python is never finalized.
#[derive(Clone, Copy)]
struct Started {
    prepared: &'static PreparedInterpreter,
    limiter: &'static InlineLimiter,
}

/// Time after which a response yields to the event loop. The piece of the body that is being produced is not
/// interrupted.
const TIME_SLICE: Duration = Duration::from_millis(5);

/// Call whose response waits for the client or yields to the event loop.
struct SuspendedCall {
    running: Running,
    transport: Arc<dyn Transport>,
    limiter: &'static InlineLimiter,
    limited: Option<LimitedCall>,
}

impl Inline {
    /// Starts Python on this thread.
    pub fn start(engine_config: &EngineConfig, spec: &InterpreterSpec) -> Self {
        let python = PreparedInterpreter::start(engine_config, spec).map(|(prepared, _)| {
            let prepared = &*Box::leak(Box::new(prepared));
            Started { prepared, limiter: Python::attach(|py| InlineLimiter::new(py, prepared)) }
        });
        if let Err(error) = &python {
            log::error(&error.to_string());
        }
        Self { python, thread: EVENT_LOOP_THREAD.into(), interpreter: spec.name.clone() }
    }

    /// Loads an application before its first request.
    pub fn preload(&self, application: &Application) {
        if let Ok(Started { prepared, .. }) = &self.python {
            // A failure is in the log, and the first request tries again.
            let _ = load(prepared, application);
        }
    }

    /// Returns true if an application is loaded. On any thread.
    pub fn has_loaded(&self, application: &Application) -> bool {
        self.python.as_ref().is_ok_and(|Started { prepared, .. }| prepared.loader.has(application))
    }

    /// Runs a call until it ends or its response has to wait. Returns the call if that waits.
    pub fn run(&self, application: &Application, call: Call, clock: &Arc<CallClock>) -> Option<Box<dyn Suspended>> {
        let transport = call.transport.clone();
        let Started { prepared, limiter } = match &self.python {
            Ok(started) => *started,
            Err(error) => {
                guarded(&transport, || call.refuse(&error.to_string()));
                return None;
            }
        };
        if !prepared.loader.has(application) {
            let loaded = guarded(&transport, || load(prepared, application))?;
            if let Err(traceback) = loaded {
                guarded(&transport, || call.refuse(&traceback));
                return None;
            }
        } else if let Some(Reload { files, mechanism: Mechanism::Module }) = application.reload()
            && files.is_stale()
        {
            files.note();
            guarded(&transport, || Python::attach(|py| prepared.loader.reload(py, application)))?;
        }
        let since = application.call_start();
        let mut limited = LimitedCall::new(&call, clock);
        transport.start(&self.thread, &self.interpreter);
        let running = limiter.during(&mut limited, || {
            guarded(&transport, || {
                Python::attach(|py| {
                    let callable = prepared.loader.callable(py, application)?;
                    Some(call.start(py, &prepared.environ_template, &callable))
                })
            })
        })??;
        let suspended = Suspended::resume(Box::new(SuspendedCall { running, transport, limiter, limited }));
        if since.is_some() {
            Python::attach(|py| prepared.loader.note_modules(py, application, since));
        }
        suspended
    }

    /// Runs the shutdown functions of the application, within `limit`.
    pub fn shut_down(&self, limit: Duration) {
        if let Ok(Started { prepared, .. }) = &self.python {
            Python::attach(|py| prepared.interpreter.shut_down(py, limit));
        }
    }
}

/// Loads an application from its current files.
fn load(prepared: &PreparedInterpreter, application: &Application) -> Result<(), String> {
    application.note_files();
    Python::attach(|py| prepared.loader.load(py, application, false))
}

impl Suspended for SuspendedCall {
    fn resume(self: Box<Self>) -> Option<Box<dyn Suspended>> {
        let Self { mut running, transport, limiter, mut limited } = *self;
        let progressed = limiter.during(&mut limited, || {
            guarded(&transport, || {
                Python::attach(|py| match running.advance(py, Some(TIME_SLICE)) {
                    Progress::Done => {
                        running.finish(py).close_call();
                        None
                    }
                    progress => Some((progress, running)),
                })
            })
        });
        let (progress, running) = progressed??;
        let suspended = Box::new(Self { running, transport: transport.clone(), limiter, limited });
        match progress {
            Progress::File { body, last } => {
                transport.send_file(body, last, suspended);
                None
            }
            _ => Some(suspended),
        }
    }

    fn abandon(self: Box<Self>) {
        let Self { running, transport, limiter, mut limited } = *self;
        limiter.during(&mut limited, || guarded(&transport, || Python::attach(|py| running.finish(py).close_call())));
    }
}
