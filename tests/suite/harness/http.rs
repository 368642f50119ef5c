//! Connections on which tests send and read exact bytes, and the type of responses.

use super::PATIENCE;
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// Framing of a response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// None by the rules of HTTP: HEAD, 204, 304.
    None,
    Length,
    Chunked,
    /// No length was given; the connection's end is the body's.
    Close,
    /// The connection ended before the body did.
    Cut,
    /// Unknown: the response came by way of curl, which accepted it.
    Client,
}

/// A response. Text is Latin-1, one character a byte.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Empty with HTTP/2, which has none.
    pub reason: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub framing: Framing,
}

impl Response {
    /// The value of a header that must not be there twice.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} came more than once: {all:?}");
        all.first().copied()
    }

    /// Every value of a header, in the order they came.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    pub fn text(&self) -> String {
        latin1(&self.body)
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("no JSON ({e}) in {}: {}", self.status, self.text()))
    }

    /// Itself, when the status is the one expected.
    #[track_caller]
    pub fn expect(self, status: u16) -> Response {
        assert_eq!(self.status, status, "body: {}", self.text());
        self
    }
}

pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|b| *b as char).collect()
}

/// One connection, spoken to in bytes.
pub struct Conn {
    stream: TcpStream,
    /// Read from the socket and not yet asked for.
    pending: Vec<u8>,
}

impl Conn {
    pub fn open(address: SocketAddr) -> Conn {
        let stream = TcpStream::connect(address).expect("connect to nginx");
        Conn::over(stream)
    }

    /// A connection from an address of the loopback network.
    pub fn open_from(source: Ipv4Addr, address: SocketAddr) -> Conn {
        Conn::over(connect_from(source, address).expect("connect to nginx"))
    }

    pub fn over(stream: TcpStream) -> Conn {
        stream.set_nodelay(true).unwrap();
        let conn = Conn { stream, pending: Vec::new() };
        conn.set_timeout(PATIENCE);
        conn
    }

    /// Sets the timeout of a single read or write.
    pub fn set_timeout(&self, timeout: Duration) {
        self.stream.set_read_timeout(Some(timeout)).unwrap();
        self.stream.set_write_timeout(Some(timeout)).unwrap();
    }

    /// A response that was read elsewhere, on a connection that has ended.
    pub fn from_bytes(bytes: Vec<u8>) -> Conn {
        let ended = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let mut conn = Conn::over(TcpStream::connect(ended.local_addr().unwrap()).expect("connect"));
        drop(ended.accept());
        conn.pending = bytes;
        conn
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Conn {
        self.stream.write_all(bytes.as_ref()).expect("send");
        self
    }

    /// Sends a request on a connection that was idle, and waits for the response to begin. `None` if the server has closed
    /// the connection, which it may do at any time: then the request was not received, and another connection has to be
    /// used (RFC 9112, section 9.3.1).
    pub fn begin(mut self, request: &[u8]) -> Option<Conn> {
        self.stream.write_all(request).ok()?;
        self.fill().then_some(self)
    }

    /// No more will be sent: the other side sees the end of the stream.
    pub fn finish_sending(&mut self) -> &mut Conn {
        self.stream.shutdown(Shutdown::Write).expect("shutdown");
        self
    }

    /// Ends the connection by a reset rather than in good order.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// More bytes into `pending`; false at the end of the stream.
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 16384];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.pending.extend_from_slice(&buffer[..n]);
                true
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => false,
            Err(e) => panic!("nothing more came ({e}); so far: {:?}", latin1(&self.pending)),
        }
    }

    /// Everything up to the end of the stream.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.pending)
    }

    /// Exactly `n` bytes, or fewer when the stream ends first.
    pub fn read_exactly(&mut self, n: usize) -> Vec<u8> {
        while self.pending.len() < n && self.fill() {}
        let n = n.min(self.pending.len());
        self.pending.drain(..n).collect()
    }

    /// Bytes up to and with `mark`.
    #[track_caller]
    pub fn read_until(&mut self, mark: &str) -> Vec<u8> {
        let mark = mark.as_bytes();
        loop {
            if let Some(at) = self.pending.windows(mark.len()).position(|w| w == mark) {
                return self.pending.drain(..at + mark.len()).collect();
            }
            assert!(self.fill(), "the connection ended before {:?}; so far: {:?}", latin1(mark), latin1(&self.pending));
        }
    }

    /// Reads the response to a request whose method is not HEAD.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    /// The next response on the connection; the method says whether it may have a body.
    #[track_caller]
    pub fn response_to(&mut self, method: &str) -> Response {
        let block = self.read_until("\r\n\r\n");
        let mut response = parse_headers(&block);
        let length = response.header("Content-Length").map(|v| v.parse::<usize>().expect("Content-Length"));
        let chunked = response.header("Transfer-Encoding") == Some("chunked");
        assert!(!(chunked && length.is_some()), "both Content-Length and chunked: {:?}", latin1(&block));
        (response.framing, response.body) = if method == "HEAD" || matches!(response.status, 100..200 | 204 | 304) {
            (Framing::None, Vec::new())
        } else if chunked {
            self.chunks()
        } else if let Some(length) = length {
            let body = self.read_exactly(length);
            let framing = if body.len() == length { Framing::Length } else { Framing::Cut };
            (framing, body)
        } else {
            (Framing::Close, self.read_to_end())
        };
        response
    }

    fn chunks(&mut self) -> (Framing, Vec<u8>) {
        let mut body = Vec::new();
        loop {
            let Some(size) = self.chunk_size() else {
                return (Framing::Cut, body);
            };
            let chunk = self.read_exactly(size + 2);
            if chunk.len() < size + 2 {
                body.extend_from_slice(&chunk[..chunk.len().min(size)]);
                return (Framing::Cut, body);
            }
            assert_eq!(&chunk[size..], b"\r\n", "a chunk's end");
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                return (Framing::Chunked, body);
            }
        }
    }

    fn chunk_size(&mut self) -> Option<usize> {
        while !self.pending.windows(2).any(|w| w == b"\r\n") {
            if !self.fill() {
                return None;
            }
        }
        let line = latin1(&self.read_until("\r\n"));
        Some(usize::from_str_radix(line.trim_end(), 16).unwrap_or_else(|_| panic!("size {line:?}")))
    }

    /// The other side has closed, and nothing is left to read.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        let rest = self.read_to_end();
        assert!(rest.is_empty(), "left over: {:?}", latin1(&rest));
    }
}

/// `TcpStream::connect` from a given address.
fn connect_from(source: Ipv4Addr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

fn parse_headers(block: &[u8]) -> Response {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Response::new(&mut headers);
    let status = parsed.parse(block);
    assert!(
        matches!(status, Ok(httparse::Status::Complete(_))),
        "no HTTP header block ({status:?}): {:?}",
        latin1(block)
    );
    Response {
        status: parsed.code.unwrap(),
        reason: parsed.reason.unwrap_or_default().to_owned(),
        headers: parsed.headers.iter().map(|h| (h.name.to_owned(), latin1(h.value))).collect(),
        body: Vec::new(),
        framing: Framing::None,
    }
}
