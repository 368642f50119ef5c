//! Sub-interpreters: which application lives where, the separate and the shared, their GIL, their end.

use crate::harness::{Check, Nginx, Site, wait_for};
use serde_json::{Value, json};

pub const ON: &str = "wsgi_enable_subinterpreters on;";

/// The minor version of the Python under test.
pub fn minor() -> u32 {
    env!("WSGI_PYTHON_VERSION").split_once('.').unwrap().1.parse().unwrap()
}

/// Returns whether interpreters can have a GIL of their own; prints a note where they cannot.
fn has_own_gil() -> bool {
    if minor() < 12 {
        eprintln!("skipped: Python {} has no interpreters with a GIL of their own", env!("WSGI_PYTHON_VERSION"));
    }
    minor() >= 12
}

/// The GILs that an interpreter can have.
pub fn gils() -> &'static [&'static str] {
    if has_own_gil() { &["shared", "own"] } else { &["shared"] }
}

/// Responds with JSON made of what `report(environ)` of the source returns.
pub fn reporting(source: &str) -> String {
    format!(
        r#"
import json
import os
import sys
import threading
import time
import ngx_wsgi

@event@

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(report(environ)).encode()]

{source}
"#
    )
}

/// Says where it is and how often it was asked, by a module that all have in common.
const WHERE: &str = r#"
import counter

def report(environ):
    counter.count += 1
    return [ngx_wsgi.interpreter, counter.count]
"#;

/// A site with applications that count in a module of the same name.
pub fn counting(files: &[&str]) -> Site {
    files
        .iter()
        .fold(Site::plain().file("counter.py", "count = 0\n"), |site, file| site.file(file, &reporting(WHERE)))
        .http("wsgi_python_path @prefix@;")
}

pub fn found(nginx: &Nginx, path: &str) -> Value {
    nginx.get(path).expect(200).json()
}

#[track_caller]
fn assert_refused(check: &Check, words: &[&str]) {
    assert!(!check.ok, "accepted, though: {words:?}");
    let said =
        check.output.lines().any(|line| line.contains("[emerg]") && words.iter().all(|word| line.contains(word)));
    assert!(said, "wanted: {words:?}\ngot: {}", check.output);
}

// ---- which application lives where ----------------------------------------------------------------------------------

#[test]
fn applications_share_the_main_interpreter_by_default() {
    let nginx = counting(&["a.py", "b.py"]).location("/a", "wsgi_pass a.py;").location("/b", "wsgi_pass b.py;").start();
    assert_eq!(found(&nginx, "/a"), json!(["main", 1]));
    assert_eq!(found(&nginx, "/b"), json!(["main", 2]));
}

#[test]
fn each_application_has_an_interpreter_of_its_own() {
    for gil in gils() {
        let nginx = counting(&["a.py", "b.py"])
            .http(&format!("{ON} wsgi_interpreter_gil {gil};"))
            .location("/a", "wsgi_pass a.py;")
            .location("/b", "wsgi_pass b.py;")
            .location("/again", "wsgi_pass a.py;")
            .start();
        let path = |file| nginx.prefix().join(file).to_str().unwrap().to_owned();
        assert_eq!(found(&nginx, "/a"), json!([path("a.py"), 1]));
        assert_eq!(found(&nginx, "/b"), json!([path("b.py"), 1]));
        assert_eq!(found(&nginx, "/again"), json!([path("a.py"), 2]), "locations of one application share it");
        assert_eq!(found(&nginx, "/b"), json!([path("b.py"), 2]));
    }
}

#[test]
fn applications_that_differ_in_their_middleware_are_apart() {
    let nginx = counting(&["a.py"])
        .file("wrap.py", "def middleware(application):\n    return application\n")
        .http(ON)
        .location("/a", "wsgi_pass a.py;")
        .location("/b", "wsgi_pass a.py; wsgi_middleware wrap;")
        .start();
    assert_eq!(found(&nginx, "/a")[1], 1);
    assert_eq!(found(&nginx, "/b")[1], 1);
}

#[test]
fn applications_that_name_an_interpreter_share_it() {
    let nginx = counting(&["a.py", "b.py", "c.py"])
        .http(ON)
        .http("wsgi_interpreter one;")
        .location("/a", "wsgi_pass a.py;")
        .location("/b", "wsgi_pass b.py;")
        .location("/c", "wsgi_pass c.py; wsgi_interpreter the.other_1-x;")
        .start();
    assert_eq!(found(&nginx, "/a"), json!(["one", 1]));
    assert_eq!(found(&nginx, "/b"), json!(["one", 2]));
    assert_eq!(found(&nginx, "/c"), json!(["the.other_1-x", 1]));
}

