//! Limits of a call: how many may wait, how long one may wait and run, and what happens to one that does not end.

use crate::harness::{
    Conn, Engine, Framing, Load, Nginx, Process, Response, Site, both_engines, skip_in_process_group, wait_for,
};
use std::time::{Duration, Instant};

both_engines!(
    an_exception_ends_a_call_that_is_out_of_time,
    a_call_that_catches_its_timeout_is_still_late,
    close_runs_after_a_timeout,
    a_response_that_has_begun_is_cut_by_a_timeout,
    a_complete_response_is_not_cut_for_a_late_close,
    the_time_that_a_client_takes_does_not_count,
    the_next_call_is_not_affected_by_a_timeout,
    a_timeout_is_logged_once_with_its_stack,
    a_slow_call_is_logged_once_while_it_runs,
    a_fast_call_is_not_slow,
    a_location_has_limits_of_its_own,
);

/// Responds with "fine" after the steps that the path names.
const APP: &str = r#"
import ctypes
import os
import threading
import time

def gate(name):
    while not os.path.exists("@prefix@/" + name):
        time.sleep(0.005)

def spin():
    while True:
        pass

class Body:
    def __init__(self, run):
        self.items = run()
    def __iter__(self):
        return self
    def __next__(self):
        return next(self.items)
    def close(self):
        event("closed")

def fine(environ):
    return [b"fine"]

def names(environ):
    return [" ".join(sorted(thread.name for thread in threading.enumerate())).encode()]

def wait(environ):
    event(environ["QUERY_STRING"])
    gate("open")
    return [b"fine"]

def loop(environ):
    try:
        spin()
    except BaseException as error:
        event(type(error).__module__ + "." + type(error).__name__)
        raise
    finally:
        event("finally")

def caught(environ):
    try:
        spin()
    except BaseException:
        event("caught")
    return [b"too late"]

def generator(environ):
    def items():
        try:
            spin()
            yield b"never"
        finally:
            event("finally")
    return Body(items)

def begun(environ):
    def items():
        yield b"begun"
        spin()
    return Body(items)

def late(environ):
    class Late:
        def __iter__(self):
            return iter([b"complete"])
        def close(self):
            try:
                spin()
            finally:
                event("closed")
    return Late()

def sleep(environ):
    event("stuck")
    time.sleep(float(environ["QUERY_STRING"]))
    event("returned")
    return [b"fine"]

def keep_gil(environ):
    event("stuck")
    ctypes.PyDLL(None).usleep(int(float(environ["QUERY_STRING"]) * 1000000))
    event("returned")
    return [b"fine"]

def large(environ):
    return iter([b"x" * 65536] * 320)

def read(environ):
    event("reads")
    return [environ["wsgi.input"].read()]

def file(environ):
    class Noted:
        def __init__(self, file):
            self.fileno, self.read = file.fileno, file.read
        def close(self):
            event("closed")
    return environ["wsgi.file_wrapper"](Noted(open("@prefix@/large", "rb")))

def ident(environ):
    return [str(threading.get_ident()).encode()]

def pid(environ):
    return [str(os.getpid()).encode()]

def application(environ, start_response):
    name = environ["PATH_INFO"].split("/")[-1]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return globals()[name](environ)

@event@
"#;

/// Calls of `/limited/` have this limit, all others none.
fn limited(engine: Engine, limit: &str) -> Site {
    let pass = "wsgi_pass app.py;";
    Site::new(engine)
        .file("app.py", APP)
        .location("/", pass)
        .location("/limited/", &format!("{pass} {limit}"))
        .errors_expected()
}

/// One pool thread, and these directives for everything.
fn one_thread(directives: &str) -> Site {
    let site = Site::plain().file("app.py", APP).http("wsgi_threads 1;").http(directives);
    site.location("/", "wsgi_pass app.py;").location("= /status", "stub_status;").errors_expected()
}

/// Waits until nginx is busy with so many requests.
#[track_caller]
fn wait_under_way(nginx: &Nginx, count: usize) {
    wait_for(&format!("{count} requests"), || {
        // The question is one, too.
        nginx.get("/status").text().contains(&format!("Writing: {} ", count + 1)).then_some(())
    });
}

