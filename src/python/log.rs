//! The log of Python code: `print`, stderr, `wsgi.errors`, tracebacks.
//!
//! A thread writes to its current [`Sink`], that of the request it serves; or else to that of the application that has
//! started it, or to the worker's. Each thread collects text until a line is complete, so lines of two requests never mix.

use std::cell::RefCell;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use nix::unistd::{getpid, gettid};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyBytesMethods, PyString};

use super::line::{self, Line};
use super::native_class::{Arguments, Method};
use super::{after_fork, text};
use crate::sync::Mutex;

/// The severity of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Crit,
    Error,
    Warn,
    /// Events that an administrator looks for, such as an application that was loaded.
    Notice,
    /// Routine events, such as a client disconnect.
    Info,
    Debug,
}

impl Level {
    /// Converts a level of Python's `logging`; one in between to the nearest below.
    fn of_python(number: f64) -> Self {
        match number {
            number if number >= 50.0 => Self::Crit,
            number if number >= 40.0 => Self::Error,
            number if number >= 30.0 => Self::Warn,
            number if number >= 20.0 => Self::Info,
            _ => Self::Debug,
        }
    }
}

/// Text for a log.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub level: Level,
    /// One or more lines, as bytes that an application may have written, without the newline at the end.
    pub message: &'a [u8],
    /// Traceback of an exception, or stack of a call, without the newline at the end; empty if there is none.
    pub traceback: &'a str,
}

impl Record<'_> {
    /// Returns message and traceback as text, for a log with a record for each line.
    pub fn text(&self) -> String {
        let mut text = line::decode(self.message);
        text.truncate(text.trim_end_matches('\n').len());
        if !self.traceback.is_empty() {
            text.push('\n');
            text.push_str(self.traceback);
        }
        text
    }
}

/// Takes complete lines of text into a log.
pub trait Sink: Send + Sync {
    /// Logs a record.
    fn write(&self, record: Record);

    /// Logs an error from another thread than that of the request, without waiting for the event loop.
    fn write_at_once(&self, message: &str, traceback: &str) {
        self.write(Record { level: Level::Error, message: message.as_bytes(), traceback });
    }

    /// Returns whether a line, and a traceback, stays in one piece, however long it is and however it was written.
    fn keeps_lines(&self) -> bool {
        false
    }

    /// Returns the log for threads that are started by code which writes to this one; `None` for the log of the worker.
    fn of_threads(&self) -> Option<Arc<dyn Sink>> {
        None
    }
}

static WORKER: OnceLock<Arc<dyn Sink>> = OnceLock::new();

/// Log for text of Python code of which neither request nor application is known.
static ONLY_APPLICATION: OnceLock<Arc<dyn Sink>> = OnceLock::new();

/// Logs of applications that Python code refers to by their numbers.
static NUMBERED: OnceLock<Mutex<Vec<Arc<dyn Sink>>>> = OnceLock::new();

static HAS_APPLICATION_LOGS: AtomicBool = AtomicBool::new(false);

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Sink>>> = const { RefCell::new(None) };
    static THREAD: ThreadLog = const { ThreadLog { line: RefCell::new(Line::new()), sink: RefCell::new(None), name: RefCell::new(None) } };
}

/// The log of a thread.
struct ThreadLog {
    /// The incomplete line of the thread, logged when the thread ends.
    line: RefCell<Line>,
    /// The log of the application that has started the thread.
    sink: RefCell<Option<Arc<dyn Sink>>>,
    /// Its name, if an application has started it.
    name: RefCell<Option<String>>,
}

impl Drop for ThreadLog {
    fn drop(&mut self) {
        if let Some(rest) = self.line.get_mut().take_all() {
            // A thread that ends has no current sink any more.
            let sink = self.sink.get_mut().take().or_else(sink_of_code);
            write_to(sink, Record { level: Level::Error, message: without_newline(&rest), traceback: "" });
        }
    }
}

/// Sets the sink for text that belongs to no request. Only the first call has an effect.
pub fn set_worker_sink(sink: Arc<dyn Sink>) {
    // A worker starts Python once; a second attempt keeps the sink of the first.
    let _ = WORKER.set(sink);
}

/// Notes that applications have logs of their own; `only` is the log of all applications, if they share it. Only the first
/// call has an effect. To be called before Python is started.
pub fn set_application_logs(only: Option<Arc<dyn Sink>>) {
    HAS_APPLICATION_LOGS.store(true, Ordering::Relaxed);
    if let Some(only) = only {
        let _ = ONLY_APPLICATION.set(only);
    }
}

/// Returns whether applications have logs of their own.
pub fn has_application_logs() -> bool {
    HAS_APPLICATION_LOGS.load(Ordering::Relaxed)
}