#[test]
fn an_application_may_stay_in_the_main_interpreter() {
    let nginx = counting(&["a.py", "b.py", "c.py"])
        .http(ON)
        .location("/a", "wsgi_pass a.py; wsgi_use_main_interpreter on;")
        .location("/b", "wsgi_pass b.py; wsgi_enable_subinterpreters off;")
        .location("/c", "wsgi_pass c.py;")
        .location("/d", "wsgi_pass a.py; wsgi_interpreter d;")
        .start();
    assert_eq!(found(&nginx, "/a"), json!(["main", 1]));
    assert_eq!(found(&nginx, "/b"), json!(["main", 2]));
    assert_eq!(found(&nginx, "/c")[1], 1);
    assert_eq!(found(&nginx, "/d"), json!(["d", 1]), "the same code in two interpreters is two applications");
}

/// The application's threads are its interpreter's, and their number may differ.
#[test]
fn each_interpreter_has_threads_of_its_own() {
    let source = reporting(
        r#"
local = threading.local()
def report(environ):
    local.count = getattr(local, "count", 0) + 1
    thread = threading.current_thread()
    return [thread.name, environ["wsgi.multithread"], thread.daemon, local.count]
"#,
    );
    let nginx = Site::plain()
        .file("app.py", &source)
        .http(ON)
        .location("/one", "wsgi_pass app.py; wsgi_interpreter one; wsgi_threads 1;")
        .location("/two", "wsgi_pass app.py; wsgi_interpreter two; wsgi_threads 2;")
        .location("/main", "wsgi_pass app.py; wsgi_use_main_interpreter on; wsgi_threads 1;")
        .start();
    assert_eq!(found(&nginx, "/one"), json!(["wsgi-one-1", false, false, 1]));
    assert_eq!(found(&nginx, "/one"), json!(["wsgi-one-1", false, false, 2]), "threading.local lasts");
    assert_eq!(found(&nginx, "/main"), json!(["wsgi-1", false, false, 1]));
    let two = found(&nginx, "/two");
    assert!(two[0].as_str().unwrap().starts_with("wsgi-two-") && two[1] == true, "{two}");
}

// ---- what nginx -t refuses ------------------------------------------------------------------------------------------

/// Two locations with these directives, `wsgi_pass` among them.
fn checked(http: &str, one: &str, other: &str) -> Check {
    counting(&["a.py", "b.py"])
        .http(http)
        .location("/one", &format!("wsgi_pass a.py; {one}"))
        .location("/other", &format!("wsgi_pass b.py; {other}"))
        .check()
}

/// File and line of a location.
fn place(check: &Check, location: &str) -> String {
    format!("nginx.conf:{}", 1 + check.conf_text.lines().position(|line| line.contains(location)).unwrap())
}

#[test]
fn locations_of_one_interpreter_that_disagree_are_refused() {
    let mut cases = vec![
        ("wsgi_threads", "wsgi_threads 2;", "wsgi_threads 3;"),
        ("wsgi_env A", "wsgi_env A 1;", "wsgi_env A 2;"),
        ("wsgi_interpreters", "wsgi_interpreters 2;", ""),
    ];
    if has_own_gil() {
        cases.push(("wsgi_interpreter_gil", "wsgi_interpreter_gil own;", ""));
    }
    for (directive, one, other) in cases {
        let check = checked(&format!("{ON} wsgi_interpreter x;"), one, other);
        let (one_place, other_place) = (place(&check, "/one "), place(&check, "/other "));
        assert_refused(&check, &[directive, &one_place, &other_place]);
        // Apart, they may differ.
        checked(ON, one, other).assert_ok();
    }
}

#[test]
fn a_name_without_subinterpreters_is_refused() {
    let check = checked("", "wsgi_interpreter x;", "");
    assert_refused(&check, &["wsgi_interpreter x", "wsgi_enable_subinterpreters on", &place(&check, "/one ")]);
    // A location that inherits it and stays in the main interpreter is no contradiction.
    checked(&format!("{ON} wsgi_interpreter x;"), "wsgi_use_main_interpreter on;", "").assert_ok();
}

