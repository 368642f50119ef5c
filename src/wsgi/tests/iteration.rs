//! The iterable: its pieces, and Content-Length.

use super::{Response, application, events_of, get, request};
use crate::wsgi::transport::End;

/// Returns the response of an application that calls `start_response` with these headers, then continues with these
/// lines.
#[track_caller]
fn with(headers: &str, lines: &str) -> Response {
    get(&application(&format!("start_response('200 OK', {headers})\n{lines}")))
}

#[test]
fn pieces_of_a_generator_are_sent_one_by_one() {
    let response = with("[]", "yield b'one, '\nyield b'two'").expect(200);
    assert_eq!(response.recorded.pieces, [b"one, ".to_vec(), b"two".to_vec()]);
    assert_eq!(response.headers().content_length, None);
}

#[test]
fn a_list_or_tuple_of_one_piece_gets_a_content_length() {
    for (body, length) in [("[b'12345']", 5), ("(b'12345',)", 5), ("[b'']", 0), ("[]", 0), ("()", 0)] {
        let response = with("[]", &format!("return {body}")).expect(200);
        assert_eq!(response.headers().content_length, Some(length), "{body}");
    }
}

#[test]
fn other_bodies_get_no_content_length() {
    for body in ["[b'1', b'2']", "(b'1', b'2')", "iter([b'12'])", "{b'12': 0}", "(part for part in [b'12'])"] {
        let response = with("[]", &format!("return {body}")).expect(200);
        assert_eq!((response.text().as_str(), response.headers().content_length), ("12", None), "{body}");
    }
}

#[test]
fn an_empty_generator_is_an_empty_body() {
    let response = with("[('X-A', 'b')]", "return\nyield").expect(200);
    assert_eq!((response.text().as_str(), response.header("X-A")), ("", Some("b")));
    assert_eq!(response.headers().content_length, Some(0));
}

#[test]
fn empty_pieces_are_skipped() {
    let response = with("[]", "for part in (b'', b'a', b'', b'', b'b', b''):\n    yield part").expect(200);
    assert_eq!(response.recorded.pieces, [b"a".to_vec(), b"b".to_vec()]);
}

