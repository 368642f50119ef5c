//! An instance: one nginx of a group, from its start until nothing is left of it.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::{Pid, getpgid, getpid};

use super::plan::GroupPlan;
use crate::os::spawn::{FIRST_INHERITED, SpawnError, spawn};
use crate::os::{log_socket, run_directory};

/// Time after which a master that was started again has proved that it works.
const PROVEN: Duration = Duration::from_secs(10);

const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Time between the signals of a stop: QUIT, after the stop timeout TERM, then KILL.
const BEFORE_KILL: Duration = Duration::from_secs(3);

/// Time that programs of an application have which outlive their nginx.
const LEFTOVER_TIMEOUT: Duration = Duration::from_secs(1);

/// Environment variable of an instance: the number of its first worker among those of the group.
pub const FIRST_WORKER: &str = "NGX_WSGI_FIRST_WORKER";

/// Delays between starts that fail.
#[derive(Debug, Default)]
pub struct Backoff {
    delay: Option<Duration>,
}

impl Backoff {
    /// Returns how long to wait after an instance that ran for this time, or did not start at all.
    pub fn delay(&mut self, ran: Duration) -> Duration {
        if ran >= PROVEN {
            self.delay = None;
            return Duration::ZERO;
        }
        let delay = self.delay.map_or(FIRST_DELAY, |delay| (delay * 2).min(LONGEST_DELAY));
        *self.delay.insert(delay)
    }

    pub fn reset(&mut self) {
        self.delay = None;
    }
}

/// Signal that follows in a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Terminate,
    Kill,
}

/// How far an instance is that was told to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// Processes of it are left.
    Waiting,
    /// Its timeout has just expired.
    Late,
    /// Nothing is left of it.
    Gone,
}

/// A private nginx: a master, its workers, and the programs that these have started. They are in one POSIX process group,
/// that of the master.
pub struct Instance {
    /// 0 for the one that has the minimum of workers, from 1 for those that were added.
    pub number: usize,
    /// Number of its pid file.
    pub pid_file: usize,
    pub master: Pid,
    pub started: Instant,
    /// False once the master has ended.
    is_running: bool,
    /// Signal that follows, and when.
    next: Option<(Next, Instant)>,
}

/// Descriptors that an instance inherits.
#[derive(Clone, Copy)]
pub struct Inherited<'a> {
    pub socket: BorrowedFd<'a>,
    pub scoreboard: BorrowedFd<'a>,
    /// Status board, with `wsgi_status_zone`.
    pub status: Option<BorrowedFd<'a>>,
    pub output: BorrowedFd<'a>,
    pub log_socket: BorrowedFd<'a>,
}

/// Runs the nginx of a group with the configuration of this instance, and `option` in addition if there is one.
fn run(
    plan: &GroupPlan,
    directory: &Path,
    number: usize,
    option: Option<&str>,
    inherited: Inherited,
) -> Result<Pid, SpawnError> {
    let GroupPlan { process, name: group, min, .. } = plan;
    let prefix = run_directory::temporary(directory, group).join("");
    let first_worker = if number == 0 { 0 } else { min + number - 1 };
    let configuration = run_directory::configuration(directory, group, number);
    // Without -e nginx opens the log file that was configured when it was built, which is not for this user.
    let mut arguments = vec!["-p".as_ref(), prefix.as_os_str(), "-c".as_ref(), configuration.as_os_str()];
    arguments.extend(["-e", "stderr"].map(OsStr::new));
    arguments.extend(option.map(OsStr::new));
    // A master that has no handler yet would end with it. nginx unblocks it when its master waits for signals, and in its
    // workers.
    let blocked = SigSet::from(Signal::SIGHUP);
    let descriptors = [inherited.socket, inherited.scoreboard].into_iter().chain(inherited.status);
    let descriptors: Vec<_> = descriptors.chain([inherited.log_socket]).collect();
    let log_socket = (FIRST_INHERITED + descriptors.len() as RawFd - 1).to_string();
    let variables =
        [("NGINX", "3;"), (FIRST_WORKER, &*first_worker.to_string()), (log_socket::VARIABLE, log_socket.as_str())];
    spawn(process, &arguments, &variables, inherited.output, &descriptors, blocked)
}