/// Returns the name of this thread; empty if it has none.
pub fn thread_name() -> String {
    /// Of the thread that nginx starts with, which is no thread of Rust.
    const MAIN: &str = "main";
    let of_python = THREAD.try_with(|thread| thread.name.borrow().clone()).ok().flatten();
    let of_rust = || std::thread::current().name().map(str::to_owned);
    let main = || (gettid() == getpid()).then(|| MAIN.to_owned());
    of_python.or_else(of_rust).or_else(main).unwrap_or_default()
}

/// Makes `sink` the current one of this thread until the guard is dropped.
pub fn enter(sink: Arc<dyn Sink>) -> Entered {
    Entered { outer: CURRENT.replace(Some(sink)) }
}

/// The guard of a current sink, see [`enter`].
pub struct Entered {
    outer: Option<Arc<dyn Sink>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        flush();
        CURRENT.set(self.outer.take());
    }
}

/// Logs an error as [`write_record`] does.
pub fn error(text: &str) {
    write_record(Level::Error, text);
}

/// Logs a message about an application in nginx's error log, whatever sink is current.
pub fn write_to_error_log(level: Level, text: &str) {
    write_to(WORKER.get().cloned(), Record { level, message: text.as_bytes(), traceback: "" });
}

/// Logs `text`, which need not end with a newline, to this thread's sink.
pub fn write_record(level: Level, text: &str) {
    write(level, text, "");
}

/// Logs an exception or the stack of a call at level `error`, to this thread's sink.
pub fn exception(message: &str, traceback: &str) {
    write(Level::Error, message, traceback);
}

fn write(level: Level, text: &str, traceback: &str) {
    let (message, traceback) = (text.trim_end_matches('\n').as_bytes(), traceback.trim_end_matches('\n'));
    write_to(current().or_else(|| WORKER.get().cloned()), Record { level, message, traceback });
}

