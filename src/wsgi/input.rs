//! `wsgi.input`: the request body as a file-like object, with the methods of `io.BytesIO` that read.

use std::ffi::CStr;
use std::io;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use thiserror::Error;

use super::body::{BodySource, Interrupt};
use super::transport::{Disconnected, Transport};
use crate::python::after_fork;
use crate::python::native_class::{Arguments, Class, Method};
use crate::python::text::{BytesWriter, bytes_appended, bytes_filled_detached};
use crate::sync::Mutex;

/// The input of one request. The call keeps a handle to close it.
#[derive(Clone)]
pub struct Input(Arc<Shared>);

struct Shared {
    may_block: bool,
    /// Ends a read in another thread, which holds the lock of the state.
    interrupt: Option<Arc<dyn Interrupt>>,
    /// Reports whether the client has left.
    transport: Option<Arc<dyn Transport>>,
    state: Mutex<State>,
}

struct State {
    /// `None` once the request has ended.
    source: Option<Box<dyn BodySource>>,
    /// Bytes read ahead in search of the end of a line.
    ahead: Vec<u8>,
    position: usize,
}

/// The size of the blocks that are read ahead.
const BLOCK: usize = 64 * 1024;

/// The reason why reading has failed.
#[derive(Debug, Error)]
enum ReadError {
    #[error("wsgi.input is used after its request has ended")]
    RequestEnded,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<ReadError> for PyErr {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::RequestEnded => PyValueError::new_err(error.to_string()),
            ReadError::Io(error) => error.into(),
        }
    }
}

impl State {
    fn source(&mut self) -> Result<&mut Box<dyn BodySource>, ReadError> {
        self.source.as_mut().ok_or(ReadError::RequestEnded)
    }

    /// Returns the number of unread bytes of a complete body, `None` for a body that is still being received.
    fn available(&mut self) -> Result<Option<u64>, ReadError> {
        let ahead = (self.ahead.len() - self.position) as u64;
        Ok(self.source()?.remaining().map(|remaining| remaining + ahead))
    }

    /// Fills `buffer`, except at the end of the body.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(&mut buffer[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(filled)
    }

    /// Returns bytes that were read ahead, or else reads at least one byte; 0 at the end.
    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let ahead = &self.ahead[self.position..];
        if ahead.is_empty() {
            return Ok(self.source()?.read(buffer)?);
        }
        let count = ahead.len().min(buffer.len());
        buffer[..count].copy_from_slice(&ahead[..count]);
        self.position += count;
        Ok(count)
    }

    /// Appends up to `limit` bytes to `bytes`, fewer only at the end of the body.
    fn pass(&mut self, limit: usize, bytes: &mut BytesWriter) -> Result<(), ReadError> {
        let ahead = &self.ahead[self.position..];
        let count = ahead.len().min(limit);
        bytes.append(&ahead[..count]);
        self.position += count;
        Ok(self.source()?.read_pieces(limit - count, &mut |piece| bytes.append(piece))?)
    }

    /// Reads up to `limit` bytes of a body of unknown length; with `once`, with a single read.
    fn read_growing(&mut self, limit: usize, once: bool) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        while bytes.len() < limit {
            let length = bytes.len();
            bytes.resize(length + BLOCK.min(limit - length), 0);
            let count = self.read_some(&mut bytes[length..])?;
            bytes.truncate(length + count);
            if count == 0 || once {
                break;
            }
        }
        Ok(bytes)
    }

    /// Reads one more block ahead; false at the end.
    fn read_ahead(&mut self) -> Result<bool, ReadError> {
        self.ahead.drain(..self.position);
        self.position = 0;
        let source = self.source.as_mut().ok_or(ReadError::RequestEnded)?;
        let length = self.ahead.len();
        self.ahead.resize(length + source.remaining().map_or(BLOCK, |left| left.min(BLOCK as u64) as usize), 0);
        let read = source.read(&mut self.ahead[length..]);
        self.ahead.truncate(length + read.as_ref().copied().unwrap_or(0));
        Ok(read? > 0)
    }

    /// Returns the next line, with its end, or its first `limit` bytes.
    fn line(&mut self, limit: usize) -> Result<Vec<u8>, ReadError> {
        self.source()?;
        let mut searched = 0;
        let length = loop {
            let ahead = &self.ahead[self.position..];
            let within = &ahead[..ahead.len().min(limit)];
            if let Some(newline) = within[searched..].iter().position(|byte| *byte == b'\n') {
                break searched + newline + 1;
            }
            searched = within.len();
            if searched == limit || !self.read_ahead()? {
                break searched;
            }
        };
        let line = self.ahead[self.position..self.position + length].to_vec();
        self.position += length;
        Ok(line)
    }
}

