//! Worker recycling: at most one worker at a time exits gracefully and is replaced by the master.
//!
//! A worker with a reason to be recycled keeps serving until it has the [`RecycleLock`]; then it exits as on SIGQUIT. The
//! next worker in the same slot frees the lock once it has loaded its applications and its event loop runs.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::recycle_lock::RecycleLock;
use super::status;
use crate::conf::values::MaxRequests;
use crate::engine::pool::CallHandle;
use crate::nginx::log::{Level, Log};
use crate::nginx::thread_bound::EventLoopBound;
use crate::nginx::timer::Timer;
use crate::nginx::worker_process;
use crate::os::system;
use crate::status::board::Goodbye;

/// Recycling state of this worker. All methods are called on the event loop thread.
pub struct Recycler {
    /// `None` without a master, which would start another worker.
    lock: Option<RecycleLock>,
    has_loaded: Arc<AtomicBool>,
    max_memory: u64,
    timer: Timer,
    state: EventLoopBound<State>,
}

#[derive(Default)]
struct State {
    /// Calls left until `wsgi_max_requests`, if there is a limit.
    calls_left: Cell<Option<u64>>,
    /// Reason other than new code.
    reason: RefCell<Option<Reason>>,
    new_code: RefCell<NewCode>,
    /// True once the worker exits, or can never be recycled.
    is_done: Cell<bool>,
    /// Timed-out calls that still run, and when they timed out.
    timed_out: RefCell<Vec<(CallHandle, Instant)>>,
}

/// Reason to recycle the worker.
#[derive(Clone, Copy, Debug)]
enum Reason {
    MaxRequests,
    MaxMemory { used: u64, limit: u64 },
    StuckThreads(usize),
}

impl Reason {
    /// Returns true if the worker is better kept while the code on disk is broken.
    fn needs_good_code(self) -> bool {
        matches!(self, Self::MaxRequests)
    }

    /// Returns the reason as the status of the workers has it.
    fn goodbye(self) -> Goodbye {
        match self {
            Self::MaxRequests => Goodbye::MaxRequests,
            Self::MaxMemory { .. } => Goodbye::MaxMemory,
            Self::StuckThreads(_) => Goodbye::StuckThreads,
        }
    }

    fn level(self) -> Level {
        match self {
            Self::MaxRequests | Self::MaxMemory { .. } => Level::Notice,
            Self::StuckThreads(_) => Level::Warn,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MaxRequests => write!(formatter, "wsgi_max_requests reached"),
            Self::MaxMemory { used, limit } => {
                let (used, limit) = (used >> 20, limit >> 20);
                write!(formatter, "resident memory of {used} MB exceeds wsgi_max_memory ({limit} MB)")
            }
            Self::StuckThreads(count) => write!(formatter, "{count} threads still stuck in timed-out calls"),
        }
    }
}

/// State of the code on disk, which the next worker would load.
#[derive(Default)]
enum NewCode {
    /// No difference from the loaded code is known.
    #[default]
    Unchanged,
    /// New code that waits for the lock.
    Found { reason: String, start_preflight: StartPreflight },
    /// New code whose preflight runs.
    InPreflight { reason: String },
    /// Code that failed its preflight.
    Broken,
}

/// Function that starts to import the code on disk in another process.
type StartPreflight = Box<dyn FnOnce()>;

/// Result of a preflight of new code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreflightResult {
    Passed,
    Failed,
    /// The code passed, but has changed since the preflight began.
    Outdated,
}

/// Time that a timed-out call has to end before its thread counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// Interval between attempts to take the lock; shorter for new code, as old and new code are served until then.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_FOR_NEW_CODE: Duration = Duration::from_millis(50);

/// Interval in which a replacement checks whether it can free the lock of its predecessor.
const PREDECESSOR_PERIOD: Duration = Duration::from_millis(20);

/// Interval in which the resident memory is checked.
const MEMORY_PERIOD: Duration = Duration::from_secs(1);

impl Recycler {
    /// Makes the recycler of this worker. `on_timer` calls [`Recycler::on_timer`]; `has_loaded` is set once the worker
    /// has loaded its applications.
    pub fn new(
        lock: Option<RecycleLock>,
        max_requests: MaxRequests,
        max_memory: u64,
        has_loaded: Arc<AtomicBool>,
        on_timer: fn(),
    ) -> Self {
        let state = State::default();
        if max_requests.calls > 0 {
            state.calls_left.set(Some(max_requests.calls.saturating_add(random_up_to(max_requests.jitter))));
        }
        let state = EventLoopBound::new(state);
        Self { lock, has_loaded, max_memory, timer: Timer::new(false, on_timer), state }
    }

    /// Starts the periodic checks.
    pub fn start(&'static self) {
        self.arm();
    }

    /// Announces that this process is about to exit.
    pub fn on_exit(&self) {
        if let Some(lock) = &self.lock {
            lock.restart_grace_period();
        }
    }

    /// Counts a call towards `wsgi_max_requests`.
    pub fn count_call(&'static self) {
        let calls_left = &self.state.get().calls_left;
        let Some(left) = calls_left.get() else { return };
        calls_left.set(left.checked_sub(1).filter(|left| *left > 0));
        if left <= 1 {
            self.request(Reason::MaxRequests);
        }
    }

    /// Watches a timed-out call: if it does not end soon, the worker is recycled to be rid of its thread.
    pub fn watch_timed_out(&'static self, call: CallHandle) {
        self.state.get().timed_out.borrow_mut().push((call, Instant::now()));
        self.timer.arm(STUCK_AFTER);
    }

