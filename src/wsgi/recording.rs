//! A [`Transport`] for unit tests: records the response, and lets a test act as a client, or as another thread in the
//! middle of the response.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::file::FileBody;
use super::headers::ResponseHeaders;
use super::transport::{Disconnected, End, Next, Suspended, Transport};
use crate::python::log::{Level, Record, Sink};

/// A recorded response.
#[derive(Debug, Default)]
pub struct Recorded {
    /// The header blocks; a correct response has one.
    pub headers: Vec<ResponseHeaders>,
    /// The body, in the pieces that were sent.
    pub pieces: Vec<Vec<u8>>,
    pub end: Option<End>,
    /// The number of times that the end of the call was reported.
    pub closed: usize,
    /// The classes of the exceptions that were reported.
    pub exceptions: Vec<String>,
    pub log: Vec<(Level, String)>,
}

impl Recorded {
    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.pieces.concat()).into_owned()
    }
}

/// A transport that records one response.
#[derive(Default)]
pub struct RecordingTransport {
    /// The most bytes that are taken at once; 0 for all.
    pub room: usize,
    /// True if the client has a copy of the response already, and wants no body.
    pub wants_no_body: bool,
    is_disconnected: AtomicBool,
    has_timed_out: AtomicBool,
    /// The number of times that a call had to wait for room.
    pub waits: AtomicUsize,
    recorded: Mutex<Recorded>,
    meanwhile: Mutex<Option<Meanwhile>>,
}

type Meanwhile = Box<dyn FnOnce() + Send>;

impl RecordingTransport {
    /// Returns the response recorded so far.
    pub fn take(&self) -> Recorded {
        std::mem::take(&mut self.recorded.lock().unwrap())
    }

    /// Runs `action` the next time data is sent, before it is recorded, as another thread could.
    pub fn meanwhile(&self, action: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Box::new(action));
    }

    /// Closes the connection as the client does.
    pub fn disconnect(&self) {
        self.is_disconnected.store(true, Ordering::Relaxed);
    }

    fn push(&self, data: &[u8]) -> Result<usize, Disconnected> {
        if self.is_disconnected() {
            return Err(Disconnected);
        }
        let meanwhile = self.meanwhile.lock().unwrap().take();
        meanwhile.into_iter().for_each(|action| action());
        let count = if self.room == 0 { data.len() } else { data.len().min(self.room) };
        if count > 0 {
            self.recorded.lock().unwrap().pieces.push(data[..count].to_vec());
        }
        Ok(count)
    }
}

impl Transport for RecordingTransport {
    fn start(&self, _: &Arc<str>, _: &Arc<str>) -> bool {
        true
    }

    fn resumed(&self) {}

    fn raised(&self, class: &str, _summary: &str, _traceback: &str) {
        self.recorded.lock().unwrap().exceptions.push(class.to_owned());
    }

    fn time_out(&self) {
        self.has_timed_out.store(true, Ordering::Relaxed);
    }

    fn has_timed_out(&self) -> bool {
        self.has_timed_out.load(Ordering::Relaxed)
    }

    fn send_headers(&self, headers: ResponseHeaders) {
        self.recorded.lock().unwrap().headers.push(headers);
    }

    fn send(&self, data: &[u8], next: Next) -> Result<usize, Disconnected> {
        let count = self.push(data)?;
        if next == Next::Nothing && count == data.len() {
            self.end_response(End::Complete, false);
        }
        Ok(count)
    }

    fn spill(&self, _: &[u8]) -> Result<usize, Disconnected> {
        Ok(0)
    }

    fn send_all(&self, data: &[u8]) -> Result<(), Disconnected> {
        let mut rest = data;
        while !rest.is_empty() {
            rest = &rest[self.push(rest)?..];
        }
        Ok(())
    }

    fn send_file(&self, body: FileBody, last: bool, call: Box<dyn Suspended>) {
        use std::os::unix::fs::FileExt;
        let mut content = vec![0; body.length as usize];
        body.file.read_exact_at(&mut content, body.offset).unwrap();
        self.recorded.lock().unwrap().pieces.push(content);
        if last {
            self.end_response(End::Complete, false);
        }
        call.resume();
    }

    fn wait_for_room(&self) -> Result<(), Disconnected> {
        self.waits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn optimizes(&self) -> bool {
        self.wants_no_body
    }

    fn wants_body(&self) -> bool {
        !self.wants_no_body
    }

    fn end_response(&self, end: End, _: bool) {
        self.recorded.lock().unwrap().end.get_or_insert(end);
    }

    fn close_call(&self) {
        self.recorded.lock().unwrap().closed += 1;
    }

    fn is_disconnected(&self) -> bool {
        self.is_disconnected.load(Ordering::Relaxed)
    }

    fn sink(self: Arc<Self>) -> Arc<dyn Sink> {
        self
    }
}

impl Sink for RecordingTransport {
    fn write(&self, record: Record) {
        self.recorded.lock().unwrap().log.push((record.level, record.text()));
    }
}
