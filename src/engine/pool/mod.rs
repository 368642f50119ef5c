//! `wsgi_threads N`: calls run on pool threads, in an interpreter or in copies of it. Each copy has a main thread,
//! which starts the interpreter and loads applications.
//!
//! The event loop thread only hands over plain data and never takes the GIL.

mod call_handle;
mod gil_yield;
mod main_thread;
mod pool_thread;
mod scheduler;
mod shared;
mod shared_scheduler;

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

pub use call_handle::CallHandle;
use main_thread::main_thread;
pub use scheduler::PoolFigures;
use scheduler::Scheduler;
use shared::{Command, InterpreterCopy, Job, LoadState, Shared};
use shared_scheduler::SharedScheduler;

use super::interpreter::{EngineConfig, InterpreterSpec};
use super::thread::spawn;
use crate::app::application::Application;
use crate::python::threads::Gil;
use crate::sync::{Condvar, Mutex};
use crate::wsgi::call::{Call, CallNumber};

/// A call in the queue of a pool.
pub struct Queued {
    pub handle: CallHandle,
    /// The caller sends it soon, if there is one: until then perhaps no thread takes the call.
    pub wake_up: Option<WakeUp>,
    /// See [`ThreadPool::backlog`].
    pub backlog: usize,
}

/// Wake-up of the pool threads that are needed for the calls in the queue.
#[must_use]
pub struct WakeUp(Arc<Shared>);

impl WakeUp {
    /// Wakes the threads.
    pub fn send(self) {
        self.0.scheduler.wake_planned();
    }
}

/// Threads of an interpreter and its copies.
#[derive(Clone)]
pub struct ThreadPool {
    shared: Arc<Shared>,
}

impl ThreadPool {
    /// Starts a main thread for each of `specs`: an interpreter and its copies. Each main thread starts its interpreter
    /// with `count` pool threads, loads `preloaded` in order, and then calls `started`, after a failure as well.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(
        engine_config: EngineConfig,
        specs: Vec<InterpreterSpec>,
        count: usize,
        preloaded: &[Arc<Application>],
        started: impl Fn() + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let loading = |application: &Arc<Application>| {
            (application.number(), LoadState::Loading { left: specs.len(), failure: None })
        };
        let load_states = Mutex::new(preloaded.iter().map(loading).collect());
        let scheduler = SharedScheduler::new(Scheduler::new(count, specs.len()));
        let mut receivers = Vec::new();
        let copies = specs.into_iter().map(|spec| {
            let (commands, receiver) = mpsc::channel();
            for application in preloaded {
                // The receiver exists.
                let _ = commands.send(Command::Load(application.clone()));
            }
            let _ = commands.send(Command::NotifyStarted(Box::new(started.clone())));
            receivers.push(receiver);
            InterpreterCopy::new(spec, commands)
        });
        let copies = copies.collect();
        let shared = Arc::new(Shared { scheduler, load_states, copies, idle: Condvar::new() });
        for (copy, receiver) in receivers.into_iter().enumerate() {
            let (on_thread, engine_config) = (shared.clone(), engine_config.clone());
            let name = shared.copies[copy].spec.main_thread_name();
            spawn(name, move || main_thread(&on_thread, &engine_config, copy, receiver))?;
        }
        Ok(Self { shared })
    }

    /// Queues a call; `queue` calls may wait for a thread. Loads the application first if it is not loaded. On the
    /// event loop thread; never waits.
    ///
    /// # Errors
    /// The call, if too many wait already.
    pub fn enqueue(&self, application: &Arc<Application>, call: Call, queue: usize) -> Result<Queued, Call> {
        let mut scheduler = self.shared.lock();
        if !scheduler.has_room(queue) {
            return Err(call);
        }
        let number = call.number;
        let mut load_states = self.shared.load_states();
        let load_state = load_states.entry(application.number()).or_default();
        if matches!(load_state, LoadState::Unloaded) {
            application.note_files();
            // The main threads report under the lock of the scheduler, so they find the call.
            if !self.shared.send_to_all(|| Command::Load(application.clone())) {
                return Err(call);
            }
            *load_state = LoadState::Loading { left: self.shared.copies.len(), failure: None };
        }
        let job = Job::Start(application.clone(), call);
        let mut wakes = false;
        let is_loaded = matches!(load_state, LoadState::Loaded);
        if is_loaded {
            scheduler.push(number, job);
            wakes = scheduler.plan_wake_up();
        } else {
            scheduler.push_awaiting_import(number, job);
        }
        let backlog = scheduler.backlog();
        if is_loaded && scheduler.is_plan_full() {
            self.shared.scheduler.wake_one(scheduler);
        }
        let wake_up = wakes.then(|| WakeUp(self.shared.clone()));
        Ok(Queued { handle: CallHandle { shared: self.shared.clone(), number }, wake_up, backlog })
    }

    /// Returns 0 if a thread is free for one more call, and otherwise the place in the queue that it would get, from 1.
    pub fn backlog(&self) -> usize {
        self.shared.lock().backlog()
    }

    /// Returns the handle of a call that runs in this pool.
    pub fn running(&self, number: CallNumber) -> Option<CallHandle> {
        let handle = CallHandle { shared: self.shared.clone(), number };
        handle.is_running().then_some(handle)
    }

    /// Returns what the threads do, and the number of calls that wait for one. On any thread.
    pub fn figures(&self) -> PoolFigures {
        self.shared.lock().figures()
    }

    /// Returns name and GIL of the interpreter, and the number of its copies.
    pub fn interpreter(&self) -> (&str, Gil, usize) {
        let (copies, spec) = (self.shared.copies.len(), &self.shared.copies[0].spec);
        let name =
            if copies > 1 { spec.name.split_once('#').map_or(&*spec.name, |(name, _)| name) } else { &spec.name };
        (name, spec.gil(), copies)
    }

    /// Loads the changed modules of an application; later calls wait for that. `note` notes its files before. Does
    /// nothing while the application is being loaded: call it again after that.
    pub fn reload(&self, application: &Arc<Application>, note: impl FnOnce()) {
        // The lock of the scheduler first, as in `enqueue`.
        let _scheduler = self.shared.lock();
        let mut load_states = self.shared.load_states();
        let load_state = load_states.entry(application.number()).or_default();
        if !matches!(load_state, LoadState::Loaded) {
            return;
        }
        note();
        if self.shared.send_to_all(|| Command::Reload(application.clone())) {
            *load_state = LoadState::Loading { left: self.shared.copies.len(), failure: None };
        }
    }

    /// Returns true if an application is loaded in all copies, `None` while it is being loaded.
    pub fn has_loaded(&self, application: &Application) -> Option<bool> {
        match self.shared.load_states().get(&application.number()) {
            Some(LoadState::Loading { .. }) => None,
            load_state => Some(matches!(load_state, Some(LoadState::Loaded))),
        }
    }

    /// Lets each interpreter end after the last call, with `limit` for its shutdown functions. No more calls come.
    /// Returns at once.
    pub fn drain(&self, limit: Duration) {
        self.shared.lock().drain();
        self.shared.scheduler.wake_all();
        for interpreter in &self.shared.copies {
            // A main thread that has ended by a panic has nothing to end.
            let _ = interpreter.commands.send(Command::End { limit });
        }
    }

    /// Returns true if all copies have ended.
    pub fn has_ended(&self) -> bool {
        // Without a reference of its own: a main thread must be the one to release the last reference.
        self.shared.copies.iter().all(|interpreter| interpreter.prepared.lock().is_none())
    }
}