    /// Recycles the worker if new code can be loaded. Once the worker has the lock, `start_preflight` is called, which
    /// has to lead to a call of [`Recycler::on_preflight_result`].
    pub fn recycle_if_loadable(&'static self, reason: String, start_preflight: StartPreflight) {
        let mut new_code = self.state.get().new_code.borrow_mut();
        // A running preflight finds out by itself that its files have changed.
        if matches!(*new_code, NewCode::Unchanged | NewCode::Broken) {
            *new_code = NewCode::Found { reason, start_preflight };
            drop(new_code);
            self.try_recycle();
            self.arm();
        }
    }

    /// Takes the result of a preflight: the worker exits if it passed.
    pub fn on_preflight_result(&'static self, result: PreflightResult) {
        let next = if result == PreflightResult::Failed { NewCode::Broken } else { NewCode::Unchanged };
        match self.state.get().new_code.replace(next) {
            NewCode::InPreflight { reason } if result == PreflightResult::Passed && !worker_process::is_exiting() => {
                self.exit(Level::Notice, &reason, Goodbye::NewCode);
            }
            _ => {
                if let Some(lock) = &self.lock {
                    lock.release();
                }
                self.try_recycle();
                self.arm();
            }
        }
    }

    /// Checks the predecessor's lock, timed-out calls and memory, and recycles the worker if there is a reason.
    pub fn on_timer(&'static self) {
        // The event loop runs, so this worker accepts connections.
        if self.has_loaded.load(Ordering::Relaxed)
            && let Some(lock) = &self.lock
        {
            lock.release_for_predecessor();
        }
        let stuck = self.take_stuck_calls();
        if stuck > 0 {
            self.request(Reason::StuckThreads(stuck));
        }
        self.check_memory();
        self.try_recycle();
        self.arm();
    }

    /// Forgets the timed-out calls that have ended or are stuck. Returns the number of those that are stuck.
    fn take_stuck_calls(&self) -> usize {
        let mut stuck = 0;
        self.state.get().timed_out.borrow_mut().retain(|(call, since)| {
            let is_running = call.is_running();
            let is_stuck = is_running && since.elapsed() >= STUCK_AFTER;
            stuck += usize::from(is_stuck);
            is_running && !is_stuck
        });
        stuck
    }

    fn check_memory(&'static self) {
        let is_needed = self.max_memory > 0 && self.state.get().reason.borrow().is_none_or(Reason::needs_good_code);
        if is_needed
            && let Some(used) = system::resident_memory()
            && used > self.max_memory
        {
            self.request(Reason::MaxMemory { used, limit: self.max_memory });
        }
    }

    /// Recycles the worker as soon as it has the lock. The first reason counts, unless only the later one holds with
    /// broken code on disk.
    fn request(&'static self, reason: Reason) {
        let current = &self.state.get().reason;
        if current.borrow().is_none_or(|current| current.needs_good_code() && !reason.needs_good_code()) {
            current.replace(Some(reason));
        }
        self.try_recycle();
        self.arm();
    }

    /// Exits, or starts a preflight of new code, if there is a reason and the lock is free.
    fn try_recycle(&self) {
        let state = self.state.get();
        if state.is_done.get() || worker_process::is_exiting() {
            return;
        }
        let mut new_code = state.new_code.borrow_mut();
        let is_broken = matches!(*new_code, NewCode::Broken);
        let reason = state.reason.borrow().filter(|reason| !(is_broken && reason.needs_good_code()));
        let is_waiting = matches!(*new_code, NewCode::Found { .. });
        if reason.is_none() && !is_waiting || matches!(*new_code, NewCode::InPreflight { .. }) {
            return;
        }
        let Some(lock) = &self.lock else {
            state.is_done.set(true);
            if let Some(reason) = reason {
                let message = format!("wsgi: worker cannot be recycled with \"master_process off\": {reason}");
                Log::cycle().write(Level::Warn, &message);
            }
            return;
        };
        if !lock.try_acquire() {
            return;
        }
        match std::mem::take(&mut *new_code) {
            NewCode::Found { reason, start_preflight } => {
                *new_code = NewCode::InPreflight { reason };
                drop(new_code);
                start_preflight();
            }
            _ => {
                if let Some(reason) = reason {
                    self.exit(reason.level(), &reason, reason.goodbye());
                }
            }
        }
    }

    fn exit(&self, level: Level, reason: &dyn fmt::Display, goodbye: Goodbye) {
        self.state.get().is_done.set(true);
        status::say_goodbye(goodbye);
        Log::cycle().write(level, &format!("wsgi: worker shutting down gracefully: {reason}"));
        if let Some(worker) = super::get() {
            worker.leave_balance();
        }
        worker_process::quit();
    }

    /// Arms the timer for the next check that is due.
    fn arm(&'static self) {
        let state = self.state.get();
        if self.lock.as_ref().is_some_and(RecycleLock::is_held_by_predecessor) {
            self.timer.arm(PREDECESSOR_PERIOD);
        }
        if state.is_done.get() {
            return;
        }
        if matches!(*state.new_code.borrow(), NewCode::Found { .. }) {
            self.timer.arm(RETRY_FOR_NEW_CODE);
        } else if state.reason.borrow().is_some() || !state.timed_out.borrow().is_empty() {
            self.timer.arm(RETRY);
        } else if self.max_memory > 0 {
            self.timer.arm(MEMORY_PERIOD);
        }
    }
}

/// Returns a random number from 0 to `most`, which differs between workers.
fn random_up_to(most: u64) -> u64 {
    most.checked_add(1).map_or_else(system::random, |count| system::random() % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_in_its_bounds() {
        for _ in 0..100 {
            assert!(random_up_to(3) <= 3);
        }
        assert_eq!(random_up_to(0), 0);
    }
}
