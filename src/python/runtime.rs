//! The Python of one worker: initialised once, on the thread that becomes Python's main thread, and never finalised.
//!
//! Finalising with threads about aborts the process, and Python cannot be initialised twice; so a worker ends with
//! [`Interpreter::shut_down`] and leaves by `_exit`.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::ffi;
use pyo3::ffi::c_str;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::{class, fork, log};

/// The minor version this module is linked with, as `3.11`.
pub const BUILD_VERSION: &str = env!("WSGI_PYTHON_VERSION");
/// The interpreter this module was built with; its libraries are used unless the configuration names others.
const BUILD_EXECUTABLE: &str = env!("WSGI_PYTHON_EXECUTABLE");

/// What the configuration says about Python.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `wsgi_python_home`: a virtual environment or an installation prefix.
    pub home: Option<PathBuf>,
    /// `wsgi_python_executable`.
    pub executable: Option<PathBuf>,
    /// `wsgi_python_path`: put in front of `sys.path`.
    pub path: Vec<PathBuf>,
    /// `wsgi_python_optimize`: 0, 1 or 2.
    pub optimize: u8,
    /// Whether no byte code is written, whoever may read and write the files.
    pub leave_no_byte_code: bool,
}

/// A fact for the module `ngx_wsgi`: its attribute name and value.
pub enum Fact {
    Text(&'static str, String),
    Number(&'static str, i64),
    Truth(&'static str, bool),
}

/// The libpython in this process, as `3.11.2`; Python need not be initialised.
pub fn library_version() -> String {
    // SAFETY: returns static text, callable before Python is initialised.
    let version = unsafe { CStr::from_ptr(ffi::Py_GetVersion()) };
    version.to_string_lossy().split_whitespace().next().unwrap_or_default().to_owned()
}

/// Whether a `version` such as `3.11.2` is of the minor version this module is linked with.
pub fn is_build_version(version: &str) -> bool {
    version.strip_prefix(BUILD_VERSION).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Settings {
    /// The program that Python takes itself for: it finds its libraries, or the virtual environment, by that path.
    fn program(&self) -> Option<PathBuf> {
        if let Some(executable) = &self.executable {
            return Some(executable.clone());
        }
        match &self.home {
            Some(home) if is_virtual_environment(home) => Some(home.join("bin/python")),
            Some(_) => None,
            None => Some(PathBuf::from(BUILD_EXECUTABLE)).filter(|program| program.exists()),
        }
    }

    /// The prefix to look for the standard library in; never a virtual environment, which has none.
    fn prefix(&self) -> Option<&Path> {
        self.home.as_deref().filter(|home| !is_virtual_environment(home))
    }
}

/// Checks a home, before any worker is started: an environment or a prefix of this module's Python.
///
/// # Errors
/// One sentence that names the path and what is wrong with it.
pub fn check_home(home: &Path) -> Result<(), String> {
    if !home.is_dir() {
        return Err(format!("\"{}\" is not a directory", home.display()));
    }
    if !is_virtual_environment(home) {
        let library = home.join(format!("lib/python{BUILD_VERSION}/os.py"));
        return if library.is_file() {
            Ok(())
        } else {
            Err(format!(
                "\"{}\" is neither a virtual environment (it has no pyvenv.cfg) nor the prefix of a Python \
                 {BUILD_VERSION} (there is no {})",
                home.display(),
                library.display()
            ))
        };
    }
    let version = virtual_environment_version(home)?;
    if is_build_version(&version) {
        return Ok(());
    }
    Err(format!(
        "the virtual environment \"{}\" is for Python {version}, but this module is built for Python {BUILD_VERSION}: \
         make the environment with python{BUILD_VERSION} -m venv",
        home.display()
    ))
}

fn is_virtual_environment(home: &Path) -> bool {
    home.join("pyvenv.cfg").is_file()
}

/// The `version` (venv) or `version_info` (virtualenv, uv) of a `pyvenv.cfg`.
fn virtual_environment_version(home: &Path) -> Result<String, String> {
    let file = home.join("pyvenv.cfg");
    let text =
        std::fs::read_to_string(&file).map_err(|error| format!("cannot read \"{}\": {error}", file.display()))?;
    text.lines()
        .filter_map(|line| line.split_once('='))
        .find(|(key, _)| matches!(key.trim(), "version" | "version_info"))
        .map(|(_, value)| value.trim().to_owned())
        .ok_or_else(|| format!("\"{}\" names no version", file.display()))
}

/// Sets variables of the process environment.
///
/// # Safety
/// No other thread of the process may be running: the environment has no lock.
pub unsafe fn set_environment(variables: &[(String, String)]) {
    for (name, value) in variables {
        // SAFETY: single-threaded by the caller's promise.
        unsafe { std::env::set_var(name, value) };
    }
}

/// The main interpreter.
///
/// Its objects are released only while attached, in practice never: it lives as long as the worker.
pub struct Interpreter {
    prelude: Py<PyDict>,
}

impl Interpreter {
    /// Initialises Python; the calling thread becomes its main thread, and is left detached.
    ///
    /// # Errors
    /// One sentence on what failed. A second start in the same process is an error.
    pub fn start(settings: &Settings, facts: &[Fact]) -> Result<Self, String> {
        static STARTED: AtomicBool = AtomicBool::new(false);
        if STARTED.swap(true, Ordering::Relaxed) {
            return Err("Python was started before in this process".to_owned());
        }
        preinitialize()?;
        initialize(settings)?;
        // SAFETY: initialisation left this thread attached; the state is kept by the thread's PyGILState slot.
        unsafe { ffi::PyEval_SaveThread() };

        Python::attach(|py| {
            Self::run_prelude(py, settings, facts)
                .map_err(|error| format!("Python cannot run its prelude: {}", super::traceback::format(&error, py)))
        })
    }

    fn run_prelude(py: Python<'_>, settings: &Settings, facts: &[Fact]) -> PyResult<Self> {
        let globals = PyDict::new(py);
        globals.set_item("__name__", "_ngx_wsgi_prelude")?;
        globals.set_item("_write", class::function(py, &log::WRITE)?)?;
        globals.set_item("_flush", class::function(py, &log::FLUSH)?)?;
        globals.set_item("_after_fork_in_child", class::function(py, &fork::AFTER_FORK_IN_CHILD)?)?;
        globals.set_item("path", PyList::new(py, settings.path.iter().map(|path| path.as_os_str()))?)?;
        let values = PyDict::new(py);
        for fact in facts {
            match fact {
                Fact::Text(name, value) => values.set_item(name, value)?,
                Fact::Number(name, value) => values.set_item(name, value)?,
                Fact::Truth(name, value) => values.set_item(name, value)?,
            }
        }
        globals.set_item("facts", values)?;
        run_code(py, c_str!(include_str!("prelude.py")), c"ngx_wsgi/prelude.py", &globals)?;
        Ok(Self { prelude: globals.unbind() })
    }

    /// A name of the prelude, as `errors` or `FileWrapper`.
    pub fn prelude<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        self.prelude.bind(py).as_any().get_item(name)
    }

    /// Makes the calling thread one that the module `threading` knows, named `name`.
    ///
    /// # Errors
    /// When Python is out of memory.
    pub fn adopt_thread(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.prelude(py, "adopt_thread")?.call1((name,)).map(drop)
    }

    /// Runs `on_shutdown` callbacks, joins threads and runs `atexit` handlers; at most about `limit` if they allow it.
    ///
    /// To be called once, on the Python main thread.
    pub fn shut_down(&self, py: Python<'_>, limit: Duration) {
        let result =
            self.prelude(py, "shutdown").and_then(|shutdown| shutdown.call_method1("run", (limit.as_secs_f64(),)));
        if let Err(error) = result {
            log::error(&super::traceback::format(&error, py));
        }
    }
}

/// Runs Python code that is part of this module, with `globals` as its namespace.
pub fn run_code(py: Python<'_>, code: &CStr, file: &CStr, globals: &Bound<'_, PyDict>) -> PyResult<()> {
    // SAFETY: null-terminated texts; both results are checked for null.
    unsafe {
        let compiled = ffi::Py_CompileString(code.as_ptr(), file.as_ptr(), ffi::Py_file_input);
        let compiled = Bound::from_owned_ptr_or_err(py, compiled)?;
        globals.set_item("__builtins__", py.import("builtins")?)?;
        let result = ffi::PyEval_EvalCode(compiled.as_ptr(), globals.as_ptr(), globals.as_ptr());
        Bound::from_owned_ptr_or_err(py, result).map(drop)
    }
}

/// Chooses UTF-8 whatever the locale says: nginx's environment has none, and paths and files would be ASCII.
fn preinitialize() -> Result<(), String> {
    let mut config = MaybeUninit::<ffi::PyPreConfig>::zeroed();
    // SAFETY: PyPreConfig is plain integers, zeroed and then filled by its initialiser.
    unsafe {
        ffi::PyPreConfig_InitIsolatedConfig(config.as_mut_ptr());
        (*config.as_mut_ptr()).isolated = 0;
        (*config.as_mut_ptr()).use_environment = 1;
        (*config.as_mut_ptr()).utf8_mode = 1;
        check(ffi::Py_PreInitialize(config.as_ptr()))
    }
}

fn initialize(settings: &Settings) -> Result<(), String> {
    let mut config = MaybeUninit::<ffi::PyConfig>::zeroed();
    let config = config.as_mut_ptr();
    // SAFETY: the config is zeroed, filled by its initialiser, and cleared on every path; the string pointers are to
    // fields of it.
    unsafe {
        // Isolated: no user site directory, no signal handlers, stdio and the working directory left alone. But PYTHON…
        // variables count: a worker has only those that nginx's `env` or `wsgi_env` gave it.
        ffi::PyConfig_InitIsolatedConfig(config);
        (*config).isolated = 0;
        (*config).use_environment = 1;
        (*config).optimization_level = i32::from(settings.optimize);
        (*config).write_bytecode = i32::from(!settings.leave_no_byte_code);
        let result = set_path(config, &raw mut (*config).program_name, settings.program().as_deref())
            .and_then(|()| set_path(config, &raw mut (*config).home, settings.prefix()))
            .and_then(|()| check(ffi::Py_InitializeFromConfig(config)));
        ffi::PyConfig_Clear(config);
        result
    }
}

/// # Safety
/// `config` is initialised and `field` is one of its strings.
unsafe fn set_path(
    config: *mut ffi::PyConfig,
    field: *mut *mut libc::wchar_t,
    path: Option<&Path>,
) -> Result<(), String> {
    use std::os::unix::ffi::OsStrExt;
    let Some(path) = path else { return Ok(()) };
    let text = CString::new(path.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: by the caller's promise; Python copies the text.
    unsafe { check(ffi::PyConfig_SetBytesString(config, field.cast(), text.as_ptr())) }
}

/// Turns a `PyStatus` into a sentence; never exits as `Py_ExitStatusException` would.
fn check(status: ffi::PyStatus) -> Result<(), String> {
    // SAFETY: plain reads of a status that a Python function returned; its texts are static.
    unsafe {
        if ffi::PyStatus_Exception(status) == 0 {
            return Ok(());
        }
        let text = |pointer: *const std::ffi::c_char| {
            if pointer.is_null() { String::new() } else { CStr::from_ptr(pointer).to_string_lossy().into_owned() }
        };
        Err(format!("Python cannot be initialised: {} ({})", text(status.err_msg), text(status.func)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_matches_by_whole_numbers() {
        assert!(is_build_version(BUILD_VERSION));
        assert!(is_build_version(&format!("{BUILD_VERSION}.7")));
        assert!(!is_build_version(&format!("{BUILD_VERSION}7.1")));
    }

    #[test]
    fn the_library_of_this_process_is_the_one_it_was_built_with() {
        assert!(is_build_version(&library_version()));
    }
}
