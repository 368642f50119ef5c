//! An interpreter with everything that calls need in it.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::app::loader::Loader;
use crate::python::interpreter::{Environment, Fact, Interpreter, Preparation};
use crate::python::runtime::{self, Settings};
use crate::python::threads::{AttachedThread, Gil, InterpreterHandle};
use crate::python::traceback;
use crate::wsgi::environ::{EnvironTemplate, Server};

/// What all interpreters of a worker have in common.
#[derive(Clone, Debug)]
pub struct Configuration {
    pub settings: Settings,
    /// SERVER_SOFTWARE.
    pub server_software: String,
    /// Whether other processes serve requests beside this one.
    pub multiprocess: bool,
    /// The number of this worker, for `ngx_wsgi.worker_number`.
    pub worker_number: usize,
    /// For `ngx_wsgi.nginx_version`.
    pub nginx_version: String,
    /// Whether applications are only loaded to see whether they can be, for `ngx_wsgi.checking`.
    pub checking: bool,
}

/// An interpreter that is to be.
#[derive(Clone, Debug)]
pub struct InterpreterSpec {
    /// What `ngx_wsgi.interpreter` and the log call it.
    pub name: Arc<str>,
    pub kind: InterpreterKind,
    /// `wsgi.multithread`: whether several threads call an application in it.
    pub multithread: bool,
    /// Whether there are others with the same applications in this process.
    pub has_copies: bool,
    /// Whether there are others at all.
    pub has_company: bool,
    /// Whether it is made while another serves, in whose place it is to come.
    pub is_replacement: bool,
}

impl InterpreterSpec {
    /// Whether a call that computes here has to be asked for the GIL on behalf of other interpreters.
    pub fn needs_turns(&self) -> bool {
        !Gil::IS_FAIR && self.has_company && !matches!(self.kind, InterpreterKind::Sub(Gil::Own, _))
    }

    /// Whether it is Python's main interpreter.
    pub fn is_main(&self) -> bool {
        matches!(self.kind, InterpreterKind::Main)
    }

    /// What the names of its threads begin with: `wsgi` in the main interpreter, `wsgi-NAME` in others.
    pub fn threads(&self) -> String {
        if self.is_main() { "wsgi".to_owned() } else { format!("wsgi-{}", self.name) }
    }

    /// The name of its main thread.
    pub fn main_thread(&self) -> String {
        if self.is_main() { "wsgi-main".to_owned() } else { format!("wsgi-main-{}", self.name) }
    }
}

/// Which of Python's interpreters.
#[derive(Clone, Debug)]
pub enum InterpreterKind {
    Main,
    /// One of its own, with its `os.environ`.
    Sub(Gil, Environment),
}

/// A started interpreter. Its objects are released when it is dropped: attached, in there.
pub struct PreparedInterpreter {
    /// Where its threads live.
    pub handle: InterpreterHandle,
    pub interpreter: Interpreter,
    pub environ_template: EnvironTemplate,
    pub loader: Loader,
}

impl PreparedInterpreter {
    /// Starts an interpreter; this thread, which has not used Python before, becomes its main thread.
    ///
    /// The main interpreter is the first to be started; others wait for it.
    ///
    /// # Errors
    /// One sentence or a traceback.
    pub fn start(configuration: &Configuration, spec: &InterpreterSpec) -> Result<(Self, AttachedThread), String> {
        let (mut attached, environment) = match &spec.kind {
            InterpreterKind::Main => {
                runtime::start(&configuration.settings).map_err(|error| error.to_string())?;
                (InterpreterHandle::MAIN.attach_thread(), None)
            }
            InterpreterKind::Sub(gil, environment) => {
                runtime::started().map_err(|error| error.to_string())?;
                let created = AttachedThread::create(*gil);
                (created.map_err(|error| format!("interpreter \"{}\": {error}", spec.name))?, Some(environment))
            }
        };
        let handle = attached.handle();
        let prepared = attached.attach(|py| {
            Self::new(py, handle, configuration, spec, environment).map_err(|error| traceback::format(&error, py))
        });
        match prepared {
            Ok(prepared) => Ok((prepared, attached)),
            Err(error) => {
                // Nothing runs in it; a thread that a .pth file has started would keep it.
                let _ = attached.end();
                Err(format!("interpreter \"{}\" cannot be prepared: {error}", spec.name))
            }
        }
    }

    fn new(
        py: Python<'_>,
        handle: InterpreterHandle,
        configuration: &Configuration,
        spec: &InterpreterSpec,
        environment: Option<&Environment>,
    ) -> PyResult<Self> {
        let facts = [
            Fact::Text("version", env!("CARGO_PKG_VERSION").to_owned()),
            Fact::Text("nginx_version", configuration.nginx_version.clone()),
            Fact::Text("build_python_version", runtime::BUILD_VERSION.to_owned()),
            Fact::Text("interpreter", spec.name.to_string()),
            Fact::Number("worker_pid", i64::from(std::process::id())),
            Fact::Number("worker_number", configuration.worker_number as i64),
            Fact::Truth("checking", configuration.checking),
        ];
        let preparation = Preparation { path: &configuration.settings.path, facts: &facts, environment };
        let interpreter = Interpreter::prepare(py, &preparation)?;
        let server = Server {
            software: configuration.server_software.clone(),
            multithread: spec.multithread,
            multiprocess: configuration.multiprocess || spec.has_copies,
        };
        let environ_template = EnvironTemplate::new(py, &interpreter, &server)?;
        let loader = Loader::new(py, spec.name.clone(), spec.is_main())?;
        Ok(Self { handle, interpreter, environ_template, loader })
    }
}
