//! A worker's part of a board: its slot, and the rows of its applications.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::applications::{self, Exceptions};
use super::events::{self, ENDED_WORDS, Goodbye, NewEvent, Ring, now};
use super::layout::{self, Layout, MAGIC, MAGIC_WORD};
use super::row::{self, Row};
use crate::status::report::{EventKind, WorkerState};

/// Word of a slot with the pid of its worker; 0 if the slot is free. With [`CHANGING`], the worker that has this pid changes
/// the slot.
pub const PID: usize = 0;
pub const STATE: usize = 1;
pub const NUMBER: usize = 2;
/// Word of a slot with the time of its start in microseconds since the epoch.
pub const STARTED: usize = 3;
/// Word of a slot with the token in the name of its worker's socket.
pub const TOKEN: usize = 4;
pub const GOODBYE: usize = 5;

pub const CHANGING: u64 = 1 << 63;

pub const STATES: [WorkerState; 3] = [WorkerState::Starting, WorkerState::Running, WorkerState::Draining];

/// Failure to attach a worker to a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    #[error("it is too small")]
    TooSmall,
    #[error("another version of this module has made it, restart nginx")]
    OtherVersion,
    #[error("it has no room for another worker, increase wsgi_status_zone")]
    Full,
}

/// Facts about the worker that attaches.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub pid: u32,
    /// Number of the worker among those of nginx or of its process group.
    pub number: u32,
    /// Random number in the name of its socket.
    pub token: u64,
}

/// Writer of one worker. Shared by its threads.
pub struct Writer {
    words: &'static [AtomicU64],
    layout: Layout,
    identity: Identity,
    started: u64,
    slot: usize,
}

/// Writer of one application's counters in one worker.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    row: Row,
    exceptions: Exceptions,
}

impl Calls {
    /// Notes that a call has come. On the event loop thread.
    pub fn enter(&self) {
        self.row.enter();
    }

    /// Notes that a thread starts a call. On any thread.
    pub fn start(&self) {
        self.row.start();
    }

    /// Counts an exception of this class that a call has failed with. On any thread.
    pub fn raised(&self, class: &str) {
        self.row.raised();
        self.exceptions.count(class);
    }

    /// Counts a call that has ended. On the event loop thread.
    pub fn record(&self, ended: &row::Ended) {
        self.row.record(ended);
    }
}

impl Writer {
    /// Attaches a worker to the board in these words, and makes the board if they are all 0. Records the workers as ended
    /// that are not alive.
    ///
    /// # Errors
    /// See [`AttachError`]. The worker works without.
    pub fn attach(
        words: &'static [AtomicU64],
        identity: Identity,
        is_alive: impl Fn(u32) -> bool,
    ) -> Result<Self, AttachError> {
        let layout = Layout::of(words.len()).ok_or(AttachError::TooSmall)?;
        if let Err(found) = words[MAGIC_WORD].compare_exchange(0, MAGIC, SeqCst, SeqCst)
            && found != MAGIC
        {
            return Err(AttachError::OtherVersion);
        }
        let _ = words[layout::CREATED].compare_exchange(0, now(), SeqCst, SeqCst);
        let mut writer = Self { words, layout, identity, started: now(), slot: 0 };
        for slot in 0..layout.slots {
            writer.clear(slot, &is_alive);
        }
        let is_free = |slot: &usize| {
            let pid = &writer.words[writer.layout.slot(*slot)][PID];
            pid.compare_exchange(0, writer.changing(), SeqCst, SeqCst).is_ok()
        };
        writer.slot = (0..layout.slots).find(is_free).ok_or(AttachError::Full)?;
        for index in 0..layout.rows {
            if let Some(row) = Row::of(&words[layout.row(index)])
                && is_of_slot(row.key().load(Relaxed), writer.slot)
            {
                row.reset();
            }
        }
        let slot = writer.words();
        slot[STATE].store(WorkerState::Starting as u64, Relaxed);
        slot[NUMBER].store(u64::from(identity.number), Relaxed);
        slot[STARTED].store(writer.started, Relaxed);
        slot[TOKEN].store(identity.token, Relaxed);
        slot[GOODBYE].store(Goodbye::Crash as u64, Relaxed);
        slot[PID].store(u64::from(identity.pid), SeqCst);
        Ok(writer)
    }

