//! When a worker retires: it ends as after QUIT, one worker at a time, and the master starts another in its place.
//!
//! Whoever finds a reason calls [`request`]. The worker then waits for its turn, the token that all workers share, and
//! keeps serving meanwhile. The token is given back once the next worker in the same place has loaded its applications, so
//! that never more than one worker is missing.

use std::cell::{Cell, RefCell};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::conf::main::MaxRequests;
use crate::engine::pool::CallHandle;
use crate::nginx::log::{Level, Log};
use crate::nginx::thread_bound::EventLoopBound;
use crate::nginx::timer::Timer;
use crate::nginx::worker_process;

static RETIREMENT: OnceLock<Recycler> = OnceLock::new();

/// What a worker retires for, and how far it is.
struct Recycler {
    lock: Option<RecycleLock>,
    /// Whether the applications have been loaded.
    is_loaded: AtomicBool,
    max_memory: u64,
    timer: Timer,
    state: EventLoopBound<State>,
}

#[derive(Default)]
struct State {
    /// Calls until the worker retires, if it counts them.
    calls_left: Cell<Option<u64>>,
    /// Why it wants to retire, other than for new code.
    reason: RefCell<Option<Reason>>,
    /// What is known of the code on disk.
    code: RefCell<Code>,
    /// It has had its turn, or can never have it.
    is_done: Cell<bool>,
    /// Calls that were given up, and when.
    given_up: RefCell<Vec<(CallHandle, Instant)>>,
}

struct Reason {
    text: String,
    level: Level,
    /// Whether it can wait until the code on disk is good.
    can_wait: bool,
}

/// What the next worker would load.
#[derive(Default)]
enum Code {
    /// What is loaded, as far as is known.
    #[default]
    Known,
    /// Something new, which this function lets be tried.
    New { reason: String, try_it: fn() },
    /// That is being tried.
    OnTrial { reason: String },
    /// Something that cannot be loaded.
    Bad,
}

/// What a trial of new code has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Good,
    Bad,
    /// It has changed meanwhile.
    Outdated,
}

/// A call that was given up may run on for so long before the worker retires for it.
const GRACE: Duration = Duration::from_secs(1);

/// How often a worker that wants to retire tries to; and one for new code, as meanwhile old and new code answer.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_FOR_CODE: Duration = Duration::from_millis(50);

/// How often a worker that came for one that has retired looks whether its applications are loaded.
const SUCCESSION: Duration = Duration::from_millis(20);

/// How often the memory is looked at.
const MEMORY_PERIOD: Duration = Duration::from_secs(1);

/// Makes this worker one that retires. On the event loop thread, before any other function here.
pub fn set_up(lock: Option<&'static AtomicU64>, max_requests: MaxRequests, max_memory: u64) {
    let lock = lock.map(RecycleLock::of_this_worker);
    let state = State::default();
    if max_requests.calls > 0 {
        state.calls_left.set(Some(max_requests.calls.saturating_add(random_up_to(max_requests.jitter))));
    }
    let retirement = RETIREMENT.get_or_init(|| Recycler {
        lock,
        is_loaded: AtomicBool::new(false),
        max_memory,
        timer: Timer::new(false, look),
        state: EventLoopBound::new(state),
    });
    retirement.arm();
}

/// This worker has loaded its applications. On any thread.
pub fn loaded() {
    if let Some(retirement) = RETIREMENT.get() {
        retirement.is_loaded.store(true, Ordering::Relaxed);
    }
}

/// This worker ends now.
pub fn leaving() {
    if let Some(lock) = RETIREMENT.get().and_then(|retirement| retirement.lock.as_ref()) {
        lock.renew();
    }
}

/// One more call has come. On the event loop thread, as the next two.
pub fn count_call() {
    let Some(retirement) = RETIREMENT.get() else { return };
    let calls_left = &retirement.state.get().calls_left;
    let Some(left) = calls_left.get() else { return };
    calls_left.set(left.checked_sub(1).filter(|left| *left > 0));
    if left <= 1 {
        let text = "it has served the calls of wsgi_max_requests".to_owned();
        retirement.request(Reason { text, level: Level::Notice, can_wait: true });
    }
}

