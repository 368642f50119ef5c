//! One nginx for tests that differ only in the application called.

use super::logs::{LineFilter, Logs};
use super::nginx::{Nginx, unexpected_errors};
use super::site::open_to_all;
use super::{Client, Site};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};

/// Stands in for each application of a shared nginx: runs the file of the same name of the test that sends the request.
/// Each test has an address, by which its directory below `tests/` is found. The connections of each are noted, as not
/// every line of the error log names the client.
const DISPATCHER: &str = r#"
import os
import threading

applications = {}
lock = threading.Lock()

def load(path):
    with lock:
        if path not in applications:
            namespace = {"__name__": os.path.basename(path), "__file__": path}
            with open(path, "rb") as file:
                exec(compile(file.read(), path, "exec"), namespace)
            applications[path] = namespace["application"]
        return applications[path]

def application(environ, start_response):
    directory, name = os.path.split(__file__)
    test = os.path.join(directory, "tests", environ["REMOTE_ADDR"])
    with open(test + ".connections", "a") as connections:
        connections.write(environ.pop("tests.connection") + "\n")
    return load(os.path.realpath(os.path.join(test, name)))(environ, start_response)
"#;

/// Directive that the dispatcher needs.
const CONNECTION: &str = "wsgi_var tests.connection $connection;";

/// Running servers, by configuration. An entry stays until the process ends.
static SERVERS: Mutex<BTreeMap<String, &'static Server>> = Mutex::new(BTreeMap::new());

#[derive(Default)]
struct Server {
    /// `None` once it has been stopped.
    nginx: OnceLock<Mutex<Option<Nginx>>>,
    /// The tests that have used it: a call may outlive its test, and needs the test's files until it ends.
    tests: Mutex<Vec<Test>>,
}

struct Test {
    name: String,
    logs: Logs,
    site: Site,
}

/// A test's view of an nginx that runs until the last test has ended. The test sees only its own requests, log lines and
/// files: it connects from an address of its own, which selects its application and marks its log lines.
pub struct SharedNginx {
    client: Client,
    errors_expected: bool,
}

impl Deref for SharedNginx {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl SharedNginx {
    #[track_caller]
    pub(super) fn start(site: Site) -> SharedNginx {
        static STOP_AT_EXIT: Once = Once::new();
        // SAFETY: the handler has the signature that atexit asks for and does not unwind.
        STOP_AT_EXIT.call_once(|| assert_eq!(unsafe { libc::atexit(stop_all) }, 0, "atexit"));
        let server = *lock(&SERVERS).entry(site.key()).or_insert_with(|| Box::leak(Box::default()));
        let nginx = lock(
            server
                .nginx
                .get_or_init(|| Mutex::new(Some(start_on_own_thread(site.with_app(DISPATCHER).http(CONNECTION))))),
        );
        let nginx = nginx.as_ref().expect("tests run before the process ends");
        let source = new_address();
        let directory = tests_directory(nginx.prefix());
        symlink(site.prefix(), directory.join(source.to_string())).expect("a link to the test's files");
        let connections = directory.join(format!("{source}.connections"));
        let logs = || Logs::of_client(nginx.prefix(), source, connections.clone());
        let client = Client::of_shared(source, nginx.port(), site.prefix(), logs());
        let errors_expected = site.errors_expected;
        let name = std::thread::current().name().unwrap_or("a test").to_owned();
        lock(&server.tests).push(Test { name, logs: logs(), site });
        SharedNginx { client, errors_expected }
    }
}

impl Drop for SharedNginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- error log ----\n{}", self.error_log());
            return;
        }
        let log = self.error_log();
        let found = unexpected_errors(&log, self.errors_expected);
        assert!(found.is_empty(), "in the error log:\n{}", found.join("\n"));
    }
}

/// Directory with the files of the tests of a shared nginx. Workers of any user may write to it.
fn tests_directory(prefix: &Path) -> PathBuf {
    let directory = prefix.join("tests");
    if std::fs::create_dir(&directory).is_ok() {
        open_to_all(&directory);
    }
    directory
}

/// Starts nginx on a thread that lives as long as the process: nginx ends with the thread that started it.
fn start_on_own_thread(site: Site) -> Nginx {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        if sender.send(site.start()).is_ok() {
            loop {
                std::thread::park();
            }
        }
    });
    receiver.recv().expect("nginx starts")
}

/// Addresses of the loopback network, one for each test.
fn new_address() -> Ipv4Addr {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(u32::from_be_bytes([127, 1, 0, 1]));
    Ipv4Addr::from(NEXT.fetch_add(1, Ordering::Relaxed))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stops every shared nginx when the process exits. An nginx that does not end, or that logged an error after its test had
/// ended, fails the run.
extern "C" fn stop_all() {
    let stopped = std::panic::catch_unwind(|| {
        let problems: Vec<String> = lock(&SERVERS).values().flat_map(|server| server.stop()).collect();
        assert!(problems.is_empty(), "errors that no test has seen:\n{}", problems.join("\n"));
    });
    if stopped.is_err() {
        // SAFETY: ends the process; nothing runs after it.
        unsafe { libc::_exit(101) };
    }
}

impl Server {
    /// Stops nginx; returns the errors that no test expected.
    fn stop(&self) -> Vec<String> {
        let Some(mut nginx) = self.nginx.get().and_then(|nginx| lock(nginx).take()) else { return Vec::new() };
        let log = nginx.stop_by(libc::SIGQUIT);
        let tests = std::mem::take(&mut *lock(&self.tests));
        let filters: Vec<_> = tests.iter().map(|test| (test, test.logs.filter())).collect();
        let mut problems = Vec::new();
        for line in unexpected_errors(&log, false) {
            let is_own = |filter: &Option<LineFilter>| filter.as_ref().is_some_and(|filter| filter.includes(line));
            let test = filters.iter().find(|(_, filter)| is_own(filter)).map(|(test, _)| test);
            let is_expected =
                test.is_some_and(|test| test.site.errors_expected && unexpected_errors(line, true).is_empty());
            if !is_expected {
                problems.push(format!("{}: {line}", test.map_or("a shared nginx", |test| &test.name)));
            }
        }
        problems
    }
}
