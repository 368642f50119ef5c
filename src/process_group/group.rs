//! A group in the supervisor: its sockets, its instances, and what is to be done about them.

mod check;
mod clients;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use self::check::Check;
use self::clients::Wait;
use super::control::{self, Client, Response};
use super::group_logs::GroupLogs;
use super::instance::{Advance, Backoff, Inherited, Instance};
use super::log_relay::{Relay, pipe};
use super::plan::GroupPlan;
use super::scaling::{Decision, SAMPLE_INTERVAL, Sample, Scaler};
use crate::conf::settings::quoted;
use crate::nginx::log::Level;
use crate::nginx::log_files::write_now as log;
use crate::os::memory_file;
use crate::os::run_directory;
use crate::os::spawn::End;
use crate::worker::scoreboard::{Scoreboard, Totals};

/// Time that workers have to take their slots of the scoreboard. Later they do not count as starting.
const START_TIME: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// Interval between two looks at a scoreboard from which nothing follows, to free its slots.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(10);

/// Time after a reload in which workers of the front may still pass requests to a group that the new configuration lacks.
const FRONT_TIME: Duration = Duration::from_secs(if cfg!(test) { 0 } else { 3 });

/// Interval between two looks at what is left of an instance.
const ENDING_INTERVAL: Duration = Duration::from_millis(100);

/// What a group is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// To run, now or after a delay.
    Running,
    /// To run as soon as a connection waits.
    Idle,
    /// Not to run until it is told to.
    Stopped,
    /// To leave nothing behind.
    Removed,
}

/// A process group.
pub struct Group {
    plan: GroupPlan,
    directory: PathBuf,
    mode: Mode,
    /// Listening socket, unless the group is stopped: connections that wait in it outlive instances.
    socket: Option<UnixListener>,
    control: Option<UnixListener>,
    scoreboard: Option<Scoreboard>,
    /// Status board of the workers, with `wsgi_status_zone`.
    status_board: Option<File>,
    /// Logs of its applications.
    logs: Option<GroupLogs>,
    /// Those that are to run. The one with the number 0 is the first, unless it has ended and waits for its restart.
    instances: Vec<Instance>,
    /// Those that were told to end or whose master has ended.
    ending: Vec<Instance>,
    backoff: Backoff,
    /// When the first instance is started, if it does not run.
    retry: Option<Instant>,
    restarts: u64,
    scaler: Scaler,
    next_sample: Instant,
    /// Requests at the last sample.
    requests: u64,
    last_activity: Instant,
    clients: Vec<(Client, Option<Wait>)>,
    check: Option<Check>,
    /// When the group is removed that the configuration no longer has.
    removal: Option<Instant>,
}

impl Group {
    pub fn new(plan: GroupPlan, directory: &Path) -> Self {
        let now = Instant::now();
        Self {
            mode: if plan.idle_timeout.is_some() { Mode::Idle } else { Mode::Running },
            plan,
            directory: directory.to_owned(),
            socket: None,
            control: None,
            scoreboard: None,
            status_board: None,
            logs: None,
            instances: Vec::new(),
            ending: Vec::new(),
            backoff: Backoff::default(),
            retry: None,
            restarts: 0,
            scaler: Scaler::default(),
            next_sample: now,
            requests: 0,
            last_activity: now,
            clients: Vec::new(),
            check: None,
            removal: None,
        }
    }

    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Returns the status board of the group's workers, once it has started, with `wsgi_status_zone`.
    pub fn status_board(&self) -> Option<&File> {
        self.status_board.as_ref()
    }

    /// Opens the sockets, and starts the group unless it waits for a connection.
    ///
    /// # Errors
    /// A message. The group is tried again later.
    pub fn start(&mut self, relays: &mut Vec<Relay>) -> Result<(), String> {
        self.retry = None;
        let result = self.prepare().map_err(|error| error.to_string()).and_then(|()| match self.mode {
            Mode::Running if !self.has_first() => self.start_instance(0, relays),
            _ => Ok(()),
        });
        result.map_err(|error| {
            let delay = self.backoff.delay(Duration::ZERO);
            self.retry = Some(Instant::now() + delay);
            let name = self.name();
            format!("wsgi: cannot start process group \"{name}\": {error}, trying again in {} s", delay.as_secs())
        })
    }