/// A call was given up. If it does not end soon the worker retires, to be rid of its thread.
pub fn expect_end(call: CallHandle) {
    if let Some(retirement) = RETIREMENT.get() {
        retirement.state.get().given_up.borrow_mut().push((call, Instant::now()));
        retirement.timer.arm(GRACE);
    }
}

/// There is new code, for which this worker is to retire if that can be loaded: when it is its turn, `try_it` is called,
/// and then [`tried`]. On the event loop thread.
pub fn recycle_if_loadable(reason: String, try_it: fn()) {
    let Some(retirement) = RETIREMENT.get() else { return };
    let mut code = retirement.state.get().code.borrow_mut();
    // A trial that is under way looks itself whether something has changed meanwhile.
    if matches!(*code, Code::Known | Code::Bad) {
        *code = Code::New { reason, try_it };
        drop(code);
        retirement.try_now();
        retirement.arm();
    }
}

/// New code was tried. On the event loop thread.
pub fn on_trial_result(verdict: Verdict) {
    let Some(retirement) = RETIREMENT.get() else { return };
    let code = &retirement.state.get().code;
    let was = code.replace(if verdict == Verdict::Bad { Code::Bad } else { Code::Known });
    match was {
        Code::OnTrial { reason } if verdict == Verdict::Good && !worker_process::is_exiting() => {
            retirement.leave(Level::Notice, &reason);
        }
        _ => {
            if let Some(lock) = &retirement.lock {
                lock.release();
            }
            retirement.try_now();
            retirement.arm();
        }
    }
}

fn look() {
    let Some(retirement) = RETIREMENT.get() else { return };
    let state = retirement.state.get();
    // Here the event loop runs: this worker takes connections.
    if retirement.is_loaded.load(Ordering::Relaxed)
        && let Some(lock) = &retirement.lock
    {
        lock.give_back();
    }
    let mut stuck = 0;
    state.given_up.borrow_mut().retain(|(call, since)| {
        let runs = call.is_running();
        let is_stuck = runs && since.elapsed() >= GRACE;
        stuck += usize::from(is_stuck);
        runs && !is_stuck
    });
    if stuck > 0 {
        let text = format!("{stuck} of its threads did not come back from calls that ran out of time");
        retirement.request(Reason { text, level: Level::Warn, can_wait: false });
    }
    if retirement.max_memory > 0
        && state.reason.borrow().as_ref().is_none_or(|reason| reason.can_wait)
        && let Some(memory) = worker_process::resident_memory()
        && memory > retirement.max_memory
    {
        let (memory, limit) = (memory >> 20, retirement.max_memory >> 20);
        let text = format!("it uses {memory} MB of memory, more than the {limit} MB of wsgi_max_memory");
        retirement.request(Reason { text, level: Level::Notice, can_wait: false });
    }
    retirement.try_now();
    retirement.arm();
}

impl Recycler {
    /// Wants this worker to retire; the first reason counts, unless it can wait and this one cannot.
    fn request(&'static self, reason: Reason) {
        let known = &self.state.get().reason;
        if known.borrow().as_ref().is_none_or(|known| known.can_wait && !reason.can_wait) {
            known.replace(Some(reason));
        }
        self.try_now();
        self.arm();
    }

