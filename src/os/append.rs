//! Appends to a log that other processes write to as well: records stay whole.

use std::io;
use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::sync::Mutex;

/// A failure to write.
#[derive(Debug)]
pub struct Failure {
    /// Number of bytes that were written before.
    pub written: usize,
    pub error: io::Error,
}

/// Longest wait for the reader of a pipe whose writing end does not block.
const MAX_WAIT: i32 = 1000;

/// Held by the one thread of this process that writes to a pipe: the lock of the pipe is between processes.
static WRITING: OnceLock<Mutex<()>> = OnceLock::new();

/// Writes `text` with one system call, unless the system takes only a part of it.
///
/// The file is open for appending: then a write of one process never comes into the middle of another one. To a pipe only 4,096
/// bytes are written at once, so processes and their threads write to it one after the other.
///
/// # Errors
/// As of the system, for example without room on the disk.
pub fn write(descriptor: RawFd, text: &[u8]) -> Result<(), Failure> {
    if is_regular(descriptor) {
        return write_all(descriptor, text);
    }
    let _among_threads = WRITING.get_or_init(Mutex::default).lock();
    // Without the lock, as on a terminal, long lines may mix.
    let is_locked = lock(descriptor, libc::F_WRLCK);
    let result = write_all(descriptor, text);
    if is_locked {
        lock(descriptor, libc::F_UNLCK);
    }
    result
}

fn is_regular(descriptor: RawFd) -> bool {
    // SAFETY: a plain structure that the system fills.
    unsafe {
        let mut status: libc::stat = std::mem::zeroed();
        libc::fstat(descriptor, &mut status) == 0 && status.st_mode & libc::S_IFMT == libc::S_IFREG
    }
}

/// Locks the file for this process, or unlocks it. The lock ends with the process.
fn lock(descriptor: RawFd, kind: i32) -> bool {
    // SAFETY: a plain structure. The system reads it during the call.
    unsafe {
        let mut lock: libc::flock = std::mem::zeroed();
        lock.l_type = kind as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
        libc::fcntl(descriptor, libc::F_SETLKW, &lock) == 0
    }
}

fn write_all(descriptor: RawFd, text: &[u8]) -> Result<(), Failure> {
    let mut written = 0;
    while written < text.len() {
        let rest = &text[written..];
        // SAFETY: the text is alive. A descriptor that is closed is an error.
        let count = unsafe { libc::write(descriptor, rest.as_ptr().cast(), rest.len()) };
        match usize::try_from(count) {
            Ok(0) => return Err(Failure { written, error: io::ErrorKind::WriteZero.into() }),
            Ok(count) => written += count,
            Err(_) => {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock if wait_writable(descriptor) => {}
                    _ => return Err(Failure { written, error }),
                }
            }
        }
    }
    Ok(())
}

fn wait_writable(descriptor: RawFd) -> bool {
    let mut descriptor = libc::pollfd { fd: descriptor, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one structure, which the system fills.
    unsafe { libc::poll(&mut descriptor, 1, MAX_WAIT) > 0 }
}

/// Returns the time since this was first called.
pub fn uptime() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Read;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn text_is_appended_to_a_file_and_written_to_a_pipe() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        for text in ["one\n", "two\n"] {
            write(file.as_raw_fd(), text.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let text = vec![b'x'; 200_000];
        std::thread::scope(|scope| {
            let text = &text;
            scope.spawn(move || write(writer.as_raw_fd(), text).unwrap());
            let mut read = Vec::new();
            File::from(reader).read_to_end(&mut read).unwrap();
            assert_eq!(&read, text);
        });
    }

    #[test]
    fn a_failure_says_how_much_was_written() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let failure = write(full.as_raw_fd(), b"lost\n").unwrap_err();
        assert_eq!((failure.written, failure.error.raw_os_error()), (0, Some(libc::ENOSPC)));
    }
}
