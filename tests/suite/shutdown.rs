//! The end of a worker: running calls, callbacks, threads that do not end, and how long all of it takes.

use crate::harness::{Conn, Engine, Framing, Nginx, PATIENCE, PYTHON, Process, Site, both_engines, wait_for};
use std::process::Command;
use std::time::{Duration, Instant};

both_engines!(
    a_running_call_completes_on_quit,
    a_stream_completes_on_quit,
    a_running_call_completes_on_reload,
    an_idle_worker_quits_at_once,
    an_idle_worker_uses_no_processor_time,
    callbacks_and_atexit_run_once_on_quit,
    callbacks_and_atexit_run_once_on_stop,
    callbacks_and_atexit_run_once_on_reload,
    callbacks_and_atexit_run_without_a_request,
    a_failing_callback_does_not_stop_the_others,
    a_callback_that_blocks_is_aborted,
    an_atexit_handler_that_blocks_is_aborted,
    a_daemon_thread_does_not_delay_the_end,
    an_idle_executor_does_not_delay_the_end,
    a_thread_that_ends_is_waited_for,
    a_job_of_an_executor_is_waited_for,
    an_endless_thread_is_aborted,
    an_endless_job_of_an_executor_is_aborted,
    a_busy_thread_does_not_crash_a_reload,
    threads_have_all_their_memory_to_the_end,
    a_client_that_does_not_read_is_aborted,
);

/// The first lines of each application here.
const EVENTS: &str = r#"
import atexit
import threading
import time

@event@
"#;

/// An application of this source; `application` says "fine" unless the source defines it.
fn site(engine: Engine, source: &str) -> Site {
    let source = format!(
        "{EVENTS}
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'fine']
{source}"
    );
    Site::new(engine).app(&source).errors_expected()
}

/// An application that has been called once. A worker that waits for the end of its time limit does not end in this test.
fn running(engine: Engine, source: &str) -> Nginx {
    running_with(engine, source, "wsgi_shutdown_timeout 1h;")
}

fn running_with(engine: Engine, source: &str, directives: &str) -> Nginx {
    let nginx = site(engine, source).http(directives).start();
    nginx.get("/").expect(200);
    nginx
}

/// Ends it. Every process must have ended by itself and without complaint.
#[track_caller]
fn end(nginx: &mut Nginx, signal: i32) {
    let log = nginx.stop_by(signal);
    assert_eq!(nginx.exit_code(), Some(0), "the master's exit code");
    for line in log.lines() {
        assert!(!line.contains("exited on signal"), "{line}");
        assert!(!line.contains("exited with code") || line.ends_with("exited with code 0"), "{line}");
        assert!(!line.contains("[alert]"), "{line}");
    }
}

const SLOW: &str = r#"
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "8")])
    event("started")
    time.sleep(0.7)
    event("slept")
    return [b"complete"]
"#;

/// Asks, waits until the application is in the middle of it.
fn asked(nginx: &Nginx) -> Conn {
    let mut conn = nginx.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    nginx.wait_events(&["started"]);
    conn
}

fn a_running_call_completes_on_quit(engine: Engine) {
    let mut nginx = site(engine, SLOW).start();
    let mut conn = asked(&nginx);
    let reader = std::thread::spawn(move || conn.response());
    end(&mut nginx, libc::SIGQUIT);
    let response = reader.join().unwrap().expect(200);
    assert_eq!((response.text().as_str(), response.framing), ("complete", Framing::Length));
    assert_eq!(nginx.events(), ["started", "slept"]);
}

fn a_stream_completes_on_quit(engine: Engine) {
    let source = r#"
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    def stream():
        try:
            yield b"a" * 100
            event("started")
            for i in range(10):
                time.sleep(0.1)
                yield b"b" * 100
        finally:
            event("closed")
    return stream()
"#;
    let mut nginx = site(engine, source).start();
    let mut conn = asked(&nginx);
    let reader = std::thread::spawn(move || conn.response());
    end(&mut nginx, libc::SIGQUIT);
    let response = reader.join().unwrap().expect(200);
    assert_eq!((response.body.len(), response.framing), (1100, Framing::Chunked));
    assert_eq!(nginx.events(), ["started", "closed"]);
}

fn a_running_call_completes_on_reload(engine: Engine) {
    let nginx = site(engine, SLOW).start();
    let old = nginx.workers()[0];
    let mut conn = asked(&nginx);
    let reader = std::thread::spawn(move || conn.response());
    nginx.reload();
    let response = reader.join().unwrap().expect(200);
    assert_eq!((response.text().as_str(), response.framing), ("complete", Framing::Length));
    Process(old).wait_gone();
    nginx.wait_log(&format!("worker process {old} exited with code 0"));
}