/// Returns the sink of the request or import that this thread runs.
fn current() -> Option<Arc<dyn Sink>> {
    // A thread that ends has none any more.
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// Returns the sink for text of Python code that this thread runs.
fn sink_here() -> Option<Arc<dyn Sink>> {
    let of_thread = || THREAD.try_with(|thread| thread.sink.borrow().clone()).ok().flatten();
    current().or_else(of_thread).or_else(sink_of_code)
}

fn sink_of_code() -> Option<Arc<dyn Sink>> {
    ONLY_APPLICATION.get().or_else(|| WORKER.get()).cloned()
}

fn write_to(sink: Option<Arc<dyn Sink>>, record: Record) {
    if after_fork::is_child() {
        // The sinks need the event loop, which the child does not have. Its stderr is nginx's error log, too. An error
        // is ignored, as it cannot be logged.
        let _ = writeln!(std::io::stderr(), "{}", record.text());
        return;
    }
    if let Some(sink) = sink {
        sink.write(record);
    }
}

fn without_newline(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\n").unwrap_or(text)
}

/// Logs the incomplete line of this thread.
pub fn flush() {
    // Most often there is none.
    if THREAD.with(|thread| thread.line.borrow().is_empty()) {
        return;
    }
    log_from_line(sink_here(), Line::take_all);
}

/// Logs the text that `take` takes from this thread's line.
fn log_from_line(sink: Option<Arc<dyn Sink>>, take: impl FnOnce(&mut Line) -> Option<Vec<u8>>) {
    // Not while the line is borrowed: the sink may write itself.
    let taken = THREAD.with(|thread| take(&mut thread.line.borrow_mut()));
    if let Some(text) = taken {
        write_to(sink, Record { level: Level::Error, message: without_newline(&text), traceback: "" });
    }
}

/// Adds to this thread's line, and logs all complete lines.
fn write_bytes(bytes: &[u8]) {
    let sink = sink_here();
    if keeps_lines(sink.as_ref()) {
        log_from_line(sink, |line| line.add_whole(bytes, line::MAX_WHOLE_LENGTH));
    } else {
        log_from_line(sink, |line| line.add(bytes, line::MAX_LENGTH));
    }
}

fn keeps_lines(sink: Option<&Arc<dyn Sink>>) -> bool {
    sink.is_some_and(|sink| sink.keeps_lines())
}

/// `_write(data)` for the streams of the bootstrap: text or bytes.
pub static WRITE: Method = Method::function(c"_write", |arguments: &Arguments<'_, '_>| {
    let [data] = arguments.bind("write", ["data"], 1)?;
    let py = arguments.py;
    if let Some(data) = data {
        // The sink may have to wait for the log.
        if let Ok(data) = data.cast::<PyBytes>() {
            let bytes = data.as_bytes();
            py.detach(|| write_bytes(bytes));
        } else {
            let text = text::utf8_lossless(&*data.cast::<PyString>()?);
            py.detach(|| write_bytes(text.as_bytes()));
        }
    }
    Ok(py.None().into_bound(py))
});

/// `_flush()` for the streams of the bootstrap. An incomplete character stays, as the next write may complete it; in a log that
/// keeps lines whole, an incomplete line stays as well.
pub static FLUSH: Method = Method::function(c"_flush", |arguments: &Arguments<'_, '_>| {
    let py = arguments.py;
    py.detach(|| {
        let sink = sink_here();
        if !keeps_lines(sink.as_ref()) {
            log_from_line(sink, Line::take_characters);
        }
    });
    Ok(py.None().into_bound(py))
});

/// `_record(level, text, traceback)` for the log handler of the bootstrap: a record of `logging`, with its level. `traceback`
/// is the part of `text` at its end that is a traceback; it may be empty.
pub static RECORD: Method = Method::function(c"_record", |arguments: &Arguments<'_, '_>| {
    let [level, text, traceback] = arguments.bind("record", ["level", "text", "traceback"], 3)?;
    let py = arguments.py;
    if let (Some(level), Some(text), Some(traceback)) = (level, text, traceback) {
        let level = Level::of_python(level.extract()?);
        let text = text::utf8_lossless(&*text.cast::<PyString>()?);
        let traceback = text::utf8_lossless(&*traceback.cast::<PyString>()?);
        let text = text.trim_end_matches('\n');
        let traceback = traceback.trim_end_matches('\n');
        let message = text.strip_suffix(traceback).and_then(|message| message.strip_suffix('\n'));
        let (message, traceback) =
            message.filter(|_| !traceback.is_empty()).map_or((text, ""), |message| (message, traceback));
        // The sink may have to wait for the log.
        py.detach(|| write_to(sink_here(), Record { level, message: message.as_bytes(), traceback }));
    }
    Ok(py.None().into_bound(py))
});

/// `_log_number()` for the bootstrap: a number for the log of the application whose code this thread runs, or `None`.
pub static LOG_NUMBER: Method = Method::function(c"_log_number", |arguments: &Arguments<'_, '_>| {
    let py = arguments.py;
    let of_thread = || THREAD.with(|thread| thread.sink.borrow().clone());
    let Some(sink) = current().and_then(|sink| sink.of_threads()).or_else(of_thread) else {
        return Ok(py.None().into_bound(py));
    };
    let mut numbered = NUMBERED.get_or_init(Mutex::default).lock();
    let known = numbered.iter().position(|known| Arc::ptr_eq(known, &sink));
    let number = known.unwrap_or_else(|| {
        numbered.push(sink);
        numbered.len() - 1
    });
    drop(numbered);
    Ok(number.into_pyobject(py)?.into_any())
});

/// `_enter_log(number, name=None)` for the bootstrap: text of this thread outside of requests goes to the log with this number
/// from now on, or with `None` to that of the worker. `name` is the name of the thread there.
pub static ENTER_LOG: Method = Method::function(c"_enter_log", |arguments: &Arguments<'_, '_>| {
    let [number, name] = arguments.bind("enter_log", ["number", "name"], 1)?;
    let py = arguments.py;
    let number: Option<usize> = number.map(|number| number.extract()).transpose()?.flatten();
    let name: Option<String> = name.and_then(|name| name.extract().ok());
    let numbered = NUMBERED.get_or_init(Mutex::default);
    let sink = number.and_then(|number| numbered.lock().get(number).cloned());
    py.detach(flush);
    THREAD.with(|thread| {
        thread.sink.replace(sink);
        thread.name.replace(name);
    });
    Ok(py.None().into_bound(py))
});

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl Sink for Lines {
        fn write(&self, record: Record) {
            self.0.lock().unwrap().push(record.text());
        }
    }

    #[test]
    fn levels_of_python_become_those_of_nginx() {
        use Level::{Crit, Debug, Error, Info, Warn};
        let levels = [0.0, 5.0, 10.0, 19.0, 20.0, 25.0, 30.0, 39.5, 40.0, 49.0, 50.0, 60.0].map(Level::of_python);
        assert_eq!(levels, [Debug, Debug, Debug, Debug, Info, Info, Warn, Warn, Error, Error, Crit, Crit]);
    }

    #[test]
    fn an_incomplete_line_is_logged_when_the_request_ends() {
        let lines = Arc::new(Lines::default());
        {
            let _entered = enter(lines.clone());
            write_bytes(b"a");
            write_bytes(b"b\nc\nd");
            assert_eq!(*lines.0.lock().unwrap(), ["ab\nc"]);
        }
        assert_eq!(*lines.0.lock().unwrap(), ["ab\nc", "d"]);
    }
}
