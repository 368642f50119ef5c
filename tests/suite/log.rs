//! Output, log records and exceptions of an application are complete in nginx's error log.

use crate::harness::{Engine, Site, both_engines, wait_for};

both_engines!(
    everything_printed_is_logged,
    lines_carry_the_number_of_the_request,
    output_of_an_import_is_logged,
    output_of_a_background_thread_is_logged,
    half_lines_are_joined,
    an_unfinished_line_is_logged_at_the_end_of_the_request,
    an_unfinished_line_is_logged_at_the_end_of_its_thread,
    a_character_may_be_written_in_pieces,
    lines_of_two_requests_never_mix,
    a_long_line_is_whole,
    a_loaded_application_is_logged_with_its_time,
    streams_behave_as_text_files_do,
    any_character_can_be_written,
    control_characters_do_not_reach_the_log,
    a_line_cannot_forge_a_log_record,
    logs_are_followed_after_they_were_reopened,
    many_lines_lose_none,
);

/// An application with this body before its response.
pub fn does(engine: Engine, body: &str) -> Site {
    let body = body.trim().replace('\n', "\n    ");
    Site::new(engine)
        .app(&format!(
            r#"
import logging
import sys
import warnings

def application(environ, start_response):
    {body}
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return [b"done"]
"#
        ))
        .errors_expected()
}

/// Returns the application's part of a record: without nginx's prefix and the description of the request at the end.
pub fn message(line: &str) -> &str {
    let rest = line.split_once("#").expect("a record").1;
    let rest = rest.split_once(": ").expect("a record").1;
    let rest = match rest.strip_prefix('*') {
        Some(numbered) => numbered.split_once(' ').unwrap().1,
        None => rest,
    };
    rest.split(", client: ").next().unwrap()
}

fn everything_printed_is_logged(engine: Engine) {
    let nginx = does(
        engine,
        r#"
errors = environ["wsgi.errors"]
errors.write("by write\n")
errors.writelines(["by writelines 1\n", "by writelines 2\n"])
errors.flush()
print("by print to errors", file=errors)
print("by print")
print("by print to stderr", file=sys.stderr)
sys.stdout.buffer.write(b"by bytes\n")
sys.stderr.buffer.write(bytearray(b"by bytearray\n"))
logging.basicConfig()
logging.getLogger("mine").error("by logging %s", "formatted")
warnings.warn("by warnings")
"#,
    )
    .start();
    nginx.get("/").expect(200);
    for text in [
        "by write",
        "by writelines 1",
        "by writelines 2",
        "by print to errors",
        "by print",
        "by print to stderr",
        "by bytes",
        "by bytearray",
        "ERROR:mine:by logging formatted",
    ] {
        wait_for(text, || {
            let count = nginx.logged(text).iter().filter(|line| message(line).ends_with(text)).count();
            (count == 1).then_some(())
        });
    }
    nginx.wait_log("UserWarning: by warnings");
}

/// The connection's number in nginx's `*7 `.
pub fn number(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(": *")?;
    rest.split_once(' ')?.0.parse().ok()
}

fn lines_carry_the_number_of_the_request(engine: Engine) {
    let nginx = does(
        engine,
        r#"
who = environ["PATH_INFO"][1:]
environ["wsgi.errors"].write(f"errors of {who}\n")
print(f"print of {who}")
print(f"stderr of {who}", file=sys.stderr)
logging.basicConfig()
logging.error("logging of %s", who)
if who == "c":
    raise RuntimeError(f"failure of {who}")
"#,
    )
    .start();
    let mut numbers = Vec::new();
    for who in ["a", "b", "c"] {
        let mut conn = nginx.connect();
        conn.send(format!("GET /{who} HTTP/1.1\r\nHost: a\r\n\r\n"));
        conn.response();
        let mut texts = vec!["errors of", "print of", "stderr of", "logging of"];
        if who == "c" {
            texts.push("RuntimeError: failure of");
        }
        let mut own: Vec<u64> = texts
            .iter()
            .map(|text| nginx.wait_log(&format!("{text} {who}")))
            .map(|line| number(&line).unwrap_or_else(|| panic!("no number: {line}")))
            .collect();
        own.dedup();
        assert_eq!(own.len(), 1, "different numbers in one request");
        numbers.extend(own);
    }
    numbers.dedup();
    assert_eq!(numbers.len(), 3, "one number for different connections");
    // Each line of a traceback has it too.
    let line = nginx.wait_log("Traceback (most recent call last)");
    assert_eq!(number(&line), numbers.last().copied());
    let line = nginx.wait_log("raise RuntimeError(f");
    assert_eq!(number(&line), numbers.last().copied());
}

