//! Life of one worker process: its configuration, engine, applications, active requests, recycling and balance.

pub mod active_requests;
mod application_sink;
pub mod balance;
pub mod config;
mod environment;
pub mod event_loop;
pub mod log_forms;
mod log_forward;
pub mod recycle;
mod recycle_lock;
pub mod scoreboard;
pub mod status;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::app::application::Application;
use crate::app::specification::Specification;
use crate::conf::interpreters::Configured;
use crate::conf::values::Threads;
use crate::engine::Engine;
use crate::engine::inline::Inline;
use crate::engine::versions::{InterpreterVersions, PoolConfig};
use crate::nginx::{accept, sockets, worker_process};
use crate::python::{after_fork, fork, log};
use crate::status::board::Calls;
use crate::sync::RwLock;
use active_requests::ActiveRequests;
use application_sink::ApplicationSink;
use balance::{Balance, Rooms};
use config::{WorkerConfig, WorkerInterpreter};
use event_loop::{EventLoop, Message, WorkerSink};
use recycle::Recycler;
use recycle_lock::RecycleLock;

static WORKER: OnceLock<Worker> = OnceLock::new();

/// Worker of this process.
pub struct Worker {
    pub event_loop: &'static EventLoop,
    pub requests: ActiveRequests,
    pub recycler: Recycler,
    pub engine: Engine,
    /// `None` where workers share no connections.
    balance: Option<Balance>,
    applications: RwLock<Vec<WorkerApplication>>,
    shutdown_timeout: Duration,
    has_loaded: Arc<AtomicBool>,
}

/// Application of this worker.
#[derive(Clone)]
pub struct WorkerApplication {
    specification: Arc<Specification>,
    pub application: Arc<Application>,
    /// Index of its interpreter.
    pub interpreter: usize,
    /// Its counters in the status of this worker, if there is one.
    pub calls: Option<Calls>,
}

/// Returns the worker of this process once it is started.
pub fn get() -> Option<&'static Worker> {
    WORKER.get()
}

/// Starts the worker. With threads it returns at once, and Python starts beside the event loop. `rooms` are the shared
/// words of `wsgi_balance`, unless it is off.
///
/// # Errors
/// If there is no file descriptor, nginx connection or thread left; never because of an application.
pub fn start(config: WorkerConfig, rooms: Option<Rooms>) -> io::Result<&'static Worker> {
    let event_loop = EventLoop::attach()?;
    log::set_worker_sink(Arc::new(WorkerSink::new(event_loop)));
    after_fork::set_in_child(|| {
        worker_process::reset_signals();
        sockets::close_all();
    });
    fork::set_before_exec(sockets::close_all_on_exec);

    let has_loaded = Arc::new(AtomicBool::new(false));
    let lock = config.recycle_lock.map(RecycleLock::of_this_worker);
    let recycler = Recycler::new(lock, config.max_requests, config.max_memory, has_loaded.clone(), || {
        if let Some(worker) = get() {
            worker.recycler.on_timer();
        }
    });
    let requests = ActiveRequests::new(config.shutdown_timeout, || {
        if let Some(worker) = get() {
            worker.requests.on_timer();
        }
    });
    let shutdown_timeout = config.shutdown_timeout;
    let (engine, applications) = start_engine(config, event_loop, has_loaded.clone())?;
    let applications = RwLock::new(applications);
    let balance = match (&engine, rooms) {
        (Engine::Pools(_), Some(rooms)) => Balance::new(rooms, has_loaded.clone(), || {
            if let Some(worker) = get()
                && let Some(balance) = &worker.balance
            {
                balance.on_timer(worker.engine.backlog());
            }
        }),
        _ => None,
    };
    let worker = Worker { event_loop, requests, recycler, engine, balance, applications, shutdown_timeout, has_loaded };
    let worker = WORKER.get_or_init(|| worker);
    worker.recycler.start();
    if let Some(balance) = &worker.balance {
        balance.note_backlog(worker.engine.backlog());
        accept::set_on_few_connections(|| {
            if let Some(worker) = get() {
                worker.note_few_connections();
            }
        });
    }
    Ok(worker)
}