/// Runs it, and waits until its application is there.
fn warm(site: Site) -> Nginx {
    let nginx = site.start();
    wait_for("the application", || (nginx.get("/fine").status == 200).then_some(()));
    nginx
}

/// The milliseconds of a line that says how long a call has run.
#[track_caller]
fn milliseconds(line: &str) -> u64 {
    let (_, rest) = line.split_once(": running for ").unwrap_or_else(|| panic!("{line}"));
    rest.split_once(" ms on thread ").and_then(|(number, _)| number.parse().ok()).unwrap_or_else(|| panic!("{line}"))
}

fn ask(nginx: &Nginx, path: &str) -> Conn {
    let mut conn = nginx.connect();
    conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    conn
}

/// Opens the gate that `/wait` waits for.
fn open_gate(nginx: &Nginx) {
    nginx.write("open", "");
}

/// The response and how long it took.
fn timed(nginx: &Nginx, path: &str) -> (Response, Duration) {
    let start = Instant::now();
    let response = nginx.get(path);
    (response, start.elapsed())
}

// ---- the queue ------------------------------------------------------------------------------------------------------

#[track_caller]
fn assert_refused(response: &Response) {
    assert_eq!((response.status, response.header("Retry-After")), (503, Some("1")));
}

#[test]
fn a_call_past_the_queue_is_refused_at_once() {
    let nginx = one_thread("wsgi_queue 2;").start();
    let mut running = ask(&nginx, "/wait?running");
    nginx.wait_events(&["running"]);
    let mut queued: Vec<Conn> = (0..2).map(|_| ask(&nginx, "/wait?queued")).collect();
    // The gate is closed, so a call that waited would not end.
    assert_refused(&nginx.get("/wait?refused"));
    nginx.wait_log("too many requests wait");
    open_gate(&nginx);
    running.response().expect(200);
    for conn in &mut queued {
        conn.response().expect(200);
    }
    assert_eq!(nginx.events(), ["running", "queued", "queued"]);
    nginx.get("/fine").expect(200);
}

#[test]
fn with_a_queue_of_none_only_a_free_thread_takes_a_call() {
    let nginx = one_thread("wsgi_queue 0;").start();
    for _ in 0..20 {
        nginx.get("/fine").expect(200);
    }
    let mut running = ask(&nginx, "/wait?running");
    nginx.wait_events(&["running"]);
    assert_refused(&nginx.get("/fine"));
    open_gate(&nginx);
    running.response().expect(200);
}

#[test]
fn a_client_that_leaves_the_queue_gives_its_place_back() {
    let nginx = one_thread("wsgi_queue 1;").start();
    let mut running = ask(&nginx, "/wait?running");
    nginx.wait_events(&["running"]);
    for _ in 0..3 {
        let leaver = ask(&nginx, "/wait?left");
        wait_under_way(&nginx, 2);
        assert_refused(&nginx.get("/wait?refused"));
        drop(leaver);
        wait_under_way(&nginx, 1);
    }
    let mut last = ask(&nginx, "/wait?last");
    wait_under_way(&nginx, 2);
    assert_refused(&nginx.get("/wait?refused"));
    open_gate(&nginx);
    running.response().expect(200);
    last.response().expect(200);
    assert_eq!(nginx.events(), ["running", "last"]);
}

/// An application that takes its time to be imported.
const SLOW_IMPORT: &str = r#"
import os, time

while not os.path.exists("@prefix@/open"):
    time.sleep(0.005)

def application(environ, start_response):
    with open("@prefix@/events", "a") as events:
        events.write(environ["QUERY_STRING"] + "\n")
    start_response("200 OK", [])
    return [b"fine"]
"#;

fn slow_import(directives: &str) -> Nginx {
    let site = Site::plain().app(SLOW_IMPORT).http("wsgi_threads 1;").http(directives);
    site.location("= /status", "stub_status;").errors_expected().start()
}

