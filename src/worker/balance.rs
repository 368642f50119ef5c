//! Balance between workers (`wsgi_balance`): a worker without a free thread leaves new connections to others.
//!
//! Each worker has a word of shared memory that says for what it has [`Room`]. A worker leaves connections only to one that
//! has more room. If all have the same, all accept connections, as without the balance.
//!
//! A worker that exits takes its word back, and one that has died is replaced at once. The word of a worker that hangs is
//! wrong: so a worker that sees clients wait for long accepts connections itself.

use std::cell::Cell;
use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use crate::nginx::thread_bound::EventLoopBound;
use crate::nginx::timer::{self, Timer};
use crate::nginx::{accept, worker_process};

/// Interval between two looks at the other workers while no thread is free, after a change.
const SHORTEST_PERIOD: Duration = Duration::from_millis(5);

/// The interval doubles up to this one while nothing changes.
const LONGEST_PERIOD: Duration = Duration::from_millis(50);

/// Number of ticks in a row at which a client waits before this worker no longer relies on the others.
const WAITING_TICKS: u32 = 10;

/// Number of ticks after which it relies on them again.
const ALONE_TICKS: u32 = 20;

/// Words from one worker's to the next: each has a cache line of its own, as most calls write it.
pub const STRIDE: usize = 8;

/// What a worker can take. A worker leaves connections to one with more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Room {
    /// Nothing: it has few free connections or no descriptors, or takes no part in the balance.
    Nothing = 0,
    /// A connection, but a call would wait. Or it has stopped accepting, and starts once no other has more room.
    Connection = 1,
    /// A connection and a call.
    Call = 2,
}

/// Reason to look at the other workers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    Call,
    Tick,
    /// Nothing has changed since the last look.
    SettledTick,
}

/// Returns the number of words for so many workers.
pub const fn words(workers: usize) -> usize {
    workers * STRIDE
}

/// Words of the workers that share listening sockets.
pub struct Rooms {
    /// A word for each worker, and others up to the next one's.
    words: &'static [AtomicU64],
    /// Index of this worker's word.
    own: usize,
    /// The workers have several masters: nginx itself does not know that they share their sockets.
    has_masters: bool,
}

impl Rooms {
    /// The words of the workers of this nginx.
    pub fn of_workers(words: &'static [AtomicU64]) -> Self {
        Self { words, own: worker_process::worker_number() * STRIDE, has_masters: false }
    }

    /// The words of all workers of a process group, of which this one has the word `own * STRIDE`.
    pub fn of_group(words: &'static [AtomicU64], own: usize) -> Self {
        Self { words, own: own * STRIDE, has_masters: true }
    }
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
    /// Room of this worker and the most room of another one at the last look.
    seen: Cell<(Room, Room)>,
    /// Time until the next tick.
    period: Cell<Duration>,
    /// Number of calls that have to end before a thread is free; 0 if one is free and this worker accepts connections.
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

impl Room {
    fn of_word(word: u64) -> Self {
        [Self::Nothing, Self::Connection].into_iter().find(|room| *room as u64 == word).unwrap_or(Self::Call)
    }
}

/// Returns true if a worker with this room has to accept connections; no other worker has more than `best`.
///
/// With the same room, a worker that accepts goes on, and one that has stopped does not start at once: short calls would
/// stop and start it all the time.
fn must_accept(own: Room, best: Room, accepts: bool, look: Look) -> bool {
    match own.cmp(&best) {
        Ordering::Less => false,
        Ordering::Greater => true,
        Ordering::Equal if accepts => true,
        Ordering::Equal => match own {
            Room::Nothing => true,
            Room::Connection => look == Look::SettledTick,
            Room::Call => look >= Look::Tick,
        },
    }
}

impl Balance {
    /// Takes part in the balance of the workers that share `rooms`, `None` if nginx does not let this worker leave
    /// connections to others. `on_timer` calls [`Balance::on_timer`].
    pub fn new(rooms: Rooms, has_loaded: Arc<AtomicBool>, on_timer: fn()) -> Option<Self> {
        let Rooms { words, own, has_masters } = rooms;
        let own = words.get(own)?;
        let state = State {
            accepts: Cell::new(true),
            seen: Cell::new((Room::Connection, Room::Nothing)),
            period: Cell::new(SHORTEST_PERIOD),
            calls_ahead: Cell::new(0),
            looked: Cell::new(0),
            waiting: Cell::new(0),
            alone: Cell::new(0),
            has_left: Cell::new(false),
        };
        let (timer, state) = (Timer::new(false, on_timer), EventLoopBound::new(state));
        accept::is_shared(has_masters).then_some(Self { words, own, has_loaded, timer, state })
    }

    /// Notes that a call was queued, with the backlog of its interpreter. Returns true if it is time for a look at the
    /// other workers ([`Balance::note_backlog`]).
    pub fn note_queued(&self, backlog: usize) -> bool {
        let state = self.state.get();
        let calls_ahead = state.calls_ahead.get();
        if backlog.max(calls_ahead) == 0 {
            return false;
        }
        state.calls_ahead.set(backlog.max(1));
        // Other workers write their words all the time, so with a long queue it is a look a millisecond, not one a call.
        let is_time = calls_ahead == 0 || state.looked.get() != timer::current_milliseconds();
        is_time && state.accepts.get()
    }

    /// Notes that a call may have ended. Returns true if a thread may be free now for the first time.
    pub fn note_output(&self) -> bool {
        let calls_ahead = &self.state.get().calls_ahead;
        let left = calls_ahead.get();
        calls_ahead.set(left.saturating_sub(1));
        left == 1
    }

