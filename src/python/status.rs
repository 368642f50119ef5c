//! `ngx_wsgi.status()`: the report of the status page for applications.

use std::sync::OnceLock;

use pyo3::types::PyString;

use super::native_class::{Arguments, Method};

/// Function that makes the report, as JSON.
type Source = fn() -> String;

static SOURCE: OnceLock<Source> = OnceLock::new();

/// Sets the source of the report. It runs without the GIL. To be called in a worker with a status zone.
pub fn set_source(source: Source) {
    let _ = SOURCE.set(source);
}

/// `_status()` for the bootstrap: the report as JSON, `None` without a source.
pub static STATUS: Method = Method::function(c"_status", |arguments: &Arguments<'_, '_>| {
    let py = arguments.py;
    let Some(source) = SOURCE.get() else { return Ok(py.None().into_bound(py)) };
    // The reporter of this worker needs no GIL, but others may.
    let report = py.detach(source);
    Ok(PyString::new(py, &report).into_any())
});
