//! Log records on their way from other threads to the event loop, the only thread that writes nginx's error log and the logs of
//! applications.

use std::sync::Arc;
use std::time::Duration;

use super::active_requests::ActiveRequest;
use super::log_forms::ApplicationRecord;
use crate::conf::log::ApplicationLog;
use crate::nginx::log::{Level, Log};
use crate::nginx::log_target::Batch;
use crate::python::log;
use crate::sync::{Condvar, Mutex};

/// A record for a log.
pub enum Entry {
    /// Lines of text for nginx's error log.
    ErrorLog { level: log::Level, text: String },
    /// For the log of an application.
    Application { log: Arc<ApplicationLog>, record: ApplicationRecord },
}

impl Entry {
    fn size(&self) -> usize {
        match self {
            Self::ErrorLog { text, .. } => text.len(),
            Self::Application { record, .. } => record.size(),
        }
    }
}

/// A record with the request that is its context, if there is one.
struct Record {
    request: Option<Arc<dyn ActiveRequest>>,
    entry: Entry,
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
    pub fn push(&self, request: Option<Arc<dyn ActiveRequest>>, entry: Entry) -> bool {
        let mut queue = self.queue.lock();
        if queue.bytes > MAX_BYTES {
            queue = self.emptied.wait_timeout(queue, MAX_WAIT);
        }
        queue.bytes += entry.size();
        queue.records.push(Record { request, entry });
        queue.records.len() == 1
    }

    /// Writes all queued records to their logs: to the log of an application those that follow each other at once. On the event
    /// loop thread.
    pub fn write(&self) {
        let mut batch = Batch::default();
        let mut batched: Option<Arc<ApplicationLog>> = None;
        for Record { request, entry } in self.take() {
            match entry {
                Entry::ErrorLog { level, text } => match request {
                    Some(request) => request.log_here(level, &text),
                    None => Log::cycle().write(level.into(), &text),
                },
                Entry::Application { log, record } => {
                    if let Some(other) = batched.take_if(|batched| !Arc::ptr_eq(batched, &log)) {
                        other.target.write(&std::mem::take(&mut batch));
                    }
                    let context = request.and_then(|request| request.log_context(&log));
                    record.write(&log, context.as_deref(), &mut batch);
                    batched = Some(log);
                }
            }
        }
        if let Some(log) = batched {
            log.target.write(&batch);
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
