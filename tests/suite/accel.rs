//! Response headers with a meaning for nginx: X-Accel headers, hidden headers, error pages instead of responses.

use crate::harness::{Client, Conn, Engine, Process, Response, Site, both_engines, wait_for};
use std::time::{Duration, Instant};

both_engines!(
    a_protected_file_is_served,
    a_protected_file_is_served_in_ranges_and_conditionally,
    headers_that_describe_the_content_stay_and_others_go,
    a_redirect_to_a_location_of_an_application,
    a_redirect_becomes_get_unless_it_is_head,
    a_redirect_to_a_named_location_keeps_method_and_uri,
    a_redirect_to_a_proxy,
    a_change_is_not_judged_again_behind_a_proxy,
    a_redirect_to_where_there_is_nothing,
    an_unsafe_uri_gets_404,
    a_loop_of_redirects_ends,
    the_call_of_a_redirected_response_runs_to_its_end,
    a_file_of_a_redirected_response_is_closed,
    a_failure_after_a_redirect_is_logged,
    a_failure_before_a_redirect_is_sent_is_an_error,
    a_client_that_leaves_while_its_response_is_redirected,
    a_redirect_while_the_worker_quits,
    a_redirect_in_a_subrequest,
    many_redirects_leave_nothing_behind,
    a_limit_rate_holds,
    a_limit_rate_holds_for_a_protected_file,
    a_charset_of_the_application_overrides_that_of_nginx,
    headers_for_nginx_are_hidden,
    headers_can_be_hidden_and_passed,
    a_passed_redirect_is_followed_all_the_same,
);

/// Responds with status, headers and body that the query names as Python source.
const APP: &str = r#"
import os
import time
from urllib.parse import unquote_to_bytes

@event@

class Closing:
    def __init__(self, items):
        self.items = iter(items)
    def __iter__(self):
        return self
    def __next__(self):
        return next(self.items)
    def close(self):
        event("closed")

def application(environ, start_response):
    asked = unquote_to_bytes(environ["QUERY_STRING"]).decode("latin-1") or "'200 OK', [], [b'plain']"
    status, headers, body = eval(asked)
    write = start_response(status, headers)
    return body(write) if callable(body) else body
"#;

const ECHO: &str = r#"
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/echo"), ("X-Method", environ["REQUEST_METHOD"])])
    names = "REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "REQUEST_URI"
    if environ["REQUEST_METHOD"] == "GET" and environ.get("CONTENT_LENGTH") == "6":
        with open("@prefix@/events", "a") as events:
            events.write("reads\n")
    body = environ["wsgi.input"].read().decode()
    return [" ".join([environ[name] for name in names] + [body]).encode()]
"#;

const DIGITS: &str = "0123456789";

pub fn site(engine: Engine) -> Site {
    Site::new(engine)
        .app_at("/app", "app.py", APP)
        .app_at("/echo", "echo.py", ECHO)
        .file("files/digits.txt", DIGITS)
        .http("default_type application/octet-stream; types { text/plain txt; }")
        .location("/protected/", "internal; alias @prefix@/files/;")
}

/// The target that makes the application respond with this source: status, headers, body.
pub fn saying(source: &str) -> String {
    let quoted: String = source.bytes().map(|byte| format!("%{byte:02x}")).collect();
    format!("/app?{quoted}")
}

fn redirecting(target: &str) -> String {
    saying(&format!("'200 OK', [('X-Accel-Redirect', {target:?})], [b'not this']"))
}

#[track_caller]
pub fn ask(nginx: &Client, method: &str, target: &str, headers: &str) -> Response {
    let mut conn = nginx.connect();
    conn.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n"));
    conn.response_to(method)
}

#[track_caller]
pub fn say(nginx: &Client, source: &str) -> Response {
    ask(nginx, "GET", &saying(source), "")
}

// ---- X-Accel-Redirect -----------------------------------------------------------------------------------------------

