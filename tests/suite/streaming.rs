//! `wsgi_request_buffering off`: bodies that are read while their call runs.

use crate::harness::{Conn, Engine, Framing, Nginx, Process, Site, uses_process_group, wait_for};
use crate::input::PROPERTY;
use std::io::{ErrorKind, Write};

use std::time::{Duration, Instant};

const ECHO: &str = r#"
import os
import threading
import time

PREFIX = os.path.dirname(os.path.abspath(__file__))

def note(text):
    with open(os.path.join(PREFIX, "events"), "a") as file:
        file.write(text + "\n")

def wait_for(name):
    while not os.path.exists(os.path.join(PREFIX, name)):
        time.sleep(0.005)

def echo(body):
    try:
        while piece := body.read1():
            yield piece
    except OSError as error:
        note("failed " + type(error).__name__)
        raise

def application(environ, start_response):
    body = environ["wsgi.input"]
    path = environ["PATH_INFO"]
    plain = [("Content-Type", "text/plain")]
    if path == "/quick":
        start_response("200 OK", plain)
        return [b"quick"]
    note("started " + str(environ.get("CONTENT_LENGTH")))
    assert environ["wsgi.input_terminated"] is True
    try:
        if path == "/pieces":
            pieces = []
            while piece := body.read1(100):
                note("piece " + piece.decode())
                pieces.append(piece)
            data = b"|".join(pieces)
        elif path == "/lines":
            data = b"|".join(body)
        elif path == "/ignore":
            data = b"ignored"
        elif path == "/part":
            data = body.read(3)
        elif path == "/exactly":
            data = body.read(int(environ["CONTENT_LENGTH"]))
        elif path == "/echo":
            start_response("200 OK", plain)
            return echo(body)
        elif path in ("/sum", "/hold"):
            if path == "/hold":
                wait_for("go")
            total = 0
            while piece := body.read(65536):
                total += len(piece)
            data = str(total).encode()
        elif path == "/thread":
            found = []
            thread = threading.Thread(target=lambda: found.append(body.read()))
            thread.start()
            thread.join()
            data = found[0]
        elif path == "/threads":
            # More of them than one read what there is: each byte is read once.
            found = []
            def read():
                while piece := body.read1(7):
                    found.append(piece)
            threads = [threading.Thread(target=read) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            data = b"".join(sorted(b"".join(found)[i:i + 1] for i in range(sum(map(len, found)))))
        elif path == "/late":
            def late():
                try:
                    note("late read " + repr(body.read()))
                except Exception as error:
                    note("late " + type(error).__name__)
                try:
                    body.readline()
                except Exception as error:
                    note("later " + type(error).__name__)
            threading.Thread(target=late).start()
            data = b"late"
        elif path == "/catch":
            try:
                body.read()
                data = b"whole"
            except OSError as error:
                for again in (body.read, body.read1, body.readline, body.readlines, lambda: next(body)):
                    try:
                        again()
                        note("no error the second time")
                    except OSError:
                        pass
                note("caught " + type(error).__name__)
                data = b"caught"
        elif path == "/fail":
            body.read(3)
            raise LookupError("as asked")
        else:
            data = body.read()
    except OSError as error:
        note("failed " + type(error).__name__)
        raise
    start_response("200 OK", plain)
    return [data]
"#;

pub fn site() -> Site {
    Site::new(Engine::Threads).http("wsgi_request_buffering off;").app(ECHO)
}

/// Framing of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Length,
    Chunked,
}

const BOTH: [Sending; 2] = [Sending::Length, Sending::Chunked];

impl Sending {
    fn head(self, path: &str, length: usize) -> String {
        let how = match self {
            Self::Length => format!("Content-Length: {length}"),
            Self::Chunked => "Transfer-Encoding: chunked".to_owned(),
        };
        format!("POST {path} HTTP/1.1\r\nHost: a\r\n{how}\r\n\r\n")
    }

    fn piece(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Length => bytes.to_vec(),
            Self::Chunked => [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat(),
        }
    }

