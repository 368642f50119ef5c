//! `close()` of the iterable: called once, whatever happens.

use super::{Request, Response, request};

/// A body with `close()`. Yields `items`; raises those that are exceptions.
const BODY: &str = r#"
class Body:
    def __init__(self, *items):
        self.items = iter(items)
    def __iter__(self):
        return self
    def __next__(self):
        item = next(self.items)
        if isinstance(item, BaseException):
            raise item
        if callable(item):
            return item() or b""
        return item
    def close(self):
        events.append("closed")

def application(environ, start_response):
"#;

/// Sends `request` to an application that calls `start_response` with this status and these headers, and returns a body
/// of these items.
#[track_caller]
fn body_of(request: Request, status: &str, headers: &str, items: &str) -> Response {
    request.call(&format!("{BODY}    start_response({status:?}, {headers})\n    return Body({items})\n"))
}

#[test]
fn it_is_called_after_the_last_piece() {
    for items in ["b'a', b'b'", "b''", ""] {
        let response = body_of(request(), "200 OK", "[]", items).expect(200);
        assert_eq!(response.events, ["closed"], "{items}");
    }
}

#[test]
fn it_is_called_when_no_body_is_sent() {
    let response = body_of(request().head(), "200 OK", "[]", "b'a', b'b'").expect(200);
    assert_eq!(response.events, ["closed"]);
    for status in ["204 No Content", "304 Not Modified"] {
        assert_eq!(body_of(request(), status, "[]", "b'a', b'b'").events, ["closed"], "{status}");
    }
}

#[test]
fn it_is_called_after_a_failure() {
    for (headers, items) in [
        ("[]", "RuntimeError('first step')"),
        ("[]", "b'a', RuntimeError('second step')"),
        ("[]", "b'a', KeyboardInterrupt()"),
        ("[]", "b'a', 'text'"),
        ("[('Content-Length', '10')]", "b'a'"),
        ("[('Content-Length', '1')]", "b'a', b'b', b'c'"),
    ] {
        let response = body_of(request(), "200 OK", headers, items);
        assert_eq!((response.events.join(" ").as_str(), response.errors().len()), ("closed", 1), "{headers} {items}");
    }
}

#[test]
fn it_is_called_when_start_response_was_not() {
    let response = request().call(&format!("{BODY}    return Body(b'a')\n"));
    assert_eq!(response.expect_error("did not call start_response").events, ["closed"]);
}

#[test]
fn it_is_called_when_the_client_has_left() {
    let response = body_of(request(), "200 OK", "[]", "b'a', disconnect, b'b', b'c'");
    assert_eq!(response.events, ["closed"]);
    assert_eq!(response.errors(), [""; 0]);
}

#[test]
fn it_is_called_when_the_result_cannot_be_iterated() {
    let response = request().call(
        "
class Broken:
    def __iter__(self):
        return 5
    def close(self):
        events.append('closed')

def application(environ, start_response):
    start_response('200 OK', [])
    return Broken()
",
    );
    assert_eq!(response.expect_error("TypeError").events, ["closed"]);
}

#[test]
fn it_is_called_before_the_end_of_the_call_and_after_the_body() {
    let mut request = request();
    request.afterwards = "events.append('over')";
    let response = body_of(request, "200 OK", "[]", "lambda: events.append('piece')").expect(200);
    assert_eq!(response.events, ["piece", "closed", "over"]);
}

#[test]
fn it_is_called_for_subclasses_of_list() {
    let response = request().call(
        "
class List(list):
    def close(self):
        events.append('closed')

def application(environ, start_response):
    start_response('200 OK', [])
    return List([b'a'])
",
    );
    assert_eq!(response.expect(200).events, ["closed"]);
}

#[test]
fn it_ends_a_generator() {
    let response = request().call(
        "
def application(environ, start_response):
    start_response('200 OK', [])
    try:
        yield b'a'
        disconnect()
        while True:
            yield b'b'
    finally:
        events.append('ended')
",
    );
    assert_eq!(response.events, ["ended"]);
}

#[test]
fn an_error_in_it_is_logged_and_changes_nothing() {
    let response = request().call(
        "
class Body:
    def __iter__(self):
        return iter([b'whole ', b'body'])
    def close(self):
        raise RuntimeError('on purpose')

def application(environ, start_response):
    start_response('200 OK', [])
    return Body()
",
    );
    assert_eq!((response.text().as_str(), response.recorded.end), ("whole body", Some(super::End::Complete)));
    let errors = response.errors();
    assert!(errors[0].starts_with("application \"app\" raised RuntimeError: on purpose in close()\n"), "{errors:?}");
}

#[test]
fn an_error_in_it_does_not_hide_that_of_the_iteration() {
    let response = request().call(
        "
class Body:
    def __iter__(self):
        raise ValueError('first')
    @property
    def close(self):
        raise RuntimeError('second')

def application(environ, start_response):
    start_response('200 OK', [])
    return Body()
",
    );
    let errors = response.errors();
    assert!(errors.len() == 2 && errors[0].contains("ValueError: first"), "{errors:?}");
    assert!(errors[1].contains("RuntimeError: second in close()"), "{errors:?}");
}
