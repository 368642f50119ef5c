//! Clients that ask again and again on kept connections while a test does something to nginx.

use super::{Client, PATIENCE};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<LoadStats>>,
}

/// Results of the requests of a load.
#[derive(Debug, Default)]
pub struct LoadStats {
    /// Responds with status 200.
    pub good: usize,
    /// Connections that were found closed before anything was asked on them again.
    pub reopened: usize,
    /// Requests that were sent a second time, on a new connection, as the kept one was closed without a response.
    pub retried: usize,
    /// Descriptions of other responses and of failures.
    pub bad: Vec<String>,
    /// The longest time from a request to its response.
    pub longest: Duration,
}

impl Load {
    /// `clients` connections that ask for `path`.
    pub fn start(nginx: &Client, path: &str, clients: usize) -> Load {
        let address = nginx.address();
        Load::over(move || TcpStream::connect(address), path, clients, true)
    }

    /// The same over connections that this function opens: kept ones, or a new one for each request.
    pub fn over(
        connect: impl Fn() -> Connected + Send + Sync + 'static,
        path: &str,
        clients: usize,
        keep: bool,
    ) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let connection = if keep { "" } else { "Connection: close\r\n" };
        let request: Arc<str> = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{connection}\r\n").into();
        let connect = Arc::new(connect);
        let clients = (0..clients)
            .map(|_| {
                let (stop, connect, request) = (stop.clone(), connect.clone(), request.clone());
                std::thread::spawn(move || run(&stop, &*connect, &request))
            })
            .collect();
        Load { stop, clients }
    }

    /// Ends it; what became of all its requests.
    pub fn stop(self) -> LoadStats {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = LoadStats::default();
        for client in self.clients {
            let stats = client.join().expect("a client");
            all.good += stats.good;
            all.reopened += stats.reopened;
            all.retried += stats.retried;
            all.bad.extend(stats.bad);
            all.longest = all.longest.max(stats.longest);
        }
        all
    }
}

impl LoadStats {
    /// Asserts that there were responses, all of them 200.
    #[track_caller]
    pub fn assert_good(&self) {
        assert!(self.bad.is_empty(), "{} good, {:?}", self.good, self.bad);
        assert!(self.good > 0, "nothing was asked");
    }
}

/// A connection, or why there is none.
type Connected = std::io::Result<TcpStream>;

fn run(stop: &AtomicBool, connect: &dyn Fn() -> Connected, request: &str) -> LoadStats {
    let mut stats = LoadStats::default();
    let mut kept = None;
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        match ask(&mut kept, connect, request, &mut stats) {
            Ok(200) => stats.good += 1,
            Ok(status) => stats.bad.push(format!("status {status}")),
            Err(e) => stats.bad.push(e),
        }
        stats.longest = stats.longest.max(start.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    stats
}

/// One request, on the kept connection if there is one.
///
/// A server may close an idle connection at any time, also while a request is on its way there; nginx does so when a
/// worker is told to quit. If the connection ends before any byte of a response, no response will come, and a client
/// may send an idempotent request, as GET is, again on a new connection: RFC 9112, 9.3.1, and 9.6 for the end of a
/// connection. Every HTTP client does. On a new connection no request is repeated.
fn ask(
    kept: &mut Option<TcpStream>,
    connect: &dyn Fn() -> Connected,
    request: &str,
    stats: &mut LoadStats,
) -> Result<u16, String> {
    if let Some(mut stream) = kept.take() {
        if is_open(&stream)? {
            let sent = stream.write_all(request.as_bytes());
            if sent.is_ok()
                && let Some((status, keep)) = read_response(&mut stream)?
            {
                *kept = keep.then_some(stream);
                return Ok(status);
            }
            stats.retried += 1;
        } else {
            stats.reopened += 1;
        }
    }
    let mut stream = connect().map_err(|e| format!("connect: {e}"))?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).map_err(|e| format!("send: {e}"))?;
    match read_response(&mut stream)? {
        Some((status, keep)) => {
            *kept = keep.then_some(stream);
            Ok(status)
        }
        None => Err("a new connection ended without a response".to_owned()),
    }
}

/// Returns whether an idle connection is still open.
fn is_open(stream: &TcpStream) -> Result<bool, String> {
    stream.set_nonblocking(true).unwrap();
    let peeked = stream.peek(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    match peeked {
        Ok(0) => Ok(false),
        Ok(_) => Err("a response without a request".to_owned()),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(true),
        Err(_) => Ok(false),
    }
}

/// Returns the status and whether the connection stays; `None` when it ended before the first byte.
fn read_response(stream: &mut TcpStream) -> Result<Option<(u16, bool)>, String> {
    let mut got = Vec::new();
    let mut buffer = [0; 16384];
    loop {
        if let Some(end) = whole(&got)? {
            return Ok(Some(end));
        }
        match stream.read(&mut buffer) {
            Ok(0) if got.is_empty() => return Ok(None),
            Ok(0) => return Err(format!("cut after {} bytes", got.len())),
            Ok(n) => got.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::ConnectionReset && got.is_empty() => return Ok(None),
            Err(e) => return Err(format!("{e} after {} bytes", got.len())),
        }
    }
}

/// Returns the status and whether the connection stays, once the response is whole.
fn whole(got: &[u8]) -> Result<Option<(u16, bool)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(got).map_err(|e| e.to_string())?;
    let httparse::Status::Complete(body) = parsed else {
        return Ok(None);
    };
    let value = |name: &str| {
        let header = head.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        header.map(|h| String::from_utf8_lossy(h.value).into_owned())
    };
    let complete = match value("Content-Length") {
        Some(length) => got.len() - body >= length.parse().map_err(|_| "Content-Length")?,
        None => got.ends_with(b"0\r\n\r\n"),
    };
    let keep = value("Connection").is_none_or(|v| v != "close");
    Ok(complete.then_some((head.code.unwrap(), keep)))
}
