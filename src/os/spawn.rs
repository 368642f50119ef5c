//! Start of a program as another user, and fork of a process that outlives its parent.

use std::ffi::{CString, NulError, OsStr};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::waitpid;
use nix::unistd::{self, ForkResult, Pid, chdir, execve, geteuid, getpid, getppid, pipe2, setsid};
use serde::{Deserialize, Serialize};

use super::fork::{close_range, exit};
use super::privileges::{PrivilegeError, become_user};
use super::system::reset_signals;

/// A user with a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

/// Settings of a process that runs a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlan {
    pub program: PathBuf,
    /// User to change to, which only root can.
    pub user: Option<Identity>,
    pub umask: u32,
    /// Working directory.
    pub chdir: PathBuf,
    /// The whole environment.
    pub environment: Vec<(String, String)>,
    /// Number of descriptors.
    pub nofile: Option<u64>,
    /// Size of each process's data in bytes.
    pub memory_limit: Option<u64>,
    pub no_new_privs: bool,
}

/// Number of the first inherited descriptor.
pub const FIRST_INHERITED: RawFd = 3;

/// Time that a child has until the program runs. It may wait for a directory of another machine.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Exit code of a child that cannot execute the program (as of a shell).
const CANNOT_EXECUTE: i32 = 127;
/// Exit code of a process that panicked (EX_SOFTWARE of sysexits.h).
const PANICKED: i32 = 70;

/// Failure to start a program.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error("fork: {0}")]
    Fork(io::Error),
    #[error("the child process hangs")]
    Timeout,
    /// The child has reported an [`ExecError`].
    #[error("{0}")]
    Child(String),
}

/// Failure to execute a program. The process must end: it may still have the privileges of root.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("a null byte in an argument or variable")]
    Null(#[from] NulError),
    #[error("cannot set up the descriptors: {0}")]
    Descriptors(Errno),
    #[error("cannot set the limit of {name} to {limit}: {source}")]
    Limit { name: &'static str, limit: u64, source: Errno },
    #[error("cannot change to the user \"{name}\": {source}")]
    User { name: String, source: PrivilegeError },
    #[error("cannot set no_new_privs: {0}")]
    NoNewPrivs(Errno),
    #[error("cannot change to the directory \"{}\": {source}", path.display())]
    Directory { path: PathBuf, source: Errno },
    #[error("the process that started this one has ended")]
    Orphan,
    #[error("cannot execute \"{}\": {source}", path.display())]
    Execute { path: PathBuf, source: Errno },
}

/// Starts the program of `process` in a session of its own. Standard output and error go to `output`; the `inherited`
/// descriptors get the numbers from 3 on; no other is passed on. `variables` are added to the environment. The program
/// starts with the `blocked` signals blocked, and default handlers.
///
/// The program gets SIGQUIT when this process ends. To be called while this process has one thread.
///
/// # Errors
/// If there is no process, or the program was not executed.
pub fn spawn(
    process: &ProcessPlan,
    arguments: &[&OsStr],
    variables: &[(&str, &str)],
    output: BorrowedFd,
    inherited: &[BorrowedFd],
    blocked: SigSet,
) -> Result<Pid, SpawnError> {
    let (mut reader, mut writer) = pipe2(OFlag::O_CLOEXEC)
        .map(|(reader, writer)| (File::from(reader), File::from(writer)))
        .map_err(|error| SpawnError::Fork(error.into()))?;
    let parent = getpid();
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    match unsafe { unistd::fork() }.map_err(|error| SpawnError::Fork(error.into()))? {
        ForkResult::Parent { child } => {
            drop(writer);
            if !is_readable_within(&reader, START_TIMEOUT) {
                let _ = kill(child, Signal::SIGKILL);
                return Err(SpawnError::Timeout);
            }
            let mut report = String::new();
            let _ = reader.read_to_string(&mut report);
            if report.is_empty() {
                return Ok(child);
            }
            // The child has ended or is about to. Its end is of no interest to the caller.
            let _ = waitpid(child, None);
            Err(SpawnError::Child(report))
        }
        ForkResult::Child => {
            let run = || {
                let (mut report, error) = match place_descriptors(output, inherited, Some(&writer)) {
                    Ok(report) => (report, exec_placed(process, arguments, variables, blocked, parent)),
                    Err(error) => (None, ExecError::Descriptors(error)),
                };
                let _ = report.as_mut().unwrap_or(&mut writer).write_all(error.to_string().as_bytes());
            };
            let _ = catch_unwind(AssertUnwindSafe(run));
            exit(CANNOT_EXECUTE)
        }
    }
}

fn is_readable_within(file: &File, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.as_millis()).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout) {
            Err(Errno::EINTR) => {}
            result => return result.is_ok_and(|count| count > 0),
        }
    }
}

