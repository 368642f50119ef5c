//! Recycling of workers: for their calls, their memory or a stuck thread; one at a time, and no request is lost.

use crate::harness::{Engine, Load, Nginx, Process, Site, both_engines, wait_for};
use std::collections::BTreeSet;
use std::time::Duration;

both_engines!(
    calls_wear_workers_out_and_no_request_is_lost,
    a_worker_is_recycled_after_its_calls,
    jitter_adds_some_calls,
    a_worker_that_exceeds_its_memory_is_recycled,
    a_single_process_is_never_recycled,
    workers_are_recycled_after_a_reload_too,
    a_call_is_not_cut_when_its_worker_is_recycled,
);

const APP: &str = r#"
import os
import time

kept = []

@event@

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    path = environ["PATH_INFO"]
    if path == "/eat":
        kept.append(b"x" * (100 << 20))
    if path == "/sleep":
        event("sleeps")
        time.sleep(1)
    if path == "/stuck":
        event("stuck")
        time.sleep(60)
    return [str(os.getpid()).encode()]
"#;

fn site(engine: Engine, directives: &str) -> Site {
    Site::new(engine).app(APP).http(directives).http("keepalive_requests 100000;")
}

/// Returns the process that serves a new connection.
fn pid(nginx: &Nginx) -> i32 {
    let mut conn = nginx.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    conn.response().expect(200).text().parse().unwrap()
}

/// Waits until so many more workers have been recycled.
#[track_caller]
fn wait_recycled(nginx: &Nginx, count: usize) {
    let recycled = || nginx.logged("worker shutting down gracefully").len();
    let before = recycled();
    wait_for(&format!("{count} recycled workers"), || (recycled() >= before + count).then_some(()));
}

/// By the log, no worker is recycled before the one that followed the last had been started.
#[track_caller]
pub fn assert_one_at_a_time(log: &str) {
    let mut missing: Option<String> = None;
    let mut has_exited = false;
    for line in log.lines() {
        if line.contains("worker shutting down gracefully") {
            assert_eq!(missing, None, "{log}");
            let (_, rest) = line.split_once("] ").unwrap();
            missing = Some(rest.split('#').next().unwrap().to_owned());
            has_exited = false;
        } else if let Some(pid) = &missing {
            if line.contains(&format!("worker process {pid} exited with code 0")) {
                has_exited = true;
            } else if has_exited && line.contains("start worker process ") {
                missing = None;
            }
        }
    }
}

fn calls_wear_workers_out_and_no_request_is_lost(engine: Engine) {
    let nginx = site(engine, "wsgi_max_requests 200 100;").workers(3).start();
    let load = Load::start(&nginx, "/", 6);
    wait_recycled(&nginx, 5);
    load.stop().assert_good();
    assert_one_at_a_time(&nginx.error_log());
}

/// Sends requests until another worker responds; returns the number of calls of the first one.
fn calls_of_one_worker(nginx: &Nginx) -> usize {
    let first = pid(nginx);
    let mut count = 1;
    while pid(nginx) == first {
        count += 1;
        assert!(count < 1000, "it is not recycled");
    }
    count
}

fn a_worker_is_recycled_after_its_calls(engine: Engine) {
    let nginx = site(engine, "wsgi_max_requests 10;").start();
    assert_eq!(calls_of_one_worker(&nginx), 10);
    // The first call of the next one was made to find it.
    assert_eq!(calls_of_one_worker(&nginx), 9);
    let line = nginx.wait_log("worker shutting down gracefully: wsgi_max_requests reached");
    assert!(line.contains("[notice]"), "{line}");
}

fn jitter_adds_some_calls(engine: Engine) {
    let nginx = site(engine, "wsgi_max_requests 10 20;").start();
    let mut counts = vec![calls_of_one_worker(&nginx)];
    for _ in 0..5 {
        // One was made to find it.
        counts.push(calls_of_one_worker(&nginx) + 1);
    }
    assert!(counts.iter().all(|count| (10..=30).contains(count)), "{counts:?}");
    assert!(counts.iter().any(|count| *count != counts[0]), "{counts:?}");
}

