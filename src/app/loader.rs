//! Loads applications in an interpreter, and keeps what it has loaded.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Instant, SystemTime};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use rustc_hash::FxHashMap;

use super::application::{Application, Description, LoadError, Reload};
use super::specification::{Callable, Target};
use crate::python::interpreter::script;
use crate::python::text::utf8_lossless;
use crate::python::{access, fork, log, native_class, traceback};
use crate::sync::{Mutex, MutexGuard};

/// The most characters of a `__version__` that are shown.
const VERSION_LENGTH: usize = 100;

/// The loader of one interpreter, with the callables of the applications loaded there. Released attached to it.
pub struct Loader {
    namespace: Py<PyDict>,
    /// The name of its interpreter.
    interpreter: Arc<str>,
    /// The callables by the numbers of their applications. The lock is not held while Python code runs.
    callables: Mutex<FxHashMap<usize, Py<PyAny>>>,
    /// `sys.modules`.
    modules: Py<PyDict>,
    /// The length of `sys.modules` when it was last searched for new modules.
    modules_noted: AtomicUsize,
}

impl Loader {
    /// Creates the loader of the current interpreter, which has this name.
    ///
    /// # Errors
    /// If Python cannot run the loader's code.
    pub fn new(py: Python<'_>, interpreter: Arc<str>, is_main: bool) -> PyResult<Self> {
        let namespace = PyDict::new(py);
        namespace.set_item("__name__", "_ngx_wsgi_loader")?;
        namespace.set_item("is_main", is_main)?;
        namespace.set_item("access_problem", native_class::function(py, &access::ACCESS_PROBLEM)?)?;
        namespace.set_item("is_child", false)?;
        namespace.set_item("scripts", PyDict::new(py))?;
        namespace.set_item("source", include_str!("scripts.py"))?;
        script!("scripts").run(py, &namespace)?;
        script!("callables").run(py, &namespace)?;
        script!("settings").run(py, &namespace)?;
        script!("conflicts").run(py, &namespace)?;
        script!("loader").run(py, &namespace)?;
        let modules = py.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?.unbind();
        let modules_noted = AtomicUsize::new(0);
        Ok(Self { namespace: namespace.unbind(), interpreter, callables: Mutex::default(), modules, modules_noted })
    }

    /// Loads an application whose files have been noted; `is_replacement` if another interpreter serves it meanwhile.
    ///
    /// # Errors
    /// The traceback, after it was logged. The modules that the attempt has imported are removed, so that another
    /// attempt imports them again.
    pub fn load(&self, py: Python<'_>, application: &Application, is_replacement: bool) -> Result<(), String> {
        let start = Instant::now();
        let loaded = {
            let _entered = application.enter_log();
            self.try_load(py, application)
        };
        self.log_result(py, application, start, loaded, is_replacement)
    }

    /// Loads an application as [`Loader::load`] does, without logging the result.
    ///
    /// # Errors
    /// The exception that it failed with.
    pub fn try_load(&self, py: Python<'_>, application: &Application) -> Result<(), LoadError> {
        let loaded = self.call(py, "load", application, application.reload().is_some());
        self.accept(py, application, loaded)
    }

    /// Loads the changed files of a loaded application again: its script, and those that `wsgi_reload_watch` names. On
    /// failure, which is logged, the previous version stays.
    pub fn reload(&self, py: Python<'_>, application: &Application) {
        let Some(Reload { files, .. }) = application.reload() else { return };
        let others: Vec<_> = files.but_script().into_iter().map(PathBuf::into_os_string).collect();
        let start = Instant::now();
        let loaded = {
            let _entered = application.enter_log();
            let loaded = self.call(py, "reload", application, others);
            self.accept(py, application, loaded)
        };
        // Some version is loaded either way.
        let _ = self.log_result(py, application, start, loaded, true);
    }

    /// Logs the result of loading an application, which began at `start`.
    fn log_result(
        &self,
        py: Python<'_>,
        application: &Application,
        start: Instant,
        loaded: Result<(), LoadError>,
        is_reload: bool,
    ) -> Result<(), String> {
        match loaded {
            Ok(()) => {
                let time = start.elapsed();
                application.log_success(time, &self.interpreter, is_reload, self.description(py, application));
                Ok(())
            }
            Err(error) => {
                application.log_failure(&error, is_reload);
                Err(error.traceback)
            }
        }
    }

