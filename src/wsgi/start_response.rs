//! `start_response` and the `write` callable it returns: the answer of one call, from its head to its last byte.

use std::ffi::CStr;
use std::sync::Arc;

use pyo3::exceptions::{PyBrokenPipeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::file::FileBody;
use super::headers::ResponseHeaders;
use super::transport::{Disconnected, End, Transport};
use crate::python::after_fork;
use crate::python::native_class::{Arguments, BoundMethod, Class, Method};
use crate::sync::{Mutex, MutexGuard};

/// The answer of one call. Shared by its `start_response`, its `write` and its iteration.
#[derive(Clone)]
pub struct Response(Arc<Shared>);

struct Shared {
    exchange: Arc<dyn Transport>,
    is_head: bool,
    state: Mutex<State>,
}

struct State {
    stage: Stage,
    /// Content-Length, as the application declared it.
    declared: Option<u64>,
    /// Bytes of the body that threads may hand over, or have handed over: never more than were declared.
    admitted: u64,
    /// Bytes of the body that have been handed over.
    sent: u64,
    /// Whether data beyond Content-Length was cut off.
    surplus: bool,
    /// Whether the answer has no body, whatever the application gives (HEAD, 204, 304, a redirect in the server).
    bodyless: bool,
}

impl State {
    /// How many more bytes of the body may be admitted.
    fn room(&self) -> u64 {
        self.declared.map_or(u64::MAX, |declared| declared.saturating_sub(self.admitted))
    }
}

/// `Waiting → Started → Sent → Ended`; an error leads to `Ended` from everywhere. `start_response` with `exc_info`
/// stays in `Started`, where the head can still be replaced.
enum Stage {
    Waiting,
    Started(ResponseHeaders),
    Sent,
    Ended,
}

/// What the iteration finds when it is done.
#[derive(Debug, PartialEq, Eq)]
pub enum Completion {
    Complete,
    NotStarted,
    /// The body is shorter than Content-Length: sent and declared bytes.
    Short(u64, u64),
}

impl Response {
    /// The answer that goes out through `exchange`.
    pub fn new(exchange: Arc<dyn Transport>, is_head: bool) -> Self {
        let state =
            State { stage: Stage::Waiting, declared: None, admitted: 0, sent: 0, surplus: false, bodyless: false };
        Self(Arc::new(Shared { exchange, is_head, state: Mutex::new(state) }))
    }

    /// Where the answer goes.
    pub fn exchange(&self) -> &Arc<dyn Transport> {
        &self.0.exchange
    }

    /// The lock is never held while this thread attaches to Python or waits.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    /// Whether `start_response` has not been called yet.
    pub fn is_waiting(&self) -> bool {
        matches!(self.lock().stage, Stage::Waiting)
    }

    /// Whether data of this answer would be sent at all (not for HEAD, 204, 304, nor where the server answers instead).
    fn has_body(&self, head: &ResponseHeaders) -> bool {
        !self.0.is_head && head.has_body() && head.redirect().is_none()
    }

    /// The application declares no length but hands over its body whole: `length` bytes.
    pub fn suggest_length(&self, length: u64) {
        let mut state = self.lock();
        let Stage::Started(head) = &mut state.stage else { return };
        if head.content_length.is_none() && self.has_body(head) {
            head.content_length = Some(length);
        }
    }

    /// Sends the head if it is not out, and says how many of `length` bytes may follow it. They are the caller's to hand over,
    /// whatever other threads of the application write meanwhile; [`Response::handed_over`] is to be told.
    ///
    /// # Errors
    /// `Disconnected` once the answer has ended.
    fn admit(&self, length: usize) -> Result<usize, Disconnected> {
        let mut state = self.lock();
        match std::mem::replace(&mut state.stage, Stage::Sent) {
            Stage::Started(head) => {
                state.bodyless = !self.has_body(&head);
                state.declared = head.content_length.filter(|_| !state.bodyless);
                self.0.exchange.send_head(head);
            }
            Stage::Sent => {}
            other => {
                state.stage = other;
                return Err(Disconnected);
            }
        }
        if state.bodyless {
            return Ok(0);
        }
        let admitted = length.min(usize::try_from(state.room()).unwrap_or(usize::MAX));
        state.surplus |= admitted < length;
        state.admitted += admitted as u64;
        Ok(admitted)
    }

    /// Of the bytes that were `admitted` so many have been `sent`; the rest may be admitted again.
    fn handed_over(&self, admitted: usize, sent: usize) {
        let mut state = self.lock();
        state.sent += sent as u64;
        state.admitted -= (admitted - sent) as u64;
    }

    /// Sends what there is room for. Returns how much of `data` is dealt with: sent, or cut off as surplus.
    ///
    /// # Errors
    /// Nobody is there to take it.
    pub fn send(&self, data: &[u8], more_follows: bool) -> Result<usize, Disconnected> {
        let admitted = self.admit(data.len())?;
        if admitted == 0 {
            // Only the head goes out, if it has not; and a client that has left is noticed.
            self.0.exchange.send(&[], more_follows)?;
            return Ok(data.len());
        }
        let sent = self.0.exchange.send(&data[..admitted], more_follows)?;
        self.handed_over(admitted, sent);
        Ok(if sent == admitted { data.len() } else { sent })
    }

    /// Sends what there is room for in the temporary file, of data that [`Response::send`] had no room for. To be called
    /// detached.
    ///
    /// # Errors
    /// Nobody is there to take it.
    pub fn spill(&self, data: &[u8]) -> Result<usize, Disconnected> {
        let admitted = self.admit(data.len())?;
        let sent = self.0.exchange.spill(&data[..admitted])?;
        self.handed_over(admitted, sent);
        Ok(if sent == admitted { data.len() } else { sent })
    }

    /// The part of a file that may be sent as the rest of the body, and whether that completes the body. `None` when
    /// there is nothing to send of it.
    pub fn admit_file(&self, file: FileBody) -> Option<(FileBody, bool)> {
        self.admit(0).ok()?;
        let mut state = self.lock();
        let length = file.length.min(state.room());
        if length == 0 || state.bodyless {
            return None;
        }
        state.admitted += length;
        state.sent += length;
        // Not while another thread has bytes to hand over that count.
        let last = state.declared.is_none_or(|declared| declared == state.sent);
        if last {
            state.stage = Stage::Ended;
        }
        Some((FileBody { length, ..file }, last))
    }

    /// Sends the head and finds out whether its body is wanted at all. To be called detached.
    pub fn is_body_unwanted(&self) -> bool {
        if self.is_waiting() || self.admit(0).is_err() {
            return false;
        }
        if !self.lock().bodyless && self.0.exchange.wants_body() {
            return false;
        }
        self.lock().bodyless = true;
        self.lock().declared = None;
        true
    }

    /// `write(data)`: sends all of it. To be called detached.
    fn write(&self, data: &[u8]) -> Result<(), Disconnected> {
        let admitted = self.admit(data.len())?;
        if admitted > 0 {
            self.0.exchange.send_all(&data[..admitted])?;
            self.handed_over(admitted, admitted);
        }
        Ok(())
    }

    /// Ends a body that the application has given completely, see [`Transport::end`].
    pub fn complete(&self, closed_follows: bool) -> Completion {
        if self.is_waiting() {
            return Completion::NotStarted;
        }
        if self.admit(0).is_err() {
            return Completion::Complete;
        }
        let mut state = self.lock();
        match state.declared {
            Some(declared) if state.sent < declared => Completion::Short(state.sent, declared),
            _ => {
                state.stage = Stage::Ended;
                drop(state);
                self.0.exchange.end(End::Complete, closed_follows);
                Completion::Complete
            }
        }
    }

    /// Whether the application gave more than its Content-Length, which was cut off.
    pub fn has_surplus(&self) -> bool {
        self.lock().surplus
    }

    /// Ends the answer as failed, unless it has ended.
    pub fn fail(&self) {
        let stage = std::mem::replace(&mut self.lock().stage, Stage::Ended);
        if !matches!(stage, Stage::Ended) {
            self.0.exchange.end(End::Failed, true);
        }
    }

    /// Ends the answer with a page of this module in place of what the application had started, unless its head is out.
    pub fn replace(&self, head: ResponseHeaders, body: &[u8]) {
        let mut state = self.lock();
        if !matches!(state.stage, Stage::Waiting | Stage::Started(_)) {
            return;
        }
        state.stage = Stage::Started(head);
        drop(state);
        // The page is short; if nobody takes it there is nothing left to tell.
        let _ = self.write(body);
        self.complete(true);
    }

    /// The call is over: what is left of its objects refuses to work.
    pub fn close(&self) {
        self.fail();
        self.0.exchange.closed();
    }

    fn start<'py>(&self, arguments: &Arguments<'_, 'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        after_fork::refuse_child()?;
        let names = ["status", "response_headers", "exc_info"];
        let [status, headers, exc_info] = arguments.bind("start_response", names, 2)?;
        let exc_info = exc_info.filter(|exc_info| !exc_info.is_none());
        let (ended, sent, started) = {
            let stage = &self.lock().stage;
            (matches!(stage, Stage::Ended), matches!(stage, Stage::Sent), matches!(stage, Stage::Started(_)))
        };
        match exc_info {
            _ if ended => {
                return Err(PyValueError::new_err("start_response is called after its request has ended"));
            }
            // The head is out: the application's handler must not run on (PEP 3333, "The start_response() Callable").
            Some(exc_info) if sent => return Err(raised_again(&exc_info)?),
            None if sent || started => {
                return Err(PyValueError::new_err("start_response is called a second time without exc_info"));
            }
            _ => {}
        }
        let (Some(status), Some(headers)) = (status, headers) else {
            return Err(PyTypeError::new_err("start_response() missing required arguments"));
        };
        let head = ResponseHeaders::from_python(&status, &headers)?;
        let mut state = self.lock();
        // Another thread of the application may have sent the head meanwhile.
        if matches!(state.stage, Stage::Waiting | Stage::Started(_)) {
            state.stage = Stage::Started(head);
        }
        drop(state);
        WRITE.bind(arguments)
    }
}

