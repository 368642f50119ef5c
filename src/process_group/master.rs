//! The master's part: start of the supervisor, new plans, end.
//!
//! Master and supervisor have a pair of connected sockets. The supervisor ends when the master's socket is closed, however the
//! master has ended: so no other process may keep it open.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::group_logs;
use super::log_relay::Logs;
use super::plan::{GroupLog, Plan};
use super::supervisor;
use crate::nginx;
use crate::nginx::log::Level;
use crate::nginx::log_files::StartingCycle;
use crate::nginx::worker_process::{self, Role};
use crate::os::inherited;
use crate::os::run_directory::{self, Channel, State};
use crate::os::spawn::fork_detached;
use crate::os::system;

/// Message to the supervisor.
#[derive(Serialize, Deserialize)]
pub(super) enum Command {
    /// To be answered by a [`Reply`] with the same number.
    Apply {
        number: u64,
        plan: Plan,
        /// Names of the error logs, in nginx's order.
        logs: Vec<PathBuf>,
    },
    /// To end with all groups: gracefully (QUIT) or fast (TERM).
    End { gracefully: bool },
}

/// Answer to a plan.
#[derive(Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) number: u64,
    /// Groups that could not be started, and are tried again.
    pub(super) failures: Vec<String>,
}

/// Time that the supervisor has for the answer to a plan.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// Time beyond the longest stop timeout after which the supervisor has killed everything.
const END_TIMEOUT: Duration = Duration::from_secs(7);

/// Failure to start the process groups.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("cannot start the supervisor of the process groups: {0}")]
    Start(io::Error),
    #[error("cannot send the plan to the supervisor of the process groups: {0}")]
    Send(io::Error),
}

/// Has a supervisor run the groups of `plan`: the one that runs, or a new one. Without groups, none is started. Logs the
/// groups that could not be started, which the supervisor tries again.
///
/// To be called by the master in `init_module`, at the start and at each reload.
///
/// # Errors
/// If there is no supervisor afterwards, or it does not answer. The master goes on.
pub fn apply(plan: &Plan, cycle: StartingCycle) -> Result<(), ApplyError> {
    run_directory::with_state(|state| {
        let applied = apply_to(state, plan, cycle);
        if applied.is_ok() {
            // Of a directory that an earlier configuration named, or whose configuration was refused.
            state.release_all_but(state.supervisor.as_ref().map(|channel| channel.directory.clone()).as_deref());
        }
        applied
    })
}

fn apply_to(state: &mut State, plan: &Plan, cycle: StartingCycle) -> Result<(), ApplyError> {
    // With another directory another supervisor starts, while this one ends.
    if let Some(channel) =
        state.supervisor.take_if(|channel| channel.directory != plan.directory && !plan.groups.is_empty())
        && let Ok(mut old) = connect(&channel)
    {
        let _ = send(&mut old, &Command::End { gracefully: true });
        inherited::close_inherited(channel.descriptor);
    }
    if let Some(channel) = &mut state.supervisor {
        channel.longest_stop = channel.longest_stop.max(milliseconds(plan.longest_stop()));
        let sent = connect(channel).and_then(|mut channel| exchange(&mut channel, plan, cycle));
        match sent {
            Err(error) if has_ended(&error) => {
                let message = "wsgi: the supervisor of the process groups has ended, starting another";
                cycle.log().write(Level::Alert, message);
                inherited::close_inherited(channel.descriptor);
                state.supervisor = None;
            }
            result => return result.map_err(ApplyError::Send),
        }
    }
    if plan.groups.is_empty() {
        return Ok(());
    }
    let mut socket = start(state, plan, cycle).map_err(ApplyError::Start)?;
    let result = exchange(&mut socket, plan, cycle).map_err(ApplyError::Send);
    let (directory, longest_stop) = (plan.directory.clone(), milliseconds(plan.longest_stop()));
    state.supervisor = Some(Channel { descriptor: socket.into_raw_fd(), directory, longest_stop });
    result
}

