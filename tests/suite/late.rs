//! Objects of a request that an application keeps and uses when the request is over.

use crate::harness::{Engine, Site, both_engines, wait_for};

both_engines!(
    late_use_is_a_clean_exception,
    late_use_by_another_thread_is_a_clean_exception,
    late_use_after_the_client_has_gone_is_a_clean_exception,
    kept_environs_stay_what_they_were,
    objects_may_outlive_their_thousandth_successor,
);

/// `/keep` keeps everything; `/use` uses it and responds with what did not behave.
const KEEPER: &str = r#"
import os
import threading
import time

kept = []

@event@

def attempt(wrong, what, action, must_fail=True):
    try:
        result = action()
        if must_fail:
            wrong.append(f"{what}: {result!r}")
    except Exception:
        pass
    except BaseException as e:
        wrong.append(f"{what}: {e!r}")

def use():
    wrong = []
    for environ, start_response, write in kept:
        if environ["PATH_INFO"] not in ("/keep", "/gone"):
            wrong.append(f"PATH_INFO {environ['PATH_INFO']}")
        file = environ["wsgi.input"]
        attempt(wrong, "read", lambda: file.read())
        attempt(wrong, "read 1", lambda: file.read(1))
        attempt(wrong, "readline", lambda: file.readline())
        attempt(wrong, "readlines", lambda: file.readlines())
        attempt(wrong, "next", lambda: next(file))
        attempt(wrong, "iter", lambda: list(file))
        attempt(wrong, "start_response", lambda: start_response("200 OK", []))
        attempt(wrong, "start_response again", lambda: start_response("200 OK", [], (None, None, None)))
        attempt(wrong, "write", lambda: write(b"late"))
        attempt(wrong, "write nothing", lambda: write(b""), must_fail=False)
        errors = environ["wsgi.errors"]
        # May still be logged.
        attempt(wrong, "errors.write", lambda: errors.write("late line\n"), must_fail=False)
        attempt(wrong, "errors.flush", lambda: errors.flush(), must_fail=False)
        for thing in (file, errors, start_response, write):
            attempt(wrong, "repr", lambda: repr(thing), must_fail=False)
            attempt(wrong, "dir", lambda: [getattr(thing, name) for name in dir(thing)], must_fail=False)
    return wrong

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/keep":
        write = start_response("200 OK", [])
        kept.append((environ, start_response, write))
        return [b"kept"]
    if path == "/gone":
        write = start_response("200 OK", [])
        kept.append((environ, start_response, write))
        return endless()
    wrong = []
    if path == "/use":
        wrong = use()
    if path == "/use-by-thread":
        thread = threading.Thread(target=lambda: wrong.extend(use()))
        thread.start()
        thread.join()
    if path == "/forget":
        kept.clear()
    start_response("200 OK", [])
    return [repr(wrong).encode()]

def endless():
    try:
        while True:
            yield b"x" * 65536
    finally:
        event("ended")
"#;

fn late_use_is_a_clean_exception(engine: Engine) {
    late_use(engine, "/use");
}

fn late_use_by_another_thread_is_a_clean_exception(engine: Engine) {
    late_use(engine, "/use-by-thread");
}

fn late_use(engine: Engine, path: &str) {
    let nginx = Site::new(engine).app(KEEPER).http("client_body_buffer_size 1k;").errors_expected().start();
    let workers = nginx.workers();
    // None of these bodies has been read, in memory or in a file.
    for size in [0, 10, 50_000] {
        nginx.post("/keep", "x".repeat(size)).expect(200);
    }
    assert_eq!(nginx.get(path).expect(200).text(), "[]");
    assert_eq!(nginx.get(path).expect(200).text(), "[]");
    nginx.get("/forget").expect(200);
    assert_eq!(nginx.workers(), workers);
}

fn late_use_after_the_client_has_gone_is_a_clean_exception(engine: Engine) {
    let nginx = Site::new(engine).app(KEEPER).errors_expected().start();
    for _ in 0..3 {
        let before = nginx.events().len();
        let mut conn = nginx.connect();
        conn.send("POST /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
        conn.read_exactly(100_000);
        conn.reset();
        wait_for("the end of the iteration", || (nginx.events().len() > before).then_some(()));
    }
    assert_eq!(nginx.get("/use").expect(200).text(), "[]");
    nginx.get("/forget").expect(200);
}

fn kept_environs_stay_what_they_were(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
kept = []

def application(environ, start_response):
    kept.append(environ)
    wrong = [e["QUERY_STRING"] for i, e in enumerate(kept)
             if e["QUERY_STRING"] != f"q{i}" or e["HTTP_X_MINE"] != f"header {i}" * 20]
    start_response("200 OK", [])
    return [repr(wrong).encode()]
"#,
        )
        .start();
    for i in 0..200 {
        let value = format!("header {i}").repeat(20);
        let response = nginx.request("GET", &format!("/?q{i}"), &[("X-Mine", &value)], b"");
        assert_eq!(response.expect(200).text(), "[]");
    }
}

fn objects_may_outlive_their_thousandth_successor(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
import gc
import random

kept = [None] * 50

def application(environ, start_response):
    # In a cycle, so that the collector frees it, at some time and on some thread.
    mine = [environ, start_response, start_response("200 OK", [])]
    mine.append(mine)
    kept[random.randrange(50)] = mine
    if random.random() < 0.02:
        gc.collect()
    return [b"fine"]
"#,
        )
        .start();
    let workers = nginx.workers();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let nginx = &nginx;
            scope.spawn(move || {
                let mut conn = nginx.connect();
                for _ in 0..250 {
                    conn.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
                    assert_eq!(conn.response().expect(200).text(), "fine");
                }
            });
        }
    });
    assert_eq!(nginx.workers(), workers);
}