/// Executes the program of `process` in this process, a child that was forked for it by `parent`, as [`spawn`] does in the
/// child that it forks. Returns only if that fails.
pub fn exec(
    process: &ProcessPlan,
    arguments: &[&OsStr],
    variables: &[(&str, &str)],
    output: BorrowedFd,
    inherited: &[BorrowedFd],
    parent: Pid,
) -> ExecError {
    match place_descriptors(output, inherited, None) {
        Ok(_) => exec_placed(process, arguments, variables, SigSet::empty(), parent),
        Err(error) => ExecError::Descriptors(error),
    }
}

/// Forks a process that runs `body` in a session of its own, with `/dev/null` as standard input and output, and without any
/// descriptor but `keep`. (Standard error becomes `/dev/null` unless it is in `keep`.) It has default signal handlers.
///
/// To be called while this process has one thread.
///
/// # Errors
/// If the system cannot create another process.
pub fn fork_detached(keep: &[RawFd], body: impl FnOnce()) -> io::Result<Pid> {
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    match unsafe { unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let run = || {
                let _ = setsid();
                reset_all_signals();
                let _ = detach_descriptors(keep);
                let _ = chdir("/");
                body();
            };
            // Nothing of the parent may run in the child: no caller, no destructor, no exit handler.
            exit(if catch_unwind(AssertUnwindSafe(run)).is_ok() { 0 } else { PANICKED })
        }
    }
}

fn detach_descriptors(keep: &[RawFd]) -> nix::Result<()> {
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    for standard in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        if !keep.contains(&standard) && null.as_raw_fd() != standard {
            // SAFETY: this process does not use the streams of its parent.
            Errno::result(unsafe { libc::dup2(null.as_raw_fd(), standard) })?;
        }
    }
    // Before its number is closed below.
    match null.as_raw_fd() {
        ..=libc::STDERR_FILENO => drop(null.into_raw_fd()),
        _ => drop(null),
    }
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|number| *number > libc::STDERR_FILENO).collect();
    keep.sort_unstable();
    let mut first = FIRST_INHERITED;
    for number in keep {
        if number > first {
            // SAFETY: these descriptors belong to values of the parent, which this process does not use.
            unsafe { close_range(first, number - 1) };
        }
        first = number + 1;
    }
    // SAFETY: as above.
    unsafe { close_range(first, RawFd::MAX) };
    Ok(())
}

fn reset_all_signals() {
    reset_signals(1..=libc::SIGRTMAX());
    let _ = SigSet::empty().thread_set_mask();
}

/// Places the descriptors as [`spawn`] says, and `report` behind them. Closes all others.
fn place_descriptors(output: BorrowedFd, inherited: &[BorrowedFd], report: Option<&File>) -> nix::Result<Option<File>> {
    let report_number = FIRST_INHERITED + inherited.len() as RawFd;
    // Above all places, so that none is overwritten before it is moved.
    let duplicate = |descriptor: RawFd| {
        // SAFETY: makes another descriptor.
        Errno::result(unsafe { libc::fcntl(descriptor, libc::F_DUPFD_CLOEXEC, report_number + 1) })
    };
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?.into_raw_fd();
    let (null, output) = (duplicate(null)?, duplicate(output.as_raw_fd())?);
    let mut moves =
        vec![(null, libc::STDIN_FILENO, 0), (output, libc::STDOUT_FILENO, 0), (output, libc::STDERR_FILENO, 0)];
    for (number, descriptor) in (FIRST_INHERITED..).zip(inherited) {
        moves.push((duplicate(descriptor.as_raw_fd())?, number, 0));
    }
    let has_report = report.is_some();
    if let Some(report) = report {
        moves.push((duplicate(report.as_raw_fd())?, report_number, libc::O_CLOEXEC));
    }
    for (from, to, flags) in moves {
        // SAFETY: `to` belongs to a value of the parent, and this process neither uses nor drops any of those.
        Errno::result(unsafe { libc::dup3(from, to, flags) })?;
    }
    // SAFETY: as above; the duplicates were moved.
    unsafe {
        close_range(report_number + RawFd::from(has_report), RawFd::MAX);
        Ok(has_report.then(|| File::from_raw_fd(report_number)))
    }
}