    /// Returns the words of the board.
    pub fn board(&self) -> &'static [AtomicU64] {
        self.words
    }

    /// Returns what this worker has attached as.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    fn words(&self) -> &'static [AtomicU64] {
        &self.words[self.layout.slot(self.slot)]
    }

    fn changing(&self) -> u64 {
        u64::from(self.identity.pid) | CHANGING
    }

    /// Frees a slot whose worker is not alive, and records the end of that worker.
    fn clear(&self, index: usize, is_alive: impl Fn(u32) -> bool) {
        let slot = &self.words[self.layout.slot(index)];
        let owner = slot[PID].load(SeqCst);
        let pid = u32::try_from(owner & !CHANGING).ok();
        // A number that is no pid was written by no worker.
        let is_gone = pid.is_none_or(|pid| pid == self.identity.pid || !is_alive(pid));
        if owner == 0 || !is_gone || slot[PID].compare_exchange(owner, self.changing(), SeqCst, SeqCst).is_err() {
            return;
        }
        if let Some(pid) = pid
            && owner & CHANGING == 0
        {
            self.record_end(index, pid, Goodbye::of_word(slot[GOODBYE].load(Relaxed)));
        }
        slot[PID].store(0, SeqCst);
    }

    /// Records the end of the worker that had a slot.
    fn record_end(&self, index: usize, pid: u32, reason: Goodbye) {
        let slot = &self.words[self.layout.slot(index)];
        let rows = (0..self.layout.rows).filter_map(|row| Row::of(&self.words[self.layout.row(row)]));
        let rows = rows.filter(|row| is_of_slot(row.key().load(Relaxed), index));
        let ended = events::Ended {
            pid,
            number: u32::try_from(slot[NUMBER].load(Relaxed)).unwrap_or_default(),
            started: slot[STARTED].load(Relaxed),
            ended: now(),
            calls: rows.map(|row| row.calls()).fold(0, u64::saturating_add),
            reason,
        };
        let (count, words) = (&self.words[layout::ENDED_COUNT], &self.words[self.layout.ended()]);
        Ring { count, words, record: ENDED_WORDS }.push(&ended.contents());
        self.words[layout::ENDED_BY_REASON + reason as usize].fetch_add(1, Relaxed);
    }

    /// Returns the writer of an application's counters, `None` if the board has no room for them.
    pub fn calls(&self, application: &str) -> Option<Calls> {
        let mut all = 0..self.layout.applications;
        let index = all.find(|index| applications::claim(self.application(*index), application))?;
        let key = (self.slot as u64 + 1) << 32 | (index as u64 + 1);
        let rows = || (0..self.layout.rows).filter_map(|row| Row::of(&self.words[self.layout.row(row)]));
        let own = rows().find(|row| row.key().load(Relaxed) == key);
        let row = own.or_else(|| rows().find(|row| row.key().compare_exchange(0, key, SeqCst, SeqCst).is_ok()))?;
        Some(Calls { row, exceptions: Exceptions::of(self.application(index))? })
    }

    fn application(&self, index: usize) -> &'static [AtomicU64] {
        &self.words[self.layout.application(index)]
    }

    /// Notes that the worker has loaded its applications.
    pub fn set_running(&self) {
        let (starting, running) = (WorkerState::Starting as u64, WorkerState::Running as u64);
        let _ = self.words()[STATE].compare_exchange(starting, running, Relaxed, Relaxed);
    }

    /// Notes that the worker accepts no connections any more.
    pub fn set_draining(&self) {
        self.words()[STATE].store(WorkerState::Draining as u64, Relaxed);
    }

    /// Returns what the worker does.
    pub fn state(&self) -> WorkerState {
        let state = usize::try_from(self.words()[STATE].load(Relaxed)).ok();
        state.and_then(|state| STATES.get(state).copied()).unwrap_or_default()
    }

    /// Sets the reason why the worker is about to end. The first one counts.
    pub fn say_goodbye(&self, reason: Goodbye) {
        let crash = Goodbye::Crash as u64;
        let _ = self.words()[GOODBYE].compare_exchange(crash, reason as u64, Relaxed, Relaxed);
    }

    /// Returns whether another worker with this one's number has started after it.
    pub fn has_successor(&self) -> bool {
        let others = (0..self.layout.slots).filter(|slot| *slot != self.slot);
        others.map(|slot| &self.words[self.layout.slot(slot)]).any(|slot| {
            let pid = slot[PID].load(SeqCst);
            pid != 0
                && pid & CHANGING == 0
                && slot[NUMBER].load(Relaxed) == u64::from(self.identity.number)
                && slot[STARTED].load(Relaxed) >= self.started
        })
    }

    /// Records the end of this worker and frees its slot. Nothing is to be counted after that.
    pub fn leave(&self) {
        let slot = self.words();
        let pid = u64::from(self.identity.pid);
        if slot[PID].compare_exchange(pid, self.changing(), SeqCst, SeqCst).is_ok() {
            self.record_end(self.slot, self.identity.pid, Goodbye::of_word(slot[GOODBYE].load(Relaxed)));
            slot[PID].store(0, SeqCst);
        }
    }

    /// Records an event. On any thread.
    pub fn record_event(&self, event: &NewEvent) {
        push_event(self.words, &self.layout, self.identity.pid, event);
    }
}

/// Records an event of a process that is not a worker, on a board that workers have made.
pub fn record_event(words: &[AtomicU64], pid: u32, event: &NewEvent) {
    if let Some(layout) = Layout::of(words.len()).filter(|_| words[MAGIC_WORD].load(Relaxed) == MAGIC) {
        push_event(words, &layout, pid, event);
    }
}

fn push_event(words: &[AtomicU64], layout: &Layout, pid: u32, event: &NewEvent) {
    let (count, ring) = match event.kind {
        EventKind::Loaded | EventKind::Reloaded | EventKind::LoadFailed => (layout::LOAD_COUNT, layout.load_events()),
        EventKind::Exception | EventKind::TimedOut => (layout::FAILURE_COUNT, layout.failure_events()),
    };
    let record = layout.event_words;
    let contents = event.contents(now(), pid, record);
    Ring { count: &words[count], words: &words[ring], record }.push(&contents);
}

/// Returns whether the key of a row is that of a slot.
fn is_of_slot(key: u64, slot: usize) -> bool {
    key >> 32 == slot as u64 + 1
}
