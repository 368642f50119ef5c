//! Preflight: applications are imported in a child process to find out whether a worker could load them.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::app::application::Application;
use crate::app::specification::Specification;
use crate::conf::interpreters::Configured;
use crate::engine::load_check::{InterpreterCheck, load_all};
use crate::os::child::{ChildProcess, Event};
use crate::os::reporter::{Report, Reporter};
use crate::worker::config::{WorkerConfig, WorkerInterpreter};

/// Result of the import of one application.
pub struct ImportResult {
    pub result: Result<(), ImportError>,
    /// Traceback, and output of the application.
    pub output: String,
}

/// Reason why an application could not be imported.
#[derive(Debug, Error)]
pub enum ImportError {
    /// Class and message of the exception.
    #[error("{0}")]
    Raised(String),
    /// Exit code or signal of the child process.
    #[error("the process that imported it ended {0}")]
    Ended(String),
    /// Value of `wsgi_check_timeout`.
    #[error("not imported within wsgi_check_timeout ({0})")]
    Timeout(String),
    #[error("no process can be started to import it: {0}")]
    Fork(#[from] io::Error),
    /// A prerequisite of all imports failed.
    #[error("{0}")]
    Fatal(String),
    #[error("nginx was told to exit")]
    Interrupted,
}

impl ImportError {
    /// Returns true if the remaining applications cannot be imported either.
    fn is_final(&self) -> bool {
        !matches!(self, Self::Raised(_) | Self::Ended(_))
    }
}

/// Import results in order. Applications share one child process until one of them ends it. Iteration stops after a
/// timeout.
pub struct Preflight<S> {
    start: S,
    count: usize,
    imported: usize,
    is_over: bool,
    timeout: Duration,
    deadline: Instant,
    child: Option<ChildProcess>,
}

impl<S: Fn(usize, Instant) -> io::Result<ChildProcess>> Preflight<S> {
    /// Makes the preflight of `count` applications, which takes at most `timeout` (`wsgi_check_timeout`). `start` starts a
    /// child process that imports the applications from an index on and reports each; the process ends at the deadline.
    pub fn new(count: usize, timeout: Duration, start: S) -> Self {
        let deadline = Instant::now() + timeout;
        Self { start, count, imported: 0, is_over: false, timeout, deadline, child: None }
    }

    /// Returns the number of applications without a result.
    pub fn remaining(&self) -> usize {
        self.count - self.imported
    }

    /// Imports the application at an index.
    fn import(&mut self, index: usize) -> ImportResult {
        let child = match self.child.take() {
            Some(child) => Ok(child),
            None => (self.start)(index, self.deadline),
        };
        let mut child = match child {
            Ok(child) => child,
            Err(error) => return ImportResult { result: Err(error.into()), output: String::new() },
        };
        let (event, output) = child.next();
        let result = match event {
            Event::Reported(Report::Done) => Ok(()),
            Event::Reported(Report::Failed(summary)) => Err(ImportError::Raised(summary)),
            Event::Reported(Report::Fatal(reason)) => Err(ImportError::Fatal(reason)),
            Event::Ended(how) => Err(ImportError::Ended(how)),
            Event::TimedOut => Err(ImportError::Timeout(self.timeout_value())),
            Event::Interrupted => Err(ImportError::Interrupted),
        };
        if matches!(result, Ok(()) | Err(ImportError::Raised(_))) {
            self.child = Some(child);
        }
        ImportResult { result, output }
    }

    /// Formats the timeout as a value of the directive.
    fn timeout_value(&self) -> String {
        match self.timeout.as_millis() {
            seconds if seconds % 1000 == 0 => format!("{}s", seconds / 1000),
            milliseconds => format!("{milliseconds}ms"),
        }
    }
}

impl<S: Fn(usize, Instant) -> io::Result<ChildProcess>> Iterator for Preflight<S> {
    type Item = ImportResult;

    fn next(&mut self) -> Option<ImportResult> {
        if self.is_over || self.remaining() == 0 {
            return None;
        }
        let import = self.import(self.imported);
        self.imported += 1;
        self.is_over = import.result.as_ref().is_err_and(ImportError::is_final);
        Some(import)
    }
}

/// Imports applications as a worker with this configuration would, and reports each. In the child process.
pub fn import_all(config: WorkerConfig, applications: &[Arc<Specification>], deadline: Instant, reporter: &Reporter) {
    reporter.end_with_parent();
    let WorkerConfig { mut engine_config, interpreters, .. } = config;
    engine_config.checking = true;
    engine_config.settings.leave_no_byte_code = true;
    let limit = deadline.saturating_duration_since(Instant::now());
    let loaded = load_all(&engine_config, &checks(interpreters, applications), limit, |loaded| {
        reporter.report(&loaded.map_or_else(Report::Failed, |()| Report::Done));
    });
    if let Err(reason) = loaded {
        reporter.report(&Report::Fatal(reason));
    }
}

/// Returns the interpreters with those of their applications that are to be imported.
fn checks(interpreters: Vec<WorkerInterpreter>, applications: &[Arc<Specification>]) -> Vec<InterpreterCheck> {
    let with_applications = |WorkerInterpreter { mut specs, applications: all, .. }: WorkerInterpreter| {
        let wanted = all.into_iter().filter(|application| applications.contains(&application.specification));
        let wanted = wanted.map(|Configured { specification, source_location, reloading, .. }| {
            Arc::new(Application::new(Specification::clone(&specification), &source_location, reloading))
        });
        // Copies are all the same.
        Some(InterpreterCheck { spec: specs.pop()?, applications: wanted.collect() })
    };
    let checks = interpreters.into_iter().filter_map(with_applications);
    checks.filter(|check| check.spec.is_main() || !check.applications.is_empty()).collect()
}
