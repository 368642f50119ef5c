//! The process that applications live in: children, signals, environment, threads, and an event loop that goes on.

use crate::harness::{Conn, Engine, Framing, Nginx, Process, Site, both_engines, wait_for};
use serde_json::json;

both_engines!(
    return_codes_of_programs_are_true,
    a_program_can_be_terminated,
    a_program_reads_and_writes_pipes,
    multiprocessing_works,
    a_forked_child_keeps_no_connection_open,
    a_program_in_the_background_keeps_no_connection_open,
    a_forked_child_keeps_no_port_bound,
    a_forked_child_may_print,
    a_forked_child_may_handle_signals,
    a_forked_child_that_leaves_the_application_ends,
    signal_handlers_of_the_application_are_kept_away,
    every_signal_can_be_asked_for,
    an_empty_environment_is_no_obstacle,
    ngx_wsgi_says_where_the_code_runs,
    thread_locals_last_from_request_to_request,
    asyncio_runs,
    deep_recursion_is_an_exception,
    one_process_without_a_master,
    a_daemon,
    several_workers_serve,
);

/// An application that responds with the result of `result(environ)` as JSON; the source defines that function.
fn site(engine: Engine, source: &str) -> Site {
    let source = format!(
        r#"
import json, os, signal, subprocess, sys, threading, time

@event@

def application(environ, start_response):
    body = json.dumps(result(environ)).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]
{source}"#
    );
    Site::new(engine).app(&source).errors_expected()
}

#[track_caller]
fn result(nginx: &Nginx) -> serde_json::Value {
    nginx.get("/").expect(200).json()
}

// ---- children -------------------------------------------------------------------------------------------------------

fn return_codes_of_programs_are_true(engine: Engine) {
    let source = r#"
def result(environ):
    codes = [subprocess.run(["false"]).returncode for _ in range(50)]
    codes += [subprocess.run(["true"]).returncode for _ in range(10)]
    codes += [subprocess.call(["sh", "-c", "exit 7"]), os.waitstatus_to_exitcode(os.system("exit 9"))]
    return codes
"#;
    let nginx = site(engine, source).start();
    let mut wanted = vec![1; 50];
    wanted.extend([0; 10]);
    wanted.extend([7, 9]);
    assert_eq!(result(&nginx), json!(wanted));
    assert_eq!(nginx.logged("unknown process"), Vec::<String>::new());
}

fn a_program_can_be_terminated(engine: Engine) {
    let source = r#"
def result(environ):
    codes = []
    for end in ("terminate", "kill"):
        program = subprocess.Popen(["sleep", "100"])
        getattr(program, end)()
        codes.append(program.wait(10))
    return codes
"#;
    let nginx = site(engine, source).start();
    assert_eq!(result(&nginx), json!([-15, -9]));
}

fn a_program_reads_and_writes_pipes(engine: Engine) {
    let source = r#"
def result(environ):
    text = "x" * 200_000
    done = subprocess.run(["cat"], input=text, capture_output=True, text=True)
    return [done.stdout == text, subprocess.getoutput("echo $((6 * 7))")]
"#;
    let nginx = site(engine, source).start();
    assert_eq!(result(&nginx), json!([true, "42"]));
}

fn multiprocessing_works(engine: Engine) {
    let source = r#"
import math
import multiprocessing

def result(environ):
    results = []
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            results.append(pool.map(math.isqrt, [1, 4, 9]))
    return results
"#;
    let nginx = site(engine, source).start();
    assert_eq!(result(&nginx), json!([[1, 2, 3], [1, 2, 3]]));
}

/// Programs that sleep are ended with the test, which would wait for them otherwise.
fn end_children(nginx: &Nginx) {
    for event in nginx.events() {
        if let Some(pid) = event.strip_prefix("child ") {
            Process(pid.parse().unwrap()).signal(libc::SIGKILL);
        }
    }
}

const FORK: &str = r#"
def result(environ):
    child = os.fork()
    if child == 0:
        try:
            time.sleep(60)
        finally:
            os._exit(0)
    event(f"child {child}")
    return child
"#;

