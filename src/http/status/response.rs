//! Responses of `wsgi_status`, and the requests that wait for one.

use std::cell::{Cell, RefCell};
use std::sync::OnceLock;
use std::time::Duration;

use crate::nginx::request::events::RequestEvents;
use crate::nginx::request::headers_out::NoMemory;
use crate::nginx::request::output::{Output, OutputParts};
use crate::nginx::request::{Request, Status};
use crate::nginx::thread_bound::EventLoopBound;
use crate::nginx::timer::Timer;

/// Interval of the timer that holds an exiting worker while requests wait.
const HOLD_PERIOD: Duration = Duration::from_millis(250);

/// Media type of a text.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// Complete response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn ok(content_type: &'static str, body: Vec<u8>) -> Self {
        Self { status: 200, content_type, headers: Vec::new(), body }
    }

    /// Returns the response to a request for which no report is made, as others wait for theirs.
    pub fn busy() -> Self {
        Self { status: 503, ..Self::ok(TEXT, b"too many requests for the status\n".to_vec()) }
            .with_header("Retry-After", "1".to_owned())
    }

    /// Returns the response if no report could be made. The log has the reason.
    pub fn failed() -> Self {
        Self { status: 500, ..Self::ok(TEXT, b"no report, see the error log\n".to_vec()) }
    }

    pub fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Passes the response to nginx. Returns the status to finalize the request with.
    fn send(self, request: Request, output: &Output) -> Status {
        let is_empty = self.body.is_empty();
        if let Err(status) = self.send_header(request).and_then(|body| {
            if request.is_header_only() || is_empty {
                return request.send_end();
            }
            output.send(request, OutputParts { memory: body, file: None }, true).map(drop)
        }) {
            return status;
        }
        Status::OK
    }

    /// Sends the header. Returns the body.
    fn send_header(self, request: Request) -> Result<Vec<u8>, Status> {
        const COMMON: [(&str, &str); 3] =
            [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "no-referrer")];
        request.set_status(self.status);
        request.set_content_length(self.body.len() as u64);
        let add_all = || {
            request.header_texts(self.content_type.as_bytes())?.set_content_type(0..self.content_type.len());
            for (name, value) in COMMON {
                request.add_header(name.as_bytes(), value.as_bytes())?;
            }
            for (name, value) in &self.headers {
                request.add_header(name.as_bytes(), value.as_bytes())?;
            }
            Ok::<(), NoMemory>(())
        };
        add_all()?;
        request.disable_not_modified();
        request.send_header()?;
        Ok(self.body)
    }
}

/// Sends a response from the content handler, which returns the status.
pub fn send_now(request: Request, response: Response) -> Status {
    // nginx may hold the body until the request ends.
    if request.attach(Output::default()).is_none() {
        return Status::INTERNAL_SERVER_ERROR;
    }
    match request.attached::<Output>() {
        Some(output) => response.send(request, output),
        None => Status::INTERNAL_SERVER_ERROR,
    }
}

/// Request that waits for its response, which another thread makes.
pub struct PendingRequest {
    inner: EventLoopBound<Inner>,
}

struct Inner {
    /// `None` once the request has ended.
    request: Cell<Option<Request>>,
    output: Output,
    holds: Cell<bool>,
}

thread_local! {
    /// Number of requests that wait, on the event loop thread.
    static WAITING: RefCell<usize> = const { RefCell::new(0) };
}

impl PendingRequest {
    /// Makes the value for a request in its content handler.
    pub fn new(request: Request) -> Self {
        let inner = Inner { request: Cell::new(Some(request)), output: Output::default(), holds: Cell::new(false) };
        Self { inner: EventLoopBound::new(inner) }
    }

    /// Keeps this worker alive until the request has its response or has ended. On the event loop thread.
    pub fn hold(&self) {
        self.inner.get().holds.set(true);
        WAITING.with_borrow_mut(|waiting| *waiting += 1);
        timer().arm(HOLD_PERIOD);
    }

    fn release(&self) {
        if self.inner.get().holds.replace(false) {
            WAITING.with_borrow_mut(|waiting| *waiting -= 1);
            if WAITING.with_borrow(|waiting| *waiting) == 0 {
                timer().release_worker();
            }
        }
    }

    /// Sends the response, unless the request has ended. On the event loop thread.
    pub fn respond(&self, response: Response) {
        let inner = self.inner.get();
        self.release();
        let Some(request) = inner.request.take() else { return };
        request.run_in_other_event(|request| {
            let status = response.send(request, &inner.output);
            request.finalize(status);
        });
    }
}

/// Returns the timer that holds this worker while requests wait.
fn timer() -> &'static Timer {
    static TIMER: OnceLock<Timer> = OnceLock::new();
    fn on_timer() {
        if WAITING.with_borrow(|waiting| *waiting) > 0 {
            timer().arm(HOLD_PERIOD);
        }
    }
    TIMER.get_or_init(|| Timer::new(true, on_timer))
}

impl RequestEvents for PendingRequest {
    fn writable(&self) {}

    fn readable(&self) {}

    fn cleanup(&self) {
        self.inner.get().request.set(None);
        self.release();
    }
}
