//! Mixed requests under valgrind's memcheck: the module reads, writes and frees only memory that it owns.

use crate::faults;
use crate::harness::{Conn, Engine, Nginx, Site, both_engines, stress};
use std::fs;
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

both_engines!(no_memory_is_misused, no_memory_is_misused_when_clients_leave);

const APP: &str = r#"
import sys
import threading

kept = []

class Closing:
    def __init__(self, chunks):
        self.chunks = iter(chunks)
    def __iter__(self):
        return self
    def __next__(self):
        return next(self.chunks)
    def close(self):
        print("closed")

def application(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    body = environ["wsgi.input"]
    kept.append((environ, start_response))
    del kept[:-3]
    if path == "/raise":
        raise LookupError("as asked")
    if path == "/late":
        seen = []
        for old, start in kept[:-1]:
            for use in (old["wsgi.input"].read, lambda: start("200 OK", []), lambda: old["wsgi.errors"].write("late\n")):
                try:
                    use()
                except Exception as e:
                    seen.append(repr(e))
        start_response("200 OK", [("X-Seen", str(len(seen)))])
        return [b"late"]
    if path == "/headers":
        start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8"), ("Set-Cookie", "a=1"),
                                  ("Set-Cookie", "b=2"), ("ETag", '"tag"'), ("Connection", "close")])
        return [b"headers"]
    if path == "/redirect":
        start_response("200 OK", [("X-Accel-Redirect", query), ("Set-Cookie", "a=1"), ("X-Accel-Charset", "off"),
                                  ("X-Accel-Limit-Rate", "100000"), ("Content-Type", "text/plain; charset=utf-8")])
        return Closing([b"x" * 1000] * 100)
    if path == "/intercept":
        start_response("401 Unauthorized", [("WWW-Authenticate", "Basic")])
        return Closing([b"x" * 1000] * 100)
    if path == "/wrong":
        start_response("200 OK", [("X\r\n", "y")])
    if path == "/write":
        write = start_response("200 OK", [])
        for _ in range(10):
            write(b"x" * 10_000)
        return [b"end"]
    if path == "/break":
        start_response("200 OK", [("Content-Length", "100000")])
        return Closing([b"x" * 1000])
    if path == "/endless":
        start_response("200 OK", [])
        return Closing(b"x" * 65536 for _ in range(10_000))
    if path == "/file":
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))
    if path == "/ranges":
        start_response("200 OK", [("Content-Length", "100000")])
        return Closing(b"x" * 1000 for _ in range(100))
    if path == "/streamed/echo":
        start_response("200 OK", [])
        return Closing(iter(lambda: body.read1(100), b""))
    if path == "/log":
        print("a line", "ä€" * 2000)
        sys.stderr.write("half a line")
    read = body.readline(10) + body.read(100) + b"".join(body)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Closing([str(len(read)).encode(), b"", b"-" * 100, b"\n"])
"#;

fn no_memory_is_misused(engine: Engine) {
    let streamed = match engine {
        Engine::Threads => "wsgi_script_name \"\"; wsgi_request_buffering off; wsgi_pass app.py;",
        Engine::Inline => "wsgi_script_name \"\"; wsgi_pass app.py;",
    };
    let site = Site::new(engine)
        .app(APP)
        .http("client_body_buffer_size 8k; wsgi_var NAME $request_id; gzip on; gzip_min_length 0;")
        .http("wsgi_output_buffer_size 20k; wsgi_allow_ranges on;")
        .location("/include/", "ssi on; root @prefix@;")
        .location("/streamed/", streamed)
        .file("include/page.html", "<!--# include virtual=\"/sub\" -->|<!--# include virtual=\"/raise\" -->")
        .server("wsgi_intercept_errors on; error_page 401 /redirect?/include/page.html;")
        .location("@named", "wsgi_pass app.py;")
        .http("wsgi_status_zone wsgi 64k;")
        .location("= /status", "wsgi_status;")
        .location("= /ready", "wsgi_status ready;")
        .errors_expected();
    under_valgrind(site, |nginx| {
        for _ in 0..2 {
            mixed_requests(nginx);
            if engine == Engine::Threads {
                leave(nginx, "POST /streamed/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf", 100);
            }
        }
    });
}

fn no_memory_is_misused_when_clients_leave(engine: Engine) {
    under_valgrind(stress::site(engine), |nginx| {
        // Starting Python takes long under valgrind.
        nginx.get("/small?1").expect(200);
        assert!(faults::stress_round(nginx, engine, 77, 120) > 0);
    });
}

/// Returns whether valgrind is there; otherwise says that the test is skipped.
pub fn is_installed() -> bool {
    let is_installed = Command::new("valgrind").arg("--version").output().is_ok();
    if !is_installed {
        eprintln!("skipped: valgrind is not installed");
    }
    is_installed
}

/// Runs nginx under valgrind, calls `use_it` and stops nginx.
fn under_valgrind(site: Site, use_it: impl FnOnce(&Nginx)) {
    if !is_installed() {
        return;
    }
    let report = site.prefix().join("valgrind");
    let log_file = format!("--log-file={}", report.display());
    let mut nginx = site
        .main("master_process off;")
        .wrapped_in(&["valgrind", &log_file, "--leak-check=no", "--undef-value-errors=no", "--num-callers=25"])
        .start();
    use_it(&nginx);
    quit(&mut nginx);
    let report = fs::read_to_string(&report).expect("valgrind's report");
    assert!(report.contains("ERROR SUMMARY"), "{report}");
    let ours = misuses_of_ours(&report);
    assert!(ours.is_empty(), "{}", ours.join("\n\n"));
}

