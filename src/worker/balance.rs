//! Balance between workers (`wsgi_balance`): a worker without a free thread leaves new connections to others.
//!
//! Each worker has a word of shared memory that says whether it accepts connections and how many calls wait in it. A worker
//! stops only if another one accepts and has a shorter queue. So one of them always accepts, and static files never wait
//! for an application. The word of a worker that has died or hangs is wrong until its replacement has started: so a worker
//! that sees clients wait for long accepts connections itself.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::nginx::thread_bound::EventLoopBound;
use crate::nginx::timer::{self, Timer};
use crate::nginx::{accept, worker_process};

/// Interval between two looks at the other workers while no thread is free.
const PERIOD: Duration = Duration::from_millis(5);

/// Number of ticks in a row at which a client waits before this worker no longer relies on the others.
const WAITING_TICKS: u32 = 10;

/// Number of ticks after which it relies on them again.
const ALONE_TICKS: u32 = 20;

/// Words from one worker's to the next: each has a cache line of its own, as most calls write it.
const STRIDE: usize = 8;

/// Word of a worker that is not known to accept connections.
const ABSENT: u64 = 0;

/// Returns the number of words for so many workers.
pub const fn words(workers: usize) -> usize {
    workers * STRIDE
}

/// Part of one worker in the balance. All methods are called on the event loop thread.
pub struct Balance {
    words: &'static [AtomicU64],
    own: &'static AtomicU64,
    /// The applications are loaded. Until then no thread counts as free.
    has_loaded: Arc<AtomicBool>,
    timer: Timer,
    state: EventLoopBound<State>,
}

struct State {
    accepts: Cell<bool>,
    /// The timer runs: no thread was free when this worker last looked, or it does not accept connections.
    watches: Cell<bool>,
    /// Number of calls that have to end before a thread is free; 0 if one is free.
    calls_ahead: Cell<usize>,
    /// Time of the last look at the other workers.
    looked: Cell<usize>,
    /// Number of ticks in a row at which a client waited, though another worker accepts connections.
    waiting: Cell<u32>,
    /// Number of ticks for which this worker does not rely on others.
    alone: Cell<u32>,
    /// The worker takes no more part.
    has_left: Cell<bool>,
}

/// Returns the word of a worker with this backlog: see [`Engine::backlog`](crate::engine::Engine::backlog).
fn word(accepts: bool, backlog: usize) -> u64 {
    if accepts { backlog as u64 + 1 } else { ABSENT }
}

/// Returns true if a worker with `backlog` has to accept connections; `others` are the words of the other workers.
///
/// With an equal backlog, a worker that accepts goes on, and one that has stopped does not start: short calls would
/// stop and start it all the time. With a free thread it starts at its next tick all the same.
fn must_accept(backlog: usize, accepts: bool, is_tick: bool, others: impl Iterator<Item = u64>) -> bool {
    let own = word(true, backlog);
    match others.filter(|other| *other != ABSENT).min() {
        Some(least) if own == least => accepts || (is_tick && backlog == 0),
        Some(least) => own < least,
        None => true,
    }
}

impl Balance {
    /// Takes part in the balance of the workers that share `words`, `None` if nginx does not let this worker leave
    /// connections to others. `on_timer` calls [`Balance::on_timer`].
    pub fn new(words: &'static [AtomicU64], has_loaded: Arc<AtomicBool>, on_timer: fn()) -> Option<Self> {
        let own = words.get(worker_process::worker_number() * STRIDE)?;
        let state = State {
            accepts: Cell::new(true),
            watches: Cell::new(false),
            calls_ahead: Cell::new(0),
            looked: Cell::new(0),
            waiting: Cell::new(0),
            alone: Cell::new(0),
            has_left: Cell::new(false),
        };
        let (timer, state) = (Timer::new(false, on_timer), EventLoopBound::new(state));
        accept::is_shared().then_some(Self { words, own, has_loaded, timer, state })
    }

    /// Notes that a call was queued, with the backlog of its interpreter.
    pub fn note_queued(&'static self, backlog: usize) {
        let state = self.state.get();
        let calls_ahead = state.calls_ahead.get();
        if backlog.max(calls_ahead) == 0 {
            return;
        }
        state.calls_ahead.set(backlog.max(1));
        // Other workers write their words all the time, so with a long queue it is a look a millisecond, not one a call.
        let is_news = calls_ahead == 0 || backlog == 0 || state.looked.get() != timer::current_milliseconds();
        if is_news && state.accepts.get() {
            self.look(backlog, false);
        }
    }

