//! The call's side: the transport of its response, and the log of its request.

use std::sync::Arc;

use super::RequestExchange;
use crate::conf::log::ApplicationLog;
use crate::nginx::file::FilePart;
use crate::nginx::log::write_directly;
use crate::nginx::log_target::Batch;
use crate::python::log::{Level, Record, Sink};
use crate::worker::active_requests::ActiveRequest;
use crate::worker::log_forms::{ApplicationRecord, LogContext};
use crate::wsgi::file::FileBody;
use crate::wsgi::headers::ResponseHeaders;
use crate::wsgi::transport::{Disconnected, End, Next, Suspended, Transport};

impl Transport for RequestExchange {
    fn start(&self, thread: &Arc<str>, interpreter: &Arc<str>) -> bool {
        // Under the lock: a call that was refused meanwhile must not start.
        let buffer = self.lock();
        let starts = !buffer.is_disconnected();
        if starts {
            self.stats.start(thread, interpreter);
            if let Some(record) = &self.record {
                record.start();
            }
        }
        starts
    }

    fn resumed(&self) {
        self.stats.clock.resume();
    }

    fn raised(&self, class: &str, summary: &str, traceback: &str) {
        self.stats.set_exception(class);
        if let Some(record) = &self.record {
            record.raised(&self.stats.application, class, summary, traceback);
        }
    }

    fn time_out(&self) {
        let message = self.stats.limit_message("wsgi_request_timeout");
        self.buffer.change(|buffer| {
            self.note_timeout(&message);
            // A complete response is sent all the same, though close() is late.
            if buffer.is_unfinished() {
                drop(buffer.disconnect());
            }
        });
    }

    fn has_timed_out(&self) -> bool {
        self.stats.clock.has_timed_out()
    }

    fn send_headers(&self, headers: ResponseHeaders) {
        self.stats.set_headers_given();
        self.lock().set_headers(headers, self.wants_parts);
    }

    fn send(&self, data: &[u8], next: Next) -> Result<usize, Disconnected> {
        let mut buffer = self.lock();
        if !buffer.is_open() {
            return Err(Disconnected);
        }
        let count = buffer.push(data);
        let ends = next == Next::Nothing && count == data.len();
        if ends {
            buffer.end(End::Complete);
        }
        if ends || count < data.len() || !(next == Next::AtOnce || buffer.joins_more()) {
            self.notify(buffer);
        }
        Ok(count)
    }

    fn send_whole(&self, headers: ResponseHeaders, data: &[u8]) -> Result<usize, Disconnected> {
        self.stats.set_headers_given();
        let mut buffer = self.lock();
        if !buffer.is_open() {
            return Err(Disconnected);
        }
        buffer.set_headers(headers, self.wants_parts);
        let count = buffer.push(data);
        if count == data.len() {
            buffer.end(End::Complete);
        } else {
            self.notify(buffer);
        }
        Ok(count)
    }

    fn spill(&self, data: &[u8]) -> Result<usize, Disconnected> {
        self.spill_up_to(data, false)
    }

    fn send_all(&self, data: &[u8]) -> Result<(), Disconnected> {
        let mut buffer = self.lock();
        if !buffer.is_open() {
            return Err(Disconnected);
        }
        let mut rest = &data[buffer.push(data)..];
        if !rest.is_empty() || buffer.waiting() >= self.buffering.write_join {
            self.notify(buffer);
        } else {
            drop(buffer);
        }
        while !rest.is_empty() {
            // The event loop thread cannot wait for room: it makes room itself.
            let spilled = self.spill_up_to(rest, self.event_loop.is_here())?;
            rest = &rest[spilled..];
            if spilled == 0 {
                self.wait_for_room()?;
                rest = &rest[self.send(rest, Next::Later)?..];
            }
        }
        Ok(())
    }

    fn send_file(&self, file: FileBody, last: bool, call: Box<dyn Suspended>) {
        let FileBody { file, offset, length } = file;
        self.stats.clock.pause();
        let part = FilePart { file: Arc::new(file), offset, length, direct: false };
        let mut buffer = self.lock();
        match buffer.set_file(part, last, call) {
            Ok(()) => {
                if last {
                    buffer.end(End::Complete);
                }
                self.notify(buffer);
            }
            Err(call) => {
                drop(buffer);
                call.abandon();
            }
        }
    }

    fn optimizes(&self) -> bool {
        self.optimizes
    }

    fn wants_body(&self) -> bool {
        self.notify(self.lock());
        // On the event loop thread this is known at once, or not at all.
        if self.event_loop.is_here() {
            return self.lock().is_body_wanted().unwrap_or(true);
        }
        self.buffer.wait_until_body_is_wanted()
    }

    fn wait_for_room(&self) -> Result<(), Disconnected> {
        self.stats.clock.pause();
        let result = self.buffer.wait_for_room();
        self.stats.clock.resume();
        result
    }

    fn end_response(&self, end: End, close_follows: bool) {
        let mut buffer = self.lock();
        if buffer.end(end) && !close_follows {
            self.notify(buffer);
        }
    }

    fn close_call(&self) {
        self.stats.clock.end();
        if let Some(record) = &self.record {
            record.close();
        }
        let mut buffer = self.lock();
        buffer.close_call();
        self.notify(buffer);
    }

    fn is_disconnected(&self) -> bool {
        self.lock().is_disconnected()
    }

    fn sink(self: Arc<Self>) -> Arc<dyn Sink> {
        self
    }
}

impl RequestExchange {
    /// Writes text to nginx's error log.
    pub(super) fn write_to_error_log(&self, level: Level, text: String) {
        if self.event_loop.is_here() {
            self.log_here(level, &text);
        } else {
            self.worker.event_loop.log(Some(self.shared()), level, text);
        }
    }

    /// Writes a record to the log of the application: from this thread if that may be done now, or else by the event loop.
    fn write_to_log(&self, log: &Arc<ApplicationLog>, record: Record, at_once: bool) {
        let record = ApplicationRecord::new(record, &self.stats.application);
        let context = if self.event_loop.is_here() {
            self.log_context(log)
        } else if at_once && log.target.is_file() {
            // The event loop is busy with the call. Its request is not for this thread.
            Some(
                self.log_context.get().cloned().unwrap_or_else(|| Arc::new(LogContext::of_connection(self.connection))),
            )
        } else {
            return self.worker.event_loop.log_of_application(Some(self.shared()), log.clone(), record);
        };
        let mut batch = Batch::default();
        record.write(log, context.as_deref(), &mut batch);
        log.target.write(&batch);
    }
}

impl Sink for RequestExchange {
    fn write(&self, record: Record) {
        if let Some(log) = &self.log {
            return self.write_to_log(log, record, false);
        }
        self.write_to_error_log(record.level, record.text());
    }

    fn write_at_once(&self, message: &str, traceback: &str) {
        let record = Record { level: Level::Error, message: message.as_bytes(), traceback };
        match &self.log {
            Some(log) => self.write_to_log(log, record, true),
            None => write_directly(self.connection, &record.text()),
        }
    }

    fn keeps_lines(&self) -> bool {
        self.log.is_some()
    }

    fn of_threads(&self) -> Option<Arc<dyn Sink>> {
        self.log_of_threads.clone()
    }
}
