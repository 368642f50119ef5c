//! `wsgi_threads N`: calls run on pool threads, in an interpreter or in copies of it; a main thread of its own starts each
//! and loads applications.
//!
//! The event loop thread only hands over plain data and never takes the GIL.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use rustc_hash::FxHashMap;

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

/// The engine of one interpreter and its copies.
#[derive(Clone)]
pub struct Threads {
    shared: Arc<Shared>,
}

struct Shared {
    /// Has a crew of threads for each copy.
    queue: Queue<Work>,
    /// By the numbers of the applications. Locked after the pool, if both are.
    stages: Mutex<FxHashMap<usize, Stage>>,
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
    /// From its start to its end.
    world: Mutex<Option<Arc<World>>>,
    pool_threads: Mutex<Vec<JoinHandle<()>>>,
    turns: Turns,
    /// To the thread that looks into its calls, once there was one to look into.
    watch: Mutex<Option<Sender<Inspection>>>,
    /// Those of the two above.
    helpers: Mutex<Vec<JoinHandle<()>>>,
}

/// What a pool thread does next.
enum Work {
    Start(Arc<Application>, Call),
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

/// How far an application is: `Unloaded → Loading → Loaded`, and back to what it was when loading fails. The main threads
/// of the copies own the steps out of `Loading`; the calls that come meanwhile are held in the pool, so that no thread of it
/// is held by a slow import.
#[derive(Default)]
enum Stage {
    #[default]
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
    Load(Arc<Application>),
    /// What has changed of an application that is loaded.
    Reload(Arc<Application>),
    /// What was to be loaded at the start has been.
    Started(Box<dyn FnOnce() + Send>),
    ShutDown {
        limit: Duration,
        done: Sender<()>,
    },
    /// To end the interpreter when its calls have ended.
    End {
        limit: Duration,
    },
}

/// A call that has been handed over, and may still wait or run.
#[derive(Clone)]
pub struct Ticket {
    shared: Arc<Shared>,
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
        preloaded: &[Arc<Application>],
        started: impl Fn() + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let loading = |application: &Arc<Application>| {
            (application.number(), Stage::Loading { left: plans.len(), failure: None })
        };
        let stages = Mutex::new(preloaded.iter().map(loading).collect());
        let queue = Queue::new(Pool::new(count, plans.len()));
        let mut all_commands = Vec::new();
        let copies = plans.into_iter().map(|plan| {
            let (main, commands) = mpsc::channel();
            for application in preloaded {
                // The receiver is right here.
                let _ = main.send(Command::Load(application.clone()));
            }
            let _ = main.send(Command::Started(Box::new(started.clone())));
            all_commands.push(commands);
            Interpreter::new(plan, main)
        });
        let shared = Arc::new(Shared { queue, stages, copies: copies.collect(), idle: Condvar::new() });
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
    pub fn submit(&self, application: &Arc<Application>, call: Call, queue: usize) -> Result<Ticket, Call> {
        let mut pool = self.shared.lock();
        if !pool.has_room(queue) {
            return Err(call);
        }
        let number = call.number;
        let mut stages = self.shared.stages();
        let stage = stages.entry(application.number()).or_default();
        if matches!(stage, Stage::Unloaded) {
            application.note_files();
            // They need the lock of the pool to go on, so the call is there first.
            if !self.shared.tell_all(|| Command::Load(application.clone())) {
                return Err(call);
            }
            *stage = Stage::Loading { left: self.shared.copies.len(), failure: None };
        }
        if matches!(stage, Stage::Loaded) {
            pool.push(number, Work::Start(application.clone(), call));
            self.shared.queue.wake_one(pool);
        } else {
            pool.hold(number, Work::Start(application.clone(), call));
        }
        Ok(Ticket { shared: self.shared.clone(), number })
    }

    /// Loads what has changed of an application; calls that come from now on wait for it. If it is being loaded just now,
    /// that is to be asked for again. `note` notes its files.
    pub fn reload(&self, application: &Arc<Application>, note: impl FnOnce()) {
        // The pool's lock first, as in `submit`.
        let _pool = self.shared.lock();
        let mut stages = self.shared.stages();
        let stage = stages.entry(application.number()).or_default();
        if !matches!(stage, Stage::Loaded) {
            return;
        }
        note();
        if self.shared.tell_all(|| Command::Reload(application.clone())) {
            *stage = Stage::Loading { left: self.shared.copies.len(), failure: None };
        }
    }

