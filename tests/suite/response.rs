//! The iterable: how it is framed, sent, ended and closed.

use crate::harness::{Client, Conn, Engine, Framing, Nginx, Response, Site, both_engines, wait_for};
use std::time::{Duration, Instant};

both_engines!(
    a_generator_is_sent_in_chunks,
    http_1_0_gets_no_chunks,
    a_single_item_gets_its_length,
    several_items_are_not_counted,
    an_empty_response_is_empty,
    empty_chunks_are_skipped,
    items_of_any_length_arrive_whole,
    many_tiny_items_arrive_whole,
    each_chunk_is_passed_on_at_once,
    head_has_the_same_headers_and_no_body,
    head_is_given_no_guessed_length,
    a_204_has_neither_length_nor_body,
    a_304_keeps_its_headers_and_has_no_body,
    a_content_length_of_the_applications_own_is_kept,
    surplus_over_the_content_length_is_cut_off,
    a_body_shorter_than_its_length_breaks_the_connection,
    an_invalid_content_length_is_an_error,
    a_length_beyond_4_gib_is_kept,
    an_exception_in_mid_stream_ends_without_a_last_chunk,
    an_exception_in_mid_stream_cuts_a_compressed_response_too,
    an_item_that_is_no_bytes_is_a_type_error,
    a_result_that_cannot_be_iterated_is_a_type_error,
    close_is_called_once_after_the_last_item,
    close_is_called_once_after_a_failure,
    close_is_called_once_when_there_is_no_body_to_send,
    close_is_called_once_when_the_client_has_gone,
    close_runs_on_the_thread_of_the_call,
    an_error_in_close_is_logged_and_not_sent,
    exceptions_that_end_programs_end_only_the_request,
    a_strange_exception_is_logged_all_the_same,
    a_500_is_nginxs_own_page,
    error_page_serves_for_a_500,
    an_applications_own_500_keeps_its_body,
    access_log_has_the_true_status,
    a_generator_of_any_size_is_not_held_in_memory,
    written_data_of_any_size_is_not_held_in_memory,
    responses_do_not_wait_for_delayed_acknowledgements,
    keep_alive_survives_responses_of_every_kind,
    file_wrapper_sends_a_file,
    file_wrapper_begins_where_the_file_stands,
    file_wrapper_takes_an_object_that_only_reads,
    file_wrapper_closes_its_file_once,
    file_wrapper_never_invents_bytes,
);

/// Runs the function of the file that the path names. Those are generators or return lists.
fn functions(engine: Engine, source: &str) -> Site {
    let start = r#"
@event@

def application(environ, start_response):
    name = environ["PATH_INFO"].strip("/")
    return globals()[name](environ, start_response)
"#;
    Site::new(engine).app(&format!("{start}\n{source}"))
}

#[track_caller]
fn ask(nginx: &Client, method: &str, path: &str) -> Response {
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

fn a_single_item_gets_its_length(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def one(environ, start_response):
    start_response("200 OK", [])
    return [b"12345"]

def one_in_a_tuple(environ, start_response):
    start_response("200 OK", [])
    return (b"12345",)

def one_that_is_empty(environ, start_response):
    start_response("200 OK", [])
    return [b""]
"#,
    )
    .start_shared();
    for (path, length) in [("/one", "5"), ("/one_in_a_tuple", "5"), ("/one_that_is_empty", "0")] {
        let response = ask(&nginx, "GET", path).expect(200);
        assert_eq!(response.header("Content-Length"), Some(length), "{path}");
    }
}

fn several_items_are_not_counted(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def two(environ, start_response):
    start_response("200 OK", [])
    return [b"1", b"2"]
"#,
    )
    .start_shared();
    let response = ask(&nginx, "GET", "/two").expect(200);
    assert_eq!(response.text(), "12");
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

fn empty_chunks_are_skipped(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def holes(environ, start_response):
    start_response("200 OK", [])
    for _ in range(100000):
        yield b""
    for part in (b"a", b"", b"", b"b", b""):
        yield part
"#,
    )
    .start_shared();
    let response = ask(&nginx, "GET", "/holes").expect(200);
    assert_eq!(response.text(), "ab");
    assert_eq!(response.framing, Framing::Chunked);
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
        // An application may well leave out a body that nobody wants.
        ("/nothing", 200, Some("5")),
    ] {
        // Two heads on a connection: a body's byte between them would be no head.
        for _ in 0..2 {
            conn.send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let response = conn.response_to("HEAD").expect(status);
            assert_eq!(response.header("Content-Length"), length, "{path}");
            assert_eq!(response.header("X-A"), Some("b"));
        }
    }
    nginx.wait_events(&["closed"; 6]);
}

