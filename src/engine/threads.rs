//! `wsgi_threads N`: calls run on pool threads; a Python main thread of its own starts Python and loads applications.
//!
//! The event loop thread only hands over plain data and never takes the GIL.

use std::collections::VecDeque;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::guarded;
use super::python::{Configuration, World};
use crate::app::application::Application;
use crate::python::{log, traceback};
use crate::wsgi::call::{Call, Running};
use crate::wsgi::exchange::{Exchange, Suspended};
use crate::wsgi::response::Progress;

/// The engine.
pub struct Threads {
    shared: Arc<Shared>,
    main: Sender<Command>,
}

struct Shared {
    pool: Mutex<Pool>,
    /// Signalled when there is work for a pool thread.
    work: Condvar,
    /// Signalled when the last running call has ended.
    idle: Condvar,
}

#[derive(Default)]
struct Pool {
    queue: VecDeque<Work>,
    /// Calls that wait to be started: in the queue, or for their application to be loaded.
    waiting: usize,
    running: usize,
    sleeping: usize,
    wake: Wake,
    closed: bool,
}

/// What a pool thread does next.
enum Work {
    Start(Arc<Slot>, Call),
    /// A call whose file has been sent.
    Resume(Parked),
}

/// A call that waits for nginx to send its file.
struct Parked {
    running: Running,
    exchange: Arc<dyn Exchange>,
    shared: Arc<Shared>,
}

/// Whether a sleeping pool thread has been told of work: `None → Sent → Claimed → None`.
///
/// Only one thread of an interpreter runs at a time, so one at a time is woken. It claims the wake-up, takes the GIL, then
/// a call, and wakes the next thread if more calls wait. Meanwhile the thread that has the GIL may go through the queue
/// alone; as soon as it lets go of it in a call, the woken one is there.
#[derive(Default, PartialEq, Eq)]
enum Wake {
    #[default]
    None,
    Sent,
    Claimed,
}

/// An application as the engine sees it.
pub struct Slot {
    application: Application,
    stage: Mutex<Stage>,
}

/// `Unloaded → Loading → Loaded`, and back to `Unloaded` when loading fails. The Python main thread owns the steps out
/// of `Loading`; the calls that came meanwhile wait in it, so that no pool thread is held by a slow import.
enum Stage {
    Unloaded,
    Loading(Vec<Call>),
    Loaded,
}

/// What the Python main thread is told to do.
enum Command {
    Load(Arc<Slot>),
    ShutDown { limit: Duration, done: Sender<()> },
}

/// Calls that may wait in a worker.
const LONGEST_QUEUE: usize = 1000;

/// As a thread of `python` itself has it; deep recursion must end in RecursionError and not in a crash.
const STACK_SIZE: usize = 8 * 1024 * 1024;

impl Slot {
    /// An application that is not loaded.
    pub fn new(application: Application) -> Arc<Self> {
        Arc::new(Self { application, stage: Mutex::new(Stage::Unloaded) })
    }