/// Starts all interpreters, which load the applications to be preloaded and then set `has_loaded`.
fn start_engine(
    config: WorkerConfig,
    event_loop: &'static EventLoop,
    has_loaded: Arc<AtomicBool>,
) -> io::Result<(Engine, Vec<WorkerApplication>)> {
    set_only_log(&config, event_loop);
    let mut applications = Vec::new();
    let mut pools = Vec::new();
    let mut inline = None;
    let copies = config.interpreters.iter().map(|interpreter| interpreter.specs.len()).sum();
    let loading = Arc::new(AtomicUsize::new(copies));
    let loaded = move || {
        if loading.fetch_sub(1, Ordering::AcqRel) == 1 {
            has_loaded.store(true, Ordering::Relaxed);
            status::note_loaded();
        }
    };
    for (index, interpreter) in config.interpreters.into_iter().enumerate() {
        let WorkerInterpreter { specs, threads, applications: configured } = interpreter;
        let mut preloaded = Vec::new();
        for Configured { specification, source_location, preload, reloading, log } in configured {
            let application = Application::new(Specification::clone(&specification), &source_location, reloading);
            if let Some(log) = log {
                application.set_log(ApplicationSink::new(event_loop, log, application.name().clone()));
            }
            let (application, calls) = with_status(application);
            preloaded.extend(preload.then(|| application.clone()));
            applications.push(WorkerApplication { specification, application, interpreter: index, calls });
        }
        match threads {
            Threads::Pool(threads) => {
                let pool_config = PoolConfig { engine_config: config.engine_config.clone(), specs, threads };
                preloaded.iter().for_each(|application| application.note_files());
                pools.push(InterpreterVersions::start(pool_config, &preloaded, loaded.clone())?);
            }
            // The only interpreter of the worker.
            Threads::Off => {
                let started = inline.insert(Inline::start(&config.engine_config, &specs[0]));
                preloaded.iter().for_each(|application| started.preload(application));
                loaded();
            }
        }
    }
    let engine = inline.map_or(Engine::Pools(pools), |inline| Engine::Inline(Box::new(inline)));
    Ok((engine, applications))
}

/// Gives an application its part in the status of this worker, if there is one.
fn with_status(application: Application) -> (Arc<Application>, Option<Calls>) {
    match status::get() {
        Some(status) => {
            let calls = status.calls(application.name());
            (Arc::new(application.recording(status.writer())), calls)
        }
        None => (Arc::new(application), None),
    }
}

/// Has text of which no application is known written to the log of all applications, if they share one.
fn set_only_log(config: &WorkerConfig, event_loop: &'static EventLoop) {
    let mut logs = config.applications().map(|application| application.log.as_ref());
    if config.applications().all(|application| application.log.is_none()) {
        return;
    }
    let first = logs.next().flatten();
    let only = first.filter(|first| logs.all(|log| log.is_some_and(|log| Arc::ptr_eq(log, first))));
    let mut names = config.applications().map(|application| application.specification.to_string());
    let name = if config.applications().count() == 1 { names.next() } else { None };
    log::set_application_logs(only.map(|only| -> Arc<dyn log::Sink> {
        ApplicationSink::new(event_loop, only.clone(), name.unwrap_or_default().into())
    }));
}

impl Worker {
    /// Returns true once each interpreter has tried to load the applications to be preloaded. On any thread.
    pub fn has_loaded(&self) -> bool {
        self.has_loaded.load(Ordering::Relaxed)
    }

    /// Returns the applications of this worker: those of its configuration first, in that order.
    pub fn applications(&self) -> Vec<WorkerApplication> {
        self.applications.read().clone()
    }

