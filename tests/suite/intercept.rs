//! `wsgi_intercept_errors`: error pages of nginx instead of responses.

use crate::accel::{LONG, ask, say, saying, site};
use crate::harness::{Client, Engine, Response, Site, both_engines};

both_engines!(
    an_error_page_takes_the_place_of_a_response,
    an_intercepted_401_says_how_to_log_in,
    the_call_of_an_intercepted_response_runs_to_its_end,
    an_intercepted_body_is_not_asked_for_where_it_need_not_be,
    an_error_page_is_not_intercepted_again,
    an_intercepted_response_in_a_subrequest,
    an_intercepted_response_is_not_redirected,
    a_page_of_wsgi_debug_is_not_intercepted,
    statuses_that_close_the_connection_are_not_intercepted,
);

const PAGES: &str = "error_page 404 403 /pages/404.txt; error_page 503 =200 /echo/busy?a=b; error_page 410 @gone;
                     error_page 302 =301 http://example.com/; error_page 401 /pages/404.txt;";

fn intercepting(engine: Engine) -> Site {
    site(engine)
        .server(PAGES)
        .file("html/pages/404.txt", "page of nginx")
        .location("/pages/", "root html;")
        .location("@gone", "return 410 gone;")
        .location("/on", "wsgi_pass app.py; wsgi_intercept_errors on;")
}

#[track_caller]
fn say_on(nginx: &Client, source: &str) -> Response {
    ask(nginx, "GET", &saying(source).replace("/app", "/on"), "")
}

fn an_error_page_takes_the_place_of_a_response(engine: Engine) {
    let nginx = intercepting(engine).start_shared();
    let of =
        |status: &str| format!("'{status} Own', [('X-Own', 'x'), ('Set-Cookie', 'a'), ('Location', '/x')], [b'own']");
    for status in ["404", "403"] {
        let response = say_on(&nginx, &of(status)).expect(status.parse().unwrap());
        assert_eq!(response.text(), "page of nginx");
        assert_eq!(response.header("Content-Type"), Some("text/plain"));
        assert_eq!((response.header("X-Own"), response.header("Set-Cookie")), (None, None));
    }
    let response = say_on(&nginx, &of("503")).expect(200);
    assert!(response.text().starts_with("GET /busy a=b /on?"), "{}", response.text());
    assert_eq!(say_on(&nginx, &of("410")).expect(410).text(), "gone");
    let response = say_on(&nginx, &of("302")).expect(301);
    assert_eq!(response.header("Location"), Some("http://example.com/"));
    let response = ask(&nginx, "HEAD", &saying(&of("404")).replace("/app", "/on"), "").expect(404);
    assert_eq!(response.header("Content-Length"), Some("13"));
    // Without an error_page, and where nothing is intercepted, the response is the application's.
    for status in ["500", "400", "301", "200", "599"] {
        let response = say_on(&nginx, &of(status)).expect(status.parse().unwrap());
        assert_eq!((response.text().as_str(), response.header("X-Own")), ("own", Some("x")));
    }
    for status in ["404", "503", "302"] {
        let response = say(&nginx, &of(status)).expect(status.parse().unwrap());
        assert_eq!((response.text().as_str(), response.reason.as_str()), ("own", "Own"));
    }
}

fn an_intercepted_401_says_how_to_log_in(engine: Engine) {
    let nginx = intercepting(engine).start_shared();
    let headers = "[('WWW-Authenticate', 'Basic realm=\"a\"'), ('WWW-Authenticate', 'Digest'), ('X-Own', 'x')]";
    let response = say_on(&nginx, &format!("'401 Unauthorized', {headers}, [b'own']")).expect(401);
    assert_eq!(response.text(), "page of nginx");
    assert_eq!(response.all("WWW-Authenticate"), ["Basic realm=\"a\"", "Digest"]);
    assert_eq!(response.header("X-Own"), None);
    // Only then.
    let response = say_on(&nginx, &format!("'403 Forbidden', {headers}, [b'own']")).expect(403);
    assert_eq!(response.header("WWW-Authenticate"), None);
}