/// Executes the program in this process, whose descriptors are in their places.
fn exec_placed(
    process: &ProcessPlan,
    arguments: &[&OsStr],
    variables: &[(&str, &str)],
    blocked: SigSet,
    parent: Pid,
) -> ExecError {
    match prepare_exec(process, arguments, variables, blocked, parent) {
        Ok((program, arguments, environment)) => match execve(&program, &arguments, &environment) {
            Ok(never) => match never {},
            Err(source) => ExecError::Execute { path: process.program.clone(), source },
        },
        Err(error) => error,
    }
}

type Executable = (CString, Vec<CString>, Vec<CString>);

fn prepare_exec(
    process: &ProcessPlan,
    arguments: &[&OsStr],
    variables: &[(&str, &str)],
    blocked: SigSet,
    parent: Pid,
) -> Result<Executable, ExecError> {
    // The leader of a process group may not do this, and needs not.
    let _ = setsid();
    reset_all_signals();
    let _ = blocked.thread_set_mask();
    let path = CString::new(process.program.as_os_str().as_bytes())?;
    let mut all_arguments = vec![path.clone()];
    for argument in arguments {
        all_arguments.push(CString::new(argument.as_bytes())?);
    }
    let mut environment = Vec::new();
    let own = process.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // Of variables with the same name, the first is found.
    for (name, value) in variables.iter().copied().chain(own) {
        environment.push(CString::new(format!("{name}={value}"))?);
    }

    if let Some(limit) = process.nofile {
        set_limit(Resource::RLIMIT_NOFILE, "descriptors", limit)?;
    }
    if let Some(limit) = process.memory_limit {
        set_limit(Resource::RLIMIT_DATA, "memory", limit)?;
    }
    umask(Mode::from_bits_truncate(process.umask));
    if let Some(user) = &process.user {
        // Without root there is nothing to change if it is this user already.
        if geteuid().is_root() || geteuid().as_raw() != user.uid {
            let name = CString::new(user.name.as_str())?;
            become_user(&name, user.uid, user.gid)
                .map_err(|source| ExecError::User { name: user.name.clone(), source })?;
        }
    }
    if process.no_new_privs {
        set_no_new_privs().map_err(ExecError::NoNewPrivs)?;
    }
    // The change of the user has reset it.
    let _ = set_pdeathsig(Signal::SIGQUIT);
    if getppid() != parent {
        return Err(ExecError::Orphan);
    }
    // As the user, who may not enter each directory that root may.
    chdir(&process.chdir).map_err(|source| ExecError::Directory { path: process.chdir.clone(), source })?;
    Ok((path, all_arguments, environment))
}

fn set_limit(resource: Resource, name: &'static str, limit: u64) -> Result<(), ExecError> {
    let failed = |source| ExecError::Limit { name, limit, source };
    // Without root the hard limit cannot be raised, and a lower one must do.
    let (_, hard) = getrlimit(resource).map_err(failed)?;
    if limit > hard && !geteuid().is_root() {
        return Err(failed(Errno::EPERM));
    }
    setrlimit(resource, limit, limit).map_err(failed)
}

/// How a process ended. (nix's type lacks real-time signals.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Code(i32),
    Signal(i32),
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "with code {code}"),
            Self::Signal(signal) => write!(formatter, "on signal {signal}"),
        }
    }
}

