//! The environ dictionary of a call, made from the request's parameters (PEP 3333, "environ Variables").

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::cache::Cache;
use super::call_objects::{CallObjectFactory, CallObjects};
use super::environ_cache::{EnvironCache, EnvironKeys};
use super::file::FileBody;
use super::header_keys;
use super::input::Input;
use super::params::{CgiParams, Key, Variable};
use super::response::Response;
use crate::python::interpreter::Interpreter;
use crate::python::native_class::Owned;
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
    /// Keys of the headers of earlier requests, by the names that were sent.
    header_keys: Mutex<Cache<Py<PyString>>>,
    environs: EnvironCache,
    /// The class `wsgi.file_wrapper`.
    file_wrapper: Py<PyAny>,
    /// The function of the bootstrap that finds the file of an instance.
    regular_file: Py<PyAny>,
    input_key: Py<PyString>,
    objects: CallObjectFactory,
}

/// Keys that applications look up often. An interned key is found without a comparison of its text. Other names are not
/// interned, as clients choose them and some versions of Python keep interned strings for ever.
const INTERNED: [&str; 16] = [
    "CONTENT_TYPE",
    "HTTP_ACCEPT",
    "HTTP_ACCEPT_ENCODING",
    "HTTP_ACCEPT_LANGUAGE",
    "HTTP_AUTHORIZATION",
    "HTTP_CONNECTION",
    "HTTP_COOKIE",
    "HTTP_HOST",
    "HTTP_IF_MODIFIED_SINCE",
    "HTTP_IF_NONE_MATCH",
    "HTTP_ORIGIN",
    "HTTP_REFERER",
    "HTTP_USER_AGENT",
    "HTTP_X_FORWARDED_FOR",
    "HTTP_X_FORWARDED_PROTO",
    "HTTP_X_REQUESTED_WITH",
];

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
        // Set for each call. A key that is there already takes no room that the copy may not have.
        constants.set_item("wsgi.input", py.None())?;
        Ok(Self {
            constants: constants.unbind(),
            variable_names: Variable::NAMES.map(|name| PyString::intern(py, name).unbind()),
            header_keys: Mutex::default(),
            environs: EnvironCache::default(),
            file_wrapper: file_wrapper.unbind(),
            regular_file: interpreter.bootstrap(py, "regular_file")?.unbind(),
            input_key: PyString::intern(py, "wsgi.input").unbind(),
            objects: CallObjectFactory::new(py)?,
        })
    }

    /// Creates the environ of one call with this `wsgi.input`.
    pub fn environ<'py>(
        &self,
        py: Python<'py>,
        params: &CgiParams,
        input: &Owned<Input>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let environ = match self.environs.get(py, params)? {
            Some(environ) => environ,
            None => self.build(py, params)?,
        };
        environ.set_item(self.input_key.bind(py), input.object())?;
        Ok(environ)
    }

    /// Creates an environ without its input, and keeps it for later requests.
    fn build<'py>(&self, py: Python<'py>, params: &CgiParams) -> PyResult<Bound<'py, PyDict>> {
        let environ = self.constants.bind(py).copy()?;
        let mut has_repeated = false;
        for (key, value) in params.iter() {
            let others = environ.len();
            environ.set_item(self.key(py, key)?, latin1(py, value)?)?;
            has_repeated |= matches!(key, Key::Header(_)) && environ.len() == others;
        }
        if has_repeated {
            for (key, value) in header_keys::joined(params.headers()) {
                environ.set_item(latin1(py, &key)?, latin1(py, &value)?)?;
            }
            for (key, value) in params.iter().filter(|(key, _)| matches!(key, Key::Named(_))) {
                environ.set_item(self.key(py, key)?, latin1(py, value)?)?;
            }
        }
        self.environs.insert(params, &environ, || {
            if has_repeated { Ok(EnvironKeys::Joined) } else { self.environ_keys(py, params) }
        })?;
        Ok(environ)
    }

    fn key<'py>(&self, py: Python<'py>, key: Key<'_>) -> PyResult<Bound<'py, PyString>> {
        match key {
            Key::Variable(variable) => Ok(self.variable_names[variable as usize].bind(py).clone()),
            Key::Named(name) => latin1(py, name),
            Key::Header(name) => self.header_key(py, name),
        }
    }

    fn header_key<'py>(&self, py: Python<'py>, name: &[u8]) -> PyResult<Bound<'py, PyString>> {
        // The lock is taken by attached threads only, and no Python code runs meanwhile: releasing a string runs none.
        let mut keys = self.header_keys.lock();
        if let Some(key) = keys.get(name) {
            return Ok(key.bind(py).clone());
        }
        let bytes = header_keys::key(name);
        let key = match INTERNED.iter().find(|known| known.as_bytes() == bytes) {
            Some(known) => PyString::intern(py, known),
            None => latin1(py, &bytes)?,
        };
        keys.insert(name, key.clone().unbind());
        Ok(key)
    }

    fn environ_keys(&self, py: Python<'_>, params: &CgiParams) -> PyResult<EnvironKeys> {
        let keys: Vec<_> = params.keys().collect();
        let names: Vec<_> = keys.iter().map(Key::name).collect();
        let environ_key = |(index, key): (usize, &Key<'_>)| {
            let is_overridden = names[index + 1..].contains(&names[index]);
            if is_overridden { Ok(None) } else { self.key(py, *key).map(|key| Some(key.unbind())) }
        };
        keys.iter().enumerate().map(environ_key).collect::<PyResult<_>>().map(EnvironKeys::OneEach)
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

    /// Returns the other objects of one call.
    pub fn objects(&self, py: Python<'_>, response: &Response, input: &Input) -> PyResult<CallObjects> {
        self.objects.objects(py, response, input)
    }
}
