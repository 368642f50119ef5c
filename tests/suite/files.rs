//! `wsgi.file_wrapper`: files that nginx sends.

use crate::harness::{
    Conn, Engine, Framing, Nginx, Process, Site, both_engines, curl, make_certificate, venv, wait_for,
};
use std::fs::File;
use std::time::Duration;

both_engines!(
    a_file_is_sent_from_its_position,
    ranges_of_a_file,
    nginx_reads_the_file_and_not_the_application,
    an_object_that_only_looks_like_a_file_is_read,
    an_unreadable_file_is_an_error,
    data_may_come_before_the_file,
    a_file_is_closed_when_its_last_byte_has_gone,
    a_file_is_closed_when_its_client_has_left,
    an_unwanted_file_is_closed,
    the_application_may_close_its_file_at_once,
    a_file_shorter_than_its_length_breaks_the_connection,
    a_file_that_shrinks_while_it_is_sent_breaks_the_connection,
    a_file_that_shrinks_breaks_the_response_of_any_protocol,
    a_file_that_lies_about_its_size_is_read,
    an_empty_file_is_an_empty_response,
    a_file_that_grows_is_sent_as_it_was,
    a_part_of_a_file_may_be_all_that_is_asked_for,
    files_arrive_whole_however_nginx_reads_them,
    thousands_of_files_leave_nothing_open,
    a_file_is_sent_to_its_end_on_reload,
    an_unread_file_is_closed_on_quit,
    frameworks_send_files,
);

const FILES: &str = r#"
import functools, gzip, io, os, socket, tempfile, threading

PREFIX = os.path.dirname(os.path.abspath(__file__))
NAME = os.path.join(PREFIX, "letters")
SIZE = 1000000

def create(name, content):
    # In one step: a worker that exits may still be sending the file of the same name.
    temporary = f"{name}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(content)
    os.replace(temporary, name)

create(NAME, bytes(97 + i % 26 for i in range(SIZE)))
create(NAME + ".large", bytes(97 + i % 26 for i in range(26 * 1024)) * 1024)

lock = threading.Lock()

def note(text):
    with lock, open(os.path.join(PREFIX, "events"), "a") as file:
        file.write(text + "\n")

class Upper(io.FileIO):
    def read(self, size=-1):
        return super().read(size).upper()
    def readinto(self, buffer):
        data = super().read(len(buffer)).upper()
        buffer[:len(data)] = data
        return len(data)

class Plain:
    """What has nothing but `read`."""
    def __init__(self, data):
        self.data = data
    def read(self, size):
        block, self.data = self.data[:size], self.data[size:]
        return block

def opened(name=NAME, **how):
    file = open(name, "rb", **how)
    close = file.close
    def noted():
        note("closed")
        close()
    if not how:
        file.close = noted
    return file

def decrypting(file):
    """Replaces `read` by one that still names the old one, as functools.wraps has it."""
    read = file.read
    @functools.wraps(read)
    def decrypt(size=-1):
        return read(size).upper()
    file.read = decrypt
    return file

def small(kind):
    with open(NAME + ".small", "wb") as file:
        file.write(b"content")
    return NAME + ".small"

def pipe():
    reading, writing = os.pipe()
    os.write(writing, b"through a pipe")
    os.close(writing)
    return open(reading, "rb")

def socket_file():
    one, two = socket.socketpair()
    two.sendall(b"through a socket")
    two.close()
    file = one.makefile("rb")
    one.close()
    return file

def spooled(rolled):
    file = tempfile.SpooledTemporaryFile()
    file.write(b"spooled")
    if rolled:
        file.rollover()
    file.seek(0)
    return file

def temporary():
    file = tempfile.NamedTemporaryFile()
    file.write(b"temporary")
    file.seek(4)
    return file

def gzipped():
    with gzip.open(NAME + ".gz", "wb") as packed:
        packed.write(b"plain")
    return gzip.open(NAME + ".gz")

def closed():
    file = open(NAME, "rb")
    file.close()
    return file

def detached():
    file = open(NAME, "rb")
    file.detach()
    return file

def overridden():
    file = open(small(0), "rb")
    file.read = Plain(b"overridden").read
    return file