impl Input {
    /// Creates the input of a request with this body. Reading fails once the client of `transport` has left.
    pub fn new(source: Box<dyn BodySource>, transport: Option<Arc<dyn Transport>>) -> Self {
        let (may_block, interrupt) = (source.may_block(), source.interrupt());
        let state = State { source: Some(source), ahead: Vec::new(), position: 0 };
        Self(Arc::new(Shared { may_block, interrupt, transport, state: Mutex::new(state) }))
    }

    /// Closes the input: releases the body. Later uses of the Python object raise `ValueError`.
    pub fn close(&self) {
        if let Some(interrupt) = &self.0.interrupt {
            // A thread that waits for the client holds the lock.
            interrupt.interrupt();
        }
        self.with_state(|state| {
            state.source = None;
            state.ahead = Vec::new();
            state.position = 0;
        });
    }

    /// Runs `body` with the lock, and never attaches to Python meanwhile, so that no thread waits for both.
    fn with_state<R>(&self, body: impl FnOnce(&mut State) -> R) -> R {
        body(&mut self.0.state.lock())
    }

    fn while_detached<R: Send>(&self, py: Python<'_>, body: impl FnOnce(&mut State) -> R + Send) -> R {
        if self.0.may_block { py.detach(|| self.with_state(body)) } else { self.with_state(body) }
    }

    /// Fails if the client has left, so that the application can stop.
    fn check_client(&self) -> Result<(), ReadError> {
        match &self.0.transport {
            Some(transport) if transport.is_disconnected() => {
                Err(ReadError::Io(io::Error::new(io::ErrorKind::ConnectionReset, Disconnected.to_string())))
            }
            _ => Ok(()),
        }
    }

    fn read_bytes<'py>(&self, py: Python<'py>, size: Option<usize>, once: bool) -> PyResult<Bound<'py, PyBytes>> {
        after_fork::refuse_child()?;
        let limit = size.unwrap_or(usize::MAX);
        if self.0.interrupt.is_some() {
            let bytes = self.while_detached(py, |state| state.read_growing(limit, once))?;
            return Ok(PyBytes::new(py, &bytes));
        }
        let available = self.with_state(State::available)?;
        self.check_client()?;
        let length = available.unwrap_or(0).min(limit as u64) as usize;
        if self.0.may_block {
            let filled = bytes_filled_detached(py, length, |buffer| self.with_state(|state| state.read(buffer)))?;
            return Ok(filled?);
        }
        Ok(bytes_appended(py, length, |bytes| self.with_state(|state| state.pass(length, bytes)))??)
    }

    fn line<'py>(&self, py: Python<'py>, limit: Option<usize>) -> PyResult<Bound<'py, PyBytes>> {
        after_fork::refuse_child()?;
        let limit = limit.unwrap_or(usize::MAX);
        if self.0.interrupt.is_none() {
            // A streamed body reports disconnects itself, and another thread may hold the lock while it waits.
            self.with_state(State::available)?;
            self.check_client()?;
        }
        let line = self.while_detached(py, |state| state.line(limit))?;
        Ok(PyBytes::new(py, &line))
    }
}