/// The error of an `exc_info` tuple, with its traceback.
fn raised_again(exc_info: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let tuple = exc_info
        .cast::<PyTuple>()
        .map_err(|_| PyTypeError::new_err("exc_info must be a tuple as sys.exc_info() returns it"))?;
    let value = tuple.get_item(1)?;
    value.call_method1("with_traceback", (tuple.get_item(2)?,))?;
    Ok(PyErr::from_value(value))
}

/// `start_response(status, response_headers, exc_info=None)`.
pub static START_RESPONSE: BoundMethod<Response> =
    BoundMethod::of(c"start_response", |response: &Response, arguments| response.start(arguments));

/// `write(data)`.
static WRITE: BoundMethod<Response> = BoundMethod::of(c"write", |response: &Response, arguments| {
    after_fork::refuse_child()?;
    let [data] = arguments.bind("write", ["data"], 1)?;
    let py = arguments.py;
    let Some(data) = data else {
        return Err(PyTypeError::new_err("write() missing argument 'data'"));
    };
    let Ok(data) = data.cast::<PyBytes>() else {
        let found = data.get_type().name()?;
        return Err(PyTypeError::new_err(format!("write() argument must be bytes, not {found}")));
    };
    let bytes = data.as_bytes();
    if !bytes.is_empty() {
        py.detach(|| response.write(bytes)).map_err(|error| PyBrokenPipeError::new_err(error.to_string()))?;
    }
    Ok(py.None().into_bound(py))
});