ODD = {
    "bytes": lambda: io.BytesIO(b"bytes"),
    "plain": lambda: Plain(b"plain"),
    "pipe": pipe,
    "socket": socket_file,
    "spooled": lambda: spooled(False),
    "rolled": lambda: spooled(True),
    "temporary": temporary,
    "gzip": gzipped,
    "upper": lambda: Upper(small(0)),
    "buffered_upper": lambda: io.BufferedReader(Upper(small(0))),
    "decrypting": lambda: decrypting(open(small(0), "rb")),
    "overridden": overridden,
    "random": lambda: open(small(0), "r+b"),
    "raw": lambda: open(small(0), "rb", buffering=0),
    "beyond": lambda: (file := open(small(0), "rb"), file.seek(100))[0],
    "text": lambda: open(NAME),
    "written": lambda: open(NAME + ".written", "wb"),
    "closed": closed,
    "detached": detached,
    "directory": lambda: io.FileIO(os.open(PREFIX, os.O_RDONLY)),
}

def application(environ, start_response):
    wrap = environ["wsgi.file_wrapper"]
    path = environ["PATH_INFO"]
    query = environ["QUERY_STRING"]
    headers = [("Content-Type", "text/plain")]
    if query:
        headers.append(("Content-Length", query))
    if path == "/quick":
        start_response("200 OK", headers)
        return [b"quick"]
    if path.startswith("/odd/"):
        start_response("200 OK", headers)
        return wrap(ODD[path[5:]]())
    if path == "/204":
        start_response("204 No Content", headers)
        return wrap(opened())
    if path == "/dated":
        headers += [("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"), ("ETag", '"tag"')]
    write = start_response("200 OK", headers)
    if path == "/large":
        return wrap(opened(NAME + ".large"))
    if path == "/noise":
        with open(NAME + ".noise", "wb") as file:
            file.write(os.urandom(16 << 20))
        return wrap(opened(NAME + ".noise"))
    if path.startswith("/named/"):
        return wrap(open(path[6:], "rb"))
    file = opened()
    if path == "/seek":
        file.read(3)
    if path == "/write":
        write(b"before|")
        write(b"x" * 100000 + b"|")
    if path == "/early":
        file = open(NAME, "rb")
        wrapped = wrap(file)
        wrapped.close = lambda: note("closed")
        threading.Timer(0, file.close).start()
        return wrapped
    return wrap(file)
"#;

const LARGE: usize = 26 << 20;

fn site(engine: Engine) -> Site {
    Site::new(engine).app(FILES).http("gzip_min_length 1;")
}

fn letters(from: usize, to: usize) -> Vec<u8> {
    (from..to).map(|i| 97 + (i % 26) as u8).collect()
}

/// A client that asks for all of the large file and reads a little of it.
fn stalled(nginx: &Nginx) -> Conn {
    let mut conn = nginx.connect();
    conn.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    conn.read_until("\r\n\r\n");
    assert!(conn.read_exactly(1000) == letters(0, 1000));
    conn
}

/// Little of a response fits into the kernel's buffers.
fn narrow(site: Site) -> Site {
    site.listen("listen 127.0.0.1:@port@ sndbuf=32k;").http("send_timeout 600s;")
}

fn a_file_is_sent_from_its_position(engine: Engine) {
    let nginx = site(engine).start();
    let response = nginx.get("/").expect(200);
    assert_eq!(response.header("Content-Length"), Some("1000000"));
    assert!(response.body == letters(0, 1_000_000));
    nginx.wait_events(&["closed"]);
    assert!(nginx.get("/seek").expect(200).body == letters(3, 1_000_000));
    assert!(nginx.get("/?10").expect(200).body == letters(0, 10));
    assert!(nginx.get("/seek?10").expect(200).body == letters(3, 13));
}

