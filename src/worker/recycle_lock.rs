//! Recycle lock: lets one worker at a time exit, and is free again once its replacement accepts connections.
//!
//! The lock is a word of shared memory. Any worker can be killed at any time, so a lock whose holder is dead passes to
//! the worker in the same slot, or becomes stale.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::nginx::worker_process;
use crate::os::system;

/// Recycle lock as seen by one worker.
pub struct RecycleLock {
    word: &'static AtomicU64,
    /// This worker; `since` is set when it takes the lock.
    worker: LockHolder,
}

/// Lock holder: pid, worker slot, and acquisition time in Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LockHolder {
    pid: u32,
    slot: u16,
    since: u32,
}

/// Grace period in seconds for a dead holder's replacement to load its applications; after that the lock is stale.
const REPLACEMENT_GRACE: u32 = 60;

impl LockHolder {
    const PID_BITS: u32 = 22;
    const SLOT_BITS: u32 = 10;

    /// Packs the holder into a word that is not 0. Linux's pids are below 2²², nginx's workers at most 1024.
    fn to_word(self) -> u64 {
        let pid = u64::from(self.pid) & ((1 << Self::PID_BITS) - 1);
        let slot = u64::from(self.slot) & ((1 << Self::SLOT_BITS) - 1);
        pid | slot << Self::PID_BITS | u64::from(self.since) << (Self::PID_BITS + Self::SLOT_BITS)
    }

    /// Unpacks a word; 0 is a free lock.
    fn from_word(word: u64) -> Option<Self> {
        (word != 0).then_some(Self {
            pid: (word & ((1 << Self::PID_BITS) - 1)) as u32,
            slot: (word >> Self::PID_BITS & ((1 << Self::SLOT_BITS) - 1)) as u16,
            since: (word >> (Self::PID_BITS + Self::SLOT_BITS)) as u32,
        })
    }

    /// Returns true if the holder is dead and no replacement has freed the lock within the grace period.
    fn is_stale(self, now: u32, is_alive: impl Fn(u32) -> bool) -> bool {
        now.saturating_sub(self.since) > REPLACEMENT_GRACE && !is_alive(self.pid)
    }
}

impl RecycleLock {
    /// Makes this worker's view of the lock in `word`.
    pub fn of_this_worker(word: &'static AtomicU64) -> Self {
        let slot = worker_process::worker_number() as u16;
        Self { word, worker: LockHolder { pid: std::process::id(), slot, since: 0 } }
    }

    /// Takes the lock if it is free. Returns true if this worker holds it now.
    pub fn try_acquire(&self) -> bool {
        let now = unix_time();
        let current = self.word.load(Ordering::Acquire);
        // A lock left by our predecessor in this slot may be inherited: no other worker is down.
        let is_free = LockHolder::from_word(current)
            .is_none_or(|holder| holder.slot == self.worker.slot || holder.is_stale(now, system::is_alive));
        let acquired = LockHolder { since: now, ..self.worker }.to_word();
        is_free && self.replace(current, acquired)
    }

    /// Restarts the grace period if this worker holds the lock: the worker is about to exit.
    pub fn restart_grace_period(&self) {
        if let Some((current, holder)) = self.held_by_this_worker() {
            self.replace(current, LockHolder { since: unix_time(), ..holder }.to_word());
        }
    }

    /// Frees the lock if this worker holds it: the worker does not exit.
    pub fn release(&self) {
        if let Some((current, _)) = self.held_by_this_worker() {
            self.replace(current, 0);
        }
    }

    /// Returns true if the previous worker in this slot holds the lock.
    pub fn is_held_by_predecessor(&self) -> bool {
        self.held_by_predecessor().is_some()
    }

    /// Frees the lock if the previous worker in this slot holds it.
    pub fn release_for_predecessor(&self) {
        if let Some(current) = self.held_by_predecessor() {
            self.replace(current, 0);
        }
    }

    fn held_by_this_worker(&self) -> Option<(u64, LockHolder)> {
        let current = self.word.load(Ordering::Acquire);
        let holder = LockHolder::from_word(current)?;
        (holder.pid == self.worker.pid).then_some((current, holder))
    }

    fn held_by_predecessor(&self) -> Option<u64> {
        let current = self.word.load(Ordering::Acquire);
        let holder = LockHolder::from_word(current)?;
        (holder.slot == self.worker.slot && holder.pid != self.worker.pid).then_some(current)
    }

    /// Writes `new` unless another worker has changed the word since it was read. Returns true if it was written.
    fn replace(&self, current: u64, new: u64) -> bool {
        self.word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Returns the Unix time in seconds, which all workers share.
fn unix_time() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(word: &'static AtomicU64, pid: u32, slot: u16) -> RecycleLock {
        RecycleLock { word, worker: LockHolder { pid, slot, since: 0 } }
    }

    #[test]
    fn a_holder_survives_packing() {
        for holder in [
            LockHolder { pid: 1, slot: 0, since: 0 },
            LockHolder { pid: (1 << 22) - 1, slot: 1023, since: u32::MAX },
            LockHolder { pid: 4711, slot: 7, since: 1_800_000_000 },
        ] {
            assert_eq!(LockHolder::from_word(holder.to_word()), Some(holder));
        }
        assert_eq!(LockHolder::from_word(0), None);
    }

    #[test]
    fn the_lock_of_a_dead_holder_is_stale_after_the_grace_period() {
        let holder = LockHolder { pid: 1, slot: 0, since: 1000 };
        assert!(!holder.is_stale(9000, |_| true));
        assert!(!holder.is_stale(1000 + REPLACEMENT_GRACE, |_| false));
        assert!(holder.is_stale(1001 + REPLACEMENT_GRACE, |_| false));
    }

    #[test]
    fn the_replacement_in_the_same_slot_frees_the_lock() {
        static WORD: AtomicU64 = AtomicU64::new(0);
        let (first, other, replacement) = (lock(&WORD, 10, 3), lock(&WORD, 11, 4), lock(&WORD, 12, 3));
        assert!(first.try_acquire());
        assert!(!other.try_acquire());
        other.release_for_predecessor();
        first.release_for_predecessor();
        assert!(!other.try_acquire());
        assert!(replacement.is_held_by_predecessor() && !first.is_held_by_predecessor());
        replacement.release_for_predecessor();
        assert!(other.try_acquire());
    }

    #[test]
    fn the_replacement_inherits_the_lock() {
        static WORD: AtomicU64 = AtomicU64::new(0);
        let (first, other, replacement) = (lock(&WORD, 10, 3), lock(&WORD, 11, 4), lock(&WORD, 12, 3));
        assert!(first.try_acquire());
        assert!(replacement.try_acquire());
        assert!(!other.try_acquire());
    }

    #[test]
    fn only_the_holder_releases_the_lock() {
        static WORD: AtomicU64 = AtomicU64::new(0);
        let (first, other) = (lock(&WORD, 10, 3), lock(&WORD, 11, 4));
        assert!(first.try_acquire());
        other.release();
        assert!(!other.try_acquire());
        first.release();
        assert!(other.try_acquire());
    }
}
