//! The `write` callable.

use super::{application, events_of, get, request};

#[test]
fn it_sends_before_the_iterable_and_returns_none() {
    let response = get(&application(
        r#"
write = start_response("200 OK", [])
events.extend([write(b"one "), write(b""), write(data=b"two ")])
return [b"three"]"#,
    ))
    .expect(200);
    assert_eq!((response.text().as_str(), response.events.join(" ").as_str()), ("one two three", "None None None"));
    assert_eq!(response.headers().content_length, None);
}

#[test]
fn it_takes_bytes_only() {
    let events = events_of(
        r#"
write = start_response("200 OK", [])
for data in ("text", None, 5, [b"x"], 1.5, bytearray(b"x"), memoryview(b"x")):
    try:
        write(data)
    except TypeError as e:
        events.append(e)
return []"#,
    );
    assert_eq!(events.len(), 7);
    assert_eq!(events[0], "write() argument must be bytes, not str");
}

#[test]
fn wrong_numbers_of_arguments_are_type_errors() {
    let events = events_of(
        r#"
write = start_response("200 OK", [])
for arguments in ((), (b"a", b"b")):
    try:
        write(*arguments)
    except TypeError:
        events.append("refused")
return []"#,
    );
    assert_eq!(events, ["refused", "refused"]);
}

#[test]
fn it_sends_the_headers_at_once() {
    get(&application(
        r#"
import sys
write = start_response("200 OK", [])
write(b"begun")
try:
    1 / 0
except ZeroDivisionError:
    start_response("500 Too Late", [], sys.exc_info())
return [b"never"]"#,
    ))
    .expect_cut("begun", "ZeroDivisionError");
}

#[test]
fn empty_data_does_not_send_the_headers() {
    let response = get(&application(
        r#"
import sys
start_response("200 OK", [])(b"")
try:
    1 / 0
except ZeroDivisionError:
    start_response("500 In Time", [], sys.exc_info())
return [b"page"]"#,
    ))
    .expect(500);
    assert_eq!(response.text(), "page");
}

#[test]
fn it_sends_all_data_whatever_room_there_is() {
    let response =
        request().room(3).call(&application("start_response('200 OK', [])(b'0123456789')\nreturn []")).expect(200);
    assert_eq!(response.text(), "0123456789");
}

#[test]
fn it_shares_content_length_with_the_iterable() {
    let response = get(&application(
        r#"
write = start_response("200 OK", [("Content-Length", "6")])
write(b"abc")
return [b"def"]"#,
    ))
    .expect(200);
    assert_eq!(response.text(), "abcdef");
}

#[test]
fn data_beyond_content_length_is_discarded() {
    let response = get(&application(
        r#"
write = start_response("200 OK", [("Content-Length", "4")])
write(b"abc")
write(b"def")
write(b"ghi")
return [b"jkl"]"#,
    ));
    assert_eq!(response.text(), "abcd");
    assert_eq!(response.errors(), ["application \"app\" exceeded its Content-Length, extra bytes discarded"]);
}

#[test]
fn a_client_that_has_left_is_a_broken_pipe() {
    let events = events_of(
        r#"
write = start_response("200 OK", [])
write(b"begun")
disconnect()
try:
    write(b"more")
except BrokenPipeError as e:
    events.append(e)
return []"#,
    );
    assert_eq!(events, ["the client has closed the connection"]);
}

#[test]
fn calling_it_after_the_call_is_a_broken_pipe() {
    let mut request = request();
    request.afterwards = "
try:
    kept(b'late')
except BrokenPipeError:
    events.append('refused')
";
    let response =
        request.call(&application("global kept\nkept = start_response('200 OK', [])\nreturn [b'body']")).expect(200);
    assert_eq!((response.events, response.recorded.pieces.concat()), (vec!["refused".to_owned()], b"body".to_vec()));
}
