//! The new cycle: a configuration that nginx has read and does not use yet.

use std::ffi::CStr;

use super::log::Log;
use super::sys;
use crate::os::privileges::{PrivilegeError, become_user};
use crate::os::system;

/// Reason for reading a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadReason {
    /// `nginx -s`, to find the master.
    Signal,
    /// `nginx -t`.
    Test,
    /// A reload, or the new binary of an upgrade: if the configuration is refused, the current workers remain.
    Reload,
    /// The first start: no workers are running.
    Start,
}

/// Cycle whose configuration nginx is reading. Belongs to the only thread of that process.
#[derive(Clone, Copy)]
pub struct NewCycle(*mut sys::ngx_cycle_t);

/// Failure to set up a process like a worker.
#[derive(Debug, thiserror::Error)]
pub enum WorkerInitError {
    #[error("no memory for the environment")]
    Environment,
    #[error("cannot change to the user \"{name}\": {source}")]
    User { name: String, source: PrivilegeError },
    #[error("cannot change to the working_directory \"{path}\": {source}")]
    WorkingDirectory { path: String, source: nix::Error },
}

impl NewCycle {
    /// # Safety
    /// `cycle` is the argument of `init_conf` of a core module, and the value is not used after that returns.
    pub unsafe fn new(cycle: *mut sys::ngx_cycle_t) -> Self {
        Self(cycle)
    }

    /// Returns the log for messages about the configuration. It includes standard error unless a master is running.
    pub fn log(self) -> Log {
        // SAFETY: every cycle has a log.
        unsafe { Log::new((*self.0).log) }
    }

    /// Returns the reason for reading the configuration.
    pub fn read_reason(self) -> ReadReason {
        // SAFETY: plain variables that nginx sets before it reads a configuration. The cycle before the first one has no
        // configuration (ngx_is_init_cycle).
        unsafe {
            if sys::ngx_process as u32 == sys::NGX_PROCESS_SIGNALLER {
                ReadReason::Signal
            } else if sys::ngx_test_config != 0 {
                ReadReason::Test
            } else if sys::ngx_inherited != 0 || !(*(*self.0).old_cycle).conf_ctx.is_null() {
                ReadReason::Reload
            } else {
                ReadReason::Start
            }
        }
    }

    /// Returns whether a master process will restart workers (`master_process on`).
    pub fn has_master(self) -> bool {
        self.core().master != 0
    }

    fn core(&self) -> &sys::ngx_core_conf_t {
        // SAFETY: every cycle has a configuration of this type for the core module. It is complete, as init_conf of that
        // module runs first.
        unsafe {
            let index = sys::ngx_core_module.index;
            &*(*(*self.0).conf_ctx.add(index)).cast()
        }
    }

    /// Sets up this process, a child of the one that reads the configuration, as ngx_worker_process_init sets up a worker:
    /// environment, user, working directory. Then adds `variables` to the environment.
    ///
    /// # Errors
    /// The process must end: it may still have the privileges of root.
    pub fn init_as_worker(self, variables: impl FnOnce() -> Vec<(String, String)>) -> Result<(), WorkerInitError> {
        // SAFETY: the cycle is configured, and this process, whose environment changes, has one thread.
        if unsafe { sys::ngx_set_environment(self.0, std::ptr::null_mut()) }.is_null() {
            return Err(WorkerInitError::Environment);
        }
        let core = self.core();
        if nix::unistd::geteuid().is_root() {
            // SAFETY: with the privileges of root nginx has set the name, a C string that lives as long as the cycle.
            let name = unsafe { CStr::from_ptr(core.username) };
            become_user(name, core.user, core.group)
                .map_err(|source| WorkerInitError::User { name: name.to_string_lossy().into_owned(), source })?;
        }
        // The change of the user has made the files in /proc/self those of root.
        let _ = nix::sys::prctl::set_dumpable(true);
        if core.working_directory.len > 0 {
            // SAFETY: nginx's own chdir relies on the terminating null of this string as well.
            let path = unsafe { CStr::from_ptr(core.working_directory.data.cast()) };
            nix::unistd::chdir(path).map_err(|source| WorkerInitError::WorkingDirectory {
                path: path.to_string_lossy().into_owned(),
                source,
            })?;
        }
        system::leave_inaccessible_directory();
        for (name, value) in variables() {
            // SAFETY: this process has one thread.
            unsafe { std::env::set_var(name, value) };
        }
        Ok(())
    }
}
