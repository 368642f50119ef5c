//! A request body that is read while the call runs: the event loop fills it when the application asks for more.

use std::io;
use std::sync::Arc;

use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::wsgi::body::{BodySource, Interrupt};

/// What has come of a body and has not been read. Nothing more is taken from the client until it has been, so it holds
/// no more than nginx's own buffer of the body does.
#[derive(Default)]
pub struct BodyStream {
    state: Mutex<State>,
    /// Signalled when there is more, or nothing more to come.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    data: Vec<u8>,
    position: usize,
    /// A thread waits for more.
    wanted: bool,
    end: Option<BodyEnd>,
}

/// Why nothing more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    Complete,
    /// The client has left, or nginx has ended the request.
    Disconnected,
    /// Nothing came for `client_body_timeout`.
    TimedOut,
    /// The body is not what HTTP or the configuration allows.
    Refused,
    /// The call is over.
    Over,
}

impl BodyEnd {
    fn error(self) -> io::Error {
        let (kind, text) = match self {
            Self::Complete => (io::ErrorKind::UnexpectedEof, "the body is complete"),
            Self::Disconnected => (io::ErrorKind::ConnectionReset, "the client has closed the connection"),
            Self::TimedOut => (io::ErrorKind::TimedOut, "the client has stopped sending its request body"),
            Self::Refused => (io::ErrorKind::InvalidData, "the request body is invalid or too large"),
            Self::Over => (io::ErrorKind::BrokenPipe, "the request has ended"),
        };
        io::Error::new(kind, text)
    }
}

impl BodyStream {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Whether the application waits for more.
    pub fn is_wanted(&self) -> bool {
        self.lock().wanted
    }

    /// Adds what has come.
    pub fn push(&self, data: &[u8]) {
        let mut state = self.lock();
        state.data.extend_from_slice(data);
        state.wanted = false;
        self.changed.notify_all();
    }

    /// Nothing more comes; the first reason counts.
    pub fn end(&self, end: BodyEnd) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        state.wanted = false;
        self.changed.notify_all();
    }

    /// Reads what is there, 0 bytes at the end; `ask` is called before it waits.
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

/// The reading side of a body that still comes; `ask` tells the event loop that more is wanted.
pub struct StreamedBody<F> {
    body_stream: Arc<BodyStream>,
    ask: F,
}

impl<F: Fn() + Send> StreamedBody<F> {
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
        self.end(BodyEnd::Over);
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use loom::sync::mpsc;
    use loom::thread;

    /// The thread that reads, and the event loop that is asked for more, in every order.
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
                // As the exchange does: it acts on a message, and only if more is wanted then.
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
    fn a_body_arrives_whole_and_ends() {
        model(BodyEnd::Complete, |read| assert_eq!(read.unwrap(), b"abcd"));
    }

    #[test]
    fn a_client_that_leaves_is_an_error() {
        model(BodyEnd::Disconnected, |read| assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset));
    }

    #[test]
    fn a_reader_that_waits_is_interrupted() {
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
    fn a_reader_asks_once_for_each_piece_and_gets_it() {
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
    fn what_has_come_is_read_before_the_error() {
        let body_stream = BodyStream::default();
        body_stream.push(b"a");
        body_stream.end(BodyEnd::TimedOut);
        body_stream.end(BodyEnd::Complete);
        let mut buffer = [0; 2];
        assert_eq!(body_stream.read(&mut buffer, || ()).unwrap(), 1);
        assert_eq!(body_stream.read(&mut buffer, || ()).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
