//! `wsgi_threads N`: calls run on pool threads; a Python main thread of its own starts Python and loads applications.
//!
//! The event loop thread only hands over plain data and never takes the GIL.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::pool::{Next, Pool};
use super::python::{Configuration, World};
use super::queue::Queue;
use super::{guarded, spawn};
use crate::app::application::Application;
use crate::python::interrupt::ThreadId;
use crate::python::log::Sink;
use crate::python::{log, traceback};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::wsgi::call::{Call, CallNumber, Finished, Running};
use crate::wsgi::exchange::{Exchange, Suspended};
use crate::wsgi::response::Progress;

/// The engine. It lives as long as the worker.
pub struct Threads {
    shared: Arc<Shared>,
    main: Sender<Command>,
    /// To the thread that looks into calls, once there was one to look into.
    watch: OnceLock<Sender<Inspection>>,
}

struct Shared {
    queue: Queue<Work>,
    /// Signalled when the last running call has ended.
    idle: Condvar,
    /// Once Python is started.
    world: OnceLock<&'static World>,
}

/// What a pool thread does next.
enum Work {
    Start(Arc<Slot>, Call),
    /// A call whose file has been sent.
    Resume(Parked),
}

impl Work {
    fn is_resumed(&self) -> bool {
        matches!(self, Self::Resume(_))
    }
}

/// A call that waits for nginx to send its file.
struct Parked {
    number: CallNumber,
    running: Running,
    exchange: Arc<dyn Exchange>,
    shared: Arc<Shared>,
}

/// An application as the engine sees it.
pub struct Slot {
    application: Application,
    stage: Mutex<Stage>,
}

/// `Unloaded → Loading → Loaded`, and back to `Unloaded` when loading fails. The Python main thread owns the steps out
/// of `Loading`; the calls that come meanwhile are held in the pool, so that no thread of it is held by a slow import.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Unloaded,
    Loading,
    Loaded,
}

/// What the Python main thread is told to do.
enum Command {
    Load(Arc<Slot>),
    /// What was to be loaded at the start has been.
    Started(Box<dyn FnOnce() + Send>),
    ShutDown {
        limit: Duration,
        done: Sender<()>,
    },
}

/// A call that has been handed over, and may still wait or run.
#[derive(Clone, Copy)]
pub struct Ticket {
    threads: &'static Threads,
    number: CallNumber,
}

