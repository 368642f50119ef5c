//! The environ of an application.

use crate::harness::{Client, Conn, Engine, Response, Site, both_engines, curl};
use serde_json::{Map, Value};

both_engines!(
    keys_of_cgi_and_of_wsgi_are_there,
    every_cgi_value_is_a_plain_str,
    length_and_type_are_absent_without_a_body,
    length_and_type_of_a_body_are_given,
    headers_become_http_keys,
    white_space_around_a_value_is_no_part_of_it,
    white_space_in_http2_is_no_part_of_a_value_either,
    repeated_headers_are_joined_by_commas,
    repeated_cookies_are_joined_by_semicolons,
    many_copies_of_a_header_are_joined,
    the_first_content_type_counts,
    underscored_headers_are_dropped,
    an_underscored_name_never_meets_the_dashed_one,
    path_bytes_are_latin_1,
    query_and_request_uri_stay_raw,
    header_bytes_are_latin_1,
    a_nul_in_the_path_never_reaches_the_application,
    script_name_is_the_location,
    script_name_is_empty_where_the_location_is_no_prefix,
    script_name_can_be_set,
    script_name_may_hold_variables,
    slashes_stay_as_nginx_leaves_them,
    a_rewrite_changes_the_path_and_not_the_request_uri,
    host_keeps_its_port,
    host_of_an_absolute_target_wins,
    http_1_0_needs_no_host,
    any_method_arrives_as_it_is,
    nothing_of_the_process_environment_is_in_it,
    authorization_and_user_are_there,
    a_user_that_nginx_has_not_checked_is_none,
    an_empty_scheme_is_not_taken,
    a_user_name_is_latin_1,
    a_bearer_token_is_no_user,
    multithread_and_multiprocess_tell_the_truth,
    document_root_is_that_of_the_location,
    a_long_query_is_whole,
);

fn site(engine: Engine) -> Site {
    Site::new(engine).repository_app("/", "environ.py")
}

/// One with another application at the root, so that other locations have mounts of their own.
fn without_root(engine: Engine) -> Site {
    let root = "from environ import application\n";
    Site::new(engine).repository_app("= /unused", "environ.py").app_at("/", "root.py", root)
}

#[track_caller]
fn environ_of(response: Response) -> Map<String, Value> {
    response.expect(200).json()["environ"].as_object().unwrap().clone()
}

/// The environ of a request that is given as it goes over the wire.
#[track_caller]
fn environ_of_raw(nginx: &Client, request: impl AsRef<[u8]>) -> Map<String, Value> {
    let mut conn: Conn = nginx.connect();
    environ_of(conn.send(request).response())
}

/// Header lines between a request line and the end.
fn request(line: &str, headers: &[u8]) -> Vec<u8> {
    let mut all = format!("{line} HTTP/1.1\r\nHost: localhost\r\n").into_bytes();
    all.extend_from_slice(headers);
    all.extend_from_slice(b"\r\n");
    all
}

fn keys_of_cgi_and_of_wsgi_are_there(engine: Engine) {
    let nginx = site(engine).start_shared();
    let environ = environ_of(nginx.get("/a/b?x=1&y=%20"));
    let (port, client) = (nginx.port().to_string(), nginx.source().to_string());
    for (key, value) in [
        ("REQUEST_METHOD", "GET"),
        ("SCRIPT_NAME", ""),
        ("PATH_INFO", "/a/b"),
        ("QUERY_STRING", "x=1&y=%20"),
        ("REQUEST_URI", "/a/b?x=1&y=%20"),
        ("REQUEST_SCHEME", "http"),
        ("SERVER_NAME", "localhost"),
        ("SERVER_PORT", &port),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REMOTE_ADDR", &client),
        ("wsgi.url_scheme", "http"),
    ] {
        assert_eq!(environ[key], value, "{key}");
    }
    assert_eq!(environ["wsgi.version"], serde_json::json!([1, 0]));
    assert_eq!(environ["wsgi.run_once"], false);
    assert_eq!(environ["wsgi.input_terminated"], true);
    let software = environ["SERVER_SOFTWARE"].as_str().unwrap();
    assert!(software.starts_with("nginx/"), "{software}");
    let remote_port: u16 = environ["REMOTE_PORT"].as_str().unwrap().parse().unwrap();
    assert_ne!(remote_port, 0);
    assert!(!environ.contains_key("HTTPS"), "HTTPS without TLS");
    assert!(!environ.contains_key("REMOTE_USER"));
    assert!(!environ.contains_key("AUTH_TYPE"));

    let types = nginx.get("/").json()["types"].clone();
    for key in ["wsgi.input", "wsgi.errors", "wsgi.file_wrapper"] {
        assert!(types.get(key).is_some(), "{key} is missing");
    }
    assert_eq!(environ_of(nginx.get("/"))["QUERY_STRING"], "");
}