/// Reads a size argument: absent, `None` and negative numbers mean "no limit".
fn size(argument: Option<Borrowed<'_, '_, PyAny>>) -> PyResult<Option<usize>> {
    let Some(argument) = argument.filter(|argument| !argument.is_none()) else {
        return Ok(None);
    };
    Ok(usize::try_from(argument.extract::<i64>()?).ok())
}

impl Class for Input {
    const NAME: &'static CStr = c"ngx_wsgi.Input";
    const ITERATOR: bool = true;

    fn methods() -> &'static [Method] {
        static METHODS: [Method; 6] = [
            Method::of::<Input, _>(c"read", |input, arguments| {
                let [limit] = arguments.bind("read", ["size"], 0)?;
                Ok(input.read_bytes(arguments.py, size(limit)?, false)?.into_any())
            }),
            Method::of::<Input, _>(c"read1", |input, arguments| {
                let [limit] = arguments.bind("read1", ["size"], 0)?;
                Ok(input.read_bytes(arguments.py, Some(size(limit)?.unwrap_or(BLOCK)), true)?.into_any())
            }),
            Method::of::<Input, _>(c"readline", |input, arguments| {
                let [limit] = arguments.bind("readline", ["size"], 0)?;
                Ok(input.line(arguments.py, size(limit)?)?.into_any())
            }),
            Method::of::<Input, _>(c"readlines", |input, arguments| {
                let [hint] = arguments.bind("readlines", ["hint"], 0)?;
                Ok(readlines(input, arguments, size(hint)?)?.into_any())
            }),
            Method::of::<Input, _>(c"readable", |_, arguments| {
                let [] = arguments.bind("readable", [], 0)?;
                Ok(true.into_pyobject(arguments.py)?.to_owned().into_any())
            }),
            Method::END,
        ];
        &METHODS
    }

    fn next<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let line = self.line(py, None)?;
        Ok((!line.as_bytes().is_empty()).then(|| line.into_any()))
    }
}

/// Returns all lines, or as many as make up at least `hint` bytes; a hint of 0 means no limit, as in `io.BytesIO`.
fn readlines<'py>(input: &Input, arguments: &Arguments<'_, 'py>, hint: Option<usize>) -> PyResult<Bound<'py, PyList>> {
    let hint = hint.filter(|hint| *hint > 0).unwrap_or(usize::MAX);
    let lines = PyList::empty(arguments.py);
    let mut total = 0;
    while total < hint {
        let line = input.line(arguments.py, None)?;
        if line.as_bytes().is_empty() {
            break;
        }
        total += line.as_bytes().len();
        lines.append(line)?;
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wsgi::body::{BufferedBody, Piece};

    fn state(pieces: &[&str]) -> State {
        let pieces = pieces.iter().map(|piece| Piece::memory(piece.as_bytes()));
        State { source: Some(Box::new(BufferedBody::new(pieces))), ahead: Vec::new(), position: 0 }
    }

    fn line(state: &mut State, limit: usize) -> String {
        let line = state.line(limit).unwrap_or_else(|_| panic!("the input has ended"));
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn lines_are_found_across_pieces_and_cut_at_the_limit() {
        let mut state = state(&["ab", "c\n\nde", "f"]);
        assert_eq!(line(&mut state, 2), "ab");
        assert_eq!(line(&mut state, usize::MAX), "c\n");
        assert_eq!(line(&mut state, 0), "");
        assert_eq!(line(&mut state, 5), "\n");
        let mut rest = [0; 2];
        assert!(matches!(state.read(&mut rest), Ok(2)));
        assert_eq!(&rest, b"de");
        assert_eq!(line(&mut state, usize::MAX), "f");
        assert_eq!(line(&mut state, usize::MAX), "");
    }

    #[test]
    fn a_closed_input_is_an_error_and_not_the_end() {
        let input = Input::new(Box::new(BufferedBody::new([])), None);
        input.close();
        assert!(input.with_state(|state| state.line(1)).is_err());
        assert!(input.with_state(State::available).is_err());
    }
}
