//! `wsgi_status`: formats, headers, methods; what it says of workers, applications, calls and process groups.

use crate::check::end_after_refusals;
use crate::harness::{Engine, GroupNginx, Nginx, Response, Site, both_engines, curl, make_certificate, wait_for};
use crate::interpreters::gils;
use serde_json::Value;
use std::time::Duration;

both_engines!(
    a_running_call_shows_its_stack,
    a_loaded_application_shows_its_code,
    an_application_gets_the_report_as_a_dictionary
);

/// Calls of `/wait…` wait until the file `release` exists.
const APP: &str = r#"
import os, time

__version__ = "1.7"

def wait_here():
    while not os.path.exists("@prefix@/release"):
        time.sleep(0.005)

def application(environ, start_response):
    if environ["PATH_INFO"].endswith("/wait"):
        with open("@prefix@/events", "a") as events:
            events.write("begun\n")
        wait_here()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"fine"]
"#;

const ZONE: &str = "wsgi_status_zone wsgi 256k;";

fn with_status(site: Site) -> Site {
    site.http(ZONE).location("= /status", "wsgi_status;")
}

#[track_caller]
fn report(nginx: &Nginx) -> Value {
    nginx.get("/status?format=json").expect(200).json()
}

/// The report, once it satisfies the condition.
#[track_caller]
fn wait_report(nginx: &Nginx, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, || Some(report(nginx)).filter(&condition))
}

