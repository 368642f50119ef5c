//! Ways in: TLS, HTTP/2, Unix sockets, the PROXY protocol, subrequests and redirects inside nginx.

use crate::harness::{Curl, Engine, Framing, Nginx, Response, Site, both_engines, curl, make_certificate, wait_for};
use serde_json::{Value, json};
use std::process::Command;

both_engines!(
    tls_is_in_environ,
    every_method_arrives_over_tls,
    http2_is_as_http1,
    http2_joins_cookies,
    http2_runs_many_requests_on_a_connection,
    http2_bodies_arrive_whole,
    http2_shows_a_stream_that_broke,
    http2_shows_a_body_that_was_short,
    http2_head_and_304_have_no_body,
    a_unix_socket_will_do,
    proxy_protocol_names_the_client,
    proxy_protocol_may_set_the_address,
    an_application_may_authorize,
    an_application_that_fails_authorizes_no_client,
    an_authorized_body_arrives_whole,
    ssi_includes_applications,
    ssi_includes_streams_and_nothing_at_all,
    a_subrequest_has_no_user,
    a_filter_may_hold_the_headers_back,
    an_application_may_be_an_ssi_page,
    an_include_that_fails_leaves_the_page,
    addition_puts_applications_around_a_file,
    an_application_may_be_mirrored_to,
    an_application_may_be_an_error_page,
    an_application_may_stand_in_for_one_that_failed,
    an_application_that_failed_twice_is_nginxs_error,
    a_rewrite_leads_to_an_application,
    a_directory_index_may_be_an_application,
    output_of_an_application_is_filtered,
    a_limited_method_does_not_reach_the_application,
);

/// Responds with what it was asked, as JSON; or fails in one of several ways.
const APP: &str = r#"
import json

KEYS = ["REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REQUEST_URI", "SERVER_PROTOCOL", "SERVER_NAME",
        "SERVER_PORT", "REMOTE_ADDR", "REMOTE_PORT", "HTTPS", "REQUEST_SCHEME", "wsgi.url_scheme", "HTTP_HOST",
        "HTTP_COOKIE", "HTTP_X_TEST", "CONTENT_LENGTH", "CLIENT"]

@event@

def application(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if query == "raise":
        raise LookupError("as asked")
    if query == "break":
        return broken(start_response)
    if query == "short":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "100")])
        return [b"x" * 50]
    if query == "304":
        start_response("304 Not Modified", [("ETag", '"a"')])
        return []
    body = environ["wsgi.input"].read()
    if query == "page":
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"<p>page", b" of ", environ["REQUEST_URI"].encode("latin-1"), b"</p>"]
    seen = {key: environ[key] for key in KEYS if key in environ}
    seen["body"] = len(body)
    text = json.dumps(seen).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
    return [text]

def broken(start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"x" * 1000
    raise LookupError("as asked")
"#;

fn site(engine: Engine) -> Site {
    Site::new(engine).app(APP)
}

/// A site that speaks TLS, with a certificate of its own.
fn tls_site(engine: Engine, options: &str) -> Site {
    let site = site(engine).listen(&format!(
        "listen 127.0.0.1:@port@ ssl {options}; server_name localhost;
        ssl_certificate @prefix@/certificate.pem; ssl_certificate_key @prefix@/key.pem;"
    ));
    make_certificate(site.prefix());
    site
}

fn https(nginx: &Nginx, path: &str) -> String {
    format!("https://127.0.0.1:{}{path}", nginx.port())
}

// ---- TLS and HTTP/2 -------------------------------------------------------------------------------------------------

fn tls_is_in_environ(engine: Engine) {
    let nginx = tls_site(engine, "").start();
    let url = https(&nginx, "/a?b");
    let seen = curl(&["--http1.1", "-H", "Host: example.org", &url]).expect(200).json();
    assert_eq!(seen["HTTPS"], "on");
    assert_eq!(seen["wsgi.url_scheme"], "https");
    assert_eq!(seen["REQUEST_SCHEME"], "https");
    assert_eq!(seen["SERVER_PROTOCOL"], "HTTP/1.1");
    assert_eq!(seen["SERVER_PORT"], nginx.port().to_string());
    assert_eq!(seen["HTTP_HOST"], "example.org");
    assert_eq!(seen["REQUEST_URI"], "/a?b");
}

fn every_method_arrives_over_tls(engine: Engine) {
    let nginx = tls_site(engine, "http2").start();
    let url = https(&nginx, "/");
    for version in ["--http1.1", "--http2"] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "INVENTED"] {
            let seen = curl(&[version, "-X", method, &url]).expect(200).json();
            assert_eq!(seen["REQUEST_METHOD"], method, "{version}");
        }
    }
}

