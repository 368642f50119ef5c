//! `ngx-wsgi`, the runner, with a project of the test: from the source tree with this nginx and module, or the one that is
//! installed in the root directory `WSGI_TEST_ROOT`.

use super::nginx::unexpected_errors;
use super::site::write_file;
use super::{Client, PATIENCE, Process, Site, in_repository, module, venv, wait_for};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

/// Application whose call of `/wait` creates the file `begun` and ends once there is a file `go`.
pub const WAITS: &str = r#"
import os, time

def application(environ, start_response):
    if environ["PATH_INFO"] == "/wait":
        open("begun", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
    start_response("200 OK", [])
    return [b"complete"]
"#;

/// Where the wheel is installed in a root directory.
const INSTALLED: &str = "/srv/venv";

/// The directory of an application, and a port for it.
pub struct Project {
    site: Site,
    port: u16,
}

/// The end of a command.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Project {
    pub fn new() -> Project {
        let site = Site::plain();
        let port = site.another_port();
        Project { site, port }
    }

    /// A project with an application, `app.py`.
    pub fn with_app(source: &str) -> Project {
        let project = Project::new();
        project.write("app.py", source);
        project
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn another_port(&self) -> u16 {
        self.site.another_port()
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn prefix(&self) -> &Path {
        self.site.prefix()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.prefix().join(name)
    }

    /// Replaces a file in one step.
    pub fn write(&self, name: &str, text: &str) {
        write_file(self.prefix(), self.port, name, text);
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// `ngx-wsgi` with these arguments.
    pub fn runner(&self, arguments: &[&str]) -> Runner<'_> {
        match root() {
            Some(_) => self.program(&format!("{INSTALLED}/bin/ngx-wsgi"), arguments),
            None => self.python(&[&["-P", "-m", "ngx_wsgi"], arguments].concat()),
        }
    }

    /// The Python with the runner and the frameworks.
    pub fn python(&self, arguments: &[&str]) -> Runner<'_> {
        let environment = root().map_or_else(venv, |_| PathBuf::from(INSTALLED));
        self.program(environment.join("bin/python").to_str().unwrap(), arguments)
    }

    fn program(&self, program: &str, arguments: &[&str]) -> Runner<'_> {
        let mut words = vec![program.to_owned()];
        words.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let runner = Runner { project: self, words, variables: Vec::new(), wrapper: Vec::new(), stdout: None };
        // The runtime directory is below the prefix, so nothing of it is left.
        let runner = runner
            .set("TMPDIR", self.path("tmp").to_str().unwrap())
            .set("PYTHONDONTWRITEBYTECODE", "1")
            .set("LANG", "C.UTF-8");
        if root().is_some() {
            return runner;
        }
        let nginx = std::env::var("NGINX").unwrap_or_else(|_| "/usr/sbin/nginx".to_owned());
        runner
            .set("PYTHONPATH", in_repository("python").to_str().unwrap())
            .set("NGX_WSGI_NGINX", &nginx)
            .set("NGX_WSGI_MODULE", module().to_str().unwrap())
    }

    /// Serves with these arguments on the port of the project.
    #[track_caller]
    pub fn serve(&self, arguments: &[&str]) -> Server<'_> {
        self.runner(&[arguments, &["--bind", &self.address()]].concat()).start()
    }

    /// Runs nginx of the runner.
    pub fn nginx(&self, arguments: &[&str]) -> Runner<'_> {
        let nginx = match root() {
            Some(_) => {
                self.python(&[
                    "-c",
                    "import importlib.util as i; print(i.find_spec('ngx_wsgi').submodule_search_locations[0])",
                ])
                .run()
                .stdout
                .trim()
                .to_owned()
                    + "/bin/nginx"
            }
            None => std::env::var("NGINX").unwrap_or_else(|_| "/usr/sbin/nginx".to_owned()),
        };
        self.program(&nginx, arguments)
    }

    /// Processes of the project: those whose directory is the prefix, or below it.
    pub fn processes(&self) -> Vec<Process> {
        // In a root directory, the path does not begin with /tmp.
        let name = self.prefix().file_name().unwrap().to_str().unwrap();
        Process::all().into_iter().filter(|process| process.directory().contains(name)).collect()
    }

    /// Workers that accept connections.
    pub fn workers(&self) -> Vec<Process> {
        self.processes().into_iter().filter(|process| process.title() == "nginx: worker process").collect()
    }

    /// Reads the process ID of a server that is no child of the test.
    #[track_caller]
    pub fn master(&self, pid_file: &str) -> Process {
        wait_for("the file of the process ID", || self.read(pid_file).trim().parse().ok().map(Process))
    }
}