fn head_is_given_no_guessed_length(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def one(environ, start_response):
    start_response("200 OK", [])
    return [b"" if environ["REQUEST_METHOD"] == "HEAD" else b"body"]
"#,
    )
    .start_shared();
    let response = ask(&nginx, "HEAD", "/one").expect(200);
    assert_eq!(response.header("Content-Length"), None);
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
    // With nothing sent yet it may as well be a 500.
    let mut conn = nginx.connect();
    conn.send("GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n");
    let text = crate::harness::latin1(&conn.read_to_end());
    assert!(!text.contains("200 OK") || text.ends_with("\r\n\r\n"), "{text}");
    nginx.wait_log("Content-Length");
}

fn an_invalid_content_length_is_an_error(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def check(environ, start_response):
    wrong = []
    for lengths in (["+1"], ["-1"], ["1 "], [" 1"], [""], ["1x"], ["0x1"], ["1.0"], ["1_0"], ["1e1"], ["1,1"],
                    ["\u00b2"], ["99999999999999999999"], ["1", "1"], ["1", "2"]):
        try:
            start_response("200 OK", [("Content-Length", length) for length in lengths])
            wrong.append(repr(lengths))
            break
        except ValueError:
            pass
    else:
        start_response("200 OK", [])
    return [" ".join(wrong).encode()]

def uncaught(environ, start_response):
    start_response("200 OK", [("Content-Length", "-1")])
    return [b"x"]
"#,
    )
    .errors_expected()
    .start_shared();
    assert_eq!(ask(&nginx, "GET", "/check").expect(200).text(), "");
    ask(&nginx, "GET", "/uncaught").expect(500);
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

const BREAKS: &str = r#"
def chunked(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"begun" * 100
    raise RuntimeError("in mid-stream")

def length(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1000")])
    yield b"begun" * 100
    raise RuntimeError("in mid-stream")

def written(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])(b"begun" * 100)
    raise RuntimeError("in mid-stream")
"#;

fn an_exception_in_mid_stream_ends_without_a_last_chunk(engine: Engine) {
    let nginx = functions(engine, BREAKS).errors_expected().start_shared();
    for path in ["/chunked", "/length", "/written"] {
        let response = ask(&nginx, "GET", path).expect(200);
        assert_eq!(response.framing, Framing::Cut, "{path}");
        assert_eq!(response.text(), "begun".repeat(100), "{path}");
        nginx.wait_access(&format!("200 GET {path}"));
    }
    nginx.wait_log("RuntimeError: in mid-stream");
}

fn an_exception_in_mid_stream_cuts_a_compressed_response_too(engine: Engine) {
    let nginx = functions(engine, BREAKS)
        .http("gzip on; gzip_types text/plain; gzip_min_length 1;")
        .errors_expected()
        .start_shared();
    let mut conn = nginx.connect();
    conn.send("GET /chunked HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\n\r\n");
    let response = conn.response().expect(200);
    assert_eq!(response.header("Content-Encoding"), Some("gzip"));
    assert_eq!(response.framing, Framing::Cut);
}

fn an_item_that_is_no_bytes_is_a_type_error(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
ITEMS = {"str": "text", "none": None, "int": 5, "list": [b"x"], "bytearray": bytearray(b"x"), "array": (b"x",)}

def first(environ, start_response):
    start_response("200 OK", [])
    return [ITEMS[environ["QUERY_STRING"]]]

def second(environ, start_response):
    start_response("200 OK", [])
    yield b"begun"
    yield ITEMS[environ["QUERY_STRING"]]

def result(environ, start_response):
    start_response("200 OK", [])
    return "text"
"#,
    )
    .errors_expected()
    .start_shared();
    for item in ["str", "none", "int", "list", "bytearray", "array"] {
        let before = nginx.logged("TypeError").len();
        ask(&nginx, "GET", &format!("/first?{item}")).expect(500);
        let response = ask(&nginx, "GET", &format!("/second?{item}")).expect(200);
        assert_eq!(response.framing, Framing::Cut, "{item}");
        assert_eq!(response.text(), "begun", "{item}");
        wait_for("two more TypeErrors", || (nginx.logged("TypeError").len() >= before + 2).then_some(()));
    }
    ask(&nginx, "GET", "/result").expect(500);
}