fn http2_is_as_http1(engine: Engine) {
    let nginx = tls_site(engine, "http2").start();
    let url = https(&nginx, "/a%20b?c=%20");
    let ask = |version| -> (String, Value) {
        let got: Curl = curl(&[version, "-H", "Host: example.org", "-H", "X-Test: 1", &url]);
        (got.version.clone(), got.expect(200).json())
    };
    let ((one, mut old), (two, mut new)) = (ask("--http1.1"), ask("--http2"));
    assert_eq!((one.as_str(), two.as_str()), ("1.1", "2"));
    assert_eq!(new["SERVER_PROTOCOL"], "HTTP/2.0");
    for seen in [&mut old, &mut new] {
        let seen = seen.as_object_mut().unwrap();
        seen.remove("SERVER_PROTOCOL");
        seen.remove("REMOTE_PORT");
    }
    assert_eq!(old, new);
    assert_eq!(new["HTTP_HOST"], "example.org");
}

fn http2_joins_cookies(engine: Engine) {
    let nginx = tls_site(engine, "http2").start();
    let seen = curl(&["--http2", "-H", "Cookie: a=1", "-H", "Cookie: b=2; c=3", &https(&nginx, "/")]);
    assert_eq!(seen.expect(200).json()["HTTP_COOKIE"], "a=1; b=2; c=3");
}

fn http2_runs_many_requests_on_a_connection(engine: Engine) {
    let nginx = tls_site(engine, "http2").start();
    let url = https(&nginx, "/[1-40]?page");
    let done = Command::new("curl")
        .args(["-q", "-sS", "-k", "--http2", "--parallel", "-w", "%{http_code} %{num_connects}\n"])
        .args(["--max-time", "30", &url])
        .output()
        .expect("run curl");
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for number in 1..=40 {
        assert_eq!(text.matches(&format!("<p>page of /{number}?page</p>")).count(), 1, "{text}");
    }
    assert_eq!(text.matches("200 ").count(), 40, "{text}");
    assert!(text.matches("200 0").count() >= 30, "most share a connection: {text}");
}

fn http2_bodies_arrive_whole(engine: Engine) {
    let nginx = tls_site(engine, "http2")
        .file("small", &"x".repeat(1000))
        .file("large", &"x".repeat(3_000_000))
        .http("client_max_body_size 10m;")
        .start();
    let url = https(&nginx, "/");
    for (name, size) in [("small", 1000), ("large", 3_000_000)] {
        let file = format!("@{}", nginx.prefix().join(name).display());
        let seen = curl(&["--http2", "--data-binary", &file, &url]).expect(200).json();
        assert_eq!((&seen["body"], &seen["CONTENT_LENGTH"]), (&json!(size), &json!(size.to_string())));
        // Without a length; HTTP/2 needs none.
        let seen = curl(&["--http2", "-X", "POST", "-T", &file[1..], "-H", "Content-Length:", &url]);
        assert_eq!(seen.expect(200).json()["body"], size);
    }
}

fn http2_shows_a_stream_that_broke(engine: Engine) {
    let nginx = tls_site(engine, "http2").errors_expected().start();
    let broken = curl(&["--http2", &https(&nginx, "/?break")]);
    assert_eq!(broken.response.status, 200);
    assert_ne!(broken.code, 0, "{broken:?}");
    assert!(broken.response.body.len() <= 1000);
    let failed = curl(&["--http2", &https(&nginx, "/?raise")]).expect(500);
    assert!(failed.text().contains("nginx"), "{failed:?}");
    nginx.wait_log("LookupError: as asked");
}

fn http2_shows_a_body_that_was_short(engine: Engine) {
    let nginx = tls_site(engine, "http2").errors_expected().start();
    let short = curl(&["--http2", &https(&nginx, "/?short")]);
    assert_ne!(short.code, 0, "{short:?}");
    curl(&["--http2", &https(&nginx, "/")]).expect(200);
}

fn http2_head_and_304_have_no_body(engine: Engine) {
    let nginx = tls_site(engine, "http2").start();
    let url = https(&nginx, "/");
    let head = curl(&["--http2", "-I", &url]).expect(200);
    assert!(head.header("content-length").is_some() && head.body.is_empty(), "{head:?}");
    let same = curl(&["--http2", &https(&nginx, "/?304")]).expect(304);
    assert_eq!((same.header("etag"), same.body.len()), (Some("\"a\""), 0));
}