fn every_cgi_value_is_a_plain_str(engine: Engine) {
    let nginx = site(engine).start_shared();
    let response = nginx.post("/a?b", "body").expect(200).json();
    assert_eq!(response["dict"], true);
    for (key, kind) in response["types"].as_object().unwrap() {
        if !key.starts_with("wsgi.") {
            assert_eq!(kind, "str", "{key}");
        }
    }
    for key in ["wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once"] {
        assert_eq!(response["types"][key], "bool", "{key}");
    }
    assert_eq!(response["types"]["wsgi.version"], "tuple");
}

fn length_and_type_are_absent_without_a_body(engine: Engine) {
    let nginx = site(engine).start_shared();
    let environ = environ_of(nginx.get("/"));
    for key in ["CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_CONTENT_LENGTH", "HTTP_CONTENT_TYPE"] {
        assert!(!environ.contains_key(key), "{key}: {}", environ[key]);
    }
}

fn length_and_type_of_a_body_are_given(engine: Engine) {
    let nginx = site(engine).start_shared();
    let environ = environ_of(nginx.request("POST", "/", &[("Content-Type", "text/x-odd; charset=\"a b\"")], b"12345"));
    assert_eq!(environ["CONTENT_LENGTH"], "5");
    assert_eq!(environ["CONTENT_TYPE"], "text/x-odd; charset=\"a b\"");
    assert!(!environ.contains_key("HTTP_CONTENT_LENGTH"));
    assert!(!environ.contains_key("HTTP_CONTENT_TYPE"));

    let zero = environ_of_raw(&nginx, request("POST /", b"Content-Length: 0\r\n"));
    assert_eq!(zero["CONTENT_LENGTH"], "0");
}

fn headers_become_http_keys(engine: Engine) {
    let nginx = site(engine).start_shared();
    let environ = environ_of_raw(
        &nginx,
        request(
            "GET /",
            b"User-Agent: me\r\nX-oDD-Name: a, b\r\nX-Empty:\r\nX-1!#$%&'*+.^`|~: odd\r\nAccept:  spaces  \r\n",
        ),
    );
    assert_eq!(environ["HTTP_USER_AGENT"], "me");
    assert_eq!(environ["HTTP_X_ODD_NAME"], "a, b");
    assert_eq!(environ["HTTP_X_EMPTY"], "");
    assert_eq!(environ["HTTP_ACCEPT"], "spaces");
    assert_eq!(environ["HTTP_HOST"], "localhost");
}

