//! `wsgi_log`: the output of an application in a log of its own, in each form, whole under load and across rotation.

use crate::harness::{
    Engine, Nginx, Site, both_engines, ids, in_repository, skip_in_process_group, two_users, uses_process_group,
    wait_for,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

both_engines!(
    raw_lines_are_written_as_they_are,
    json_records_name_their_request,
    a_traceback_is_one_record,
    a_printed_traceback_is_one_record,
    records_of_nginx_have_its_form,
    an_import_and_its_threads_are_logged_there,
    the_end_of_a_worker_is_logged_there,
    a_slow_call_is_logged_there,
    nothing_else_goes_there,
    a_full_disk_breaks_no_request,
    lines_are_whole_under_load,
    lines_are_whole_in_a_pipe,
    records_are_sent_to_syslog,
    standard_error_takes_records,
    locations_have_logs_of_their_own,
    a_background_thread_survives_a_reload_of_a_single_process,
    each_line_of_the_documented_access_log_is_json,
);

/// Writes what the path asks for.
const APP: &str = r#"
import atexit
import logging
import sys
import threading
import time
import traceback

import ngx_wsgi

mine = logging.getLogger("stream")
mine.addHandler(logging.StreamHandler())
mine.propagate = False
log = logging.getLogger("mine")
log.addHandler(ngx_wsgi.LogHandler())
log.setLevel(1)
log.propagate = False
print("printed by the import")

def in_thread(text):
    print(text)

def fail_in_thread():
    try:
        1 / 0
    finally:
        print("without an end", end="")

thread = threading.Thread(target=in_thread, args=("printed by a thread of the import",), name="early")
thread.start()
thread.join()

@ngx_wsgi.on_shutdown
def end():
    print("printed by on_shutdown")

atexit.register(print, "printed by atexit")

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raw":
        sys.stdout.write('{"a": ')
        sys.stdout.flush()
        sys.stdout.write('"\x1b[1m\u20ac"}\n')
        sys.stderr.buffer.write(b"bytes \xff\xfe\n\n")
        environ["wsgi.errors"].write("w" * 100_000 + "\n")
        print("one\ntwo")
        print("no end", end="")
    elif path == "/log":
        for name in ("debug", "info", "warning", "error", "critical"):
            getattr(log, name)("logged as %s", name)
        log.warning("two\nlines")
        print("print\u20ac \x01 \"quoted\" \\")
    elif path == "/handled":
        try:
            {}["absent"]
        except KeyError:
            log.exception("handled")
    elif path == "/raise":
        raise ValueError("first\nsecond")
    elif path == "/thread":
        thread = threading.Thread(target=in_thread, args=("printed by a thread of a call",), name="late")
        thread.start()
        thread.join()
    elif path == "/printed":
        try:
            {}["absent"]
        except KeyError:
            traceback.print_exc()
            mine.exception("of a stream handler")
        thread = threading.Thread(target=fail_in_thread, name="failing")
        thread.start()
        thread.join()
    elif path == "/slow":
        time.sleep(1)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
"#;

const REQUESTS: &str = "log_format requests escape=json '{\"id\":\"$request_id\",\"uri\":\"$uri\"}'; access_log logs/requests.log requests;";

fn site(engine: Engine, arguments: &str) -> Site {
    Site::new(engine).app(APP).http(&format!("wsgi_log {arguments};")).http(REQUESTS)
}

fn text(nginx: &Nginx) -> Vec<u8> {
    fs::read(nginx.prefix().join("logs/app.log")).unwrap_or_default()
}

/// Waits for a text in the log of the application, and returns the log.
#[track_caller]
fn wait_text(nginx: &Nginx, wanted: &str) -> String {
    wait_for(wanted, || {
        let text = String::from_utf8_lossy(&text(nginx)).into_owned();
        text.contains(wanted).then_some(text)
    })
}

#[track_caller]
fn records(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[track_caller]
fn record<'a>(records: &'a [Value], message: &str) -> &'a Value {
    let found: Vec<_> = records.iter().filter(|record| record["message"] == message).collect();
    assert_eq!(found.len(), 1, "{message:?} in {records:#?}");
    found[0]
}