#[test]
fn calls_that_wait_for_an_import_are_in_the_queue() {
    let nginx = slow_import("wsgi_queue 1;");
    // One for the thread that is to come, one in the queue.
    let mut stays = ask(&nginx, "/?stays");
    let leaver = ask(&nginx, "/?left");
    wait_under_way(&nginx, 2);
    assert_refused(&nginx.get("/?refused"));
    drop(leaver);
    wait_under_way(&nginx, 1);
    let mut second = ask(&nginx, "/?second");
    wait_under_way(&nginx, 2);
    open_gate(&nginx);
    stays.response().expect(200);
    second.response().expect(200);
    assert_eq!(nginx.events(), ["stays", "second"]);
}

#[test]
fn a_call_that_waited_too_long_never_starts() {
    let nginx = warm(one_thread("wsgi_queue_timeout 300ms;"));
    let mut running = ask(&nginx, "/wait?running");
    nginx.wait_events(&["running"]);
    let (late, took) = timed(&nginx, "/wait?late");
    assert_refused(&late);
    assert!(took >= Duration::from_millis(290), "{took:?}");
    let line = nginx.wait_log("GET /wait?late");
    assert!(line.contains("was not called within wsgi_queue_timeout"), "{line}");
    open_gate(&nginx);
    // The one that runs has no such limit.
    running.response().expect(200);
    nginx.get("/fine").expect(200);
    assert_eq!(nginx.events(), ["running"]);
}

#[test]
fn a_call_that_waited_too_long_for_an_import_never_starts() {
    let nginx = slow_import("wsgi_queue_timeout 300ms;");
    let (late, took) = timed(&nginx, "/?late");
    assert_refused(&late);
    assert!(took >= Duration::from_millis(290), "{took:?}");
    open_gate(&nginx);
    wait_for("the application", || (nginx.get("/?early").status == 200).then_some(()));
    assert!(!nginx.events().contains(&"late".to_owned()), "{:?}", nginx.events());
}

// ---- the time of a call ---------------------------------------------------------------------------------------------

/// Sends a request whose call ends far later than the limit of 300 ms, or never: 504 comes before its end.
#[track_caller]
fn assert_504_in_time(nginx: &Nginx, path: &str) {
    let (response, took) = timed(nginx, path);
    assert_eq!(response.status, 504, "{}", response.text());
    assert!(took >= Duration::from_millis(290), "{path}: {took:?}");
    assert!(!nginx.events().contains(&"returned".to_owned()), "{path}: the call has ended");
}

const LIMIT: &str = "wsgi_request_timeout 300ms;";

#[test]
fn a_504_comes_at_the_moment_whatever_the_call_does() {
    for path in ["/limited/loop", "/limited/sleep?30", "/limited/keep_gil?3"] {
        let nginx = limited(Engine::Threads, LIMIT).location("= /static", "return 200;").start();
        nginx.get("/fine").expect(200);
        assert_504_in_time(&nginx, path);
        nginx.get("/static").expect(200);
    }
}

fn an_exception_ends_a_call_that_is_out_of_time(engine: Engine) {
    let nginx = warm(limited(engine, LIMIT));
    assert_504_in_time(&nginx, "/limited/loop");
    nginx.wait_events(&["ngx_wsgi.RequestTimeout", "finally"]);
    nginx.get("/fine").expect(200);
}

fn a_call_that_catches_its_timeout_is_still_late(engine: Engine) {
    let nginx = warm(limited(engine, LIMIT));
    assert_504_in_time(&nginx, "/limited/caught");
    nginx.wait_events(&["caught"]);
    nginx.get("/fine").expect(200);
}

fn close_runs_after_a_timeout(engine: Engine) {
    let nginx = warm(limited(engine, LIMIT));
    assert_504_in_time(&nginx, "/limited/generator");
    nginx.wait_events(&["finally", "closed"]);
    nginx.get("/fine").expect(200);
}

fn a_response_that_has_begun_is_cut_by_a_timeout(engine: Engine) {
    let nginx = warm(limited(engine, LIMIT));
    let mut conn = ask(&nginx, "/limited/begun");
    let response = conn.response().expect(200);
    assert_eq!((response.text().as_str(), response.framing), ("begun", Framing::Cut));
    conn.assert_closed();
    nginx.wait_events(&["closed"]);
}

