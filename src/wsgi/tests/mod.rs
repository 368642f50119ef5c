//! The rules of PEP 3333, tested with applications in Python over a [`RecordingTransport`].

mod close;
mod environ;
mod failures;
mod file_wrapper;
mod headers;
mod input;
mod iteration;
mod start_response;
mod write;

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::sync::{Arc, OnceLock};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::body::{BodySource, BufferedBody, Interrupt, Piece};
use super::body_iter::Progress;
use super::call::{Call, Running};
use super::environ::{EnvironTemplate, Server};
use super::headers::ResponseHeaders;
use super::params::{CgiParams, Variable};
use super::recording::{Recorded, RecordingTransport};
use super::transport::{End, Suspended, Transport};
use crate::python::interpreter::{Interpreter, Preparation};
use crate::python::log::{self, Level};
use crate::python::{runtime, traceback};

/// A request to an application that is given as Python source.
struct Request {
    params: CgiParams,
    body: Box<dyn BodySource>,
    transport: RecordingTransport,
    debug: bool,
    /// Python source that runs after the call, with the globals of the application.
    afterwards: &'static str,
}

/// The response to a [`Request`], and the items of the list `events`, which the application fills.
#[derive(Debug)]
struct Response {
    recorded: Recorded,
    events: Vec<String>,
    /// The number of times that the call waited for room.
    waits: usize,
}

/// Creates a GET request without a body.
fn request() -> Request {
    let mut params = CgiParams::default();
    params.set(Variable::RequestMethod, b"GET");
    Request {
        params,
        body: Box::new(BufferedBody::default()),
        transport: RecordingTransport::default(),
        debug: false,
        afterwards: "",
    }
}

/// Calls an application with a request without a body.
#[track_caller]
fn get(source: &str) -> Response {
    request().call(source)
}

/// Calls an application whose body consists of these lines, and returns what it appended to `events`.
#[track_caller]
fn events_of(lines: &str) -> Vec<String> {
    get(&application(lines)).events
}

/// Returns the source of an application with these lines as its body.
fn application(lines: &str) -> String {
    let body: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("def application(environ, start_response):\n{body}")
}

impl Request {
    fn head(mut self) -> Self {
        self.params.is_head = true;
        self.params.set(Variable::RequestMethod, b"HEAD");
        self
    }

    /// Sets the body, received completely, in these pieces.
    fn body<'a>(mut self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        self.body = Box::new(BufferedBody::new(pieces.into_iter().map(Piece::memory)));
        self
    }

    /// Sets a body that is still being received: each read returns one of these pieces, or fails at a `None`.
    fn streamed(mut self, pieces: impl IntoIterator<Item = Option<&'static [u8]>>) -> Self {
        self.body = Box::new(StreamedBody(pieces.into_iter().collect()));
        self
    }

    /// Lets the transport take at most so many bytes at once.
    fn room(mut self, room: usize) -> Self {
        self.transport.room = room;
        self
    }

    #[track_caller]
    fn call(self, source: &str) -> Response {
        let Self { params, body, transport, debug, afterwards } = self;
        let transport = Arc::new(transport);
        let call = Call {
            number: 1,
            params: params.into(),
            body,
            transport: transport.clone(),
            debug,
            application_name: "app".into(),
        };
        let template = template();
        let events = Python::attach(|py| {
            let call = || -> PyResult<Vec<String>> {
                let globals = PyDict::new(py);
                globals.set_item("events", PyList::empty(py))?;
                for (name, action) in [("disconnect", Action::Disconnect), ("time_out", Action::TimeOut)] {
                    globals.set_item(name, action.function(py, &transport)?)?;
                }
                run(py, source, &globals)?;
                let application = globals.as_any().get_item("application")?;
                let _entered = log::enter(transport.clone().sink());
                let running = call.start(py, template, &application);
                finish(py, running, &transport);
                run(py, afterwards, &globals)?;
                globals.as_any().get_item("events")?.try_iter()?.map(|event| Ok(event?.str()?.to_string())).collect()
            };
            call().map_err(|error| traceback::format(&error, py))
        });
        let events = events.unwrap_or_else(|error| panic!("{error}"));
        let waits = transport.waits.load(std::sync::atomic::Ordering::Relaxed);
        Response { recorded: transport.take(), events, waits }
    }
}

/// Runs a call to its end, as a pool thread does.
fn finish(py: Python<'_>, mut running: Running, transport: &Arc<RecordingTransport>) {
    loop {
        match running.advance(py, None) {
            Progress::NoRoom => running.wait_for_room(py),
            Progress::TimeSliceOver => {}
            Progress::File { body, last } => transport.send_file(body, last, Box::new(Nothing)),
            Progress::Done => break,
        }
    }
    running.finish(py).close_call();
}

/// The stand-in for a suspended call, which the test itself continues.
struct Nothing;

