//! The callables `start_response` and `write` that an application is given.

use std::ffi::CStr;

use pyo3::exceptions::{PyBrokenPipeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use super::headers::ResponseHeaders;
use super::response::{Response, Stage};
use crate::python::after_fork;
use crate::python::native_class::{Arguments, Class, Held};

/// `start_response(status, response_headers, exc_info=None)`.
pub struct StartResponse {
    pub response: Response,
    /// The object of a [`Write`], which refers to no other object.
    pub write: Held,
}

/// `write(data)`.
pub struct Write(pub Response);

impl Class for StartResponse {
    const NAME: &'static CStr = c"ngx_wsgi.start_response";
    const CALLABLE: bool = true;

    fn call<'py>(&self, arguments: &Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        start_response(&self.response, arguments)?;
        Ok(self.write.bind(arguments.py).clone())
    }
}

impl Class for Write {
    const NAME: &'static CStr = c"ngx_wsgi.write";
    const CALLABLE: bool = true;

    fn call<'py>(&self, arguments: &Arguments<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
        write(&self.0, arguments)?;
        Ok(arguments.py.None().into_bound(arguments.py))
    }
}

fn start_response(response: &Response, arguments: &Arguments<'_, '_>) -> PyResult<()> {
    after_fork::refuse_child()?;
    let names = ["status", "response_headers", "exc_info"];
    let [status, headers, exc_info] = arguments.bind("start_response", names, 2)?;
    let exc_info = exc_info.filter(|exc_info| !exc_info.is_none());
    match (response.stage(), exc_info) {
        (Stage::Ended, _) => {
            return Err(PyValueError::new_err("start_response is called after its request has ended"));
        }
        // The application's error handler must not continue (PEP 3333, "The start_response() Callable").
        (Stage::HeadersSent, Some(exc_info)) => return Err(original_error(&exc_info)?),
        (Stage::Started | Stage::HeadersSent, None) => {
            return Err(PyValueError::new_err("start_response is called a second time without exc_info"));
        }
        _ => {}
    }
    let (Some(status), Some(headers)) = (status, headers) else {
        return Err(PyTypeError::new_err("start_response() missing required arguments"));
    };
    // Has no effect if another thread of the application has sent the headers meanwhile.
    response.start(ResponseHeaders::from_python(&status, &headers)?);
    Ok(())
}

/// Returns the error of an `exc_info` tuple, with its traceback.
fn original_error(exc_info: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    let tuple = exc_info
        .cast::<PyTuple>()
        .map_err(|_| PyTypeError::new_err("exc_info must be a tuple as sys.exc_info() returns it"))?;
    let value = tuple.get_item(1)?;
    value.call_method1("with_traceback", (tuple.get_item(2)?,))?;
    Ok(PyErr::from_value(value))
}

fn write(response: &Response, arguments: &Arguments<'_, '_>) -> PyResult<()> {
    after_fork::refuse_child()?;
    let [data] = arguments.bind("write", ["data"], 1)?;
    let py = arguments.py;
    let Some(data) = data else {
        return Err(PyTypeError::new_err("write() missing argument 'data'"));
    };
    let Ok(data) = data.cast::<PyBytes>() else {
        let found = data.get_type().name()?;
        return Err(PyTypeError::new_err(format!("write() argument must be bytes, not {found}")));
    };
    let bytes = data.as_bytes();
    if !bytes.is_empty() {
        py.detach(|| response.write(bytes)).map_err(|error| PyBrokenPipeError::new_err(error.to_string()))?;
    }
    Ok(())
}
