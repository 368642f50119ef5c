//! The iterable: how it is framed, sent, ended and closed.

use crate::harness::{Client, Conn, Engine, Framing, Nginx, Response, Site, both_engines};
use std::time::{Duration, Instant};

both_engines!(
    a_generator_is_sent_in_chunks,
    http_1_0_gets_no_chunks,
    an_empty_response_is_empty,
    items_of_any_length_arrive_whole,
    many_tiny_items_arrive_whole,
    each_chunk_is_passed_on_at_once,
    head_has_the_same_headers_and_no_body,
    a_204_has_neither_length_nor_body,
    a_304_keeps_its_headers_and_has_no_body,
    a_content_length_of_the_applications_own_is_kept,
    surplus_over_the_content_length_is_cut_off,
    a_body_shorter_than_its_length_breaks_the_connection,
    a_length_beyond_4_gib_is_kept,
    a_generator_of_any_size_is_not_held_in_memory,
    written_data_of_any_size_is_not_held_in_memory,
    responses_do_not_wait_for_delayed_acknowledgements,
    keep_alive_survives_responses_of_every_kind,
);

/// Runs the function of the file that the path names. Those are generators or return lists.
pub fn functions(engine: Engine, source: &str) -> Site {
    let start = r#"
@event@

def application(environ, start_response):
    name = environ["PATH_INFO"].strip("/")
    return globals()[name](environ, start_response)
"#;
    Site::new(engine).app(&format!("{start}\n{source}"))
}

#[track_caller]
pub fn ask(nginx: &Client, method: &str, path: &str) -> Response {
    let mut conn = nginx.connect();
    conn.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    conn.response_to(method)
}

fn a_generator_is_sent_in_chunks(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def parts(environ, start_response):
    start_response("200 OK", [])
    yield b"one, "
    yield b"two"
"#,
    )
    .start_shared();
    let response = ask(&nginx, "GET", "/parts").expect(200);
    assert_eq!(response.framing, Framing::Chunked);
    assert_eq!(response.text(), "one, two");
    assert_eq!(response.header("Content-Length"), None);
}

fn http_1_0_gets_no_chunks(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def parts(environ, start_response):
    start_response("200 OK", [])
    yield b"one, "
    yield b"two"
"#,
    )
    .start_shared();
    let mut conn = nginx.connect();
    conn.send("GET /parts HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let response = conn.response().expect(200);
    assert_eq!(response.framing, Framing::Close);
    assert_eq!(response.text(), "one, two");
}

fn an_empty_response_is_empty(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def none(environ, start_response):
    start_response("200 OK", [("X-A", "b")])
    return []

def generator(environ, start_response):
    start_response("200 OK", [("X-A", "b")])
    return
    yield

def zero(environ, start_response):
    start_response("200 OK", [("X-A", "b"), ("Content-Length", "0")])
    return []
"#,
    )
    .start_shared();
    for path in ["/none", "/generator", "/zero"] {
        let response = ask(&nginx, "GET", path).expect(200);
        assert_eq!(response.header("X-A"), Some("b"), "{path}");
        assert_eq!(response.text(), "", "{path}");
        assert_ne!(response.framing, Framing::Cut, "{path}");
        assert_ne!(response.framing, Framing::Close, "{path}");
    }
}

fn items_of_any_length_arrive_whole(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
import hashlib

def sizes(environ, start_response):
    start_response("200 OK", [])
    return [bytes([i % 251]) * size for i, size in enumerate((1, 4095, 4096, 65535, 65536, 65537, 1, 3000000))]

def large(environ, start_response):
    start_response("200 OK", [])
    return [bytes(range(256)) * 80000]
"#,
    )
    .start_shared();
    let response = ask(&nginx, "GET", "/sizes").expect(200);
    let wanted: Vec<u8> = [1, 4095, 4096, 65535, 65536, 65537, 1, 3_000_000]
        .iter()
        .enumerate()
        .flat_map(|(i, size)| vec![i as u8; *size])
        .collect();
    assert!(response.body == wanted);
    let response = ask(&nginx, "GET", "/large").expect(200);
    assert!(response.body.iter().enumerate().all(|(i, b)| *b == (i % 256) as u8));
    assert_eq!(response.body.len(), 256 * 80_000);
}

fn many_tiny_items_arrive_whole(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def tiny(environ, start_response):
    start_response("200 OK", [])
    for i in range(50000):
        yield b"%d" % (i % 10)
"#,
    )
    .start_shared();
    let response = ask(&nginx, "GET", "/tiny").expect(200);
    assert_eq!(response.text(), "0123456789".repeat(5000));
}

fn each_chunk_is_passed_on_at_once(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
import os
import time

def steps(environ, start_response):
    start_response("200 OK", [])
    for step in range(3):
        yield b"step %d." % step
        deadline = time.monotonic() + 60
        # Goes on only when the client has seen this much.
        while not os.path.exists(f"@prefix@/seen{step}") and time.monotonic() < deadline:
            time.sleep(0.002)
"#,
    )
    .start_shared();
    let mut conn = nginx.connect();
    conn.send("GET /steps HTTP/1.1\r\nHost: a\r\n\r\n");
    for step in 0..3 {
        conn.read_until(&format!("step {step}."));
        nginx.write(&format!("seen{step}"), "");
    }
    conn.read_until("0\r\n\r\n");
}

