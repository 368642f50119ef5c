//! `$wsgi_…` in the access log and in `map`.

use crate::harness::{Engine, Nginx, Site, both_engines, wait_for};
use std::time::{Duration, Instant};

both_engines!(
    a_call_has_its_times_thread_and_application,
    a_request_without_a_call_has_none,
    an_exception_has_its_class,
    they_survive_an_error_page,
    a_subrequest_has_its_own,
    a_map_can_choose_by_them,
    the_load_of_the_worker_is_there_for_every_request,
);

const APP: &str = r#"
import time

class Odd(Exception):
    pass

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/odd":
        raise Odd("oh")
    if path == "/builtin":
        raise ValueError("oh")
    if path == "/spin":
        print("spinning")
        while True:
            pass
    if path == "/slow":
        time.sleep(0.2)
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/slow":
        def body():
            yield b"slow"
            time.sleep(0.3)
        return body()
    if path == "/sleep":
        time.sleep(0.5)
    return [b"fine"]
"#;

const FORMAT: &str = "log_format calls '$uri|$status|$wsgi_app|$wsgi_interpreter|$wsgi_thread|$wsgi_queue_time|$wsgi_app_time|\
                      $wsgi_time|$wsgi_exception'; access_log logs/calls.log calls;";

fn site(engine: Engine) -> Site {
    Site::new(engine).app(APP).http(FORMAT).location("= /static", "return 200 static;").errors_expected()
}

/// The fields of the first line that begins with this.
#[track_caller]
fn fields(nginx: &Nginx, start: &str) -> Vec<String> {
    let start = format!("{start}|");
    let line = wait_for(&format!("a line {start:?}"), || {
        nginx.read("logs/calls.log").lines().find(|line| line.starts_with(&start)).map(str::to_owned)
    });
    line.split('|').map(str::to_owned).collect()
}

/// The format of nginx's `$request_time`.
#[track_caller]
fn milliseconds(field: &str) -> u64 {
    let (seconds, fraction) = field.split_once('.').unwrap_or_else(|| panic!("no time: {field:?}"));
    assert_eq!(fraction.len(), 3, "{field}");
    seconds.parse::<u64>().unwrap() * 1000 + fraction.parse::<u64>().unwrap()
}

fn a_call_has_its_times_thread_and_application(engine: Engine) {
    let nginx = site(engine).start();
    let start = Instant::now();
    nginx.get("/slow").expect(200);
    let line = fields(&nginx, "/slow");
    let elapsed = start.elapsed().as_millis() as u64;
    assert_eq!(line[1], "200");
    assert_eq!(line[2], nginx.prefix().join("app.py").to_str().unwrap());
    assert_eq!(line[3], "main");
    match engine {
        Engine::Threads => assert!(line[4].strip_prefix("wsgi-").is_some_and(|n| n.parse::<u32>().is_ok()), "{line:?}"),
        Engine::Inline => assert_eq!(line[4], "main"),
    }
    let (queue, application, all) = (milliseconds(&line[5]), milliseconds(&line[6]), milliseconds(&line[7]));
    assert!(application >= 200 && all >= 500 && application < all, "{line:?}");
    // The time in the queue is no part of the time of the call.
    assert!(queue + all <= elapsed, "{line:?} in {elapsed} ms");
    assert_eq!(line[8], "-");
}

fn a_request_without_a_call_has_none(engine: Engine) {
    let nginx = site(engine).start();
    nginx.get("/static").expect(200);
    assert_eq!(fields(&nginx, "/static")[2..], ["-"; 7]);
}

fn an_exception_has_its_class(engine: Engine) {
    let nginx = site(engine).start();
    nginx.get("/odd").expect(500);
    nginx.get("/builtin").expect(500);
    assert!(fields(&nginx, "/odd")[8].ends_with(".Odd"), "{:?}", fields(&nginx, "/odd"));
    let line = fields(&nginx, "/builtin");
    assert_eq!((line[6].as_str(), line[8].as_str()), ("-", "ValueError"));
}

fn they_survive_an_error_page(engine: Engine) {
    let nginx =
        site(engine).server("error_page 500 /sorry;").location("= /sorry", "internal; return 500 sorry;").start();
    assert_eq!(nginx.get("/builtin").expect(500).text(), "sorry");
    let line = fields(&nginx, "/sorry");
    assert_eq!((line[1].as_str(), line[8].as_str()), ("500", "ValueError"));
    milliseconds(&line[7]);
}

