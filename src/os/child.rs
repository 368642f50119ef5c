//! A throw-away child of a process with one thread: does tasks of which each may fail, hang, crash or end the process,
//! and reports on every one.
//!
//! The child has a process group of its own, none of nginx's descriptors or signal handlers, and leaves by `_exit`. What
//! it and its children write to standard output and error comes through a pipe; its reports come as messages through
//! a socket, and it waits after each until that was read, so that text belongs to the task before its report. Nothing
//! depends on its exit status, which nginx's handler for SIGCHLD may have taken.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// What the child says of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    Done,
    /// It failed, in a sentence.
    Failed(String),
    /// So did what all tasks need: none that are left can be done.
    Fatal(String),
}

/// What has become of the task at hand.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Reported(Report),
    /// The child ended, in the words of how it did.
    Ended(String),
    /// The time is over, and the child has been killed.
    TimeOver,
    /// nginx was told to end while it waited here.
    Interrupted,
}

/// A child that runs; dropping it kills it with its whole process group.
pub struct ChildProcess {
    /// `None` once it is reaped.
    pid: Option<libc::pid_t>,
    reports: OwnedFd,
    /// `None` once all writers have closed it.
    output: Option<File>,
    text: Tail,
    deadline: Instant,
    _signal: BlockedSignal,
}

/// How often it is looked whether the child is there: a child of its own may keep the socket open after its end.
const TICK: Duration = Duration::from_millis(50);