/// Returns the number of workers of a server that has introduced itself.
fn announced_workers(said: &str) -> Option<usize> {
    said.lines().find_map(|line| {
        let (number, rest) = line.strip_prefix("ngx-wsgi: ")?.split_once(" worker")?;
        rest.contains(',').then(|| number.parse().ok())?
    })
}

impl Drop for Project {
    fn drop(&mut self) {
        // Also what a failed test has left in a session of its own.
        let left: Vec<String> = self.processes().into_iter().map(Process::title).collect();
        for process in self.processes() {
            process.signal(libc::SIGKILL);
        }
        assert!(left.is_empty() || std::thread::panicking(), "left behind: {left:?}");
    }
}

/// The root directory with the installed wheel, if that is tested.
pub fn root() -> Option<PathBuf> {
    std::env::var_os("WSGI_TEST_ROOT").map(PathBuf::from)
}

/// A command that is about to run, in the directory of the project.
pub struct Runner<'p> {
    project: &'p Project,
    words: Vec<String>,
    variables: Vec<(String, String)>,
    wrapper: Vec<String>,
    stdout: Option<OwnedFd>,
}

impl<'p> Runner<'p> {
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.retain(|(other, _)| other != name);
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it by way of another program.
    pub fn wrapped_in(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Gives it a standard output that is no file.
    pub fn stdout(mut self, stdout: OwnedFd) -> Self {
        self.stdout = Some(stdout);
        self
    }

    /// Returns the words of the complete command: an environment without other variables, the directory, the program.
    fn command_line(&self) -> Vec<String> {
        let directory = self.project.prefix().to_str().unwrap().to_owned();
        let variables = self.variables.iter().map(|(name, value)| format!("{name}={value}"));
        let mut words: Vec<String> = match root() {
            Some(root) => {
                let enter = in_repository("tools/in_debian.sh");
                vec![enter.to_str().unwrap().to_owned(), root.to_str().unwrap().to_owned()]
            }
            None => {
                let kept = ["HOME", "PATH"].map(|name| format!("{name}={}", std::env::var(name).unwrap_or_default()));
                [vec!["env".to_owned(), "-i".to_owned()], kept.to_vec()].concat()
            }
        };
        words.extend(variables);
        words.extend(["env".to_owned(), "-C".to_owned(), directory]);
        words.extend(self.wrapper.iter().cloned());
        words.extend(self.words.iter().cloned());
        words
    }

    fn command(&self) -> Command {
        let words = self.command_line();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).process_group(0);
        // SAFETY: prctl is async-signal-safe; nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // Should the tests be killed, the server ends too.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        command
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(self) -> Ended {
        let (out, err) = (self.project.path("logs/stdout-of-command"), self.project.path("logs/stderr-of-command"));
        let mut child = self
            .command()
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .expect("run it");
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > PATIENCE * 2 {
                Process(-(child.id() as i32)).signal(libc::SIGKILL);
                child.wait().unwrap();
                panic!("it does not end:\n{}", fs::read_to_string(&err).unwrap());
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        };
        let read = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        Ended { status, stdout: read(&out), stderr: read(&err) }
    }

    /// Starts a server that stays in the foreground, and waits until it serves.
    #[track_caller]
    pub fn start(mut self) -> Server<'p> {
        let open = |name: &str| {
            let path = self.project.path(name);
            let _ = fs::remove_file(&path);
            OpenOptions::new().create(true).append(true).open(path).unwrap()
        };
        let mut command = self.command();
        let stdout = self.stdout.take().map_or_else(|| open("logs/stdout").into(), Stdio::from);
        command.stdout(stdout).stderr(open("logs/stderr"));
        self.project.wait_served(command.spawn().expect("run it"), None)
    }