fn raw_lines_are_written_as_they_are(engine: Engine) {
    let nginx = site(engine, "logs/app.log raw").start();
    nginx.get("/raw").expect(200);
    wait_text(&nginx, "no end\n");
    let long = "w".repeat(100_000);
    let expected: Vec<u8> = [
        "printed by the import\nprinted by a thread of the import\n{\"a\": \"\x1b[1m\u{20ac}\"}\n".as_bytes(),
        b"bytes \xff\xfe\n\n",
        long.as_bytes(),
        b"\none\ntwo\nno end\n",
    ]
    .concat();
    let short = |text: &[u8]| String::from_utf8_lossy(text).replace(&long, "long");
    assert_eq!(short(&text(&nginx)), short(&expected));
    assert!(text(&nginx) == expected);
    assert!(!nginx.error_log().contains("printed by"));
}

fn json_records_name_their_request(engine: Engine) {
    let nginx = site(engine, "logs/app.log json").start();
    let worker = nginx.application_workers()[0];
    nginx.get("/log?secret=1").expect(200);
    let records = records(&wait_text(&nginx, "quoted"));
    for (name, level) in
        [("debug", "debug"), ("info", "info"), ("warning", "warn"), ("error", "error"), ("critical", "crit")]
    {
        assert_eq!(record(&records, &format!("logged as {name}"))["level"], level);
    }
    record(&records, "two\nlines");
    let mut printed = record(&records, "print\u{20ac} \x01 \"quoted\" \\").clone();
    let printed = printed.as_object_mut().unwrap();
    let time = printed.remove("time").unwrap();
    let time = time.as_str().unwrap();
    let is_form = |time: &str, form: &str| {
        time.len() == form.len()
            && time.bytes().zip(form.bytes()).all(|(byte, form)| match form {
                b'0' => byte.is_ascii_digit(),
                b'+' => byte == b'+' || byte == b'-',
                form => byte == form,
            })
    };
    assert!(is_form(time, "0000-00-00T00:00:00.000000+00:00"), "{time}");
    let id = wait_for("the access log", || {
        let line = nginx.read("logs/requests.log").lines().find(|line| line.contains("/log"))?.to_owned();
        serde_json::from_str::<Value>(&line).ok()?["id"].as_str().map(str::to_owned)
    });
    assert_eq!(id.len(), 32);
    assert!(printed.remove("thread").unwrap().as_str().is_some_and(|thread| !thread.is_empty()));
    assert!(printed.remove("connection").unwrap().as_u64().is_some());
    let application = format!("{}/app.py", nginx.prefix().display());
    let group = if uses_process_group() { "tests" } else { "" };
    assert_eq!(
        Value::Object(printed.clone()),
        json!({
            "level": "error", "application": application, "process_group": group, "worker": worker, "request_id": id, "method": "GET",
            "path": "/log", "client": "127.0.0.1", "message": "print\u{20ac} \x01 \"quoted\" \\",
        })
    );
}

fn a_traceback_is_one_record(engine: Engine) {
    let nginx = site(engine, "logs/app.log json").start();
    nginx.get("/raise").expect(500);
    nginx.get("/handled").expect(200);
    let records = records(&wait_text(&nginx, "\"handled\""));
    let application = format!("{}/app.py", nginx.prefix().display());
    let raised = record(&records, &format!("application \"{application}\" raised ValueError: first"));
    let traceback = raised["traceback"].as_str().unwrap();
    assert!(traceback.starts_with("Traceback (most recent call last):\n"), "{traceback}");
    assert!(traceback.ends_with("ValueError: first\nsecond"), "{traceback}");
    assert_eq!((&raised["level"], &raised["path"]), (&json!("error"), &json!("/raise")));
    let handled = record(&records, "handled");
    assert!(handled["traceback"].as_str().unwrap().ends_with("KeyError: 'absent'"), "{handled}");
    assert!(!nginx.error_log().contains("ValueError"));
}

