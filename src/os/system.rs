//! Facts about this process and its system.

use std::ffi::c_int;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::kill;
use nix::sys::time::TimeVal;
use nix::unistd::{AccessFlags, Pid, SysconfVar, User, access, chdir, geteuid, sysconf};

/// Returns whether a process with this pid exists and runs as our user.
pub fn is_alive(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| kill(Pid::from_raw(pid), None).is_ok())
}

/// Returns whether a process with this pid exists, of any user.
pub fn exists(pid: u32) -> bool {
    i32::try_from(pid).is_ok_and(|pid| pid > 0 && kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH))
}

/// Returns true if this process has the privileges of root.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Returns a random number that differs between forked processes.
pub fn random() -> u64 {
    // Without a random number the pid distinguishes processes as well.
    getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()))
}

/// Returns the resident memory of this process in bytes, or `None` where `/proc` is not mounted.
pub fn resident_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    let page_size = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
    Some(pages * page_size)
}

/// Returns the processor time of this process, in user and kernel mode.
pub fn cpu_time() -> Duration {
    let time = |time: TimeVal| {
        let (seconds, microseconds) = (u64::try_from(time.tv_sec()), u64::try_from(time.tv_usec()));
        Duration::from_secs(seconds.unwrap_or_default()) + Duration::from_micros(microseconds.unwrap_or_default())
    };
    getrusage(UsageWho::RUSAGE_SELF)
        .map(|usage| time(usage.user_time()) + time(usage.system_time()))
        .unwrap_or_default()
}

/// Returns name and home directory of the user that this process runs as.
pub fn user() -> Option<(String, String)> {
    let user = User::from_uid(geteuid()).ok()??;
    Some((user.name, user.dir.to_string_lossy().into_owned()))
}

/// Changes a working directory that this process's user may not search, as after a start by root, to `/`.
///
/// Relative paths do not work there anyway, and a program that is told to change to it fails.
pub fn leave_inaccessible_directory() {
    if access(".", AccessFlags::X_OK).is_err() {
        let _ = chdir("/");
    }
}

/// Restores the default action of each signal. Numbers that are no signals are skipped.
pub fn reset_signals(signals: impl IntoIterator<Item = c_int>) {
    for signal in signals {
        // SAFETY: sets a disposition without a handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_has_memory() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(u32::MAX));
        assert!(exists(std::process::id()) && exists(1));
        assert!(!exists(0) && !exists(u32::MAX) && !exists(i32::MAX as u32));
        assert!(cpu_time() > Duration::ZERO);
        assert!(resident_memory().is_some_and(|bytes| bytes > 1024 * 1024));
    }

    #[test]
    fn random_numbers_differ() {
        assert_ne!(random(), random());
    }
}
