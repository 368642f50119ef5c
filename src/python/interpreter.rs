//! The preparation of an interpreter before an application is loaded, and its shutdown, both by the bootstrap.

use std::ffi::{CStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use super::{fork, log, native_class, status, traceback};

/// An attribute of the module `ngx_wsgi`: name and value.
pub enum Fact {
    Text(&'static str, String),
    Number(&'static str, i64),
    Truth(&'static str, bool),
}

/// The variables of an environment: names and values.
pub type Environment = Vec<(OsString, OsString)>;

/// The parameters that an interpreter is prepared with.
pub struct Preparation<'a> {
    /// Directories to put in front of `sys.path`.
    pub path: &'a [PathBuf],
    /// Attributes of the module `ngx_wsgi`.
    pub facts: &'a [Fact],
    /// The `os.environ` of a sub-interpreter; `None` for the main interpreter, which uses that of the process.
    pub environment: Option<&'a Environment>,
}

/// A prepared interpreter. Released attached to it.
pub struct Interpreter {
    bootstrap: Py<PyDict>,
}

impl Interpreter {
    /// Prepares the current interpreter; the calling thread becomes the one that `threading` calls the main thread.
    ///
    /// # Errors
    /// If Python cannot run the bootstrap.
    pub fn prepare(py: Python<'_>, preparation: &Preparation<'_>) -> PyResult<Self> {
        let globals = PyDict::new(py);
        globals.set_item("__name__", "_ngx_wsgi_bootstrap")?;
        globals.set_item("_write", native_class::function(py, &log::WRITE)?)?;
        globals.set_item("_flush", native_class::function(py, &log::FLUSH)?)?;
        globals.set_item("_record", native_class::function(py, &log::RECORD)?)?;
        globals.set_item("_status", native_class::function(py, &status::STATUS)?)?;
        globals.set_item("_log_number", native_class::function(py, &log::LOG_NUMBER)?)?;
        globals.set_item("_enter_log", native_class::function(py, &log::ENTER_LOG)?)?;
        globals.set_item("has_application_logs", log::has_application_logs())?;
        globals.set_item("path", PyList::new(py, preparation.path.iter().map(|path| path.as_os_str()))?)?;
        let values = PyDict::new(py);
        for fact in preparation.facts {
            match fact {
                Fact::Text(name, value) => values.set_item(name, value)?,
                Fact::Number(name, value) => values.set_item(name, value)?,
                Fact::Truth(name, value) => values.set_item(name, value)?,
            }
        }
        globals.set_item("facts", values)?;
        if let Some(environment) = preparation.environment {
            isolate(py, environment)?;
        }
        script!("bootstrap").run(py, &globals)?;
        Ok(Self { bootstrap: globals.unbind() })
    }

    /// Returns a global of the bootstrap, such as `errors` or `FileWrapper`.
    pub fn bootstrap<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        self.bootstrap.bind(py).as_any().get_item(name)
    }

    /// Registers the calling thread in the module `threading`, named `name`.
    ///
    /// # Errors
    /// If Python is out of memory.
    pub fn adopt_thread(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.bootstrap(py, "adopt_thread")?.call1((name,)).map(drop)
    }

    /// Removes the calling thread from the module `threading`. It uses Python no more.
    ///
    /// # Errors
    /// As [`Interpreter::adopt_thread`].
    pub fn leave_thread(&self, py: Python<'_>) -> PyResult<()> {
        self.bootstrap(py, "leave_thread")?.call0().map(drop)
    }

    /// Runs `on_shutdown` callbacks, joins threads and runs `atexit` handlers. Threads are joined for half of `limit`
    /// at most; the other functions are not interrupted.
    ///
    /// Call it once, on the thread that prepared the interpreter.
    pub fn shut_down(&self, py: Python<'_>, limit: Duration) {
        let result =
            self.bootstrap(py, "shutdown").and_then(|shutdown| shutdown.call_method1("run", (limit.as_secs_f64(),)));
        fork::end_child(py, result.as_ref().err());
        if let Err(error) = result {
            log::error(&format!("wsgi: cannot shut down an interpreter\n{}", traceback::format(&error, py)));
        }
        py.detach(log::flush);
    }
}

/// Isolates a sub-interpreter from state that it would share with others in the process.
fn isolate(py: Python<'_>, environment: &Environment) -> PyResult<()> {
    let variables = PyDict::new(py);
    for (name, value) in environment {
        variables.set_item(PyBytes::new(py, name.as_bytes()), PyBytes::new(py, value.as_bytes()))?;
    }
    let globals = PyDict::new(py);
    globals.set_item("__name__", "_ngx_wsgi_isolation")?;
    globals.set_item("variables", variables)?;
    script!("isolation").run(py, &globals)
}

/// Python code of this module.
pub struct Script {
    pub file: &'static CStr,
    pub source: &'static CStr,
    pub byte_code: &'static [u8],
}

/// Makes a [`Script`] of the file of this name beside the calling one.
macro_rules! script {
    ($name:literal) => {
        $crate::python::interpreter::Script {
            file: pyo3::ffi::c_str!(concat!("ngx_wsgi/", $name, ".py")),
            source: pyo3::ffi::c_str!(include_str!(concat!($name, ".py"))),
            byte_code: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".pyc")),
        }
    };
}
pub(crate) use script;

impl Script {
    /// Runs it with `globals` as its namespace.
    pub fn run(&self, py: Python<'_>, globals: &Bound<'_, PyDict>) -> PyResult<()> {
        let code = self.code(py)?;
        globals.set_item("__builtins__", py.import("builtins")?)?;
        // SAFETY: attached, with a code object; the result is checked for null.
        unsafe {
            let result = ffi::PyEval_EvalCode(code.as_ptr(), globals.as_ptr(), globals.as_ptr());
            Bound::from_owned_ptr_or_err(py, result).map(drop)
        }
    }

    /// Returns its code object. The compiler would need a megabyte, most of which stays allocated.
    fn code<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // Byte code may change between two alpha versions of Python.
        if is_version_of_byte_code(py) { self.load(py) } else { self.compile(py) }
    }

    fn load<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (data, length) = (self.byte_code.as_ptr().cast(), self.byte_code.len().cast_signed());
        // SAFETY: attached; `length` bytes, written by this version of Python; the result is checked for null.
        unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyMarshal_ReadObjectFromString(data, length)) }
    }

    fn compile<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: attached; null-terminated texts; the result is checked for null.
        unsafe {
            let code = ffi::Py_CompileString(self.source.as_ptr(), self.file.as_ptr(), ffi::Py_file_input);
            Bound::from_owned_ptr_or_err(py, code)
        }
    }
}

/// Returns whether this Python runs the byte code of the Python that this module was built with.
fn is_version_of_byte_code(_: Python<'_>) -> bool {
    // SAFETY: attached.
    unsafe { ffi::PyImport_GetMagicNumber() }.to_string() == env!("WSGI_BYTE_CODE_MAGIC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::runtime::start_for_tests;

    #[test]
    fn byte_code_is_that_of_the_source() {
        start_for_tests();
        Python::attach(|py| {
            assert!(is_version_of_byte_code(py));
            for script in [script!("bootstrap"), script!("isolation")] {
                assert!(script.load(py).unwrap().eq(script.compile(py).unwrap()).unwrap(), "{:?}", script.file);
            }
        });
    }
}
