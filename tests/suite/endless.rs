//! Endless responses: they end with their client, let other requests run, and never keep a worker from exiting.

use crate::harness::{Engine, Nginx, Process, Site, both_engines, uses_process_group, wait_for};

both_engines!(
    a_head_request_for_an_endless_response_ends_with_its_client,
    items_beyond_the_length_are_not_requested,
    a_silent_response_ends_with_its_client,
    an_endless_response_does_not_starve_others,
    an_endless_response_that_nginx_discards_does_not_starve_others,
    an_endless_response_does_not_keep_a_worker,
    the_code_after_the_last_item_runs,
);

const APP: &str = r#"
import time

@event@

def endless(item, pause):
    event("started")
    try:
        while True:
            if pause:
                time.sleep(pause)
            yield item
    finally:
        event("closed")

def exact():
    yield b"exact"
    event("after")

def application(environ, start_response):
    path = environ["PATH_INFO"]
    headers = [("Content-Type", "text/plain")]
    if path in ("/length", "/exact"):
        headers.append(("Content-Length", "5"))
    start_response("200 OK", headers)
    if path == "/exact":
        return exact()
    if path == "/small":
        return [b"small"]
    return endless(b"" if path == "/silent" else b"x" * 1000, 0.02 if path == "/silent" else 0)
"#;

fn site(engine: Engine) -> Site {
    Site::new(engine).app(APP).location("= /static", "return 200 static;")
}

/// As many requests as there are threads: none would be left if one call did not return.
const TIMES: usize = 4;

fn wait_event(nginx: &Nginx, name: &str, times: usize) {
    let what = format!("{times} times {name:?}");
    wait_for(&what, || (nginx.events().iter().filter(|event| *event == name).count() == times).then_some(()));
}

fn wait_closed(nginx: &Nginx, times: usize) {
    wait_event(nginx, "closed", times);
    assert_eq!(nginx.get("/small").expect(200).text(), "small");
}

fn a_head_request_for_an_endless_response_ends_with_its_client(engine: Engine) {
    let nginx = site(engine).start();
    for _ in 0..TIMES {
        let mut conn = nginx.connect();
        conn.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(conn.read_until("\r\n\r\n").starts_with(b"HTTP/1.1 200 OK"));
    }
    wait_closed(&nginx, TIMES);
}

fn items_beyond_the_length_are_not_requested(engine: Engine) {
    let nginx = site(engine).errors_expected().start();
    for _ in 0..TIMES {
        assert_eq!(nginx.get("/length").expect(200).text(), "xxxxx");
    }
    wait_closed(&nginx, TIMES);
    assert!(nginx.wait_log("exceeded its Content-Length").contains("GET /length"));
}

fn the_code_after_the_last_item_runs(engine: Engine) {
    let nginx = site(engine).start();
    assert_eq!(nginx.get("/exact").expect(200).text(), "exact");
    nginx.wait_events(&["after"]);
}

fn a_silent_response_ends_with_its_client(engine: Engine) {
    let nginx = site(engine).start();
    for time in 1..=TIMES {
        let mut conn = nginx.connect();
        conn.send("GET /silent HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_event(&nginx, "started", time);
    }
    wait_closed(&nginx, TIMES);
}

fn an_endless_response_does_not_starve_others(engine: Engine) {
    let nginx = site(engine).start();
    let mut conn = nginx.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let reader = std::thread::spawn(move || {
        for _ in 0..200 {
            conn.read_exactly(1 << 20);
        }
    });
    while !reader.is_finished() {
        assert_eq!(nginx.get("/static").expect(200).text(), "static");
        assert_eq!(nginx.get("/small").expect(200).text(), "small");
    }
    reader.join().unwrap();
    wait_closed(&nginx, 1);
}

/// Of an `auth_request` only the status counts.
fn an_endless_response_that_nginx_discards_does_not_starve_others(engine: Engine) {
    let nginx = site(engine)
        .location("= /auth", "internal; wsgi_pass app.py;")
        .location("= /behind", "auth_request /auth; wsgi_pass app.py;")
        .start();
    let mut conn = nginx.connect();
    conn.send("GET /behind HTTP/1.1\r\nHost: a\r\n\r\n");
    // nginx's proxy ends the first call when it has the status, so that a process group is called for the page as well.
    let calls = if uses_process_group() { 2 } else { 1 };
    wait_event(&nginx, "started", calls);
    for _ in 0..10 {
        assert_eq!(nginx.get("/static").expect(200).text(), "static");
    }
    drop(conn);
    wait_closed(&nginx, calls);
}

fn an_endless_response_does_not_keep_a_worker(engine: Engine) {
    // Without worker_shutdown_timeout nginx itself would wait for ever.
    let nginx = site(engine).http("wsgi_shutdown_timeout 1s;").errors_expected().start();
    let worker = Process(nginx.workers()[0]);
    let mut conn = nginx.connect();
    conn.send("GET /silent HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_event(&nginx, "started", 1);
    nginx.reload();
    worker.wait_gone();
    assert!(conn.read_until("\r\n").starts_with(b"HTTP/1.1 503"));
    assert!(nginx.wait_log("wsgi_shutdown_timeout").contains("[warn]"));
}
