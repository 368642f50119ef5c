//! Interpreters of a worker: their specification, and an interpreter that is prepared for calls.

use std::sync::Arc;

use pyo3::prelude::*;
use thiserror::Error;

use crate::app::loader::Loader;
use crate::python::interpreter::{Environment, Fact, Interpreter, Preparation};
use crate::python::runtime::{self, PythonSettings, StartError};
use crate::python::threads::{AttachedThread, CreateError, Gil, InterpreterHandle};
use crate::python::traceback;
use crate::wsgi::environ::{EnvironTemplate, Server};

/// Configuration that all interpreters of a worker share.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    pub settings: PythonSettings,
    /// Value of `SERVER_SOFTWARE`.
    pub server_software: String,
    /// Other processes may call the same application: `wsgi.multiprocess`.
    pub multiprocess: bool,
    /// Value of `ngx_wsgi.worker_number`.
    pub worker_number: usize,
    /// Value of `ngx_wsgi.nginx_version`.
    pub nginx_version: String,
    /// Applications are imported for a check only: `ngx_wsgi.checking`.
    pub checking: bool,
}

/// Specification of an interpreter.
#[derive(Clone, Debug)]
pub struct InterpreterSpec {
    /// Name in `ngx_wsgi.interpreter` and in the log.
    pub name: Arc<str>,
    pub kind: InterpreterKind,
    /// Several threads may call an application in it: `wsgi.multithread`.
    pub multithread: bool,
    /// The worker has several interpreters with the same applications.
    pub has_copies: bool,
    /// The worker has several interpreters.
    pub has_others: bool,
    /// It replaces an interpreter that keeps serving until then.
    pub is_replacement: bool,
}

impl InterpreterSpec {
    /// Returns true if a call that computes in this interpreter would keep the GIL from others.
    pub fn needs_gil_yielder(&self) -> bool {
        !Gil::IS_FAIR && self.has_others && !matches!(self.kind, InterpreterKind::Sub(Gil::Own, _))
    }

    /// Returns true for Python's main interpreter.
    pub fn is_main(&self) -> bool {
        matches!(self.kind, InterpreterKind::Main)
    }

    /// Returns which GIL it has.
    pub fn gil(&self) -> Gil {
        match self.kind {
            InterpreterKind::Main => Gil::Shared,
            InterpreterKind::Sub(gil, _) => gil,
        }
    }

    /// Returns the prefix of its threads' names: `wsgi` for the main interpreter, `wsgi-NAME` for others.
    pub fn thread_prefix(&self) -> String {
        if self.is_main() { "wsgi".to_owned() } else { format!("wsgi-{}", self.name) }
    }

    /// Returns the name of its main thread.
    pub fn main_thread_name(&self) -> String {
        if self.is_main() { "wsgi-main".to_owned() } else { format!("wsgi-main-{}", self.name) }
    }
}

/// Kind of an interpreter.
#[derive(Clone, Debug)]
pub enum InterpreterKind {
    Main,
    /// A sub-interpreter with its own `os.environ`.
    Sub(Gil, Environment),
}

/// The reason why an interpreter could not be started: a message for the log.
#[derive(Debug, Error)]
pub enum InterpreterError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("interpreter \"{name}\": {error}")]
    Creation { name: Arc<str>, error: CreateError },
    #[error("interpreter \"{name}\" cannot be prepared: {traceback}")]
    Preparation { name: Arc<str>, traceback: String },
}

/// A started interpreter with the objects that calls need. Dropped attached to this interpreter.
pub struct PreparedInterpreter {
    /// Handle to attach threads with.
    pub handle: InterpreterHandle,
    pub interpreter: Interpreter,
    pub environ_template: EnvironTemplate,
    pub loader: Loader,
}

impl PreparedInterpreter {
    /// Starts an interpreter on this thread, which has not used Python before and becomes its main thread. A
    /// sub-interpreter waits until the main interpreter has started.
    pub fn start(
        engine_config: &EngineConfig,
        spec: &InterpreterSpec,
    ) -> Result<(Self, AttachedThread), InterpreterError> {
        let (mut attached, environment) = match &spec.kind {
            InterpreterKind::Main => {
                runtime::start(&engine_config.settings)?;
                (InterpreterHandle::MAIN.attach_thread(), None)
            }
            InterpreterKind::Sub(gil, environment) => {
                runtime::started()?;
                let created = AttachedThread::create(*gil);
                let created = created.map_err(|error| InterpreterError::Creation { name: spec.name.clone(), error })?;
                (created, Some(environment))
            }
        };
        let handle = attached.handle();
        let prepared = attached.attach(|py| {
            Self::new(py, handle, engine_config, spec, environment).map_err(|error| traceback::format(&error, py))
        });
        match prepared {
            Ok(prepared) => Ok((prepared, attached)),
            Err(traceback) => {
                // Fails only if a `.pth` file has started a thread; the interpreter then stays in memory.
                let _ = attached.end();
                Err(InterpreterError::Preparation { name: spec.name.clone(), traceback })
            }
        }
    }

    fn new(
        py: Python<'_>,
        handle: InterpreterHandle,
        engine_config: &EngineConfig,
        spec: &InterpreterSpec,
        environment: Option<&Environment>,
    ) -> PyResult<Self> {
        let facts = [
            Fact::Text("version", env!("CARGO_PKG_VERSION").to_owned()),
            Fact::Text("nginx_version", engine_config.nginx_version.clone()),
            Fact::Text("build_python_version", runtime::BUILD_VERSION.to_owned()),
            Fact::Text("interpreter", spec.name.to_string()),
            Fact::Number("worker_pid", i64::from(std::process::id())),
            Fact::Number("worker_number", engine_config.worker_number as i64),
            Fact::Truth("checking", engine_config.checking),
        ];
        let preparation = Preparation { path: &engine_config.settings.path, facts: &facts, environment };
        let interpreter = Interpreter::prepare(py, &preparation)?;
        let server = Server {
            software: engine_config.server_software.clone(),
            multithread: spec.multithread,
            multiprocess: engine_config.multiprocess || spec.has_copies,
        };
        let environ_template = EnvironTemplate::new(py, &interpreter, &server)?;
        let loader = Loader::new(py, spec.name.clone(), spec.is_main())?;
        Ok(Self { handle, interpreter, environ_template, loader })
    }
}
