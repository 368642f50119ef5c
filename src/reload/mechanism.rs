//! Interface of the three reload mechanisms.

use crate::app::source_files::Files;

/// Mechanism by which one application is reloaded.
pub trait ReloadMechanism: Send + Sync {
    /// Called for each request, on the event loop thread. Returns true if the response should carry `Refresh: 0` because
    /// it is the first to see changed code.
    fn before_call(&self, files: &Files) -> bool;

    /// Checks all files of the application, and acts on changes. On the watcher thread.
    fn check_files(&'static self, files: &'static Files);

    /// Checks for changes that another worker has found first. On the event loop thread. Returns true if it is to be
    /// called again.
    fn check_other_workers(&self, _files: &Files) -> bool {
        false
    }

    /// Announces to the other workers that this one does not reload any more.
    fn leave(&self) {}
}
