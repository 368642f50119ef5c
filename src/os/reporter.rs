//! Reports of a child process on its tasks: the child's side. The parent's side is [`super::child`].

use std::borrow::Cow;
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
    /// Encodes the report as a message: a byte for the variant, then the text, shortened if the message would exceed
    /// `max_length`.
    pub(super) fn encode(&self, max_length: usize) -> Vec<u8> {
        let (variant, text) = match self {
            Self::Done => (b'd', ""),
            Self::Failed(text) => (b'f', text.as_str()),
            Self::Fatal(text) => (b'x', text.as_str()),
        };
        [&[variant], shorten(text, max_length - 1).as_bytes()].concat()
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

/// Line in place of omitted output.
pub(super) const OMITTED: &str = "(earlier output omitted)\n";

/// Shortens a text to `max_length` bytes: keeps the first line, which names the failure, and the end of the traceback.
fn shorten(text: &str, max_length: usize) -> Cow<'_, str> {
    if text.len() <= max_length {
        return Cow::Borrowed(text);
    }
    let first_line = text.split_inclusive('\n').next().filter(|line| line.len() <= max_length / 2).unwrap_or_default();
    let room = max_length.saturating_sub(first_line.len() + OMITTED.len());
    let start = (text.len() - room..=text.len()).find(|start| text.is_char_boundary(*start)).unwrap_or(text.len());
    Cow::Owned([first_line, OMITTED, &text[start..]].concat())
}

/// Sender of reports in a child process. The parent acknowledges each report with a message of one byte.
pub struct Reporter(MessageSocket);

/// Size limit of a report by a child process. Longer texts, such as tracebacks, belong to the output.
pub(super) const MAX_REPORT: usize = 4096;

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
    fn first_line_and_end_of_a_long_report_are_kept() {
        let text = format!("failure\n{}the end", "ä".repeat(MAX_REPORT));
        for max_length in [MAX_REPORT, MAX_REPORT - 1] {
            let message = Report::Failed(text.clone()).encode(max_length);
            assert!((max_length - 1..=max_length).contains(&message.len()), "{}", message.len());
            let Report::Failed(shortened) = Report::decode(&message) else { panic!("{message:?}") };
            assert!(shortened.starts_with("failure\n(earlier output omitted)\nä"), "{shortened}");
            assert!(shortened.ends_with("äthe end") && !shortened.contains('\u{fffd}'), "{shortened}");
        }
    }

    #[test]
    fn a_long_report_of_one_line_keeps_its_end() {
        let message = Report::Fatal("x".repeat(MAX_REPORT) + "the end").encode(MAX_REPORT);
        assert_eq!(message.len(), MAX_REPORT);
        let Report::Fatal(shortened) = Report::decode(&message) else { panic!("{message:?}") };
        assert!(shortened.starts_with("(earlier output omitted)\nx") && shortened.ends_with("xthe end"), "{shortened}");
    }
}