fn a_result_that_cannot_be_iterated_is_a_type_error(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
class Broken:
    def __iter__(self):
        return 5
    def close(self):
        event("closed")

RESULTS = {"none": None, "int": 200, "object": object(), "broken": Broken()}

def result(environ, start_response):
    start_response("200 OK", [])
    return RESULTS[environ["QUERY_STRING"]]
"#,
    )
    .errors_expected()
    .start_shared();
    for result in ["none", "int", "object", "broken"] {
        let before = nginx.logged("TypeError").len();
        ask(&nginx, "GET", &format!("/result?{result}")).expect(500);
        wait_for("a TypeError", || (nginx.logged("TypeError").len() > before).then_some(()));
    }
    nginx.wait_events(&["closed"]);
}

const CLOSING: &str = r#"
import threading

class Body:
    """Yields the items; raises those that are exceptions."""
    def __init__(self, *items):
        self.items = iter(items)
        self.threads = {threading.get_ident()}
    def __iter__(self):
        return self
    def __next__(self):
        self.threads.add(threading.get_ident())
        item = next(self.items)
        if isinstance(item, BaseException):
            raise item
        return item
    def close(self):
        self.threads.add(threading.get_ident())
        event(f"closed on {len(self.threads)} thread")

def normal(environ, start_response):
    start_response("200 OK", [])
    return Body(b"a", b"b")

def empty(environ, start_response):
    start_response("200 OK", [])
    return Body()

def list_with_close(environ, start_response):
    class List(list):
        def close(self):
            event("closed list")
    start_response("200 OK", [])
    return List([b"a"])

def first_step(environ, start_response):
    start_response("200 OK", [])
    return Body(RuntimeError("first step"))

def second_step(environ, start_response):
    start_response("200 OK", [])
    return Body(b"a", RuntimeError("second step"))

def no_start(environ, start_response):
    return Body(b"a")

def wrong_item(environ, start_response):
    start_response("200 OK", [])
    return Body(b"a", "text")

def short(environ, start_response):
    start_response("200 OK", [("Content-Length", "10")])
    return Body(b"a")

def long(environ, start_response):
    start_response("200 OK", [("Content-Length", "1")])
    return Body(b"a", b"b", b"c")

def no_content(environ, start_response):
    start_response("204 No Content", [])
    return Body(b"a")

def not_modified(environ, start_response):
    start_response("304 Not Modified", [])
    return Body(b"a", b"b")

def etag(environ, start_response):
    start_response("200 OK", [("ETag", '"x"')])
    return Body(b"a", b"b")

def iter_fails(environ, start_response):
    class Closing:
        def __iter__(self):
            raise RuntimeError("iter")
        def close(self):
            event("closed anyway")
    start_response("200 OK", [])
    return Closing()

def endless(environ, start_response):
    start_response("200 OK", [])
    class Endless(Body):
        def __next__(self):
            return b"x" * 65536
    return Endless()

def in_close(environ, start_response):
    class Failing(Body):
        def close(self):
            event("close fails")
            raise RuntimeError("in close")
    start_response("200 OK", [])
    return Failing(b"whole ", b"body")

def generator(environ, start_response):
    start_response("200 OK", [])
    try:
        while True:
            yield b"x" * 65536
    finally:
        event("generator closed")
"#;

fn close_is_called_once_after_the_last_item(engine: Engine) {
    let nginx = functions(engine, CLOSING).start_shared();
    let mut wanted = Vec::new();
    for (path, event) in [
        ("/normal", "closed on 1 thread"),
        ("/empty", "closed on 1 thread"),
        ("/list_with_close", "closed list"),
        // Were it called twice for one of those, it would have been by now.
        ("/normal", "closed on 1 thread"),
    ] {
        ask(&nginx, "GET", path).expect(200);
        wanted.push(event);
        nginx.wait_events(&wanted);
    }
}

