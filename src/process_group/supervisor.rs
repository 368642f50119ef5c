//! The process that starts and watches the instances of all groups.
//!
//! It has one thread, which waits for one of its descriptors or for the next time at which something is due. A group that
//! fails never ends the others.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::group::Group;
use super::log_relay::{Logs, Relay, close_leftovers};
use super::master::{self, Command, Reply};
use super::plan::Plan;
use super::status::StatusSocket;
use crate::nginx::log::Level;
use crate::nginx::log_files::write_now as log;
use crate::os::spawn::reap;
use crate::os::{child, run_directory};

/// Longest wait: log files that were renamed are closed by then.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Time that programs have which outlive their groups, until the next signal.
const LEFTOVER_TIME: Duration = Duration::from_secs(1);
const LEFTOVER_INTERVAL: Duration = Duration::from_millis(20);

/// Time beyond the stop timeouts after which the supervisor ends, whatever has not.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// All groups, and what connects them with the master.
struct Supervisor {
    /// Connection to the master, which sees its end; `None` once the master has ended.
    channel: Option<UnixStream>,
    received: Vec<u8>,
    signals: SignalFd,
    /// Directory of the slot, once a plan has named it.
    directory: Option<PathBuf>,
    longest_stop: Duration,
    /// For status pages and readiness addresses of the front.
    status: Option<StatusSocket>,
    groups: Vec<Group>,
    relays: Vec<Relay>,
    logs: Logs,
    /// When the supervisor ends at the latest.
    end: Option<Instant>,
}

/// Descriptor that is ready.
enum Ready {
    Channel,
    Signals,
    Relay(usize),
    Logs(usize),
    Control(usize),
    Client(usize, usize),
    Check(usize),
    Demand(usize),
    Status,
}

/// Runs the supervisor in this process, which was forked for it, until the master has ended or told it to end.
pub fn run(channel: UnixStream, logs: Logs) {
    // An orphan's parent is this process then, which sees what is left of an instance.
    let _ = set_child_subreaper(true);
    let signals = match wait_for_signals() {
        Ok(signals) => signals,
        Err(error) => return log(Level::Alert, &format!("wsgi: cannot start the supervisor: {error}")),
    };
    let mut supervisor = Supervisor {
        channel: Some(channel),
        received: Vec::new(),
        signals,
        directory: None,
        longest_stop: Duration::ZERO,
        status: None,
        groups: Vec::new(),
        relays: Vec::new(),
        logs,
        end: None,
    };
    while supervisor.is_needed() {
        supervisor.iterate();
    }
    supervisor.leave();
}

/// Ends the programs that applications have started in sessions of their own: they have become children of this process.
fn end_children() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let deadline = Instant::now() + LEFTOVER_TIME;
        // Children of a child that has ended are children of this process then.
        while let Some(children) = child::children()
            && !children.is_empty()
            && Instant::now() < deadline
        {
            for process in children {
                let _ = kill(process, signal);
            }
            std::thread::sleep(LEFTOVER_INTERVAL);
            while reap().is_some() {}
        }
    }
}

fn wait_for_signals() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        signals.add(signal);
    }
    // Without effect. (A client of a control socket may leave early, and the others are for masters.)
    for signal in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH] {
        signals.add(signal);
    }
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

fn log_status_failure(error: &io::Error) {
    log(Level::Error, &format!("wsgi: status pages have no process groups, cannot open their socket: {error}"));
}

impl Supervisor {
    fn is_needed(&self) -> bool {
        self.end.is_none_or(|end| !self.groups.is_empty() && Instant::now() < end)
    }

    fn iterate(&mut self) {
        let ready = self.wait();
        self.logs.follow_rotation();
        for ready in ready {
            match ready {
                Ready::Channel => self.receive(),
                Ready::Signals => self.take_signals(),
                Ready::Relay(index) => self.relays[index].copy(&mut self.logs),
                Ready::Logs(group) => self.groups[group].copy_logs(),
                Ready::Control(group) => self.groups[group].accept(),
                Ready::Client(group, client) => self.groups[group].serve(client, &mut self.relays),
                Ready::Check(group) => self.groups[group].read_check_output(),
                Ready::Demand(group) => self.groups[group].on_demand(&mut self.relays),
                Ready::Status => self.answer_status(),
            }
        }
        let now = Instant::now();
        self.relays.retain(Relay::is_open);
        self.groups.iter_mut().for_each(|group| group.tick(now, &mut self.relays));
        self.groups.retain_mut(|group| {
            let is_gone = group.is_gone();
            if is_gone {
                group.finish_logs();
                group.remove_files();
            }
            !is_gone
        });
        let groups = &self.groups;
        close_leftovers(&mut self.relays, &mut self.logs, |name, master| {
            groups.iter().any(|group| group.name() == name && group.has_instance(master))
        });
    }