fn a_protected_file_is_served(engine: Engine) {
    let nginx = site(engine).errors_expected().start_shared();
    ask(&nginx, "GET", "/protected/digits.txt", "").expect(404);
    // On one connection, with a response of its own after each.
    let mut conn = nginx.connect();
    for _ in 0..3 {
        conn.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", redirecting("/protected/digits.txt")));
        let response = conn.response().expect(200);
        assert_eq!(response.text(), DIGITS);
        assert_eq!(response.header("Content-Type"), Some("text/plain"));
        assert_eq!(response.header("X-Accel-Redirect"), None);
        conn.send("GET /app HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(conn.response().expect(200).text(), "plain");
    }
    // The status is that of the file, whatever the application sends. Its Content-Length is dropped.
    let response =
        say(&nginx, "'404 Not Found', [('x-accel-redirect', '/protected/digits.txt'), ('Content-Length', '999')], []");
    assert_eq!(response.expect(200).text(), DIGITS);
    assert!(nginx.logged("Content-Length").is_empty());
    let response = ask(&nginx, "HEAD", &redirecting("/protected/digits.txt"), "").expect(200);
    assert_eq!(response.header("Content-Length"), Some("10"));
}

fn a_protected_file_is_served_in_ranges_and_conditionally(engine: Engine) {
    let nginx = site(engine).start_shared();
    let target = redirecting("/protected/digits.txt");
    let response = ask(&nginx, "GET", &target, "Range: bytes=2-4\r\n").expect(206);
    assert_eq!(response.header("Content-Range"), Some("bytes 2-4/10"));
    assert_eq!(response.text(), "234");
    let etag = ask(&nginx, "GET", &target, "").expect(200).header("ETag").unwrap().to_owned();
    ask(&nginx, "GET", &target, &format!("If-None-Match: {etag}\r\n")).expect(304);
}

fn headers_that_describe_the_content_stay_and_others_go(engine: Engine) {
    let nginx = site(engine).server("location /plain/ { wsgi_hide_header Expires; wsgi_pass app.py; }").start();
    let headers = r#"'200 OK', [('X-Accel-Redirect', '/protected/digits.txt'),
        ('Content-Type', 'text/x-mine; charset=utf-8'), ('Set-Cookie', 'a=1'), ('Set-Cookie', 'b=2'),
        ('Content-Disposition', 'attachment'), ('Cache-Control', 'private'), ('Cache-Control', 'no-store'),
        ('Expires', 'Thu, 01 Jan 1970 00:00:00 GMT'), ('X-Own', 'x'), ('ETag', '"mine"'), ('Server', 'mine'),
        ('Last-Modified', 'Wed, 21 Oct 2015 07:28:00 GMT'), ('Content-Encoding', 'x'), ('Vary', 'Cookie'),
        ('Location', '/'), ('Link', '</a>'), ('Content-Language', 'de'), ('Refresh', '1'), ('WWW-Authenticate', 'x')
        ], []"#;
    let response = say(&nginx, headers).expect(200);
    assert_eq!(response.text(), DIGITS);
    assert_eq!(response.header("Content-Type"), Some("text/x-mine; charset=utf-8"));
    assert_eq!(response.all("Set-Cookie"), ["a=1", "b=2"]);
    assert_eq!(response.header("Content-Disposition"), Some("attachment"));
    assert_eq!(response.all("Cache-Control"), ["private", "no-store"]);
    assert_eq!(response.header("Expires"), Some("Thu, 01 Jan 1970 00:00:00 GMT"));
    for name in ["X-Own", "Content-Encoding", "Vary", "Location", "Link", "Content-Language", "Refresh"] {
        assert_eq!(response.header(name), None, "{name}");
    }
    assert_eq!(response.header("WWW-Authenticate"), None);
    assert!(response.header("Server").unwrap().starts_with("nginx"));
    assert_ne!(response.header("ETag"), Some("\"mine\""));
    assert_ne!(response.header("Last-Modified"), Some("Wed, 21 Oct 2015 07:28:00 GMT"));

    // An empty type leaves it to nginx, as frameworks that always send one need.
    let headers = "'200 OK', [('X-Accel-Redirect', '/protected/digits.txt'), ('Content-Type', '')], []";
    assert_eq!(say(&nginx, headers).expect(200).header("Content-Type"), Some("text/plain"));
    let headers = "'200 OK', [('X-Accel-Redirect', '/protected/digits.txt'), ('Accept-Ranges', 'none')], []";
    assert_eq!(say(&nginx, headers).expect(200).all("Accept-Ranges")[0], "none");
    // The type of the first response is not mixed with that of the second.
    let headers = "'200 OK', [('X-Accel-Redirect', '/echo'), ('Content-Type', 'text/html; charset=utf-8')], []";
    assert_eq!(say(&nginx, headers).expect(200).header("Content-Type"), Some("text/echo"));

    // Hidden headers are hidden here too.
    let target = saying(
        "'200 OK', [('X-Accel-Redirect', '/protected/digits.txt'), ('Expires', '0'), ('Set-Cookie', 'a=1')], []",
    );
    let response = ask(&nginx, "GET", &target.replace("/app", "/plain/"), "").expect(200);
    assert_eq!((response.header("Expires"), response.header("Set-Cookie")), (None, Some("a=1")));
}

