//! `nginx -s reload` every second under load, of an application whose import takes three.

use crate::harness::{Engine, Load, Nginx, Site, both_engines, wait_for};
use std::time::{Duration, Instant};

both_engines!(a_reload_every_second_loses_no_request, a_checked_reload_every_second_loses_no_request);

/// Each worker says from when to when it has imported, by the clock that nginx logs with.
const APP: &str = r#"
import os, time
begin = time.time()
time.sleep(3)
import ngx_wsgi
if not ngx_wsgi.checking:
    with open("@prefix@/events", "a") as events:
        events.write(f"{os.getpid()} {begin} {time.time()}\n")

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"fine"]
"#;

/// Far more than there are where each worker ends when its import has ended: the one that serves, and those that were
/// started within the three seconds before it.
const MOST_WORKERS: usize = 8;

/// Every second there is a new worker, which imports while it is told to quit.
fn a_reload_every_second_loses_no_request(engine: Engine) {
    reload_every_second(engine, "wsgi_check off;");
}

/// The master imports as well, and takes the reloads that come meanwhile as one.
fn a_checked_reload_every_second_loses_no_request(engine: Engine) {
    reload_every_second(engine, "wsgi_check on;");
}

/// `WSGI_TEST_RELOAD_SECONDS=60` for a minute of it.
fn reload_every_second(engine: Engine, check: &str) {
    let seconds = std::env::var("WSGI_TEST_RELOAD_SECONDS").map_or(8, |n| n.parse().expect("a number"));
    let mut site = Site::new(engine)
        .http(check)
        .http("log_format worker '$pid $msec';")
        .app(APP)
        .file("static/file", "static")
        .location("/static/", "root @prefix@; access_log logs/access.log harness; access_log logs/files.log worker;");
    if engine == Engine::Inline {
        // A worker that comes from its import has been told to quit by then: it takes what waits, or one connection.
        site = site.events("multi_accept on;");
    }
    let nginx = site.start();
    nginx.get("/").expect(200);

    let (calls, files) = (Load::start(&nginx, "/", 4), Load::start(&nginx, "/static/file", 1));
    let mut most_workers = 0;
    let start = Instant::now();
    for second in 1..=seconds {
        let reload = nginx.run(&["-s", "reload"]);
        assert!(reload.status.success(), "{reload:?}");
        while start.elapsed() < Duration::from_secs(second) {
            most_workers = most_workers.max(nginx.all_children().len());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let (calls, files) = (calls.stop(), files.stop());
    let workers = nginx.logged("start worker process ").len();
    eprintln!("{engine:?}, {check} {workers} workers, {most_workers} at a time; calls: {calls:?}; files: {files:?}");

    calls.assert_good();
    files.assert_good();
    // A request sent a second time was not received the first time.
    assert_logged(&nginx, "200 GET / ", calls.good + 1);
    assert_logged(&nginx, "200 GET /static/file ", files.good);
    assert_eq!(nginx.read("logs/access.log").lines().count(), calls.good + 1 + files.good);

    // Nothing waits for two imports one after the other.
    let limit = 2 * longest_import(&nginx);
    assert!(calls.longest < limit, "a call took {:?}, an import {:?}", calls.longest, limit / 2);
    assert!(workers as u64 > seconds / 4, "{workers} workers in {seconds} seconds");
    assert!(most_workers <= MOST_WORKERS, "{most_workers} workers at a time");
    wait_for("the end of all old workers", || (nginx.all_children().len() == 1).then_some(()));
    match engine {
        Engine::Threads => {
            assert_files_were_served_during_imports(&nginx);
        }
        Engine::Inline => assert!(files.longest < limit, "a file took {:?}", files.longest),
    }
}

#[track_caller]
fn assert_logged(nginx: &Nginx, line: &str, times: usize) {
    let count = || nginx.read("logs/access.log").lines().filter(|l| l.starts_with(line)).count();
    // A client has its response a moment before it is logged.
    wait_for(&format!("{times} times {line:?} in the access log"), || (count() >= times).then_some(()));
    assert_eq!(count(), times, "{line:?} in the access log");
}

/// The longest import of a worker, which takes more than three seconds on a busy machine.
fn longest_import(nginx: &Nginx) -> Duration {
    let imports = nginx.events();
    let took = imports.iter().map(|import| {
        let times: Vec<f64> = import.split(' ').skip(1).map(|time| time.parse().unwrap()).collect();
        times[1] - times[0]
    });
    Duration::from_secs_f64(took.fold(0.0, f64::max))
}

/// By workers that imported the application at that moment; not the first, nor perhaps the last.
#[track_caller]
fn assert_files_were_served_during_imports(nginx: &Nginx) {
    let log = nginx.read("logs/files.log");
    let served: Vec<_> = log.lines().filter_map(|line| line.split_once(' ')).collect();
    let imports = nginx.events();
    let has_served = |import: &&String| {
        let [pid, begin, end] = import.split(' ').collect::<Vec<_>>()[..] else { panic!("{import}") };
        let [begin, end] = [begin, end].map(|time| time.parse::<f64>().unwrap());
        served.iter().any(|(by, time)| *by == pid && (begin..end).contains(&time.parse::<f64>().unwrap()))
    };
    let count = imports.iter().filter(has_served).count();
    assert!(count > 0 && count + 2 >= imports.len(), "during {count} of the imports {imports:?}");
}