// ---- other sockets --------------------------------------------------------------------------------------------------

fn a_unix_socket_will_do(engine: Engine) {
    let nginx =
        site(engine).listen("listen 127.0.0.1:@port@; listen unix:@prefix@/socket; server_name localhost;").start();
    let socket = nginx.prefix().join("socket");
    let seen = curl(&["--unix-socket", socket.to_str().unwrap(), "http://example.org/a"]).expect(200).json();
    assert_eq!(seen["HTTP_HOST"], "example.org");
    // PEP 3333 wants both, and never empty.
    assert_eq!((&seen["SERVER_NAME"], &seen["SERVER_PORT"]), (&json!("localhost"), &json!("80")));
    assert!(!seen["REMOTE_ADDR"].as_str().unwrap().contains('/'), "{seen}");
}

/// By way of the PROXY protocol, from 192.0.2.7, port 1234.
fn proxied(nginx: &Nginx) -> Response {
    let mut conn = nginx.connect();
    conn.send(format!("PROXY TCP4 192.0.2.7 192.0.2.1 1234 {}\r\n", nginx.port()));
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").response()
}

fn proxy_protocol_names_the_client(engine: Engine) {
    let nginx = site(engine)
        .listen("listen 127.0.0.1:@port@ proxy_protocol;")
        .http("wsgi_var CLIENT $proxy_protocol_addr:$proxy_protocol_port;")
        .start();
    let seen = proxied(&nginx).expect(200).json();
    assert_eq!((&seen["REMOTE_ADDR"], &seen["CLIENT"]), (&json!("127.0.0.1"), &json!("192.0.2.7:1234")));
}

fn proxy_protocol_may_set_the_address(engine: Engine) {
    let nginx = site(engine)
        .listen("listen 127.0.0.1:@port@ proxy_protocol;")
        .http("set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;")
        .start();
    let seen = proxied(&nginx).expect(200).json();
    assert_eq!((&seen["REMOTE_ADDR"], &seen["REMOTE_PORT"]), (&json!("192.0.2.7"), &json!("1234")));
}

// ---- subrequests ----------------------------------------------------------------------------------------------------

/// Access check; compares the announced length of the body with the bytes that it can read.
const GUARD: &str = r#"
def application(environ, start_response):
    token = environ.get("HTTP_X_TOKEN")
    if token == "raise":
        raise PermissionError("as asked")
    body = environ["wsgi.input"].read()
    if len(body) != int(environ.get("CONTENT_LENGTH") or 0):
        raise AssertionError("CONTENT_LENGTH " + environ["CONTENT_LENGTH"])
    if token == "good":
        start_response("204 No Content", [("X-User", "somebody")])
        return []
    start_response("401 Unauthorized", [("WWW-Authenticate", 'Token realm="here"'), ("Content-Type", "text/plain")])
    return [b"who are you?"]
"#;

fn guarded(engine: Engine) -> Site {
    site(engine)
        .file("guard.py", GUARD)
        .location("= /guard", "internal; wsgi_pass guard.py;")
        .location("/guarded/", "auth_request /guard; auth_request_set $who $sent_http_x_user; wsgi_pass app.py;")
        .location("/file/", "auth_request /guard; alias @prefix@/;")
}

fn token(token: &str) -> [(&str, &str); 1] {
    [("X-Token", token)]
}

fn an_application_may_authorize(engine: Engine) {
    let nginx = guarded(engine).file("file.txt", "a file").start();
    for _ in 0..3 {
        let entered = nginx.request("GET", "/guarded/a", &token("good"), b"").expect(200);
        assert_eq!(entered.json()["PATH_INFO"], "/guarded/a");
        assert_eq!(entered.header("X-User"), None, "the subrequest's headers are its own");
        let file = nginx.request("GET", "/file/file.txt", &token("good"), b"").expect(200);
        assert_eq!(file.text(), "a file");
        for path in ["/guarded/a", "/file/file.txt"] {
            let refused = nginx.request("GET", path, &token("bad"), b"").expect(401);
            assert!(refused.text().contains("nginx"), "{refused:?}");
        }
        nginx.get("/guard").expect(404);
    }
    // nginx takes the challenge of the subrequest over.
    let refused = nginx.get("/guarded/a").expect(401);
    assert_eq!(refused.header("WWW-Authenticate"), Some("Token realm=\"here\""));
}