#[test]
fn an_argument_or_the_accept_header_selects_the_format() {
    let nginx = with_status(Site::plain()).start();
    for (path, accept, content_type) in [
        ("/status", "*/*", "text/html; charset=utf-8"),
        ("/status", "application/json", "application/json"),
        ("/status?format=json", "text/html", "application/json"),
        ("/status?format=html", "application/json", "text/html; charset=utf-8"),
        ("/status?format=prometheus", "*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "/status",
            "application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ] {
        let response = nginx.request("GET", path, &[("Accept", accept)], b"").expect(200);
        assert_eq!(response.header("Content-Type"), Some(content_type), "{path} {accept}");
        let head = nginx.request("HEAD", path, &[("Accept", accept)], b"").expect(200);
        assert_eq!(head.header("Content-Type"), Some(content_type));
        assert!(head.body.is_empty() && head.header("Content-Length").is_some());
        for response in [&response, &head] {
            assert_eq!(response.header("Cache-Control"), Some("no-store"));
            assert_eq!(response.header("X-Content-Type-Options"), Some("nosniff"));
            assert_eq!(response.header("Referrer-Policy"), Some("no-referrer"));
        }
    }
    for path in ["/status?format=xml", "/status?stack=x", "/status?stack=1", "/status?stack=1.2.3"] {
        nginx.get(path).expect(400);
    }
    nginx.post("/status", "x").expect(405);
    // A body is discarded, and the connection goes on.
    let mut connection = nginx.connect();
    for _ in 0..2 {
        connection.send("GET /status?format=json HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
        assert_eq!(connection.response().status, 200);
    }
}

#[test]
fn the_page_lets_only_its_own_script_run() {
    let nginx = with_status(Site::plain()).start();
    let nonce = |response: &Response| {
        let policy = response.header("Content-Security-Policy").unwrap();
        let (_, rest) = policy.split_once("script-src 'nonce-").unwrap();
        let nonce = rest.split_once('\'').unwrap().0.to_owned();
        assert_eq!(nonce.len(), 32);
        let expected = format!(
            "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        assert_eq!(policy, expected);
        let text = response.text();
        // Of the style and of the script.
        assert_eq!((text.matches(&nonce).count(), text.matches("{nonce}").count()), (2, 0));
        nonce
    };
    let nonces = [nginx.get("/status"), nginx.get("/status")].map(|response| nonce(&response));
    assert_ne!(nonces[0], nonces[1]);
}

#[test]
fn it_needs_a_zone_and_a_location_of_its_own() {
    let check = Site::plain().location("= /status", "wsgi_status;").check();
    let line = 1 + check.conf_text.lines().position(|line| line.contains("wsgi_status;")).unwrap();
    let message = format!(
        "nginx.conf:{line} needs the counters of \"wsgi_status_zone\": add \"wsgi_status_zone wsgi 1m;\" to the http block"
    );
    assert!(!check.ok && check.output.contains(&message), "{}", check.output);
    Site::plain().location("= /ready", "wsgi_status ready;").check().assert_ok();
    Site::plain()
        .location("= /ready", "wsgi_status steady;")
        .check()
        .assert_refused("invalid parameter \"steady\"", "wsgi_status steady;");
    for directives in ["wsgi_status; wsgi_pass app.py;", "wsgi_pass app.py; wsgi_status;"] {
        let check = Site::plain().http(ZONE).file("app.py", APP).location("/", directives).check();
        assert!(!check.ok && check.output.contains("is in a location with \"wsgi_pass\""), "{}", check.output);
    }
    // A location inside has none.
    let nginx = Site::plain()
        .errors_expected()
        .http(ZONE)
        .file("app.py", APP)
        .location("/status", "wsgi_status; location /status/app { wsgi_pass app.py; } location /status/none { }")
        .start();
    assert_eq!(nginx.get("/status/app").expect(200).text(), "fine");
    nginx.get("/status/none").expect(404);
}

#[test]
fn the_report_has_all_workers() {
    let nginx = with_status(Site::new(Engine::Threads)).workers(2).app(APP).start();
    let report = wait_report(&nginx, "two workers that run", |report| {
        let workers = report["workers"].as_array().unwrap();
        workers.len() == 2 && workers.iter().all(|worker| worker["details"]["state"] == "running")
    });
    assert_eq!(report["schema"], 1);
    assert_eq!(report["versions"]["module"], env!("CARGO_PKG_VERSION"));
    let mut pids: Vec<_> = report["workers"].as_array().unwrap().iter().map(|worker| worker["pid"].as_i64()).collect();
    pids.sort();
    let mut expected: Vec<_> = nginx.workers().iter().map(|pid| Some(i64::from(*pid))).collect();
    expected.sort();
    assert_eq!(pids, expected);
    for (number, worker) in report["workers"].as_array().unwrap().iter().enumerate() {
        assert_eq!(worker["number"], number);
        assert_eq!(worker["process_group"], Value::Null);
        assert!(worker["details"]["memory"].as_u64().unwrap() > 1 << 20);
        assert!(worker["started"].as_f64().unwrap() <= report["time"].as_f64().unwrap());
        assert_eq!(worker["details"]["threads"]["total"], 4);
        assert_eq!(worker["details"].get("calls"), None);
    }
}

fn a_loaded_application_shows_its_code(engine: Engine) {
    let nginx = with_status(Site::new(engine)).app(APP).start();
    nginx.get("/").expect(200);
    let report = report(&nginx);
    let application = &report["workers"][0]["details"]["applications"][0];
    assert!(application["name"].as_str().unwrap().ends_with("/app.py"), "{report}");
    assert_eq!(application["code"]["version"], "1.7");
    assert!(application["code"]["loaded"].as_f64() > application["code"]["modified"].as_f64());
    assert_eq!((&application["loads"], &application["failure"]), (&1.into(), &Value::Null));
    assert_eq!(report["applications"][0]["counters"]["calls"], 1);
}

fn a_running_call_shows_its_stack(engine: Engine) {
    // With `wsgi_threads off` another worker answers.
    let nginx = with_status(Site::new(engine)).workers(2).app(APP).start();
    let mut call = nginx.connect();
    call.send("GET /a/wait?secret=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    nginx.wait_events(&["begun"]);
    let get = |path: &str| ask_free_worker(&nginx, path);
    let report = get("/status?format=json").json();
    let [call_now] = &report["calls"].as_array().unwrap()[..] else { panic!("{report:#}") };
    assert_eq!((&call_now["state"], &call_now["method"]), (&"running".into(), &"GET".into()));
    assert_eq!((&call_now["path"], &call_now["client"]), (&"/a/wait".into(), &nginx.source().to_string().into()));
    assert!(call_now["running_time"].as_f64() <= call_now["time"].as_f64());
    assert_eq!(report["applications"][0]["running"], 1);
    let id = call_now["id"].as_str().unwrap();
    let stack = get(&format!("/status?stack={id}")).json()["stack"].as_str().unwrap().to_owned();
    assert!(stack.contains("in application\n") && stack.contains("in wait_here\n"), "{stack}");
    let (pid, number) = id.split_once('.').unwrap();
    let number: u64 = number.parse().unwrap();
    for unknown in [format!("{pid}.{}", number + 1), format!("1.{number}"), format!("{}.0", u32::MAX)] {
        assert_eq!(get(&format!("/status?stack={unknown}")).json()["stack"], Value::Null);
    }
    nginx.write("release", "");
    assert_eq!(call.response().status, 200);
    wait_for("the end of the call", || {
        let report = get("/status?format=json").json();
        report["calls"].as_array().unwrap().is_empty().then_some(())
    });
    assert_eq!(get(&format!("/status?stack={id}")).json()["stack"], Value::Null);
}

/// The response of a worker whose event loop no call blocks.
#[track_caller]
fn ask_free_worker(nginx: &Nginx, path: &str) -> Response {
    wait_for("a free worker", || {
        let connection = nginx.connect();
        connection.set_timeout(Duration::from_millis(1500));
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut connection = connection.begin(request.as_bytes())?;
        Some(connection.response())
    })
}

#[test]
fn a_front_shows_its_process_groups() {
    let site = with_status(Site::plain())
        .http("wsgi_process_group blog chdir=@prefix@ processes=2; wsgi_process_group shop chdir=@prefix@ idle_timeout=1h;")
        .file("app.py", APP)
        .location("/blog", "wsgi_pass app.py process=blog;")
        .location("/shop", "wsgi_pass app.py process=shop;");
    let nginx = GroupNginx::start(site);
    let mut call = nginx.connect();
    call.send("GET /blog/wait HTTP/1.1\r\nHost: x\r\n\r\n");
    nginx.wait_events(&["begun"]);
    let report = wait_report(&nginx, "workers that run", |report| {
        let workers = report["workers"].as_array().unwrap();
        workers.len() == 3 && workers.iter().all(|worker| worker["details"]["state"] == "running")
    });
    let groups: Vec<_> = report["process_groups"].as_array().unwrap().iter().collect();
    assert_eq!(
        (&groups[0]["name"], &groups[0]["state"], &groups[0]["workers"]),
        (&"blog".into(), &"running".into(), &2.into())
    );
    assert_eq!(
        (&groups[1]["name"], &groups[1]["state"], &groups[1]["workers"]),
        (&"shop".into(), &"idle".into(), &0.into())
    );
    let workers: Vec<_> =
        report["workers"].as_array().unwrap().iter().map(|worker| worker["process_group"].as_str()).collect();
    assert_eq!(workers, [None, Some("blog"), Some("blog")]);
    let [call_now] = &report["calls"].as_array().unwrap()[..] else { panic!("{report:#}") };
    assert_eq!((&call_now["process_group"], &call_now["path"]), (&"blog".into(), &"/blog/wait".into()));
    assert_eq!(call_now["client"], nginx.source().to_string());
    let id = call_now["id"].as_str().unwrap();
    let stack = nginx.get(&format!("/status?stack={id}")).expect(200).json();
    assert!(stack["stack"].as_str().unwrap().contains("in wait_here"), "{stack}");
    nginx.write("release", "");
    assert_eq!(call.response().status, 200);
    let report = wait_report(&nginx, "the end of the call", |report| report["calls"].as_array().unwrap().is_empty());
    let application = &report["applications"][0];
    assert_eq!((&application["process_group"], &application["counters"]["calls"]), (&"blog".into(), &1.into()));
}

const STATUS_APP: &str = r#"
import json, ngx_wsgi

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    try:
        report = ngx_wsgi.status()
    except RuntimeError as error:
        return [json.dumps(str(error)).encode()]
    return [json.dumps(report).encode()]
"#;

fn an_application_gets_the_report_as_a_dictionary(engine: Engine) {
    let nginx = with_status(Site::new(engine)).app(STATUS_APP).start();
    let of_application = nginx.get("/").expect(200).json();
    let of_page = report(&nginx);
    let keys = |report: &Value| report.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&of_application), keys(&of_page));
    assert!(of_application["workers"][0]["details"].is_object());
    // Its own call is one of them.
    assert_eq!(of_application["calls"][0]["state"], "running");
    let nginx = Site::new(engine).app(STATUS_APP).start();
    assert_eq!(nginx.get("/").expect(200).json(), "status() needs \"wsgi_status_zone\" in the http block");
}

#[test]
fn an_application_of_a_process_group_gets_the_report_of_that() {
    let site = with_status(Site::plain())
        .http("wsgi_process_group blog chdir=@prefix@; wsgi_process_group shop chdir=@prefix@;")
        .app(STATUS_APP)
        .location("/blog", "wsgi_pass app.py process=blog;")
        .location("/shop", "wsgi_pass app.py process=shop;");
    let nginx = GroupNginx::start(site);
    let report = nginx.get("/blog").expect(200).json();
    let groups = |list: &str| -> Vec<_> {
        report[list].as_array().unwrap().iter().map(|one| one["process_group"].as_str()).collect()
    };
    assert_eq!((groups("workers"), groups("calls")), (vec![Some("blog")], vec![Some("blog")]), "{report:#}");
    assert_eq!(report["process_groups"], Value::Array(Vec::new()));
    // The front's own has both.
    let report = nginx.get("/").expect(200).json();
    assert_eq!(report["process_groups"].as_array().unwrap().len(), 2);
    assert_eq!(report["workers"].as_array().unwrap().len(), 3);
}

#[test]
fn calls_in_a_sub_interpreter_show_their_stack() {
    for gil in gils() {
        let http = format!("wsgi_enable_subinterpreters on; wsgi_interpreter_gil {gil};");
        let site = Site::new(Engine::Threads).http(&http);
        let nginx = with_status(site).app(APP).app_at("/other/", "other.py", APP).start();
        let mut call = nginx.connect();
        call.send("GET /other/wait HTTP/1.1\r\nHost: x\r\n\r\n");
        nginx.wait_events(&["begun"]);
        let report = report(&nginx);
        let interpreters = report["workers"][0]["details"]["interpreters"].as_array().unwrap();
        assert!(interpreters.len() == 2 && interpreters.iter().all(|one| one["gil"] == *gil), "{report:#}");
        let id = report["calls"][0]["id"].as_str().unwrap();
        let stack = nginx.get(&format!("/status?stack={id}")).expect(200).json();
        assert!(stack["stack"].as_str().unwrap_or_default().contains("in wait_here\n"), "{stack}");
        nginx.write("release", "");
        assert_eq!(call.response().status, 200);
    }
}

#[test]
fn a_worker_whose_gil_is_held_says_what_it_does() {
    let app = r#"
import ctypes, os

def application(environ, start_response):
    pipe = os.open("@prefix@/pipe", os.O_RDWR)
    with open("@prefix@/events", "a") as events:
        events.write("begun\n")
    # Functions of PyDLL keep the GIL.
    ctypes.PyDLL(None).read(pipe, ctypes.create_string_buffer(1), 1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"fine"]
"#;
    let site = with_status(Site::new(Engine::Threads)).app(app);
    make_fifo(&site.prefix().join("pipe"));
    let nginx = site.start();
    let mut call = nginx.connect();
    call.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    nginx.wait_events(&["begun"]);
    let report = report(&nginx);
    assert_eq!(report["workers"][0]["details"]["threads"]["busy"], 1, "{report:#}");
    let id = report["calls"][0]["id"].as_str().unwrap();
    assert_eq!(nginx.get(&format!("/status?stack={id}")).expect(200).json()["stack"], Value::Null);
    std::fs::write(nginx.prefix().join("pipe"), "x").unwrap();
    assert_eq!(call.response().status, 200);
}

fn make_fifo(path: &std::path::Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

#[test]
fn a_process_without_a_master_shows_itself() {
    let nginx = with_status(Site::new(Engine::Threads)).main("master_process off;").app(APP).start();
    nginx.get("/").expect(200);
    let report = report(&nginx);
    assert_eq!(report["workers"][0]["pid"], nginx.master(), "{report:#}");
    assert_eq!(report["applications"][0]["counters"]["calls"], 1, "{report:#}");
}

#[test]
fn http2_streams_get_their_reports() {
    let site = with_status(Site::new(Engine::Threads)).app(APP).listen(
        "listen 127.0.0.1:@port@ ssl http2; server_name localhost;
        ssl_certificate @prefix@/certificate.pem; ssl_certificate_key @prefix@/key.pem;",
    );
    make_certificate(site.prefix());
    let nginx = site.start();
    let url = |path: &str| format!("https://127.0.0.1:{}{path}", nginx.port());
    let seen = curl(&["--http2", &url("/status?format=json")]);
    assert_eq!(seen.version, "2");
    assert_eq!(seen.expect(200).json()["schema"], 1);
    curl(&["--http2", "-I", &url("/status?format=prometheus")]).expect(200);
    curl(&["--http2", "-d", "x", &url("/status")]).expect(405);
    curl(&["--http2", &url("/status")]).expect(200);
}

/// A front with one worker, and a process group whose worker is stopped: each report waits for that one in vain.
fn with_stopped_worker() -> (GroupNginx, Stopped) {
    let site = with_status(Site::new(Engine::Threads))
        .http("wsgi_process_group blog chdir=@prefix@;")
        .app(APP)
        .location("/blog", "wsgi_pass app.py process=blog;");
    let nginx = GroupNginx::start(site);
    nginx.get("/blog").expect(200);
    wait_report(&nginx, "two workers", |report| report["workers"].as_array().unwrap().len() == 2);
    let stopped = Stopped(nginx.group("blog").wait_workers(1)[0].0);
    // SAFETY: a worker of this test's nginx.
    unsafe { libc::kill(stopped.0, libc::SIGSTOP) };
    (nginx, stopped)
}

const GET_REPORT: &str = "GET /status?format=json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[test]
fn a_worker_that_does_not_answer_is_shown_without_details() {
    let (nginx, stopped) = with_stopped_worker();
    let workers = nginx.workers();
    let report = report(&nginx);
    for worker in report["workers"].as_array().unwrap() {
        assert_eq!(worker["details"].is_null(), worker["pid"] == stopped.0, "{report:#}");
    }
    let metrics = nginx.get("/status?format=prometheus").expect(200).text();
    let sample = format!("wsgi_worker_responding{{process_group=\"blog\",worker=\"0\",pid=\"{}\"}} 0", stopped.0);
    assert!(metrics.contains(&sample), "{metrics}");
    // Clients that leave while their report is made.
    for _ in 0..20 {
        nginx.connect().send(GET_REPORT).finish_sending();
    }
    // More than may wait, each for a stack of the stopped worker: the others are told to come again.
    let request = format!("GET /status?stack={}.1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", stopped.0);
    let mut waiting: Vec<_> = (0..100).map(|_| nginx.connect()).collect();
    for connection in &mut waiting {
        connection.send(&request);
    }
    let response = waiting.pop().unwrap().response().expect(503);
    assert_eq!(response.header("Retry-After"), Some("1"));
    drop(stopped);
    for connection in &mut waiting {
        let response = connection.response();
        assert!(response.status == 200 || response.status == 503, "{response:?}");
    }
    assert_eq!(nginx.workers(), workers);
}

#[test]
fn a_worker_that_exits_finishes_its_reports() {
    let (nginx, _stopped) = with_stopped_worker();
    let workers = nginx.workers();
    let mut connections: Vec<_> = (0..4).map(|_| nginx.connect()).collect();
    for connection in &mut connections {
        connection.send(GET_REPORT);
    }
    // SAFETY: the worker of this test's nginx, which waits for the one that is stopped.
    unsafe { libc::kill(workers[0], libc::SIGQUIT) };
    for connection in &mut connections {
        assert_eq!(connection.response().status, 200);
    }
    wait_for("another worker", || (nginx.workers() != workers && !nginx.workers().is_empty()).then_some(()));
}

/// A process that is stopped until this is dropped.
struct Stopped(i32);

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: a worker of this test's nginx.
        unsafe { libc::kill(self.0, libc::SIGCONT) };
    }
}

#[test]
fn a_reload_that_is_refused_is_among_the_events() {
    let mut nginx = with_status(Site::new(Engine::Threads)).http("wsgi_check on;").app(APP).start();
    nginx.write("app.py", "import not_there\n");
    nginx.reload_refused();
    let report = report(&nginx);
    let event = &report["events"][0];
    assert_eq!((&event["kind"], &event["pid"]), (&"load_failed".into(), &nginx.master().into()), "{report:#}");
    assert_eq!(event["application"], report["applications"][0]["name"]);
    assert_eq!(event["summary"], "reload refused: ModuleNotFoundError: No module named 'not_there'");
    assert!(event["text"].as_str().unwrap().starts_with("Traceback (most recent call last):"), "{event}");
    end_after_refusals(nginx);
}

#[test]
fn a_reload_that_a_process_group_refuses_is_among_the_events() {
    let site = with_status(Site::plain())
        .http("wsgi_check on; wsgi_process_group blog chdir=@prefix@;")
        .file("app.py", APP)
        .location("/blog", "wsgi_pass app.py process=blog;");
    let mut nginx = site.start();
    nginx.write("app.py", "import not_there\n");
    nginx.reload_refused();
    let report = report(&nginx);
    let event = &report["events"].as_array().unwrap()[0];
    let (summary, text) = (event["summary"].as_str().unwrap(), event["text"].as_str().unwrap());
    assert!(event["application"].as_str().unwrap().ends_with("app.py"), "{event}");
    assert!(summary.starts_with("reload refused: process group \"blog\", "), "{event}");
    assert!(summary.ends_with("ModuleNotFoundError: No module named 'not_there'"), "{event}");
    assert!(text.contains("Traceback (most recent call last):"), "{event}");
    end_after_refusals(nginx);
}
