//! Directives: defaults, inheritance and override.

use crate::directives::PASS;
use crate::harness::{Engine, Response, Site, both_engines};
use serde_json::Value;

both_engines!(
    authorization_is_passed_by_default,
    vars_are_added_after_the_headers,
    vars_are_latin_1_and_may_be_left_out,
    vars_are_inherited_as_proxy_set_header_is,
    vars_may_set_the_scheme,
    ranges_are_taken_where_they_are_allowed,
    debug_shows_the_traceback,
    debug_page_escapes_what_it_shows,
    applications_are_imported_before_they_are_asked,
    preload_off_waits_for_the_first_request,
    a_failed_import_is_tried_again,
    middleware_wraps_in_the_order_it_is_named,
    middleware_is_inherited_and_replaced,
    missing_middleware_is_an_error_of_the_location,
);

/// `wsgi_threads` at each level, and whether the application may run in several threads.
#[test]
fn threads_are_inherited_and_overridden() {
    for (http, server, location, threads) in [
        ("", "", "", Some(4)),
        ("wsgi_threads 2;", "", "", Some(2)),
        ("wsgi_threads off;", "wsgi_threads 3;", "", Some(3)),
        ("wsgi_threads 3;", "wsgi_threads off;", "", None),
        ("wsgi_threads off;", "wsgi_threads off;", "wsgi_threads 2;", Some(2)),
        ("wsgi_threads 3;", "wsgi_threads 2;", "wsgi_threads 1;", Some(1)),
    ] {
        let nginx = Site::plain()
            .file(
                "app.py",
                r#"
import threading

entered = threading.Semaphore(0)
leave = threading.Event()

def application(environ, start_response):
    if environ["QUERY_STRING"]:
        # Waits until that many calls are in here at once.
        count = int(environ["QUERY_STRING"])
        entered.release()
        for _ in range(1000):
            if entered._value >= count:
                leave.set()
            if leave.wait(0.01):
                break
        together = leave.is_set()
    else:
        together = threading.get_native_id() == __import__("os").getpid()
    start_response("200 OK", [])
    return [f"{environ['wsgi.multithread']} {together}".encode()]
"#,
            )
            .http(http)
            .server(server)
            .location("/", &format!("{PASS} {location}"))
            .start();
        let text = nginx.get("/").expect(200).text();
        let Some(threads) = threads else {
            assert_eq!(text, "False True", "not on the event loop's thread");
            continue;
        };
        let several = if threads > 1 { "True" } else { "False" };
        assert_eq!(text, format!("{several} False"), "{threads} threads");
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let nginx = &nginx;
                scope.spawn(move || {
                    let response = nginx.get(&format!("/?{threads}")).expect(200);
                    assert_eq!(response.text(), format!("{several} True"));
                });
            }
        });
    }
}

#[test]
fn no_more_calls_run_at_once_than_there_are_threads() {
    let nginx = Site::plain()
        .http("wsgi_threads 2;")
        .app(
            r#"
import threading
import time

running = 0
most = 0
lock = threading.Lock()

def application(environ, start_response):
    global running, most
    with lock:
        running += 1
        most = max(most, running)
    time.sleep(0.03)
    with lock:
        running -= 1
    start_response("200 OK", [])
    return [str(most).encode()]
"#,
        )
        .start();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let nginx = &nginx;
            scope.spawn(move || nginx.get("/").expect(200));
        }
    });
    assert_eq!(nginx.get("/").expect(200).text(), "2");
}

fn environ(response: Response) -> Value {
    response.expect(200).json()["environ"].clone()
}

fn authorization_is_passed_by_default(engine: Engine) {
    for (http, server, location, passed) in [
        ("", "", "", true),
        ("off", "", "", false),
        ("", "off", "", false),
        ("", "", "off", false),
        ("off", "on", "", true),
        ("on", "off", "", false),
        ("off", "off", "on", true),
        ("on", "on", "off", false),
    ] {
        let say = |value: &str| match value {
            "" => String::new(),
            v => format!("wsgi_pass_authorization {v};"),
        };
        let site = Site::new(engine).repository_app("/other", "environ.py");
        let nginx = site
            .http(&say(http))
            .server(&say(server))
            .location("/", &format!("wsgi_pass environ.py; {}", say(location)))
            .start();
        let found = environ(nginx.request("GET", "/", &[("Authorization", "Bearer x")], b""));
        assert_eq!(
            found.get("HTTP_AUTHORIZATION").is_some(),
            passed,
            "http {http:?}, server {server:?}, location {location:?}"
        );
        assert_eq!(found["HTTP_HOST"], format!("127.0.0.1:{}", nginx.port()));
    }
}

