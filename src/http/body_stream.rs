//! A request body that is read while the call runs: the event loop reads more when the application waits for it.

use std::io;
use std::sync::Arc;

use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::wsgi::body::{BodySource, Interrupt};

/// Data of a request body between the event loop and the application. The event loop adds more only when all of it has
/// been read, so it is bounded by nginx's buffer of the body.
#[derive(Default)]
pub struct BodyStream {
    state: Mutex<State>,
    /// Signalled when there is data, or the stream has ended.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    data: Vec<u8>,
    position: usize,
    /// The application waits for data.
    wanted: bool,
    end: Option<BodyEnd>,
}

/// Reason for the end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    Complete,
    /// The client has left, or nginx has ended the request.
    Disconnected,
    /// Nothing came for `client_body_timeout`.
    TimedOut,
    /// The body is invalid or larger than the configuration allows.
    Refused,
    /// The call has ended.
    CallEnded,
}

impl BodyEnd {
    fn error(self) -> io::Error {
        let (kind, text) = match self {
            Self::Complete => (io::ErrorKind::UnexpectedEof, "the body is complete"),
            Self::Disconnected => (io::ErrorKind::ConnectionReset, "the client has closed the connection"),
            Self::TimedOut => (io::ErrorKind::TimedOut, "the client has stopped sending its request body"),
            Self::Refused => (io::ErrorKind::InvalidData, "the request body is invalid or too large"),
            Self::CallEnded => (io::ErrorKind::BrokenPipe, "the request has ended"),
        };
        io::Error::new(kind, text)
    }
}

impl BodyStream {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Returns true if the application waits for data.
    pub fn is_wanted(&self) -> bool {
        self.lock().wanted
    }

    /// Adds data.
    pub fn push(&self, data: &[u8]) {
        let mut state = self.lock();
        state.data.extend_from_slice(data);
        state.wanted = false;
        self.changed.notify_all();
    }

    /// Ends the stream. Only the first reason counts.
    pub fn end(&self, end: BodyEnd) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        state.wanted = false;
        self.changed.notify_all();
    }

    /// Reads the data that is there, and waits if there is none; `ask` is called before that. Returns 0 at the end.
    fn read(&self, buffer: &mut [u8], ask: impl Fn()) -> io::Result<usize> {
        let mut state = self.lock();
        loop {
            let rest = &state.data[state.position..];
            if !rest.is_empty() {
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                state.position += count;
                if state.position == state.data.len() {
                    state.data.clear();
                    state.position = 0;
                }
                return Ok(count);
            }
            match state.end {
                Some(BodyEnd::Complete) => return Ok(0),
                Some(end) => return Err(end.error()),
                None => {}
            }
            if !std::mem::replace(&mut state.wanted, true) {
                drop(state);
                ask();
                state = self.lock();
                continue;
            }
            state = self.changed.wait(state);
        }
    }
}

/// Reading side of a stream. It calls `ask` to request more data from the event loop.
pub struct StreamedBody<F> {
    body_stream: Arc<BodyStream>,
    ask: F,
}

impl<F: Fn() + Send> StreamedBody<F> {
    /// Creates the reading side of `body_stream`.
    pub fn new(body_stream: Arc<BodyStream>, ask: F) -> Self {
        Self { body_stream, ask }
    }
}

impl<F: Fn() + Send> BodySource for StreamedBody<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body_stream.read(buffer, &self.ask)
    }

    fn remaining(&self) -> Option<u64> {
        None
    }

    fn may_block(&self) -> bool {
        true
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        Some(self.body_stream.clone())
    }
}

impl Interrupt for BodyStream {
    fn interrupt(&self) {
        let mut state = self.lock();
        state.data = Vec::new();
        state.position = 0;
        drop(state);
        self.end(BodyEnd::CallEnded);
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::mpsc;
    use loom::thread;

    /// Checks every interleaving of the thread that reads and the event loop.
    fn model(last: BodyEnd, check: fn(io::Result<Vec<u8>>)) {
        loom::model(move || {
            let body_stream = Arc::new(BodyStream::default());
            let (asked, asks) = mpsc::channel();
            let reader = thread::spawn({
                let body_stream = body_stream.clone();
                move || {
                    let (mut all, mut buffer) = (Vec::new(), [0; 2]);
                    loop {
                        match body_stream.read(&mut buffer, || asked.send(()).unwrap())? {
                            0 => return Ok(all),
                            count => all.extend_from_slice(&buffer[..count]),
                        }
                    }
                }
            });
            let mut pieces = [&b"abc"[..], b"d"].into_iter();
            loop {
                // As the exchange does: it acts on each message, if the application still waits.
                asks.recv().unwrap();
                if body_stream.is_wanted() {
                    match pieces.next() {
                        Some(piece) => body_stream.push(piece),
                        None => break body_stream.end(last),
                    }
                }
            }
            check(reader.join().unwrap());
        });
    }

    #[test]
    fn a_body_arrives_complete() {
        model(BodyEnd::Complete, |read| assert_eq!(read.unwrap(), b"abcd"));
    }

    #[test]
    fn a_disconnect_is_an_error() {
        model(BodyEnd::Disconnected, |read| assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset));
    }

    #[test]
    fn a_waiting_reader_is_interrupted() {
        loom::model(|| {
            let body_stream = Arc::new(BodyStream::default());
            let reader = thread::spawn({
                let body_stream = body_stream.clone();
                move || body_stream.read(&mut [0; 2], || ()).map(drop)
            });
            body_stream.interrupt();
            assert_eq!(reader.join().unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_reader_asks_once_for_each_piece() {
        let body_stream = Arc::new(BodyStream::default());
        let asked = Arc::new(AtomicUsize::new(0));
        let reader = std::thread::spawn({
            let (body_stream, asked) = (body_stream.clone(), asked.clone());
            move || {
                let mut body = StreamedBody::new(body_stream, move || {
                    asked.fetch_add(1, Ordering::SeqCst);
                });
                let (mut all, mut buffer) = (Vec::new(), [0; 2]);
                loop {
                    match body.read(&mut buffer).unwrap() {
                        0 => return all,
                        count => all.extend_from_slice(&buffer[..count]),
                    }
                }
            }
        });
        for piece in [&b"abc"[..], b"d", b"efghi"] {
            while !body_stream.is_wanted() {
                std::thread::yield_now();
            }
            body_stream.push(piece);
        }
        body_stream.end(BodyEnd::Complete);
        assert_eq!(reader.join().unwrap(), b"abcdefghi");
        assert!((3..=4).contains(&asked.load(Ordering::SeqCst)));
    }

    #[test]
    fn data_is_read_before_the_error() {
        let body_stream = BodyStream::default();
        body_stream.push(b"a");
        body_stream.end(BodyEnd::TimedOut);
        body_stream.end(BodyEnd::Complete);
        let mut buffer = [0; 2];
        assert_eq!(body_stream.read(&mut buffer, || ()).unwrap(), 1);
        assert_eq!(body_stream.read(&mut buffer, || ()).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
