//! Clients of `tests/apps/stress.py`: such that get what they ask for, and such that leave at any moment.

use super::{Conn, Engine, Nginx, PATIENCE, SeededRng, Site, latin1};
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Location whose responses go to a temporary file.
const SPILLED: &str = "/";
/// Location whose calls wait for room instead.
const WAITING: &str = "/waiting/";
/// Location whose request bodies are read while the call runs.
const STREAMED: &str = "/streamed/";
/// Location whose calls may run for a fifth of a second.
const LIMITED: &str = "/limited/";

/// The application in these locations, on an engine, with sockets too small for a whole response.
pub fn site(engine: Engine) -> Site {
    let site = Site::new(engine)
        .listen("listen 127.0.0.1:@port@ sndbuf=16k; server_name localhost;")
        .http("client_max_body_size 0; client_body_buffer_size 8k; keepalive_requests 1000000;")
        .http("wsgi_output_buffer_size 32k; wsgi_temp_path tmp/wsgi;")
        .location("= /status", "stub_status;")
        .repository_app(SPILLED, "stress.py")
        .location(WAITING, "wsgi_pass stress.py; wsgi_max_temp_file_size 0;");
    match engine {
        Engine::Threads => site.location(STREAMED, "wsgi_pass stress.py; wsgi_request_buffering off;"),
        Engine::Inline => site,
    }
}

/// Adds the location for calls that run too long, with an error log of its own.
pub fn with_limits(site: Site) -> Site {
    site.location(LIMITED, "wsgi_pass stress.py; wsgi_request_timeout 200ms; error_log logs/limited.log info;")
}

/// A request and what its response must be.
pub struct Ask {
    head: String,
    body: Vec<u8>,
    status: u16,
    /// Not compared where the status is no success.
    response: Vec<u8>,
}

/// The bytes that `stress.py` makes.
fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i % 251) as u8).collect()
}

fn adler32(bytes: &[u8]) -> u32 {
    let (a, b) = bytes.iter().fold((1, 0), |(a, b), byte| {
        let a = (a + u32::from(*byte)) % 65521;
        (a, (b + a) % 65521)
    });
    b << 16 | a
}

/// `bytes` in the chunked coding.
fn chunked(bytes: &[u8], rng: &mut SeededRng) -> Vec<u8> {
    let (mut coded, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rest.len().min(1 + rng.size(50_000)));
        write!(coded, "{:x}\r\n", chunk.len()).unwrap();
        coded.extend_from_slice(chunk);
        coded.extend_from_slice(b"\r\n");
        rest = after;
    }
    coded.extend_from_slice(b"0\r\n\r\n");
    coded
}

impl Ask {
    /// Any request there is, small ones more often than large ones.
    pub fn any(engine: Engine, rng: &mut SeededRng) -> Ask {
        let places = match engine {
            Engine::Threads => &[SPILLED, WAITING, STREAMED][..],
            Engine::Inline => &[SPILLED, WAITING],
        };
        let place = rng.choose(places);
        let size = match rng.below(3) {
            0 => 1 + rng.size(100),
            1 => 1 + rng.size(40_000),
            _ => 1 + rng.size(400_000),
        };
        let kind = rng.choose(&["small", "slow", "drip", "stream", "write", "file", "closing", "read", "read", "read"]);
        if kind != "read" && rng.below(4) > 0 {
            return Ask::get(place, kind, size);
        }
        // With a body, which the application may leave unread.
        let response = if kind == "read" { None } else { Some(pattern(size)) };
        let is_chunked = rng.below(2) == 0;
        Ask::post(place, kind, size, is_chunked.then_some(rng), response)
    }

    /// A large response, from a file, from a temporary file or as there is room.
    pub fn large(rng: &mut SeededRng) -> Ask {
        let (place, kind) =
            rng.choose(&[(SPILLED, "file"), (SPILLED, "stream"), (WAITING, "stream"), (WAITING, "write")]);
        Ask::get(place, kind, 500_000 + rng.size(500_000))
    }

    /// A call that `wsgi_request_timeout` ends: `stuck` in Python, where it can be interrupted, or `asleep` for seconds.
    pub fn too_long(kind: &str) -> Ask {
        Ask { status: 504, ..Ask::get(LIMITED, kind, 1) }
    }

    /// A request without a body.
    pub fn get(place: &str, kind: &str, size: usize) -> Ask {
        let head = format!("GET {place}{kind}?{size} HTTP/1.1\r\nHost: a\r\n\r\n");
        Ask { head, body: Vec::new(), status: 200, response: pattern(size) }
    }

