//! `wsgi.file_wrapper`: files and objects like files.

use crate::harness::{Engine, Framing, Site, both_engines};
use crate::response::{ask, functions};

both_engines!(file_wrapper_sends_a_file, file_wrapper_begins_where_the_file_stands, file_wrapper_never_invents_bytes);

const FILES: &str = r#"
import io
import os

class Closing:
    """What has read() and close() and nothing else."""
    def __init__(self, file):
        self.file = file
    def read(self, *args):
        return self.file.read(*args)
    def close(self):
        event("file closed")
        self.file.close()

def wrap(environ, start_response, file, headers=()):
    start_response("200 OK", list(headers))
    return environ["wsgi.file_wrapper"](file, 4096)

def whole(environ, start_response):
    return wrap(environ, start_response, open("@prefix@/data", "rb"))

def default_size(environ, start_response):
    start_response("200 OK", [])
    return environ["wsgi.file_wrapper"](open("@prefix@/data", "rb"))

def offset(environ, start_response):
    file = open("@prefix@/data", "rb")
    file.read(99990)
    return wrap(environ, start_response, file)

def length(environ, start_response):
    return wrap(environ, start_response, open("@prefix@/data", "rb"), [("Content-Length", "5")])

def too_long(environ, start_response):
    return wrap(environ, start_response, open("@prefix@/data", "rb"), [("Content-Length", "100010")])

def bytes_io(environ, start_response):
    return wrap(environ, start_response, io.BytesIO(b"in memory"))

def closing(environ, start_response):
    return wrap(environ, start_response, Closing(io.BytesIO(b"closing")))

def pipe(environ, start_response):
    read, write = os.pipe()
    os.write(write, b"through a pipe")
    os.close(write)
    return wrap(environ, start_response, open(read, "rb"))

def nul(environ, start_response):
    return wrap(environ, start_response, io.BytesIO(b"\0first"))

def wrapped_again(environ, start_response):
    start_response("200 OK", [])
    for block in environ["wsgi.file_wrapper"](io.BytesIO(b"once more"), 4):
        yield block.upper()

def fails(environ, start_response):
    class Failing(Closing):
        def read(self, *args):
            raise OSError("disk on fire")
    return wrap(environ, start_response, Failing(io.BytesIO()))
"#;

fn files(engine: Engine) -> Site {
    functions(engine, FILES).file("data", &"0123456789".repeat(10_000))
}

fn file_wrapper_sends_a_file(engine: Engine) {
    let nginx = files(engine).start_shared();
    for path in ["/whole", "/default_size"] {
        let response = ask(&nginx, "GET", path).expect(200);
        assert_eq!(response.text(), "0123456789".repeat(10_000), "{path}");
    }
}

fn file_wrapper_begins_where_the_file_stands(engine: Engine) {
    let nginx = files(engine).start_shared();
    let response = ask(&nginx, "GET", "/offset").expect(200);
    assert_eq!(response.text(), "0123456789");
    let response = ask(&nginx, "HEAD", "/whole").expect(200);
    assert_eq!(response.framing, Framing::None);
}

fn file_wrapper_never_invents_bytes(engine: Engine) {
    let nginx = files(engine).errors_expected().start_shared();
    let response = ask(&nginx, "GET", "/too_long").expect(200);
    assert_eq!(response.framing, Framing::Cut);
    assert_eq!(response.text(), "0123456789".repeat(10_000));
    let response = ask(&nginx, "GET", "/length").expect(200);
    assert_eq!(response.text(), "01234");
}