fn the_call_of_an_intercepted_response_runs_to_its_end(engine: Engine) {
    let nginx = intercepting(engine).start_shared();
    let iterated = format!("'404 Not Found', [], Closing([{LONG}])");
    assert_eq!(say_on(&nginx, &iterated).expect(404).text(), "page of nginx");
    nginx.wait_events(&["closed"]);
    let written = "'404 Not Found', [], lambda write: [write(b'x' * 1000000), event('written')] and []";
    assert_eq!(say_on(&nginx, written).expect(404).text(), "page of nginx");
    nginx.wait_events(&["closed", "written"]);
}

fn an_intercepted_body_is_not_asked_for_where_it_need_not_be(engine: Engine) {
    let wrapping = r#"
@event@
def application(environ, start_response):
    start_response("404 Not Found", [])
    if environ["QUERY_STRING"]:
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))
    return items()

def items():
    for item in [b"", b"", b"x"]:
        event(repr(item))
        yield item
"#;
    let nginx = intercepting(engine)
        .app_at("/wrapping", "wrapping.py", wrapping)
        .server("wsgi_intercept_errors on; wsgi_optimize_send_headers on;")
        .start();
    for target in ["/wrapping?file", "/wrapping"] {
        assert_eq!(ask(&nginx, "GET", target, "").expect(404).text(), "page of nginx");
    }
    // The first empty item tells nginx the status, and with that the body is of no use.
    assert_eq!(nginx.events(), ["b''"]);
}

fn an_error_page_is_not_intercepted_again(engine: Engine) {
    let failing = r#"
def application(environ, start_response):
    status = "404 Not Found" if environ["PATH_INFO"] == "/first" else "403 Forbidden"
    start_response(status, [])
    return [b"own"]
"#;
    for (recursive, status, text) in [("off", 404, "<center><h1>403 Forbidden</h1></center>"), ("on", 404, "last")] {
        let nginx = site(engine)
            .app_at("/failing", "failing.py", failing)
            .server("wsgi_intercept_errors on; error_page 404 /failing/second; error_page 403 = /last;")
            .server(&format!("recursive_error_pages {recursive};"))
            .location("/last", &format!("return {status} last;"))
            .start();
        let response = ask(&nginx, "GET", "/failing/first", "");
        assert!(response.text().contains(text), "{recursive}: {} {}", response.status, response.text());
    }
}

fn an_intercepted_response_in_a_subrequest(engine: Engine) {
    let target = saying("'404 Not Found', [], [b'own']").replace("/app", "/on");
    let nginx = intercepting(engine)
        .file("html/page.shtml", &format!("<!--# include virtual=\"{target}\" -->."))
        .location("/page.shtml", "root html; ssi on; ssi_types *; default_type text/html;")
        .start();
    assert_eq!(ask(&nginx, "GET", "/page.shtml", "").expect(200).text(), "page of nginx.");
}

fn an_intercepted_response_is_not_redirected(engine: Engine) {
    let nginx = intercepting(engine).start_shared();
    let source = "'404 Not Found', [('X-Accel-Redirect', '/protected/digits.txt')], []";
    assert_eq!(say_on(&nginx, source).expect(404).text(), "page of nginx");
}

fn a_page_of_wsgi_debug_is_not_intercepted(engine: Engine) {
    let nginx = intercepting(engine)
        .location("/debug", "wsgi_pass app.py; wsgi_intercept_errors on; wsgi_debug on; error_page 500 /pages/404.txt;")
        .location("/plain", "wsgi_pass app.py; wsgi_intercept_errors on; error_page 500 /pages/404.txt;")
        .errors_expected()
        .start();
    assert!(ask(&nginx, "GET", "/debug?1//0", "").expect(500).text().contains("ZeroDivisionError"));
    // A call that failed is nginx's own 500, with the page for it.
    assert_eq!(ask(&nginx, "GET", "/plain?1//0", "").expect(500).text(), "page of nginx");
}

fn statuses_that_close_the_connection_are_not_intercepted(engine: Engine) {
    let nginx = site(engine).server("wsgi_intercept_errors on; error_page 408 444 /echo/x;").start();
    for status in ["408", "444"] {
        let response = say(&nginx, &format!("'{status} Own', [], [b'own']")).expect(status.parse().unwrap());
        assert_eq!(response.text(), "own");
    }
}
