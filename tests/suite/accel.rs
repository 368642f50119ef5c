//! What nginx does with the head of an answer: which headers are hidden.

use crate::harness::{Engine, Nginx, Response, Site, both_engines};

both_engines!(what_is_for_nginx_is_hidden, headers_can_be_hidden_and_passed);

/// Answers with status, headers and body that the query names as Python source.
const APP: &str = r#"
import os
import time
from urllib.parse import unquote_to_bytes

def event(text):
    with open("@prefix@/events", "a") as events:
        events.write(text + "\n")

class Closing:
    def __init__(self, items):
        self.items = iter(items)
    def __iter__(self):
        return self
    def __next__(self):
        return next(self.items)
    def close(self):
        event("closed")

def application(environ, start_response):
    asked = unquote_to_bytes(environ["QUERY_STRING"]).decode("latin-1") or "'200 OK', [], [b'plain']"
    status, headers, body = eval(asked)
    write = start_response(status, headers)
    return body(write) if callable(body) else body
"#;

fn site(engine: Engine) -> Site {
    Site::new(engine).app_at("/app", "app.py", APP)
}

/// The target that makes the application answer with this source: status, headers, body.
fn saying(source: &str) -> String {
    let quoted: String = source.bytes().map(|byte| format!("%{byte:02x}")).collect();
    format!("/app?{quoted}")
}

#[track_caller]
fn ask(nginx: &Nginx, method: &str, target: &str, headers: &str) -> Response {
    let mut conn = nginx.connect();
    conn.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n"));
    conn.response_to(method)
}

#[track_caller]
fn say(nginx: &Nginx, source: &str) -> Response {
    ask(nginx, "GET", &saying(source), "")
}

const MANY: &str = "'200 OK', [('X-Accel-Expires', '1'), ('X-ACCEL-BUFFERING', 'no'), ('X-Accel-Limit-Rate', '0'), \
                    ('X-Accel-Charset', 'off'), ('X-Accel-Other', 'o'), ('X-Accel', 'a'), ('X-Powered-By', 'p'), \
                    ('Server', 's'), ('Date', 'd'), ('X-A', 'a'), ('X-B', 'b'), ('X-A', 'c')], [b'x']";

fn what_is_for_nginx_is_hidden(engine: Engine) {
    let nginx = site(engine).start();
    let response = say(&nginx, MANY).expect(200);
    for name in ["X-Accel-Expires", "X-Accel-Buffering", "X-Accel-Limit-Rate", "X-Accel-Charset"] {
        assert_eq!(response.header(name), None, "{name}");
    }
    // And nothing else, not even what a proxy hides.
    for (name, value) in
        [("X-Accel-Other", "o"), ("X-Accel", "a"), ("X-Powered-By", "p"), ("Server", "s"), ("Date", "d"), ("X-B", "b")]
    {
        assert_eq!(response.header(name), Some(value));
    }
}

fn headers_can_be_hidden_and_passed(engine: Engine) {
    let nginx = site(engine)
        .server("wsgi_hide_header x-a; wsgi_hide_header Server; wsgi_hide_header Content-Length; wsgi_pass_header X-Accel-Expires;")
        .location("/hide", "wsgi_hide_header X-B; wsgi_hide_header Date; wsgi_pass app.py;")
        .location("/pass", "wsgi_pass_header X-A; wsgi_pass_header x-accel-buffering; wsgi_pass app.py;")
        .start();
    let of = |path: &str| {
        let response = ask(&nginx, "GET", &saying(MANY).replace("/app", path), "").expect(200);
        // nginx sends these itself.
        assert_eq!(response.header("Content-Length"), Some("1"));
        assert!(response.header("Date").is_some());
        let date = response.header("Date") == Some("d");
        let server = response.header("Server") == Some("s");
        let known = |name| !response.all(name).is_empty();
        [known("X-A"), known("X-B"), server, date, known("X-Accel-Expires"), known("X-Accel-Buffering")]
    };
    assert_eq!(of("/app"), [false, true, false, true, true, false]);
    // A level that names headers to hide has its own; those to pass are inherited on their own.
    assert_eq!(of("/hide"), [true, false, true, false, true, false]);
    assert_eq!(of("/pass"), [true, true, false, true, false, true]);
}
