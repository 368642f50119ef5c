//! An interpreter of a worker, and those that come after it: the next is made beside the one that serves, and takes over
//! between two calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::interpreter::{Configuration, InterpreterSpec};
use super::pool::{CallHandle, ThreadPool};
use crate::app::application::Application;
use crate::sync::{Mutex, MutexGuard, RwLock};
use crate::wsgi::call::Call;

/// What an interpreter and its copies are made with.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    pub configuration: Configuration,
    /// One for each copy.
    pub specs: Vec<InterpreterSpec>,
    /// Scheduler threads of each.
    pub threads: usize,
}

/// The interpreter that serves, the one that is to, and those that only end.
pub struct InterpreterVersions {
    recipe: PoolConfig,
    serving: RwLock<ThreadPool>,
    next: Mutex<Option<Next>>,
    has_next: AtomicBool,
    leaving: Mutex<Vec<ThreadPool>>,
}

/// An interpreter that has loaded its application.
#[derive(Clone)]
pub struct Next {
    pub version: u64,
    threads: ThreadPool,
}

/// Why an interpreter is not to take over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unprepared {
    /// It could not be made, or not load its application, which is in the log.
    Failed,
    /// It has not loaded it, and there is no more use for it.
    Outdated,
}

impl InterpreterVersions {
    /// Starts the first, as [`ThreadPool::start`] does.
    ///
    /// # Errors
    /// As there.
    pub fn start(
        recipe: PoolConfig,
        preloaded: &[Arc<Application>],
        started: impl Fn() + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let PoolConfig { configuration, specs, threads } = recipe.clone();
        let first = ThreadPool::start(configuration, specs, threads, preloaded, started)?;
        Ok(Self {
            recipe,
            serving: RwLock::new(first),
            next: Mutex::default(),
            has_next: AtomicBool::new(false),
            leaving: Mutex::default(),
        })
    }

    /// See [`ThreadPool::submit`].
    ///
    /// # Errors
    /// As there.
    pub fn submit(&self, application: &Arc<Application>, call: Call, queue: usize) -> Result<CallHandle, Call> {
        // Under the lock: whoever retires an interpreter has taken it from here before.
        self.serving.read().submit(application, call, queue)
    }

    /// The one that serves.
    pub fn serving(&self) -> ThreadPool {
        self.serving.read().clone()
    }

    /// Makes another beside the one that serves, and waits until it has loaded the application, the only one here; or
    /// until `is_outdated`, which is asked now and then: an import may never end.
    ///
    /// # Errors
    /// Why there is none.
    pub fn prepare(
        &self,
        application: &Arc<Application>,
        version: u64,
        limit: Duration,
        is_outdated: impl Fn() -> bool,
    ) -> Result<Next, Unprepared> {
        const TURN: Duration = Duration::from_millis(250);
        let PoolConfig { configuration, mut specs, threads } = self.recipe.clone();
        specs.iter_mut().for_each(|spec| spec.is_replacement = true);
        let copies = specs.len();
        let (started, all_started) = mpsc::channel();
        let tell = move || {
            // Somebody waits below.
            let _ = started.send(());
        };
        let threads = ThreadPool::start(configuration, specs, threads, std::slice::from_ref(application), tell);
        let threads = threads.map_err(|error| {
            crate::python::log::error(&format!("cannot start a thread: {error}"));
            Unprepared::Failed
        })?;
        let mut missing = copies;
        while missing > 0 {
            match all_started.recv_timeout(TURN) {
                Ok(()) => missing -= 1,
                // A main thread has panicked.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if is_outdated() => {
                    // It ends when its import does; the worker does not wait for that.
                    threads.retire(limit);
                    return Err(Unprepared::Outdated);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        if threads.has_loaded(application) == Some(true) {
            return Ok(Next { version, threads });
        }
        self.end(threads, limit);
        Err(Unprepared::Failed)
    }

    /// This one is not to take over.
    pub fn drop_staged(&self, next: Next, limit: Duration) {
        self.end(next.threads, limit);
    }

    /// This one is to take over next.
    pub fn stage(&self, next: Next) {
        *self.next() = Some(next);
        self.has_next.store(true, Ordering::Release);
    }

    /// The version that is to take over next, if there is one. Costs next to nothing.
    pub fn staged_version(&self) -> Option<u64> {
        self.has_next.load(Ordering::Acquire).then(|| self.next().as_ref().map(|next| next.version)).flatten()
    }

    /// Lets that version take over; the one that served until now ends with its last call, and has `limit` for what is
    /// to be run then.
    pub fn activate(&self, version: u64, limit: Duration) {
        let Some(next) = self.take_next(version) else { return };
        let old = {
            let mut serving = self.serving.write();
            std::mem::replace(&mut *serving, next.threads)
        };
        self.end(old, limit);
    }

    /// That version will not take over.
    pub fn give_up(&self, version: u64, limit: Duration) {
        if let Some(next) = self.take_next(version) {
            self.end(next.threads, limit);
        }
    }

    fn take_next(&self, version: u64) -> Option<Next> {
        let taken = self.next().take_if(|next| next.version == version)?;
        self.has_next.store(false, Ordering::Release);
        Some(taken)
    }

    fn end(&self, threads: ThreadPool, limit: Duration) {
        threads.retire(limit);
        let mut leaving = self.leaving.lock();
        leaving.retain(|threads| !threads.has_ended());
        leaving.push(threads);
    }

    /// All there are, to be shut down.
    pub fn all(&self) -> Vec<ThreadPool> {
        let leaving = self.leaving.lock().clone();
        let next = self.next().as_ref().map(|next| next.threads.clone());
        std::iter::once(self.serving()).chain(next).chain(leaving).collect()
    }

    fn next(&self) -> MutexGuard<'_, Option<Next>> {
        self.next.lock()
    }
}