fn a_printed_traceback_is_one_record(engine: Engine) {
    let nginx = site(engine, "logs/app.log json").start();
    nginx.get("/printed").expect(200);
    let records = records(&wait_text(&nginx, "ZeroDivisionError"));
    for (message, thread, end) in [
        ("KeyError: 'absent'", None, "\nKeyError: 'absent'"),
        ("of a stream handler", None, "\nKeyError: 'absent'"),
        ("without an endException in thread failing:", Some("failing"), ""),
        ("ZeroDivisionError: division by zero", Some("failing"), "\nZeroDivisionError: division by zero"),
    ] {
        let record = record(&records, message);
        let traceback = record["traceback"].as_str().unwrap_or_default();
        assert_eq!(traceback.starts_with("Traceback (most recent call last):\n  File"), !end.is_empty(), "{record}");
        assert!(traceback.ends_with(end), "{record}");
        assert!(thread.is_none_or(|thread| record["thread"] == thread), "{record}");
    }
}

fn records_of_nginx_have_its_form(engine: Engine) {
    let nginx = site(engine, "logs/app.log").start();
    nginx.get("/log").expect(200);
    nginx.get("/raise").expect(500);
    nginx.get("/raw").expect(200);
    let log = wait_text(&nginx, "no end");
    let line = |text: &str| {
        let found: Vec<_> = log.lines().filter(|line| line.contains(text)).collect();
        assert_eq!(found.len(), 1, "{text}");
        found[0]
    };
    let info = line("logged as info");
    let (time, rest) = info.split_at("2026/01/02 03:04:05".len());
    assert!(time.starts_with("20") && rest.starts_with(" [info] "), "{info}");
    let (process, rest) = rest.split_once("[info] ").unwrap().1.split_once('#').unwrap();
    assert_eq!(process, nginx.application_workers()[0].to_string());
    let (connection, rest) = rest.split_once(": *").unwrap().1.split_once(' ').unwrap();
    assert!(connection.parse::<u64>().is_ok());
    assert!(rest.starts_with("logged as info, client: 127.0.0.1, server: "), "{info}");
    assert!(rest.contains(", request: \"GET /log HTTP/1.1\", host: \""), "{info}");
    // The traceback has the number of its request.
    assert!(line("raised ValueError: first, client: 127.0.0.1").contains(": *"));
    assert!(log.lines().any(|line| line.contains(": *") && line.ends_with("Traceback (most recent call last):")));
    // Long lines are not split, and control characters are escaped.
    assert!(line("wwww").contains(&"w".repeat(100_000)));
    assert!(line("\\x1b[1m").contains('\u{20ac}'));
    assert!(log.lines().all(|line| line.starts_with("20")));
}

fn an_import_and_its_threads_are_logged_there(engine: Engine) {
    let nginx = site(engine, "logs/app.log json").start();
    nginx.get("/thread").expect(200);
    let records = records(&wait_text(&nginx, "a thread of a call"));
    for message in ["printed by the import", "printed by a thread of the import", "printed by a thread of a call"] {
        let record = record(&records, message);
        assert!(record["application"].as_str().unwrap().ends_with("/app.py"), "{record}");
        assert_eq!(record["path"], Value::Null, "{record}");
    }
    assert_eq!(record(&records, "printed by a thread of the import")["thread"], "early");
    assert_eq!(record(&records, "printed by a thread of a call")["thread"], "late");
}

fn the_end_of_a_worker_is_logged_there(engine: Engine) {
    let nginx = site(engine, "logs/app.log json").start();
    nginx.get("/").expect(200);
    nginx.reload();
    let log = wait_text(&nginx, "printed by atexit");
    record(&records(&log), "printed by on_shutdown");
}

fn a_slow_call_is_logged_there(engine: Engine) {
    let nginx = site(engine, "logs/app.log json").http("wsgi_slow_request 100ms;").start();
    nginx.get("/slow").expect(200);
    let records = records(&wait_text(&nginx, "wsgi_slow_request"));
    let slow = records.iter().find(|record| record["traceback"].as_str().is_some()).unwrap();
    assert!(slow["message"].as_str().unwrap().contains("exceeded wsgi_slow_request"), "{slow}");
    assert!(slow["traceback"].as_str().unwrap().contains("time.sleep(1)"), "{slow}");
    assert_eq!((&slow["method"], &slow["path"]), (&json!("GET"), &json!("/slow")), "{slow}");
}

