//! Reload of applications whose files have changed, with one of three mechanisms; and the check of applications before
//! new code is used.
//!
//! Each request checks the script of its application. Between requests, and for the other files, a watcher thread checks
//! when inotify has reported an event.

pub mod check;
mod interpreter;
mod mechanism;
mod module;
mod preflight;
pub mod process;
pub mod version_commit;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::app::application::Reload;
use crate::app::file_watcher::Watcher;
use crate::app::source_files::{Files, Mechanism};
use crate::nginx::log::{Level, Log};
use crate::nginx::timer::Timer;
use crate::nginx::worker_process;
use crate::worker::{Worker, WorkerApplication};
use interpreter::InterpreterReload;
use mechanism::ReloadMechanism;
use module::ModuleReload;
use process::{PreflightServer, ProcessReload};
use version_commit::VersionCommit;

static RELOADS: OnceLock<Reloads> = OnceLock::new();

/// Applications of this worker that are reloaded.
struct Reloads {
    applications: Vec<ReloadedApplication>,
    timer: Timer,
}

struct ReloadedApplication {
    application: WorkerApplication,
    mechanism: Box<dyn ReloadMechanism>,
}

impl ReloadedApplication {
    fn files(&self) -> Option<&Files> {
        self.application.application.reload().map(|reload| &reload.files)
    }
}

/// Interval in which a worker checks whether another has found a change.
const OTHER_WORKERS_PERIOD: Duration = Duration::from_millis(250);

/// Starts to watch the files of this worker's applications. `version_commits` has the shared words of each application
/// whose interpreter is replaced, one slot for each of `workers`.
pub fn start(
    worker: &'static Worker,
    preflight_server: Option<PreflightServer>,
    version_commits: Vec<&'static [AtomicU64]>,
    workers: usize,
) {
    let mut version_commits = version_commits.into_iter();
    let applications = worker.applications().into_iter().filter_map(|application| {
        let mechanism: Box<dyn ReloadMechanism> = match application.application.reload()?.mechanism {
            Mechanism::Module => Box::new(ModuleReload::new(worker, application.clone())),
            Mechanism::Interpreter => {
                let version_commit =
                    VersionCommit::join(version_commits.next()?, worker_process::worker_number(), workers)?;
                Box::new(InterpreterReload::new(worker, &application, version_commit)?)
            }
            Mechanism::Process => Box::new(ProcessReload::new(worker, application.clone(), preflight_server.clone()?)),
        };
        Some(ReloadedApplication { application, mechanism })
    });
    let applications: Vec<_> = applications.collect();
    if applications.is_empty() {
        return;
    }
    let reloads = RELOADS.get_or_init(|| Reloads { applications, timer: Timer::new(false, check_other_workers) });
    watch_files(reloads);
    if workers > 1 {
        check_other_workers();
    }
}

fn watch_files(reloads: &'static Reloads) {
    let watcher = Watcher::start(|| {
        for application in &reloads.applications {
            if let Some(files) = application.files() {
                application.mechanism.check_files(files);
            }
        }
    });
    let problem = match &watcher {
        Ok(watcher) => watcher.problem(),
        Err(error) => Some(error),
    };
    if let Some(error) = problem {
        let message = format!("wsgi: inotify unavailable, changes will be detected late: {error}");
        Log::cycle().write(Level::Warn, &message);
    }
    let Ok(watcher) = watcher.map(Arc::new) else { return };
    for files in reloads.applications.iter().filter_map(ReloadedApplication::files) {
        files.watch_with(watcher.clone());
    }
    // The files may have changed since their state was noted.
    watcher.hint();
}

/// Checks for changes that other workers have found, from now on. On the event loop thread.
fn check_other_workers() {
    let Some(reloads) = RELOADS.get() else { return };
    if worker_process::is_exiting() {
        // The worker may serve its last requests for long.
        return leave();
    }
    let mut is_to_repeat = false;
    for application in &reloads.applications {
        if let Some(files) = application.files() {
            is_to_repeat |= application.mechanism.check_other_workers(files);
        }
    }
    if is_to_repeat {
        reloads.timer.arm(OTHER_WORKERS_PERIOD);
    }
}

/// Ends the reloads of this worker: the others do not wait for it any more.
pub fn leave() {
    for application in RELOADS.get().iter().flat_map(|reloads| &reloads.applications) {
        application.mechanism.leave();
    }
}

/// Called for each request, on the event loop thread. Returns true if the response should carry `Refresh: 0` because it
/// is the first to see changed code.
pub fn before_call(application: &WorkerApplication) -> bool {
    let Some(Reload { files, .. }) = application.application.reload() else { return false };
    let is_same =
        |reloaded: &&ReloadedApplication| Arc::ptr_eq(&reloaded.application.application, &application.application);
    let reloaded = RELOADS.get().and_then(|reloads| reloads.applications.iter().find(is_same));
    reloaded.is_some_and(|reloaded| reloaded.mechanism.before_call(files))
}