#[test]
fn calls_that_wait_for_a_thread_complete_on_quit() {
    let source = format!("{EVENTS}{SLOW}");
    let mut nginx = Site::plain().http("wsgi_threads 1;").app(&source).start();
    let mut conns: Vec<Conn> = (0..3).map(|_| nginx.connect()).collect();
    for conn in &mut conns {
        conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    // On another connection, accepted after them: all three have been read.
    nginx.wait_events(&["started"]);
    nginx.get("/nothing-here").expect(200);
    let readers: Vec<_> = conns.into_iter().map(|mut conn| std::thread::spawn(move || conn.response())).collect();
    end(&mut nginx, libc::SIGQUIT);
    for reader in readers {
        assert_eq!(reader.join().unwrap().expect(200).text(), "complete");
    }
}

/// The best of five is compared with the time that Python takes to start and end, as the machine may be busy.
fn an_idle_worker_quits_at_once(engine: Engine) {
    let nginx = running(engine, "");
    let (mut quit, mut python) = (Duration::MAX, Duration::MAX);
    for _ in 0..5 {
        let worker = Process(nginx.workers()[0]);
        let start = Instant::now();
        worker.signal(libc::SIGQUIT);
        while worker.is_alive() {
            assert!(start.elapsed() < PATIENCE, "an idle worker is still there");
            std::thread::sleep(Duration::from_millis(1));
        }
        quit = quit.min(start.elapsed());
        let start = Instant::now();
        assert!(Command::new(PYTHON).args(["-I", "-c", "import asyncio"]).status().unwrap().success());
        python = python.min(start.elapsed());
        wait_for("another worker", || (nginx.workers().len() == 1).then_some(()));
        nginx.get("/").expect(200);
    }
    assert!(quit < 2 * python, "an idle worker took {quit:?} to quit, Python {python:?} to run");
}

fn an_idle_worker_uses_no_processor_time(engine: Engine) {
    let nginx = running(engine, "");
    let worker = Process(nginx.workers()[0]);
    std::thread::sleep(Duration::from_millis(100));
    let before = worker.cpu();
    std::thread::sleep(Duration::from_millis(500));
    let used = worker.cpu() - before;
    assert!(used <= Duration::from_millis(50), "{used:?} in half a second of nothing");
}

const CALLBACKS: &str = r#"
import ngx_wsgi

@ngx_wsgi.on_shutdown
def bye():
    main = threading.current_thread() is threading.main_thread()
    event(f"on_shutdown on main thread: {main}")

assert callable(bye)
atexit.register(event, "atexit")
"#;
const RAN: [&str; 2] = ["on_shutdown on main thread: True", "atexit"];

fn callbacks_and_atexit_run_once_on_quit(engine: Engine) {
    let mut nginx = running(engine, CALLBACKS);
    end(&mut nginx, libc::SIGQUIT);
    assert_eq!(nginx.events(), RAN);
}

fn callbacks_and_atexit_run_once_on_stop(engine: Engine) {
    let mut nginx = running(engine, CALLBACKS);
    end(&mut nginx, libc::SIGTERM);
    assert_eq!(nginx.events(), RAN);
}

fn callbacks_and_atexit_run_once_on_reload(engine: Engine) {
    let mut nginx = running(engine, CALLBACKS);
    nginx.reload();
    nginx.wait_events(&RAN);
    nginx.get("/").expect(200);
    end(&mut nginx, libc::SIGQUIT);
    assert_eq!(nginx.events(), [RAN, RAN].concat());
}

fn callbacks_and_atexit_run_without_a_request(engine: Engine) {
    let mut nginx = site(engine, &format!("{CALLBACKS}\nevent('imported')")).start();
    nginx.wait_events(&["imported"]);
    end(&mut nginx, libc::SIGQUIT);
    assert_eq!(nginx.events()[1..], RAN);
}

fn a_failing_callback_does_not_stop_the_others(engine: Engine) {
    let source = r#"
import ngx_wsgi

def wrong():
    raise SystemExit("a wrong callback")

def wrong_too():
    raise ValueError("a wrong handler")

ngx_wsgi.on_shutdown(lambda: event("on_shutdown"))
ngx_wsgi.on_shutdown(wrong)
ngx_wsgi.on_shutdown(lambda: event("on_shutdown"))
atexit.register(event, "atexit")
atexit.register(wrong_too)
atexit.register(event, "atexit")
"#;
    let mut nginx = running(engine, source);
    end(&mut nginx, libc::SIGQUIT);
    assert_eq!(nginx.events(), ["on_shutdown", "on_shutdown", "atexit", "atexit"]);
    let log = nginx.error_log();
    assert!(log.contains("a wrong callback") && log.contains("a wrong handler"), "{log}");
}

/// For what would never end without a limit.
const LIMITED: &str = "wsgi_shutdown_timeout 1s;";

fn a_callback_that_blocks_is_aborted(engine: Engine) {
    let source = r#"
import ngx_wsgi
atexit.register(event, "atexit")

@ngx_wsgi.on_shutdown
def block():
    event("blocks")
    time.sleep(1000)
"#;
    let mut nginx = running_with(engine, source, LIMITED);
    end(&mut nginx, libc::SIGQUIT);
    assert_eq!(nginx.events()[0], "blocks");
}

fn an_atexit_handler_that_blocks_is_aborted(engine: Engine) {
    let mut nginx = running_with(engine, "atexit.register(lambda: threading.Event().wait())", LIMITED);
    end(&mut nginx, libc::SIGQUIT);
}

fn a_daemon_thread_does_not_delay_the_end(engine: Engine) {
    let source = r#"
atexit.register(event, "atexit")
def work():
    while True:
        time.sleep(0.001)
threading.Thread(target=work, daemon=True).start()
"#;
    let mut nginx = running(engine, source);
    end(&mut nginx, libc::SIGQUIT);
    assert_eq!(nginx.events(), ["atexit"]);
}

fn an_idle_executor_does_not_delay_the_end(engine: Engine) {
    let source = r#"
from concurrent.futures import ThreadPoolExecutor
atexit.register(event, "atexit")
executor = ThreadPoolExecutor(4)
def application(environ, start_response):
    start_response("200 OK", [])
    return list(executor.map(lambda part: part, [b"o", b"k"]))
"#;
    let mut nginx = running(engine, source);
    end(&mut nginx, libc::SIGQUIT);
    assert_eq!(nginx.events(), ["atexit"]);
}

/// The worker ends when its threads have ended.
#[track_caller]
fn assert_threads_end(engine: Engine, source: &str, events: &[&str]) {
    let mut nginx = running(engine, source);
    end(&mut nginx, libc::SIGQUIT);
    assert_eq!(nginx.events(), events);
}

fn a_thread_that_ends_is_waited_for(engine: Engine) {
    let source = r#"
atexit.register(event, "atexit")
def work():
    event("begins")
    time.sleep(0.4)
    event("ends")
def application(environ, start_response):
    threading.Thread(target=work).start()
    start_response("200 OK", [])
    return [b"ok"]
"#;
    assert_threads_end(engine, source, &["begins", "ends", "atexit"]);
}

fn a_job_of_an_executor_is_waited_for(engine: Engine) {
    let source = r#"
from concurrent.futures import ThreadPoolExecutor
executor = ThreadPoolExecutor(1)
def work(text):
    time.sleep(0.2)
    event(text)
def application(environ, start_response):
    executor.submit(work, "first")
    executor.submit(work, "second")
    start_response("200 OK", [])
    return [b"ok"]
"#;
    assert_threads_end(engine, source, &["first", "second"]);
}

fn an_endless_thread_is_aborted(engine: Engine) {
    let source = r#"
import ngx_wsgi
ngx_wsgi.on_shutdown(lambda: event("on_shutdown"))
atexit.register(event, "atexit")
def work():
    while True:
        time.sleep(0.01)
threading.Thread(target=work).start()
"#;
    let mut nginx = running_with(engine, source, LIMITED);
    end(&mut nginx, libc::SIGQUIT);
    assert_eq!(nginx.events(), ["on_shutdown", "atexit"]);
}

fn an_endless_job_of_an_executor_is_aborted(engine: Engine) {
    let source = r#"
from concurrent.futures import ThreadPoolExecutor
import ngx_wsgi
ngx_wsgi.on_shutdown(lambda: event("on_shutdown"))
executor = ThreadPoolExecutor(2)
executor.submit(time.sleep, 1000)
"#;
    let mut nginx = running_with(engine, source, LIMITED);
    end(&mut nginx, libc::SIGQUIT);
    assert_eq!(nginx.events(), ["on_shutdown"]);
}

/// A call that never ends must not hold the worker, whatever it waits for.
fn assert_blocked_call_is_aborted(how: &str, signal: i32) {
    let source = format!(
        r#"
import ctypes
def application(environ, start_response):
    event("started")
    {how}
"#
    );
    let mut nginx =
        site(Engine::Threads, &source).http("wsgi_shutdown_timeout 1s;").main("worker_shutdown_timeout 1s;").start();
    let worker = Process(nginx.workers()[0]);
    let mut conn = asked(&nginx);
    let cpu = worker.cpu();
    nginx.signal(signal);
    let mut used = Duration::ZERO;
    wait_for("the end of the worker", || {
        used = used.max(worker.cpu().saturating_sub(cpu));
        (!worker.is_alive()).then_some(())
    });
    if !how.starts_with("while") {
        // Python's own clean-up is work; spinning would be one second a second.
        assert!(used < Duration::from_millis(500), "{used:?} of processor time while waiting");
    }
    conn.assert_closed();
    let log = nginx.stop_by(signal);
    assert!(!log.contains("exited on signal"), "{log}");
}

#[test]
fn a_call_that_sleeps_for_ever_is_aborted_on_quit() {
    assert_blocked_call_is_aborted("time.sleep(1000)", libc::SIGQUIT);
}

#[test]
fn a_call_that_sleeps_for_ever_is_aborted_on_stop() {
    assert_blocked_call_is_aborted("threading.Event().wait()", libc::SIGTERM);
}

#[test]
fn a_call_that_loops_for_ever_is_aborted_on_quit() {
    assert_blocked_call_is_aborted("while True: pass", libc::SIGQUIT);
}

#[test]
fn a_call_that_holds_the_gil_for_ever_is_aborted_on_quit() {
    assert_blocked_call_is_aborted("ctypes.PyDLL(None).pause()", libc::SIGQUIT);
}

#[test]
fn a_call_that_holds_the_gil_for_ever_is_aborted_on_stop() {
    assert_blocked_call_is_aborted("ctypes.PyDLL(None).pause()", libc::SIGTERM);
}

/// Even an import that never ends does not keep a worker.
#[test]
fn an_import_that_blocks_for_ever_is_aborted() {
    let mut nginx =
        site(Engine::Threads, "event('started')\ntime.sleep(1000)").http("wsgi_shutdown_timeout 1s;").start();
    let mut conn = asked(&nginx);
    nginx.signal(libc::SIGTERM);
    let log = nginx.stop_by(libc::SIGTERM);
    assert!(!log.contains("exited on signal"), "{log}");
    conn.read_to_end();
}

/// A worker that exits during an import finishes it, and begins no import that no request waits for.
#[test]
fn an_import_that_has_not_begun_is_left_out_at_the_end() {
    let first = "
import os
event('first')
while not os.path.exists('@prefix@/go'):
    time.sleep(0.01)
atexit.register(event, 'atexit')
";
    let mut nginx = site(Engine::Threads, first)
        .http("wsgi_shutdown_timeout 1h;")
        .app_at("/second", "second.py", &format!("{EVENTS}\nevent('second')\ntime.sleep(1000)\n"))
        .start();
    nginx.wait_events(&["first"]);
    nginx.signal(libc::SIGQUIT);
    let worker = format!("{0}#{0}: exiting", nginx.all_children()[0].0);
    nginx.wait_log(&worker);
    nginx.write("go", "");
    end(&mut nginx, libc::SIGQUIT);
    assert_eq!(nginx.events(), ["first", "atexit"]);
}

fn a_busy_thread_does_not_crash_a_reload(engine: Engine) {
    let source = r#"
def work():
    number = 0
    while True:
        number += len(str({number: [number]}))
        if number % 1000 == 0:
            time.sleep(0.0001)
for _ in range(2):
    threading.Thread(target=work, daemon=True).start()
"#;
    let mut nginx = site(engine, source).http("wsgi_shutdown_timeout 500ms;").start();
    for _ in 0..6 {
        nginx.reload();
        nginx.get("/").expect(200);
    }
    end(&mut nginx, libc::SIGQUIT);
}

fn a_client_that_does_not_read_is_aborted(engine: Engine) {
    let source = r#"
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    def stream():
        try:
            event("started")
            while True:
                yield b"x" * 65536
        finally:
            event("closed")
    return stream()
"#;
    let mut nginx = site(engine, source).main("worker_shutdown_timeout 1s;").start();
    let conn = asked(&nginx);
    end(&mut nginx, libc::SIGQUIT);
    assert_eq!(nginx.events(), ["started", "closed"]);
    drop(conn);
}

/// Freeing a large configuration takes a while at the end of nginx, and threads of the application run on meanwhile:
/// here one that reads the environment.
fn threads_have_all_their_memory_to_the_end(engine: Engine) {
    let reader = r#"
import ctypes, os
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p

def read():
    while True:
        if getenv(b"MARK") != b"as configured":
            # There may be no time for more.
            os._exit(99)

threading.Thread(target=read, daemon=True).start()
"#;
    let servers: String = (0..4000)
        .map(|number| {
            format!("server {{ listen 127.0.0.1:@port@; server_name s{number}; location / {{ return 204; }} }}\n")
        })
        .collect();
    for process in ["on", "off"] {
        // Freed memory is overwritten at once.
        let mut nginx = site(engine, reader)
            .wrapped_in(&["env", "MALLOC_PERTURB_=165"])
            .main(&format!("env \"MARK=as configured\"; master_process {process};"))
            .listen("listen 127.0.0.1:@port@ default_server;")
            .http("wsgi_shutdown_timeout 1s; server_names_hash_max_size 16384;")
            .http(&servers)
            .start();
        nginx.get("/").expect(200);
        end(&mut nginx, libc::SIGTERM);
    }
}
