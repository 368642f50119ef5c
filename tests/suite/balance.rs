//! Balance between workers: a worker without a free thread leaves new connections to one that has a free thread.

use crate::harness::{Conn, Nginx, Process, SeededRng, Site, wait_for};
use std::fs;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// `/hold` responds once the file `go` is there, everything else responds at once; with the id of the worker.
const APP: &str = r#"
import os
import time

@event@

def application(environ, start_response):
    if environ["PATH_INFO"] == "/hold":
        event(f"holds {os.getpid()}")
        while not os.path.exists("@prefix@/go"):
            time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
"#;

const REQUESTS: usize = 100;
/// Number of requests that a full worker may get all the same: it accepts connections if the other one, which has a free
/// thread, gets no processor time for long.
const MISTAKES: usize = REQUESTS / 10;
/// How long a test waits for a response before it sends the next request.
const PAUSE: Duration = Duration::from_millis(200);

/// A site of workers with one thread each. `/file` is a static file.
fn site() -> Site {
    Site::plain()
        .app(APP)
        .http("wsgi_threads 1;")
        .workers(2)
        .file("static/file", "static")
        .location("= /file", "root @prefix@/static;")
}

/// Sends a request on a connection of its own, and returns the response's body.
#[track_caller]
fn get(nginx: &Nginx, path: &str) -> String {
    let mut conn = nginx.connect();
    conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    conn.response().expect(200).text()
}

/// Occupies the thread of a worker until [`release`]. Returns the worker.
#[track_caller]
fn hold<'scope>(scope: &'scope std::thread::Scope<'scope, '_>, nginx: &'scope Nginx) -> i32 {
    scope.spawn(|| get(nginx, "/hold"));
    let event = wait_for("a call that holds its thread", || nginx.events().first().cloned());
    event.strip_prefix("holds ").unwrap().parse().unwrap()
}

fn release(nginx: &Nginx) {
    nginx.write("go", "");
}

/// Sends requests one after the other, lets the calls of [`hold`] end, and returns how many of the requests a worker has
/// served.
#[track_caller]
fn count_served_by<'scope>(scope: &'scope std::thread::Scope<'scope, '_>, nginx: &'scope Nginx, worker: i32) -> usize {
    let (done, bodies) = mpsc::channel();
    let mut workers = Vec::new();
    for _ in 0..REQUESTS {
        let done = done.clone();
        scope.spawn(move || done.send(get(nginx, "/")));
        workers.extend(bodies.recv_timeout(PAUSE));
    }
    drop(done);
    release(nginx);
    workers.extend(bodies);
    assert_eq!(workers.len(), REQUESTS);
    workers.iter().filter(|body| **body == worker.to_string()).count()
}

/// Inode of the only socket that listens on the port of this nginx.
fn listening_inode(nginx: &Nginx) -> u64 {
    let address = format!(":{:04X}", nginx.port());
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // State 0A listens.
    let row = rows.find(|row| row[1].ends_with(&address) && row[3] == "0A").expect("nginx listens");
    row[9].parse().unwrap()
}

/// The event loop of a worker waits for new connections.
fn accepts(nginx: &Nginx, worker: i32) -> bool {
    let inode = format!("ino:{:x}", listening_inode(nginx));
    let descriptors = fs::read_dir(format!("/proc/{worker}/fdinfo")).into_iter().flatten().flatten();
    let infos = descriptors.filter_map(|descriptor| fs::read_to_string(descriptor.path()).ok());
    infos.flat_map(|info| info.lines().map(str::to_owned).collect::<Vec<_>>()).any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("tfd:") && words.any(|word| word == inode)
    })
}

#[track_caller]
fn wait_accepts(nginx: &Nginx, worker: i32, accepts: bool) {
    let what = format!("worker {worker} to accept connections: {accepts}");
    wait_for(&what, || (self::accepts(nginx, worker) == accepts).then_some(()));
}

/// Workers that serve calls, once all have loaded the application: before that no thread counts as free.
fn ready_workers(nginx: &Nginx) -> Vec<i32> {
    let workers = nginx.workers();
    let mut missing = workers.clone();
    wait_for("a response of each worker", || {
        let pid: i32 = get(nginx, "/").parse().unwrap();
        missing.retain(|worker| *worker != pid);
        missing.is_empty().then_some(())
    });
    workers
}

fn other(workers: &[i32], worker: i32) -> i32 {
    *workers.iter().find(|other| **other != worker).expect("two workers")
}

#[test]
fn new_connections_go_to_the_worker_with_a_free_thread() {
    let nginx = site().start();
    ready_workers(&nginx);
    std::thread::scope(|scope| {
        let held = hold(scope, &nginx);
        wait_accepts(&nginx, held, false);
        let mistakes = count_served_by(scope, &nginx, held);
        assert!(mistakes <= MISTAKES, "{mistakes}");
        // Its thread is free again.
        wait_accepts(&nginx, held, true);
    });
}

