//! Times, thread and outcome of a call, for the variables `$wsgi_…` and the error log.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::engine::call_clock::{CallClock, Offset};

/// Facts about one call. Written by the thread that runs the call and by the event loop, read by the event loop.
pub struct CallStats {
    /// Name of the application in the log.
    pub application: Arc<str>,
    /// Times and limits.
    pub clock: CallClock,
    headers: Offset,
    /// Thread and interpreter that started the call.
    place: OnceLock<(Arc<str>, Arc<str>)>,
    exception: OnceLock<String>,
}

impl CallStats {
    /// Creates the record of a call with this clock.
    pub fn new(application: Arc<str>, clock: CallClock) -> Self {
        Self { application, clock, headers: Offset::default(), place: OnceLock::new(), exception: OnceLock::new() }
    }

    /// Notes the thread and the interpreter that start the call.
    pub fn start(&self, thread: &Arc<str>, interpreter: &Arc<str>) {
        let _ = self.place.set((thread.clone(), interpreter.clone()));
        self.clock.start();
    }

    /// Notes that the application has given its response headers.
    pub fn set_headers_given(&self) {
        self.headers.set(self.clock.elapsed());
    }

    /// Returns the offset of the response headers of the application.
    pub fn headers(&self) -> &Offset {
        &self.headers
    }

    /// Notes that the call exceeded `wsgi_request_timeout`.
    pub fn set_timed_out(&self) {
        self.clock.set_timed_out();
        self.set_exception("ngx_wsgi.RequestTimeout");
    }

    /// Notes the class of the exception that the call failed with; the first one counts.
    pub fn set_exception(&self, class: &str) {
        let _ = self.exception.set(class.to_owned());
    }

    /// Returns the name of the thread that started the call.
    pub fn thread(&self) -> Option<&str> {
        self.place.get().map(|(thread, _)| thread.as_ref())
    }

    /// Returns the name of the interpreter that the call runs in.
    pub fn interpreter(&self) -> Option<&str> {
        self.place.get().map(|(_, interpreter)| interpreter.as_ref())
    }

    /// Returns the class of the exception that the call failed with.
    pub fn exception(&self) -> Option<&str> {
        self.exception.get().map(String::as_str)
    }

    /// Returns the time from the start of the call to its response headers.
    pub fn application_time(&self) -> Option<Duration> {
        Some(self.headers.get()?.saturating_sub(self.clock.started()?))
    }

    /// Returns the log message for a limit that the running call has exceeded.
    pub fn limit_message(&self, directive: &str) -> String {
        self.clock.message(&self.application, self.thread().unwrap_or_default(), directive)
    }
}
