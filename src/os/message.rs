//! Messages between a process and its child.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt::SndBuf,
};

/// Size limit of a message: the longest output of a task and more.
pub(super) const MAX_MESSAGE: usize = 128 * 1024;

/// One end of a pair of sockets. The sockets are of the sequenced-packet type, so the kernel keeps messages apart.
pub(super) struct MessageSocket(OwnedFd);

impl MessageSocket {
    /// Opens a pair of connected sockets.
    pub(super) fn pair() -> io::Result<(Self, Self)> {
        let (here, there) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        for socket in [&here, &there] {
            setsockopt(socket, SndBuf, &MAX_MESSAGE)?;
        }
        Ok((Self(here), Self(there)))
    }

    /// Takes the socket with the number `descriptor`.
    ///
    /// # Safety
    /// The descriptor is an open socket that nothing else in this process uses or closes.
    pub(super) unsafe fn from_raw_fd(descriptor: RawFd) -> Self {
        // SAFETY: as promised by the caller.
        Self(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }

    /// Sends a message, which must not be empty: an empty one looks like the end of the connection.
    pub(super) fn send(&self, message: &[u8]) -> io::Result<()> {
        retry(|| send(self.0.as_raw_fd(), message, MsgFlags::MSG_NOSIGNAL)).map(drop)
    }

    /// Waits for a message. Returns `None` once the other end is closed.
    pub(super) fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        self.receive_with(MsgFlags::empty())
    }

    /// Returns a message that has arrived, and `None` once the other end is closed.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if no message has arrived.
    pub(super) fn try_receive(&self) -> io::Result<Option<Vec<u8>>> {
        self.receive_with(MsgFlags::MSG_DONTWAIT)
    }

    fn receive_with(&self, flags: MsgFlags) -> io::Result<Option<Vec<u8>>> {
        let mut message = vec![0; MAX_MESSAGE];
        let length = retry(|| recv(self.0.as_raw_fd(), &mut message, flags))?;
        message.truncate(length);
        Ok((length > 0).then_some(message))
    }
}

impl AsRawFd for MessageSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for MessageSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<MessageSocket> for OwnedFd {
    fn from(socket: MessageSocket) -> Self {
        socket.0
    }
}

/// Repeats a system call while signals interrupt it.
fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(nix::Error::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_apart() {
        let (here, there) = MessageSocket::pair().unwrap();
        assert_eq!(there.try_receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        here.send(b"one").unwrap();
        here.send(b"two").unwrap();
        assert_eq!(there.receive().unwrap().unwrap(), b"one");
        assert_eq!(there.try_receive().unwrap().unwrap(), b"two");
        drop(here);
        assert_eq!(there.receive().unwrap(), None);
        assert_eq!(there.send(b"three").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_longest_message_arrives_whole() {
        let (here, there) = MessageSocket::pair().unwrap();
        here.send(&vec![b'x'; MAX_MESSAGE]).unwrap();
        assert_eq!(there.receive().unwrap().unwrap().len(), MAX_MESSAGE);
    }
}