fn output_of_an_import_is_logged(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
import sys
print("printed at import")
print("to stderr at import", file=sys.stderr)

def application(environ, start_response):
    start_response("200 OK", [])
    return []
"#,
        )
        .errors_expected()
        .start();
    nginx.wait_log("printed at import");
    nginx.wait_log("to stderr at import");
}

fn output_of_a_background_thread_is_logged(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
import threading
import time

def speak():
    for i in range(3):
        print(f"in the background {i}")
        time.sleep(0.01)
    raise RuntimeError("end of the background")

def application(environ, start_response):
    threading.Thread(target=speak, daemon=True).start()
    start_response("200 OK", [])
    return []
"#,
        )
        .errors_expected()
        .start();
    nginx.get("/").expect(200);
    nginx.wait_log("in the background 2");
    nginx.wait_log("RuntimeError: end of the background");
}

fn half_lines_are_joined(engine: Engine) {
    let nginx = does(
        engine,
        r#"
for stream in (environ["wsgi.errors"], sys.stdout, sys.stderr):
    for part in ("first ", "half, ", "", "second half\nnext", " line\n"):
        stream.write(part)
    stream.flush()
print(1, 2, 3, sep="-", end="!\n")
"#,
    )
    .start_shared();
    nginx.get("/").expect(200);
    nginx.wait_log("1-2-3!");
    for text in ["first half, second half", "next line"] {
        let lines = nginx.logged(text);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines.iter().all(|line| message(line).ends_with(text)));
    }
}

fn an_unfinished_line_is_logged_at_the_end_of_the_request(engine: Engine) {
    let nginx = does(
        engine,
        r#"
environ["wsgi.errors"].write("unfinished in errors")
print("unfinished in stdout", end="")
"#,
    )
    .start_shared();
    nginx.get("/").expect(200);
    for line in ["unfinished in errors", "unfinished in stdout"] {
        assert!(nginx.wait_log(line).contains("request: \"GET / HTTP/1.1\""));
    }
}

fn an_unfinished_line_is_logged_at_the_end_of_its_thread(engine: Engine) {
    let nginx = does(
        engine,
        r#"
import _thread
import threading
for name, stream in {"stdout": sys.stdout, "errors": environ["wsgi.errors"]}.items():
    thread = threading.Thread(target=stream.write, args=(f"unfinished in {name} of a thread",))
    thread.start()
    thread.join()
_thread.start_new_thread(lambda: sys.stderr.buffer.write(b"unfinished in stderr of a thread \xe2\x82"), ())
"#,
    )
    .start();
    nginx.get("/").expect(200);
    for text in ["unfinished in stdout of a thread", "unfinished in errors of a thread"] {
        nginx.wait_log(text);
    }
    assert!(nginx.wait_log("unfinished in stderr of a thread").ends_with("a thread \\xe2\\x82"));
}

fn a_character_may_be_written_in_pieces(engine: Engine) {
    let nginx = does(
        engine,
        r#"
streams = {"stdout": sys.stdout, "stderr": sys.stderr, "errors": environ["wsgi.errors"]}
for name, stream in streams.items():
    for byte in f"bytes of {name}: \u00e9\u20ac\U0001f40d\n".encode():
        stream.buffer.write(bytes([byte]))
    stream.write(f"flushed in {name}")
    stream.buffer.write(b"\xe2\x82")
    stream.flush()
    stream.buffer.write(b"\xac after the flush\n")
    stream.buffer.write(b"invalid in " + name.encode() + b": \xff\xe2\x82 and \xc3")
    stream.write("\n")
stream.buffer.write(b"cut off \xf0\x9f")
"#,
    )
    .start_shared();
    nginx.get("/").expect(200);
    assert_eq!(message(&nginx.wait_log("cut off")), r"cut off \xf0\x9f");
    let lines: Vec<String> = nginx.error_log().lines().filter(|line| line.contains('#')).map(String::from).collect();
    for name in ["stdout", "stderr", "errors"] {
        for wanted in [
            format!("bytes of {name}: \u{e9}\u{20ac}\u{1f40d}"),
            format!("flushed in {name}"),
            format!(r"invalid in {name}: \xff\xe2\x82 and \xc3"),
        ] {
            assert!(lines.iter().any(|line| message(line) == wanted), "{wanted} is missing");
        }
    }
    assert_eq!(nginx.logged("\u{20ac} after the flush").len(), 3);
}