/// nginx takes spaces away, and leaves tabs (RFC 9110, section 5.5).
fn white_space_around_a_value_is_no_part_of_it(engine: Engine) {
    let nginx = site(engine).start_shared();
    let headers = b"X-A: \t a\tb \t\r\nX-Only:\t\r\nX-B:\t1\t\r\nX-B: \t2\r\nCookie: a=1\t\r\nCookie:\tb=2\r\nContent-Type:\tt/p\t\r\n\
                    Authorization:\tBearer x\t\r\nAccept:\ttext/html\t\r\nContent-Length: 1\r\n";
    let mut bytes = request("POST /", headers);
    bytes.push(b'x');
    let environ = environ_of_raw(&nginx, bytes);
    for (key, value) in [
        ("HTTP_X_A", "a\tb"),
        ("HTTP_X_ONLY", ""),
        ("HTTP_X_B", "1, 2"),
        ("HTTP_COOKIE", "a=1; b=2"),
        ("CONTENT_TYPE", "t/p"),
        ("CONTENT_LENGTH", "1"),
        ("HTTP_AUTHORIZATION", "Bearer x"),
        ("HTTP_ACCEPT", "text/html"),
    ] {
        assert_eq!(environ[key], value, "{key}");
    }
    // Where the body ends is nginx's to say, and it refuses what it does not understand.
    for headers in [&b"Content-Length:\t1\r\n"[..], b"Content-Length: 1\t\r\n"] {
        let mut conn = nginx.connect();
        conn.send([&request("POST /", headers)[..], b"x"].concat()).response().expect(400);
    }
}

fn white_space_in_http2_is_no_part_of_a_value_either(engine: Engine) {
    let nginx = site(engine).listen("listen 127.0.0.1:@port@ http2;").start();
    let headers = ["-H", "X-A: a\tb \t", "-H", "X-B:\t1\t", "-H", "X-B: \t2", "-H", "Content-Type: t/p\t "];
    let mut arguments = vec!["--http2-prior-knowledge", "--data", "x"];
    arguments.extend(headers);
    let url = nginx.url("/");
    arguments.push(&url);
    let environ = environ_of(curl(&arguments).expect(200));
    for (key, value) in [("HTTP_X_A", "a\tb"), ("HTTP_X_B", "1, 2"), ("CONTENT_TYPE", "t/p")] {
        assert_eq!(environ[key], value, "{key}");
    }
}

fn repeated_headers_are_joined_by_commas(engine: Engine) {
    let nginx = site(engine).start_shared();
    let environ = environ_of_raw(
        &nginx,
        request(
            "GET /",
            b"X-Forwarded-For: 1.1.1.1\r\nX-Mine: a\r\nX-Forwarded-For: 2.2.2.2\r\nx-mine: b, c\r\n\
              Accept: x/y\r\nX-MINE: d\r\nAccept: z/z\r\n",
        ),
    );
    assert_eq!(environ["HTTP_X_FORWARDED_FOR"], "1.1.1.1, 2.2.2.2");
    assert_eq!(environ["HTTP_X_MINE"], "a, b, c, d");
    assert_eq!(environ["HTTP_ACCEPT"], "x/y, z/z");
}

fn repeated_cookies_are_joined_by_semicolons(engine: Engine) {
    let nginx = site(engine).start_shared();
    let environ =
        environ_of_raw(&nginx, request("GET /", b"Cookie: a=1; b=2\r\nX: y\r\nCookie: c=3\r\nCookie: d=4\r\n"));
    assert_eq!(environ["HTTP_COOKIE"], "a=1; b=2; c=3; d=4");
}

fn many_copies_of_a_header_are_joined(engine: Engine) {
    let nginx = site(engine).start_shared();
    let environ = environ_of_raw(&nginx, request("GET /", &b"X-Many: v\r\n".repeat(900)));
    assert_eq!(environ["HTTP_X_MANY"], vec!["v"; 900].join(", "));
}

fn the_first_content_type_counts(engine: Engine) {
    let nginx = site(engine).start_shared();
    let mut bytes = request("POST /", b"Content-Type: a/first\r\nContent-Type: b/second\r\nContent-Length: 1\r\n");
    bytes.push(b'x');
    let environ = environ_of_raw(&nginx, bytes);
    assert_eq!(environ["CONTENT_TYPE"], "a/first");
    assert!(!environ.contains_key("HTTP_CONTENT_TYPE"));
}

