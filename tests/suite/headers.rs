//! Response headers: none lost, none twice, and known to nginx's filters.

use crate::harness::{Client, Engine, Framing, Response, Site, both_engines};
use std::collections::HashSet;
use std::io::Write;
use std::process::{Command, Stdio};

both_engines!(
    repeated_headers_stay_apart_and_in_order,
    names_keep_their_case,
    values_are_latin_1_bytes,
    hop_by_hop_headers_are_dropped_with_a_warning,
    headers_that_nginx_makes_too_are_sent_once,
    no_content_type_is_invented,
    charset_is_added_to_a_text_type,
    an_empty_content_type_does_no_harm,
    responses_are_compressed,
    an_encoded_response_is_not_compressed_again,
    a_matching_etag_gets_304,
    an_unmodified_page_gets_304,
    a_change_that_was_made_is_never_denied,
    a_body_without_a_version_is_never_unmodified,
    a_location_stays_relative,
    a_partial_response_of_the_application_passes,
    a_range_is_not_taken_from_a_stream,
    add_header_and_expires_work,
    many_and_long_headers_arrive,
    short_lived_strings_are_copied,
);

/// Responds with the headers that are given as Python source.
fn with_headers(engine: Engine, headers: &str) -> Site {
    Site::new(engine).app(&format!(
        r#"
def application(environ, start_response):
    start_response("200 OK", {headers})
    yield b"body " * 100
    yield b"end"
"#
    ))
}

#[track_caller]
fn ask(nginx: &Client, headers: &str) -> Response {
    let mut conn = nginx.connect();
    conn.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n"));
    conn.response()
}

