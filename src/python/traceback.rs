//! Exceptions as text. `PyErr_Print` would print them, and exit on SystemExit.

use pyo3::exceptions::PyBaseException;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use rustc_hash::FxHashSet;

use super::text::utf8_lossless;

/// The maximum length of a message in a summary; the traceback has the whole message.
const SUMMARY_CHARACTERS: usize = 200;

/// Returns `module.Class: message` of an exception, with the first line of the message, shortened.
pub fn summary(error: &PyErr, py: Python<'_>) -> String {
    let value = error.value(py);
    let class = class_name(error, py);
    let message = value.str().map(|text| utf8_lossless(&text)).unwrap_or_default();
    let first_line: String = message.lines().next().unwrap_or_default().chars().take(SUMMARY_CHARACTERS).collect();
    if first_line.is_empty() { class } else { format!("{class}: {first_line}") }
}

/// Returns the qualified class name of an exception, as in the last line of a traceback.
pub fn class_name(error: &PyErr, py: Python<'_>) -> String {
    let class = error.get_type(py);
    let text = |name: &str| -> String {
        let string = attribute(&class, name).ok();
        let string = string.and_then(|value| value.cast_into::<PyString>().ok());
        string.map(|string| utf8_lossless(&string)).unwrap_or_default()
    };
    match text("__module__").as_str() {
        "builtins" | "__main__" | "" => text("__qualname__"),
        module => format!("{module}.{}", text("__qualname__")),
    }
}

/// Returns an attribute by an interned name: CPython's attribute cache would keep any other string.
fn attribute<'py>(object: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    object.getattr(PyString::intern(object.py(), name))
}

/// Returns the whole traceback as `traceback.format_exception` does, without the frames of this module and of
/// importlib.
pub fn format(error: &PyErr, py: Python<'_>) -> String {
    format_with_module(error, py).unwrap_or_else(|_| {
        let frames = format_frames(error, py).unwrap_or_default();
        format!("{frames}{}\n(the traceback could not be formatted)", summary(error, py))
    })
}

/// Returns the frames of an exception alone, without Python code: the module `traceback` is imported on first use, which
/// fails when no descriptor is left.
fn format_frames(error: &PyErr, py: Python<'_>) -> PyResult<String> {
    let Some(frames) = error.traceback(py).map(|frames| without_own(frames.into_any())).transpose()?.flatten() else {
        return Ok(String::new());
    };
    let text = py.import("io")?.getattr("StringIO")?.call0()?;
    // SAFETY: attached; both are live objects, and the function checks their types.
    let result = unsafe { ffi::PyTraceBack_Print(frames.as_ptr(), text.as_ptr()) };
    if result < 0 {
        return Err(PyErr::fetch(py));
    }
    Ok(utf8_lossless(text.call_method0("getvalue")?.cast::<PyString>()?))
}

fn format_with_module(error: &PyErr, py: Python<'_>) -> PyResult<String> {
    let value = error.value(py).as_any();
    // Before Python 3.12 a fetched exception does not hold its traceback itself.
    let frames = error.traceback(py).map(Bound::into_any);
    remove_own_frames(value)?;
    let parts = (error.get_type(py), value, frames.map(without_own).transpose()?.flatten());
    let lines = py.import("traceback")?.call_method1("format_exception", parts)?;
    let text = PyString::new(py, "").call_method1("join", (lines,))?;
    Ok(utf8_lossless(text.cast::<PyString>()?))
}

/// Removes the frames of this module from an exception, its causes and contexts, and the members of a group.
fn remove_own_frames(exception: &Bound<'_, PyAny>) -> PyResult<()> {
    let mut left = vec![exception.clone()];
    let mut seen = FxHashSet::default();
    while let Some(exception) = left.pop() {
        if !exception.is_instance_of::<PyBaseException>() || !seen.insert(exception.as_ptr()) {
            continue;
        }
        let frames = attribute(&exception, "__traceback__")?;
        if !frames.is_none() {
            exception.setattr(PyString::intern(exception.py(), "__traceback__"), without_own(frames)?)?;
        }
        left.extend([attribute(&exception, "__cause__")?, attribute(&exception, "__context__")?]);
        // Classes other than exception groups may have any attribute of this name.
        if let Ok(Ok(members)) = attribute(&exception, "exceptions").map(Bound::cast_into::<PyTuple>) {
            left.extend(members);
        }
    }
    Ok(())
}

/// Returns a traceback without the frames of this module; `None` if there are no others.
fn without_own(frames: Bound<'_, PyAny>) -> PyResult<Option<Bound<'_, PyAny>>> {
    let mut kept: Vec<Bound<'_, PyAny>> = Vec::new();
    let mut next = Some(frames).filter(|frames| !frames.is_none());
    while let Some(frame) = next {
        next = Some(attribute(&frame, "tb_next")?).filter(|frames| !frames.is_none());
        let code = attribute(&attribute(&frame, "tb_frame")?, "f_code")?;
        if !is_own(&attribute(&code, "co_filename")?) {
            kept.push(frame);
        }
    }
    for (index, frame) in kept.iter().enumerate() {
        let (next, is_next) = (kept.get(index + 1), attribute(frame, "tb_next")?);
        // Setting it takes time in proportion to the frames behind it.
        if next.map_or_else(|| !is_next.is_none(), |next| !is_next.is(next)) {
            frame.setattr(PyString::intern(frame.py(), "tb_next"), next)?;
        }
    }
    Ok(kept.into_iter().next())
}

/// Returns whether this file belongs to this module or to importlib.
fn is_own(file: &Bound<'_, PyAny>) -> bool {
    let file = file.cast::<PyString>().map(|file| utf8_lossless(file)).unwrap_or_default();
    file.starts_with("ngx_wsgi/") || file.starts_with("<frozen importlib.")
}
