//! `start_response` and `write`: arguments that they accept and refuse, and the moment when the headers are sent.

use crate::harness::{Engine, Framing, Site, both_engines};

both_engines!(
    a_status_of_the_wrong_type_is_a_type_error,
    a_malformed_status_is_a_value_error,
    an_interim_status_is_a_value_error,
    a_status_without_a_reason_gets_nginxs_phrase,
    a_reason_of_ones_own_is_sent,
    headers_of_the_wrong_type_are_a_type_error,
    a_malformed_header_is_a_value_error,
    control_bytes_are_refused_wherever_they_are,
    a_refused_call_leaves_nothing_behind,
    subclasses_of_str_are_strings,
    a_second_call_without_exc_info_is_an_error,
    exc_info_replaces_status_and_headers,
    exc_info_is_raised_again_once_the_headers_are_sent,
    exc_info_of_none_is_none,
    exc_info_can_be_given_by_name,
    a_generator_may_call_it_in_its_first_step,
    never_calling_it_is_an_error,
    calling_it_after_the_first_chunk_is_an_error,
    the_headers_wait_for_the_first_chunk_that_is_not_empty,
    write_sends_before_the_iterable,
    write_takes_bytes_only,
    write_sends_the_headers_at_once,
    write_and_iteration_share_the_content_length,
    wrong_numbers_of_arguments_are_type_errors,
    threads_that_write_at_once_keep_the_framing,
);

/// Calls `start_response` with each of CASES in one request; responds with one line for each that had another outcome
/// than the one wanted. A case is an expression for the arguments.
fn outcomes(engine: Engine, wanted: &str, cases: &str) {
    let nginx = Site::new(engine)
        .app(&format!(
            r#"
WANTED = {wanted}
CASES = {cases}

def application(environ, start_response):
    wrong = []
    for case in CASES:
        try:
            start_response(*case)
            wrong.append(f"{{case!r}}: accepted")
        except WANTED:
            pass
        except Exception as e:
            wrong.append(f"{{case!r}}: {{e!r}}")
    try:
        start_response("200 OK", [])
    except Exception as e:
        wrong.append(f"a right call after all these: {{e!r}}")
        raise
    return ["\n".join(wrong).encode("utf-8", "backslashreplace")]
"#
        ))
        .start_shared();
    assert_eq!(nginx.get("/").expect(200).text(), "");
}

fn a_status_of_the_wrong_type_is_a_type_error(engine: Engine) {
    outcomes(
        engine,
        "TypeError",
        "[(s, []) for s in (b'200 OK', 200, None, ['200 OK'], object(), bytearray(b'200 OK'), 200.0, True)]",
    );
}

fn a_malformed_status_is_a_value_error(engine: Engine) {
    outcomes(
        engine,
        "ValueError",
        r#"[(s, []) for s in (
            '', ' ', 'OK', '20', '2', '20x OK', '2000 OK', '0200 OK', '200OK', '200-OK', ' 200 OK', '-200 OK',
            '+20 OK', '2e2 OK', '000 Zero', '099 Low', '\u0662\u0660\u0660 OK', '200 \u20ac', '200 \ud800',
            '200 OK\r\nX-Injected: 1', '200 OK\n', '200 OK\r', '200 O\0K')]"#,
    );
}

fn an_interim_status_is_a_value_error(engine: Engine) {
    outcomes(
        engine,
        "ValueError",
        "[(s, []) for s in ('100 Continue', '101 Switching Protocols', '103 Early Hints', '199 x', '100')]",
    );
}

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

fn headers_of_the_wrong_type_are_a_type_error(engine: Engine) {
    outcomes(
        engine,
        "TypeError",
        r#"[("200 OK", h) for h in (
            None, "headers", b"headers", 5, {"A": "b"}, object(), (("A", "b"),), iter([("A", "b")]),
            [("A", b"b")], [(b"A", "b")], [("A", 5)], [("A", None)], [(None, "b")], [("A", ["b"])],
            [None], ["ab"], [5], [b"ab"])]"#,
    );
    // Too few and too many in a pair may be either.
    outcomes(
        engine,
        "(TypeError, ValueError)",
        r#"[("200 OK", h) for h in ([()], [("A",)], [("A", "b", "c")], [("A", "b"), ()])]"#,
    );
}

