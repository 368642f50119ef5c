//! An nginx that runs: asks it, signals it, reads its logs, and leaves nothing behind.

use super::logs::read;
use super::site::nginx_command;
use super::{Client, PATIENCE, Process, Site, uses_process_group, wait_for};
use std::fs;
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

pub struct Nginx {
    client: Client,
    site: Site,
    child: Child,
    master: i32,
    stopped: bool,
    /// Lines of the error log that the test has waited for.
    expected_errors: Vec<String>,
}

impl Deref for Nginx {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Nginx {
    pub(super) fn start(mut site: Site) -> Nginx {
        // Between choosing a port and binding it another program may take it: then nginx says so, and it is tried again.
        for _ in 0..5 {
            match Nginx::try_start(site) {
                Ok(nginx) => return nginx,
                Err(back) => site = *back,
            }
            site.new_port();
        }
        panic!("no free port");
    }

    fn try_start(site: Site) -> Result<Nginx, Box<Site>> {
        let conf = site.write();
        let log = site.prefix().join("logs/error.log");
        let stderr = fs::File::create(site.prefix().join("logs/stderr")).unwrap();
        let mut command = nginx_command(&site, &conf);
        command.stdin(Stdio::null()).stdout(stderr.try_clone().unwrap()).stderr(stderr).process_group(0);
        // SAFETY: prctl is async-signal-safe; nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // Should the tests be killed, nginx ends too.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let mut child = command.spawn().expect("run nginx");
        let start = Instant::now();
        loop {
            let text = read(&log);
            // The sockets are bound by then; the kernel queues connections until a worker accepts.
            let bound = text.contains("using the \"");
            if bound && (text.contains("start worker process ") || !conf_has_master(&conf)) {
                break;
            }
            let exited = child.try_wait().unwrap().is_some_and(|s| !s.success());
            if text.contains("(98: Address already in use)") {
                kill_group(child.id() as i32, libc::SIGKILL);
                child.wait().unwrap();
                fs::remove_file(&log).unwrap();
                return Err(Box::new(site));
            }
            if exited || start.elapsed() > PATIENCE {
                kill_group(child.id() as i32, libc::SIGKILL);
                let said = read(&site.prefix().join("logs/stderr"));
                panic!("nginx did not start:\n{said}{text}");
            }
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        let master = wait_for("the pid file", || read(&site.prefix().join("logs/nginx.pid")).trim().parse().ok());
        let client = Client::new(site.prefix(), site.port);
        let nginx = Nginx { client, site, child, master, stopped: false, expected_errors: Vec::new() };
        if conf_has_master(&conf) {
            // A worker has its title a moment after it was forked.
            let count = nginx.site.workers;
            wait_for("the workers", || (nginx.workers().len() == count).then_some(()));
        }
        Ok(nginx)
    }

    /// Waits for a line of the error log that the test expects, at any level.
    #[track_caller]
    pub fn wait_expected_error(&mut self, text: &str) -> String {
        let line = self.wait_log(text);
        self.expected_errors.push(line.clone());
        line
    }

    /// Expects the lines of the error log so far that hold `text`, at any level.
    pub fn expect_errors(&mut self, text: &str) {
        let lines = self.logged(text);
        self.expected_errors.extend(lines);
    }

    /// Starts it again once it has ended, however that was: the remains of it may still be there.
    #[track_caller]
    pub fn start_again(&mut self) {
        assert!(self.stopped, "it runs");
        for name in ["error.log", "nginx.pid"] {
            let path = self.prefix().join("logs").join(name);
            let _ = fs::rename(&path, path.with_extension("before"));
        }
        let _ = self.child.wait();
        let site = std::mem::replace(&mut self.site, Site::plain());
        *self = Nginx::start(site);
    }

    /// Takes the master that has written the pid file for the one that this is about: that of the other generation in an
    /// upgrade. Returns its id.
    #[track_caller]
    pub fn follow_pid_file(&mut self) -> i32 {
        let old = self.master;
        self.master = wait_for("another master", || {
            let pid = self.read("logs/nginx.pid").trim().parse().ok()?;
            (pid != old && Process(pid).is_alive()).then_some(pid)
        });
        self.master
    }

    // ---- processes ----------------------------------------------------------------------------------------------

    pub fn master(&self) -> i32 {
        self.master
    }

    /// Workers that take connections.
    pub fn workers(&self) -> Vec<i32> {
        self.children("nginx: worker process")
    }

    /// Workers that run applications: those above, or those of the process group that the tests run in.
    pub fn application_workers(&self) -> Vec<i32> {
        if !uses_process_group() {
            return self.workers();
        }
        let children = |parents: Vec<i32>, title: &str| {
            let is_child = |process: &Process| {
                process.title() == title && process.parent().is_some_and(|parent| parents.contains(&parent))
            };
            Process::all().into_iter().filter(is_child).map(|process| process.0).collect()
        };
        let titles = ["nginx: wsgi supervisor", "nginx: wsgi tests master", "nginx: wsgi tests worker"];
        wait_for("the process group", || {
            let workers = titles.into_iter().fold(vec![self.master], children);
            (!workers.is_empty()).then_some(workers)
        })
    }

    /// Directory of temporary files where `wsgi_temp_path` is `name`. A process group has one of its own.
    pub fn temporary_directory(&self, name: &str) -> PathBuf {
        self.prefix().join(if uses_process_group() { "wsgi_run/tests/tmp/body" } else { name })
    }

    /// Children of the master whose title is this one.
    pub fn children(&self, title: &str) -> Vec<i32> {
        self.all_children().into_iter().filter(|(_, t)| t == title).map(|(pid, _)| pid).collect()
    }

    /// Every child of the master with its title.
    pub fn all_children(&self) -> Vec<(i32, String)> {
        let children = Process::all().into_iter().filter(|process| process.parent() == Some(self.master));
        let mut found: Vec<(i32, String)> = children.map(|process| (process.0, process.title())).collect();
        found.sort();
        found
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: no memory is involved.
        let sent = unsafe { libc::kill(self.master, signal) };
        assert_eq!(sent, 0, "signal {signal} to the master {}", self.master);
    }

    /// Rewrites the configuration after `change`, without a reload.
    pub fn reconfigure(&mut self, change: impl FnOnce(Site) -> Site) {
        let site = std::mem::replace(&mut self.site, Site::plain());
        self.site = change(site);
        self.site.write();
    }

    /// Runs nginx with its configuration and more arguments (`-t`, `-s`), until that process ends.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let conf = self.prefix().join("conf/nginx.conf");
        nginx_command(&self.site, &conf).args(arguments).stdin(Stdio::null()).output().expect("run nginx")
    }

