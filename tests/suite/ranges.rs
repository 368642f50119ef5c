//! `wsgi_allow_ranges`: parts of responses, cut out by nginx.

use crate::harness::{Engine, Framing, Nginx, Response, Site, both_engines, uses_process_group, wait_for};

both_engines!(
    one_range_is_a_part,
    several_ranges_are_parts_of_one_response,
    a_condition_decides_whether_ranges_count,
    a_head_request_has_no_part,
    a_part_too_long_to_keep_is_sent_as_a_whole,
    a_body_that_fails_has_no_parts,
    compressed_responses_have_no_parts,
);

const APP: &str = r#"
import os

PREFIX = os.path.dirname(os.path.abspath(__file__))
DATA = bytes(i % 251 for i in range(300000))
with open(os.path.join(PREFIX, "data"), "wb") as file:
    file.write(DATA)

class Noted:
    def __init__(self, iterable):
        self.iterator = iter(iterable)
    def __iter__(self):
        return self
    def __next__(self):
        return next(self.iterator)
    def close(self):
        with open(os.path.join(PREFIX, "events"), "a") as file:
            file.write("closed\n")

def pieces(size):
    return (DATA[i:i + size] for i in range(0, len(DATA), size))

def application(environ, start_response):
    path = environ["PATH_INFO"]
    headers = [
        ("Content-Type", "text/plain"), ("ETag", '"strong"'), ("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"),
    ]
    if path not in ("/item", "/unknown", "/sized_file"):
        headers.append(("Content-Length", str(len(DATA) + (path == "/short"))))
    write = start_response("200 OK", headers)
    if path == "/item":
        return [DATA]
    if path == "/list":
        return list(pieces(1000))
    if path == "/file":
        return environ["wsgi.file_wrapper"](open(os.path.join(PREFIX, "data"), "rb"))
    if path == "/sized_file":
        return environ["wsgi.file_wrapper"](open(os.path.join(PREFIX, "data"), "rb"))
    if path == "/written_file":
        write(DATA[:100000])
        file = open(os.path.join(PREFIX, "data"), "rb")
        file.seek(100000)
        return environ["wsgi.file_wrapper"](file)
    if path == "/write":
        for piece in pieces(7000):
            write(piece)
        return []
    if path == "/mixed":
        write(DATA[:5])
        return Noted([DATA[5:100000], b"", DATA[100000:]])
    if path == "/raise":
        def failing():
            yield DATA[:1000]
            raise LookupError("as asked")
        return failing()
    return Noted(pieces(997))
"#;

const SIZE: usize = 300_000;

/// Every way to give a body whose length is known.
const WAYS: [&str; 8] = ["/generator", "/item", "/list", "/file", "/sized_file", "/written_file", "/write", "/mixed"];

fn site(engine: Engine) -> Site {
    Site::new(engine).app(APP).http("wsgi_allow_ranges on; postpone_output 0;")
}

fn data(from: usize, to: usize) -> Vec<u8> {
    (from..to).map(|i| (i % 251) as u8).collect()
}

