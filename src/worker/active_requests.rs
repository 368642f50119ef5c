//! Active requests of a worker: keeps the process alive while they run, checks their limits, and aborts them at shutdown.

use std::cell::{Cell, RefCell};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

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
    requests: RefCell<FxHashMap<CallNumber, Weak<dyn ActiveRequest>>>,
    next: Cell<CallNumber>,
    /// Time of the first check after the worker was told to quit.
    quit: Cell<Option<Instant>>,
}

/// Registration of an active request. It ends with [`ActiveGuard::leave`], or when the request is dropped on the event
/// loop thread without having got that far.
pub struct ActiveGuard {
    requests: &'static ActiveRequests,
    number: CallNumber,
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
        let mut requests = registry.requests.borrow_mut();
        requests.insert(number, request);
        let wait = soonest.map_or(PERIOD, |soonest| soonest.min(PERIOD));
        // Otherwise the timer is armed already, and early enough.
        if requests.len() == 1 || wait < PERIOD {
            self.timer.arm(wait);
        }
        ActiveGuard { requests: self, number, has_left: Cell::new(false) }
    }

    fn all(&self) -> Vec<Arc<dyn ActiveRequest>> {
        self.registry.get().requests.borrow().values().filter_map(Weak::upgrade).collect()
    }

    /// Checks the limits of all active requests, and aborts them after the shutdown timeout.
    pub fn on_timer(&'static self) {
        let registry = self.registry.get();
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

    /// Ends the registration: the call may go on, but the worker does not wait for it.
    pub fn leave(&self) {
        if self.has_left.replace(true) {
            return;
        }
        let mut requests = self.requests.registry.get().requests.borrow_mut();
        requests.remove(&self.number);
        if requests.is_empty() {
            self.requests.timer.disarm();
        }
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.leave();
    }
}
