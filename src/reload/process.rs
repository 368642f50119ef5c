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
use crate::nginx::worker_process::{self, Role};
use crate::os::child::ChildProcess;
use crate::os::fork_server::ForkServer;
use crate::python::log;
use crate::worker::config::WorkerConfig;
use crate::worker::event_loop::Message;
use crate::worker::recycle::PreflightResult;
use crate::worker::{self, Worker, WorkerApplication};

/// Where new code is tried, or why it cannot be; nothing without an application that is reloaded so.
static NURSERY: OnceLock<Result<ForkServer, String>> = OnceLock::new();

const WITHOUT_MASTER: &str = "with \"master_process off\" nobody would start another worker";

/// Warns while a configuration is read in which the mechanism has no effect.
pub fn check(conf: &MainConf, candidate: NewCycle) {
    if !candidate.has_master()
        && candidate.purpose() != ReadReason::Signal
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
        let fork_server = ForkServer::start(c"wsgi trial process", |question| try_applications(start, question));
        fork_server.map_err(|error| format!("no process can be started to try new code: {error}"))
    } else {
        Err(WITHOUT_MASTER.to_owned())
    };
    let _ = NURSERY.set(fork_server);
}

/// A call comes for an application of this mechanism. Whether its client is to ask again, as it is the first to find new
/// code. On the event loop thread.
pub fn should_refresh(worker: &Worker, application: &WorkerApplication, files: &Files) -> bool {
    matches!(NURSERY.get(), Some(Ok(_))) && files.is_script_new() && worker.is_loaded(application) && files.discover()
}

/// Looks at the files of an application. On the watcher's thread.
pub fn look(worker: &'static Worker, application: &WorkerApplication, files: &Files) {
    // What is not loaded is loaded by the next call, as it is then.
    if !worker.is_loaded(application) || !files.are_new() {
        return;
    }
    let changed = reason(application.application.name(), &files.changed());
    let tell: Box<dyn FnOnce() + Send> = match NURSERY.get() {
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
    let loaded: Vec<usize> = (0..applications.len()).filter(|index| worker.is_loaded(&applications[*index])).collect();
    let verdict = match ask(&loaded) {
        Ok(None) if changed.iter().any(has_new_code) => PreflightResult::Outdated,
        Ok(None) => PreflightResult::Passed,
        Ok(Some(Failure { index, text })) => {
            let name = applications[index].application.name();
            log::error(&format!(
                "application \"{name}\" could not be loaded anew, what was loaded before serves on: {text}"
            ));
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

/// The first application that cannot be loaded.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    index: usize,
    /// A sentence; a traceback below it.
    text: String,
}

/// Has the applications with these numbers loaded.
fn ask(applications: &[usize]) -> Result<Option<Failure>, String> {
    let Some(Ok(fork_server)) = NURSERY.get() else { return Ok(None) };
    let question: Vec<u8> = applications.iter().flat_map(|index| (*index as u32).to_ne_bytes()).collect();
    Ok(decode(&fork_server.ask(&question)?))
}

/// In the nursery: has them loaded, one after the other, in a process that is thrown away.
fn try_applications(start: &WorkerConfig, question: &[u8]) -> Vec<u8> {
    let all: Vec<_> = start.interpreters.iter().flat_map(|planned| &planned.applications).collect();
    let (numbers, _) = question.as_chunks();
    let asked: Vec<usize> = numbers.iter().map(|number| u32::from_ne_bytes(*number) as usize).collect();
    let applications: Vec<Arc<Specification>> = asked.iter().map(|index| all[*index].specification.clone()).collect();
    let trials = Preflight::new(applications.len(), start.check_timeout, |first, deadline| {
        ChildProcess::start(c"wsgi trial process", deadline, |reporter| {
            preflight::load(start.clone(), &applications[first..], deadline, reporter);
        })
    });
    let failure = asked.iter().zip(trials).find_map(|(index, trial)| match trial {
        Trial::Failed { why, text } => Some(Failure { index: *index, text: format!("{why}\n{text}") }),
        Trial::Passed(_) | Trial::Interrupted => None,
    });
    encode(failure)
}

fn encode(failure: Option<Failure>) -> Vec<u8> {
    failure.map_or_else(Vec::new, |Failure { index, text }| [&(index as u32).to_ne_bytes(), text.as_bytes()].concat())
}

fn decode(answer: &[u8]) -> Option<Failure> {
    let (index, text) = answer.split_first_chunk()?;
    Some(Failure { index: u32::from_ne_bytes(*index) as usize, text: String::from_utf8_lossy(text).into_owned() })
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

    #[test]
    fn an_answer_arrives_as_it_was() {
        assert_eq!(decode(&encode(None)), None);
        let failure = || Failure { index: 300, text: "why\nä".to_owned() };
        assert_eq!(decode(&encode(Some(failure()))), Some(failure()));
    }
}
