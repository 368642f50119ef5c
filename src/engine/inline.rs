//! `wsgi_threads off`: calls run on the event loop thread, which is Python's main thread as well.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;

use super::guarded;
use super::python::{Configuration, World};
use crate::app::application::Application;
use crate::python::log;
use crate::wsgi::call::{Call, Running};
use crate::wsgi::exchange::{self, Exchange};
use crate::wsgi::response::Progress;

/// The engine. All methods are for the event loop thread.
pub struct Inline {
    /// Or why Python could not be started.
    world: Result<World, String>,
}

/// How long an answer may go on before the event loop sees to others; a piece is never interrupted.
const TURN: Duration = Duration::from_millis(5);

/// A call whose answer waits for the client, or for its next turn.
struct Suspended {
    running: Running,
    exchange: Arc<dyn Exchange>,
}

impl Inline {
    /// Starts Python on this thread.
    pub fn start(configuration: &Configuration) -> Self {
        let world = World::start(configuration);
        if let Err(error) = &world {
            log::error(error);
        }
        Self { world }
    }

    /// Loads an application now instead of at its first request.
    pub fn preload(&self, application: &Application) {
        if let Ok(world) = &self.world {
            // A failure is in the log; the first request tries again.
            let _ = Python::attach(|py| application.load(py, &world.loader));
        }
    }

    /// Runs a call until it is over or its answer has to wait.
    pub fn run(&self, application: &Application, call: Call) -> Option<Box<dyn exchange::Suspended>> {
        let exchange = call.exchange.clone();
        let world = match &self.world {
            Ok(world) => world,
            Err(error) => {
                guarded(&exchange, || call.refuse(error));
                return None;
            }
        };
        let running = guarded(&exchange, || {
            Python::attach(|py| {
                if application.callable(py).is_none()
                    && let Err(traceback) = application.load(py, &world.loader)
                {
                    call.refuse(&traceback);
                    return None;
                }
                let callable = application.callable(py)?;
                Some(call.start(py, &world.vocabulary, &callable))
            })
        })??;
        exchange::Suspended::resume(Box::new(Suspended { running, exchange }))
    }

    /// Runs what the application wants run at the end.
    pub fn shut_down(&self, limit: Duration) {
        if let Ok(world) = &self.world {
            Python::attach(|py| world.interpreter.shut_down(py, limit));
        }
    }
}

impl exchange::Suspended for Suspended {
    fn resume(self: Box<Self>) -> Option<Box<dyn exchange::Suspended>> {
        let Self { mut running, exchange } = *self;
        let progressed = guarded(&exchange, || {
            Python::attach(|py| match running.advance(py, Some(TURN)) {
                Progress::Done => {
                    running.finish(py);
                    None
                }
                progress => Some((progress, running)),
            })
        });
        let (progress, running) = progressed??;
        let suspended = Box::new(Self { running, exchange: exchange.clone() });
        match progress {
            Progress::File { body, last } => {
                exchange.send_file(body, last, suspended);
                None
            }
            _ => Some(suspended),
        }
    }

    fn abandon(self: Box<Self>) {
        let Self { running, exchange } = *self;
        guarded(&exchange, || Python::attach(|py| running.finish(py)));
    }
}