/// Messages of the server, and the output of other applications.
fn nothing_else_goes_there(engine: Engine) {
    let other = "def application(environ, start_response):\n    print('of the other')\n    start_response('200 OK', [])\n    return []\n";
    let nginx = Site::new(engine)
        .app(APP)
        .app_at("/other/", "other.py", other)
        .file("broken.py", "print('before')\n1 / 0\n")
        .location("/broken/", "wsgi_pass broken.py; wsgi_log logs/broken.log json; wsgi_preload off;")
        .http("wsgi_log logs/app.log raw;")
        .location("/error_log/", "wsgi_pass other.py;")
        .errors_expected()
        .log_level("notice")
        .start();
    nginx.get("/other/").expect(200);
    nginx.get("/broken/").expect(500);
    nginx.wait_log("could not be loaded: ZeroDivisionError: division by zero, the traceback is in its wsgi_log");
    wait_for("the log of the broken application", || {
        let text = nginx.read("logs/broken.log");
        let records = records(&text);
        let failed = records.iter().find(|record| record["traceback"].as_str().is_some())?;
        assert!(failed["message"].as_str().unwrap().contains("could not be loaded"), "{failed}");
        record(&records, "before");
        Some(())
    });
    let log = wait_text(&nginx, "of the other");
    assert!(!log.contains("loaded in") && !log.contains("ZeroDivisionError"), "{log}");
    nginx.wait_log("loaded in");
}

fn a_full_disk_breaks_no_request(engine: Engine) {
    let mut nginx = site(engine, "/dev/full raw").start();
    for _ in 0..3 {
        nginx.get("/log").expect(200);
    }
    let line = nginx.wait_expected_error("cannot write to \"/dev/full\" (\"wsgi_log\"): No space left on device");
    assert!(line.contains("[alert]"), "{line}");
    // Not for each line.
    assert_eq!(nginx.logged("cannot write to").len(), 1);
}

const SIZES: [usize; 6] = [1, 10, 5000, 70_000, 100_000, 3];

/// Writes a line of each size, with the name of the request.
const LINES: &str = r#"
import json

def application(environ, start_response):
    name = environ["QUERY_STRING"]
    for number, size in enumerate((1, 10, 5000, 70_000, 100_000, 3)):
        print(json.dumps({"name": name, "number": number, "text": "x" * size}))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]
"#;

/// Asserts that each line is whole, and returns how often each was written.
#[track_caller]
fn counts(text: &str) -> BTreeMap<(String, usize), usize> {
    let mut counts = BTreeMap::new();
    for record in records(text) {
        let number = record["number"].as_u64().unwrap() as usize;
        assert_eq!(record["text"].as_str().unwrap().len(), SIZES[number]);
        *counts.entry((record["name"].as_str().unwrap().to_owned(), number)).or_insert(0) += 1;
    }
    counts
}

