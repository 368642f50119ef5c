//! `wsgi.input`: a file like `io.BytesIO`.

use super::{Request, application, request};

/// Returns the value of `expression`, in which `file` is `wsgi.input`.
#[track_caller]
fn eval(request: Request, expression: &str) -> String {
    let lines =
        format!("file = environ['wsgi.input']\nevents.append({expression})\nstart_response('200 OK', [])\nreturn []");
    request.call(&application(&lines)).expect(200).events.remove(0)
}

#[track_caller]
fn read(body: &str, expression: &str) -> String {
    // In two pieces, as in memory and in a file.
    let (first, second) = body.as_bytes().split_at(body.len() / 2);
    eval(request().body([first, second]), expression)
}

#[test]
fn read_takes_a_size() {
    for (call, expected) in [
        ("file.read()", "b'ab\\ncd'"),
        ("file.read(-1)", "b'ab\\ncd'"),
        ("file.read(None)", "b'ab\\ncd'"),
        ("file.read(0)", "b''"),
        ("file.read(3)", "b'ab\\n'"),
        ("file.read(2**40)", "b'ab\\ncd'"),
        ("file.read(size=4)", "b'ab\\nc'"),
        ("[file.read(1), file.read(2), file.read(), file.read()]", "[b'a', b'b\\n', b'cd', b'']"),
        ("[file.read1(2), file.read1(-1)]", "[b'ab', b'\\ncd']"),
        ("file.readable()", "True"),
    ] {
        assert_eq!(read("ab\ncd", call), expected, "{call}");
    }
}

#[test]
fn readline_takes_a_size() {
    for (call, expected) in [
        ("file.readline()", "b'ab\\n'"),
        ("file.readline(-1)", "b'ab\\n'"),
        ("file.readline(None)", "b'ab\\n'"),
        ("file.readline(2)", "b'ab'"),
        ("file.readline(0)", "b''"),
        ("[file.readline(2), file.readline(5), file.readline(), file.readline()]", "[b'ab', b'\\n', b'cd', b'']"),
    ] {
        assert_eq!(read("ab\ncd", call), expected, "{call}");
    }
}

#[test]
fn readlines_takes_a_hint() {
    for (call, expected) in [
        ("file.readlines()", "[b'a\\n', b'b\\n', b'c']"),
        ("file.readlines(0)", "[b'a\\n', b'b\\n', b'c']"),
        ("file.readlines(-1)", "[b'a\\n', b'b\\n', b'c']"),
        ("file.readlines(None)", "[b'a\\n', b'b\\n', b'c']"),
        ("file.readlines(1)", "[b'a\\n']"),
        ("file.readlines(2)", "[b'a\\n']"),
        ("file.readlines(hint=3)", "[b'a\\n', b'b\\n']"),
        ("[file.readlines(1), file.read()]", "[[b'a\\n'], b'b\\nc']"),
    ] {
        assert_eq!(read("a\nb\nc", call), expected, "{call}");
    }
}

#[test]
fn iteration_gives_lines() {
    assert_eq!(read("one\ntwo\r\n\nlast", "list(file)"), "[b'one\\n', b'two\\r\\n', b'\\n', b'last']");
    let mixed = "[next(file), file.read(2), list(file), next(file, 'the end'), iter(file) is file]";
    assert_eq!(read("one\ntwo\nlast", mixed), "[b'one\\n', b'tw', [b'o\\n', b'last'], 'the end', True]");
}

#[test]
fn the_end_is_empty_bytes_for_ever() {
    let calls =
        "[file.read(), file.read(), file.read(1), file.readline(), file.readlines(), list(file), file.read(-1)]";
    assert_eq!(read("ab", calls), "[b'ab', b'', b'', b'', [], [], b'']");
    assert_eq!(eval(request(), calls), "[b'', b'', b'', b'', [], [], b'']");
}

#[test]
fn wrong_arguments_are_refused_as_bytes_io_refuses_them() {
    let lines = r#"
import io
for name in ("read", "readline", "readlines"):
    for args in [("x",), (1.5,), (b"1",), ([],), (1, 2), (object(),)]:
        found = []
        for file in (environ["wsgi.input"], io.BytesIO(b"abc")):
            try:
                getattr(file, name)(*args)
                found.append("accepted")
            except Exception as e:
                found.append(type(e).__name__)
        if found[0] != found[1]:
            events.append((name, args, found))
events.append(environ["wsgi.input"].read())
start_response("200 OK", [])
return []"#;
    // Nothing was consumed by all that.
    let response = request().body([&b"abc"[..]]).call(&application(lines)).expect(200);
    assert_eq!(response.events, ["b'abc'"]);
}

/// Compares random calls with those of `io.BytesIO`.
const RANDOM_CALLS: &str = r#"
import io, random