#[test]
fn a_full_worker_takes_connections_with_the_balance_off() {
    let nginx = site().http("wsgi_balance off;").location("= /worker", "return 200 $pid;").start();
    ready_workers(&nginx);
    std::thread::scope(|scope| {
        let held = hold(scope, &nginx);
        wait_for("a connection to the full worker", || (get(&nginx, "/worker") == held.to_string()).then_some(()));
        assert!(accepts(&nginx, held));
        release(&nginx);
    });
}

#[test]
fn static_files_are_served_while_no_worker_has_a_free_thread() {
    let nginx = site().start();
    let workers = ready_workers(&nginx);
    std::thread::scope(|scope| {
        let first = hold(scope, &nginx);
        wait_accepts(&nginx, first, false);
        let second = other(&workers, first);
        wait_for("a call that holds the other thread", || {
            // More than one: the full worker may get some.
            scope.spawn(|| get(&nginx, "/hold"));
            std::thread::sleep(PAUSE);
            nginx.events().contains(&format!("holds {second}")).then_some(())
        });
        for _ in 0..REQUESTS {
            assert_eq!(get(&nginx, "/file"), "static");
        }
        // None has more room than the other.
        workers.iter().for_each(|worker| wait_accepts(&nginx, *worker, true));
        release(&nginx);
    });
    assert_eq!(get(&nginx, "/file"), "static");
}

#[test]
fn connections_go_to_a_full_worker_before_the_other_has_no_more() {
    let nginx = site().events("worker_connections 64;").start();
    let workers = ready_workers(&nginx);
    std::thread::scope(|scope| {
        let held = hold(scope, &nginx);
        wait_accepts(&nginx, held, false);
        let mut conns: Vec<Conn> = (0..REQUESTS).map(|_| nginx.connect()).collect();
        // nginx may close a connection without any byte of a request when it has few.
        conns.iter_mut().for_each(|conn| _ = conn.send("GET /file HTTP/1.1\r\n"));
        wait_accepts(&nginx, held, true);
        for conn in &mut conns {
            let response = conn.send("Host: a\r\nConnection: close\r\n\r\n").response().expect(200);
            assert_eq!(response.text(), "static");
        }
        drop(conns);
        wait_accepts(&nginx, held, false);
        wait_accepts(&nginx, other(&workers, held), true);
        release(&nginx);
    });
}

#[test]
fn a_worker_that_exits_is_not_relied_on() {
    let nginx = site().start();
    let workers = ready_workers(&nginx);
    std::thread::scope(|scope| {
        let held = hold(scope, &nginx);
        wait_accepts(&nginx, held, false);
        // A request that has begun keeps the other worker from exiting.
        let mut conn = nginx.connect();
        conn.send("GET /file HTTP/1.1\r\n");
        std::thread::sleep(PAUSE);
        let exiting = Process(other(&workers, held));
        exiting.signal(libc::SIGQUIT);
        wait_accepts(&nginx, held, true);
        assert_eq!(get(&nginx, "/file"), "static");
        let response = conn.send("Host: a\r\nConnection: close\r\n\r\n").response().expect(200);
        assert_eq!(response.text(), "static");
        exiting.wait_gone();
        release(&nginx);
    });
}

#[test]
fn a_full_worker_wakes_up_rarely() {
    let nginx = site().start();
    ready_workers(&nginx);
    std::thread::scope(|scope| {
        let held = hold(scope, &nginx);
        wait_accepts(&nginx, held, false);
        let before = Process(held).waits();
        std::thread::sleep(Duration::from_secs(1));
        let waits = Process(held).waits() - before;
        assert!(waits < 60, "{waits}");
        release(&nginx);
    });
}

#[test]
fn a_worker_that_does_not_respond_is_not_relied_on() {
    let nginx = site().start();
    let workers = ready_workers(&nginx);
    std::thread::scope(|scope| {
        let held = hold(scope, &nginx);
        wait_accepts(&nginx, held, false);
        let stopped = Process(other(&workers, held));
        stopped.signal(libc::SIGSTOP);
        for _ in 0..REQUESTS {
            assert_eq!(get(&nginx, "/file"), "static");
        }
        stopped.signal(libc::SIGCONT);
        wait_accepts(&nginx, held, false);
        release(&nginx);
    });
}

#[test]
fn a_worker_that_was_killed_is_not_relied_on() {
    let mut nginx = site().start();
    let workers = ready_workers(&nginx);
    std::thread::scope(|scope| {
        let held = hold(scope, &nginx);
        wait_accepts(&nginx, held, false);
        let killed = other(&workers, held);
        Process(killed).signal(libc::SIGKILL);
        for _ in 0..REQUESTS {
            assert_eq!(get(&nginx, "/file"), "static");
        }
        wait_for("the new worker", || {
            let workers = nginx.workers();
            (workers.len() == 2 && !workers.contains(&killed)).then_some(())
        });
        wait_accepts(&nginx, held, false);
        let mistakes = count_served_by(scope, &nginx, held);
        assert!(mistakes <= MISTAKES, "{mistakes}");
    });
    nginx.wait_expected_error("exited on signal 9");
}