    fn post(place: &str, kind: &str, size: usize, chunks: Option<&mut SeededRng>, response: Option<Vec<u8>>) -> Ask {
        let bytes = pattern(size);
        let response = response.unwrap_or_else(|| format!("{size} {}", adler32(&bytes)).into_bytes());
        let (header, body) = match chunks {
            Some(rng) => ("Transfer-Encoding: chunked".to_owned(), chunked(&bytes, rng)),
            None => (format!("Content-Length: {size}"), bytes),
        };
        let head = format!("POST {place}{kind}?{size} HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n");
        Ask { head, body, status: 200, response }
    }

    /// A request with a body of `size` bytes, which is chunked if there is chance, and what its response must be.
    pub fn exact(
        method: &str,
        target: &str,
        size: Option<usize>,
        chunks: Option<&mut SeededRng>,
        response: &str,
    ) -> Ask {
        let bytes = pattern(size.unwrap_or(0));
        let (header, body) = match (size, chunks) {
            (None, _) => (String::new(), Vec::new()),
            (_, Some(rng)) => ("Transfer-Encoding: chunked\r\n".to_owned(), chunked(&bytes, rng)),
            (_, None) => (format!("Content-Length: {}\r\n", bytes.len()), bytes),
        };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{header}\r\n");
        Ask { head, body, status: 200, response: response.as_bytes().to_vec() }
    }

    fn bytes(&self) -> Vec<u8> {
        [self.head.as_bytes(), &self.body].concat()
    }
}

/// A client that gets what it asks for, on a kept connection while there is one.
pub struct Visitor {
    address: SocketAddr,
    kept: Option<BufReader<TcpStream>>,
    /// Pause before each 16 KB of a response.
    pub pause: Duration,
}

impl Visitor {
    pub fn new(address: SocketAddr) -> Visitor {
        Visitor { address, kept: None, pause: Duration::ZERO }
    }

    /// Asks, and compares the response.
    ///
    /// A server may close an idle connection at any time, also while a request is on its way there: as every client
    /// does (RFC 9112, 9.3.1), this one asks again on a new connection if a kept one ended before any byte of a response.
    pub fn ask(&mut self, ask: &Ask) -> Result<(), String> {
        let line = ask.head.lines().next().unwrap();
        let describe = |problem: String| format!("{line}: {problem}");
        if let Some(mut stream) = self.kept.take()
            && self.try_ask(ask, &mut stream).map_err(describe)?
        {
            self.kept = Some(stream);
            return Ok(());
        }
        let stream = TcpStream::connect(self.address).map_err(|e| describe(format!("connect: {e}")))?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut stream = BufReader::new(stream);
        if !self.try_ask(ask, &mut stream).map_err(describe)? {
            return Err(describe("a new connection ended without a response".to_owned()));
        }
        self.kept = Some(stream);
        Ok(())
    }

    /// False when the connection ended before the first byte of a response. One that does not stay is shut here, and so
    /// is not asked on again.
    fn try_ask(&self, ask: &Ask, stream: &mut BufReader<TcpStream>) -> Result<bool, String> {
        let sent = stream.get_mut().write_all(&ask.bytes());
        let mut line = Vec::new();
        match stream.read_until(b'\n', &mut line) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => return Ok(false),
            Err(e) => return Err(format!("no response: {e}")),
        }
        let status = latin1(&line);
        if !status.starts_with(&format!("HTTP/1.1 {} ", ask.status)) {
            return Err(status.trim_end().to_owned());
        }
        sent.map_err(|e| format!("response before all was sent: {e}"))?;
        let (mut length, mut keeps) = (None, true);
        loop {
            let line = read_line(stream)?.to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => length = value.parse::<usize>().ok(),
                Some(("connection", value)) => keeps = value != "close",
                _ if line.is_empty() => break,
                _ => {}
            }
        }
        let mut body = Vec::new();
        match length {
            Some(length) => self.read_part(stream, length, &mut body)?,
            None => loop {
                let size = read_line(stream)?;
                let size = usize::from_str_radix(&size, 16).map_err(|_| format!("a chunk of size {size:?}"))?;
                self.read_part(stream, size, &mut body)?;
                read_line(stream)?;
                if size == 0 {
                    break;
                }
            },
        }
        if ask.status == 200 && body != ask.response {
            let same = body.iter().zip(&ask.response).take_while(|(a, b)| a == b).count();
            return Err(format!("{} bytes instead of {}, right up to {same}", body.len(), ask.response.len()));
        }
        if !keeps {
            let _ = stream.get_ref().shutdown(Shutdown::Both);
        }
        Ok(true)
    }

    fn read_part(&self, stream: &mut impl Read, size: usize, body: &mut Vec<u8>) -> Result<(), String> {
        let end = body.len() + size;
        while body.len() < end {
            std::thread::sleep(self.pause);
            let before = body.len();
            body.resize(end.min(before + 16_384), 0);
            stream.read_exact(&mut body[before..]).map_err(|e| format!("cut after {before} bytes or more: {e}"))?;
        }
        Ok(())
    }
}

