//! `wsgi_request_buffering off`: bodies that are read while their call runs.

use crate::harness::{Engine, Site};

const ECHO: &str = r#"
import os

PREFIX = os.path.dirname(os.path.abspath(__file__))

def note(text):
    with open(os.path.join(PREFIX, "events"), "a") as file:
        file.write(text + "\n")

def application(environ, start_response):
    body = environ["wsgi.input"]
    note("started " + str(environ.get("CONTENT_LENGTH")))
    path = environ["PATH_INFO"]
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
        elif path == "/sum":
            total = 0
            while piece := body.read(65536):
                total += len(piece)
            data = str(total).encode()
        else:
            data = body.read()
    except OSError as error:
        note("failed " + type(error).__name__)
        raise
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [data]
"#;

fn site() -> Site {
    Site::new(Engine::Threads).http("wsgi_request_buffering off;").app(ECHO)
}

#[test]
fn the_call_starts_with_the_head_and_reads_what_comes() {
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
