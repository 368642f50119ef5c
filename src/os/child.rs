//! Child process that runs several tasks and reports on each: the parent's side. The child's side is [`super::reporter`].
//!
//! Each task may fail, hang, crash or end the process. Output of the child and its own children arrives through a pipe,
//! reports through a socket. The child waits after each report until the parent has read it, so output belongs to the task
//! whose report follows. Nothing depends on the exit status: a handler for SIGCHLD in the parent may have reaped the child.

use std::ffi::CStr;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::fork::fork;
use super::message::MessageSocket;
use super::reporter::{OMITTED, Report, Reporter};

/// Outcome of the current task.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The child has sent a report.
    Reported(Report),
    /// The child has exited; the text says how ("with exit code 3").
    Ended(String),
    /// The deadline has passed, and the child has been killed.
    TimedOut,
    /// This process has received a signal to exit.
    Interrupted,
}

/// Running child process. Dropping the value kills the child and its process group.
pub struct ChildProcess {
    /// `None` once the child is reaped.
    pid: Option<Pid>,
    reports: MessageSocket,
    /// `None` once all writers have closed the pipe.
    output: Option<PipeReader>,
    text: Tail,
    deadline: Instant,
    _blocked: BlockedSignal,
}

/// Returns the children of this process, which has one thread; `None` if the kernel does not tell.
pub fn children() -> Option<Vec<Pid>> {
    let text = std::fs::read_to_string("/proc/thread-self/children").ok()?;
    Some(text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect())
}

/// Interval for checks that the child is alive: its own children may keep the socket open after its exit.
const LIVENESS_INTERVAL: Duration = Duration::from_millis(50);

impl ChildProcess {
    /// Forks a child that calls `set_title`, runs `body` and exits. To be called while this process has one thread.
    ///
    /// # Errors
    /// If the system has no descriptors or processes left.
    pub fn start(set_title: impl FnOnce(), deadline: Instant, body: impl FnOnce(&Reporter)) -> io::Result<Self> {
        let (output, writer) = io::pipe()?;
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let (reports, socket) = MessageSocket::pair()?;
        let blocked = BlockedSignal::new(Signal::SIGCHLD)?;
        let pid = fork(set_title, socket, Some(writer.into()), |socket| body(&Reporter::new(socket)))?;
        Ok(Self { pid: Some(pid), reports, output: Some(output), text: Tail::default(), deadline, _blocked: blocked })
    }

    /// Waits for the next event. Returns it with the output since the previous one.
    pub fn next(&mut self) -> (Event, String) {
        let event = loop {
            let has_exited = self.has_exited();
            match self.receive() {
                Received::Report(report) => break Event::Reported(report),
                _ if has_exited => break Event::Ended(self.reap()),
                _ if Instant::now() >= self.deadline => {
                    self.kill();
                    break Event::TimedOut;
                }
                _ if is_exit_signal_pending() => break Event::Interrupted,
                Received::Nothing => self.wait_for_input(),
                // The child is about to exit, or has closed its socket and exits at its next report.
                Received::End => std::thread::sleep(LIVENESS_INTERVAL),
            }
            self.read_output();
        };
        self.read_output();
        let text = self.text.take();
        if let Event::Reported(_) = event {
            // The child continues. If it has died, the next call finds that.
            let _ = self.reports.send(&[0]);
        }
        (event, text)
    }