/// Has clients send requests, while `meanwhile` is repeated. Returns the number of lines that must come.
fn send_requests(nginx: &Nginx, requests: usize, mut meanwhile: impl FnMut()) -> usize {
    const CLIENTS: usize = 4;
    std::thread::scope(|scope| {
        let send = |client: usize| {
            for number in 0..requests {
                nginx.get(&format!("/?{client}.{number}")).expect(200);
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || send(client))).collect();
        while clients.iter().any(|client| !client.is_finished()) {
            meanwhile();
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    CLIENTS * requests * SIZES.len()
}

/// Lines of 1 byte to 100 kB of several workers and threads, while logs are rotated and nginx is reloaded.
fn lines_are_whole_under_load(engine: Engine) {
    let nginx = Site::new(engine).app(LINES).http("wsgi_log logs/app.log raw;").workers(3).start();
    let rotated = |number: usize| nginx.prefix().join(format!("logs/app.log.{number}"));
    let mut rotations = 0;
    let expected = send_requests(&nginx, 60, || {
        rotations += 1;
        let _ = fs::rename(nginx.prefix().join("logs/app.log"), rotated(rotations));
        nginx.signal(libc::SIGUSR1);
        if rotations % 4 == 0 {
            nginx.signal(libc::SIGHUP);
        }
    });
    assert!(rotations > 0);
    let all = || {
        let files = (1..=rotations).map(rotated).chain([nginx.prefix().join("logs/app.log")]);
        counts(&files.filter_map(|file| fs::read_to_string(file).ok()).collect::<String>())
    };
    let counts = wait_for("all lines", || Some(all()).filter(|counts| counts.len() == expected));
    assert!(counts.values().all(|count| *count == 1));
}

/// A pipe takes 4,096 bytes at once, so several processes would mix longer lines.
fn lines_are_whole_in_a_pipe(engine: Engine) {
    let site = Site::new(engine).app(LINES).http("wsgi_log logs/pipe raw;").workers(3);
    let path = site.prefix().join("logs/pipe");
    assert!(Command::new("mkfifo").args(["-m", "666"]).arg(&path).status().unwrap().success());
    // Its own writing end keeps the pipe open.
    let mut pipe = fs::File::options().read(true).write(true).open(&path).unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        while !text.ends_with(b"end\n") {
            let length = pipe.read(&mut buffer).unwrap();
            text.extend_from_slice(&buffer[..length]);
        }
        String::from_utf8(text).unwrap()
    });
    let mut nginx = site.start();
    let expected = send_requests(&nginx, 20, || {});
    nginx.stop_by(libc::SIGQUIT);
    fs::write(&path, "end\n").unwrap();
    let text = reader.join().unwrap();
    let counts = counts(text.strip_suffix("end\n").unwrap());
    assert_eq!((counts.len(), counts.values().max()), (expected, Some(&1)));
}

/// Receives messages until there is one with this text, and returns all.
#[track_caller]
fn receive_until(socket: &UdpSocket, wanted: &str) -> Vec<String> {
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut messages: Vec<String> = Vec::new();
    while messages.last().is_none_or(|message| !message.contains(wanted)) {
        let mut buffer = vec![0; 70_000];
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}: {messages:?}"));
        messages.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    messages
}

fn records_are_sent_to_syslog(engine: Engine) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = format!("syslog:server={},facility=local7,tag=shop,nohostname", socket.local_addr().unwrap());
    let nginx = site(engine, &format!("{target} json")).http("wsgi_slow_request 100ms;").start();
    nginx.get("/log").expect(200);
    nginx.get("/raise").expect(500);
    nginx.get("/slow").expect(200);
    let messages = receive_until(&socket, "exceeded wsgi_slow_request");
    // Priorities of RFC 3164: 8 times the facility, and the severity.
    for (name, severity) in [("debug", 7), ("info", 6), ("warning", 4), ("error", 3), ("critical", 2)] {
        let message = messages.iter().find(|message| message.contains(&format!("logged as {name}"))).unwrap();
        assert!(message.starts_with(&format!("<{}>", 23 * 8 + severity)), "{message}");
        let (_, json) = message.split_once(" shop: ").unwrap();
        assert_eq!(records(json)[0]["path"], "/log");
    }
    let raised = messages.iter().find(|message| message.contains("raised ValueError")).unwrap();
    assert!(raised.contains("Traceback (most recent call last):"), "{raised}");
}

fn standard_error_takes_records(engine: Engine) {
    let nginx = site(engine, "stderr json").start();
    nginx.get("/log").expect(200);
    let text = wait_for("the records", || {
        let text = nginx.read("logs/stderr");
        text.contains("quoted").then_some(text)
    });
    let lines: String = text.lines().filter(|line| line.starts_with('{')).map(|line| format!("{line}\n")).collect();
    record(&records(&lines), "logged as info");
    assert!(!nginx.error_log().contains("logged as"));
}

