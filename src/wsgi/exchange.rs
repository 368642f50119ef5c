//! The seam between WSGI and the server: one request's answer on its way out.

use std::fmt;
use std::sync::Arc;

use super::head::ResponseHead;
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

/// Takes the answer of one request. Used by one call, from any thread.
///
/// The order is: `send_head` once, `send` any number of times, `end` once, `closed` once; or `end(Failed)` at any time.
pub trait Exchange: Send + Sync {
    /// The head of the answer; it goes out with the first data or the end.
    fn send_head(&self, head: ResponseHead);

    /// Takes as much of `data` as there is room for and returns how much that was, 0 when there is none.
    ///
    /// With `more_follows` the server need not send at once: the next piece comes without delay.
    ///
    /// # Errors
    /// Nobody is there to take it.
    fn send(&self, data: &[u8], more_follows: bool) -> Result<usize, Disconnected>;

    /// Takes all of `data` from the `write()` callable, which cannot be suspended. Waits for room where that blocks
    /// nobody else, else puts what is too much for the memory into a file. To be called detached from Python.
    ///
    /// # Errors
    /// Nobody is there to take it.
    fn send_all(&self, data: &[u8]) -> Result<(), Disconnected>;

    /// Waits until [`Exchange::send`] has room again. To be called detached from Python.
    ///
    /// # Errors
    /// Nobody is there to take more.
    fn wait_for_room(&self) -> Result<(), Disconnected>;

    /// No more data follows. With `closed_follows` the server need not act before [`Exchange::closed`].
    fn end(&self, end: End, closed_follows: bool);

    /// The call is over, `close()` of its iterable included; nothing of it uses the exchange any more.
    fn closed(&self);

    /// Whether nobody waits for the answer any more.
    fn is_disconnected(&self) -> bool;

    /// Where the text goes that this request's code logs.
    fn sink(self: Arc<Self>) -> Arc<dyn Sink>;
}
