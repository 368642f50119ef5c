//! `close()` of the iterable: called once for each call, and on its thread.

use crate::harness::{Engine, both_engines, wait_for};
use crate::response::{ask, functions};

both_engines!(
    close_is_called_once_when_there_is_no_body_to_send,
    close_is_called_once_when_the_client_has_gone,
    close_runs_on_the_thread_of_the_call,
);

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