/// The log of a location is inherited as nginx's own are; a location without one writes to nginx's error log.
fn locations_have_logs_of_their_own(engine: Engine) {
    const APP: &str = "def application(environ, start_response):\n    print('at', environ['SCRIPT_NAME'])\n    \
                       start_response('200 OK', [])\n    return []\n";
    let mut nginx = Site::new(engine)
        .file("app.py", APP)
        .location(
            "/a/",
            "wsgi_pass app.py; wsgi_log logs/a.log raw; location /a/b/ { wsgi_pass app.py; wsgi_script_name /a/b; }",
        )
        .location(
            "/c/",
            "wsgi_pass app.py; wsgi_log logs/c.log raw; \
             location /c/e/ { wsgi_pass app.py; wsgi_script_name /c/e; wsgi_log off; }",
        )
        .location("/d/", "wsgi_pass app.py;")
        .start();
    for path in ["/a/", "/a/b/", "/c/", "/c/e/", "/d/"] {
        nginx.get(path).expect(200);
    }
    nginx.wait_expected_error("at /c/e");
    nginx.wait_expected_error("at /d");
    for (file, expected) in [("logs/a.log", "at /a\nat /a/b\n"), ("logs/c.log", "at /c\n")] {
        wait_for(file, || (nginx.read(file) == expected).then_some(()));
    }
}

/// With `master_process off` the process stays, and closes the files of the configuration before.
fn a_background_thread_survives_a_reload_of_a_single_process(engine: Engine) {
    if skip_in_process_group("it has no master") {
        return;
    }
    const APP: &str = r#"
import threading
import time

def work():
    number = 0
    while True:
        number += 1
        print("background", number)
        time.sleep(0.05)

threading.Thread(target=work, daemon=True).start()

def application(environ, start_response):
    print("request", environ["PATH_INFO"])
    start_response("200 OK", [])
    return []
"#;
    let nginx = Site::new(engine)
        .app(APP)
        .main("master_process off;")
        .http("wsgi_log logs/app.log raw;")
        .errors_expected()
        .start();
    nginx.get("/before").expect(200);
    wait_text(&nginx, "background 2");
    wait_text(&nginx, "request /before");
    nginx.signal(libc::SIGHUP);
    nginx.wait_log("reconfiguring");
    nginx.get("/after").expect(200);
    let log = wait_text(&nginx, "request /after");
    let last = log.lines().filter(|line| line.starts_with("background")).count();
    wait_text(&nginx, &format!("background {}", last + 3));
}

#[test]
fn bad_arguments_are_refused() {
    let check = |arguments: &str, message: &str| {
        let check = Site::plain().app(APP).server(&format!("wsgi_log {arguments};")).check();
        check.assert_refused(message, "wsgi_log");
    };
    check(
        "logs/app.log xml",
        "invalid value \"xml\" in \"wsgi_log\" directive, it must be \"raw\", \"nginx\" or \"json\"",
    );
    // nginx would open files with these names.
    for (arguments, value) in [
        ("\"\"", ""),
        ("json", "json"),
        ("off json", "off"),
        ("syslog json", "syslog"),
        ("memory:1m json", "memory:1m"),
        ("logs/$host.log json", "logs/$host.log"),
    ] {
        let must_be = "a file without variables, \"stderr\", \"syslog:server=…\", or \"off\" alone";
        check(arguments, &format!("invalid value \"{value}\" in \"wsgi_log\" directive, it must be {must_be}"));
    }
    check("syslog:nothing=1 json", "unknown syslog parameter \"nothing=1\"");
    check("syslog:tag=x", "no syslog server specified");
    check("a.log; wsgi_log b.log", "\"wsgi_log\" directive is duplicate");
    // As of nginx's own logs, which are opened after the configuration is read.
    let check = Site::plain().app(APP).server("wsgi_log absent/app.log;").check();
    assert!(!check.ok && check.output.contains("absent/app.log\" failed (2: No such file or directory)"), "{check:?}");
    // Only the configuration of an instance has such a name.
    Site::plain().app(APP).server("wsgi_log group:1;").check().assert_ok();
}