#[test]
fn a_directive_the_main_interpreter_cannot_have_is_refused() {
    let check = checked("", "wsgi_interpreters 2;", "");
    assert_refused(&check, &["wsgi_interpreters 2", "main interpreter", &place(&check, "/one ")]);
    if has_own_gil() {
        for (http, one) in
            [("", "wsgi_interpreter_gil own;"), (ON, "wsgi_interpreter_gil own; wsgi_use_main_interpreter on;")]
        {
            let check = checked(http, one, "");
            assert_refused(&check, &["wsgi_interpreter_gil own", "main interpreter", &place(&check, "/one ")]);
        }
    }
}

#[test]
fn a_gil_of_its_own_needs_a_python_that_has_it() {
    let check = checked(&format!("{ON} wsgi_interpreter_gil own;"), "", "");
    if minor() >= 12 {
        check.assert_ok();
    } else {
        assert_refused(&check, &["\"own\"", "wsgi_interpreter_gil", "Python 3.12", env!("WSGI_PYTHON_VERSION")]);
    }
}

#[test]
fn the_event_loop_thread_is_for_the_main_interpreter_alone() {
    let check = checked("", "wsgi_threads off; wsgi_enable_subinterpreters on;", "");
    assert_refused(&check, &["wsgi_threads off", "main interpreter", &place(&check, "/one ")]);
    let check = checked("", "wsgi_threads off;", ON);
    assert_refused(&check, &["wsgi_threads off", &place(&check, "/one "), &place(&check, "/other ")]);
    checked("wsgi_threads off;", "", "").assert_ok();
    checked(&format!("{ON} wsgi_use_main_interpreter on; wsgi_threads off;"), "", "").assert_ok();
}

#[test]
fn names_numbers_and_gils_are_checked() {
    for value in ["\"\"", "a/b", "\"a b\"", "main", "ä"] {
        assert_refused(&checked(&format!("{ON} wsgi_interpreter {value};"), "", ""), &["wsgi_interpreter"]);
    }
    for value in ["0", "257", "x", "-1", "1.5", "\"\""] {
        assert_refused(&checked(&format!("{ON} wsgi_interpreters {value};"), "", ""), &["wsgi_interpreters"]);
    }
    for value in ["on", "Own", "\"\""] {
        assert_refused(&checked(&format!("{ON} wsgi_interpreter_gil {value};"), "", ""), &["\"shared\" or \"own\""]);
    }
}

// ---- text and errors ------------------------------------------------------------------------------------------------

#[test]
fn output_and_tracebacks_are_logged_with_their_request() {
    let source = r#"
import sys
print("imported")
class Odd(Exception):
    pass
def application(environ, start_response):
    print("printed")
    environ["wsgi.errors"].write("to wsgi.errors\n")
    if environ["PATH_INFO"] == "/wrong":
        start_response(1, 2)
    raise Odd("told")
"#;
    for gil in gils() {
        let nginx =
            Site::plain().app(source).http(&format!("{ON} wsgi_interpreter_gil {gil};")).errors_expected().start();
        nginx.get("/").expect(500);
        nginx.get("/wrong").expect(500);
        nginx.wait_log("imported");
        for text in ["printed", "to wsgi.errors", "raised _wsgi_app_"] {
            let line = nginx.wait_log(text);
            assert!(line.contains("request: \"GET /"), "{line}");
        }
        nginx.wait_log("Odd: told");
        nginx.wait_log("TypeError");
    }
}

/// An application that cannot be imported is tried again, and the others of its interpreter are not concerned.
#[test]
fn a_failed_import_is_tried_again() {
    let nginx = counting(&["a.py"])
        .file("b.py", "raise LookupError('the reason')")
        .http(&format!("{ON} wsgi_interpreter x;"))
        .location("/a", "wsgi_pass a.py;")
        .location("/b", "wsgi_pass b.py;")
        .errors_expected()
        .start();
    nginx.get("/b").expect(500);
    assert_eq!(found(&nginx, "/a"), json!(["x", 1]));
    nginx.wait_log("LookupError: the reason");
    nginx.write("b.py", &reporting(WHERE));
    assert_eq!(found(&nginx, "/b"), json!(["x", 2]));
}

