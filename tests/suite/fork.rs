//! A process that an application forks, at any point of a call: it is not the worker, and has no part in the request.

use crate::harness::{Engine, Nginx, Site, both_engines, wait_for};

both_engines!(
    no_operation_of_a_child_reaches_the_client,
    a_child_writes_nothing_to_the_temporary_file_of_its_parent,
    a_child_does_not_wait_for_the_client_of_its_parent,
    a_child_that_an_import_forks_ends,
    a_program_started_by_c_code_inherits_no_socket,
);

/// An application whose `fork(action)` forks, lets the child take the numbers of closed descriptors, act, and leave the
/// application; the parent waits for its end.
const FORKING: &str = r#"
import ctypes, os, signal, time

@event@

def take_descriptors():
    number = 0
    while number < 100:
        number = os.open(f"@prefix@/taken-{number}", os.O_CREAT | os.O_WRONLY)

def wait_for(child):
    deadline = time.monotonic() + 10
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return event("child hangs")
        time.sleep(0.002)
    event(f"child ended {os.waitstatus_to_exitcode(ended[1])}")

def fork(action=lambda: None, fork=os.fork):
    child = fork()
    if child:
        return wait_for(child)
    take_descriptors()
    try:
        action()
    except OSError as error:
        event(f"child {type(error).__name__}")
        raise
"#;

fn site(engine: Engine, source: &str) -> Site {
    Site::new(engine).app(&format!("{FORKING}{source}")).errors_expected()
}

/// Text that children have written to descriptors of the parent.
fn taken(nginx: &Nginx) -> Vec<String> {
    let entries = std::fs::read_dir(nginx.prefix()).unwrap().map(|entry| entry.unwrap());
    let files: Vec<_> = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("taken-")).collect();
    assert!(files.len() > 20, "the child had taken {} descriptors", files.len());
    files
        .into_iter()
        .filter(|file| file.metadata().unwrap().len() > 0)
        .map(|file| format!("{:?}: {:?}", file.path(), std::fs::read(file.path()).unwrap()))
        .collect()
}

fn no_operation_of_a_child_reaches_the_client(engine: Engine) {
    let nginx = site(
        engine,
        r#"
class Body:
    def __init__(self, place):
        self.place = place

    def __iter__(self):
        if self.place == "iter":
            fork()
        return self

    def __next__(self):
        if self.place == "end":
            raise StopIteration
        if self.place == "next":
            fork()
        if self.place == "c":
            fork(fork=ctypes.CDLL(None).fork)
        if self.place == "raise":
            fork(lambda: 1 / 0)
        self.place, place = "close" if self.place == "close" else "end", self.place
        if place == "close" and self.last:
            raise StopIteration
        self.last = True
        return b"parent"

    last = False

    def close(self):
        if self.place == "close":
            fork()

def application(environ, start_response):
    place = environ["QUERY_STRING"]
    if place == "start":
        fork(lambda: start_response("500 Child", []))
    write = start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    if place == "call":
        fork()
    if place == "write":
        fork(lambda: write(b"child!"))
        write(b"parent")
        return []
    if place == "read":
        fork(lambda: environ["wsgi.input"].read())
    if place == "line":
        fork(lambda: next(environ["wsgi.input"]))
    return Body(place)
"#,
    )
    .start();
    let places = [
        ("start", "child OSError, child ended 1"),
        ("call", "child ended 0"),
        ("write", "child OSError, child ended 1"),
        ("read", "child OSError, child ended 1"),
        ("line", "child OSError, child ended 1"),
        ("iter", "child ended 0"),
        ("next", "child ended 0"),
        ("c", "child ended 0"),
        ("raise", "child ended 1"),
        ("close", "child ended 0"),
    ];
    let mut conn = nginx.connect();
    for (place, told) in places {
        let before = nginx.events().len();
        conn.send(format!("POST /?{place} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"));
        assert_eq!(conn.response().expect(200).text(), "parent", "{place}");
        let told_of = wait_for("the end of the child", || {
            let events = nginx.events().split_off(before);
            events.last().is_some_and(|last| last.starts_with("child ended") || last == "child hangs").then_some(events)
        });
        assert_eq!(told_of.join(", "), told, "{place}");
        assert_eq!(taken(&nginx), Vec::<String>::new(), "{place}");
    }
}

fn a_child_writes_nothing_to_the_temporary_file_of_its_parent(engine: Engine) {
    let nginx = site(
        engine,
        r#"
def application(environ, start_response):
    def body():
        yield b"a" * 1_000_000
        child = os.fork()
        if child:
            wait_for(child)
            yield b"b" * 1_000_000
        else:
            yield b"c" * 1_000_000
            event("child goes on")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2000000")])
    return body()
"#,
    )
    .server("sendfile_max_chunk 4k; wsgi_output_buffer_size 4k;")
    .start();
    let mut conn = nginx.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    nginx.wait_events(&["child ended 0"]);
    let body = conn.response().expect(200).body;
    assert!(body[..1_000_000].iter().all(|byte| *byte == b'a') && body[1_000_000..].iter().all(|byte| *byte == b'b'));
}

fn a_child_does_not_wait_for_the_client_of_its_parent(engine: Engine) {
    let nginx = site(
        engine,
        r#"
def application(environ, start_response):
    def body():
        child = os.fork()
        if child:
            wait_for(child)
            yield b"parent"
        else:
            for _ in range(10):
                yield b"c" * 1_000_000
            event("child goes on")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return body()
"#,
    )
    .server("wsgi_max_temp_file_size 0; wsgi_output_buffer_size 4k;")
    .start();
    assert_eq!(nginx.get("/").expect(200).text(), "parent");
    assert_eq!(nginx.events(), ["child ended 0"]);
}

fn a_child_that_an_import_forks_ends(engine: Engine) {
    let nginx = site(
        engine,
        r#"
fork()

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"#,
    )
    .start();
    assert_eq!(nginx.get("/").expect(200).text(), nginx.workers()[0].to_string());
    assert_eq!(nginx.events(), ["child ended 0"]);
}

/// Neither Python's hooks nor its audit events notice such a program.
fn a_program_started_by_c_code_inherits_no_socket(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
import ctypes

def application(environ, start_response):
    ctypes.CDLL(None).system(b"ls -l /proc/self/fd > @prefix@/descriptors")
    start_response("200 OK", [("Content-Type", "text/plain")])
    with open("@prefix@/descriptors", "rb") as descriptors:
        return [descriptors.read()]
"#,
        )
        .location("/static", "return 204;")
        .start();
    let mut of_nginx = nginx.connect();
    of_nginx.send("GET /static HTTP/1.1\r\nHost: a\r\n\r\n");
    of_nginx.response().expect(204);
    let text = nginx.get("/").expect(200).text();
    assert!(text.contains("/descriptors"), "{text}");
    assert!(!text.contains("socket:"), "{text}");
}