/// Asks on a connection that is to be closed after the response, while another one is open and idle.
fn assert_closed_at_once(nginx: &Nginx) {
    let mut idle = nginx.connect();
    idle.send("GET /static HTTP/1.1\r\nHost: a\r\n\r\n").response();
    let mut conn = nginx.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    conn.response().expect(200);
    conn.assert_closed();
    idle.send("GET /static HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    idle.response();
    idle.assert_closed();
}

fn a_forked_child_keeps_no_connection_open(engine: Engine) {
    let nginx = site(engine, FORK).location("/static", "return 204;").start();
    assert_closed_at_once(&nginx);
    end_children(&nginx);
}

/// Neither `os.system` nor `posix_spawn` runs Python's hooks.
fn a_program_in_the_background_keeps_no_connection_open(engine: Engine) {
    let source = r#"
def result(environ):
    os.system("sleep 30 & echo child $! >> @prefix@/events")
    child = os.posix_spawn("/bin/sleep", ["sleep", "30"], os.environ)
    event(f"child {child}")
    child = subprocess.Popen(["sleep", "30"], close_fds=False)
    event(f"child {child.pid}")
    return "fine"
"#;
    let nginx = site(engine, source).location("/static", "return 204;").start();
    assert_closed_at_once(&nginx);
    let children = nginx.events().len();
    end_children(&nginx);
    assert_eq!(children, 3);
}

fn a_forked_child_keeps_no_port_bound(engine: Engine) {
    let mut nginx = site(engine, FORK).start();
    result(&nginx);
    nginx.stop_by(libc::SIGQUIT);
    let bound = std::net::TcpListener::bind(nginx.address());
    let children = nginx.events();
    let alive = Process(children[0]["child ".len()..].parse().unwrap()).is_alive();
    end_children(&nginx);
    assert!(alive, "the child outlives the worker");
    bound.expect("the port is free");
}

/// Whatever locks other threads hold at that moment.
fn a_forked_child_may_print(engine: Engine) {
    let source = r#"
def noise():
    while True:
        print("noise" * 20)
        time.sleep(0.0005)

for _ in range(2):
    threading.Thread(target=noise, daemon=True).start()

def result(environ):
    codes = []
    for _ in range(50):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                print("child says")
                sys.stderr.write("child says\n")
                environ["wsgi.errors"].write("child says\n")
                code = 0
            finally:
                os._exit(code)
        deadline = time.monotonic() + 5
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            time.sleep(0.002)
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return "a child hangs"
        codes.append(os.waitstatus_to_exitcode(ended[1]))
    return codes
"#;
    let nginx = site(engine, source).start();
    assert_eq!(result(&nginx), json!(vec![0; 50]));
}

fn a_forked_child_may_handle_signals(engine: Engine) {
    let source = r#"
def result(environ):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(42))
            os.write(write, b"x")
            time.sleep(60)
        finally:
            os._exit(1)
    os.read(read, 1)
    # From Python 3.13 on the child of a thread that is not the main one handles only a signal that interrupts a call.
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        os.kill(child, signal.SIGTERM)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1])
"#;
    let nginx = site(engine, source).start();
    assert_eq!(result(&nginx), json!(42));
}

/// It is a copy of a server's process: going on as one it would take the server's events and never end.
fn a_forked_child_that_leaves_the_application_ends(engine: Engine) {
    let source = r#"
def application(environ, start_response):
    child = os.fork()
    if child:
        event(f"child {child}")
    elif environ["PATH_INFO"] == "/exit":
        sys.exit(3)
    elif environ["PATH_INFO"] == "/raise":
        raise LookupError("of the child")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"body"]
"#;
    let nginx = site(engine, source).start();
    for path in ["/exit", "/raise", "/return"] {
        let response = nginx.get(path).expect(200);
        assert_eq!(response.text(), "body", "the parent's response to {path}");
    }
    let children: Vec<Process> =
        nginx.events().iter().map(|event| Process(event["child ".len()..].parse().unwrap())).collect();
    assert_eq!(children.len(), 3);
    for child in children {
        child.wait_gone();
    }
}

// ---- signals --------------------------------------------------------------------------------------------------------

fn signal_handlers_of_the_application_are_kept_away(engine: Engine) {
    let source = r#"
NAMES = ["SIGTERM", "SIGQUIT", "SIGHUP", "SIGINT", "SIGUSR1", "SIGWINCH", "SIGIO"]
for name in NAMES:
    signal.signal(getattr(signal, name), lambda *_: event("handled"))
signal.signal(signal.SIGQUIT, signal.SIG_IGN)

def result(environ):
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except ValueError:
        pass
    return "fine"
"#;
    let mut nginx = site(engine, source).start();
    assert_eq!(result(&nginx), json!("fine"));
    nginx.wait_log("SIGTERM");
    nginx.reload();
    assert_eq!(result(&nginx), json!("fine"));
    let log = nginx.stop_by(libc::SIGQUIT);
    assert!(!log.contains("exited on signal"), "{log}");
    assert_eq!(nginx.events(), Vec::<String>::new());
    // The line that did it is in the log.
    assert!(log.contains("app.py"), "{log}");
}

