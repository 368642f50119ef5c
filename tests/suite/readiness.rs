//! `wsgi_status ready`: whether a worker can serve requests.

use crate::harness::{Engine, GroupNginx, Nginx, Project, Response, Site, in_repository, wait_for};
use crate::runner::HELLO;

/// Its import waits until the file `import` exists, and fails while the file `broken` does.
const SLOW_IMPORT: &str = r#"
import os, time

with open("@prefix@/events", "a") as events:
    events.write("importing\n")
while not os.path.exists("@prefix@/import"):
    time.sleep(0.005)
if os.path.exists("@prefix@/broken"):
    raise RuntimeError("broken")

def application(environ, start_response):
    if environ["PATH_INFO"] == "/wait":
        with open("@prefix@/events", "a") as events:
            events.write("begun\n")
        while not os.path.exists("@prefix@/release"):
            time.sleep(0.005)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"fine"]
"#;

fn site() -> Site {
    Site::new(Engine::Threads).location("= /ready", "wsgi_status ready;")
}

#[track_caller]
fn assert_not_ready(response: &Response, reason: &str) {
    assert_eq!(response.status, 503, "{response:?}");
    assert_eq!(response.text(), format!("{reason}\n"));
    assert_eq!(response.header("Retry-After"), Some("1"));
    assert_eq!(response.header("Cache-Control"), Some("no-store"));
}

#[track_caller]
fn wait_ready(nginx: &Nginx) {
    wait_for("a worker that is ready", || {
        let response = nginx.get("/ready");
        (response.status == 200).then(|| assert_eq!(response.text(), "ready\n"))
    });
}

#[test]
fn a_worker_is_ready_once_it_has_imported_its_applications() {
    let nginx = site().app(SLOW_IMPORT).start();
    nginx.wait_events(&["importing"]);
    assert_not_ready(&nginx.get("/ready"), "loading");
    let head = nginx.request("HEAD", "/ready", &[], b"");
    assert_eq!((head.status, head.header("Content-Length")), (503, Some("8")));
    nginx.write("import", "");
    wait_ready(&nginx);
    assert_eq!(nginx.get("/").expect(200).text(), "fine");
}

#[test]
fn a_worker_whose_import_has_failed_is_ready_once_it_works() {
    let site = site().errors_expected().app(SLOW_IMPORT).file("import", "").file("broken", "");
    let nginx = site.start();
    nginx.wait_log("RuntimeError: broken");
    wait_for("a failed import", || (nginx.get("/ready").text() == "failed\n").then_some(()));
    assert_not_ready(&nginx.get("/ready"), "failed");
    nginx.get("/").expect(500);
    assert_not_ready(&nginx.get("/ready"), "failed");
    std::fs::remove_file(nginx.prefix().join("broken")).unwrap();
    nginx.get("/").expect(200);
    wait_ready(&nginx);
}

#[test]
fn a_worker_without_preloaded_applications_is_ready_at_once() {
    let nginx = site().server("wsgi_preload off;").app(SLOW_IMPORT).start();
    nginx.get("/ready").expect(200);
    let nginx = Site::plain().location("= /ready", "wsgi_status ready;").start();
    nginx.get("/ready").expect(200);
}

#[test]
fn a_worker_with_its_application_on_the_event_loop_is_ready() {
    let site = Site::new(Engine::Inline).location("= /ready", "wsgi_status ready;");
    let nginx = site.app(SLOW_IMPORT).file("import", "").start();
    wait_ready(&nginx);
}

#[test]
fn a_worker_that_exits_is_not_ready() {
    let nginx = site().app(SLOW_IMPORT).file("import", "").start();
    wait_ready(&nginx);
    let mut idle = nginx.connect();
    idle.send("GET /ready HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(idle.response().status, 200);
    // A request that has begun stays while the worker exits.
    idle.send("GET /ready HTTP/1.1\r\nHost: x\r\n");
    let mut call = nginx.connect();
    call.send("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n");
    nginx.wait_events(&["importing", "begun"]);
    let old = nginx.workers();
    nginx.reload();
    wait_for("the old worker to exit", || (!nginx.workers().contains(&old[0])).then_some(()));
    idle.send("\r\n");
    assert_not_ready(&idle.response(), "draining");
    nginx.write("release", "");
    assert_eq!(call.response().status, 200);
}

#[test]
fn everybody_may_ask() {
    let nginx = site().app(SLOW_IMPORT).file("import", "").start();
    wait_ready(&nginx);
    nginx.request("GET", "/ready", &[("X-Forwarded-For", "192.0.2.1")], b"").expect(200);
    nginx.post("/ready", "x").expect(405);
}

#[test]
fn a_front_is_ready_while_its_process_groups_run_or_are_idle() {
    let site = Site::plain()
        .http("wsgi_process_group blog chdir=@prefix@; wsgi_process_group shop chdir=@prefix@ idle_timeout=60s;")
        .location("= /ready", "wsgi_status ready;")
        .file("import", "")
        .file("app.py", SLOW_IMPORT)
        .location("/blog", "wsgi_pass app.py process=blog;")
        .location("/shop", "wsgi_pass app.py process=shop;");
    let nginx = GroupNginx::start(site);
    wait_ready(&nginx);
    let control = nginx.prefix().join("wsgi_run/blog/wsgi_control");
    let tell = |command: &str| {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(&control).unwrap();
        stream.write_all(command.as_bytes()).unwrap();
        stream.read_to_string(&mut String::new()).unwrap();
    };
    tell("stop\n");
    assert_not_ready(&nginx.get("/ready"), "groups");
    tell("start\n");
    wait_ready(&nginx);
}

#[test]
fn the_runner_has_the_address_of_the_image() {
    let image = std::fs::read_to_string(in_repository("packaging/containers/wheel/Containerfile")).unwrap();
    let line =
        image.lines().find_map(|line| line.strip_prefix("RUN echo '")?.split_once("' > /srv/ready.conf")).unwrap();
    let project = Project::with_app(HELLO);
    project.write("ready.conf", line.0);
    let server = project.serve(&["app", "--workers", "1", "--include", "ready.conf"]);
    wait_for("a worker that is ready", || (server.get("/ready").status == 200).then_some(()));
}

#[test]
fn a_front_with_a_zone_waits_for_the_imports_of_its_process_groups() {
    for engine in [Engine::Threads, Engine::Inline] {
        let site = Site::plain()
            .http("wsgi_status_zone wsgi 256k; wsgi_process_group blog chdir=@prefix@;")
            .location("= /ready", "wsgi_status ready;")
            .location("= /status", "wsgi_status;")
            .file("app.py", SLOW_IMPORT)
            .location("/blog", &format!("wsgi_pass app.py process=blog; {}", engine.directive()));
        let nginx = GroupNginx::start(site);
        nginx.wait_events(&["importing"]);
        // The worker says so itself, also while its event loop imports.
        wait_for("a worker that imports", || {
            let report = nginx.get("/status?format=json").expect(200).json();
            let mut workers = report["workers"].as_array().unwrap().iter();
            workers
                .any(|worker| worker["process_group"] == "blog" && worker["details"]["state"] == "starting")
                .then_some(())
        });
        assert_not_ready(&nginx.get("/ready"), "groups");
        nginx.write("import", "");
        wait_ready(&nginx);
    }
}
