//! Open files that one process passes to another over a Unix socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

/// Number of files in a message.
pub const MAX_FILES: usize = 64;

/// Sends bytes and files over a connection, without waiting. Returns the number of bytes sent.
///
/// # Errors
/// As of sendmsg; [`io::ErrorKind::WouldBlock`] if the other end has not received earlier messages.
pub fn send(socket: &impl AsFd, bytes: &[u8], files: &[BorrowedFd]) -> io::Result<usize> {
    let descriptors: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let rights = if files.is_empty() { &[] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    Ok(sendmsg::<UnixAddr>(socket.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None)?)
}

/// Receives bytes and files. Returns the number of bytes, which is 0 once the other end is closed.
///
/// # Errors
/// As of recvmsg.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; MAX_FILES]);
    let mut buffers = [IoSliceMut::new(buffer)];
    let descriptor = socket.as_fd().as_raw_fd();
    let message = recvmsg::<UnixAddr>(descriptor, &mut buffers, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut files = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            // SAFETY: the kernel has opened the descriptors for this message, so nothing else owns them.
            files.extend(descriptors.into_iter().map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }));
        }
    }
    Ok((message.bytes, files))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn files_arrive_with_the_bytes() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        assert_eq!(send(&here, b"one\n", &[file.as_fd()]).unwrap(), 4);
        assert_eq!(send(&here, b"two\n", &[]).unwrap(), 4);
        drop(here);
        let mut buffer = [0; 64];
        let (length, mut files) = receive(&there, &mut buffer).unwrap();
        assert_eq!((&buffer[..length], files.len()), (&b"one\n"[..], 1));
        let mut received = File::from(files.remove(0));
        received.rewind().unwrap();
        let mut text = String::new();
        received.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        let (length, files) = receive(&there, &mut buffer).unwrap();
        assert_eq!((&buffer[..length], files.len()), (&b"two\n"[..], 0));
        assert_eq!(receive(&there, &mut buffer).unwrap().0, 0);
    }
}