fn close_is_called_once_after_a_failure(engine: Engine) {
    let nginx = functions(engine, CLOSING).errors_expected().start();
    for path in ["/first_step", "/second_step", "/no_start", "/wrong_item", "/short", "/long"] {
        let before = nginx.events().len();
        let mut conn = nginx.connect();
        conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
        conn.read_to_end();
        wait_for(path, || (nginx.events().len() > before).then_some(()));
    }
    nginx.wait_events(&["closed on 1 thread"; 6]);
    ask(&nginx, "GET", "/iter_fails").expect(500);
    wait_for("close after __iter__ failed", || (nginx.events().last()? == "closed anyway").then_some(()));
}

fn close_is_called_once_when_there_is_no_body_to_send(engine: Engine) {
    let nginx = functions(engine, CLOSING).start_shared();
    ask(&nginx, "HEAD", "/normal").expect(200);
    ask(&nginx, "GET", "/no_content").expect(204);
    ask(&nginx, "GET", "/not_modified").expect(304);
    let mut conn = nginx.connect();
    conn.send("GET /etag HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"x\"\r\n\r\n");
    conn.response().expect(304);
    nginx.wait_events(&["closed on 1 thread"; 4]);
}

fn close_is_called_once_when_the_client_has_gone(engine: Engine) {
    let nginx = functions(engine, CLOSING).start_shared();
    for (path, reset) in [("/endless", false), ("/endless", true), ("/generator", true)] {
        let before = nginx.events().len();
        let mut conn = nginx.connect();
        conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        conn.read_exactly(100_000);
        if reset {
            conn.reset();
        } else {
            drop(conn);
        }
        wait_for(path, || (nginx.events().len() > before).then_some(()));
    }
    assert_eq!(nginx.events(), ["closed on 1 thread", "closed on 1 thread", "generator closed"]);
    // The worker is well.
    ask(&nginx, "GET", "/normal").expect(200);
}

fn close_runs_on_the_thread_of_the_call(engine: Engine) {
    let nginx = functions(engine, CLOSING).start_shared();
    for _ in 0..20 {
        ask(&nginx, "GET", "/normal").expect(200);
    }
    nginx.wait_events(&["closed on 1 thread"; 20]);
}

fn an_error_in_close_is_logged_and_not_sent(engine: Engine) {
    let nginx = functions(engine, CLOSING).errors_expected().start();
    let response = ask(&nginx, "GET", "/in_close").expect(200);
    assert_eq!(response.text(), "whole body");
    assert_eq!(response.framing, Framing::Chunked);
    nginx.wait_log("RuntimeError: in close");
    nginx.wait_events(&["close fails"]);
}

fn exceptions_that_end_programs_end_only_the_request(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
import builtins
import sys

class Own(BaseException):
    pass

def exception(environ):
    name = environ["QUERY_STRING"]
    return Own("own") if name == "Own" else getattr(builtins, name)("raised on purpose")

def call(environ, start_response):
    raise exception(environ)

def after_start(environ, start_response):
    start_response("200 OK", [("X-Mine", "secret")])
    raise exception(environ)

def first(environ, start_response):
    class Body:
        def __iter__(self):
            return self
        def __next__(self):
            raise exception(environ)
    start_response("200 OK", [])
    return Body()

def middle(environ, start_response):
    class Body:
        count = 0
        def __iter__(self):
            return self
        def __next__(self):
            self.count += 1
            if self.count == 1:
                return b"begun"
            raise exception(environ)
    start_response("200 OK", [])
    return Body()

def close(environ, start_response):
    class Body(list):
        def close(self):
            raise exception(environ)
    start_response("200 OK", [])
    return Body([b"whole"])

def exit(environ, start_response):
    sys.exit(3)

def fine(environ, start_response):
    start_response("200 OK", [])
    return [b"fine"]
"#,
    )
    .errors_expected()
    .start();
    let workers = nginx.workers();
    for name in [
        "SystemExit",
        "KeyboardInterrupt",
        "GeneratorExit",
        "StopIteration",
        "OSError",
        "BrokenPipeError",
        "ConnectionResetError",
        "MemoryError",
        "RecursionError",
        "Own",
    ] {
        for (path, status, framing) in [
            ("/call", 500, Framing::Length),
            ("/after_start", 500, Framing::Length),
            ("/first", 500, Framing::Length),
            ("/middle", 200, Framing::Cut),
            ("/close", 200, Framing::Chunked),
        ] {
            // In __next__ it is the end and no error.
            let (status, framing) = match (name, path) {
                ("StopIteration", "/first") => continue,
                ("StopIteration", "/middle") => (200, Framing::Chunked),
                _ => (status, framing),
            };
            let response = ask(&nginx, "GET", &format!("{path}?{name}")).expect(status);
            assert_eq!(response.framing, framing, "{name} in {path}");
            assert_eq!(response.header("X-Mine"), None);
        }
        nginx.wait_log(name);
        assert_eq!(ask(&nginx, "GET", "/fine").expect(200).text(), "fine");
    }
    ask(&nginx, "GET", "/exit").expect(500);
    assert_eq!(nginx.workers(), workers, "a worker ended");
}