#[test]
fn an_extension_that_refuses_a_gil_of_its_own_is_named_with_the_ways_out() {
    if !has_own_gil() {
        return;
    }
    let site = |directives: &str| {
        let source = reporting("import faulthandler\ndef report(environ): return 'fine'");
        Site::plain().app(&source).http(ON).http(directives).errors_expected()
    };
    let nginx = site("wsgi_interpreter_gil own;").start();
    nginx.get("/").expect(500);
    let line = nginx.wait_log("could not be loaded");
    for word in ["'faulthandler'", "wsgi_interpreter_gil shared", "wsgi_use_main_interpreter on", "nginx of its own"] {
        assert!(line.contains(word), "{word} is not in {line}");
    }
    for way in ["wsgi_interpreter_gil shared;", "wsgi_use_main_interpreter on;"] {
        assert_eq!(found(&site(way).start(), "/"), "fine");
    }
}

/// The modules of these makers cannot be had here, what they say is known.
#[test]
fn an_extension_that_refuses_subinterpreters_is_named_with_the_ways_out() {
    for text in [
        "PyO3 modules do not yet support subinterpreters, see https://github.com/PyO3/pyo3/issues/576",
        "Interpreter change detected - this module can only be loaded into one interpreter per process.",
        "cannot load module more than once per process",
    ] {
        let site = |http: &str| {
            Site::plain()
                .file("native.py", &format!("raise ImportError('{text}')"))
                .file("package/__init__.py", "try:\n    import native\nexcept ImportError as error:\n    raise OSError('no package') from error\n")
                .app("import package")
                .http(http)
                .errors_expected()
                .start()
        };
        let nginx = site(ON);
        nginx.get("/").expect(500);
        let line = nginx.wait_log("could not be loaded");
        assert!(line.contains("'native'") && line.contains("wsgi_use_main_interpreter on"), "{line}");
        nginx.wait_log("OSError: no package");
        let nginx = site("");
        nginx.get("/").expect(500);
        let line = nginx.wait_log("could not be loaded");
        assert!(line.contains("OSError") && !line.contains("wsgi_use_main"), "{line}");
    }
}

// ---- the GIL --------------------------------------------------------------------------------------------------------

/// A call that computes in one interpreter does not stop the applications of the others, whatever Python's version.
#[test]
fn a_call_that_computes_does_not_stop_other_interpreters() {
    let source = reporting(
        r#"
def report(environ):
    event("begins")
    while not os.path.exists("@prefix@/go"):
        pass
    return "done"
"#,
    );
    let nginx = Site::plain()
        .file("busy.py", &source)
        .file("quick.py", &reporting("def report(environ): return 'quick'"))
        .http(ON)
        .location("/busy", "wsgi_pass busy.py;")
        .location("/quick", "wsgi_pass quick.py;")
        .location("/main", "wsgi_pass quick.py; wsgi_use_main_interpreter on;")
        .start();
    assert_eq!(found(&nginx, "/quick"), "quick");
    assert_eq!(found(&nginx, "/main"), "quick");
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| found(&nginx, "/busy"));
        nginx.wait_events(&["begins"]);
        for _ in 0..5 {
            assert_eq!(found(&nginx, "/quick"), "quick");
            assert_eq!(found(&nginx, "/main"), "quick");
        }
        nginx.write("go", "");
        assert_eq!(busy.join().unwrap(), "done");
    });
}

/// One waits for the other without ever giving its GIL away: with one GIL for both it would wait in vain.
#[test]
fn interpreters_with_gils_of_their_own_run_at_the_same_time() {
    if !has_own_gil() {
        return;
    }
    let source = reporting(
        r#"
import mmap
# A thread that waits for the GIL is patient.
sys.setswitchinterval(3600)
file = open("@prefix@/shared", "r+b")
memory = mmap.mmap(file.fileno(), 2)

def report(environ):
    mine, other = (0, 1) if ngx_wsgi.interpreter == "a" else (1, 0)
    memory[mine] = 1
    end = time.monotonic() + 10
    while memory[other] == 0 and time.monotonic() < end:
        pass
    return memory[other]
"#,
    );
    let nginx = Site::plain()
        .file("shared", "\0\0")
        .file("app.py", &source)
        .http(&format!("{ON} wsgi_interpreter_gil own;"))
        .location("/a", "wsgi_pass app.py; wsgi_interpreter a;")
        .location("/b", "wsgi_pass app.py; wsgi_interpreter b;")
        .start();
    std::thread::scope(|scope| {
        let a = scope.spawn(|| found(&nginx, "/a"));
        let b = scope.spawn(|| found(&nginx, "/b"));
        assert_eq!((a.join().unwrap(), b.join().unwrap()), (json!(1), json!(1)));
    });
}