fn a_redirect_to_a_location_of_an_application(engine: Engine) {
    let nginx = site(engine).start_shared();
    let target = redirecting("/echo/a%20b%3f?x=%20y&z");
    let response = ask(&nginx, "GET", &target, "").expect(200);
    assert_eq!(response.text(), format!("GET /a b? x=%20y&z {target} "));
    assert_eq!(response.header("Content-Type"), Some("text/echo"));
}

fn a_redirect_becomes_get_unless_it_is_head(engine: Engine) {
    let nginx = site(engine).start_shared();
    let target = redirecting("/echo/x");
    for (method, body) in [("POST", "Content-Length: 4\r\n\r\nbody"), ("DELETE", "\r\n"), ("GET", "\r\n")] {
        let mut conn = nginx.connect();
        conn.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{body}"));
        let text = conn.response().expect(200).text();
        // The body stays, as it does where nginx proxies.
        let body = if method == "POST" { "body" } else { "" };
        assert_eq!(text, format!("GET /x  {target} {body}"));
    }
    assert_eq!(ask(&nginx, "HEAD", &target, "").expect(200).header("X-Method"), Some("HEAD"));
}

fn a_redirect_to_a_named_location_keeps_method_and_uri(engine: Engine) {
    let nginx = site(engine).location("@echo", "wsgi_pass echo.py;").errors_expected().start();
    let target = redirecting("@echo");
    for method in ["GET", "POST"] {
        let text = ask(&nginx, method, &target, "Content-Length: 2\r\n\r\nab").expect(200).text();
        let query = target.split_once('?').unwrap().1;
        assert_eq!(text, format!("{method} /app {query} {target} ab"));
    }
    ask(&nginx, "GET", &redirecting("@nowhere"), "").expect(500);
    let line = nginx.wait_log("could not find named location \"@nowhere\"");
    assert!(line.contains("request: \"GET /app"), "{line}");
}

fn a_redirect_to_a_proxy(engine: Engine) {
    let nginx =
        site(engine).location("/proxy/", "internal; proxy_pass http://127.0.0.1:@port@/echo/;").workers(2).start();
    let response = ask(&nginx, "POST", &redirecting("/proxy/x?y=z"), "Content-Length: 2\r\n\r\nab").expect(200);
    assert_eq!(response.text(), "GET /x y=z /echo/x?y=z ab");
    assert_eq!(response.header("Content-Type"), Some("text/echo"));
}

/// The file has another version than the one that was changed.
fn a_change_is_not_judged_again_behind_a_proxy(engine: Engine) {
    let nginx = site(engine)
        .file("files/page", "page")
        .location("/open/", "alias @prefix@/files/;")
        .location("/proxy/", "internal; proxy_pass http://127.0.0.1:@port@/open/;")
        .workers(2)
        .start();
    let conditions = [
        "If-Match: \"v1\"",
        "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
        "If-None-Match: *",
        "Range: bytes=0-0",
    ];
    for condition in conditions {
        let response = ask(&nginx, "PUT", &redirecting("/proxy/page"), &format!("{condition}\r\n"));
        assert_eq!((response.status, response.text().as_str()), (200, "page"), "{condition}");
    }
    // A proxied request of the client is judged there.
    ask(&nginx, "GET", &redirecting("/proxy/page"), "If-None-Match: *\r\n").expect(304);
}