impl Class for Response {
    const NAME: &'static CStr = c"ngx_wsgi.Response";

    fn methods() -> &'static [Method] {
        static METHODS: [Method; 1] = [Method::END];
        &METHODS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wsgi::recording::{Recorded, RecordingTransport};

    /// An answer of `length` bytes whose head is not out.
    fn started(exchange: Arc<RecordingTransport>, length: u64) -> Response {
        let response = Response::new(exchange, false);
        let mut head = ResponseHeaders::new(b"200 OK").unwrap();
        head.content_length = Some(length);
        response.lock().stage = Stage::Started(head);
        response
    }

    #[test]
    fn threads_that_send_at_once_share_the_content_length() {
        let send = |response: &Response, data: &[u8]| response.send(data, false).map(drop);
        let write = |response: &Response, data: &[u8]| response.write(data);
        for (first, second) in [(send as fn(&_, &_) -> _, write as fn(&_, &_) -> _), (write, send), (write, write)] {
            let exchange = Arc::new(RecordingTransport::default());
            let response = started(exchange.clone(), 3);
            let other = response.clone();
            exchange.meanwhile(move || second(&other, b"yyy").unwrap());
            first(&response, b"xx").unwrap();
            assert!(response.has_surplus());
            assert_eq!(response.complete(true), Completion::Complete);
            assert_eq!(exchange.take(), Recorded { heads: 1, body: b"yxx".to_vec(), end: Some(End::Complete) });
        }
    }

    #[test]
    fn a_body_is_not_complete_before_its_bytes_are_handed_over() {
        let exchange = Arc::new(RecordingTransport::default());
        let response = started(exchange.clone(), 1);
        let other = response.clone();
        exchange.meanwhile(move || {
            assert_eq!(other.complete(true), Completion::Short(0, 1));
            other.fail();
        });
        response.write(b"x").unwrap();
        assert_eq!(exchange.take().end, Some(End::Failed));
    }

    #[test]
    fn a_page_of_the_module_never_follows_a_head_that_is_out() {
        let exchange = Arc::new(RecordingTransport::default());
        let response = started(exchange.clone(), 1);
        response.write(b"x").unwrap();
        response.replace(ResponseHeaders::new(b"500 Error").unwrap(), b"page");
        assert_eq!(exchange.take(), Recorded { heads: 1, body: b"x".to_vec(), end: None });
    }
}