fn vars_are_added_after_the_headers(engine: Engine) {
    let nginx = Site::new(engine)
        .server(
            "wsgi_var PLAIN value; wsgi_var HTTP_X_MINE overridden; wsgi_var COMBINED \"$request_method $arg_a!\";
             wsgi_var SERVER_NAME other.example; wsgi_var EMPTY \"\"; wsgi_var my.dotted x;",
        )
        .repository_app("/", "environ.py")
        .start();
    let found = environ(nginx.request("GET", "/?a=b", &[("X-Mine", "forged")], b""));
    assert_eq!(found["PLAIN"], "value");
    assert_eq!(found["HTTP_X_MINE"], "overridden");
    assert_eq!(found["COMBINED"], "GET b!");
    assert_eq!(found["SERVER_NAME"], "other.example");
    assert_eq!(found["EMPTY"], "");
    assert_eq!(found["my.dotted"], "x");
}

fn vars_are_latin_1_and_may_be_left_out(engine: Engine) {
    let nginx = Site::new(engine)
        .server(
            "wsgi_var RAW $http_x_raw; wsgi_var MAYBE $arg_maybe if_not_empty; wsgi_var ALWAYS $arg_always;
             wsgi_var TEXT caf\u{e9};",
        )
        .repository_app("/", "environ.py")
        .start();
    let mut conn = nginx.connect();
    conn.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Raw: \xc3\xa9\xff\r\n\r\n");
    let found = environ(conn.response());
    assert_eq!(found["RAW"], "\u{c3}\u{a9}\u{ff}");
    assert_eq!(found["TEXT"], "caf\u{c3}\u{a9}");
    assert_eq!(found["ALWAYS"], "");
    assert_eq!(found.get("MAYBE"), None);
    let found = environ(nginx.get("/?maybe=yes&always=yes"));
    assert_eq!(found["MAYBE"], "yes");
    assert_eq!(found["ALWAYS"], "yes");
}

fn vars_are_inherited_as_proxy_set_header_is(engine: Engine) {
    let nginx = Site::new(engine)
        .http("wsgi_var LEVEL http; wsgi_var OF_HTTP yes;")
        .repository_app("/", "environ.py")
        .location("/own", "wsgi_pass environ.py; wsgi_var OF_OWN yes;")
        .location(
            "/outer/",
            "wsgi_pass environ.py; wsgi_var LEVEL outer; location /outer/inner { wsgi_pass environ.py; }",
        )
        .start();
    let found = environ(nginx.get("/"));
    assert_eq!(found["LEVEL"], "http");
    assert_eq!(found["OF_HTTP"], "yes");
    // A level that has its own has none of the outer ones.
    let found = environ(nginx.get("/own"));
    assert_eq!(found["OF_OWN"], "yes");
    assert_eq!(found.get("LEVEL"), None);
    assert_eq!(found.get("OF_HTTP"), None);
    assert_eq!(environ(nginx.get("/outer/inner"))["LEVEL"], "outer");
}

fn vars_may_set_the_scheme(engine: Engine) {
    let nginx = Site::new(engine)
        .server("wsgi_var wsgi.url_scheme $http_x_forwarded_proto if_not_empty; wsgi_var HTTPS on;")
        .repository_app("/", "environ.py")
        .start();
    assert_eq!(environ(nginx.get("/"))["wsgi.url_scheme"], "http");
    let found = environ(nginx.request("GET", "/", &[("X-Forwarded-Proto", "https")], b""));
    assert_eq!(found["wsgi.url_scheme"], "https");
    assert_eq!(found["HTTPS"], "on");
}