    /// Retires, or has new code tried for that, if there is a reason and it is this worker's turn.
    fn try_now(&self) {
        let state = self.state.get();
        if state.is_done.get() || worker_process::is_exiting() {
            return;
        }
        let (reason, mut code) = (state.reason.borrow(), state.code.borrow_mut());
        let reason = reason.as_ref().filter(|reason| !(reason.can_wait && matches!(*code, Code::Bad)));
        let is_new = matches!(*code, Code::New { .. });
        if reason.is_none() && !is_new || matches!(*code, Code::OnTrial { .. }) {
            return;
        }
        let Some(lock) = &self.lock else {
            state.is_done.set(true);
            let reason = reason.map_or("", |reason| &reason.text);
            let message = format!("wsgi: {reason}; with \"master_process off\" nobody would start another worker");
            return Log::cycle().write(Level::Warn, &message);
        };
        if !lock.take() {
            return;
        }
        match std::mem::take(&mut *code) {
            Code::New { reason, try_it } => {
                *code = Code::OnTrial { reason };
                try_it();
            }
            _ => {
                if let Some(Reason { text, level, .. }) = reason {
                    self.leave(*level, text);
                }
            }
        }
    }

    fn leave(&self, level: Level, reason: &str) {
        self.state.get().is_done.set(true);
        Log::cycle().write(level, &format!("wsgi: this worker retires after its calls: {reason}"));
        worker_process::quit();
    }

    /// Arms the timer for what there is to look after.
    fn arm(&'static self) {
        let state = self.state.get();
        if self.lock.as_ref().is_some_and(|lock| lock.predecessor().is_some()) {
            self.timer.arm(SUCCESSION);
        }
        if state.is_done.get() {
            return;
        }
        if matches!(*state.code.borrow(), Code::New { .. }) {
            self.timer.arm(RETRY_FOR_CODE);
        } else if state.reason.borrow().is_some() || !state.given_up.borrow().is_empty() {
            self.timer.arm(RETRY);
        } else if self.max_memory > 0 {
            self.timer.arm(MEMORY_PERIOD);
        }
    }
}

/// The right to retire, which one worker has at a time: a word that all workers share.
struct RecycleLock {
    word: &'static AtomicU64,
    holder: LockHolder,
}

/// Who has the token: process and place among the workers; and since when, in seconds of the system's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LockHolder {
    process: u32,
    place: u16,
    since: u32,
}

/// A holder that is dead has a successor that loads its applications for at most so long, or there will be none.
const LONGEST_SUCCESSION: u32 = 60;

impl LockHolder {
    const PROCESS_BITS: u32 = 22;
    const PLACE_BITS: u32 = 10;

    /// As a word that is not 0. The system's process numbers are below 2²², nginx's workers at most 1024.
    fn to_word(self) -> u64 {
        let process = u64::from(self.process) & ((1 << Self::PROCESS_BITS) - 1);
        let place = u64::from(self.place) & ((1 << Self::PLACE_BITS) - 1);
        process | place << Self::PROCESS_BITS | u64::from(self.since) << (Self::PROCESS_BITS + Self::PLACE_BITS)
    }

    fn from_word(word: u64) -> Option<Self> {
        (word != 0).then_some(Self {
            process: (word & ((1 << Self::PROCESS_BITS) - 1)) as u32,
            place: (word >> Self::PROCESS_BITS & ((1 << Self::PLACE_BITS) - 1)) as u16,
            since: (word >> (Self::PROCESS_BITS + Self::PLACE_BITS)) as u32,
        })
    }

    /// Whether the token is lost with it.
    fn has_lost_it(self, now: u32, is_alive: impl Fn(u32) -> bool) -> bool {
        now.saturating_sub(self.since) > LONGEST_SUCCESSION && !is_alive(self.process)
    }
}

impl RecycleLock {
    fn of_this_worker(word: &'static AtomicU64) -> Self {
        let holder =
            LockHolder { process: std::process::id(), place: worker_process::worker_number() as u16, since: 0 };
        Self { word, holder }
    }