impl Suspended for Nothing {
    fn resume(self: Box<Self>) -> Option<Box<dyn Suspended>> {
        None
    }

    fn abandon(self: Box<Self>) {}
}

/// An event outside of the application, which it can trigger by a call.
#[derive(Clone, Copy)]
enum Action {
    Disconnect,
    TimeOut,
}

impl Action {
    fn function<'py>(self, py: Python<'py>, transport: &Arc<RecordingTransport>) -> PyResult<Bound<'py, PyAny>> {
        let transport = transport.clone();
        let function = move |_: &Bound<'_, pyo3::types::PyTuple>, _: Option<&Bound<'_, PyDict>>| match self {
            Self::Disconnect => transport.disconnect(),
            Self::TimeOut => transport.time_out(),
        };
        Ok(pyo3::types::PyCFunction::new_closure(py, None, None, function)?.into_any())
    }
}

fn run(py: Python<'_>, source: &str, globals: &Bound<'_, PyDict>) -> PyResult<()> {
    let source = CString::new(source).expect("a source without NUL");
    py.run(&source, Some(globals), None)
}

/// Returns the environ template of the main interpreter, which is prepared by the first test.
fn template() -> &'static EnvironTemplate {
    static TEMPLATE: OnceLock<EnvironTemplate> = OnceLock::new();
    // Not attached: a thread that waits here must not hold the GIL.
    TEMPLATE.get_or_init(|| {
        runtime::start_for_tests();
        Python::attach(|py| {
            let preparation = Preparation { path: &[], facts: &[], environment: None };
            let interpreter = Interpreter::prepare(py, &preparation)?;
            let server = Server { software: "nginx/1.0".to_owned(), multithread: true, multiprocess: false };
            let template = EnvironTemplate::new(py, &interpreter, &server);
            // Its objects belong to the interpreter, and this process ends without finalising it.
            std::mem::forget(interpreter);
            template
        })
        .unwrap()
    })
}

/// A body that is still being received.
struct StreamedBody(VecDeque<Option<&'static [u8]>>);

impl BodySource for StreamedBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.0.pop_front() else { return Ok(0) };
        let piece = piece.ok_or(io::ErrorKind::ConnectionReset)?;
        let count = piece.len().min(buffer.len());
        buffer[..count].copy_from_slice(&piece[..count]);
        if count < piece.len() {
            self.0.push_front(Some(&piece[count..]));
        }
        Ok(count)
    }

    fn remaining(&self) -> Option<u64> {
        None
    }

    fn may_block(&self) -> bool {
        true
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        Some(Arc::new(NoReader))
    }
}

struct NoReader;

impl Interrupt for NoReader {
    fn interrupt(&self) {}
}

impl Response {
    /// Returns status and headers, of which exactly one block must have been sent.
    #[track_caller]
    fn headers(&self) -> &ResponseHeaders {
        assert_eq!(self.recorded.headers.len(), 1, "{self:#?}");
        &self.recorded.headers[0]
    }

    /// Returns the value of a header.
    #[track_caller]
    fn header(&self, name: &str) -> Option<&str> {
        self.headers().header(name).map(|value| str::from_utf8(value).unwrap())
    }

    /// Checks that the response is complete, with this status.
    #[track_caller]
    fn expect(self, status: u16) -> Self {
        assert_eq!((self.headers().status, self.recorded.end), (status, Some(End::Complete)), "{self:#?}");
        assert_eq!(self.recorded.closed, 1);
        assert_eq!(self.errors(), [""; 0]);
        self
    }

    /// Checks that the response has failed before its headers were sent, which makes it a 500, and that the log says
    /// why.
    #[track_caller]
    fn expect_error(self, logged: &str) -> Self {
        assert!(self.recorded.headers.is_empty() && self.recorded.pieces.is_empty(), "{self:#?}");
        self.expect_failed(logged)
    }

    /// Checks that the response has failed after its headers were sent, with this part of the body.
    #[track_caller]
    fn expect_cut(self, body: &str, logged: &str) -> Self {
        self.headers();
        assert_eq!(self.text(), body);
        self.expect_failed(logged)
    }

    #[track_caller]
    fn expect_failed(self, logged: &str) -> Self {
        assert_eq!((self.recorded.end, self.recorded.closed), (Some(End::Failed), 1), "{self:#?}");
        let errors = self.errors();
        assert!(errors.len() == 1 && errors[0].contains(logged), "{logged:?} in {errors:#?}");
        self
    }

    /// Returns the body as text.
    fn text(&self) -> String {
        self.recorded.text()
    }

    /// Returns the errors in the log.
    fn errors(&self) -> Vec<&str> {
        let errors = self.recorded.log.iter().filter(|(level, _)| *level == Level::Error);
        errors.map(|(_, text)| text.as_str()).collect()
    }
}
