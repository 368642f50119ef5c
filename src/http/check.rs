//! `wsgi_check`: while the configuration is read, applications are loaded in a child that is thrown away.
//!
//! Never in the master itself: its Python would outlive reloads and run code of others as root.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::worker::{self, Planned, Start};
use crate::app::specification::Specification;
use crate::conf::main::MainConf;
use crate::engine::check::load_all;
use crate::nginx::candidate::{Candidate, Purpose};
use crate::nginx::child::{Child, Event, Report, Reporter};
use crate::nginx::log::Level;

/// Loads every application as a worker would, and logs which cannot be loaded, and why.
///
/// # Errors
/// When one cannot be loaded and the configuration is to be refused for it. It is not where nothing runs yet: then one
/// broken application must not keep the others down.
pub fn run(conf: &MainConf, candidate: Candidate) -> Result<(), ()> {
    let purpose = candidate.purpose();
    let applications: Vec<_> =
        conf.interpreters().into_iter().flat_map(|interpreter| interpreter.applications).collect();
    let applications: Vec<_> = applications.into_iter().map(|application| application.specification).collect();
    if !conf.checks() || purpose == Purpose::Signal || applications.is_empty() {
        return Ok(());
    }
    if worker::get().is_some() {
        // `master_process off`: this process has threads, and Python, which a child could not start again.
        candidate.log().write(Level::Notice, "wsgi_check is left out: applications run in this process");
        return Ok(());
    }
    let level = if purpose == Purpose::Start { Level::Warn } else { Level::Emerg };
    let check = Check { conf, candidate, level, deadline: Instant::now() + conf.check_timeout() };
    let passed = check.all(&applications);
    if passed || purpose == Purpose::Start { Ok(()) } else { Err(()) }
}

struct Check<'a> {
    conf: &'a MainConf,
    candidate: Candidate,
    /// Of messages about failures.
    level: Level,
    deadline: Instant,
}

impl Check<'_> {
    /// Whether all can be loaded. They share a process, as in a worker, unless one of them ends it.
    fn all(&self, applications: &[Arc<Specification>]) -> bool {
        let mut passed = true;
        let mut running: Option<Child> = None;
        for (index, application) in applications.iter().enumerate() {
            let left = &applications[index..];
            let started = running.take().map_or_else(|| self.start(left), Ok);
            let mut child = match started {
                Ok(child) => child,
                Err(error) => {
                    self.failed(application, &format!("wsgi_check cannot start a process: {error}"), "");
                    return false;
                }
            };
            let (event, text) = child.next();
            let (why, goes_on) = match event {
                Event::Reported(Report::Done) => {
                    self.log(Level::Notice, &text);
                    running = Some(child);
                    continue;
                }
                Event::Reported(Report::Failed(summary)) => {
                    running = Some(child);
                    (summary, true)
                }
                Event::Ended(how) => (format!("the process that imported it ended {how}"), true),
                Event::Reported(Report::Impossible(sentence)) => (sentence, false),
                Event::TimeOver => (format!("not imported within wsgi_check_timeout ({})", self.timeout()), false),
                Event::Interrupted => {
                    self.log(Level::Notice, "wsgi_check is given up: nginx was told to end");
                    return false;
                }
            };
            self.failed(application, &why, &text);
            passed = false;
            if !goes_on {
                if left.len() > 1 {
                    self.log(self.level, &format!("wsgi_check has not tried {} more applications", left.len() - 1));
                }
                break;
            }
        }
        passed
    }

    fn start(&self, applications: &[Arc<Specification>]) -> io::Result<Child> {
        Child::start(c"wsgi check process", self.deadline, |reporter| {
            if let Err(sentence) = self.load(applications, reporter) {
                reporter.report(&Report::Impossible(sentence));
            }
        })
    }

    /// In the child: loads the applications and reports on each.
    fn load(&self, applications: &[Arc<Specification>], reporter: &Reporter) -> Result<(), String> {
        let mut start = None;
        self.candidate.become_like_a_worker(|| {
            // The user's home and name are in the environments.
            start = Start::new(self.conf, false);
            start.as_ref().map(|start| start.environment.clone()).unwrap_or_default()
        })?;
        reporter.end_with_parent();
        let Some(Start { mut configuration, interpreters, .. }) = start else { return Ok(()) };
        configuration.checking = true;
        configuration.settings.leave_no_byte_code = true;
        let is_left = |specification: &Arc<Specification>| applications.contains(specification);
        let interpreters: Vec<_> = interpreters
            .into_iter()
            .filter_map(|Planned { mut plans, applications, .. }| {
                let specifications = applications.into_iter().map(|application| application.specification);
                // Copies are all the same.
                Some((plans.pop()?, specifications.filter(is_left).collect::<Vec<_>>()))
            })
            .filter(|(plan, applications)| plan.is_main() || !applications.is_empty())
            .collect();
        let limit = self.deadline.saturating_duration_since(Instant::now());
        load_all(&configuration, &interpreters, limit, |loaded| {
            reporter.report(&loaded.map_or_else(Report::Failed, |()| Report::Done));
        })
    }

    fn failed(&self, application: &Specification, why: &str, text: &str) {
        let place = self.conf.place(application);
        self.log(self.level, &format!("wsgi_pass \"{application}\" in {place}: {why}"));
        self.log(self.level, text);
    }

    fn log(&self, level: Level, text: &str) {
        if !text.is_empty() {
            self.candidate.log().write(level, text);
        }
    }

    /// The time limit, as the directive takes it.
    fn timeout(&self) -> String {
        match self.conf.check_timeout().as_millis() {
            seconds if seconds % 1000 == 0 => format!("{}s", seconds / 1000),
            milliseconds => format!("{milliseconds}ms"),
        }
    }
}