fn underscored_headers_are_dropped(engine: Engine) {
    let nginx = site(engine).start_shared();
    let environ = environ_of_raw(&nginx, request("GET /", b"X_Real_IP: 6.6.6.6\r\n"));
    assert!(!environ.contains_key("HTTP_X_REAL_IP"));
}

fn an_underscored_name_never_meets_the_dashed_one(engine: Engine) {
    let nginx = site(engine).http("underscores_in_headers on;").start();
    for headers in [
        &b"X_Real_IP: forged\r\nX-Real-IP: true\r\n"[..],
        b"X-Real-IP: true\r\nX_Real_IP: forged\r\n",
        b"X_Real-IP: forged\r\nX-Real-IP: true\r\nX-Real_IP: forged\r\n",
    ] {
        let environ = environ_of_raw(&nginx, request("GET /", headers));
        assert_eq!(environ["HTTP_X_REAL_IP"], "true");
    }
    // Neither may it pose as one of the keys that describe the framing of the body.
    let headers = b"Content_Length: 7\r\nContent_Type: forged\r\nTransfer_Encoding: chunked\r\n";
    let environ = environ_of_raw(&nginx, request("GET /", headers));
    for key in ["CONTENT_LENGTH", "CONTENT_TYPE", "HTTP_TRANSFER_ENCODING"] {
        assert!(!environ.contains_key(key), "{key}: {}", environ[key]);
    }
}

