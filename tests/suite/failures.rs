//! Applications that fail: the response and the log.

use crate::harness::{Engine, Framing, both_engines};
use crate::response::{ask, functions};

both_engines!(
    an_exception_in_mid_stream_ends_without_a_last_chunk,
    an_exception_in_mid_stream_cuts_a_compressed_response_too,
    exceptions_that_end_programs_end_only_the_request,
    a_strange_exception_is_logged_all_the_same,
    a_500_is_nginxs_own_page,
    error_page_serves_for_a_500,
    an_applications_own_500_keeps_its_body,
    access_log_has_the_true_status,
);

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