    /// Whether an application is loaded in all copies; `None` while that goes on.
    pub fn has_loaded(&self, application: &Application) -> Option<bool> {
        match self.shared.stages().get(&application.number()) {
            Some(Stage::Loading { .. }) => None,
            stage => Some(matches!(stage, Some(Stage::Loaded))),
        }
    }

    /// No more calls will come: the interpreters end when the last of their calls have, each with what its applications
    /// want run at the end, for which they have `limit`. Returns at once.
    pub fn retire(&self, limit: Duration) {
        self.shared.lock().retire();
        self.shared.queue.wake_all();
        for interpreter in &self.shared.copies {
            // A main thread that has ended by a panic has nothing to end.
            let _ = interpreter.main.send(Command::End { limit });
        }
    }

    /// Whether all its interpreters have ended.
    pub fn has_ended(&self) -> bool {
        // Nobody but its main thread may release the last reference to a world.
        self.shared.copies.iter().all(|interpreter| lock(&interpreter.world).is_none())
    }
}

/// Ends all interpreters of a worker: waits for running calls, for at most `calls`, then runs what the applications want
/// run at the end, in all of them at the same time; at most about `limit` in all. `meanwhile` is called again and again.
/// Calls that have not started are dropped, and applications that have not begun to be loaded are not loaded any more;
/// calls that only have to be ended are ended, and those that have run out of time are not waited for.
pub fn shut_down(all: Vec<Threads>, calls: Duration, limit: Duration, meanwhile: impl Fn()) {
    const TURN: Duration = Duration::from_millis(5);
    let start = Instant::now();
    let dropped: Vec<_> = all.iter().map(|threads| threads.shared.lock().close()).collect();
    // However long the calls took, there is some time for close(): a call that waits for its client ends as soon as it is
    // told that nobody does.
    let calls = calls.max(limit / 2).min(limit);
    for Threads { shared } in &all {
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
        let call = self.shared.lock().cancel(self.number);
        // The lock is not held any more.
        drop(call);
    }

    /// Logs the Python stack of the call after `headline`, if it still runs.
    pub fn log_stack(&self, headline: String, sink: Arc<dyn Sink>) {
        self.shared.inspect(Inspection { call: self.number, headline, sink, raise: false });
    }

    /// Nobody waits for the call any more: logs its stack after `headline`, raises `RequestTimeout` in it, and lets
    /// another thread serve in place of its own until it is over.
    pub fn give_up(&self, headline: String, sink: Arc<dyn Sink>) {
        let substitute = self.shared.lock().give_up(self.number);
        if let Some(substitute) = substitute {
            self.shared.start_thread(substitute);
        }
        self.shared.inspect(Inspection { call: self.number, headline, sink, raise: true });
    }

    /// Whether the call runs.
    pub fn is_running(&self) -> bool {
        self.shared.lock().thread_of(self.number, false).is_some()
    }
}

impl Interpreter {
    fn new(plan: Plan, main: Sender<Command>) -> Self {
        Self {
            plan,
            main,
            world: Mutex::default(),
            pool_threads: Mutex::default(),
            turns: Turns::default(),
            watch: Mutex::default(),
            helpers: Mutex::default(),
        }
    }

    fn world(&self) -> Option<Arc<World>> {
        lock(&self.world).clone()
    }