fn ranges_are_taken_where_they_are_allowed(engine: Engine) {
    for (server, location, taken) in [
        ("", "", false),
        ("wsgi_allow_ranges on;", "", true),
        ("wsgi_allow_ranges on;", "wsgi_allow_ranges off;", false),
        ("wsgi_allow_ranges off;", "wsgi_allow_ranges on;", true),
    ] {
        let nginx = Site::new(engine)
            .file(
                "app.py",
                r#"
def application(environ, start_response):
    if environ["QUERY_STRING"] == "stream":
        start_response("200 OK", [])
        return iter([b"01234", b"56789"])
    if environ["QUERY_STRING"] == "missing":
        start_response("404 Not Found", [("Content-Length", "10")])
        return [b"0123456789"]
    start_response("200 OK", [("Content-Length", "10"), ("Accept-Ranges", "bytes")])
    return iter([b"01234", b"56789"])
"#,
            )
            .server(server)
            .location("/", &format!("{PASS} {location}"))
            .start();
        let ask = |path: &str| nginx.request("GET", path, &[("Range", "bytes=3-6")], b"");
        assert_eq!(nginx.get("/").all("Accept-Ranges"), ["bytes"]);
        let response = ask("/");
        if taken {
            assert_eq!(response.status, 206, "{server} {location}");
            assert_eq!(response.text(), "3456");
            assert_eq!(response.header("Content-Range"), Some("bytes 3-6/10"));
        } else {
            assert_eq!(response.expect(200).text(), "0123456789");
        }
        // Only of a response that is there and whose length is known.
        assert_eq!(ask("/?stream").expect(200).text(), "0123456789");
        assert_eq!(ask("/?missing").expect(404).text(), "0123456789");
    }
}

const FAILS: &str = r#"
def application(environ, start_response):
    raise RuntimeError("a <b>secret</b> & more")
"#;

fn debug_shows_the_traceback(engine: Engine) {
    for (server, location, shown) in [
        ("", "", false),
        ("wsgi_debug on;", "", true),
        ("wsgi_debug on;", "wsgi_debug off;", false),
        ("wsgi_debug off;", "wsgi_debug on;", true),
    ] {
        let nginx = Site::new(engine)
            .file("app.py", FAILS)
            .server(server)
            .location("/", &format!("{PASS} {location}"))
            .errors_expected()
            .start();
        let response = nginx.get("/").expect(500);
        assert_eq!(response.text().contains("RuntimeError"), shown, "{server} {location}");
        // It is in the log either way.
        nginx.wait_log("RuntimeError: a <b>secret</b> & more");
    }
}

fn debug_page_escapes_what_it_shows(engine: Engine) {
    let nginx = Site::new(engine).app(FAILS).server("wsgi_debug on;").errors_expected().start();
    let html = nginx.request("GET", "/", &[("Accept", "text/html,*/*")], b"").expect(500);
    let kind = html.header("Content-Type").unwrap();
    assert!(kind.starts_with("text/html"), "{kind}");
    let text = html.text();
    assert!(text.contains("a &lt;b&gt;secret&lt;/b&gt; &amp; more"), "{text}");
    assert!(!text.contains("<b>secret"), "{text}");
    let plain = nginx.request("GET", "/", &[("Accept", "text/plain")], b"").expect(500);
    let kind = plain.header("Content-Type").unwrap();
    assert!(kind.starts_with("text/plain"), "{kind}");
    assert!(plain.text().contains("RuntimeError: a <b>secret</b> & more"), "{}", plain.text());
    assert!(plain.text().contains("app.py"), "{}", plain.text());
}

const TELLS_IMPORT: &str = r#"
with open("@prefix@/events", "a") as events:
    events.write("imported\n")

def application(environ, start_response):
    with open("@prefix@/events", "a") as events:
        events.write("called\n")
    start_response("200 OK", [])
    return [b"fine"]
"#;

fn applications_are_imported_before_they_are_asked(engine: Engine) {
    let nginx = Site::new(engine).app(TELLS_IMPORT).start();
    nginx.wait_events(&["imported"]);
    nginx.get("/").expect(200);
    nginx.get("/").expect(200);
    nginx.wait_events(&["imported", "called", "called"]);
}

