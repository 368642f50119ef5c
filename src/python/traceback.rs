//! Exceptions as text, without ever printing or exiting as `PyErr_Print` does.

use pyo3::prelude::*;
use pyo3::types::PyString;

use super::text::utf8_lossless;

/// A summary shows this much of a message; the whole of it is in the traceback.
const SUMMARY_CHARACTERS: usize = 200;

/// `module.Class: message` of an exception, the message cut.
pub fn summary(error: &PyErr, py: Python<'_>) -> String {
    let value = error.value(py);
    let class = class_name(error, py);
    let message = value.str().map(|text| utf8_lossless(&text)).unwrap_or_default();
    let first_line: String = message.lines().next().unwrap_or_default().chars().take(SUMMARY_CHARACTERS).collect();
    if first_line.is_empty() { class } else { format!("{class}: {first_line}") }
}

/// The qualified class name of an exception, as a traceback's last line shows it.
pub fn class_name(error: &PyErr, py: Python<'_>) -> String {
    let class = error.get_type(py);
    let text = |name: &str| -> String {
        let attribute = class.getattr(name).ok();
        let string = attribute.and_then(|value| value.cast_into::<PyString>().ok());
        string.map(|string| utf8_lossless(&string)).unwrap_or_default()
    };
    match text("__module__").as_str() {
        "builtins" | "__main__" | "" => text("__qualname__"),
        module => format!("{module}.{}", text("__qualname__")),
    }
}

/// The whole traceback, as `traceback.format_exception` gives it.
pub fn format(error: &PyErr, py: Python<'_>) -> String {
    let formatted = format_with_module(error, py);
    formatted.unwrap_or_else(|_| format!("{}\n(the traceback could not be formatted)", summary(error, py)))
}

fn format_with_module(error: &PyErr, py: Python<'_>) -> PyResult<String> {
    // Before Python 3.12 a fetched exception does not carry its traceback itself.
    let parts = (error.get_type(py), error.value(py), error.traceback(py));
    let lines = py.import("traceback")?.call_method1("format_exception", parts)?;
    let text = PyString::new(py, "").call_method1("join", (lines,))?;
    Ok(utf8_lossless(text.cast::<PyString>()?))
}
