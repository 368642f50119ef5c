//! Native strings of PEP 3333: `str` objects whose code points are bytes (Latin-1).

use std::mem::MaybeUninit;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

/// Creates a `str` with one code point per byte.
pub fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    let (data, length) = (bytes.as_ptr().cast(), bytes.len() as ffi::Py_ssize_t);
    // SAFETY: pointer and length are of one slice; a null errors argument means "strict".
    unsafe {
        let string = ffi::PyUnicode_DecodeLatin1(data, length, std::ptr::null());
        Ok(Bound::from_owned_ptr_or_err(py, string)?.cast_into_unchecked())
    }
}

/// Returns the bytes of a native string; `None` if a code point is above U+00FF.
pub fn latin1_bytes<'a>(string: &'a Bound<'_, PyString>) -> Option<&'a [u8]> {
    let pointer = string.as_ptr();
    // SAFETY: a ready compact string of kind 1 holds one byte per code point, for as long as it lives; strings are
    // immutable.
    unsafe {
        #[cfg(not(Py_3_12))]
        if ffi::PyUnicode_READY(pointer) != 0 {
            ffi::PyErr_Clear();
            return None;
        }
        if ffi::PyUnicode_KIND(pointer) != ffi::PyUnicode_1BYTE_KIND {
            return None;
        }
        let length = ffi::PyUnicode_GET_LENGTH(pointer) as usize;
        Some(std::slice::from_raw_parts(ffi::PyUnicode_DATA(pointer).cast::<u8>(), length))
    }
}

/// Converts any `str` to UTF-8; lone surrogates, which UTF-8 cannot encode, become backslash escapes.
pub fn utf8_lossless(string: &Bound<'_, PyString>) -> String {
    if let Ok(text) = string.to_str() {
        return text.to_owned();
    }
    let escaped = string.call_method1("encode", ("utf-8", "backslashreplace"));
    match escaped.as_ref().map(|bytes| bytes.cast::<PyBytes>()) {
        Ok(Ok(bytes)) => String::from_utf8_lossy(bytes.as_bytes()).into_owned(),
        _ => String::from("(text that cannot be encoded)"),
    }
}

/// Creates a `bytes` object of `length` bytes that `fill` writes while the thread is detached, cut to the count that it
/// returns.
pub fn bytes_filled_detached<'py, E: Send>(
    py: Python<'py>,
    length: usize,
    fill: impl FnOnce(&mut [u8]) -> Result<usize, E> + Send,
) -> PyResult<Result<Bound<'py, PyBytes>, E>> {
    // SAFETY: a null source asks for uninitialised memory, cleared below before Rust sees it as a slice.
    let object = unsafe {
        let object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), length as ffi::Py_ssize_t);
        Bound::from_owned_ptr_or_err(py, object)?
    };
    // SAFETY: the object is new and this is its only reference, so its buffer may be written; it stays alive below.
    let buffer = unsafe {
        let data = ffi::PyBytes_AsString(object.as_ptr()).cast::<u8>();
        std::ptr::write_bytes(data, 0, length);
        std::slice::from_raw_parts_mut(data, length)
    };
    let filled = match py.detach(|| fill(buffer)) {
        Ok(filled) => filled.min(length),
        Err(error) => return Ok(Err(error)),
    };
    Ok(Ok(resized(object, length, filled)?))
}

/// Bytes of a new `bytes` object, which are appended to it.
pub struct BytesWriter<'a> {
    rest: &'a mut [MaybeUninit<u8>],
}

impl BytesWriter<'_> {
    /// Appends as much of `bytes` as there is room for.
    pub fn append(&mut self, bytes: &[u8]) {
        let count = bytes.len().min(self.rest.len());
        let (head, rest) = std::mem::take(&mut self.rest).split_at_mut(count);
        // SAFETY: both slices have `count` bytes, and that of a new object overlaps no other.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), head.as_mut_ptr().cast(), count) };
        self.rest = rest;
    }
}

/// Creates a `bytes` object of the bytes that `write` appends, `length` at most.
pub fn bytes_appended<'py, E>(
    py: Python<'py>,
    length: usize,
    write: impl FnOnce(&mut BytesWriter) -> Result<(), E>,
) -> PyResult<Result<Bound<'py, PyBytes>, E>> {
    // SAFETY: a null source asks for uninitialised memory, which only a slice of MaybeUninit refers to until it is written.
    // The object is new and this is its only reference, so its buffer may be written.
    let (object, rest) = unsafe {
        let object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), length as ffi::Py_ssize_t);
        let object = Bound::from_owned_ptr_or_err(py, object)?;
        let data = ffi::PyBytes_AsString(object.as_ptr()).cast::<MaybeUninit<u8>>();
        (object, std::slice::from_raw_parts_mut(data, length))
    };
    let mut writer = BytesWriter { rest };
    if let Err(error) = write(&mut writer) {
        return Ok(Err(error));
    }
    let written = length - writer.rest.len();
    Ok(Ok(resized(object, length, written)?))
}

/// Cuts a new `bytes` object of `length` bytes to its first `filled` bytes.
fn resized(object: Bound<'_, PyAny>, length: usize, filled: usize) -> PyResult<Bound<'_, PyBytes>> {
    let py = object.py();
    let mut pointer = object.into_ptr();
    // SAFETY: the only reference is ours; _PyBytes_Resize replaces it, or sets it to null with an exception.
    let object = unsafe {
        if filled < length {
            crate::python::missing::_PyBytes_Resize(&mut pointer, filled as ffi::Py_ssize_t);
        }
        Bound::from_owned_ptr_or_err(py, pointer)?
    };
    Ok(object.cast_into::<PyBytes>()?)
}
