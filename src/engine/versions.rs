//! Versions of an interpreter: the active one, a staged one that replaces it, and replaced ones that still end.
//!
//! `wsgi_reload_mechanism interpreter` loads changed code in new interpreters, which get calls when the code is loaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::Interpreter;
use super::interpreter::{EngineConfig, InterpreterSpec};
use super::pool::{PoolFigures, ThreadPool};
use crate::app::application::Application;
use crate::python::log;
use crate::sync::{Mutex, MutexGuard, RwLock};

/// Parameters of the thread pool of each version.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    pub engine_config: EngineConfig,
    /// Specification of each copy of the interpreter.
    pub specs: Vec<InterpreterSpec>,
    /// Threads of each copy.
    pub threads: usize,
}

/// All versions of an interpreter. Used by any thread.
pub struct InterpreterVersions {
    config: PoolConfig,
    active: RwLock<ThreadPool>,
    staged: Mutex<Option<StagedVersion>>,
    /// `staged` is set. Read for each call, without the lock.
    has_staged: AtomicBool,
    /// Versions that end as soon as their last calls have.
    replaced: Mutex<Vec<ThreadPool>>,
}

/// A version that has loaded its application and does not get calls yet.
#[derive(Clone)]
pub struct StagedVersion {
    pub version: u64,
    pool: ThreadPool,
}

/// Reason why a version could not be prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unprepared {
    /// The application could not be loaded. The reason is in the log.
    Failed,
    /// The files have changed again.
    Outdated,
}

impl InterpreterVersions {
    /// Starts the first version, which loads `preloaded` at once and then calls `started` in each copy.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(
        config: PoolConfig,
        preloaded: &[Arc<Application>],
        started: impl Fn() + Clone + Send + 'static,
    ) -> std::io::Result<Self> {
        let PoolConfig { engine_config, specs, threads } = config.clone();
        let first = ThreadPool::start(engine_config, specs, threads, preloaded, started)?;
        Ok(Self {
            config,
            active: RwLock::new(first),
            staged: Mutex::default(),
            has_staged: AtomicBool::new(false),
            replaced: Mutex::default(),
        })
    }

    /// Calls `use_pool` with the active version, which is not replaced meanwhile.
    pub fn with_active<R>(&self, use_pool: impl FnOnce(&ThreadPool) -> R) -> R {
        use_pool(&self.active.read())
    }

    /// Returns the active version, which may be replaced at any time.
    pub fn active(&self) -> ThreadPool {
        self.active.read().clone()
    }

    /// Loads an application in a new version of the interpreter. Waits for the import, unless the version `is_outdated`
    /// before that ends. A failed version has `limit` to end.
    ///
    /// # Errors
    /// See [`Unprepared`].
    pub fn prepare(
        &self,
        application: &Arc<Application>,
        version: u64,
        limit: Duration,
        is_outdated: impl Fn() -> bool,
    ) -> Result<StagedVersion, Unprepared> {
        /// Interval between two calls of `is_outdated`.
        const INTERVAL: Duration = Duration::from_millis(250);
        let PoolConfig { engine_config, mut specs, threads } = self.config.clone();
        specs.iter_mut().for_each(|spec| spec.is_replacement = true);
        let copies = specs.len();
        let (started, all_started) = mpsc::channel();
        let notify = move || {
            // The receiver below is gone if the version is outdated.
            let _ = started.send(());
        };
        let pool = ThreadPool::start(engine_config, specs, threads, std::slice::from_ref(application), notify);
        let pool = pool.map_err(|error| {
            log::error(&format!("wsgi: cannot start a thread: {error}"));
            Unprepared::Failed
        })?;
        let mut missing = copies;
        while missing > 0 {
            match all_started.recv_timeout(INTERVAL) {
                Ok(()) => missing -= 1,
                // A main thread has panicked.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if is_outdated() => {
                    // The pool ends after its import, and the worker does not wait for it.
                    pool.drain(limit);
                    return Err(Unprepared::Outdated);
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        if pool.has_loaded(application) == Some(true) {
            return Ok(StagedVersion { version, pool });
        }
        self.end(pool, limit);
        Err(Unprepared::Failed)
    }

    /// Ends a prepared version that is not needed.
    pub fn discard(&self, prepared: StagedVersion, limit: Duration) {
        self.end(prepared.pool, limit);
    }

    /// Keeps a prepared version until it is activated or dropped.
    pub fn stage(&self, prepared: StagedVersion) {
        *self.staged() = Some(prepared);
        self.has_staged.store(true, Ordering::Release);
    }

    /// Returns the number of the staged version.
    pub fn staged_version(&self) -> Option<u64> {
        self.has_staged.load(Ordering::Acquire).then(|| self.staged().as_ref().map(|staged| staged.version)).flatten()
    }

    /// Replaces the active version by the staged one, if that is `version`. The replaced one has `limit` to end after
    /// its last call.
    pub fn activate(&self, version: u64, limit: Duration) {
        let Some(staged) = self.take_staged(version) else { return };
        let old = {
            let mut active = self.active.write();
            std::mem::replace(&mut *active, staged.pool)
        };
        self.end(old, limit);
    }

    /// Ends the staged version, if that is `version`.
    pub fn drop_staged(&self, version: u64, limit: Duration) {
        if let Some(staged) = self.take_staged(version) {
            self.end(staged.pool, limit);
        }
    }

    fn take_staged(&self, version: u64) -> Option<StagedVersion> {
        let taken = self.staged().take_if(|staged| staged.version == version)?;
        self.has_staged.store(false, Ordering::Release);
        Some(taken)
    }

    /// Ends a version after its last call.
    fn end(&self, pool: ThreadPool, limit: Duration) {
        pool.drain(limit);
        let mut replaced = self.replaced.lock();
        replaced.retain(|pool| !pool.has_ended());
        replaced.push(pool);
    }

    /// Returns what the threads of all versions do.
    pub fn interpreter(&self) -> Interpreter {
        let mut figures = PoolFigures::default();
        for pool in self.all() {
            let PoolFigures { threads, busy, stuck, waiting } = pool.figures();
            figures.threads += threads;
            figures.busy += busy;
            figures.stuck += stuck;
            figures.waiting += waiting;
        }
        let active = self.active();
        let (name, gil, copies) = active.interpreter();
        Interpreter { name: name.to_owned(), gil, copies, figures }
    }

    /// Returns all versions that have not ended, the active one first.
    pub fn all(&self) -> Vec<ThreadPool> {
        let replaced = self.replaced.lock().clone();
        let staged = self.staged().as_ref().map(|staged| staged.pool.clone());
        std::iter::once(self.active()).chain(staged).chain(replaced).collect()
    }

    fn staged(&self) -> MutexGuard<'_, Option<StagedVersion>> {
        self.staged.lock()
    }
}
