//! `make soak`: a mixed load for minutes, while workers are replaced. No request may be lost, and nothing may grow.

use crate::harness::stress::{self, Ask, Visitor, active_connections, come_and_leave, files_below};
use crate::harness::{Engine, Nginx, PATIENCE, Process, SeededRng, wait_for};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Age in seconds at which a worker's resources count as normal, and length of the windows that are compared.
const WARM: u64 = 8;
const WINDOW: usize = 6;

/// Growth that a process may have at the end of its life.
const MEMORY: u64 = 6 << 20;
const DESCRIPTORS: u64 = 8;
const THREADS: u64 = 4;
/// The master makes a new configuration at each reload; how much memory it may keep in all.
const MASTER_MEMORY: u64 = 2 << 20;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().filter(|text| !text.is_empty()).map_or(default, |text| text.parse().expect(name))
}

/// Resources of a process.
#[derive(Clone, Copy)]
struct Holds {
    memory: u64,
    descriptors: u64,
    threads: u64,
}

impl Holds {
    fn now(process: Process) -> Holds {
        let (memory, descriptors, threads) = (process.memory(), process.descriptors() as u64, process.threads());
        Holds { memory, descriptors, threads }
    }

    /// Returns the least of each: memory of a request is freed with it, leaked memory stays.
    fn least(of: &[Holds]) -> Holds {
        let least = |part: fn(&Holds) -> u64| of.iter().map(part).min().unwrap_or(0);
        Holds { memory: least(|h| h.memory), descriptors: least(|h| h.descriptors), threads: least(|h| h.threads) }
    }
}

impl std::fmt::Display for Holds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} KiB, {} descriptors, {} threads", self.memory / 1024, self.descriptors, self.threads)
    }
}

/// A worker while it takes connections, looked at every second.
#[derive(Default)]
struct Life {
    seen: Vec<Holds>,
}

impl Life {
    /// Returns the resources after warm-up and at the end, if it lived long enough.
    fn ends(&self) -> Option<(Holds, Holds)> {
        let warm = self.seen.get(WARM as usize..).filter(|warm| warm.len() >= 2 * WINDOW)?;
        Some((Holds::least(&warm[..WINDOW]), Holds::least(&warm[warm.len() - WINDOW..])))
    }
}

/// Results of the requests.
#[derive(Default)]
struct SoakStats {
    answered: AtomicU64,
    left: AtomicU64,
    timed_out: AtomicU64,
    is_over: AtomicBool,
    problems: Mutex<Vec<String>>,
}

impl SoakStats {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn problems(&self) -> MutexGuard<'_, Vec<String>> {
        self.problems.lock().unwrap()
    }

    fn problem(&self, what: String) {
        println!("PROBLEM: {what}");
        self.problems().push(what);
    }

    fn count(&self, counter: &AtomicU64, response: Result<(), String>) {
        match response {
            Ok(()) => drop(counter.fetch_add(1, Ordering::Relaxed)),
            Err(e) => self.problem(format!("a request was lost: {e}")),
        }
    }
}

/// Notifies the clients at its end, also after a panic.
struct Over<'a>(&'a SoakStats);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// The soak: its nginx, and what was seen of it.
struct Soak {
    nginx: Nginx,
    engine: Engine,
    lives: BTreeMap<i32, Life>,
    reloads: u64,
}

impl Soak {
    /// Looks at every worker.
    fn look(&mut self) {
        for pid in self.nginx.workers() {
            let holds = Holds::now(Process(pid));
            // Else it has gone meanwhile.
            if holds.memory > 0 {
                self.lives.entry(pid).or_default().seen.push(holds);
            }
        }
    }

