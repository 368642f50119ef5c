//! One application of a worker, and what of it is loaded in an interpreter.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::ffi::c_str;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::specification::{Callable, Specification, Target};
use crate::python::interpreter::run_code;
use crate::python::{log, traceback};

/// An application of a worker. It may be loaded in several interpreters, so it holds nothing of Python.
pub struct Application {
    number: usize,
    specification: Specification,
    name: Arc<str>,
}

impl Application {
    /// The application that `specification` names.
    pub fn new(specification: Specification) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = specification.to_string().into();
        Self { number: NEXT.fetch_add(1, Ordering::Relaxed), specification, name }
    }

    /// What the log calls it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

/// The loader of one interpreter, with the callables of the applications it has loaded. Released attached, in there.
pub struct Loader {
    namespace: Py<PyDict>,
    callables: Mutex<HashMap<usize, Py<PyAny>>>,
}

impl Loader {
    /// The loader of the current interpreter.
    ///
    /// # Errors
    /// When Python cannot run the loader's code.
    pub fn new(py: Python<'_>, is_main: bool) -> PyResult<Self> {
        let namespace = PyDict::new(py);
        namespace.set_item("__name__", "_ngx_wsgi_loader")?;
        namespace.set_item("is_main", is_main)?;
        run_code(py, c_str!(include_str!("loader.py")), c"ngx_wsgi/loader.py", &namespace)?;
        Ok(Self { namespace: namespace.unbind(), callables: Mutex::default() })
    }

    /// Loads an application.
    ///
    /// # Errors
    /// The traceback, which is in the log already. What the attempt left in `sys.modules` is gone, so that another can
    /// start afresh.
    pub fn load(&self, py: Python<'_>, application: &Application) -> Result<(), String> {
        self.try_load(py, application).map_err(|Failure { summary, traceback }| {
            log::error(&format!("application \"{}\" could not be loaded: {summary}\n{traceback}", application.name));
            traceback
        })
    }

    /// As [`Loader::load`], and logs nothing of its own.
    ///
    /// # Errors
    /// What is to be said of the failure.
    pub fn try_load(&self, py: Python<'_>, application: &Application) -> Result<(), Failure> {
        let loaded = self.call(py, &application.specification);
        log::flush();
        match loaded {
            Ok(callable) => {
                let before = self.callables().insert(application.number, callable.unbind());
                // It may run code of its own when it goes, so not under the lock.
                drop(before);
                Ok(())
            }
            Err(error) => {
                Err(Failure { summary: traceback::summary(&error, py), traceback: traceback::format(&error, py) })
            }
        }
    }

    fn call<'py>(&self, py: Python<'py>, specification: &Specification) -> PyResult<Bound<'py, PyAny>> {
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

    /// The callable of an application, if it is loaded here.
    pub fn callable<'py>(&self, py: Python<'py>, application: &Application) -> Option<Bound<'py, PyAny>> {
        self.callables().get(&application.number).map(|callable| callable.bind(py).clone())
    }

    /// Whether an application is loaded here. Need not be attached.
    pub fn has(&self, application: &Application) -> bool {
        self.callables().contains_key(&application.number)
    }

    /// The lock is held for a moment, and not while Python code runs.
    fn callables(&self) -> MutexGuard<'_, HashMap<usize, Py<PyAny>>> {
        self.callables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an application could not be loaded.
pub struct Failure {
    /// Class and message of the exception, in a line.
    pub summary: String,
    pub traceback: String,
}
