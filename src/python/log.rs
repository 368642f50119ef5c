//! Where the text that Python writes goes: `print`, stderr, `wsgi.errors`, tracebacks.
//!
//! A thread has a current [`Sink`] (that of the request it serves) or uses the worker's. Text is gathered by thread
//! until a line is whole, so lines of two requests never mix.

use std::cell::RefCell;
use std::io::Write;
use std::sync::{Arc, OnceLock};

use pyo3::types::PyString;

use super::class::{Arguments, Method};
use super::{fork, text};

/// How much a record matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Error,
    /// What happens every day, as a client that leaves.
    Info,
}

/// Takes whole lines of text into a log.
pub trait Sink: Send + Sync {
    /// Logs `text`, one record a line.
    fn write(&self, level: Level, text: &str);

    /// Logs an error from another thread than the request's, without waiting for that one.
    fn write_at_once(&self, text: &str) {
        self.write(Level::Error, text);
    }
}

static WORKER: OnceLock<Arc<dyn Sink>> = OnceLock::new();

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Sink>>> = const { RefCell::new(None) };
    /// The unfinished line of this thread.
    static PARTIAL: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A line without an end is logged in pieces of this many bytes, so that it does not grow without bound.
const LONGEST_PARTIAL_LINE: usize = 64 * 1024;

/// Names the sink for text that belongs to no request. The first call counts.
pub fn set_worker_sink(sink: Arc<dyn Sink>) {
    // A worker starts Python once; in a second attempt the first sink serves as well.
    let _ = WORKER.set(sink);
}

/// Makes `sink` the current one of this thread until the guard is dropped.
pub fn enter(sink: Arc<dyn Sink>) -> Entered {
    Entered { outer: CURRENT.replace(Some(sink)) }
}

/// See [`enter`].
pub struct Entered {
    outer: Option<Arc<dyn Sink>>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        flush();
        CURRENT.set(self.outer.take());
    }
}

/// Logs an error, see [`write_record`].
pub fn error(text: &str) {
    write_record(Level::Error, text);
}

/// Logs `text`, which need not end with a newline, to this thread's sink.
pub fn write_record(level: Level, text: &str) {
    let text = text.trim_end_matches('\n');
    if fork::is_child() {
        // The event loop behind the sinks is not here. nginx's error log is stderr as well; there is nobody to tell that
        // it cannot be written.
        let _ = writeln!(std::io::stderr(), "{text}");
        return;
    }
    let sink = CURRENT.with_borrow(Clone::clone).or_else(|| WORKER.get().cloned());
    if let Some(sink) = sink {
        sink.write(level, text);
    }
}

/// Logs what there is of an unfinished line.
pub fn flush() {
    let partial = PARTIAL.take();
    if !partial.is_empty() {
        error(&partial);
    }
}

/// Adds to this thread's line and logs all lines that are whole.
fn write(text: &str) {
    let whole = PARTIAL.with_borrow_mut(|partial| {
        partial.push_str(text);
        let end = match partial.rfind('\n') {
            Some(newline) => newline + 1,
            None if partial.len() > LONGEST_PARTIAL_LINE => partial.len(),
            None => return None,
        };
        let rest = partial.split_off(end);
        Some(std::mem::replace(partial, rest))
    });
    if let Some(whole) = whole {
        error(&whole);
    }
}

/// `_write(text)` for the streams of the prelude.
pub static WRITE: Method = Method::function(c"_write", |arguments: &Arguments<'_, '_, ()>| {
    let [text] = arguments.bind("write", ["text"], 1)?;
    let py = arguments.py;
    if let Some(text) = text {
        let text = text::utf8_lossless(&*text.cast::<PyString>()?);
        // The sink may have to wait for the log.
        py.detach(|| write(&text));
    }
    Ok(py.None().into_bound(py))
});

/// `_flush()` for the streams of the prelude.
pub static FLUSH: Method = Method::function(c"_flush", |arguments: &Arguments<'_, '_, ()>| {
    let py = arguments.py;
    py.detach(flush);
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
    fn lines_are_logged_when_whole_and_the_rest_when_the_request_ends() {
        let lines = Arc::new(Lines::default());
        {
            let _entered = enter(lines.clone());
            write("a");
            write("b\nc\nd");
            assert_eq!(*lines.0.lock().unwrap(), ["ab\nc"]);
        }
        assert_eq!(*lines.0.lock().unwrap(), ["ab\nc", "d"]);
    }
}
