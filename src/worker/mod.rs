//! The worker: its engine and its applications, the way of messages into its event loop.

pub mod active_requests;
pub mod environment;
mod log_forward;
pub mod recycle;

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::app::application::Application;
use crate::app::specification::Specification;
use crate::conf::interpreters::{Configured, Interpreter};
use crate::conf::location::Threads;
use crate::conf::main::{MainConf, MaxRequests};
use crate::engine::Engine;
use crate::engine::inline::Inline;
use crate::engine::interpreter::{Configuration, InterpreterKind, InterpreterSpec};
use crate::engine::versions::{InterpreterVersions, PoolConfig};
use crate::nginx::worker_process::{self, NGINX_VERSION, SERVER_SOFTWARE};
use crate::nginx::{notify, sockets};
use crate::python::{after_fork, fork, log};
use crate::sync::RwLock;
use active_requests::{ActiveRequests, WorkerSink};

static ACTIVE_REQUESTS: OnceLock<ActiveRequests> = OnceLock::new();
static WORKER: OnceLock<Worker> = OnceLock::new();

/// What this process runs applications with.
pub struct Worker {
    pub requests: &'static ActiveRequests,
    pub engine: Engine,
    applications: RwLock<Vec<Hosted>>,
    shutdown_timeout: Duration,
}

/// An application of this worker.
#[derive(Clone)]
pub struct Hosted {
    specification: Arc<Specification>,
    pub application: Arc<Application>,
    /// The index of its interpreter.
    pub interpreter: usize,
}

/// What the configuration says about the worker.
#[derive(Clone)]
pub struct Start {
    pub configuration: Configuration,
    /// The main interpreter, which others need, and those.
    pub interpreters: Vec<WorkerInterpreter>,
    /// Variables for the process, before any other thread is started.
    pub environment: Vec<(String, String)>,
    pub shutdown_timeout: Duration,
    pub check_timeout: Duration,
    pub max_requests: MaxRequests,
    pub max_memory: u64,
    /// What the workers take turns with to retire.
    pub lock: Option<&'static AtomicU64>,
}

/// An interpreter that is to be, with its threads and applications.
#[derive(Clone)]
pub struct WorkerInterpreter {
    /// One for each copy.
    pub specs: Vec<InterpreterSpec>,
    /// Of each copy.
    pub threads: Threads,
    pub applications: Vec<Configured>,
}

impl WorkerInterpreter {
    /// What the configuration says of an interpreter; `has_company` if there are others in the worker.
    fn new(interpreter: Interpreter, has_company: bool) -> Self {
        let Interpreter { name, is_main, gil, copies, threads, environment, applications } = interpreter;
        let kind = match is_main {
            true => InterpreterKind::Main,
            false => InterpreterKind::Sub(gil, environment::of_interpreter(environment)),
        };
        let spec = |copy: usize| InterpreterSpec {
            name: if copies > 1 { format!("{name}#{copy}").into() } else { name.as_str().into() },
            kind: kind.clone(),
            multithread: matches!(threads, Threads::Pool(count) if count > 1),
            has_copies: copies > 1,
            has_company: has_company || copies > 1,
            is_replacement: false,
        };
        Self { specs: (1..=copies).map(spec).collect(), threads, applications }
    }
}

impl Start {
    /// What a cycle's configuration says, `None` when it has no application.
    pub fn new(conf: &MainConf, multiprocess: bool) -> Option<Self> {
        let wanted = conf.interpreters();
        if wanted.is_empty() {
            return None;
        }
        let main = wanted.first().filter(|first| first.is_main);
        let environment = environment::complete(main.map(|main| main.environment.clone()).unwrap_or_default());
        let without_main = main.is_none().then(|| Interpreter::main_alone(Threads::Pool(0)));
        let has_company = without_main.is_some() || wanted.len() > 1;
        let interpreters = without_main.into_iter().chain(wanted);
        let interpreters = interpreters.map(|interpreter| WorkerInterpreter::new(interpreter, has_company)).collect();
        Some(Self {
            configuration: Configuration {
                settings: conf.settings(),
                server_software: SERVER_SOFTWARE.to_owned(),
                multiprocess,
                worker_number: worker_process::worker_number(),
                nginx_version: NGINX_VERSION.to_owned(),
                checking: false,
            },
            interpreters,
            environment,
            shutdown_timeout: conf.shutdown_timeout(),
            check_timeout: conf.check_timeout(),
            max_requests: conf.max_requests(),
            max_memory: conf.max_memory(),
            lock: conf.recycle_lock(),
        })
    }
}

fn tick() {
    if let Some(requests) = ACTIVE_REQUESTS.get() {
        requests.tick();
    }
}

/// The worker, once it is started.
pub fn get() -> Option<&'static Worker> {
    WORKER.get()
}