    /// Returns the application that a location names.
    ///
    /// With `master_process off` the process stays at a reload, which may name new applications: these are added. Returns
    /// `None` if such an application needs an interpreter that this worker does not have.
    pub fn application(&self, specification: &Arc<Specification>) -> Option<WorkerApplication> {
        let applications = self.applications.read();
        let find = |is: &dyn Fn(&Specification) -> bool| applications.iter().find(|known| is(&known.specification));
        let known = find(&|known| std::ptr::eq(known, &raw const **specification));
        let known = known.or_else(|| find(&|known| known == &**specification));
        if let Some(known) = known {
            return Some(known.clone());
        }
        let interpreter = find(&|known| known.shares_interpreter(specification))?.interpreter;
        drop(applications);
        let application = Application::new(Specification::clone(specification), "the new configuration", None);
        let (application, calls) = with_status(application);
        let added = WorkerApplication { specification: specification.clone(), application, interpreter, calls };
        self.applications.write().push(added.clone());
        Some(added)
    }

    /// Returns true if an application is loaded. On any thread.
    pub fn is_loaded(&self, WorkerApplication { application, interpreter, .. }: &WorkerApplication) -> bool {
        self.engine.has_loaded(*interpreter, application)
    }

    /// Loads the changed files of an application in its interpreter; `note` notes the state of these files. On any thread.
    pub fn reload(&self, WorkerApplication { application, interpreter, .. }: &WorkerApplication, note: impl FnOnce()) {
        self.engine.reload(*interpreter, application, note);
    }

    /// Returns the interpreter versions of an application, `None` with `wsgi_threads off`.
    pub fn versions(&'static self, application: &WorkerApplication) -> Option<&'static InterpreterVersions> {
        self.engine.versions(application.interpreter)
    }

    /// Returns true if this worker leaves connections to another one, which has a free thread. On the event loop thread.
    pub fn leaves_connections(&self) -> bool {
        self.balance.as_ref().is_some_and(Balance::leaves_connections)
    }

    /// Notes that a call was queued, with the backlog of its interpreter. On the event loop thread.
    pub fn note_queued(&'static self, backlog: usize) {
        if let Some(balance) = &self.balance
            && balance.note_queued(backlog)
        {
            balance.note_backlog(self.engine.backlog());
        }
    }

    /// Notes that a call has output or has ended. On the event loop thread.
    fn note_output(&'static self) {
        if let Some(balance) = &self.balance
            && balance.note_output()
        {
            balance.note_backlog(self.engine.backlog());
        }
    }

    /// Notes that few free connections are left. On the event loop thread.
    fn note_few_connections(&'static self) {
        if let Some(balance) = &self.balance
            && balance.note_few_connections()
        {
            // Not at once: a worker cannot stop accepting while nginx accepts a connection.
            let look = || balance.note_backlog(self.engine.backlog());
            self.event_loop.send(Message::Run(Box::new(look)));
        }
    }

    /// Tells the other workers that this one is about to exit. On the event loop thread.
    fn leave_balance(&self) {
        if let Some(balance) = &self.balance {
            balance.leave();
        }
    }

    /// Returns `wsgi_shutdown_timeout`.
    pub fn shutdown_timeout(&self) -> Duration {
        self.shutdown_timeout
    }

    /// Ends Python in bounded time, and makes the process exit without running destructors.
    pub fn shut_down(&self) {
        self.leave_balance();
        // The master sends SIGKILL about 1.5 s after SIGTERM.
        const BEFORE_KILL: Duration = Duration::from_millis(1200);
        // Left for atexit handlers, however long the calls took.
        const FOR_HANDLERS: Duration = Duration::from_secs(1);
        let (calls, limit) = if worker_process::is_terminating() {
            (BEFORE_KILL / 2, self.shutdown_timeout.min(BEFORE_KILL))
        } else {
            let calls = self.shutdown_timeout.saturating_sub(self.requests.waited());
            (calls, calls.max(FOR_HANDLERS.min(self.shutdown_timeout)))
        };
        if let Engine::Inline(_) = self.engine {
            // No other thread has work left, so the process may end in the middle of a handler.
            worker_process::exit_after(limit);
        }
        self.engine.shut_down(calls, limit, || self.event_loop.drain());
        self.recycler.on_exit();
        worker_process::exit_before_cycle_is_freed();
    }
}