fn an_application_that_fails_authorizes_no_client(engine: Engine) {
    let nginx = guarded(engine).errors_expected().start();
    nginx.request("GET", "/guarded/a", &token("raise"), b"").expect(500);
    nginx.wait_log("PermissionError: as asked");
    nginx.request("GET", "/guarded/a", &token("good"), b"").expect(200);
}

fn an_authorized_body_arrives_whole(engine: Engine) {
    let nginx = guarded(engine).http("client_body_buffer_size 8k;").start();
    for size in [1, 5000, 200_000] {
        let body = vec![b'x'; size];
        let seen = nginx.request("POST", "/guarded/", &token("good"), &body).expect(200).json();
        assert_eq!((&seen["body"], &seen["REQUEST_METHOD"]), (&json!(size), &json!("POST")));
        nginx.request("POST", "/guarded/", &token("bad"), &body).expect(401);
    }
}

fn ssi_includes_applications(engine: Engine) {
    let page = r#"(<!--# include virtual="/app/one?page" -->|<!--# include virtual="/app/two?page" -->|<!--#
        include virtual="/app/three" -->)"#;
    let nginx = site(engine)
        .file("pages/index.html", page)
        .location("/pages/", "root @prefix@; ssi on;")
        .location("/app/", "wsgi_pass app.py;")
        .start();
    for _ in 0..3 {
        let text = nginx.get("/pages/index.html").expect(200).text();
        let (one, rest) = text.split_once('|').unwrap();
        let (two, three) = rest.split_once('|').unwrap();
        // The page's own URI is the request's; PATH_INFO has that of the included page.
        assert!(one.starts_with("(<p>page of ") && two.starts_with("<p>page of "), "{text}");
        let seen: Value = serde_json::from_str(three.trim_end_matches(')')).expect(three);
        assert_eq!((&seen["SCRIPT_NAME"], &seen["PATH_INFO"]), (&json!(""), &json!("/app/three")));
        assert_eq!(seen["REQUEST_METHOD"], "GET");
    }
}

fn ssi_includes_streams_and_nothing_at_all(engine: Engine) {
    let streams = r#"
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html")])
    return iter([b"a", b"b"]) if environ["PATH_INFO"] == "/stream" else []
"#;
    let page = "(<!--# include virtual=\"/app/stream\" -->|<!--# include virtual=\"/app/none\" -->)";
    let nginx = site(engine)
        .file("streams.py", streams)
        .file("pages/index.html", page)
        .location("/pages/", "root @prefix@; ssi on;")
        .location("/app/", "wsgi_pass streams.py;")
        .start();
    assert_eq!(nginx.get("/pages/index.html").expect(200).text(), "(ab|)");
}

/// nginx has no access phase in subrequests: `auth_basic` of the location included is never looked at.
fn a_subrequest_has_no_user(engine: Engine) {
    let nginx = site(engine)
        .file("pages/index.html", "<!--# include virtual=\"/app/x\" -->")
        .file("passwords", "user:{PLAIN}other\n")
        .location("/pages/", "root @prefix@; ssi on; add_header X-Claimed $remote_user;")
        .location("/app/", "auth_basic x; auth_basic_user_file @prefix@/passwords; wsgi_pass user.py;")
        .file(
            "user.py",
            r#"
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html")])
    return [environ.get("REMOTE_USER", "nobody").encode()]
"#,
        )
        .start();
    let response = nginx.request("GET", "/pages/index.html", &[("Authorization", "Basic dXNlcjpwYXNz")], b"");
    assert_eq!(response.header("X-Claimed"), Some("user"));
    assert_eq!(response.text(), "nobody");
}

/// Such a filter sends the headers only when it has seen the body.
fn a_filter_may_hold_the_headers_back(engine: Engine) {
    let filter = "/usr/lib/nginx/modules/ngx_http_image_filter_module.so";
    if !std::path::Path::new(filter).exists() {
        eprintln!("skipped: nginx's image filter is not installed (libnginx-mod-http-image-filter)");
        return;
    }
    let nginx = site(engine)
        .main(&format!("load_module {filter};"))
        .location("/image", "image_filter resize 5 5; image_filter_buffer 4m; wsgi_pass image.py;")
        .file(
            "image.py",
            r#"
import os, struct, zlib

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

SIDE = 300
rows = b"".join(b"\0" + os.urandom(3 * SIDE) for _ in range(SIDE))
IMAGE = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0))
         + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "image/png")])
    for at in range(0, len(IMAGE), 10000):
        yield IMAGE[at:at + 10000]
