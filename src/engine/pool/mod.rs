//! `wsgi_threads N`: calls run on pool threads, in an interpreter or in copies of it; a main thread of its own starts each
//! and loads applications.
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
use shared::{Command, InterpreterCopy, Job, Shared, Stage};

use super::interpreter::{Configuration, InterpreterSpec};
use super::spawn;
use crate::app::application::Application;
use crate::sync::{Condvar, Mutex};
use crate::wsgi::call::Call;
use scheduler::Scheduler;
use shared_scheduler::SharedScheduler;

/// The engine of one interpreter and its copies.
#[derive(Clone)]
pub struct ThreadPool {
    shared: Arc<Shared>,
}

impl ThreadPool {
    /// Starts the main thread of each interpreter, which starts that, `count` pool threads in it, loads `preloaded` in
    /// order, and then calls `started`, also when any of that has failed. `plans` has an interpreter and its copies.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        configuration: Configuration,
        specs: Vec<InterpreterSpec>,
        count: usize,
        preloaded: &[Arc<Application>],
        started: impl Fn() + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let loading = |application: &Arc<Application>| {
            (application.number(), Stage::Loading { left: specs.len(), failure: None })
        };
        let stages = Mutex::new(preloaded.iter().map(loading).collect());
        let queue = SharedScheduler::new(Scheduler::new(count, specs.len()));
        let mut all_commands = Vec::new();
        let copies = specs.into_iter().map(|spec| {
            let (main, commands) = mpsc::channel();
            for application in preloaded {
                // The receiver is right here.
                let _ = main.send(Command::Load(application.clone()));
            }
            let _ = main.send(Command::Started(Box::new(started.clone())));
            all_commands.push(commands);
            InterpreterCopy::new(spec, main)
        });
        let shared = Arc::new(Shared { queue, stages, copies: copies.collect(), idle: Condvar::new() });
        for (copy, commands) in all_commands.into_iter().enumerate() {
            let (on_thread, configuration) = (shared.clone(), configuration.clone());
            let name = shared.copies[copy].spec.main_thread();
            spawn(name, move || main_thread(&on_thread, &configuration, copy, commands))?;
        }
        Ok(Self { shared })
    }

    /// Hands over a call, of which `queue` may wait for a thread. On the event loop thread; never waits.
    ///
    /// # Errors
    /// The call, when too many wait already.
    pub fn enqueue(&self, application: &Arc<Application>, call: Call, queue: usize) -> Result<CallHandle, Call> {
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
            pool.push(number, Job::Start(application.clone(), call));
            self.shared.queue.wake_one(pool);
        } else {
            pool.hold(number, Job::Start(application.clone(), call));
        }
        Ok(CallHandle { shared: self.shared.clone(), number })
    }

    /// Loads what has changed of an application; calls that come from now on wait for it. If it is being loaded just now,
    /// that is to be asked for again. `note` notes its files.
    pub fn reload(&self, application: &Arc<Application>, note: impl FnOnce()) {
        // The pool's lock first, as in `enqueue`.
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
    pub fn drain(&self, limit: Duration) {
        self.shared.lock().drain();
        self.shared.queue.wake_all();
        for interpreter in &self.shared.copies {
            // A main thread that has ended by a panic has nothing to end.
            let _ = interpreter.main.send(Command::End { limit });
        }
    }

    /// Whether all its interpreters have ended.
    pub fn has_ended(&self) -> bool {
        // Nobody but its main thread may release the last reference to a world.
        self.shared.copies.iter().all(|interpreter| interpreter.prepared.lock().is_none())
    }
}

/// Ends all interpreters of a worker: waits for running calls, for at most `calls`, then runs what the applications want
/// run at the end, in all of them at the same time; at most about `limit` in all. `meanwhile` is called again and again.
/// Calls that have not started are dropped, and applications that have not begun to be loaded are not loaded any more;
/// calls that only have to be ended are ended, and those that have run out of time are not waited for.
pub fn shut_down(all: Vec<ThreadPool>, calls: Duration, limit: Duration, meanwhile: impl Fn()) {
    const TURN: Duration = Duration::from_millis(5);
    let start = Instant::now();
    let dropped: Vec<_> = all.iter().map(|threads| threads.shared.lock().close()).collect();
    // However long the calls took, there is some time for close(): a call that waits for its client ends as soon as it is
    // told that nobody does.
    let calls = calls.max(limit / 2).min(limit);
    for ThreadPool { shared } in &all {
        let mut pool = shared.lock();
        while (pool.is_running() || pool.is_ending()) && start.elapsed() < calls {
            pool = shared.idle.wait_timeout(pool, TURN);
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
