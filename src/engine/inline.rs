//! `wsgi_threads off`: calls run on the event loop thread, which is also Python's main thread.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;

use super::TimedTransport;
use super::inline_limits::{EVENT_LOOP_THREAD, InlineLimiter, LimitedCall};
use super::interpreter::{EngineConfig, InterpreterError, InterpreterSpec, PreparedInterpreter};
use super::thread::guarded;
use crate::app::application::{Application, Reload};
use crate::app::source_files::Mechanism;
use crate::python::log;
use crate::wsgi::body_iter::Progress;
use crate::wsgi::call::{Call, CallNumber, Finished, Running};
use crate::wsgi::transport::{Suspended, Transport};

/// Engine of the event loop thread. Only functions that say so may be called on other threads.
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
    number: CallNumber,
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
    pub fn run(
        &self,
        application: &Application,
        call: Call,
        timed: &Arc<impl TimedTransport + 'static>,
    ) -> Option<Box<dyn Suspended>> {
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
        let (since, number) = (application.call_start(), call.number);
        let mut limited = LimitedCall::new(&call, timed);
        transport.start(&self.thread, &self.interpreter);
        let advanced = limiter.during(number, &mut limited, || {
            guarded(&transport, || {
                // Attached once: to take and release the GIL costs as much as a short call.
                let advanced = Python::attach(|py| {
                    let callable = prepared.loader.callable(py, application)?;
                    let advanced = advance(py, call.start(py, &prepared.environ_template, &callable));
                    prepared.loader.note_modules(py, application, since);
                    Some(advanced)
                })?;
                advanced.close_finished()
            })
        });
        let (progress, running) = advanced??;
        SuspendedCall { number, running, transport, limiter, limited }.wait(progress)
    }

    /// Returns the name of the interpreter. On any thread.
    pub fn interpreter(&self) -> &str {
        &self.interpreter
    }

    /// Returns whether a call runs. On any thread.
    pub fn is_busy(&self) -> bool {
        self.python.as_ref().is_ok_and(|started| started.limiter.is_busy())
    }

    /// Returns the Python stack of a call, if a part of it runs. On any other thread; waits for the GIL.
    pub fn stack(&self, number: CallNumber) -> Option<String> {
        self.python.as_ref().ok()?.limiter.stack(number)
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

/// Call after its part for now.
enum Advanced {
    Finished(Finished),
    Waits(Progress, Running),
}

/// Continues a call.
fn advance(py: Python<'_>, mut running: Running) -> Advanced {
    match running.advance(py, Some(TIME_SLICE)) {
        Progress::Done => Advanced::Finished(running.finish(py)),
        progress => Advanced::Waits(progress, running),
    }
}

impl Advanced {
    /// Closes a call that has finished, detached from Python, as nginx sends the response now. Returns one that waits.
    fn close_finished(self) -> Option<(Progress, Running)> {
        match self {
            Self::Finished(finished) => {
                finished.close_call();
                None
            }
            Self::Waits(progress, running) => Some((progress, running)),
        }
    }
}

impl SuspendedCall {
    /// Lets the call wait for the reason that `progress` names. Returns it unless the transport keeps it.
    fn wait(self, progress: Progress) -> Option<Box<dyn Suspended>> {
        match progress {
            Progress::File { body, last } => {
                self.transport.clone().send_file(body, last, Box::new(self));
                None
            }
            _ => Some(Box::new(self)),
        }
    }
}

impl Suspended for SuspendedCall {
    fn resume(self: Box<Self>) -> Option<Box<dyn Suspended>> {
        let Self { number, running, transport, limiter, mut limited } = *self;
        let advanced = limiter.during(number, &mut limited, || {
            guarded(&transport, || Python::attach(|py| advance(py, running)).close_finished())
        });
        let (progress, running) = advanced??;
        Self { number, running, transport, limiter, limited }.wait(progress)
    }

    fn abandon(self: Box<Self>) {
        let Self { number, running, transport, limiter, mut limited } = *self;
        limiter.during(number, &mut limited, || {
            guarded(&transport, || Python::attach(|py| running.finish(py)).close_call())
        });
    }
}
