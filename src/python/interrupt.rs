//! Looking into a thread of Python from another one, and raising an exception in it.

use std::ffi::c_long;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::runtime::Interpreter;
use super::text::utf8_lossless;
use super::traceback;

/// A thread as Python's `threading.get_ident()` numbers it. Another thread may have the number once it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId(c_long);

impl ThreadId {
    /// The calling thread.
    pub fn current(_: Python<'_>) -> Self {
        // SAFETY: no argument; the number is an address or a small one, in either sign.
        Self(unsafe { ffi::PyThread_get_thread_ident() } as c_long)
    }

    /// What runs on it, the outermost call first, as the lines of a traceback.
    pub fn stack(self, py: Python<'_>, interpreter: &Interpreter) -> String {
        let stack = interpreter.prelude(py, "thread_stack").and_then(|function| function.call1((self.0 as u64,)));
        match stack.and_then(|text| Ok(utf8_lossless(text.cast::<PyString>()?))) {
            Ok(text) => text,
            Err(error) => format!("(the stack could not be formatted: {})", traceback::summary(&error, py)),
        }
    }

    /// Raises an exception of `class` in it as soon as it runs Python code; code in C is not interrupted.
    ///
    /// Runs no Python code and does not let go of the GIL.
    pub fn raise(self, class: &Bound<'_, PyAny>) {
        // SAFETY: attached, as `class` is; Python takes a reference of its own to it. A thread that is not there is no
        // error.
        unsafe { ffi::PyThreadState_SetAsyncExc(self.0, class.as_ptr()) };
    }

    /// Takes back what was raised in it and has not come up yet.
    pub fn forgive(self, _: Python<'_>) {
        // SAFETY: attached; null means "none".
        unsafe { ffi::PyThreadState_SetAsyncExc(self.0, std::ptr::null_mut()) };
    }
}