fn a_complete_response_is_not_cut_for_a_late_close(engine: Engine) {
    let nginx = warm(limited(engine, LIMIT));
    let mut conn = ask(&nginx, "/limited/late");
    let response = conn.response().expect(200);
    assert_eq!((response.text().as_str(), response.framing), ("complete", Framing::Chunked));
    nginx.wait_events(&["closed"]);
    // The connection is kept.
    conn.send("GET /fine HTTP/1.1\r\nHost: a\r\n\r\n");
    conn.response().expect(200);
}

fn the_time_that_a_client_takes_does_not_count(engine: Engine) {
    // With no temporary file the call waits for its client.
    let limits = "wsgi_request_timeout 700ms; wsgi_slow_request 600ms; wsgi_max_temp_file_size 0;";
    let nginx = warm(limited(engine, limits));
    let mut conn = ask(&nginx, "/limited/large");
    let begin = conn.read_until("\r\n\r\n");
    assert!(begin.starts_with(b"HTTP/1.1 200"));
    // This is what is tested: a client that does nothing for longer than the limit.
    std::thread::sleep(Duration::from_millis(1200));
    let mut left = 320 * 65536;
    while left > 0 {
        let size = conn.read_until("\r\n");
        let size = usize::from_str_radix(String::from_utf8_lossy(&size).trim(), 16).unwrap();
        assert!(size > 0, "{left} bytes are missing");
        conn.read_exactly(size + 2);
        left -= size;
    }
    assert_eq!(conn.read_exactly(5), b"0\r\n\r\n");
    assert_eq!(nginx.logged("wsgi_slow_request"), Vec::<String>::new());
}

#[test]
fn the_time_that_a_client_takes_to_send_its_body_does_not_count() {
    let limits = "wsgi_request_timeout 500ms; wsgi_request_buffering off;";
    let nginx = warm(limited(Engine::Threads, limits));
    let mut conn = nginx.connect();
    conn.send("POST /limited/read HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf");
    nginx.wait_events(&["reads"]);
    // This is what is tested: a client that does nothing for longer than the limit.
    std::thread::sleep(Duration::from_millis(1000));
    conn.send("half");
    assert_eq!(conn.response().expect(200).text(), "halfhalf");
}

#[test]
fn the_time_in_which_a_file_is_sent_does_not_count() {
    let limits = "wsgi_request_timeout 500ms;";
    let nginx = warm(limited(Engine::Threads, limits).file("large", &"x".repeat(20 << 20)));
    let mut conn = ask(&nginx, "/limited/file");
    assert!(conn.read_until("\r\n\r\n").starts_with(b"HTTP/1.1 200"));
    std::thread::sleep(Duration::from_millis(1000));
    // nginx is still at it, and no thread waits.
    assert_eq!(nginx.events(), Vec::<String>::new());
    assert!(conn.read_exactly(20 << 20).len() == 20 << 20);
    // It is closed by a call that is not out of time.
    nginx.wait_events(&["closed"]);
    nginx.get("/fine").expect(200);
    assert_eq!(nginx.logged("wsgi_request_timeout"), Vec::<String>::new());
}

/// Calls that take about as long as they may: whatever is raised too late must not come up in the next call, which has no
/// limit and comes at once.
fn the_next_call_is_not_affected_by_a_timeout(engine: Engine) {
    let source = r#"
import random, time

def application(environ, start_response):
    start_response("200 OK", [])
    if environ["REQUEST_URI"] == "/limited/":
        end = time.monotonic() + random.uniform(0.01, 0.03)
        while time.monotonic() < end:
            pass
    else:
        for _ in range(20):
            sum(range(1000))
    return [b"fine"]
"#;
    let pass = "wsgi_pass app.py;";
    let mut site = Site::plain().file("app.py", source).location("/", pass).errors_expected();
    site = site.location("/limited/", &format!("{pass} wsgi_request_timeout 20ms;"));
    let threads = if engine == Engine::Threads { "wsgi_threads 1;" } else { engine.directive() };
    let nginx = site.http(threads).http("keepalive_requests 100000;").start();
    nginx.get("/").expect(200);
    let load = Load::start(&nginx, "/limited/", 2);
    let mut conn = nginx.connect();
    let mut count = 0;
    let start = Instant::now();
    while count < 100 || start.elapsed() < Duration::from_secs(4) {
        conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        conn.response().expect(200);
        count += 1;
    }
    let stats = load.stop();
    // Both came.
    assert!(stats.good > 10, "{stats:?}");
    assert!(stats.bad.len() > 10 && stats.bad.iter().all(|bad| bad == "status 504"), "{stats:?}");
    assert_eq!(nginx.logged("raised "), Vec::<String>::new());
    assert_eq!(nginx.logged("internal error"), Vec::<String>::new());
}