fn preload_off_waits_for_the_first_request(engine: Engine) {
    let nginx =
        Site::new(engine).app(TELLS_IMPORT).http("wsgi_preload off;").location("/static", "return 200 static;").start();
    nginx.get("/static").expect(200);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(nginx.events(), [""; 0]);
    nginx.get("/").expect(200);
    nginx.get("/").expect(200);
    nginx.wait_events(&["imported", "called", "called"]);

    // The other way round, nearer levels win.
    let nginx = Site::new(engine)
        .file("app.py", TELLS_IMPORT)
        .http("wsgi_preload off;")
        .location("/", &format!("{PASS} wsgi_preload on;"))
        .start();
    nginx.wait_events(&["imported"]);
}

fn a_failed_import_is_tried_again(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
import os
import helper

with open("@prefix@/events", "a") as events:
    events.write("import\n")
if not os.path.exists("@prefix@/ready"):
    raise RuntimeError("not ready yet")

def application(environ, start_response):
    start_response("200 OK", [])
    return [helper.NAME.encode()]
"#,
        )
        .file("lib/helper.py", "NAME = 'helped'\n")
        .http("wsgi_python_path @prefix@/lib;")
        .location("/static", "return 200 static;")
        .errors_expected()
        .start();
    nginx.wait_log("RuntimeError: not ready yet");
    let workers = nginx.workers();
    let page = nginx.get("/").expect(500).text();
    assert!(page.contains("500 Internal Server Error"), "{page}");
    nginx.get("/static").expect(200);
    nginx.write("ready", "");
    assert_eq!(nginx.get("/").expect(200).text(), "helped");
    assert_eq!(nginx.get("/").expect(200).text(), "helped");
    assert_eq!(nginx.workers(), workers);
    let imports = nginx.events().len();
    assert!((2..=3).contains(&imports), "{imports} imports");
}

const MIDDLE: &str = r#"
def named(name):
    def middleware(application):
        def wrapped(environ, start_response):
            environ.setdefault("seen", []).append(name)
            return application(environ, start_response)
        return wrapped
    return middleware

middleware = named("default")
one = named("one")
two = named("two")
"#;

const SEEN: &str = r#"
def application(environ, start_response):
    start_response("200 OK", [])
    return [" ".join(environ.get("seen", [])).encode()]
"#;

fn middle(engine: Engine) -> Site {
    Site::new(engine).file("app.py", SEEN).file("lib/middle.py", MIDDLE).http("wsgi_python_path @prefix@/lib;")
}

fn middleware_wraps_in_the_order_it_is_named(engine: Engine) {
    let nginx = middle(engine)
        .location("/none", PASS)
        .location("/default", &format!("wsgi_middleware middle; {PASS}"))
        .location(
            "/two",
            &format!("wsgi_middleware middle two; {PASS} wsgi_middleware middle one; wsgi_middleware middle;"),
        )
        .start();
    assert_eq!(nginx.get("/none").expect(200).text(), "");
    assert_eq!(nginx.get("/default").expect(200).text(), "default");
    assert_eq!(nginx.get("/two").expect(200).text(), "two one default");
}

fn middleware_is_inherited_and_replaced(engine: Engine) {
    let nginx = middle(engine)
        .http("wsgi_middleware middle one;")
        .location("/inherited", PASS)
        .location("/replaced", &format!("{PASS} wsgi_middleware middle two;"))
        .start();
    assert_eq!(nginx.get("/inherited").expect(200).text(), "one");
    assert_eq!(nginx.get("/replaced").expect(200).text(), "two");
}

fn missing_middleware_is_an_error_of_the_location(engine: Engine) {
    let nginx = middle(engine)
        .location("/fine", PASS)
        .location("/module", &format!("{PASS} wsgi_middleware no_such_module;"))
        .location("/name", &format!("{PASS} wsgi_middleware middle no_such_name;"))
        .errors_expected()
        .start();
    nginx.get("/module").expect(500);
    nginx.wait_log("no_such_module");
    nginx.get("/name").expect(500);
    nginx.wait_log("no_such_name");
    nginx.get("/fine").expect(200);
}
