//! An [`Transport`] for unit tests: keeps what it is given, and lets a test act as another thread in the middle of that.

use std::sync::{Arc, Mutex};

use super::file::FileBody;
use super::headers::ResponseHeaders;
use super::transport::{Disconnected, End, Suspended, Transport};
use crate::python::log::{Level, Sink};

/// What an exchange was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// How many heads; a correct answer has one.
    pub heads: usize,
    pub body: Vec<u8>,
    pub end: Option<End>,
}

/// Records one answer.
#[derive(Default)]
pub struct RecordingTransport {
    recorded: Mutex<Recorded>,
    meanwhile: Mutex<Option<Meanwhile>>,
}

type Meanwhile = Box<dyn FnOnce() + Send>;

impl RecordingTransport {
    /// What there is so far.
    pub fn take(&self) -> Recorded {
        std::mem::take(&mut self.recorded.lock().unwrap())
    }

    /// Does this the next time data is handed over, before it is there, as another thread could.
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

    fn go_on(&self) {}

    fn raised(&self, _: &str) {}

    fn time_out(&self) {}

    fn has_timed_out(&self) -> bool {
        false
    }

    fn send_head(&self, _: ResponseHeaders) {
        self.recorded.lock().unwrap().heads += 1;
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
