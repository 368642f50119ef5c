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
    /// A reload: if the configuration is refused, the current workers remain.
    Reload,
    /// The first start with listening sockets that another process has opened, as in an upgrade: its workers remain.
    Upgrade,
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
            } else if !(*(*self.0).old_cycle).conf_ctx.is_null() {
                ReadReason::Reload
            } else if sys::ngx_inherited != 0 {
                ReadReason::Upgrade
            } else {
                ReadReason::Start
            }
        }
    }

    /// Returns whether a master process will restart workers (`master_process on`).
    pub fn has_master(self) -> bool {
        self.core().master != 0
    }

    /// Returns name, user and group of the workers; `None` if they run as the user that started nginx.
    pub fn worker_user(self) -> Option<(String, u32, u32)> {
        let core = self.core();
        if !system::is_root() || core.username.is_null() {
            return None;
        }
        // SAFETY: nginx has set the name, a C string that lives as long as the cycle.
        let name = unsafe { CStr::from_ptr(core.username) };
        Some((name.to_string_lossy().into_owned(), core.user, core.group))
    }

    /// Returns `worker_connections`.
    pub fn worker_connections(self) -> usize {
        // SAFETY: a plain field, which the event module has set once the configuration is complete.
        unsafe { (*self.0).connection_n }
    }

    /// Returns the level of the error log, as in the configuration.
    pub fn log_level(self) -> &'static str {
        const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "error", "warn", "notice", "info", "debug"];
        // SAFETY: every cycle has a log of its configuration. Larger numbers are levels of debugging.
        let level = unsafe { (*self.0).new_log.log_level };
        LEVELS[level.clamp(1, LEVELS.len()) - 1]
    }

    /// Returns true if an HTTP module of this name is loaded.
    pub fn has_module(self, name: &str) -> bool {
        // SAFETY: the modules of the cycle are complete structures with static names.
        unsafe {
            let modules = std::slice::from_raw_parts((*self.0).modules, (*self.0).modules_n);
            modules.iter().any(|module| CStr::from_ptr((**module).name).to_bytes() == name.as_bytes())
        }
    }

    /// Returns the largest limit of a server for the headers of a request, in bytes (`large_client_header_buffers`).
    pub fn header_size(self) -> usize {
        // SAFETY: the configuration is complete: the http module has a context, whose main configuration of the core module
        // has the configurations of all servers.
        unsafe {
            let context = *(*self.0).conf_ctx.add(sys::ngx_http_module.index);
            let Some(context) = context.cast::<sys::ngx_http_conf_ctx_t>().as_ref() else { return 0 };
            let core = *context.main_conf.add(sys::ngx_http_core_module.ctx_index);
            let servers = (*core.cast::<sys::ngx_http_core_main_conf_t>()).servers;
            let servers = servers.as_slice::<*mut sys::ngx_http_core_srv_conf_t>();
            let sizes = servers.iter().map(|server| &(**server).large_client_header_buffers);
            sizes.map(|buffers| buffers.num.max(0) as usize * buffers.size).max().unwrap_or(0)
        }
    }

    /// Returns the zones of shared memory of the configuration that is in use; none at the first start.
    pub(super) fn used_zones(&self) -> Vec<&sys::ngx_shm_zone_t> {
        let mut zones = Vec::new();
        // SAFETY: the cycle in use stays until this one has replaced it. The first cycle has an empty list of zones.
        unsafe {
            let mut part: *const sys::ngx_list_part_t = &raw const (*(*self.0).old_cycle).shared_memory.part;
            while let Some(here) = part.as_ref() {
                zones.extend((0..here.nelts).map(|index| &*here.elts.cast::<sys::ngx_shm_zone_t>().add(index)));
                part = here.next;
            }
        }
        zones
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