fn milliseconds(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

fn has_ended(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

/// Forks the supervisor. Returns the master's socket.
fn start(state: &State, plan: &Plan, cycle: StartingCycle) -> io::Result<UnixStream> {
    let (here, there) = UnixStream::pair()?;
    let logs = cycle.log_files();
    let mut keep = vec![there.as_raw_fd()];
    // It keeps the claim of the directory.
    keep.extend(state.lock(&plan.directory));
    keep.extend(logs.iter().map(|log| log.descriptor()));
    // Otherwise it would keep a terminal open, or the pipe of a program that waits for its end.
    let keeps_standard_error = plan.groups.iter().flat_map(|group| &group.logs).any(GroupLog::is_standard_error);
    keep.extend(keeps_standard_error.then_some(libc::STDERR_FILENO));
    let forked = fork_detached(&keep, || {
        cycle.become_helper(c"wsgi supervisor");
        group_logs::set_standard_error(keeps_standard_error);
        // A panic is logged, and the groups end with this process.
        nginx::guard((), || supervisor::run(there, Logs::new(logs, cycle.has_other_logs())));
    });
    forked.map(|_| here)
}

/// Returns the socket of a supervisor, as a descriptor of its own.
fn connect(channel: &Channel) -> io::Result<UnixStream> {
    inherited::duplicate(channel.descriptor).map(UnixStream::from)
}

/// Sends the plan, waits for the answer and logs it.
fn exchange(socket: &mut UnixStream, plan: &Plan, cycle: StartingCycle) -> io::Result<()> {
    let logs = cycle.log_files().iter().map(|log| log.name().to_owned()).collect();
    let number = system::random();
    send(socket, &Command::Apply { number, plan: plan.clone(), logs })?;
    let mut received = Vec::new();
    let mut reply: Reply = receive(socket, &mut received)?;
    // An earlier plan may have been answered too late.
    while reply.number != number {
        reply = receive(socket, &mut received)?;
    }
    for failure in reply.failures {
        cycle.log().write(Level::Alert, &failure);
    }
    Ok(())
}

/// Tells the supervisor to end with all groups, and waits until it has. To be called by the master when it exits.
pub fn end() {
    let Some((channel, socket)) = run_directory::with_state(|state| {
        let channel = state.supervisor.take()?;
        let socket = connect(&channel).ok()?;
        inherited::close_inherited(channel.descriptor);
        Some((channel, socket))
    }) else {
        return;
    };
    let mut socket = socket;
    let gracefully = !worker_process::is_terminating();
    if send(&mut socket, &Command::End { gracefully }).is_ok() {
        let stop = if gracefully { Duration::from_millis(channel.longest_stop) } else { Duration::ZERO };
        let deadline = Instant::now() + stop + END_TIMEOUT;
        // Its end closes the connection.
        while wait_readable(&socket, deadline) && !matches!(socket.read(&mut [0; 64]), Ok(0)) {}
    }
}

/// Closes what a process that the master has forked inherits of the supervisor, which would not see the master's end
/// otherwise. To be called in `init_process`, in workers and other processes.
pub fn close_in_child() {
    // With `master_process off` it is the same process.
    if worker_process::role() != Role::Single {
        run_directory::close_in_child();
    }
}

/// Returns whether there is something to read before `deadline`.
fn wait_readable(socket: &impl AsFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(count) if count > 0 => return true,
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// Sends a message: its length, then JSON.
pub(super) fn send<M: Serialize>(socket: &mut UnixStream, message: &M) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    socket.set_write_timeout(Some(REPLY_TIMEOUT))?;
    socket.write_all(&[&length.to_be_bytes(), text.as_slice()].concat())
}

/// Waits for a message. `received` has the bytes that came with the message before.
pub(super) fn receive<M: for<'de> Deserialize<'de>>(socket: &mut UnixStream, received: &mut Vec<u8>) -> io::Result<M> {
    let deadline = Instant::now() + REPLY_TIMEOUT;
    loop {
        if let Some(text) = take_message(received) {
            return Ok(serde_json::from_slice(&text)?);
        }
        if !wait_readable(socket, deadline) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
        }
        let mut buffer = [0; 4096];
        match socket.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => received.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Takes the first message out of the bytes that were received, if it is complete.
pub(super) fn take_message(received: &mut Vec<u8>) -> Option<Vec<u8>> {
    let (length, rest) = received.split_first_chunk()?;
    let length = u32::from_be_bytes(*length) as usize;
    let text = rest.get(..length)?.to_vec();
    received.drain(..4 + length);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_come_together_are_received_one_by_one() {
        let (mut here, mut there) = UnixStream::pair().unwrap();
        for number in [1, 2] {
            send(&mut there, &Reply { number, failures: Vec::new() }).unwrap();
        }
        let mut received = Vec::new();
        let mut next = || receive::<Reply>(&mut here, &mut received).unwrap().number;
        assert_eq!([next(), next()], [1, 2]);
    }

    #[test]
    fn messages_are_taken_when_they_are_complete() {
        let mut received = Vec::new();
        for byte in [0, 0, 0, 2, b'o'] {
            received.push(byte);
            assert_eq!(take_message(&mut received), None);
        }
        received.extend(*b"k\0\0");
        assert_eq!(take_message(&mut received).unwrap(), b"ok");
        assert_eq!(received, b"\0\0");
    }
}
