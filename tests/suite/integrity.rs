//! Clients get the bytes that applications send, whatever else runs at the time and whatever is between the two.

use crate::harness::{Conn, Engine, Framing, Nginx, SeededRng, Site, both_engines, curl, make_certificate};
use std::io::Read;
use std::time::Duration;

both_engines!(responses_arrive_as_they_were_given);

/// Responds in the way and size that the query names, and writes the same data to a file.
const APP: &str = r#"
import os
import random
import urllib.parse

PREFIX = os.path.dirname(os.path.abspath(__file__))

def cut(rng, data):
    kind = rng.randrange(5)
    at = 0
    while at < len(data):
        if kind == 0:
            size = rng.randrange(1, 200)
        elif kind == 1:
            size = rng.choice([0, 1, 7, 4096, 65535, 65536, 65537, 200000])
        elif kind == 2:
            size = 65536
        elif kind == 3:
            size = rng.randrange(1, 20000)
        else:
            size = len(data)
        yield data[at:at + size]
        at += size

def application(environ, start_response):
    query = dict(urllib.parse.parse_qsl(environ["QUERY_STRING"]))
    rng = random.Random(int(query["seed"]))
    half = rng.randbytes(int(query["size"]) // 2 + 1)
    # Something that gzip can do and something that it cannot.
    data = half + bytes(len(half))
    name = os.path.join(PREFIX, "body-" + query["seed"])
    with open(name, "wb") as file:
        file.write(data)
    headers = [("Content-Type", "text/plain")]
    if rng.randrange(2):
        headers.append(("Content-Length", str(len(data))))
    write = start_response("200 OK", headers)
    way = query["way"]
    at = rng.randrange(len(data))
    if way == "generator":
        return cut(rng, data)
    if way == "list":
        return list(cut(rng, data))
    if way == "write":
        for piece in cut(rng, data):
            write(piece)
        return []
    if way == "both":
        for piece in cut(rng, data[:at]):
            write(piece)
        return cut(rng, data[at:])
    file = open(name, "rb")
    if way == "both_file":
        for piece in cut(rng, data[:at]):
            write(piece)
        file.seek(at)
    return environ["wsgi.file_wrapper"](file)
"#;

const WAYS: [&str; 6] = ["generator", "list", "write", "both", "file", "both_file"];

/// Directives by chance, and the size of bodies that they are right for.
fn directives(rng: &mut SeededRng) -> (String, usize) {
    let memory = rng.choose(&["1", "100", "4k", "64k"]);
    let file = rng.choose(&["0", "10k", "1m", "1024m"]);
    let mut all = format!("wsgi_output_buffer_size {memory}; wsgi_max_temp_file_size {file};");
    for choices in [
        &["", "gzip on; gzip_types *; gzip_min_length 1;"][..],
        &["sendfile on;", "sendfile off;", "sendfile on; sendfile_max_chunk 9k;"],
        &["", "aio threads;"],
        &["", "", "directio 4k;"],
        &["", "output_buffers 1 512;", "output_buffers 3 5k;"],
        &["", "", "limit_rate 8m;"],
        &["", "postpone_output 0;"],
        &["", "tcp_nopush on;"],
        &["", "wsgi_output_buffering on;"],
        &["", "wsgi_write_buffering on; wsgi_write_buffer_size 300;"],
        &["", "wsgi_allow_ranges on;"],
        &["", "wsgi_optimize_send_headers on;"],
    ] {
        all += " ";
        all += rng.choose(choices);
    }
    let size = if memory == "1" {
        3000
    } else if memory == "100" {
        60_000
    } else {
        1_500_000
    };
    (all, size)
}

/// Reads a response in pieces with pauses between them.
fn read_slowly(nginx: &Nginx, path: &str, rng: &mut SeededRng) -> Vec<u8> {
    let mut conn = nginx.connect();
    conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    let mut all = Vec::new();
    let mut buffer = vec![0; 1 + rng.size(100_000)];
    let mut pauses = 20;
    loop {
        if pauses > 0 && rng.below(2) == 0 {
            pauses -= 1;
            std::thread::sleep(Duration::from_millis(rng.below(40)));
        }
        match conn.stream().read(&mut buffer).expect("a part of the response") {
            0 => break,
            count => all.extend_from_slice(&buffer[..count]),
        }
    }
    let response = Conn::from_bytes(all).response().expect(200);
    assert_ne!(response.framing, Framing::Cut);
    response.body
}

fn responses_arrive_as_they_were_given(engine: Engine) {
    let seeds = std::env::var("WSGI_TEST_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    for seed in 1..=seeds {
        mixed_responses(engine, seed);
    }
}

fn mixed_responses(engine: Engine, seed: u64) {
    let mut rng = SeededRng::new(seed);
    let (directives, size) = directives(&mut rng);
    let site = Site::new(engine).app(APP).http(&directives);
    make_certificate(site.prefix());
    let (tls, http2) = (site.another_port(), site.another_port());
    let narrow = rng.choose(&["", "sndbuf=8k", "sndbuf=32k"]);
    let nginx = site
        .listen(&format!(
            "listen 127.0.0.1:@port@ {narrow}; listen 127.0.0.1:{tls} ssl http2; listen 127.0.0.1:{http2} http2;
            ssl_certificate @prefix@/certificate.pem; ssl_certificate_key @prefix@/key.pem; server_name localhost;"
        ))
        .start();
    let clients = ["slow", "slow", "1.1", "1.0", "gzip", "tls", "http2", "http2-tls"];
    std::thread::scope(|scope| {
        for (number, client) in clients.into_iter().enumerate() {
            let (nginx, directives) = (&nginx, &directives);
            let mut rng = SeededRng::new(seed * 100 + number as u64);
            scope.spawn(move || {
                for round in 0..2 {
                    let way = rng.choose(&WAYS);
                    let id = seed * 1000 + number as u64 * 10 + round;
                    let path = format!("/?seed={id}&way={way}&size={}", 1 + rng.size(size));
                    let (plain, sealed) = (nginx.url(&path), format!("https://127.0.0.1:{tls}{path}"));
                    let ask = |arguments: &[&str]| curl(arguments).expect(200).body;
                    let got = match client {
                        "slow" => read_slowly(nginx, &path, &mut rng),
                        "1.1" => ask(&[&plain]),
                        "1.0" => ask(&["--http1.0", &plain]),
                        "gzip" => ask(&["--compressed", &plain]),
                        "tls" => ask(&["--http1.1", &sealed]),
                        "http2" => ask(&["--http2-prior-knowledge", &format!("http://127.0.0.1:{http2}{path}")]),
                        _ => ask(&["--http2", "--compressed", &sealed]),
                    };
                    let wanted = std::fs::read(nginx.prefix().join(format!("body-{id}"))).unwrap();
                    let first = got.iter().zip(&wanted).position(|(a, b)| a != b);
                    let (length, all) = (got.len(), wanted.len());
                    assert!(
                        got == wanted,
                        "seed {seed}, {client} {path}, {narrow} {directives}: {length} of {all}, differ at {first:?}"
                    );
                }
            });
        }
    });
}
