//! Applications that are loaded anew when their files change: who finds that out, and what follows.
//!
//! Each call looks at the script of its application. Between calls, and for the other files, a thread looks when inotify
//! has seen something.

pub mod check;
pub mod preflight;
pub mod process;
pub mod version_commit;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::app::application::Reload;
use crate::app::file_watcher::Watcher;
use crate::app::source_files::{Files, Mechanism};
use crate::engine::versions::{InterpreterVersions, Unprepared};
use crate::nginx::log::{Level, Log};
use crate::nginx::timer::Timer;
use crate::nginx::worker_process;
use crate::python::log;
use crate::worker::{self, Worker, WorkerApplication};
use version_commit::{CommitStatus, VersionCommit};

static SUCCESSIONS: OnceLock<Vec<InterpreterReload>> = OnceLock::new();

/// An application whose interpreter is replaced.
struct InterpreterReload {
    worker: &'static Worker,
    application: WorkerApplication,
    version_commit: VersionCommit,
    /// What this worker has, or is about to have; 0 until the application is loaded for the first time.
    version: AtomicU64,
    /// Whether the next one is being made.
    is_under_way: AtomicBool,
}

/// Looks after the files of the applications of this worker, one of so many `workers`, from now on. `agreements` has the
/// words for the applications whose interpreters are replaced.
pub fn start(version_commits: Vec<&'static [AtomicU64]>, workers: usize) {
    let Some(worker) = worker::get() else { return };
    let mut reloaded = worker.applications();
    reloaded.retain(|hosted| hosted.application.reload().is_some());
    if reloaded.is_empty() {
        return;
    }
    let replaced = reloaded.iter().filter(|hosted| mechanism(hosted) == Some(Mechanism::Interpreter));
    let successions = replaced.zip(version_commits).filter_map(|(application, words)| {
        Some(InterpreterReload {
            worker,
            application: application.clone(),
            version_commit: VersionCommit::join(words, worker_process::worker_number(), workers)?,
            version: AtomicU64::new(0),
            is_under_way: AtomicBool::new(false),
        })
    });
    SUCCESSIONS.get_or_init(|| successions.collect());
    let looked_at = reloaded.clone();
    let watcher = Watcher::start(move || looked_at.iter().for_each(|application| look(worker, application)));
    let problem = match &watcher {
        Ok(watcher) => watcher.problem(),
        Err(error) => Some(error),
    };
    if let Some(error) = problem {
        let message = format!("wsgi: changed files are noticed late, inotify cannot be used: {error}");
        Log::cycle().write(Level::Warn, &message);
    }
    let Ok(watcher) = watcher.map(Arc::new) else { return };
    for hosted in &reloaded {
        if let Some(Reload { files, .. }) = hosted.application.reload() {
            files.watch_with(watcher.clone());
        }
    }
    // Something may have changed since they were noted.
    watcher.hint();
    if workers > 1 {
        look_at_others();
    }
}

/// How often a worker looks whether another has found something new.
const GLANCE: Duration = Duration::from_millis(250);

/// Has the files looked at where another worker is ahead. On the event loop thread, from now on.
fn look_at_others() {
    static TIMER: OnceLock<Timer> = OnceLock::new();
    let Some(successions) = SUCCESSIONS.get().filter(|successions| !successions.is_empty()) else { return };
    if worker_process::is_exiting() {
        // It only ends what it has begun, which may take long.
        return leave();
    }
    for InterpreterReload { application, version_commit, version, is_under_way, .. } in successions {
        let version = version.load(Ordering::Relaxed);
        if version > 0
            && !is_under_way.load(Ordering::Relaxed)
            && version_commit.is_behind(version)
            && let Some(Reload { files, .. }) = application.application.reload()
        {
            files.hint();
        }
    }
    TIMER.get_or_init(|| Timer::new(false, look_at_others)).arm(GLANCE);
}

/// This worker ends: the others do not wait for it any more.
pub fn leave() {
    for succession in SUCCESSIONS.get().into_iter().flatten() {
        succession.version_commit.leave();
    }
}

fn mechanism(hosted: &WorkerApplication) -> Option<Mechanism> {
    hosted.application.reload().map(|reload| reload.mechanism)
}

fn succession(hosted: &WorkerApplication) -> Option<&'static InterpreterReload> {
    let of_same =
        |succession: &&InterpreterReload| Arc::ptr_eq(&succession.application.application, &hosted.application);
    SUCCESSIONS.get()?.iter().find(of_same)
}

/// A call comes for an application; whether its client is to ask again at once, as this call has the old code. On the
/// event loop thread.
pub fn before_call(worker: &Worker, hosted: &WorkerApplication) -> bool {
    let Some(Reload { files, mechanism }) = hosted.application.reload() else { return false };
    match mechanism {
        Mechanism::Module => {
            // This call is to have the new code already.
            if files.is_script_new() {
                worker.reload(hosted, || files.note_script());
            }
        }
        Mechanism::Interpreter => {
            if let Some(succession) = succession(hosted) {
                succession.adopt_committed();
            }
            // One hint does: with each of many it would never be quiet.
            files.discover();
        }
        Mechanism::Process => return process::should_refresh(worker, hosted, files),
    }
    false
}

