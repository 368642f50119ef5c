//! Counters of all workers in shared memory: who lives, what was called, what has failed.
//!
//! A board is a row of words. The workers of nginx share one in the zone of `wsgi_status_zone`; those of a process group share
//! one in a file in memory. Nothing waits for a lock: a slot and its rows have one worker as their writer, the tables that
//! several write to are claimed word by word.
//!
//! The user of a process group can write what it likes to its board. [`read`] takes any words.

mod applications;
mod contents;
mod events;
mod layout;
mod row;
mod text;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use contents::{Contents, read, worker_states};
pub use events::{Goodbye, NewEvent};
pub use layout::{Layout, MIN_WORDS};
pub use row::{Ended, Refusal};
pub use writer::{Calls, Identity, Writer, record_event};

/// Returns a copy of the words for [`read`].
pub fn snapshot(words: &[AtomicU64]) -> Vec<u64> {
    words.iter().map(|word| word.load(Relaxed)).collect()
}

#[cfg(test)]
mod tests;