/// The user of the group may neither write nor see the log. Its lines are whole, and follow rotation.
#[test]
fn a_group_without_rights_has_a_log() {
    let Some([user, _]) = two_users() else { return };
    let site = Site::plain()
        .http(&format!("wsgi_process_group one user={} processes=2;", user.name))
        .http(REQUESTS)
        .file("app.py", APP)
        .file("lines.py", LINES)
        .location("/app/", "wsgi_pass app.py process=one; wsgi_log private/app.log json;")
        .location("/", "wsgi_pass lines.py process=one; wsgi_log private/lines.log raw;")
        .user("nobody nogroup");
    let private = site.prefix().join("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    // The workers of nginx open it again.
    let (nobody, _) = ids("nobody").unwrap();
    std::os::unix::fs::chown(&private, Some(nobody), None).unwrap();
    // Of two applications in one interpreter it is not known whose functions `atexit` calls.
    let nginx = site.errors_expected().start();
    nginx.get("/app/raise").expect(500);
    let read = |name: &str| fs::read_to_string(private.join(name)).unwrap_or_default();
    let text = wait_for("the traceback", || Some(read("app.log")).filter(|text| text.contains("ValueError")));
    let records = records(&text);
    let raised = records.iter().find(|record| record["traceback"].as_str().is_some()).unwrap();
    let id = wait_for("the access log", || {
        let line = nginx.read("logs/requests.log").lines().find(|line| line.contains("/raise"))?.to_owned();
        serde_json::from_str::<Value>(&line).ok()?["id"].as_str().map(str::to_owned)
    });
    assert_eq!(
        (&raised["process_group"], &raised["request_id"], &raised["path"], &raised["client"]),
        (&json!("one"), &json!(id), &json!("/app/raise"), &json!("127.0.0.1"))
    );

    let mut rotations = 0;
    let expected = send_requests(&nginx, 20, || {
        rotations += 1;
        let _ = fs::rename(private.join("lines.log"), private.join(format!("lines.log.{rotations}")));
        nginx.signal(libc::SIGUSR1);
        std::thread::sleep(Duration::from_millis(300));
    });
    let all = || {
        let rotated = (1..=rotations).map(|number| format!("lines.log.{number}"));
        counts(&rotated.chain(["lines.log".to_owned()]).map(|name| read(&name)).collect::<String>())
    };
    let counts = wait_for("all lines", || Some(all()).filter(|counts| counts.len() == expected));
    assert!(counts.values().all(|count| *count == 1));
    // It goes on in the new file.
    wait_for("a line in the new file", || {
        nginx.get("/?after").expect(200);
        read("lines.log").contains("after").then_some(())
    });
}

/// The `log_format` of docs/logging.md.
fn documented_format() -> String {
    let page = fs::read_to_string(in_repository("docs/logging.md")).unwrap();
    let start = page.find("log_format calls_json").expect("the format");
    let end = start + page[start..].find("access_log").expect("its end");
    page[start..end].to_owned()
}

#[test]
fn the_documented_access_log_has_all_variables() {
    let source = fs::read_to_string(in_repository("src/http/variables.rs")).unwrap();
    let table = source.split("pub static VARIABLES").nth(1).and_then(|rest| rest.split("];").next()).unwrap();
    let names: Vec<&str> = table.split("variable(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(names.len() >= 9, "{names:?}");
    let format = documented_format();
    for name in names {
        assert!(format.contains(&format!("\"{name}\":\"${name}\"")), "{name}");
    }
}

fn each_line_of_the_documented_access_log_is_json(engine: Engine) {
    let nginx = Site::new(engine)
        .app(APP)
        .http("wsgi_log logs/app.log json;")
        .http(&format!("{} access_log logs/calls.json calls_json;", documented_format()))
        .location("= /static", "return 200 static;")
        .start();
    nginx.get("/log").expect(200);
    nginx.get("/raise").expect(500);
    nginx.get("/static").expect(200);
    nginx.get("/quoted%22%5C%0a?x=%22").expect(200);
    let calls = wait_for("four lines", || {
        let text = nginx.read("logs/calls.json");
        (text.lines().count() == 4).then(|| records(&text))
    });
    let of = |uri: &str| calls.iter().find(|call| call["uri"] == uri).unwrap_or_else(|| panic!("{uri}: {calls:?}"));
    assert_eq!(of("/static")["wsgi_app"], "");
    of("/quoted\"\\\n");
    if !uses_process_group() {
        assert!(of("/raise")["wsgi_exception"] == "ValueError" && of("/log")["wsgi_app"] != "", "{calls:?}");
    }
    let log = records(&wait_text(&nginx, "quoted"));
    assert_eq!(of("/log")["request_id"], record(&log, "logged as info")["request_id"]);
    assert_eq!(of("/log")["connection"], record(&log, "logged as info")["connection"]);
}