    /// Waits until there is something to read, for [`LIVENESS_INTERVAL`] at most.
    fn wait_for_input(&self) {
        let descriptors = [Some(self.reports.as_fd()), self.output.as_ref().map(AsFd::as_fd)];
        let mut descriptors: Vec<PollFd> =
            descriptors.into_iter().flatten().map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN)).collect();
        let left = self.deadline.saturating_duration_since(Instant::now()).min(LIVENESS_INTERVAL);
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::ZERO);
        // A signal that ends the wait early does no harm.
        let _ = poll(&mut descriptors, timeout);
    }

    fn receive(&self) -> Received {
        match self.reports.try_receive() {
            Ok(Some(message)) => Received::Report(Report::decode(&message)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
            Ok(None) | Err(_) => Received::End,
        }
    }

    /// Reads the content of the pipe, and no more than a pipe holds: the writer may never stop.
    fn read_output(&mut self) {
        const PIPE_CAPACITY: usize = 64 * 1024;
        let Some(output) = &mut self.output else { return };
        let mut buffer = [0; 4096];
        for _ in 0..PIPE_CAPACITY / buffer.len() {
            match output.read(&mut buffer) {
                Ok(0) => {
                    self.output = None;
                    return;
                }
                Ok(length) => self.text.add(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Returns whether the child has exited. It remains a zombie, so no other process can get its process group.
    fn has_exited(&self) -> bool {
        let Some(pid) = self.pid else { return true };
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(pid), flags), Ok(WaitStatus::StillAlive))
    }

    /// Kills the child and its process group, which exists until the child is reaped.
    fn kill(&self) {
        if let Some(pid) = self.pid {
            let _ = killpg(pid, Signal::SIGKILL);
        }
    }

    /// Kills what is left of the process group and reaps the child. Returns how the child ended.
    fn reap(&mut self) -> String {
        const UNKNOWN: &str = "for an unknown reason";
        self.kill();
        let Some(pid) = self.pid.take() else { return UNKNOWN.to_owned() };
        let mut status = 0;
        // nix's `waitpid` has no real-time signals, and nix no `strsignal`.
        // SAFETY: the pointer is to a variable.
        while unsafe { libc::waitpid(pid.as_raw(), &mut status, 0) } != pid.as_raw() {
            // The child is gone if nginx was started with SIGCHLD ignored.
            if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return UNKNOWN.to_owned();
            }
        }
        if libc::WIFSIGNALED(status) {
            let signal = libc::WTERMSIG(status);
            // SAFETY: the text is static, or valid until the next call.
            let name = unsafe { CStr::from_ptr(libc::strsignal(signal)) };
            format!("by signal {signal} ({})", name.to_string_lossy())
        } else {
            format!("with exit code {}", libc::WEXITSTATUS(status))
        }
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.reap();
    }
}

enum Received {
    Report(Report),
    Nothing,
    End,
}

/// Returns whether a signal to exit is pending: a master blocks these signals while it reads a configuration.
fn is_exit_signal_pending() -> bool {
    // SAFETY: `sigpending` fills the whole set.
    let pending = unsafe {
        let mut pending: libc::sigset_t = std::mem::zeroed();
        libc::sigpending(&mut pending);
        SigSet::from_sigset_t_unchecked(pending)
    };
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT].into_iter().any(|signal| pending.contains(signal))
}

/// Signal that this thread blocks while the value lives.
///
/// With SIGCHLD unblocked, nginx's signal handler would reap the child and log it as an unknown process.
struct BlockedSignal {
    previous_mask: SigSet,
}

impl BlockedSignal {
    fn new(signal: Signal) -> nix::Result<Self> {
        let previous_mask = SigSet::from(signal).thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        Ok(Self { previous_mask })
    }
}

impl Drop for BlockedSignal {
    fn drop(&mut self) {
        let _ = self.previous_mask.thread_set_mask();
    }
}

/// End of a text that may be too long to keep.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    is_cut: bool,
}

/// Room for a traceback, which is at the end of a text.
const MAX_TAIL: usize = 64 * 1024;

impl Tail {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 2 * MAX_TAIL {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let start = self.bytes.len().saturating_sub(MAX_TAIL);
        self.is_cut |= start > 0;
        self.bytes.drain(..start);
    }

    /// Returns the text and leaves an empty one.
    fn take(&mut self) -> String {
        self.cut();
        let Self { bytes, is_cut } = std::mem::take(self);
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches('\n');
        if is_cut { format!("{OMITTED}{text}") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_text_is_kept() {
        let mut tail = Tail::default();
        for _ in 0..10_000 {
            tail.add(b"0123456789 0123456789 0123456789\n");
        }
        tail.add(b"the end\n");
        let text = tail.take();
        assert!(text.len() < MAX_TAIL + 100 && text.ends_with("9\nthe end"), "{text}");
        assert!(text.starts_with("(earlier output omitted)\n"), "{text}");
        tail.add(b"another");
        assert_eq!(tail.take(), "another");
    }
}
