//! What other threads of a worker send to its event loop: answers to take, text for the error log.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::log_forward::{LogQueue, Record};
use crate::nginx::log::{Level, Log};
use crate::nginx::notify::{Notifier, NotifyHandler};
use crate::nginx::thread_bound::EventLoopBound;
use crate::nginx::timer::Timer;
use crate::nginx::worker_process;
use crate::python::log::{self, Sink};
use crate::wsgi::call::CallNumber;

/// A request that the event loop is told of.
pub trait ActiveRequest: Send + Sync {
    /// Takes what there is of its answer.
    fn on_output(&self);

    /// Logs text with its context.
    fn log_here(&self, level: log::Level, text: &str);

    /// Ends it now, whatever its call does.
    fn abort(&self);

    /// Does what its limits want done now. Returns in what time to look again at the latest, if ever.
    fn check_limits(&self) -> Option<Duration>;
}

/// What the event loop is told.
pub enum Message {
    /// There is something of an answer to take.
    Response(Arc<dyn ActiveRequest>),
    /// There are records in the log queue.
    Log,
    /// Something else that only its thread may do.
    Run(Box<dyn FnOnce() + Send>),
}

/// The event loop's side of a worker.
pub struct ActiveRequests {
    pub notifier: Notifier<Message>,
    log: LogQueue<Option<Arc<dyn ActiveRequest>>>,
    /// The requests whose calls are under way.
    calls: EventLoopBound<Calls>,
    /// Armed while there are any. A worker that is told to quit exits as soon as no timer that counts is left, and a
    /// request that waits for a Python thread has none of its own.
    timer: Timer,
    /// How long calls may go on after the worker was told to quit.
    shutdown_timeout: Duration,
}

#[derive(Default)]
struct Calls {
    under_way: RefCell<FxHashMap<CallNumber, Weak<dyn ActiveRequest>>>,
    next: Cell<CallNumber>,
    /// When the worker was seen to be told to quit.
    quit: Cell<Option<Instant>>,
}

/// How often at least the calls under way are looked at.
const PERIOD: Duration = Duration::from_millis(250);

impl ActiveRequests {
    /// The post of a worker. `tick` calls [`ActiveRequests::tick`]; calls that go on for `shutdown_timeout` after the worker was told
    /// to quit are given up.
    ///
    /// # Errors
    /// See [`Notifier::new`].
    pub fn new(shutdown_timeout: Duration, tick: fn()) -> io::Result<Self> {
        Ok(Self {
            notifier: Notifier::new()?,
            log: LogQueue::default(),
            calls: EventLoopBound::new(Calls::default()),
            timer: Timer::new(true, tick),
            shutdown_timeout,
        })
    }

    /// A call is under way, and keeps the worker; it is to be looked at after `soonest`, if anything can be due by then.
    /// On the event loop thread, as all but [`ActiveRequests::log`].
    pub fn enter(&'static self, request: Weak<dyn ActiveRequest>, soonest: Option<Duration>) -> CallNumber {
        let calls = self.calls.get();
        let number = calls.next.get();
        calls.next.set(number + 1);
        let mut under_way = calls.under_way.borrow_mut();
        under_way.insert(number, request);
        let wait = soonest.map_or(PERIOD, |soonest| soonest.min(PERIOD));
        // Otherwise the timer is armed, and early enough.
        if under_way.len() == 1 || wait < PERIOD {
            self.timer.arm(wait);
        }
        number
    }

    /// The request of a call is over.
    pub fn leave(&'static self, number: CallNumber) {
        let mut under_way = self.calls.get().under_way.borrow_mut();
        if under_way.remove(&number).is_some() && under_way.is_empty() {
            self.timer.disarm();
        }
    }

    fn under_way(&self) -> Vec<Arc<dyn ActiveRequest>> {
        self.calls.get().under_way.borrow().values().filter_map(Weak::upgrade).collect()
    }

    /// Looks at the calls under way: at their limits, and whether they still keep a worker that was told to quit.
    pub fn tick(&'static self) {
        let calls = self.calls.get();
        if worker_process::is_exiting() {
            let quit = calls.quit.get().unwrap_or_else(Instant::now);
            calls.quit.set(Some(quit));
            if quit.elapsed() >= self.shutdown_timeout {
                return self.abort_all();
            }
        }
        let wait = self.under_way().iter().filter_map(|request| request.check_limits()).fold(PERIOD, Duration::min);
        if !calls.under_way.borrow().is_empty() {
            self.timer.arm(wait);
        }
    }

    /// Ends the requests of all calls under way.
    fn abort_all(&self) {
        let requests = self.under_way();
        let count = requests.len();
        let message = format!("wsgi: {count} calls are given up, they did not end within wsgi_shutdown_timeout");
        Log::cycle().write(Level::Warn, &message);
        for request in requests {
            request.abort();
        }
    }

    /// How long the worker has waited for calls since it was told to quit.
    pub fn waited(&self) -> Duration {
        self.calls.get().quit.get().map_or(Duration::ZERO, |quit| quit.elapsed())
    }

    /// Logs text of another thread, of a request or of none.
    pub fn log(&self, source: Option<Arc<dyn ActiveRequest>>, level: log::Level, text: &str) {
        if self.log.push(Record { source, level, text: text.to_owned() }) {
            self.notifier.send(Message::Log);
        }
    }

    /// Writes what other threads have logged up to now. On the event loop thread.
    pub fn write_log(&self) {
        for Record { source, level, text } in self.log.take() {
            match source {
                Some(request) => request.log_here(level, &text),
                None => Log::cycle().write(level.into(), &text),
            }
        }
    }
}

impl NotifyHandler for ActiveRequests {
    type Message = Message;

    fn notifier(&self) -> &Notifier<Message> {
        &self.notifier
    }

    fn receive(&self, message: Message) {
        match message {
            Message::Response(request) => request.on_output(),
            Message::Log => self.write_log(),
            Message::Run(task) => task(),
        }
    }
}

impl From<log::Level> for Level {
    fn from(level: log::Level) -> Self {
        match level {
            log::Level::Crit => Self::Crit,
            log::Level::Error => Self::Error,
            log::Level::Warn => Self::Warn,
            log::Level::Notice => Self::Notice,
            log::Level::Info => Self::Info,
            log::Level::Debug => Self::Debug,
        }
    }
}

/// Text that belongs to no request: of an import, of a thread that an application started.
pub struct WorkerSink {
    requests: &'static ActiveRequests,
    event_loop: EventLoopBound<()>,
}

impl WorkerSink {
    /// On the event loop thread.
    pub fn new(requests: &'static ActiveRequests) -> Self {
        Self { requests, event_loop: EventLoopBound::new(()) }
    }
}

impl Sink for WorkerSink {
    fn write(&self, level: log::Level, text: &str) {
        if self.event_loop.is_here() {
            Log::cycle().write(level.into(), text);
        } else {
            self.requests.log(None, level, text);
        }
    }
}