fn head_has_the_same_headers_and_no_body(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
class Body:
    def __init__(self, items):
        self.items = iter(items)
    def __iter__(self):
        return self
    def __next__(self):
        return next(self.items)
    def close(self):
        event("closed")

def length(environ, start_response):
    start_response("200 OK", [("Content-Length", "5"), ("X-A", "b")])
    return Body([b"12345"])

def chunks(environ, start_response):
    start_response("404 No", [("X-A", "b")])
    return Body([b"1", b"2", b"3"])

def nothing(environ, start_response):
    start_response("200 OK", [("Content-Length", "5"), ("X-A", "b")])
    return Body([])
"#,
    )
    .start_shared();
    let mut conn = nginx.connect();
    for (path, status, length) in [
        ("/length", 200, Some("5")),
        ("/chunks", 404, None),
        // An application may leave out a body that is not sent.
        ("/nothing", 200, Some("5")),
    ] {
        // Two responses on a connection: a byte of a body between them would be no status line.
        for _ in 0..2 {
            conn.send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let response = conn.response_to("HEAD").expect(status);
            assert_eq!(response.header("Content-Length"), length, "{path}");
            assert_eq!(response.header("X-A"), Some("b"));
        }
    }
    nginx.wait_events(&["closed"; 6]);
}

fn a_204_has_neither_length_nor_body(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def silent(environ, start_response):
    start_response("204 No Content", [("X-A", "b")])
    return []

def talking(environ, start_response):
    start_response("204 No Content", [("X-A", "b"), ("Content-Length", "4")])
    return [b"talk"]

def streaming(environ, start_response):
    start_response("204 No Content", [("X-A", "b")])
    yield b"talk"
    yield b"talk"
"#,
    )
    .start_shared();
    let mut conn = nginx.connect();
    for path in ["/silent", "/talking", "/streaming", "/silent"] {
        conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = conn.response().expect(204);
        assert_eq!(response.header("X-A"), Some("b"));
        assert_eq!(response.header("Content-Length"), None, "{path}");
        assert_eq!(response.header("Transfer-Encoding"), None, "{path}");
    }
}

fn a_304_keeps_its_headers_and_has_no_body(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def silent(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"x"'), ("Cache-Control", "max-age=5")])
    return []

def talking(environ, start_response):
    start_response("304 Not Modified", [("ETag", '"x"'), ("Cache-Control", "max-age=5"), ("Content-Length", "4")])
    return [b"talk"]
"#,
    )
    .start_shared();
    let mut conn = nginx.connect();
    for (path, length) in [("/silent", None), ("/talking", Some("4")), ("/silent", None)] {
        conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = conn.response().expect(304);
        assert_eq!(response.header("ETag"), Some("\"x\""));
        assert_eq!(response.header("Cache-Control"), Some("max-age=5"));
        assert_eq!(response.header("Content-Length"), length, "{path}");
        assert_eq!(response.header("Transfer-Encoding"), None, "{path}");
    }
}

fn a_content_length_of_the_applications_own_is_kept(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def exact(environ, start_response):
    start_response("200 OK", [("content-LENGTH", "6")])
    yield b"abc"
    yield b"def"
"#,
    )
    .start_shared();
    let response = ask(&nginx, "GET", "/exact").expect(200);
    assert_eq!(response.header("Content-Length"), Some("6"));
    assert_eq!(response.framing, Framing::Length);
    assert_eq!(response.text(), "abcdef");
}

fn surplus_over_the_content_length_is_cut_off(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def list(environ, start_response):
    start_response("200 OK", [("Content-Length", "3")])
    return [b"abcdef"]

def generator(environ, start_response):
    start_response("200 OK", [("Content-Length", "3")])
    yield b"ab"
    yield b"cdef"
    yield b"gh"

def zero(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return [b"abc"]

def fine(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"#,
    )
    .errors_expected()
    .start_shared();
    let mut conn = nginx.connect();
    for (path, body) in [("/list", "abc"), ("/generator", "abc"), ("/zero", "")] {
        conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\nGET /fine HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(conn.response().expect(200).text(), body, "{path}");
        assert_eq!(conn.response().expect(200).text(), "ok", "after {path}");
    }
    nginx.wait_log("Content-Length");
}

fn a_body_shorter_than_its_length_breaks_the_connection(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def list(environ, start_response):
    start_response("200 OK", [("Content-Length", "10")])
    return [b"abc"]

def generator(environ, start_response):
    start_response("200 OK", [("Content-Length", "10")])
    yield b"ab"
    yield b"c"

def nothing(environ, start_response):
    start_response("200 OK", [("Content-Length", "10")])
    return []
"#,
    )
    .errors_expected()
    .start_shared();
    for (path, body) in [("/list", "abc"), ("/generator", "abc")] {
        let response = ask(&nginx, "GET", path).expect(200);
        assert_eq!(response.framing, Framing::Cut, "{path}");
        assert_eq!(response.text(), body);
    }
    // With nothing sent yet it may as well be a 500. From a process group it is a 502.
    let mut conn = nginx.connect();
    conn.send("GET /nothing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let text = crate::harness::latin1(&conn.read_to_end());
    assert!(!text.contains("200 OK") || text.ends_with("\r\n\r\n"), "{text}");
    nginx.wait_log("Content-Length");
}

fn a_length_beyond_4_gib_is_kept(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def huge(environ, start_response):
    start_response("200 OK", [("Content-Length", "5368709120")])
    return []
"#,
    )
    .start_shared();
    let response = ask(&nginx, "HEAD", "/huge").expect(200);
    assert_eq!(response.header("Content-Length"), Some("5368709120"));
}