    /// Lets new workers take the place of the old ones.
    fn reload(&mut self, stats: &SoakStats) {
        let old = self.nginx.workers();
        self.nginx.signal(libc::SIGHUP);
        self.reloads += 1;
        let start = Instant::now();
        while self.nginx.workers().iter().any(|pid| old.contains(pid)) {
            if start.elapsed() > PATIENCE {
                return stats.problem(format!("a worker takes connections {PATIENCE:?} after a reload"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn report(&self, start: Instant, stats: &SoakStats) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        println!(
            "{:4} s: {} answered, {} left, {} timed out, {} workers, {} reloads, {} problems",
            start.elapsed().as_secs(),
            get(&stats.answered),
            get(&stats.left),
            get(&stats.timed_out),
            self.lives.len(),
            self.reloads,
            stats.problems().len(),
        );
        println!("        master {:6}: {}", self.nginx.master(), Holds::now(Process(self.nginx.master())));
        for (pid, title) in self.nginx.all_children() {
            let role = title.trim_start_matches("nginx: ");
            println!("        {role} {pid:6}: {}", Holds::now(Process(pid)));
        }
    }

    /// Compares the beginning and the end of each worker's life.
    fn compare_lives(&self, stats: &SoakStats) {
        println!("\nworker    seconds   when warm                                  at last");
        let mut compared = 0;
        for (pid, life) in &self.lives {
            let Some((warm, last)) = life.ends() else { continue };
            compared += 1;
            println!("{pid:6}    {:7}   {:40}   {last}", life.seen.len(), warm.to_string());
            let grown = last.memory > warm.memory + MEMORY
                || last.descriptors > warm.descriptors + DESCRIPTORS
                || last.threads > warm.threads + THREADS;
            if grown {
                stats.problem(format!("worker {pid} grew: {warm}, then {last}"));
            }
        }
        if compared == 0 {
            stats.problem(format!("no worker lived for the {} seconds it takes to tell", WARM as usize + 2 * WINDOW));
        }
    }

    /// Checks for resources left in idle workers.
    fn look_at_rest(&self, stats: &SoakStats) {
        wait_for("the end of the old workers", || {
            let children = self.nginx.all_children();
            (children.len() == 2 && self.nginx.workers().len() == 2).then_some(())
        });
        let active = settles(|| active_connections(&self.nginx), |active| *active == 0);
        if active != 0 {
            stats.problem(format!("{active} connections are left"));
        }
        for pid in self.nginx.workers() {
            let state = settles(|| self.state_of(pid), rests);
            if !rests(&state) {
                stats.problem(format!("calls are left in worker {pid}: {state}"));
            }
            let files = Process(pid).unlinked_files();
            if !files.is_empty() {
                stats.problem(format!("worker {pid} has files without a name: {files:?}"));
            }
        }
        let files = files_below(&self.nginx.prefix().join("tmp"));
        if !files.is_empty() {
            stats.problem(format!("temporary files are left: {files:?}"));
        }
    }

    /// Returns the state of the application in one worker, by new connections until that worker accepts one.
    fn state_of(&self, pid: i32) -> serde_json::Value {
        wait_for("a response of each worker", || {
            let mut conn = self.nginx.connect();
            conn.send("GET /state HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let state = conn.response().expect(200).json();
            (state["worker"] == pid).then_some(state)
        })
    }
}

fn rests(state: &serde_json::Value) -> bool {
    state["started"] == state["closed"] && state["living"] == 0
}

/// Sends requests until the response is right or the time is over; returns the last response.
fn settles<T>(mut ask: impl FnMut() -> T, is_good: impl Fn(&T) -> bool) -> T {
    let start = Instant::now();
    loop {
        let response = ask();
        if is_good(&response) || start.elapsed() > PATIENCE {
            return response;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Returns whether a record is of the stack of a call that ran too long: it is logged by the worker, not for the request.
fn is_of_a_stack(line: &str) -> bool {
    let text = line.split_once("#").and_then(|(_, rest)| rest.split_once(": ")).map_or("", |(_, text)| text);
    text.starts_with("stack of wsgi-") || text.starts_with("  ")
}

#[test]
#[ignore = "takes minutes: make soak"]
fn nothing_is_lost_and_nothing_grows() {
    let length = Duration::from_secs(60 * number("SOAK_MINUTES", 10));
    // 0: the same workers live all the time.
    let reload_every = number("SOAK_RELOAD", 27);
    let engine = match std::env::var("SOAK_THREADS").as_deref() {
        Ok("off") => Engine::Inline,
        _ => Engine::Threads,
    };
    let site = stress::site(engine).workers(2).http("wsgi_shutdown_timeout 60s;");
    // The stacks of calls that run too long; whatever else is there is looked for below.
    let mut site = site.log_level("notice").errors_expected();
    let limits = engine == Engine::Threads;
    if limits {
        site = stress::with_limits(site);
    }
    if reload_every > 0 {
        site = site.http("wsgi_max_requests 5000 2000;");
    }
    let mut soak = Soak { nginx: site.start(), engine, lives: BTreeMap::new(), reloads: 0 };
    soak.nginx.get("/small?1").expect(200);
    if reload_every > 0 {
        // The first reloads only grow the allocator of the master.
        for _ in 0..3 {
            soak.nginx.reload();
        }
    }
    let master = Process(soak.nginx.master());
    wait_for("the workers", || (soak.nginx.all_children().len() == 2).then_some(()));
    let at_first = Holds::now(master);

    let stats = SoakStats::default();
    let start = Instant::now();
    soak.report(start, &stats);
    std::thread::scope(|scope| {
        let _over = Over(&stats);
        load(scope, &soak, &stats, limits, reload_every > 0);
        let mut second = 0;
        // With very many problems it is known what there is to know.
        while start.elapsed() < length && stats.problems().len() < 100 {
            std::thread::sleep(Duration::from_secs(1));
            second += 1;
            soak.look();
            if second % 30 == 0 {
                soak.report(start, &stats);
            }
            if reload_every > 0 && second % reload_every == 0 {
                soak.reload(&stats);
            }
        }
    });
    soak.look_at_rest(&stats);
    println!("\nat rest:");
    soak.report(start, &stats);
    soak.compare_lives(&stats);
    let at_last = Holds::now(master);
    println!("master              {:40}   {at_last}", at_first.to_string());
    if at_last.memory > at_first.memory + MASTER_MEMORY || at_last.descriptors > at_first.descriptors {
        stats.problem(format!("the master grew: {at_first}, then {at_last}"));
    }
    for line in soak.nginx.logged("[error]").iter().filter(|line| !is_of_a_stack(line)).take(20) {
        stats.problem(format!("in the error log: {line}"));
    }
    let problems = std::mem::take(&mut *stats.problems());
    // Checks the error log for lines of a higher level.
    soak.nginx.quit();
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// All clients, until it is over.
fn load<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    soak: &Soak,
    stats: &'scope SoakStats,
    limits: bool,
    workers_are_recycled: bool,
) {
    let (address, engine) = (soak.nginx.address(), soak.engine);
    // Clients of everything, small and large, each on one connection.
    for seed in 0..3 {
        scope.spawn(move || {
            let (mut rng, mut visitor) = (SeededRng::new(seed), Visitor::new(address));
            while stats.goes_on() {
                let response = visitor.ask(&Ask::any(engine, &mut rng));
                stats.count(&stats.answered, response);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    }
    // Slow readers: a second or so for a response.
    for seed in 100..102 {
        scope.spawn(move || {
            let (mut rng, mut visitor) = (SeededRng::new(seed), Visitor::new(address));
            visitor.pause = Duration::from_millis(20);
            while stats.goes_on() {
                let response = visitor.ask(&Ask::large(&mut rng));
                stats.count(&stats.answered, response);
            }
        });
    }
    // Clients that leave.
    for seed in 200..202 {
        scope.spawn(move || {
            let mut rng = SeededRng::new(seed);
            while stats.goes_on() {
                come_and_leave(address, engine, &mut rng);
                stats.left.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
    }
    // Calls that run too long. One that cannot be interrupted gets its worker recycled.
    if limits {
        scope.spawn(move || {
            let mut visitor = Visitor::new(address);
            for number in 1.. {
                let kind = if workers_are_recycled && number % 40 == 0 { "asleep" } else { "stuck" };
                let response = visitor.ask(&Ask::too_long(kind));
                stats.count(&stats.timed_out, response);
                for _ in 0..5 {
                    if !stats.goes_on() {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        });
    }
}
