//! A crash in C code ends its worker, and the error log says where Python was.

use crate::harness::{Engine, Nginx, Site, both_engines, wait_for};

both_engines!(
    a_crash_shows_the_stacks_of_all_threads,
    every_signal_of_a_crash_shows_the_stacks_and_ends_the_worker,
    a_stack_that_is_used_up_is_shown,
    a_crash_of_an_import_shows_its_stack,
    an_application_may_turn_the_stacks_off_and_on,
    python_faulthandler_in_the_environment_is_no_obstacle,
    programs_may_write_to_sys_stderr,
    stacks_go_to_the_main_log,
    stacks_go_to_the_reopened_log,
    stacks_go_to_standard_error_where_the_log_is_that,
);

const APP: &str = r#"
import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import threading

def crash(environ):
    ctypes.string_at(0)

def kill(environ):
    os.kill(os.getpid(), int(environ["QUERY_STRING"]))
    # It may be another thread that gets it.
    signal.pause()

def overflow(environ):
    # The C library parses this by recursion.
    ctypes.CDLL(None).regcomp(ctypes.create_string_buffer(4096), b"(" * 2_000_000, 1)

def off(environ):
    faulthandler.disable()
    return b"off"

def on(environ):
    faulthandler.enable()
    return repr(faulthandler.is_enabled()).encode()

def program(environ):
    subprocess.run(["sh", "-c", "echo from a program >&2"], stderr=sys.stderr)
    os.write(sys.stderr.fileno(), b"by descriptor\n")
    return b"fine"

def fine(environ):
    return repr(faulthandler.is_enabled()).encode()

def wait_for_ever():
    threading.Event().wait()

threading.Thread(target=wait_for_ever, daemon=True).start()

def application(environ, start_response):
    body = globals()[environ["PATH_INFO"][1:]](environ)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]
"#;

/// Asks for something that ends the worker; returns when another serves.
#[track_caller]
fn crash(nginx: &mut Nginx, path: &str, signal: i32) {
    let worker = nginx.workers()[0];
    nginx.connect().send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).read_to_end();
    nginx.wait_expected_error(&format!("worker process {worker} exited on signal {signal}"));
    wait_for("another worker", || nginx.workers().first().is_some_and(|now| *now != worker).then_some(()));
    nginx.get("/fine").expect(200);
}

fn site(engine: Engine) -> Site {
    Site::new(engine).app(APP)
}

/// The line of faulthandler for a function of the application.
fn frame(nginx: &Nginx, function: &str, line: &str) -> String {
    let number = APP.lines().position(|found| found.trim() == line).expect("a line of the application") + 1;
    let script = nginx.prefix().join("app.py");
    format!("  File \"{}\", line {number} in {function}", script.display())
}

#[track_caller]
fn assert_shown(text: &str, error: &str, frames: &[String]) {
    let at = |wanted: &str| text.find(wanted).unwrap_or_else(|| panic!("no {wanted:?} in\n{text}"));
    let start = at(&format!("Fatal Python error: {error}"));
    assert!(frames.iter().all(|frame| at(frame) > start), "{text}");
}