    /// `nginx -s reload`'s signal; returns when every old worker takes no more connections, with the new workers.
    #[track_caller]
    pub fn reload(&self) -> Vec<i32> {
        let old = self.workers();
        self.signal(libc::SIGHUP);
        wait_for("new workers", || {
            let now = self.workers();
            (now.len() == old.len() && now.iter().all(|pid| !old.contains(pid))).then_some(now)
        })
    }

    /// A reload that nginx refuses: returns the `[emerg]` line.
    #[track_caller]
    pub fn reload_refused(&mut self) -> String {
        let before = self.logged("[emerg]").len();
        self.signal(libc::SIGHUP);
        let mut woken = Instant::now();
        let line = wait_for("a refused reload", || {
            // Without a master nginx sees a signal that came just before it waits for events only after the next one.
            if woken.elapsed() > Duration::from_secs(1) {
                woken = Instant::now();
                drop(self.connect());
            }
            self.logged("[emerg]").into_iter().nth(before)
        });
        self.expected_errors.push(line.clone());
        line
    }

    /// Ends it gracefully, as at the end of every test, and looks through its log.
    #[track_caller]
    pub fn quit(mut self) {
        self.end(libc::SIGQUIT);
    }

    /// Ends it at once (`nginx -s stop`), and looks through its log.
    #[track_caller]
    pub fn terminate(mut self) {
        self.end(libc::SIGTERM);
    }

    /// Signals, waits until it has gone; what the error log holds then.
    #[track_caller]
    pub fn stop_by(&mut self, signal: i32) -> String {
        self.signal(signal);
        if !self.gone_within_patience() {
            kill_group(self.master, libc::SIGKILL);
            self.stopped = true;
            panic!("nginx did not end within {PATIENCE:?} of signal {signal}");
        }
        self.stopped = true;
        self.error_log()
    }

    /// Waits until it has gone by what was done to it.
    #[track_caller]
    pub fn wait_end(&mut self) {
        assert!(self.gone_within_patience(), "nginx did not end within {PATIENCE:?}");
        self.stopped = true;
    }

    /// The exit code of the process that was started, once it has gone.
    #[track_caller]
    pub fn exit_code(&mut self) -> Option<i32> {
        assert!(self.stopped, "it runs");
        self.child.wait().expect("its status").code()
    }

    pub(super) fn end(&mut self, signal: i32) {
        if self.stopped {
            return;
        }
        self.close_idle();
        let log = self.stop_by(signal);
        self.assert_clean(&log);
    }

    fn gone_within_patience(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            // Reaps the master when it is our child; a daemon is its own.
            let _ = self.child.try_wait();
            if Process(self.master).parent().is_none() {
                return true;
            }
            std::thread::sleep(std::time::Duration::from_millis(3));
        }
        false
    }

    fn assert_clean(&self, log: &str) {
        let mut found = unexpected_errors(log, self.site.errors_expected);
        found.retain(|line| !self.expected_errors.iter().any(|expected| expected == line));
        assert!(found.is_empty(), "in the error log:\n{}", found.join("\n"));
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end(libc::SIGQUIT);
            return;
        }
        if !self.stopped {
            self.signal(libc::SIGTERM);
            if !self.gone_within_patience() {
                eprintln!("nginx had to be killed");
            }
        }
        kill_group(self.master, libc::SIGKILL);
        let _ = self.child.wait();
        eprintln!("---- error log ----\n{}", self.error_log());
    }
}

/// The lines of an error log that no test may cause, and those at `[error]` unless the test expects them.
pub(super) fn unexpected_errors(log: &str, errors_expected: bool) -> Vec<&str> {
    let mut bad = vec!["[alert]", "[emerg]", "[crit]", "panicked", "exited on signal", "open socket"];
    if !errors_expected {
        bad.push("[error]");
    }
    log.lines().filter(|line| bad.iter().any(|text| line.contains(text)) && !is_sent_again(line)).collect()
}

/// Returns whether a line is about a request on a kept connection that an instance of a process group has closed unread: nginx
/// logs that, and the request is sent again. If it were lost, its client would see it.
fn is_sent_again(line: &str) -> bool {
    let is_unread = ["(32: Broken pipe) while sending request", "(104: Connection reset by peer) while "];
    line.contains("upstream: \"http://unix:") && is_unread.iter().any(|text| line.contains(text))
}

fn conf_has_master(conf: &Path) -> bool {
    !read(conf).contains("master_process off")
}

/// The parent of a process that is there and no zombie.
fn kill_group(leader: i32, signal: i32) {
    // SAFETY: no memory is involved; the group is nginx's own, made when it was started.
    unsafe { libc::kill(-leader, signal) };
}
