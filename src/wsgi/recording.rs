//! A [`Transport`] for unit tests: records the response, and lets a test act as another thread in the middle of it.

use std::sync::{Arc, Mutex};

use super::file::FileBody;
use super::headers::ResponseHeaders;
use super::transport::{Disconnected, End, Suspended, Transport};
use crate::python::log::{Level, Sink};

/// A recorded response.
#[derive(Debug, Default)]
pub struct Recorded {
    /// The header blocks; a correct response has one.
    pub headers: Vec<ResponseHeaders>,
    pub body: Vec<u8>,
    pub end: Option<End>,
}

impl Recorded {
    /// Returns the body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A transport that records one response.
#[derive(Default)]
pub struct RecordingTransport {
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

    fn push(&self, data: &[u8]) {
        let meanwhile = self.meanwhile.lock().unwrap().take();
        meanwhile.into_iter().for_each(|action| action());
        self.recorded.lock().unwrap().body.extend_from_slice(data);
    }
}

impl Transport for RecordingTransport {
    fn start(&self, _: &Arc<str>, _: &Arc<str>) -> bool {
        true
    }

    fn resumed(&self) {}

    fn raised(&self, _: &str) {}

    fn time_out(&self) {}

    fn has_timed_out(&self) -> bool {
        false
    }

    fn send_headers(&self, headers: ResponseHeaders) {
        self.recorded.lock().unwrap().headers.push(headers);
    }

    fn send(&self, data: &[u8], _: bool) -> Result<usize, Disconnected> {
        self.push(data);
        Ok(data.len())
    }

    fn spill(&self, data: &[u8]) -> Result<usize, Disconnected> {
        self.send(data, false)
    }

    fn send_all(&self, data: &[u8]) -> Result<(), Disconnected> {
        self.push(data);
        Ok(())
    }

    fn send_file(&self, _: FileBody, _: bool, _: Box<dyn Suspended>) {}

    fn wait_for_room(&self) -> Result<(), Disconnected> {
        Ok(())
    }

    fn optimizes(&self) -> bool {
        false
    }

    fn wants_body(&self) -> bool {
        true
    }

    fn end(&self, end: End, _: bool) {
        self.recorded.lock().unwrap().end.get_or_insert(end);
    }

    fn closed(&self) {}

    fn is_disconnected(&self) -> bool {
        false
    }

    fn sink(self: Arc<Self>) -> Arc<dyn Sink> {
        self
    }
}

impl Sink for RecordingTransport {
    fn write(&self, _: Level, _: &str) {}
}
