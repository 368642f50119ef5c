//! A client of a running nginx: sends requests, and reads the logs and what applications write.

use super::logs::{Logs, read};
use super::site::write_file;
use super::{Conn, Framing, PATIENCE, Response, wait_for};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Requests to and logs of an nginx, which the test owns ([`Nginx`](super::Nginx)) or shares
/// ([`SharedNginx`](super::SharedNginx)).
pub struct Client {
    /// The address that it connects from; the kernel's choice if this is `None`.
    source: Option<Ipv4Addr>,
    port: u16,
    /// Stands for `@prefix@` in the files of the test.
    prefix: PathBuf,
    logs: Logs,
    /// Connections on which nothing is under way.
    idle: Mutex<Vec<Conn>>,
}

impl Client {
    /// The client of an nginx that has no other.
    pub(super) fn new(prefix: &Path, port: u16) -> Client {
        Client { source: None, port, prefix: prefix.to_owned(), logs: Logs::new(prefix), idle: Mutex::default() }
    }

    /// One of several clients of an nginx, with files of its own below `prefix`.
    pub(super) fn of_shared(source: Ipv4Addr, port: u16, prefix: &Path, logs: Logs) -> Client {
        Client { source: Some(source), port, prefix: prefix.to_owned(), logs, idle: Mutex::default() }
    }

    // ---- requests -----------------------------------------------------------------------------------------------

    /// The address that nginx sees.
    pub fn source(&self) -> Ipv4Addr {
        self.source.unwrap_or(Ipv4Addr::LOCALHOST)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.request("POST", path, &[], body.as_ref())
    }

    /// Sends a request, on a connection that is kept alive if there is one, and returns the complete response. An empty
    /// body is sent for methods that usually have one.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut request = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Host")) {
            request += &format!("Host: {}\r\n", self.address());
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            request += &format!("Content-Length: {}\r\n", body.len());
        }
        request += "\r\n";
        let request = [request.as_bytes(), body].concat();
        let idle = self.idle().pop();
        let mut conn = idle.and_then(|conn| conn.begin(&request)).unwrap_or_else(|| {
            let mut conn = self.connect();
            conn.set_timeout(PATIENCE * 2);
            conn.send(&request);
            conn
        });
        let response = conn.response_to(method);
        assert!(response.framing != Framing::Cut, "{method} {path}: cut after {} bytes", response.body.len());
        if response.framing != Framing::Close && response.header("Connection") != Some("close") {
            self.idle().push(conn);
        }
        response
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Conn>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connections that are kept alive.
    pub fn close_idle(&self) {
        self.idle().clear();
    }

    /// Opens a connection for requests that must be exact to the byte.
    pub fn connect(&self) -> Conn {
        match self.source {
            Some(source) => Conn::open_from(source, self.address()),
            None => Conn::open(self.address()),
        }
    }

    // ---- files and logs -----------------------------------------------------------------------------------------

    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// Replaces a file below the prefix in one step; the text is as for `Site::file`.
    pub fn write(&self, path: &str, content: &str) {
        write_file(&self.prefix, self.port, path, content);
    }

    /// The text of a file below the prefix; empty if there is none.
    pub fn read(&self, path: &str) -> String {
        read(&self.prefix.join(path))
    }

    /// The error log; with other clients on this nginx, the lines that are not theirs.
    pub fn error_log(&self) -> String {
        self.logs.error_log()
    }

    /// The lines of the error log that hold `text`.
    pub fn logged(&self, text: &str) -> Vec<String> {
        self.error_log().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// Waits for a line of the error log that holds `text`; the first such line.
    #[track_caller]
    pub fn wait_log(&self, text: &str) -> String {
        wait_for(&format!("{text:?} in the error log"), || self.logged(text).into_iter().next())
    }

    /// Waits for a line of the access log: `STATUS METHOD URI BYTES CLIENT`.
    #[track_caller]
    pub fn wait_access(&self, text: &str) -> String {
        wait_for(&format!("{text:?} in the access log"), || {
            self.logs.access_log().into_iter().find(|line| line.contains(text))
        })
    }

    /// Returns the lines that applications have written to `@prefix@/events`.
    pub fn events(&self) -> Vec<String> {
        self.read("events").lines().map(str::to_owned).collect()
    }

    /// Waits until the events are these.
    #[track_caller]
    pub fn wait_events(&self, wanted: &[&str]) {
        let start = Instant::now();
        while self.events() != wanted {
            assert!(start.elapsed() < PATIENCE, "events: {:?}, wanted: {wanted:?}", self.events());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
