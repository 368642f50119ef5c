//! One application of a worker, and what of it is loaded in an interpreter.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use pyo3::ffi::c_str;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::source_files::{Files, Mechanism, Reloading};
use super::specification::{Callable, Specification, Target};
use crate::python::interpreter::run_code;
use crate::python::log::{self, Level};
use crate::python::{access, fork, native_class, traceback};
use crate::sync::{Mutex, MutexGuard};

/// An application of a worker. It may be loaded in several interpreters, so it holds nothing of Python.
pub struct Application {
    number: usize,
    specification: Specification,
    name: Arc<str>,
    /// What messages for administrators call it: with its place in the configuration.
    title: String,
    reload: Option<Reload>,
}

/// What an application has that is loaded anew when its files change.
pub struct Reload {
    pub mechanism: Mechanism,
    pub files: Files,
}

impl Application {
    /// The application that `specification` names, in a `wsgi_pass` at this file and line.
    pub fn new(specification: Specification, place: &str, reloading: Option<Reloading>) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name: Arc<str> = specification.to_string().into();
        let title = format!("wsgi_pass \"{name}\" in {place}");
        let reload = reloading.map(|Reloading { mechanism, patterns }| {
            let files = Files::new(specification.target.script(), patterns);
            Reload { mechanism, files }
        });
        Self { number: NEXT.fetch_add(1, Ordering::Relaxed), specification, name, title, reload }
    }

    /// What tells it from others of its worker.
    pub fn number(&self) -> usize {
        self.number
    }

    /// What is loaded from now on is as its files are now.
    pub fn note_files(&self) {
        if let Some(Reload { files, .. }) = &self.reload {
            files.note();
        }
    }

    /// Logs that it could not be loaded; `has_old` if what was loaded before is there.
    pub fn log_failure(&self, Failure { summary, traceback }: &Failure, has_old: bool) {
        let anew = if has_old { " anew, what was loaded before serves on" } else { "" };
        log::error(&format!("application \"{}\" could not be loaded{anew}: {summary}\n{traceback}", self.name));
    }

    /// Logs that it was loaded within `time` in an interpreter; `has_old` if another version of it was loaded before.
    pub fn log_success(&self, time: Duration, interpreter: &str, has_old: bool) {
        let anew = if has_old { " anew" } else { "" };
        let (name, seconds) = (&self.name, time.as_secs_f64());
        let text = format!("application \"{name}\" loaded{anew} in {seconds:.3} s, interpreter \"{interpreter}\"");
        log::write_record(Level::Notice, &text);
    }

    /// The time now, where the modules count that a call imports.
    pub fn look_at_clock(&self) -> Option<SystemTime> {
        self.reload.as_ref().filter(|reload| reload.files.has_modules()).map(|_| SystemTime::now())
    }

    /// With `wsgi_script_reloading`.
    pub fn reload(&self) -> Option<&Reload> {
        self.reload.as_ref()
    }

    /// What the log calls it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

/// The loader of one interpreter, with the callables of the applications it has loaded. Released attached, in there.
pub struct Loader {
    namespace: Py<PyDict>,
    /// The name of its interpreter.
    interpreter: Arc<str>,
    callables: Mutex<HashMap<usize, Py<PyAny>>>,
    /// `sys.modules`, and how many there were when somebody last looked which.
    modules: Py<PyDict>,
    modules_noted: AtomicUsize,
}

impl Loader {
    /// The loader of the current interpreter, of this name.
    ///
    /// # Errors
    /// When Python cannot run the loader's code.
    pub fn new(py: Python<'_>, interpreter: Arc<str>, is_main: bool) -> PyResult<Self> {
        let namespace = PyDict::new(py);
        namespace.set_item("__name__", "_ngx_wsgi_loader")?;
        namespace.set_item("is_main", is_main)?;
        namespace.set_item("closed", native_class::function(py, &access::CLOSED)?)?;
        namespace.set_item("is_child", false)?;
        namespace.set_item("scripts", PyDict::new(py))?;
        namespace.set_item("source", include_str!("scripts.py"))?;
        run_code(py, c_str!(include_str!("scripts.py")), c"ngx_wsgi/scripts.py", &namespace)?;
        run_code(py, c_str!(include_str!("callables.py")), c"ngx_wsgi/callables.py", &namespace)?;
        run_code(py, c_str!(include_str!("settings.py")), c"ngx_wsgi/settings.py", &namespace)?;
        run_code(py, c_str!(include_str!("conflicts.py")), c"ngx_wsgi/conflicts.py", &namespace)?;
        run_code(py, c_str!(include_str!("loader.py")), c"ngx_wsgi/loader.py", &namespace)?;
        let modules = py.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?.unbind();
        let modules_noted = AtomicUsize::new(0);
        Ok(Self { namespace: namespace.unbind(), interpreter, callables: Mutex::default(), modules, modules_noted })
    }