fn a_strange_exception_is_logged_all_the_same(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")
    __repr__ = __str__

def unprintable(environ, start_response):
    raise Unprintable()

def surrogate(environ, start_response):
    raise ValueError("half a pair \ud800 and a nul \0 here")

def deep(environ, start_response):
    def down():
        return down()
    down()
"#,
    )
    .errors_expected()
    .start_shared();
    ask(&nginx, "GET", "/unprintable").expect(500);
    nginx.wait_log("Unprintable");
    ask(&nginx, "GET", "/surrogate").expect(500);
    nginx.wait_log("half a pair");
    ask(&nginx, "GET", "/deep").expect(500);
    nginx.wait_log("RecursionError");
}

const FAILS: &str = r#"
def fails(environ, start_response):
    start_response("200 OK", [("X-Secret", "secret"), ("Content-Type", "text/x-secret"), ("ETag", '"secret"'),
                              ("Content-Length", "77")])
    raise RuntimeError("secret in the message")
"#;

fn a_500_is_nginxs_own_page(engine: Engine) {
    let nginx = functions(engine, FAILS).errors_expected().start_shared();
    let response = ask(&nginx, "GET", "/fails").expect(500);
    assert!(response.text().contains("<center><h1>500 Internal Server Error</h1></center>"));
    assert_eq!(response.header("Content-Type"), Some("text/html"));
    let everything = format!("{:?}{}", response.headers, response.text());
    assert!(!everything.contains("secret"), "{everything}");
    assert!(!everything.contains("app.py"), "{everything}");
    nginx.wait_log("RuntimeError: secret in the message");
}

fn error_page_serves_for_a_500(engine: Engine) {
    let nginx = functions(engine, FAILS)
        .file("html/sorry.html", "we are sorry")
        .server("error_page 500 /sorry.html;")
        .location("= /sorry.html", "root @prefix@/html;")
        .errors_expected()
        .start();
    let response = ask(&nginx, "GET", "/fails").expect(500);
    assert_eq!(response.text(), "we are sorry");
    assert_eq!(response.header("X-Secret"), None);
}

fn an_applications_own_500_keeps_its_body(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
def own(environ, start_response):
    start_response("500 Broken", [("Content-Type", "text/plain")])
    return [b"explained"]
"#,
    )
    .server("error_page 500 /sorry.html;")
    .start();
    assert_eq!(ask(&nginx, "GET", "/own").expect(500).text(), "explained");
}

