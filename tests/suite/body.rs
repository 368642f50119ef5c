//! Request bodies: whole, or the application does not start.

use crate::harness::{Client, Conn, Engine, Framing, Site, both_engines, wait_for};
use std::io::Write;
use std::time::Duration;

both_engines!(
    bodies_of_any_size_arrive_whole,
    a_body_that_comes_in_pieces_arrives_whole,
    a_chunked_body_gets_its_true_length,
    an_empty_chunked_body_has_length_zero,
    trailers_are_no_part_of_the_body,
    length_together_with_chunks_is_refused,
    the_application_never_starts_on_a_body_cut_by_a_close,
    the_application_never_starts_on_a_body_cut_by_a_reset,
    the_application_never_starts_on_a_body_that_stalls,
    the_application_never_starts_on_broken_chunks,
    an_unread_body_does_not_disturb_the_next_request,
    a_half_read_body_does_not_disturb_the_next_request,
    an_early_response_to_a_large_body_arrives,
    pipelined_bodies_stay_apart,
    body_size_limits_are_those_of_nginx,
    continue_is_sent_before_the_body_is_read,
    continue_is_not_sent_for_a_refused_body,
    a_body_of_a_get_is_passed,
    a_body_forced_into_a_file_is_passed,
    temporary_files_go_with_the_request,
    a_large_upload_leaves_memory_flat,
);

/// Responds with length and checksum of the body and with what environ says about it.
const DIGEST: &str = r#"
import hashlib

def application(environ, start_response):
    body = environ["wsgi.input"].read()
    with open("@prefix@/events", "a") as events:
        events.write("started\n")
    start_response("200 OK", [])
    return [" ".join([
        str(len(body)),
        hashlib.sha256(body).hexdigest()[:16],
        environ.get("CONTENT_LENGTH", "absent"),
        environ.get("HTTP_TRANSFER_ENCODING", "absent"),
        str(environ["wsgi.input_terminated"]),
    ]).encode()]
"#;

/// Responds with the whole body.
const ECHO: &str = r#"
def application(environ, start_response):
    start_response("200 OK", [])
    return [environ["wsgi.input"].read()]
"#;

/// Never looks at the body.
const IGNORE: &str = r#"
def application(environ, start_response):
    start_response(environ["QUERY_STRING"].replace("+", " ") or "200 OK", [])
    return [environ["PATH_INFO"].encode()]
"#;

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 31 % 251) as u8).collect()
}

fn bodies_of_any_size_arrive_whole(engine: Engine) {
    let nginx = Site::new(engine).app(ECHO).http("client_body_buffer_size 4k; client_max_body_size 0;").start();
    for size in [1, 2, 4095, 4096, 4097, 8191, 8192, 16384, 100_000, 1_000_000, 10_000_000] {
        let body = pattern(size);
        let response = nginx.post("/", &body).expect(200);
        assert!(response.body == body, "{size} bytes came back otherwise");
    }
}

fn a_body_that_comes_in_pieces_arrives_whole(engine: Engine) {
    let nginx = Site::new(engine).app(ECHO).start_shared();
    let mut conn = nginx.connect();
    conn.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 26\r\n\r\nabc");
    for piece in ["defg", "h", "ijklmnopq", "rstuvwxyz"] {
        std::thread::sleep(Duration::from_millis(10));
        conn.send(piece);
    }
    assert_eq!(conn.response().text(), "abcdefghijklmnopqrstuvwxyz");
}

fn a_chunked_body_gets_its_true_length(engine: Engine) {
    let nginx = Site::new(engine).app(DIGEST).http("client_body_buffer_size 1k;").start_shared();
    let mut conn = nginx.connect();
    conn.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    conn.send("5\r\nhello\r\n1;extension=x\r\n \r\n");
    conn.send("5\r\nworld\r\n0\r\n\r\n");
    let text = conn.response().expect(200).text();
    let words: Vec<&str> = text.split(' ').collect();
    // The checksum of "hello world".
    assert_eq!(words, ["11", "b94d27b9934d3e08", "11", "absent", "True"]);

    // Past the buffer, into a file.
    conn.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..50 {
        conn.send([b"400\r\n", &pattern(1024)[..], b"\r\n"].concat());
    }
    conn.send("0\r\n\r\n");
    let text = conn.response().expect(200).text();
    assert!(text.starts_with("51200 "), "{text}");
    assert!(text.ends_with(" 51200 absent True"), "{text}");
}