fn a_crash_shows_the_stacks_of_all_threads(engine: Engine) {
    let mut nginx = site(engine).start();
    crash(&mut nginx, "/crash", libc::SIGSEGV);
    let frames = [
        frame(&nginx, "crash", "ctypes.string_at(0)"),
        frame(&nginx, "application", r#"body = globals()[environ["PATH_INFO"][1:]](environ)"#),
        frame(&nginx, "wait_for_ever", "threading.Event().wait()"),
    ];
    assert_shown(&nginx.error_log(), "Segmentation fault", &frames);
}

fn every_signal_of_a_crash_shows_the_stacks_and_ends_the_worker(engine: Engine) {
    for (signal, name) in [
        (libc::SIGSEGV, "Segmentation fault"),
        (libc::SIGFPE, "Floating"),
        (libc::SIGABRT, "Aborted"),
        (libc::SIGBUS, "Bus error"),
        (libc::SIGILL, "Illegal instruction"),
    ] {
        let mut nginx = site(engine).start();
        crash(&mut nginx, &format!("/kill?{signal}"), signal);
        let frames = [frame(&nginx, "wait_for_ever", "threading.Event().wait()")];
        assert_shown(&nginx.error_log(), name, &frames);
    }
}

fn a_stack_that_is_used_up_is_shown(engine: Engine) {
    let mut nginx = site(engine).start();
    crash(&mut nginx, "/overflow", libc::SIGSEGV);
    let line = r#"ctypes.CDLL(None).regcomp(ctypes.create_string_buffer(4096), b"(" * 2_000_000, 1)"#;
    assert_shown(&nginx.error_log(), "Segmentation fault", &[frame(&nginx, "overflow", line)]);
}

fn a_crash_of_an_import_shows_its_stack(engine: Engine) {
    let source = r#"
import ctypes, os
try:
    os.remove("@prefix@/crash")
    ctypes.string_at(0)
except FileNotFoundError:
    pass

def application(environ, start_response):
    start_response("200 OK", [])
    return [b"fine"]
"#;
    let mut nginx = Site::new(engine).app(source).start();
    nginx.write("crash", "");
    nginx.signal(libc::SIGHUP);
    nginx.wait_expected_error("exited on signal 11");
    let frame = format!("  File \"{}\", line 5 in <module>", nginx.prefix().join("app.py").display());
    assert_shown(&nginx.error_log(), "Segmentation fault", &[frame]);
}

fn an_application_may_turn_the_stacks_off_and_on(engine: Engine) {
    let mut nginx = site(engine).start();
    assert_eq!(nginx.get("/off").expect(200).text(), "off");
    assert_eq!(nginx.get("/fine").expect(200).text(), "False");
    crash(&mut nginx, "/crash", libc::SIGSEGV);
    assert!(!nginx.error_log().contains("Fatal Python error"));
    nginx.get("/off").expect(200);
    assert_eq!(nginx.get("/on").expect(200).text(), "True");
    crash(&mut nginx, "/crash", libc::SIGSEGV);
    assert_shown(&nginx.error_log(), "Segmentation fault", &[frame(&nginx, "crash", "ctypes.string_at(0)")]);
}

fn python_faulthandler_in_the_environment_is_no_obstacle(engine: Engine) {
    let mut nginx = site(engine).main("env PYTHONFAULTHANDLER=1;").start();
    crash(&mut nginx, "/crash", libc::SIGSEGV);
    assert_shown(&nginx.error_log(), "Segmentation fault", &[frame(&nginx, "crash", "ctypes.string_at(0)")]);
    assert_eq!(nginx.logged("Fatal Python error").len(), 1);
}

fn programs_may_write_to_sys_stderr(engine: Engine) {
    let nginx = site(engine).start();
    nginx.get("/program").expect(200);
    nginx.wait_log("from a program");
    nginx.wait_log("by descriptor");
}

/// Also where the server has another one, and a log that is no file comes first.
fn stacks_go_to_the_main_log(engine: Engine) {
    let syslog = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut nginx = site(engine)
        .main(&format!("error_log syslog:server={} notice;", syslog.local_addr().unwrap()))
        .server("error_log logs/server.log;")
        .start();
    crash(&mut nginx, "/crash", libc::SIGSEGV);
    assert_shown(&nginx.error_log(), "Segmentation fault", &[frame(&nginx, "crash", "ctypes.string_at(0)")]);
    assert!(!nginx.read("logs/server.log").contains("Fatal Python error"));
}

fn stacks_go_to_the_reopened_log(engine: Engine) {
    let mut nginx = site(engine).start();
    nginx.get("/fine").expect(200);
    let log = nginx.prefix().join("logs/error.log");
    std::fs::rename(&log, nginx.prefix().join("logs/error.log.1")).unwrap();
    nginx.signal(libc::SIGUSR1);
    wait_for("the worker's new log", || {
        nginx.get("/program").expect(200);
        nginx.error_log().contains("by descriptor").then_some(())
    });
    crash(&mut nginx, "/crash", libc::SIGSEGV);
    assert_shown(&nginx.error_log(), "Segmentation fault", &[frame(&nginx, "crash", "ctypes.string_at(0)")]);
}

fn stacks_go_to_standard_error_where_the_log_is_that(engine: Engine) {
    let mut nginx = site(engine).main("error_log stderr notice;").start();
    crash(&mut nginx, "/crash", libc::SIGSEGV);
    let frames = [frame(&nginx, "crash", "ctypes.string_at(0)")];
    assert_shown(&nginx.read("logs/stderr"), "Segmentation fault", &frames);
}

/// Also where that refuses to import faulthandler.
#[test]
fn a_crash_in_a_sub_interpreter_shows_its_stack() {
    let minor: u32 = env!("WSGI_PYTHON_VERSION").rsplit('.').next().unwrap().parse().unwrap();
    // Before Python 3.13 ctypes refuses an interpreter with a GIL of its own.
    let gils = if minor >= 13 { &["shared", "own"][..] } else { &["shared"] };
    for gil in gils {
        let directives = format!("wsgi_enable_subinterpreters on; wsgi_interpreter_gil {gil};");
        let source =
            APP.replace("import faulthandler\n", "").replace("repr(faulthandler.is_enabled()).encode()", "b''");
        let mut nginx = Site::new(Engine::Threads).app(&source).http(&directives).start();
        crash(&mut nginx, "/crash", libc::SIGSEGV);
        let text = nginx.error_log();
        assert!(text.contains("Fatal Python error: Segmentation fault"), "{gil}: {text}");
        assert!(text.contains("/app.py\", line ") && text.contains(" in crash\n"), "{gil}: {text}");
    }
}
