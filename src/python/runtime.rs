//! The Python runtime of a worker: initialised once, on the thread that becomes Python's main thread, and never
//! finalised.
//!
//! Finalisation aborts the process if there are other threads, and Python cannot be initialised twice. So a worker
//! calls [`Interpreter::shut_down`](crate::python::interpreter::Interpreter::shut_down) and ends by `_exit`.

use std::ffi::{CStr, CString, NulError};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use pyo3::ffi;
use pyo3::prelude::*;
use thiserror::Error;

use super::{access, after_fork, crash, log, traceback};

/// The minor version this module is linked with, as `3.11`.
pub const BUILD_VERSION: &str = env!("WSGI_PYTHON_VERSION");
/// The Python executable this module was built with; its libraries are the default.
const BUILD_EXECUTABLE: &str = env!("WSGI_PYTHON_EXECUTABLE");

/// The Python configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PythonSettings {
    /// `wsgi_python_home`: a virtual environment or an installation prefix.
    pub home: Option<PathBuf>,
    /// `wsgi_python_executable`.
    pub executable: Option<PathBuf>,
    /// `wsgi_python_path`: directories to put in front of `sys.path`.
    pub path: Vec<PathBuf>,
    /// `wsgi_python_optimize`: 0, 1 or 2.
    pub optimize: u8,
    /// True if no byte code is written.
    pub leave_no_byte_code: bool,
}