/// Sends SIGQUIT and wakes the event loop: under valgrind any thread may get the signal, which does not wake another.
pub fn quit(nginx: &mut Nginx) {
    let address = nginx.address();
    let gone = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !gone.load(Ordering::Relaxed) {
                let _ = TcpStream::connect(address);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        nginx.stop_by(libc::SIGQUIT);
        gone.store(true, Ordering::Relaxed);
    });
    assert_eq!(nginx.exit_code(), Some(0));
}

fn mixed_requests(nginx: &Nginx) {
    nginx.get("/").expect(200);
    for size in [5, 3000, 100_000] {
        let response = nginx.post("/", vec![b'x'; size]).expect(200);
        assert!(response.text().starts_with(&size.to_string()));
    }
    nginx.request("GET", "/", &[("Accept-Encoding", "gzip"), ("X-Test", "1")], b"").expect(200);
    nginx.request("HEAD", "/", &[], b"").expect(200);
    assert_eq!(nginx.get("/headers").expect(200).all("Set-Cookie").len(), 2);
    assert_eq!(nginx.get("/write").expect(200).body.len(), 100_003);
    nginx.get("/raise?a=%20").expect(500);
    nginx.get("/wrong").expect(500);
    nginx.get("/log").expect(200);
    nginx.get("/late").expect(200);
    nginx.get("/include/page.html").expect(200);
    nginx.get("/redirect?/headers").expect(200);
    nginx.get("/redirect?/include/page.html").expect(200);
    nginx.get("/redirect?/../x").expect(404);
    nginx.get("/redirect?@named").expect(500);
    nginx.get("/intercept").expect(401);
    leave(nginx, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf", 0);
    assert!(nginx.get("/file").expect(200).text().contains("def application"));
    for range in ["0-9", "5-6,90000-90001"] {
        nginx.request("GET", "/ranges", &[("Range", &format!("bytes={range}"))], b"").expect(206);
        nginx.request("GET", "/file", &[("Range", &format!("bytes={range}"))], b"");
    }
    for size in [3, 5000, 100_000] {
        assert_eq!(nginx.post("/streamed/echo", vec![b'x'; size]).expect(200).body.len(), size);
    }
    leave(nginx, "POST /streamed/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf", 0);
    leave(nginx, "GET /file HTTP/1.1\r\nHost: a\r\n\r\n", 10);
    leave(nginx, "GET /endless HTTP/1.1\r\nHost: a\r\n\r\n", 100_000);
    for path in ["/status", "/status?format=json", "/status?format=prometheus", "/status?stack=1.2", "/ready"] {
        nginx.get(path).expect(200);
        nginx.request("HEAD", path, &[], b"").expect(200);
        leave(nginx, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"), 0);
    }
    let mut broken = nginx.connect();
    broken.send("GET /break HTTP/1.1\r\nHost: a\r\n\r\n").response();
    let mut pipelined = nginx.connect();
    pipelined.send("POST /?1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".repeat(2));
    for _ in 0..2 {
        assert!(pipelined.response().expect(200).text().starts_with('3'));
    }
    nginx.get("/").expect(200);
}

/// Sends a request, reads `count` bytes and resets the connection.
fn leave(nginx: &Nginx, request: &str, count: usize) {
    let mut conn: Conn = nginx.connect();
    conn.send(request);
    conn.read_exactly(count);
    conn.reset();
}

/// Returns the reports of a wrong read, write or free by the module or nginx, or of memory that the module had. Those of
/// Python alone are left out.
fn misuses_of_ours(report: &str) -> Vec<String> {
    let lines = report.lines().map(|line| {
        // Each line begins with `==PID== `.
        let text = line.trim_start_matches("==").trim_start_matches(|c: char| c.is_ascii_digit());
        text.trim_start_matches("==").trim()
    });
    let mut blocks: Vec<Vec<&str>> = vec![Vec::new()];
    for line in lines {
        if line.is_empty() {
            blocks.push(Vec::new());
        } else {
            blocks.last_mut().unwrap().push(line);
        }
    }
    blocks
        .into_iter()
        .filter(|block| {
            block.first().is_some_and(|first| {
                ["Invalid ", "Mismatched free", "Process terminating", "Jump to the invalid", "Source and destination"]
                    .iter()
                    .any(|start| first.starts_with(start))
            })
        })
        .filter(|block| {
            // nginx may use memory of its pools that the module has freed or kept too long: see NGX_DEBUG_PALLOC.
            let mut frames = block.iter().skip(1).take(2);
            block[0].starts_with("Process")
                || block.iter().any(|line| line.contains("ngx_http_wsgi_module"))
                || frames.any(|frame| frame.contains(": ngx_") || frame.ends_with("nginx)"))
        })
        .map(|block| block.join("\n"))
        .collect()
}

#[test]
fn reports_of_the_module_and_of_nginx_count() {
    let report = |frames: &[&str]| {
        let frames: String = frames.iter().map(|frame| format!("==12==    {frame}\n")).collect();
        misuses_of_ours(&format!("==12== Command: nginx\n==12== \n==12== Invalid read of size 8\n{frames}==12== \n"))
            .len()
    };
    let python = "at 0x4A7C6F: _PyEval_EvalFrameDefault (ceval.c:5043)";
    assert_eq!(report(&[python, "by 0x59D1AB: ??? (in /usr/lib/nginx/modules/ngx_http_wsgi_module.so)"]), 1);
    assert_eq!(report(&["at 0x14BD3F: ngx_http_write_filter (ngx_http_write_filter_module.c:170)", python]), 1);
    assert_eq!(
        report(&["at 0x484FBD4: memmove (vg_replace_strmem.c:1382)", "by 0x14BD3F: ??? (in /usr/sbin/nginx)"]),
        1
    );
    assert_eq!(report(&[python, python, "by 0x14BD3F: ??? (in /usr/sbin/nginx)"]), 0);
}
