//! Identifiers of requests, and the tools of docs/tracing.md: Sentry, OpenTelemetry, py-spy. The code is that of the page.

use crate::harness::{
    Engine, Nginx, Page, Site, both_engines, in_repository, skip_in_process_group, uses_process_group, venv, wait_for,
};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

both_engines!(
    identifiers_reach_environ,
    sentry_gets_an_exception_of_flask,
    sentry_gets_an_exception_of_django,
    opentelemetry_gets_a_span_with_its_parent,
    py_spy_shows_a_call,
);

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// The server that takes events and spans.
struct Collector {
    process: Child,
    port: u16,
    received: PathBuf,
}

impl Collector {
    fn start(directory: &Path) -> Self {
        let (port, received) = (directory.join("port"), directory.join("received"));
        let script = in_repository("tests/apps/collector.py");
        let mut command = Command::new(venv().join("bin/python"));
        command.arg(script).arg(&port).arg(&received).stdin(Stdio::null());
        let process = command.spawn().expect("the collector");
        let port = wait_for("the port of the collector", || fs::read_to_string(&port).ok()?.parse().ok());
        Self { process, port, received }
    }

    fn items(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.received).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    #[track_caller]
    fn wait(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, || self.items().into_iter().find(&is))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The block of the page with this text.
fn block(language: &str, text: &str) -> String {
    let blocks = Page::read("docs/tracing.md").blocks().into_iter();
    let mut found = blocks.filter(|block| block.language == language && block.text.contains(text));
    found.next().unwrap_or_else(|| panic!("no block with {text:?}")).text
}

fn site(engine: Engine) -> Site {
    Site::new(engine).http(&format!("wsgi_python_home {};", venv().display())).http("wsgi_log logs/app.log json;")
}

fn identifiers_reach_environ(engine: Engine) {
    const APP: &str = r#"
def application(environ, start_response):
    print("called")
    names = ("REQUEST_ID", "HTTP_X_REQUEST_ID", "HTTP_TRACEPARENT", "HTTP_TRACESTATE")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr([environ.get(name) for name in names]).replace("'", '"').encode()]
"#;
    let nginx = Site::new(engine)
        .app(APP)
        .http("wsgi_log logs/app.log json; log_format ids '$request_id'; access_log logs/ids.log ids;")
        .server("wsgi_var REQUEST_ID $request_id; wsgi_var HTTP_X_REQUEST_ID $request_id;")
        .server("add_header X-Request-ID $request_id;")
        .start();
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    let headers = [("traceparent", traceparent.as_str()), ("tracestate", "a=1,b=2"), ("X-Request-ID", "forged")];
    let response = nginx.request("GET", "/", &headers, b"").expect(200);
    let id = response.header("X-Request-ID").unwrap().to_owned();
    assert_eq!(response.json(), json!([id, id, traceparent, "a=1,b=2"]));
    let logged = wait_for("the log", || serde_json::from_str::<Value>(nginx.read("logs/app.log").lines().next()?).ok());
    assert_eq!(logged["request_id"], id);
    wait_for("the access log", || (nginx.read("logs/ids.log").trim() == id).then_some(()));
}

/// Asserts that the event of `/pay` has come.
#[track_caller]
fn assert_event(nginx: &Nginx, collector: &Collector) {
    let event = collector.wait("the event", |item| item["type"] == "event")["payload"].clone();
    let exception = &event["exception"]["values"][0];
    assert_eq!((&exception["type"], &exception["value"]), (&json!("ValueError"), &json!("no such card")));
    let frames = exception["stacktrace"]["frames"].as_array().unwrap();
    assert_eq!(frames.last().unwrap()["function"], "pay");
    assert_eq!((&event["request"]["url"], &event["request"]["method"]), (&json!(nginx.url("/pay")), &json!("GET")));
    assert_eq!(event["contexts"]["trace"]["trace_id"], TRACE, "{event}");
    // One in ten of the other calls is a transaction as well.
    let trace = |item: &Value| item["payload"]["contexts"]["trace"].clone();
    let is_of_call = |item: &Value| item["type"] == "transaction" && trace(item)["trace_id"] == TRACE;
    let transaction = collector.wait("the transaction", is_of_call);
    assert_eq!(trace(&transaction)["parent_span_id"], PARENT);
}

/// Sends a request that raises, and has the worker end at once.
fn pay_and_quit(nginx: &mut Nginx) {
    let trace = format!("{TRACE}-{PARENT}-1");
    nginx.request("GET", "/pay", &[("sentry-trace", &trace)], b"").expect(500);
    nginx.stop_by(libc::SIGQUIT);
}

fn sentry_site(site: Site, collector: &Collector) -> Site {
    site.server(&format!("wsgi_env SENTRY_DSN http://key@127.0.0.1:{}/1;", collector.port))
}

fn sentry_gets_an_exception_of_flask(engine: Engine) {
    const SLOW: &str = r#"
import time

@application.route("/slow")
def slow():
    while True:
        time.sleep(0.01)
"#;
    let app = block("python", "@application.route(\"/pay\")") + SLOW;
    let site = site(engine).app(&app).http("wsgi_request_timeout 500ms;").errors_expected();
    let collector = Collector::start(site.prefix());
    let mut nginx = sentry_site(site, &collector).start();
    nginx.get("/slow").expect(504);
    let timeout = collector.wait("the timeout", |item| item["type"] == "event")["payload"].clone();
    assert_eq!(timeout["exception"]["values"][0]["type"], "RequestTimeout", "{timeout}");
    fs::remove_file(&collector.received).unwrap();
    pay_and_quit(&mut nginx);
    assert_event(&nginx, &collector);
}

