//! Describes an nginx: its configuration and the files beside it.

use super::module::{module, release_module};
use super::{Engine, Nginx, SharedNginx, in_repository, is_for_everybody, uses_process_group};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use tempfile::TempDir;

/// An nginx to be: directives and files are collected here, `start` runs it.
///
/// It has `wsgi_check off` unless the site says something of `wsgi_check` or its time limit.
///
/// In every text given, `@prefix@` stands for nginx's prefix, `@port@` for the first port it listens on, and `@event@` for
/// a Python function `event(text)` whose texts the test reads with `Client::events`.
pub struct Site {
    pub(super) dir: TempDir,
    pub(super) port: u16,
    pub(super) errors_expected: bool,
    pub(super) wrapper: Vec<String>,
    module: Option<PathBuf>,
    main: String,
    events: String,
    http: String,
    server: String,
    listen: Option<String>,
    /// The files of applications.
    apps: BTreeSet<String>,
    user: Option<String>,
    user_is_last: bool,
    pub(super) workers: usize,
    daemon: bool,
    log_level: String,
}

/// Result of `nginx -t`.
#[derive(Debug)]
pub struct Check {
    pub ok: bool,
    pub output: String,
    conf: PathBuf,
    pub conf_text: String,
}

impl Site {
    /// A site whose applications run in this engine.
    pub fn new(engine: Engine) -> Site {
        Site::plain().http(engine.directive())
    }

