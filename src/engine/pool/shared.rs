//! What the threads of an interpreter and its copies have in common: the calls, the applications, each other.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::gil_yield::GilYielder;
use super::scheduler::Scheduler;
use super::shared_scheduler::SharedScheduler;
use crate::app::application::Application;
use crate::engine::interpreter::{InterpreterSpec, PreparedInterpreter};
use crate::python::log::Sink;
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::wsgi::call::{Call, CallNumber, Running};
use crate::wsgi::transport::Transport;

pub(super) struct Shared {
    /// Has a crew of threads for each copy.
    pub(super) queue: SharedScheduler<Job>,
    /// By the numbers of the applications. Locked after the pool, if both are.
    pub(super) stages: Mutex<FxHashMap<usize, Stage>>,
    /// At least one.
    pub(super) copies: Vec<InterpreterCopy>,
    /// Signalled when the last running call has ended.
    pub(super) idle: Condvar,
}

/// One of the copies, all of which have the same applications.
pub(super) struct InterpreterCopy {
    pub(super) spec: InterpreterSpec,
    /// To its main thread.
    pub(super) main: Sender<Command>,
    /// From its start to its end.
    pub(super) prepared: Mutex<Option<Arc<PreparedInterpreter>>>,
    pub(super) pool_threads: Mutex<Vec<JoinHandle<()>>>,
    pub(super) gil_yielder: GilYielder,
    /// To the thread that looks into its calls, once there was one to look into.
    pub(super) watch: Mutex<Option<Sender<StackDump>>>,
    /// Those of the two above.
    pub(super) helpers: Mutex<Vec<JoinHandle<()>>>,
}

/// What a pool thread does next.
pub(super) enum Job {
    Start(Arc<Application>, Call),
    /// A call whose file has been sent.
    Resume(SuspendedCall),
}

/// A call that waits for nginx to send its file.
pub(super) struct SuspendedCall {
    pub(super) number: CallNumber,
    pub(super) running: Running,
    pub(super) exchange: Arc<dyn Transport>,
    pub(super) shared: Arc<Shared>,
    /// The copy that it runs in.
    pub(super) copy: usize,
}

/// How far an application is: `Unloaded → Loading → Loaded`, and back to what it was when loading fails. The main threads
/// of the copies own the steps out of `Loading`; the calls that come meanwhile are held in the pool, so that no thread of it
/// is held by a slow import.
#[derive(Default)]
pub(super) enum Stage {
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
pub(super) enum Command {
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

/// A look into a call that takes long.
pub(super) struct StackDump {
    pub(super) call: CallNumber,
    /// What the stack is logged with.
    pub(super) headline: String,
    pub(super) sink: Arc<dyn Sink>,
    /// Whether `RequestTimeout` is to be raised in it.
    pub(super) raise: bool,
}

impl InterpreterCopy {
    pub(super) fn new(spec: InterpreterSpec, main: Sender<Command>) -> Self {
        Self {
            spec,
            main,
            prepared: Mutex::default(),
            pool_threads: Mutex::default(),
            gil_yielder: GilYielder::default(),
            watch: Mutex::default(),
            helpers: Mutex::default(),
        }
    }

    pub(super) fn prepared(&self) -> Option<Arc<PreparedInterpreter>> {
        self.prepared.lock().clone()
    }

    /// Waits for the pool threads, as long as it `has_threads`, and then for the others but the main thread.
    pub(super) fn join_threads(&self, has_threads: impl Fn() -> bool) {
        join(&self.pool_threads);
        while has_threads() {
            // A substitute for one that has come back meanwhile is just being started.
            thread::sleep(Duration::from_millis(1));
            join(&self.pool_threads);
        }
        self.gil_yielder.end();
        drop(self.watch.lock().take());
        join(&self.helpers);
    }
}

/// Notes a thread that is to be waited for.
pub(super) fn note(threads: &Mutex<Vec<JoinHandle<()>>>, thread: JoinHandle<()>) {
    let mut threads = threads.lock();
    threads.retain(|thread| !thread.is_finished());
    threads.push(thread);
}

/// Waits for the threads, and those that come meanwhile.
fn join(threads: &Mutex<Vec<JoinHandle<()>>>) {
    loop {
        let left = std::mem::take(&mut *threads.lock());
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
    pub(super) fn lock(&self) -> MutexGuard<'_, Scheduler<Job>> {
        self.queue.lock()
    }

    pub(super) fn stages(&self) -> MutexGuard<'_, FxHashMap<usize, Stage>> {
        self.stages.lock()
    }

    /// Whether the main threads of all copies are told: not if one has ended, by a panic, and would never do it.
    pub(super) fn tell_all(&self, command: impl Fn() -> Command) -> bool {
        self.copies.iter().all(|copy| copy.main.send(command()).is_ok())
    }

    /// What only has to be ended goes before what has not begun.
    pub(super) fn resume(&self, suspended: SuspendedCall) {
        let mut pool = self.lock();
        let (number, copy) = (suspended.number, suspended.copy);
        pool.resume(number, Job::Resume(suspended), copy);
        self.queue.wake_one(pool);
    }
}