    /// Makes what the group's instances need, as far as it does not exist.
    fn prepare(&mut self) -> io::Result<()> {
        let (directory, name) = (&self.directory, self.plan.name.as_str());
        let user = self.plan.process.user.as_ref();
        run_directory::prepare_group(directory, name, user)?;
        if self.socket.is_none() {
            // nginx expects that an inherited socket does not block.
            let path = run_directory::socket(directory, name);
            self.socket = Some(run_directory::listen_to_front(directory, &path)?);
        }
        self.prepare_control();
        if self.scoreboard.is_none() {
            self.scoreboard = Some(Scoreboard::new()?);
        }
        if self.status_board.is_none()
            && let Some(words) = self.plan.status_words
        {
            self.status_board = Some(memory_file::create(c"wsgi status", words)?);
        }
        let logs = match &mut self.logs {
            Some(logs) => logs,
            None => self.logs.insert(GroupLogs::new()?),
        };
        logs.update(&self.plan.logs);
        Ok(())
    }

    fn prepare_control(&mut self) {
        let (directory, name) = (&self.directory, self.plan.name.as_str());
        if self.control.is_none() {
            match control::listen(&run_directory::control(directory, name), self.plan.process.user.as_ref()) {
                Ok(control) => self.control = Some(control),
                // The group works without it.
                Err(error) => {
                    let message = format!("wsgi: cannot open the control socket of process group \"{name}\": {error}");
                    log(Level::Error, &message);
                }
            }
        }
    }

    /// Writes the configuration of an instance.
    fn write_configuration(&self, number: usize, pid_file: usize) -> io::Result<()> {
        let (directory, name) = (&self.directory, self.plan.name.as_str());
        let workers = if number == 0 { self.plan.min.max(1) } else { 1 };
        let pid = run_directory::pid_file(directory, name, pid_file);
        let text = format!(
            "worker_processes {workers};\npid {};\n{}",
            quoted(&pid.to_string_lossy()),
            self.plan.configuration
        );
        let path = run_directory::configuration(directory, name, number);
        run_directory::write_configuration(&path, &text, self.plan.process.user.as_ref())
    }

    /// Returns the number of a pid file that no instance has, not even one that is about to end: it removes the file then.
    fn free_pid_file(&self) -> usize {
        let all = || self.instances.iter().chain(&self.ending);
        (0..).find(|number| all().all(|instance| instance.pid_file != *number)).unwrap_or(0)
    }

