//! The counters of `wsgi_status_zone` agree with those of the clients, whatever happens to the workers: after reloads
//! exactly, after kills except for the calls that were in a killed worker.

use crate::harness::{Engine, GroupNginx, Nginx, Process, SeededRng, Site, wait_for};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::{AddAssign, RangeInclusive};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const APP: &str = r#"
import time

def application(environ, start_response):
    received = len(environ["wsgi.input"].read())
    path = environ["PATH_INFO"]
    if path == "/raise":
        raise LookupError("oh")
    if path == "/sleep":
        time.sleep(0.02)
    status = {"/302": "302 Found", "/404": "404 Not Found", "/503": "503 Busy"}.get(path, "200 OK")
    start_response(status, [("Content-Type", "text/plain"), ("Location", "/")])
    return [b"x" * (received + 10)]
"#;

const PATHS: [&str; 8] = ["/", "/", "/", "/sleep", "/302", "/404", "/503", "/raise"];

/// Time that a client waits for a response.
const PATIENCE: Duration = Duration::from_secs(20);

const CLIENTS: usize = 4;

/// The applications: in nginx's own workers, and in a process group.
const MOUNTS: [(&str, Option<&str>); 2] = [("/own", None), ("/group", Some("blog"))];

/// What clients know about the calls of an application.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// Complete responses, by the first digit of their status.
    classes: [u64; 6],
    exceptions: u64,
    received: u64,
    sent: u64,
    /// Requests without a complete response, because the client or the worker has left: calls or not.
    uncertain: u64,
}

impl AddAssign<&Seen> for Seen {
    fn add_assign(&mut self, other: &Seen) {
        for (sum, count) in self.classes.iter_mut().zip(other.classes) {
            *sum += count;
        }
        self.exceptions += other.exceptions;
        self.received += other.received;
        self.sent += other.sent;
        self.uncertain += other.uncertain;
    }
}

impl Seen {
    fn answered(&self) -> u64 {
        self.classes.iter().sum()
    }
}

/// Sends a request, and returns status and length of the complete response.
fn ask(address: SocketAddr, request: &[u8]) -> Option<(u16, u64)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(request).ok()?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).ok()?;
    let end = response.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&response[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    ((response.len() - end) as u64 == length).then_some((status, length))
}

/// Sends requests of all kinds, until it is over.
fn visit(address: SocketAddr, seed: u64, is_over: &AtomicBool) -> [Seen; 2] {
    let (mut rng, mut seen) = (SeededRng::new(seed), <[Seen; 2]>::default());
    while !is_over.load(Ordering::Relaxed) {
        let index = rng.size(MOUNTS.len());
        let (mount, _) = MOUNTS[index];
        let seen = &mut seen[index];
        let path = rng.choose(&PATHS);
        let body = "b".repeat(if rng.below(3) == 0 { rng.size(5000) } else { 0 });
        let length = body.len();
        let request = format!(
            "POST {mount}{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        if rng.below(20) == 0 {
            // Leaves at some time.
            seen.uncertain += 1;
            if let Ok(mut stream) = TcpStream::connect(address) {
                let _ = stream.write_all(request.as_bytes());
                std::thread::sleep(Duration::from_millis(rng.below(20)));
            }
            continue;
        }
        match ask(address, request.as_bytes()) {
            // The front responds in place of a worker that was killed.
            None | Some((502 | 504, _)) => seen.uncertain += 1,
            Some((status, length)) => {
                seen.classes[usize::from(status / 100)] += 1;
                seen.received += body.len() as u64;
                if path == "/raise" {
                    seen.exceptions += 1;
                } else {
                    seen.sent += length;
                }
            }
        }
    }
    seen
}

/// Notifies the clients at its end, also after a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Soak<'a> {
    nginx: &'a GroupNginx,
    seen: [Seen; 2],
    /// Calls that may have been in a worker when it was killed, after their response.
    killed: u64,
    seed: u64,
}