fn every_signal_can_be_asked_for(engine: Engine) {
    let source = r#"
import faulthandler

for number in sorted(signal.valid_signals()):
    signal.signal(number, lambda *_: event("handled"))
    if number not in (signal.SIGSEGV, signal.SIGFPE, signal.SIGABRT, signal.SIGBUS, signal.SIGILL):
        faulthandler.register(number)

refused = []
for number in (0, -1, signal.SIGRTMAX + 1):
    try:
        signal.signal(number, signal.SIG_IGN)
    except ValueError:
        refused.append(number)

def result(environ):
    return [len(refused), signal.getsignal(signal.SIGRTMIN + 1) == signal.SIG_DFL]
"#;
    let nginx = site(engine, source).start();
    assert_eq!(result(&nginx), json!([3, true]));
    for call in ["signal.signal(SIGRTMIN+1)", "signal.signal(SIGRTMAX)", "faulthandler.register(SIGRTMIN+2)"] {
        nginx.wait_log(&format!("{call} ignored"));
    }
    nginx.reload();
    assert_eq!(result(&nginx), json!([3, true]));
}

// ---- environment ----------------------------------------------------------------------------------------------------

fn an_empty_environment_is_no_obstacle(engine: Engine) {
    let source = r#"
import locale
import pathlib
import shutil

def result(environ):
    directory = pathlib.Path("@prefix@/dir-ä€𝄞")
    directory.mkdir()
    (directory / "ß").write_text("größe €")
    print("printed: größe €")
    done = subprocess.run(["ls", str(directory)], capture_output=True, text=True)
    return {
        "filesystem": sys.getfilesystemencoding(),
        "preferred": locale.getpreferredencoding(False),
        "open": open("@prefix@/app.py").encoding.lower(),
        "listed": os.listdir(str(directory)),
        "read": open(directory / "ß").read(),
        "program": done.stdout.strip(),
        "found": shutil.which("sh") is not None,
        "home": os.path.expanduser("~") == os.environ["HOME"] != "~",
        "names": sorted(os.environ),
        "argv": sys.argv,
        "executable": os.access(sys.executable, os.X_OK),
    }
"#;
    let nginx = site(engine, source).start();
    let got = result(&nginx);
    assert_eq!(got["filesystem"], "utf-8");
    assert_eq!(got["preferred"].as_str().unwrap().to_lowercase(), "utf-8");
    assert_eq!(got["open"], "utf-8");
    assert_eq!(got["listed"], json!(["ß"]));
    assert_eq!(got["read"], "größe €");
    assert_eq!(got["program"], "ß");
    assert_eq!(got["found"], true);
    assert_eq!(got["home"], true);
    assert_eq!(got["executable"], true, "{got}");
    for name in ["PATH", "HOME", "USER", "LOGNAME", "LANG"] {
        assert!(got["names"].as_array().unwrap().contains(&json!(name)), "{got}");
    }
    nginx.wait_log("printed: größe €");
}

fn ngx_wsgi_says_where_the_code_runs(engine: Engine) {
    let source = r#"
import ngx_wsgi

def result(environ):
    return {
        "version": ngx_wsgi.version,
        "nginx": ngx_wsgi.nginx_version == environ["SERVER_SOFTWARE"].partition("/")[2],
        "python": ngx_wsgi.build_python_version == "%d.%d" % sys.version_info[:2],
        "interpreter": ngx_wsgi.interpreter,
        "pid": ngx_wsgi.worker_pid == os.getpid(),
        "number": ngx_wsgi.worker_number,
        "timeout": [base.__name__ for base in ngx_wsgi.RequestTimeout.__mro__],
        "decorator": ngx_wsgi.on_shutdown(result) is result,
        "module": ngx_wsgi.RequestTimeout.__module__,
    }
"#;
    let nginx = site(engine, source).start();
    assert_eq!(
        result(&nginx),
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "nginx": true,
            "python": true,
            "interpreter": "main",
            "pid": true,
            "number": 0,
            "timeout": ["RequestTimeout", "BaseException", "object"],
            "decorator": true,
            "module": "ngx_wsgi",
        })
    );
}

// ---- threads --------------------------------------------------------------------------------------------------------

