//! Responses to clients that are slower than the application: memory, the temporary file, then time.

use crate::harness::{
    Conn, Engine, Framing, Nginx, Process, Site, both_engines, is_root, python_is_for_everybody, skip_in_process_group,
    uses_process_group, wait_for,
};
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

both_engines!(
    a_call_ends_though_its_client_reads_nothing,
    a_client_that_reads_while_a_call_ends_gets_all,
    a_call_that_has_outgrown_its_file_waits,
    without_a_file_a_call_waits,
    many_slow_clients_delay_no_other_client,
    a_long_response_to_a_slow_client_costs_no_memory,
    temporary_files_have_no_names_and_go,
    a_temporary_file_that_cannot_be_made_is_no_end,
    a_full_disk_is_no_end,
    nginx_makes_the_directory,
    chunks_go_out_at_once,
    chunks_are_joined_where_that_is_wanted,
    a_response_decides_for_itself,
    many_chunks_cost_few_system_calls,
    written_data_goes_out_at_once,
    written_data_is_joined_where_that_is_wanted,
    an_unwanted_response_is_not_computed,
    a_client_that_leaves_is_logged_once,
    a_complete_response_survives_its_worker,
    a_response_that_is_under_way_is_aborted_in_time,
);

const APP: &str = r#"
import os
import threading
import time

PREFIX = os.path.dirname(os.path.abspath(__file__))
lock = threading.Lock()
made = 0

def note(text):
    with lock, open(os.path.join(PREFIX, "events"), "a") as file:
        file.write(text + "\n")

def wait_for(name):
    while not os.path.exists(os.path.join(PREFIX, name)):
        time.sleep(0.005)

