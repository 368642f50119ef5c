//! Clients whose every request has a name of its own, which the application records when it is called.

use super::stress::{Ask, Visitor};
use super::{Client, SeededRng, Site};
use std::collections::HashMap;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A function of Python, `counted(environ, start_response)`, for requests whose query string is their name.
pub const COUNTED: &str = r#"
import os as _os, time as _time

def counted(environ, start_response):
    name = environ["QUERY_STRING"]
    # In one write, as other processes write as well.
    file = _os.open("@prefix@/calls", _os.O_WRONLY | _os.O_APPEND)
    _os.write(file, f"{name} {_os.getpid()}\n".encode())
    _os.close(file)
    body = environ["wsgi.input"].read()
    _time.sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{name} {len(body)}".encode()]
"#;

/// Adds the file in which the calls are recorded, by processes of any user.
pub fn with_record(site: Site) -> Site {
    let site = site.file("calls", "");
    std::fs::set_permissions(site.prefix().join("calls"), Permissions::from_mode(0o666)).unwrap();
    site
}

/// Clients at work.
pub struct CountedLoad {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<CountedStats>>,
}

/// Names of the requests, by their results.
#[derive(Debug, Default)]
pub struct CountedStats {
    pub good: Vec<String>,
    /// With what came instead of the response.
    pub failed: Vec<(String, String)>,
}

impl CountedLoad {
    /// As many clients for each path: of three one sends GET on a kept connection, one POST on a new connection each, and one
    /// chunked POST. `seed` decides about the sizes of the bodies. Names begin with the number of the path, from 0.
    pub fn start(client: &Client, paths: &[&str], clients: usize, seed: u64) -> CountedLoad {
        let stop = Arc::new(AtomicBool::new(false));
        // Of all loads, so that no name comes twice.
        static LOADS: AtomicUsize = AtomicUsize::new(0);
        let load = LOADS.fetch_add(1, Ordering::Relaxed);
        let mut all = Vec::new();
        for (place, path) in paths.iter().enumerate() {
            for number in 0..clients {
                let (stop, address, path) = (stop.clone(), client.address(), (*path).to_owned());
                let name = format!("{place}-{load}-{number}");
                all.push(std::thread::spawn(move || {
                    let rng = SeededRng::new(seed + 100 * place as u64 + number as u64);
                    run(&stop, address, &path, &name, Kind::of(number), rng)
                }));
            }
        }
        CountedLoad { stop, clients: all }
    }

    /// Ends it; what became of all its requests.
    pub fn stop(self) -> CountedStats {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = CountedStats::default();
        for client in self.clients {
            let stats = client.join().expect("a client");
            all.good.extend(stats.good);
            all.failed.extend(stats.failed);
        }
        all
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Get,
    Post,
    Chunked,
}

impl Kind {
    fn of(number: usize) -> Kind {
        [Kind::Get, Kind::Post, Kind::Chunked][number % 3]
    }
}

fn run(stop: &AtomicBool, address: SocketAddr, path: &str, name: &str, kind: Kind, mut rng: SeededRng) -> CountedStats {
    let mut stats = CountedStats::default();
    let mut visitor = Visitor::new(address);
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("{name}-{number}.");
        let size = match kind {
            Kind::Get => 0,
            Kind::Post | Kind::Chunked => 1 + rng.size(30_000),
        };
        let target = format!("{path}?{name}");
        let response = format!("{name} {size}");
        let ask = match kind {
            Kind::Get => Ask::exact("GET", &target, None, None, &response),
            Kind::Post => Ask::exact("POST", &target, Some(size), None, &response),
            Kind::Chunked => Ask::exact("POST", &target, Some(size), Some(&mut rng), &response),
        };
        if !matches!(kind, Kind::Get) {
            // A POST that was sent on a connection that has ended could not be sent again.
            visitor = Visitor::new(address);
        }
        match visitor.ask(&ask) {
            Ok(()) => stats.good.push(name),
            Err(problem) => {
                stats.failed.push((name, problem));
                visitor = Visitor::new(address);
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    stats
}

impl CountedStats {
    /// Asserts that no call failed but those that were running in a process that was killed, with status 502 and a line in
    /// the error log; and that none ran twice.
    #[track_caller]
    pub fn assert_only_lost_in(&self, killed: &[i32], client: &Client) {
        let record = client.read("calls");
        let mut calls: HashMap<&str, Vec<i32>> = HashMap::new();
        for line in record.lines() {
            let (name, pid) = line.split_once(' ').expect(line);
            calls.entry(name).or_default().push(pid.parse().expect(line));
        }
        let twice: Vec<_> = calls.iter().filter(|(_, pids)| pids.len() > 1).collect();
        assert!(twice.is_empty(), "calls that ran more than once: {twice:?}");
        let unknown: Vec<_> = self.good.iter().filter(|name| !calls.contains_key(name.as_str())).collect();
        assert!(unknown.is_empty(), "responses without a call: {unknown:?}");
        let log = client.error_log();
        for (name, problem) in &self.failed {
            let lines: Vec<&str> = log.lines().filter(|line| line.contains(&format!("?{name} "))).collect();
            let context = format!(
                "{name}: {problem}, called in {:?}, killed {killed:?}, log: {lines:#?}",
                calls.get(name.as_str())
            );
            assert!(problem.contains("HTTP/1.1 502 "), "{context}");
            assert!(lines.iter().any(|line| line.contains("[error]")), "{context}");
            match calls.get(name.as_str()) {
                Some(pids) => assert!(pids.iter().all(|pid| killed.contains(pid)), "{context}"),
                // A process had read it and was about to call the application, or the log would name another reason.
                None => assert!(
                    !killed.is_empty() && lines.iter().any(|line| line.contains("prematurely closed connection")),
                    "{context}"
                ),
            }
        }
    }

    /// Asserts that there were responses and that all are good, each of one call.
    #[track_caller]
    pub fn assert_good(&self, client: &Client) {
        assert!(!self.good.is_empty(), "nothing was asked");
        assert!(self.failed.is_empty(), "{} good, failed: {:?}", self.good.len(), self.failed);
        self.assert_only_lost_in(&[], client);
    }
}