fn a_redirect_to_where_there_is_nothing(engine: Engine) {
    let nginx = site(engine).errors_expected().start_shared();
    ask(&nginx, "GET", &redirecting("/protected/missing"), "").expect(404);
    // The log knows the request of the client.
    let line = nginx.wait_log("files/missing\" failed (2: No such file or directory)");
    assert!(line.contains(&format!("client: {}", nginx.source())) && line.contains("request: \"GET /app"), "{line}");
}

fn an_unsafe_uri_gets_404(engine: Engine) {
    let nginx = site(engine).errors_expected().start_shared();
    for target in ["", "?a", "/../x", "/protected/..", "/a/%2e%2e/x", "/a%00"] {
        ask(&nginx, "GET", &redirecting(target), "").expect(404);
    }
    assert_eq!(nginx.logged("unsafe URI").len(), 6, "{}", nginx.error_log());
    assert!(nginx.wait_log("unsafe URI \"/../x\" was detected").contains("request: \"GET /app"));
    // Nothing of it stays with the connection.
    assert_eq!(ask(&nginx, "GET", "/app", "").expect(200).text(), "plain");
}

fn a_loop_of_redirects_ends(engine: Engine) {
    let looping = r#"
def application(environ, start_response):
    with open("@prefix@/events", "a") as events:
        events.write("called\n")
    start_response("200 OK", [("X-Accel-Redirect", environ["QUERY_STRING"] or environ["PATH_INFO"])])
    return []
"#;
    let nginx = site(engine)
        .app_at("/loop", "loop.py", looping)
        .location("@loop", "wsgi_pass loop.py;")
        .location("/again", "wsgi_pass loop.py; wsgi_script_name /none;")
        .errors_expected()
        .start();
    for (times, target) in [(1, "/again"), (2, "/loop?@loop")] {
        ask(&nginx, "GET", target, "").expect(500);
        let logged = nginx.logged("redirection cycle");
        assert_eq!(logged.len(), times, "{logged:?}");
        // The first, and ten redirects.
        assert_eq!(nginx.events().len(), 11 * times);
    }
    assert_eq!(ask(&nginx, "GET", "/app", "").expect(200).text(), "plain");
}

/// Far more than there is room for.
pub const LONG: &str = "b'x' * 10000 for _ in range(100)";

fn the_call_of_a_redirected_response_runs_to_its_end(engine: Engine) {
    let after = r#"
import os

def application(environ, start_response):
    with open("@prefix@/events") as events:
        before = events.read().split()
    start_response("200 OK", [])
    return [" ".join(before).encode()]
"#;
    let nginx = site(engine).app_at("/after", "after.py", after).start();
    // The redirect is followed when close() has run; the harness would see an error in the log.
    let iterated = format!("'200 OK', [('X-Accel-Redirect', '/after')], Closing([{LONG}])");
    assert_eq!(say(&nginx, &iterated).expect(200).text(), "closed");
    let written =
        "'200 OK', [('X-Accel-Redirect', '/after')], lambda write: [write(b'x' * 1000000), event('written')] and []";
    assert_eq!(say(&nginx, written).expect(200).text(), "closed written");
    let response = ask(&nginx, "HEAD", &saying(&iterated), "").expect(200);
    assert!(response.body.is_empty());
    assert_eq!(nginx.events(), ["closed", "written", "closed"]);
}