fn thread_locals_last_from_request_to_request(engine: Engine) {
    let source = r#"
local = threading.local()

def result(environ):
    local.count = getattr(local, "count", 0) + 1
    return [threading.get_ident(), local.count, threading.current_thread().name]
"#;
    let nginx = site(engine, source).start();
    let mut seen = std::collections::HashMap::new();
    for _ in 0..40 {
        let got = result(&nginx);
        let count = seen.entry(got[0].to_string()).or_insert(0);
        *count += 1;
        assert_eq!(got[1], json!(*count), "{got}");
    }
    let most = if engine == Engine::Inline { 1 } else { 4 };
    assert!(seen.len() <= most, "{seen:?}");
}

/// `threading.main_thread()` of an import and of a request.
#[track_caller]
fn assert_main_thread(engine: Engine, in_request: bool) {
    let source = r#"
def look():
    main = threading.main_thread()
    return [threading.current_thread() is main, main.is_alive(), main.ident == IMPORTER]

IMPORTER = threading.get_ident()
AT_IMPORT = look()

def result(environ):
    return AT_IMPORT + look()
"#;
    let nginx = site(engine, source).start();
    let wanted = json!([true, true, true, in_request, true, true]);
    for _ in 0..3 {
        assert_eq!(result(&nginx), wanted);
    }
}

#[test]
fn imports_run_on_the_main_thread_and_calls_beside_it() {
    assert_main_thread(Engine::Threads, false);
}

#[test]
fn without_threads_everything_runs_on_the_main_thread() {
    assert_main_thread(Engine::Inline, true);
}

fn asyncio_runs(engine: Engine) {
    let source = r#"
import asyncio

async def work():
    program = await asyncio.create_subprocess_exec("sh", "-c", "exit 5")
    await asyncio.sleep(0.01)
    return [await program.wait(), await asyncio.to_thread(lambda: "thread")]

def result(environ):
    return asyncio.run(work())
"#;
    let nginx = site(engine, source).start();
    for _ in 0..3 {
        assert_eq!(result(&nginx), json!([5, "thread"]));
    }
    assert_eq!(nginx.logged("signal.signal"), Vec::<String>::new());
}

fn deep_recursion_is_an_exception(engine: Engine) {
    let source = r#"
import pickle
import re

class Deep:
    def __init__(self, inner):
        self.inner = inner
    def __eq__(self, other):
        return self.inner == other.inner
    def __repr__(self):
        return f"Deep({self.inner!r})"

def endless(n):
    return endless(n + 1)

def attempt(action):
    try:
        action()
        return "no exception"
    except RecursionError:
        return "RecursionError"

def result(environ):
    nested, deep, other = [], None, None
    for _ in range(100_000):
        nested = [nested]
    for _ in range(5000):
        deep, other = Deep(deep), Deep(other)
    return [
        attempt(lambda: endless(0)),
        attempt(lambda: repr(nested)),
        attempt(lambda: json.dumps(nested)),
        attempt(lambda: pickle.dumps(nested)),
        attempt(lambda: repr(deep)),
        attempt(lambda: deep == other),
        attempt(lambda: eval("(" * 90 + "1" + ")" * 90)),
    ]
"#;
    let nginx = site(engine, source).start();
    let workers = nginx.workers();
    for _ in 0..3 {
        let mut wanted = vec!["RecursionError"; 6];
        wanted.push("no exception");
        assert_eq!(result(&nginx), json!(wanted));
    }
    assert_eq!(nginx.workers(), workers);
}

// ---- the event loop goes on -----------------------------------------------------------------------------------------

/// A function of a library that does not release the GIL: it reads from a pipe, which `let_go_of_gil` writes to.
const HOLD_GIL: &str = r#"
import ctypes
os.mkfifo("@prefix@/gil")
gil = os.open("@prefix@/gil", os.O_RDWR)
def hold_gil():
    ctypes.PyDLL(None).read(gil, ctypes.create_string_buffer(1), 1)
"#;

/// Ends every call of `hold_gil`, also those to come.
fn let_go_of_gil(nginx: &Nginx) {
    std::fs::write(nginx.prefix().join("gil"), [0; 100]).expect("write to the pipe");
}

