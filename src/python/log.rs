//! The log of Python code: `print`, stderr, `wsgi.errors`, tracebacks.
//!
//! A thread writes to its current [`Sink`], that of the request it serves, or else to the worker's. Each thread
//! collects text until a line is complete, so lines of two requests never mix.

use std::cell::RefCell;
use std::io::Write;
use std::sync::{Arc, OnceLock};

use pyo3::types::{PyBytes, PyBytesMethods, PyString};

use super::line::Line;
use super::native_class::{Arguments, Method};
use super::{after_fork, text};

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

/// Takes complete lines of text into a log.
pub trait Sink: Send + Sync {
    /// Logs `text`, one record per line.
    fn write(&self, level: Level, text: &str);

    /// Logs an error from another thread than that of the request, without waiting for the event loop.
    fn write_at_once(&self, text: &str) {
        self.write(Level::Error, text);
    }
}

static WORKER: OnceLock<Arc<dyn Sink>> = OnceLock::new();

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Sink>>> = const { RefCell::new(None) };
    static LINE: ThreadLine = const { ThreadLine(RefCell::new(Line::new())) };
}

/// The incomplete line of a thread, logged when the thread ends.
struct ThreadLine(RefCell<Line>);

impl Drop for ThreadLine {
    fn drop(&mut self) {
        if let Some(rest) = self.0.get_mut().take_all() {
            error(&rest);
        }
    }
}

/// Sets the sink for text that belongs to no request. Only the first call has an effect.
pub fn set_worker_sink(sink: Arc<dyn Sink>) {
    // A worker starts Python once; a second attempt keeps the sink of the first.
    let _ = WORKER.set(sink);
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

/// Logs `text`, which need not end with a newline, to this thread's sink.
pub fn write_record(level: Level, text: &str) {
    let text = text.trim_end_matches('\n');
    if after_fork::is_child() {
        // The sinks need the event loop, which the child does not have. Its stderr is nginx's error log, too. An error
        // is ignored, as it cannot be logged.
        let _ = writeln!(std::io::stderr(), "{text}");
        return;
    }
    // A thread that ends has no current sink any more.
    let current = CURRENT.try_with(|current| current.borrow().clone()).ok().flatten();
    let sink = current.or_else(|| WORKER.get().cloned());
    if let Some(sink) = sink {
        sink.write(level, text);
    }
}

/// Logs the incomplete line of this thread.
pub fn flush() {
    log_from_line(Line::take_all);
}

/// Logs the text that `take` takes from this thread's line.
fn log_from_line(take: impl FnOnce(&mut Line) -> Option<String>) {
    // Not while the line is borrowed: the sink may write itself.
    let taken = LINE.with(|line| take(&mut line.0.borrow_mut()));
    if let Some(text) = taken {
        error(&text);
    }
}

/// Adds to this thread's line, and logs all complete lines.
fn write(bytes: &[u8]) {
    log_from_line(|line| line.add(bytes));
}

/// `_write(data)` for the streams of the bootstrap: text or bytes.
pub static WRITE: Method = Method::function(c"_write", |arguments: &Arguments<'_, '_>| {
    let [data] = arguments.bind("write", ["data"], 1)?;
    let py = arguments.py;
    if let Some(data) = data {
        // The sink may have to wait for the log.
        if let Ok(data) = data.cast::<PyBytes>() {
            let bytes = data.as_bytes();
            py.detach(|| write(bytes));
        } else {
            let text = text::utf8_lossless(&*data.cast::<PyString>()?);
            py.detach(|| write(text.as_bytes()));
        }
    }
    Ok(py.None().into_bound(py))
});

/// `_flush()` for the streams of the bootstrap. An incomplete character stays, as the next write may complete it.
pub static FLUSH: Method = Method::function(c"_flush", |arguments: &Arguments<'_, '_>| {
    let py = arguments.py;
    py.detach(|| log_from_line(Line::take_characters));
    Ok(py.None().into_bound(py))
});

/// `_record(level, text)` for the log handler of the bootstrap: a record of `logging`, with its level.
pub static RECORD: Method = Method::function(c"_record", |arguments: &Arguments<'_, '_>| {
    let [level, text] = arguments.bind("record", ["level", "text"], 2)?;
    let py = arguments.py;
    if let (Some(level), Some(text)) = (level, text) {
        let level = Level::of_python(level.extract()?);
        let text = text::utf8_lossless(&*text.cast::<PyString>()?);
        // The sink may have to wait for the log.
        py.detach(|| write_record(level, &text));
    }
    Ok(py.None().into_bound(py))
});

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl Sink for Lines {
        fn write(&self, _: Level, text: &str) {
            self.0.lock().unwrap().push(text.to_owned());
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
            write(b"a");
            write(b"b\nc\nd");
            assert_eq!(*lines.0.lock().unwrap(), ["ab\nc"]);
        }
        assert_eq!(*lines.0.lock().unwrap(), ["ab\nc", "d"]);
    }
}