def call(file, name, args):
    return next(file, "the end") if name == "next" else getattr(file, name)(*args)

def application(environ, start_response):
    given, expected = environ["wsgi.input"], io.BytesIO(CONTENT)
    rng = random.Random(SEED)
    calls = []
    for _ in range(60):
        name = rng.choice(["read", "read", "readline", "readline", "readlines", "next"])
        args = () if name == "next" else (rng.choice([-1, None, 0, 1, 2, 7, 100, 1024, 8193, 2**31, 2**40, True]),)
        # Small bites mostly, or the first call would take it all.
        if name != "next" and rng.random() < 0.8:
            args = (rng.randrange(200),)
        calls.append((name, args))
        a, b = call(given, name, args), call(expected, name, args)
        if a != b or type(a) is not type(b):
            events.append(f"{calls}: {a!r:.300} instead of {b!r:.300}")
            break
    if given.read() != expected.read():
        events.append(f"different rests after {calls}")
    start_response("200 OK", [])
    return []
"#;

#[test]
fn it_behaves_as_bytes_io() {
    let lines = |length: usize, count: usize| format!("{}\n", "y".repeat(length)).repeat(count);
    let bodies =
        ["".to_owned(), "\n".repeat(30), "no newline".repeat(500), lines(3, 200), lines(9000, 8), lines(70, 50)];
    for (seed, body) in (0..60).zip(bodies.iter().cycle()) {
        let source = RANDOM_CALLS.replace("SEED", &seed.to_string()).replace("CONTENT", &format!("b{body:?}"));
        let (first, second) = body.as_bytes().split_at(body.len() * seed / 60);
        let response = request().body([first, second]).call(&source).expect(200);
        assert_eq!(response.events, [""; 0], "seed {seed}");
    }
}

#[test]
fn a_body_that_is_still_being_received_is_read_as_it_comes() {
    let streamed = || request().streamed([Some(&b"ab\nc"[..]), Some(b"d\ne"), Some(b"f")]);
    for (call, expected) in [
        ("file.read()", "b'ab\\ncd\\nef'"),
        ("file.read(6)", "b'ab\\ncd\\n'"),
        ("[file.read1(), file.read1(), file.read1(), file.read1()]", "[b'ab\\nc', b'd\\ne', b'f', b'']"),
        ("[file.read1(2), file.read1(100), file.read()]", "[b'ab', b'\\nc', b'd\\nef']"),
        ("list(file)", "[b'ab\\n', b'cd\\n', b'ef']"),
        ("[file.readline(4), file.read(1), file.readline()]", "[b'ab\\n', b'c', b'd\\n']"),
    ] {
        assert_eq!(eval(streamed(), call), expected, "{call}");
    }
}

#[test]
fn a_client_that_leaves_while_its_body_is_received_is_an_error_and_not_the_end() {
    for call in ["file.read()", "file.readline()", "list(file)", "file.readlines()"] {
        let lines = format!(
            "file = environ['wsgi.input']\ntry:\n    {call}\nexcept ConnectionResetError:\n    events.append('reset')\n\
             start_response('200 OK', [])\nreturn []"
        );
        let response = request().streamed([Some(&b"part"[..]), None]).call(&application(&lines)).expect(200);
        assert_eq!(response.events, ["reset"], "{call}");
    }
}

#[test]
fn a_client_that_has_left_is_an_error_of_the_system() {
    for call in ["read()", "readline()", "read(0)", "readlines()"] {
        let lines = format!("disconnect()\nenviron['wsgi.input'].{call}");
        let response = request().body([&b"body"[..]]).call(&application(&lines));
        assert!(response.recorded.log[0].1.contains("raised ConnectionResetError"), "{response:?}");
        assert_eq!(response.errors(), [""; 0]);
    }
}

#[test]
fn using_it_after_the_call_is_a_value_error() {
    let mut request = request().body([&b"body"[..]]);
    request.afterwards = "
for call in (kept.read, kept.readline, kept.readlines, kept.__next__, lambda: kept.read(0)):
    try:
        events.append(call())
    except ValueError as e:
        events.append(e)
";
    let lines = "global kept\nkept = environ['wsgi.input']\nstart_response('200 OK', [])\nreturn []";
    let response = request.call(&application(lines)).expect(200);
    assert_eq!(response.events, ["wsgi.input is used after its request has ended"; 5]);
}

#[test]
fn another_thread_may_read_it() {
    let lines = "
import threading
thread = threading.Thread(target=lambda: events.append(environ['wsgi.input'].read()))
thread.start()
thread.join()
start_response('200 OK', [])
return []";
    for request in [request().body([&b"body"[..]]), request().streamed([Some(&b"bo"[..]), Some(b"dy")])] {
        assert_eq!(request.call(&application(lines)).expect(200).events, ["b'body'"]);
    }
}