impl ChildProcess {
    /// Forks a child that runs `body` and ends.
    ///
    /// # Errors
    /// When the system gives no descriptors or process.
    pub fn start(title: &CStr, deadline: Instant, body: impl FnOnce(&Reporter)) -> io::Result<Self> {
        let (output, writer) = pipe()?;
        let (reports, reporter) = message_sockets()?;
        let signal = BlockedSignal::new(libc::SIGCHLD);
        // SAFETY: while the configuration is read nginx has one thread, and so has a nursery: the child may do whatever its
        // parent may.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                crate::nginx::worker_process::set_process_title(title);
                let run = || {
                    become_separate(reporter.as_raw_fd(), Some(writer.as_raw_fd()));
                    body(&Reporter(SOCKET));
                };
                // Nothing of the parent's may run in the child: no caller, no destructor, no exit handler.
                let status = if catch_unwind(AssertUnwindSafe(run)).is_ok() { 0 } else { PANICKED };
                // SAFETY: ends the process.
                unsafe { libc::_exit(status) }
            }
            pid => {
                // The child does the same, whoever comes first.
                // SAFETY: no memory is involved.
                unsafe { libc::setpgid(pid, pid) };
                let output = Some(File::from(output));
                Ok(Self { pid: Some(pid), reports, output, text: Tail::default(), deadline, _signal: signal })
            }
        }
    }

    /// Waits for what becomes of the task at hand; with it comes the text that was written meanwhile.
    pub fn next(&mut self) -> (Event, String) {
        let event = loop {
            let dead = self.is_dead();
            match self.receive() {
                Received::Report(report) => break Event::Reported(report),
                _ if dead => break Event::Ended(self.reap()),
                _ if Instant::now() >= self.deadline => {
                    self.kill();
                    break Event::TimeOver;
                }
                _ if is_told_to_end() => break Event::Interrupted,
                Received::Nothing => self.wait_for_input(),
                // It ends, or has closed descriptors that are not its own and will end at its next report.
                Received::End => std::thread::sleep(TICK),
            }
            self.read_output();
        };
        self.read_output();
        let text = self.text.take();
        if let Event::Reported(_) = event {
            // It goes on now. Should it have died meanwhile, the next turn sees that.
            // SAFETY: the pointer is to one byte.
            unsafe { libc::send(self.reports.as_raw_fd(), [0u8].as_ptr().cast(), 1, libc::MSG_NOSIGNAL) };
        }
        (event, text)
    }

    /// Waits until there is something to read, for a tick at most.
    fn wait_for_input(&self) {
        let poll = |descriptor| libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
        // A negative number is not looked at.
        let output = self.output.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        let mut descriptors = [poll(self.reports.as_raw_fd()), poll(output)];
        let left = self.deadline.saturating_duration_since(Instant::now()).min(TICK);
        // SAFETY: the pointer is to two elements. A signal that ends the wait early does no harm.
        unsafe { libc::poll(descriptors.as_mut_ptr(), 2, left.as_millis() as i32 + 1) };
    }

    fn receive(&self) -> Received {
        let mut message = [0u8; LONGEST_REPORT];
        // SAFETY: pointer and length are of one array.
        let length = unsafe {
            let descriptor = self.reports.as_raw_fd();
            libc::recv(descriptor, message.as_mut_ptr().cast(), message.len(), libc::MSG_DONTWAIT)
        };
        match length {
            0 => Received::End,
            length if length > 0 => Received::Report(Report::decode(&message[..length as usize])),
            _ => match io::Error::last_os_error().kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Received::Nothing,
                _ => Received::End,
            },
        }
    }

    /// Takes what the pipe holds; not more at a time, as somebody may write without end.
    fn read_output(&mut self) {
        const PIPE: usize = 64 * 1024;
        let Some(output) = &mut self.output else { return };
        let mut buffer = [0; 4096];
        for _ in 0..PIPE / buffer.len() {
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

    /// Whether the child has ended; it stays there to be reaped, and keeps the number of its process group.
    fn is_dead(&self) -> bool {
        let Some(pid) = self.pid else { return true };
        // SAFETY: the pointer is to a whole variable, zeroed as the call leaves it where the child still runs.
        unsafe {
            let mut found: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            libc::waitid(libc::P_PID, pid as libc::id_t, &mut found, flags) != 0 || found.si_pid() == pid
        }
    }

    fn kill(&self) {
        let Some(pid) = self.pid else { return };
        // SAFETY: no memory is involved; until the child is reaped the group is its own.
        unsafe { libc::kill(-pid, libc::SIGKILL) };
    }

    /// Ends what is left of the child and its group; how the child itself ended.
    fn reap(&mut self) -> String {
        const UNKNOWN: &str = "for a reason that the system does not tell";
        self.kill();
        let Some(pid) = self.pid.take() else { return UNKNOWN.to_owned() };
        let mut status = 0;
        // SAFETY: the pointer is to a variable.
        while unsafe { libc::waitpid(pid, &mut status, 0) } != pid {
            // There is no child where whoever started nginx left SIGCHLD ignored.
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

/// The child's side of the reports.
pub struct Reporter(RawFd);

/// In a separate process, the descriptor of its socket. It follows those of standard input, output and error; no other is
/// left.
pub(super) const SOCKET: RawFd = 3;
/// A report's text is cut to fit; what is long is written to the output.
const LONGEST_REPORT: usize = 4096;
/// Exit code of a child that cannot report (EX_IOERR of sysexits.h) or panicked (EX_SOFTWARE).
const CANNOT_REPORT: i32 = 74;
pub(super) const PANICKED: i32 = 70;

impl Reporter {
    /// Reports, and returns when the parent has read it.
    pub fn report(&self, report: &Report) {
        let message = report.encode();
        let mut answer = [0u8; 1];
        // SAFETY: the pointers and lengths are of whole arrays; where nobody listens any more, the process ends.
        unsafe {
            if libc::send(self.0, message.as_ptr().cast(), message.len(), libc::MSG_NOSIGNAL) < 0 {
                libc::_exit(CANNOT_REPORT);
            }
            while libc::recv(self.0, answer.as_mut_ptr().cast(), 1, 0) != 1 {
                if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                    libc::_exit(CANNOT_REPORT);
                }
            }
        }
    }

    /// Ends this process, with its process group, as soon as the parent is gone: nobody else would. For that it starts
    /// a thread.
    pub fn end_with_parent(&self) {
        let socket = self.0;
        let watch = move || {
            let mut descriptor = libc::pollfd { fd: socket, events: 0, revents: 0 };
            // SAFETY: the pointer is to one element. Without any events asked for, only the end of the other side is one.
            unsafe {
                while libc::poll(&mut descriptor, 1, -1) < 1 {}
                libc::kill(0, libc::SIGKILL);
            }
        };
        // Without it the process ends at its next report.
        let _ = std::thread::Builder::new().name("wsgi-parent".to_owned()).spawn(watch);
    }
}

impl Report {
    fn encode(&self) -> Vec<u8> {
        let (kind, text) = match self {
            Self::Done => (b'd', ""),
            Self::Failed(text) => (b'f', text.as_str()),
            Self::Fatal(text) => (b'i', text.as_str()),
        };
        let longest = text.len().min(LONGEST_REPORT - 1);
        let end = (0..=longest).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        [&[kind], &text.as_bytes()[..end]].concat()
    }

    fn decode(message: &[u8]) -> Self {
        let text = String::from_utf8_lossy(message.get(1..).unwrap_or_default()).into_owned();
        match message.first() {
            Some(b'd') => Self::Done,
            Some(b'f') => Self::Failed(text),
            _ => Self::Fatal(text),
        }
    }
}

/// In a child that was just forked: leaves everything that is the parent's but `socket`, which becomes [`SOCKET`], and
/// `output`, which becomes standard output and error, if there is one. What cannot be left ends the process.
pub(super) fn become_separate(socket: RawFd, output: Option<RawFd>) {
    // SAFETY: no memory but local variables is involved; the process has one thread. The descriptors that are closed
    // belong to values of the parent, none of which is used or dropped in this process.
    unsafe {
        libc::setpgid(0, 0);
        for signal in 1..=libc::SIGRTMAX() {
            // These two as in a worker, where writing to a closed connection is an error and not the end.
            let is_ignored = matches!(signal, libc::SIGPIPE | libc::SIGSYS);
            let handler = if is_ignored { libc::SIG_IGN } else { libc::SIG_DFL };
            libc::signal(signal, handler);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());

        // A crash is reported; it need not leave a file.
        libc::setrlimit(libc::RLIMIT_CORE, &libc::rlimit { rlim_cur: 0, rlim_max: 0 });

        // First to numbers that none of the targets has.
        let above = |descriptor| libc::fcntl(descriptor, libc::F_DUPFD, SOCKET + 1);
        let (output, socket) = (output.map(above), above(socket));
        let nothing = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        let mut moved = nothing >= 0 && libc::dup2(nothing, libc::STDIN_FILENO) >= 0;
        let output = output.unwrap_or(nothing);
        moved &= libc::dup2(output, libc::STDOUT_FILENO) >= 0 && libc::dup2(output, libc::STDERR_FILENO) >= 0;
        moved &= libc::dup2(socket, SOCKET) >= 0;
        moved &= libc::fcntl(SOCKET, libc::F_SETFD, libc::FD_CLOEXEC) >= 0;
        if !moved {
            libc::_exit(CANNOT_REPORT);
        }
        close_from(SOCKET + 1);
    }
}

/// Closes all descriptors from `first` on.
///
/// # Safety
/// None of them is used any more.
unsafe fn close_from(first: RawFd) {
    // SAFETY: by the caller's promise. Closing a number that is not open fails.
    unsafe {
        // Linux 5.9, and not every sandbox.
        if libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) == 0 {
            return;
        }
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        for descriptor in first..i32::try_from(limit.rlim_cur).unwrap_or(1 << 20) {
            libc::close(descriptor);
        }
    }
}

/// A pipe, of which the end to read from does not block.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    // SAFETY: the pointer is to two elements; what is opened is owned by nobody else.
    unsafe {
        if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) != 0 {
            return Err(io::Error::last_os_error());
        }
        let ends = (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]));
        if libc::fcntl(ends.0.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(ends)
    }
}

