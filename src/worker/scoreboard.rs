//! The calls of a worker of a process group, where the supervisor can see them.
//!
//! A group has one scoreboard for the workers of all its instances. The supervisor makes it as a file in memory, which the
//! workers inherit. It trusts none of the values: they only decide how many workers the group has, and what `status` shows.

use std::fs::File;
use std::io;
use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::balance::{self, Rooms};
use crate::os::{memory_file, system};

/// Number of the inherited descriptor.
pub const DESCRIPTOR: RawFd = 4;

/// Number of workers that have a slot. Further ones are not counted.
const SLOTS: usize = 256;

/// Words of a slot: a cache line, as each call writes it.
const STRIDE: usize = balance::STRIDE;

/// Words of a scoreboard.
const WORDS: usize = SLOTS * STRIDE;

/// Word with the number of the process that has the slot; 0 if the slot is free.
const PID: usize = 0;
/// Word with the number of calls since the start of the process.
const REQUESTS: usize = 1;
/// Word with the number of calls that run or wait for a thread.
const ACTIVE: usize = 2;
/// Word with the number of calls that can run at once.
const CAPACITY: usize = 3;
/// Word for the balance between the workers of all instances.
const ROOM: usize = 4;

/// The slot of this worker.
static SLOT: OnceLock<&'static [AtomicU64]> = OnceLock::new();

/// Takes a slot for this worker, in which `capacity` calls can run at once. To be called once, in a worker of a process
/// group, before it starts a program. Returns the words for the balance between the workers of the group.
///
/// # Errors
/// If the scoreboard is missing or full. The worker works without it.
pub fn attach(capacity: usize) -> io::Result<Rooms> {
    let words = memory_file::map_inherited(DESCRIPTOR, WORDS)?;
    let pid = u64::from(std::process::id());
    let slots = words.chunks_exact(STRIDE);
    // Nobody is to rely on a worker that has been killed. The supervisor frees its slot later.
    for slot in slots.clone() {
        let owner = u32::try_from(slot[PID].load(Relaxed)).unwrap_or(0);
        if owner != 0 && !system::is_alive(owner) {
            slot[ROOM].store(0, Relaxed);
        }
    }
    let (index, slot) = slots
        .enumerate()
        .find(|(_, slot)| slot[PID].compare_exchange(0, pid, Relaxed, Relaxed).is_ok())
        .ok_or_else(|| io::Error::other("the scoreboard is full"))?;
    slot[REQUESTS].store(0, Relaxed);
    slot[ACTIVE].store(0, Relaxed);
    slot[CAPACITY].store(capacity as u64, Relaxed);
    let _ = SLOT.set(slot);
    Ok(Rooms::of_group(&words[ROOM..], index))
}

/// Notes that a call runs or waits for a thread. On the event loop thread.
pub fn call_started() {
    if let Some(slot) = SLOT.get() {
        // Only this thread writes these words.
        slot[REQUESTS].store(slot[REQUESTS].load(Relaxed).wrapping_add(1), Relaxed);
        slot[ACTIVE].store(slot[ACTIVE].load(Relaxed).wrapping_add(1), Relaxed);
    }
}

/// Notes that a call has ended. On the event loop thread.
pub fn call_ended() {
    if let Some(slot) = SLOT.get() {
        slot[ACTIVE].store(slot[ACTIVE].load(Relaxed).saturating_sub(1), Relaxed);
    }
}

/// Scoreboard of a group, in the supervisor.
pub struct Scoreboard {
    file: File,
    /// Calls of workers that have ended.
    past_requests: u64,
}

/// Sums of all workers of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of workers.
    pub workers: usize,
    /// Number of calls since the start of the group.
    pub requests: u64,
    /// Number of calls that run.
    pub busy: u64,
    /// Number of calls that wait for a thread.
    pub waiting: u64,
    /// Number of calls that can run at once.
    pub capacity: u64,
}

impl Totals {
    /// Returns whether calls run or wait. (A sum of both could overflow: workers write what they like.)
    pub fn has_calls(&self) -> bool {
        self.busy > 0 || self.waiting > 0
    }
}

impl Scoreboard {
    /// Makes a scoreboard without workers.
    ///
    /// # Errors
    /// If there is no memory or descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { file: memory_file::create(c"wsgi scoreboard", WORDS)?, past_requests: 0 })
    }

    /// Returns the file, for a worker to inherit.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns the sums, and frees the slots of processes that are not workers of the group any more.
    pub fn read(&mut self, is_worker: impl Fn(i32) -> bool) -> Totals {
        let words = memory_file::read(&self.file, WORDS).unwrap_or_default();
        let mut totals = Totals::default();
        let mut requests = self.past_requests;
        for (index, slot) in words.chunks_exact(STRIDE).enumerate().filter(|(_, slot)| slot[PID] != 0) {
            requests = requests.wrapping_add(slot[REQUESTS]);
            if i32::try_from(slot[PID]).is_ok_and(&is_worker) {
                totals.workers += 1;
                totals.busy = totals.busy.saturating_add(slot[ACTIVE].min(slot[CAPACITY]));
                totals.waiting = totals.waiting.saturating_add(slot[ACTIVE].saturating_sub(slot[CAPACITY]));
                totals.capacity = totals.capacity.saturating_add(slot[CAPACITY]);
            } else {
                self.past_requests = self.past_requests.wrapping_add(slot[REQUESTS]);
                // The pid comes last: a new worker takes the slot as soon as it is 0.
                let _ = memory_file::write(&self.file, index * STRIDE + 1, &[0; STRIDE - 1]);
                let _ = memory_file::write(&self.file, index * STRIDE + PID, &[0]);
            }
        }
        totals.requests = requests;
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_those_of_workers_that_live() {
        let mut board = Scoreboard::new().unwrap();
        let write = |board: &Scoreboard, slot: usize, words: [u64; 4]| {
            memory_file::write(board.file(), slot * STRIDE, &words).unwrap();
        };
        write(&board, 0, [10, 100, 3, 8]);
        write(&board, 1, [11, 200, 10, 8]);
        write(&board, 7, [12, 50, 1, 8]);
        let totals = board.read(|pid| pid != 12);
        assert_eq!(totals, Totals { workers: 2, requests: 350, busy: 11, waiting: 2, capacity: 16 });
        assert_eq!(board.read(|_| true), totals);
        // Whatever a worker writes, the supervisor goes on.
        write(&board, 3, [u64::MAX, u64::MAX, u64::MAX, 0]);
        write(&board, 4, [13, u64::MAX, u64::MAX, u64::MAX]);
        write(&board, 5, [14, u64::MAX, u64::MAX, 0]);
        let totals = board.read(|_| true);
        assert_eq!(totals.workers, 4);
        assert!(totals.has_calls() && !Totals::default().has_calls());
        // Both sums at their limit, as two slots can have it.
        write(&board, 4, [13, 1, u64::MAX, 1 << 63]);
        write(&board, 5, [13, 1, u64::MAX, 1 << 63]);
        assert!(board.read(|_| true).has_calls());
    }
}