"#,
        )
        .start();
    let response = nginx.get("/image").expect(200);
    assert_eq!(response.header("Content-Type"), Some("image/png"));
    assert_eq!(response.body[16..24], [0, 0, 0, 5, 0, 0, 0, 5]);
}

fn an_application_may_be_an_ssi_page(engine: Engine) {
    let page = r##"
PAGE = b'<!--# set var="name" value="value" -->[<!--# echo var="name" -->][<!--# include virtual="/app/x?page" -->]'

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html")])
    for at in range(0, len(PAGE), 7):
        yield PAGE[at:at + 7]
"##;
    let nginx = site(engine)
        .file("page.py", page)
        .location("/app/", "wsgi_pass app.py;")
        .location("/page", "wsgi_pass page.py; ssi on;")
        .start();
    let text = nginx.get("/page").expect(200).text();
    assert!(text.starts_with("[value][<p>page of ") && text.ends_with("</p>]"), "{text}");
}

fn an_include_that_fails_leaves_the_page(engine: Engine) {
    let page = "(<!--# include virtual=\"/app/x?raise\" -->|<!--# include virtual=\"/app/y?page\" -->)";
    let nginx = site(engine)
        .file("pages/index.html", page)
        .location("/pages/", "root @prefix@; ssi on;")
        .location("/app/", "wsgi_pass app.py;")
        .errors_expected()
        .start();
    let text = nginx.get("/pages/index.html").expect(200).text();
    assert!(text.starts_with('(') && text.ends_with("</p>)"), "{text}");
    assert!(!text.contains("LookupError"), "{text}");
}

/// The names of its directives are paths without a query.
fn addition_puts_applications_around_a_file(engine: Engine) {
    let nginx = site(engine)
        .file("pages/index.html", "|file|")
        .location("/pages/", "root @prefix@; add_before_body /app/a; add_after_body /app/b;")
        .location("/app/", "wsgi_pass app.py;")
        .start();
    let text = nginx.get("/pages/index.html").expect(200).text();
    let parts: Vec<&str> = text.split('|').collect();
    assert_eq!((parts.len(), parts[1]), (3, "file"), "{text}");
    for (part, path) in [(parts[0], "/app/a"), (parts[2], "/app/b")] {
        let seen: Value = serde_json::from_str(part).expect(part);
        assert_eq!(seen["PATH_INFO"], path);
    }
}

fn an_application_may_be_mirrored_to(engine: Engine) {
    let mirror = r#"
def application(environ, start_response):
    size = len(environ["wsgi.input"].read())
    with open("@prefix@/events", "a") as events:
        events.write(f"{environ['REQUEST_METHOD']} {environ.get('CONTENT_LENGTH')} {size}\n")
    start_response("200 OK", [])
    return [b"nobody reads this"]
"#;
    let nginx = site(engine)
        .file("mirror.py", mirror)
        .location("= /mirror", "internal; wsgi_pass mirror.py;")
        .location("/mirrored", "mirror /mirror; wsgi_pass app.py;")
        .http("client_body_buffer_size 8k;")
        .start();
    for size in [10, 100_000] {
        let seen = nginx.post("/mirrored", vec![b'x'; size]).expect(200).json();
        assert_eq!(seen["body"], size);
    }
    wait_for("two mirrored requests", || (nginx.events().len() == 2).then_some(()));
    assert_eq!(nginx.events(), ["POST 10 10", "POST 100000 100000"]);
}

// ---- redirects inside nginx -----------------------------------------------------------------------------------------

fn an_application_may_be_an_error_page(engine: Engine) {
    let nginx = site(engine)
        .location("/files/", "root @prefix@; error_page 404 /errors/404; log_not_found off;")
        .location("/changed/", "root @prefix@; error_page 404 =200 @errors; log_not_found off;")
        .location("/errors/", "internal; wsgi_pass app.py;")
        .location("@errors", "wsgi_pass app.py;")
        .start();
    let got = nginx.get("/files/absent?a=b").expect(404);
    let seen = got.json();
    assert_eq!((&seen["SCRIPT_NAME"], &seen["PATH_INFO"]), (&json!(""), &json!("/errors/404")));
    assert_eq!((&seen["REQUEST_URI"], &seen["REQUEST_METHOD"]), (&json!("/files/absent?a=b"), &json!("GET")));
    let seen = nginx.get("/changed/absent").expect(200).json();
    assert_eq!((&seen["SCRIPT_NAME"], &seen["PATH_INFO"]), (&json!(""), &json!("/changed/absent")));
    nginx.get("/errors/404").expect(404);
}