fn ranges_of_a_file(engine: Engine) {
    let nginx = site(engine).http("wsgi_allow_ranges on;").start();
    let ask = |range: &str| {
        let mut conn = nginx.connect();
        conn.send(format!("GET / HTTP/1.1\r\nHost: a\r\nRange: bytes={range}\r\n\r\n"));
        conn.response()
    };
    assert!(ask("10-19").expect(206).body == letters(10, 20));
    assert!(ask("999990-").expect(206).body == letters(999_990, 1_000_000));
    ask("1000000-").expect(416);
    let text = ask("0-1,26-27").expect(206).text();
    assert_eq!(text.matches("\r\n\r\nab").count(), 2, "{text}");
}

/// Returns whether nginx's debug log shows how data was sent.
fn has_debug_log() -> bool {
    let nginx = std::env::var("NGINX").unwrap_or_else(|_| "/usr/sbin/nginx".to_owned());
    let said = std::process::Command::new(nginx).arg("-V").output().expect("run nginx -V");
    let has = String::from_utf8_lossy(&said.stderr).contains("--with-debug");
    if !has {
        eprintln!("skipped: this nginx is built without its debug log");
    }
    has
}

/// Returns the number of bytes sent by sendfile.
fn sent_by_sendfile(nginx: &Nginx) -> usize {
    let lines = nginx.logged("sendfile: ");
    let count = |line: &String| line.split("sendfile: ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    lines.iter().filter_map(count).filter(|count: &isize| *count > 0).sum::<isize>() as usize
}

fn nginx_reads_the_file_and_not_the_application(engine: Engine) {
    if !has_debug_log() {
        return;
    }
    let nginx = site(engine).log_level("debug").http("sendfile on;").start();
    assert!(nginx.get("/").expect(200).body == letters(0, 1_000_000));
    wait_for("a megabyte by sendfile", || (sent_by_sendfile(&nginx) == 1_000_000).then_some(()));
    for path in ["/odd/raw", "/odd/random", "/odd/temporary"] {
        let before = sent_by_sendfile(&nginx);
        let length = nginx.get(path).expect(200).body.len();
        wait_for(path, || (sent_by_sendfile(&nginx) == before + length).then_some(()));
    }
}

fn an_object_that_only_looks_like_a_file_is_read(engine: Engine) {
    let nginx = site(engine).http("sendfile on;").start();
    for (name, body) in [
        ("bytes", "bytes"),
        ("plain", "plain"),
        ("pipe", "through a pipe"),
        ("socket", "through a socket"),
        ("spooled", "spooled"),
        ("rolled", "spooled"),
        ("temporary", "orary"),
        ("gzip", "plain"),
        ("upper", "CONTENT"),
        ("buffered_upper", "CONTENT"),
        ("decrypting", "CONTENT"),
        ("overridden", "overridden"),
        ("random", "content"),
        ("raw", "content"),
        ("beyond", ""),
    ] {
        assert_eq!(nginx.get(&format!("/odd/{name}")).expect(200).text(), body, "{name}");
    }
}

fn an_unreadable_file_is_an_error(engine: Engine) {
    let nginx = site(engine).errors_expected().start();
    for (name, error) in [
        ("text", "must yield bytes, not str"),
        ("written", "io.UnsupportedOperation: read"),
        ("closed", "ValueError: read of closed file"),
        ("detached", "ValueError: raw stream has been detached"),
        ("directory", "IsADirectoryError"),
    ] {
        nginx.get(&format!("/odd/{name}")).expect(500);
        nginx.wait_log(error);
    }
    nginx.get("/quick").expect(200);
}

fn data_may_come_before_the_file(engine: Engine) {
    let nginx = site(engine).errors_expected().start();
    let whole = [b"before|".to_vec(), vec![b'x'; 100_000], b"|".to_vec(), letters(0, 1_000_000)].concat();
    assert!(nginx.get("/write").expect(200).body == whole);
    assert!(nginx.get("/write?200000").expect(200).body == whole[..200_000]);
    assert!(nginx.get("/write?7").expect(200).body == whole[..7]);
    nginx.wait_events(&["closed"; 3]);
}

fn a_file_is_closed_when_its_last_byte_has_gone(engine: Engine) {
    let threads = if engine == Engine::Threads { Site::plain().http("wsgi_threads 1;") } else { Site::new(engine) };
    let nginx = narrow(threads.app(FILES)).start();
    let mut conns: Vec<Conn> = (0..3).map(|_| stalled(&nginx)).collect();
    // It keeps no thread, nor the event loop.
    for _ in 0..5 {
        assert_eq!(nginx.get("/quick").expect(200).text(), "quick");
    }
    std::thread::sleep(Duration::from_millis(200));
    assert!(nginx.events().is_empty(), "closed while it is sent");
    for (number, conn) in conns.iter_mut().enumerate() {
        assert!(conn.read_exactly(LARGE - 1000) == letters(1000, LARGE));
        wait_for("close()", || (nginx.events().len() == number + 1).then_some(()));
        // And the connection goes on.
        conn.send("GET /quick HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(conn.response().expect(200).text(), "quick");
    }
    assert_eq!(nginx.events(), ["closed"; 3]);
}

fn a_file_is_closed_when_its_client_has_left(engine: Engine) {
    let nginx = narrow(site(engine)).start();
    for (number, resets) in [false, true].into_iter().enumerate() {
        let conn = stalled(&nginx);
        assert_eq!(nginx.events().len(), number);
        if resets {
            conn.reset();
        } else {
            drop(conn);
        }
        wait_for("close()", || (nginx.events().len() == number + 1).then_some(()));
    }
    nginx.get("/quick").expect(200);
    assert_eq!(nginx.events(), ["closed"; 2]);
}

fn an_unwanted_file_is_closed(engine: Engine) {
    let nginx = site(engine).start();
    let ask = |method: &str, path: &str, header: &str| {
        let mut conn = nginx.connect();
        conn.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{header}\r\n"));
        let response = conn.response_to(method);
        conn.send("GET /quick HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(conn.response().expect(200).text(), "quick", "after {method} {path}");
        response
    };
    ask("HEAD", "/", "").expect(200);
    assert_eq!(ask("HEAD", "/?1000000", "").expect(200).header("Content-Length"), Some("1000000"));
    ask("GET", "/204", "").expect(204);
    ask("GET", "/dated", "If-Modified-Since: Mon, 01 Jan 2024 00:00:00 GMT\r\n").expect(304);
    ask("GET", "/dated", "If-None-Match: \"tag\"\r\n").expect(304);
    assert_eq!(ask("GET", "/dated", "If-None-Match: \"other\"\r\n").expect(200).body.len(), 1_000_000);
    nginx.wait_events(&["closed"; 6]);
}

fn the_application_may_close_its_file_at_once(engine: Engine) {
    let nginx = narrow(site(engine)).errors_expected().start();
    for _ in 0..20 {
        // A thread closes it while, or before, it is sent: either all of it comes, or an error.
        let mut conn = nginx.connect();
        conn.send("GET /early HTTP/1.1\r\nHost: a\r\n\r\n");
        let response = conn.response();
        match response.status {
            200 if response.framing == Framing::Length => assert!(response.body == letters(0, 1_000_000)),
            200 => assert_eq!(response.framing, Framing::Cut),
            status => assert_eq!(status, 500),
        }
        if response.status == 200 && response.framing == Framing::Length {
            continue;
        }
        nginx.wait_log("ValueError");
        break;
    }
}

fn a_file_shorter_than_its_length_breaks_the_connection(engine: Engine) {
    for directives in ["", "wsgi_allow_ranges on;"] {
        let nginx = site(engine).http(directives).errors_expected().start();
        for range in ["", "Range: bytes=0-1\r\n", "Range: bytes=0-1,5-6\r\n"] {
            let mut conn = nginx.connect();
            conn.send(format!("GET /?1000001 HTTP/1.1\r\nHost: a\r\n{range}\r\n"));
            if directives.is_empty() || range.is_empty() || range.contains(',') {
                let response = conn.response().expect(200);
                assert_eq!((response.framing, response.body.len()), (Framing::Cut, 1_000_000), "{directives} {range}");
            } else {
                // The requested bytes are there.
                assert_eq!(conn.response().expect(206).text(), "ab");
            }
            nginx.wait_log("sent 1000000 of the 1000001 bytes of its Content-Length");
        }
        nginx.wait_events(&["closed"; 3]);
    }
}

/// The file has become shorter while it was sent: the client can see it, the log names it, and it is no alert.
#[track_caller]
fn assert_told(nginx: &Nginx, how: &str, name: &str, path: &str) {
    let said = nginx.wait_log("was truncated while it was sent");
    let file = nginx.prefix().join(name);
    assert!(said.contains("[error]") && said.contains(&format!("GET {path}")), "{how}: {said}");
    assert!(
        said.contains(&format!("\"{}\"", file.display())) && said.contains(&format!("{SHRUNK} bytes")),
        "{how}: {said}"
    );
    nginx.wait_events(&["closed"]);
    nginx.get("/quick").expect(200);
}

const SHRUNK: u64 = 1 << 20;

fn shrink(nginx: &Nginx, name: &str) {
    File::options().write(true).open(nginx.prefix().join(name)).unwrap().set_len(SHRUNK).unwrap();
}

fn a_file_that_shrinks_while_it_is_sent_breaks_the_connection(engine: Engine) {
    for how in [
        "sendfile on;",
        "sendfile on; sendfile_max_chunk 10k;",
        "sendfile on; limit_rate 8m;",
        "sendfile on; aio threads;",
        "sendfile off;",
        "sendfile off; output_buffers 2 3k;",
        "sendfile off; aio threads;",
        "sendfile on; aio threads; directio 4k; output_buffers 1 64k;",
        "sendfile on; wsgi_allow_ranges on;",
    ] {
        let nginx = narrow(site(engine)).http(how).errors_expected().start();
        let mut conn = nginx.connect();
        conn.send("GET /large HTTP/1.1\r\nHost: a\r\nRange: bytes=0-27000000\r\n\r\n");
        conn.read_until("\r\n\r\n");
        assert!(conn.read_exactly(1000) == letters(0, 1000));
        shrink(&nginx, "letters.large");
        let rest = conn.read_to_end();
        assert!(rest.len() < 26_000_000, "{how}");
        assert!(rest[..] == letters(1000, LARGE)[..rest.len()], "invented bytes, {how}");
        assert_told(&nginx, how, "letters.large", "/large");
    }
}

fn a_file_that_shrinks_breaks_the_response_of_any_protocol(engine: Engine) {
    let tls = "listen 127.0.0.1:@port@ sndbuf=32k; listen 127.0.0.1:@tls@ ssl http2 sndbuf=32k;
               listen 127.0.0.1:@h2@ http2 sndbuf=32k; ssl_certificate @prefix@/certificate.pem;
               ssl_certificate_key @prefix@/key.pem;";
    for (how, scheme, arguments, path) in [
        ("sendfile on;", "https", &["--http1.1"][..], "/large"),
        ("sendfile on;", "https", &["--http2"], "/large"),
        ("sendfile on;", "h2", &["--http2-prior-knowledge"], "/large"),
        ("sendfile on; aio threads;", "h2", &["--http2-prior-knowledge"], "/large"),
        ("sendfile on; gzip on; gzip_types *;", "http", &["-H", "Accept-Encoding: gzip"], "/noise"),
        ("sendfile on; ssi on; ssi_types *;", "http", &[], "/include.html"),
    ] {
        let site = site(engine).http(how).errors_expected().log_level("info");
        let (tls_port, h2_port) = (site.another_port(), site.another_port());
        make_certificate(site.prefix());
        let ports = [("https", tls_port), ("h2", h2_port)];
        let port = ports.iter().find(|(name, _)| *name == scheme).map(|(_, port)| *port);
        let tls = tls.replace("@tls@", &tls_port.to_string()).replace("@h2@", &h2_port.to_string());
        let site = site.location("= /include.html", "root @prefix@;");
        let site = site.file("include.html", "<!--#include virtual=\"/large\" -->");
        let nginx = site.listen(&tls).start();
        let scheme = if scheme == "https" { "https" } else { "http" };
        let url = format!("{scheme}://127.0.0.1:{}{path}", port.unwrap_or(nginx.port()));
        let got = nginx.prefix().join("got");
        let mut curl = std::process::Command::new("curl");
        curl.args(["-q", "-sS", "-k", "--noproxy", "*", "--max-time", "30", "--limit-rate", "2m", "-o"]);
        let mut curl = curl.arg(&got).args(arguments).arg(&url).spawn().expect("run curl");
        wait_for("the first of it", || std::fs::metadata(&got).is_ok_and(|file| file.len() > 1000).then_some(()));
        let name = if path == "/noise" { "letters.noise" } else { "letters.large" };
        shrink(&nginx, name);
        assert!(!curl.wait().expect("its end").success(), "{how} {arguments:?}");
        assert_told(&nginx, &format!("{how} {arguments:?}"), name, path);
    }
}

/// Those of /proc say that they are empty, those of /sys that they have a page.
fn a_file_that_lies_about_its_size_is_read(engine: Engine) {
    let nginx = site(engine).http("sendfile on; wsgi_allow_ranges on;").start();
    for path in [
        "/proc/filesystems",
        "/proc/version",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/class/net/lo/address",
    ] {
        let Ok(wanted) = std::fs::read_to_string(path) else { continue };
        let mut conn = nginx.connect();
        conn.send(format!("GET /named{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let response = conn.response().expect(200);
        assert_eq!(response.text(), wanted, "{path}");
        assert_eq!(response.framing, Framing::Chunked, "{path}");
        conn.send(format!("HEAD /named{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(conn.response_to("HEAD").expect(200).header("Content-Length"), None);
    }
}

fn an_empty_file_is_an_empty_response(engine: Engine) {
    let nginx = site(engine).http("sendfile on;").file("empty", "").start();
    let mut conn = nginx.connect();
    for _ in 0..2 {
        conn.send(format!("GET /named{}/empty HTTP/1.1\r\nHost: a\r\n\r\n", nginx.prefix().display()));
        let response = conn.response().expect(200);
        assert_eq!((response.header("Content-Length"), response.text().as_str()), (Some("0"), ""));
    }
}

/// Text written to a log file while it is sent belongs to the next response.
fn a_file_that_grows_is_sent_as_it_was(engine: Engine) {
    let nginx = narrow(site(engine)).http("sendfile on;").start();
    let mut conn = stalled(&nginx);
    let mut file = File::options().append(true).open(nginx.prefix().join("letters.large")).unwrap();
    std::io::Write::write_all(&mut file, b"more").unwrap();
    assert!(conn.read_exactly(LARGE - 1000) == letters(1000, LARGE));
    conn.send("GET /quick HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(conn.response().expect(200).text(), "quick");
}

fn a_part_of_a_file_may_be_all_that_is_asked_for(engine: Engine) {
    let nginx = site(engine).http("wsgi_allow_ranges on; gzip on; gzip_types *;").start();
    for (range, from, to) in [("0-0", 0, 1), ("-5", 999_995, 1_000_000), ("500000-1999999", 500_000, 1_000_000)] {
        let mut conn = nginx.connect();
        conn.send(format!("GET /seek?999997 HTTP/1.1\r\nHost: a\r\nRange: bytes={range}\r\n\r\n"));
        let response = conn.response().expect(206);
        let shifted = letters(3, 1_000_000);
        assert!(
            response.body == shifted[from.min(999_996) - if range == "-5" { 3 } else { 0 }..to.min(999_997)],
            "{range}"
        );
    }
    nginx.wait_events(&["closed"; 3]);
}

fn files_arrive_whole_however_nginx_reads_them(engine: Engine) {
    for how in [
        "sendfile on;",
        "sendfile on; sendfile_max_chunk 10k;",
        "sendfile off; output_buffers 1 512;",
        "sendfile on; aio threads;",
        "sendfile off; aio threads; output_buffers 2 3k;",
        "sendfile on; aio threads; directio 4k; output_buffers 1 64k;",
        "directio 4k; directio_alignment 512;",
        "sendfile on; limit_rate 3m;",
        "sendfile on; gzip on; gzip_types *;",
        "postpone_output 0; tcp_nopush on; sendfile on;",
    ] {
        let nginx = site(engine).http(how).start();
        let threads: Vec<_> = ["/", "/seek", "/?777777", "/write"].into_iter().collect();
        std::thread::scope(|scope| {
            for path in threads {
                let nginx = &nginx;
                scope.spawn(move || {
                    let wanted = match path {
                        "/" => letters(0, 1_000_000),
                        "/seek" => letters(3, 1_000_000),
                        "/?777777" => letters(0, 777_777),
                        _ => [b"before|".to_vec(), vec![b'x'; 100_000], b"|".to_vec(), letters(0, 1_000_000)].concat(),
                    };
                    let got = curl(&["--compressed", &nginx.url(path)]).expect(200).body;
                    assert!(got == wanted, "{how} {path}: {} bytes", got.len());
                });
            }
        });
        nginx.wait_events(&["closed"; 4]);
    }
}

fn thousands_of_files_leave_nothing_open(engine: Engine) {
    let nginx = site(engine).http("keepalive_requests 10000;").start();
    let worker = Process(nginx.workers()[0]);
    let ask = |count: usize| {
        let mut conn = nginx.connect();
        for number in 0..count {
            conn.send(format!("GET /?{} HTTP/1.1\r\nHost: a\r\n\r\n", 1 + number % 3));
            assert_eq!(conn.response().expect(200).body.len(), 1 + number % 3);
        }
    };
    ask(50);
    wait_for("close()", || (nginx.events().len() == 50).then_some(()));
    let before = worker.descriptors();
    ask(2000);
    wait_for("close()", || (nginx.events().len() == 2050).then_some(()));
    wait_for("the end of the connection", || (worker.descriptors() <= before).then_some(()));
}

fn a_file_is_sent_to_its_end_on_reload(engine: Engine) {
    let nginx = narrow(site(engine)).start();
    let mut conn = stalled(&nginx);
    let old = Process(nginx.workers()[0]);
    nginx.reload();
    assert_eq!(nginx.get("/quick").expect(200).text(), "quick");
    assert!(nginx.events().is_empty());
    assert!(conn.read_exactly(LARGE - 1000) == letters(1000, LARGE));
    nginx.wait_events(&["closed"]);
    old.wait_gone();
}

fn an_unread_file_is_closed_on_quit(engine: Engine) {
    let mut nginx = narrow(site(engine)).http("wsgi_shutdown_timeout 500ms;").start();
    let conns: Vec<Conn> = (0..8).map(|_| stalled(&nginx)).collect();
    nginx.stop_by(libc::SIGQUIT);
    assert_eq!(nginx.events(), ["closed"; 8]);
    drop(conns);
}

fn frameworks_send_files(engine: Engine) {
    if !has_debug_log() {
        return;
    }
    let nginx = Site::new(engine)
        .http(&format!("wsgi_python_home {}; sendfile on;", venv().display()))
        .log_level("debug")
        .file("data", &"0123456789".repeat(10_000))
        .app_at(
            "/flask/",
            "with_flask.py",
            r#"
from flask import Flask, send_file
application = Flask(__name__)

@application.route("/file")
def file():
    return send_file("@prefix@/data", conditional=True)
"#,
        )
        .app_at(
            "/django/",
            "with_django.py",
            r#"
import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import FileResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x")

def file(request):
    return FileResponse(open("@prefix@/data", "rb"))

urlpatterns = [path("file", file)]
application = get_wsgi_application()
"#,
        )
        .start();
    for path in ["/flask/file", "/django/file"] {
        let before = sent_by_sendfile(&nginx);
        let response = nginx.get(path).expect(200);
        assert_eq!(response.text(), "0123456789".repeat(10_000));
        assert_eq!(response.header("Content-Length"), Some("100000"));
        wait_for(path, || (sent_by_sendfile(&nginx) == before + 100_000).then_some(()));
        assert_eq!(nginx.request("HEAD", path, &[], b"").expect(200).header("Content-Length"), Some("100000"));
    }
    let response = nginx.request("GET", "/flask/file", &[("Range", "bytes=10-14")], b"").expect(206);
    assert_eq!(response.text(), "01234");
    let worker = Process(nginx.workers()[0]);
    let open = || std::fs::read_dir(format!("/proc/{}/fd", worker.0)).unwrap().flatten();
    let data = nginx.prefix().join("data");
    wait_for("the end of the files", || {
        (!open().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target == data))).then_some(())
    });
}