    /// Starts it below a pseudo-terminal, whose output is both standard output and standard error.
    #[track_caller]
    pub fn start_in_terminal(self) -> Server<'p> {
        let typescript = self.project.path("logs/stderr");
        let quoted = self.command_line().into_iter().map(|word| format!("'{}'", word.replace('\'', r"'\''")));
        let line = quoted.fold("exec".to_owned(), |line, word| line + " " + &word);
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--flush", "--command", &line]).arg(&typescript);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("run script, of Debian's package bsdutils");
        let keyboard = child.stdin.take();
        self.project.wait_served(child, keyboard)
    }
}

impl Project {
    #[track_caller]
    fn wait_served(&self, mut child: Child, keyboard: Option<std::process::ChildStdin>) -> Server<'_> {
        let start = Instant::now();
        loop {
            let said = self.read("logs/stderr");
            if let Some(workers) = announced_workers(&said)
                && self.workers().len() >= workers
                && TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok()
            {
                break;
            }
            let has_ended = child.try_wait().unwrap().is_some();
            if has_ended || start.elapsed() > PATIENCE {
                self.processes().into_iter().for_each(|process| process.signal(libc::SIGKILL));
                let _ = child.kill();
                let _ = child.wait();
                panic!("it does not serve:\n{}", self.read("logs/stderr"));
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let client = Client::new(self.prefix(), self.port);
        Server {
            project: self,
            client,
            child,
            keyboard,
            errors_expected: false,
            alerts_expected: Vec::new(),
            has_ended: false,
        }
    }
}

/// A running server: nginx, in the place of the process that the test has started or below a terminal.
pub struct Server<'p> {
    project: &'p Project,
    client: Client,
    child: Child,
    /// Of a pseudo-terminal.
    keyboard: Option<std::process::ChildStdin>,
    /// Lines at the level error are expected.
    errors_expected: bool,
    /// Parts of lines at worse levels that are expected.
    alerts_expected: Vec<String>,
    has_ended: bool,
}

impl Deref for Server<'_> {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Server<'_> {
    /// The process that the test has started, which is nginx's master unless there is a terminal.
    pub fn process(&self) -> Process {
        Process(self.child.id() as i32)
    }

    /// Workers that accept connections.
    pub fn workers(&self) -> Vec<Process> {
        self.project.workers()
    }

    /// Standard error so far: lines of the runner, then the error log.
    pub fn said(&self) -> String {
        self.project.read("logs/stderr")
    }

    #[track_caller]
    pub fn wait_said(&self, text: &str) {
        wait_for(&format!("{text:?} on standard error"), || self.said().contains(text).then_some(()));
    }

    /// Expects lines at the level error.
    pub fn errors_expected(mut self) -> Self {
        self.errors_expected = true;
        self
    }

    /// Expects lines with this text, at any level.
    pub fn alerts_expected(mut self, text: &str) -> Self {
        self.alerts_expected.push(text.to_owned());
        self
    }

    pub fn signal(&self, signal: i32) {
        self.process().signal(signal);
    }

    /// Writes to the pseudo-terminal.
    pub fn write_keys(&mut self, keys: &str) {
        self.keyboard.as_mut().expect("a terminal").write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the end of the process that the test has started.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        self.close_idle();
        let status = wait_for("the end of the server", || self.child.try_wait().unwrap());
        self.has_ended = true;
        status
    }

    /// Ends it gracefully, as at the end of each test.
    #[track_caller]
    pub fn quit(mut self) {
        self.end();
    }

    #[track_caller]
    fn end(&mut self) {
        if !self.has_ended {
            if self.keyboard.is_some() {
                self.write_keys("\x03");
            } else {
                self.signal(libc::SIGQUIT);
            }
            let status = self.wait_end();
            assert!(status.success(), "{status:?}, {:?}\n{}", status.signal(), self.said());
        }
        let said = self.said();
        let mut unexpected = unexpected_errors(&said, self.errors_expected);
        unexpected.retain(|line| !self.alerts_expected.iter().any(|text| line.contains(text)));
        assert!(unexpected.is_empty(), "{}", unexpected.join("\n"));
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
            return;
        }
        self.project.processes().into_iter().for_each(|process| process.signal(libc::SIGKILL));
        let _ = self.child.kill();
        let _ = self.child.wait();
        eprintln!("---- standard error ----\n{}", self.said());
    }
}