fn a_malformed_header_is_a_value_error(engine: Engine) {
    outcomes(
        engine,
        "ValueError",
        r#"[("200 OK", [h]) for h in (
            ("", "x"), ("A B", "x"), ("A:", "x"), ("A:B", "x"), (" A", "x"), ("A ", "x"), ("\u00e9", "x"),
            ("A(b)", "x"), ("A,b", "x"), ("A/b", "x"), ('A"', "x"), ("A\u20ac", "x"), ("A\r\nB", "x"),
            ("A", "\u20ac"), ("A", "\ud800"), ("A", "x\r\nInjected: y"), ("A", "x\n"), ("A", "x\r"), ("A", "\nx"),
            ("A", "x\n folded"), ("A", "\0"), ("Content-Length", "x"))]"#,
    );
}

fn control_bytes_are_refused_wherever_they_are(engine: Engine) {
    // A tab is a control byte that header values may hold.
    outcomes(
        engine,
        "ValueError",
        r#"[
            case
            for c in [chr(i) for i in range(32) if i != 9] + ["\x7f"]
            for at in ("%sab", "a%sb", "ab%s")
            for case in (
                ("200 " + at % c, []),
                ("200 OK", [(at % c, "v")]),
                ("200 OK", [("N", at % c)]),
            )
        ]"#,
    );
}

fn a_refused_call_leaves_nothing_behind(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
def application(environ, start_response):
    try:
        start_response("404 Not Found", [("X-First", "1"), ("X-Bad", "a\nb")])
    except ValueError:
        pass
    start_response("200 OK", [("X-Second", "2")])
    return [b"fine"]
"#,
        )
        .start_shared();
    let response = nginx.get("/").expect(200);
    assert_eq!(response.header("X-Second"), Some("2"));
    assert_eq!(response.header("X-First"), None);
    assert_eq!(response.text(), "fine");
}

fn subclasses_of_str_are_strings(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
class S(str):
    def __str__(self):
        raise RuntimeError("not to be called")
    def encode(self, *args):
        raise RuntimeError("not to be called")

class Pair(tuple):
    pass

def application(environ, start_response):
    start_response(S("201 Made"), [(S("X-Sub"), S("class")), Pair(("X-Pair", "too"))])
    return [b"fine"]
"#,
        )
        .start_shared();
    let response = nginx.get("/").expect(201);
    assert_eq!(response.header("X-Sub"), Some("class"));
    assert_eq!(response.header("X-Pair"), Some("too"));
}

fn a_second_call_without_exc_info_is_an_error(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
def application(environ, start_response):
    start_response("200 OK", [("X-Call", "first")])
    try:
        start_response("202 Accepted", [("X-Call", "second")])
    except Exception as e:
        return [b"refused"]
    return [b"accepted"]
"#,
        )
        .app_at(
            "/uncaught",
            "uncaught.py",
            r#"
def application(environ, start_response):
    start_response("200 OK", [])
    start_response("202 Accepted", [])
    return [b"accepted"]
"#,
        )
        .errors_expected()
        .start();
    let response = nginx.get("/").expect(200);
    assert_eq!(response.text(), "refused");
    assert_eq!(response.header("X-Call"), Some("first"));
    nginx.get("/uncaught").expect(500);
    nginx.wait_log("start_response");
}

fn exc_info_replaces_status_and_headers(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
import sys

def application(environ, start_response):
    start_response("200 OK", [("X-Old", "1"), ("Content-Type", "text/html"), ("Content-Length", "1000"),
                              ("ETag", '"old"')])
    try:
        raise RuntimeError("found out late")
    except RuntimeError:
        start_response("503 Come Back", [("X-New", "2"), ("Content-Type", "text/plain")], sys.exc_info())
    return [b"sorry"]
"#,
        )
        .start_shared();
    let mut conn = nginx.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = conn.response().expect(503);
    assert_eq!(response.reason, "Come Back");
    assert_eq!(response.header("X-Old"), None);
    assert_eq!(response.header("ETag"), None);
    assert_eq!(response.header("X-New"), Some("2"));
    assert_eq!(response.header("Content-Type"), Some("text/plain"));
    assert_eq!(response.text(), "sorry");
    assert_eq!(response.framing, Framing::Length);
}

fn exc_info_is_raised_again_once_the_headers_are_sent(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
import sys

def application(environ, start_response):
    start_response("200 OK", [("X-Old", "1")])
    yield b"begun"
    try:
        raise KeyError("the original")
    except KeyError as original:
        try:
            start_response("500 Late", [], sys.exc_info())
        except KeyError as again:
            with open("@prefix@/events", "a") as events:
                events.write(f"same {again is original}\n")
            raise
    yield b"never"
"#,
        )
        .errors_expected()
        .start_shared();
    let mut conn = nginx.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = conn.response().expect(200);
    assert_eq!(response.framing, Framing::Cut);
    assert_eq!(response.text(), "begun");
    nginx.wait_events(&["same True"]);
    nginx.wait_log("KeyError: 'the original'");
}

