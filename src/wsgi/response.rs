//! The state of one response, from its headers to its last byte: shared by `start_response`, `write` and the iteration.

use std::sync::Arc;

use super::file::FileBody;
use super::headers::ResponseHeaders;
use super::transport::{Disconnected, End, Next, Transport};
use crate::sync::{Mutex, MutexGuard};

/// The response of one call.
#[derive(Clone)]
pub struct Response(Arc<Shared>);

struct Shared {
    transport: Arc<dyn Transport>,
    is_head: bool,
    state: Mutex<State>,
}

/// `NotStarted → Started → HeadersSent → Ended`; an error leads to `Ended` from every stage. `start_response` with
/// `exc_info` stays in `Started`, where the headers can still be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// `start_response` has not been called.
    NotStarted,
    /// Status and headers are set, but not sent.
    Started,
    HeadersSent,
    Ended,
}

struct State {
    stage: Stage,
    /// Status and headers in the stage `Started`, `None` in all others.
    headers: Option<ResponseHeaders>,
    /// The Content-Length that was sent.
    content_length: Option<u64>,
    /// Bytes of the body that were sent or that a thread is about to send; never more than Content-Length.
    reserved: u64,
    /// Bytes of the body that were sent.
    sent: u64,
    /// True if data beyond Content-Length was discarded.
    has_surplus: bool,
    /// True if the response has no body, whatever the application yields (HEAD, 204, 304, an internal redirect).
    is_bodyless: bool,
}

impl State {
    fn start(&mut self, headers: ResponseHeaders) {
        self.stage = Stage::Started;
        self.headers = Some(headers);
    }

    fn end(&mut self) {
        self.stage = Stage::Ended;
        self.headers = None;
    }

    /// Returns whether no header block has been sent, so that the headers can be set or replaced.
    fn takes_headers(&self) -> bool {
        matches!(self.stage, Stage::NotStarted | Stage::Started)
    }

    /// Returns the number of bytes of the body that may still be reserved.
    fn room(&self) -> u64 {
        self.content_length.map_or(u64::MAX, |length| length.saturating_sub(self.reserved))
    }
}

/// The result of [`Response::complete`].
#[derive(Debug, PartialEq, Eq)]
pub enum Completion {
    Complete,
    /// `start_response` was not called.
    NotStarted,
    /// The body is shorter than Content-Length.
    Short {
        sent: u64,
        declared: u64,
    },
}

impl Response {
    /// Creates the response that goes out through `transport`; `is_head` if the request method is HEAD.
    pub fn new(transport: Arc<dyn Transport>, is_head: bool) -> Self {
        let state = State {
            stage: Stage::NotStarted,
            headers: None,
            content_length: None,
            reserved: 0,
            sent: 0,
            has_surplus: false,
            is_bodyless: false,
        };
        Self(Arc::new(Shared { transport, is_head, state: Mutex::new(state) }))
    }

