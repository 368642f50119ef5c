//! Clients that are slow, send much, or leave in the middle: memory stays flat and the application hears of it.

use crate::harness::{Conn, Engine, Framing, Nginx, Process, Site, both_engines, wait_for};
use std::time::Duration;

both_engines!(
    a_slow_reader_of_a_huge_response_costs_no_memory,
    a_slow_reader_of_written_data_costs_no_memory,
    a_huge_response_arrives_whole,
    a_stalled_reader_delays_no_other_client,
    a_large_upload_costs_no_memory,
    a_client_that_leaves_ends_the_iteration,
    a_client_that_leaves_while_the_application_waits_is_noticed,
    a_client_that_leaves_the_queue_is_not_served,
);

const MIB: u64 = 1 << 20;

const APP: &str = r#"
import json
import threading
import time

lock = threading.Lock()
counts = {"made": 0, "started": 0, "closed": 0}

def count(name, number=1):
    with lock:
        counts[name] += number

class Stream:
    """`size` bytes in blocks; counts them and its end."""
    def __init__(self, size, block=65536, pause=0):
        count("started")
        self.left, self.block, self.pause = size, b"x" * block, pause
    def __iter__(self):
        return self
    def __next__(self):
        if not self.left:
            raise StopIteration
        if self.pause:
            time.sleep(self.pause)
        block = self.block[:self.left]
        self.left -= len(block)
        count("made", len(block))
        return block
    def close(self):
        count("closed")

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/counts":
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(counts).encode()]
    if path == "/small":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
        return [b"small"]
    if path == "/discard":
        size = 0
        while block := environ["wsgi.input"].read(1 << 20):
            size += len(block)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(size).encode()]
    size = int(environ["QUERY_STRING"] or 0)
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/write":
        count("started")
        try:
            while size > 0:
                write(b"x" * 65536)
                count("made", 65536)
                size -= 65536
        finally:
            count("closed")
        return []
    if path == "/drip":
        return Stream(size, 100, 0.01)
    return Stream(size)
"#;

fn site(engine: Engine) -> Site {
    Site::new(engine)
        .app(APP)
        .http("client_max_body_size 0; keepalive_requests 100000;")
        .location("= /static", "return 200 static;")
        .errors_expected()
}

fn counted(nginx: &Nginx, name: &str) -> u64 {
    nginx.get("/counts").expect(200).json()[name].as_u64().unwrap()
}

fn worker(nginx: &Nginx) -> Process {
    Process(nginx.application_workers()[0])
}

/// Growth of the worker's peak memory after it has served some requests.
struct Memory {
    worker: Process,
    before: u64,
}

impl Memory {
    fn of(nginx: &Nginx) -> Memory {
        for _ in 0..20 {
            nginx.get("/1?300000").expect(200);
        }
        let worker = worker(nginx);
        Memory { worker, before: worker.memory() }
    }

    #[track_caller]
    fn assert_flat(&self) {
        let gained = self.worker.memory().saturating_sub(self.before);
        assert!(gained < 8 * MIB, "{} MiB more than before", gained / MIB);
    }
}