fn stand_in(engine: Engine) -> Site {
    site(engine)
        .location("/redirected", "wsgi_pass app.py; error_page 500 /plan-b;")
        .location("/named", "wsgi_pass app.py; error_page 500 = @plan-b;")
        .location("/plan-b", "internal; wsgi_pass app.py;")
        .location("@plan-b", "wsgi_pass app.py;")
        .errors_expected()
}

fn an_application_may_stand_in_for_one_that_failed(engine: Engine) {
    // The named location keeps the query, which would make it fail again.
    let nginx = stand_in(engine)
        .file("plan_b.py", &APP.replace("\"raise\"", "\"nothing\""))
        .location("/other", "wsgi_pass app.py; error_page 500 = @other;")
        .location("@other", "wsgi_pass plan_b.py;")
        .http("client_body_buffer_size 8k;")
        .start();
    for size in [0, 10, 50_000] {
        let body = vec![b'x'; size];
        let seen = nginx.post("/other?raise", &body).expect(200).json();
        assert_eq!((&seen["body"], &seen["REQUEST_METHOD"]), (&json!(size), &json!("POST")));
        let redirected = nginx.post("/redirected?raise", &body).expect(500).json();
        assert_eq!((&redirected["REQUEST_METHOD"], &redirected["PATH_INFO"]), (&json!("GET"), &json!("/plan-b")));
    }
}

fn an_application_that_failed_twice_is_nginxs_error(engine: Engine) {
    let nginx = stand_in(engine).start();
    let failed = nginx.get("/named?raise").expect(500);
    assert!(failed.text().contains("nginx"), "{failed:?}");
    wait_for("both errors in the log", || (nginx.logged("raised LookupError").len() == 2).then_some(()));
}

fn a_rewrite_leads_to_an_application(engine: Engine) {
    let nginx = site(engine)
        .location("/app/", "wsgi_pass app.py;")
        .location("/old/", "rewrite ^/old/(.*)$ /app/new/$1?added=1;")
        .start();
    let seen = nginx.get("/old/x?y=1").expect(200).json();
    assert_eq!((&seen["SCRIPT_NAME"], &seen["PATH_INFO"]), (&json!(""), &json!("/app/new/x")));
    assert_eq!((&seen["QUERY_STRING"], &seen["REQUEST_URI"]), (&json!("added=1&y=1"), &json!("/old/x?y=1")));
}

fn a_directory_index_may_be_an_application(engine: Engine) {
    let nginx = site(engine)
        .file("pages/index.app", "a marker")
        .location("/pages/", "root @prefix@; index index.app;")
        .location("~ \\.app$", "wsgi_pass app.py;")
        .start();
    let seen = nginx.get("/pages/").expect(200).json();
    assert_eq!((&seen["PATH_INFO"], &seen["REQUEST_URI"]), (&json!("/pages/index.app"), &json!("/pages/")));
}

fn output_of_an_application_is_filtered(engine: Engine) {
    let nginx = site(engine)
        .location("/sub", "wsgi_pass app.py; sub_filter 'page of' 'filtered';")
        .location("/zip", "wsgi_pass app.py; gzip on; gzip_min_length 0;")
        .start();
    let text = nginx.get("/sub?page").expect(200).text();
    assert_eq!(text, "<p>filtered /sub?page</p>");
    let zipped = curl(&["--compressed", &nginx.url("/zip?page")]).expect(200);
    assert_eq!(zipped.header("Content-Encoding"), Some("gzip"));
    assert_eq!(zipped.text(), "<p>page of /zip?page</p>");
}

fn a_limited_method_does_not_reach_the_application(engine: Engine) {
    let nginx = site(engine)
        .location("/read-only", "wsgi_pass app.py; limit_except GET { deny all; }")
        .errors_expected()
        .start();
    nginx.get("/read-only").expect(200);
    nginx.post("/read-only", b"body").expect(403);
    let mut conn = nginx.connect();
    conn.send("HEAD /read-only HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = conn.response_to("HEAD").expect(200);
    assert_eq!(head.framing, Framing::None);
}
