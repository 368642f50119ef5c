//! The standard library's own check of servers, `wsgiref.validate`, finds nothing.

use crate::harness::{Engine, Site, both_engines};

both_engines!(
    validator_is_content_with_every_shape_of_request,
    the_validator_accepts_every_shape_of_response,
    validator_is_content_with_a_failing_application,
);

const VALIDATED: &str = r#"
from wsgiref.validate import validator

def respond(environ, start_response):
    file = environ["wsgi.input"]
    body = []
    path = environ["PATH_INFO"]
    if path.endswith("/read"):
        body.append(file.read(-1))
    elif path.endswith("/pieces"):
        while piece := file.read(7):
            body.append(piece)
    elif path.endswith("/lines"):
        while line := file.readline():
            body.append(line)
    elif path.endswith("/hint"):
        body.extend(file.readlines(10))
        body.extend(file.readlines())
    elif path.endswith("/iterate"):
        body.extend(file)
    environ["wsgi.errors"].write("a line\n")
    environ["wsgi.errors"].writelines(["two\n"])
    environ["wsgi.errors"].flush()
    query = environ.get("QUERY_STRING", "")
    if query == "204":
        start_response("204 No Content", [("X-A", "b")])
        return []
    if query == "304":
        start_response("304 Not Modified", [("ETag", '"a"')])
        return []
    headers = [("Content-Type", "text/plain"), ("X-Twice", "1"), ("X-Twice", "2")]
    if query == "length":
        headers.append(("Content-Length", str(sum(map(len, body)))))
    if query == "fails":
        raise RuntimeError("on purpose")
    status = "404 Not Found" if query == "404" else "200 OK"
    write = start_response(status, headers)
    if query == "write":
        for piece in body:
            write(piece)
        return []
    if query == "generator":
        return (piece for piece in body)
    if query == "empty":
        return iter([])
    return [b"".join(body)]

application = validator(respond)
"#;

fn site(engine: Engine) -> Site {
    // Its complaints are exceptions, hence 500; what it writes itself is logged at whatever level errors have.
    Site::new(engine)
        .app(VALIDATED)
        .location("/mounted", "wsgi_pass app.py;")
        .location("/file/", "client_body_buffer_size 1k; wsgi_pass app.py;")
        .errors_expected()
}

fn validator_is_content_with_every_shape_of_request(engine: Engine) {
    let nginx = site(engine).start();
    let long = "a line of some length\r\n".repeat(500);
    let bodies = ["", "x", "one\ntwo\n\nno newline", &long];
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD"] {
        for mount in ["", "/mounted", "/file"] {
            for kind in ["read", "pieces", "lines", "hint", "iterate", "none"] {
                for body in bodies {
                    let path = format!("{mount}/%c3%a9/{kind}");
                    let mut conn = nginx.connect();
                    conn.send(format!(
                        "{method} {path} HTTP/1.1\r\nHost: a:1\r\nCookie: a=b\r\nX-A: 1\r\nX-A: 2\r\n\
                         Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    ));
                    let response = conn.response_to(method).expect(200);
                    if kind != "none" && method != "HEAD" {
                        assert_eq!(response.text(), body, "{method} {path}");
                    }
                }
            }
        }
    }
    for request in [
        "GET / HTTP/1.0\r\n\r\n",
        "GET /mounted HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /mounted/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /mounted?a=b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "POST /lines HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut conn = nginx.connect();
        conn.send(request).response().expect(200);
    }
    assert_eq!(nginx.logged("AssertionError"), [""; 0]);
}

fn the_validator_accepts_every_shape_of_response(engine: Engine) {
    let nginx = site(engine).start();
    for (query, status) in [
        ("", 200),
        ("204", 204),
        ("304", 304),
        ("404", 404),
        ("length", 200),
        ("write", 200),
        ("generator", 200),
        ("empty", 200),
    ] {
        for method in ["GET", "HEAD", "POST"] {
            let mut conn = nginx.connect();
            conn.send(format!("{method} /lines?{query} HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\none\ntwo\n"));
            let response = conn.response_to(method).expect(status);
            if status == 200 && method != "HEAD" && query != "empty" {
                assert_eq!(response.text(), "one\ntwo\n", "{query}");
            }
        }
    }
    assert_eq!(nginx.logged("AssertionError"), [""; 0]);
    assert_eq!(nginx.logged("without being closed"), [""; 0]);
}

fn validator_is_content_with_a_failing_application(engine: Engine) {
    let nginx = site(engine).start();
    nginx.get("/?fails").expect(500);
    nginx.wait_log("RuntimeError: on purpose");
    assert_eq!(nginx.logged("AssertionError"), [""; 0]);
}
