//! `wsgi_check`: applications are imported in a child process while nginx reads a configuration.
//!
//! Not in the master: Python would survive reloads there, and application code would run as root.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::preflight::{self, ImportError, Preflight};
use super::process;
use crate::app::specification::Specification;
use crate::conf::main::MainConf;
use crate::nginx::cycle::{NewCycle, ReadReason};
use crate::nginx::log::Level;
use crate::nginx::shared_memory::words_in_use;
use crate::nginx::worker_process::set_process_title;
use crate::os::child::ChildProcess;
use crate::os::reporter::Report;
use crate::status::board::{self, NewEvent};
use crate::status::report::EventKind;
use crate::worker;
use crate::worker::config::WorkerConfig;

/// Error of a check, which has been logged.
#[derive(Debug)]
pub struct CheckFailed;

/// Imports every application as a worker would, and logs those that fail.
///
/// Does nothing at the first start, where refusing the configuration would keep nothing running: one broken application
/// must not keep the others down, and the workers, which would wait for the check, log the same.
///
/// # Errors
/// If an application cannot be imported.
pub fn run(conf: &MainConf, cycle: NewCycle) -> Result<(), CheckFailed> {
    process::warn_without_master(conf, cycle);
    let interpreters = conf.interpreters().into_iter();
    let applications = interpreters.flat_map(|interpreter| interpreter.applications);
    let applications: Vec<_> = applications.map(|application| application.specification).collect();
    if !is_useful(conf, cycle) || applications.is_empty() {
        return Ok(());
    }
    if worker::get().is_some() {
        // With `master_process off` this process has threads and Python, so a child of it could not start Python.
        cycle.log().write(Level::Notice, "wsgi_check skipped: applications run in this process");
        return Ok(());
    }
    Check { conf, cycle }.import_all(&applications)
}

/// Returns true if a refused configuration would leave running workers as they are, or ends a test of it.
pub fn is_useful(conf: &MainConf, cycle: NewCycle) -> bool {
    conf.check()
        && match cycle.read_reason() {
            ReadReason::Signal | ReadReason::Start => false,
            ReadReason::Test | ReadReason::Reload => true,
            // The supervisor opens the listening socket of an instance, which is no upgrade.
            ReadReason::Upgrade => conf.instance().is_none(),
        }
}

/// Records that a reload is refused because of an application, in the status of the workers that remain.
pub fn record_refusal(conf: &MainConf, cycle: NewCycle, application: &str, error: &str, traceback: &str) {
    let zone = conf.status_zone().filter(|_| cycle.read_reason() == ReadReason::Reload);
    if let Some(words) = zone.and_then(|zone| words_in_use(&cycle, &zone.name)) {
        let summary = format!("reload refused: {error}");
        let event = NewEvent { kind: EventKind::LoadFailed, application, summary: &summary, text: traceback };
        board::record_event(words, std::process::id(), &event);
    }
}

struct Check<'a> {
    conf: &'a MainConf,
    cycle: NewCycle,
}

impl Check<'_> {
    fn import_all(&self, applications: &[Arc<Specification>]) -> Result<(), CheckFailed> {
        let start = |first: usize, deadline| self.start(&applications[first..], deadline);
        let mut preflight = Preflight::new(applications.len(), self.conf.check_timeout(), start);
        let mut result = Ok(());
        for application in applications {
            let Some(import) = preflight.next() else {
                let remaining = preflight.remaining();
                self.log(Level::Emerg, &format!("wsgi_check ended, {remaining} more applications not imported"));
                break;
            };
            match import.result {
                Ok(()) => self.log(Level::Notice, &import.output),
                Err(ImportError::Interrupted) => {
                    self.log(Level::Notice, "wsgi_check aborted: nginx was told to exit");
                    return Err(CheckFailed);
                }
                Err(error) => {
                    let source_location = self.conf.source_location(application);
                    self.log(Level::Emerg, &format!("wsgi_pass \"{application}\" in {source_location}: {error}"));
                    self.log(Level::Emerg, &import.output);
                    record_refusal(self.conf, self.cycle, &application.to_string(), &error.to_string(), &import.output);
                    result = Err(CheckFailed);
                }
            }
        }
        result
    }

    fn start(&self, applications: &[Arc<Specification>], deadline: Instant) -> io::Result<ChildProcess> {
        let set_title = || set_process_title(c"wsgi check process");
        ChildProcess::start(set_title, deadline, |reporter| {
            let mut config = None;
            let became_worker = self.cycle.init_as_worker(|| {
                // Made after the change of the user: the environment has the user's home and name.
                config = WorkerConfig::new(self.conf, false);
                config.as_ref().map(|config| config.environment.clone()).unwrap_or_default()
            });
            match (became_worker, config) {
                (Err(error), _) => reporter.report(&Report::Fatal(error.to_string())),
                (Ok(()), Some(config)) => preflight::import_all(config, applications, deadline, reporter),
                (Ok(()), None) => {}
            }
        })
    }

    fn log(&self, level: Level, text: &str) {
        if !text.is_empty() {
            self.cycle.log().write(level, text);
        }
    }
}