/// The line of `spin` that a thread is in.
fn spinning() -> [String; 2] {
    let line = APP.lines().position(|line| line == "    while True:").unwrap() + 1;
    [line, line + 1].map(|line| format!("/app.py\", line {line}, in spin"))
}

fn a_timeout_is_logged_once_with_its_stack(engine: Engine) {
    let nginx = warm(limited(engine, LIMIT));
    assert_504_in_time(&nginx, "/limited/loop");
    let thread = if engine == Engine::Threads { "wsgi-" } else { "main" };
    let line = nginx.wait_log("/app.py\" exceeded wsgi_request_timeout: running for");
    assert!(milliseconds(&line) >= 300 && line.contains(&format!("on thread {thread}")), "{line}");
    wait_for("the stack", || {
        let log = nginx.error_log();
        spinning().iter().any(|place| log.contains(place.as_str())).then_some(())
    });
    nginx.wait_events(&["ngx_wsgi.RequestTimeout", "finally"]);
    nginx.get("/fine").expect(200);
    // That is all: the exception is no news.
    assert_eq!(nginx.logged("exceeded wsgi_request_timeout").len(), 1);
    assert_eq!(nginx.logged("in spin").len(), 1);
    assert_eq!(nginx.logged("Traceback"), Vec::<String>::new());
    if engine == Engine::Threads {
        assert!(line.contains("request: \"GET /limited/loop HTTP/1.1\""), "{line}");
    }
}

#[test]
fn the_stack_of_a_call_in_c_names_its_line() {
    let nginx = warm(limited(Engine::Threads, LIMIT));
    assert_504_in_time(&nginx, "/limited/sleep?2");
    let line = APP.lines().position(|line| line.contains("time.sleep(float")).unwrap() + 1;
    nginx.wait_log(&format!("/app.py\", line {line}, in sleep"));
    nginx.wait_log("time.sleep(float(");
}

#[test]
fn a_thread_that_comes_back_keeps_serving() {
    let nginx = Site::plain()
        .file("app.py", APP)
        .http("wsgi_threads 1;")
        .location("/", "wsgi_pass app.py;")
        .location("/limited/", &format!("wsgi_pass app.py; {LIMIT}"))
        .errors_expected()
        .start();
    let first = nginx.get("/ident").expect(200).text();
    let names = nginx.get("/names").expect(200).text();
    let worker = Process(nginx.application_workers()[0]);
    let threads = worker.threads();
    for _ in 0..5 {
        assert_504_in_time(&nginx, "/limited/loop");
        nginx.get("/fine").expect(200);
    }
    wait_for("the first thread to serve", || (nginx.get("/ident").expect(200).text() == first).then_some(()));
    // Its replacement threads have exited; the stack dump thread stays.
    wait_for("the replacement threads to exit", || (worker.threads() <= threads + 1).then_some(()));
    assert_eq!(nginx.get("/names").expect(200).text(), names);
    assert_eq!(nginx.application_workers(), [worker.0]);
}

#[test]
fn a_fresh_thread_serves_while_one_is_stuck_in_c() {
    let nginx = Site::plain()
        .file("app.py", APP)
        .http("wsgi_threads 1;")
        .location("/", "wsgi_pass app.py;")
        .location("/limited/", &format!("wsgi_pass app.py; {LIMIT}"))
        .errors_expected()
        .start();
    let pid = nginx.get("/pid").expect(200).text();
    assert_504_in_time(&nginx, "/limited/sleep?20");
    // Long before the thread comes back, and before the worker is recycled for it.
    assert_eq!(nginx.get("/pid").expect(200).text(), pid);
    let mut running = ask(&nginx, "/wait?running");
    nginx.wait_events(&["stuck", "running"]);
    nginx.wait_log("worker shutting down gracefully: 1 threads still stuck in timed-out calls");
    // Not as long as it has a call.
    open_gate(&nginx);
    running.response().expect(200);
    Process(pid.parse().unwrap()).wait_gone();
    nginx.wait_log(&format!("worker process {pid} exited with code 0"));
    let other = wait_for("another worker", || nginx.workers().first().copied());
    assert_ne!(other.to_string(), pid);
    nginx.get("/fine").expect(200);
}

