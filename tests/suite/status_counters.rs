//! `wsgi_status_zone`: each figure is driven to a known value and read in JSON, as metric and by `ngx_wsgi.status()`.

use crate::harness::{Conn, Engine, GroupNginx, Nginx, PATIENCE, Process, Site, both_engines, wait_for};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Instant;

both_engines!(each_figure_is_right_in_all_formats, the_reasons_of_ended_workers_are_known);

const APP: &str = r#"
import os, time
from wsgiref.util import FileWrapper

@event@

class Odd(Exception):
    pass

kept = []

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/odd":
        raise Odd("oh")
    if path == "/value":
        raise ValueError("<script>")
    if path == "/spin":
        while True:
            pass
    if path == "/stuck":
        time.sleep(60)
    if path == "/wait":
        event("waits")
        while not os.path.exists("@prefix@/open"):
            time.sleep(0.005)
    if path == "/sleep":
        time.sleep(0.12)
    if path == "/eat":
        kept.append(b"x" * (100 << 20))
    received = len(environ["wsgi.input"].read())
    status = {"/302": "302 Found", "/404": "404 Not Found", "/503": "503 Busy"}.get(path, "200 OK")
    start_response(status, [("Content-Type", "text/plain"), ("Location", "/")])
    if path == "/endless":
        return (b"x" * 65536 for _ in iter(int, 1))
    if path == "/file":
        return environ["wsgi.file_wrapper"](open("@prefix@/file", "rb"))
    return [b"fine"]
"#;

const REPORTER: &str = r#"
import json, ngx_wsgi

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(ngx_wsgi.status()).encode()]
"#;

/// Where a figure of an application is: below its object in JSON, and as a metric.
type Figure = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const FIGURES: [Figure; 19] = [
    ("/running", "wsgi_calls_running", &[]),
    ("/queued", "wsgi_calls_queued", &[]),
    ("/counters/calls", "wsgi_calls_total", &[]),
    ("/counters/responses/1xx", "wsgi_responses_total", &[("status", "1xx")]),
    ("/counters/responses/2xx", "wsgi_responses_total", &[("status", "2xx")]),
    ("/counters/responses/3xx", "wsgi_responses_total", &[("status", "3xx")]),
    ("/counters/responses/4xx", "wsgi_responses_total", &[("status", "4xx")]),
    ("/counters/responses/5xx", "wsgi_responses_total", &[("status", "5xx")]),
    ("/counters/refused_queue_full", "wsgi_refused_calls_total", &[("reason", "queue_full")]),
    ("/counters/refused_queue_timeout", "wsgi_refused_calls_total", &[("reason", "queue_timeout")]),
    ("/counters/timed_out", "wsgi_timed_out_calls_total", &[]),
    ("/counters/exceptions", "wsgi_failed_calls_total", &[]),
    ("/counters/client_gone", "wsgi_client_gone_calls_total", &[]),
    ("/counters/bytes_received", "wsgi_received_bytes_total", &[]),
    ("/counters/bytes_sent", "wsgi_sent_bytes_total", &[]),
    ("/counters/queue_time/count", "wsgi_queue_time_seconds_count", &[]),
    ("/counters/header_time/count", "wsgi_header_time_seconds_count", &[]),
    ("/counters/total_time/count", "wsgi_total_time_seconds_count", &[]),
    ("/counters/total_time/sum", "wsgi_total_time_seconds_sum", &[]),
];

/// Expected values by the end of their pointer; those that are not named are 0.
type Expected = BTreeMap<&'static str, u64>;

/// An nginx with the application, embedded or in the group `GROUP`.
struct Watched<'a> {
    nginx: &'a Nginx,
    group: Option<&'static str>,
}

const GROUP: &str = "blog";

/// The site: one thread or none, at most one call waits; `process` is the argument of `wsgi_pass` for it.
fn site(engine: Engine, process: &str) -> Site {
    let threads = if engine == Engine::Threads { "1" } else { "off" };
    // The event loop cannot wait for a body.
    let streamed = if engine == Engine::Threads { "wsgi_request_buffering off;" } else { "" };
    let pass = |file: &str| format!("wsgi_pass {file} {process};");
    Site::plain()
        .errors_expected()
        .http(&format!("wsgi_threads {threads}; wsgi_queue 1; wsgi_queue_timeout 400ms; wsgi_status_zone status 256k;"))
        .file("app.py", APP)
        .file("reporter.py", REPORTER)
        .file("file", &"f".repeat(100_000))
        .location("/", &pass("app.py"))
        .location("= /spin", &format!("wsgi_request_timeout 200ms; wsgi_script_name ''; {}", pass("app.py")))
        .location("= /streamed", &format!("{streamed} wsgi_script_name ''; {}", pass("app.py")))
        .location("= /reporter", &pass("reporter.py"))
        .location("= /load", "default_type text/plain; return 200 '$wsgi_busy $wsgi_waiting';")
        .location("= /status", "wsgi_status;")
}

