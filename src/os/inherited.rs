//! What a process gets from an earlier one or passes on: locks, descriptors that are known by their number, variables.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// Locks the file for all processes that share its open file description, unless another one has it locked. The lock ends
/// when the last of them has closed the file. (The lock of nix's `Flock` would end with the first.)
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] if another one has it locked.
pub fn try_lock(file: &File) -> io::Result<()> {
    // SAFETY: an open descriptor.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })?;
    Ok(())
}

/// Closes the descriptor with this number, in a process that was forked with it and does not use it.
pub fn close_inherited(descriptor: RawFd) {
    // SAFETY: as the caller's process got the number from its parent, no value in it owns the descriptor.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor) });
}

/// Returns another descriptor of the file that is open as `descriptor`. It is closed by programs that this process executes.
///
/// # Errors
/// If no file is open as `descriptor`, or there is no descriptor left.
pub fn duplicate(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: duplicates a descriptor, which the new value owns.
    unsafe {
        let duplicate = Errno::result(libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, 3))?;
        Ok(OwnedFd::from_raw_fd(duplicate))
    }
}

/// Lets the number `target` refer to the file that is open as `source`.
///
/// # Errors
/// As of dup2.
pub fn replace(source: &impl AsRawFd, target: RawFd) -> io::Result<()> {
    // SAFETY: `target` stays open, so values that own it remain valid.
    Errno::result(unsafe { libc::dup3(source.as_raw_fd(), target, libc::O_CLOEXEC) })?;
    Ok(())
}

/// Closes the descriptor with this number in programs that this process executes.
pub fn close_on_exec(descriptor: RawFd) {
    // SAFETY: sets a flag of a descriptor, which stays open here. One that is closed is an error without effect.
    unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
}

/// Sets a variable in the environment of this process, which has one thread.
pub fn set_variable(name: &str, value: &str) {
    // SAFETY: no other thread reads the environment.
    unsafe { std::env::set_var(name, value) };
}