/// While `busy` runs in every thread of the pool, files are served: the threads go on only when they have been.
#[track_caller]
fn assert_files_are_served_while(busy: &str) {
    let source = format!(
        r#"
def is_busy():
    return not os.path.exists("@prefix@/go")
{HOLD_GIL}
def result(environ):
    event("started")
    {busy}
    return "done"
"#
    );
    let nginx =
        site(Engine::Threads, &source).file("static/file", "static").location("/static/", "root @prefix@;").start();
    let mut conns: Vec<Conn> = (0..5).map(|_| nginx.connect()).collect();
    for conn in &mut conns {
        conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    wait_for("a call", || (!nginx.events().is_empty()).then_some(()));
    // One that leaves while its call waits or runs must not make the event loop wait either.
    conns.pop().unwrap().reset();
    for _ in 0..100 {
        assert_eq!(nginx.get("/static/file").expect(200).text(), "static");
    }
    nginx.write("go", "");
    let_go_of_gil(&nginx);
    for conn in &mut conns {
        let response = conn.response().expect(200);
        assert_eq!((response.text().as_str(), response.framing), ("\"done\"", Framing::Length));
    }
}

#[test]
fn files_are_served_while_all_threads_sleep() {
    assert_files_are_served_while("while is_busy(): time.sleep(0.01)");
}

#[test]
fn files_are_served_while_all_threads_compute() {
    assert_files_are_served_while("while is_busy(): pass");
}

#[test]
fn files_are_served_while_a_library_holds_the_gil() {
    assert_files_are_served_while("hold_gil()");
}

/// A response that is being sent belongs to the event loop alone: it does not matter that the GIL is held.
#[test]
fn responses_go_on_and_clients_leave_while_a_library_holds_the_gil() {
    let source = r#"
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/hold":
        event("holds")
        hold_gil()
        return [b"held"]
    def stream():
        try:
            while True:
                yield b"x" * 65536
        finally:
            event("closed")
    return stream()
"#;
    let source = format!("{HOLD_GIL}{source}");
    let nginx = site(Engine::Threads, &source).location("/static", "return 204;").start();
    let mut streams: Vec<Conn> = (0..3).map(|_| nginx.connect()).collect();
    for stream in &mut streams {
        stream.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.read_exactly(100_000);
    }
    let mut holder = nginx.connect();
    holder.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    nginx.wait_events(&["holds"]);
    drop(streams);
    for _ in 0..5 {
        nginx.get("/static").expect(204);
    }
    let_go_of_gil(&nginx);
    holder.response().expect(200);
    nginx.wait_events(&["holds", "closed", "closed", "closed"]);
}

// ---- ways to run nginx ----------------------------------------------------------------------------------------------

const WORKER: &str = r#"
import ngx_wsgi
ngx_wsgi.on_shutdown(lambda: event("on_shutdown"))

def result(environ):
    time.sleep(0.02)
    return [os.getpid(), ngx_wsgi.worker_number, environ["wsgi.multiprocess"]]
"#;

/// No reload here: with `master_process off` a stock nginx stops responding after one.
fn one_process_without_a_master(engine: Engine) {
    let mut nginx = site(engine, WORKER).main("master_process off;").start();
    assert_eq!(result(&nginx), json!([nginx.master(), 0, false]));
    assert_eq!(nginx.all_children(), []);
    let log = nginx.stop_by(libc::SIGQUIT);
    assert_eq!(nginx.exit_code(), Some(0), "{log}");
    assert_eq!(nginx.events(), ["on_shutdown"]);
}

fn a_daemon(engine: Engine) {
    let mut nginx = site(engine, WORKER).daemon().start();
    let workers = nginx.workers();
    assert_eq!(result(&nginx), json!([workers[0], 0, false]));
    let workers = nginx.reload();
    assert_eq!(result(&nginx), json!([workers[0], 0, false]));
    nginx.stop_by(libc::SIGQUIT);
    assert_eq!(nginx.exit_code(), Some(0));
    assert_eq!(nginx.events(), ["on_shutdown", "on_shutdown"]);
}

fn several_workers_serve(engine: Engine) {
    let nginx = site(engine, WORKER).workers(3).start();
    let mut workers = nginx.workers();
    workers.sort();
    wait_for("responses of all workers", || {
        let askers: Vec<_> = (0..12)
            .map(|_| {
                let mut conn = nginx.connect();
                conn.send("GET / HTTP/1.0\r\n\r\n");
                conn
            })
            .collect();
        let mut seen: Vec<(i64, i64)> = askers
            .into_iter()
            .map(|mut conn| {
                let got = conn.response().expect(200).json();
                assert_eq!(got[2], true, "wsgi.multiprocess");
                (got[1].as_i64().unwrap(), got[0].as_i64().unwrap())
            })
            .collect();
        seen.sort();
        seen.dedup();
        assert!(seen.len() <= 3, "a worker has one number: {seen:?}");
        assert!(seen.iter().all(|(_, pid)| workers.contains(&(*pid as i32))), "{seen:?}");
        (seen.len() == 3 && seen.iter().map(|(n, _)| *n).eq(0..3)).then_some(())
    });
}
