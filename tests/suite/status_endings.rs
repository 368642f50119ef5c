//! Figures of the status of calls that end in unusual ways.

use crate::harness::{Engine, Nginx, Site, wait_for};
use serde_json::Value;
use std::time::Duration;

const APP: &str = r#"
import time

class SlowToClose:
    def __iter__(self):
        return iter([b"all"])

    def close(self):
        time.sleep(0.5)

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/redirect":
        start_response("200 OK", [("X-Accel-Redirect", "/static")])
        return [b"replaced"]
    if path == "/missing":
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"replaced"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/slow":
        time.sleep(0.3)
    if path == "/parts":
        return (time.sleep(0.1) or b"part" for _ in range(5))
    return SlowToClose()
"#;

fn site() -> Site {
    Site::new(Engine::Threads)
        .app(APP)
        .http("wsgi_status_zone wsgi 256k;")
        .location("= /status", "wsgi_status;")
        .location("= /static", "return 200 static;")
}

/// The only application of the report, once so many calls of it have ended.
#[track_caller]
fn application(nginx: &Nginx, calls: u64) -> Value {
    wait_for("the end of the calls", || {
        let application = nginx.get("/status?format=json").expect(200).json()["applications"][0].clone();
        (application["counters"]["calls"] == calls).then_some(application)
    })
}

#[test]
fn a_response_that_nginx_replaces_has_the_status_of_the_application() {
    let nginx = site()
        .location("= /redirect", "wsgi_pass @prefix@/app.py;")
        .location("= /missing", "wsgi_pass @prefix@/app.py; wsgi_intercept_errors on; error_page 404 =200 /static;")
        .start();
    for path in ["/redirect", "/missing"] {
        assert_eq!(nginx.get(path).expect(200).text(), "static");
    }
    let counters = &application(&nginx, 2)["counters"];
    assert_eq!((&counters["responses"]["2xx"], &counters["responses"]["4xx"]), (&1.into(), &1.into()), "{counters}");
    assert_eq!(counters["bytes_sent"], 0);
}

#[test]
fn a_client_with_the_whole_response_is_not_gone() {
    let nginx = site().start();
    for (calls, gone, responses, target) in [(1, 0, 1, "GET /close"), (2, 0, 2, "HEAD /parts"), (3, 1, 2, "GET /slow")]
    {
        let mut connection = nginx.connect();
        connection.send(format!("{target} HTTP/1.1\r\nHost: x\r\n\r\n"));
        match target {
            "GET /close" => assert_eq!(connection.response().text(), "all"),
            "HEAD /parts" => assert!(connection.read_until("\r\n\r\n").starts_with(b"HTTP/1.1 200")),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
        drop(connection);
        let application = application(&nginx, calls);
        assert_eq!(application["counters"]["client_gone"], gone, "{target}: {application}");
        assert_eq!(application["counters"]["responses"]["2xx"], responses, "{target}: {application}");
    }
}
