//! `wsgi.file_wrapper`: files that nginx sends.

use crate::harness::{Engine, Site, both_engines};

both_engines!(a_file_is_sent_from_its_position, ranges_of_a_file);

const FILES: &str = r#"
import gzip, io, os, tempfile

PREFIX = os.path.dirname(os.path.abspath(__file__))
NAME = os.path.join(PREFIX, "letters")
with open(NAME, "wb") as file:
    file.write(bytes(97 + i % 26 for i in range(1000000)))

def note(text):
    with open(os.path.join(PREFIX, "events"), "a") as file:
        file.write(text + "\n")

class Noting(io.FileIO):
    pass

def application(environ, start_response):
    wrap = environ["wsgi.file_wrapper"]
    path = environ["PATH_INFO"]
    headers = []
    if path.startswith("/length"):
        headers.append(("Content-Length", path[8:]))
    start_response("200 OK", headers)
    file = open(NAME, "rb")
    if path == "/seek":
        file.read(3)
    if path == "/gzip":
        data = gzip.compress(b"plain")
        with open(NAME + ".gz", "wb") as packed:
            packed.write(data)
        return wrap(gzip.open(NAME + ".gz"))
    if path == "/bytes":
        return wrap(io.BytesIO(b"bytes"))
    if path == "/temporary":
        file = tempfile.NamedTemporaryFile()
        file.write(b"temporary")
        file.seek(4)
        return wrap(file)
    close = file.close
    def noted():
        note("closed")
        close()
    file.close = noted
    return wrap(file)
"#;

fn site(engine: Engine) -> Site {
    Site::new(engine).app(FILES)
}

fn letters(from: usize, to: usize) -> Vec<u8> {
    (from..to).map(|i| 97 + (i % 26) as u8).collect()
}

fn a_file_is_sent_from_its_position(engine: Engine) {
    let nginx = site(engine).start();
    assert!(nginx.get("/").expect(200).body == letters(0, 1_000_000));
    nginx.wait_events(&["closed"]);
    assert!(nginx.get("/seek").expect(200).body == letters(3, 1_000_000));
    assert!(nginx.get("/length/10").expect(200).body == letters(0, 10));
    assert_eq!(nginx.get("/gzip").expect(200).text(), "plain");
    assert_eq!(nginx.get("/bytes").expect(200).text(), "bytes");
    assert_eq!(nginx.get("/temporary").expect(200).text(), "orary");
}

fn ranges_of_a_file(engine: Engine) {
    let nginx = site(engine).http("wsgi_allow_ranges on;").start();
    let ask = |range: &str| {
        let mut conn = nginx.connect();
        conn.send(format!("GET / HTTP/1.1\r\nHost: a\r\nRange: bytes={range}\r\n\r\n"));
        conn.response()
    };
    assert!(ask("10-19").expect(206).body == letters(10, 20));
    assert!(ask("999990-").expect(206).body == letters(999_990, 1_000_000));
    ask("1000000-").expect(416);
    let text = ask("0-1,26-27").expect(206).text();
    assert_eq!(text.matches("\r\n\r\nab").count(), 2, "{text}");
}