fn lines_of_two_requests_never_mix(engine: Engine) {
    let nginx = does(
        engine,
        r#"
import time
letter = environ["PATH_INFO"][1:]
for _ in range(20):
    for stream in (environ["wsgi.errors"], sys.stdout, sys.stderr):
        for _ in range(10):
            stream.write("mix" + letter)
            time.sleep(0)
        stream.write("\n")
"#,
    )
    .start_shared();
    std::thread::scope(|scope| {
        for letter in ["a", "b", "c", "d"] {
            let nginx = &nginx;
            scope.spawn(move || nginx.get(&format!("/{letter}")).expect(200));
        }
    });
    wait_for("all lines", || (nginx.logged("mix").len() >= 4 * 60).then_some(()));
    for letter in ["a", "b", "c", "d"] {
        let whole = format!("mix{letter}").repeat(10);
        let lines = nginx.logged(&format!("mix{letter}"));
        assert_eq!(lines.len(), 60, "{letter}");
        for line in lines {
            assert_eq!(message(&line), whole);
        }
    }
}

/// Counts a letter in messages that have more than a few of it. A line may be split into several records.
pub fn letters_logged(log: &str, letter: char) -> usize {
    let many = letter.to_string().repeat(10);
    log.lines()
        .filter(|line| line.contains(&many))
        .map(|line| message(line).chars().filter(|c| *c == letter).count())
        .sum()
}

fn a_long_line_is_whole(engine: Engine) {
    let nginx = does(
        engine,
        r#"
print("q" * 10240)
environ["wsgi.errors"].write("long: " + "j" * 100000 + "the very end\n")
print("\u20ac" * 3000 + "euro end")
"#,
    )
    .start_shared();
    nginx.get("/").expect(200);
    nginx.wait_log("the very end");
    nginx.wait_log("euro end");
    let log = nginx.error_log();
    assert_eq!(letters_logged(&log, 'q'), 10_240);
    assert_eq!(letters_logged(&log, 'j'), 100_000);
    // No character was cut in two either.
    assert_eq!(letters_logged(&log, '\u{20ac}'), 3000);
    for line in log.lines() {
        assert!(line.len() <= 2048, "nginx cut a record of {}", line.len());
    }
}

fn a_loaded_application_is_logged_with_its_time(engine: Engine) {
    let nginx = Site::new(engine)
        .app_at("/fast", "fast.py", "application = print\n")
        .app_at("/slow", "slow.py", "import time\ntime.sleep(0.3)\napplication = print\n")
        .start();
    let seconds = |name: &str| -> f64 {
        let line = nginx.wait_log(&format!("application \"{}/{name}.py\" loaded in ", nginx.prefix().display()));
        assert!(line.contains("[notice]") && line.contains("s, interpreter \"main\""), "{line}");
        let (_, rest) = line.split_once(" loaded in ").unwrap();
        rest.split_once(' ').unwrap().0.parse().unwrap()
    };
    let (fast, slow) = (seconds("fast"), seconds("slow"));
    assert!(slow >= 0.3 && fast < slow, "{fast} and {slow}");
}

