//! `start_response`: its arguments, and the order of calls.

use super::{application, events_of, get, request};

/// Calls `start_response` with each of `cases`, an expression for a list of argument tuples, and checks that all raise
/// `error` and that a valid call succeeds after them.
#[track_caller]
fn all_raise(error: &str, cases: &str) {
    let wrong = events_of(&format!(
        r#"
for case in {cases}:
    try:
        start_response(*case)
        events.append(f"{{case!r}}: accepted")
    except {error}:
        pass
    except Exception as e:
        events.append(f"{{case!r}}: {{e!r}}")
start_response("200 OK", [])
return []"#
    ));
    assert_eq!(wrong, [""; 0]);
}

#[test]
fn a_status_that_is_no_str_is_a_type_error() {
    all_raise(
        "TypeError",
        "[(s, []) for s in (b'200 OK', 200, None, ['200 OK'], object(), bytearray(b'200 OK'), 200.0, True)]",
    );
}

#[test]
fn a_malformed_status_is_a_value_error() {
    all_raise(
        "ValueError",
        r#"[(s, []) for s in (
            '', ' ', 'OK', '20', '2', '20x OK', '2000 OK', '0200 OK', '200OK', '200-OK', ' 200 OK', '-200 OK',
            '+20 OK', '2e2 OK', '000 Zero', '099 Low', '\u0662\u0660\u0660 OK', '200 \u20ac', '200 \ud800',
            '200 OK\r\nX-Injected: 1', '200 OK\n', '200 OK\r', '200 O\0K')]"#,
    );
}

#[test]
fn an_informational_status_is_a_value_error() {
    all_raise(
        "ValueError",
        "[(s, []) for s in ('100 Continue', '101 Switching Protocols', '103 Early Hints', '199 x', '100')]",
    );
}

#[test]
fn headers_that_are_no_list_of_pairs_of_str_are_a_type_error() {
    all_raise(
        "TypeError",
        r#"[("200 OK", h) for h in (
            None, "headers", b"headers", 5, {"A": "b"}, object(), (("A", "b"),), iter([("A", "b")]),
            [("A", b"b")], [(b"A", "b")], [("A", 5)], [("A", None)], [(None, "b")], [("A", ["b"])],
            [None], ["ab"], [5], [b"ab"], [["A", "b"]], [()], [("A",)], [("A", "b", "c")], [("A", "b"), ()])]"#,
    );
}

#[test]
fn a_malformed_header_is_a_value_error() {
    all_raise(
        "ValueError",
        r#"[("200 OK", [h]) for h in (
            ("", "x"), ("A B", "x"), ("A:", "x"), ("A:B", "x"), (" A", "x"), ("A ", "x"), ("\u00e9", "x"),
            ("A(b)", "x"), ("A,b", "x"), ("A/b", "x"), ('A"', "x"), ("A\u20ac", "x"), ("A\r\nB", "x"),
            ("A", "\u20ac"), ("A", "\ud800"), ("A", "x\r\nInjected: y"), ("A", "x\n"), ("A", "x\r"), ("A", "\nx"),
            ("A", "x\n folded"), ("A", "\0"), ("Content-Length", "x"))]"#,
    );
}

#[test]
fn a_control_character_is_a_value_error_wherever_it_is() {
    // A tab is the one control character that header values may contain.
    all_raise(
        "ValueError",
        r#"[
        case
        for c in [chr(i) for i in range(32) if i != 9] + ["\x7f"]
        for at in ("%sab", "a%sb", "ab%s")
        for case in (("200 " + at % c, []), ("200 OK", [(at % c, "v")]), ("200 OK", [("N", at % c)]))]"#,
    );
}

#[test]
fn an_invalid_content_length_is_a_value_error() {
    all_raise(
        "ValueError",
        r#"[("200 OK", [("Content-Length", length) for length in lengths]) for lengths in (
            ["+1"], ["-1"], ["1 "], [" 1"], [""], ["1x"], ["0x1"], ["1.0"], ["1_0"], ["1e1"], ["1,1"],
            ["\u00b2"], ["99999999999999999999"], ["1", "1"], ["1", "2"])]"#,
    );
}