/// The reason why Python could not be started.
#[derive(Clone, Debug, Error)]
pub enum StartError {
    #[error("Python was started before in this process")]
    StartedBefore,
    #[error("cannot register a handler for forks: {0}")]
    ForkHandler(#[from] Errno),
    /// The sentence names the file or directory that this user cannot access.
    #[error("Python cannot be started: {0}")]
    AccessDenied(String),
    #[error("invalid path: {0}")]
    InvalidPath(#[from] NulError),
    #[error("Python cannot be initialised: {0}")]
    Initialisation(#[from] StatusError),
    /// Initialisation failed, probably because this user cannot access the standard library.
    #[error("{error}: {problem}")]
    LibraryAccessDenied { error: Box<StartError>, problem: String },
}

/// An error that CPython has returned as a `PyStatus`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message} ({function})")]
pub struct StatusError {
    message: String,
    function: String,
}

/// Returns the version of libpython in this process, such as `3.11.2`. Python need not be initialised.
pub fn library_version() -> String {
    // SAFETY: returns static text, callable before Python is initialised.
    let version = unsafe { CStr::from_ptr(ffi::Py_GetVersion()) };
    version.to_string_lossy().split_whitespace().next().unwrap_or_default().to_owned()
}

/// Returns whether `version`, such as `3.11.2`, has the minor version this module is linked with.
pub fn is_build_version(version: &str) -> bool {
    version.strip_prefix(BUILD_VERSION).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl PythonSettings {
    /// Returns the path of the executable that Python finds its libraries or virtual environment by.
    fn program(&self) -> Option<PathBuf> {
        if let Some(executable) = &self.executable {
            return Some(executable.clone());
        }
        match &self.home {
            Some(home) if is_virtual_environment(home) => Some(home.join("bin/python")),
            Some(home) => Some(home.join(concat!("bin/python", env!("WSGI_PYTHON_VERSION")))),
            None => Some(PathBuf::from(BUILD_EXECUTABLE)).filter(|program| program.exists()),
        }
    }

    /// Returns a sentence on the part of these settings that this user cannot access. Python would ignore it.
    fn access_problem(&self) -> Option<String> {
        let directories =
            self.homes().into_iter().chain(self.executable.as_deref().and_then(Path::parent).map(Path::to_owned));
        let problem = directories.into_iter().find_map(|path| access::search_problem(&path));
        problem.or_else(|| self.homes().iter().find_map(|home| access::access_problem(&home.join("pyvenv.cfg"))))
    }

    /// Returns a sentence on the directory of the standard library that this user cannot access, if Python did not find
    /// it.
    fn library_access_problem(&self) -> Option<String> {
        let bases = self.homes().into_iter().filter_map(|home| virtual_environment_value(&home, &["home"]).ok()?);
        let programs = self.program().or_else(|| Some(PathBuf::from(BUILD_EXECUTABLE)));
        programs.into_iter().chain(bases.map(PathBuf::from)).find_map(|path| access::search_problem(&path))
    }

    /// Returns the configured home, and the virtual environment that contains the configured executable.
    fn homes(&self) -> Vec<PathBuf> {
        let around = self.executable.as_deref().and_then(Path::parent).and_then(Path::parent);
        let around = around.filter(|home| is_virtual_environment(home));
        self.home.as_deref().into_iter().chain(around).map(Path::to_owned).collect()
    }

    /// Returns the prefix with the standard library; never a virtual environment, which has none.
    fn prefix(&self) -> Option<&Path> {
        self.home.as_deref().filter(|home| !is_virtual_environment(home))
    }
}

/// Checks that `home` is a virtual environment or a prefix of this module's Python.
///
/// # Errors
/// One sentence that names the path and the fault.
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

/// Returns the `version` (venv) or `version_info` (virtualenv, uv) of a `pyvenv.cfg`.
fn virtual_environment_version(home: &Path) -> Result<String, String> {
    let version = virtual_environment_value(home, &["version", "version_info"])?;
    version.ok_or_else(|| format!("\"{}\" names no version", home.join("pyvenv.cfg").display()))
}

/// Returns the value in a `pyvenv.cfg` of the first line with one of these keys.
fn virtual_environment_value(home: &Path, keys: &[&str]) -> Result<Option<String>, String> {
    let file = home.join("pyvenv.cfg");
    let text =
        std::fs::read_to_string(&file).map_err(|error| format!("cannot read \"{}\": {error}", file.display()))?;
    let mut values = text.lines().filter_map(|line| line.split_once('='));
    let value = values.find(|(key, _)| keys.contains(&key.trim()));
    Ok(value.map(|(_, value)| value.trim().to_owned()))
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

static STARTED: OnceLock<Result<(), StartError>> = OnceLock::new();

/// Initialises Python. The calling thread becomes its main thread, and is left detached.
///
/// # Errors
/// Python cannot be initialised, or was started before.
pub fn start(settings: &PythonSettings) -> Result<(), StartError> {
    static CALLED: AtomicBool = AtomicBool::new(false);
    if CALLED.swap(true, Ordering::Relaxed) {
        return Err(StartError::StartedBefore);
    }
    let result = after_fork::register().map_err(StartError::from).and_then(|()| start_first(settings));
    if result.is_ok() {
        // SAFETY: initialisation left this thread attached; the state is kept by the thread's PyGILState slot.
        unsafe { ffi::PyEval_SaveThread() };
        // pyo3 creates its only type for all interpreters at the first error: do that in the main interpreter, which
        // stays.
        Python::attach(|py| drop(py.None().bind(py).call0()));
        if let Err(error) =
            Python::attach(|py| crash::enable_faulthandler(py).map_err(|error| traceback::format(&error, py)))
        {
            log::error(&format!("wsgi: cannot enable faulthandler, a crash will be logged without stacks: {error}"));
        }
    }
    STARTED.get_or_init(|| result).clone()
}

fn start_first(settings: &PythonSettings) -> Result<(), StartError> {
    // The error of Python itself would be a list of all directories that it has searched.
    if let Some(problem) = settings.access_problem() {
        return Err(StartError::AccessDenied(problem));
    }
    let started = preinitialize().map_err(StartError::from).and_then(|()| initialize(settings));
    started.map_err(|error| match settings.library_access_problem() {
        Some(problem) => StartError::LibraryAccessDenied { error: Box::new(error), problem },
        None => error,
    })
}

/// Waits until [`start`] has returned, on another thread.
///
/// # Errors
/// The error of [`start`].
pub fn started() -> Result<(), StartError> {
    STARTED.wait().clone()
}

/// Starts Python for unit tests, once, on a thread that stays.
#[cfg(test)]
pub fn start_for_tests() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let start = || start(&PythonSettings::default()).map(|()| std::thread::park());
    ONCE.call_once(|| drop(std::thread::spawn(start)));
    started().unwrap();
}

/// Enables UTF-8 mode: nginx's environment has no locale, so the encoding of paths and files would be ASCII.
fn preinitialize() -> Result<(), StatusError> {
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

fn initialize(settings: &PythonSettings) -> Result<(), StartError> {
    let mut config = MaybeUninit::<ffi::PyConfig>::zeroed();
    let config = config.as_mut_ptr();
    // SAFETY: the config is zeroed, filled by its initialiser, and cleared on every path; the string pointers are to
    // its fields.
    unsafe {
        // Isolated: no user site directory, no signal handlers, no changes of stdio or of the working directory. But
        // PYTHON… variables are read: a worker has only those set by nginx's `env` or by `wsgi_env`.
        ffi::PyConfig_InitIsolatedConfig(config);
        (*config).isolated = 0;
        (*config).use_environment = 1;
        (*config).optimization_level = i32::from(settings.optimize);
        (*config).write_bytecode = i32::from(!settings.leave_no_byte_code);
        let result = set_path(config, &raw mut (*config).program_name, settings.program().as_deref())
            .and_then(|()| set_path(config, &raw mut (*config).home, settings.prefix()))
            .and_then(|()| Ok(check(ffi::Py_InitializeFromConfig(config))?));
        ffi::PyConfig_Clear(config);
        result
    }
}

/// Sets a string of the configuration to a path.
///
/// # Safety
/// `config` is initialised and `field` is one of its strings.
unsafe fn set_path(
    config: *mut ffi::PyConfig,
    field: *mut *mut libc::wchar_t,
    path: Option<&Path>,
) -> Result<(), StartError> {
    use std::os::unix::ffi::OsStrExt;
    let Some(path) = path else { return Ok(()) };
    let text = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: by the caller's promise; Python copies the text.
    Ok(unsafe { check(ffi::PyConfig_SetBytesString(config, field.cast(), text.as_ptr())) }?)
}

/// Converts a `PyStatus` into a result. `Py_ExitStatusException` would exit the process.
pub(super) fn check(status: ffi::PyStatus) -> Result<(), StatusError> {
    // SAFETY: plain reads of a status that a Python function returned; its texts are static.
    unsafe {
        if ffi::PyStatus_Exception(status) == 0 {
            return Ok(());
        }
        let text = |pointer: *const std::ffi::c_char| {
            if pointer.is_null() { String::new() } else { CStr::from_ptr(pointer).to_string_lossy().into_owned() }
        };
        Err(StatusError { message: text(status.err_msg), function: text(status.func) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_whole_numbers() {
        assert!(is_build_version(BUILD_VERSION));
        assert!(is_build_version(&format!("{BUILD_VERSION}.7")));
        assert!(!is_build_version(&format!("{BUILD_VERSION}7.1")));
    }

    #[test]
    fn the_library_of_this_process_has_the_version_of_the_build() {
        assert!(is_build_version(&library_version()));
    }
}