def block(start, length):
    """Bytes of which each tells where it belongs."""
    first = start % 251
    return (bytes(range(251)) * (length // 251 + 2))[first:first + length]

class Stream:
    def __init__(self, size, piece, closing=0):
        self.size, self.piece, self.at, self.closing = size, piece, 0, closing
    def __iter__(self):
        return self
    def __next__(self):
        global made
        if self.at >= self.size:
            raise StopIteration
        data = block(self.at, min(self.piece, self.size - self.at))
        self.at += len(data)
        with lock:
            made += len(data)
        return data
    def close(self):
        time.sleep(self.closing)
        note("closed")

class Waiting:
    """A chunk, then another when the test says so."""
    def __init__(self, *chunks):
        self.chunks = list(chunks)
        self.first = True
    def __iter__(self):
        return self
    def __next__(self):
        if not self.chunks:
            raise StopIteration
        if not self.first:
            wait_for("go")
        self.first = False
        return self.chunks.pop(0)
    def close(self):
        note("closed")

class Empty:
    """Nothing, then what takes long to compute."""
    def __init__(self, first):
        self.chunks = [first, b"", b"computed"]
    def __iter__(self):
        return self
    def __next__(self):
        if not self.chunks:
            raise StopIteration
        if len(self.chunks) == 1:
            note("computed")
        return self.chunks.pop(0)
    def close(self):
        note("closed")

def ends_late(pieces):
    """Much at once, then pieces that each take longer than a call may keep the event loop."""
    time.sleep(0.02)
    yield block(0, 1 << 22)
    note("given")
    for number in range(pieces):
        time.sleep(0.02 if number else 0.3)
        yield block((1 << 22) + number, 1)

def application(environ, start_response):
    path = environ["PATH_INFO"]
    query = dict(item.partition("=")[::2] for item in environ["QUERY_STRING"].split("&"))
    size, piece = int(query.get("size", 0)), int(query.get("piece", 65536))
    headers = [("Content-Type", "text/plain")]
    if "length" in query:
        headers.append(("Content-Length", query["length"]))
    if "joins" in query:
        headers.append(("X-Accel-Buffering", query["joins"]))
    if path == "/quick":
        start_response("200 OK", headers)
        return [b"quick"]
    if path == "/made":
        start_response("200 OK", headers)
        return [str(made).encode()]
    if path == "/dated":
        headers.append(("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"))
    write = start_response("200 OK", headers)
    if path == "/list":
        note("closed")
        return list(Stream(size, piece))
    if path == "/write":
        try:
            for data in (stream := Stream(size, piece)):
                write(data)
        except OSError as error:
            note("failed " + type(error).__name__)
            raise
        note("closed")
        return []
    if path == "/late":
        return ends_late(int(query["pieces"]))
    if path == "/waiting":
        return Waiting(b"one", b"two")
    if path == "/writing":
        write(b"one")
        if "more" in query:
            write(b"x" * int(query["more"]))
        wait_for("go")
        write(b"two")
        return Waiting(b"three")
    if path in ("/empty", "/dated"):
        return Empty(b"")
    if path == "/begun":
        return Empty(b"begun")
    return Stream(size, piece, float(query.get("closing", 0)))
"#;

const MIB: usize = 1 << 20;

/// A site whose kernel buffers hold little of a response.
fn site(engine: Engine) -> Site {
    // Responses above the limit for connections of a process would be another test.
    Site::new(engine).app(APP).listen("listen 127.0.0.1:@port@ sndbuf=32k;")
}

fn bytes(from: usize, to: usize) -> Vec<u8> {
    (from..to).map(|i| (i % 251) as u8).collect()
}

/// A client that asks and does not read.
fn silent(nginx: &Nginx, path: &str) -> Conn {
    let mut conn = nginx.connect();
    conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    conn
}

fn wait_closed(nginx: &Nginx, count: usize) {
    let closed = || nginx.events().iter().filter(|event| *event == "closed").count();
    wait_for("close()", || (closed() >= count).then_some(()));
    assert_eq!(closed(), count);
}

fn worker(nginx: &Nginx) -> Process {
    Process(nginx.application_workers()[0])
}

fn made(nginx: &Nginx) -> usize {
    nginx.get("/made").expect(200).text().parse().unwrap()
}

/// Returns the amount produced once production has stopped.
fn made_in_the_end(nginx: &Nginx) -> usize {
    let mut before = usize::MAX;
    wait_for("the application to wait", || {
        std::thread::sleep(Duration::from_millis(100));
        let now = made(nginx);
        (std::mem::replace(&mut before, now) == now).then_some(now)
    })
}

/// Temporary files that a process has open: their sizes.
fn temporary_files(process: Process, directory: &Path) -> Vec<u64> {
    let Ok(open) = fs::read_dir(format!("/proc/{}/fd", process.0)) else { return Vec::new() };
    open.flatten()
        .filter(|entry| {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            target.starts_with(directory) && target.to_string_lossy().ends_with("(deleted)")
        })
        .filter_map(|entry| Some(fs::metadata(entry.path()).ok()?.len()))
        .collect()
}

// ---- where a response waits ------------------------------------------------------------------------------------------

fn a_call_ends_though_its_client_reads_nothing(engine: Engine) {
    let nginx = site(engine).start();
    for (number, path) in
        ["/stream?", "/list?", "/write?", "/stream?length=8388608&", "/stream?piece=1000&"].iter().enumerate()
    {
        let mut conn = silent(&nginx, &format!("{path}size={}", 8 * MIB));
        wait_closed(&nginx, number + 1);
        assert_eq!(nginx.get("/quick").expect(200).text(), "quick");
        let response = conn.response().expect(200);
        assert!(matches!(response.framing, Framing::Chunked | Framing::Length));
        assert!(response.body == bytes(0, 8 * MIB), "{path}");
        // The connection goes on.
        conn.send("GET /quick HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(conn.response().expect(200).text(), "quick");
    }
}

/// The client's socket has room again before nginx learns that the call has ended, after any number of pieces.
fn a_client_that_reads_while_a_call_ends_gets_all(engine: Engine) {
    let nginx = site(engine).start();
    for pieces in 0..8 {
        let mut conn = silent(&nginx, &format!("/late?pieces={pieces}"));
        nginx.wait_events(&vec!["given"; pieces + 1]);
        let response = conn.response().expect(200);
        assert!(response.body == bytes(0, 4 * MIB + pieces), "{pieces} pieces: {} bytes", response.body.len());
    }
}

fn a_call_that_has_outgrown_its_file_waits(engine: Engine) {
    let nginx = site(engine).http("wsgi_output_buffer_size 100k; wsgi_max_temp_file_size 2m;").start();
    let mut conn = silent(&nginx, &format!("/stream?size={}", 30 * MIB));
    let held = made_in_the_end(&nginx);
    assert!(held > 2 * MIB, "{held}");
    // Memory, file and sockets.
    assert!(held < 2 * MIB + 4 * MIB, "{} KiB", held / 1024);
    assert_eq!(nginx.get("/quick").expect(200).text(), "quick");
    assert!(nginx.events().is_empty());
    assert!(conn.response().expect(200).body == bytes(0, 30 * MIB));
    wait_closed(&nginx, 1);
    if engine == Engine::Threads {
        let mut conn = silent(&nginx, &format!("/write?size={}", 10 * MIB));
        made_in_the_end(&nginx);
        assert_eq!(nginx.events().len(), 1);
        assert!(conn.response().expect(200).body == bytes(0, 10 * MIB));
        wait_closed(&nginx, 2);
    }
}

fn without_a_file_a_call_waits(engine: Engine) {
    let nginx = site(engine).http("wsgi_output_buffer_size 10k; wsgi_max_temp_file_size 0;").start();
    let directory = nginx.temporary_directory("tmp");
    let mut conns: Vec<Conn> = (0..2).map(|_| silent(&nginx, &format!("/stream?size={}", 10 * MIB))).collect();
    let held = made_in_the_end(&nginx);
    assert!(held < 5 * MIB, "{} KiB", held / 1024);
    assert!(temporary_files(worker(&nginx), &directory).is_empty());
    assert_eq!(nginx.get("/quick").expect(200).text(), "quick");
    for conn in &mut conns {
        assert!(conn.response().expect(200).body == bytes(0, 10 * MIB));
    }
    wait_closed(&nginx, 2);
}

fn many_slow_clients_delay_no_other_client(engine: Engine) {
    // A client of a process group takes two of nginx's connections.
    let nginx = site(engine).events("worker_connections 4096;").start();
    let directory = nginx.temporary_directory("tmp");
    let count = 1000;
    let mut conns = Vec::new();
    for _ in 0..4 {
        conns.extend((0..count / 4).map(|_| silent(&nginx, &format!("/stream?size={MIB}"))));
        for _ in 0..5 {
            assert_eq!(nginx.get("/quick").expect(200).text(), "quick");
        }
    }
    wait_closed(&nginx, count);
    assert_eq!(nginx.get("/quick").expect(200).text(), "quick");
    assert!(temporary_files(worker(&nginx), &directory).len() > count / 2);
    for conn in conns.iter_mut().step_by(50) {
        assert!(conn.response().expect(200).body == bytes(0, MIB));
    }
    drop(conns);
    wait_for("the end of the files", || temporary_files(worker(&nginx), &directory).is_empty().then_some(()));
}

/// Two gigabytes where the variable WSGI_TEST_SLOW says so.
fn a_long_response_to_a_slow_client_costs_no_memory(engine: Engine) {
    let is_long = std::env::var_os("WSGI_TEST_SLOW").is_some();
    let size = if is_long { 2048 * MIB } else { 200 * MIB };
    for limit in ["1024m", "0"] {
        let nginx = site(engine).http(&format!("wsgi_max_temp_file_size {limit};")).start();
        for _ in 0..10 {
            nginx.get("/stream?size=300000").expect(200);
        }
        let worker = worker(&nginx);
        let before = worker.peak_memory();
        let conn = silent(&nginx, &format!("/stream?size={size}"));
        let start = Instant::now();
        let mut stream = conn.stream();
        let mut buffer = vec![0; 1024];
        let mut got = 0;
        while start.elapsed() < Duration::from_secs(if is_long { 60 } else { 2 }) {
            // Ten kilobytes a second.
            got += stream.read(&mut buffer).unwrap();
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(got > 0);
        let gained = worker.peak_memory().saturating_sub(before);
        println!("{engine:?}, file {limit}: {} KiB more, {} MiB made", gained / 1024, made(&nginx) / MIB);
        assert!(gained < 4 << 20, "{} KiB", gained / 1024);
    }
}

fn temporary_files_have_no_names_and_go(engine: Engine) {
    let nginx = site(engine).http("wsgi_temp_path responses;").start();
    let directory = nginx.temporary_directory("responses");
    let names = || fs::read_dir(&directory).unwrap().count();
    let process = worker(&nginx);
    // Sent, left in good order, left by a reset.
    for end in 0..3 {
        let mut conn = silent(&nginx, &format!("/stream?size={}", 8 * MIB));
        wait_closed(&nginx, end + 1);
        let open = temporary_files(process, &directory);
        assert!(open.len() == 1 && open[0] > 4 << 20, "{open:?}");
        assert_eq!(names(), 0);
        match end {
            0 => assert!(conn.response().expect(200).body == bytes(0, 8 * MIB)),
            1 => drop(conn),
            _ => conn.reset(),
        }
        wait_for("the end of the file", || temporary_files(process, &directory).is_empty().then_some(()));
    }
    let conn = silent(&nginx, &format!("/stream?size={}", 8 * MIB));
    wait_closed(&nginx, 4);
    process.signal(libc::SIGKILL);
    process.wait_gone();
    assert_eq!(names(), 0);
    wait_for("another worker", || nginx.application_workers().into_iter().find(|pid| *pid != process.0));
    drop(conn);
    let mut nginx = nginx;
    nginx.wait_expected_error("exited on signal 9");
    assert_eq!(nginx.get("/quick").expect(200).text(), "quick");
}

fn a_temporary_file_that_cannot_be_made_is_no_end(engine: Engine) {
    let nginx = site(engine).http("wsgi_temp_path responses;").errors_expected().start();
    let directory = nginx.temporary_directory("responses");
    // That of a process group is made when the group starts.
    wait_for("the directory", || fs::remove_dir(&directory).ok());
    cannot_spill(engine, &nginx, &format!("in \"{}\": No such file or directory", directory.display()));
}

/// Checks for both engines with a full disk.
fn cannot_spill(engine: Engine, nginx: &Nginx, said: &str) {
    let mut conn = silent(nginx, &format!("/stream?size={}", 8 * MIB));
    nginx.wait_log(&format!("cannot write a temporary file for a response {said}"));
    assert_eq!(nginx.get("/quick").expect(200).text(), "quick");
    // It waits for its client instead.
    assert!(made_in_the_end(nginx) < 5 * MIB);
    assert!(conn.response().expect(200).body == bytes(0, 8 * MIB));
    assert_eq!(nginx.logged("cannot write").len(), 1, "{}", nginx.error_log());
    wait_closed(nginx, 1);
    let mut conn = silent(nginx, &format!("/write?size={}", 8 * MIB));
    if engine == Engine::Threads {
        assert!(conn.response().expect(200).body == bytes(0, 8 * MIB));
        wait_closed(nginx, 2);
        return;
    }
    // It cannot wait there, and must not do as if all were well.
    wait_for("the error", || nginx.events().into_iter().find(|event| event == "failed BrokenPipeError"));
    let response = conn.response().expect(200);
    assert_eq!(response.framing, Framing::Cut);
    assert!(response.body[..] == bytes(0, 8 * MIB)[..response.body.len()]);
    assert_eq!(nginx.get("/quick").expect(200).text(), "quick");
}

/// A small file system that goes with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn new(directory: &Path) -> Option<Self> {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(directory).output();
        mount.is_ok_and(|done| done.status.success()).then(|| Self(directory.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn a_full_disk_is_no_end(engine: Engine) {
    let nginx = site(engine).http("wsgi_temp_path responses;").errors_expected().start();
    let directory = nginx.temporary_directory("responses");
    let Some(_mounted) = Mounted::new(&directory) else {
        eprintln!("skipped: only root can mount");
        return;
    };
    cannot_spill(engine, &nginx, &format!("in \"{}\": No space left on device", directory.display()));
}

fn nginx_makes_the_directory(engine: Engine) {
    if skip_in_process_group("a process group has a directory of its own, whatever wsgi_temp_path says") {
        return;
    }
    if !is_root() || !python_is_for_everybody() {
        eprintln!("skipped: only root changes owners");
        return;
    }
    let site = site(engine)
        .user("nobody nogroup")
        .http("wsgi_temp_path responses 1 2;")
        .location("/other/", "wsgi_temp_path @prefix@/others; wsgi_script_name /other; wsgi_pass app.py;");
    fs::write(site.prefix().join("events"), "").unwrap();
    fs::set_permissions(site.prefix().join("events"), fs::Permissions::from_mode(0o666)).unwrap();
    let nginx = site.start();
    for (number, (location, name)) in [("", "responses"), ("/other", "others")].into_iter().enumerate() {
        let directory = fs::metadata(nginx.prefix().join(name)).unwrap();
        assert!(directory.is_dir());
        // SAFETY: the name is a C string; the entry is read at once, and no other test changes the users.
        let user = unsafe { (*libc::getpwnam(c"nobody".as_ptr())).pw_uid };
        assert_eq!((directory.uid(), directory.mode() & 0o777), (user, 0o700));
        let mut conn = silent(&nginx, &format!("{location}/stream?size={}", 8 * MIB));
        wait_closed(&nginx, number + 1);
        assert_eq!(temporary_files(worker(&nginx), &nginx.prefix().join(name)).len(), 1);
        assert!(conn.response().expect(200).body == bytes(0, 8 * MIB));
    }
}

// ---- when it goes out -----------------------------------------------------------------------------------------------

/// Asserts that nothing of the body has come yet.
fn assert_nothing_comes(conn: &Conn) {
    conn.stream().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let error = conn.stream().peek(&mut [0]).expect_err("something came");
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    conn.stream().set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
}

/// The application waits for this; inline nothing else is served meanwhile.
fn go(nginx: &Nginx) {
    nginx.write("go", "");
}

fn no_go(nginx: &Nginx) {
    let _ = fs::remove_file(nginx.prefix().join("go"));
}

fn chunks_go_out_at_once(engine: Engine) {
    let nginx = site(engine).start();
    for path in ["/waiting", "/waiting?joins=no", "/waiting?length=6"] {
        no_go(&nginx);
        let mut conn = silent(&nginx, path);
        conn.read_until("one");
        go(&nginx);
        conn.read_until("two");
    }
}

fn chunks_are_joined_where_that_is_wanted(engine: Engine) {
    let nginx = site(engine).http("wsgi_output_buffering on; wsgi_output_buffer_size 1k;").start();
    let mut conn = silent(&nginx, "/waiting");
    assert_nothing_comes(&conn);
    go(&nginx);
    let response = conn.response().expect(200);
    assert_eq!(response.text(), "onetwo");
    if engine == Engine::Inline {
        // Data that is there when the event loop goes on is sent.
        return;
    }
    // One chunk of HTTP for as much as fits.
    let mut conn = silent(&nginx, "/stream?size=1024&piece=1");
    conn.read_until("\r\n\r\n400\r\n");
}

fn a_response_decides_for_itself(engine: Engine) {
    let nginx =
        site(engine).location("/on/", "wsgi_output_buffering on; wsgi_script_name /on; wsgi_pass app.py;").start();
    for (path, joins) in [
        ("/waiting?joins=yes", true),
        ("/waiting?joins=Yes", true),
        ("/waiting?joins=other", false),
        ("/on/waiting?joins=no", false),
        ("/on/waiting?joins=NO", false),
        ("/on/waiting?joins=other", true),
    ] {
        no_go(&nginx);
        let mut conn = silent(&nginx, path);
        if joins {
            assert_nothing_comes(&conn);
        } else {
            conn.read_until("one");
        }
        go(&nginx);
        conn.read_until("two");
    }
}

/// System calls of a process that write: to sockets, files, and to wake its event loop.
fn writes(process: Process) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/io", process.0)).unwrap();
    text.lines().find_map(|line| line.strip_prefix("syscw: ")).unwrap().parse().unwrap()
}

fn many_chunks_cost_few_system_calls(engine: Engine) {
    for joins in ["off", "on"] {
        let nginx = Site::new(engine).app(APP).http(&format!("wsgi_output_buffering {joins};")).start();
        nginx.get("/stream?size=100&piece=1").expect(200);
        let process = worker(&nginx);
        let before = writes(process);
        assert!(nginx.get("/stream?size=10000&piece=1").expect(200).body == bytes(0, 10_000));
        let count = writes(process) - before;
        println!("{engine:?}, wsgi_output_buffering {joins}: {count} writes for 10000 chunks");
        if joins == "on" {
            assert!(count < 50, "{count}");
        } else if engine == Engine::Threads {
            // Each wakes the event loop at most once, and what comes meanwhile leaves together.
            assert!(count < 20_000, "{count}");
        }
    }
}

fn written_data_goes_out_at_once(engine: Engine) {
    let nginx = site(engine).start();
    let mut conn = silent(&nginx, "/writing");
    conn.read_until("one");
    go(&nginx);
    conn.read_until("two");
    conn.read_until("three");
    conn.read_until("0\r\n\r\n");
}

fn written_data_is_joined_where_that_is_wanted(engine: Engine) {
    let nginx = site(engine).http("wsgi_write_buffering on; wsgi_write_buffer_size 1k;").start();
    let mut conn = silent(&nginx, "/writing?more=1000");
    assert_nothing_comes(&conn);
    go(&nginx);
    let response = conn.response().expect(200);
    assert_eq!(response.text(), format!("one{}twothree", "x".repeat(1000)));
    no_go(&nginx);
    // A full buffer is sent.
    let mut conn = silent(&nginx, "/writing?more=1021");
    conn.read_until(&format!("one{}", "x".repeat(1021)));
    go(&nginx);
    conn.read_until("twothree");
}

// ---- what is not sent -----------------------------------------------------------------------------------------------

fn an_unwanted_response_is_not_computed(engine: Engine) {
    if skip_in_process_group("nginx's proxy closes the connection once it has the headers of a response without a body")
    {
        return;
    }
    let since = "If-Modified-Since: Mon, 01 Jan 2024 00:00:00 GMT\r\n";
    for optimizes in [true, false] {
        let how = format!("wsgi_optimize_send_headers {};", if optimizes { "on" } else { "off" });
        for ranges in ["on", "off"] {
            let nginx = site(engine).http(&how).http(&format!("wsgi_allow_ranges {ranges};")).start();
            for (method, path, header, status, computes) in [
                ("HEAD", "/empty", "", 200, !optimizes),
                ("HEAD", "/empty?length=8", "", 200, !optimizes),
                ("GET", "/dated", since, 304, !optimizes),
                ("GET", "/dated?length=8", since, 304, !optimizes),
                ("HEAD", "/dated?length=8", since, 304, !optimizes),
                ("GET", "/dated?length=8", "", 200, true),
                ("GET", "/empty", "", 200, true),
                ("GET", "/empty?length=8", "Range: bytes=0-0,2-2\r\n", if ranges == "on" { 206 } else { 200 }, true),
                ("HEAD", "/begun", "", 200, !optimizes),
            ] {
                let _ = fs::remove_file(nginx.prefix().join("events"));
                let mut conn = nginx.connect();
                conn.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{header}\r\n"));
                let response = conn.response_to(method).expect(status);
                if status == 200 && method == "GET" {
                    assert_eq!(response.text(), "computed");
                }
                let wanted: &[&str] = if computes { &["computed", "closed"] } else { &["closed"] };
                nginx.wait_events(wanted);
                conn.send("GET /quick HTTP/1.1\r\nHost: a\r\n\r\n");
                assert_eq!(conn.response().expect(200).text(), "quick", "{method} {path}");
            }
            assert!(nginx.logged("[error]").is_empty(), "{}", nginx.error_log());
        }
    }
}

fn a_client_that_leaves_is_logged_once(engine: Engine) {
    let nginx = site(engine).http("wsgi_max_temp_file_size 1m;").start();
    for (number, path) in ["/stream?", "/stream?piece=1000&"].into_iter().enumerate() {
        for resets in [false, true] {
            let before = nginx.error_log().lines().count();
            let mut conn = silent(&nginx, &format!("{path}size={}", 1u64 << 33));
            conn.read_exactly(MIB);
            if resets {
                conn.reset()
            } else {
                drop(conn)
            }
            wait_closed(&nginx, 2 * number + usize::from(resets) + 1);
            wait_for("the access log", || {
                (nginx.read("logs/access.log").matches("200 GET /stream").count()
                    == 2 * number + usize::from(resets) + 1)
                    .then_some(())
            });
            let log = nginx.error_log();
            let said: Vec<&str> = log.lines().skip(before).collect();
            let words = ["closed connection", "reset by peer", "Broken pipe", "has left"];
            let about: Vec<_> = said.iter().filter(|line| words.iter().any(|word| line.contains(word))).collect();
            assert!(about.iter().all(|line| line.contains("[info]")), "{said:#?}");
            // In a process group by its own nginx as well.
            assert!(about.len() == 1 || uses_process_group() && !about.is_empty(), "{said:#?}");
        }
    }
}

#[test]
fn a_client_that_leaves_while_write_waits_is_an_error_there() {
    for resets in [false, true] {
        let nginx = site(Engine::Threads).http("wsgi_max_temp_file_size 0;").start();
        let conn = silent(&nginx, &format!("/write?size={}", 1u64 << 33));
        made_in_the_end(&nginx);
        if resets {
            conn.reset()
        } else {
            drop(conn)
        }
        nginx.wait_events(&["failed BrokenPipeError"]);
        assert!(nginx.logged("[error]").is_empty(), "{}", nginx.error_log());
    }
}

// ---- the end of a worker --------------------------------------------------------------------------------------------

fn a_complete_response_survives_its_worker(engine: Engine) {
    let nginx = site(engine).http("wsgi_shutdown_timeout 1s;").start();
    let mut conn = silent(&nginx, &format!("/stream?size={}", 8 * MIB));
    wait_closed(&nginx, 1);
    let old = worker(&nginx);
    nginx.reload();
    // The call is over, so this is nginx's own to send.
    std::thread::sleep(Duration::from_millis(1500));
    assert!(old.is_alive());
    assert!(conn.response().expect(200).body == bytes(0, 8 * MIB));
    old.wait_gone();
    assert!(nginx.logged("exceeded").is_empty());
}

fn a_response_that_is_under_way_is_aborted_in_time(engine: Engine) {
    let site = site(engine).http("wsgi_shutdown_timeout 5s; wsgi_max_temp_file_size 0;");
    // For nginx's proxy that is an error of the process group.
    let nginx = if uses_process_group() { site.errors_expected() } else { site }.start();
    let mut taken = silent(&nginx, &format!("/stream?size={}", 2 * MIB));
    // Its close() takes part of the time that is left for it.
    let mut stalled = silent(&nginx, &format!("/stream?closing=0.2&size={}", 2 * MIB));
    made_in_the_end(&nginx);
    let old = worker(&nginx);
    nginx.reload();
    assert!(taken.response().expect(200).body == bytes(0, 2 * MIB));
    old.wait_gone();
    wait_closed(&nginx, 2);
    let response = stalled.response().expect(200);
    assert_eq!(response.framing, Framing::Cut);
    assert!(response.body[..] == bytes(0, 2 * MIB)[..response.body.len()]);
}