    /// Keeps the callable of an application that was loaded, and records its files.
    fn accept(
        &self,
        py: Python<'_>,
        application: &Application,
        loaded: PyResult<Bound<'_, PyAny>>,
    ) -> Result<(), LoadError> {
        // A process that the import has forked may return here, too.
        fork::end_child(py, loaded.as_ref().err());
        log::flush();
        match loaded {
            Ok(callable) => {
                let before = self.callables().insert(application.number(), callable.unbind());
                // Its release may run code of the application, so not under the lock.
                drop(before);
                if let Some(Reload { files, .. }) = application.reload() {
                    let (script, modules) = self.files_of(py, application);
                    files.loaded(script, modules);
                }
                Ok(())
            }
            Err(error) => {
                if let Some(Reload { files, .. }) = application.reload() {
                    files.failed();
                }
                Err(LoadError { summary: traceback::summary(&error, py), traceback: traceback::format(&error, py) })
            }
        }
    }

    /// Calls a function of loader.py for an application.
    fn call<'py>(
        &self,
        py: Python<'py>,
        function: &str,
        application: &Application,
        last: impl IntoPyObject<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let specification = application.specification();
        let (script, module) = match &specification.target {
            Target::Script(path) => (Some(path.as_os_str()), None),
            Target::Module(name) => (None, Some(name)),
        };
        let pair = |callable: &Callable| (callable.name.clone(), callable.is_factory);
        let middleware: Vec<_> =
            specification.middleware.iter().map(|(module, callable)| (module, pair(callable))).collect();
        let middleware = PyList::new(py, middleware)?;
        let function = self.namespace.bind(py).as_any().get_item(function)?;
        let callable = pair(&specification.callable);
        function.call1((application.number(), application.title(), script, module, callable, middleware, last))
    }

    /// Returns what the module of a loaded application says about itself.
    fn description(&self, py: Python<'_>, application: &Application) -> Description {
        let (script, module) = match &application.specification().target {
            Target::Script(path) => (Some(path.as_os_str()), None),
            Target::Module(name) => (None, Some(name)),
        };
        let found = self.namespace.bind(py).as_any().get_item("description");
        let found = found.and_then(|function| function.call1((script, module))?.extract());
        // It is not needed.
        let (version, file): (Option<Bound<'_, PyString>>, Option<PathBuf>) = found.unwrap_or_default();
        Description {
            version: version.map(|version| utf8_lossless(&version).chars().take(VERSION_LENGTH).collect()),
            modified: file.and_then(|file| fs::metadata(file).ok()?.modified().ok()),
        }
    }

    /// Returns the file of an application that is a module, and those of all modules that may belong to it.
    fn files_of(&self, py: Python<'_>, application: &Application) -> (Option<PathBuf>, Vec<PathBuf>) {
        let module = match &application.specification().target {
            Target::Script(_) => None,
            Target::Module(name) => Some(name),
        };
        let files = self.namespace.bind(py).as_any().get_item("files_of");
        let files = files.and_then(|files_of| files_of.call1((module,))?.extract());
        files.unwrap_or_else(|error: PyErr| {
            let text = traceback::format(&error, py);
            log::error(&format!("application \"{}\" cannot watch its modules\n{text}", application.name()));
            Default::default()
        })
    }

    /// Records the modules imported by a call that began at `since`, a result of [`Application::call_start`].
    pub fn note_modules(&self, py: Python<'_>, application: &Application, since: Option<SystemTime>) {
        let (Some(Reload { files, .. }), Some(since)) = (application.reload(), since) else { return };
        let count = self.modules.bind(py).len();
        if self.modules_noted.swap(count, Ordering::Relaxed) != count {
            files.add(self.files_of(py, application).1, since);
        }
    }

    /// Returns the callable of an application, if it is loaded here.
    pub fn callable<'py>(&self, py: Python<'py>, application: &Application) -> Option<Bound<'py, PyAny>> {
        self.callables().get(&application.number()).map(|callable| callable.bind(py).clone())
    }

    /// Returns whether an application is loaded here. Need not be called attached.
    pub fn has(&self, application: &Application) -> bool {
        self.callables().contains_key(&application.number())
    }

    fn callables(&self) -> MutexGuard<'_, FxHashMap<usize, Py<PyAny>>> {
        self.callables.lock()
    }
}
