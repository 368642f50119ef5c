//! An nginx that runs: asks it, signals it, reads its logs, and leaves nothing behind.

use super::site::{nginx_command, write_file};
use super::{Conn, Framing, PATIENCE, Process, Response, Site, latin1, wait_for};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

pub struct Nginx {
    site: Site,
    child: Child,
    master: i32,
    agent: ureq::Agent,
    stopped: bool,
    /// Lines of the error log that the test has seen and wanted.
    told: Vec<String>,
}

impl Nginx {
    pub(super) fn start(mut site: Site) -> Nginx {
        // Between choosing a port and binding it another program may take it: then nginx says so, and it is tried anew.
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
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(PATIENCE * 2))
            .build()
            .into();
        let nginx = Nginx { site, child, master, agent, stopped: false, told: Vec::new() };
        if conf_has_master(&conf) {
            // A worker has its title a moment after it was forked.
            let count = nginx.site.workers;
            wait_for("the workers", || (nginx.workers().len() == count).then_some(()));
        }
        Ok(nginx)
    }

    // ---- asking -------------------------------------------------------------------------------------------------

    pub fn port(&self) -> u16 {
        self.site.port
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.site.port))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port())
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.request("POST", path, &[], body.as_ref())
    }

    /// A request through the HTTP client; an empty body is none.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut request = ureq::http::Request::builder().method(method).uri(self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = if body.is_empty() && !matches!(method, "POST" | "PUT" | "PATCH") {
            self.agent.run(request.body(()).unwrap())
        } else {
            self.agent.run(request.body(body).unwrap())
        };
        let mut answer = answer.unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        let headers = answer.headers().iter().map(|(n, v)| (n.to_string(), latin1(v.as_bytes()))).collect();
        Response {
            status: answer.status().as_u16(),
            reason: String::new(),
            headers,
            body: answer
                .body_mut()
                .with_config()
                .limit(u64::MAX)
                .read_to_vec()
                .unwrap_or_else(|e| panic!("{method} {path}: {e}")),
            framing: Framing::Client,
        }
    }

    pub fn connect(&self) -> Conn {
        Conn::open(self.address())
    }

    /// Sends bytes on a connection of their own; all that comes back until it is closed.
    pub fn raw(&self, request: impl AsRef<[u8]>) -> Vec<u8> {
        self.connect().send(request).read_to_end()
    }

    // ---- files and logs -----------------------------------------------------------------------------------------

    pub fn prefix(&self) -> &Path {
        self.site.prefix()
    }

    /// Writes a file below the prefix, as `Site::file` does.
    pub fn write(&self, path: &str, content: &str) {
        write_file(self.prefix(), self.site.port, path, content);
    }

    pub fn read(&self, path: &str) -> String {
        read(&self.prefix().join(path))
    }

    pub fn error_log(&self) -> String {
        self.read("logs/error.log")
    }

    /// The lines of the error log that hold `text`.
    pub fn logged(&self, text: &str) -> Vec<String> {
        lines_with(&self.error_log(), text)
    }

    /// Waits for a line of the error log that holds `text`; the first such line.
    #[track_caller]
    pub fn wait_log(&self, text: &str) -> String {
        wait_for(&format!("{text:?} in the error log"), || self.logged(text).into_iter().next())
    }

    /// Waits for a line of the error log that the test wants, however bad it is.
    #[track_caller]
    pub fn wait_told(&mut self, text: &str) -> String {
        let line = self.wait_log(text);
        self.told.push(line.clone());
        line
    }

    /// Waits for a line of the access log: `STATUS METHOD URI BYTES`.
    #[track_caller]
    pub fn wait_access(&self, text: &str) -> String {
        wait_for(&format!("{text:?} in the access log"), || {
            lines_with(&self.read("logs/access.log"), text).into_iter().next()
        })
    }

    /// What applications wrote to `@prefix@/events`, line by line.
    pub fn events(&self) -> Vec<String> {
        self.read("events").lines().map(str::to_owned).collect()
    }

    /// Waits until the events are these.
    #[track_caller]
    pub fn wait_events(&self, wanted: &[&str]) {
        let start = Instant::now();
        while self.events() != wanted {
            assert!(start.elapsed() < PATIENCE / 3, "events: {:?}, wanted: {wanted:?}", self.events());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    // ---- processes ----------------------------------------------------------------------------------------------

    pub fn master(&self) -> i32 {
        self.master
    }

    /// Workers that take connections.
    pub fn workers(&self) -> Vec<i32> {
        self.children("nginx: worker process")
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
        self.told.push(line.clone());
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

    /// The exit code of the process that was started, once it has gone.
    #[track_caller]
    pub fn exit_code(&mut self) -> Option<i32> {
        assert!(self.stopped, "it runs");
        self.child.wait().expect("its status").code()
    }

    fn end(&mut self, signal: i32) {
        if self.stopped {
            return;
        }
        // The pooled connections of the client would only be waited for.
        self.agent = ureq::Agent::new_with_defaults();
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
        let mut bad = vec!["[alert]", "[emerg]", "[crit]", "panicked", "exited on signal", "open socket"];
        if !self.site.errors_expected {
            bad.push("[error]");
        }
        let found: Vec<&str> = log
            .lines()
            .filter(|line| bad.iter().any(|b| line.contains(b)))
            .filter(|line| !self.told.iter().any(|t| t == line))
            .collect();
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

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn lines_with(text: &str, part: &str) -> Vec<String> {
    text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
}

fn conf_has_master(conf: &Path) -> bool {
    !read(conf).contains("master_process off")
}

/// The parent of a process that is there and no zombie.
fn kill_group(leader: i32, signal: i32) {
    // SAFETY: no memory is involved; the group is nginx's own, made when it was started.
    unsafe { libc::kill(-leader, signal) };
}