/// Starts `nginx -t` with the configuration of the first instance, which its user may read.
///
/// # Errors
/// If it cannot be started.
pub fn start_check(plan: &GroupPlan, directory: &Path, inherited: Inherited) -> Result<Pid, SpawnError> {
    run(plan, directory, 0, Some("-t"), inherited)
}

impl Instance {
    /// Starts an instance whose configuration is written.
    ///
    /// # Errors
    /// If there is no process, or nginx cannot be executed with the settings of the group.
    pub fn start(
        plan: &GroupPlan,
        directory: &Path,
        number: usize,
        pid_file: usize,
        inherited: Inherited,
    ) -> Result<Self, SpawnError> {
        let master = run(plan, directory, number, None, inherited)?;
        Ok(Self { number, pid_file, master, started: Instant::now(), is_running: true, next: None })
    }

    /// Returns whether this process is the master, and has not ended.
    pub fn is_master(&self, process: Pid) -> bool {
        self.is_running && self.master == process
    }

    /// Has the instance read its configuration again.
    pub fn reload(&self) {
        self.signal_master(Signal::SIGHUP);
    }

    /// Tells the instance to end: gracefully within `timeout`, or at once without.
    pub fn stop(&mut self, timeout: Option<Duration>) {
        let now = Instant::now();
        match timeout {
            Some(_) if self.next.is_some() => {}
            Some(timeout) => {
                self.signal_master(Signal::SIGQUIT);
                self.next = Some((Next::Terminate, now + timeout));
            }
            None => self.terminate(now),
        }
    }

    fn signal_master(&self, signal: Signal) {
        // Once it has been waited for, another process may have its number.
        if self.is_running {
            let _ = kill(self.master, signal);
        }
    }

    fn terminate(&mut self, now: Instant) {
        if self.is_running {
            self.signal_master(Signal::SIGTERM);
        } else {
            let _ = killpg(self.master, Signal::SIGTERM);
        }
        if !matches!(self.next, Some((Next::Kill, _))) {
            self.next = Some((Next::Kill, now + BEFORE_KILL));
        }
    }

    /// Notes that the master has ended and was waited for. Workers that it has left finish their calls within `timeout`.
    pub fn note_end(&mut self, timeout: Duration) {
        self.is_running = false;
        let orphans = self.orphans();
        if orphans.is_empty() {
            self.next = Some((Next::Terminate, Instant::now() + LEFTOVER_TIMEOUT));
            return;
        }
        for worker in orphans {
            let _ = kill(worker, Signal::SIGQUIT);
        }
        if self.next.is_none() {
            self.next = Some((Next::Terminate, Instant::now() + timeout));
        }
    }

    /// Returns the workers whose master has ended. They are children of the supervisor then, unlike programs that they have
    /// started.
    fn orphans(&self) -> Vec<Pid> {
        let is_ours = |pid: &Pid| getpgid(Some(*pid)) == Ok(self.master);
        children(getpid()).into_iter().filter(|pid| *pid != self.master).filter(is_ours).collect()
    }

    /// Returns the processes that the master has started.
    pub fn workers(&self) -> Vec<Pid> {
        if self.is_running { children(self.master) } else { Vec::new() }
    }

    /// Returns whether the process belongs to this instance.
    pub fn has(&self, pid: Pid) -> bool {
        getpgid(Some(pid)) == Ok(self.master)
    }

    /// Sends the signal that is due.
    pub fn advance(&mut self, now: Instant) -> Advance {
        if !self.is_running && killpg(self.master, None) == Err(Errno::ESRCH) {
            return Advance::Gone;
        }
        match self.next {
            Some((Next::Terminate, due)) if due <= now => {
                self.terminate(now);
                if self.is_running { Advance::Late } else { Advance::Waiting }
            }
            Some((Next::Kill, due)) if due <= now => {
                let _ = killpg(self.master, Signal::SIGKILL);
                // Again later, for processes that were forked meanwhile.
                self.next = Some((Next::Kill, now + LEFTOVER_TIMEOUT));
                Advance::Waiting
            }
            _ => Advance::Waiting,
        }
    }
}

/// Returns the children of a process that has one thread.
fn children(pid: Pid) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_until_an_instance_has_run_for_a_while() {
        let (mut backoff, short) = (Backoff::default(), Duration::from_secs(9));
        let seconds: Vec<u64> = (0..7).map(|_| backoff.delay(short).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(backoff.delay(PROVEN), Duration::ZERO);
        assert_eq!(backoff.delay(short), FIRST_DELAY);
    }
}
