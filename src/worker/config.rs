//! EngineConfig of a worker, made from that of nginx's cycle.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::environment;
use crate::conf::interpreters::{Configured, Interpreter};
use crate::conf::main::MainConf;
use crate::conf::values::{MaxRequests, Threads};
use crate::engine::interpreter::{EngineConfig, InterpreterKind, InterpreterSpec};
use crate::nginx::worker_process::{self, NGINX_VERSION, SERVER_SOFTWARE};

/// EngineConfig of one worker.
#[derive(Clone)]
pub struct WorkerConfig {
    pub engine_config: EngineConfig,
    /// The main interpreter first: the others need it.
    pub interpreters: Vec<WorkerInterpreter>,
    /// Variables to set in the process before it has a second thread.
    pub environment: Vec<(String, String)>,
    pub shutdown_timeout: Duration,
    pub check_timeout: Duration,
    pub max_requests: MaxRequests,
    /// `wsgi_max_memory` in bytes; 0 is no limit.
    pub max_memory: u64,
    /// Shared word of the recycle lock; `None` without a master, which would start another worker.
    pub recycle_lock: Option<&'static AtomicU64>,
}

/// Interpreter of a worker, with its copies, threads and applications.
#[derive(Clone)]
pub struct WorkerInterpreter {
    /// One for each copy.
    pub specs: Vec<InterpreterSpec>,
    /// Threads of each copy.
    pub threads: Threads,
    pub applications: Vec<Configured>,
}

impl WorkerConfig {
    /// Returns the number of calls that can run at once.
    pub fn capacity(&self) -> usize {
        let used = self.interpreters.iter().filter(|interpreter| !interpreter.applications.is_empty());
        used.map(|interpreter| match interpreter.threads {
            Threads::Pool(count) => interpreter.specs.len() * count,
            Threads::Off => 1,
        })
        .sum()
    }

    /// Returns the configuration of a worker of this cycle, `None` if the cycle has no application.
    pub fn new(conf: &MainConf, multiprocess: bool) -> Option<Self> {
        let configured = conf.interpreters();
        if configured.is_empty() {
            return None;
        }
        let main = configured.first().filter(|first| first.is_main);
        let environment = environment::complete(main.map(|main| main.environment.clone()).unwrap_or_default());
        let without_main = main.is_none().then(|| Interpreter::main_alone(Threads::Pool(0)));
        let has_others = without_main.is_some() || configured.len() > 1;
        let interpreters = without_main.into_iter().chain(configured);
        let interpreters = interpreters.map(|interpreter| WorkerInterpreter::new(interpreter, has_others)).collect();
        Some(Self {
            engine_config: EngineConfig {
                settings: conf.python_settings(),
                server_software: SERVER_SOFTWARE.to_owned(),
                multiprocess,
                worker_number: worker_process::number_in_group(),
                nginx_version: NGINX_VERSION.to_owned(),
                checking: false,
            },
            interpreters,
            environment,
            shutdown_timeout: conf.shutdown_timeout(),
            check_timeout: conf.check_timeout(),
            max_requests: conf.max_requests(),
            max_memory: conf.max_memory(),
            recycle_lock: conf.recycle_lock(),
        })
    }

    /// Returns the applications of all interpreters, in the order in which a worker has them.
    pub fn applications(&self) -> impl Iterator<Item = &Configured> {
        self.interpreters.iter().flat_map(|interpreter| &interpreter.applications)
    }
}

impl WorkerInterpreter {
    /// Makes the specifications of all copies; `has_others` is true if the worker has other interpreters.
    fn new(interpreter: Interpreter, has_others: bool) -> Self {
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
            has_others: has_others || copies > 1,
            is_replacement: false,
        };
        Self { specs: (1..=copies).map(spec).collect(), threads, applications }
    }
}
