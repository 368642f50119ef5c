//! The iterable that an application returned, pulled piece by piece as there is room for the answer.

use std::time::{Duration, Instant};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator, PyList, PyTuple};

use super::file::FileBody;
use super::start_response::{Completion, Response};
use crate::python::after_fork;

/// A running answer. Whoever has one calls [`BodyIterator::advance`] until it is done, then [`BodyIterator::into_closable`].
pub struct BodyIterator {
    response: Response,
    iterable: Py<PyAny>,
    source: Source,
    /// A piece that has been sent up to this byte.
    current: Option<(Py<PyBytes>, usize)>,
}

enum Source {
    /// A list or tuple: nothing runs between its items, so they can go out together.
    Sequence(usize),
    Iterator(Py<PyIterator>),
    /// `wsgi.file_wrapper` around a regular file: nginx sends it.
    File(Option<FileBody>),
}

/// Where an answer stands.
#[derive(Debug)]
pub enum Progress {
    /// There is no room for more; go on when there is.
    NoRoom,
    /// It is somebody else's turn; go on after that.
    TurnOver,
    /// The rest is this file, with which the body is complete if it is the `last`; go on when it has been sent.
    File { body: FileBody, last: bool },
    /// All of it has been handed over, or nobody is there to take it.
    Done,
}

/// What can be wrong with an answer.
#[derive(Debug)]
pub enum Failure {
    Raised(PyErr),
    NotStarted,
    /// The body is shorter than its Content-Length.
    Short {
        sent: u64,
        declared: u64,
    },
}

impl Failure {
    /// The exception, if it is one.
    pub fn raised(&self) -> Option<&PyErr> {
        match self {
            Self::Raised(error) => Some(error),
            Self::NotStarted | Self::Short { .. } => None,
        }
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

impl BodyIterator {
    /// The answer that `iterable`, returned by an application, makes; `file` is what is in it if it is a `FileWrapper`.
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

    /// Sends pieces until there is no room, no time left of `turn`, or no more of them.
    ///
    /// # Errors
    /// What the application raised, or did wrong.
    pub fn advance(&mut self, py: Python<'_>, turn: Option<Duration>) -> Result<Progress, Failure> {
        let start = Instant::now();
        loop {
            if let Some((piece, offset)) = &mut self.current {
                let data = piece.bind(py).as_bytes();
                let more_follows = matches!(self.source, Source::Sequence(_));
                match self.response.send(&data[*offset..], more_follows) {
                    Err(_) => return Ok(Progress::Done),
                    Ok(count) => *offset += count,
                }
                let rest = &data[*offset..];
                if !rest.is_empty() {
                    match py.detach(|| self.response.spill(rest)) {
                        Err(_) => return Ok(Progress::Done),
                        Ok(count) => *offset += count,
                    }
                }
                if *offset < data.len() {
                    return Ok(Progress::NoRoom);
                }
                self.current = None;
                // More than Content-Length says is of no use to anybody.
                if self.response.has_surplus() {
                    return self.complete();
                }
            }
            if turn.is_some_and(|turn| start.elapsed() > turn) {
                return Ok(Progress::TurnOver);
            }
            if let Source::File(file) = &mut self.source
                && let Some(file) = file.take()
            {
                if self.response.is_waiting() {
                    return Err(Failure::NotStarted);
                }
                self.response.suggest_length(file.length);
                if let Some((body, last)) = self.response.admit_file(file) {
                    return Ok(Progress::File { body, last });
                }
            }
            let next = self.next(py);
            // Nothing of the answer is a child's, whose end the caller sees to.
            if after_fork::is_child() {
                return next.map(|_| Progress::Done).map_err(Failure::Raised);
            }
            let Some(piece) = next? else {
                return self.complete();
            };
            let piece = piece.cast_into::<PyBytes>().map_err(|error| not_bytes(&error.into_inner()))?;
            if piece.as_bytes().is_empty() {
                // It sends nothing, not even the head (PEP 3333, "Buffering and Streaming"), and so finds nobody gone.
                if self.response.exchange().is_disconnected() {
                    return Ok(Progress::Done);
                }
                if self.response.exchange().optimizes() && py.detach(|| self.response.is_body_unwanted()) {
                    return self.complete();
                }
                continue;
            }
            if self.response.is_waiting() {
                return Err(Failure::NotStarted);
            }
            self.suggest_length(py, &piece)?;
            self.current = Some((piece.unbind(), 0));
        }
    }

    fn next<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match &mut self.source {
            Source::Iterator(iterator) => iterator.bind(py).clone().next().transpose(),
            Source::File(_) => Ok(None),
            Source::Sequence(position) => {
                let iterable = self.iterable.bind(py);
                if *position >= iterable.len()? {
                    return Ok(None);
                }
                let item = iterable.get_item(*position)?;
                *position += 1;
                Ok(Some(item))
            }
        }
    }

    /// A list or tuple of one piece is the whole body (PEP 3333, "Handling the Content-Length Header").
    fn suggest_length(&self, py: Python<'_>, piece: &Bound<'_, PyBytes>) -> PyResult<()> {
        if matches!(self.source, Source::Sequence(1)) && self.iterable.bind(py).len()? == 1 {
            self.response.suggest_length(piece.as_bytes().len() as u64);
        }
        Ok(())
    }

    fn complete(&self) -> Result<Progress, Failure> {
        // Without any data the head is still here, and the body is known to be empty.
        self.response.suggest_length(0);
        // A list or tuple has no close() that could take its time.
        match self.response.complete(matches!(self.source, Source::Sequence(_))) {
            Completion::Complete => Ok(Progress::Done),
            Completion::NotStarted => Err(Failure::NotStarted),
            Completion::Short(sent, declared) => Err(Failure::Short { sent, declared }),
        }
    }

    /// Gives the iterable back for its `close()`, unless it is of a type that has none.
    pub fn into_closable(self, py: Python<'_>) -> Option<Bound<'_, PyAny>> {
        // Everything else of Python is let go here, attached.
        match self.source {
            Source::Sequence(_) => None,
            Source::Iterator(_) | Source::File(_) => Some(self.iterable.into_bound(py)),
        }
    }
}

fn not_bytes(found: &Bound<'_, PyAny>) -> PyErr {
    let class = found.get_type().name().map(|name| name.to_string()).unwrap_or_default();
    PyTypeError::new_err(format!("the iterable returned by the application must yield bytes, not {class}"))
}
