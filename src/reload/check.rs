//! `wsgi_check`: while the configuration is read, applications are loaded in a child that is thrown away.
//!
//! Never in the master itself: its Python would outlive reloads and run code of others as root.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::preflight::{self, Preflight, Trial};
use super::process;
use crate::app::specification::Specification;
use crate::conf::main::MainConf;
use crate::nginx::cycle::{NewCycle, ReadReason};
use crate::nginx::log::Level;
use crate::nginx::worker_process::set_process_title;
use crate::os::child::ChildProcess;
use crate::os::reporter::Report;
use crate::worker;
use crate::worker::config::WorkerConfig;

/// Loads every application as a worker would, and logs which cannot be loaded, and why.
///
/// Not where nothing runs yet, so that nothing is kept by refusing the configuration: one broken application must not keep
/// the others down, and the workers, which would wait for this, say the same.
///
/// # Errors
/// When one cannot be loaded.
pub fn run(conf: &MainConf, candidate: NewCycle) -> Result<(), ()> {
    process::check(conf, candidate);
    let purpose = candidate.read_reason();
    let applications: Vec<_> =
        conf.interpreters().into_iter().flat_map(|interpreter| interpreter.applications).collect();
    let applications: Vec<_> = applications.into_iter().map(|application| application.specification).collect();
    if !conf.checks() || matches!(purpose, ReadReason::Signal | ReadReason::Start) || applications.is_empty() {
        return Ok(());
    }
    if worker::get().is_some() {
        // `master_process off`: this process has threads, and Python, which a child could not start again.
        candidate.log().write(Level::Notice, "wsgi_check is left out: applications run in this process");
        return Ok(());
    }
    let check = Check { conf, candidate };
    if check.all(&applications) { Ok(()) } else { Err(()) }
}

struct Check<'a> {
    conf: &'a MainConf,
    candidate: NewCycle,
}

impl Check<'_> {
    /// Whether all can be loaded.
    fn all(&self, applications: &[Arc<Specification>]) -> bool {
        let start = |first: usize, deadline| self.start(&applications[first..], deadline);
        let mut trials = Preflight::new(applications.len(), self.conf.check_timeout(), start);
        let mut passed = true;
        for application in applications {
            match trials.next() {
                Some(Trial::Passed(text)) => self.log(Level::Notice, &text),
                Some(Trial::Failed { why, text }) => {
                    self.failed(application, &why, &text);
                    passed = false;
                }
                Some(Trial::Interrupted) => {
                    self.log(Level::Notice, "wsgi_check is given up: nginx was told to end");
                    return false;
                }
                None => {
                    self.log(Level::Emerg, &format!("wsgi_check has not tried {} more applications", trials.left()));
                    break;
                }
            }
        }
        passed
    }

    fn start(&self, applications: &[Arc<Specification>], deadline: Instant) -> io::Result<ChildProcess> {
        ChildProcess::start(
            || set_process_title(c"wsgi check process"),
            deadline,
            |reporter| {
                let mut start = None;
                let init = self.candidate.init_as_worker(|| {
                    // The user's home and name are in the environments.
                    start = WorkerConfig::new(self.conf, false);
                    start.as_ref().map(|start| start.environment.clone()).unwrap_or_default()
                });
                match (init, start) {
                    (Err(error), _) => reporter.report(&Report::Fatal(error.to_string())),
                    (Ok(()), Some(start)) => preflight::load(start, applications, deadline, reporter),
                    (Ok(()), None) => {}
                }
            },
        )
    }

    fn failed(&self, application: &Specification, why: &str, text: &str) {
        let place = self.conf.place(application);
        self.log(Level::Emerg, &format!("wsgi_pass \"{application}\" in {place}: {why}"));
        self.log(Level::Emerg, text);
    }

    fn log(&self, level: Level, text: &str) {
        if !text.is_empty() {
            self.candidate.log().write(level, text);
        }
    }
}