    /// Waits, and returns the descriptors that are ready. Only the last of them changes the list of groups.
    fn wait(&self) -> Vec<Ready> {
        let now = Instant::now();
        let next = self.groups.iter().map(|group| group.next_tick(now)).fold(now + LONGEST_WAIT, Instant::min);
        let next = self.end.map_or(next, |end| end.min(next));
        let mut sources = Vec::new();
        let mut descriptors = Vec::new();
        let mut add = |source, descriptor, flags| {
            sources.push(source);
            descriptors.push(PollFd::new(descriptor, flags));
        };
        for (index, relay) in self.relays.iter().enumerate() {
            add(Ready::Relay(index), relay.as_fd(), PollFlags::POLLIN);
        }
        for (index, group) in self.groups.iter().enumerate() {
            for (number, client) in group.clients() {
                let flags = if client.is_writing() { PollFlags::POLLOUT } else { PollFlags::POLLIN };
                add(Ready::Client(index, number), client.as_fd(), flags);
            }
            if let Some(logs) = group.logs() {
                add(Ready::Logs(index), logs.as_fd(), PollFlags::POLLIN);
            }
            if let Some(socket) = group.control() {
                add(Ready::Control(index), socket.as_fd(), PollFlags::POLLIN);
            }
            if let Some(output) = group.check_output() {
                add(Ready::Check(index), output.as_fd(), PollFlags::POLLIN);
            }
            if let Some(socket) = group.demand() {
                add(Ready::Demand(index), socket.as_fd(), PollFlags::POLLIN);
            }
        }
        if let Some(status) = &self.status {
            add(Ready::Status, status.as_fd(), PollFlags::POLLIN);
        }
        add(Ready::Signals, self.signals.as_fd(), PollFlags::POLLIN);
        if let Some(channel) = &self.channel {
            add(Ready::Channel, channel.as_fd(), PollFlags::POLLIN);
        }
        // Rounded up, as it would wake early otherwise, and again at once.
        let wait = next.saturating_duration_since(now).as_micros().div_ceil(1000);
        let _ = poll(&mut descriptors, PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX));
        let is_ready = |descriptor: &PollFd| descriptor.any().unwrap_or(true);
        let ready: Vec<bool> = descriptors.iter().map(is_ready).collect();
        sources.into_iter().zip(ready).filter_map(|(source, is_ready)| is_ready.then_some(source)).collect()
    }

    /// Reads commands of the master. Its end is one as well.
    fn receive(&mut self) {
        let Some(channel) = &mut self.channel else { return };
        let mut buffer = vec![0; 64 * 1024];
        match channel.read(&mut buffer) {
            Ok(0) => return self.lose_master(),
            Ok(length) => self.received.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return,
            Err(_) => return self.lose_master(),
        }
        while let Some(text) = master::take_message(&mut self.received) {
            match serde_json::from_slice(&text) {
                Ok(Command::Apply { number, plan, logs }) => {
                    self.logs.rename(&logs);
                    let failures = self.apply(plan);
                    if let Some(channel) = &mut self.channel {
                        // A master that is gone is seen above.
                        let _ = master::send(channel, &Reply { number, failures });
                    }
                }
                Ok(Command::End { gracefully }) => self.begin_end(gracefully),
                Err(error) => {
                    let message = format!("wsgi: the supervisor cannot read the plan of the master: {error}");
                    log(Level::Alert, &message);
                }
            }
        }
    }

    /// Takes a new plan. Returns a message for each group that could not be started.
    fn apply(&mut self, plan: Plan) -> Vec<String> {
        let mut failures = Vec::new();
        if self.end.is_some() {
            return failures;
        }
        self.longest_stop = self.longest_stop.max(plan.longest_stop());
        if self.directory.is_none() {
            if let Err(error) = run_directory::prepare(&plan.directory, plan.front_group) {
                failures.push(format!("wsgi: cannot use \"{}\": {error}", plan.directory.display()));
            }
            self.directory = Some(plan.directory.clone());
        } else if !plan.groups.is_empty()
            && let Err(error) = run_directory::prepare_sockets(&plan.directory, plan.front_group)
        {
            failures.push(format!("wsgi: cannot use \"{}\": {error}", plan.directory.display()));
        }
        if self.status.is_none() && !plan.groups.is_empty() {
            // The groups work without it.
            self.status = StatusSocket::open(&plan.directory).map_err(|error| log_status_failure(&error)).ok();
        }
        for group in &mut self.groups {
            if !plan.groups.iter().any(|planned| planned.name == group.name()) {
                group.retire();
            }
        }
        for planned in plan.groups {
            let known = self.groups.iter_mut().find(|group| group.name() == planned.name);
            let result = match known {
                Some(group) => group.update(planned, &mut self.relays),
                None => {
                    self.groups.push(Group::new(planned, &plan.directory));
                    self.groups.last_mut().map_or(Ok(()), |group| group.start(&mut self.relays))
                }
            };
            failures.extend(result.err());
        }
        failures
    }

    fn answer_status(&mut self) {
        if let Some(status) = &self.status {
            status.answer(&mut self.groups);
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => self.reap(),
                Ok(Signal::SIGTERM | Signal::SIGINT) => self.begin_end(false),
                Ok(Signal::SIGQUIT) => self.begin_end(true),
                _ => {}
            }
        }
    }

    fn reap(&mut self) {
        while let Some((process, end)) = reap() {
            // Others are orphans.
            let _ = self.groups.iter_mut().any(|group| group.note_end(process, end));
        }
    }

    /// Ends all groups, and the supervisor once they have ended.
    fn begin_end(&mut self, gracefully: bool) {
        let stop = if gracefully { self.longest_stop } else { Duration::ZERO };
        let end = Instant::now() + stop + END_TIMEOUT;
        self.end = Some(self.end.map_or(end, |earlier| earlier.min(end)));
        self.groups.iter_mut().for_each(|group| group.remove(gracefully));
    }

    fn lose_master(&mut self) {
        self.channel = None;
        self.begin_end(true);
    }

    /// Leaves nothing behind.
    fn leave(&mut self) {
        end_children();
        self.groups.iter_mut().for_each(Group::finish_logs);
        self.groups.iter().for_each(Group::remove_files);
        for relay in &mut self.relays {
            relay.copy(&mut self.logs);
        }
        if let Some(directory) = &self.directory {
            run_directory::remove_slot(directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::path::Path;

    use serde_json::Value;

    use super::super::plan::tests::group;
    use super::super::plan::{GroupPlan, Plan};
    use super::*;
    use crate::os::run_directory;
    use crate::os::spawn::fork_detached;
    use crate::os::system::is_alive;

    /// A supervisor in a process of its own, with instances of nginx that need no module.
    struct Site {
        channel: UnixStream,
        _parent: tempfile::TempDir,
        directory: PathBuf,
    }

    impl Site {
        fn start() -> Self {
            let parent = tempfile::tempdir().unwrap();
            let (channel, there) = UnixStream::pair().unwrap();
            fork_detached(&[there.as_raw_fd(), libc::STDERR_FILENO], || run(there, Logs::new(Vec::new(), false)))
                .unwrap();
            let directory = run_directory::claim_for_test(&parent.path().join("run"));
            Self { channel, _parent: parent, directory }
        }

        fn plan(&self, groups: Vec<GroupPlan>) -> Plan {
            Plan { directory: self.directory.clone(), front_group: None, groups }
        }

        fn apply(&mut self, groups: Vec<GroupPlan>) -> Vec<String> {
            let plan = self.plan(groups);
            master::send(&mut self.channel, &Command::Apply { number: 1, plan, logs: Vec::new() }).unwrap();
            master::receive::<Reply>(&mut self.channel, &mut Vec::new()).unwrap().failures
        }

        /// A group whose nginx responds with this text.
        fn group(&self, name: &str, text: &str) -> GroupPlan {
            let socket = run_directory::socket(&self.directory, name);
            let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
            let configuration = format!(
                "{user} daemon off; error_log stderr notice; events {{}}
                http {{ access_log off; server {{ listen unix:{}; location / {{ return 200 \"{text}\"; }} }} }}",
                socket.display()
            );
            GroupPlan { configuration, ..group(name) }
        }

        fn get(&self, name: &str) -> io::Result<String> {
            let mut stream = UnixStream::connect(run_directory::socket(&self.directory, name))?;
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut response = String::new();
            stream.read_to_string(&mut response)?;
            Ok(response.rsplit_once("\r\n").unwrap_or_default().1.to_owned())
        }

        fn control(&self, name: &str, command: &str) -> Value {
            let mut stream = UnixStream::connect(run_directory::control(&self.directory, name)).unwrap();
            stream.write_all(format!("{command}\n").as_bytes()).unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).unwrap();
            serde_json::from_str(&response).unwrap()
        }

        fn status(&self, name: &str) -> Value {
            self.control(name, "status")["group"].take()
        }

        fn master(&self, name: &str) -> u32 {
            self.status(name)["processes"][0]["master"].as_u64().unwrap_or_default() as u32
        }

        fn workers(&self, name: &str) -> Vec<u32> {
            let mut status = self.status(name);
            let workers =
                status["processes"].as_array_mut().unwrap().iter_mut().map(|process| process["workers"].take());
            workers.flat_map(|pids| serde_json::from_value::<Vec<u32>>(pids).unwrap()).collect()
        }
    }

    fn wait_for(what: &str, check: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !check() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn has_nginx() -> bool {
        Path::new(&group("").process.program).exists()
    }

    #[test]
    fn groups_start_reload_restart_and_end() {
        if !has_nginx() {
            return;
        }
        let mut site = Site::start();
        let (blog, shop) = (site.group("blog", "blog 1"), site.group("shop", "shop 1"));
        assert_eq!(site.apply(vec![blog.clone(), shop.clone()]), Vec::<String>::new());
        assert_eq!((site.get("blog").unwrap(), site.get("shop").unwrap()), ("blog 1".into(), "shop 1".into()));
        let (blog_master, shop_master) = (site.master("blog"), site.master("shop"));
        let workers = site.workers("blog");
        assert_eq!(workers.len(), 1);

        // The same master reads its new configuration, even before it is ready for signals.
        let fast = site.group("fast", "fast 1");
        site.apply(vec![blog.clone(), shop.clone(), fast.clone()]);
        let fast_master = site.master("fast");
        let mut changed = fast;
        changed.configuration = changed.configuration.replace("fast 1", "fast 2");
        site.apply(vec![blog, shop.clone(), changed]);
        wait_for("the new configuration", || site.get("fast").unwrap() == "fast 2");
        assert_eq!(site.master("fast"), fast_master);

        let changed = GroupPlan { min: 2, max: 2, ..site.group("blog", "blog 2") };
        site.apply(vec![changed.clone(), shop.clone()]);
        wait_for("the new configuration", || site.get("blog").unwrap() == "blog 2");
        assert_eq!((site.master("blog"), site.master("shop")), (blog_master, shop_master));
        wait_for("two new workers", || !is_alive(workers[0]) && site.workers("blog").len() == 2);

        // Connections wait while a killed instance is replaced.
        let workers = site.workers("blog");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(blog_master as i32), Signal::SIGKILL).unwrap();
        wait_for("the end of orphans", || !workers.iter().any(|worker| is_alive(*worker)));
        assert_eq!(site.get("blog").unwrap(), "blog 2");
        assert_ne!(site.master("blog"), blog_master);
        assert_eq!(site.status("blog")["restarts"], 1);

        // Another process for other settings, and one group less.
        let (before, shop_master) = (site.master("blog"), site.master("shop"));
        let mut other = changed;
        other.process.umask = 0o77;
        site.apply(vec![other]);
        assert_ne!(site.master("blog"), before);
        wait_for("the end of the old ones", || !is_alive(before) && !is_alive(shop_master));
        assert_eq!(site.get("blog").unwrap(), "blog 2");
        wait_for("the removal of files", || !run_directory::of_group(&site.directory, "shop").exists());

        // The end of the master ends everything.
        let last = site.master("blog");
        let Site { channel, _parent, directory } = site;
        drop(channel);
        wait_for("the end", || !is_alive(last) && !directory.exists());
    }

    #[test]
    fn a_group_is_stopped_started_and_checked_on_command() {
        if !has_nginx() {
            return;
        }
        let mut site = Site::start();
        let blog = site.group("blog", "blog 1");
        site.apply(vec![blog]);
        let master = site.master("blog");
        assert_eq!(site.control("blog", "reload"), serde_json::json!({"ok": true, "message": "reloading"}));
        assert_eq!(site.control("blog", "stop")["ok"], true);
        assert!(!is_alive(master) && site.get("blog").is_err());
        assert_eq!(site.status("blog")["state"], "stopped");
        // A reload of the front does not start it.
        let broken = GroupPlan { configuration: "nonsense;".to_owned(), ..site.group("blog", "") };
        site.apply(vec![broken]);
        assert!(site.get("blog").is_err());
        let fixed = site.group("blog", "blog 2");
        site.apply(vec![fixed]);
        assert_eq!(site.control("blog", "start")["ok"], true);
        assert_eq!(site.get("blog").unwrap(), "blog 2");

        // With an error in the configuration the instance keeps the old one.
        let mut broken = site.group("blog", "blog 3");
        broken.configuration.push_str("nonsense;");
        let master = site.master("blog");
        site.apply(vec![broken]);
        let answer = site.control("blog", "reload");
        assert_eq!(answer["ok"], false);
        assert!(answer["message"].as_str().unwrap().contains("unknown directive \"nonsense\""), "{answer}");
        assert_eq!((site.get("blog").unwrap(), site.master("blog")), ("blog 2".into(), master));
        assert_eq!(site.control("blog", "dance")["ok"], false);

        master::send(&mut site.channel, &Command::End { gracefully: false }).unwrap();
        assert_eq!(site.channel.read(&mut [0]).unwrap(), 0);
        assert!(!is_alive(master) && !site.directory.exists());
    }

    #[test]
    fn a_group_on_demand_starts_with_a_connection_and_stops_when_idle() {
        if !has_nginx() {
            return;
        }
        let mut site = Site::start();
        let group = GroupPlan { idle_timeout: Some(Duration::from_millis(500)), ..site.group("blog", "here") };
        site.apply(vec![group]);
        for _ in 0..2 {
            assert_eq!(site.status("blog")["state"], "idle");
            assert_eq!(site.get("blog").unwrap(), "here");
            let master = site.master("blog");
            wait_for("the end of an idle instance", || !is_alive(master));
        }
    }

    #[test]
    fn a_group_whose_connections_wait_gets_another_worker() {
        if !has_nginx() {
            return;
        }
        let mut site = Site::start();
        site.apply(vec![GroupPlan { max: 2, ..site.group("blog", "here") }]);
        wait_for("a worker", || site.workers("blog").len() == 1);
        let stuck = nix::unistd::Pid::from_raw(site.workers("blog")[0] as i32);
        nix::sys::signal::kill(stuck, Signal::SIGSTOP).unwrap();
        // The first worker accepts none.
        assert_eq!(site.get("blog").unwrap(), "here");
        assert_eq!(site.status("blog")["processes"].as_array().unwrap().len(), 2);
        // It does not hold up the end either.
        master::send(&mut site.channel, &Command::End { gracefully: false }).unwrap();
        assert_eq!(site.channel.read(&mut [0]).unwrap(), 0);
        wait_for("its end", || !is_alive(stuck.as_raw() as u32));
    }

    #[test]
    fn a_group_that_cannot_start_is_tried_again_beside_the_others() {
        if !has_nginx() {
            return;
        }
        let mut site = Site::start();
        let mut broken = site.group("broken", "now it works");
        broken.process.chdir = site.directory.join("later");
        let failures = site.apply(vec![broken, site.group("blog", "here")]);
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert!(failures[0].starts_with("wsgi: cannot start process group \"broken\": cannot change to the directory"));
        assert_eq!(site.get("blog").unwrap(), "here");
        assert_eq!(site.status("broken")["state"], "waiting to restart");
        fs::create_dir(site.directory.join("later")).unwrap();
        assert_eq!(site.get("broken").unwrap(), "now it works");
        fs::remove_dir(site.directory.join("later")).unwrap();
    }
}
