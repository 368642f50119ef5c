//! State that all threads of a pool share.

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

/// State of a pool.
pub(super) struct Shared {
    /// Has one group of threads for each copy.
    pub(super) scheduler: SharedScheduler<Job>,
    /// By the numbers of the applications. Locked after the scheduler, if both are.
    pub(super) load_states: Mutex<FxHashMap<usize, LoadState>>,
    /// At least one.
    pub(super) copies: Vec<InterpreterCopy>,
    /// Signalled when the last running call has ended.
    pub(super) idle: Condvar,
}

/// One copy of the interpreter. All copies have the same applications.
pub(super) struct InterpreterCopy {
    pub(super) spec: InterpreterSpec,
    /// Channel to the main thread.
    pub(super) commands: Sender<Command>,
    /// The interpreter, from its start to its end.
    pub(super) prepared: Mutex<Option<Arc<PreparedInterpreter>>>,
    pub(super) pool_threads: JoinHandles,
    pub(super) gil_yielder: GilYielder,
    /// Channel to the stack dump thread, which starts with the first stack dump.
    pub(super) stack_dumps: Mutex<Option<Sender<StackDump>>>,
    /// The GIL yield thread and the stack dump thread.
    pub(super) helper_threads: JoinHandles,
}

/// Call that a pool thread runs.
pub(super) enum Job {
    Start(Arc<Application>, Call),
    /// A call whose file has been sent, or whose client has left.
    Resume(SuspendedCall),
}

/// Call that waits until nginx has sent its file.
pub(super) struct SuspendedCall {
    pub(super) number: CallNumber,
    pub(super) running: Running,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) shared: Arc<Shared>,
    /// The copy that the call runs in.
    pub(super) copy: usize,
}

/// State of an application: `Unloaded → Loading → Loaded`, or back to `Unloaded` after a failure.
///
/// The main threads of the copies end the state `Loading`. Until then the scheduler keeps the calls of the application,
/// so that a slow import holds no pool thread.
#[derive(Default)]
pub(super) enum LoadState {
    #[default]
    Unloaded,
    Loading {
        /// Number of copies that have not reported yet.
        left: usize,
        /// Traceback of the first failure.
        failure: Option<String>,
    },
    /// Loaded in all copies.
    Loaded,
}

/// Command to the main thread of an interpreter.
pub(super) enum Command {
    Load(Arc<Application>),
    /// Loads the changed modules of a loaded application.
    Reload(Arc<Application>),
    /// Calls the function. It stands behind the applications to load at the start.
    NotifyStarted(Box<dyn FnOnce() + Send>),
    /// Runs the shutdown functions of the applications. The process ends soon.
    ShutDown {
        limit: Duration,
        done: Sender<()>,
    },
    /// Ends the interpreter after its last call.
    End {
        limit: Duration,
    },
}

/// Order to log the stack of a call.
pub(super) struct StackDump {
    pub(super) call: CallNumber,
    /// First line of the log entry.
    pub(super) headline: String,
    pub(super) sink: Arc<dyn Sink>,
    /// Raises `RequestTimeout` in the call, which is aborted.
    pub(super) raises: bool,
}

/// Threads to join before the interpreter ends.
#[derive(Default)]
pub(super) struct JoinHandles(Mutex<Vec<JoinHandle<()>>>);

impl JoinHandles {
    /// Adds a thread.
    pub(super) fn push(&self, thread: JoinHandle<()>) {
        let mut threads = self.0.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Joins all threads, including those that are added meanwhile.
    fn join_all(&self) {
        loop {
            let left = std::mem::take(&mut *self.0.lock());
            if left.is_empty() {
                return;
            }
            for thread in left {
                // A panic of the thread is in the log.
                let _ = thread.join();
            }
        }
    }
}

impl InterpreterCopy {
    pub(super) fn new(spec: InterpreterSpec, commands: Sender<Command>) -> Self {
        Self {
            spec,
            commands,
            prepared: Mutex::default(),
            pool_threads: JoinHandles::default(),
            gil_yielder: GilYielder::default(),
            stack_dumps: Mutex::default(),
            helper_threads: JoinHandles::default(),
        }
    }

    pub(super) fn prepared(&self) -> Option<Arc<PreparedInterpreter>> {
        self.prepared.lock().clone()
    }

    /// Joins the pool threads as long as the copy `has_threads`, then all other threads except the main thread.
    pub(super) fn join_threads(&self, has_threads: impl Fn() -> bool) {
        self.pool_threads.join_all();
        while has_threads() {
            // A replacement thread is about to start, though the thread that it replaces has returned.
            thread::sleep(Duration::from_millis(1));
            self.pool_threads.join_all();
        }
        self.gil_yielder.stop();
        drop(self.stack_dumps.lock().take());
        self.helper_threads.join_all();
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Scheduler<Job>> {
        self.scheduler.lock()
    }

    pub(super) fn load_states(&self) -> MutexGuard<'_, FxHashMap<usize, LoadState>> {
        self.load_states.lock()
    }

    /// Sends a command to the main threads of all copies. Returns false if one of them has ended by a panic.
    pub(super) fn send_to_all(&self, command: impl Fn() -> Command) -> bool {
        self.copies.iter().all(|copy| copy.commands.send(command()).is_ok())
    }

    /// Lets a pool thread continue a suspended call.
    pub(super) fn resume(&self, suspended: SuspendedCall) {
        let mut scheduler = self.lock();
        let (number, copy) = (suspended.number, suspended.copy);
        scheduler.resume(number, Job::Resume(suspended), copy);
        self.scheduler.wake_one(scheduler);
    }
}