impl Soak<'_> {
    /// Lets clients visit for this time, and calls `disturb` meanwhile.
    fn visit(&mut self, time: Duration, mut disturb: impl FnMut(&Nginx)) {
        let (address, is_over, end) = (self.nginx.address(), AtomicBool::new(false), Instant::now() + time);
        let seen = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    self.seed += 1;
                    let (seed, is_over) = (self.seed, &is_over);
                    scope.spawn(move || visit(address, seed, is_over))
                })
                .collect();
            let over = Over(&is_over);
            while Instant::now() < end {
                std::thread::sleep(Duration::from_millis(700).min(end - Instant::now()));
                disturb(self.nginx);
            }
            drop(over);
            clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
        });
        for both in seen {
            for (sum, seen) in self.seen.iter_mut().zip(&both) {
                *sum += seen;
            }
        }
    }

    /// Compares the counters with what the clients have seen, once no call is left.
    #[track_caller]
    fn compare(&self) {
        let report = wait_for("the end of all calls", || {
            let report = self.nginx.get("/status?format=json").expect(200).json();
            let applications = report["applications"].as_array().unwrap();
            let is_idle = applications.iter().all(|one| one["running"] == 0 && one["queued"] == 0);
            (is_idle && report["calls"].as_array().unwrap().is_empty()).then_some(report)
        });
        for ((_, group), seen) in MOUNTS.iter().zip(&self.seen) {
            let applications = report["applications"].as_array().unwrap();
            let application = applications.iter().find(|one| one["process_group"].as_str() == *group).unwrap();
            self.compare_application(application, seen);
        }
    }

    #[track_caller]
    fn compare_application(&self, application: &Value, seen: &Seen) {
        let counters = &application["counters"];
        let check = |what: &str, range: RangeInclusive<u64>| {
            let count = counters.pointer(what).and_then(Value::as_u64).unwrap();
            assert!(range.contains(&count), "{what}: {count} is not in {range:?}\n{seen:?}\n{counters:#}");
        };
        let around = |count: u64| count.saturating_sub(self.killed)..=count + seen.uncertain;
        check("/calls", around(seen.answered()));
        for class in 1..=5 {
            check(&format!("/responses/{class}xx"), around(seen.classes[class]));
        }
        check("/exceptions", around(seen.exceptions));
        check("/client_gone", 0..=seen.uncertain);
        const MOST: u64 = 5010;
        let bytes = |count: u64| count.saturating_sub(self.killed * MOST)..=count + seen.uncertain * MOST;
        check("/bytes_received", bytes(seen.received));
        check("/bytes_sent", bytes(seen.sent));
        let calls = counters["calls"].as_u64();
        assert_eq!(counters["total_time"]["count"].as_u64(), calls);
        assert_eq!(application["exceptions"]["LookupError"], counters["exceptions"]);
    }
}

fn soak(seconds: u64) {
    let site = Site::new(Engine::Threads)
        .errors_expected()
        .workers(2)
        .http("wsgi_status_zone status 1m; wsgi_process_group blog chdir=@prefix@ processes=2;")
        .file("app.py", APP)
        .location("/own", "wsgi_pass app.py;")
        .location("/group", "wsgi_pass app.py process=blog;")
        .location("= /status", "wsgi_status;");
    let mut nginx = GroupNginx::start(site);
    for (mount, _) in MOUNTS {
        nginx.get(mount).expect(200);
    }
    let first = Seen { classes: [0, 0, 1, 0, 0, 0], sent: 10, ..Seen::default() };
    let mut soak = Soak { nginx: &nginx, seen: [first.clone(), first], killed: 0, seed: seconds };
    let half = Duration::from_secs(seconds) / 2;
    soak.visit(half, |nginx| drop(nginx.reload()));
    soak.compare();

    let mut rng = SeededRng::new(seconds);
    let mut kills = 0;
    let workers = || {
        let groups = nginx.group_workers("blog");
        nginx.workers().into_iter().chain(groups).collect::<Vec<_>>()
    };
    soak.visit(half, |nginx| {
        let workers = workers();
        if !workers.is_empty() {
            Process(rng.choose(&workers)).signal(libc::SIGKILL);
            kills += 1;
        }
        if rng.below(3) == 0 {
            // One of the old workers may have been killed just now, so it is not known how many there are.
            let old = nginx.workers();
            nginx.signal(libc::SIGHUP);
            wait_for("two new workers", || {
                let now = nginx.workers();
                (now.len() == 2 && now.iter().all(|pid| !old.contains(pid))).then_some(())
            });
        }
    });
    soak.killed = kills * CLIENTS as u64;
    soak.compare();
    let report = nginx.get("/status?format=json").expect(200).json();
    let mut reasons = BTreeMap::<&str, u64>::new();
    for ended in report["ended_workers"].as_array().unwrap() {
        *reasons.entry(ended["reason"].as_str().unwrap()).or_default() += 1;
    }
    assert!(kills > 0 && reasons["crash"] > 0 && reasons["reload"] > 0, "{kills} {reasons:?}");
    nginx.wait_expected_error("exited on signal 9");
    nginx.expect_errors("exited on signal 9");
}

#[test]
fn counters_agree_with_the_clients_after_reloads_and_kills() {
    soak(8);
}

/// `make soak SOAK_STATUS=1`.
#[test]
#[ignore = "takes minutes: SOAK_STATUS=1 make soak"]
fn counters_agree_with_the_clients_for_minutes() {
    let minutes = std::env::var("SOAK_MINUTES").ok().and_then(|minutes| minutes.parse().ok()).unwrap_or(10);
    soak(60 * minutes);
}
