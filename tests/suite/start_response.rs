//! `start_response` and `write` as the client sees them; their rules are unit tests in src/wsgi/tests.

use crate::harness::{Engine, Site, both_engines};

both_engines!(
    a_status_without_a_reason_gets_nginxs_phrase,
    a_reason_of_ones_own_is_sent,
    threads_that_write_at_once_keep_the_framing,
);

fn a_status_without_a_reason_gets_nginxs_phrase(engine: Engine) {
    let nginx = Site::new(engine).app(STATUS_BY_QUERY).start_shared();
    for (given, reason) in [("200", "OK"), ("404", "Not Found"), ("201", "Created")] {
        let mut conn = nginx.connect();
        conn.send(format!("GET /?{given} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = conn.response();
        assert_eq!(response.status.to_string(), given);
        assert_eq!(response.reason, reason);
        assert_eq!(response.text(), "body");
    }
}

const STATUS_BY_QUERY: &str = r#"
def application(environ, start_response):
    start_response(environ["QUERY_STRING"].replace("+", " "), [("Content-Type", "text/plain")])
    return [b"body"]
"#;

fn a_reason_of_ones_own_is_sent(engine: Engine) {
    let nginx = Site::new(engine).app(STATUS_BY_QUERY).start_shared();
    for (query, status, reason) in [
        ("200+Fine", 200, "Fine"),
        ("404+No+Such+Cat", 404, "No Such Cat"),
        ("299+Odd", 299, "Odd"),
        ("500+My+Own+Failure", 500, "My Own Failure"),
        ("599+Last", 599, "Last"),
        ("418+I'm+a+teapot", 418, "I'm a teapot"),
    ] {
        let mut conn = nginx.connect();
        conn.send(format!("GET /?{query} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = conn.response();
        assert_eq!((response.status, response.reason.as_str()), (status, reason));
        // An error status that the application chose is a response like any other, with its own body.
        assert_eq!(response.text(), "body");
    }
}

// ---- threads of the application -------------------------------------------------------------------------------------

/// Whatever threads of one call write at the same moment: the next response on the connection is found where it begins.
fn threads_that_write_at_once_keep_the_framing(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
import threading

def write_at_once(write):
    start = threading.Barrier(3)
    def one():
        start.wait()
        write(b"x")
    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

def write_on(write):
    def some():
        try:
            while True:
                write(b"x")
        except Exception:
            pass
    threading.Thread(target=some).start()

def application(environ, start_response):
    if environ["PATH_INFO"] == "/late":
        write_on(start_response("200 OK", [("Content-Type", "text/plain")]))
    else:
        write_at_once(start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1")]))
    return []
"#,
        )
        .errors_expected()
        .start_shared();
    let mut conn = nginx.connect();
    for _ in 0..200 {
        conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(conn.response().expect(200).text(), "x");
        conn.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(conn.response().expect(200).body.iter().all(|byte| *byte == b'x'));
    }
    conn.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(conn.response().expect(200).text(), "x");
    conn.assert_closed();
}
