//! The worker: its engine and its applications, the way of messages into its event loop.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use super::environment;
use super::post::{Post, WorkerSink};
use super::retire;
use crate::app::application::Application;
use crate::app::specification::Specification;
use crate::conf::location::Threads;
use crate::conf::main::{MainConf, MaxRequests};
use crate::engine::inline::Inline;
use crate::engine::limits::Limits;
use crate::engine::python::Configuration;
use crate::engine::threads::{self, Slot, Ticket};
use crate::nginx::mailbox;
use crate::nginx::process::{self, NGINX_VERSION, SERVER_SOFTWARE};
use crate::python::log;
use crate::wsgi::call::Call;
use crate::wsgi::environ::Server;
use crate::wsgi::exchange::Suspended;

static POST: OnceLock<Post> = OnceLock::new();
static WORKER: OnceLock<Worker> = OnceLock::new();

/// What this process runs applications with.
pub struct Worker {
    pub post: &'static Post,
    engine: Engine,
    slots: RwLock<Vec<(Arc<Specification>, Arc<Slot>)>>,
    shutdown_timeout: Duration,
}

enum Engine {
    Inline(Box<Inline>),
    Threads(threads::Threads),
}

/// What the configuration says about the worker.
pub struct Start {
    pub configuration: Configuration,
    pub threads: Threads,
    pub applications: Vec<(Arc<Specification>, bool)>,
    /// Variables for the process, before any other thread is started.
    pub environment: Vec<(String, String)>,
    pub shutdown_timeout: Duration,
    pub max_requests: MaxRequests,
    pub max_memory: u64,
    /// What the workers take turns with to retire.
    pub token: Option<&'static AtomicU64>,
}

impl Start {
    /// What a cycle's configuration says, `None` when it has no application.
    pub fn new(conf: &MainConf, multiprocess: bool) -> Option<Self> {
        let threads = conf.threads()?;
        let server = Server {
            software: SERVER_SOFTWARE.to_owned(),
            multithread: matches!(threads, Threads::Pool(count) if count > 1),
            multiprocess,
        };
        let configuration = Configuration {
            settings: conf.settings(),
            server,
            worker_number: process::worker_number(),
            nginx_version: NGINX_VERSION.to_owned(),
            checking: false,
        };
        Some(Self {
            configuration,
            threads,
            applications: conf.applications(),
            // A conflict was an error when the configuration was read.
            environment: environment::complete(conf.environment().unwrap_or_default()),
            shutdown_timeout: conf.shutdown_timeout(),
            max_requests: conf.max_requests(),
            max_memory: conf.max_memory(),
            token: conf.token(),
        })
    }
}

fn tick() {
    if let Some(post) = POST.get() {
        post.tick();
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
    let post = Post::new(start.shutdown_timeout, tick)?;
    let post = POST.get_or_init(|| post);
    mailbox::attach(post).map_err(io::Error::other)?;
    log::set_worker_sink(Arc::new(WorkerSink::new(post)));
    crate::python::fork::set_in_child(process::disown_child);
    crate::python::fork::set_before_exec(process::close_sockets_on_exec);
    retire::set_up(start.token, start.max_requests, start.max_memory);

    let slots: Vec<_> = start
        .applications
        .iter()
        .map(|(specification, _)| {
            (specification.clone(), Slot::new(Application::new(Specification::clone(specification))))
        })
        .collect();
    let preloaded = slots.iter().zip(&start.applications).filter(|(_, (_, preload))| *preload);
    let preloaded = preloaded.map(|((_, slot), _)| slot.clone());
    let engine = match start.threads {
        Threads::Pool(count) => {
            Engine::Threads(threads::Threads::start(start.configuration, count, preloaded.collect(), retire::loaded)?)
        }
        Threads::Off => {
            let inline = Inline::start(&start.configuration);
            preloaded.for_each(|slot| inline.preload(slot.application()));
            retire::loaded();
            Engine::Inline(Box::new(inline))
        }
    };
    WORKER.get_or_init(|| Worker { post, engine, slots: RwLock::new(slots), shutdown_timeout: start.shutdown_timeout });
    Ok(())
}

/// What became of a call that was handed over.
pub enum Submitted {
    /// A thread will run it.
    Queued(Ticket),
    /// It has run, perhaps up to where its answer has to wait.
    Run(Option<Box<dyn Suspended>>),
    /// Too many wait already.
    Refused,
}

impl Worker {
    /// The application that a location names.
    ///
    /// One that is not known came with a reload under `master_process off`, where the process stays.
    pub fn slot(&self, specification: &Arc<Specification>) -> Arc<Slot> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let known = slots.iter().find(|(known, _)| Arc::ptr_eq(known, specification));
        let known = known.or_else(|| slots.iter().find(|(known, _)| known == specification));
        if let Some((_, slot)) = known {
            return slot.clone();
        }
        drop(slots);
        let slot = Slot::new(Application::new(Specification::clone(specification)));
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.push((specification.clone(), slot.clone()));
        slot
    }

    /// Runs a call, or hands it to the threads that will.
    pub fn submit(&'static self, slot: &Arc<Slot>, call: Call, limits: &Limits) -> Submitted {
        match &self.engine {
            Engine::Inline(inline) => Submitted::Run(inline.run(slot.application(), call, limits)),
            Engine::Threads(threads) => match threads.submit(slot, call, limits.queue) {
                Ok(ticket) => Submitted::Queued(ticket),
                Err(_) => Submitted::Refused,
            },
        }
    }

    /// Ends the worker's Python in bounded time, and lets the process leave without destructors.
    pub fn shut_down(&self) {
        // The master kills a worker about a second and a half after TERM.
        const BEFORE_KILL: Duration = Duration::from_millis(1200);
        // However long the calls took, there is some time for what is to be run at the end.
        const AT_LEAST: Duration = Duration::from_secs(1);
        let (calls, limit) = if process::is_terminating() {
            (BEFORE_KILL / 2, self.shutdown_timeout.min(BEFORE_KILL))
        } else {
            let calls = self.shutdown_timeout.saturating_sub(self.post.waited());
            (calls, calls.max(AT_LEAST.min(self.shutdown_timeout)))
        };
        match &self.engine {
            Engine::Inline(inline) => {
                // Nothing else of this process runs on, so it may just as well end in the middle of a handler.
                process::leave_after(limit);
                inline.shut_down(limit);
            }
            Engine::Threads(threads) => threads.shut_down(calls, limit, || mailbox::deliver(self.post)),
        }
        retire::leaving();
        process::leave_without_destructors();
    }
}
