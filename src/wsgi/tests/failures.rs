//! Exceptions of the application, their log, and the page of `wsgi_debug`.

use super::{Response, application, get, request};
use crate::python::log::Level;
use crate::wsgi::transport::End;

const EXCEPTIONS: [&str; 10] = [
    "RuntimeError",
    "SystemExit",
    "KeyboardInterrupt",
    "GeneratorExit",
    "OSError",
    "BrokenPipeError",
    "ConnectionResetError",
    "MemoryError",
    "RecursionError",
    "BaseException",
];

#[test]
fn an_exception_before_the_headers_were_sent_discards_them() {
    for class in EXCEPTIONS {
        for lines in [
            format!("raise {class}('on purpose')"),
            format!("start_response('200 OK', [('X-Mine', 'secret')])\nraise {class}('on purpose')"),
            format!("start_response('200 OK', [])\nyield b''\nraise {class}('on purpose')"),
        ] {
            let response = get(&application(&lines)).expect_error(&format!("raised {class}: on purpose"));
            assert_eq!(response.recorded.exceptions, [class]);
        }
    }
}

#[test]
fn an_exception_in_the_middle_of_the_body_fails_the_response() {
    for class in EXCEPTIONS {
        for start in ["start_response('200 OK', [])\nyield b'begun'", "start_response('200 OK', [])(b'begun')"] {
            let response = get(&application(&format!("{start}\nraise {class}('on purpose')")))
                .expect_cut("begun", &format!("raised {class}: on purpose"));
            assert_eq!(response.recorded.exceptions, [class]);
        }
    }
}

#[test]
fn the_log_has_the_traceback_of_the_application_alone() {
    let response = get(&application("raise ValueError('reason')"));
    let errors = response.errors();
    let lines: Vec<&str> = errors[0].trim_end().lines().collect();
    assert_eq!(lines[0], "application \"app\" raised ValueError: reason");
    assert_eq!(lines[1], "Traceback (most recent call last):");
    assert_eq!(lines[2], "  File \"<string>\", line 2, in application");
    assert_eq!(lines.last(), Some(&"ValueError: reason"));
}

#[test]
fn an_exception_without_a_text_is_logged_all_the_same() {
    let response = get("
class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError('no text')
    __repr__ = __str__

def application(environ, start_response):
    raise Unprintable()
");
    let response = response.expect_error("Unprintable");
    // Its module is the name of the globals it was made in, which have none here.
    assert!(response.recorded.exceptions[0].ends_with("Unprintable"));
    get(&application("raise ValueError('half a pair \\ud800 here')")).expect_error("half a pair \\ud800 here");
}

#[test]
fn an_error_of_the_system_after_a_disconnect_is_no_error_of_the_application() {
    let response = get(&application(
        "write = start_response('200 OK', [])\nwrite(b'begun')\ndisconnect()\nwrite(b'more')\nreturn []",
    ));
    assert_eq!((response.errors().len(), response.recorded.end), (0, Some(End::Failed)));
    let (level, text) = &response.recorded.log[0];
    assert_eq!(*level, Level::Info);
    assert!(text.contains("raised BrokenPipeError") && text.contains("the client has closed the connection"), "{text}");
}

#[test]
fn other_exceptions_after_a_disconnect_are_errors() {
    let response = get(&application("start_response('200 OK', [])\ndisconnect()\nraise ValueError('a bug')"));
    assert!(response.errors()[0].contains("ValueError: a bug"));
}

#[test]
fn the_exception_of_a_time_limit_is_not_logged_again() {
    let lines = "import ngx_wsgi\ntime_out()\nraise ngx_wsgi.RequestTimeout()";
    assert_eq!(get(&application(lines)).errors(), [""; 0]);
    // One that the application makes up is an exception like any other.
    get(&application("import ngx_wsgi\nraise ngx_wsgi.RequestTimeout()"))
        .expect_error("raised ngx_wsgi.RequestTimeout");
}

/// Returns the response to a request with `wsgi_debug on`, from a client that accepts this media type.
fn with_debug(accept: &str, lines: &str) -> Response {
    let mut request = request();
    request.params.set_headers([(&b"Accept"[..], accept.as_bytes())].into_iter(), false);
    request.debug = true;
    request.call(&application(lines))
}

#[test]
fn the_debug_page_replaces_headers_that_were_not_sent() {
    let lines = "start_response('200 OK', [('X-Mine', '1')])\nraise ValueError('<reason>')";
    for (accept, media_type, shown) in [
        ("text/html", "text/html; charset=utf-8", "ValueError: &lt;reason&gt;"),
        ("*/*", "text/plain; charset=utf-8", "ValueError: <reason>"),
    ] {
        let response = with_debug(accept, lines);
        assert_eq!((response.headers().status, response.recorded.end), (500, Some(End::Complete)));
        assert_eq!((response.header("Content-Type"), response.header("X-Mine")), (Some(media_type), None));
        assert!(response.headers().is_report && response.text().contains(shown), "{}", response.text());
        assert_eq!(response.headers().content_length, Some(response.text().len() as u64));
    }
}

#[test]
fn the_debug_page_never_follows_data() {
    with_debug("*/*", "start_response('200 OK', [])\nyield b'begun'\nraise ValueError('reason')")
        .expect_cut("begun", "ValueError: reason");
}

#[test]
fn an_application_that_is_not_loaded_is_an_error_with_a_page_for_debugging() {
    for (debug, status) in [(false, None), (true, Some(500))] {
        let transport = std::sync::Arc::new(super::RecordingTransport::default());
        let call = super::Call {
            number: 1,
            params: super::Arc::default(),
            body: Box::new(super::BufferedBody::default()),
            transport: transport.clone(),
            debug,
            application_name: "app".into(),
        };
        call.refuse("SyntaxError: invalid");
        let recorded = transport.take();
        assert_eq!(recorded.headers.first().map(|headers| headers.status), status);
        assert_eq!((recorded.text() == "SyntaxError: invalid", recorded.closed), (debug, 1));
        assert_eq!(recorded.end, Some(if debug { End::Complete } else { End::Failed }));
    }
}

#[test]
fn wsgi_errors_writes_whole_lines_to_the_log_of_the_request() {
    let response = get(&application(
        "
errors = environ['wsgi.errors']
errors.write('one\\nt')
errors.write('wo\\n')
errors.writelines(['three', '\\n'])
errors.flush()
print('four', file=errors)
errors.write('the rest')
start_response('200 OK', [])
return []",
    ));
    let lines: Vec<&str> = response.errors().iter().flat_map(|text| text.lines()).collect();
    assert_eq!(lines, ["one", "two", "three", "four", "the rest"]);
}

#[test]
fn objects_that_the_application_keeps_are_released_after_the_call() {
    let mut request = request();
    request.afterwards = "kept.clear()\nevents.append('released')";
    let response = request.call(
        "
kept = []

def application(environ, start_response):
    kept.extend([environ, start_response, start_response('200 OK', [])])
    return []
",
    );
    assert_eq!(response.expect(200).events, ["released"]);
}