    /// Whether this worker has it now.
    fn take(&self) -> bool {
        let now = now();
        let current = self.word.load(Ordering::Acquire);
        // What the worker had that was in this place before may go on to this one, as nobody else is missing.
        let is_free = LockHolder::from_word(current).is_none_or(|holder| {
            holder.place == self.holder.place || holder.has_lost_it(now, worker_process::is_alive)
        });
        let mine = LockHolder { since: now, ..self.holder }.to_word();
        is_free && self.word.compare_exchange(current, mine, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The worker that has it ends now; what its successor may take is counted from here.
    fn renew(&self) {
        let current = self.word.load(Ordering::Acquire);
        if let Some(holder) = LockHolder::from_word(current).filter(|holder| holder.process == self.holder.process) {
            let renewed = LockHolder { since: now(), ..holder }.to_word();
            // If it has changed, somebody else has it, rightly; so below.
            let _ = self.word.compare_exchange(current, renewed, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Gives back what this worker has, as it stays.
    fn release(&self) {
        let current = self.word.load(Ordering::Acquire);
        if LockHolder::from_word(current).is_some_and(|holder| holder.process == self.holder.process) {
            let _ = self.word.compare_exchange(current, 0, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// The word, if the worker has it that was in this place before.
    fn predecessor(&self) -> Option<u64> {
        let current = self.word.load(Ordering::Acquire);
        let holder = LockHolder::from_word(current)?;
        (holder.place == self.holder.place && holder.process != self.holder.process).then_some(current)
    }

    /// Gives back what that worker had.
    fn give_back(&self) {
        if let Some(current) = self.predecessor() {
            let _ = self.word.compare_exchange(current, 0, Ordering::AcqRel, Ordering::Acquire);
        }
    }
}

/// Seconds of the system's time, the same in all processes.
fn now() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as u32)
}

/// A number from 0 to `most`, another one in each worker.
fn random_up_to(most: u64) -> u64 {
    most.checked_add(1).map_or_else(worker_process::random, |count| worker_process::random() % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(word: &'static AtomicU64, process: u32, place: u16) -> RecycleLock {
        RecycleLock { word, holder: LockHolder { process, place, since: 0 } }
    }

    #[test]
    fn a_holder_comes_out_of_its_word_as_it_went_in() {
        for holder in [
            LockHolder { process: 1, place: 0, since: 0 },
            LockHolder { process: (1 << 22) - 1, place: 1023, since: u32::MAX },
            LockHolder { process: 4711, place: 7, since: 1_800_000_000 },
        ] {
            assert_eq!(LockHolder::from_word(holder.to_word()), Some(holder));
        }
        assert_eq!(LockHolder::from_word(0), None);
    }

    #[test]
    fn a_holder_that_lives_or_has_just_gone_keeps_the_token() {
        let holder = LockHolder { process: 1, place: 0, since: 1000 };
        assert!(!holder.has_lost_it(9000, |_| true));
        assert!(!holder.has_lost_it(1000 + LONGEST_SUCCESSION, |_| false));
        assert!(holder.has_lost_it(1001 + LONGEST_SUCCESSION, |_| false));
    }

    #[test]
    fn the_successor_in_the_same_place_gives_it_back() {
        static WORD: AtomicU64 = AtomicU64::new(0);
        let (first, other, successor) = (lock(&WORD, 10, 3), lock(&WORD, 11, 4), lock(&WORD, 12, 3));
        assert!(first.take());
        assert!(!other.take());
        other.give_back();
        first.give_back();
        assert!(!other.take());
        successor.give_back();
        assert!(other.take());
    }

    #[test]
    fn the_successor_may_retire_at_once() {
        static WORD: AtomicU64 = AtomicU64::new(0);
        let (first, other, successor) = (lock(&WORD, 10, 3), lock(&WORD, 11, 4), lock(&WORD, 12, 3));
        assert!(first.take());
        assert!(successor.take());
        assert!(!other.take());
    }

    #[test]
    fn a_holder_that_stays_gives_it_back() {
        static WORD: AtomicU64 = AtomicU64::new(0);
        let (first, other) = (lock(&WORD, 10, 3), lock(&WORD, 11, 4));
        assert!(first.take());
        other.release();
        assert!(!other.take());
        first.release();
        assert!(other.take());
    }

    #[test]
    fn jitter_stays_in_its_bounds() {
        for _ in 0..100 {
            assert!(random_up_to(3) <= 3);
        }
        assert_eq!(random_up_to(0), 0);
    }
}