/// Two sockets for messages between them.
fn message_sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the pointer is to two elements; what is opened is owned by nobody else.
    unsafe {
        if libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])))
    }
}

/// Whether a signal to end nginx waits to be handled: the master blocks them while it reads a configuration.
fn is_told_to_end() -> bool {
    // SAFETY: the pointer is to a whole variable.
    unsafe {
        let mut pending: libc::sigset_t = std::mem::zeroed();
        libc::sigpending(&mut pending);
        [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT].iter().any(|signal| libc::sigismember(&pending, *signal) == 1)
    }
}

/// Blocks a signal for this thread as long as it lives: nginx's handler, where it is not the master's loop that waits
/// for signals, would reap the child and call it an unknown process.
struct BlockedSignal(libc::sigset_t);

impl BlockedSignal {
    fn new(signal: i32) -> Self {
        // SAFETY: the pointers are to whole variables.
        unsafe {
            let (mut set, mut before): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, signal);
            libc::sigprocmask(libc::SIG_BLOCK, &set, &mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignal {
    fn drop(&mut self) {
        // SAFETY: the pointer is to a whole variable.
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut()) };
    }
}

/// The last of a text.
#[derive(Default)]
struct Tail {
    bytes: Vec<u8>,
    is_cut: bool,
}

/// A traceback, which comes last, fits.
const LONGEST_TAIL: usize = 64 * 1024;

impl Tail {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 2 * LONGEST_TAIL {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let start = self.bytes.len().saturating_sub(LONGEST_TAIL);
        self.is_cut |= start > 0;
        self.bytes.drain(..start);
    }

    /// What there is, and begins anew.
    fn take(&mut self) -> String {
        self.cut();
        let Self { bytes, is_cut } = std::mem::take(self);
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end_matches('\n');
        if is_cut { format!("(what was written before this is left out)\n{text}") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_arrives_as_it_was() {
        for report in [Report::Done, Report::Failed("ä: b".to_owned()), Report::Fatal(String::new())] {
            assert_eq!(Report::decode(&report.encode()), report);
        }
    }

    #[test]
    fn a_long_report_is_cut_at_a_character() {
        let long = Report::Failed("ä".repeat(LONGEST_REPORT));
        let message = long.encode();
        assert!(message.len() <= LONGEST_REPORT);
        assert!(str::from_utf8(&message).is_ok());
    }

    #[test]
    fn the_end_of_a_text_is_kept() {
        let mut tail = Tail::default();
        for _ in 0..10_000 {
            tail.add(b"0123456789 0123456789 0123456789\n");
        }
        tail.add(b"the end\n");
        let text = tail.take();
        assert!(text.len() < LONGEST_TAIL + 100 && text.ends_with("9\nthe end"), "{text}");
        assert!(text.starts_with("(what"), "{text}");
        tail.add(b"another");
        assert_eq!(tail.take(), "another");
    }
}
