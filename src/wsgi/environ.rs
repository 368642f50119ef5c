//! The environ dictionary of a call, from the request's snapshot (PEP 3333, "environ Variables").

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::cache::Cache;
use super::file::FileBody;
use super::input::Input;
use super::params::{CgiParams, Key, Variable};
use super::start_response::Response;
use crate::python::interpreter::Interpreter;
use crate::python::native_class::ClassObject;
use crate::python::text::latin1;
use crate::sync::Mutex;

/// What a server is like, the same for all requests of an interpreter.
#[derive(Clone, Debug)]
pub struct Server {
    /// SERVER_SOFTWARE.
    pub software: String,
    /// `wsgi.multithread`: another thread of this process may call the same application.
    pub multithread: bool,
    /// `wsgi.multiprocess`: another process, or another interpreter of this one, may have the same application.
    pub multiprocess: bool,
}

/// All that environs of one interpreter have in common. Released attached, in there.
pub struct EnvironTemplate {
    /// Keys and values that are the same for every request; copied for each.
    template: Py<PyDict>,
    variables: [Py<PyString>; Variable::NAMES.len()],
    /// `HTTP_…` keys that were seen before.
    names: Strings,
    /// Values that come again and again: methods, protocols, schemes.
    values: Strings,
    /// The class `wsgi.file_wrapper`, and the function of the bootstrap that finds the file in an instance.
    file_wrapper: Py<PyAny>,
    regular_file: Py<PyAny>,
    input_key: Py<PyString>,
    input_class: ClassObject<Input>,
    response_class: ClassObject<Response>,
}

/// Python strings by their bytes.
#[derive(Default)]
struct Strings {
    cache: Mutex<Cache<Py<PyString>>>,
}

impl Strings {
    fn get<'py>(&self, py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
        // The lock is held by attached threads only, and not while Python code runs: a string that goes runs none.
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
    /// Prepares environs in the current interpreter.
    pub fn new(py: Python<'_>, interpreter: &Interpreter, server: &Server) -> PyResult<Self> {
        let template = PyDict::new(py);
        template.set_item("GATEWAY_INTERFACE", "CGI/1.1")?;
        template.set_item("SERVER_SOFTWARE", &server.software)?;
        template.set_item("wsgi.version", (1, 0))?;
        template.set_item("wsgi.errors", interpreter.bootstrap(py, "errors")?)?;
        template.set_item("wsgi.multithread", server.multithread)?;
        template.set_item("wsgi.multiprocess", server.multiprocess)?;
        template.set_item("wsgi.run_once", false)?;
        let file_wrapper = interpreter.bootstrap(py, "FileWrapper")?;
        template.set_item("wsgi.file_wrapper", &file_wrapper)?;
        // The input ends where the body ends, also without a Content-Length.
        template.set_item("wsgi.input_terminated", true)?;
        Ok(Self {
            template: template.unbind(),
            variables: Variable::NAMES.map(|name| PyString::intern(py, name).unbind()),
            names: Strings::default(),
            values: Strings::default(),
            file_wrapper: file_wrapper.unbind(),
            regular_file: interpreter.bootstrap(py, "regular_file")?.unbind(),
            input_key: PyString::intern(py, "wsgi.input").unbind(),
            input_class: ClassObject::new(py)?,
            response_class: ClassObject::new(py)?,
        })
    }

    /// The environ of one call.
    pub fn environ<'py>(&self, py: Python<'py>, head: &CgiParams, input: &Input) -> PyResult<Bound<'py, PyDict>> {
        let environ = self.template.bind(py).copy()?;
        for (key, value) in head.iter() {
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
                    environ.set_item(self.variables[variable as usize].bind(py), value)?;
                }
                Key::Named(name) => environ.set_item(self.names.get(py, name)?, latin1(py, value)?)?,
            }
        }
        let input = self.input_class.instance(py, input.clone())?;
        environ.set_item(self.input_key.bind(py), input.into_object())?;
        Ok(environ)
    }

    /// The regular file behind a `FileWrapper` that an application returned, from its current position on. `None` for
    /// everything that has to be read to be sent.
    pub fn file_body(&self, iterable: &Bound<'_, PyAny>) -> Option<FileBody> {
        let py = iterable.py();
        if iterable.get_type().as_any().as_ptr() != self.file_wrapper.as_ptr() {
            return None;
        }
        // What an odd file-like object raises here it raises again when it is read.
        let found = self.regular_file.bind(py).call1((iterable,)).ok()?;
        let (descriptor, position) = found.extract::<(i32, u64)>().ok()?;
        let file = crate::python::file::duplicate(descriptor).ok()?;
        py.detach(|| FileBody::new(file, position))
    }

    /// The `start_response` of one call.
    pub fn start_response<'py>(&self, py: Python<'py>, response: &Response) -> PyResult<Bound<'py, PyAny>> {
        self.response_class.instance(py, response.clone())?.bound_method(&crate::wsgi::start_response::START_RESPONSE)
    }
}