fn a_worker_that_exceeds_its_memory_is_recycled(engine: Engine) {
    let nginx = site(engine, "wsgi_max_memory 90m;").start();
    let first = pid(&nginx);
    // It stays as long as it is below.
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(pid(&nginx), first);
    nginx.get("/eat").expect(200);
    Process(first).wait_gone();
    let line = nginx.wait_log("MB exceeds wsgi_max_memory");
    assert!(line.contains("(90 MB)"), "{line}");
    assert_ne!(pid(&nginx), first);
}

fn a_single_process_is_never_recycled(engine: Engine) {
    let nginx = site(engine, "wsgi_max_requests 3; wsgi_max_memory 1m;").main("master_process off;").start();
    for _ in 0..10 {
        assert_eq!(pid(&nginx), nginx.master());
    }
    std::thread::sleep(Duration::from_millis(1300));
    assert_eq!(pid(&nginx), nginx.master());
    assert_eq!(nginx.logged("worker cannot be recycled with \"master_process off\"").len(), 1);
}

fn workers_are_recycled_after_a_reload_too(engine: Engine) {
    let nginx = site(engine, "wsgi_max_requests 100 20;").workers(2).start();
    let load = Load::start(&nginx, "/", 4);
    wait_recycled(&nginx, 1);
    // The worker that recycles now is replaced by the reload, and passes the lock on.
    nginx.signal(libc::SIGHUP);
    nginx.wait_log("reconfiguring");
    wait_recycled(&nginx, 4);
    load.stop().assert_good();
}

fn a_call_is_not_cut_when_its_worker_is_recycled(engine: Engine) {
    let nginx = site(engine, "wsgi_max_requests 1;").start();
    let mut conn = nginx.connect();
    conn.send("GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n");
    let first: i32 = conn.response().expect(200).text().parse().unwrap();
    Process(first).wait_gone();
    nginx.wait_log(&format!("worker process {first} exited with code 0"));
}

/// Two workers with a stuck thread each; their applications take a while to be imported.
#[test]
fn of_two_stuck_workers_one_is_recycled_at_a_time() {
    let source = format!("{APP}\ntime.sleep(0.7)\nprint('imported by', os.getpid())\n");
    let nginx = Site::plain()
        .workers(2)
        .http("wsgi_threads 1;")
        .app(&source)
        .location("/stuck", "wsgi_pass app.py; wsgi_script_name \"\"; wsgi_request_timeout 300ms;")
        .errors_expected()
        .start();
    let old = nginx.workers();
    let mut pids = BTreeSet::new();
    let mut conns = Vec::new();
    // A busy worker does not take another connection at once, so each gets one.
    while pids.len() < 2 {
        let mut conn = nginx.connect();
        conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        if pids.insert(conn.response().expect(200).text()) {
            conns.push(conn);
        }
    }
    for conn in &mut conns {
        conn.send("GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for conn in &mut conns {
        conn.response().expect(504);
    }
    for pid in &old {
        Process(*pid).wait_gone();
    }
    let log = nginx.error_log();
    let recycled: Vec<usize> = log.match_indices("worker shutting down gracefully").map(|(at, _)| at).collect();
    assert_eq!(recycled.len(), 2, "{log}");
    let between = &log[recycled[0]..recycled[1]];
    assert!(between.contains("exited with code 0") && between.contains("imported by"), "{log}");
}

/// The lock of a worker that is killed while it is recycled goes to its successor, and on.
#[test]
fn a_holder_that_dies_does_not_keep_the_token() {
    let mut nginx = Site::plain().app(APP).http("wsgi_threads 2; wsgi_max_requests 2;").errors_expected().start();
    let mut conn = nginx.connect();
    conn.send("GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n");
    nginx.wait_events(&["stuck"]);
    let first = pid(&nginx);
    nginx.wait_log("worker shutting down gracefully");
    Process(first).signal(libc::SIGKILL);
    Process(first).wait_gone();
    nginx.wait_expected_error(&format!("[alert] {}#{0}: worker process {first} exited on signal 9", nginx.master()));
    let second = pid(&nginx);
    assert_eq!(pid(&nginx), second);
    Process(second).wait_gone();
    wait_for("the third", || (nginx.workers().len() == 1).then_some(()));
    assert_ne!(pid(&nginx), second);
}