fn sentry_gets_an_exception_of_django(engine: Engine) {
    const APP: &str = r#"
import os
import sys

import django.conf
import django.core.wsgi
import django.urls

def pay(request):
    raise ValueError("no such card")

urlpatterns = [django.urls.path("pay", pay)]
sys.modules["shop_urls"] = sys.modules[__name__]
django.conf.settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF="shop_urls", SECRET_KEY="none", LOGGING_CONFIG=None
)
application = django.core.wsgi.get_wsgi_application()
"#;
    let settings = block("python", "sentry_sdk.init").split("import flask\n").last().unwrap().to_owned();
    let initialization = settings.split("application =").next().unwrap();
    let site = site(engine).app(&format!("{initialization}\n{APP}"));
    let collector = Collector::start(site.prefix());
    let mut nginx = sentry_site(site, &collector).start();
    pay_and_quit(&mut nginx);
    assert_event(&nginx, &collector);
}

fn opentelemetry_gets_a_span_with_its_parent(engine: Engine) {
    const APP: &str = r#"
import time

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    def body():
        yield b"first"
        time.sleep(0.1)
        yield b"second"
    return body()
"#;
    let site = site(engine)
        .app(APP)
        .file("tracing.py", &block("python", "def middleware(application):"))
        .http("wsgi_python_path @prefix@; wsgi_middleware tracing; wsgi_env OTEL_SERVICE_NAME shop;");
    let collector = Collector::start(site.prefix());
    let endpoint = format!("wsgi_env OTEL_EXPORTER_OTLP_ENDPOINT http://127.0.0.1:{};", collector.port);
    let mut nginx = site.http(&endpoint).start();
    let traceparent = format!("00-{TRACE}-{PARENT}-01");
    nginx.request("GET", "/order", &[("traceparent", &traceparent)], b"").expect(200);
    // The exporter sends each five seconds. The rest is sent when the worker ends.
    nginx.stop_by(libc::SIGQUIT);
    let span = collector.wait("the span", |item| item["type"] == "span");
    assert_eq!((&span["trace"], &span["parent"]), (&json!(TRACE), &json!(PARENT)));
    assert_eq!(span["service"], "shop");
    // To close() of the response.
    assert!(span["milliseconds"].as_u64().unwrap() >= 100, "{span}");
}

fn py_spy_shows_a_call(engine: Engine) {
    if skip_in_process_group("the worker is another process") {
        return;
    }
    const APP: &str = r#"
import os
import time

def wait_for_the_test():
    while not os.path.exists("@prefix@/seen"):
        time.sleep(0.01)

def application(environ, start_response):
    open("@prefix@/called", "w").close()
    wait_for_the_test()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
"#;
    let nginx = Site::new(engine).app(APP).start();
    let worker = nginx.application_workers()[0].to_string();
    let mut conn = nginx.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for("the call", || nginx.prefix().join("called").exists().then_some(()));
    let py_spy = |arguments: &[&str]| {
        let output = Command::new(venv().join("bin/py-spy")).args(arguments).args(["--pid", &worker]).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (dumped, dump) = py_spy(&["dump"]);
    let is_forbidden = !dumped && ["ermission", "not permitted"].iter().any(|reason| dump.contains(reason));
    if !is_forbidden {
        assert!(dumped && dump.contains("wait_for_the_test (") && dump.contains("application ("), "{dump}");
        assert!(dump.contains(if engine == Engine::Threads { "\"wsgi-" } else { "MainThread" }), "{dump}");
        let profile = nginx.prefix().join("profile");
        let (recorded, said) =
            py_spy(&["record", "--duration", "1", "--format", "raw", "--idle", "--output", profile.to_str().unwrap()]);
        assert!(recorded, "{said}");
        assert!(fs::read_to_string(&profile).unwrap().contains("wait_for_the_test"));
    } else {
        eprintln!("skipped: the system does not let py-spy trace: {dump}");
    }
    nginx.write("seen", "");
    conn.response();
}

/// The front of a process group has the identifier that the group's log and environ have.
#[test]
fn identifiers_of_the_front_are_those_of_its_groups() {
    if uses_process_group() {
        return;
    }
    const APP: &str = r#"
def application(environ, start_response):
    print("called")
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Id", environ["REQUEST_ID"])])
    return []
"#;
    let nginx = Site::plain()
        .http("wsgi_process_group one;")
        .file("app.py", APP)
        .location("/", "wsgi_pass app.py process=one; wsgi_var REQUEST_ID $request_id; wsgi_log logs/app.log json;")
        .http("log_format ids '$request_id'; access_log logs/ids.log ids;")
        .start();
    let id = nginx.get("/").expect(200).header("X-Id").unwrap().to_owned();
    let logged = wait_for("the log", || serde_json::from_str::<Value>(nginx.read("logs/app.log").lines().next()?).ok());
    assert_eq!((&logged["request_id"], &logged["process_group"]), (&json!(id), &json!("one")));
    wait_for("the access log", || (nginx.read("logs/ids.log").trim() == id).then_some(()));
}
