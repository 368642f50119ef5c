//! Embedded CPython: the runtime of a worker, interpreters and threads, native classes, logging and tracebacks.
//!
//! Depends on CPython, not on nginx or WSGI. All `unsafe` code for Python's C API is in this room; its interface is
//! safe to call with an attached [`pyo3::Python`] token.

pub mod access;
pub mod after_fork;
pub mod attribute;
pub mod crash;
pub mod file;
pub mod fork;
pub mod interpreter;
pub mod line;
pub mod log;
pub mod native_class;
pub mod runtime;
pub mod stack;
pub mod status;
pub mod text;
pub mod threads;
pub mod traceback;

/// Functions of CPython that `pyo3::ffi` does not declare.
#[allow(clippy::all, non_camel_case_types)]
mod missing {
    include!(concat!(env!("OUT_DIR"), "/missing.rs"));
}