/// Looks at the files of an application. On the watcher's thread.
fn look(worker: &'static Worker, hosted: &WorkerApplication) {
    let Some(Reload { files, mechanism }) = hosted.application.reload() else { return };
    match mechanism {
        Mechanism::Module => {
            if files.are_new() {
                worker.reload(hosted, || files.note_found());
            }
        }
        Mechanism::Interpreter => {
            if let Some(succession) = succession(hosted) {
                succession.look();
            }
        }
        Mechanism::Process => process::look(worker, hosted, files),
    }
}

/// So long the workers wait for each other at most, and for an import that is no longer wanted.
const PATIENCE: Duration = Duration::from_secs(30);
/// So often in a row a version is not taken because files have changed while it was loaded: its import may do that.
const MIXED_AT_MOST: usize = 5;
/// How often a worker that waits looks.
const TURN: Duration = Duration::from_millis(5);

impl InterpreterReload {
    fn versions(&self) -> Option<&'static InterpreterVersions> {
        self.worker.versions(&self.application)
    }

    /// The call that comes now is answered by the version that other workers may have answered with already.
    fn adopt_committed(&self) {
        let Some(versions) = self.versions() else { return };
        if let Some(version) = versions.staged_version()
            && self.version_commit.status(version) == CommitStatus::Committed
        {
            versions.activate(version, self.worker.shutdown_timeout());
        }
    }

    /// Makes the next interpreter if that is due, on a thread of its own: to load it may take long.
    fn look(&'static self) {
        let (Some(versions), Some(Reload { files, .. })) = (self.versions(), self.application.application.reload())
        else {
            return;
        };
        if worker_process::is_exiting() {
            return;
        }
        if self.version.load(Ordering::Relaxed) == 0 {
            match versions.active().has_loaded(&self.application.application) {
                Some(true) => {}
                // The next call loads it, as its files are then.
                Some(false) => return self.version_commit.leave(),
                None => return,
            }
            self.version.store(self.version_commit.begin(files.noted()), Ordering::Relaxed);
        }
        // Looked at in any case, as new ones are watched then.
        let is_due = files.are_new() || self.version_commit.is_behind(self.version.load(Ordering::Relaxed));
        if !is_due || self.is_under_way.swap(true, Ordering::SeqCst) {
            return;
        }
        let succeed = || {
            self.succeed(versions, files);
            self.is_under_way.store(false, Ordering::SeqCst);
            // What has changed meanwhile was left alone.
            files.hint();
        };
        if let Err(error) = thread::Builder::new().name("wsgi-succession".to_owned()).spawn(succeed) {
            self.is_under_way.store(false, Ordering::SeqCst);
            log::error(&format!("cannot start a thread to load an application anew: {error}"));
        }
    }

    /// Makes the next interpreter, and lets it take over together with those of the other workers.
    fn succeed(&self, versions: &InterpreterVersions, files: &Files) {
        let limit = self.worker.shutdown_timeout();
        let mut mixed = 0;
        loop {
            let version = self.version_commit.propose(self.version.load(Ordering::Relaxed), || files.note());
            let start = Instant::now();
            let application = &self.application.application;
            let is_outdated = || start.elapsed() >= PATIENCE && files.are_new();
            let next = match versions.prepare(application, version, limit, is_outdated) {
                Ok(next) => next,
                Err(Unprepared::Outdated) => {
                    self.version.store(version, Ordering::Relaxed);
                    log::error(&format!(
                        "application \"{}\": the import of a version has not ended within {PATIENCE:?}, and there is a \
                         newer one, which is loaded beside it",
                        application.name()
                    ));
                    continue;
                }
                Err(Unprepared::Failed) => {
                    self.version_commit.vote_refuse(version);
                    return files.failed();
                }
            };
            self.version.store(version, Ordering::Relaxed);
            if mixed < MIXED_AT_MOST && files.are_new() {
                // What was edited after it had been noted may have been read: newer code than its version says, which
                // others would not have.
                mixed += 1;
                versions.discard(next, limit);
                continue;
            }
            versions.stage(next);
            self.version_commit.vote_ready(version);
            match self.wait(version) {
                CommitStatus::Committed => return versions.activate(version, limit),
                _ => versions.drop_staged(version, limit),
            }
            if worker_process::is_exiting() {
                return;
            }
        }
    }

    /// Waits for the other workers.
    fn wait(&self, version: u64) -> CommitStatus {
        let start = Instant::now();
        loop {
            match self.version_commit.status(version) {
                CommitStatus::Pending if worker_process::is_exiting() => return CommitStatus::Superseded,
                CommitStatus::Pending => {}
                status => return status,
            }
            if start.elapsed() >= PATIENCE && self.version_commit.commit(version) {
                let name = self.application.application.name();
                log::error(&format!(
                    "application \"{name}\": some workers have not loaded the new version within {PATIENCE:?}; the others \
                     answer with it now"
                ));
            }
            thread::sleep(TURN);
        }
    }
}
