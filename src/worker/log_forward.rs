//! Log records on their way from other threads to the event loop, the only thread that writes nginx's error log.

use std::sync::Arc;
use std::time::Duration;

use super::active_requests::ActiveRequest;
use crate::nginx::log::{Level, Log};
use crate::python::log;
use crate::sync::{Condvar, Mutex};

/// Lines of text to be logged with the context of a request, or with none.
struct Record {
    request: Option<Arc<dyn ActiveRequest>>,
    level: log::Level,
    text: String,
}

/// Queue of records in the order in which they were logged.
#[derive(Default)]
pub struct LogQueue {
    queue: Mutex<Queue>,
    emptied: Condvar,
}

#[derive(Default)]
struct Queue {
    records: Vec<Record>,
    bytes: usize,
}

/// Size of the queue above which writers wait.
const MAX_BYTES: usize = 1024 * 1024;

/// Longest wait of a writer: the event loop may have ended.
const MAX_WAIT: Duration = Duration::from_millis(500);

impl LogQueue {
    /// Adds a record, and waits while the queue is full. Returns true if the event loop has to be woken for it.
    pub fn push(&self, request: Option<Arc<dyn ActiveRequest>>, level: log::Level, text: &str) -> bool {
        let mut queue = self.queue.lock();
        if queue.bytes > MAX_BYTES {
            queue = self.emptied.wait_timeout(queue, MAX_WAIT);
        }
        queue.bytes += text.len();
        queue.records.push(Record { request, level, text: text.to_owned() });
        queue.records.len() == 1
    }

    /// Writes all queued records to the error log. On the event loop thread.
    pub fn write(&self) {
        for Record { request, level, text } in self.take() {
            match request {
                Some(request) => request.log_here(level, &text),
                None => Log::cycle().write(level.into(), &text),
            }
        }
    }

    fn take(&self) -> Vec<Record> {
        let mut queue = self.queue.lock();
        queue.bytes = 0;
        let records = std::mem::take(&mut queue.records);
        drop(queue);
        if !records.is_empty() {
            self.emptied.notify_all();
        }
        records
    }
}

impl From<log::Level> for Level {
    fn from(level: log::Level) -> Self {
        match level {
            log::Level::Crit => Self::Crit,
            log::Level::Error => Self::Error,
            log::Level::Warn => Self::Warn,
            log::Level::Notice => Self::Notice,
            log::Level::Info => Self::Info,
            log::Level::Debug => Self::Debug,
        }
    }
}
