//! A request whose body is read while its call runs, when another location responds in the end: that location, and the
//! server behind it, find a request without a body, and the next request is found where it begins.

use crate::harness::{Conn, Engine, Nginx, Site, wait_for};

/// Reads as much of the body as the query names, and lets another location respond in the way that the path names.
const APP: &str = r#"
import time

def application(environ, start_response):
    with open("@prefix@/events", "a") as events:
        events.write("called\n")
    count = environ["QUERY_STRING"]
    if count:
        read = environ["wsgi.input"].read(int(count))
        assert len(read) == int(count), read
    way = environ["PATH_INFO"]
    if way == "/raise":
        raise LookupError(way)
    if way == "/slow":
        while True:
            time.sleep(0.01)
    if way == "/include":
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b'<!--# include virtual="/proxied/included" -->']
    if way == "/intercept":
        start_response("404 Not Found", [])
        return [b"not here"]
    target = {"/proxied": "/proxied/x", "/named": "@proxied", "/second": "/second/x"}[way]
    start_response("200 OK", [("X-Accel-Redirect", target)])
    return []
"#;

const SECOND: &str = r#"
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    body = environ["wsgi.input"].read()
    return [f"{environ['REQUEST_METHOD']} {environ.get('CONTENT_LENGTH', '')} {body!r}".encode()]
"#;

/// The second location, and a server that says what has come to it and how often on its connection.
fn start() -> Nginx {
    let site = Site::new(Engine::Threads).errors_expected();
    let (port, http2) = (site.another_port(), site.another_port());
    site.listen(&format!("listen 127.0.0.1:@port@; listen 127.0.0.1:{http2} http2; server_name localhost;"))
        .file("http2-address", &format!("127.0.0.1:{http2}"))
        .app_at("/app", "app.py", APP)
        .app_at("/second", "second.py", SECOND)
        .http(&format!(
            r#"
    wsgi_request_buffering off;
    upstream other {{ server 127.0.0.1:{port}; keepalive 1; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    server {{
        listen 127.0.0.1:{port};
        location / {{
            return 200 "$request_method [$content_length$http_transfer_encoding] $connection_requests";
        }}
    }}"#
        ))
        .server("error_page 400 404 500 504 = @proxied; wsgi_intercept_errors on; wsgi_request_timeout 300ms; ssi on;")
        .location("/buffered", "wsgi_pass app.py; wsgi_request_buffering on;")
        .location("/proxied/", "proxy_pass http://other;")
        .location("@proxied", "proxy_pass http://other;")
        .start()
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    Length,
    Chunked,
}

/// A POST whose client sends six bytes of its body, and more later if it does not say that these are all.
fn send(nginx: &Nginx, framing: Framing, target: &str, is_whole: bool) -> Conn {
    let (mut conn, calls) = (nginx.connect(), nginx.events().len());
    let (header, body) = match (framing, is_whole) {
        (Framing::Length, true) => ("Content-Length: 6", "abcdef"),
        (Framing::Length, false) => ("Content-Length: 60", "abcdef"),
        (Framing::Chunked, true) => ("Transfer-Encoding: chunked", "6\r\nabcdef\r\n0\r\n\r\n"),
        (Framing::Chunked, false) => ("Transfer-Encoding: chunked", "6\r\nabcdef\r\n"),
    };
    conn.send(format!("POST {target} HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n"));
    // Not with the header: a body that is there before the call is not read while it runs.
    wait_for("the call", || (nginx.events().len() > calls).then_some(()));
    conn.send(body);
    conn
}

#[test]
fn a_location_that_responds_instead_finds_no_body() {
    let nginx = start();
    let mut requests = 0;
    let ways = [
        ("/app/proxied", "GET"),
        ("/app/named", "POST"),
        ("/app/raise", "POST"),
        ("/app/slow", "POST"),
        ("/app/intercept", "POST"),
        ("/app/include", "GET"),
    ];
    for (way, method) in ways {
        for framing in [Framing::Length, Framing::Chunked] {
            for (read, is_whole) in [("", false), ("3", false), ("6", false), ("6", true)] {
                let case = format!("{way} {framing:?} read {read:?} of {}", if is_whole { "all" } else { "a part" });
                let mut conn = send(&nginx, framing, &format!("{way}?{read}"), is_whole);
                requests += 1;
                let text = conn.response().expect(200).text();
                assert_eq!(text, format!("{method} [] {requests}"), "{case}");
                if !is_whole {
                    conn.assert_closed();
                }
                requests += 1;
                assert_eq!(nginx.get("/proxied/next").expect(200).text(), format!("GET [] {requests}"), "{case}");
            }
        }
    }
}

#[test]
fn an_application_that_responds_instead_finds_no_body() {
    let nginx = start();
    for framing in [Framing::Length, Framing::Chunked] {
        for (read, is_whole) in [("", false), ("3", false), ("6", true)] {
            let mut conn = send(&nginx, framing, &format!("/app/second?{read}"), is_whole);
            assert_eq!(conn.response().expect(200).text(), "GET  b''", "{framing:?} {read} {is_whole}");
        }
    }
}

/// It comes with the headers, so that the call never begins.
#[test]
fn the_error_page_of_a_body_that_is_wrong_finds_no_body() {
    let nginx = start();
    for (number, path) in ["/app/never", "/buffered/never"].into_iter().enumerate() {
        let mut conn = nginx.connect();
        conn.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\nwrong\r\n"
        ));
        assert_eq!(conn.response().expect(200).text(), format!("POST [] {}", 2 * number + 1), "{path}");
        conn.assert_closed();
        assert_eq!(nginx.get("/proxied/next").expect(200).text(), format!("GET [] {}", 2 * number + 2), "{path}");
    }
    assert!(!nginx.prefix().join("events").exists(), "called");
}

// ---- HTTP/2 ---------------------------------------------------------------------------------------------------------

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// Fields as literals without indexing (RFC 7541, section 6.2.2).
fn fields(method: &str, path: &str) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)];
    let string = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    fields.iter().flat_map(|(name, value)| [vec![0], string(name), string(value)].concat()).collect()
}

/// The body of the response on a stream; its header block, and what comes on other streams, is passed over.
fn body_of(conn: &mut Conn, stream: u8) -> String {
    let mut body = Vec::new();
    loop {
        let head = conn.read_exactly(9);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = conn.read_exactly(length);
        if head[8] == stream && (head[3] == DATA || head[3] == HEADERS) {
            if head[3] == DATA {
                body.extend(payload);
            }
            if head[4] & END_STREAM != 0 {
                return String::from_utf8(body).unwrap();
            }
        }
    }
}

/// The rest of the body comes on a connection that other requests use.
#[test]
fn a_body_of_http2_that_is_withheld_disturbs_no_other_request() {
    let nginx = start();
    for read in ["", "3", "6"] {
        let (mut conn, calls) = (Conn::open(nginx.read("http2-address").parse().unwrap()), nginx.events().len());
        conn.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").send(frame(SETTINGS, 0, 0, b""));
        conn.send(frame(HEADERS, END_HEADERS, 1, &fields("POST", &format!("/app/proxied?{read}"))));
        wait_for("the call", || (nginx.events().len() > calls).then_some(()));
        conn.send(frame(DATA, 0, 1, b"abcdef"));
        assert!(body_of(&mut conn, 1).starts_with("GET [] "), "{read}");
        conn.send(frame(DATA, END_STREAM, 1, b"ghi"));
        conn.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, &fields("GET", "/proxied/next")));
        assert!(body_of(&mut conn, 3).starts_with("GET [] "), "{read}");
    }
}
