//! `wsgi_reload_mechanism interpreter`: a new interpreter loads the changed code beside the old one and replaces it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::mechanism::ReloadMechanism;
use super::version_commit::{CommitStatus, VersionCommit};
use crate::app::application::Application;
use crate::app::source_files::Files;
use crate::engine::versions::{InterpreterVersions, Unprepared};
use crate::nginx::worker_process;
use crate::python::log;
use crate::worker::{Worker, WorkerApplication};

/// Application whose interpreter is replaced.
pub struct InterpreterReload {
    worker: &'static Worker,
    application: Arc<Application>,
    versions: &'static InterpreterVersions,
    version_commit: VersionCommit,
    /// Version that this worker serves or is about to serve; 0 until the application is loaded for the first time.
    version: AtomicU64,
    /// True while a thread prepares the next version.
    is_replacing: AtomicBool,
}

/// Longest wait for the other workers, and for an import whose files have changed again.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Largest number of versions in a row that are dropped because files changed during their import: the import itself may
/// change them.
const MAX_DROPPED: usize = 5;
/// Interval in which a waiting worker checks the commit status.
const WAIT_PERIOD: Duration = Duration::from_millis(5);

impl ReloadMechanism for InterpreterReload {
    fn before_call(&self, files: &Files) -> bool {
        self.adopt_committed();
        // Signals the watcher once per change; once per request would keep resetting its debounce timer.
        files.discover();
        false
    }

    fn check_files(&'static self, files: &'static Files) {
        if worker_process::is_exiting() {
            return;
        }
        if self.version.load(Ordering::Relaxed) == 0 {
            match self.versions.active().has_loaded(&self.application) {
                Some(true) => {}
                // The next call loads the application from its current files.
                Some(false) => return self.version_commit.leave(),
                None => return,
            }
            self.version.store(self.version_commit.register(files.noted()), Ordering::Relaxed);
        }
        // Checks the files in any case, which also watches new ones.
        let is_due = files.needs_reload() || self.version_commit.is_behind(self.version.load(Ordering::Relaxed));
        if is_due && !self.is_replacing.swap(true, Ordering::SeqCst) {
            self.start_replacing(files);
        }
    }

    fn check_other_workers(&self, files: &Files) -> bool {
        let version = self.version.load(Ordering::Relaxed);
        if version > 0 && !self.is_replacing.load(Ordering::Relaxed) && self.version_commit.is_behind(version) {
            files.hint();
        }
        true
    }

    fn leave(&self) {
        self.version_commit.leave();
    }
}

impl InterpreterReload {
    /// Makes the reload of an application; `None` if its worker has no pool threads.
    pub fn new(
        worker: &'static Worker,
        application: &WorkerApplication,
        version_commit: VersionCommit,
    ) -> Option<Self> {
        Some(Self {
            worker,
            application: application.application.clone(),
            versions: worker.versions(application)?,
            version_commit,
            version: AtomicU64::new(0),
            is_replacing: AtomicBool::new(false),
        })
    }

    /// Activates the staged version if it is committed: other workers may have served it already.
    fn adopt_committed(&self) {
        if let Some(version) = self.versions.staged_version()
            && self.version_commit.status(version) == CommitStatus::Committed
        {
            self.versions.activate(version, self.worker.shutdown_timeout());
        }
    }

    /// Replaces the interpreter on a thread of its own: the import may take long.
    fn start_replacing(&'static self, files: &'static Files) {
        let replace = || {
            self.replace(files);
            self.is_replacing.store(false, Ordering::SeqCst);
            // Changes in the meantime were ignored.
            files.hint();
        };
        if let Err(error) = thread::Builder::new().name("wsgi-reload".to_owned()).spawn(replace) {
            self.is_replacing.store(false, Ordering::SeqCst);
            let name = self.application.name();
            log::error(&format!(
                "application \"{name}\" reload failed, keeping the previous version: cannot start a thread: {error}"
            ));
        }
    }

    /// Prepares the next version, and activates it together with the other workers.
    fn replace(&self, files: &Files) {
        let limit = self.worker.shutdown_timeout();
        let mut dropped = 0;
        loop {
            let version = self.version_commit.propose(self.version.load(Ordering::Relaxed), || files.note());
            let start = Instant::now();
            let is_outdated = || start.elapsed() >= MAX_WAIT && files.needs_reload();
            let prepared = match self.versions.prepare(&self.application, version, limit, is_outdated) {
                Ok(prepared) => prepared,
                Err(Unprepared::Outdated) => {
                    self.version.store(version, Ordering::Relaxed);
                    let name = self.application.name();
                    log::error(&format!(
                        "application \"{name}\" still importing after {MAX_WAIT:?}, loading a newer version beside it"
                    ));
                    continue;
                }
                Err(Unprepared::Failed) => {
                    self.version_commit.vote_refuse(version);
                    return files.failed();
                }
            };
            self.version.store(version, Ordering::Relaxed);
            if dropped < MAX_DROPPED && files.needs_reload() {
                // The import may have read edits that are newer than `version` says, which other workers do not have.
                dropped += 1;
                self.versions.discard(prepared, limit);
                continue;
            }
            self.versions.stage(prepared);
            self.version_commit.vote_ready(version);
            match self.wait_for_commit(version) {
                CommitStatus::Committed => return self.versions.activate(version, limit),
                _ => self.versions.drop_staged(version, limit),
            }
            if worker_process::is_exiting() {
                return;
            }
        }
    }

    /// Waits until a version that this worker is ready for is committed or superseded.
    fn wait_for_commit(&self, version: u64) -> CommitStatus {
        let start = Instant::now();
        loop {
            match self.version_commit.status(version) {
                CommitStatus::Pending if worker_process::is_exiting() => return CommitStatus::Superseded,
                CommitStatus::Pending => {}
                status => return status,
            }
            if start.elapsed() >= MAX_WAIT && self.version_commit.commit(version) {
                let name = self.application.name();
                log::error(&format!(
                    "application \"{name}\" activates a version that some workers have not loaded within {MAX_WAIT:?}"
                ));
            }
            thread::sleep(WAIT_PERIOD);
        }
    }
}
