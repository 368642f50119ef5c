//! The control socket of a group: `status`, `reload`, `stop`, `start`.
//!
//! A client sends one line and gets one JSON object. No client can make the supervisor wait.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, mem};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::geteuid;
use serde::Serialize;

use crate::os::run_directory;
use crate::os::spawn::Identity;

/// Time that a client has for its line, and for taking the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest line with a command.
const MAX_COMMAND: usize = 64;

/// Number of clients of the group's user at the same time. Further ones are turned away.
pub const MAX_CLIENTS: usize = 8;

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Status,
    Reload,
    Stop,
    Start,
}

impl Command {
    fn parse(line: &[u8]) -> Option<Self> {
        match line.trim_ascii() {
            b"status" => Some(Self::Status),
            b"reload" => Some(Self::Reload),
            b"stop" => Some(Self::Stop),
            b"start" => Some(Self::Start),
            _ => None,
        }
    }
}

/// Answer to a command.
#[derive(Debug, Serialize)]
pub struct Response {
    pub ok: bool,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Status>,
}

impl Response {
    pub fn ok(message: impl Into<String>) -> Self {
        Self { ok: true, message: message.into(), group: None }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self { ok: false, message: message.into(), group: None }
    }
}

/// Status of a group.
#[derive(Debug, Serialize)]
pub struct Status {
    pub name: String,
    pub state: &'static str,
    pub processes: Vec<ProcessStatus>,
    pub restarts: u64,
    pub requests: u64,
    pub busy: u64,
    pub waiting: u64,
    pub user: String,
    pub socket: String,
}

/// Status of an instance.
#[derive(Debug, Serialize)]
pub struct ProcessStatus {
    pub master: i32,
    pub workers: Vec<i32>,
    /// Seconds since its start.
    pub uptime: u64,
}

/// Opens the control socket of a group, in place of an earlier one.
///
/// # Errors
/// As of the system.
pub fn listen(path: &Path, user: Option<&Identity>) -> io::Result<UnixListener> {
    let _ = fs::remove_file(path);
    let socket = UnixListener::bind(path)?;
    socket.set_nonblocking(true)?;
    fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    run_directory::give_to(path, user)?;
    Ok(socket)
}

/// What a client waits for.
enum Progress {
    /// Bytes of its line.
    Reading(Vec<u8>),
    /// The end of what it has asked for.
    Waiting,
    /// The rest of the answer.
    Writing(Vec<u8>),
}

/// Connection to a control socket.
pub struct Client {
    stream: UnixStream,
    progress: Progress,
    deadline: Instant,
    is_root: bool,
}

impl Client {
    /// Accepts a connection. Returns `None` if there is none, or one of a user who may not control the group.
    pub fn accept(socket: &UnixListener, user: Option<&Identity>) -> Option<Self> {
        let (stream, _) = socket.accept().ok()?;
        let peer = getsockopt(&stream, PeerCredentials).ok()?.uid();
        if peer != 0 && peer != geteuid().as_raw() && Some(peer) != user.map(|user| user.uid) {
            return None;
        }
        stream.set_nonblocking(true).ok()?;
        let (progress, deadline) = (Progress::Reading(Vec::new()), Instant::now() + CLIENT_TIMEOUT);
        Some(Self { stream, progress, deadline, is_root: peer == 0 })
    }

    pub fn is_root(&self) -> bool {
        self.is_root
    }

    /// Returns true while the client waits for the end of its command.
    pub fn is_waiting(&self) -> bool {
        matches!(self.progress, Progress::Waiting)
    }

    /// Returns true if the client has something to write rather than to read.
    pub fn is_writing(&self) -> bool {
        matches!(self.progress, Progress::Writing(_))
    }

    /// Returns when the client is too slow, unless it is its turn to wait.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.is_waiting()).then_some(self.deadline)
    }

    /// Reads what the client has sent. Returns its command once that is complete.
    pub fn read(&mut self) -> Option<Command> {
        let Progress::Reading(line) = &mut self.progress else { return None };
        let mut buffer = [0; MAX_COMMAND];
        let is_complete = match self.stream.read(&mut buffer) {
            Ok(length) => {
                line.extend_from_slice(&buffer[..length]);
                length == 0 || line.contains(&b'\n') || line.len() > MAX_COMMAND
            }
            Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        };
        if !is_complete {
            return None;
        }
        let command = Command::parse(line);
        self.progress = Progress::Waiting;
        if command.is_none() {
            self.respond(&Response::failed("unknown command, expected status, reload, stop or start"));
        }
        command
    }

    /// Sends the answer, or as much as the client takes now.
    pub fn respond(&mut self, response: &Response) {
        let mut text = serde_json::to_vec(response).unwrap_or_default();
        text.push(b'\n');
        self.progress = Progress::Writing(text);
        self.deadline = Instant::now() + CLIENT_TIMEOUT;
        self.write();
    }

    /// Sends more of the answer.
    pub fn write(&mut self) {
        let Progress::Writing(rest) = &mut self.progress else { return };
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(length) => drop(rest.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The client is gone.
                Err(_) => drop(mem::take(rest)),
            }
        }
    }

    /// Returns true if the client has its answer or has been too slow.
    pub fn is_done(&self, now: Instant) -> bool {
        matches!(&self.progress, Progress::Writing(rest) if rest.is_empty())
            || self.deadline().is_some_and(|deadline| deadline <= now)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_sends_a_line_and_gets_an_object() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wsgi_control");
        let socket = listen(&path, None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Client::accept(&socket, None).is_none());

        let mut peer = UnixStream::connect(&path).unwrap();
        let mut client = Client::accept(&socket, None).unwrap();
        peer.write_all(b"sta").unwrap();
        assert_eq!(client.read(), None);
        peer.write_all(b"tus\r\n").unwrap();
        assert_eq!(client.read(), Some(Command::Status));
        assert!(client.is_waiting() && !client.is_done(Instant::now()));
        client.respond(&Response::ok("running"));
        assert!(client.is_done(Instant::now()));
        drop(client);
        let mut text = String::new();
        peer.read_to_string(&mut text).unwrap();
        assert_eq!(text, "{\"ok\":true,\"message\":\"running\"}\n");
    }

    #[test]
    fn a_silent_client_is_dropped_and_a_wrong_one_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wsgi_control");
        let socket = listen(&path, None).unwrap();
        let _silent = UnixStream::connect(&path).unwrap();
        let client = Client::accept(&socket, None).unwrap();
        assert!(!client.is_done(Instant::now()) && client.is_done(Instant::now() + CLIENT_TIMEOUT));

        let mut wrong = UnixStream::connect(&path).unwrap();
        wrong.write_all(&[b'x'; 2 * MAX_COMMAND]).unwrap();
        let mut client = Client::accept(&socket, None).unwrap();
        assert_eq!((client.read(), client.read()), (None, None));
        assert!(client.is_writing());
    }
}
