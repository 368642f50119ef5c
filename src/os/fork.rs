//! The way from `fork` to the body of a child process.
//!
//! The child shares nothing with its parent but a socket: it has its own process group, default signal handlers, no other
//! descriptors of the parent, and leaves by `_exit`.

use std::io;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::stat::Mode;
use nix::unistd::{self, ForkResult, Pid, setpgid};

use super::message::MessageSocket;
use super::system::reset_signals;

/// Number of the child's socket: the first after standard input, output and error.
const SOCKET: RawFd = 3;

/// Exit code of a child that panicked (EX_SOFTWARE of sysexits.h).
const PANICKED: i32 = 70;
/// Exit code of a child that cannot send or receive messages (EX_IOERR of sysexits.h).
pub(super) const CANNOT_REPORT: i32 = 74;

/// Forks a child process that calls `set_title`, runs `body` and exits. Standard output and error of the child go to
/// `output`, or to `/dev/null` without one.
///
/// To be called while this process has one thread.
///
/// # Errors
/// If the system cannot create another process.
pub(super) fn fork(
    set_title: impl FnOnce(),
    socket: MessageSocket,
    output: Option<OwnedFd>,
    body: impl FnOnce(MessageSocket),
) -> io::Result<Pid> {
    // SAFETY: this process has one thread, so the child may do whatever the parent may. (The threads of nginx's own pools,
    // with `aio threads`, have no task yet and hold no lock.)
    match unsafe { unistd::fork() }? {
        ForkResult::Parent { child } => {
            // Both processes do this, as either may run first.
            let _ = setpgid(child, child);
            Ok(child)
        }
        ForkResult::Child => {
            let run = || {
                set_title();
                body(separate_from_parent(socket, output));
            };
            // Nothing of the parent may run in the child: no caller, no destructor, no exit handler.
            exit(if catch_unwind(AssertUnwindSafe(run)).is_ok() { 0 } else { PANICKED })
        }
    }
}

/// Ends this process without running destructors or exit handlers.
pub fn exit(status: i32) -> ! {
    // SAFETY: ends the process, and with it every use of memory.
    unsafe { libc::_exit(status) }
}

/// Closes and resets everything that the child has from its parent, apart from `socket` and `output`. Ends the process
/// if that fails.
fn separate_from_parent(socket: MessageSocket, output: Option<OwnedFd>) -> MessageSocket {
    let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    reset_signals(1..=libc::SIGRTMAX());
    for signal in [libc::SIGPIPE, libc::SIGSYS] {
        // SAFETY: sets a disposition without a handler. Like a worker: writing to a closed connection is an error and does
        // not end the process.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let _ = SigSet::empty().thread_set_mask();
    // A crash is reported and needs no core file.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    if replace_descriptors(socket, output).is_err() {
        exit(CANNOT_REPORT);
    }
    // SAFETY: `replace_descriptors` has put the socket there, and nothing else knows the number.
    unsafe { MessageSocket::from_raw_fd(SOCKET) }
}

/// Moves `socket` to [`SOCKET`] and `output` to standard output and error, and closes all other descriptors.
fn replace_descriptors(socket: MessageSocket, output: Option<OwnedFd>) -> nix::Result<()> {
    let socket = duplicate_above_socket(socket.into())?;
    let output = output.map(duplicate_above_socket).transpose()?;
    let null = open("/dev/null", OFlag::O_RDWR, Mode::empty())?.into_raw_fd();
    let output = output.unwrap_or(null);
    let moves =
        [(null, libc::STDIN_FILENO), (output, libc::STDOUT_FILENO), (output, libc::STDERR_FILENO), (socket, SOCKET)];
    for (from, to) in moves {
        // SAFETY: `to` belongs to a value of the parent, and this process neither uses nor drops any of those.
        Errno::result(unsafe { libc::dup2(from, to) })?;
    }
    // SAFETY: the descriptors above belong to values of the parent as well, or were opened above and have been duplicated.
    unsafe {
        Errno::result(libc::fcntl(SOCKET, libc::F_SETFD, libc::FD_CLOEXEC))?;
        close_from(SOCKET + 1);
    }
    Ok(())
}

/// Duplicates a descriptor to a number that [`replace_descriptors`] does not replace. Leaves the original open.
fn duplicate_above_socket(descriptor: OwnedFd) -> nix::Result<RawFd> {
    let duplicate = fcntl(&descriptor, FcntlArg::F_DUPFD(SOCKET + 1));
    let _ = descriptor.into_raw_fd();
    duplicate
}

/// Closes all descriptors from `first` on.
///
/// # Safety
/// This process does not use any of these descriptors.
unsafe fn close_from(first: RawFd) {
    // SAFETY: as promised by the caller.
    unsafe { close_range(first, RawFd::MAX) };
}

/// Closes all descriptors from `first` to `last`.
///
/// # Safety
/// This process does not use any of these descriptors.
pub(super) unsafe fn close_range(first: RawFd, last: RawFd) {
    // SAFETY: as promised by the caller. Closing a number that is not open fails and has no effect.
    unsafe {
        // Linux 5.9 has this call, but some sandboxes refuse it.
        if libc::syscall(libc::SYS_close_range, first, last, 0) == 0 {
            return;
        }
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
        for descriptor in first..=last.min(i32::try_from(limit).unwrap_or(1 << 20)) {
            libc::close(descriptor);
        }
    }
}
