//! Clients that leave at every stage of a request, in every way: those that stay are served right, and nothing of those
//! that left is left behind.

use crate::harness::stress::{self, Ask, Visitor, active_connections, come_and_leave, files_below};
use crate::harness::{Engine, Nginx, Process, SeededRng, Site, both_engines, wait_for};
use std::sync::atomic::{AtomicBool, Ordering};

both_engines!(
    a_file_that_is_more_than_a_socket_holds_arrives_whole,
    clients_that_leave_at_any_stage_harm_no_other_and_leave_nothing_behind,
);

/// Memory that a round of requests may add to a worker: pages that the allocator has not returned.
const MEMORY: u64 = 3 << 20;

/// Objects of calls that wait to be used again (`MAX_SPARE` of src/wsgi/call_objects.rs). A leak is one a call: thousands.
const SPARE: i64 = 64;

/// Objects that Python's collector knows: caches of the standard library.
const OBJECTS: i64 = 20;

/// Clients that leave in each round.
fn count() -> u64 {
    std::env::var("FAULTS").ok().map_or(1200, |text| text.parse().expect("FAULTS is a number"))
}

/// Names the seed of a client that fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed of this client: {}", self.0);
        }
    }
}

/// Sends `count` clients that leave, and beside them some that stay until then. How many of these were served.
pub fn stress_round(nginx: &Nginx, engine: Engine, seed: u64, count: u64) -> u64 {
    const LEAVING: u64 = 6;
    const STAYING: u64 = 2;
    let (address, is_over) = (nginx.address(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let staying: Vec<_> = (0..STAYING)
            .map(|client| {
                let is_over = &is_over;
                scope.spawn(move || {
                    let seed = Seed(seed * 1000 + client);
                    let (mut rng, mut visitor) = (SeededRng::new(seed.0), Visitor::new(address));
                    let mut served = 0;
                    while !is_over.load(Ordering::Relaxed) {
                        visitor.ask(&Ask::any(engine, &mut rng)).unwrap();
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        let leaving: Vec<_> = (0..LEAVING)
            .map(|client| {
                scope.spawn(move || {
                    let seed = Seed(seed * 1000 + 100 + client);
                    let mut rng = SeededRng::new(seed.0);
                    for _ in 0..count / LEAVING {
                        come_and_leave(address, engine, &mut rng);
                    }
                })
            })
            .collect();
        // Those that stay stop also when one of the others has failed.
        let left: Vec<_> = leaving.into_iter().map(|client| client.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(left.iter().all(Result::is_ok), "a client that left has failed");
        staying.into_iter().map(|client| client.join().expect("a client that stays")).sum()
    })
}

/// Resources of an idle worker.
#[derive(Debug)]
struct Holdings {
    descriptors: usize,
    unlinked: Vec<String>,
    memory: u64,
    /// State of the application.
    state: serde_json::Value,
}

impl Holdings {
    /// Waits until all connections and calls are over.
    fn of(nginx: &Nginx) -> Holdings {
        let worker = Process(nginx.workers()[0]);
        wait_for("the end of all connections", || (active_connections(nginx) == 0).then_some(()));
        let state = wait_for("the end of all calls", || {
            let state = nginx.get("/state").expect(200).json();
            (state["started"] == state["closed"] && state["living"] == 0).then_some(state)
        });
        let unlinked = worker.unlinked_files();
        Holdings { descriptors: worker.descriptors(), unlinked, memory: worker.memory(), state }
    }

    fn number(&self, name: &str) -> i64 {
        self.state[name].as_i64().unwrap()
    }

    #[track_caller]
    fn assert_no_more_than(&self, before: &Holdings) {
        assert_eq!(self.descriptors, before.descriptors, "descriptors");
        assert_eq!(self.unlinked, [""; 0], "files without a name");
        assert_eq!(self.state["of_responses"], before.state["of_responses"], "instances of the classes of responses");
        let of_calls = |holdings: &Holdings| -> i64 {
            holdings.state["of_calls"].as_array().unwrap().iter().map(|count| count.as_i64().unwrap()).max().unwrap()
        };
        let more = of_calls(self) - of_calls(before);
        assert!(more <= SPARE, "{more} objects of calls more than before");
        assert_eq!(self.state["threads"], before.state["threads"], "threads that Python knows");
        let objects = self.number("objects") - before.number("objects");
        assert!(objects < OBJECTS, "{objects} Python objects more than before");
        let memory = self.memory.saturating_sub(before.memory);
        assert!(memory < MEMORY, "{} KiB more than before", memory / 1024);
    }
}

fn a_file_that_is_more_than_a_socket_holds_arrives_whole(engine: Engine) {
    let nginx = stress::site(engine).start();
    let mut visitor = Visitor::new(nginx.address());
    for _ in 0..3 {
        visitor.ask(&Ask::get("/", "file", 1_000_000)).unwrap();
    }
}

/// The call has ended its response and still runs; only the event loop can send the rest.
#[test]
fn the_rest_of_a_response_is_sent_while_close_runs() {
    let nginx = Site::new(Engine::Threads)
        .listen("listen 127.0.0.1:@port@ sndbuf=16k; server_name localhost;")
        .app(
            r#"
import os
import time

class Response(list):
    def close(self):
        while not os.path.exists("@prefix@/arrived"):
            time.sleep(0.005)

def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "3000000")])
    return Response([b"x" * 3_000_000])
"#,
        )
        .start();
    let mut conn = nginx.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(conn.response().body.len(), 3_000_000);
    nginx.write("arrived", "");
}

fn clients_that_leave_at_any_stage_harm_no_other_and_leave_nothing_behind(engine: Engine) {
    let nginx = stress::site(engine).start();
    let workers = nginx.workers();
    let round = |seed| {
        let served = stress_round(&nginx, engine, seed, count());
        assert!(served > 0, "no client stayed");
        let holdings = Holdings::of(&nginx);
        eprintln!("round {seed}: {served} requests of those that stayed, {holdings:?}");
        holdings
    };
    let warm = round(1);
    round(2).assert_no_more_than(&warm);
    let last = round(3);
    last.assert_no_more_than(&warm);
    assert_eq!(nginx.workers(), workers);
    assert_eq!(files_below(&nginx.prefix().join("tmp")), [""; 0]);
    // Calls completed, and others were cut off wherever their engine lets them notice it.
    let outcomes = match engine {
        Engine::Threads => &["complete", "cut", "unwritten", "unread"][..],
        Engine::Inline => &["complete", "cut"],
    };
    for outcome in outcomes {
        assert!(last.number(outcome) > 0, "no call was {outcome}");
    }
}