/// Returns a child that has ended, if there is one, which then is no longer a zombie.
pub fn reap() -> Option<(Pid, End)> {
    let mut status = 0;
    loop {
        // SAFETY: the pointer is to a variable.
        let child = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        if child > 0 {
            let end = if libc::WIFSIGNALED(status) {
                End::Signal(libc::WTERMSIG(status))
            } else {
                End::Code(libc::WEXITSTATUS(status))
            };
            return Some((Pid::from_raw(child), end));
        }
        if child == 0 || Errno::last() != Errno::EINTR {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use nix::sys::wait::WaitStatus;

    use super::*;

    fn process() -> ProcessPlan {
        ProcessPlan {
            program: "/bin/sh".into(),
            user: None,
            umask: 0o27,
            chdir: "/usr".into(),
            environment: vec![("GREETING".to_owned(), "a = 'b'".to_owned())],
            nofile: Some(100),
            memory_limit: Some(512 << 20),
            no_new_privs: true,
        }
    }

    /// Returns the output of a shell command that is started with these settings.
    fn run(process: &ProcessPlan, command: &str) -> Result<(String, WaitStatus), SpawnError> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let inherited = File::open("/dev/zero").unwrap();
        let arguments = [OsStr::new("-c"), OsStr::new(command)];
        let child =
            spawn(process, &arguments, &[("NGINX", "3;")], writer.as_fd(), &[inherited.as_fd()], SigSet::empty())?;
        drop(writer);
        let mut output = String::new();
        File::from(reader).read_to_string(&mut output).unwrap();
        Ok((output, waitpid(child, None).unwrap()))
    }

    #[test]
    fn a_program_has_what_the_plan_says_and_nothing_else() {
        let command = "pwd; umask; ulimit -n; ulimit -d; echo $GREETING $NGINX; readlink /proc/$$/fd/3; \
            grep NoNewPrivs /proc/$$/status; \
            grep SigBlk /proc/self/status; tr '\\0' '\\n' < /proc/$$/environ; exit 3";
        let (output, end) = run(&process(), command).unwrap();
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines[..5], ["/usr", "0027", "100", "524288", "a = 'b' 3;"], "{output}");
        assert_eq!(lines[5..8], ["/dev/zero", "NoNewPrivs:\t1", "SigBlk:\t0000000000000000"], "{output}");
        assert_eq!(lines[8..], ["NGINX=3;", "GREETING=a = 'b'"], "{output}");
        assert_eq!(end, WaitStatus::Exited(end.pid().unwrap(), 3));
    }

    #[test]
    fn root_changes_to_the_user_for_good() {
        let Some(nobody) = unistd::User::from_name("nobody").unwrap().filter(|_| geteuid().is_root()) else {
            return;
        };
        let user = Identity { name: nobody.name, uid: nobody.uid.as_raw(), gid: nobody.gid.as_raw() };
        let process = ProcessPlan { user: Some(user.clone()), chdir: "/".into(), ..process() };
        let (output, _) = run(&process, "id -u; id -g; id -G; grep -E 'Cap(Prm|Eff)' /proc/self/status").unwrap();
        let none = "0000000000000000";
        let expected = format!("{}\n{1}\n{1}\nCapPrm:\t{none}\nCapEff:\t{none}\n", user.uid, user.gid);
        assert_eq!(output, expected);

        // Directories are entered as the user.
        let private = tempfile::tempdir().unwrap();
        std::fs::set_permissions(private.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let error = run(&ProcessPlan { chdir: private.path().to_owned(), ..process.clone() }, "exit 0").unwrap_err();
        assert!(error.to_string().ends_with("EACCES: Permission denied"), "{error}");
        let unknown = Identity { name: "no-such-user".to_owned(), ..user };
        // The C library knows no other groups of an unknown user.
        let process = ProcessPlan { user: Some(unknown), ..process };
        assert!(run(&process, "id -G").is_ok_and(|(output, _)| output.trim() == process.user.unwrap().gid.to_string()));
    }

    #[test]
    fn a_failure_before_the_program_names_its_cause() {
        let failure = |process: &ProcessPlan| run(process, "exit 0").unwrap_err().to_string();
        let missing = ProcessPlan { program: "/nowhere/nginx".into(), ..process() };
        assert_eq!(failure(&missing), "cannot execute \"/nowhere/nginx\": ENOENT: No such file or directory");
        let missing = ProcessPlan { chdir: "/nowhere".into(), ..process() };
        assert_eq!(failure(&missing), "cannot change to the directory \"/nowhere\": ENOENT: No such file or directory");
    }

    #[test]
    fn a_detached_process_has_no_descriptor_but_those_it_keeps() {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let _other = File::open("/dev/zero").unwrap();
        let number = writer.as_raw_fd();
        fork_detached(&[number], || {
            let open = (0..1000).filter(|number| std::fs::read_link(format!("/proc/self/fd/{number}")).is_ok());
            let _ = File::from(writer.try_clone().unwrap())
                .write_all(format!("{:?}", open.collect::<Vec<i32>>()).as_bytes());
        })
        .unwrap();
        drop(writer);
        let mut output = String::new();
        File::from(reader).read_to_string(&mut output).unwrap();
        // The last is a duplicate of the one that is kept.
        assert!(output.starts_with("[0, 1, 2, "), "{output}");
        assert_eq!(output.split(',').count(), 5, "{output}");
    }

    #[test]
    fn a_program_ends_with_the_process_that_started_it() {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        let started = Instant::now();
        fork_detached(&[writer.as_raw_fd()], || {
            let arguments = [OsStr::new("-c"), OsStr::new("exec sleep 60")];
            spawn(&process(), &arguments, &[], writer.as_fd(), &[], SigSet::empty()).unwrap();
        })
        .unwrap();
        drop(writer);
        File::from(reader).read_to_end(&mut Vec::new()).unwrap();
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
