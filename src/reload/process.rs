//! `wsgi_reload_mechanism process`: a worker makes room for one that loads the new code.
//!
//! The next worker has nothing but the code on disk. So when it is this worker's turn to retire, all applications that it
//! has loaded are loaded once more in a process that is thrown away, and only if that succeeds it goes.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::thread;

use super::preflight::{self, Preflight, Trial};
use crate::app::application::Reload;
use crate::app::source_files::{Files, Mechanism, Reloading};
use crate::app::specification::Specification;
use crate::conf::main::MainConf;
use crate::nginx::cycle::{NewCycle, ReadReason};
use crate::nginx::log::{Level, Log};
use crate::nginx::worker_process::{self, Role, set_process_title};
use crate::os::child::ChildProcess;
use crate::os::fork_server::ForkServer;
use crate::os::reporter::Report;
use crate::python::log;
use crate::worker::config::WorkerConfig;
use crate::worker::event_loop::Message;
use crate::worker::recycle::PreflightResult;
use crate::worker::{self, Worker, WorkerApplication};

/// Where new code is tried, or why it cannot be; nothing without an application that is reloaded so.
static FORK_SERVER: OnceLock<Result<ForkServer, String>> = OnceLock::new();

const WITHOUT_MASTER: &str = "with \"master_process off\" nobody would start another worker";

/// Warns while a configuration is read in which the mechanism has no effect.
pub fn check(conf: &MainConf, candidate: NewCycle) {
    if !candidate.has_master()
        && candidate.read_reason() != ReadReason::Signal
        && let Some(place) = conf.place_with_mechanism(Mechanism::Process)
    {
        let what = "\"wsgi_reload_mechanism process\" has no effect for the application of";
        candidate.log().write(Level::Warn, &format!("{what} {place}: {WITHOUT_MASTER}"));
    }
}

/// Makes ready to try new code, if an application wants it. To be called before this process has another thread.
pub fn set_up(start: &WorkerConfig) {
    let mut applications = start.interpreters.iter().flat_map(|planned| &planned.applications);
    let is_by_process = |reloading: &Reloading| reloading.mechanism == Mechanism::Process;
    if !applications.any(|application| application.reloading.as_ref().is_some_and(is_by_process)) {
        return;
    }
    let fork_server = if worker_process::role() == Role::Worker {
        let fork_server = ForkServer::start(name_process, |numbers| try_applications(start, numbers));
        fork_server.map_err(|error| format!("no process can be started to try new code: {error}"))
    } else {
        Err(WITHOUT_MASTER.to_owned())
    };
    let _ = FORK_SERVER.set(fork_server);
}

/// A call comes for an application of this mechanism. Whether its client is to ask again, as it is the first to find new
/// code. On the event loop thread.
pub fn should_refresh(worker: &Worker, application: &WorkerApplication, files: &Files) -> bool {
    matches!(FORK_SERVER.get(), Some(Ok(_)))
        && files.is_script_new()
        && worker.is_loaded(application)
        && files.discover()
}

/// Looks at the files of an application. On the watcher's thread.
pub fn look(worker: &'static Worker, application: &WorkerApplication, files: &Files) {
    // What is not loaded is loaded by the next call, as it is then.
    if !worker.is_loaded(application) || !files.are_new() {
        return;
    }
    let changed = reason(application.application.name(), &files.changed());
    let tell: Box<dyn FnOnce() + Send> = match FORK_SERVER.get() {
        Some(Ok(_)) => Box::new(move || worker.recycler.recycle_if_loadable(changed, Box::new(start_preflight))),
        Some(Err(why)) => {
            files.note();
            let message = format!("wsgi: {changed}, what was loaded before serves on: {why}");
            Box::new(move || Log::cycle().write(Level::Warn, &message))
        }
        None => return,
    };
    worker.event_loop.send(Message::Run(tell));
}

/// What is new about an application.
fn reason(application: &str, changed: &[PathBuf]) -> String {
    const NAMED: usize = 3;
    let names: Vec<String> = changed.iter().take(NAMED).map(|path| path.display().to_string()).collect();
    match changed.len() {
        // What could not be loaded may find now what it needs.
        0 => format!("it is time to try to load application \"{application}\" again"),
        count if count > NAMED => {
            let more = count - NAMED;
            format!("files of application \"{application}\" have changed: {} and {more} more", names.join(", "))
        }
        _ => format!("files of application \"{application}\" have changed: {}", names.join(", ")),
    }
}