fn repeated_headers_stay_apart_and_in_order(engine: Engine) {
    let nginx = with_headers(
        engine,
        r#"[
        ("Set-Cookie", "a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT"), ("WWW-Authenticate", 'Basic realm="a, b"'),
        ("X-Twice", "1"), ("Set-Cookie", "b=2"), ("WWW-Authenticate", "Digest a=1, b=2"), ("X-Twice", "2"),
        ("Link", "</a>; rel=preload"), ("Link", "</b>; rel=preload"), ("Cache-Control", "private"),
        ("Cache-Control", "max-age=5"), ("Vary", "Cookie"), ("Vary", "Accept"), ("set-cookie", "c=3")]"#,
    )
    .start_shared();
    let response = ask(&nginx, "").expect(200);
    assert_eq!(response.all("Set-Cookie"), ["a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "b=2", "c=3"]);
    assert_eq!(response.all("WWW-Authenticate"), ["Basic realm=\"a, b\"", "Digest a=1, b=2"]);
    assert_eq!(response.all("X-Twice"), ["1", "2"]);
    assert_eq!(response.all("Link"), ["</a>; rel=preload", "</b>; rel=preload"]);
    assert_eq!(response.all("Cache-Control"), ["private", "max-age=5"]);
    assert_eq!(response.all("Vary"), ["Cookie", "Accept"]);
}

fn names_keep_their_case(engine: Engine) {
    let nginx = with_headers(engine, r#"[("x-lOwEr", "1"), ("X_Under", "2")]"#).start_shared();
    let response = ask(&nginx, "").expect(200);
    assert!(response.headers.contains(&("x-lOwEr".into(), "1".into())));
    assert!(response.headers.contains(&("X_Under".into(), "2".into())));
}

fn values_are_latin_1_bytes(engine: Engine) {
    let nginx = with_headers(engine, r#"[("X-A", "caf\xe9 \xff\tb"), ("X-Empty", "")]"#).start_shared();
    let response = ask(&nginx, "").expect(200);
    assert_eq!(response.header("X-A"), Some("caf\u{e9} \u{ff}\tb"));
    assert_eq!(response.header("X-Empty"), Some(""));
}

fn hop_by_hop_headers_are_dropped_with_a_warning(engine: Engine) {
    for (name, value) in [
        ("Connection", "close"),
        ("Keep-Alive", "timeout=99"),
        ("Proxy-Authenticate", "Basic"),
        ("Proxy-Authorization", "Basic x"),
        ("TE", "trailers"),
        ("Trailer", "X-A"),
        ("Transfer-Encoding", "gzip"),
        ("Upgrade", "websocket"),
    ] {
        // Whatever its case.
        let odd: String = name.to_uppercase();
        let nginx = with_headers(engine, &format!(r#"[("X-Before", "1"), ("{odd}", "{value}"), ("X-After", "2")]"#))
            .start_shared();
        let mut conn = nginx.connect();
        for _ in 0..2 {
            conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            let response = conn.response().expect(200);
            assert!(!response.all(name).contains(&value), "{name} was passed on");
            assert_eq!(response.framing, Framing::Chunked);
            assert_eq!(response.header("X-Before"), Some("1"));
            assert_eq!(response.header("X-After"), Some("2"));
        }
        let line = nginx.wait_log("[warn]");
        assert!(line.to_lowercase().contains(&name.to_lowercase()), "{name}: {line}");
    }
}

fn headers_that_nginx_makes_too_are_sent_once(engine: Engine) {
    let nginx = with_headers(
        engine,
        r#"[
        ("Date", "Wed, 21 Oct 2026 07:28:00 GMT"), ("Server", "mine"), ("ETag", '"tag"'),
        ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"), ("Content-Type", "text/x-mine"),
        ("Expires", "Thu, 01 Jan 1970 00:00:00 GMT"), ("Cache-Control", "no-store"), ("Location", "/x"),
        ("Content-Length", "503"), ("Accept-Ranges", "none"), ("Refresh", "9"), ("Vary", "Cookie"),
        ("Content-Encoding", "x-mine"), ("Content-Language", "de")]"#,
    )
    .http("gzip on; gzip_types *; gzip_min_length 1; gzip_vary on;")
    .start();
    let response = ask(&nginx, "Accept-Encoding: gzip\r\n").expect(200);
    for (name, value) in [
        ("Date", "Wed, 21 Oct 2026 07:28:00 GMT"),
        ("Server", "mine"),
        ("ETag", "\"tag\""),
        ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ("Content-Type", "text/x-mine"),
        ("Expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Cache-Control", "no-store"),
        ("Location", "/x"),
        ("Content-Length", "503"),
        ("Accept-Ranges", "none"),
        ("Refresh", "9"),
        ("Content-Encoding", "x-mine"),
        ("Content-Language", "de"),
    ] {
        assert_eq!(response.header(name), Some(value), "{name}");
    }
    // nginx's own Vary may come beside it.
    assert!(response.all("Vary").contains(&"Cookie"));

    // And what the application does not say nginx says, once each.
    let nginx = with_headers(engine, "[]").start();
    let response = ask(&nginx, "").expect(200);
    let names: Vec<String> = response.headers.iter().map(|(n, _)| n.to_lowercase()).collect();
    let once: HashSet<&String> = names.iter().collect();
    assert_eq!(once.len(), names.len(), "{names:?}");
    assert!(response.header("Date").is_some());
    assert!(response.header("Server").unwrap().starts_with("nginx"));
}

fn no_content_type_is_invented(engine: Engine) {
    let nginx = with_headers(engine, "[]").http("default_type text/invented; charset utf-8;").start();
    assert_eq!(ask(&nginx, "").expect(200).header("Content-Type"), None);
}

fn charset_is_added_to_a_text_type(engine: Engine) {
    for (given, sent) in [
        ("text/html", "text/html; charset=utf-8"),
        ("text/html; charset=latin-1", "text/html; charset=latin-1"),
        ("text/html;charset=koi8-r", "text/html;charset=koi8-r"),
        ("text/html; charset=\\\"utf-8\\\"", "text/html; charset=\"utf-8\""),
        ("multipart/x; boundary=b; charset=c; more=d", "multipart/x; boundary=b; charset=c; more=d"),
        ("image/png", "image/png"),
    ] {
        let nginx =
            with_headers(engine, &format!(r#"[("content-type", "{given}")]"#)).http("charset utf-8;").start_shared();
        let response = ask(&nginx, "").expect(200);
        assert_eq!(response.header("Content-Type"), Some(sent));
    }
}

fn an_empty_content_type_does_no_harm(engine: Engine) {
    let nginx = with_headers(engine, r#"[("Content-Type", "")]"#).http("charset utf-8; gzip on;").start();
    let response = ask(&nginx, "Accept-Encoding: gzip\r\n").expect(200);
    assert!(response.all("Content-Type").len() <= 1);
    assert_eq!(response.body.len(), 503);
}

fn responses_are_compressed(engine: Engine) {
    for kind in ["text/plain", "text/plain; charset=utf-8"] {
        let nginx = with_headers(
            engine,
            &format!(r#"[("Content-Type", "{kind}"), ("ETag", '"tag"'), ("Content-Length", "503")]"#),
        )
        .http("gzip on; gzip_types text/plain; gzip_min_length 100; gzip_vary on;")
        .start();
        let response = ask(&nginx, "Accept-Encoding: gzip\r\n").expect(200);
        assert_eq!(response.header("Content-Encoding"), Some("gzip"));
        assert_eq!(response.header("ETag"), Some("W/\"tag\""));
        assert_eq!(response.header("Vary"), Some("Accept-Encoding"));
        assert_eq!(response.header("Content-Length"), None);
        assert_eq!(response.framing, Framing::Chunked);
        assert_eq!(gunzip(&response.body), "body ".repeat(100) + "end");
        // Without the wish for it all stays as it was.
        let response = ask(&nginx, "").expect(200);
        assert_eq!(response.header("Content-Encoding"), None);
        assert_eq!(response.header("ETag"), Some("\"tag\""));
        assert_eq!(response.header("Content-Length"), Some("503"));
    }
    // Too short to be worth it: nginx knows the length.
    let nginx = with_headers(engine, r#"[("Content-Type", "text/plain"), ("Content-Length", "503")]"#)
        .http("gzip on; gzip_types text/plain; gzip_min_length 504;")
        .start();
    let response = ask(&nginx, "Accept-Encoding: gzip\r\n").expect(200);
    assert_eq!(response.header("Content-Encoding"), None);
}

fn gunzip(data: &[u8]) -> String {
    let mut gzip =
        Command::new("gzip").args(["-d", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run gzip");
    gzip.stdin.take().unwrap().write_all(data).unwrap();
    let output = gzip.wait_with_output().unwrap();
    assert!(output.status.success(), "gzip: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn an_encoded_response_is_not_compressed_again(engine: Engine) {
    let nginx = with_headers(engine, r#"[("Content-Type", "text/plain"), ("Content-Encoding", "br")]"#)
        .http("gzip on; gzip_types text/plain; gzip_min_length 1;")
        .start_shared();
    let response = ask(&nginx, "Accept-Encoding: gzip, br\r\n").expect(200);
    assert_eq!(response.header("Content-Encoding"), Some("br"));
    assert_eq!(response.text(), "body ".repeat(100) + "end");
}

fn a_matching_etag_gets_304(engine: Engine) {
    let nginx = with_headers(
        engine,
        r#"[("ETag", '"tag"'), ("Content-Type", "text/plain"), ("X-A", "b"), ("Content-Length", "503")]"#,
    )
    .start_shared();
    let mut conn = nginx.connect();
    for _ in 0..2 {
        conn.send("GET / HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"other\", \"tag\"\r\n\r\n");
        let response = conn.response().expect(304);
        assert_eq!(response.header("ETag"), Some("\"tag\""));
        assert_eq!(response.header("Content-Type"), None);
        assert_eq!(response.header("Content-Length"), None);
    }
    conn.send("GET / HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"other\"\r\n\r\n");
    assert_eq!(conn.response().expect(200).body.len(), 503);
}

fn an_unmodified_page_gets_304(engine: Engine) {
    let nginx = with_headers(engine, r#"[("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")]"#).start_shared();
    ask(&nginx, "If-Modified-Since: Wed, 21 Oct 2015 07:28:00 GMT\r\n").expect(304);
    ask(&nginx, "If-Modified-Since: Wed, 21 Oct 2015 07:27:59 GMT\r\n").expect(200);
    // A date that is none does no harm.
    let nginx = with_headers(engine, r#"[("Last-Modified", "yesterday")]"#).start_shared();
    let response = ask(&nginx, "If-Modified-Since: Wed, 21 Oct 2015 07:28:00 GMT\r\n");
    let response = response.expect(200);
    assert_eq!(response.header("Last-Modified"), Some("yesterday"));
}

/// The conditions of a request are for the application, which sees them and acts: after that nginx must not judge them again
/// by the headers of the response.
fn a_change_that_was_made_is_never_denied(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
def application(environ, start_response):
    if environ["QUERY_STRING"] == "file":
        start_response("200 OK", [("X-Accel-Redirect", "/file")])
        return []
    headers = [("ETag", '"v2"'), ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"), ("Content-Length", "4")]
    start_response("200 OK", headers)
    conditions = [name for name in environ if name.startswith("HTTP_IF_")]
    return [b"made" if len(conditions) == 1 else b"what"]
"#,
        )
        .server("wsgi_allow_ranges on;")
        .location("= /file", "internal; alias @prefix@/file;")
        .file("file", "made")
        .start();
    let conditions = [
        "If-Match: \"v1\"",
        "If-Unmodified-Since: Wed, 21 Oct 2015 07:27:59 GMT",
        "If-None-Match: \"v2\"",
        "If-None-Match: *",
        "If-Modified-Since: Wed, 21 Oct 2015 07:28:00 GMT",
    ];
    for method in ["PUT", "POST", "DELETE", "PATCH", "GET"] {
        for condition in conditions {
            for target in ["/", "/?file"] {
                let mut conn = nginx.connect();
                conn.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\nRange: bytes=0-0\r\n{condition}\r\n\r\n"));
                let response = conn.response();
                let is_about_a_copy = condition.starts_with("If-None-Match") || condition.starts_with("If-Modified");
                match method {
                    // That of the file has another version and time.
                    "GET" if is_about_a_copy && (target == "/" || condition.ends_with('*')) => {
                        drop(response.expect(304))
                    }
                    "GET" => drop(response.expect(206)),
                    _ => assert_eq!(response.expect(200).text(), "made", "{method} {target} {condition}"),
                }
            }
        }
    }
}

fn a_body_without_a_version_is_never_unmodified(engine: Engine) {
    let nginx = with_headers(engine, "[]").start_shared();
    assert_eq!(ask(&nginx, "If-None-Match: *\r\n").expect(200).body.len(), 503);
}

fn a_location_stays_relative(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
def application(environ, start_response):
    start_response("302 Found", [("Location", environ["QUERY_STRING"])])
    return []
"#,
        )
        .start_shared();
    for target in ["/next?a=b", "next", "../up", "https://example.com/x", "//host/x"] {
        let mut conn = nginx.connect();
        conn.send(format!("GET /?{target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = conn.response().expect(302);
        assert_eq!(response.header("Location"), Some(target));
    }
}

fn a_partial_response_of_the_application_passes(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
def application(environ, start_response):
    headers = [("Content-Range", "bytes 2-4/10"), ("Content-Length", "3"), ("Accept-Ranges", "bytes")]
    start_response("206 Partial Content", headers)
    return [environ["HTTP_RANGE"][-3:].encode()]
"#,
        )
        .start_shared();
    let response = ask(&nginx, "Range: bytes=2-4\r\n").expect(206);
    assert_eq!(response.header("Content-Range"), Some("bytes 2-4/10"));
    assert_eq!(response.header("Accept-Ranges"), Some("bytes"));
    assert_eq!(response.text(), "2-4");
}

fn a_range_is_not_taken_from_a_stream(engine: Engine) {
    let nginx = with_headers(engine, r#"[("Content-Type", "text/plain")]"#).start_shared();
    let response = ask(&nginx, "Range: bytes=0-3\r\n").expect(200);
    assert_eq!(response.body.len(), 503);
}

fn add_header_and_expires_work(engine: Engine) {
    let nginx = with_headers(engine, r#"[("X-A", "application")]"#).server("add_header X-B nginx; expires 1h;").start();
    let response = ask(&nginx, "").expect(200);
    assert_eq!(response.header("X-A"), Some("application"));
    assert_eq!(response.header("X-B"), Some("nginx"));
    assert_eq!(response.header("Cache-Control"), Some("max-age=3600"));
    assert!(response.header("Expires").is_some());
}

fn many_and_long_headers_arrive(engine: Engine) {
    let nginx = with_headers(
        engine,
        r#"[(f"X-{i}", str(i)) for i in range(200)] + [("X-Long", "v" * 100000), ("N" * 1000, "name")]"#,
    )
    .start_shared();
    let response = ask(&nginx, "").expect(200);
    for i in 0..200 {
        let value = i.to_string();
        assert_eq!(response.header(&format!("X-{i}")), Some(value.as_str()));
    }
    assert_eq!(response.header("X-Long"), Some("v".repeat(100_000).as_str()));
    assert_eq!(response.header(&"N".repeat(1000)), Some("name"));
}

fn short_lived_strings_are_copied(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
import gc

def application(environ, start_response):
    who = environ["QUERY_STRING"]
    headers = [("Content-Type", "text/" + who * 3), ("X-" + who, who * 20)]
    start_response("200 " + who * 5, headers)
    headers.clear()
    del headers
    gc.collect()
    # Takes the place of what was freed.
    garbage = [("garbage%d" % i) * 10 for i in range(1000)]
    yield who.encode()
"#,
        )
        .start_shared();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let nginx = &nginx;
            scope.spawn(move || {
                let mut conn = nginx.connect();
                for i in 0..25 {
                    let who = format!("w{thread}i{i}");
                    conn.send(format!("GET /?{who} HTTP/1.1\r\nHost: a\r\n\r\n"));
                    let response = conn.response().expect(200);
                    let kind = format!("text/{}", who.repeat(3));
                    assert_eq!(response.header("Content-Type"), Some(kind.as_str()));
                    assert_eq!(response.reason, who.repeat(5));
                    let value = who.repeat(20);
                    assert_eq!(response.header(&format!("X-{who}")), Some(value.as_str()));
                    assert_eq!(response.text(), who);
                }
            });
        }
    });
}