/// Shuts down all pools of a worker: waits for running calls, for `calls` at most, then runs the shutdown functions of
/// all interpreters at the same time. Takes about `limit` at most. Calls `meanwhile` repeatedly.
///
/// Calls that have not started are dropped, and imports that have not started are skipped. Suspended calls run
/// `close()`. Aborted calls are not waited for.
pub fn shut_down(pools: Vec<ThreadPool>, calls: Duration, limit: Duration, meanwhile: impl Fn()) {
    const INTERVAL: Duration = Duration::from_millis(5);
    let start = Instant::now();
    let dropped: Vec<_> = pools.iter().map(|pool| pool.shared.lock().close()).collect();
    // At least half of `limit` is for close(): a call that waits for its client ends as soon as it gets the disconnect.
    let calls = calls.max(limit / 2).min(limit);
    for ThreadPool { shared } in &pools {
        let mut scheduler = shared.lock();
        while (scheduler.has_running_calls() || scheduler.has_closing_calls()) && start.elapsed() < calls {
            scheduler = shared.idle.wait_timeout(scheduler, INTERVAL);
            drop(scheduler);
            meanwhile();
            scheduler = shared.lock();
        }
    }
    drop(dropped);
    let (done, all_done) = mpsc::channel();
    let left = limit.saturating_sub(start.elapsed());
    let interpreters = pools.iter().flat_map(|pool| &pool.shared.copies);
    let notified = interpreters.filter(|interpreter| {
        let command = Command::ShutDown { limit: left, done: done.clone() };
        interpreter.commands.send(command).is_ok()
    });
    let mut waiting = notified.count();
    drop(done);
    while waiting > 0 && start.elapsed() < limit {
        match all_done.recv_timeout(INTERVAL) {
            Ok(()) => waiting -= 1,
            Err(RecvTimeoutError::Timeout) => meanwhile(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    meanwhile();
}
