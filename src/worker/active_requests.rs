//! Active requests of a worker: keeps the process alive while they run, checks their limits, and aborts them at shutdown.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::log_forms::LogContext;
use super::scoreboard;
use crate::conf::log::ApplicationLog;
use crate::nginx::log::{Level, Log};
use crate::nginx::thread_bound::EventLoopBound;
use crate::nginx::timer::Timer;
use crate::nginx::worker_process;
use crate::python::log;
use crate::wsgi::call::CallNumber;

/// Request whose call runs. All methods are called on the event loop thread.
pub trait ActiveRequest: Send + Sync {
    /// Takes the output that the call has produced.
    fn on_output(&self);

    /// Logs text with the context of the request.
    fn log_here(&self, level: log::Level, text: &str);

    /// Returns the facts about the request for records in the log of its application.
    fn log_context(&self, log: &ApplicationLog) -> Option<Arc<LogContext>>;

    /// Ends the request now, whatever its call does.
    fn abort(&self);

    /// Acts on limits that have expired. Returns the time until the next one can expire, if any can.
    fn check_limits(&self) -> Option<Duration>;
}

/// Registry of the active requests. All methods are called on the event loop thread.
pub struct ActiveRequests {
    registry: EventLoopBound<Registry>,
    /// Armed while a request is registered: a worker told to quit exits once no such timer is left, and a request that
    /// waits for a Python thread has none of its own.
    timer: Timer,
    shutdown_timeout: Duration,
}

#[derive(Default)]
struct Registry {
    requests: RefCell<Slots>,
    next: Cell<CallNumber>,
    /// Time of the first check after the worker was told to quit.
    quit: Cell<Option<Instant>>,
}

/// Active requests, each in a slot of its own until it leaves.
#[derive(Default)]
struct Slots {
    slots: Vec<Option<Weak<dyn ActiveRequest>>>,
    /// The slots that are free.
    free: Vec<usize>,
}

impl Slots {
    fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Returns the slot of `request`.
    fn add(&mut self, request: Weak<dyn ActiveRequest>) -> usize {
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(request);
                slot
            }
            None => {
                self.slots.push(Some(request));
                self.slots.len() - 1
            }
        }
    }

    fn remove(&mut self, slot: usize) {
        self.slots[slot] = None;
        self.free.push(slot);
    }
}

/// Registration of an active request. It ends with [`ActiveGuard::leave`], or when the request is dropped on the event
/// loop thread without having got that far.
pub struct ActiveGuard {
    requests: &'static ActiveRequests,
    number: CallNumber,
    slot: usize,
    has_left: Cell<bool>,
}

/// Longest interval between two checks of the active requests.
const PERIOD: Duration = Duration::from_millis(250);

impl ActiveRequests {
    /// Makes an empty registry. `on_timer` calls [`ActiveRequests::on_timer`]; requests still active `shutdown_timeout`
    /// after the worker was told to quit are aborted.
    pub fn new(shutdown_timeout: Duration, on_timer: fn()) -> Self {
        let registry = EventLoopBound::new(Registry::default());
        Self { registry, timer: Timer::new(true, on_timer), shutdown_timeout }
    }

    /// Registers an active request (which keeps the worker alive) and schedules its first limit check no later than
    /// `soonest`.
    pub fn enter(&'static self, request: Weak<dyn ActiveRequest>, soonest: Option<Duration>) -> ActiveGuard {
        let registry = self.registry.get();
        let number = registry.next.get();
        registry.next.set(number + 1);
        scoreboard::call_started();
        let mut requests = registry.requests.borrow_mut();
        let was_empty = requests.is_empty();
        let slot = requests.add(request);
        let wait = soonest.map_or(PERIOD, |soonest| soonest.min(PERIOD));
        // Otherwise the timer is armed already, and early enough.
        if was_empty || wait < PERIOD {
            self.timer.arm(wait);
        }
        ActiveGuard { requests: self, number, slot, has_left: Cell::new(false) }
    }

    fn all(&self) -> Vec<Arc<dyn ActiveRequest>> {
        self.registry.get().requests.borrow().slots.iter().flatten().filter_map(Weak::upgrade).collect()
    }

    /// Checks the limits of all active requests, and aborts them after the shutdown timeout.
    pub fn on_timer(&'static self) {
        let registry = self.registry.get();
        if registry.requests.borrow().is_empty() {
            return;
        }
        if worker_process::is_exiting() {
            let quit = registry.quit.get().unwrap_or_else(Instant::now);
            registry.quit.set(Some(quit));
            if quit.elapsed() >= self.shutdown_timeout {
                return self.abort_all();
            }
        }
        let wait = self.all().iter().filter_map(|request| request.check_limits()).fold(PERIOD, Duration::min);
        if !registry.requests.borrow().is_empty() {
            self.timer.arm(wait);
        }
    }

    fn abort_all(&self) {
        let requests = self.all();
        let count = requests.len();
        let message = format!("wsgi: aborting {count} calls still running after wsgi_shutdown_timeout");
        Log::cycle().write(Level::Warn, &message);
        for request in requests {
            request.abort();
        }
    }

    /// Returns the time that the worker has waited for its active requests since it was told to quit.
    pub fn waited(&self) -> Duration {
        self.registry.get().quit.get().map_or(Duration::ZERO, |quit| quit.elapsed())
    }
}

impl ActiveGuard {
    /// Returns the number of the call, which no other call of this worker has.
    pub fn number(&self) -> CallNumber {
        self.number
    }

    /// Ends the registration: the call may go on, but the worker does not wait for it. Returns false the second time.
    pub fn leave(&self) -> bool {
        if self.has_left.replace(true) {
            return false;
        }
        scoreboard::call_ended();
        let mut requests = self.requests.registry.get().requests.borrow_mut();
        requests.remove(self.slot);
        if requests.is_empty() {
            // Armed it stays, for the next request: to remove and add it with each would cost more.
            self.requests.timer.release_worker();
        }
        true
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.leave();
    }
}
