//! Reports of a child process on its tasks: the child's side. The parent's side is [`super::child`].

use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::fork::{CANNOT_REPORT, exit};
use super::message::MessageSocket;

/// Outcome of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The task succeeded.
    Done,
    /// The task failed; the text says why.
    Failed(String),
    /// A shared prerequisite failed; the remaining tasks cannot run.
    Fatal(String),
}

impl Report {
    /// Encodes the report as a message: a byte for the variant, then the text, cut at a character boundary if the message
    /// would exceed `max_length`.
    pub(super) fn encode(&self, max_length: usize) -> Vec<u8> {
        let (variant, text) = match self {
            Self::Done => (b'd', ""),
            Self::Failed(text) => (b'f', text.as_str()),
            Self::Fatal(text) => (b'x', text.as_str()),
        };
        let longest = text.len().min(max_length - 1);
        let end = (0..=longest).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        [&[variant], &text.as_bytes()[..end]].concat()
    }

    /// Decodes a message that [`Report::encode`] made. Unknown variants count as fatal.
    pub(super) fn decode(message: &[u8]) -> Self {
        let text = String::from_utf8_lossy(message.get(1..).unwrap_or_default()).into_owned();
        match message.first() {
            Some(b'd') => Self::Done,
            Some(b'f') => Self::Failed(text),
            _ => Self::Fatal(text),
        }
    }
}

/// Sender of reports in a child process. The parent acknowledges each report with a message of one byte.
pub struct Reporter(MessageSocket);

/// Size limit of a report by a child process. Longer texts, such as tracebacks, belong to the output.
const MAX_REPORT: usize = 4096;

impl Reporter {
    pub(super) fn new(socket: MessageSocket) -> Self {
        Self(socket)
    }

    /// Sends a report and waits until the parent has read it. Ends the process if the parent cannot be reached.
    pub fn report(&self, report: &Report) {
        let acknowledged = self.0.send(&report.encode(MAX_REPORT)).and_then(|()| self.0.receive());
        if !matches!(acknowledged, Ok(Some(_))) {
            exit(CANNOT_REPORT);
        }
    }

    /// Starts a thread that kills this process and its process group as soon as the parent has exited.
    pub fn end_with_parent(&self) {
        let socket = self.0.as_raw_fd();
        let watch = move || {
            // SAFETY: the socket stays open until the process ends.
            let socket = unsafe { BorrowedFd::borrow_raw(socket) };
            // Without requested events poll returns at a hang-up only.
            let mut hang_up = [PollFd::new(socket, PollFlags::empty())];
            while !matches!(poll(&mut hang_up, PollTimeout::NONE), Ok(1)) {}
            let _ = kill(Pid::from_raw(0), Signal::SIGKILL);
        };
        // Without the thread the process ends at its next report.
        let _ = thread::Builder::new().name("wsgi-parent".to_owned()).spawn(watch);
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::MAX_MESSAGE;
    use super::*;

    #[test]
    fn a_report_arrives_as_it_was() {
        for report in [Report::Done, Report::Failed("ä: b".to_owned()), Report::Fatal(String::new())] {
            assert_eq!(Report::decode(&report.encode(MAX_MESSAGE)), report);
        }
    }

    #[test]
    fn a_long_report_is_cut_at_a_character() {
        let message = Report::Failed("ä".repeat(MAX_REPORT)).encode(MAX_REPORT);
        assert_eq!(message.len(), MAX_REPORT - 1);
        assert!(str::from_utf8(&message).is_ok());
    }
}
