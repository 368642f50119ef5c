//! Sub-interpreters: their end, and reloads.

use crate::harness::{Load, Process, Site};
use crate::interpreters::{ON, counting, gils, reporting};

use std::time::Duration;

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
fn an_interpreter_that_blocks_is_aborted() {
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