    /// Returns the transport of this response.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.0.transport
    }

    /// Takes the lock, which is never held while this thread attaches to Python or waits.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    /// Returns the stage of this response.
    pub fn stage(&self) -> Stage {
        self.lock().stage
    }

    /// Returns whether a response with these headers has a body: not for HEAD, 204, 304, nor with an internal redirect.
    fn has_body(&self, headers: &ResponseHeaders) -> bool {
        !self.0.is_head && headers.has_body() && headers.redirect().is_none()
    }

    /// Sets or replaces status and headers, unless they have been sent.
    pub fn start(&self, headers: ResponseHeaders) {
        let mut state = self.lock();
        if state.takes_headers() {
            state.start(headers);
        }
    }

    /// Sets Content-Length to `length`, that of a body which is known as a whole, if the application did not set it.
    pub fn infer_length(&self, length: u64) {
        let mut state = self.lock();
        let Some(headers) = &mut state.headers else { return };
        if headers.content_length.is_none() && self.has_body(headers) {
            headers.content_length = Some(length);
        }
    }

    /// Sends the header block if it was not sent, and returns how many of `length` bytes of the body may follow. They
    /// are the caller's to send, whatever other threads write meanwhile. The caller then calls [`Response::settle`].
    ///
    /// # Errors
    /// The response has not started, or has ended.
    fn reserve(&self, length: usize) -> Result<usize, Disconnected> {
        let mut state = self.lock();
        if let Some(headers) = state.headers.take() {
            state.stage = Stage::HeadersSent;
            state.is_bodyless = !self.has_body(&headers);
            state.content_length = headers.content_length.filter(|_| !state.is_bodyless);
            self.0.transport.send_headers(headers);
        }
        if state.stage != Stage::HeadersSent {
            return Err(Disconnected);
        }
        if state.is_bodyless {
            return Ok(0);
        }
        let reserved = length.min(usize::try_from(state.room()).unwrap_or(usize::MAX));
        state.has_surplus |= reserved < length;
        state.reserved += reserved as u64;
        Ok(reserved)
    }

    /// Returns whether the body is complete with the bytes that were sent and `reserved` ones, by its Content-Length.
    fn completes(&self, reserved: usize) -> bool {
        let state = self.lock();
        state.content_length.is_some_and(|declared| declared == state.sent + reserved as u64)
    }

    /// Records that `sent` of the `reserved` bytes were sent; the others may be reserved again.
    fn settle(&self, reserved: usize, sent: usize) {
        let mut state = self.lock();
        state.sent += sent as u64;
        state.reserved -= (reserved - sent) as u64;
    }

    /// Sends as much of `data` as there is room for in memory; `more_follows` if the next piece comes without delay. Returns
    /// the number of bytes that were sent, or discarded because they exceed Content-Length.
    ///
    /// # Errors
    /// The client has left, or there is data after a complete body.
    pub fn send(&self, data: &[u8], more_follows: bool) -> Result<usize, Disconnected> {
        let reserved = self.reserve(data.len())?;
        let next = match more_follows {
            true => Next::AtOnce,
            // The client need not wait for the rest of the call.
            false if self.completes(reserved) => Next::Nothing,
            false => Next::Later,
        };
        // Without data this sends the header block alone, and notices a client that has left.
        let sent = self.0.transport.send(&data[..reserved], next)?;
        self.settle(reserved, sent);
        Ok(if sent == reserved { data.len() } else { sent })
    }

    /// Sends the header block with `data`, the complete body, and ends the response. Returns the number of bytes that there
    /// was room for; the caller sends the others, and ends the response after them. Returns `None`, and has no effect, if
    /// the rules for a body in pieces are needed: the header block was sent, there is to be no body, or the body does not
    /// match its Content-Length.
    ///
    /// # Errors
    /// The client has left.
    pub fn send_whole(&self, data: &[u8]) -> Result<Option<usize>, Disconnected> {
        let length = data.len() as u64;
        let mut state = self.lock();
        let fits = |headers: &mut ResponseHeaders| {
            headers.content_length.is_none_or(|declared| declared == length) && self.has_body(headers)
        };
        let Some(mut headers) = state.headers.take_if(fits) else { return Ok(None) };
        headers.content_length = Some(length);
        state.stage = Stage::HeadersSent;
        state.content_length = Some(length);
        state.reserved = length;
        drop(state);
        let sent = self.0.transport.send_whole(headers, data)?;
        let mut state = self.lock();
        state.sent += sent as u64;
        state.reserved -= (data.len() - sent) as u64;
        if sent == data.len() {
            state.end();
        }
        Ok(Some(sent))
    }

    /// Sends as much of `data` as there is room for in the temporary file, after [`Response::send`] had no room for it.
    /// Call it detached from Python.
    ///
    /// # Errors
    /// The client has left.
    pub fn spill(&self, data: &[u8]) -> Result<usize, Disconnected> {
        let reserved = self.reserve(data.len())?;
        let sent = self.0.transport.spill(&data[..reserved])?;
        self.settle(reserved, sent);
        Ok(if sent == reserved { data.len() } else { sent })
    }

    /// Sends the header block. Returns the part of `file` that may be sent as the rest of the body, and whether the
    /// body is complete with it. Returns `None` if nothing of the file is to be sent.
    pub fn reserve_file(&self, file: FileBody) -> Option<(FileBody, bool)> {
        self.reserve(0).ok()?;
        let mut state = self.lock();
        let length = file.length.min(state.room());
        if length == 0 || state.is_bodyless {
            return None;
        }
        state.reserved += length;
        state.sent += length;
        // Not the last part while another thread has bytes to send that count.
        let is_last = state.content_length.is_none_or(|declared| declared == state.sent);
        if is_last {
            state.end();
        }
        Some((FileBody { length, ..file }, is_last))
    }

    /// Sends the header block and finds out whether the client wants no body. Call it detached from Python.
    pub fn is_body_unwanted(&self) -> bool {
        if self.reserve(0).is_err() {
            return false;
        }
        if !self.lock().is_bodyless && self.0.transport.wants_body() {
            return false;
        }
        let mut state = self.lock();
        state.is_bodyless = true;
        state.content_length = None;
        true
    }

    /// Sends all of `data`, as `write(data)` does. Call it detached from Python.
    ///
    /// # Errors
    /// The client has left.
    pub fn write(&self, data: &[u8]) -> Result<(), Disconnected> {
        let reserved = self.reserve(data.len())?;
        if reserved > 0 {
            self.0.transport.send_all(&data[..reserved])?;
            self.settle(reserved, reserved);
        }
        Ok(())
    }

    /// Ends a response whose body the application has given completely, see [`Transport::end_response`].
    pub fn complete(&self, close_follows: bool) -> Completion {
        if self.stage() == Stage::NotStarted {
            return Completion::NotStarted;
        }
        if self.reserve(0).is_err() {
            return Completion::Complete;
        }
        let mut state = self.lock();
        match state.content_length {
            Some(declared) if state.sent < declared => Completion::Short { sent: state.sent, declared },
            _ => {
                state.end();
                drop(state);
                self.0.transport.end_response(End::Complete, close_follows);
                Completion::Complete
            }
        }
    }

    /// Returns whether the body exceeds its Content-Length; the surplus was discarded.
    pub fn has_surplus(&self) -> bool {
        self.lock().has_surplus
    }

    /// Ends the response as failed, unless it has ended.
    pub fn fail(&self) {
        let mut state = self.lock();
        if state.stage != Stage::Ended {
            state.end();
            drop(state);
            self.0.transport.end_response(End::Failed, true);
        }
    }

    /// Replaces the response by a page of this module and ends it, unless its header block was sent.
    pub fn replace(&self, headers: ResponseHeaders, body: &[u8]) {
        let mut state = self.lock();
        if !state.takes_headers() {
            return;
        }
        state.start(headers);
        drop(state);
        // Nothing is left to do for a client that has left.
        let _ = self.write(body);
        self.complete(true);
    }

    /// Closes the call: its Python objects refuse to work from now on.
    pub fn close_call(&self) {
        self.fail();
        self.0.transport.close_call();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wsgi::recording::RecordingTransport;

    /// A response of `length` bytes whose header block has not been sent.
    fn started(transport: Arc<RecordingTransport>, length: u64) -> Response {
        let response = Response::new(transport, false);
        let mut headers = ResponseHeaders::new(b"200 OK").unwrap();
        headers.content_length = Some(length);
        response.start(headers);
        response
    }

    #[test]
    fn threads_that_send_at_once_share_the_content_length() {
        let send = |response: &Response, data: &[u8]| response.send(data, false).map(drop);
        let write = |response: &Response, data: &[u8]| response.write(data);
        for (first, second) in [(send as fn(&_, &_) -> _, write as fn(&_, &_) -> _), (write, send), (write, write)] {
            let transport = Arc::new(RecordingTransport::default());
            let response = started(transport.clone(), 3);
            let other = response.clone();
            transport.meanwhile(move || second(&other, b"yyy").unwrap());
            first(&response, b"xx").unwrap();
            assert!(response.has_surplus());
            assert_eq!(response.complete(true), Completion::Complete);
            let recorded = transport.take();
            assert_eq!(recorded.headers.len(), 1);
            assert_eq!((recorded.text().as_str(), recorded.end), ("yxx", Some(End::Complete)));
        }
    }

    #[test]
    fn a_body_is_not_complete_before_its_bytes_are_sent() {
        let transport = Arc::new(RecordingTransport::default());
        let response = started(transport.clone(), 1);
        let other = response.clone();
        transport.meanwhile(move || {
            assert_eq!(other.complete(true), Completion::Short { sent: 0, declared: 1 });
            other.fail();
        });
        response.write(b"x").unwrap();
        assert_eq!(transport.take().end, Some(End::Failed));
    }

    #[test]
    fn a_page_of_the_module_never_follows_headers_that_were_sent() {
        let transport = Arc::new(RecordingTransport::default());
        let response = started(transport.clone(), 1);
        response.write(b"x").unwrap();
        response.replace(ResponseHeaders::new(b"500 Error").unwrap(), b"page");
        let recorded = transport.take();
        assert_eq!(recorded.headers.len(), 1);
        assert_eq!((recorded.text().as_str(), recorded.end), ("x", None));
    }
}
