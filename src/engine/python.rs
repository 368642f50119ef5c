//! The interpreter of an engine with everything that its calls need.

use pyo3::prelude::*;

use crate::app::application::Loader;
use crate::python::runtime::{Fact, Interpreter, Settings};
use crate::python::traceback;
use crate::wsgi::environ::{Server, Vocabulary};

/// What an engine is started with.
#[derive(Clone, Debug)]
pub struct Configuration {
    pub settings: Settings,
    pub server: Server,
    /// The number of this worker, for `ngx_wsgi.worker_number`.
    pub worker_number: usize,
    /// For `ngx_wsgi.nginx_version`.
    pub nginx_version: String,
    /// Whether applications are only loaded to see whether they can be, for `ngx_wsgi.checking`.
    pub checking: bool,
}

/// A started interpreter.
pub struct World {
    pub interpreter: Interpreter,
    pub vocabulary: Vocabulary,
    pub loader: Loader,
}

impl World {
    /// Starts Python on this thread, see [`Interpreter::start`].
    ///
    /// # Errors
    /// One sentence or a traceback.
    pub fn start(configuration: &Configuration) -> Result<Self, String> {
        let facts = [
            Fact::Text("version", env!("CARGO_PKG_VERSION").to_owned()),
            Fact::Text("nginx_version", configuration.nginx_version.clone()),
            Fact::Text("build_python_version", crate::python::runtime::BUILD_VERSION.to_owned()),
            Fact::Text("interpreter", "main".to_owned()),
            Fact::Number("worker_pid", i64::from(std::process::id())),
            Fact::Number("worker_number", configuration.worker_number as i64),
            Fact::Truth("checking", configuration.checking),
        ];
        let interpreter = Interpreter::start(&configuration.settings, &facts)?;
        Python::attach(|py| {
            let vocabulary = Vocabulary::new(py, &interpreter, &configuration.server)?;
            let loader = Loader::new(py)?;
            Ok(Self { interpreter, vocabulary, loader })
        })
        .map_err(|error: PyErr| Python::attach(|py| traceback::format(&error, py)))
    }
}