    fn end(self) -> &'static str {
        if self == Self::Chunked { "0\r\n\r\n" } else { "" }
    }

    /// Returns the expected CONTENT_LENGTH.
    fn told(self, length: usize) -> String {
        if self == Self::Length { length.to_string() } else { "None".to_owned() }
    }
}

fn letters(count: usize) -> Vec<u8> {
    (0..count).map(|i| b'a' + (i % 26) as u8).collect()
}

#[test]
fn the_call_starts_with_the_headers_and_reads_the_body_as_it_comes() {
    let nginx = site().start();
    let mut conn = nginx.connect();
    conn.send("POST /pieces HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n");
    nginx.wait_events(&["started 6"]);
    conn.send("abc");
    nginx.wait_events(&["started 6", "piece abc"]);
    conn.send("def");
    assert_eq!(conn.response().expect(200).text(), "abc|def");
    // The connection is good for another.
    conn.send("POST /all HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nxy");
    assert_eq!(conn.response().expect(200).text(), "xy");
}

#[test]
fn a_chunked_body_has_no_length_and_ends() {
    let nginx = site().start();
    let mut conn = nginx.connect();
    conn.send("POST /pieces HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    nginx.wait_events(&["started None"]);
    conn.send("3\r\nabc\r\n");
    nginx.wait_events(&["started None", "piece abc"]);
    conn.send("1\r\nd\r\n0\r\n\r\n");
    assert_eq!(conn.response().expect(200).text(), "abc|d");
    conn.send(
        "POST /lines HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na\nb\n\r\n1\r\nc\r\n0\r\n\r\n",
    );
    assert_eq!(conn.response().expect(200).text(), "a\n|b\n|c");
}

#[test]
fn others_are_served_while_a_read_waits() {
    let nginx = site().start();
    for sending in BOTH {
        let mut conn = nginx.connect();
        conn.send(sending.head("/all", 5)).send(sending.piece(b"a"));
        wait_for("the call", || nginx.events().pop());
        for _ in 0..10 {
            assert_eq!(nginx.get("/quick").expect(200).text(), "quick");
        }
        conn.send(sending.piece(b"bcde")).send(sending.end());
        assert_eq!(conn.response().expect(200).text(), "abcde");
    }
}

#[test]
fn bodies_that_are_there_at_once_are_read() {
    let nginx = site().start();
    let mut conn = nginx.connect();
    // In one packet with the headers, with and without a request behind it.
    for sending in BOTH {
        for size in [0, 1, 900, 5000, 100_000] {
            let body = letters(size);
            let piece = if size == 0 { Vec::new() } else { sending.piece(&body) };
            let request = [sending.head("/all", size).as_bytes(), &piece, sending.end().as_bytes()].concat();
            conn.send(&request);
            assert!(conn.response().expect(200).body == body, "{sending:?} {size}");
            conn.send([&request[..], b"GET /all HTTP/1.1\r\nHost: a\r\n\r\n", &request].concat());
            assert!(conn.response().expect(200).body == body, "{sending:?} {size}");
            assert!(conn.response().expect(200).body.is_empty());
            assert!(conn.response().expect(200).body == body, "{sending:?} {size}");
        }
    }
    conn.send("GET /all HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(conn.response().expect(200).body.is_empty());
}

#[test]
fn a_request_behind_a_body_that_comes_slowly_is_served() {
    let nginx = site().start();
    for sending in BOTH {
        let mut conn = nginx.connect();
        conn.send(sending.head("/all", 6)).send(sending.piece(b"abc"));
        wait_for("the call", || nginx.events().pop());
        let next = "GET /quick HTTP/1.1\r\nHost: a\r\n\r\n";
        conn.send([&sending.piece(b"def")[..], sending.end().as_bytes(), next.as_bytes()].concat());
        assert_eq!(conn.response().expect(200).text(), "abcdef");
        assert_eq!(conn.response().expect(200).text(), "quick", "{sending:?}");
    }
}

#[test]
fn the_response_may_begin_before_the_body_is_there() {
    let nginx = site().start();
    for sending in BOTH {
        let mut conn = nginx.connect();
        conn.send(sending.head("/echo", 30));
        for round in 0..10 {
            conn.send(sending.piece(format!("{round}ab").as_bytes()));
            let got = conn.read_until(&format!("{round}ab"));
            assert!(round > 0 || got.starts_with(b"HTTP/1.1 200 OK"));
        }
        conn.send(sending.end());
        conn.read_until("0\r\n\r\n");
    }
}

#[test]
fn expect_is_answered_before_the_body() {
    let nginx = site().start();
    let mut conn = nginx.connect();
    conn.send("POST /all HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(conn.read_until("\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
    conn.send("abc");
    assert_eq!(conn.response().expect(200).text(), "abc");
}

#[test]
fn input_that_trickles_in_behaves_as_bytes_io_does() {
    let nginx = Site::new(Engine::Threads)
        .http("wsgi_request_buffering off; client_body_buffer_size 1k; client_header_buffer_size 8k;")
        .app(PROPERTY)
        .start();
    let mut conn = nginx.connect();
    for seed in 0..80 {
        let sending = BOTH[seed % 2];
        let path = format!("/?{seed}");
        let body = nginx.get(&path).expect(200).body;
        conn.send(sending.head(&path, body.len()));
        let largest = [1, 2, 50, 3000][seed / 2 % 4];
        // Byte by byte, for as long as a test should take.
        let (slowly, rest) = body.split_at(body.len().min(largest * 40));
        for piece in slowly.chunks(largest) {
            conn.send(sending.piece(piece));
        }
        if !rest.is_empty() {
            conn.send(sending.piece(rest));
        }
        conn.send(sending.end());
        assert_eq!(conn.response().expect(200).text(), "same");
    }
}

#[test]
fn input_may_be_read_by_other_threads() {
    let nginx = site().start();
    let body = letters(30_000);
    for sending in BOTH {
        let mut conn = nginx.connect();
        for path in ["/thread", "/threads"] {
            conn.send(sending.head(path, body.len()));
            for piece in body.chunks(1000) {
                conn.send(sending.piece(piece));
            }
            conn.send(sending.end());
            let mut got = conn.response().expect(200).body;
            let mut wanted = body.clone();
            got.sort_unstable();
            wanted.sort_unstable();
            assert!(got == wanted, "{path} {sending:?}");
        }
    }
}

#[test]
fn a_thread_that_reads_beyond_the_end_of_its_request_gets_an_error() {
    let nginx = site().start();
    let mut conn = nginx.connect();
    conn.send(Sending::Length.head("/late", 1000)).send("abc");
    assert_eq!(conn.response().expect(200).text(), "late");
    wait_for("two errors", || (nginx.events().len() == 3).then_some(()));
    let events = nginx.events();
    assert!(matches!(events[1].as_str(), "late BrokenPipeError" | "late ConnectionResetError" | "late ValueError"));
    assert!(matches!(events[2].as_str(), "later ConnectionResetError" | "later ValueError"), "{events:?}");
    nginx.get("/quick").expect(200);
}

// ---- clients that leave or stop -------------------------------------------------------------------------------------

/// Status in the access log for a client that leaves before the response. For a process group it is that of nginx's proxy.
pub fn status_of_departure() -> u16 {
    if uses_process_group() { 400 } else { 499 }
}

/// The error of a reader whose body is refused or late. A process group sees only that its connection is closed.
pub fn failed(class: &str) -> String {
    format!("failed {}", if uses_process_group() { "ConnectionResetError" } else { class })
}

/// Log lines about clients that left.
fn departures(nginx: &Nginx) -> Vec<String> {
    let words = ["prematurely closed", "reset by peer", "has left", "timed out", "stopped sending"];
    nginx.error_log().lines().filter(|line| words.iter().any(|word| line.contains(word))).map(str::to_owned).collect()
}

#[test]
fn a_client_that_leaves_is_an_error_for_the_reader() {
    for sending in BOTH {
        for resets in [false, true] {
            for (path, event) in [
                ("/all", "failed ConnectionResetError"),
                ("/lines", "failed ConnectionResetError"),
                ("/catch", "caught ConnectionResetError"),
                ("/echo", "failed ConnectionResetError"),
            ] {
                let nginx = site().start();
                let mut conn = nginx.connect();
                conn.send(sending.head(path, 100)).send(sending.piece(b"abc"));
                nginx.wait_events(&[&format!("started {}", sending.told(100))]);
                if path == "/echo" {
                    conn.read_until("abc");
                }
                if resets {
                    conn.reset()
                } else {
                    drop(conn)
                }
                wait_for("the error", || nginx.events().into_iter().nth(1));
                assert_eq!(nginx.events()[1], event, "{sending:?} {resets}");
                // Of a response that has begun nginx logs its own status.
                nginx
                    .wait_access(&format!("{} POST {path}", if path == "/echo" { 200 } else { status_of_departure() }));
                nginx.get("/quick").expect(200);
                let said = departures(&nginx);
                let of_nginx = said.iter().filter(|line| !line.contains("application")).count();
                // In a process group by its own nginx as well.
                assert!(of_nginx == 1 || uses_process_group() && of_nginx > 0, "{said:#?}");
                assert!(said.iter().all(|line| line.contains("[info]")), "{said:#?}");
                assert!(nginx.logged("[error]").is_empty());
            }
        }
    }
}

#[test]
fn a_client_that_stops_is_an_error_for_the_reader() {
    for sending in BOTH {
        let nginx = site().http("client_body_timeout 200ms;").start();
        let mut conn = nginx.connect();
        conn.send(sending.head("/all", 100)).send(sending.piece(b"abc"));
        nginx.wait_events(&[&format!("started {}", sending.told(100)), &failed("TimeoutError")]);
        nginx.wait_access("408 POST /all");
        conn.assert_closed();
        nginx.get("/quick").expect(200);
        let said = departures(&nginx);
        assert!(!said.is_empty() && said.iter().all(|line| line.contains("[info]")), "{said:#?}");
        assert!(nginx.logged("[error]").is_empty());
    }
}

/// It is the client that has a time limit, not the application.
#[test]
fn an_application_may_take_its_time_to_read() {
    // In a process group the client must have the time to fill sockets.
    let limit = Duration::from_millis(if uses_process_group() { 1500 } else { 200 });
    let nginx = site()
        .http(&format!("client_body_timeout {}ms; client_body_buffer_size 4k;", limit.as_millis()))
        .http("client_max_body_size 0;")
        .start();
    for sending in BOTH {
        let _ = std::fs::remove_file(nginx.prefix().join("go"));
        let mut conn = nginx.connect();
        if uses_process_group() {
            // The sockets in between have room for a part of the body, and nginx waits for the client until they are full.
            conn.send(sending.head("/hold", 8 * MIB));
            let mut stream = conn.stream().try_clone().unwrap();
            let body = [&sending.piece(&vec![b'x'; 8 * MIB])[..], sending.end().as_bytes()].concat();
            let client = std::thread::spawn(move || stream.write_all(&body));
            std::thread::sleep(limit * 2);
            nginx.write("go", "");
            assert_eq!(conn.response().expect(200).text(), (8 * MIB).to_string());
            client.join().unwrap().unwrap();
            continue;
        }
        conn.send(sending.head("/hold", 50_000)).send(sending.piece(&letters(25_000)));
        std::thread::sleep(limit * 2);
        conn.send(sending.piece(&letters(25_000))).send(sending.end());
        nginx.write("go", "");
        assert_eq!(conn.response().expect(200).text(), "50000");
    }
}

#[test]
fn a_client_that_resets_is_noticed_while_its_body_is_not_read() {
    let nginx = site().start();
    let mut conn = nginx.connect();
    conn.send(Sending::Length.head("/hold", 1000)).send("abc");
    nginx.wait_events(&["started 1000"]);
    conn.reset();
    nginx.wait_access(&format!("{} POST /hold", status_of_departure()));
    nginx.write("go", "");
    nginx.wait_events(&["started 1000", "failed ConnectionResetError"]);
}

#[test]
fn a_body_that_is_no_http_is_an_error_for_the_reader() {
    let nginx = site().errors_expected().start();
    let mut conn = nginx.connect();
    conn.send(Sending::Chunked.head("/all", 0)).send("3\r\nabc\r\n");
    nginx.wait_events(&["started None"]);
    conn.send("no chunk\r\n");
    conn.response().expect(400);
    nginx.wait_events(&["started None", &failed("OSError")]);
    assert!(nginx.logged("Traceback").is_empty(), "{}", nginx.error_log());
}

// ---- how much is taken ----------------------------------------------------------------------------------------------

const MIB: usize = 1 << 20;

/// Sends for as long as the connection takes something, and how much that was.
fn send_until_full(conn: &Conn, most: usize) -> usize {
    let mut stream = conn.stream();
    stream.set_nonblocking(true).unwrap();
    let block = vec![b'x'; 65536];
    let (mut sent, mut last) = (0, Instant::now());
    while sent < most && last.elapsed() < Duration::from_millis(500) {
        match stream.write(&block[..block.len().min(most - sent)]) {
            Ok(count) => (sent, last) = (sent + count, Instant::now()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => panic!("{error} after {sent} bytes"),
        }
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

#[test]
fn a_client_is_slowed_down_while_its_body_is_not_read() {
    let nginx = site()
        .http("client_max_body_size 0; client_body_buffer_size 32k;")
        .listen("listen 127.0.0.1:@port@ rcvbuf=32k;")
        .start();
    assert_eq!(nginx.post("/sum", vec![0; MIB]).expect(200).text(), MIB.to_string());
    let worker = Process(nginx.application_workers()[0]);
    let before = worker.memory();
    let mut conn = nginx.connect();
    let size = 100 * MIB;
    conn.send(Sending::Length.head("/hold", size));
    let sent = send_until_full(&conn, size);
    // The kernel's socket buffers, and little else.
    assert!(sent < 8 * MIB, "{} KiB", sent / 1024);
    let gained = worker.memory().saturating_sub(before);
    assert!(gained < MIB as u64, "{} KiB", gained / 1024);
    nginx.write("go", "");
    let block = vec![b'x'; MIB];
    let mut left = size - sent;
    while left > 0 {
        let count = left.min(MIB);
        conn.send(&block[..count]);
        left -= count;
    }
    assert_eq!(conn.response().expect(200).text(), size.to_string());
    let gained = worker.memory().saturating_sub(before);
    assert!(gained < 4 * MIB as u64, "{} KiB", gained / 1024);
}

#[test]
fn limits_of_the_body_are_those_of_nginx() {
    let nginx = site().http("client_max_body_size 1000;").errors_expected().start();
    let mut conn = nginx.connect();
    conn.send(Sending::Length.head("/all", 1001));
    conn.response().expect(413);
    assert!(nginx.events().is_empty());
    // The length of chunks is known when they come.
    let mut conn = nginx.connect();
    conn.send(Sending::Chunked.head("/all", 0)).send(Sending::Chunked.piece(&letters(900)));
    nginx.wait_events(&["started None"]);
    conn.send(Sending::Chunked.piece(&letters(101)));
    conn.response().expect(413);
    nginx.wait_events(&["started None", &failed("OSError")]);
    assert!(nginx.logged("Traceback").is_empty(), "{}", nginx.error_log());
    let mut conn = nginx.connect();
    for sending in BOTH {
        conn.send(sending.head("/all", 1000)).send(sending.piece(&letters(1000))).send(sending.end());
        assert_eq!(conn.response().expect(200).body.len(), 1000);
    }
}

/// Gigabytes where the variable WSGI_TEST_UPLOAD_GIB says so.
#[test]
fn a_huge_upload_leaves_memory_flat() {
    let gigabytes = std::env::var("WSGI_TEST_UPLOAD_GIB").ok().and_then(|text| text.parse::<usize>().ok());
    let size = gigabytes.map_or(200 * MIB, |count| count << 30);
    for buffering in ["on", "off"] {
        let nginx = Site::new(Engine::Threads)
            .http(&format!("wsgi_request_buffering {buffering}; client_max_body_size 0;"))
            .app(ECHO)
            .start();
        for _ in 0..5 {
            nginx.post("/sum", vec![0; MIB]).expect(200);
        }
        let worker = Process(nginx.application_workers()[0]);
        let before = worker.peak_memory();
        for sending in BOTH {
            let mut conn = nginx.connect();
            conn.send(sending.head("/sum", size));
            let block = sending.piece(&vec![b'x'; MIB]);
            for _ in 0..size / MIB {
                conn.send(&block);
            }
            conn.stream().set_read_timeout(Some(Duration::from_secs(300))).unwrap();
            conn.send(sending.end());
            assert_eq!(conn.response().expect(200).text(), size.to_string());
        }
        let gained = worker.peak_memory().saturating_sub(before);
        println!("buffering {buffering}: {} MiB twice, {} KiB more at the highest", size / MIB, gained / 1024);
        assert!(gained < 4 * MIB as u64, "{} KiB with buffering {buffering}", gained / 1024);
    }
}

// ---- what is not read -----------------------------------------------------------------------------------------------

/// A body that looks like a request must never become one.
#[test]
fn an_unread_rest_does_not_disturb_the_next_request() {
    let nginx = site().http("client_max_body_size 0;").start();
    let trap = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".repeat(1000);
    for sending in BOTH {
        for path in ["/ignore", "/part", "/late"] {
            for at_once in [0, 1, 500, trap.len()] {
                let mut conn = nginx.connect();
                let head = sending.head(path, trap.len());
                let body = [&sending.piece(trap.as_bytes())[..], sending.end().as_bytes()].concat();
                let at_once = at_once.max(if path == "/part" { 20 } else { 0 }).min(body.len());
                conn.send([head.as_bytes(), &body[..at_once]].concat());
                let response = conn.response().expect(200);
                // Either it says that it ends the connection, or that goes on after the body.
                let ends = response.header("Connection") == Some("close");
                let mut stream = conn.stream();
                let sent = stream.write_all(&body[at_once..]);
                let sent = sent.and_then(|()| stream.write_all(b"GET /quick HTTP/1.1\r\nHost: a\r\n\r\n"));
                if ends {
                    conn.assert_closed();
                } else {
                    sent.expect("the connection goes on");
                    assert_eq!(conn.response().expect(200).text(), "quick", "{sending:?} {path} {at_once}");
                }
            }
        }
    }
    assert!(!nginx.read("logs/access.log").contains("smuggled"));
}

#[test]
fn a_body_read_to_its_length_keeps_the_connection() {
    let nginx = site().start();
    let mut conn = nginx.connect();
    for size in [1, 100, 50_000] {
        conn.send(Sending::Length.head("/exactly", size));
        for piece in letters(size).chunks(777) {
            conn.send(piece);
        }
        assert_eq!(conn.response().expect(200).body, letters(size));
    }
}

#[test]
fn an_early_response_to_a_large_body_arrives() {
    let nginx = site().http("client_max_body_size 0;").start();
    let mut conn = nginx.connect();
    conn.send(Sending::Length.head("/part", 20 * MIB));
    conn.send(vec![b'x'; 20 * MIB]);
    assert_eq!(conn.response().expect(200).text(), "xxx");
}

// ---- the same body for others ---------------------------------------------------------------------------------------

#[test]
fn subrequests_do_not_take_a_body_that_comes() {
    let nginx = site()
        .location("/authorized/", "auth_request /authorize; wsgi_script_name /authorized; wsgi_pass app.py;")
        .location("= /authorize", "internal; wsgi_pass other.py;")
        .location("/page/", "ssi on; wsgi_script_name /page; wsgi_pass page.py;")
        .location("= /include", "wsgi_pass other.py;")
        .location("/mirrored/", "mirror /mirror; wsgi_script_name /mirrored; wsgi_pass app.py;")
        .location("= /mirror", "internal; wsgi_pass other.py;")
        .file(
            "other.py",
            r#"
def application(environ, start_response):
    body = environ["wsgi.input"].read()
    with open("@prefix@/events", "a") as events:
        events.write(f"other {environ.get('CONTENT_LENGTH')} {len(body)}\n")
    start_response("200 OK", [])
    return [body.upper()]
"#,
        )
        .file(
            "page.py",
            r#"
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html")])
    yield b'<!--# include virtual="/include" -->|'
    yield environ["wsgi.input"].read()
"#,
        )
        .start();
    for sending in BOTH {
        let mut conn = nginx.connect();
        conn.send(sending.head("/authorized/all", 6)).send(sending.piece(b"abc"));
        wait_for("the call", || nginx.events().contains(&format!("started {}", sending.told(6))).then_some(()));
        conn.send(sending.piece(b"def")).send(sending.end());
        assert_eq!(conn.response().expect(200).text(), "abcdef");

        let mut conn = nginx.connect();
        conn.send(sending.head("/page/", 6)).send(sending.piece(b"abc"));
        std::thread::sleep(Duration::from_millis(50));
        conn.send(sending.piece(b"def")).send(sending.end());
        assert_eq!(conn.response().expect(200).text(), "|abcdef", "{sending:?}");

        let mut conn = nginx.connect();
        conn.send(sending.head("/mirrored/all", 6)).send(sending.piece(b"abc"));
        conn.send(sending.piece(b"def")).send(sending.end());
        assert_eq!(conn.response().expect(200).text(), "abcdef", "{sending:?}");
        wait_for("the mirrored call", || nginx.events().iter().any(|event| event.ends_with(" 6")).then_some(()));
        std::fs::remove_file(nginx.prefix().join("events")).unwrap();
    }
}

// ---- configuration --------------------------------------------------------------------------------------------------

#[test]
fn it_needs_threads() {
    let message = |place: &str| {
        format!(
            "\"wsgi_request_buffering off\" requires threads, but the application in {place} has \"wsgi_threads off\": a \
             call that waits for its client would block the worker process"
        )
    };
    let refused = |site: Site| {
        let check = site.check();
        assert!(!check.ok);
        let line = 1 + check.conf_text.lines().position(|line| line.contains("off_here")).expect("the location");
        let wanted = message(&format!("{}:{line}", check.conf().display()));
        assert!(check.output.contains(&wanted), "wanted: {wanted}\ngot: {}", check.output);
    };
    let inline = || Site::new(Engine::Inline).file("app.py", ECHO).location("/", "wsgi_pass app.py;");
    let pass = "wsgi_pass app.py; set $off_here 1;";
    refused(inline().location("/b/", &format!("wsgi_request_buffering off; {pass}")));
    refused(
        Site::new(Engine::Inline)
            .file("app.py", ECHO)
            .http("wsgi_request_buffering off;")
            .location("/a/", "wsgi_request_buffering on; wsgi_pass app.py;")
            .location("/b/", pass),
    );
    inline().location("/b/", "wsgi_request_buffering off; return 200;").check().assert_ok();
    site().check().assert_ok();
}

#[test]
fn it_is_each_locations_own() {
    let nginx = Site::new(Engine::Threads)
        .app(ECHO)
        .location("/b/", "wsgi_request_buffering off; wsgi_script_name /b; wsgi_pass app.py;")
        .start();
    let mut streamed = nginx.connect();
    streamed.send(Sending::Chunked.head("/b/all", 0)).send("1\r\na\r\n");
    nginx.wait_events(&["started None"]);
    let mut kept = nginx.connect();
    kept.send(Sending::Chunked.head("/all", 0)).send("1\r\nb\r\n");
    streamed.send("0\r\n\r\n");
    assert_eq!(streamed.response().expect(200).text(), "a");
    nginx.wait_events(&["started None"]);
    kept.send("0\r\n\r\n");
    let response = kept.response().expect(200);
    assert_eq!((response.text().as_str(), response.framing), ("b", Framing::Length));
    nginx.wait_events(&["started None", "started 1"]);
}
