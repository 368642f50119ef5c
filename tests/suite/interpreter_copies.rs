//! `wsgi_interpreters`: several copies of an application in a worker.

use crate::harness::{Site, wait_for};
use crate::interpreters::{ON, found, gils, reporting};
use serde_json::{Value, json};

/// Responds with the name of the copy and its number of calls; with a query it first waits for the file of that name.
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
            let mut responses: Vec<Value> = calls.into_iter().map(|call| call.join().unwrap()).collect();
            responses.sort_by_key(ToString::to_string);
            // Each has a module of its own; and copies are to an application as processes are.
            let copy = |number| json!([format!("x#{number}"), 1, false, true]);
            assert_eq!(responses, [copy(1), copy(2), copy(3)]);
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