// ---- nothing is lost or freed in the wrong place --------------------------------------------------------------------

/// The objects that the garbage collector knows, and memory; with a debug build of Python also the references, which it
/// counts for each interpreter alone from 3.12 on: one that is released in another than it was taken in shows in both.
#[test]
fn thousands_of_calls_leave_nothing_behind() {
    let source = reporting(
        r#"
import gc

class Body:
    def __init__(self, chunks): self.chunks = iter(chunks)
    def __iter__(self): return self
    def __next__(self): return next(self.chunks)
    def close(self): self.chunks = None

def references():
    if not hasattr(sys, "gettotalrefcount"):
        return 0
    if sys.version_info < (3, 12):
        return sys.gettotalrefcount()
    import ctypes
    current = ctypes.pythonapi.PyInterpreterState_Get
    current.restype = ctypes.c_void_p
    total = ctypes.pythonapi._PyInterpreterState_GetRefTotal
    total.argtypes, total.restype = [ctypes.c_void_p], ctypes.c_ssize_t
    return total(current())

def report(environ):
    gc.collect()
    return [len(gc.get_objects()), sys.getallocatedblocks(), references()]

plain = application
def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise ValueError(path)
    if path == "/body":
        environ["wsgi.input"].read()
        start_response("200 OK", [("X-Long", "x" * 100)])
        return Body([b"a" * 10, b"", b"b" * 100])
    return plain(environ, start_response)
"#,
    );
    for gil in gils() {
        let gil = format!("wsgi_interpreter_gil {gil}; wsgi_threads 2; wsgi_script_name");
        let nginx = Site::plain()
            .file("app.py", &source)
            .http(ON)
            .location("/a", &format!("wsgi_pass app.py; wsgi_interpreter a; {gil} /a;"))
            .location("/b", &format!("wsgi_pass app.py; wsgi_interpreter b; {gil} /b;"))
            .location("/c", "wsgi_pass app.py; wsgi_use_main_interpreter on; wsgi_script_name /c;")
            .errors_expected()
            .start();
        let round = |count: usize| {
            std::thread::scope(|scope| {
                for mount in ["/a", "/b", "/c"] {
                    for _ in 0..2 {
                        let nginx = &nginx;
                        scope.spawn(move || {
                            let mut conn = nginx.connect();
                            for number in 0..count {
                                if number % 8 == 7 {
                                    conn.send(format!("GET {mount}/raise HTTP/1.1\r\nHost: a\r\n\r\n"));
                                    conn.response().expect(500);
                                    // nginx closes the connection after that.
                                    conn = nginx.connect();
                                } else {
                                    let head = "Content-Length: 4";
                                    conn.send(format!("POST {mount}/body HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\nabcd"));
                                    assert_eq!(conn.response().expect(200).body.len(), 110);
                                }
                            }
                        });
                    }
                }
            });
            ["/a/", "/b/", "/c/"].map(|path| {
                let counts = found(&nginx, path);
                [0, 1, 2].map(|index| counts[index].as_i64().unwrap())
            })
        };
        // Until what the module and Python keep for later requests is there.
        round(1200);
        let before = round(300);
        let after = round(1500);
        for (before, after) in before.iter().zip(&after) {
            // Nothing for each call: what Python itself caches, for tracebacks above all, settles slowly.
            assert!((after[0] - before[0]).abs() < 100, "objects of the collector: {before:?}, {after:?}");
            assert!((after[1] - before[1]).abs() < 1500, "blocks: {before:?}, {after:?}");
            assert!((after[2] - before[2]).abs() < 1500, "references: {before:?}, {after:?}");
        }
    }
}

// ---- limits and variables -------------------------------------------------------------------------------------------

#[test]
fn the_variable_names_the_interpreter_of_the_call() {
    let nginx = counting(&["a.py"])
        .http(ON)
        .http("log_format where '$uri $wsgi_interpreter $wsgi_thread'; access_log logs/where where;")
        .location("/a", "wsgi_pass a.py; wsgi_interpreter one; wsgi_threads 1;")
        .location("/b", "wsgi_pass a.py; wsgi_interpreter two; wsgi_interpreters 2; wsgi_threads 1;")
        .location("/c", "wsgi_pass a.py; wsgi_use_main_interpreter on; wsgi_threads 1;")
        .location("/d", "wsgi_pass a.py; wsgi_threads 1;")
        .location("/none", "return 204;")
        .start();
    let copy = found(&nginx, "/b")[0].as_str().unwrap().to_owned();
    for path in ["/a", "/c", "/d"] {
        nginx.get(path).expect(200);
    }
    nginx.get("/none").expect(204);
    let own = nginx.prefix().join("a.py").to_str().unwrap().to_owned();
    let wanted = [
        format!("/b {copy} wsgi-{copy}-1"),
        "/a one wsgi-one-1".to_owned(),
        "/c main wsgi-1".to_owned(),
        format!("/d {own} wsgi-{own}-1"),
        "/none - -".to_owned(),
    ];
    wait_for("the log", || (nginx.read("logs/where").lines().eq(wanted.iter())).then_some(()));
}