fn a_subrequest_has_its_own(engine: Engine) {
    let nginx = site(engine)
        .server("log_subrequest on;")
        .location("= /guarded", "auth_request /sleep; return 200; ")
        .location("= /protected", "auth_request /sleep; wsgi_pass app.py;")
        .start();
    nginx.get("/protected").expect(200);
    let of_subrequest = milliseconds(&fields(&nginx, "/sleep")[7]);
    assert!(of_subrequest >= 500);
    assert!(milliseconds(&fields(&nginx, "/protected")[7]) < of_subrequest);
}

fn a_map_can_choose_by_them(engine: Engine) {
    let nginx = site(engine)
        .http("map $wsgi_exception $failed { default 1; '' 0; }")
        .http("access_log logs/failed.log calls if=$failed;")
        .start();
    nginx.get("/").expect(200);
    nginx.get("/builtin").expect(500);
    fields(&nginx, "/builtin");
    wait_for("the line", || nginx.read("logs/failed.log").contains("/builtin|500").then_some(()));
    assert_eq!(nginx.read("logs/failed.log").lines().count(), 1);
}

fn the_load_of_the_worker_is_there_for_every_request(engine: Engine) {
    let nginx = site(engine)
        .server("add_header X-Busy $wsgi_busy; add_header X-Waiting $wsgi_waiting;")
        .location("= /load", "default_type text/plain; return 200 '$wsgi_busy $wsgi_waiting';")
        .start();
    nginx.get("/").expect(200);
    let load = || nginx.get("/load").expect(200).text();
    wait_for("an idle worker", || (load() == "0 0").then_some(()));
    // The headers go out while the call runs.
    let busy = nginx.get("/slow").expect(200);
    assert_eq!((busy.header("X-Busy"), busy.header("X-Waiting")), (Some("1"), Some("0")));
    if engine == Engine::Threads {
        let sleeping: Vec<_> = (0..5)
            .map(|_| {
                let mut connection = nginx.connect();
                connection.send("GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n");
                connection
            })
            .collect();
        wait_for("four busy threads and a call that waits", || (load() == "4 1").then_some(()));
        sleeping.into_iter().for_each(|mut connection| drop(connection.response().expect(200)));
        wait_for("an idle worker", || (load() == "0 0").then_some(()));
    }
}

#[test]
fn the_time_in_the_queue_is_not_that_of_the_application() {
    let nginx = Site::plain().app(APP).http("wsgi_threads 1;").http(FORMAT).start();
    let mut first = nginx.connect();
    first.send("GET /sleep HTTP/1.1\r\nHost: a\r\n\r\n");
    nginx.wait_log("start worker process ");
    std::thread::sleep(Duration::from_millis(100));
    nginx.get("/?behind").expect(200);
    let line = fields(&nginx, "/");
    assert!(milliseconds(&line[5]) >= 250, "{line:?}");
    assert!(milliseconds(&line[7]) < milliseconds(&line[5]), "{line:?}");
    first.response().expect(200);
}

#[test]
fn calls_that_end_by_a_limit_are_in_the_log() {
    let nginx = Site::plain()
        .app(APP)
        .http("wsgi_threads 1; wsgi_queue_timeout 100ms; wsgi_request_timeout 600ms;")
        .http(FORMAT)
        .errors_expected()
        .start();
    wait_for("Python", || (nginx.get("/").status == 200).then_some(()));
    let mut spinning = nginx.connect();
    spinning.send("GET /spin HTTP/1.1\r\nHost: a\r\n\r\n");
    nginx.wait_log("spinning");
    nginx.get("/late").expect(503);
    spinning.response().expect(504);
    let spin = fields(&nginx, "/spin");
    assert_eq!((spin[1].as_str(), spin[8].as_str()), ("504", "ngx_wsgi.RequestTimeout"));
    assert_eq!((spin[4].as_str(), spin[6].as_str()), ("wsgi-1", "-"));
    assert!(milliseconds(&spin[7]) >= 600, "{spin:?}");
    // The one that never started.
    let late = fields(&nginx, "/late");
    assert!(milliseconds(&late[5]) >= 90, "{late:?}");
    assert_eq!([&late[4], &late[6], &late[7], &late[8]], ["-"; 4]);
}