#[test]
fn any_iterable_is_accepted() {
    let response = get(r#"
class Sequence:
    """Iterable without __iter__, by the sequence protocol."""
    def __getitem__(self, index):
        return [b"a", b"b", Part(b"c")][index]

class Part(bytes):
    pass

def application(environ, start_response):
    start_response("200 OK", [])
    return Sequence()
"#)
    .expect(200);
    assert_eq!(response.text(), "abc");
}

#[test]
fn a_piece_that_is_no_bytes_is_a_type_error() {
    for (piece, class) in
        [("'text'", "str"), ("None", "NoneType"), ("5", "int"), ("[b'x']", "list"), ("bytearray(b'x')", "bytearray")]
    {
        let message = format!("must yield bytes, not {class}");
        with("[]", &format!("return [{piece}]")).expect_error(&message);
        with("[]", &format!("yield b'begun'\nyield {piece}")).expect_cut("begun", &message);
    }
    with("[]", "return 'text'").expect_error("must yield bytes, not str");
    with("[]", "return b'text'").expect_error("must yield bytes, not int");
}

#[test]
fn a_result_that_cannot_be_iterated_is_a_type_error() {
    for result in ["None", "200", "object()"] {
        with("[]", &format!("return {result}")).expect_error("TypeError");
    }
}

#[test]
fn pieces_wait_for_room() {
    let response = request().room(4).call(&application("start_response('200 OK', [])\nreturn [b'0123456789', b'ab']"));
    let response = response.expect(200);
    assert_eq!(response.recorded.pieces, [&b"0123"[..], b"4567", b"89", b"ab"]);
    assert_eq!(response.waits, 2);
}

#[test]
fn nothing_more_is_produced_before_a_piece_was_sent() {
    let response = request().room(1).call(&application(
        "
start_response('200 OK', [])
for number in range(3):
    events.append(number)
    yield b'ab'",
    ));
    assert_eq!(response.expect(200).events, ["0", "1", "2"]);
}

#[test]
fn a_body_is_complete_by_its_content_length_whatever_the_call_does_then() {
    for rest in ["", "yield b''", "yield b'surplus'", "raise ValueError"] {
        let response = with("[('Content-Length', '4')]", &format!("yield b'ab'\nyield b'cd'\n{rest}"));
        assert_eq!((response.text().as_str(), response.recorded.end), ("abcd", Some(End::Complete)), "{rest}");
        assert_eq!(response.recorded.log.is_empty(), rest.is_empty() || rest == "yield b''", "{rest}");
    }
}

#[test]
fn the_applications_content_length_is_kept() {
    let response = with("[('content-LENGTH', '6')]", "yield b'abc'\nyield b'def'").expect(200);
    assert_eq!((response.headers().content_length, response.text().as_str()), (Some(6), "abcdef"));
    let response = request()
        .head()
        .call(&application("start_response('200 OK', [('Content-Length', '5368709120')])\nreturn []"))
        .expect(200);
    assert_eq!(response.headers().content_length, Some(5_368_709_120));
}

#[test]
fn bytes_beyond_content_length_are_discarded_and_logged() {
    for (length, lines, sent) in [
        (3, "return [b'abcdef']", "abc"),
        (3, "yield b'ab'\nyield b'cdef'\nyield b'gh'", "abc"),
        (0, "return [b'abc']", ""),
        (2, "return [b'ab', b'c']", "ab"),
    ] {
        let response = with(&format!("[('Content-Length', '{length}')]"), lines);
        assert_eq!((response.text().as_str(), response.recorded.end), (sent, Some(End::Complete)), "{lines}");
        assert_eq!(response.errors(), ["application \"app\" exceeded its Content-Length, extra bytes discarded"]);
    }
}

#[test]
fn the_iteration_stops_beyond_content_length() {
    let response =
        with("[('Content-Length', '2')]", "for number in range(5):\n    events.append(number)\n    yield b'a'");
    assert_eq!((response.events.join(" ").as_str(), response.text().as_str()), ("0 1 2", "aa"));
}

#[test]
fn a_body_shorter_than_content_length_fails() {
    let headers = "[('Content-Length', '10')]";
    for lines in ["return [b'abc']", "yield b'ab'\nyield b'c'"] {
        with(headers, lines).expect_cut("abc", "application \"app\" sent 3 of the 10 bytes of its Content-Length");
    }
    with(headers, "return []").expect_cut("", "application \"app\" sent 0 of the 10 bytes of its Content-Length");
}

#[test]
fn a_response_to_head_has_the_same_headers_and_no_body() {
    for (headers, lines, length) in [
        ("[('Content-Length', '5'), ('X-A', 'b')]", "return [b'12345']", Some(5)),
        ("[('X-A', 'b')]", "yield b'1'\nyield b'2'", None),
        // An application may leave out a body that is not sent.
        ("[('Content-Length', '5'), ('X-A', 'b')]", "return []", Some(5)),
        // Its length is not inferred then.
        ("[('X-A', 'b')]", "return []", None),
        ("[('X-A', 'b')]", "return [b'body']", None),
    ] {
        let response =
            request().head().call(&application(&format!("start_response('200 OK', {headers})\n{lines}"))).expect(200);
        assert_eq!((response.text().as_str(), response.header("X-A")), ("", Some("b")), "{lines}");
        assert_eq!(response.headers().content_length, length, "{lines}");
    }
}

#[test]
fn a_204_or_304_has_no_body() {
    for status in [204, 304] {
        for lines in ["return []", "return [b'talk']", "yield b'talk'\nyield b'talk'", "return iter([])"] {
            let response =
                get(&application(&format!("start_response('{status} Nothing', [])\n{lines}"))).expect(status);
            assert_eq!((response.text().as_str(), response.headers().content_length), ("", None), "{status} {lines}");
        }
    }
}

#[test]
fn an_internal_redirect_discards_the_body() {
    let response = with("[('X-Accel-Redirect', '/other'), ('Content-Length', '9')]", "return [b'body']").expect(200);
    assert_eq!((response.text().as_str(), response.headers().redirect()), ("", Some(&b"/other"[..])));
}

#[test]
fn the_iteration_ends_when_the_client_has_left() {
    for piece in ["b'x'", "b''"] {
        let response = with(
            "[]",
            &format!(
                "
yield b'begun'
disconnect()
for number in range(1000):
    events.append(number)
    yield {piece}"
            ),
        );
        assert_eq!((response.events.len(), response.text().as_str()), (1, "begun"), "{piece}");
        assert_eq!(response.errors(), [""; 0]);
    }
}

#[test]
fn an_application_may_stop_when_its_body_is_unwanted() {
    let mut request = request();
    request.transport.wants_no_body = true;
    let lines = "start_response('200 OK', [('ETag', 'x')])\nyield b''\nevents.append('produced')\nyield b'body'";
    let response = request.call(&application(lines)).expect(200);
    assert_eq!((response.events, response.recorded.pieces.len()), (vec![], 0));
}

#[test]
fn a_subclass_of_list_is_iterated_by_its_own_method() {
    let events = events_of(
        "
start_response('200 OK', [])
class Parts(list):
    def __iter__(self):
        events.append('iterated')
        return super().__iter__()
return Parts([b'a', b'b'])",
    );
    assert_eq!(events, ["iterated"]);
}
