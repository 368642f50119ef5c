//! One application of a worker: loaded in its interpreter, or not yet.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::ffi::c_str;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::specification::{Callable, Specification, Target};
use crate::python::runtime::run_code;
use crate::python::{log, traceback};

/// The loader of one interpreter.
pub struct Loader {
    namespace: Py<PyDict>,
}

impl Loader {
    /// # Errors
    /// When Python cannot run the loader's code.
    pub fn new(py: Python<'_>) -> PyResult<Self> {
        let namespace = PyDict::new(py);
        namespace.set_item("__name__", "_ngx_wsgi_loader")?;
        run_code(py, c_str!(include_str!("loader.py")), c"ngx_wsgi/loader.py", &namespace)?;
        Ok(Self { namespace: namespace.unbind() })
    }

    fn load<'py>(&self, py: Python<'py>, specification: &Specification) -> PyResult<Bound<'py, PyAny>> {
        let (script, module) = match &specification.target {
            Target::Script(path) => (Some(path.as_os_str()), None),
            Target::Module(name) => (None, Some(name)),
        };
        let pair = |callable: &Callable| (callable.name.clone(), callable.is_factory);
        let middleware: Vec<_> =
            specification.middleware.iter().map(|(module, callable)| (module, pair(callable))).collect();
        let middleware = PyList::new(py, middleware)?;
        let load = self.namespace.bind(py).as_any().get_item("load")?;
        load.call1((script, module, pair(&specification.callable), middleware))
    }
}

/// An application of a worker. Its callable is released only while attached.
pub struct Application {
    specification: Specification,
    name: Arc<str>,
    callable: Mutex<Option<Py<PyAny>>>,
}

impl Application {
    /// The application that `specification` names, not loaded.
    pub fn new(specification: Specification) -> Self {
        let name = specification.to_string().into();
        Self { specification, name, callable: Mutex::new(None) }
    }

    /// What the log calls it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether it is loaded. Need not be attached.
    pub fn is_loaded(&self) -> bool {
        self.callable.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The callable, if it is loaded.
    pub fn callable<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        let callable = self.callable.lock().unwrap_or_else(PoisonError::into_inner);
        callable.as_ref().map(|callable| callable.bind(py).clone())
    }

    /// Loads it.
    ///
    /// # Errors
    /// The traceback, which is in the log already. What the attempt left in `sys.modules` is gone, so that another can
    /// start afresh.
    pub fn load(&self, py: Python<'_>, loader: &Loader) -> Result<(), String> {
        self.try_load(py, loader).map_err(|Failure { summary, traceback }| {
            log::error(&format!("application \"{}\" could not be loaded: {summary}\n{traceback}", self.name));
            traceback
        })
    }

    /// As [`Application::load`], and logs nothing of its own.
    ///
    /// # Errors
    /// What is to be said of the failure.
    pub fn try_load(&self, py: Python<'_>, loader: &Loader) -> Result<(), Failure> {
        let loaded = loader.load(py, &self.specification);
        log::flush();
        match loaded {
            Ok(callable) => {
                *self.callable.lock().unwrap_or_else(PoisonError::into_inner) = Some(callable.unbind());
                Ok(())
            }
            Err(error) => {
                Err(Failure { summary: traceback::summary(&error, py), traceback: traceback::format(&error, py) })
            }
        }
    }
}

/// Why an application could not be loaded.
pub struct Failure {
    /// Class and message of the exception, in a line.
    pub summary: String,
    pub traceback: String,
}
