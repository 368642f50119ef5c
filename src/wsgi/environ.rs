//! The environ dictionary of a call, made from the request's parameters (PEP 3333, "environ Variables").

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::cache::Cache;
use super::file::FileBody;
use super::input::Input;
use super::params::{CgiParams, Key, Variable};
use super::response::Response;
use super::start_response::START_RESPONSE;
use crate::python::interpreter::Interpreter;
use crate::python::native_class::ClassObject;
use crate::python::text::latin1;
use crate::sync::Mutex;

/// The properties of the server, the same for all requests of an interpreter.
#[derive(Clone, Debug)]
pub struct Server {
    /// `SERVER_SOFTWARE`.
    pub software: String,
    /// `wsgi.multithread`: other threads of this process may call the same application at the same time.
    pub multithread: bool,
    /// `wsgi.multiprocess`: other processes, or other interpreters of this one, may run the same application.
    pub multiprocess: bool,
}

/// The common parts of all environs of one interpreter. Released attached to that interpreter.
pub struct EnvironTemplate {
    /// Keys and values that are the same for every request; copied for each.
    constants: Py<PyDict>,
    variable_names: [Py<PyString>; Variable::NAMES.len()],
    /// `HTTP_…` keys of earlier requests.
    header_names: StringCache,
    /// Values that repeat: methods, protocols, schemes.
    values: StringCache,
    /// The class `wsgi.file_wrapper`.
    file_wrapper: Py<PyAny>,
    /// The function of the bootstrap that finds the file of an instance.
    regular_file: Py<PyAny>,
    input_key: Py<PyString>,
    input_class: ClassObject<Input>,
    response_class: ClassObject<Response>,
}

/// A cache of Python strings by their bytes.
#[derive(Default)]
struct StringCache {
    cache: Mutex<Cache<Py<PyString>>>,
}

impl StringCache {
    fn get<'py>(&self, py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
        // The lock is taken by attached threads only, and no Python code runs meanwhile: releasing a string runs none.
        let mut cache = self.cache.lock();
        if let Some(string) = cache.get(bytes) {
            return Ok(string.bind(py).clone());
        }
        let string = latin1(py, bytes)?;
        cache.insert(bytes, string.clone().unbind());
        Ok(string)
    }
}

impl EnvironTemplate {
    /// Creates the template in the current interpreter.
    pub fn new(py: Python<'_>, interpreter: &Interpreter, server: &Server) -> PyResult<Self> {
        let constants = PyDict::new(py);
        constants.set_item("GATEWAY_INTERFACE", "CGI/1.1")?;
        constants.set_item("SERVER_SOFTWARE", &server.software)?;
        constants.set_item("wsgi.version", (1, 0))?;
        constants.set_item("wsgi.errors", interpreter.bootstrap(py, "errors")?)?;
        constants.set_item("wsgi.multithread", server.multithread)?;
        constants.set_item("wsgi.multiprocess", server.multiprocess)?;
        constants.set_item("wsgi.run_once", false)?;
        let file_wrapper = interpreter.bootstrap(py, "FileWrapper")?;
        constants.set_item("wsgi.file_wrapper", &file_wrapper)?;
        // The input ends where the body ends, also without a Content-Length.
        constants.set_item("wsgi.input_terminated", true)?;
        Ok(Self {
            constants: constants.unbind(),
            variable_names: Variable::NAMES.map(|name| PyString::intern(py, name).unbind()),
            header_names: StringCache::default(),
            values: StringCache::default(),
            file_wrapper: file_wrapper.unbind(),
            regular_file: interpreter.bootstrap(py, "regular_file")?.unbind(),
            input_key: PyString::intern(py, "wsgi.input").unbind(),
            input_class: ClassObject::new(py)?,
            response_class: ClassObject::new(py)?,
        })
    }

    /// Creates the environ of one call.
    pub fn environ<'py>(&self, py: Python<'py>, params: &CgiParams, input: &Input) -> PyResult<Bound<'py, PyDict>> {
        let environ = self.constants.bind(py).copy()?;
        for (key, value) in params.iter() {
            match key {
                Key::Variable(variable) => {
                    let value = match variable {
                        Variable::RequestMethod
                        | Variable::ServerProtocol
                        | Variable::RequestScheme
                        | Variable::UrlScheme
                        | Variable::ServerName
                        | Variable::ServerPort
                        | Variable::DocumentRoot => self.values.get(py, value)?,
                        _ => latin1(py, value)?,
                    };
                    environ.set_item(self.variable_names[variable as usize].bind(py), value)?;
                }
                Key::Named(name) => environ.set_item(self.header_names.get(py, name)?, latin1(py, value)?)?,
            }
        }
        let input = self.input_class.instance(py, input.clone())?;
        environ.set_item(self.input_key.bind(py), input.into_object())?;
        Ok(environ)
    }

    /// Returns the regular file behind a `FileWrapper` that an application returned, from its current position on.
    /// Returns `None` for any other iterable.
    pub fn file_body(&self, iterable: &Bound<'_, PyAny>) -> Option<FileBody> {
        let py = iterable.py();
        if iterable.get_type().as_any().as_ptr() != self.file_wrapper.as_ptr() {
            return None;
        }
        // An odd file-like object raises the same error again when it is read.
        let found = self.regular_file.bind(py).call1((iterable,)).ok()?;
        let (descriptor, position) = found.extract::<(i32, u64)>().ok()?;
        let file = crate::python::file::duplicate(descriptor).ok()?;
        py.detach(|| FileBody::new(file, position))
    }

    /// Creates the `start_response` of one call.
    pub fn start_response<'py>(&self, py: Python<'py>, response: &Response) -> PyResult<Bound<'py, PyAny>> {
        self.response_class.instance(py, response.clone())?.bound_method(&START_RESPONSE)
    }
}