impl Watched<'_> {
    fn of_report<'a>(&self, report: &'a Value) -> Option<&'a Value> {
        let applications = report["applications"].as_array()?;
        let is_ours = |one: &&Value| {
            one["process_group"].as_str() == self.group
                && one["name"].as_str().is_some_and(|name| name.ends_with("/app.py"))
        };
        applications.iter().find(is_ours)
    }

    fn report(&self) -> Value {
        self.nginx.get("/status?format=json").expect(200).json()
    }

    /// Waits for the values in JSON. Returns the report.
    #[track_caller]
    fn wait(&self, expected: &Expected) -> Value {
        let mut last = Value::Null;
        let is_right = |application: &Value| {
            FIGURES.iter().filter(|(pointer, ..)| !pointer.ends_with("/sum")).all(|(pointer, ..)| {
                let wanted = expected.iter().find(|(end, _)| pointer.ends_with(*end)).map_or(0, |(_, value)| *value);
                application.pointer(pointer).and_then(Value::as_u64) == Some(wanted)
            })
        };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            last = self.report();
            if self.of_report(&last).is_some_and(is_right) {
                return last;
            }
        }
        panic!("not {expected:?}: {:#}", self.of_report(&last).unwrap_or(&last));
    }

    /// Waits for the values in JSON, and compares the other formats with that.
    #[track_caller]
    fn assert(&self, expected: &Expected) -> Value {
        let report = self.wait(expected);
        let application = self.of_report(&report).unwrap();
        let of_python = self.nginx.get("/reporter").expect(200).json();
        assert_eq!(self.of_report(&of_python), Some(application), "ngx_wsgi.status()");
        let metrics = self.nginx.get("/status?format=prometheus").expect(200).text();
        for (pointer, metric, labels) in FIGURES {
            let value = application.pointer(pointer).and_then(Value::as_f64).unwrap();
            assert_eq!(self.sample(&metrics, metric, labels), Some(value), "{metric} {labels:?}\n{metrics}");
        }
        for (class, count) in application["exceptions"].as_object().unwrap() {
            let metric = self.sample(&metrics, "wsgi_exceptions_total", &[("class", class)]);
            assert_eq!(metric, count.as_f64(), "{class}");
        }
        report
    }

    /// The value of our application in the text of a metric.
    fn sample(&self, metrics: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let group = ("process_group", self.group.unwrap_or_default());
        let lines = metrics.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once("} "));
        let ours = |text: &str| {
            let mut labels = labels.iter().chain([&group]);
            text.contains("/app.py\"") && labels.all(|(label, value)| text.contains(&format!("{label}=\"{value}\"")))
        };
        lines.filter(|(text, _)| ours(text)).map(|(_, value)| value.parse().unwrap()).next()
    }

    /// Sends a request and returns the connection without its response.
    fn begin(&self, path: &str) -> Conn {
        let mut connection = self.nginx.connect();
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        connection
    }

    fn load(&self) -> String {
        self.nginx.get("/load").expect(200).text()
    }
}

fn each_figure_is_right_in_all_formats(engine: Engine) {
    let mut nginx = site(engine, "").start();
    drive_all_figures(engine, &Watched { nginx: &nginx, group: None });
    nginx.wait_expected_error("exited on signal 9");
}

#[test]
fn each_figure_of_a_process_group_is_right_in_all_formats() {
    let site =
        site(Engine::Threads, &format!("process={GROUP}")).http(&format!("wsgi_process_group {GROUP} chdir=@prefix@;"));
    let mut nginx = GroupNginx::start(site);
    drive_all_figures(Engine::Threads, &Watched { nginx: &nginx, group: Some(GROUP) });
    nginx.wait_expected_error("exited on signal 9");
}

