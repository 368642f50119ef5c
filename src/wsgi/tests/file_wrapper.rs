//! `wsgi.file_wrapper`: a regular file is sent by the server, any other object is read.

use super::{Response, application, request};

/// Returns the response of an application that wraps `file`, an expression, in blocks of 4 bytes. `path` is a file with
/// the content `0123456789`.
#[track_caller]
fn wrapped(request: super::Request, headers: &str, file: &str) -> Response {
    request.call(&format!(
        r#"
import io, os, tempfile

class Reader:
    """Has read() and close() and nothing else."""
    def __init__(self, file):
        self.file = file
    def read(self, *args):
        events.append("read")
        return self.file.read(*args)
    def close(self):
        events.append("closed")

class Failing(Reader):
    def read(self, *args):
        raise OSError("disk on fire")

def regular(position=0):
    file = tempfile.TemporaryFile()
    file.write(b"0123456789")
    file.seek(position)
    return file

def pipe():
    read, write = os.pipe()
    os.write(write, b"through a pipe")
    os.close(write)
    return open(read, "rb")

def application(environ, start_response):
    start_response("200 OK", {headers})
    return environ["wsgi.file_wrapper"]({file}, 4)
"#
    ))
}

#[test]
fn a_regular_file_is_sent_in_one_piece_with_its_length() {
    let response = wrapped(request(), "[]", "regular()").expect(200);
    assert_eq!(response.recorded.pieces, [b"0123456789".to_vec()]);
    assert_eq!(response.headers().content_length, Some(10));
}

#[test]
fn a_regular_file_is_sent_from_its_position() {
    let response = wrapped(request(), "[]", "regular(7)").expect(200);
    assert_eq!((response.text().as_str(), response.headers().content_length), ("789", Some(3)));
    let response = wrapped(request(), "[]", "regular(10)").expect(200);
    assert_eq!((response.text().as_str(), response.headers().content_length), ("", Some(0)));
}

#[test]
fn content_length_cuts_a_file_or_makes_it_too_short() {
    let response = wrapped(request(), "[('Content-Length', '5')]", "regular()").expect(200);
    assert_eq!(response.text(), "01234");
    wrapped(request(), "[('Content-Length', '20')]", "regular()")
        .expect_cut("0123456789", "sent 10 of the 20 bytes of its Content-Length");
}

#[test]
fn any_other_object_is_read_in_blocks() {
    for (file, pieces) in [
        ("io.BytesIO(b'in memory')", vec!["in m", "emor", "y"]),
        ("pipe()", vec!["thro", "ugh ", "a pi", "pe"]),
        ("Reader(io.BytesIO(b'12345'))", vec!["1234", "5"]),
        ("io.BytesIO(b'\\0first')", vec!["\0fir", "st"]),
        ("io.BytesIO()", vec![]),
    ] {
        let response = wrapped(request(), "[]", file).expect(200);
        assert_eq!(response.recorded.pieces, pieces.iter().map(|piece| piece.as_bytes().to_vec()).collect::<Vec<_>>());
    }
}

#[test]
fn the_file_is_closed_once() {
    let response = wrapped(request(), "[]", "Reader(io.BytesIO(b'x'))").expect(200);
    assert_eq!(response.events, ["read", "read", "closed"]);
    let response = wrapped(request().head(), "[]", "Reader(io.BytesIO(b'x'))").expect(200);
    assert_eq!(response.events.iter().filter(|event| *event == "closed").count(), 1);
    let response = wrapped(request(), "[]", "Failing(None)").expect_error("disk on fire");
    assert_eq!(response.events, ["closed"]);
}

#[test]
fn a_file_is_not_sent_to_head() {
    let response = wrapped(request().head(), "[]", "regular()").expect(200);
    assert_eq!(response.text(), "");
}

#[test]
fn a_file_without_start_response_is_an_error() {
    let source = "
import tempfile
def application(environ, start_response):
    file = tempfile.TemporaryFile()
    file.write(b'secret')
    file.seek(0)
    return environ['wsgi.file_wrapper'](file)
";
    request().call(source).expect_error("did not call start_response");
}

#[test]
fn an_application_may_iterate_over_it() {
    let response = request()
        .call(&application(
            "
import io
start_response('200 OK', [])
for block in environ['wsgi.file_wrapper'](io.BytesIO(b'once more'), 4):
    yield block.upper()",
        ))
        .expect(200);
    assert_eq!(response.recorded.pieces, [&b"ONCE"[..], b" MOR", b"E"]);
}
