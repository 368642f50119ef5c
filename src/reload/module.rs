//! `wsgi_reload_mechanism module`: the module of the script is loaded again in the same interpreter.

use super::mechanism::ReloadMechanism;
use crate::app::source_files::Files;
use crate::worker::{Worker, WorkerApplication};

/// Application whose module is loaded again.
pub struct ModuleReload {
    worker: &'static Worker,
    application: WorkerApplication,
}

impl ModuleReload {
    /// Makes the reload of an application of `worker`.
    pub fn new(worker: &'static Worker, application: WorkerApplication) -> Self {
        Self { worker, application }
    }
}

impl ReloadMechanism for ModuleReload {
    fn before_call(&self, files: &Files) -> bool {
        // The call that follows waits for the new code.
        if files.script_needs_reload() {
            self.worker.reload(&self.application, || files.note_script());
        }
        false
    }

    fn check_files(&'static self, files: &'static Files) {
        if files.needs_reload() {
            self.worker.reload(&self.application, || files.note_found());
        }
    }
}