    /// A site that says nothing about engines: the default holds.
    pub fn plain() -> Site {
        let dir = tempfile::Builder::new().prefix("ngx-wsgi-").tempdir().expect("a temporary directory");
        // Workers may run as another user; they read applications and write what they saw here.
        open_to_all(dir.path());
        for name in ["conf", "logs", "tmp"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Site {
            dir,
            port: free_port(),
            errors_expected: false,
            wrapper: Vec::new(),
            module: None,
            main: String::new(),
            events: String::new(),
            http: String::new(),
            server: String::new(),
            listen: None,
            apps: BTreeSet::new(),
            user: None,
            user_is_last: false,
            workers: 1,
            daemon: false,
            log_level: "info".to_owned(),
        }
    }

    pub fn prefix(&self) -> &Path {
        self.dir.path()
    }

    /// A file below the prefix.
    pub fn file(self, path: &str, content: &str) -> Site {
        write_file(self.prefix(), self.port, path, content);
        self
    }

    /// The application of most tests: `app.py` at the root.
    pub fn app(self, source: &str) -> Site {
        self.app_at("/", "app.py", source)
    }

    /// An application's source in `file`, served at `location`.
    pub fn app_at(mut self, location: &str, file: &str, source: &str) -> Site {
        self.apps.insert(file.to_owned());
        let pass = format!("wsgi_pass {file};");
        self.file(file, source).location(location, &pass)
    }

    /// An application of `tests/apps`, served at `location`.
    pub fn repository_app(self, location: &str, file: &str) -> Site {
        let path = in_repository("tests/apps").join(file);
        let source = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        self.app_at(location, file, &source)
    }

    /// All files of a directory of `tests/apps`, below the prefix.
    pub fn repository_directory(self, directory: &str) -> Site {
        copy_directory(&in_repository("tests/apps").join(directory), self.prefix());
        self
    }

    /// Directives of the main level.
    pub fn main(mut self, directives: &str) -> Site {
        writeln!(self.main, "{directives}").unwrap();
        self
    }

    /// Directives of the events block.
    pub fn events(mut self, directives: &str) -> Site {
        writeln!(self.events, "    {directives}").unwrap();
        self
    }

    /// Directives of the http level, in front of the server.
    pub fn http(mut self, directives: &str) -> Site {
        writeln!(self.http, "    {directives}").unwrap();
        self
    }

    /// Directives of the server.
    pub fn server(mut self, directives: &str) -> Site {
        writeln!(self.server, "        {directives}").unwrap();
        self
    }

    /// A location of the server.
    pub fn location(self, name: &str, directives: &str) -> Site {
        self.server(&format!("location {name} {{ {directives} }}"))
    }

    /// Replaces the `listen` and `server_name` lines of the server (`listen 127.0.0.1:@port@;`).
    pub fn listen(mut self, directives: &str) -> Site {
        self.listen = Some(directives.to_owned());
        self
    }

    pub fn workers(mut self, workers: usize) -> Site {
        self.workers = workers;
        self
    }

    /// The workers' user, where the tests run as root; root itself if this is not called.
    pub fn user(mut self, user: &str) -> Site {
        self.user = Some(user.to_owned());
        self
    }

    /// The line with the user stands at the end of the configuration, behind `http`.
    pub fn user_last(mut self) -> Site {
        self.user_is_last = true;
        self
    }

    pub fn daemon(mut self) -> Site {
        self.daemon = true;
        self
    }

    /// The level of the error log; `info` if this is not called. The harness itself needs `notice`.
    pub fn log_level(mut self, level: &str) -> Site {
        self.log_level = level.to_owned();
        self
    }

    /// Lines at `[error]` are part of this test. Anything worse still fails it.
    pub fn errors_expected(mut self) -> Site {
        self.errors_expected = true;
        self
    }

    /// Runs nginx as the last arguments of this command (valgrind and the like).
    pub fn wrapped_in(mut self, command: &[&str]) -> Site {
        self.wrapper = command.iter().map(|s| s.to_string()).collect();
        self
    }

    /// Loads the module as it is released, and not that of the tests' own profile.
    pub fn release_module(mut self) -> Site {
        self.module = Some(release_module().to_owned());
        self
    }

    /// Loads a copy of the module, of this name below the prefix.
    pub fn copied_module(mut self, name: &str) -> Site {
        let copy = self.prefix().join(name);
        fs::copy(module(), &copy).unwrap();
        self.module = Some(copy);
        self
    }

    /// Another port for another `listen`.
    pub fn another_port(&self) -> u16 {
        free_port()
    }

    /// Writes the configuration; where it is.
    pub(super) fn write(&self) -> PathBuf {
        let path = self.dir.path().join("conf/nginx.conf");
        fs::write(&path, fill_in(self.prefix(), self.port, &self.conf())).unwrap();
        path
    }

    /// The module, or a copy below the prefix where the users of process groups could not read it.
    fn module_of_tests(&self) -> PathBuf {
        if !self.http.contains("wsgi_process_group") || !is_root() || is_for_everybody(module()) {
            return module().to_owned();
        }
        let copy = self.prefix().join("ngx_http_wsgi_module.so");
        if !copy.exists() {
            fs::copy(module(), &copy).unwrap();
        }
        copy
    }

    fn conf(&self) -> String {
        let Site { main, events, http, server, workers, log_level, .. } = self;
        // Tests of other things do without the second import that the check is.
        let is_about_check = [main, http, server].iter().any(|text| text.contains("wsgi_check"));
        let check = if is_about_check { "" } else { "wsgi_check off;" };
        let module = self.module.clone().unwrap_or_else(|| self.module_of_tests());
        let module = module.display();
        let connections = if events.contains("worker_connections") { "" } else { "worker_connections 2048;" };
        let daemon = if self.daemon { "on" } else { "off" };
        let user = match (&self.user, is_root()) {
            (Some(user), true) => format!("user {user};"),
            (None, true) => "user root;".to_owned(),
            (_, false) => String::new(),
        };
        let (user, user_last) = if self.user_is_last { ("", user.as_str()) } else { (user.as_str(), "") };
        let (http, server) = &in_process_group(http, server, *workers);
        let listen = self.listen.as_deref().unwrap_or("listen 127.0.0.1:@port@; server_name localhost;");
        format!(
            "load_module {module};
daemon {daemon};
{user}
worker_processes {workers};
pid logs/nginx.pid;
error_log logs/error.log {log_level};
{main}
events {{
    {connections}
{events}}}

http {{
    log_format harness '$status $request_method $request_uri $body_bytes_sent $remote_addr';
    access_log logs/access.log harness;
    client_body_temp_path tmp/body;
    proxy_temp_path tmp/proxy;
    fastcgi_temp_path tmp/fastcgi;
    uwsgi_temp_path tmp/uwsgi;
    scgi_temp_path tmp/scgi;
    {check}
{http}
    server {{
        {listen}
{server}    }}
}}
{user_last}
"
        )
    }

    /// `nginx -t`.
    pub fn check(self) -> Check {
        self.check_again()
    }

    /// `nginx -t` of a site that is needed for more.
    pub fn check_again(&self) -> Check {
        let conf = self.write();
        let output = nginx_command(self, &conf).arg("-t").stdin(Stdio::null()).output().expect("run nginx -t");
        Check {
            ok: output.status.success(),
            output: String::from_utf8_lossy(&output.stderr).into_owned(),
            conf_text: fs::read_to_string(&conf).unwrap(),
            conf,
        }
    }

    /// Runs it in an nginx that all tests with this configuration use at the same time. It runs until the last test has
    /// ended, so this is for tests that are about applications only: not about processes, memory, or the whole log.
    #[track_caller]
    pub fn start_shared(self) -> SharedNginx {
        SharedNginx::start(self)
    }

    /// Distinguishes configurations.
    pub(super) fn key(&self) -> String {
        self.conf()
    }

    /// Another site of the same configuration and with the same files, but one source for all its applications.
    pub(super) fn with_app(&self, source: &str) -> Site {
        let mut site = Site::plain();
        copy_directory(self.prefix(), site.prefix());
        for file in &self.apps {
            site = site.file(file, source);
        }
        Site {
            main: self.main.clone(),
            events: self.events.clone(),
            http: self.http.clone(),
            server: self.server.clone(),
            listen: self.listen.clone(),
            module: self.module.clone(),
            user: self.user.clone(),
            workers: self.workers,
            log_level: self.log_level.clone(),
            ..site
        }
    }

    /// Runs it. The test fails when nginx does not come up.
    pub fn start(self) -> Nginx {
        Nginx::start(self)
    }

    pub(super) fn new_port(&mut self) {
        self.port = free_port();
    }
}

impl Check {
    /// The configuration file that was checked.
    pub fn conf(&self) -> &Path {
        &self.conf
    }