fn exc_info_of_none_is_none(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
def application(environ, start_response):
    start_response("200 OK", [("X-Call", "1")], None)
    try:
        start_response("201 No", [("X-Call", "2")], None)
    except Exception:
        return [b"refused"]
    return [b"accepted"]
"#,
        )
        .start_shared();
    assert_eq!(nginx.get("/").expect(200).text(), "refused");
}

fn exc_info_can_be_given_by_name(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
import sys

def application(environ, start_response):
    start_response("200 OK", [])
    try:
        1 / 0
    except ZeroDivisionError:
        start_response("502 Named", [], exc_info=sys.exc_info())
    return [b"named"]
"#,
        )
        .start_shared();
    assert_eq!(nginx.get("/").expect(502).text(), "named");
}

fn a_generator_may_call_it_in_its_first_step(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
def application(environ, start_response):
    start_response("201 Made", [("X-Late", "yes")])
    yield b"one "
    yield b"two"
"#,
        )
        .start_shared();
    let response = nginx.get("/").expect(201);
    assert_eq!(response.header("X-Late"), Some("yes"));
    assert_eq!(response.text(), "one two");
}

fn never_calling_it_is_an_error(engine: Engine) {
    let nginx = Site::new(engine)
        .app_at("/list", "list.py", "def application(e, s):\n    return [b'x']\n")
        .app_at("/empty", "empty.py", "def application(e, s):\n    return []\n")
        .app_at("/generator", "generator.py", "def application(e, s):\n    yield b'x'\n")
        .errors_expected()
        .start();
    for path in ["/list", "/empty", "/generator"] {
        let before = nginx.logged("start_response").len();
        let response = nginx.get(path).expect(500);
        assert!(response.text().contains("500 Internal Server Error"));
        crate::harness::wait_for("a log line", || (nginx.logged("start_response").len() > before).then_some(()));
    }
}

fn calling_it_after_the_first_chunk_is_an_error(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
def application(environ, start_response):
    yield b"too early"
    start_response("200 OK", [])
"#,
        )
        .errors_expected()
        .start_shared();
    let response = nginx.get("/").expect(500);
    assert!(!response.text().contains("too early"));
}

fn the_headers_wait_for_the_first_chunk_that_is_not_empty(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
import sys

def application(environ, start_response):
    start_response("200 OK", [("X-Version", "first")])
    yield b""
    yield b""
    try:
        raise ValueError("changed my mind")
    except ValueError:
        start_response("404 Changed", [("X-Version", "second")], sys.exc_info())
    yield b""
    yield b"changed"
"#,
        )
        .start_shared();
    let response = nginx.get("/").expect(404);
    assert_eq!(response.header("X-Version"), Some("second"));
    assert_eq!(response.text(), "changed");
}

fn write_sends_before_the_iterable(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
def application(environ, start_response):
    write = start_response("200 OK", [])
    answers = [write(b"one "), write(b""), write(b"two ")]
    return [b"three ", repr(answers).encode()]
"#,
        )
        .start_shared();
    assert_eq!(nginx.get("/").expect(200).text(), "one two three [None, None, None]");
}

fn write_takes_bytes_only(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
def application(environ, start_response):
    write = start_response("200 OK", [])
    wrong = []
    for data in ("text", None, 5, [b"x"], 1.5):
        try:
            write(data)
            wrong.append(repr(data))
        except TypeError:
            pass
    return [repr(wrong).encode()]
"#,
        )
        .start_shared();
    assert_eq!(nginx.get("/").expect(200).text(), "[]");
}

fn write_sends_the_headers_at_once(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
import sys

def application(environ, start_response):
    write = start_response("200 OK", [])
    write(b"begun")
    try:
        1 / 0
    except ZeroDivisionError:
        start_response("500 Too Late", [], sys.exc_info())
    return [b"never"]
"#,
        )
        .errors_expected()
        .start_shared();
    let mut conn = nginx.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = conn.response().expect(200);
    assert_eq!(response.framing, Framing::Cut);
    assert_eq!(response.text(), "begun");
}

fn write_and_iteration_share_the_content_length(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
def application(environ, start_response):
    write = start_response("200 OK", [("Content-Length", "6")])
    write(b"abc")
    return [b"def"]
"#,
        )
        .start_shared();
    let mut conn = nginx.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = conn.response().expect(200);
    assert_eq!(response.text(), "abcdef");
    assert_eq!(response.framing, Framing::Length);
}

fn wrong_numbers_of_arguments_are_type_errors(engine: Engine) {
    outcomes(engine, "TypeError", r#"[(), ("200 OK",), ("200 OK", [], None, None)]"#);
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