fn a_file_of_a_redirected_response_is_closed(engine: Engine) {
    let wrapping = r#"
class File:
    def __init__(self, file):
        self.read = file.read
        self.fileno = file.fileno
        self.file = file
    def close(self):
        self.file.close()
        with open("@prefix@/events", "a") as events:
            events.write("closed\n")

def application(environ, start_response):
    start_response("200 OK", [("X-Accel-Redirect", "/protected/digits.txt")])
    file = open(__file__, "rb")
    return environ["wsgi.file_wrapper"](file if environ["QUERY_STRING"] else File(file))
"#;
    let nginx = site(engine).app_at("/wrapping", "wrapping.py", wrapping).start();
    let worker = Process(nginx.application_workers()[0]);
    assert_eq!(ask(&nginx, "GET", "/wrapping", "").expect(200).text(), DIGITS);
    nginx.wait_events(&["closed"]);
    let descriptors = worker.descriptors();
    for _ in 0..10 {
        assert_eq!(ask(&nginx, "GET", "/wrapping?plain", "").expect(200).text(), DIGITS);
    }
    wait_for("the descriptors to be closed", || (worker.descriptors() <= descriptors).then_some(()));
}

/// With `wsgi_request_buffering off` the call may be over before the body is there.
#[test]
fn a_redirect_before_the_body_has_come() {
    let nginx = site(Engine::Threads).server("wsgi_request_buffering off;").start();
    let mut conn = nginx.connect();
    let target = redirecting("/protected/digits.txt");
    conn.send(format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc"));
    assert_eq!(conn.response().expect(200).text(), DIGITS);
    conn.assert_closed();
}

fn a_failure_after_a_redirect_is_logged(engine: Engine) {
    let nginx = site(engine).errors_expected().start_shared();
    let source =
        "'200 OK', [('X-Accel-Redirect', '/protected/digits.txt')], (b'x' if i == 0 else 1 // 0 for i in range(2))";
    assert_eq!(say(&nginx, source).expect(200).text(), DIGITS);
    assert!(nginx.wait_log("ZeroDivisionError").contains("request: \"GET /app"));
}

fn a_failure_before_a_redirect_is_sent_is_an_error(engine: Engine) {
    let nginx = site(engine).errors_expected().start_shared();
    let source = "'200 OK', [('X-Accel-Redirect', '/protected/digits.txt')], (1 // 0 for i in range(2))";
    say(&nginx, source).expect(500);
}

fn a_client_that_leaves_while_its_response_is_redirected(engine: Engine) {
    let nginx = site(engine).errors_expected().start_shared();
    let waiting = "(event('started'), [time.sleep(0.01) for _ in iter(lambda: os.path.exists('@prefix@/go'), True)])"
        .replace("@prefix@", nginx.prefix().to_str().unwrap());
    let source = format!(
        "'200 OK', [('X-Accel-Redirect', '/protected/digits.txt')], Closing(b'' if i else ({waiting} and b'x') for i in range(2))"
    );
    for reset in [false, true] {
        let _ = std::fs::remove_file(nginx.prefix().join("go"));
        let _ = std::fs::remove_file(nginx.prefix().join("events"));
        let mut conn: Conn = nginx.connect();
        conn.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", saying(&source)));
        nginx.wait_events(&["started"]);
        if reset {
            conn.reset()
        } else {
            drop(conn)
        }
        if engine == Engine::Threads {
            nginx.wait_access("499 GET /app");
        }
        nginx.write("go", "");
        nginx.wait_events(&["started", "closed"]);
        assert_eq!(ask(&nginx, "GET", &redirecting("/protected/digits.txt"), "").expect(200).text(), DIGITS);
    }
}

fn a_redirect_while_the_worker_quits(engine: Engine) {
    let nginx = site(engine).start();
    let source =
        "'200 OK', [('X-Accel-Redirect', '/echo/x')], (event('started') or time.sleep(0.5) or b'x' for _ in range(1))";
    let mut conn = nginx.connect();
    conn.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", saying(source)));
    nginx.wait_events(&["started"]);
    nginx.reload();
    assert!(conn.response().expect(200).text().starts_with("GET /x"));
}

fn a_redirect_in_a_subrequest(engine: Engine) {
    let page = format!(
        "<!--# include virtual=\"{}\" --> and <!--# include virtual=\"{}\" -->.",
        redirecting("/protected/digits.txt"),
        redirecting("/echo/x")
    );
    let nginx = site(engine)
        .file("html/page.shtml", &page)
        .location("/page.shtml", "root html; ssi on; ssi_types *; default_type text/html;")
        .start();
    for _ in 0..2 {
        let text = ask(&nginx, "GET", "/page.shtml", "").expect(200).text();
        assert_eq!(text, format!("{DIGITS} and GET /x  /page.shtml ."));
    }
}

fn many_redirects_leave_nothing_behind(engine: Engine) {
    let nginx = site(engine).start();
    let worker = Process(nginx.workers()[0]);
    let target = redirecting("/protected/digits.txt");
    let ask_often = |times| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut conn = nginx.connect();
                    for _ in 0..times {
                        conn.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
                        assert_eq!(conn.response().expect(200).text(), DIGITS);
                    }
                });
            }
        });
    };
    ask_often(50);
    let (descriptors, memory) = (worker.descriptors(), worker.memory());
    ask_often(250);
    wait_for("the descriptors to be closed", || (worker.descriptors() <= descriptors).then_some(()));
    let grown = worker.memory().saturating_sub(memory);
    assert!(grown < 1 << 20, "{grown} bytes after 1000 redirects");
}

