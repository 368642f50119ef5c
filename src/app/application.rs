//! One application of a worker.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::source_files::{Files, Mechanism, Reloading};
use super::specification::Specification;
use crate::python::log::{self, Entered, Level, Sink};
use crate::status::board::{NewEvent, Writer};
use crate::status::report::{Code, EventKind, LoadFailure};
use crate::sync::Mutex;

/// An application of a worker. It may be loaded in several interpreters, so it holds no Python object.
pub struct Application {
    number: usize,
    specification: Specification,
    name: Arc<str>,
    /// Its name in messages for administrators, with the location in the configuration.
    title: String,
    reload: Option<Reload>,
    /// Writer of this worker's status, if it has one.
    status: Option<&'static Writer>,
    loads: Mutex<LoadRecord>,
    /// Its log, for text outside of requests; `None` for nginx's error log.
    log: OnceLock<Arc<dyn Sink>>,
}

/// What is known about the code of an application in its worker.
#[derive(Clone, Debug, Default)]
pub struct LoadRecord {
    /// The code that serves calls, as it was last loaded.
    pub code: Option<Code>,
    /// The number of times that code was loaded.
    pub loads: u64,
    /// The last failure, if no code was loaded since.
    pub failure: Option<LoadFailure>,
}

/// What a loaded module says about itself.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// `__version__`.
    pub version: Option<String>,
    /// The time at which its file was modified.
    pub modified: Option<SystemTime>,
}

/// The reload mechanism of an application, and the files that are watched for it.
pub struct Reload {
    pub mechanism: Mechanism,
    pub files: Files,
}

/// The exception that loading an application has failed with, as text.
#[derive(Debug)]
pub struct LoadError {
    /// Class and message, in one line.
    pub summary: String,
    pub traceback: String,
}

impl Application {
    /// Creates the application of a `wsgi_pass` at this file and line of the configuration.
    pub fn new(specification: Specification, source_location: &str, reloading: Option<Reloading>) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name: Arc<str> = specification.to_string().into();
        let title = format!("wsgi_pass \"{name}\" in {source_location}");
        let reload = reloading.map(|Reloading { mechanism, patterns }| {
            let files = Files::new(specification.target.script(), patterns);
            Reload { mechanism, files }
        });
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { number, specification, name, title, reload, status: None, loads: Mutex::default(), log: OnceLock::new() }
    }

    /// Returns the application, which records what is loaded with this writer.
    #[must_use]
    pub fn recording(self, status: &'static Writer) -> Self {
        Self { status: Some(status), ..self }
    }

    /// Returns what is known about its code.
    pub fn load_record(&self) -> LoadRecord {
        self.loads.lock().clone()
    }

    fn record_event(&self, kind: EventKind, summary: &str, text: &str) {
        if let Some(status) = self.status {
            status.record_event(&NewEvent { kind, application: &self.name, summary, text });
        }
    }

    /// Returns the number of the application, unique in its worker.
    pub fn number(&self) -> usize {
        self.number
    }

    /// Gives the application a log of its own, for text outside of requests.
    pub fn set_log(&self, sink: Arc<dyn Sink>) {
        let _ = self.log.set(sink);
    }

    /// Returns its log for text outside of requests, if it has one of its own.
    pub fn log(&self) -> Option<Arc<dyn Sink>> {
        self.log.get().cloned()
    }

    /// Lets this thread write to the log of the application, if it has one, until the guard is dropped.
    pub fn enter_log(&self) -> Option<Entered> {
        self.log().map(log::enter)
    }

    /// Returns where its code is.
    pub fn specification(&self) -> &Specification {
        &self.specification
    }

    /// Records the current state of its files, which are about to be loaded.
    pub fn note_files(&self) {
        if let Some(Reload { files, .. }) = &self.reload {
            files.note();
        }
    }

    /// Logs that loading has failed; `is_reload` if a previous version is loaded. With a log of its own the application has the
    /// traceback there, and nginx's error log says only that it failed.
    pub fn log_failure(&self, LoadError { summary, traceback }: &LoadError, is_reload: bool) {
        let event = if is_reload { "reload failed, keeping the previous version" } else { "could not be loaded" };
        let message = format!("application \"{}\" {event}: {summary}", self.name);
        let entered = self.enter_log();
        log::exception(&message, traceback);
        if entered.is_some() {
            drop(entered);
            log::write_to_error_log(Level::Error, &format!("{message}, the traceback is in its wsgi_log"));
        }
        self.loads.lock().failure =
            Some(LoadFailure { time: unix_time(SystemTime::now()), traceback: traceback.clone() });
        self.record_event(EventKind::LoadFailed, summary, traceback);
    }

    /// Logs that it was loaded within `time` in an interpreter; `is_reload` if a previous version was loaded.
    pub fn log_success(&self, time: Duration, interpreter: &str, is_reload: bool, description: Description) {
        let event = if is_reload { "reloaded" } else { "loaded" };
        let (name, seconds) = (&self.name, time.as_secs_f64());
        let text = format!("application \"{name}\" {event} in {seconds:.3} s, interpreter \"{interpreter}\"");
        match self.log.get() {
            Some(_) => log::write_to_error_log(Level::Notice, &text),
            None => log::write_record(Level::Notice, &text),
        }
        let now = SystemTime::now();
        let Description { version, modified } = description;
        // A file that was modified later may not be what was loaded.
        let modified = modified.filter(|modified| now.checked_sub(time).is_none_or(|start| *modified <= start));
        let code = Code {
            version,
            modified: modified.map(unix_time),
            loaded: unix_time(now),
            import_time: time.as_secs_f64(),
        };
        {
            let mut record = self.loads.lock();
            *record = LoadRecord { code: Some(code), loads: record.loads + 1, failure: None };
        }
        let kind = if is_reload { EventKind::Reloaded } else { EventKind::Loaded };
        self.record_event(kind, &format!("{event} in {seconds:.3} s, interpreter \"{interpreter}\""), "");
    }

    /// Returns the current time if the modules that calls import are watched. The loader records those that a call has
    /// imported since.
    pub fn call_start(&self) -> Option<SystemTime> {
        self.reload.as_ref().filter(|reload| reload.files.has_modules()).map(|_| SystemTime::now())
    }

    /// Returns the reload settings, if `wsgi_script_reloading` is on.
    pub fn reload(&self) -> Option<&Reload> {
        self.reload.as_ref()
    }

    /// Returns its name in messages for administrators, with the location in the configuration.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Returns its name in the log.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

fn unix_time(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
