//! `wsgi_threads N`: calls run on pool threads, in an interpreter or in copies of it; a main thread of its own starts each
//! and loads applications.
//!
//! The event loop thread only hands over plain data and never takes the GIL.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::pool::{Next, Pool};
use super::python::{Configuration, Plan, World};
use super::queue::Queue;
use super::turns::Turns;
use super::{guarded, spawn};
use crate::app::application::Application;
use crate::python::interrupt::ThreadId;
use crate::python::log::Sink;
use crate::python::state::Home;
use crate::python::{log, traceback};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::wsgi::call::{Call, CallNumber, Finished, Running};
use crate::wsgi::exchange::{Exchange, Suspended};
use crate::wsgi::response::Progress;

/// The engine of one interpreter and its copies. It lives as long as the worker.
pub struct Threads {
    shared: Arc<Shared>,
}

struct Shared {
    /// Has a crew of threads for each copy.
    queue: Queue<Work>,
    /// At least one.
    copies: Vec<Interpreter>,
    /// Signalled when the last running call has ended.
    idle: Condvar,
}

/// One of the copies, all of which have the same applications.
struct Interpreter {
    plan: Plan,
    /// To its main thread.
    main: Sender<Command>,
    /// Once it is started.
    world: OnceLock<&'static World>,
    turns: Turns,
    /// To the thread that looks into its calls, once there was one to look into.
    watch: OnceLock<Sender<Inspection>>,
}

/// What a pool thread does next.
enum Work {
    Start(Arc<Slot>, Call),
    /// A call whose file has been sent.
    Resume(Parked),
}

/// A call that waits for nginx to send its file.
struct Parked {
    number: CallNumber,
    running: Running,
    exchange: Arc<dyn Exchange>,
    shared: Arc<Shared>,
    /// The copy that it runs in.
    copy: usize,
}

/// An application as the engine sees it.
pub struct Slot {
    application: Application,
    stage: Mutex<Stage>,
}

/// `Unloaded → Loading → Loaded`, and back to `Unloaded` when loading fails. The main threads of the copies own the steps
/// out of `Loading`; the calls that come meanwhile are held in the pool, so that no thread of it is held by a slow import.
enum Stage {
    Unloaded,
    Loading {
        /// Copies that have not reported yet.
        left: usize,
        /// The traceback of one that has failed.
        failure: Option<String>,
    },
    /// In all copies.
    Loaded,
}

/// What a main thread is told to do.
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
    /// Starts the main thread of each interpreter, which starts that, `count` pool threads in it, loads `preloaded` in
    /// order, and then calls `started`, also when any of that has failed. `plans` has an interpreter and its copies.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        configuration: Configuration,
        plans: Vec<Plan>,
        count: usize,
        preloaded: &[Arc<Slot>],
        started: impl Fn() + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        for slot in preloaded {
            *slot.stage() = Stage::Loading { left: plans.len(), failure: None };
        }
        let queue = Queue::new(Pool::new(count, plans.len()));
        let mut all_commands = Vec::new();
        let copies = plans.into_iter().map(|plan| {
            let (main, commands) = mpsc::channel();
            for slot in preloaded {
                // The receiver is right here.
                let _ = main.send(Command::Load(slot.clone()));
            }
            let _ = main.send(Command::Started(Box::new(started.clone())));
            all_commands.push(commands);
            let (world, watch) = (OnceLock::new(), OnceLock::new());
            Interpreter { plan, main, world, turns: Turns::default(), watch }
        });
        let shared = Arc::new(Shared { queue, copies: copies.collect(), idle: Condvar::new() });
        for (copy, commands) in all_commands.into_iter().enumerate() {
            let (on_thread, configuration) = (shared.clone(), configuration.clone());
            let name = shared.copies[copy].plan.main_thread();
            spawn(name, move || main_thread(&on_thread, &configuration, copy, commands))?;
        }
        Ok(Self { shared })
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
        if matches!(*stage, Stage::Unloaded) {
            let copies = &self.shared.copies;
            let left = copies.iter().filter(|copy| copy.main.send(Command::Load(slot.clone())).is_ok()).count();
            if left < copies.len() {
                // A main thread has ended by a panic: nobody would load anything.
                return Err(call);
            }
            // They need the lock of the pool to go on, so the call is there first.
            *stage = Stage::Loading { left, failure: None };
        }
        if matches!(*stage, Stage::Loaded) {
            pool.push(number, Work::Start(slot.clone(), call));
            self.shared.queue.wake_one(pool);
        } else {
            pool.hold(number, Work::Start(slot.clone(), call));
        }
        Ok(Ticket { threads: self, number })
    }
}

