//! Messages from the processes of a group to the supervisor, which has the right to write their logs.
//!
//! A message is one packet: the number of the log, a flag, the number of the process, and text. Most often the text is one or
//! more whole records. A record that is too long for a packet comes in several, with the flag [`MORE`] in all but the last.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, send as send_packet, setsockopt, socketpair, sockopt,
};

use super::inherited;

/// Environment variable of an instance: the number of the descriptor that it has inherited.
pub const VARIABLE: &str = "NGX_WSGI_LOG_SOCKET";

/// The descriptor of this process, or -1.
static DESCRIPTOR: AtomicI32 = AtomicI32::new(-1);

/// Size limit of the text of a packet.
pub const MAX_TEXT: usize = 64 * 1024;

/// Length of what is in front of the text.
const HEADER: usize = 9;

/// The record goes on in the next packet of the process for this log.
const MORE: u8 = 1;

/// Size of the buffer of the sockets: an instance that writes more at once waits until the supervisor has read it.
const BUFFER_SIZE: usize = 1024 * 1024;

/// A packet.
#[derive(Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    pub log: u32,
    pub process: u32,
    pub has_more: bool,
    pub text: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Returns the parts of a packet; `None` if it has none.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (log, rest) = bytes.split_first_chunk()?;
        let (flags, rest) = rest.split_first()?;
        let (process, text) = rest.split_first_chunk()?;
        Some(Self {
            log: u32::from_be_bytes(*log),
            process: u32::from_be_bytes(*process),
            has_more: *flags == MORE,
            text,
        })
    }
}

/// Returns the ends of a connection for logs: that of the supervisor, which does not block, and that of the instances.
///
/// # Errors
/// If there are no descriptors left.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (here, there) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    nix::fcntl::fcntl(&here, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    // Without the right to do this the buffer is smaller, but has room for a packet.
    let _ = setsockopt(&there, sockopt::SndBufForce, &BUFFER_SIZE);
    Ok((here, there))
}

/// Takes the socket that this process has inherited, if there is one.
pub fn inherit() {
    if let Some(descriptor) = std::env::var(VARIABLE).ok().and_then(|number| number.parse().ok()) {
        inherited::close_on_exec(descriptor);
        DESCRIPTOR.store(descriptor, Ordering::Relaxed);
    }
}

/// Sends records for a log of the group, on any thread. Waits while the supervisor has not read those before.
///
/// # Errors
/// If the supervisor has ended.
pub fn send<'a>(log: u32, records: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
    send_to(DESCRIPTOR.load(Ordering::Relaxed), log, records)
}

/// Sends records to a socket as [`send`] does.
///
/// # Errors
/// As of the system.
pub fn send_to<'a>(descriptor: RawFd, log: u32, records: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
    let mut packet = Vec::with_capacity(HEADER + MAX_TEXT);
    let begin = |packet: &mut Vec<u8>, flags| {
        packet.clear();
        packet.extend_from_slice(&log.to_be_bytes());
        packet.push(flags);
        packet.extend_from_slice(&std::process::id().to_be_bytes());
    };
    begin(&mut packet, 0);
    for record in records {
        if packet.len() + record.len() > HEADER + MAX_TEXT && packet.len() > HEADER {
            send_one(descriptor, &packet)?;
            begin(&mut packet, 0);
        }
        let mut rest = record;
        while rest.len() > MAX_TEXT {
            let (part, tail) = rest.split_at(MAX_TEXT);
            begin(&mut packet, MORE);
            packet.extend_from_slice(part);
            send_one(descriptor, &packet)?;
            begin(&mut packet, 0);
            rest = tail;
        }
        packet.extend_from_slice(rest);
    }
    if packet.len() > HEADER { send_one(descriptor, &packet) } else { Ok(()) }
}

fn send_one(descriptor: RawFd, packet: &[u8]) -> io::Result<()> {
    loop {
        match send_packet(descriptor, packet, MsgFlags::MSG_NOSIGNAL) {
            Err(Errno::EINTR) => {}
            result => return result.map(drop).map_err(io::Error::from),
        }
    }
}

/// Receives a packet into `buffer`. Returns its length: 0 once all processes of the group have ended.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] if there is none.
pub fn receive(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(nix::sys::socket::recv(socket.as_fd().as_raw_fd(), buffer, MsgFlags::empty())?)
}

/// Size of a buffer for [`receive`].
pub const MAX_PACKET: usize = HEADER + MAX_TEXT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_arrive_whole() {
        let (here, there) = pair().unwrap();
        let long = [vec![b'x'; 2 * MAX_TEXT + 10], b"\n".to_vec()].concat();
        let records: [&[u8]; 4] = [b"one\n", b"two\n", &long, b"three\n"];
        send_to(there.as_raw_fd(), 7, records.into_iter()).unwrap();
        let mut buffer = vec![0; MAX_PACKET];
        let mut packets = Vec::new();
        while let Ok(length) = receive(&here, &mut buffer) {
            let packet = Packet::parse(&buffer[..length]).unwrap();
            assert_eq!((packet.log, packet.process), (7, std::process::id()));
            packets.push((packet.has_more, packet.text.to_vec()));
        }
        let lengths: Vec<_> = packets.iter().map(|(more, text)| (*more, text.len())).collect();
        assert_eq!(lengths, [(false, 8), (true, MAX_TEXT), (true, MAX_TEXT), (false, 11 + 6)]);
        assert_eq!(packets.into_iter().flat_map(|(_, text)| text).collect::<Vec<_>>(), records.concat());
        assert_eq!(
            Packet::parse(b"too short"),
            Some(Packet {
                log: u32::from_be_bytes(*b"too "),
                process: u32::from_be_bytes(*b"hort"),
                has_more: false,
                text: b""
            })
        );
        assert_eq!(Packet::parse(b"short"), None);
    }
}