    /// The application.
    pub fn application(&self) -> &Application {
        &self.application
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Threads {
    /// Starts the Python main thread, which starts Python, `count` pool threads, and loads `preloaded` in order.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(configuration: Configuration, count: usize, preloaded: Vec<Arc<Slot>>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { pool: Mutex::new(Pool::default()), work: Condvar::new(), idle: Condvar::new() });
        let (main, commands) = mpsc::channel();
        for slot in preloaded {
            *slot.stage() = Stage::Loading(Vec::new());
            // The receiver is right here.
            let _ = main.send(Command::Load(slot));
        }
        let on_thread = shared.clone();
        spawn("wsgi-main".to_owned(), move || python_main(&on_thread, &configuration, count, commands))?;
        Ok(Self { shared, main })
    }

    /// Hands over a call. On the event loop thread; never waits.
    ///
    /// # Errors
    /// The call, when too many wait already.
    pub fn submit(&self, slot: &Arc<Slot>, call: Call) -> Result<(), Call> {
        let mut pool = self.shared.lock();
        if pool.waiting >= LONGEST_QUEUE || pool.closed {
            return Err(call);
        }
        pool.waiting += 1;
        match &mut *slot.stage() {
            Stage::Loaded => self.shared.enqueue(pool, slot.clone(), call),
            Stage::Loading(calls) => calls.push(call),
            stage @ Stage::Unloaded => {
                if self.main.send(Command::Load(slot.clone())).is_err() {
                    // The main thread has ended by a panic: nobody would load anything.
                    pool.waiting -= 1;
                    return Err(call);
                }
                // It needs the lock of the stage to go on, so the call is there first.
                *stage = Stage::Loading(vec![call]);
            }
        }
        Ok(())
    }

    /// Waits for running calls, for at most `calls`, then runs what the application wants run at the end; at most about
    /// `limit` in all. `meanwhile` is called again and again. Calls that have not started are dropped.
    pub fn shut_down(&self, calls: Duration, limit: Duration, meanwhile: impl Fn()) {
        const TURN: Duration = Duration::from_millis(5);
        let start = Instant::now();
        let mut pool = self.shared.lock();
        pool.closed = true;
        let dropped = std::mem::take(&mut pool.queue);
        while pool.running > 0 && start.elapsed() < calls.min(limit) {
            pool = self.shared.idle.wait_timeout(pool, TURN).unwrap_or_else(PoisonError::into_inner).0;
            drop(pool);
            meanwhile();
            pool = self.shared.lock();
        }
        drop(pool);
        drop(dropped);
        let (done, ended) = mpsc::channel();
        let left = limit.saturating_sub(start.elapsed());
        if self.main.send(Command::ShutDown { limit: left, done }).is_err() {
            return;
        }
        while ended.recv_timeout(TURN) == Err(RecvTimeoutError::Timeout) && start.elapsed() < limit {
            meanwhile();
        }
        meanwhile();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enqueue(&self, mut pool: MutexGuard<'_, Pool>, slot: Arc<Slot>, call: Call) {
        pool.queue.push_back(Work::Start(slot, call));
        self.wake_one(pool);
    }

    /// What only has to be ended goes before what has not begun.
    fn resume(&self, parked: Parked) {
        let mut pool = self.lock();
        pool.queue.push_front(Work::Resume(parked));
        self.wake_one(pool);
    }

    /// Wakes a pool thread if one sleeps and none is on its way.
    fn wake_one(&self, mut pool: MutexGuard<'_, Pool>) {
        if pool.wake == Wake::None && pool.sleeping > 0 && !pool.queue.is_empty() {
            pool.wake = Wake::Sent;
            drop(pool);
            self.work.notify_one();
        }
    }

    /// The next call if there is one; `claimed` by a thread that was woken for it.
    fn try_next(&self, claimed: bool) -> Option<Work> {
        let mut pool = self.lock();
        let next = pool.take();
        if claimed {
            pool.wake = Wake::None;
            self.wake_one(pool);
        }
        next
    }

    /// Sleeps until there is work; for good once the engine is closed.
    fn sleep(&self) {
        let mut pool = self.lock();
        // A call may have come since `try_next`, when this thread was not asleep.
        while pool.queue.is_empty() || pool.wake == Wake::Claimed {
            pool.sleeping += 1;
            pool = self.work.wait(pool).unwrap_or_else(PoisonError::into_inner);
            pool.sleeping -= 1;
            if pool.wake == Wake::Sent {
                break;
            }
        }
        pool.wake = Wake::Claimed;
    }

    fn call_ended(&self) {
        let mut pool = self.lock();
        pool.running -= 1;
        if pool.running == 0 && pool.closed {
            self.idle.notify_all();
        }
    }
}

impl Pool {
    fn take(&mut self) -> Option<Work> {
        let next = self.queue.pop_front()?;
        self.waiting -= usize::from(matches!(next, Work::Start(..)));
        self.running += 1;
        Some(next)
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    thread::Builder::new().name(name).stack_size(STACK_SIZE).spawn(body).map(drop)
}

/// The Python main thread: stays until the process ends.
fn python_main(shared: &Arc<Shared>, configuration: &Configuration, count: usize, commands: Receiver<Command>) {
    match World::start(configuration) {
        Ok(world) => {
            // It lives as long as the process, which never finalises Python.
            let world: &'static World = Box::leak(Box::new(world));
            for number in 1..=count {
                let on_thread = shared.clone();
                let name = format!("wsgi-{number}");
                if let Err(error) = spawn(name.clone(), move || pool_thread(&on_thread, world, &name)) {
                    log::error(&format!("cannot start pool thread {number} of {count}: {error}"));
                }
            }
            // A reference to the receiver may not cross into `detach`, a lock around it may.
            let commands = Mutex::new(commands);
            let next = || commands.lock().unwrap_or_else(PoisonError::into_inner).recv();
            Python::attach(|py| {
                while let Ok(command) = py.detach(next) {
                    match command {
                        Command::Load(slot) => {
                            let loaded = slot.application.load(py, &world.loader);
                            py.detach(|| after_loading(shared, &slot, loaded));
                        }
                        Command::ShutDown { limit, done } => {
                            world.interpreter.shut_down(py, limit);
                            let _ = done.send(());
                        }
                    }
                }
            });
        }
        Err(error) => {
            log::error(&error);
            for command in commands {
                match command {
                    Command::Load(slot) => after_loading(shared, &slot, Err(error.clone())),
                    Command::ShutDown { done, .. } => drop(done.send(())),
                }
            }
        }
    }
}

/// Lets the calls go on that waited for an application, or refuses them.
fn after_loading(shared: &Shared, slot: &Arc<Slot>, loaded: Result<(), String>) {
    // The pool's lock first, as in `submit`.
    let mut pool = shared.lock();
    let mut stage = slot.stage();
    let next = if loaded.is_ok() { Stage::Loaded } else { Stage::Unloaded };
    let Stage::Loading(calls) = std::mem::replace(&mut *stage, next) else {
        return;
    };
    drop(stage);
    match loaded {
        Ok(()) => {
            pool.queue.extend(calls.into_iter().map(|call| Work::Start(slot.clone(), call)));
            shared.wake_one(pool);
        }
        Err(traceback) => {
            pool.waiting -= calls.len();
            drop(pool);
            for call in calls {
                let exchange = call.exchange.clone();
                guarded(&exchange, || call.refuse(&traceback));
            }
        }
    }
}

/// A pool thread: attached to its interpreter for its whole life, so that `threading.local` lasts from call to call.
fn pool_thread(shared: &Arc<Shared>, world: &World, name: &str) {
    Python::attach(|py| {
        if let Err(error) = world.interpreter.adopt_thread(py, name) {
            log::error(&traceback::format(&error, py));
        }
        let mut claimed = false;
        loop {
            // Only a thread that would sleep gives the GIL up: going on with it saves two hand-overs a call. And a call is
            // taken only with the GIL: until then another thread may do it.
            let Some(work) = shared.try_next(claimed) else {
                py.detach(|| shared.sleep());
                claimed = true;
                continue;
            };
            claimed = false;
            match work {
                Work::Start(slot, call) => start(py, shared, world, &slot, call),
                Work::Resume(Parked { running, exchange, .. }) => {
                    guarded(&exchange.clone(), || run(py, shared, running, exchange));
                }
            }
            shared.call_ended();
        }
    });
}

fn start(py: Python<'_>, shared: &Arc<Shared>, world: &World, slot: &Slot, call: Call) {
    let exchange = call.exchange.clone();
    if exchange.is_disconnected() {
        exchange.closed();
        return;
    }
    guarded(&exchange.clone(), || {
        let Some(callable) = slot.application.callable(py) else {
            return call.refuse("the application is not loaded");
        };
        let running = call.start(py, &world.vocabulary, &callable);
        run(py, shared, running, exchange);
    });
}

/// Runs a call to its end, or until its file is to be sent: for that it needs no thread.
fn run(py: Python<'_>, shared: &Arc<Shared>, mut running: Running, exchange: Arc<dyn Exchange>) {
    loop {
        match running.advance(py, None) {
            Progress::NoRoom => running.wait_for_room(py),
            Progress::TurnOver => {}
            Progress::File { body, last } => {
                let parked = Parked { running, exchange: exchange.clone(), shared: shared.clone() };
                return exchange.send_file(body, last, Box::new(parked));
            }
            Progress::Done => break,
        }
    }
    running.finish(py);
}

impl Suspended for Parked {
    fn resume(self: Box<Self>) -> Option<Box<dyn Suspended>> {
        let shared = self.shared.clone();
        shared.resume(*self);
        None
    }

    fn abandon(self: Box<Self>) {
        // The thread that takes it finds nobody there.
        self.resume();
    }
}