// ---- what nginx is told about a response -----------------------------------------------------------------------------

fn a_limit_rate_holds(engine: Engine) {
    let nginx = site(engine)
        .http("log_format rate '$limit_rate'; access_log logs/rate.log rate;")
        .location("/slow", "limit_rate 1000; wsgi_pass app.py;")
        .start();
    let mut count = 0;
    let mut rate = |value: &str, path: &str, size: usize| {
        let source = format!("'200 OK', [('X-Accel-Limit-Rate', '{value}')], [b'x' * {size}] * 3");
        let response = ask(&nginx, "GET", &saying(&source).replace("/app", path), "").expect(200);
        assert_eq!(response.body.len(), 3 * size);
        assert_eq!(response.header("X-Accel-Limit-Rate"), None);
        count += 1;
        wait_for("the access log", || nginx.read("logs/rate.log").lines().nth(count - 1).map(str::to_owned))
    };
    let start = Instant::now();
    assert_eq!(rate("60000", "/app", 50_000), "60000");
    // The first second's worth goes at once.
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
    for none in ["off", "0"] {
        assert_eq!(rate(none, "/slow", 50_000), "0", "{none}");
    }
    for ignored in ["", "fast", "-1", "1k"] {
        assert_eq!(rate(ignored, "/app", 50_000), "0", "{ignored}");
        assert_eq!(rate(ignored, "/slow", 300), "1000", "{ignored}");
    }
}

fn a_limit_rate_holds_for_a_protected_file(engine: Engine) {
    let nginx = site(engine).file("files/long.txt", &"x".repeat(150_000)).start();
    let start = Instant::now();
    let headers = "[('X-Accel-Redirect', '/protected/long.txt'), ('X-Accel-Limit-Rate', '60000')]";
    assert_eq!(say(&nginx, &format!("'200 OK', {headers}, []")).expect(200).body.len(), 150_000);
    assert!(start.elapsed() > Duration::from_millis(900), "{:?}", start.elapsed());
}

fn a_charset_of_the_application_overrides_that_of_nginx(engine: Engine) {
    // nginx follows only to charsets that its configuration names somewhere.
    let nginx = site(engine).http("charset utf-8;").location("/named", "charset koi8-r;").errors_expected().start();
    for (charset, sent) in [("koi8-r", "text/html; charset=koi8-r"), ("off", "text/html")] {
        let source = format!("'200 OK', [('Content-Type', 'text/html'), ('X-Accel-Charset', '{charset}')], [b'x']");
        let response = say(&nginx, &source).expect(200);
        assert_eq!(response.header("Content-Type"), Some(sent));
        assert_eq!(response.header("X-Accel-Charset"), None);
    }
    let response = say(&nginx, "'200 OK', [('Content-Type', 'text/html')], [b'x']").expect(200);
    assert_eq!(response.header("Content-Type"), Some("text/html; charset=utf-8"));
    say(&nginx, "'200 OK', [('Content-Type', 'text/html'), ('X-Accel-Charset', 'unnamed')], [b'x']").expect(200);
    nginx.wait_log("unknown charset \"unnamed\" to override");
    let headers = "[('X-Accel-Redirect', '/protected/digits.txt'), ('X-Accel-Charset', 'koi8-r')]";
    let response = say(&nginx, &format!("'200 OK', {headers}, []")).expect(200);
    assert_eq!(response.header("Content-Type"), Some("text/plain; charset=koi8-r"));
}

