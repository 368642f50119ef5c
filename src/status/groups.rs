//! The process groups, as the supervisor tells the workers of the front.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use serde::{Deserialize, Serialize};

use crate::os::file_passing;

/// Limit of all that the supervisor sends.
const MAX_SIZE: usize = 1024 * 1024;

/// State of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    pub name: String,
    pub user: String,
    /// User that its workers run as.
    pub uid: u32,
    pub state: String,
    pub workers: u64,
    pub restarts: u64,
    /// A file with its board comes along.
    pub has_board: bool,
}

/// Asks the supervisor for its groups, each with the file of its board.
///
/// # Errors
/// If it does not answer in time.
pub fn ask(path: &Path, deadline: Instant) -> io::Result<Vec<(GroupStatus, Option<File>)>> {
    let stream = connect(path)?;
    let (mut text, mut files) = (Vec::new(), Vec::<OwnedFd>::new());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A timeout of 0 would be refused.
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let (length, received) = file_passing::receive(&stream, &mut buffer)?;
        if length == 0 {
            break;
        }
        text.extend_from_slice(&buffer[..length]);
        files.extend(received);
        if text.len() > MAX_SIZE || left.is_zero() {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let mut files = files.into_iter().map(File::from);
    let mut groups = Vec::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        for group in serde_json::from_slice::<Vec<GroupStatus>>(line)? {
            let board = if group.has_board { files.next() } else { None };
            groups.push((group, board));
        }
    }
    Ok(groups)
}

/// Connects, without waiting for a supervisor that accepts no connections.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}