fn an_empty_chunked_body_has_length_zero(engine: Engine) {
    let nginx = Site::new(engine).app(DIGEST).start_shared();
    let mut conn = nginx.connect();
    conn.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    let text = conn.response().expect(200).text();
    assert_eq!(text, "0 e3b0c44298fc1c14 0 absent True");
}

fn trailers_are_no_part_of_the_body(engine: Engine) {
    let nginx = Site::new(engine).app(ECHO).start_shared();
    let mut conn = nginx.connect();
    conn.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    conn.send("3\r\nabc\r\n0\r\nX-Trailer: yes\r\nX-Other: no\r\n\r\n");
    assert_eq!(conn.response().expect(200).text(), "abc");
    conn.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(conn.response().expect(200).text(), "hi");
}

fn length_together_with_chunks_is_refused(engine: Engine) {
    let nginx = Site::new(engine).app(DIGEST).start_shared();
    let mut conn = nginx.connect();
    conn.send(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\n\r\n",
    );
    assert_eq!(conn.response().status, 400);
    assert_not_started(&nginx);
}

/// A whole request afterwards is served, and it is the only one that reached the application.
#[track_caller]
fn assert_not_started(nginx: &Client) {
    nginx.post("/", "whole").expect(200);
    assert_eq!(nginx.events(), ["started"]);
}

fn started_upload(nginx: &Client) -> Conn {
    let mut conn = nginx.connect();
    conn.send("POST /cut HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    conn.send(pattern(50_000));
    conn
}

fn the_application_never_starts_on_a_body_cut_by_a_close(engine: Engine) {
    let nginx = Site::new(engine).app(DIGEST).start_shared();
    started_upload(&nginx).finish_sending().read_to_end();
    nginx.wait_access("400 POST /cut");
    assert_not_started(&nginx);
}

fn the_application_never_starts_on_a_body_cut_by_a_reset(engine: Engine) {
    let nginx = Site::new(engine).app(DIGEST).start_shared();
    started_upload(&nginx).reset();
    nginx.wait_access("POST /cut");
    assert_not_started(&nginx);
}

fn the_application_never_starts_on_a_body_that_stalls(engine: Engine) {
    let nginx = Site::new(engine).app(DIGEST).http("client_body_timeout 200ms;").start();
    let mut conn = started_upload(&nginx);
    conn.read_to_end();
    nginx.wait_access("408 POST /cut");
    assert_not_started(&nginx);
}

fn the_application_never_starts_on_broken_chunks(engine: Engine) {
    let nginx = Site::new(engine).app(DIGEST).errors_expected().start_shared();
    for (rest, status) in [("zz\r\nabc", 400), ("5\r\nhelloX", 400)] {
        let mut conn = nginx.connect();
        conn.send("POST /cut HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        conn.send(rest);
        assert_eq!(conn.response().status, status);
    }
    let mut conn = nginx.connect();
    conn.send("POST /short HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe");
    conn.finish_sending().read_to_end();
    nginx.wait_access("400 POST /short");
    assert_not_started(&nginx);
}

/// Two requests on one connection, the first with a body that the application does not read.
#[track_caller]
fn assert_next_request_undisturbed(nginx: &Client, head: &str, body: &[u8]) {
    let mut conn = nginx.connect();
    // In one write: the unread rest of the first must not be taken for the second request.
    let next = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    conn.send([head.as_bytes(), body, next].concat());
    conn.response().expect(200);
    assert_eq!(conn.response().expect(200).text(), "/next");
}

fn an_unread_body_does_not_disturb_the_next_request(engine: Engine) {
    let nginx = Site::new(engine).app(IGNORE).start_shared();
    // A body that looks like a request.
    let trap = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for body in [&trap[..], &pattern(100_000)] {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        assert_next_request_undisturbed(&nginx, &head, body);
    }
    assert_next_request_undisturbed(
        &nginx,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
    );
}

fn a_half_read_body_does_not_disturb_the_next_request(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
def application(environ, start_response):
    environ["wsgi.input"].read(10)
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode()]
"#,
        )
        .start_shared();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n";
    assert_next_request_undisturbed(&nginx, head, &pattern(50_000));
}

fn an_early_response_to_a_large_body_arrives(engine: Engine) {
    let nginx = Site::new(engine).app(IGNORE).http("client_max_body_size 0;").start();
    let mut conn = nginx.connect();
    conn.send("POST /x?413+Too+Large HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n");
    conn.send(pattern(20_000_000));
    assert_eq!(conn.response().expect(413).text(), "/x");
    conn.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(conn.response().expect(200).text(), "/next");
}