#[test]
fn wrong_numbers_and_names_of_arguments_are_type_errors() {
    all_raise("TypeError", r#"[(), ("200 OK",), ("200 OK", [], None, None)]"#);
    let events = events_of(
        r#"
for arguments in ({"state": 1}, {"status": "200 OK"}, {"exc_info": None}):
    try:
        start_response("200 OK", **arguments)
    except TypeError as e:
        events.append(e)
start_response("200 OK", [])
return []"#,
    );
    assert_eq!(events[0], "start_response() got an unexpected keyword argument 'state'");
    assert_eq!(events[1], "start_response() got multiple values for argument 'status'");
    assert!(events[2].contains("response_headers"), "{events:?}");
}

#[test]
fn arguments_can_be_given_by_name() {
    let response = get(&application(
        r#"
start_response(response_headers=[("X-A", "b")], exc_info=None, status="201 Made")
return []"#,
    ))
    .expect(201);
    assert_eq!(response.header("X-A"), Some("b"));
}

#[test]
fn a_refused_call_leaves_nothing_behind() {
    let response = get(&application(
        r#"
try:
    start_response("404 Not Found", [("X-First", "1"), ("X-Bad", "a\nb")])
except ValueError:
    pass
start_response("200 OK", [("X-Second", "2")])
return [b"fine"]"#,
    ))
    .expect(200);
    assert_eq!((response.header("X-First"), response.header("X-Second")), (None, Some("2")));
}

#[test]
fn subclasses_of_str_and_tuple_are_accepted_and_their_methods_not_called() {
    let response = get(r#"
class S(str):
    def __str__(self):
        raise RuntimeError("called")
    encode = __len__ = __iter__ = __str__

class Pair(tuple):
    def __iter__(self):
        raise RuntimeError("called")
    __getitem__ = __iter__

def application(environ, start_response):
    start_response(S("201 Made"), [(S("X-Sub"), S("class")), Pair(("X-Pair", "too"))])
    return []
"#)
    .expect(201);
    assert_eq!((response.header("X-Sub"), response.header("X-Pair")), (Some("class"), Some("too")));
}

#[test]
fn headers_are_copied_by_the_call() {
    let response = get(&application(
        r#"
headers = [("X-A", "1")]
start_response("200 OK", headers)
headers.append(("X-B", "2"))
headers[0] = ("X-A", "changed")
return []"#,
    ))
    .expect(200);
    assert_eq!((response.header("X-A"), response.header("X-B")), (Some("1"), None));
}

#[test]
fn a_second_call_without_exc_info_is_an_error_and_the_first_one_holds() {
    for arguments in ["", ", None"] {
        let response = get(&application(&format!(
            r#"
start_response("200 OK", [("X-Call", "first")]{arguments})
try:
    start_response("202 Accepted", [("X-Call", "second")]{arguments})
except ValueError as e:
    return [str(e).encode()]"#
        )))
        .expect(200);
        assert_eq!(response.text(), "start_response is called a second time without exc_info");
        assert_eq!(response.header("X-Call"), Some("first"));
    }
}

#[test]
fn a_second_call_that_nothing_catches_fails_the_response() {
    get(&application(
        r#"
start_response("200 OK", [])
start_response("202 Accepted", [])
return [b"accepted"]"#,
    ))
    .expect_error("start_response is called a second time");
}

#[test]
fn a_second_call_after_data_is_an_error() {
    get(&application(
        r#"
start_response("200 OK", [])
yield b"begun"
start_response("202 Accepted", [])"#,
    ))
    .expect_cut("begun", "start_response is called a second time");
}

#[test]
fn exc_info_replaces_status_and_headers() {
    let response = get(&application(
        r#"
import sys
start_response("200 OK", [("X-Old", "1"), ("Content-Length", "1000")])
try:
    raise RuntimeError("found out late")
except RuntimeError:
    start_response("503 Come Back", [("X-New", "2")], sys.exc_info())
return [b"sorry"]"#,
    ))
    .expect(503);
    let headers = response.headers();
    assert_eq!(headers.status_line().map(|place| &headers.text()[place]), Some(&b"503 Come Back"[..]));
    assert!(headers.headers().eq([(&b"X-New"[..], &b"2"[..])]));
    assert_eq!((headers.content_length, response.text().as_str()), (Some(5), "sorry"));
}

#[test]
fn exc_info_may_come_with_the_first_call() {
    let response = get(&application(
        r#"
import sys
try:
    1 / 0
except ZeroDivisionError:
    start_response("500 Own", [], exc_info=sys.exc_info())
return [b"own page"]"#,
    ))
    .expect(500);
    assert_eq!(response.text(), "own page");
}

#[test]
fn exc_info_is_raised_again_with_its_traceback_once_headers_were_sent() {
    let response = get(r#"
import sys, traceback

def fail():
    raise KeyError("the original")

def application(environ, start_response):
    start_response("200 OK", [("X-Old", "1")])
    yield b"begun"
    try:
        fail()
    except KeyError as original:
        try:
            start_response("500 Late", [], sys.exc_info())
        except KeyError as again:
            events.append(again is original)
            events.append("in fail" in traceback.format_exc())
            raise
    yield b"never"
"#)
    .expect_cut("begun", "KeyError: 'the original'");
    assert_eq!(response.events, ["True", "True"]);
    assert_eq!(response.header("X-Old"), Some("1"));
}

#[test]
fn exc_info_that_is_no_tuple_is_a_type_error() {
    let events = events_of(
        r#"
start_response("200 OK", [])
yield b"begun"
for exc_info in (ValueError("x"), True, "tuple", [1, 2, 3]):
    try:
        start_response("500 Late", [], exc_info)
    except TypeError as e:
        events.append(e)"#,
    );
    assert_eq!(events, ["exc_info must be a tuple as sys.exc_info() returns it"; 4]);
}

#[test]
fn a_generator_may_call_it_before_its_first_piece() {
    let response = get(&application(
        r#"
start_response("201 Made", [("X-Late", "yes")])
yield b"one "
yield b"two""#,
    ))
    .expect(201);
    assert_eq!((response.header("X-Late"), response.text().as_str()), (Some("yes"), "one two"));
}

#[test]
fn never_calling_it_is_an_error() {
    for body in ["return [b'x']", "return (b'x',)", "return []", "yield b'x'", "return iter([])"] {
        get(&application(body)).expect_error("application \"app\" did not call start_response");
    }
}

#[test]
fn calling_it_after_the_first_piece_is_an_error() {
    get(&application("yield b'too early'\nstart_response('200 OK', [])"))
        .expect_error("did not call start_response before its first data");
}

#[test]
fn headers_wait_for_the_first_piece_that_is_not_empty() {
    let response = get(&application(
        r#"
import sys
start_response("200 OK", [("X-Version", "first")])
yield b""
yield b""
try:
    raise ValueError("changed my mind")
except ValueError:
    start_response("404 Changed", [("X-Version", "second")], sys.exc_info())
yield b""
yield b"changed""#,
    ))
    .expect(404);
    assert_eq!((response.header("X-Version"), response.text().as_str()), (Some("second"), "changed"));
}

#[test]
fn calling_it_after_the_call_is_a_value_error() {
    let mut request = super::request();
    request.afterwards = r#"
for arguments in ((), (None,)):
    try:
        kept("200 OK", [], *arguments)
    except ValueError as e:
        events.append(e)
"#;
    let response = request
        .call(&application("global kept\nkept = start_response\nstart_response('200 OK', [])\nreturn [b'x']"))
        .expect(200);
    assert_eq!(response.events, ["start_response is called after its request has ended"; 2]);
}

#[test]
fn an_object_that_an_application_keeps_is_not_that_of_a_later_call() {
    let cases = [
        ("start_response", "kept('200 OK', [])", "ValueError"),
        ("write", "kept(b'x')", "BrokenPipeError"),
        ("environ['wsgi.input']", "kept.read()", "ValueError"),
    ];
    for (object, usage, error) in cases {
        let lines = format!("import sys\nwrite = start_response('200 OK', [])\nsys.kept = {object}\nreturn [b'x']");
        get(&application(&lines)).expect(200);
        let lines = format!(
            "
import sys
start_response('200 OK', [])
kept = sys.kept
try:
    {usage}
except Exception as error:
    events.append(type(error).__name__)
return [b'y']"
        );
        for _ in 0..2 {
            let response = get(&application(&lines)).expect(200);
            assert_eq!((response.text().as_str(), &*response.events), ("y", &[error.to_owned()][..]), "{object}");
        }
    }
}

#[test]
fn a_thread_of_the_application_may_release_it_last() {
    let lines = "
import threading
global released, thread
released = threading.Event()
kept = [start_response, environ, start_response('200 OK', [])]
thread = threading.Thread(target=lambda kept: released.wait() and kept.clear(), args=(kept,))
thread.start()
return [b'x']";
    let mut request = request();
    request.afterwards = "released.set()\nthread.join()";
    request.call(&application(lines)).expect(200);
    get(&application("start_response('200 OK', [])\nreturn [b'next']")).expect(200);
}