const BIG: &str = r#"
def big(environ, start_response):
    start_response("200 OK", [])
    block = b"x" * 65536
    for i in range(1500):
        yield block + b"y"
    event("all made")

def written(environ, start_response):
    write = start_response("200 OK", [])
    for i in range(1500):
        write(b"x" * 65536 + b"y")
    event("all made")
    return []

def small(environ, start_response):
    start_response("200 OK", [])
    return [b"small"]
"#;

fn a_generator_of_any_size_is_not_held_in_memory(engine: Engine) {
    let nginx = functions(engine, BIG).http("wsgi_max_temp_file_size 0;").start();
    let (worker, before) = warm(&nginx);
    let mut conn = nginx.connect();
    conn.send("GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    conn.read_until("\r\n\r\n");
    // A client that reads nothing for a while. Others are served meanwhile, also by the inline engine.
    for _ in 0..20 {
        ask(&nginx, "GET", "/small").expect(200);
        std::thread::sleep(std::time::Duration::from_millis(10));
        assert_flat(worker, before);
    }
    assert_eq!(nginx.events(), [""; 0], "made without a reader");
    assert_eq!(read_letters(&mut conn), 1500 * 65537);
    nginx.wait_events(&["all made"]);
    assert_flat(worker, before);
}

fn written_data_of_any_size_is_not_held_in_memory(engine: Engine) {
    let nginx = functions(engine, BIG).start();
    let (worker, before) = warm(&nginx);
    let mut conn = nginx.connect();
    conn.send("GET /written HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    conn.read_until("\r\n\r\n");
    // write() cannot be suspended: a thread waits in it, the event loop's thread puts the data into a file.
    for _ in 0..10 {
        ask(&nginx, "GET", "/small").expect(200);
        assert_flat(worker, before);
    }
    assert_eq!(read_letters(&mut conn), 1500 * 65537);
    nginx.wait_events(&["all made"]);
    assert_flat(worker, before);
}

/// The only worker, and its memory after a first request.
fn warm(nginx: &Nginx) -> (i32, u64) {
    ask(nginx, "GET", "/small").expect(200);
    let worker = nginx.application_workers()[0];
    (worker, resident(worker))
}

#[track_caller]
fn assert_flat(worker: i32, before: u64) {
    let grown = resident(worker).saturating_sub(before);
    assert!(grown < 20 << 10, "the worker grew by {grown} KiB");
}

/// Counts the letters x and y up to the end of the stream; they are in no chunk's size.
fn read_letters(conn: &mut Conn) -> usize {
    let mut count = 0;
    loop {
        let part = conn.read_exactly(1 << 20);
        if part.is_empty() {
            return count;
        }
        count += part.iter().filter(|b| matches!(b, b'x' | b'y')).count();
    }
}

/// The memory that a process has resident, in KiB.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn responses_do_not_wait_for_delayed_acknowledgements(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def parts(environ, start_response):
    start_response("200 OK", [])
    yield b"one"
    yield b"two"
    yield b"three"

def whole(environ, start_response):
    start_response("200 OK", [])
    return [b"onetwothree"]
"#,
    )
    .start_shared();
    let mut conn = nginx.connect();
    let mut timed = |path: &str| {
        let start = Instant::now();
        conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        conn.response().expect(200);
        start.elapsed()
    };
    let (mut parts, mut whole) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..30 {
        parts += timed("/parts");
        whole += timed("/whole");
    }
    // A delay is 40 ms each, and there is none where the response comes in one segment.
    assert!(parts < 2 * whole + 30 * Duration::from_millis(20), "{parts:?}, and {whole:?} in one part");
}

fn keep_alive_survives_responses_of_every_kind(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def list(environ, start_response):
    start_response("200 OK", [])
    return [b"list"]

def generator(environ, start_response):
    start_response("200 OK", [])
    yield b"gene"
    yield b"rator"

def empty(environ, start_response):
    start_response("200 OK", [])
    return []

def written(environ, start_response):
    start_response("200 OK", [])(b"written")
    return []
"#,
    )
    .start_shared();
    let mut conn = nginx.connect();
    for _ in 0..5 {
        for (path, body) in [("/list", "list"), ("/generator", "generator"), ("/empty", ""), ("/written", "written")] {
            conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            assert_eq!(conn.response().expect(200).text(), body);
        }
    }
}