/// Starts the worker's Python. With threads this returns at once, and Python starts beside the event loop.
///
/// # Errors
/// When the system gives no descriptor or thread; nothing that an application does.
pub fn start(start: Start) -> io::Result<()> {
    crate::reload::process::set_up(&start);
    let requests = ActiveRequests::new(start.shutdown_timeout, tick)?;
    let requests = ACTIVE_REQUESTS.get_or_init(|| requests);
    notify::attach(requests).map_err(io::Error::other)?;
    log::set_worker_sink(Arc::new(WorkerSink::new(requests)));
    after_fork::set_in_child(|| {
        worker_process::reset_signals();
        sockets::close_all();
    });
    fork::set_before_exec(sockets::close_all_on_exec);
    recycle::set_up(start.lock, start.max_requests, start.max_memory);

    let mut applications = Vec::new();
    let mut pools = Vec::new();
    let mut inline = None;
    let loading =
        Arc::new(AtomicUsize::new(start.interpreters.iter().map(|interpreter| interpreter.specs.len()).sum()));
    let loaded = move || {
        if loading.fetch_sub(1, Ordering::AcqRel) == 1 {
            recycle::loaded();
        }
    };
    for (index, interpreter) in start.interpreters.into_iter().enumerate() {
        let mut preloaded = Vec::new();
        for Configured { specification, place, preload, reloading } in interpreter.applications {
            let application = Arc::new(Application::new(Specification::clone(&specification), &place, reloading));
            preloaded.extend(preload.then(|| application.clone()));
            applications.push(Hosted { specification, application, interpreter: index });
        }
        match interpreter.threads {
            Threads::Pool(count) => {
                let recipe =
                    PoolConfig { configuration: start.configuration.clone(), specs: interpreter.specs, threads: count };
                preloaded.iter().for_each(|application| application.note_files());
                pools.push(InterpreterVersions::start(recipe, &preloaded, loaded.clone())?);
            }
            // There is no other interpreter then.
            Threads::Off => {
                let started = inline.insert(Inline::start(&start.configuration, &interpreter.specs[0]));
                preloaded.iter().for_each(|application| started.preload(application));
                loaded();
            }
        }
    }
    let engine = inline.map_or(Engine::Pools(pools), |inline| Engine::Inline(Box::new(inline)));
    let applications = RwLock::new(applications);
    WORKER.get_or_init(|| Worker { requests, engine, applications, shutdown_timeout: start.shutdown_timeout });
    Ok(())
}

impl Worker {
    /// The applications of this worker, as they are now.
    pub fn applications(&self) -> Vec<Hosted> {
        self.applications.read().clone()
    }

    /// The application that a location names.
    ///
    /// One that is not known came with a reload under `master_process off`, where the process stays; `None` if its
    /// interpreter is not known either.
    pub fn application(&self, specification: &Arc<Specification>) -> Option<Hosted> {
        let applications = self.applications.read();
        let find = |is: &dyn Fn(&Specification) -> bool| applications.iter().find(|known| is(&known.specification));
        let known = find(&|known| std::ptr::eq(known, &raw const **specification));
        let known = known.or_else(|| find(&|known| known == &**specification));
        if let Some(known) = known {
            return Some(known.clone());
        }
        let interpreter = find(&|known| known.shares_interpreter(specification))?.interpreter;
        drop(applications);
        let application =
            Arc::new(Application::new(Specification::clone(specification), "the new configuration", None));
        let hosted = Hosted { specification: specification.clone(), application, interpreter };
        self.applications.write().push(hosted.clone());
        Some(hosted)
    }

    /// Returns true if calls of an application find it loaded. On any thread.
    pub fn is_loaded(&self, Hosted { application, interpreter, .. }: &Hosted) -> bool {
        self.engine.has_loaded(*interpreter, application)
    }

    /// Loads the changed modules of an application. `note` notes its files before that. On any thread.
    pub fn load_anew(&self, Hosted { application, interpreter, .. }: &Hosted, note: impl FnOnce()) {
        self.engine.reload(*interpreter, application, note);
    }

    /// Returns the versions of an application's interpreter, `None` with `wsgi_threads off`.
    pub fn versions(&self, application: &Hosted) -> Option<&InterpreterVersions> {
        self.engine.versions(application.interpreter)
    }

    /// `wsgi_shutdown_timeout`.
    pub fn shutdown_timeout(&self) -> Duration {
        self.shutdown_timeout
    }

    /// Ends the worker's Python in bounded time, and lets the process leave without destructors.
    pub fn shut_down(&self) {
        // The master kills a worker about a second and a half after TERM.
        const BEFORE_KILL: Duration = Duration::from_millis(1200);
        // However long the calls took, there is some time for what is to be run at the end.
        const AT_LEAST: Duration = Duration::from_secs(1);
        let (calls, limit) = if worker_process::is_terminating() {
            (BEFORE_KILL / 2, self.shutdown_timeout.min(BEFORE_KILL))
        } else {
            let calls = self.shutdown_timeout.saturating_sub(self.requests.waited());
            (calls, calls.max(AT_LEAST.min(self.shutdown_timeout)))
        };
        if let Engine::Inline(_) = self.engine {
            // No other thread of this process runs on, so it may end in the middle of a handler.
            worker_process::leave_after(limit);
        }
        self.engine.shut_down(calls, limit, || notify::drain(self.requests));
        recycle::leaving();
        worker_process::leave_before_memory_goes();
    }
}
