//! Fork server, forked while the worker is single-threaded; later forks from the multi-threaded worker could not start
//! Python.
//!
//! The server handles one request at a time. It exits with its parent and has none of its descriptors: an open error log
//! would keep the disk space of a rotated one.

use std::ffi::c_int;
use std::io;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{Pid, getpid, getppid};

use super::fork::{exit, fork};
use super::message::{MAX_MESSAGE, MessageSocket};
use super::reporter::{MAX_REPORT, Report};
use crate::sync::Mutex;

/// Client of a fork server, in its parent.
pub struct ForkServer {
    socket: Mutex<MessageSocket>,
}

/// Failure to reach the fork server, which has exited.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ForkServerGone(#[from] io::Error);

impl ForkServer {
    /// Forks the server, which calls `set_title` and then answers each request with the report of `run`. To be called while
    /// this process has one thread.
    ///
    /// # Errors
    /// If the system has no descriptors or processes left.
    pub fn start(set_title: impl FnOnce(), run: impl Fn(&[u32]) -> Report) -> io::Result<Self> {
        let (here, there) = MessageSocket::pair()?;
        let parent = getpid();
        fork(set_title, there, None, |socket| {
            exit_with(parent);
            serve(&socket, run);
        })?;
        Ok(Self { socket: Mutex::new(here) })
    }

    /// Has the tasks with these numbers run, and waits for the report on all of them.
    ///
    /// # Errors
    /// If the server has exited.
    pub fn run(&self, tasks: &[u32]) -> Result<Report, ForkServerGone> {
        if tasks.is_empty() {
            return Ok(Report::Done);
        }
        let socket = self.socket.lock();
        socket.send(tasks.iter().flat_map(|task| task.to_ne_bytes()).collect::<Vec<u8>>().as_slice())?;
        let message = socket.receive()?.ok_or(io::ErrorKind::UnexpectedEof).map_err(io::Error::from)?;
        Ok(Report::decode(&message))
    }
}

/// Handles requests in the server until its parent has closed the socket.
fn serve(socket: &MessageSocket, run: impl Fn(&[u32]) -> Report) {
    while let Ok(Some(request)) = socket.receive() {
        let (tasks, _) = request.as_chunks();
        let tasks: Vec<u32> = tasks.iter().map(|task| u32::from_ne_bytes(*task)).collect();
        if send_report(socket, &run(&tasks)).is_err() {
            return;
        }
    }
}

/// Sends a report, shortened if the system's limit of send buffers (`net.core.wmem_max`) is below [`MAX_MESSAGE`].
fn send_report(socket: &MessageSocket, report: &Report) -> io::Result<()> {
    match socket.send(&report.encode(MAX_MESSAGE)) {
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => socket.send(&report.encode(MAX_REPORT)),
        result => result,
    }
}

/// Makes this process exit with its parent. The end of the connection does not suffice: a process that an application
/// forks inherits the parent's socket.
fn exit_with(parent: Pid) {
    extern "C" fn on_signal(_: c_int) {
        // Not by the signal's default action: a master that reaps the process would log that as an alert.
        exit(0);
    }
    // SAFETY: the handler does nothing but end the process.
    let _ = unsafe { signal(Signal::SIGTERM, SigHandler::Handler(on_signal)) };
    let _ = set_pdeathsig(Signal::SIGTERM);
    // The parent may have exited before.
    if getppid() != parent {
        exit(0);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::sys::socket::{setsockopt, sockopt::SndBuf};

    use super::*;

    #[test]
    fn requests_are_answered_until_the_parent_closes_the_socket() {
        let (here, there) = MessageSocket::pair().unwrap();
        let server = thread::spawn(move || serve(&there, |tasks| Report::Failed(format!("{tasks:?}"))));
        let client = ForkServer { socket: Mutex::new(here) };
        assert_eq!(client.run(&[1, 70_000]).unwrap(), Report::Failed("[1, 70000]".to_owned()));
        assert_eq!(client.run(&[]).unwrap(), Report::Done);
        assert_eq!(client.run(&[2]).unwrap(), Report::Failed("[2]".to_owned()));
        drop(client);
        server.join().unwrap();
    }

    #[test]
    fn a_report_that_exceeds_the_send_buffer_is_shortened() {
        let (here, there) = MessageSocket::pair().unwrap();
        setsockopt(&there, SndBuf, &(MAX_MESSAGE / 8)).unwrap();
        let text = format!("failure\n{}the end", "x".repeat(MAX_MESSAGE));
        let server = thread::spawn(move || serve(&there, |_| Report::Failed(text.clone())));
        let client = ForkServer { socket: Mutex::new(here) };
        for _ in 0..2 {
            let Report::Failed(shortened) = client.run(&[1]).unwrap() else { panic!("not the report") };
            assert!(shortened.starts_with("failure\n(earlier output omitted)\nx"), "{shortened}");
            assert!(shortened.ends_with("xthe end"), "{shortened}");
        }
        drop(client);
        server.join().unwrap();
    }

    #[test]
    fn a_server_that_has_exited_is_an_error() {
        let (here, there) = MessageSocket::pair().unwrap();
        drop(there);
        let client = ForkServer { socket: Mutex::new(here) };
        assert!(client.run(&[1]).is_err());
    }
}