/// The time limit, the stack, and the thread that serves in place of the stuck one, all are of the call's interpreter.
#[test]
fn calls_are_limited_in_their_interpreter() {
    let source = reporting(
        r#"
def loops():
    end = time.monotonic() + 20
    while time.monotonic() < end:
        pass

def report(environ):
    if environ["QUERY_STRING"] == "loop":
        try:
            loops()
        except ngx_wsgi.RequestTimeout:
            event("RequestTimeout in " + ngx_wsgi.interpreter)
            raise
    return ngx_wsgi.interpreter
"#,
    );
    for gil in gils() {
        for copies in [1, 2] {
            let nginx = Site::plain()
                .app(&source)
                .file("other.py", &source)
                .http(&format!("{ON} wsgi_threads 1; wsgi_interpreter_gil {gil}; wsgi_request_timeout 500ms;"))
                .server(&format!("wsgi_interpreters {copies};"))
                .location("/x", "wsgi_pass app.py; wsgi_interpreter x;")
                .location("/y", "wsgi_pass app.py; wsgi_interpreter y;")
                .errors_expected()
                .start();
            found(&nginx, "/y");
            nginx.get("/x?loop").expect(504);
            wait_for("the exception", || (nginx.events().len() == 1).then_some(()));
            assert!(nginx.events()[0].starts_with("RequestTimeout in x"));
            let stack = nginx.wait_log("in loops");
            assert!(stack.contains("app.py"), "{stack}");
            for _ in 0..3 {
                assert!(found(&nginx, "/x").as_str().unwrap().starts_with('x'));
                assert!(found(&nginx, "/y").as_str().unwrap().starts_with('y'));
            }
        }
    }
}

// ---- check ----------------------------------------------------------------------------------------------------------

/// Each application is imported in an interpreter such as it will have.
#[test]
fn applications_are_checked_in_interpreters_of_their_own() {
    for gil in gils() {
        let project = |word: &str| {
            reporting(&format!(
                "
import common
common.words.append('{word}')
assert common.words == ['{word}'], common.words
assert os.environ['WORD'] == '{word}' and 'OTHER' not in os.environ
assert threading.current_thread() is threading.main_thread()
def report(environ): return ngx_wsgi.interpreter
"
            ))
        };
        let site = |http: &str| {
            Site::plain()
                .file("common.py", "words = []\n")
                .file("a.py", &project("one"))
                .file("b.py", &project("two"))
                .file("c.py", &project("three"))
                .http("wsgi_check on; wsgi_python_path @prefix@;")
                .http(http)
                .location("/a", "wsgi_pass a.py; wsgi_env WORD one;")
                .location("/b", "wsgi_pass b.py; wsgi_env WORD two;")
                .location(
                    "/c",
                    &format!("wsgi_pass c.py; wsgi_env WORD three; wsgi_interpreters 2; {}", "wsgi_interpreter c;"),
                )
        };
        site(&format!("{ON} wsgi_interpreter_gil {gil};")).check().assert_ok();
        let check =
            site(&format!("{ON} wsgi_interpreter_gil {gil};")).file("b.py", "raise LookupError('wrong')").check();
        assert_refused(&check, &["b.py", "LookupError: wrong"]);
        assert!(!check.output.contains("a.py") && !check.output.contains("c.py\""), "{}", check.output);
    }
}

#[test]
fn a_check_names_the_extension_that_refuses() {
    if !has_own_gil() {
        return;
    }
    let check = Site::plain()
        .app("import faulthandler\ndef application(*_): pass")
        .http(&format!("wsgi_check on; {ON} wsgi_interpreter_gil own;"))
        .check();
    assert_refused(&check, &["'faulthandler'", "wsgi_interpreter_gil shared", "wsgi_use_main_interpreter on"]);
}
