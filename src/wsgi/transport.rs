//! The interface between WSGI and the server: the response of one request on its way out.
//!
//! A response *ends* once, complete or failed. Its call is *closed* after that, when `close()` of the iterable has run.
//! Before, the client may leave: then a call that waits for a thread is *cancelled*, a suspended one is *abandoned* to
//! run `close()`, and a running one gets [`Disconnected`] at its next output. A call that runs too long is *aborted*.

use std::sync::Arc;

use thiserror::Error;

use super::file::FileBody;
use super::headers::ResponseHeaders;
use crate::python::log::Sink;

/// The error of a response that has no receiver: the client has left, or nginx has ended the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the client has closed the connection")]
pub struct Disconnected;

/// End of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The body is complete.
    Complete,
    /// The body is incomplete. The client gets an error page if no header block was sent, a broken connection
    /// otherwise.
    Failed,
}

/// The continuation of a body after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The next piece may take its time.
    Later,
    /// The next piece or the end comes without delay: the server need not send at once.
    AtOnce,
    /// The body is complete with this piece, by its Content-Length, though the call goes on.
    Nothing,
}

/// A call that waits for its transport and holds no thread meanwhile. Used on the event loop thread.
pub trait Suspended: Send {
    /// Continues the call. Returns it if it has to wait again.
    fn resume(self: Box<Self>) -> Option<Box<dyn Suspended>>;

    /// Ends the call, whose client has left: its iterable is closed.
    fn abandon(self: Box<Self>);
}

/// Takes the response of one request. Used by one call, from any thread.
///
/// The order is: `start` once, `send_headers` once, `send` any number of times, `end_response` once, `close_call` once;
/// `end_response(Failed)` may come at any time.
pub trait Transport: Send + Sync {
    /// Records that the named thread, in the named interpreter, starts the call. Returns false if the request has been
    /// aborted; then the call must not run.
    fn start(&self, thread: &Arc<str>, interpreter: &Arc<str>) -> bool;

    /// Records that a thread continues a suspended call.
    fn resumed(&self);

    /// Records that the application failed with an exception of this class; `summary` is one line, class and message.
    fn raised(&self, class: &str, summary: &str, traceback: &str);

    /// Replaces the response of a call that has exceeded its time limit by an error.
    fn time_out(&self);

    /// Returns whether [`Transport::time_out`] was called.
    fn has_timed_out(&self) -> bool;

    /// Takes status and headers. They go out with the first data or the end.
    fn send_headers(&self, headers: ResponseHeaders);

    /// Takes as much of `data` as there is room for in memory and returns the number of bytes taken, 0 if there is no
    /// room. With [`Next::Nothing`] the response ends as soon as all of it is taken, as by [`Transport::end_response`].
    ///
    /// # Errors
    /// The client has left, or the response has ended.
    fn send(&self, data: &[u8], next: Next) -> Result<usize, Disconnected>;

    /// Takes status, headers and the complete body, with one lock: `send_headers`, `send`, and if there was room for all of
    /// `data`, `end_response` before a close that follows. Returns the number of bytes taken.
    ///
    /// # Errors
    /// The client has left.
    fn send_whole(&self, headers: ResponseHeaders, data: &[u8]) -> Result<usize, Disconnected> {
        self.send_headers(headers);
        let count = self.send(data, Next::AtOnce)?;
        if count == data.len() {
            self.end_response(End::Complete, true);
        }
        Ok(count)
    }

    /// Takes as much of `data` as there is room for in the temporary file, once memory is full. Call it detached from
    /// Python.
    ///
    /// # Errors
    /// The client has left.
    fn spill(&self, data: &[u8]) -> Result<usize, Disconnected>;

    /// Takes all of `data` from the `write()` callable, which cannot be suspended: into memory, then into the temporary
    /// file. When that is full, waits for room unless this is the event loop thread. Call it detached from Python.
    ///
    /// # Errors
    /// The client has left.
    fn send_all(&self, data: &[u8]) -> Result<(), Disconnected>;

    /// Takes a file as the rest of the body; `last` if the body is complete with it. The call is resumed when the file
    /// has been sent, or abandoned when the client has left.
    fn send_file(&self, file: FileBody, last: bool, call: Box<dyn Suspended>);

    /// Waits until there is room again. Call it detached from Python.
    ///
    /// # Errors
    /// The client has left.
    fn wait_for_room(&self) -> Result<(), Disconnected>;

    /// Returns whether the iteration ends as soon as the body is known to be unwanted (`wsgi_optimize_send_headers`).
    fn optimizes(&self) -> bool;

    /// Sends the header block and waits until it is known whether a body is to follow: none does after a 304. Call it
    /// detached from Python.
    fn wants_body(&self) -> bool;

    /// Ends the response: no more data follows. With `close_follows` the server need not act before
    /// [`Transport::close_call`].
    fn end_response(&self, end: End, close_follows: bool);

    /// Closes the call, whose iterable has run `close()`. The call does not use the transport after that.
    fn close_call(&self);

    /// Returns whether the client has left or the request was aborted.
    fn is_disconnected(&self) -> bool;

    /// Returns the log of this request.
    fn sink(self: Arc<Self>) -> Arc<dyn Sink>;
}