    /// Returns true if the other workers do not know yet that this one has few free connections.
    pub fn note_few_connections(&self) -> bool {
        self.state.get().seen.get().0 != Room::Nothing
    }

    /// Notes the largest backlog of an interpreter, and looks at the other workers.
    pub fn note_backlog(&'static self, backlog: usize) {
        self.look(backlog, false);
    }

    /// Looks at the other workers again.
    pub fn on_timer(&'static self, backlog: usize) {
        let state = self.state.get();
        state.alone.set(state.alone.get().saturating_sub(1));
        let waits = !state.accepts.get() && accept::has_waiting_clients();
        state.waiting.set(if waits { state.waiting.get() + 1 } else { 0 });
        if state.waiting.get() == WAITING_TICKS {
            state.alone.set(ALONE_TICKS);
        }
        self.look(backlog, true);
    }

    /// Returns true if this worker leaves connections to another one, which has a free thread.
    pub fn leaves_connections(&self) -> bool {
        let state = self.state.get();
        !state.accepts.get() && state.seen.get().1 == Room::Call
    }

    /// Tells the other workers that this one is about to exit.
    pub fn leave(&self) {
        self.state.get().has_left.set(true);
        self.publish(Room::Nothing);
    }

    /// Starts or stops accepting connections, as the room of this worker and of the others demands.
    fn look(&'static self, backlog: usize, is_tick: bool) {
        let state = self.state.get();
        if state.has_left.get() || worker_process::is_exiting() {
            return self.leave();
        }
        let own = self.room(backlog);
        // Before the look at the others, which look at this one.
        self.publish(self.offer(own));
        state.looked.set(timer::current_milliseconds());
        let best = self.best_of_others();
        let mut is_news = state.seen.replace((own, best)) != (own, best);
        let look = match (is_tick, is_news) {
            (false, _) => Look::Call,
            (true, true) => Look::Tick,
            (true, false) => Look::SettledTick,
        };
        let must_accept = state.alone.get() > 0 || must_accept(own, best, state.accepts.get(), look);
        let accepts = accept::set(must_accept);
        if state.accepts.replace(accepts) != accepts {
            is_news = true;
            self.publish(self.offer(own));
        }
        if must_accept && !accepts {
            // Others cannot rely on it.
            self.publish(Room::Nothing);
        }
        if is_news || state.waiting.get() > 0 || state.alone.get() > 0 {
            state.period.set(SHORTEST_PERIOD);
        } else if is_tick {
            state.period.set(LONGEST_PERIOD.min(state.period.get() * 2));
        }
        let needs_watch = own < Room::Call || !accepts;
        state.calls_ahead.set(if needs_watch { backlog.max(1) } else { 0 });
        if needs_watch {
            self.timer.arm(state.period.get());
        }
    }

    /// Returns the room of this worker with this backlog: see [`Engine::backlog`](crate::engine::Engine::backlog).
    fn room(&self, backlog: usize) -> Room {
        let had_nothing = self.state.get().seen.get().0 == Room::Nothing;
        if accept::has_few_connections(had_nothing) || accept::is_paused() {
            Room::Nothing
        } else if backlog == 0 && self.has_loaded.load(Relaxed) {
            Room::Call
        } else {
            Room::Connection
        }
    }

    /// Returns the room that other workers may rely on: one that has stopped accepting gets no calls.
    fn offer(&self, own: Room) -> Room {
        if self.state.get().accepts.get() { own } else { own.min(Room::Connection) }
    }

    fn publish(&self, room: Room) {
        self.own.store(room as u64, SeqCst);
    }

    /// Returns the most room that another worker has.
    fn best_of_others(&self) -> Room {
        let others = self.words.iter().step_by(STRIDE).filter(|word| !std::ptr::eq(*word, self.own));
        others.map(|word| Room::of_word(word.load(SeqCst))).max().unwrap_or(Room::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOMS: [Room; 3] = [Room::Nothing, Room::Connection, Room::Call];
    const LOOKS: [Look; 3] = [Look::Call, Look::Tick, Look::SettledTick];

    #[test]
    fn a_worker_stops_only_while_another_has_more_room() {
        for own in ROOMS {
            for best in ROOMS {
                for look in LOOKS {
                    assert_eq!(must_accept(own, best, true, look), own >= best, "{own:?} {best:?}");
                }
            }
        }
    }

    #[test]
    fn a_worker_that_has_stopped_starts_when_it_has_the_most_room() {
        for look in LOOKS {
            assert!(must_accept(Room::Call, Room::Connection, false, look));
            assert!(must_accept(Room::Connection, Room::Nothing, false, look));
            assert!(must_accept(Room::Nothing, Room::Nothing, false, look));
        }
    }

    #[test]
    fn a_worker_that_has_stopped_starts_at_a_tick_while_others_have_free_threads() {
        assert!(!must_accept(Room::Call, Room::Call, false, Look::Call));
        assert!(must_accept(Room::Call, Room::Call, false, Look::Tick));
    }

    #[test]
    fn a_short_call_elsewhere_does_not_start_a_worker_without_a_free_thread() {
        assert!(!must_accept(Room::Connection, Room::Connection, false, Look::Call));
        assert!(!must_accept(Room::Connection, Room::Connection, false, Look::Tick));
    }

    #[test]
    fn all_accept_once_none_has_a_free_thread_for_long() {
        assert!(must_accept(Room::Connection, Room::Connection, false, Look::SettledTick));
    }

    #[test]
    fn a_word_says_the_room() {
        for room in ROOMS {
            assert_eq!(Room::of_word(room as u64), room);
        }
    }
}
