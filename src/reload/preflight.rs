//! Loads applications in processes that are thrown away, to see whether they can be: for `wsgi_check`, and before a worker
//! makes room for new code.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::app::application::Application;
use crate::app::specification::Specification;
use crate::conf::interpreters::Configured;
use crate::engine::load_check::{Candidates, load_all};
use crate::os::child::{ChildProcess, Event};
use crate::os::reporter::{Report, Reporter};
use crate::worker::config::{WorkerConfig, WorkerInterpreter};

/// What has become of one application.
pub enum Trial {
    /// It can be loaded; with what it has written.
    Passed(String),
    /// It cannot, with a sentence, and a traceback and what it has written.
    Failed { why: String, text: String },
    /// nginx is told to end.
    Interrupted,
}

/// The trials of applications, in order. They share a process, as in a worker, unless one of them ends it. After one that
/// takes all the time nothing comes, though applications are left.
pub struct Preflight<S> {
    start: S,
    count: usize,
    tried: usize,
    is_over: bool,
    timeout: Duration,
    deadline: Instant,
    running: Option<ChildProcess>,
}

impl<S: Fn(usize, Instant) -> io::Result<ChildProcess>> Preflight<S> {
    /// Preflight of `count` applications, that take `timeout` (`wsgi_check_timeout`) at most. `start` starts a process that
    /// loads those from a number on and reports on each; it ends at the time given.
    pub fn new(count: usize, timeout: Duration, start: S) -> Self {
        let deadline = Instant::now() + timeout;
        Self { start, count, tried: 0, is_over: false, timeout, deadline, running: None }
    }

    /// How many applications have not been tried.
    pub fn left(&self) -> usize {
        self.count - self.tried
    }

    fn next_event(&mut self) -> (Event, String) {
        let started = match self.running.take() {
            Some(child) => Ok(child),
            None => (self.start)(self.tried - 1, self.deadline),
        };
        match started {
            Ok(mut child) => {
                let (event, text) = child.next();
                if matches!(event, Event::Reported(Report::Done | Report::Failed(_))) {
                    self.running = Some(child);
                }
                (event, text)
            }
            Err(error) => {
                let sentence = format!("no process can be started to import it: {error}");
                (Event::Reported(Report::Fatal(sentence)), String::new())
            }
        }
    }

    /// The time limit, as the directive takes it.
    fn timeout(&self) -> String {
        match self.timeout.as_millis() {
            seconds if seconds % 1000 == 0 => format!("{}s", seconds / 1000),
            milliseconds => format!("{milliseconds}ms"),
        }
    }
}

impl<S: Fn(usize, Instant) -> io::Result<ChildProcess>> Iterator for Preflight<S> {
    type Item = Trial;

    fn next(&mut self) -> Option<Trial> {
        if self.is_over || self.left() == 0 {
            return None;
        }
        self.tried += 1;
        let (event, text) = self.next_event();
        let (why, goes_on) = match event {
            Event::Reported(Report::Done) => return Some(Trial::Passed(text)),
            Event::Reported(Report::Failed(summary)) => (summary, true),
            Event::Ended(how) => (format!("the process that imported it ended {how}"), true),
            Event::Reported(Report::Fatal(sentence)) => (sentence, false),
            Event::TimedOut => (format!("not imported within wsgi_check_timeout ({})", self.timeout()), false),
            Event::Interrupted => {
                self.is_over = true;
                return Some(Trial::Interrupted);
            }
        };
        self.is_over = !goes_on;
        Some(Trial::Failed { why, text })
    }
}

/// In such a process: loads applications of a worker that would be started so, and reports on each.
pub fn load(start: WorkerConfig, applications: &[Arc<Specification>], deadline: Instant, reporter: &Reporter) {
    reporter.end_with_parent();
    let WorkerConfig { mut configuration, interpreters, .. } = start;
    configuration.checking = true;
    configuration.settings.leave_no_byte_code = true;
    let limit = deadline.saturating_duration_since(Instant::now());
    let loaded = load_all(&configuration, &candidates(interpreters, applications), limit, |loaded| {
        reporter.report(&loaded.map_or_else(Report::Failed, |()| Report::Done));
    });
    if let Err(sentence) = loaded {
        reporter.report(&Report::Fatal(sentence));
    }
}

/// The interpreters with those of their applications that are to be loaded.
fn candidates(interpreters: Vec<WorkerInterpreter>, applications: &[Arc<Specification>]) -> Vec<Candidates> {
    let with_applications = |WorkerInterpreter { mut specs, applications: all, .. }: WorkerInterpreter| {
        let wanted = all.into_iter().filter(|application| applications.contains(&application.specification));
        let wanted = wanted.map(|Configured { specification, place, reloading, .. }| {
            Arc::new(Application::new(Specification::clone(&specification), &place, reloading))
        });
        // Copies are all the same.
        Some((specs.pop()?, wanted.collect::<Vec<_>>()))
    };
    let candidates = interpreters.into_iter().filter_map(with_applications);
    candidates.filter(|(spec, applications)| spec.is_main() || !applications.is_empty()).collect()
}
