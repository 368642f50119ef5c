//! Access to a Python thread from another one: reading its stack, and raising an exception in it.

use std::ffi::c_long;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::interpreter::Interpreter;
use super::text::utf8_lossless;
use super::traceback;

/// The identity of a thread in its interpreter. Only valid in that interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId {
    /// The value of `threading.get_ident()`. The system may reuse it after the end of the thread.
    ident: c_long,
    /// The ID of its thread state, which is unique.
    state: i64,
}

impl ThreadId {
    /// Returns the calling thread.
    pub fn current(_: Python<'_>) -> Self {
        // SAFETY: attached; the ident fits a `c_long` bit by bit.
        unsafe {
            Self {
                ident: ffi::PyThread_get_thread_ident() as c_long,
                state: ffi::PyThreadState_GetID(ffi::PyThreadState_Get()),
            }
        }
    }

    /// Returns its stack as the lines of a traceback, outermost call first.
    pub fn stack(self, py: Python<'_>, interpreter: &Interpreter) -> String {
        let Some(frame) = self.frame(py) else { return "  (no Python code)\n".to_owned() };
        let stack = interpreter.bootstrap(py, "format_stack").and_then(|function| function.call1((frame,)));
        match stack.and_then(|text| Ok(utf8_lossless(text.cast::<PyString>()?))) {
            Ok(text) => text,
            Err(error) => format!("(the stack could not be formatted: {})", traceback::summary(&error, py)),
        }
    }

    /// Returns its current frame. Not by `sys._current_frames()`, which creates frames of threads of all interpreters,
    /// though they may have a GIL of their own.
    fn frame(self, py: Python<'_>) -> Option<Bound<'_, PyAny>> {
        // SAFETY: attached, so no thread state of this interpreter is removed and no frame changes meanwhile; a new
        // state is inserted at the front.
        unsafe {
            let mut state = ffi::PyInterpreterState_ThreadHead(ffi::PyInterpreterState_Get());
            while !state.is_null() && ffi::PyThreadState_GetID(state) != self.state {
                state = ffi::PyThreadState_Next(state);
            }
            let frame = if state.is_null() { std::ptr::null_mut() } else { ffi::PyThreadState_GetFrame(state) };
            Bound::from_owned_ptr_or_opt(py, frame.cast())
        }
    }

    /// Raises an exception of `class` in the thread as soon as it runs Python code. C code is not interrupted.
    ///
    /// Runs no Python code and does not release the GIL.
    pub fn raise(self, class: &Bound<'_, PyAny>) {
        // SAFETY: attached, as `class` proves; Python takes its own reference to the class. A thread that has ended is
        // no error.
        unsafe { ffi::PyThreadState_SetAsyncExc(self.ident, class.as_ptr()) };
    }

    /// Cancels an exception that was raised in the thread and is still pending.
    pub fn cancel_exception(self, _: Python<'_>) {
        // SAFETY: attached; null means no exception.
        unsafe { ffi::PyThreadState_SetAsyncExc(self.ident, std::ptr::null_mut()) };
    }
}