fn read_line(stream: &mut impl BufRead) -> Result<String, String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).map_err(|e| e.to_string())?;
    let line = line.strip_suffix(b"\r\n").ok_or_else(|| format!("the connection ended in {:?}", latin1(&line)))?;
    Ok(latin1(line))
}

/// Moment at which a client leaves.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// In the request's headers, perhaps before its first byte.
    Head,
    /// Between headers and body, or in the body.
    Body,
    /// After the request has been sent: the call is in the queue, or has just begun.
    Sent,
    /// A little later.
    Running,
    /// In the response.
    Response,
    /// Just before the response's end.
    LastBytes,
    /// After the whole response: `close()` runs, or the connection is idle.
    Closing,
}

/// Way in which a client leaves.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// RST.
    Reset,
    /// FIN; the kernel makes a RST of it where there is something to read.
    Close,
    /// FIN, and then it waits for the other side to close, too.
    HalfClose,
}

/// A client that asks for something and leaves at some moment, in some way.
pub fn come_and_leave(address: SocketAddr, engine: Engine, rng: &mut SeededRng) {
    let ask = Ask::any(engine, rng);
    let stage = rng.choose(&[
        Stage::Head,
        Stage::Body,
        Stage::Body,
        Stage::Sent,
        Stage::Running,
        Stage::Response,
        Stage::LastBytes,
        Stage::Closing,
    ]);
    let ending = rng.choose(&[Ending::Reset, Ending::Reset, Ending::Close, Ending::HalfClose]);
    let request = ask.bytes();
    let count = match stage {
        Stage::Head => rng.size(ask.head.len()),
        Stage::Body if rng.below(3) == 0 => ask.head.len(),
        Stage::Body => ask.head.len() + rng.size(ask.body.len().max(1)),
        _ => request.len(),
    };
    let conn = Conn::open(address);
    let mut stream = conn.stream();
    // Head and body come apart as often as together.
    let first = if rng.below(2) == 0 { count.min(ask.head.len()) } else { count };
    // That the other side has closed meanwhile does not matter here, nor below.
    let _ = stream.write_all(&request[..first]).and_then(|()| stream.write_all(&request[first..count]));
    let size = ask.response.len();
    match stage {
        Stage::Head | Stage::Body | Stage::Sent => {}
        Stage::Running => std::thread::sleep(Duration::from_micros(rng.below(5000))),
        Stage::Response => read_response(stream, rng.size(size)),
        Stage::LastBytes => read_response(stream, size - 1 - rng.size(size.min(2000))),
        Stage::Closing => read_response(stream, size),
    }
    match ending {
        Ending::Reset => conn.reset(),
        Ending::Close => drop(conn),
        Ending::HalfClose => {
            let _ = stream.shutdown(Shutdown::Write);
            if let Err(e) = std::io::copy(&mut stream, &mut std::io::sink()) {
                assert!(e.kind() == ErrorKind::ConnectionReset, "{stage:?} {}: not closed: {e}", ask.head);
            }
        }
    }
}

/// Reads the headers and about `count` bytes after it; the chunked coding counts as well.
fn read_response(mut stream: &TcpStream, count: usize) {
    let (mut got, mut buffer) = (Vec::new(), vec![0; 4096]);
    let mut end = None;
    while end.is_none_or(|end| got.len() < end) {
        let most = end.map_or(buffer.len(), |end: usize| (end - got.len()).min(4096));
        match stream.read(&mut buffer[..most]) {
            Ok(n) if n > 0 => got.extend_from_slice(&buffer[..n]),
            _ => return,
        }
        end = end.or_else(|| got.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4 + count));
    }
}

/// Connections that nginx counts, besides the one that asks.
pub fn active_connections(nginx: &Nginx) -> u64 {
    let text = nginx.get("/status").expect(200).text();
    let line = text.lines().next().unwrap();
    line.rsplit(' ').find_map(|word| word.parse::<u64>().ok()).expect(line) - 1
}

/// Files below a directory.
pub fn files_below(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path.display().to_string()] }).collect()
}
