//! A process that a worker forks while it has one thread, to have throw-away children forked there later: by then the
//! worker has threads, and a child of it could not start Python.
//!
//! It waits for questions and answers them, one after the other. It ends when its worker does, and has none of its
//! descriptors: also not the error log, which would keep one that was rotated from being freed.

use std::ffi::{CStr, c_int};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::child::{PANICKED, SOCKET, become_separate};
use crate::nginx::worker_process::set_process_title;
use crate::sync::Mutex;

/// The worker's side of such a process.
pub struct ForkServer {
    socket: Mutex<UnixStream>,
}

impl ForkServer {
    /// Forks the process, in which `answer` makes an answer of each question. To be called before this process has another
    /// thread.
    ///
    /// # Errors
    /// When the system gives no descriptors or process.
    pub fn start(title: &CStr, answer: impl Fn(&[u8]) -> Vec<u8>) -> io::Result<Self> {
        let (here, there) = UnixStream::pair()?;
        let parent = std::process::id();
        // SAFETY: this process has one thread, by the caller's promise, so the child may do whatever its parent may. (Those
        // of nginx's own pools, with `aio threads`, have nothing to do yet, and hold no lock.)
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                set_process_title(title);
                let run = || {
                    become_separate(there.as_raw_fd(), None);
                    end_with(parent);
                    serve(answer)
                };
                // Nothing of the parent's may run in the child: no caller, no destructor, no exit handler.
                let status = if catch_unwind(AssertUnwindSafe(run)).is_ok() { 0 } else { PANICKED };
                // SAFETY: ends the process.
                unsafe { libc::_exit(status) }
            }
            _ => Ok(Self { socket: Mutex::new(here) }),
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// A sentence: the process is gone.
    pub fn ask(&self, question: &[u8]) -> Result<Vec<u8>, String> {
        let socket = &mut *self.socket.lock();
        let answer = send(socket, question).and_then(|()| receive(socket));
        answer.map_err(|error| format!("the trial process of this worker is gone ({error}), a reload starts another"))
    }
}

/// In the child: answers until there is nobody to ask.
fn serve(answer: impl Fn(&[u8]) -> Vec<u8>) {
    // SAFETY: the descriptor is this process's own, and nothing else knows it.
    let mut socket = unsafe { UnixStream::from_raw_fd(SOCKET) };
    while let Ok(question) = receive(&mut socket)
        && send(&mut socket, &answer(&question)).is_ok()
    {}
}

/// In the child: ends it with its parent. The end of the socket alone would not do: a process that an application forks
/// has the parent's side of it.
fn end_with(parent: u32) {
    extern "C" fn leave(_: c_int) {
        // SAFETY: ends the process. Not by a signal, which a master that has to reap it would be alarmed by.
        unsafe { libc::_exit(0) }
    }
    // SAFETY: the handler does nothing but end the process.
    unsafe {
        libc::signal(libc::SIGTERM, leave as *const () as libc::sighandler_t);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
        // It may have ended before.
        if u32::try_from(libc::getppid()) != Ok(parent) {
            libc::_exit(0);
        }
    }
}

fn send(socket: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    socket.write_all(&[&length.to_ne_bytes(), message].concat())
}

fn receive(socket: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; size_of::<u32>()];
    socket.read_exact(&mut length)?;
    let mut message = vec![0; u32::from_ne_bytes(length) as usize];
    socket.read_exact(&mut message)?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let mut buffer = Vec::new();
        for message in [b"one".as_slice(), b"", b"three"] {
            send(&mut buffer, message).unwrap();
        }
        let mut socket = buffer.as_slice();
        assert_eq!(receive(&mut socket).unwrap(), b"one");
        assert_eq!(receive(&mut socket).unwrap(), b"");
        assert_eq!(receive(&mut socket).unwrap(), b"three");
        assert_eq!(receive(&mut socket).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