/// Drives each figure to a value, then reloads nginx and kills the worker.
fn drive_all_figures(engine: Engine, watched: &Watched) {
    let nginx = watched.nginx;
    let mut expected = Expected::new();
    let mut add = |expected: &mut Expected, calls: u64, values: &[(&'static str, u64)]| {
        for name in ["/calls", "/queue_time/count", "/header_time/count", "/total_time/count"] {
            *expected.entry(name).or_default() += calls;
        }
        for (name, value) in values {
            *expected.entry(name).or_default() += value;
        }
    };

    // ---- responses and bodies ----
    for _ in 0..3 {
        nginx.get("/").expect(200);
    }
    add(&mut expected, 3, &[("/2xx", 3), ("/bytes_sent", 12)]);
    nginx.get("/302").expect(302);
    nginx.get("/404").expect(404);
    nginx.get("/503").expect(503);
    add(&mut expected, 3, &[("/3xx", 1), ("/4xx", 1), ("/5xx", 1), ("/bytes_sent", 12)]);
    nginx.request("HEAD", "/", &[], b"").expect(200);
    add(&mut expected, 1, &[("/2xx", 1)]);
    nginx.post("/", "b".repeat(1000)).expect(200);
    nginx.post("/streamed", "b".repeat(50_000)).expect(200);
    add(&mut expected, 2, &[("/2xx", 2), ("/bytes_received", 51_000), ("/bytes_sent", 8)]);
    assert_eq!(nginx.get("/file").expect(200).body.len(), 100_000);
    add(&mut expected, 1, &[("/2xx", 1), ("/bytes_sent", 100_000)]);
    watched.assert(&expected);

    // ---- exceptions and timeouts ----
    nginx.get("/odd").expect(500);
    nginx.get("/value").expect(500);
    nginx.get("/value").expect(500);
    add(&mut expected, 3, &[("/5xx", 3), ("/exceptions", 3), ("/header_time/count", 0)]);
    *expected.get_mut("/header_time/count").unwrap() -= 3;
    nginx.get("/spin").expect(504);
    add(&mut expected, 1, &[("/5xx", 1), ("/timed_out", 1)]);
    *expected.get_mut("/header_time/count").unwrap() -= 1;
    nginx.get("/sleep").expect(200);
    add(&mut expected, 1, &[("/2xx", 1), ("/bytes_sent", 4)]);
    let report = watched.assert(&expected);
    let application = watched.of_report(&report).unwrap();
    let classes = application["exceptions"].as_object().unwrap();
    let odd = classes.iter().find(|(class, _)| class.ends_with(".Odd")).map(|(_, count)| count.as_u64());
    assert_eq!((classes.len(), odd, classes["ValueError"].as_u64()), (2, Some(Some(1)), Some(2)));
    let events = report["events"].as_array().unwrap();
    let ours = |kind: &str| events.iter().filter(|event| event["kind"] == kind).collect::<Vec<_>>();
    assert!(!ours("loaded").is_empty());
    let newest = ours("exception")[0];
    assert_eq!((&newest["summary"], &newest["process_group"]), (&"ValueError: <script>".into(), &watched.group.into()));
    assert!(newest["text"].as_str().unwrap().starts_with("Traceback (most recent call last):\n"), "{newest}");
    assert!(ours("timed_out")[0]["summary"].as_str().unwrap().contains("wsgi_request_timeout"), "{report:#}");

    // ---- times: one call took 0.12 s, one 0.2 s until its timeout ----
    let times = &application["counters"]["total_time"];
    let up_to = |bound: f64| {
        let buckets = times["buckets"].as_array().unwrap();
        buckets.iter().find(|bucket| bucket["le"].as_f64() == Some(bound)).unwrap()["count"].as_u64().unwrap()
    };
    let count = times["count"].as_u64().unwrap();
    assert!(count - up_to(0.1) >= 2 && up_to(60.0) == count, "{times}");
    assert!(times["sum"].as_f64().unwrap() >= 0.3, "{times}");

    // ---- a client that leaves in the middle of a response: it had a status ----
    let mut connection = watched.begin("/endless");
    connection.read_until("xxxx");
    connection.reset();
    let gone = wait_for("the end of the endless response", || {
        let report = watched.report();
        let counters = &watched.of_report(&report)?["counters"];
        (counters["client_gone"] == 1).then(|| counters["bytes_sent"].as_u64().unwrap())
    });
    let sent = expected["/bytes_sent"];
    assert!(gone > sent, "{gone} {sent}");
    add(&mut expected, 1, &[("/2xx", 1), ("/client_gone", 1), ("/bytes_sent", gone - sent)]);
    watched.assert(&expected);

    if engine == Engine::Threads {
        drive_queue(watched, &mut expected, &mut add);
    }
    outlive_reload_and_crash(watched, &expected, engine);
}

/// Fills the queue, whose calls are refused, and leaves while one waits.
fn drive_queue(
    watched: &Watched,
    expected: &mut Expected,
    add: &mut impl FnMut(&mut Expected, u64, &[(&'static str, u64)]),
) {
    let nginx = watched.nginx;
    let mut running = watched.begin("/wait");
    nginx.wait_events(&["waits"]);
    let mut with_gauges = expected.clone();
    with_gauges.insert("/running", 1);
    watched.wait(&with_gauges);
    let mut waiting = watched.begin("/");
    with_gauges.insert("/queued", 1);
    let report = watched.wait(&with_gauges);
    let states: Vec<_> = report["calls"].as_array().unwrap().iter().map(|call| &call["state"]).collect();
    assert_eq!(states, ["running", "queued"]);
    if watched.group.is_none() {
        assert_eq!(watched.load(), "1 1");
    }
    nginx.get("/").expect(503);
    waiting.response().expect(503);
    add(expected, 2, &[("/5xx", 2), ("/refused_queue_full", 1), ("/refused_queue_timeout", 1)]);
    *expected.get_mut("/header_time/count").unwrap() -= 2;
    // It did not wait at all.
    *expected.get_mut("/queue_time/count").unwrap() -= 1;
    *expected.get_mut("/total_time/count").unwrap() -= 1;
    with_gauges = expected.clone();
    with_gauges.insert("/running", 1);
    watched.wait(&with_gauges);
    // A client that leaves before its call begins has no status.
    let leaves = watched.begin("/");
    with_gauges.insert("/queued", 1);
    watched.wait(&with_gauges);
    leaves.reset();
    add(expected, 1, &[("/client_gone", 1)]);
    *expected.get_mut("/header_time/count").unwrap() -= 1;
    with_gauges = expected.clone();
    with_gauges.insert("/running", 1);
    watched.wait(&with_gauges);
    nginx.write("open", "");
    running.response().expect(200);
    add(expected, 1, &[("/2xx", 1), ("/bytes_sent", 4)]);
    watched.assert(expected);
    if watched.group.is_none() {
        assert_eq!(watched.load(), "0 0");
    }
    std::fs::remove_file(nginx.prefix().join("open")).unwrap();
}

/// The worker of the application in a report.
fn worker(watched: &Watched, report: &Value) -> Option<Value> {
    let workers = report["workers"].as_array().unwrap();
    workers.iter().find(|worker| worker["process_group"].as_str() == watched.group).cloned()
}

fn outlive_reload_and_crash(watched: &Watched, expected: &Expected, engine: Engine) {
    let nginx = watched.nginx;
    let before = worker(watched, &watched.report()).unwrap();
    // The calls of the reporter are those of another application.
    assert_eq!(before["calls"].as_u64(), Some(expected["/calls"] + reporter_calls(&before)));
    nginx.reload();
    let new = wait_for("another worker", || {
        let new = worker(watched, &watched.report())?;
        (new["pid"] != before["pid"] && new["details"]["state"] == "running").then_some(new)
    });
    let ended = |pid: &Value| {
        wait_for("the end of a worker", || {
            let report = watched.report();
            let ended = report["ended_workers"].as_array().unwrap();
            ended.iter().find(|worker| worker["pid"] == *pid).cloned()
        })
    };
    let reload = ended(&before["pid"]);
    assert_eq!((&reload["reason"], &reload["process_group"]), (&"reload".into(), &watched.group.into()));
    assert_eq!(reload["calls"], before["calls"]);
    assert!(reload["ended"].as_f64() >= reload["started"].as_f64());
    watched.assert(expected);
    // Killed in a call: its gauge goes, the counters stay. With `wsgi_threads off` nothing would answer meanwhile.
    let mut running = watched.begin("/wait");
    let waits = if engine == Engine::Threads { 2 } else { 1 };
    nginx.wait_events(&vec!["waits"; waits]);
    if engine == Engine::Threads {
        let mut with_gauge = expected.clone();
        with_gauge.insert("/running", 1);
        watched.wait(&with_gauge);
    }
    let pid = i32::try_from(new["pid"].as_i64().unwrap()).unwrap();
    Process(pid).signal(libc::SIGKILL);
    if watched.group.is_none() {
        running.assert_closed();
    }
    let crash = ended(&new["pid"]);
    assert_eq!((&crash["reason"], &crash["process_group"]), (&"crash".into(), &watched.group.into()));
    nginx.write("open", "");
    watched.assert(expected);
}

/// Calls of the other application that a worker had.
fn reporter_calls(worker: &Value) -> u64 {
    let applications = worker["applications"].as_array().unwrap().iter();
    let others = applications.filter(|one| one["name"].as_str().unwrap().ends_with("/reporter.py"));
    others.map(|one| one["counters"]["calls"].as_u64().unwrap()).sum()
}

fn the_reasons_of_ended_workers_are_known(engine: Engine) {
    let base = |directives: &str| {
        Site::new(engine)
            .errors_expected()
            .http("wsgi_status_zone status 256k; keepalive_requests 100000;")
            .http(directives)
            .file("app.py", APP)
            .location("/", "wsgi_script_reloading on; wsgi_reload_mechanism process; wsgi_pass app.py;")
            .location("= /status", "wsgi_status;")
            .start()
    };
    let wait_reason = |nginx: &Nginx, reason: &str| {
        let watched = Watched { nginx, group: None };
        let ended = wait_for(&format!("a worker that has ended: {reason}"), || {
            let report = watched.report();
            report["ended_workers"].as_array().unwrap().first().cloned()
        });
        assert_eq!(ended["reason"], reason);
        ended
    };
    let nginx = base("wsgi_max_requests 3;");
    for _ in 0..3 {
        nginx.get("/").expect(200);
    }
    assert_eq!(wait_reason(&nginx, "max_requests")["calls"], 3);
    let nginx = base("wsgi_max_memory 90m;");
    nginx.get("/eat").expect(200);
    wait_reason(&nginx, "max_memory");
    let nginx = base("");
    nginx.get("/").expect(200);
    nginx.write("app.py", &APP.replace("@event@", "").replace("@prefix@", "/").replace("fine", "new!"));
    wait_reason(&nginx, "new_code");
    if engine == Engine::Threads {
        let nginx = base("wsgi_request_timeout 100ms;");
        nginx.get("/stuck").expect(504);
        wait_reason(&nginx, "stuck_threads");
    }
}

#[test]
fn another_size_counts_from_0() {
    let site = site(Engine::Threads, &format!("process={GROUP}"))
        .http(&format!("wsgi_process_group {GROUP} chdir=@prefix@;"))
        .location("= /own", "wsgi_script_name ''; wsgi_pass app.py;");
    let nginx = GroupNginx::start(site);
    nginx.get("/").expect(200);
    nginx.get("/own").expect(200);
    let calls = |nginx: &Nginx, group: Option<&'static str>| {
        let watched = Watched { nginx, group };
        let report = watched.report();
        watched.of_report(&report).and_then(|application| application["counters"]["calls"].as_u64()).unwrap_or(0)
    };
    wait_for("both calls", || (calls(&nginx, None) == 1 && calls(&nginx, Some(GROUP)) == 1).then_some(()));
    let conf = nginx.read("conf/nginx.conf");
    nginx.write("conf/nginx.conf", &conf.replace("wsgi_status_zone status 256k", "wsgi_status_zone status 512k"));
    let old = nginx.group_workers(GROUP);
    nginx.reload();
    nginx.wait_new_group_workers(GROUP, &old);
    wait_for("new counters", || (calls(&nginx, None) == 0 && calls(&nginx, Some(GROUP)) == 0).then_some(()));
    nginx.get("/").expect(200);
    nginx.get("/own").expect(200);
    wait_for("both calls", || (calls(&nginx, None) == 1 && calls(&nginx, Some(GROUP)) == 1).then_some(()));
}

#[test]
fn a_full_zone_is_a_warning_and_everything_works() {
    let names: Vec<String> = (0..10).map(|number| format!("app{number}")).collect();
    let mut site =
        Site::new(Engine::Threads).http("wsgi_status_zone status 64k;").location("= /status", "wsgi_status;");
    for name in &names {
        site = site.file(&format!("{name}.py"), APP).location(&format!("/{name}"), &format!("wsgi_pass {name}.py;"));
    }
    let nginx = site.start();
    for name in &names {
        assert_eq!(nginx.get(&format!("/{name}/")).expect(200).text(), "fine");
    }
    let warnings = nginx.logged("are not counted, increase wsgi_status_zone");
    assert!(warnings.len() == 2 && warnings.iter().all(|line| line.contains("[warn]")), "{warnings:?}");
    let report = nginx.get("/status?format=json").expect(200).json();
    assert_eq!(report["applications"].as_array().unwrap().len(), 8);
}

#[test]
fn a_single_process_counts_too() {
    let site = site(Engine::Threads, "").main("master_process off;");
    let nginx = site.start();
    nginx.get("/").expect(200);
    let watched = Watched { nginx: &nginx, group: None };
    let once = |count: u64| {
        let mut expected = Expected::new();
        for name in ["/calls", "/2xx", "/queue_time/count", "/header_time/count", "/total_time/count"] {
            expected.insert(name, count);
        }
        expected.insert("/bytes_sent", 4 * count);
        expected
    };
    watched.assert(&once(1));
    // It reads the configuration again itself.
    nginx.signal(libc::SIGHUP);
    nginx.wait_log("reconfiguring");
    nginx.get("/").expect(200);
    watched.assert(&once(2));
}
