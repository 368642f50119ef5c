//! Sub-interpreters: which application lives where, what is separate there and what is not, their GIL, their end.

use crate::harness::{Check, Load, Nginx, Process, Site, venv, wait_for};
use serde_json::{Value, json};
use std::time::Duration;

const ON: &str = "wsgi_enable_subinterpreters on;";

/// The minor version of the Python under test.
fn minor() -> u32 {
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
fn gils() -> &'static [&'static str] {
    if has_own_gil() { &["shared", "own"] } else { &["shared"] }
}

/// Responds with JSON made of what `report(environ)` of the source returns.
fn reporting(source: &str) -> String {
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
fn counting(files: &[&str]) -> Site {
    files
        .iter()
        .fold(Site::plain().file("counter.py", "count = 0\n"), |site, file| site.file(file, &reporting(WHERE)))
        .http("wsgi_python_path @prefix@;")
}

fn found(nginx: &Nginx, path: &str) -> Value {
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

// ---- what is separate -----------------------------------------------------------------------------------------------

/// The environment of each: that of the configuration, its own writes, and nobody else's.
#[test]
fn each_interpreter_has_an_environment_of_its_own() {
    let source = reporting(
        r#"
import ctypes
import subprocess

at_import = os.environ.get("MODE")
os.environ["WRITTEN"] = at_import or "none"
os.environ.setdefault("FIRST", ngx_wsgi.interpreter)

def child(*arguments, **options):
    return subprocess.run(["/bin/sh", "-c", "echo $MODE $WRITTEN $FIRST"], capture_output=True, text=True, **options).stdout

def report(environ):
    # In one with a GIL of its own before 3.13, ctypes is not there.
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    in_c = [(libc.getenv(name) or b"").decode() for name in (b"MODE", b"WRITTEN", b"GIVEN", b"PATH")]
    return [at_import, os.environ["WRITTEN"], os.environ["FIRST"], os.environ["GIVEN"], os.environ["PATH"], in_c, child()]
"#,
    );
    for gil in gils() {
        if *gil == "own" && minor() < 13 {
            continue;
        }
        let gil = format!("wsgi_interpreter_gil {gil};");
        let nginx = Site::plain()
            .file("app.py", &source)
            .main("env GIVEN=by-nginx;")
            .http(ON)
            .location("/a", &format!("wsgi_pass app.py; wsgi_interpreter a; wsgi_env MODE one; {gil}"))
            .location("/b", &format!("wsgi_pass app.py; wsgi_interpreter b; wsgi_env MODE two; {gil}"))
            .location("/c", &format!("wsgi_pass app.py; wsgi_interpreter c; wsgi_env PATH /opt; {gil}"))
            .location("/main", "wsgi_pass app.py; wsgi_use_main_interpreter on; wsgi_env MODE three;")
            .start();
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        // The process has what nginx gives it, and what the main interpreter does to it.
        assert_eq!(
            found(&nginx, "/main"),
            json!([
                "three",
                "three",
                "main",
                "by-nginx",
                path,
                ["three", "three", "by-nginx", path],
                "three three main\n"
            ])
        );
        let in_c = json!(["three", "three", "by-nginx", path]);
        assert_eq!(found(&nginx, "/a"), json!(["one", "one", "a", "by-nginx", path, in_c, "one one a\n"]));
        assert_eq!(found(&nginx, "/b"), json!(["two", "two", "b", "by-nginx", path, in_c, "two two b\n"]));
        assert_eq!(found(&nginx, "/c"), json!([null, "none", "c", "by-nginx", "/opt", in_c, "none c\n"]));
    }
}

/// Every way to change `os.environ`, and every way to start a program that gets it.
#[test]
fn the_environment_is_a_whole_one_and_programs_get_it() {
    let source = reporting(
        r#"
import multiprocessing
import subprocess

def read(name):
    with open(name) as file:
        return file.read()

def raised(function):
    try:
        function()
    except Exception as error:
        return type(error).__name__
    return "nothing"

def report(environ):
    os.environ["MODE"] = "x"
    results = {}
    results["run"] = subprocess.check_output(["/bin/sh", "-c", "echo $MODE"], text=True)
    results["close_fds"] = subprocess.check_output(["/bin/sh", "-c", "echo $MODE"], text=True, close_fds=False)
    results["env"] = subprocess.check_output(["/bin/sh", "-c", "echo $MODE"], text=True, env={"MODE": "given"})
    with os.popen("echo $MODE") as pipe:
        results["popen"] = pipe.read()
    results["system"] = [os.system("test $MODE = x"), os.waitstatus_to_exitcode(os.system("exit 3")), os.system("kill -9 $$")]
    shell = ["/bin/sh", "-c", "echo $MODE > @prefix@/spawned"]
    os.waitpid(os.posix_spawn("/bin/sh", shell, os.environ), 0)
    results["posix_spawn"] = read("@prefix@/spawned")
    shell = ["/bin/sh", "-c", "echo $MODE > @prefix@/multiprocessing"]
    process = multiprocessing.get_context("spawn").Process(target=subprocess.call, args=(shell,))
    process.start()
    process.join()
    process.close()
    results["multiprocessing"] = read("@prefix@/multiprocessing")
    results["bytes"] = [os.environb[b"MODE"].decode(), os.getenv("MODE"), os.getenvb(b"MODE").decode()]
    os.environb[b"MODE"] = b"y"
    results["from bytes"] = os.environ["MODE"]
    os.putenv("MODE", "z")
    results["putenv"] = subprocess.check_output(["/bin/sh", "-c", "echo $MODE"], text=True)
    os.unsetenv("MODE")
    results["unsetenv"] = subprocess.check_output(["/bin/sh", "-c", "echo $MODE"], text=True)
    os.environ["MODE"] = "u"
    del os.environ["MODE"]
    results["del"] = ["MODE" in os.environ, os.environ.pop("MODE", "gone"), raised(lambda: os.environ.pop("MODE"))]
    results["update"] = (os.environ.update(A="1", B="2"), os.environ["A"] + os.environ["B"])[1]
    results["copy"] = type(os.environ.copy()).__name__
    results["wrong"] = [
        raised(lambda: os.environ.__setitem__("A=B", "x")),
        raised(lambda: os.environ.__setitem__("A\0B", "x")),
        raised(lambda: os.environ.__setitem__("", "x")),
        raised(lambda: os.environ.__setitem__("A", 1)),
        raised(lambda: os.environ.__delitem__("MISSING")),
    ]
    count = len(os.environ)
    os.environ.clear()
    results["clear"] = [count > 3, len(os.environ), subprocess.check_output(["/usr/bin/env"], text=True)]
    return results
"#,
    );
    let nginx = Site::plain().app(&source).http(ON).start();
    let results = found(&nginx, "/");
    assert_eq!(
        results,
        json!({
            "run": "x\n",
            "close_fds": "x\n",
            "env": "given\n",
            "popen": "x\n",
            "system": [0, 3, 9],
            "posix_spawn": "x\n",
            "multiprocessing": "x\n",
            "bytes": ["x", "x", "x"],
            "from bytes": "y",
            "putenv": "z\n",
            "unsetenv": "\n",
            "del": [false, "gone", "KeyError"],
            "update": "12",
            "copy": "dict",
            "wrong": ["ValueError", "ValueError", "ValueError", "TypeError", "KeyError"],
            "clear": [true, 0, ""],
        })
    );
}

/// `exec` replaces a process, so it is looked at in one that `multiprocessing` has started and one that has only a stub.
#[test]
fn exec_passes_the_environment_of_the_interpreter() {
    let source = reporting(
        r#"
def report(environ):
    os.environ["MODE"] = "x"
    seen = []
    def execve(path, argv, env):
        seen.append([path, list(argv), env["MODE"]])
    # The functions without an environment all end in this one.
    for name, cell in zip(os.execv.__code__.co_freevars, os.execv.__closure__):
        if name == "execve":
            cell.cell_contents = execve
    os.execv("/bin/true", ["true"])
    os.execl("/bin/true", "true", "a")
    return seen
"#,
    );
    let nginx = Site::plain().app(&source).http(ON).start();
    assert_eq!(found(&nginx, "/"), json!([["/bin/true", ["true"], "x"], ["/bin/true", ["true", "a"], "x"]]));
}

/// Two projects with the same module names, of settings, URLs and databases of their own.
#[test]
fn two_django_projects_do_not_see_each_other() {
    let project = |site: Site, directory: &str, word: &str| {
        site.file(&format!("{directory}/project/__init__.py"), "")
            .file(
                &format!("{directory}/project/settings.py"),
                &format!(
                    r#"
SECRET_KEY = "{word}"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "project.urls"
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "@prefix@/{directory}/db.sqlite3"}}}}
USE_TZ = True
TIME_ZONE = "{zone}"
"#,
                    zone = if word == "one" { "Europe/Berlin" } else { "Asia/Tokyo" }
                ),
            )
            .file(
                &format!("{directory}/project/urls.py"),
                &format!(
                    r#"
import os
from django.conf import settings
from django.db import connection
from django.http import JsonResponse
from django.urls import path, reverse
from django.utils import timezone

def view(request):
    with connection.cursor() as cursor:
        cursor.execute("create table if not exists words (word text)")
        cursor.execute("insert into words values (%s)", ["{word}"])
        cursor.execute("select word from words")
        words = sorted({{row[0] for row in cursor.fetchall()}})
    return JsonResponse({{
        "settings": os.environ["DJANGO_SETTINGS_MODULE"], "key": settings.SECRET_KEY, "words": words,
        "url": reverse("{word}"), "file": settings.DATABASES["default"]["NAME"],
        "zone": timezone.get_current_timezone_name(),
    }})

urlpatterns = [path("{directory}/{word}/", view, name="{word}")]
"#
                ),
            )
            .file(&format!("{directory}/project/{word}_settings.py"), "from project.settings import *\n")
            .file(
                &format!("{directory}/project/wsgi.py"),
                &format!(
                    r#"
import os
from django.core.wsgi import get_wsgi_application
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.{word}_settings")
application = get_wsgi_application()
"#
                ),
            )
    };
    let site = Site::plain().http(&format!("wsgi_python_home {};", venv().display())).http(ON);
    let site = project(project(site, "a", "one"), "b", "two");
    let nginx = site
        .location("/a/", "wsgi_pass a/project/wsgi.py; wsgi_script_name \"\";")
        .location("/b/", "wsgi_pass b/project/wsgi.py; wsgi_script_name \"\";")
        .start();
    for _ in 0..3 {
        for (directory, word, zone) in [("a", "one", "Europe/Berlin"), ("b", "two", "Asia/Tokyo")] {
            let database = nginx.prefix().join(directory).join("db.sqlite3");
            assert_eq!(
                found(&nginx, &format!("/{directory}/{word}/")),
                json!({
                    "settings": format!("project.{word}_settings"), "key": word, "words": [word],
                    "url": format!("/{directory}/{word}/"), "file": database, "zone": zone,
                })
            );
        }
    }
    nginx.get("/a/two/").expect(404);
    nginx.get("/b/one/").expect(404);
}