/// Ends all interpreters of a worker: waits for running calls, for at most `calls`, then runs what the applications want
/// run at the end, in all of them at the same time; at most about `limit` in all. `meanwhile` is called again and again.
/// Calls that have not started are dropped, and applications that have not begun to be loaded are not loaded any more;
/// calls that only have to be ended are ended, and those that have run out of time are not waited for.
pub fn shut_down(all: &[Threads], calls: Duration, limit: Duration, meanwhile: impl Fn()) {
    const TURN: Duration = Duration::from_millis(5);
    let start = Instant::now();
    let dropped: Vec<_> = all.iter().map(|threads| threads.shared.lock().close()).collect();
    // However long the calls took, there is some time for close(): a call that waits for its client ends as soon as it is
    // told that nobody does.
    let calls = calls.max(limit / 2).min(limit);
    for Threads { shared } in all {
        let mut pool = shared.lock();
        while (pool.is_running() || pool.is_ending()) && start.elapsed() < calls {
            pool = shared.idle.wait_timeout(pool, TURN).unwrap_or_else(PoisonError::into_inner).0;
            drop(pool);
            meanwhile();
            pool = shared.lock();
        }
    }
    drop(dropped);
    let (done, ended) = mpsc::channel();
    let left = limit.saturating_sub(start.elapsed());
    let interpreters = all.iter().flat_map(|threads| &threads.shared.copies);
    let told = interpreters.filter(|interpreter| {
        let command = Command::ShutDown { limit: left, done: done.clone() };
        interpreter.main.send(command).is_ok()
    });
    let mut waiting = told.count();
    drop(done);
    while waiting > 0 && start.elapsed() < limit {
        match ended.recv_timeout(TURN) {
            Ok(()) => waiting -= 1,
            Err(RecvTimeoutError::Timeout) => meanwhile(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    meanwhile();
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
        let substitute = threads.shared.lock().give_up(number);
        if let Some(substitute) = substitute {
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
        let shared = &self.shared;
        let copy = shared.lock().crew_of(inspection.call);
        // It has ended meanwhile.
        let Some(copy) = copy else { return };
        let watch = shared.copies[copy].watch.get_or_init(|| {
            let (sender, inspections) = mpsc::channel();
            let name = format!("{}-watch", shared.copies[copy].plan.threads());
            if let Err(error) = spawn(name, move || shared.watch(copy, &inspections)) {
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
        let (number, copy) = (parked.number, parked.copy);
        pool.resume(number, Work::Resume(parked), copy);
        self.queue.wake_one(pool);
    }

    fn call_ended(&self, py: Python<'_>, copy: usize, member: usize) {
        let mut pool = self.lock();
        let interrupted = pool.ended(member);
        let (drained, surplus) = (pool.is_drained(), pool.has_surplus(member));
        drop(pool);
        if let Some(thread) = interrupted {
            // From here on nothing more is raised in it, and what was is not to come up in its next call.
            thread.forgive(py);
        }
        if drained {
            self.idle.notify_all();
        }
        if surplus {
            self.queue.wake_all(copy);
        }
    }

    /// Starts a pool thread; not before its interpreter is started.
    fn start_thread(self: &Arc<Self>, member: usize) {
        let (copy, number) = self.lock().place_of(member);
        let Interpreter { world, plan, .. } = &self.copies[copy];
        let Some(world) = world.get().copied() else { return self.lock().leave(member) };
        let shared = self.clone();
        let name = format!("{}-{number}", plan.threads());
        if let Err(error) = spawn(name.clone(), move || pool_thread(&shared, world, copy, member, &name.into())) {
            log::error(&format!("cannot start a pool thread: {error}"));
            self.lock().leave(member);
        }
    }

    /// Starts the thread that gives other interpreters their turn, where one is needed.
    fn start_turns(self: &Arc<Self>, copy: usize, home: Home) {
        let plan = &self.copies[copy].plan;
        if !plan.needs_turns() {
            return;
        }
        let shared = self.clone();
        let give = move || shared.copies[copy].turns.give(home, || shared.lock().is_busy(copy));
        if let Err(error) = spawn(format!("{}-turns", plan.threads()), give) {
            log::error(&format!("cannot start the thread that gives other interpreters their turn: {error}"));
        }
    }

    /// The thread that looks into the calls of `copy`. It waits for the GIL, which a call in C code may keep for long.
    fn watch(&self, copy: usize, inspections: &Receiver<Inspection>) {
        let Some(world) = self.copies[copy].world.get() else { return };
        let mut resident = world.home.resident();
        for inspection in inspections {
            resident.attach(|py| self.look(py, world, inspection));
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

/// The main thread of an interpreter: stays until the process ends.
fn main_thread(shared: &Arc<Shared>, configuration: &Configuration, copy: usize, commands: Receiver<Command>) {
    let interpreter = &shared.copies[copy];
    match World::start(configuration, &interpreter.plan) {
        Ok((world, mut resident)) => {
            // It lives as long as the process, which never finalises Python.
            let world: &'static World = Box::leak(Box::new(world));
            interpreter.world.get_or_init(|| world);
            shared.start_turns(copy, world.home);
            let members = shared.lock().members_of(copy);
            members.for_each(|member| shared.start_thread(member));
            // A reference to the receiver may not cross into `detach`, a lock around it may.
            let commands = Mutex::new(commands);
            let next = || commands.lock().unwrap_or_else(PoisonError::into_inner).recv();
            resident.attach(|py| {
                while let Ok(command) = py.detach(next) {
                    match command {
                        // The worker ends: nobody waits for what has not begun to be loaded.
                        Command::Load(_) if py.detach(|| shared.lock().is_closed()) => {}
                        Command::Load(slot) => {
                            // Another copy may have failed when this one did not.
                            let is_loaded = world.loader.has(&slot.application);
                            let loaded = if is_loaded { Ok(()) } else { world.loader.load(py, &slot.application) };
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

/// Once all copies have reported: lets the calls go on that waited for an application, or refuses them.
fn after_loading(shared: &Shared, slot: &Arc<Slot>, loaded: Result<(), String>) {
    // The pool's lock first, as in `submit`.
    let mut pool = shared.lock();
    let mut stage = slot.stage();
    let Stage::Loading { left, failure } = &mut *stage else { return };
    *left -= 1;
    *failure = failure.take().or(loaded.err());
    if *left > 0 {
        return;
    }
    let failure = failure.take();
    *stage = if failure.is_none() { Stage::Loaded } else { Stage::Unloaded };
    drop(stage);
    let calls = pool.take_held(|work| matches!(work, Work::Start(held, _) if Arc::ptr_eq(held, slot)));
    match failure {
        None => {
            for (number, work) in calls {
                pool.push(number, work);
            }
            shared.queue.wake_one(pool);
        }
        Some(traceback) => {
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
fn pool_thread(shared: &Arc<Shared>, world: &World, copy: usize, member: usize, name: &Arc<str>) {
    let thread = Thread { shared, world, copy, name };
    world.home.resident().attach(|py| {
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
                    shared.copies[copy].turns.begin();
                    let finished = match work {
                        Work::Start(slot, call) => thread.start(py, &slot, call),
                        Work::Resume(parked) => {
                            let exchange = parked.exchange.clone();
                            exchange.go_on();
                            let finished = guarded(&exchange, || run(py, parked)).flatten();
                            shared.lock().resumed_has_ended();
                            finished
                        }
                    };
                    // In this order: a client that has its answer finds the thread free.
                    shared.call_ended(py, copy, member);
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

/// What a call is started with.
struct Thread<'a> {
    shared: &'a Arc<Shared>,
    world: &'a World,
    copy: usize,
    name: &'a Arc<str>,
}

impl Thread<'_> {
    /// Starts a call, and returns what [`run`] does.
    fn start(&self, py: Python<'_>, slot: &Slot, call: Call) -> Option<Finished> {
        let Self { shared, world, copy, name } = *self;
        let exchange = call.exchange.clone();
        if !exchange.start(name, &shared.copies[copy].plan.name) {
            exchange.closed();
            return None;
        }
        guarded(&exchange.clone(), || {
            let Some(callable) = world.loader.callable(py, &slot.application) else {
                call.refuse("the application is not loaded");
                return None;
            };
            let number = call.number;
            let running = call.start(py, &world.vocabulary, &callable);
            run(py, Parked { number, running, exchange, shared: shared.clone(), copy })
        })?
    }
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