    /// Notes that a call may have ended. Returns true if a thread may be free now for the first time.
    pub fn note_output(&self) -> bool {
        let calls_ahead = &self.state.get().calls_ahead;
        let left = calls_ahead.get();
        calls_ahead.set(left.saturating_sub(1));
        left == 1
    }

    /// Notes the backlog after the start of the worker, or after a call has ended.
    pub fn note_backlog(&'static self, backlog: usize) {
        self.look(backlog, false);
    }

    /// Looks at the other workers again.
    pub fn on_timer(&'static self, backlog: usize) {
        let state = self.state.get();
        state.watches.set(false);
        state.alone.set(state.alone.get().saturating_sub(1));
        let waits = !state.accepts.get() && accept::has_waiting_clients();
        state.waiting.set(if waits { state.waiting.get() + 1 } else { 0 });
        if state.waiting.get() == WAITING_TICKS {
            state.alone.set(ALONE_TICKS);
        }
        self.look(backlog, true);
    }

    /// Tells the other workers that this one is about to exit.
    pub fn leave(&self) {
        self.state.get().has_left.set(true);
        self.own.store(ABSENT, Ordering::SeqCst);
    }

    /// Starts or stops to accept connections, as the backlog and the other workers demand.
    fn look(&'static self, backlog: usize, is_tick: bool) {
        let state = self.state.get();
        if state.has_left.get() || worker_process::is_exiting() {
            return self.leave();
        }
        let backlog = if self.has_loaded.load(Ordering::Relaxed) { backlog } else { backlog.max(1) };
        // Before the look at the others, so that two workers do not stop for each other.
        self.publish(backlog);
        state.looked.set(timer::current_milliseconds());
        let accepts = state.alone.get() > 0 || must_accept(backlog, state.accepts.get(), is_tick, self.others());
        if accepts != state.accepts.get() {
            state.accepts.set(accept::set(accepts));
            self.publish(backlog);
        }
        let needs_watch = backlog > 0 || !state.accepts.get();
        state.calls_ahead.set(if needs_watch { backlog.max(1) } else { 0 });
        if needs_watch && !state.watches.replace(true) {
            self.timer.arm(PERIOD);
        }
    }

    fn publish(&self, backlog: usize) {
        self.own.store(word(self.state.get().accepts.get(), backlog), Ordering::SeqCst);
    }

    /// Returns the words of the other workers.
    fn others(&self) -> impl Iterator<Item = u64> {
        let others = self.words.iter().step_by(STRIDE).filter(|word| !std::ptr::eq(*word, self.own));
        others.map(|word| word.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: usize = 0;
    const FULL: usize = 1;

    fn accepting(backlogs: &[usize]) -> impl Iterator<Item = u64> {
        backlogs.iter().map(|backlog| word(true, *backlog))
    }

    #[test]
    fn a_worker_without_a_free_thread_stops_while_another_has_one() {
        assert!(!must_accept(FULL, true, false, accepting(&[FULL, FREE])));
    }

    #[test]
    fn a_worker_with_a_free_thread_goes_on() {
        for others in [&[][..], &[FREE], &[FULL]] {
            assert!(must_accept(FREE, true, false, accepting(others)));
        }
    }

    #[test]
    fn all_go_on_while_none_has_a_free_thread() {
        assert!(must_accept(FULL, true, false, accepting(&[FULL, FULL])));
    }

    #[test]
    fn the_worker_with_the_longer_queue_stops() {
        assert!(!must_accept(3, true, false, accepting(&[2])));
        assert!(must_accept(2, true, false, accepting(&[3])));
        assert!(must_accept(2, false, false, accepting(&[3])));
    }

    #[test]
    fn the_only_worker_that_accepts_goes_on() {
        assert!(must_accept(9, true, false, [ABSENT, word(false, FREE), ABSENT].into_iter()));
    }

    #[test]
    fn a_worker_that_has_stopped_starts_at_a_tick_while_others_have_free_threads() {
        assert!(!must_accept(FREE, false, false, accepting(&[FREE])));
        assert!(must_accept(FREE, false, true, accepting(&[FREE])));
        assert!(must_accept(FREE, false, false, accepting(&[FULL])));
    }

    #[test]
    fn a_short_call_elsewhere_does_not_start_a_worker_without_a_free_thread() {
        assert!(!must_accept(FULL, false, true, accepting(&[FULL])));
    }
}