    /// Waits for the pool threads, as long as it `has_members`, and then for the others but the main thread.
    fn join_threads(&self, has_members: impl Fn() -> bool) {
        join(&self.pool_threads);
        while has_members() {
            // A substitute for one that has come back meanwhile is just being started.
            thread::sleep(Duration::from_millis(1));
            join(&self.pool_threads);
        }
        self.turns.end();
        drop(lock(&self.watch).take());
        join(&self.helpers);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes a thread that is to be waited for.
fn note(threads: &Mutex<Vec<JoinHandle<()>>>, thread: JoinHandle<()>) {
    let mut threads = lock(threads);
    threads.retain(|thread| !thread.is_finished());
    threads.push(thread);
}

/// Waits for the threads, and those that come meanwhile.
fn join(threads: &Mutex<Vec<JoinHandle<()>>>) {
    loop {
        let left = std::mem::take(&mut *lock(threads));
        if left.is_empty() {
            return;
        }
        for thread in left {
            // A panic of it is in the log.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pool<Work>> {
        self.queue.lock()
    }

    fn stages(&self) -> MutexGuard<'_, FxHashMap<usize, Stage>> {
        lock(&self.stages)
    }

    fn inspect(self: &Arc<Self>, inspection: Inspection) {
        let copy = self.lock().crew_of(inspection.call);
        // It has ended meanwhile.
        let Some(copy) = copy else { return };
        let interpreter = &self.copies[copy];
        let mut watch = lock(&interpreter.watch);
        let watch = watch.get_or_insert_with(|| {
            let (sender, inspections) = mpsc::channel();
            let shared = self.clone();
            let name = format!("{}-watch", interpreter.plan.threads());
            match spawn(name, move || shared.watch(copy, &inspections)) {
                Ok(thread) => note(&interpreter.helpers, thread),
                Err(error) => log::error(&format!("cannot start the thread that looks into calls: {error}")),
            }
            sender
        });
        // Without the thread there is no stack, which is in the log.
        let _ = watch.send(inspection);
    }

    /// Whether the main threads of all copies are told: not if one has ended, by a panic, and would never do it.
    fn tell_all(&self, command: impl Fn() -> Command) -> bool {
        self.copies.iter().all(|copy| copy.main.send(command()).is_ok())
    }

    /// What only has to be ended goes before what has not begun.
    fn resume(&self, parked: Parked) {
        let mut pool = self.lock();
        let (number, copy) = (parked.number, parked.copy);
        pool.resume(number, Work::Resume(parked), copy);
        self.queue.wake_one(pool);
    }

    fn call_ended(&self, py: Python<'_>, member: usize) {
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
            self.queue.wake_all();
        }
    }

    /// Starts a pool thread; not before its interpreter is started.
    fn start_thread(self: &Arc<Self>, member: usize) {
        let (copy, number) = self.lock().place_of(member);
        let interpreter = &self.copies[copy];
        let Some(world) = interpreter.world() else { return self.lock().leave(member) };
        let shared = self.clone();
        let name = format!("{}-{number}", interpreter.plan.threads());
        match spawn(name.clone(), move || pool_thread(&shared, world, copy, member, &name.into())) {
            Ok(thread) => note(&interpreter.pool_threads, thread),
            Err(error) => {
                log::error(&format!("cannot start a pool thread: {error}"));
                self.lock().leave(member);
            }
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
        match spawn(format!("{}-turns", plan.threads()), give) {
            Ok(thread) => note(&self.copies[copy].helpers, thread),
            Err(error) => {
                log::error(&format!("cannot start the thread that gives other interpreters their turn: {error}"));
            }
        }
    }

    /// The thread that looks into the calls of `copy`. It waits for the GIL, which a call in C code may keep for long.
    fn watch(&self, copy: usize, inspections: &Receiver<Inspection>) {
        let Some(world) = self.copies[copy].world() else { return };
        let mut resident = world.home.resident();
        for inspection in inspections {
            resident.attach(|py| self.look(py, &world, inspection));
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

/// The main thread of an interpreter: stays as long as that.
fn main_thread(shared: &Arc<Shared>, configuration: &Configuration, copy: usize, commands: Receiver<Command>) {
    let interpreter = &shared.copies[copy];
    match World::start(configuration, &interpreter.plan) {
        Ok((world, mut resident)) => {
            let world = Arc::new(world);
            *lock(&interpreter.world) = Some(world.clone());
            shared.start_turns(copy, world.home);
            let members = shared.lock().members_of(copy);
            members.for_each(|member| shared.start_thread(member));
            // A reference to the receiver may not cross into `detach`, a lock around it may.
            let commands = Mutex::new(commands);
            resident.attach(|py| serve(py, shared, copy, world, &commands));
            // Its world is released, and no other thread of ours is in it.
            if let Err(threads) = resident.end() {
                log::error(&format!(
                    "interpreter \"{}\" stays in memory though it has been replaced: {threads} threads that its \
                     application has started do not end",
                    interpreter.plan.name
                ));
            }
        }
        Err(error) => {
            log::error(&error);
            for command in commands {
                match command {
                    Command::Load(application) | Command::Reload(application) => {
                        after_loading(shared, &application, Err(error.clone()));
                    }
                    Command::Started(then) => then(),
                    Command::ShutDown { done, .. } => drop(done.send(())),
                    Command::End { .. } => break,
                }
            }
        }
    }
}

/// Does what the main thread of an interpreter is told; returns when that is to be ended, and has released all of it.
fn serve(py: Python<'_>, shared: &Arc<Shared>, copy: usize, world: Arc<World>, commands: &Mutex<Receiver<Command>>) {
    let interpreter = &shared.copies[copy];
    while let Ok(command) = py.detach(|| lock(commands).recv()) {
        match command {
            // The worker ends: nobody waits for what has not begun to be loaded.
            Command::Load(_) if py.detach(|| shared.lock().is_closed()) => {}
            Command::Load(application) => {
                // Another copy may have failed when this one did not.
                let is_loaded = world.loader.has(&application);
                let is_replacement = interpreter.plan.is_replacement;
                let loaded = if is_loaded { Ok(()) } else { world.loader.load(py, &application, is_replacement) };
                py.detach(|| after_loading(shared, &application, loaded));
            }
            Command::Reload(application) => {
                // Whether or not, something is loaded.
                world.loader.reload(py, &application);
                py.detach(|| after_loading(shared, &application, Ok(())));
            }
            Command::Started(then) => py.detach(then),
            Command::ShutDown { limit, done } => {
                world.interpreter.shut_down(py, limit);
                let _ = done.send(());
            }
            Command::End { limit } => {
                py.detach(|| interpreter.join_threads(|| shared.lock().has_members(copy)));
                world.interpreter.shut_down(py, limit);
                // Neither under the lock, nor anywhere but in here.
                let last = lock(&interpreter.world).take();
                drop((last, world));
                return;
            }
        }
    }
}

/// Once all copies have reported: lets the calls go on that waited for an application, or refuses them.
fn after_loading(shared: &Shared, application: &Arc<Application>, loaded: Result<(), String>) {
    // The pool's lock first, as in `submit`.
    let mut pool = shared.lock();
    let mut stages = shared.stages();
    let stage = stages.entry(application.number()).or_default();
    let Stage::Loading { left, failure } = stage else { return };
    *left -= 1;
    *failure = failure.take().or(loaded.err());
    if *left > 0 {
        return;
    }
    let failure = failure.take();
    *stage = if failure.is_none() { Stage::Loaded } else { Stage::Unloaded };
    drop(stages);
    let calls = pool.take_held(|work| matches!(work, Work::Start(held, _) if Arc::ptr_eq(held, application)));
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
fn pool_thread(shared: &Arc<Shared>, world: Arc<World>, copy: usize, member: usize, name: &Arc<str>) {
    let thread = Thread { shared, world: &world, copy, name };
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
                        Work::Start(application, call) => thread.start(py, &application, call),
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
    });
    // Not after it has left: its main thread is to release the last reference.
    drop(world);
    shared.lock().leave(member);
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
    fn start(&self, py: Python<'_>, application: &Application, call: Call) -> Option<Finished> {
        let Self { shared, world, copy, name } = *self;
        let exchange = call.exchange.clone();
        if !exchange.start(name, &shared.copies[copy].plan.name) {
            exchange.closed();
            return None;
        }
        guarded(&exchange.clone(), || {
            let Some(callable) = world.loader.callable(py, application) else {
                call.refuse("the application is not loaded");
                return None;
            };
            let number = call.number;
            let since = application.look_at_clock();
            let running = call.start(py, &world.vocabulary, &callable);
            let finished = run(py, Parked { number, running, exchange, shared: shared.clone(), copy });
            world.loader.note_modules(py, application, since);
            finished
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
                call.shared.lock().go_away();
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
