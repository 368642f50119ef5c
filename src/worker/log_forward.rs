//! Text on its way from other threads into nginx's error log, which only the event loop may write.

use std::time::Duration;

use crate::python::log::Level;
use crate::sync::{Condvar, Mutex};

/// Lines of one request or of none, as `S` says.
pub struct Record<S> {
    pub source: S,
    pub level: Level,
    pub text: String,
}

/// Records in the order they came.
pub struct LogQueue<S> {
    queue: Mutex<Queue<S>>,
    emptied: Condvar,
}

struct Queue<S> {
    records: Vec<Record<S>>,
    bytes: usize,
}

/// Text may pile up to this many bytes before its writers wait.
const MOST_BYTES: usize = 1024 * 1024;

/// A writer that waits goes on after this time all the same, in case the event loop has ended.
const PATIENCE: Duration = Duration::from_millis(500);

impl<S> Default for LogQueue<S> {
    fn default() -> Self {
        Self { queue: Mutex::new(Queue { records: Vec::new(), bytes: 0 }), emptied: Condvar::new() }
    }
}

impl<S> LogQueue<S> {
    /// Adds a record; waits while too much is queued. Returns whether the event loop has to be woken for it.
    pub fn push(&self, record: Record<S>) -> bool {
        let mut queue = self.queue.lock();
        if queue.bytes > MOST_BYTES {
            queue = self.emptied.wait_timeout(queue, PATIENCE);
        }
        queue.bytes += record.text.len();
        queue.records.push(record);
        queue.records.len() == 1
    }

    /// All records that have come.
    pub fn take(&self) -> Vec<Record<S>> {
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
