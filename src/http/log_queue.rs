//! Text on its way from other threads into nginx's error log, which only the event loop may write.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::exchange::RequestExchange;
use crate::nginx::log::{Level, Log};

/// Lines of one request, or of none.
pub struct Record {
    pub exchange: Option<Arc<RequestExchange>>,
    pub text: String,
}

/// Records in the order they came.
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

/// Text may pile up to this many bytes before its writers wait.
const MOST_BYTES: usize = 1024 * 1024;

/// A writer that waits goes on after this time all the same, in case the event loop has ended.
const PATIENCE: Duration = Duration::from_millis(500);

impl LogQueue {
    /// Adds a record; waits while too much is queued. Returns whether the event loop has to be woken for it.
    pub fn push(&self, record: Record) -> bool {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.bytes > MOST_BYTES {
            queue = self.emptied.wait_timeout(queue, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.bytes += record.text.len();
        queue.records.push(record);
        queue.records.len() == 1
    }

    /// Writes all records. On the event loop thread.
    pub fn write_all(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let records = std::mem::take(&mut *queue).records;
        drop(queue);
        if records.is_empty() {
            return;
        }
        self.emptied.notify_all();
        for Record { exchange, text } in records {
            match exchange {
                Some(exchange) => exchange.log_here(&text),
                None => Log::cycle().write(Level::Error, &text),
            }
        }
    }
}