/// It is this worker's turn. Never waits.
fn start_preflight() {
    let Some(worker) = worker::get() else { return };
    let tell = move |verdict| {
        worker.event_loop.send(Message::Run(Box::new(move || worker.recycler.on_preflight_result(verdict))))
    };
    let run = move || {
        let (verdict, tried) = try_new_code(worker);
        tell(verdict);
        // Afterwards, as what has changed meanwhile is found now.
        for application in tried {
            match application.application.reload() {
                Some(Reload { files, .. }) if verdict == PreflightResult::Failed => files.failed(),
                Some(Reload { files, .. }) => files.hint(),
                None => {}
            }
        }
    };
    if let Err(error) = thread::Builder::new().name("wsgi-trial".to_owned()).spawn(run) {
        Log::cycle().write(Level::Alert, &format!("wsgi: no thread to try new code: {error}"));
        tell(PreflightResult::Failed);
    }
}

/// Tries the code on disk; which applications it is new for.
fn try_new_code(worker: &Worker) -> (PreflightResult, Vec<WorkerApplication>) {
    let applications = worker.applications();
    let mut changed = applications.clone();
    changed.retain(has_new_code);
    for application in &changed {
        if let Some(Reload { files, .. }) = application.application.reload() {
            files.note();
        }
    }
    // The others answer 500 as it is, and may do so in the next worker.
    let numbered = applications.iter().zip(0u32..);
    let loaded: Vec<u32> =
        numbered.filter(|(application, _)| worker.is_loaded(application)).map(|(_, number)| number).collect();
    let verdict = match ask(&loaded) {
        Ok(Report::Done) if changed.iter().any(has_new_code) => PreflightResult::Outdated,
        Ok(Report::Done) => PreflightResult::Passed,
        Ok(Report::Failed(text) | Report::Fatal(text)) => {
            log::error(&text);
            PreflightResult::Failed
        }
        Err(sentence) => {
            log::error(&format!("new code cannot be tried, what was loaded before serves on: {sentence}"));
            PreflightResult::Failed
        }
    };
    (verdict, changed)
}

fn has_new_code(application: &WorkerApplication) -> bool {
    let reload = application.application.reload();
    reload.is_some_and(|Reload { files, mechanism }| *mechanism == Mechanism::Process && files.are_new())
}

/// Has the applications with these numbers loaded by the fork server.
fn ask(applications: &[u32]) -> Result<Report, String> {
    let Some(Ok(fork_server)) = FORK_SERVER.get() else { return Ok(Report::Done) };
    let report = fork_server.run(applications);
    report.map_err(|error| format!("the trial process of this worker is gone ({error}), a reload starts another"))
}

/// Loads the applications with these numbers in a child of the fork server, and reports the first failure.
fn try_applications(start: &WorkerConfig, numbers: &[u32]) -> Report {
    let all: Vec<_> = start.interpreters.iter().flat_map(|planned| &planned.applications).collect();
    let applications: Vec<Arc<Specification>> =
        numbers.iter().map(|number| all[*number as usize].specification.clone()).collect();
    let trials = Preflight::new(applications.len(), start.check_timeout, |first, deadline| {
        ChildProcess::start(name_process, deadline, |reporter| {
            preflight::load(start.clone(), &applications[first..], deadline, reporter);
        })
    });
    let failure = applications.iter().zip(trials).find_map(|(name, trial)| match trial {
        Trial::Failed { why, text } => Some(format!(
            "application \"{name}\" could not be loaded anew, what was loaded before serves on: {why}\n{text}"
        )),
        Trial::Passed(_) | Trial::Interrupted => None,
    });
    failure.map_or(Report::Done, Report::Failed)
}

fn name_process() {
    set_process_title(c"wsgi trial process");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_changed_files_are_named() {
        let paths = ["/a", "/b", "/c", "/d", "/e"].map(PathBuf::from);
        assert_eq!(reason("x", &paths[..1]), "files of application \"x\" have changed: /a");
        assert_eq!(reason("x", &paths), "files of application \"x\" have changed: /a, /b, /c and 2 more");
        assert_eq!(reason("x", &[]), "it is time to try to load application \"x\" again");
    }
}
