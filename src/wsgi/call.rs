//! One call of an application: environ, the call itself, its answer, `close()`, and what is done when any of it fails.

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use super::body::BodySource;
use super::body_iter::{BodyIterator, Failure, Progress};
use super::debug_page;
use super::environ::EnvironTemplate;
use super::input::Input;
use super::params::CgiParams;
use super::start_response::Response;
use super::transport::Transport;
use crate::python::log::Level;
use crate::python::{fork, log, traceback};

/// Names a call in its worker.
pub type CallNumber = u64;

/// A request on its way to an application.
pub struct Call {
    pub number: CallNumber,
    pub head: CgiParams,
    pub body: Box<dyn BodySource>,
    pub exchange: Arc<dyn Transport>,
    /// `wsgi_debug`: show the client what went wrong.
    pub debug: bool,
    /// What the log calls the application.
    pub application_name: Arc<str>,
}

/// A call under way. Dropped attached to Python.
pub struct Running {
    response: Response,
    input: Input,
    body_iter: Option<BodyIterator>,
    context: Context,
}

/// A call that is over, which its exchange has not heard of. Needs no Python.
#[must_use]
pub struct Finished(Response);

impl Finished {
    /// Tells the exchange.
    pub fn close(self) {
        self.0.close();
    }
}

/// What a failure is reported with.
struct Context {
    application_name: Arc<str>,
    debug: bool,
    accepts_html: bool,
}

impl Call {
    /// Calls the application. The caller has entered the log sink of the exchange and goes on with
    /// [`Running::advance`].
    pub fn start<'py>(self, py: Python<'py>, vocabulary: &EnvironTemplate, application: &Bound<'py, PyAny>) -> Running {
        let exchange = self.exchange.clone();
        let response = Response::new(self.exchange, self.head.is_head);
        let input = Input::new(self.body, Some(exchange));
        let context = Context {
            application_name: self.application_name,
            debug: self.debug,
            accepts_html: self.head.accepts_html,
        };
        let mut running = Running { response, input, body_iter: None, context };
        let returned = vocabulary.environ(py, &self.head, &running.input).and_then(|environ| {
            let start_response = vocabulary.start_response(py, &running.response)?;
            application.call1((environ, start_response))
        });
        fork::end_child(py, returned.as_ref().err());
        let body_iter = |iterable| {
            let file = vocabulary.file_body(&iterable);
            BodyIterator::new(running.response.clone(), iterable, file)
        };
        let body_iter = returned.map(body_iter);
        fork::end_child(py, body_iter.as_ref().ok().and_then(|made| made.as_ref().err()).map(|(error, _)| error));
        match body_iter {
            Ok(Ok(body_iter)) => running.body_iter = Some(body_iter),
            Ok(Err((error, iterable))) => {
                running.report(py, error.into());
                running.close_iterable(&iterable);
            }
            Err(error) => running.report(py, error.into()),
        }
        running
    }

    /// Answers without the application, which could not be loaded: the traceback with `wsgi_debug`, else a plain error.
    pub fn refuse(self, traceback: &str) {
        let response = Response::new(self.exchange, self.head.is_head);
        if self.debug {
            let (head, body) = debug_page::page(traceback, self.head.accepts_html);
            response.replace(head, &body);
        }
        response.close();
    }
}

impl Running {
    /// Sends as much of the answer as there is room for, and time in this `turn`.
    pub fn advance(&mut self, py: Python<'_>, turn: Option<Duration>) -> Progress {
        let Some(body_iter) = &mut self.body_iter else { return Progress::Done };
        let advanced = body_iter.advance(py, turn);
        fork::end_child(py, advanced.as_ref().err().and_then(Failure::raised));
        match advanced {
            Ok(progress) => progress,
            Err(failure) => {
                self.report(py, failure);
                Progress::Done
            }
        }
    }

    /// Waits, detached, until [`Running::advance`] has room again.
    pub fn wait_for_room(&self, py: Python<'_>) {
        let exchange = self.response.exchange();
        // A client that has left is found again, and dealt with, by the next attempt to send.
        let _ = py.detach(|| exchange.wait_for_room());
    }

    /// Ends the call: `close()` of the iterable, then everything that the application may have kept. From here on no code of
    /// the application runs.
    pub fn finish(mut self, py: Python<'_>) -> Finished {
        if self.response.has_surplus() {
            self.log("sent more than its Content-Length, the rest was cut off");
        }
        if let Some(body_iter) = self.body_iter.take()
            && let Some(iterable) = body_iter.into_closable(py)
        {
            self.close_iterable(&iterable);
        }
        // What has gone with the response may have run code as well.
        fork::end_child(py, None);
        self.input.close();
        // With the context of the request, which goes when the answer is closed.
        log::flush();
        Finished(self.response)
    }

    /// `close()` of an iterable that has one; an error of it is logged and changes nothing.
    fn close_iterable(&self, iterable: &Bound<'_, PyAny>) {
        let py = iterable.py();
        let closed = match iterable.getattr_opt("close") {
            Ok(None) => return,
            Ok(Some(close)) => close.call0().map(drop),
            Err(error) => Err(error),
        };
        fork::end_child(py, closed.as_ref().err());
        if let Err(error) = closed
            && !self.has_timed_out(py, &error)
        {
            self.log_traceback(py, &error, "in close()");
        }
    }

    /// Logs a failure and ends the answer with it.
    fn report(&self, py: Python<'_>, failure: Failure) {
        match failure {
            // Whoever has raised it has logged it.
            Failure::Raised(error) if self.has_timed_out(py, &error) => {}
            // What an application makes of a client that left is no fault of it.
            Failure::Raised(error) if self.is_disconnection(py, &error) => {
                let summary = traceback::summary(&error, py);
                let name = &self.context.application_name;
                log::write_record(
                    Level::Info,
                    &format!("application \"{name}\" raised {summary}, its client has left"),
                );
            }
            Failure::Raised(error) => {
                self.response.exchange().raised(&traceback::class_name(&error, py));
                let text = self.log_traceback(py, &error, "");
                if self.context.debug {
                    let (head, body) = debug_page::page(&text, self.context.accepts_html);
                    self.response.replace(head, &body);
                }
            }
            Failure::NotStarted => self.log("did not call start_response before its first data"),
            Failure::Short { sent, declared } => {
                self.log(&format!("sent {sent} of the {declared} bytes of its Content-Length"));
            }
        }
        self.response.fail();
    }

    /// Whether an error only says that nobody waits for the answer any more.
    fn is_disconnection(&self, py: Python<'_>, error: &PyErr) -> bool {
        self.response.exchange().is_disconnected() && error.is_instance_of::<PyOSError>(py)
    }

    /// Whether `error` is how the call learned that its time is over.
    fn has_timed_out(&self, py: Python<'_>, error: &PyErr) -> bool {
        self.response.exchange().has_timed_out() && traceback::class_name(error, py) == "ngx_wsgi.RequestTimeout"
    }

    fn log(&self, what: &str) {
        log::error(&format!("application \"{}\" {what}", self.context.application_name));
    }

    fn log_traceback(&self, py: Python<'_>, error: &PyErr, place: &str) -> String {
        let text = traceback::format(error, py);
        let place = if place.is_empty() { String::new() } else { format!(" {place}") };
        let summary = traceback::summary(error, py);
        self.log(&format!("raised {summary}{place}\n{text}"));
        text
    }
}
