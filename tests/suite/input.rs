//! `wsgi.input` is a file like `io.BytesIO`.

use crate::harness::{Engine, Site, both_engines};

both_engines!(
    input_behaves_as_bytes_io_does,
    input_of_a_request_without_a_body_is_empty,
    input_can_be_read_by_another_thread,
);

/// Runs random calls on `wsgi.input` and on a BytesIO of what should be in it; responds with the first difference.
pub const PROPERTY: &str = r#"
import io
import random

def body_of(rng):
    kind = rng.randrange(6)
    if kind == 0:
        return b""
    if kind == 1:
        return b"\n" * rng.randrange(1, 50)
    if kind == 2:
        return rng.randbytes(rng.randrange(1, 70000))
    if kind == 3:
        return b"no newline at the end" * rng.randrange(1, 200)
    if kind == 4:
        return b"\r\n".join(b"x" * rng.randrange(0, 9000) for _ in range(rng.randrange(1, 12)))
    return b"\n".join(b"y" * rng.randrange(0, 40) for _ in range(rng.randrange(1, 400)))

def call_of(rng):
    size = rng.choice([(), (-1,), (None,), (0,), (1,), (2,), (7,), (100,), (1024,), (4096,), (8193,), (-7,),
                       (rng.randrange(70000),), (2**31,), (2**40,), (True,)])
    return rng.choice([
        ("read", size), ("read", size), ("readline", size), ("readline", size), ("readlines", size), ("next", ()),
    ])

def run(file, name, args):
    try:
        if name == "next":
            return next(file, "the end")
        return getattr(file, name)(*args)
    except Exception as e:
        return type(e).__name__

def application(environ, start_response):
    seed = int(environ["QUERY_STRING"])
    rng = random.Random(seed)
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["REQUEST_METHOD"] == "GET":
        return [body_of(rng)]
    wanted = io.BytesIO(body_of(rng))
    rng = random.Random(seed + 1)
    calls = []
    for _ in range(60):
        name, args = call_of(rng)
        # Small bites mostly, or the first call would take it all.
        if not args and name != "next" and rng.random() < 0.8:
            args = (rng.randrange(200),)
        calls.append((name, args))
        a, b = run(environ["wsgi.input"], name, args), run(wanted, name, args)
        if a != b or type(a) is not type(b):
            return [f"seed {seed}, {calls}: {a!r:.300} instead of {b!r:.300}".encode()]
    if environ["wsgi.input"].read() != wanted.read():
        return [f"seed {seed}: different rests after {calls}".encode()]
    return [b"same"]
"#;

fn input_behaves_as_bytes_io_does(engine: Engine) {
    // With a small buffer most bodies are in a temporary file, with a large one in memory.
    let nginx = Site::new(engine)
        .app(PROPERTY)
        .location("/file/", "client_body_buffer_size 1k; wsgi_pass app.py;")
        .server("client_body_buffer_size 128k;")
        .start();
    for seed in 0..120 {
        let place = if seed % 2 == 0 { "/" } else { "/file/" };
        let path = format!("{place}?{seed}");
        let body = nginx.get(&path).expect(200).body;
        assert_eq!(nginx.post(&path, &body).expect(200).text(), "same");
    }
}

fn input_of_a_request_without_a_body_is_empty(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
def application(environ, start_response):
    file = environ["wsgi.input"]
    start_response("200 OK", [])
    return [repr([file.read(), file.readline(), list(file), file.read(10)]).encode()]
"#,
        )
        .start_shared();
    for method in ["GET", "DELETE", "POST"] {
        let response = nginx.request(method, "/", &[], b"").expect(200);
        assert_eq!(response.text(), "[b'', b'', [], b'']");
    }
}

fn input_can_be_read_by_another_thread(engine: Engine) {
    let nginx = Site::new(engine)
        .http("client_body_buffer_size 1k;")
        .app(
            r#"
import threading

def application(environ, start_response):
    read = []
    thread = threading.Thread(target=lambda: read.append(environ["wsgi.input"].read()))
    thread.start()
    thread.join()
    start_response("200 OK", [])
    return read
"#,
        )
        .start_shared();
    let body = "0123456789".repeat(5000);
    assert_eq!(nginx.post("/", &body).expect(200).text(), body);
}