// ---- threads, forks and signals -------------------------------------------------------------------------------------

#[test]
fn the_main_thread_of_an_interpreter_is_a_lasting_one() {
    let source = reporting(
        r#"
imported_on = threading.current_thread()
native = threading.get_native_id()

def report(environ):
    main = threading.main_thread()
    return [
        imported_on is main, main.is_alive(), main.ident != threading.get_ident(), main.native_id == native,
        threading.current_thread() is main, native in map(int, os.listdir("/proc/self/task")),
        native == os.getpid(), len([thread for thread in threading.enumerate() if thread is main]),
    ]
"#,
    );
    for gil in gils() {
        let nginx = Site::plain().app(&source).http(ON).http(&format!("wsgi_interpreter_gil {gil};")).start();
        assert_eq!(found(&nginx, "/"), json!([true, true, true, true, false, true, false, 1]));
    }
}

#[test]
fn threads_of_the_application_are_in_its_interpreter() {
    let source = reporting(
        r#"
from concurrent.futures import ThreadPoolExecutor
executor = ThreadPoolExecutor(2)
lines = []

def work():
    lines.append(ngx_wsgi.interpreter)
    print("printed in a thread of", ngx_wsgi.interpreter)

def report(environ):
    for daemon in (True, False):
        thread = threading.Thread(target=work, daemon=daemon)
        thread.start()
        thread.join()
    executor.submit(work).result()
    return lines
"#,
    );
    for gil in gils() {
        let nginx = Site::plain()
            .app(&source)
            .http(&format!("{ON} wsgi_interpreter x; wsgi_interpreter_gil {gil};"))
            .errors_expected()
            .start();
        assert_eq!(found(&nginx, "/"), json!(["x", "x", "x"]));
        wait_for("the lines", || (nginx.logged("printed in a thread of x").len() == 3).then_some(()));
    }
}

