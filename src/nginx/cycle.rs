//! A configuration that nginx has read and not yet put to use: why it was read, and how a process of it becomes like
//! its workers.

use std::ffi::CStr;
use std::io;

use super::log::Log;
use super::sys;

/// Why a configuration is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadReason {
    /// By `nginx -s`, to find the master.
    Signal,
    /// By `nginx -t`.
    Test,
    /// For a reload, or by the new binary of an upgrade: other workers run and stay if it is refused.
    Replacement,
    /// For the first workers: none run yet, so there is nothing to fall back on.
    Start,
}

/// See the module's head. Valid while nginx reads the configuration, on its one thread.
#[derive(Clone, Copy)]
pub struct NewCycle(*mut sys::ngx_cycle_t);

impl NewCycle {
    /// # Safety
    /// `cycle` is what nginx passes to `init_conf` of a core module, and the value is not used after that returns.
    pub unsafe fn new(cycle: *mut sys::ngx_cycle_t) -> Self {
        Self(cycle)
    }

    /// Where messages about the configuration go: standard error as well, unless a master is at work.
    pub fn log(self) -> Log {
        // SAFETY: a cycle has a log from its beginning.
        unsafe { Log::new((*self.0).log) }
    }

    /// Why it is read.
    pub fn purpose(self) -> ReadReason {
        // SAFETY: plain variables that nginx sets before it reads the configuration; the cycle before the first one has
        // no configuration (ngx_is_init_cycle).
        unsafe {
            if sys::ngx_process as u32 == sys::NGX_PROCESS_SIGNALLER {
                ReadReason::Signal
            } else if sys::ngx_test_config != 0 {
                ReadReason::Test
            } else if sys::ngx_inherited != 0 || !(*(*self.0).old_cycle).conf_ctx.is_null() {
                ReadReason::Replacement
            } else {
                ReadReason::Start
            }
        }
    }

    /// Whether a master would start workers anew.
    pub fn has_master(self) -> bool {
        self.core().master != 0
    }

    fn core(&self) -> &sys::ngx_core_conf_t {
        // SAFETY: the core module has a configuration of this type in every cycle, complete by now: its init_conf runs
        // first.
        unsafe {
            let index = sys::ngx_core_module.index;
            &*(*(*self.0).conf_ctx.add(index)).cast()
        }
    }

    /// Makes this process, a child of the one that reads the configuration, what ngx_worker_process_init makes of a
    /// worker: its environment, its user, its working directory. `variables`, asked when that is done, are added to the
    /// environment.
    ///
    /// # Errors
    /// One sentence. The process must end then: it may have kept the rights of root.
    pub fn become_like_a_worker(self, variables: impl FnOnce() -> Vec<(String, String)>) -> Result<(), String> {
        // SAFETY: the cycle is configured; the function changes the environment of this process, which has one thread.
        if unsafe { sys::ngx_set_environment(self.0, std::ptr::null_mut()) }.is_null() {
            return Err("no memory for the environment".to_owned());
        }
        let core = self.core();
        // SAFETY: no memory is involved.
        if unsafe { libc::geteuid() } == 0 {
            // SAFETY: the name is null-terminated and lives as long as the configuration; as root nginx has set it.
            let name = unsafe { CStr::from_ptr(core.username) };
            become_user(name, core.user, core.group)
                .map_err(|error| format!("cannot become the workers' user \"{}\": {error}", name.to_string_lossy()))?;
        }
        // SAFETY: no memory is involved. Without this, files of /proc/self belong to root after the change of the user.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) };
        let directory = core.working_directory;
        // SAFETY: nginx's own chdir relies on the null at the end as well.
        if directory.len > 0 && unsafe { libc::chdir(directory.data.cast()) } != 0 {
            // SAFETY: as above.
            let directory = unsafe { CStr::from_ptr(directory.data.cast()) };
            let error = io::Error::last_os_error();
            return Err(format!("cannot enter the working_directory {}: {error}", directory.to_string_lossy()));
        }
        crate::nginx::worker_process::leave_closed_directory();
        for (name, value) in variables() {
            // SAFETY: this process has one thread, as the one that it is a child of.
            unsafe { std::env::set_var(name, value) };
        }
        Ok(())
    }
}

/// Gives up the rights of root for good, and looks whether they are gone.
fn become_user(name: &CStr, user: libc::uid_t, group: libc::gid_t) -> Result<(), String> {
    let done = |what: &str, result: i32| {
        if result == 0 { Ok(()) } else { Err(format!("{what}: {}", io::Error::last_os_error())) }
    };
    // SAFETY: the name is null-terminated. Standard output and error are this process's own pipe by now: programs open
    // /dev/stdout and /dev/stderr, and as a worker's these would be theirs to open.
    unsafe {
        libc::fchown(libc::STDOUT_FILENO, user, group);
        done("setgid", libc::setgid(group))?;
        done("initgroups", libc::initgroups(name.as_ptr(), group))?;
        done("setuid", libc::setuid(user))?;
    }
    let (mut users, mut groups) = ([0; 3], [0; 3]);
    // SAFETY: the pointers are to three variables each.
    unsafe {
        let [real, effective, saved] = &mut users;
        done("getresuid", libc::getresuid(real, effective, saved))?;
        let [real, effective, saved] = &mut groups;
        done("getresgid", libc::getresgid(real, effective, saved))?;
    }
    if users != [user; 3] || groups != [group; 3] {
        return Err(format!("it is users {users:?} and groups {groups:?}"));
    }
    let (wanted, found) = (groups_of(name, group), supplementary_groups()?);
    if wanted != found {
        return Err(format!("its groups are {found:?} instead of {wanted:?}"));
    }
    // SAFETY: no memory is involved.
    if user != 0 && unsafe { libc::setuid(0) } == 0 {
        return Err("it can become root again".to_owned());
    }
    Ok(())
}

/// The groups that a user is to have, in order.
fn groups_of(name: &CStr, group: libc::gid_t) -> Vec<libc::gid_t> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut count = groups.len() as i32;
        // SAFETY: the pointer is to `count` elements; the count comes back as that of all groups.
        let result = unsafe { libc::getgrouplist(name.as_ptr(), group, groups.as_mut_ptr(), &mut count) };
        let count = usize::try_from(count).unwrap_or_default();
        if result < 0 && count > groups.len() {
            groups.resize(count, 0);
            continue;
        }
        groups.truncate(count);
        return in_order(groups);
    }
}

/// The groups that this process has, in order.
fn supplementary_groups() -> Result<Vec<libc::gid_t>, String> {
    // SAFETY: with a length of 0 only the number is asked for; then the pointer is to that many elements.
    let groups = unsafe {
        let count = libc::getgroups(0, std::ptr::null_mut());
        let mut groups: Vec<libc::gid_t> = vec![0; usize::try_from(count).unwrap_or_default()];
        let count = libc::getgroups(groups.len() as i32, groups.as_mut_ptr());
        if count < 0 {
            return Err(format!("getgroups: {}", io::Error::last_os_error()));
        }
        groups.truncate(count as usize);
        groups
    };
    Ok(in_order(groups))
}

fn in_order(mut groups: Vec<libc::gid_t>) -> Vec<libc::gid_t> {
    groups.sort_unstable();
    groups.dedup();
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_its_own_group() {
        let groups = groups_of(c"root", 12345);
        assert!(groups.contains(&12345), "{groups:?}");
        assert!(groups.is_sorted(), "{groups:?}");
    }
}