/// A look into a call that takes long.
struct Inspection {
    call: CallNumber,
    /// What the stack is logged with.
    headline: String,
    sink: Arc<dyn Sink>,
    /// Whether `RequestTimeout` is to be raised in it.
    raise: bool,
}

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
    /// Starts the Python main thread, which starts Python, `count` pool threads, loads `preloaded` in order, and then
    /// calls `started`, also when any of that has failed.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        configuration: Configuration,
        count: usize,
        preloaded: Vec<Arc<Slot>>,
        started: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared =
            Arc::new(Shared { queue: Queue::new(Pool::new(count)), idle: Condvar::new(), world: OnceLock::new() });
        let (main, commands) = mpsc::channel();
        for slot in preloaded {
            *slot.stage() = Stage::Loading;
            // The receiver is right here.
            let _ = main.send(Command::Load(slot));
        }
        let _ = main.send(Command::Started(Box::new(started)));
        let on_thread = shared.clone();
        spawn("wsgi-main".to_owned(), move || python_main(&on_thread, &configuration, count, commands))?;
        Ok(Self { shared, main, watch: OnceLock::new() })
    }

    /// Hands over a call, of which `queue` may wait for a thread. On the event loop thread; never waits.
    ///
    /// # Errors
    /// The call, when too many wait already.
    pub fn submit(&'static self, slot: &Arc<Slot>, call: Call, queue: usize) -> Result<Ticket, Call> {
        let mut pool = self.shared.lock();
        if !pool.has_room(queue) {
            return Err(call);
        }
        let number = call.number;
        let mut stage = slot.stage();
        if *stage == Stage::Unloaded {
            if self.main.send(Command::Load(slot.clone())).is_err() {
                // The main thread has ended by a panic: nobody would load anything.
                return Err(call);
            }
            // It needs the lock of the pool to go on, so the call is there first.
            *stage = Stage::Loading;
        }
        if *stage == Stage::Loading {
            pool.hold(number, Work::Start(slot.clone(), call));
        } else {
            pool.push(number, Work::Start(slot.clone(), call));
            self.shared.queue.wake_one(pool);
        }
        Ok(Ticket { threads: self, number })
    }

    /// Waits for running calls, for at most `calls`, then runs what the application wants run at the end; at most about
    /// `limit` in all. `meanwhile` is called again and again. Calls that have not started are dropped, those that only
    /// have to be ended are ended, and those that have run out of time are not waited for.
    pub fn shut_down(&self, calls: Duration, limit: Duration, meanwhile: impl Fn()) {
        const TURN: Duration = Duration::from_millis(5);
        let start = Instant::now();
        let mut pool = self.shared.lock();
        let dropped = pool.close(Work::is_resumed);
        // However long the calls took, there is some time for close(): a call that waits for its client ends as soon as it
        // is told that nobody does.
        let calls = calls.max(limit / 2).min(limit);
        while (pool.is_running() || pool.is_ending()) && start.elapsed() < calls {
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

impl Ticket {
    /// Takes the call back if no thread has taken it: it does not run, and its place is free.
    pub fn cancel(self) {
        let call = self.threads.shared.lock().cancel(self.number);
        // The lock is not held any more.
        drop(call);
    }

    /// Logs the Python stack of the call after `headline`, if it still runs.
    pub fn log_stack(self, headline: String, sink: Arc<dyn Sink>) {
        self.threads.inspect(Inspection { call: self.number, headline, sink, raise: false });
    }

    /// Nobody waits for the call any more: logs its stack after `headline`, raises `RequestTimeout` in it, and lets
    /// another thread serve in place of its own until it is over.
    pub fn give_up(self, headline: String, sink: Arc<dyn Sink>) {
        let Self { threads, number } = self;
        if let Some(substitute) = threads.shared.lock().give_up(number) {
            threads.shared.start_thread(substitute);
        }
        threads.inspect(Inspection { call: number, headline, sink, raise: true });
    }

    /// Whether the call runs.
    pub fn is_running(self) -> bool {
        self.threads.shared.lock().thread_of(self.number, false).is_some()
    }
}

impl Threads {
    fn inspect(&'static self, inspection: Inspection) {
        let watch = self.watch.get_or_init(|| {
            let (sender, inspections) = mpsc::channel();
            if let Err(error) = spawn("wsgi-watch".to_owned(), move || self.shared.watch(&inspections)) {
                log::error(&format!("cannot start the thread that looks into calls: {error}"));
            }
            sender
        });
        // Without the thread there is no stack, which is in the log.
        let _ = watch.send(inspection);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pool<Work>> {
        self.queue.lock()
    }

    /// What only has to be ended goes before what has not begun.
    fn resume(&self, parked: Parked) {
        let mut pool = self.lock();
        pool.resume(parked.number, Work::Resume(parked));
        self.queue.wake_one(pool);
    }

    fn call_ended(&self, py: Python<'_>, member: usize) {
        let mut pool = self.lock();
        let interrupted = pool.ended(member);
        let (drained, surplus) = (pool.is_drained(), pool.has_surplus());
        drop(pool);
        if let Some(thread) = interrupted {
            // From here on nothing more is raised in it, and what was is not to come up in its next call.
            thread.forgive(py);
        }
        if drained {
            self.idle.notify_all();
        }
        if surplus {
            self.queue.wake_all();
        }
    }

    /// Starts a pool thread; not before Python is started.
    fn start_thread(self: &Arc<Self>, member: usize) {
        let Some(world) = self.world.get().copied() else { return self.lock().leave(member) };
        let shared = self.clone();
        let name = format!("wsgi-{}", member + 1);
        if let Err(error) = spawn(name.clone(), move || pool_thread(&shared, world, member, &name.into())) {
            log::error(&format!("cannot start a pool thread: {error}"));
            self.lock().leave(member);
        }
    }

    /// The thread that looks into calls. It waits for the GIL, which a call in C code may keep for long.
    fn watch(&self, inspections: &Receiver<Inspection>) {
        let Some(world) = self.world.get() else { return };
        for inspection in inspections {
            Python::attach(|py| self.look(py, world, inspection));
        }
    }

    fn look(&self, py: Python<'_>, world: &World, inspection: Inspection) {
        let Inspection { call, headline, sink, raise } = inspection;
        let Some(thread) = self.lock().thread_of(call, raise) else { return };
        let stack = thread.stack(py, &world.interpreter);
        let timeout = world.interpreter.prelude(py, "RequestTimeout");
        {
            // While the stack was formatted, the thread may have gone on to another call.
            let pool = self.lock();
            if pool.thread_of(call, raise) != Some(thread) {
                return;
            }
            if raise && let Ok(timeout) = &timeout {
                thread.raise(timeout);
            }
        }
        py.detach(|| sink.write(log::Level::Error, &format!("{headline}\n{}", stack.trim_end())));
    }
}

/// The Python main thread: stays until the process ends.
fn python_main(shared: &Arc<Shared>, configuration: &Configuration, count: usize, commands: Receiver<Command>) {
    match World::start(configuration) {
        Ok(world) => {
            // It lives as long as the process, which never finalises Python.
            let world: &'static World = Box::leak(Box::new(world));
            shared.world.get_or_init(|| world);
            for member in 0..count {
                shared.start_thread(member);
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
                        Command::Started(then) => then(),
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
                    Command::Started(then) => then(),
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
    *slot.stage() = if loaded.is_ok() { Stage::Loaded } else { Stage::Unloaded };
    let calls = pool.take_held(|work| matches!(work, Work::Start(held, _) if Arc::ptr_eq(held, slot)));
    match loaded {
        Ok(()) => {
            for (number, work) in calls {
                pool.push(number, work);
            }
            shared.queue.wake_one(pool);
        }
        Err(traceback) => {
            drop(pool);
            for (_, work) in calls {
                if let Work::Start(_, call) = work {
                    let exchange = call.exchange.clone();
                    guarded(&exchange, || call.refuse(&traceback));
                }
            }
        }
    }
}

/// A pool thread: attached to its interpreter for its whole life, so that `threading.local` lasts from call to call.
fn pool_thread(shared: &Arc<Shared>, world: &World, member: usize, name: &Arc<str>) {
    Python::attach(|py| {
        if let Err(error) = world.interpreter.adopt_thread(py, name) {
            log::error(&traceback::format(&error, py));
        }
        shared.lock().join(member, ThreadId::current(py));
        let mut claimed = false;
        loop {
            // Only a thread that would sleep gives the GIL up: going on with it saves two hand-overs a call. And a call is
            // taken only with the GIL: until then another thread may do it.
            match shared.queue.next(member, claimed) {
                Next::Run(work) => {
                    claimed = false;
                    let finished = match work {
                        Work::Start(slot, call) => start(py, shared, world, &slot, call, name),
                        Work::Resume(parked) => {
                            let exchange = parked.exchange.clone();
                            exchange.go_on();
                            let finished = guarded(&exchange, || run(py, parked)).flatten();
                            shared.lock().resumed_has_ended();
                            finished
                        }
                    };
                    // In this order: a client that has its answer finds the thread free.
                    shared.call_ended(py, member);
                    if let Some(finished) = finished {
                        finished.close();
                    }
                }
                Next::Sleep => claimed = py.detach(|| shared.queue.sleep(member)),
                Next::End => break,
            }
        }
        shared.lock().leave(member);
    });
}

/// Starts a call, and returns what [`run`] does.
fn start(
    py: Python<'_>,
    shared: &Arc<Shared>,
    world: &World,
    slot: &Slot,
    call: Call,
    thread: &Arc<str>,
) -> Option<Finished> {
    let exchange = call.exchange.clone();
    if !exchange.start(thread) {
        exchange.closed();
        return None;
    }
    guarded(&exchange.clone(), || {
        let Some(callable) = slot.application.callable(py) else {
            call.refuse("the application is not loaded");
            return None;
        };
        let number = call.number;
        let running = call.start(py, &world.vocabulary, &callable);
        run(py, Parked { number, running, exchange, shared: shared.clone() })
    })?
}

/// Runs a call to its end, which is still to be told to its exchange, or until its file is to be sent: for that it needs no
/// thread.
fn run(py: Python<'_>, mut call: Parked) -> Option<Finished> {
    loop {
        match call.running.advance(py, None) {
            Progress::NoRoom => call.running.wait_for_room(py),
            Progress::TurnOver => {}
            Progress::File { body, last } => {
                call.exchange.clone().send_file(body, last, Box::new(call));
                return None;
            }
            Progress::Done => return Some(call.running.finish(py)),
        }
    }
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