#[test]
fn new_workers_do_not_know_the_load_of_old_ones() {
    let nginx = site().start();
    ready_workers(&nginx);
    std::thread::scope(|scope| {
        let held = hold(scope, &nginx);
        wait_accepts(&nginx, held, false);
        let workers = nginx.reload();
        assert_eq!(ready_workers(&nginx), workers);
        workers.iter().for_each(|worker| wait_accepts(&nginx, *worker, true));
        release(&nginx);
        Process(held).wait_gone();
    });
}

#[test]
fn a_worker_with_sockets_of_its_own_accepts() {
    for site in [
        site().listen("listen 127.0.0.1:@port@ reuseport; server_name localhost;"),
        site().events("accept_mutex on;"),
        site().workers(1),
        site().main("master_process off;"),
    ] {
        let nginx = site.location("= /worker", "return 200 $pid;").start();
        std::thread::scope(|scope| {
            let held = hold(scope, &nginx);
            wait_for("a connection to the full worker", || (get(&nginx, "/worker") == held.to_string()).then_some(()));
            release(&nginx);
        });
    }
}

/// Responds after 10 ms, or after 100 ms to one request in ten.
const SLOW: &str = r#"
import time

def application(environ, start_response):
    time.sleep(0.1 if environ["PATH_INFO"] == "/slow" else 0.01)
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"#;

/// Mean time of a call of [`SLOW`] in seconds.
const MEAN: f64 = 0.9 * 0.01 + 0.1 * 0.1;
const WORKERS: usize = 4;
const THREADS: usize = 4;
const ARRIVALS: usize = 4000;
const ROUNDS: u64 = 3;

/// Sends requests at random times, each on a connection of its own, whatever the server does. Returns the times from the
/// planned arrival to the end of the response in milliseconds, sorted.
fn latencies(port: u16, load: f64, seed: u64) -> Vec<f64> {
    let mut rng = SeededRng::new(seed);
    let mut random = move || (rng.below(1 << 30) as f64 + 0.5) / f64::from(1 << 30);
    let rate = load * (WORKERS * THREADS) as f64 / MEAN;
    let start = Instant::now();
    let mut due = 0.0;
    let (done, times) = mpsc::channel();
    for _ in 0..ARRIVALS {
        due -= random().ln() / rate;
        let path = if random() < 0.1 { "/slow" } else { "/" };
        let (due, done) = (start + Duration::from_secs_f64(due), done.clone());
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        std::thread::spawn(move || {
            let mut conn = Conn::open(([127, 0, 0, 1], port).into());
            conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
            conn.response().expect(200);
            done.send(due.elapsed().as_secs_f64() * 1000.0)
        });
    }
    drop(done);
    let mut times: Vec<f64> = times.iter().collect();
    assert_eq!(times.len(), ARRIVALS, "responses");
    times.sort_by(f64::total_cmp);
    times
}

/// Prints the latencies of docs/tuning.md. `GUNICORN` names the program to compare with.
#[test]
#[ignore = "measures"]
fn latencies_under_load() {
    let start = |directives: &str| {
        let site = Site::plain().app(SLOW).http("wsgi_threads 4;").http(directives).workers(WORKERS);
        site.log_level("notice").start()
    };
    let (off, on) = (start("wsgi_balance off;"), start("wsgi_balance on;"));
    let mut servers = vec![("wsgi_balance off", off.port()), ("wsgi_balance on", on.port())];
    let directory = on.prefix();
    let gunicorn = std::env::var_os("GUNICORN").map(|program| {
        let port = Site::plain().another_port();
        servers.push(("gunicorn gthread", port));
        let size = [("--workers", WORKERS), ("--threads", THREADS), ("--backlog", 511)];
        let mut command = Command::new(program);
        command.args(["--worker-class", "gthread", "--bind", &format!("127.0.0.1:{port}"), "--chdir"]).arg(directory);
        size.iter().for_each(|(option, value)| {
            command.arg(option).arg(value.to_string());
        });
        let child = command.arg("app:application").spawn().expect("run gunicorn");
        wait_for("gunicorn", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        child
    });
    for load in [0.5, 0.7, 0.9] {
        let mut found = vec![Vec::new(); servers.len()];
        for seed in 0..ROUNDS {
            for ((_, port), found) in servers.iter().zip(&mut found) {
                let times = latencies(*port, load, seed);
                found.push([0.5, 0.9, 0.99].map(|part| times[(times.len() as f64 * part) as usize]));
            }
        }
        for ((name, _), found) in servers.iter().zip(&found) {
            let median = |index: usize| {
                let mut values: Vec<f64> = found.iter().map(|times| times[index]).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            println!(
                "{load:.1} {name:18} 50 %: {:4.0} ms, 90 %: {:4.0} ms, 99 %: {:4.0} ms",
                median(0),
                median(1),
                median(2)
            );
        }
    }
    if let Some(mut gunicorn) = gunicorn {
        Process(gunicorn.id() as i32).signal(libc::SIGTERM);
        gunicorn.wait().expect("gunicorn ends");
    }
}