#[test]
fn a_fork_is_refused_with_a_sentence() {
    let source = reporting(
        r#"
import multiprocessing

def refused(function):
    try:
        function()
    except RuntimeError as error:
        return "wsgi_use_main_interpreter" in str(error)

def report(environ):
    process = multiprocessing.get_context("fork").Process(target=print)
    return [refused(os.fork), refused(os.forkpty), refused(process.start)]
"#,
    );
    for gil in gils() {
        let nginx = Site::plain().app(&source).http(&format!("{ON} wsgi_interpreter_gil {gil};")).start();
        assert_eq!(found(&nginx, "/"), json!([true, true, true]));
    }
}

/// Python would remove the others in the child, and hang or abort there.
#[test]
fn a_fork_is_refused_in_the_main_interpreter_beside_others() {
    let source = reporting(
        r#"
import multiprocessing

def refused(function):
    try:
        if function() == 0:
            os._exit(1)
    except RuntimeError as error:
        return "has sub-interpreters" in str(error)

def report(environ):
    process = multiprocessing.get_context("fork").Process(target=print)
    return [refused(os.fork), refused(os.forkpty), refused(process.start)]
"#,
    );
    let nginx = Site::plain()
        .http(ON)
        .file("main.py", &source)
        .file("other.py", &source)
        .location("/main", "wsgi_use_main_interpreter on; wsgi_pass main.py;")
        .location("/other", "wsgi_pass other.py;")
        .start();
    found(&nginx, "/other");
    assert_eq!(found(&nginx, "/main"), json!([true, true, true]));
}

