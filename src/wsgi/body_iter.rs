//! The iteration over the iterable that an application returned, piece by piece as there is room for the response.

use std::time::{Duration, Instant};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator, PyList, PyTuple};
use thiserror::Error;

use super::file::FileBody;
use super::response::{Completion, Response, Stage};
use super::transport::Disconnected;
use crate::python::after_fork;

/// An iteration in progress. Call [`BodyIterator::advance`] until it is done, then [`BodyIterator::into_closable`].
pub struct BodyIterator {
    response: Response,
    iterable: Py<PyAny>,
    source: Source,
    /// The current piece, and how many of its bytes have been sent.
    current: Option<(Py<PyBytes>, usize)>,
}

enum Source {
    /// A list or tuple, at this index. No code runs between its items, so they are sent together.
    Sequence(usize),
    Iterator(Py<PyIterator>),
    /// `wsgi.file_wrapper` around a regular file that nginx sends; `None` once the transport has it.
    File(Option<FileBody>),
}

/// The reason why [`BodyIterator::advance`] returned.
#[derive(Debug)]
pub enum Progress {
    /// There is no room for more: continue when there is.
    NoRoom,
    /// The time slice is used up: continue after other work.
    TimeSliceOver,
    /// The rest is this file; `last` if the body is complete with it. Continue when it has been sent.
    File { body: FileBody, last: bool },
    /// The response is complete, or the client has left.
    Done,
}

/// The reason why a response failed.
#[derive(Debug, Error)]
pub enum Failure {
    #[error(transparent)]
    Raised(#[from] PyErr),
    #[error("did not call start_response before its first data")]
    NotStarted,
    #[error("sent {sent} of the {declared} bytes of its Content-Length")]
    Short { sent: u64, declared: u64 },
}

impl Failure {
    /// Returns the exception, if it is one.
    pub fn raised(&self) -> Option<&PyErr> {
        match self {
            Self::Raised(error) => Some(error),
            Self::NotStarted | Self::Short { .. } => None,
        }
    }
}

impl BodyIterator {
    /// Starts the iteration over `iterable`; `file` is the regular file behind it if it is a `FileWrapper`.
    ///
    /// # Errors
    /// The iterable with the error, when it cannot be iterated.
    pub fn new<'py>(
        response: Response,
        iterable: Bound<'py, PyAny>,
        file: Option<FileBody>,
    ) -> Result<Self, (PyErr, Bound<'py, PyAny>)> {
        let source = if file.is_some() {
            Source::File(file)
        } else if iterable.is_exact_instance_of::<PyList>() || iterable.is_exact_instance_of::<PyTuple>() {
            Source::Sequence(0)
        } else {
            match iterable.try_iter() {
                Ok(iterator) => Source::Iterator(iterator.unbind()),
                Err(error) => return Err((error, iterable)),
            }
        };
        Ok(Self { response, iterable: iterable.unbind(), source, current: None })
    }

    /// Sends pieces until there is no room, `time_slice` is used up, or the iterable is exhausted.
    ///
    /// # Errors
    /// The application raised an exception, or its response is invalid.
    pub fn advance(&mut self, py: Python<'_>, time_slice: Option<Duration>) -> Result<Progress, Failure> {
        if let Some(progress) = self.send_whole(py) {
            return Ok(progress);
        }
        let mut start: Option<Instant> = None;
        loop {
            if let Some(progress) = self.send_current(py)? {
                return Ok(progress);
            }
            if let Some(slice) = time_slice {
                match start {
                    None => start = Some(Instant::now()),
                    Some(start) if start.elapsed() > slice => return Ok(Progress::TimeSliceOver),
                    Some(_) => {}
                }
            }
            if let Some(progress) = self.hand_over_file()? {
                return Ok(progress);
            }
            let next = self.next(py);
            // A forked child has no part in the response. The caller ends it.
            if after_fork::is_child() {
                return next.map(|_| Progress::Done).map_err(Failure::Raised);
            }
            let Some(piece) = next? else {
                return self.complete();
            };
            let piece = piece.cast_into::<PyBytes>().map_err(|error| not_bytes(&error.into_inner()))?;
            if piece.as_bytes().is_empty() {
                // Sends nothing, not even the headers (PEP 3333, "Buffering and Streaming"), so it notices no
                // disconnect.
                if self.response.transport().is_disconnected() {
                    return Ok(Progress::Done);
                }
                if self.response.transport().optimizes() && py.detach(|| self.response.is_body_unwanted()) {
                    return self.complete();
                }
                continue;
            }
            if self.response.stage() == Stage::NotStarted {
                return Err(Failure::NotStarted);
            }
            self.infer_length(py, &piece)?;
            self.current = Some((piece.unbind(), 0));
        }
    }

