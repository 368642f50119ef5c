//! Looking into a thread of Python from another one, and raising an exception in it.

use std::ffi::c_long;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::interpreter::Interpreter;
use super::text::utf8_lossless;
use super::traceback;

/// A thread of one interpreter. To be used by threads of the same: others are not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId {
    /// As `threading.get_ident()` has it. Another thread may have the number once this has ended.
    ident: c_long,
    /// The number of its thread state.
    state: i64,
}

impl ThreadId {
    /// The calling thread.
    pub fn current(_: Python<'_>) -> Self {
        // SAFETY: attached; the number is an address or a small one, in either sign.
        unsafe {
            Self {
                ident: ffi::PyThread_get_thread_ident() as c_long,
                state: ffi::PyThreadState_GetID(ffi::PyThreadState_Get()),
            }
        }
    }

    /// What runs on it, the outermost call first, as the lines of a traceback.
    pub fn stack(self, py: Python<'_>, interpreter: &Interpreter) -> String {
        let Some(frame) = self.frame(py) else { return "  (no Python code)\n".to_owned() };
        let stack = interpreter.bootstrap(py, "format_stack").and_then(|function| function.call1((frame,)));
        match stack.and_then(|text| Ok(utf8_lossless(text.cast::<PyString>()?))) {
            Ok(text) => text,
            Err(error) => format!("(the stack could not be formatted: {})", traceback::summary(&error, py)),
        }
    }

    /// The frame that runs on it. Not `sys._current_frames()`, which makes frames of the threads of all interpreters,
    /// though they may have a GIL of their own.
    fn frame(self, py: Python<'_>) -> Option<Bound<'_, PyAny>> {
        // SAFETY: attached, so no state of this interpreter goes and no frame of it changes meanwhile; a state that comes
        // is put in front.
        unsafe {
            let mut state = ffi::PyInterpreterState_ThreadHead(ffi::PyInterpreterState_Get());
            while !state.is_null() && ffi::PyThreadState_GetID(state) != self.state {
                state = ffi::PyThreadState_Next(state);
            }
            let frame = if state.is_null() { std::ptr::null_mut() } else { ffi::PyThreadState_GetFrame(state) };
            Bound::from_owned_ptr_or_opt(py, frame.cast())
        }
    }

    /// Raises an exception of `class` in it as soon as it runs Python code; code in C is not interrupted.
    ///
    /// Runs no Python code and does not let go of the GIL.
    pub fn raise(self, class: &Bound<'_, PyAny>) {
        // SAFETY: attached, as `class` is; Python takes a reference of its own to it. A thread that is not there is no
        // error.
        unsafe { ffi::PyThreadState_SetAsyncExc(self.ident, class.as_ptr()) };
    }

    /// Takes back what was raised in it and has not come up yet.
    pub fn forgive(self, _: Python<'_>) {
        // SAFETY: attached; null means "none".
        unsafe { ffi::PyThreadState_SetAsyncExc(self.ident, std::ptr::null_mut()) };
    }
}