fn ask(nginx: &Nginx, method: &str, path: &str, headers: &str) -> Response {
    let mut conn = nginx.connect();
    conn.send(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n"));
    let response = conn.response_to(method);
    // The next response is in order.
    if response.framing != Framing::Cut && response.header("Connection") != Some("close") {
        conn.send("GET /item HTTP/1.1\r\nHost: a\r\nRange: bytes=0-1\r\n\r\n");
        assert_eq!(conn.response().expect(206).body, [0, 1]);
    }
    response
}

fn one_range_is_a_part(engine: Engine) {
    for size in ["1k", "64k", "1m"] {
        let nginx = site(engine).http(&format!("wsgi_output_buffer_size {size};")).start();
        for path in WAYS {
            for (range, from, to) in [
                ("0-0", 0, 1),
                ("0-", 0, SIZE),
                ("1000-70000", 1000, 70_001),
                ("299999-", SIZE - 1, SIZE),
                ("-5", SIZE - 5, SIZE),
                ("-999999999", 0, SIZE),
                ("250000-999999", 250_000, SIZE),
            ] {
                let response = ask(&nginx, "GET", path, &format!("Range: bytes={range}\r\n")).expect(206);
                assert_eq!(response.header("Content-Range").unwrap(), format!("bytes {from}-{}/{SIZE}", to - 1));
                assert!(response.body == data(from, to), "{path} {range}");
            }
            assert!(ask(&nginx, "GET", path, "").expect(200).body == data(0, SIZE));
            for range in ["300000-", "-0", "400000-500000,300000-300001"] {
                let response = ask(&nginx, "GET", path, &format!("Range: bytes={range}\r\n")).expect(416);
                assert_eq!(response.header("Content-Range"), Some("bytes */300000"));
            }
            // Not what RFC 9110 calls a range.
            for range in ["bytes=5-1", "bytes=a", "bytes=", "lines=0-1"] {
                let response = ask(&nginx, "GET", path, &format!("Range: {range}\r\n"));
                assert!(matches!(response.status, 200 | 416), "{range}");
            }
        }
        // Of unknown length there are none.
        assert!(ask(&nginx, "GET", "/unknown", "Range: bytes=0-0\r\n").expect(200).body == data(0, SIZE));
    }
}

/// The parts of a multipart/byteranges response, with their Content-Range.
fn parts(response: &Response) -> Vec<(String, Vec<u8>)> {
    let boundary = response.header("Content-Type").unwrap().strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mark = format!("\r\n--{boundary}");
    let mut rest = &response.body[..];
    let mut found = Vec::new();
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|window| window == what);
    loop {
        let at = find(rest, mark.as_bytes()).expect("a boundary");
        assert_eq!(at, 0, "between the parts");
        rest = &rest[mark.len()..];
        if rest == b"--\r\n" {
            return found;
        }
        let end = find(rest, b"\r\n\r\n").expect("the headers of a part");
        let headers = String::from_utf8(rest[..end].to_vec()).unwrap();
        let range = headers.lines().find_map(|line| line.strip_prefix("Content-Range: bytes ")).expect("Content-Range");
        rest = &rest[end + 4..];
        let length = find(rest, mark.as_bytes()).expect("the end of a part");
        found.push((range.to_owned(), rest[..length].to_vec()));
        rest = &rest[length..];
    }
}

fn several_ranges_are_parts_of_one_response(engine: Engine) {
    for size in ["1k", "64k", "1m"] {
        let nginx = site(engine).http(&format!("wsgi_output_buffer_size {size};")).start();
        // The file after written data stands in two places.
        for path in WAYS.into_iter().filter(|path| *path != "/written_file") {
            for ranges in [
                &[(0, 1), (5, 10)][..],
                &[(299_999, 300_000), (0, 2)],
                &[(0, 100_000), (50_000, 150_000)],
                &[(100, 200), (100, 200), (100, 200)],
            ] {
                let text: Vec<String> = ranges.iter().map(|(from, to)| format!("{from}-{}", to - 1)).collect();
                let response = ask(&nginx, "GET", path, &format!("Range: bytes={}\r\n", text.join(","))).expect(206);
                let found = parts(&response);
                assert_eq!(found.len(), ranges.len(), "{path}");
                for ((range, body), (from, to)) in found.iter().zip(ranges) {
                    assert_eq!(*range, format!("{from}-{}/{SIZE}", to - 1));
                    assert!(*body == data(*from, *to), "{path} {range}");
                }
            }
            let many: Vec<String> = (0..300).map(|i| format!("{}-{}", i * 900, i * 900 + 5)).collect();
            let response = ask(&nginx, "GET", path, &format!("Range: bytes={}\r\n", many.join(","))).expect(206);
            assert_eq!(parts(&response).len(), 300);
            // More bytes than there are.
            let response = ask(&nginx, "GET", path, "Range: bytes=0-,0-,0-\r\n").expect(200);
            assert!(response.body == data(0, SIZE));
        }
        let response = ask(&nginx, "GET", "/written_file", "Range: bytes=0-1,150000-150001\r\n").expect(200);
        assert!(response.body == data(0, SIZE));
    }
    let nginx = site(engine).http("max_ranges 1;").start();
    assert!(ask(&nginx, "GET", "/list", "Range: bytes=0-1,3-4\r\n").expect(200).body == data(0, SIZE));
}