    /// Sends the whole response, if the iterable is a list or tuple of one piece. Returns the reason to stop, if there is
    /// one. Leaves all that is special to [`BodyIterator::advance`].
    fn send_whole(&mut self, py: Python<'_>) -> Option<Progress> {
        let (Source::Sequence(0), None) = (&self.source, &self.current) else { return None };
        let iterable = self.iterable.bind(py);
        let piece = match sequence_item(iterable, 0)? {
            Ok(piece) if sequence_item(iterable, 1).is_none() => piece.cast_into::<PyBytes>().ok()?,
            _ => return None,
        };
        let data = piece.as_bytes();
        if data.is_empty() {
            return None;
        }
        match self.response.send_whole(data) {
            Err(Disconnected) => Some(Progress::Done),
            Ok(Some(count)) if count == data.len() => Some(Progress::Done),
            Ok(Some(count)) => {
                self.source = Source::Sequence(1);
                self.current = Some((piece.unbind(), count));
                None
            }
            Ok(None) => None,
        }
    }

    /// Sends the rest of the current piece. Returns the reason to stop, if there is one.
    fn send_current(&mut self, py: Python<'_>) -> Result<Option<Progress>, Failure> {
        let Some((piece, offset)) = &mut self.current else { return Ok(None) };
        let data = piece.bind(py).as_bytes();
        let more_follows = matches!(self.source, Source::Sequence(_));
        match self.response.send(&data[*offset..], more_follows) {
            Err(_) => return Ok(Some(Progress::Done)),
            Ok(count) => *offset += count,
        }
        let rest = &data[*offset..];
        if !rest.is_empty() {
            match py.detach(|| self.response.spill(rest)) {
                Err(_) => return Ok(Some(Progress::Done)),
                Ok(count) => *offset += count,
            }
        }
        if *offset < data.len() {
            return Ok(Some(Progress::NoRoom));
        }
        self.current = None;
        // Data beyond Content-Length is discarded, so the application need not produce more.
        if self.response.has_surplus() { self.complete().map(Some) } else { Ok(None) }
    }

    /// Takes the regular file behind a `FileWrapper`, once, for nginx to send.
    fn hand_over_file(&mut self) -> Result<Option<Progress>, Failure> {
        let Source::File(file) = &mut self.source else { return Ok(None) };
        let Some(file) = file.take() else { return Ok(None) };
        if self.response.stage() == Stage::NotStarted {
            return Err(Failure::NotStarted);
        }
        self.response.infer_length(file.length);
        Ok(self.response.reserve_file(file).map(|(body, last)| Progress::File { body, last }))
    }

    /// Returns the next item of the iterable, `None` at its end.
    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match &mut self.source {
            Source::Iterator(iterator) => iterator.bind(py).clone().next().transpose(),
            Source::File(_) => Ok(None),
            Source::Sequence(position) => {
                let item = sequence_item(self.iterable.bind(py), *position).transpose()?;
                *position += usize::from(item.is_some());
                Ok(item)
            }
        }
    }

    /// Infers Content-Length from a list or tuple of one piece (PEP 3333, "Handling the Content-Length Header").
    fn infer_length(&self, py: Python<'_>, piece: &Bound<'_, PyBytes>) -> PyResult<()> {
        if matches!(self.source, Source::Sequence(1)) && self.iterable.bind(py).len()? == 1 {
            self.response.infer_length(piece.as_bytes().len() as u64);
        }
        Ok(())
    }

    fn complete(&self) -> Result<Progress, Failure> {
        // If no data was sent, the headers can still be changed, and the body is known to be empty.
        self.response.infer_length(0);
        // A list or tuple has no close() that could take time.
        match self.response.complete(matches!(self.source, Source::Sequence(_))) {
            Completion::Complete => Ok(Progress::Done),
            Completion::NotStarted => Err(Failure::NotStarted),
            Completion::Short { sent, declared } => Err(Failure::Short { sent, declared }),
        }
    }

    /// Returns the iterable for its `close()`, or `None` for a type that has none. Releases all other objects of the
    /// iteration.
    pub fn into_closable(self, py: Python<'_>) -> Option<Bound<'_, PyAny>> {
        match self.source {
            Source::Sequence(_) => None,
            Source::Iterator(_) | Source::File(_) => Some(self.iterable.into_bound(py)),
        }
    }
}

/// Returns an item of a list or tuple, `None` beyond its end. Another thread may shorten a list at any time.
fn sequence_item<'py>(sequence: &Bound<'py, PyAny>, index: usize) -> Option<PyResult<Bound<'py, PyAny>>> {
    match sequence.cast_exact::<PyList>() {
        Ok(list) => (index < list.len()).then(|| list.get_item(index)),
        Err(_) => sequence.cast_exact::<PyTuple>().ok()?.get_item(index).ok().map(Ok),
    }
}

fn not_bytes(found: &Bound<'_, PyAny>) -> PyErr {
    let class = found.get_type().name().map(|name| name.to_string()).unwrap_or_default();
    PyTypeError::new_err(format!("the iterable returned by the application must yield bytes, not {class}"))
}