fn path_bytes_are_latin_1(engine: Engine) {
    let nginx = site(engine).start_shared();
    for (path, seen) in [
        (&b"/%ff"[..], "/\u{ff}"),
        (b"/%C3%A9", "/\u{c3}\u{a9}"),
        (b"/\xc3\xa9", "/\u{c3}\u{a9}"),
        (b"/\xff\xfe", "/\u{ff}\u{fe}"),
        // An overlong slash stays what it is.
        (b"/%c0%af", "/\u{c0}\u{af}"),
        (b"/a%0ab", "/a\nb"),
        (b"/%01%7f", "/\u{1}\u{7f}"),
        (b"/a%3Fb%23c", "/a?b#c"),
        (b"/a%2Fb", "/a/b"),
        (b"/a+b", "/a+b"),
        (b"/%E2%82%AC", "/\u{e2}\u{82}\u{ac}"),
    ] {
        let line = [b"GET ", path, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let environ = environ_of_raw(&nginx, line);
        assert_eq!(environ["PATH_INFO"], seen, "{path:?}");
    }
}

fn query_and_request_uri_stay_raw(engine: Engine) {
    let nginx = site(engine).start_shared();
    let line = b"GET /a%20b/../c?q=%00%ff&\xc3\xa9=\xff+x?y HTTP/1.1\r\nHost: a\r\n\r\n";
    let environ = environ_of_raw(&nginx, line);
    let query = "q=%00%ff&\u{c3}\u{a9}=\u{ff}+x?y";
    assert_eq!(environ["QUERY_STRING"], query);
    assert_eq!(environ["REQUEST_URI"], format!("/a%20b/../c?{query}"));
    assert_eq!(environ["PATH_INFO"], "/c");
}

fn header_bytes_are_latin_1(engine: Engine) {
    let nginx = site(engine).start_shared();
    let environ = environ_of_raw(&nginx, request("GET /", b"X-A: caf\xc3\xa9 \xff\x80\r\nCookie: a=\xe9\r\n"));
    assert_eq!(environ["HTTP_X_A"], "caf\u{c3}\u{a9} \u{ff}\u{80}");
    assert_eq!(environ["HTTP_COOKIE"], "a=\u{e9}");
}

fn a_nul_in_the_path_never_reaches_the_application(engine: Engine) {
    let nginx = site(engine).start_shared();
    let mut conn = nginx.connect();
    conn.send("GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(conn.response().status, 400);
}

/// Asks for each path and compares SCRIPT_NAME and PATH_INFO.
#[track_caller]
fn assert_mounts(nginx: &Client, table: &[(&str, &str, &str)]) {
    for (path, script_name, path_info) in table {
        let line = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let environ = environ_of_raw(nginx, line);
        assert_eq!(
            (environ["SCRIPT_NAME"].as_str().unwrap(), environ["PATH_INFO"].as_str().unwrap()),
            (*script_name, *path_info),
            "{path}"
        );
    }
}

fn script_name_is_the_location(engine: Engine) {
    let nginx = without_root(engine)
        .location("/api", "wsgi_pass environ.py;")
        .location("/slash/", "wsgi_pass environ.py;")
        .location("/deep/er/", "wsgi_pass environ.py;")
        .location("^~ /caret/", "wsgi_pass environ.py;")
        .location("\"/sp ace\"", "wsgi_pass environ.py;")
        .start();
    assert_mounts(
        &nginx,
        &[
            ("/", "", "/"),
            ("/a", "", "/a"),
            ("/a/b/", "", "/a/b/"),
            ("/api", "/api", ""),
            ("/api/", "/api", "/"),
            ("/api/x", "/api", "/x"),
            ("/api//x", "/api", "/x"),
            ("/%61pi/x%2fy", "/api", "/x/y"),
            ("/x/../api/./y", "/api", "/y"),
            // The location is no whole segment of these paths.
            ("/apiary", "", "/apiary"),
            ("/api.html", "", "/api.html"),
            ("/api%20/x", "", "/api /x"),
            ("/slash/", "/slash", "/"),
            ("/slash/x", "/slash", "/x"),
            ("/deep/er/x/", "/deep/er", "/x/"),
            ("/caret/x", "/caret", "/x"),
            ("/sp%20ace/x", "/sp ace", "/x"),
            ("/api?x=/api/y", "/api", ""),
        ],
    );
}

fn script_name_is_empty_where_the_location_is_no_prefix(engine: Engine) {
    let nginx = site(engine)
        .location("= /exact", "wsgi_pass environ.py;")
        .location("~ ^/regex/", "wsgi_pass environ.py;")
        // It reads like a prefix.
        .location("~ /like", "wsgi_pass environ.py;")
        .location("~* \\.PY$", "wsgi_pass environ.py;")
        .location("/files/", "try_files /nothing @named;")
        .location("@named", "wsgi_pass environ.py;")
        .start();
    assert_mounts(
        &nginx,
        &[
            ("/exact", "", "/exact"),
            ("/regex/x", "", "/regex/x"),
            ("/like/x", "", "/like/x"),
            ("/a/b.py", "", "/a/b.py"),
            ("/files/x", "", "/files/x"),
        ],
    );
}

fn script_name_can_be_set(engine: Engine) {
    let nginx = site(engine)
        .location("/mount", "wsgi_pass environ.py; wsgi_script_name /mount/in;")
        .location("/none/", "wsgi_pass environ.py; wsgi_script_name \"\";")
        .location("~ ^/re/(.*)$", "wsgi_pass environ.py; wsgi_script_name /re;")
        .location("= /exact", "wsgi_pass environ.py; wsgi_script_name /exact;")
        .start();
    assert_mounts(
        &nginx,
        &[
            ("/mount/in", "/mount/in", ""),
            ("/mount/in/", "/mount/in", "/"),
            ("/mount/in/x", "/mount/in", "/x"),
            ("/mount/inside", "", "/mount/inside"),
            ("/mount/out", "", "/mount/out"),
            ("/none/x", "", "/none/x"),
            ("/re/x", "/re", "/x"),
            ("/exact", "/exact", ""),
        ],
    );
}

fn script_name_may_hold_variables(engine: Engine) {
    let nginx = Site::new(engine)
        .repository_app("~ ^/(?<tenant>[^/]+)/", "environ.py")
        .server("wsgi_script_name /$tenant;")
        .start();
    assert_mounts(&nginx, &[("/one/x", "/one", "/x"), ("/two/", "/two", "/"), ("/%c3%a9/x", "/\u{c3}\u{a9}", "/x")]);
}

fn slashes_stay_as_nginx_leaves_them(engine: Engine) {
    let nginx = without_root(engine).location("/api", "wsgi_pass environ.py;").http("merge_slashes off;").start();
    assert_mounts(&nginx, &[("//a//b", "", "//a//b"), ("//api/x", "", "//api/x"), ("/api//x", "/api", "//x")]);
}

fn a_rewrite_changes_the_path_and_not_the_request_uri(engine: Engine) {
    let nginx = without_root(engine)
        .location("/api", "wsgi_pass environ.py;")
        .server("rewrite ^/old/(.*)$ /api/$1?extra=1;")
        .start();
    let environ = environ_of(nginx.get("/old/x%20y?q=1"));
    assert_eq!(environ["REQUEST_URI"], "/old/x%20y?q=1");
    assert_eq!(environ["SCRIPT_NAME"], "/api");
    assert_eq!(environ["PATH_INFO"], "/x y");
    assert_eq!(environ["QUERY_STRING"], "extra=1&q=1");
}

fn host_keeps_its_port(engine: Engine) {
    let nginx = site(engine).start_shared();
    let environ = environ_of_raw(&nginx, "GET / HTTP/1.1\r\nHost: Example.com:8443\r\n\r\n".as_bytes());
    assert_eq!(environ["HTTP_HOST"], "Example.com:8443");
    assert_eq!(environ["SERVER_NAME"], "localhost");
    assert_eq!(environ["SERVER_PORT"], nginx.port().to_string());
}

fn host_of_an_absolute_target_wins(engine: Engine) {
    let nginx = site(engine).start_shared();
    let environ = environ_of_raw(&nginx, "GET http://target.example:81/x?y HTTP/1.1\r\nHost: other\r\n\r\n".as_bytes());
    assert_eq!(environ["HTTP_HOST"], "target.example:81");
    assert_eq!(environ["PATH_INFO"], "/x");
    assert_eq!(environ["QUERY_STRING"], "y");
}

fn http_1_0_needs_no_host(engine: Engine) {
    let nginx = site(engine).start_shared();
    let environ = environ_of_raw(&nginx, "GET / HTTP/1.0\r\n\r\n".as_bytes());
    assert_eq!(environ["SERVER_PROTOCOL"], "HTTP/1.0");
    assert_eq!(environ["SERVER_NAME"], "localhost");
    assert!(!environ.contains_key("HTTP_HOST"));
}

fn any_method_arrives_as_it_is(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
def application(environ, start_response):
    start_response("200 OK", [("X-Method", environ["REQUEST_METHOD"])])
    return [environ["REQUEST_METHOD"].encode()]
"#,
        )
        .start_shared();
    for method in ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "PROPFIND", "BREW", "M-SEARCH"] {
        let mut conn = nginx.connect();
        conn.send(format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
        let response = conn.response_to(method).expect(200);
        assert_eq!(response.header("X-Method"), Some(method));
        let body = if method == "HEAD" { "" } else { method };
        assert_eq!(response.text(), body);
    }
}

fn nothing_of_the_process_environment_is_in_it(engine: Engine) {
    let nginx = site(engine)
        .main("env SECRET_OF_THE_PROCESS=1; env PATH=/bin; env HTTP_SECRET=1;")
        .http("wsgi_env SECRET_OF_THE_APPLICATION 1;")
        .start();
    let environ = environ_of(nginx.get("/"));
    for key in
        ["SECRET_OF_THE_PROCESS", "SECRET_OF_THE_APPLICATION", "HTTP_SECRET", "PATH", "HOME", "LANG", "TZ", "USER"]
    {
        assert!(!environ.contains_key(key), "{key}");
    }
}

/// `user:pass`.
const BASIC: &str = "Basic dXNlcjpwYXNz";

fn authorization_and_user_are_there(engine: Engine) {
    let nginx = site(engine)
        .file("passwords", "user:{PLAIN}pass\n")
        .location("/private", "auth_basic here; auth_basic_user_file @prefix@/passwords; wsgi_pass environ.py;")
        .start();
    assert_eq!(nginx.get("/private").status, 401);
    let environ = environ_of(nginx.request("GET", "/private", &[("Authorization", BASIC)], b""));
    assert_eq!(environ["REMOTE_USER"], "user");
    assert_eq!(environ["AUTH_TYPE"], "Basic");
    assert_eq!(environ["HTTP_AUTHORIZATION"], BASIC);
}

fn a_user_that_nginx_has_not_checked_is_none(engine: Engine) {
    let claimed = "set $claimed $remote_user; wsgi_pass environ.py;";
    let nginx = site(engine)
        .file("passwords", "user:{PLAIN}other\n")
        .location("/unchecked", claimed)
        .location("/off", &format!("auth_basic off; {claimed}"))
        .location(
            "/any",
            &format!("satisfy any; allow all; auth_basic here; auth_basic_user_file @prefix@/passwords; {claimed}"),
        )
        .start();
    for path in ["/unchecked", "/off", "/any"] {
        let environ = environ_of(nginx.request("GET", path, &[("Authorization", BASIC)], b""));
        assert!(!environ.contains_key("REMOTE_USER"), "{path}");
        assert!(!environ.contains_key("AUTH_TYPE"), "{path}");
    }
}

fn an_empty_scheme_is_not_taken(engine: Engine) {
    let nginx = site(engine).server("wsgi_var wsgi.url_scheme $http_x_forwarded_proto;").start();
    assert_eq!(environ_of(nginx.get("/"))["wsgi.url_scheme"], "http");
    let forwarded = nginx.request("GET", "/", &[("X-Forwarded-Proto", "https")], b"");
    assert_eq!(environ_of(forwarded)["wsgi.url_scheme"], "https");
}

fn a_user_name_is_latin_1(engine: Engine) {
    let nginx = site(engine)
        .file("passwords", "m\u{fc}ller:{PLAIN}pass\n")
        .server("auth_basic here; auth_basic_user_file @prefix@/passwords;")
        .start();
    let environ = environ_of(nginx.request("GET", "/", &[("Authorization", "Basic bcO8bGxlcjpwYXNz")], b""));
    assert_eq!(environ["REMOTE_USER"], "m\u{c3}\u{bc}ller");
}

fn a_bearer_token_is_no_user(engine: Engine) {
    let nginx = site(engine).start_shared();
    let environ = environ_of(nginx.request("GET", "/", &[("Authorization", "Bearer abc.def")], b""));
    assert_eq!(environ["HTTP_AUTHORIZATION"], "Bearer abc.def");
    assert!(!environ.contains_key("REMOTE_USER"));
    assert!(!environ.contains_key("AUTH_TYPE"));
}

fn multithread_and_multiprocess_tell_the_truth(engine: Engine) {
    let alone = environ_of(site(engine).start().get("/"));
    assert_eq!(alone["wsgi.multithread"], engine == Engine::Threads);
    assert_eq!(alone["wsgi.multiprocess"], false);
    let one_of_two = environ_of(site(engine).workers(2).start().get("/"));
    assert_eq!(one_of_two["wsgi.multiprocess"], true);
}

fn document_root_is_that_of_the_location(engine: Engine) {
    let nginx = site(engine).location("/x", "root /srv/elsewhere; wsgi_pass environ.py;").server("root docs;").start();
    let docs = nginx.prefix().join("docs");
    assert_eq!(environ_of(nginx.get("/"))["DOCUMENT_ROOT"], docs.to_str().unwrap());
    assert_eq!(environ_of(nginx.get("/x"))["DOCUMENT_ROOT"], "/srv/elsewhere");
}

fn a_long_query_is_whole(engine: Engine) {
    let nginx = site(engine).http("large_client_header_buffers 4 128k;").start();
    let query = "0123456789".repeat(6000);
    let environ = environ_of(nginx.get(&format!("/?{query}")));
    assert_eq!(environ["QUERY_STRING"], query);
}