// ---- wsgi_hide_header, wsgi_pass_header -----------------------------------------------------------------------------

const MANY: &str = "'200 OK', [('X-Accel-Expires', '1'), ('X-ACCEL-BUFFERING', 'no'), ('X-Accel-Limit-Rate', '0'), \
                    ('X-Accel-Charset', 'off'), ('X-Accel-Other', 'o'), ('X-Accel', 'a'), ('X-Powered-By', 'p'), \
                    ('Server', 's'), ('Date', 'd'), ('X-A', 'a'), ('X-B', 'b'), ('X-A', 'c')], [b'x']";

fn headers_for_nginx_are_hidden(engine: Engine) {
    let nginx = site(engine).start_shared();
    let response = say(&nginx, MANY).expect(200);
    for name in ["X-Accel-Expires", "X-Accel-Buffering", "X-Accel-Limit-Rate", "X-Accel-Charset"] {
        assert_eq!(response.header(name), None, "{name}");
    }
    // And nothing else, not even what a proxy hides.
    for (name, value) in
        [("X-Accel-Other", "o"), ("X-Accel", "a"), ("X-Powered-By", "p"), ("Server", "s"), ("Date", "d"), ("X-B", "b")]
    {
        assert_eq!(response.header(name), Some(value));
    }
}

fn headers_can_be_hidden_and_passed(engine: Engine) {
    let nginx = site(engine)
        .server("wsgi_hide_header x-a; wsgi_hide_header Server; wsgi_hide_header Content-Length; wsgi_pass_header X-Accel-Expires;")
        .location("/hide", "wsgi_hide_header X-B; wsgi_hide_header Date; wsgi_pass app.py;")
        .location("/pass", "wsgi_pass_header X-A; wsgi_pass_header x-accel-buffering; wsgi_pass app.py;")
        .start();
    let of = |path: &str| {
        let response = ask(&nginx, "GET", &saying(MANY).replace("/app", path), "").expect(200);
        // nginx sends these itself.
        assert_eq!(response.header("Content-Length"), Some("1"));
        assert!(response.header("Date").is_some());
        let date = response.header("Date") == Some("d");
        let server = response.header("Server") == Some("s");
        let known = |name| !response.all(name).is_empty();
        [known("X-A"), known("X-B"), server, date, known("X-Accel-Expires"), known("X-Accel-Buffering")]
    };
    assert_eq!(of("/app"), [false, true, false, true, true, false]);
    // A level that names headers to hide has its own; those to pass are inherited on their own.
    assert_eq!(of("/hide"), [true, false, true, false, true, false]);
    assert_eq!(of("/pass"), [true, true, false, true, false, true]);
}

fn a_passed_redirect_is_followed_all_the_same(engine: Engine) {
    let nginx = site(engine).server("wsgi_pass_header X-Accel-Redirect; wsgi_pass_header X-Accel-Limit-Rate;").start();
    let headers = "[('X-Accel-Redirect', '/protected/digits.txt')]";
    let response = say(&nginx, &format!("'200 OK', {headers}, []")).expect(200);
    assert_eq!((response.text().as_str(), response.header("X-Accel-Redirect")), (DIGITS, None));
    let response = say(&nginx, "'200 OK', [('X-Accel-Limit-Rate', '1000000')], [b'x']").expect(200);
    assert_eq!(response.header("X-Accel-Limit-Rate"), Some("1000000"));
}