fn streams_behave_as_text_files_do(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
import io
import sys

def check(stream):
    wrong = []
    def expect(what, value):
        try:
            found = value()
        except BaseException as e:
            found = e
        if found is not True:
            wrong.append(f"{what}: {found!r}")
    def raises(what, kinds, action):
        try:
            wrong.append(f"{what}: {action()!r}")
        except kinds:
            pass
        except BaseException as e:
            wrong.append(f"{what}: {e!r}")
    expect("write counts", lambda: stream.write("12345\n") == 6)
    expect("write of nothing", lambda: stream.write("") == 0)
    expect("writelines", lambda: stream.writelines(x for x in ("a\n", "b\n")) is None)
    expect("flush", lambda: stream.flush() is None)
    expect("reconfigure", lambda: stream.reconfigure(line_buffering=True) is None)
    expect("isatty", lambda: stream.isatty() is False)
    expect("name", lambda: isinstance(stream.name, str))
    expect("encoding", lambda: stream.encoding.lower().replace("-", "") == "utf8")
    expect("errors", lambda: isinstance(stream.errors, str))
    expect("closed", lambda: stream.closed is False)
    expect("writable", lambda: stream.writable() is True)
    expect("readable", lambda: stream.readable() is False)
    expect("seekable", lambda: stream.seekable() is False)
    expect("buffer", lambda: stream.buffer.write(b"bytes\n") == 6)
    expect("buffer.flush", lambda: stream.buffer.flush() is None)
    expect("buffer of memory", lambda: stream.buffer.write(memoryview(b"memory\n")) == 7)
    expect("print", lambda: print("printed", file=stream, flush=True) is None)
    if "stderr" in stream.name:
        expect("fileno", lambda: (stream.fileno(), stream.buffer.fileno()) == (2, 2))
    else:
        raises("fileno", OSError, lambda: stream.fileno())
    raises("write of bytes", TypeError, lambda: stream.write(b"x"))
    raises("write of None", TypeError, lambda: stream.write(None))
    raises("buffer.write of text", TypeError, lambda: stream.buffer.write("x"))
    return wrong

def application(environ, start_response):
    wrong = {}
    for name, stream in {
        "stdout": sys.stdout, "stderr": sys.stderr, "errors": environ["wsgi.errors"],
        "__stdout__": sys.__stdout__, "__stderr__": sys.__stderr__,
    }.items():
        if found := check(stream):
            wrong[name] = found
    start_response("200 OK", [])
    return [repr(wrong).encode()]
"#,
        )
        .errors_expected()
        .start_shared();
    assert_eq!(nginx.get("/").expect(200).text(), "{}");
}

fn any_character_can_be_written(engine: Engine) {
    let nginx = does(
        engine,
        r#"
print("caf\u00e9 \u20ac \U0001f40d end")
environ["wsgi.errors"].write("half \ud800 a pair\n")
sys.stdout.buffer.write(b"raw \xff\xfe bytes\n")
"#,
    )
    .start_shared();
    nginx.get("/").expect(200);
    nginx.wait_log("caf\u{e9} \u{20ac} \u{1f40d} end");
    nginx.wait_log("a pair");
    nginx.wait_log("raw ");
}

fn control_characters_do_not_reach_the_log(engine: Engine) {
    let nginx = does(
        engine,
        r#"
print("colour \x1b[31mred\x1b[0m nul \0 bell \a back \b\x7f end")
print("carriage\rreturn")
"#,
    )
    .start();
    nginx.get("/").expect(200);
    nginx.wait_log("carriage");
    let line = nginx.wait_log("colour ");
    assert!(line.contains(" end"), "{line}");
    let log = std::fs::read(nginx.prefix().join("logs/error.log")).unwrap();
    let raw: Vec<u8> = log.into_iter().filter(|b| (*b < 32 && *b != b'\n' && *b != b'\t') || *b == 127).collect();
    assert_eq!(raw, [0u8; 0]);
}

fn a_line_cannot_forge_a_log_record(engine: Engine) {
    let nginx = does(
        engine,
        r#"
print("x\n2026/01/01 00:00:00 [notice] 1#1: forged")
"#,
    )
    .start_shared();
    nginx.get("/").expect(200);
    let line = nginx.wait_log("forged");
    assert!(!line.starts_with("2026/01/01 00:00:00"), "{line}");
}

fn logs_are_followed_after_they_were_reopened(engine: Engine) {
    let nginx = does(
        engine,
        r#"
print("printed for", environ["PATH_INFO"])
environ["wsgi.errors"].write("written for " + environ["PATH_INFO"] + "\n")
"#,
    )
    .start();
    nginx.get("/before").expect(200);
    nginx.wait_log("written for /before");
    let log = nginx.prefix().join("logs/error.log");
    std::fs::rename(&log, nginx.prefix().join("logs/error.log.1")).unwrap();
    nginx.signal(libc::SIGUSR1);
    // The master makes the new file; each worker changes over a moment later.
    wait_for("output in the new log", || {
        nginx.get("/after").expect(200);
        let log = nginx.error_log();
        (log.contains("printed for /after") && log.contains("written for /after")).then_some(())
    });
}

fn many_lines_lose_none(engine: Engine) {
    let nginx = does(
        engine,
        r#"
for i in range(5000):
    print(f"line number {i:05}")
"#,
    )
    .start();
    nginx.get("/").expect(200);
    nginx.wait_log("line number 04999");
    let lines = nginx.logged("line number ");
    assert_eq!(lines.len(), 5000);
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(message(line), format!("line number {i:05}"));
    }
}