#[test]
fn a_worker_whose_gil_is_held_is_recycled_too() {
    let nginx = limited(Engine::Threads, LIMIT).http("wsgi_shutdown_timeout 1s;").start();
    let pid = nginx.get("/pid").expect(200).text();
    assert_504_in_time(&nginx, "/limited/keep_gil?60");
    Process(pid.parse().unwrap()).wait_gone();
    nginx.wait_log("still stuck in timed-out calls");
    nginx.get("/fine").expect(200);
}

fn a_slow_call_is_logged_once_while_it_runs(engine: Engine) {
    let nginx = limited(engine, "wsgi_slow_request 200ms;").start();
    let mut conn = ask(&nginx, "/limited/wait?waiting");
    nginx.wait_events(&["waiting"]);
    let line = nginx.wait_log("exceeded wsgi_slow_request");
    assert!(milliseconds(&line) >= 200, "{line}");
    nginx.wait_log("in gate");
    // Long enough for another one.
    std::thread::sleep(Duration::from_millis(600));
    open_gate(&nginx);
    assert_eq!(conn.response().expect(200).text(), "fine");
    assert_eq!(nginx.logged("exceeded wsgi_slow_request").len(), 1);
    if engine == Engine::Threads {
        assert!(line.contains("request: \"GET /limited/wait?waiting HTTP/1.1\""), "{line}");
    }
}

fn a_fast_call_is_not_slow(engine: Engine) {
    let nginx = limited(engine, "wsgi_slow_request 1s; wsgi_request_timeout 2s;").start();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1500) {
        nginx.get("/limited/fine").expect(200);
    }
    assert_eq!(nginx.logged("wsgi_slow_request"), Vec::<String>::new());
}

fn a_location_has_limits_of_its_own(engine: Engine) {
    let pass = "wsgi_pass app.py;";
    let nginx = Site::new(engine)
        .file("app.py", APP)
        .http("wsgi_request_timeout 300ms;")
        .location("/", pass)
        .location("/free/", &format!("{pass} wsgi_request_timeout 0;"))
        .errors_expected()
        .start();
    nginx.get("/free/sleep?0.6").expect(200);
    nginx.get("/sleep?0.6").expect(504);
}

#[test]
fn a_call_in_c_on_the_event_loop_is_late_when_it_ends() {
    for path in ["/limited/sleep?0.8", "/limited/keep_gil?0.8"] {
        let nginx = warm(limited(Engine::Inline, LIMIT));
        let (response, took) = timed(&nginx, path);
        assert_eq!(response.status, 504);
        assert!(took >= Duration::from_millis(800), "{took:?}");
        nginx.get("/fine").expect(200);
    }
}

// ---- the end of a worker --------------------------------------------------------------------------------------------

/// A worker with a call that takes a minute is told to quit, and ends without it.
fn end_stuck_worker(path: &str, directives: &str) {
    let mut nginx = one_thread("wsgi_shutdown_timeout 1s;").main(directives).start();
    nginx.get("/fine").expect(200);
    let _stuck = ask(&nginx, path);
    nginx.wait_events(&["stuck"]);
    nginx.stop_by(libc::SIGQUIT);
    assert_eq!(nginx.exit_code(), Some(0));
}

#[test]
fn a_stuck_worker_ends_in_time() {
    if skip_in_process_group("nginx's proxy waits for the response of the call, for proxy_read_timeout") {
        return;
    }
    for path in ["/sleep?60", "/keep_gil?60"] {
        for directives in ["", "worker_shutdown_timeout 500ms;", "worker_shutdown_timeout 5s;"] {
            end_stuck_worker(path, directives);
        }
    }
}
