//! What interpreters cost and gain, in numbers for the README. Nothing here fails for being slow:
//! `cargo test --release --test suite -- --ignored --nocapture --test-threads=1 costs::` prints them.

use crate::harness::{Conn, Nginx, Process, Site, venv};
use std::time::{Duration, Instant};

const ON: &str = "wsgi_enable_subinterpreters on;";

/// How long each rate is measured, and how often; the best counts, as others use this machine too.
const TIME: Duration = Duration::from_secs(2);
const TIMES: usize = 5;

fn has_own_gil() -> bool {
    env!("WSGI_PYTHON_VERSION").split_once('.').unwrap().1.parse::<u32>().unwrap() >= 12
}

/// Answers a second, of `clients` that ask for `paths` in turn on kept connections.
fn rate(nginx: &Nginx, paths: &[String], clients: usize) -> f64 {
    let once = || {
        let start = Instant::now();
        let answers: usize = std::thread::scope(|scope| {
            let client = |first: usize| {
                scope.spawn(move || {
                    let mut conn: Conn = nginx.connect();
                    let mut count = 0;
                    while start.elapsed() < TIME {
                        let path = &paths[(first + count) % paths.len()];
                        conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
                        conn.response().expect(200);
                        count += 1;
                    }
                    count
                })
            };
            let clients: Vec<_> = (0..clients).map(client).collect();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        });
        answers as f64 / start.elapsed().as_secs_f64()
    };
    (0..TIMES).map(|_| once()).fold(0.0, f64::max)
}

const HELLO: &str = r#"
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"#;

/// Nothing but Python's own work, about ten milliseconds of it.
const COMPUTES: &str = r#"
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    number = 0
    for step in range(150000):
        number = (number * 31 + step) % 1000003
    return [str(number).encode()]
"#;

#[test]
#[ignore = "measures"]
fn computing_in_parallel() {
    let run = |directives: &str| {
        let nginx = Site::plain().app(COMPUTES).http("keepalive_requests 1000000;").http(directives).start();
        nginx.get("/").expect(200);
        let worker = Process(nginx.workers()[0]);
        let (start, before) = (Instant::now(), worker.cpu());
        let rate = rate(&nginx, &["/".to_owned()], 4);
        let processors = (worker.cpu() - before).as_secs_f64() / start.elapsed().as_secs_f64();
        println!("\n{rate:8.1} answers/s on {processors:.2} processors  {directives}");
        rate
    };
    let threads = "wsgi_threads 2;";
    let main = run(threads);
    let shared = run(&format!("{threads} {ON} wsgi_interpreters 2;"));
    println!("two copies with one GIL: {:.2} times the main interpreter alone", shared / main);
    if has_own_gil() {
        let own = run(&format!("{threads} {ON} wsgi_interpreters 2; wsgi_interpreter_gil own;"));
        println!("two copies with a GIL each: {:.2} times the main interpreter alone", own / main);
    }
}

/// A site with this many interpreters of the same application, named 0, 1, ….
fn many(site: Site, count: usize, pass: &str, directives: &str) -> Site {
    let site = site.http("keepalive_requests 1000000;").http(ON).http(directives);
    (0..count).fold(site, |site, number| {
        site.location(
            &format!("/{number}/"),
            &format!("{pass} wsgi_interpreter i{number}; wsgi_script_name /{number};"),
        )
    })
}

#[test]
#[ignore = "measures"]
fn many_interpreters_in_a_worker() {
    for gil in if has_own_gil() { &["shared", "own"][..] } else { &["shared"] } {
        for count in [1, 10, 50] {
            let directives = format!("wsgi_threads 2; wsgi_interpreter_gil {gil};");
            let nginx = many(Site::plain().file("app.py", HELLO), count, "wsgi_pass app.py;", &directives).start();
            let paths: Vec<String> = (0..count).map(|number| format!("/{number}/")).collect();
            for path in &paths {
                nginx.get(path).expect(200);
            }
            println!("\n{:8.0} answers/s  {count} interpreters, GIL {gil}", rate(&nginx, &paths, 16));
        }
    }
}

/// Memory and time until all of `count` interpreters have answered.
fn start(count: usize, site: Site, pass: &str, directives: &str, path: &str) -> (f64, f64) {
    let start = Instant::now();
    let nginx = many(site, count, pass, directives).start();
    std::thread::scope(|scope| {
        for number in 0..count {
            let nginx = &nginx;
            scope.spawn(move || nginx.get(&format!("/{number}/{path}")).expect(200));
        }
    });
    let time = start.elapsed().as_secs_f64() * 1000.0;
    let worker = Process(nginx.workers()[0]);
    let memory = worker.memory() as f64 / 1024.0 / 1024.0;
    (memory, time)
}

#[test]
#[ignore = "measures"]
fn one_more_interpreter() {
    let empty = || Site::plain().file("app.py", HELLO);
    let django =
        || Site::plain().repository_folder("django_site").http(&format!("wsgi_python_home {};", venv().display()));
    let cases: [(&str, &dyn Fn() -> Site, &str, &str); 2] = [
        ("an empty application", &empty, "wsgi_pass app.py;", ""),
        ("Django with its admin", &django, "wsgi_pass project/wsgi.py;", "hello/you"),
    ];
    for (name, site, pass, path) in cases {
        for gil in if has_own_gil() { &["shared", "own"][..] } else { &["shared"] } {
            let directives = format!("wsgi_threads 4; wsgi_interpreter_gil {gil};");
            let (one, eleven) = (1, 11);
            let measure = |count| start(count, site(), pass, &directives, path);
            let ((less, short), (more, long)) = (measure(one), measure(eleven));
            let difference = (eleven - one) as f64;
            println!(
                "\n{name}, GIL {gil}: {less:.1} MB and {short:.0} ms with one; {:.1} MB and {:.0} ms for each one more",
                (more - less) / difference,
                (long - short) / difference
            );
        }
    }
}
