//! The seam between WSGI and the server: one request's answer on its way out.

use std::fmt;
use std::sync::Arc;

use super::file::FileBody;
use super::headers::ResponseHeaders;
use crate::python::log::Sink;

/// The client is gone, or nginx has given the request up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnected;

impl fmt::Display for Disconnected {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the client has closed the connection")
    }
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The body is complete.
    Complete,
    /// It is not: an error page if the head is not out yet, a visibly broken connection otherwise.
    Failed,
}

/// A call that waits for its exchange and holds no thread meanwhile. Used on the event loop thread.
pub trait Suspended: Send {
    /// Goes on. Returns the call if it has to wait again.
    fn resume(self: Box<Self>) -> Option<Box<dyn Suspended>>;

    /// Ends the call, whose client has left: its iterable is closed.
    fn abandon(self: Box<Self>);
}

/// Takes the answer of one request. Used by one call, from any thread.
///
/// The order is: `start` once, `send_head` once, `send` any number of times, `end` once, `closed` once; or `end(Failed)` at any time.
pub trait Transport: Send + Sync {
    /// A thread of this name, in this interpreter, takes the call on. False when nobody waits for it any more: then it must not run.
    fn start(&self, thread: &Arc<str>, interpreter: &Arc<str>) -> bool;

    /// A thread goes on with a call that was suspended.
    fn go_on(&self);

    /// The application has failed with an exception of this class.
    fn raised(&self, class: &str);

    /// The call has run out of its time, and an answer that says so takes the place of its own.
    fn time_out(&self);

    /// Whether [`Transport::time_out`] was called.
    fn has_timed_out(&self) -> bool;

    /// The head of the answer; it goes out with the first data or the end.
    fn send_head(&self, head: ResponseHeaders);

    /// Takes as much of `data` as there is room for in memory and returns how much that was, 0 when there is none.
    ///
    /// With `more_follows` the server need not send at once: the next piece comes without delay.
    ///
    /// # Errors
    /// Nobody is there to take it.
    fn send(&self, data: &[u8], more_follows: bool) -> Result<usize, Disconnected>;

    /// Takes as much of `data` as there is room for in the temporary file, for which memory had no room. To be called
    /// detached from Python.
    ///
    /// # Errors
    /// Nobody is there to take it.
    fn spill(&self, data: &[u8]) -> Result<usize, Disconnected>;

    /// Takes all of `data` from the `write()` callable, which cannot be suspended: into memory, into the temporary file,
    /// and when that is full waits for room where that blocks nobody else. To be called detached from Python.
    ///
    /// # Errors
    /// Nobody is there to take it.
    fn send_all(&self, data: &[u8]) -> Result<(), Disconnected>;

    /// Takes a file as the rest of the body, which is complete with it if it is the `last`. The call goes on, or is
    /// abandoned, when the file has been sent or the client has left.
    fn send_file(&self, file: FileBody, last: bool, call: Box<dyn Suspended>);

    /// Waits until there is room again. To be called detached from Python.
    ///
    /// # Errors
    /// Nobody is there to take more.
    fn wait_for_room(&self) -> Result<(), Disconnected>;

    /// Whether the application may stop as soon as it is known that nobody wants its body (`wsgi_optimize_send_headers`).
    fn optimizes(&self) -> bool;

    /// Sends the head that was given and waits until it is known whether a body is to follow it: not where the client has
    /// what it asks for (304). To be called detached from Python.
    fn wants_body(&self) -> bool;

    /// No more data follows. With `closed_follows` the server need not act before [`Transport::closed`].
    fn end(&self, end: End, closed_follows: bool);

    /// The call is over, `close()` of its iterable included; nothing of it uses the exchange any more.
    fn closed(&self);

    /// Whether nobody waits for the answer any more.
    fn is_disconnected(&self) -> bool;

    /// Where the text goes that this request's code logs.
    fn sink(self: Arc<Self>) -> Arc<dyn Sink>;
}
