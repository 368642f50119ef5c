//! Sub-interpreters: threads, forks and signals of applications.

use crate::harness::{Site, wait_for};
use crate::interpreters::{ON, found, gils, reporting};
use serde_json::json;

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