    /// Loads an application whose files have been noted. With `is_replacement` another interpreter serves meanwhile.
    ///
    /// # Errors
    /// The traceback, which is in the log already. What the attempt left in `sys.modules` is gone, so that another can
    /// start afresh.
    pub fn load(&self, py: Python<'_>, application: &Application, is_replacement: bool) -> Result<(), String> {
        let start = Instant::now();
        let loaded = self.try_load(py, application);
        self.report(application, start, loaded, is_replacement)
    }

    /// As [`Loader::load`], and logs nothing of its own.
    ///
    /// # Errors
    /// What is to be said of the failure.
    pub fn try_load(&self, py: Python<'_>, application: &Application) -> Result<(), Failure> {
        let loaded = self.call(py, "load", application, application.reload.is_some());
        self.take(py, application, loaded)
    }

    /// Loads the changed files of an application that is loaded here: its script, and what it has of `wsgi_reload_watch`.
    /// If that fails, which is in the log then, all is as it was.
    pub fn reload(&self, py: Python<'_>, application: &Application) {
        let Some(Reload { files, .. }) = &application.reload else { return };
        let others: Vec<_> = files.but_script().into_iter().map(PathBuf::into_os_string).collect();
        let start = Instant::now();
        let loaded = self.call(py, "reload", application, others);
        let loaded = self.take(py, application, loaded);
        // Whether or not, something is loaded.
        let _ = self.report(application, start, loaded, true);
    }

    /// Logs what loading an application has come to that began at `start`; `has_old` if it was loaded before.
    fn report(
        &self,
        application: &Application,
        start: Instant,
        loaded: Result<(), Failure>,
        has_old: bool,
    ) -> Result<(), String> {
        match loaded {
            Ok(()) => {
                application.log_success(start.elapsed(), &self.interpreter, has_old);
                Ok(())
            }
            Err(failure) => {
                application.log_failure(&failure, has_old);
                Err(failure.traceback)
            }
        }
    }

    /// Takes what loading an application has come to.
    fn take(
        &self,
        py: Python<'_>,
        application: &Application,
        loaded: PyResult<Bound<'_, PyAny>>,
    ) -> Result<(), Failure> {
        // A process that the import has forked may come out of it as well.
        fork::end_child(py, loaded.as_ref().err());
        log::flush();
        match loaded {
            Ok(callable) => {
                let before = self.callables().insert(application.number, callable.unbind());
                // It may run code of its own when it goes, so not under the lock.
                drop(before);
                if let Some(Reload { files, .. }) = &application.reload {
                    let (script, modules) = self.files_of(py, application);
                    files.loaded(script, modules);
                }
                Ok(())
            }
            Err(error) => {
                if let Some(Reload { files, .. }) = &application.reload {
                    files.failed();
                }
                Err(Failure { summary: traceback::summary(&error, py), traceback: traceback::format(&error, py) })
            }
        }
    }

    /// Calls a function of the loader for an application.
    fn call<'py>(
        &self,
        py: Python<'py>,
        function: &str,
        application: &Application,
        last: impl IntoPyObject<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let specification = &application.specification;
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
        function.call1((application.number, &application.title, script, module, callable, middleware, last))
    }

    /// The file of an application that is a module, and those of all modules that may belong to it.
    fn files_of(&self, py: Python<'_>, application: &Application) -> (Option<PathBuf>, Vec<PathBuf>) {
        let module = match &application.specification.target {
            Target::Script(_) => None,
            Target::Module(name) => Some(name),
        };
        let files = self.namespace.bind(py).as_any().get_item("files_of");
        let files = files.and_then(|files_of| files_of.call1((module,))?.extract());
        files.unwrap_or_else(|error: PyErr| {
            log::error(&traceback::format(&error, py));
            Default::default()
        })
    }

    /// Notes the modules that a call has imported which began at `since`, by [`Application::look_at_clock`].
    pub fn note_modules(&self, py: Python<'_>, application: &Application, since: Option<SystemTime>) {
        let (Some(Reload { files, .. }), Some(since)) = (&application.reload, since) else { return };
        let count = self.modules.bind(py).len();
        if self.modules_noted.swap(count, Ordering::Relaxed) != count {
            files.add(self.files_of(py, application).1, since);
        }
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
        self.callables.lock()
    }
}

/// Why an application could not be loaded.
pub struct Failure {
    /// Class and message of the exception, in a line.
    pub summary: String,
    pub traceback: String,
}