/// Asks for a response of this size and reads a megabyte of it, then no more.
fn stalled(nginx: &Nginx, path: &str, size: u64) -> Conn {
    let mut conn = nginx.connect();
    conn.send(format!("GET {path}?{size} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(conn.read_exactly(1 << 20).len(), 1 << 20);
    conn
}

/// Waits until nothing more is made, and how much was.
fn made_in_the_end(nginx: &Nginx) -> u64 {
    let mut before = u64::MAX;
    wait_for("the application to wait for its client", || {
        std::thread::sleep(Duration::from_millis(100));
        let made = counted(nginx, "made");
        (std::mem::replace(&mut before, made) == made).then_some(made)
    })
}

fn a_slow_reader_of_a_huge_response_costs_no_memory(engine: Engine) {
    let nginx = site(engine).http("wsgi_max_temp_file_size 0;").start();
    let memory = Memory::of(&nginx);
    let started = counted(&nginx, "started");
    let made = counted(&nginx, "made");
    let mut conns: Vec<Conn> = (0..3).map(|_| stalled(&nginx, "/stream", 300 * MIB)).collect();
    // The application produces enough to fill the socket buffers, and hardly more.
    let held = made_in_the_end(&nginx) - made;
    assert!(held < 60 * MIB, "{} MiB made for 3 MiB read", held / MIB);
    memory.assert_flat();
    // It goes on when the client does.
    conns[0].read_exactly(40 << 20);
    assert!(made_in_the_end(&nginx) - made > held);
    memory.assert_flat();
    drop(conns);
    wait_for("close()", || (counted(&nginx, "closed") == started + 3).then_some(()));
    memory.assert_flat();
}

fn a_slow_reader_of_written_data_costs_no_memory(engine: Engine) {
    let nginx = site(engine).start();
    let memory = Memory::of(&nginx);
    let started = counted(&nginx, "started");
    // With threads, write() waits; without, unsent data goes to a file, as the event loop must not wait.
    let conn = stalled(&nginx, "/write", 100 * MIB);
    made_in_the_end(&nginx);
    memory.assert_flat();
    drop(conn);
    wait_for("the end of the call", || (counted(&nginx, "closed") == started + 1).then_some(()));
    let mut conn = nginx.connect();
    conn.send(format!("GET /write?{} HTTP/1.1\r\nHost: a\r\n\r\n", 30 * MIB));
    let response = conn.response().expect(200);
    assert_eq!((response.body.len() as u64, response.framing), (30 * MIB, Framing::Chunked));
    memory.assert_flat();
}

fn a_huge_response_arrives_whole(engine: Engine) {
    let nginx = site(engine).start();
    let memory = Memory::of(&nginx);
    let mut conn = nginx.connect();
    conn.send(format!("GET /stream?{} HTTP/1.0\r\n\r\n", 300 * MIB));
    conn.read_until("\r\n\r\n");
    let mut left = 300 * MIB;
    while left > 0 {
        let block = conn.read_exactly(left.min(MIB) as usize);
        assert!(!block.is_empty(), "{left} bytes are missing");
        left -= block.len() as u64;
    }
    conn.assert_closed();
    memory.assert_flat();
}

fn a_stalled_reader_delays_no_other_client(engine: Engine) {
    let nginx = site(engine).start();
    // Fewer than there are threads: without a temporary file, a thread waits for its client.
    let conns: Vec<Conn> = (0..3).map(|_| stalled(&nginx, "/stream", 300 * MIB)).collect();
    for _ in 0..20 {
        nginx.get("/small").expect(200);
        nginx.get("/static").expect(200);
    }
    drop(conns);
}

/// Sends so many zeros; what the application counted.
fn upload(nginx: &Nginx, size: u64) -> String {
    let mut conn = nginx.connect();
    conn.send(format!("POST /discard HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"));
    let block = vec![0; 1 << 20];
    let mut left = size;
    while left > 0 {
        let count = left.min(MIB) as usize;
        conn.send(&block[..count]);
        left -= count as u64;
    }
    // For a process group the body is sent once more, when it is complete.
    conn.stream().set_read_timeout(Some(Duration::from_secs(300))).unwrap();
    conn.response().expect(200).text()
}

fn a_large_upload_costs_no_memory(engine: Engine) {
    let nginx = site(engine).start();
    let memory = Memory::of(&nginx);
    let peak = memory.worker.peak_memory();
    for _ in 0..3 {
        assert_eq!(upload(&nginx, 10 * MIB), (10 * MIB).to_string());
    }
    let gained = memory.worker.peak_memory().saturating_sub(peak);
    assert!(gained < 8 * MIB, "{} MiB more than before", gained / MIB);
}

/// The size that `wsgi.input` once could not count.
#[test]
fn an_upload_of_a_gigabyte_costs_no_memory() {
    let nginx = site(Engine::Threads).start();
    let memory = Memory::of(&nginx);
    let peak = memory.worker.peak_memory();
    assert_eq!(upload(&nginx, 1 << 30), (1 << 30).to_string());
    let gained = memory.worker.peak_memory().saturating_sub(peak);
    assert!(gained < 8 * MIB, "{} MiB more than before", gained / MIB);
}

fn a_client_that_leaves_ends_the_iteration(engine: Engine) {
    let nginx = site(engine).start();
    for reset in [false, true] {
        let closed = counted(&nginx, "closed");
        let conn = stalled(&nginx, "/stream", 1 << 40);
        if reset {
            conn.reset();
        } else {
            drop(conn);
        }
        wait_for("close()", || (counted(&nginx, "closed") == closed + 1).then_some(()));
    }
    nginx.get("/small").expect(200);
}

/// It yields a little now and then: nothing but the end of the connection tells that the client has gone.
fn a_client_that_leaves_while_the_application_waits_is_noticed(engine: Engine) {
    let nginx = site(engine).start();
    let mut conn = nginx.connect();
    // Without threads nothing else is served meanwhile, so that one is short enough to end by itself.
    let size = if engine == Engine::Threads { 1 << 30 } else { 3000 };
    conn.send(format!("GET /drip?{size} HTTP/1.1\r\nHost: a\r\n\r\n"));
    conn.read_until("xxx");
    drop(conn);
    wait_for("close()", || (counted(&nginx, "closed") == 1).then_some(()));
}

/// Two requests on a connection, the first of which is never read: the second does not run.
fn a_client_that_leaves_the_queue_is_not_served(engine: Engine) {
    let nginx = site(engine).start();
    let first = format!("GET /stream?{} HTTP/1.1\r\nHost: a\r\n\r\n", 300 * MIB);
    let mut conn = nginx.connect();
    conn.send(first + "GET /stream?1 HTTP/1.1\r\nHost: a\r\n\r\n");
    conn.read_exactly(1 << 20);
    drop(conn);
    wait_for("close()", || (counted(&nginx, "closed") == 1).then_some(()));
    assert_eq!(counted(&nginx, "started"), 1);
}