#[test]
fn signal_handlers_are_ignored_as_in_the_main_interpreter() {
    let source = reporting(
        r#"
import signal
signal.signal(signal.SIGTERM, lambda *_: None)

def report(environ):
    try:
        signal.signal(signal.SIGTERM, lambda *_: None)
    except ValueError:
        return "ValueError"
"#,
    );
    for gil in gils() {
        let nginx =
            Site::plain().app(&source).http(&format!("{ON} wsgi_interpreter_gil {gil};")).errors_expected().start();
        assert_eq!(found(&nginx, "/"), "ValueError");
        nginx.wait_log("signal.signal(SIGTERM) ignored");
        nginx.terminate();
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
        round(300);
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

// ---- copies ---------------------------------------------------------------------------------------------------------

/// Says which copy answers, and how often that has done so; with a query it first waits for the file of that name.
const COPY: &str = r#"
count = 0

def report(environ):
    global count
    count += 1
    event(ngx_wsgi.interpreter)
    name = environ["QUERY_STRING"]
    while name and not os.path.exists("@prefix@/" + name):
        time.sleep(0.005)
    return [ngx_wsgi.interpreter, count, environ["wsgi.multithread"], environ["wsgi.multiprocess"]]
"#;

#[test]
fn copies_are_isolated_and_run_side_by_side() {
    for gil in gils() {
        let nginx = Site::plain()
            .app(&reporting(COPY))
            .http(&format!("{ON} wsgi_interpreter x; wsgi_interpreters 3; wsgi_threads 1; wsgi_interpreter_gil {gil};"))
            .start();
        std::thread::scope(|scope| {
            let calls: Vec<_> = (0..3).map(|_| scope.spawn(|| found(&nginx, "/?go"))).collect();
            wait_for("three calls under way", || (nginx.events().len() == 3).then_some(()));
            nginx.write("go", "");
            let mut answers: Vec<Value> = calls.into_iter().map(|call| call.join().unwrap()).collect();
            answers.sort_by_key(ToString::to_string);
            // Each has a module of its own; and copies are to an application as processes are.
            let copy = |number| json!([format!("x#{number}"), 1, false, true]);
            assert_eq!(answers, [copy(1), copy(2), copy(3)]);
        });
    }
}

/// A call that takes long in one copy does not hold up those behind it: any copy takes the next one.
#[test]
fn copies_have_one_queue() {
    let nginx = Site::plain()
        .app(&reporting(COPY))
        .http(&format!("{ON} wsgi_interpreter x; wsgi_interpreters 2; wsgi_threads 1;"))
        .start();
    std::thread::scope(|scope| {
        let stuck = scope.spawn(|| found(&nginx, "/?go"));
        wait_for("the first call", || (nginx.events().len() == 1).then_some(()));
        let copies: Vec<Value> = (0..10).map(|_| found(&nginx, "/")[0].clone()).collect();
        nginx.write("go", "");
        let stuck = stuck.join().unwrap();
        assert!(copies.iter().all(|copy| *copy != stuck[0]), "{copies:?} beside {stuck}");
    });
}

/// One that fails is tried again in the copies that have not loaded it.
#[test]
fn an_application_is_loaded_when_all_copies_have_it() {
    let nginx = Site::plain()
        .app(&reporting(
            r##"
event(f"imported by {ngx_wsgi.interpreter}")
if ngx_wsgi.interpreter.endswith("#2") and not os.path.exists("@prefix@/there"):
    raise LookupError("not there")
def report(environ): return "fine"
"##,
        ))
        .http(&format!("{ON} wsgi_interpreter x; wsgi_interpreters 2;"))
        .errors_expected()
        .start();
    nginx.get("/").expect(500);
    nginx.wait_log("LookupError: not there");
    nginx.write("there", "");
    for _ in 0..4 {
        assert_eq!(found(&nginx, "/"), "fine");
    }
    let imports = nginx.events();
    let of = |copy: &str| imports.iter().filter(|line| line.ends_with(copy)).count();
    assert!(of("#1") == 1 && of("#2") >= 2, "{imports:?}");
}

/// The rest of a response whose file nginx has sent runs where it began.
#[test]
fn a_call_goes_on_in_its_copy() {
    let source = r#"
import os
import ngx_wsgi

class File:
    def __init__(self): self.file, self.interpreter = open("@prefix@/big", "rb"), ngx_wsgi.interpreter
    def read(self, size): return self.file.read(size)
    def fileno(self): return self.file.fileno()
    def close(self):
        self.file.close()
        with open("@prefix@/events", "a") as events:
            events.write("same\n" if self.interpreter == ngx_wsgi.interpreter else "another\n")

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", str(os.path.getsize("@prefix@/big")))])
    return environ["wsgi.file_wrapper"](File())
"#;
    for gil in gils() {
        let nginx = Site::plain()
            .app(source)
            .file("big", &"x".repeat(3_000_000))
            .http(&format!("{ON} wsgi_interpreters 3; wsgi_interpreter_gil {gil};"))
            .start();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let nginx = &nginx;
                scope.spawn(move || {
                    for _ in 0..5 {
                        assert_eq!(nginx.get("/").expect(200).body.len(), 3_000_000);
                    }
                });
            }
        });
        nginx.wait_events(&["same"; 20]);
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

// ---- the end --------------------------------------------------------------------------------------------------------

/// Application with functions that run at its end, and a sleep in the middle.
fn ending(seconds: &str) -> String {
    reporting(&format!(
        r#"
import atexit

@ngx_wsgi.on_shutdown
def bye():
    main = threading.current_thread() is threading.main_thread()
    time.sleep({seconds})
    event(f"on_shutdown in {{ngx_wsgi.interpreter}} on main thread: {{main}}")

@atexit.register
def at_exit():
    event(f"atexit in {{ngx_wsgi.interpreter}}")

def report(environ): return "fine"
"#
    ))
}

#[test]
fn each_interpreter_ends_on_its_main_thread_without_waiting() {
    for gil in gils() {
        for signal in [libc::SIGQUIT, libc::SIGTERM] {
            let mut nginx = Site::plain()
                .file("app.py", &ending("0"))
                // Waiting for this limit would be noticed.
                .http(&format!("{ON} wsgi_interpreter_gil {gil}; wsgi_shutdown_timeout 1h;"))
                .location("/a", "wsgi_pass app.py; wsgi_interpreter a;")
                .location("/b", "wsgi_pass app.py; wsgi_interpreter b; wsgi_interpreters 2;")
                .location("/c", "wsgi_pass app.py; wsgi_use_main_interpreter on; wsgi_interpreter_gil shared;")
                .start();
            for path in ["/a", "/b", "/c"] {
                nginx.get(path).expect(200);
            }
            let log = nginx.stop_by(signal);
            assert!(!log.contains("exited on signal") && !log.contains("[alert]"), "{log}");
            let events = nginx.events();
            for name in ["a", "b#1", "b#2", "main"] {
                let callback = format!("on_shutdown in {name} on main thread: True");
                let position = |line: &str| events.iter().position(|event| event == line);
                let (callback, atexit) = (position(&callback), position(&format!("atexit in {name}")));
                assert!(callback.is_some() && callback < atexit, "{name}: {events:?}");
            }
            assert_eq!(events.len(), 8, "{events:?}");
        }
    }
}

/// Each waits in its callback until all six have called theirs.
#[test]
fn interpreters_end_at_the_same_time() {
    let app = reporting(
        r#"
@ngx_wsgi.on_shutdown
def bye():
    event(f"ending {ngx_wsgi.interpreter}")
    while len(open("@prefix@/events").readlines()) < 6:
        time.sleep(0.005)

def report(environ): return "fine"
"#,
    );
    let mut nginx = Site::plain()
        .app(&app)
        .http(&format!("{ON} wsgi_interpreter x; wsgi_interpreters 6; wsgi_shutdown_timeout 1h;"))
        .start();
    nginx.get("/").expect(200);
    nginx.stop_by(libc::SIGQUIT);
    assert_eq!(nginx.events().len(), 6);
}

/// An interpreter that blocks is abandoned; the others end properly.
#[test]
fn an_interpreter_that_blocks_is_given_up() {
    let mut nginx = Site::plain()
        .file("a.py", &ending("1000"))
        .file("b.py", &ending("0"))
        .http(&format!("{ON} wsgi_shutdown_timeout 1s;"))
        .location("/a", "wsgi_pass a.py; wsgi_interpreter a;")
        .location("/b", "wsgi_pass b.py; wsgi_interpreter b;")
        .start();
    nginx.get("/a").expect(200);
    nginx.get("/b").expect(200);
    let log = nginx.stop_by(libc::SIGQUIT);
    assert!(!log.contains("exited on signal"), "{log}");
    assert_eq!(nginx.events(), ["on_shutdown in b on main thread: True", "atexit in b"]);
}

#[test]
fn reloads_under_load_start_and_end_interpreters() {
    for gil in gils() {
        let nginx = counting(&["a.py", "b.py"])
            .workers(2)
            .http(&format!("{ON} wsgi_interpreter_gil {gil};"))
            .location("/a", "wsgi_pass a.py;")
            .location("/b", "wsgi_pass b.py; wsgi_interpreters 2;")
            .start();
        nginx.get("/a").expect(200);
        let loads = ["/a", "/b"].map(|path| Load::start(&nginx, path, 2));
        for _ in 0..4 {
            nginx.reload();
            nginx.get("/b").expect(200);
        }
        loads.into_iter().for_each(|load| load.stop().assert_good());
    }
}

#[test]
fn idle_interpreters_use_no_processor_time() {
    let nginx =
        counting(&["a.py"]).http(&format!("{ON} wsgi_interpreters 5;")).location("/a", "wsgi_pass a.py;").start();
    nginx.get("/a").expect(200);
    let worker = Process(nginx.workers()[0]);
    // Work that a call has started ends.
    std::thread::sleep(Duration::from_millis(300));
    let before = worker.cpu();
    std::thread::sleep(Duration::from_millis(1000));
    assert!(worker.cpu() - before < Duration::from_millis(50), "{:?} in a second", worker.cpu() - before);
}