fn pipelined_bodies_stay_apart(engine: Engine) {
    let nginx = Site::new(engine).app(ECHO).start_shared();
    let mut conn = nginx.connect();
    let mut all = Vec::new();
    for i in 1..20 {
        let body = format!("{i}").repeat(i);
        let length = body.len();
        write!(all, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
    }
    conn.send(all);
    for i in 1..20 {
        assert_eq!(conn.response().expect(200).text(), format!("{i}").repeat(i));
    }
}

fn body_size_limits_are_those_of_nginx(engine: Engine) {
    let nginx = Site::new(engine)
        .app(DIGEST)
        .http("client_max_body_size 1000; client_body_buffer_size 100;")
        .errors_expected()
        .start();
    nginx.post("/", pattern(1000)).expect(200);
    nginx.post("/", "").expect(200);
    assert_eq!(nginx.events().len(), 2);
    let mut conn = nginx.connect();
    conn.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n");
    assert_eq!(conn.response().status, 413);
    let mut conn = nginx.connect();
    conn.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    conn.send([b"3e9\r\n", &pattern(1001)[..], b"\r\n0\r\n\r\n"].concat());
    assert_eq!(conn.response().status, 413);
    assert_eq!(nginx.events().len(), 2);
}

fn continue_is_sent_before_the_body_is_read(engine: Engine) {
    for app in [ECHO, IGNORE] {
        let nginx = Site::new(engine).app(app).start_shared();
        let mut conn = nginx.connect();
        conn.send("POST /body HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
        assert_eq!(conn.read_until("\r\n\r\n"), b"HTTP/1.1 100 Continue\r\n\r\n");
        conn.send("/body");
        assert_eq!(conn.response().expect(200).text(), "/body");
    }
}

fn continue_is_not_sent_for_a_refused_body(engine: Engine) {
    let nginx = Site::new(engine).app(ECHO).http("client_max_body_size 3;").errors_expected().start();
    let mut conn = nginx.connect();
    conn.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(conn.response().status, 413);
}

fn a_body_of_a_get_is_passed(engine: Engine) {
    let nginx = Site::new(engine).app(ECHO).start_shared();
    let mut conn = nginx.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(conn.response().expect(200).text(), "body");
}

fn a_body_forced_into_a_file_is_passed(engine: Engine) {
    let nginx = Site::new(engine)
        .app(ECHO)
        .location("/single/", "client_body_in_single_buffer on; wsgi_pass app.py;")
        .server("client_body_in_file_only clean;")
        .start();
    for path in ["/", "/single/"] {
        for body in ["", "x", "a few bytes"] {
            assert_eq!(nginx.post(path, body).expect(200).text(), body);
        }
    }
}

fn temporary_files_go_with_the_request(engine: Engine) {
    let nginx = Site::new(engine).app(ECHO).http("client_body_buffer_size 1k;").start();
    nginx.post("/", pattern(50_000)).expect(200);
    wait_for("an empty directory of temporary files", || {
        let mut left = std::fs::read_dir(nginx.prefix().join("tmp/body")).unwrap();
        left.next().is_none().then_some(())
    });
}

fn a_large_upload_leaves_memory_flat(engine: Engine) {
    let nginx = Site::new(engine)
        .http("client_max_body_size 0; client_body_buffer_size 64k;")
        .app(
            r#"
def application(environ, start_response):
    count = 0
    while block := environ["wsgi.input"].read(65536):
        count += len(block)
    start_response("200 OK", [])
    return [str(count).encode()]
"#,
        )
        .start();
    const SIZE: usize = 1 << 30;
    nginx.post("/", "warm").expect(200);
    let worker = nginx.application_workers()[0];
    let before = peak_memory(worker);
    let mut conn = nginx.connect();
    conn.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"));
    let block = pattern(1 << 20);
    for _ in 0..SIZE / block.len() {
        conn.send(&block);
    }
    // For a process group the body is sent once more, when it is complete.
    conn.stream().set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    let response = conn.response().expect(200);
    assert_eq!(response.text(), SIZE.to_string());
    assert_eq!(response.framing, Framing::Length);
    let grown = peak_memory(worker).saturating_sub(before);
    assert!(grown < 8 << 10, "the worker grew by {grown} KiB");
}

/// The most memory that a process ever had resident, in KiB.
fn peak_memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