    #[track_caller]
    pub fn assert_ok(&self) {
        assert!(self.ok, "{}", self.output);
    }

    /// Refused in nginx's way: `MESSAGE in FILE:LINE`, where LINE is the last one that holds `at`.
    #[track_caller]
    pub fn assert_refused(&self, message: &str, at: &str) {
        let line = 1 + self
            .conf_text
            .lines()
            .enumerate()
            // As a word: nginx's own `uwsgi_temp_path` is in every configuration.
            .filter(|(_, l)| l.match_indices(at).any(|(n, _)| !l[..n].ends_with(|c: char| c.is_alphanumeric())))
            .map(|(n, _)| n)
            .last()
            .expect("the line that is wrong");
        let wanted = format!("[emerg] {message} in {}:{line}", self.conf.display());
        assert!(!self.ok, "accepted, though: {wanted}");
        let said = self.output.lines().any(|l| l.ends_with(&wanted));
        assert!(said, "wanted: {wanted}\ngot: {}", self.output);
    }
}

/// Puts the applications of a configuration into a process group, if the tests run that way and it has no other group.
/// Returns the directives of its `http` and `server` levels.
fn in_process_group(http: &str, server: &str, processes: usize) -> (String, String) {
    let is_about_groups = http.contains("wsgi_process_group") || http.contains("wsgi_instance");
    let has_application = [http, server].iter().any(|text| text.contains("wsgi_pass "));
    if !uses_process_group() || is_about_groups || !has_application {
        return (http.to_owned(), server.to_owned());
    }
    (format!("    wsgi_process_group tests processes={processes};\n{}", with_process(http)), with_process(server))
}

/// Adds `process=tests` to each `wsgi_pass`.
fn with_process(text: &str) -> String {
    let mut parts = text.split("wsgi_pass ");
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (arguments, rest) = part.split_once(';').unwrap_or((part, ""));
        write!(result, "wsgi_pass {arguments} process=tests;{rest}").unwrap();
    }
    result
}

/// nginx with the arguments that name prefix and configuration, and an empty environment as under an init system.
pub(super) fn nginx_command(site: &Site, conf: &Path) -> Command {
    let nginx = std::env::var("NGINX").unwrap_or_else(|_| "/usr/sbin/nginx".to_owned());
    let mut words: Vec<&str> = site.wrapper.iter().map(String::as_str).collect();
    words.push(&nginx);
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .arg("-p")
        .arg(site.prefix())
        .arg("-c")
        .arg(conf)
        .arg("-e")
        .arg(site.prefix().join("logs/error.log"))
        .env_clear();
    command
}

pub(super) fn write_file(prefix: &Path, port: u16, path: &str, content: &str) {
    let path = prefix.join(path);
    let directory = path.parent().unwrap();
    fs::create_dir_all(directory).unwrap();
    // In one step: a reader finds the old text or the new one.
    let mut file = tempfile::NamedTempFile::new_in(directory).unwrap();
    file.write_all(fill_in(prefix, port, content).as_bytes()).unwrap();
    file.as_file().set_permissions(Permissions::from_mode(0o644)).unwrap();
    file.persist(&path).unwrap();
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap_or_else(|e| panic!("{from:?}: {e}")) {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&source, &target);
        } else {
            fs::copy(&source, &target).unwrap();
        }
    }
}

fn fill_in(prefix: &Path, port: u16, text: &str) -> String {
    text.replace("@event@", EVENT).replace("@prefix@", prefix.to_str().unwrap()).replace("@port@", &port.to_string())
}

/// Adds a line to the events of the test, which `Client::wait_events` reads.
const EVENT: &str = r#"
def event(text):
    with open("@prefix@/events", "a") as events:
        events.write(text + "\n")
"#;

/// Lets every user write there.
pub fn open_to_all(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
}

/// Returns whether nginx may run its workers as another user.
pub fn is_root() -> bool {
    // SAFETY: always succeeds and has no argument.
    unsafe { libc::geteuid() == 0 }
}

/// Returns a free port, below those that the kernel gives to clients, so that no client takes it meanwhile.
pub fn free_port() -> u16 {
    const FIRST: u16 = 10240;
    const COUNT: u16 = 22000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() * 97 % u32::from(COUNT)) as u16;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + ((u32::from(start) + u32::from(step)) % u32::from(COUNT)) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
