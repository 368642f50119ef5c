//! One call of an application: environ, the call itself, its response, `close()`, and the handling of failures.

use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use super::body::BodySource;
use super::body_iter::{BodyIterator, Failure, Progress};
use super::call_objects::CallObjects;
use super::debug_page;
use super::environ::EnvironTemplate;
use super::input::Input;
use super::params::CgiParams;
use super::response::Response;
use super::transport::Transport;
use crate::python::log::Level;
use crate::python::{attribute, fork, log, traceback};

/// The number of a call in its worker.
pub type CallNumber = u64;

/// A request on its way to an application.
pub struct Call {
    pub number: CallNumber,
    pub params: Arc<CgiParams>,
    pub body: Box<dyn BodySource>,
    pub transport: Arc<dyn Transport>,
    /// `wsgi_debug`: show tracebacks to the client.
    pub debug: bool,
    /// The name of the application in the log.
    pub application_name: Arc<str>,
}

/// A call in progress. Dropped attached to Python.
pub struct Running {
    response: Response,
    input: Input,
    body_iter: Option<BodyIterator>,
    objects: Option<CallObjects>,
    context: Context,
}

/// A call that is over; its transport is not notified yet. Needs no Python.
#[must_use]
pub struct Finished(Response);

impl Finished {
    /// Notifies the transport that the call is over.
    pub fn close_call(self) {
        self.0.close_call();
    }
}

/// The properties of a call that its failure is reported with.
struct Context {
    application_name: Arc<str>,
    debug: bool,
    accepts_html: bool,
}

impl Call {
    /// Calls the application. The caller has entered the log sink of the transport, and continues with
    /// [`Running::advance`].
    pub fn start<'py>(self, py: Python<'py>, template: &EnvironTemplate, application: &Bound<'py, PyAny>) -> Running {
        let transport = self.transport.clone();
        let response = Response::new(self.transport, self.params.is_head);
        let input = Input::new(self.body, Some(transport));
        let context = Context {
            application_name: self.application_name,
            debug: self.debug,
            accepts_html: self.debug && self.params.accepts_html(),
        };
        let mut running = Running { response, input, body_iter: None, objects: None, context };
        let returned = template.objects(py, &running.response, &running.input).and_then(|objects| {
            let objects = running.objects.insert(objects);
            let environ = template.environ(py, &self.params, &objects.input)?;
            application.call1((environ, objects.start_response.object()))
        });
        fork::end_child(py, returned.as_ref().err());
        let body_iter = |iterable| {
            let file = template.file_body(&iterable);
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

    /// Responds with an error, as the application could not be loaded: with `traceback` if `wsgi_debug` is on.
    pub fn refuse(self, traceback: &str) {
        let response = Response::new(self.transport, self.params.is_head);
        if self.debug {
            let (headers, body) = debug_page::page(traceback, self.params.accepts_html());
            response.replace(headers, &body);
        }
        response.close_call();
    }
}

impl Running {
    /// Sends as much of the response as there is room for, and time in this `time_slice`.
    pub fn advance(&mut self, py: Python<'_>, time_slice: Option<Duration>) -> Progress {
        let Some(body_iter) = &mut self.body_iter else { return Progress::Done };
        let advanced = body_iter.advance(py, time_slice);
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
        let transport = self.response.transport();
        // The next attempt to send notices and handles a disconnect.
        let _ = py.detach(|| transport.wait_for_room());
    }

    /// Ends the call: calls `close()` of the iterable, then ends all objects that the application may have kept. No
    /// code of the application runs after this.
    pub fn finish(mut self, py: Python<'_>) -> Finished {
        if self.response.has_surplus() {
            self.log_error("exceeded its Content-Length, extra bytes discarded");
        }
        if let Some(body_iter) = self.body_iter.take()
            && let Some(iterable) = body_iter.into_closable(py)
        {
            self.close_iterable(&iterable);
        }
        // Objects that were released just now may have run code, too.
        fork::end_child(py, None);
        self.input.close();
        if let Some(objects) = self.objects.take() {
            objects.release(py);
        }
        // While the log still has the context of the request, which ends with the response.
        log::flush();
        Finished(self.response)
    }

    /// Calls `close()` of an iterable that has one. An error is logged and changes nothing.
    fn close_iterable(&self, iterable: &Bound<'_, PyAny>) {
        let py = iterable.py();
        let closed = match attribute::optional(iterable, "close") {
            Ok(None) => return,
            Ok(Some(close)) => close.call0().map(drop),
            Err(error) => Err(error),
        };
        fork::end_child(py, closed.as_ref().err());
        if let Err(error) = closed
            && !self.is_timeout(py, &error)
        {
            let (summary, text) = (traceback::summary(&error, py), traceback::format(&error, py));
            self.log_exception(&summary, &text, " in close()");
        }
    }

    /// Logs a failure and ends the response with it.
    fn report(&self, py: Python<'_>, failure: Failure) {
        match failure {
            // Logged when it was raised.
            Failure::Raised(error) if self.is_timeout(py, &error) => {}
            // Exceptions caused by a disconnect are logged at info, not as application errors.
            Failure::Raised(error) if self.is_disconnect(py, &error) => {
                let summary = traceback::summary(&error, py);
                self.log(Level::Info, &format!("raised {summary}, the client has closed the connection"));
            }
            Failure::Raised(error) => {
                let (summary, text) = (traceback::summary(&error, py), traceback::format(&error, py));
                self.response.transport().raised(&traceback::class_name(&error, py), &summary, &text);
                self.log_exception(&summary, &text, "");
                if self.context.debug {
                    let (headers, body) = debug_page::page(&text, self.context.accepts_html);
                    self.response.replace(headers, &body);
                }
            }
            Failure::NotStarted | Failure::Short { .. } => self.log_error(&failure.to_string()),
        }
        self.response.fail();
    }

    /// Returns whether an error only says that the client has left.
    fn is_disconnect(&self, py: Python<'_>, error: &PyErr) -> bool {
        self.response.transport().is_disconnected() && error.is_instance_of::<PyOSError>(py)
    }

    /// Returns whether `error` is the exception that was raised in the call because its time is over.
    fn is_timeout(&self, py: Python<'_>, error: &PyErr) -> bool {
        self.response.transport().has_timed_out() && traceback::class_name(error, py) == "ngx_wsgi.RequestTimeout"
    }

    fn log(&self, level: Level, event: &str) {
        log::write_record(level, &format!("application \"{}\" {event}", self.context.application_name));
    }

    fn log_error(&self, event: &str) {
        self.log(Level::Error, event);
    }

    fn log_exception(&self, summary: &str, traceback: &str, context: &str) {
        let message = format!("application \"{}\" raised {summary}{context}", self.context.application_name);
        log::exception(&message, traceback);
    }
}
