//! Questions to the reporters of many workers at the same time, within limits of time, size and number.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, recv, send, socket,
};

use super::reporter;

/// Number of connections at the same time, divided by the lanes; each has at least [`MIN_LANE`].
const MAX_CONNECTIONS: usize = 64;
const MIN_LANE: usize = 4;

/// Reporter of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub token: u64,
    /// Process that must have opened the socket.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
}

/// Reporters that share the limits of a lane.
#[derive(Clone, Debug)]
pub struct Lane {
    pub reporters: Vec<Address>,
    /// Limit of all their answers together, in bytes.
    pub limit: usize,
}

/// A question to a reporter.
struct Question {
    /// Its lane, and its place there.
    lane: usize,
    index: usize,
    socket: OwnedFd,
    answer: Vec<u8>,
}

/// Sends `line` to each reporter. Returns their answers: `None` where there is none until the deadline, it exceeds the limit of
/// the lane, or the socket is that of another process.
///
/// The reporters of a lane cannot hold up those of another: each lane has connections of its own.
pub fn ask(lanes: &[Lane], line: &str, deadline: Instant) -> Vec<Vec<Option<Vec<u8>>>> {
    let mut answers: Vec<_> = lanes.iter().map(|lane| vec![None; lane.reporters.len()]).collect();
    let mut waiting: Vec<_> = lanes.iter().map(|lane| lane.reporters.iter().enumerate()).collect();
    let mut limits: Vec<usize> = lanes.iter().map(|lane| lane.limit).collect();
    let places = (MAX_CONNECTIONS / lanes.len().max(1)).max(MIN_LANE);
    let mut asked: Vec<Question> = Vec::new();
    loop {
        for (lane, waiting) in waiting.iter_mut().enumerate() {
            let mut free = places - asked.iter().filter(|question| question.lane == lane).count();
            while free > 0
                && let Some((index, address)) = waiting.next()
            {
                // Otherwise the worker has ended meanwhile, or does not take another client.
                if let Ok(socket) = address.open(line) {
                    asked.push(Question { lane, index, socket, answer: Vec::new() });
                    free -= 1;
                }
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if asked.is_empty() || left.is_zero() {
            return answers;
        }
        let mut sources: Vec<PollFd> =
            asked.iter().map(|question| PollFd::new(question.socket.as_fd(), PollFlags::POLLIN)).collect();
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut sources, timeout);
        let ready: Vec<bool> = sources.iter().map(|source| source.any().unwrap_or(true)).collect();
        let mut ready = ready.into_iter();
        asked.retain_mut(|question| {
            if ready.next() != Some(true) {
                return true;
            }
            match question.read(&mut limits[question.lane]) {
                Reading::More => true,
                Reading::Complete => {
                    answers[question.lane][question.index] = Some(std::mem::take(&mut question.answer));
                    false
                }
                Reading::Failed => false,
            }
        });
    }
}

enum Reading {
    More,
    Complete,
    Failed,
}

impl Address {
    /// Connects to the reporter, without waiting, and sends the line.
    fn open(self, line: &str) -> io::Result<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        let name = reporter::address(self.token)?;
        let address = UnixAddr::new_abstract(name.as_abstract_name().unwrap_or_default())?;
        connect(socket.as_raw_fd(), &address)?;
        let peer = getsockopt(&socket, PeerCredentials)?;
        if u32::try_from(peer.pid()) != Ok(self.pid) || peer.uid() != self.uid {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // The buffer of a new connection has room for it.
        send(socket.as_raw_fd(), line.as_bytes(), MsgFlags::MSG_NOSIGNAL)?;
        Ok(socket)
    }
}

impl Question {
    /// Reads what has come of the answer, and subtracts its length from the limit.
    fn read(&mut self, limit: &mut usize) -> Reading {
        let mut buffer = [0; 16 * 1024];
        match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(0) => Reading::Complete,
            Ok(length) if length <= *limit => {
                *limit -= length;
                self.answer.extend_from_slice(&buffer[..length]);
                Reading::More
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Reading::More,
            Ok(_) | Err(_) => Reading::Failed,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    use nix::unistd::geteuid;

    use super::*;
    use crate::os::system;

    fn reporter(answer: impl FnOnce(&mut std::os::unix::net::UnixStream) + Send + 'static) -> Address {
        let token = system::random();
        let listener = UnixListener::bind_addr(&super::reporter::address(token).unwrap()).unwrap();
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            // Those that are not asked close the connection.
            if client.read_exact(&mut [0; "details\n".len()]).is_ok() {
                answer(&mut client);
            }
        });
        Address { token, pid: std::process::id(), uid: geteuid().as_raw() }
    }

    #[test]
    fn those_that_do_not_answer_do_not_hold_up_the_others() {
        let good = |text: &'static str| reporter(move |client| client.write_all(text.as_bytes()).unwrap());
        let silent = reporter(|_| std::thread::sleep(Duration::from_secs(3600)));
        let endless = reporter(|client| while client.write_all(&[b'x'; 1000]).is_ok() {});
        let nobody = Address { token: system::random(), ..silent };
        let other_process = Address { pid: 1, ..good("another pid") };
        let other_user = Address { uid: 12345, ..good("another user") };
        let mut mixed = vec![good("one"), silent, nobody, other_process, other_user];
        // More than can be asked at once.
        mixed.extend((0..2 * MAX_CONNECTIONS).map(|_| good("many")));
        let all_silent =
            (0..2 * MAX_CONNECTIONS).map(|_| reporter(|_| std::thread::sleep(Duration::from_secs(3600)))).collect();
        let endless = vec![good("first"), endless];
        let lanes = [all_silent, mixed, endless, vec![good("last")]];
        let lanes = lanes.map(|reporters| Lane { reporters, limit: 100_000 });
        let answers = ask(&lanes, "details\n", Instant::now() + Duration::from_secs(2));
        assert!(answers[0].iter().all(Option::is_none));
        assert_eq!(answers[1][0].as_deref(), Some(&b"one"[..]));
        assert!(answers[1][1..5].iter().all(Option::is_none));
        assert!(answers[1][5..].iter().all(|answer| answer.as_deref() == Some(&b"many"[..])));
        assert_eq!(answers[2], [Some(b"first".to_vec()), None]);
        assert_eq!(answers[3], [Some(b"last".to_vec())]);
    }
}