fn a_condition_decides_whether_ranges_count(engine: Engine) {
    let nginx = site(engine).start();
    for path in ["/generator", "/file"] {
        for (condition, holds) in [
            ("\"strong\"", true),
            ("\"other\"", false),
            ("W/\"strong\"", false),
            ("Mon, 01 Jan 2024 00:00:00 GMT", true),
            ("Tue, 02 Jan 2024 00:00:00 GMT", false),
            ("Sun, 31 Dec 2023 00:00:00 GMT", false),
        ] {
            for range in ["5-9", "0-1,5-9"] {
                let response = ask(&nginx, "GET", path, &format!("Range: bytes={range}\r\nIf-Range: {condition}\r\n"));
                assert_eq!(response.status, if holds { 206 } else { 200 }, "{condition}");
                if !holds {
                    assert!(response.body == data(0, SIZE));
                }
            }
        }
    }
}

fn a_head_request_has_no_part(engine: Engine) {
    let nginx = site(engine).start();
    for range in ["5-9", "0-1,5-9"] {
        let response = ask(&nginx, "HEAD", "/generator", &format!("Range: bytes={range}\r\n"));
        assert!(matches!(response.status, 200 | 206));
        assert!(response.body.is_empty());
    }
    wait_for("close()", || (nginx.events().len() == 2).then_some(()));
}

fn a_part_too_long_to_keep_is_sent_as_a_whole(engine: Engine) {
    for limits in ["wsgi_output_buffer_size 10k; wsgi_max_temp_file_size 299999;", "wsgi_max_temp_file_size 0;"] {
        let nginx = site(engine).http(limits).start();
        for path in ["/generator", "/list", "/write"] {
            let response = ask(&nginx, "GET", path, "Range: bytes=0-1,5-6\r\n").expect(200);
            assert!(response.body == data(0, SIZE), "{path}");
            // One range needs nothing kept.
            let response = ask(&nginx, "GET", path, "Range: bytes=70000-299999\r\n").expect(206);
            assert!(response.body == data(70_000, SIZE));
        }
    }
    let nginx = site(engine).http("wsgi_output_buffer_size 10k; wsgi_max_temp_file_size 300000;").start();
    assert_eq!(parts(&ask(&nginx, "GET", "/generator", "Range: bytes=0-1,5-6\r\n").expect(206)).len(), 2);
}

fn a_body_that_fails_has_no_parts(engine: Engine) {
    let nginx = site(engine).http("wsgi_temp_path responses;").errors_expected().start();
    for path in ["/raise", "/short"] {
        // Nothing is out when it fails.
        let response = ask(&nginx, "GET", path, "Range: bytes=0-1,5-6\r\n").expect(500);
        assert!(response.text().contains("nginx"));
    }
    std::fs::remove_dir(nginx.temporary_directory("responses")).unwrap();
    let response = ask(&nginx, "GET", "/generator", "Range: bytes=0-1,5-6\r\n").expect(200);
    assert!(response.body == data(0, SIZE));
    nginx.wait_log("cannot write a temporary file");
}

fn compressed_responses_have_no_parts(engine: Engine) {
    let nginx = site(engine).http("gzip on; gzip_types *;").start();
    // Several parts are cut out by a process group, before its front would compress.
    let ranges = if uses_process_group() { &["0-1"][..] } else { &["0-1", "0-1,5-6"] };
    for range in ranges {
        let response =
            ask(&nginx, "GET", "/generator", &format!("Range: bytes={range}\r\nAccept-Encoding: gzip\r\n")).expect(200);
        assert_eq!(response.header("Content-Encoding"), Some("gzip"));
        assert!(!response.body.is_empty());
    }
}