    fn inherited<'a>(
        &'a self,
        socket: &'a UnixListener,
        scoreboard: &'a Scoreboard,
        logs: &'a GroupLogs,
        output: BorrowedFd<'a>,
    ) -> Inherited<'a> {
        let status = self.status_board.as_ref().map(File::as_fd);
        let log_socket = logs.of_instances();
        Inherited { socket: socket.as_fd(), scoreboard: scoreboard.file().as_fd(), status, log_socket, output }
    }

    fn start_instance(&mut self, number: usize, relays: &mut Vec<Relay>) -> Result<(), String> {
        let pid_file = self.free_pid_file();
        self.write_configuration(number, pid_file).map_err(|error| error.to_string())?;
        let (mut relay, output) = pipe().map_err(|error| error.to_string())?;
        let (Some(socket), Some(scoreboard), Some(logs)) = (&self.socket, &self.scoreboard, &self.logs) else {
            return Ok(());
        };
        let inherited = self.inherited(socket, scoreboard, logs, output.as_fd());
        let instance = Instance::start(&self.plan, &self.directory, number, pid_file, inherited)
            .map_err(|error| error.to_string())?;
        let message = format!("wsgi: process group \"{}\" started, master {}", self.name(), instance.master);
        log(Level::Notice, &message);
        relay.set_source(self.name(), instance.master);
        relays.push(relay);
        let index = if number == 0 { 0 } else { self.instances.len() };
        self.instances.insert(index, instance);
        self.last_activity = Instant::now();
        self.next_sample = self.last_activity + SAMPLE_INTERVAL;
        Ok(())
    }

    /// Takes a new plan, as at a reload: the same instances read their configuration again, unless their process has other
    /// settings.
    ///
    /// # Errors
    /// A message. The group is tried again later.
    pub fn update(&mut self, plan: GroupPlan, relays: &mut Vec<Relay>) -> Result<(), String> {
        let old = std::mem::replace(&mut self.plan, plan);
        self.removal = None;
        if old.process.user != self.plan.process.user {
            self.control = None;
        }
        // An instance has the descriptor of the status board from its start.
        let has_other_board = old.status_words != self.plan.status_words;
        if has_other_board {
            self.status_board = None;
        }
        match self.mode {
            Mode::Stopped => {
                // Its user may start it again.
                let user = self.plan.process.user.as_ref();
                return run_directory::prepare_group(&self.directory, &self.plan.name, user)
                    .map(|()| self.prepare_control())
                    .map_err(|error| self.reload_failure(&error));
            }
            Mode::Removed => self.mode = if self.plan.idle_timeout.is_some() { Mode::Idle } else { Mode::Running },
            Mode::Idle if self.plan.idle_timeout.is_none() => self.mode = Mode::Running,
            Mode::Running | Mode::Idle => {}
        }
        self.backoff.reset();
        // It may have other limits.
        self.next_sample = Instant::now();
        if old.process != self.plan.process || has_other_board {
            self.stop_all(Some(old.stop_timeout));
        }
        if old.process.user != self.plan.process.user {
            // A program of the user before may have kept them, and would take requests.
            self.socket = None;
            self.scoreboard = None;
            self.status_board = None;
            self.finish_logs();
            self.logs = None;
        }
        let has_first = self.has_first();
        if has_first {
            self.prepare().map_err(|error| self.reload_failure(&error))?;
        } else {
            self.start(relays)?;
        }
        let extra = self.plan.max.saturating_sub(self.plan.min);
        while self.instances.len() > extra + 1 {
            self.stop_last();
        }
        // One that was just started has read it.
        self.reload(|instance| has_first || instance.number > 0).map_err(|error| self.reload_failure(&error))
    }

    /// Returns the logs of its applications, once it has been started.
    pub fn logs(&self) -> Option<&GroupLogs> {
        self.logs.as_ref()
    }

    /// Writes what its applications have logged.
    pub fn copy_logs(&mut self) {
        if let Some(logs) = &mut self.logs {
            logs.copy();
        }
    }

    /// Writes all that its applications have logged, at its end.
    pub fn finish_logs(&mut self) {
        if let Some(logs) = &mut self.logs {
            logs.finish();
        }
    }

    /// Returns whether there is anything left of the instance with this master.
    pub fn has_instance(&self, master: Pid) -> bool {
        self.instances.iter().chain(&self.ending).any(|instance| instance.master == master)
    }

    fn has_first(&self) -> bool {
        self.instances.first().is_some_and(|instance| instance.number == 0)
    }

    fn reload_failure(&self, error: &io::Error) -> String {
        format!("wsgi: cannot reload process group \"{}\": {error}", self.name())
    }

    fn reload(&mut self, is_affected: impl Fn(&Instance) -> bool) -> io::Result<()> {
        for instance in self.instances.iter().filter(|instance| is_affected(instance)) {
            self.write_configuration(instance.number, instance.pid_file)?;
            instance.reload();
        }
        // The new workers have no calls yet.
        self.last_activity = Instant::now();
        Ok(())
    }

    fn stop_last(&mut self) {
        if let Some(mut instance) = self.instances.pop() {
            instance.stop(Some(self.plan.stop_timeout));
            self.ending.push(instance);
        }
    }

    fn stop_all(&mut self, timeout: Option<Duration>) {
        self.ending.append(&mut self.instances);
        self.ending.iter_mut().for_each(|instance| instance.stop(timeout));
        self.retry = None;
        self.scaler = Scaler::default();
    }

    /// Closes the listening socket, so that clients do not wait for a group that does not run.
    fn close_socket(&mut self) {
        self.socket = None;
        run_directory::remove_socket(&self.directory, self.name());
    }

    /// Ends the group for good, gracefully, once the workers of the front with the configuration before have stopped to
    /// accept requests for it.
    pub fn retire(&mut self) {
        if self.mode != Mode::Removed && self.removal.is_none() {
            self.removal = Some(Instant::now() + FRONT_TIME);
        }
    }

    /// Ends the group for good: gracefully or at once.
    pub fn remove(&mut self, gracefully: bool) {
        self.mode = Mode::Removed;
        self.removal = None;
        self.stop_all(gracefully.then_some(self.plan.stop_timeout));
        self.close_socket();
        self.control = None;
        if let Some(check) = &self.check {
            let _ = killpg(check.process, Signal::SIGKILL);
        }
    }

    /// Returns true once nothing runs of a group that is removed.
    pub fn is_gone(&self) -> bool {
        self.mode == Mode::Removed && self.instances.is_empty() && self.ending.is_empty() && self.check.is_none()
    }

    /// Removes the files of a group that is gone.
    pub fn remove_files(&self) {
        run_directory::remove_group(&self.directory, self.name());
    }

    /// Notes that a process has ended, if it is one of this group's. Returns whether it is.
    pub fn note_end(&mut self, process: Pid, end: End) -> bool {
        if self.check.as_ref().is_some_and(|check| check.process == process) {
            self.finish_check(end);
            return true;
        }
        let timeout = self.plan.stop_timeout;
        if let Some(instance) = self.ending.iter_mut().find(|instance| instance.is_master(process)) {
            instance.note_end(timeout);
            return true;
        }
        let Some(index) = self.instances.iter().position(|instance| instance.is_master(process)) else {
            return false;
        };
        let mut instance = self.instances.remove(index);
        instance.note_end(timeout);
        self.restarts += 1;
        let mut next = String::new();
        if instance.number == 0 {
            let delay = self.backoff.delay(instance.started.elapsed());
            self.retry = Some(Instant::now() + delay);
            next = match delay.as_secs() {
                0 => ", restarting".to_owned(),
                seconds => format!(", restarting in {seconds} s"),
            };
        }
        let level = if end == End::Code(0) { Level::Notice } else { Level::Alert };
        log(level, &format!("wsgi: process group \"{}\" master {process} exited {end}{next}", self.name()));
        self.ending.push(instance);
        true
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant, relays: &mut Vec<Relay>) {
        let name = &self.plan.name;
        self.ending.retain_mut(|instance| match instance.advance(now) {
            Advance::Gone => false,
            Advance::Waiting => true,
            Advance::Late => {
                let master = instance.master;
                let message =
                    format!("wsgi: process group \"{name}\" master {master} has not ended within its stop_timeout");
                log(Level::Warn, &message);
                true
            }
        });
        if self.removal.is_some_and(|due| due <= now) {
            self.remove(true);
        }
        if self.retry.is_some_and(|due| due <= now)
            && let Err(failure) = self.start(relays)
        {
            log(Level::Alert, &failure);
        }
        if self.next_sample <= now {
            self.sample(now, relays);
        }
        if let Some(check) = &mut self.check {
            check.enforce_timeout(now);
        }
        if self.instances.is_empty() && self.ending.is_empty() {
            self.answer(Wait::Stop, &Response::ok("stopped"));
        }
        self.clients.retain(|(client, _)| !client.is_done(now));
    }

    /// Returns when [`Group::tick`] has something to do at the latest.
    pub fn next_tick(&self, now: Instant) -> Instant {
        let clients = self.clients.iter().filter_map(|(client, _)| client.deadline());
        let ending = (!self.ending.is_empty()).then_some(now + ENDING_INTERVAL);
        let check = self.check.as_ref().map(|check| check.deadline);
        clients.chain(ending).chain(check).chain(self.retry).chain(self.removal).fold(self.next_sample, Instant::min)
    }

    /// Looks at the load, and starts or stops workers.
    fn sample(&mut self, now: Instant, relays: &mut Vec<Relay>) {
        let decides = self.plan.max > self.plan.min || self.plan.idle_timeout.is_some();
        let is_running = self.mode == Mode::Running && !self.instances.is_empty();
        self.next_sample = now + if decides && is_running { SAMPLE_INTERVAL } else { HOUSEKEEPING_INTERVAL };
        let totals = self.totals();
        if !decides || !is_running {
            return;
        }
        let backlog = self.has_backlog();
        if totals.requests != self.requests || totals.has_calls() || backlog {
            self.last_activity = now;
        }
        self.requests = totals.requests;
        if self.plan.idle_timeout.is_some_and(|timeout| now.duration_since(self.last_activity) >= timeout) {
            log(Level::Notice, &format!("wsgi: process group \"{}\" is idle, stopping it", self.name()));
            self.stop_all(Some(self.plan.stop_timeout));
            self.mode = Mode::Idle;
            return;
        }
        let (min, max) = (self.plan.min.max(1), self.plan.max);
        // With those of the first instance also while it waits for its restart.
        let workers = min + self.instances.iter().filter(|instance| instance.number > 0).count();
        let newest = self.instances.iter().map(|instance| instance.started).max().unwrap_or(now);
        let sample = Sample {
            waiting: totals.waiting.saturating_add(u64::from(backlog)),
            busy: totals.busy,
            capacity: totals.capacity,
            starting: totals.workers < workers && now.duration_since(newest) < START_TIME,
        };
        match self.scaler.decide(now, sample, workers, min, max) {
            Decision::Keep => {}
            Decision::More => {
                let message = format!("wsgi: calls of process group \"{}\" wait, starting another worker", self.name());
                log(Level::Notice, &message);
                let numbers = 1..;
                let number =
                    numbers.into_iter().find(|number| self.instances.iter().all(|known| known.number != *number));
                if let Err(error) = self.start_instance(number.unwrap_or(1), relays) {
                    let message =
                        format!("wsgi: cannot start another worker of process group \"{}\": {error}", self.name());
                    log(Level::Alert, &message);
                }
            }
            Decision::Less => {
                let message = format!("wsgi: process group \"{}\" needs a worker less, stopping it", self.name());
                log(Level::Notice, &message);
                self.stop_last();
            }
        }
    }

    fn totals(&mut self) -> Totals {
        let all = || self.instances.iter().chain(&self.ending);
        let is_worker = |pid| all().any(|instance| instance.has(Pid::from_raw(pid)));
        self.scoreboard.as_mut().map(|scoreboard| scoreboard.read(is_worker)).unwrap_or_default()
    }

    /// Returns whether connections wait that no worker has accepted.
    fn has_backlog(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| {
            let mut descriptors = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            poll(&mut descriptors, PollTimeout::ZERO).is_ok_and(|count| count > 0)
        })
    }

    /// Returns the listening socket while its first connection starts the group.
    pub fn demand(&self) -> Option<&UnixListener> {
        self.socket.as_ref().filter(|_| self.mode == Mode::Idle && self.retry.is_none())
    }

    /// Starts a group that was idle.
    pub fn on_demand(&mut self, relays: &mut Vec<Relay>) {
        self.mode = Mode::Running;
        if let Err(failure) = self.start(relays) {
            log(Level::Alert, &failure);
        }
    }
}