fn access_log_has_the_true_status(engine: Engine) {
    let nginx = functions(
        engine,
        r#"
import os
import time

def fine(environ, start_response):
    start_response("200 OK", [])
    return [b"12345"]

def teapot(environ, start_response):
    start_response("418 Teapot", [])
    return [b"12"]

def fails(environ, start_response):
    raise RuntimeError("fails")

def slow(environ, start_response):
    event("slow began")
    deadline = time.monotonic() + 10
    while not os.path.exists("@prefix@/gone") and time.monotonic() < deadline:
        time.sleep(0.01)
    start_response("200 OK", [])
    return [b"too late"]
"#,
    )
    .errors_expected()
    .start_shared();
    ask(&nginx, "GET", "/fine").expect(200);
    nginx.wait_access("200 GET /fine 5");
    ask(&nginx, "GET", "/teapot").expect(418);
    nginx.wait_access("418 GET /teapot 2");
    ask(&nginx, "GET", "/fails").expect(500);
    nginx.wait_access("500 GET /fails");
    // A client that goes before its response was made.
    let mut conn = nginx.connect();
    conn.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    nginx.wait_events(&["slow began"]);
    drop(conn);
    if engine == Engine::Threads {
        nginx.wait_access("499 GET /slow 0");
    }
    nginx.write("gone", "");
    if engine == Engine::Inline {
        // The event loop could not see the client leave; the response went nowhere.
        nginx.wait_access("GET /slow");
    }
    ask(&nginx, "GET", "/fine").expect(200);
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
    let worker = nginx.workers()[0];
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

const FILES: &str = r#"
import io
import os

class Closing:
    """What has read() and close() and nothing else."""
    def __init__(self, file):
        self.file = file
    def read(self, *args):
        return self.file.read(*args)
    def close(self):
        event("file closed")
        self.file.close()

def wrap(environ, start_response, file, headers=()):
    start_response("200 OK", list(headers))
    return environ["wsgi.file_wrapper"](file, 4096)

def whole(environ, start_response):
    return wrap(environ, start_response, open("@prefix@/data", "rb"))

def default_size(environ, start_response):
    start_response("200 OK", [])
    return environ["wsgi.file_wrapper"](open("@prefix@/data", "rb"))

def offset(environ, start_response):
    file = open("@prefix@/data", "rb")
    file.read(99990)
    return wrap(environ, start_response, file)

def length(environ, start_response):
    return wrap(environ, start_response, open("@prefix@/data", "rb"), [("Content-Length", "5")])

def too_long(environ, start_response):
    return wrap(environ, start_response, open("@prefix@/data", "rb"), [("Content-Length", "100010")])

def bytes_io(environ, start_response):
    return wrap(environ, start_response, io.BytesIO(b"in memory"))

def closing(environ, start_response):
    return wrap(environ, start_response, Closing(io.BytesIO(b"closing")))

def pipe(environ, start_response):
    read, write = os.pipe()
    os.write(write, b"through a pipe")
    os.close(write)
    return wrap(environ, start_response, open(read, "rb"))

def nul(environ, start_response):
    return wrap(environ, start_response, io.BytesIO(b"\0first"))

def wrapped_again(environ, start_response):
    start_response("200 OK", [])
    for block in environ["wsgi.file_wrapper"](io.BytesIO(b"once more"), 4):
        yield block.upper()

def fails(environ, start_response):
    class Failing(Closing):
        def read(self, *args):
            raise OSError("disk on fire")
    return wrap(environ, start_response, Failing(io.BytesIO()))
"#;

fn files(engine: Engine) -> Site {
    functions(engine, FILES).file("data", &"0123456789".repeat(10_000))
}

fn file_wrapper_sends_a_file(engine: Engine) {
    let nginx = files(engine).start_shared();
    for path in ["/whole", "/default_size"] {
        let response = ask(&nginx, "GET", path).expect(200);
        assert_eq!(response.text(), "0123456789".repeat(10_000), "{path}");
    }
}

fn file_wrapper_begins_where_the_file_stands(engine: Engine) {
    let nginx = files(engine).start_shared();
    let response = ask(&nginx, "GET", "/offset").expect(200);
    assert_eq!(response.text(), "0123456789");
    let response = ask(&nginx, "HEAD", "/whole").expect(200);
    assert_eq!(response.framing, Framing::None);
}

fn file_wrapper_takes_an_object_that_only_reads(engine: Engine) {
    let nginx = files(engine).start_shared();
    for (path, body) in
        [("/bytes_io", "in memory"), ("/pipe", "through a pipe"), ("/nul", "\0first"), ("/wrapped_again", "ONCE MORE")]
    {
        let response = ask(&nginx, "GET", path).expect(200);
        assert_eq!(response.text(), body, "{path}");
    }
}

fn file_wrapper_closes_its_file_once(engine: Engine) {
    let nginx = files(engine).errors_expected().start_shared();
    ask(&nginx, "GET", "/closing").expect(200);
    ask(&nginx, "HEAD", "/closing").expect(200);
    ask(&nginx, "GET", "/fails").expect(500);
    nginx.wait_log("disk on fire");
    nginx.wait_events(&["file closed"; 3]);
}

fn file_wrapper_never_invents_bytes(engine: Engine) {
    let nginx = files(engine).errors_expected().start_shared();
    let response = ask(&nginx, "GET", "/too_long").expect(200);
    assert_eq!(response.framing, Framing::Cut);
    assert_eq!(response.text(), "0123456789".repeat(10_000));
    let response = ask(&nginx, "GET", "/length").expect(200);
    assert_eq!(response.text(), "01234");
}
