//! Costs and gains of interpreters, in numbers for docs/interpreters.md. Nothing here fails for being slow:
//! `cargo test --release --test suite -- --ignored --nocapture --test-threads=1 costs::` prints them.

use crate::harness::{Conn, Nginx, Process, Site, venv};
use std::time::{Duration, Instant};

const ON: &str = "wsgi_enable_subinterpreters on;";

/// Time for which a rate is measured.
const TIME: Duration = Duration::from_millis(500);
/// Number of rounds.
const ROUNDS: usize = 21;
/// Number of starts of nginx for its memory and time.
const STARTS: usize = 7;
/// For how long rounds are tried that others do not disturb.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Processor time that others may use meanwhile, in processors.
const OTHERS: f64 = 0.2;

fn has_own_gil() -> bool {
    env!("WSGI_PYTHON_VERSION").split_once('.').unwrap().1.parse::<u32>().unwrap() >= 12
}

fn gils() -> &'static [&'static str] {
    if has_own_gil() { &["shared", "own"] } else { &["shared"] }
}

/// Returns the processor time used by others than this process and `workers` while `run` runs.
fn others<R>(workers: &[Process], run: impl FnOnce() -> R) -> (f64, R) {
    let used = || {
        let own = Process(std::process::id() as i32).cpu_of_all();
        let own: Duration = workers.iter().map(|worker| worker.cpu()).sum::<Duration>() + own;
        Process::machine_cpu().saturating_sub(own).as_secs_f64()
    };
    let (start, before) = (Instant::now(), used());
    let result = run();
    ((used() - before) / start.elapsed().as_secs_f64(), result)
}

/// Returns `count` results of `measure`, taken while the machine is otherwise idle.
fn undisturbed<R>(count: usize, workers: &[Process], mut measure: impl FnMut() -> R) -> Vec<R> {
    let start = Instant::now();
    let mut found = Vec::new();
    while found.len() < count && start.elapsed() < PATIENCE {
        let (share, result) = others(workers, &mut measure);
        if share <= OTHERS {
            found.push(result);
        } else {
            std::thread::sleep(TIME);
        }
    }
    assert!(!found.is_empty(), "others used the processors all the time");
    found
}

fn workers(nginx: &Nginx) -> Vec<Process> {
    nginx.workers().into_iter().map(Process).collect()
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the responses per second of `clients` that request `paths` one after the other on keep-alive connections.
fn rate(nginx: &Nginx, paths: &[String], clients: usize) -> f64 {
    let start = Instant::now();
    let responses: usize = std::thread::scope(|scope| {
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
    responses as f64 / start.elapsed().as_secs_f64()
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
    let start = |directives: &str| {
        let site = Site::plain().app(COMPUTES).http("keepalive_requests 1000000; wsgi_threads 2;");
        let nginx = site.http(directives).start();
        nginx.get("/").expect(200);
        nginx
    };
    let root = ["/".to_owned()];
    let copies = format!("{ON} wsgi_interpreters 2;");
    let (one, other, shared) = (start(""), start(""), start(&copies));
    let own = has_own_gil().then(|| start(&format!("{copies} wsgi_interpreter_gil own;")));
    // The current speed of the machine.
    let two_processes = || {
        std::thread::scope(|scope| {
            let half = scope.spawn(|| rate(&other, &root, 2));
            rate(&one, &root, 2) + half.join().unwrap()
        })
    };
    let workers: Vec<Process> = [&one, &other, &shared].into_iter().chain(&own).flat_map(workers).collect();
    let rounds: Vec<Vec<f64>> = undisturbed(ROUNDS, &workers, || {
        let mut rates = vec![rate(&one, &root, 4), two_processes(), rate(&shared, &root, 4)];
        rates.extend(own.as_ref().map(|own| rate(own, &root, 4)));
        rates
    });
    println!("\n{rounds:.0?}\n{} rounds", rounds.len());
    let names = ["one process, one interpreter", "two processes", "two copies, one GIL", "two copies, a GIL each"];
    for (index, name) in names[..rounds[0].len()].iter().enumerate() {
        let times = |base: usize| median(rounds.iter().map(|round| round[index] / round[base]));
        let rate = median(rounds.iter().map(|round| round[index]));
        println!("{rate:8.1} responses/s, {:.2} times one process, {:.2} times two: {name}", times(0), times(1));
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
    for gil in gils() {
        let sites = [1, 10, 50].map(|count| {
            let directives = format!("wsgi_threads 2; wsgi_interpreter_gil {gil};");
            let nginx = many(Site::plain().file("app.py", HELLO), count, "wsgi_pass app.py;", &directives).start();
            let paths: Vec<String> = (0..count).map(|number| format!("/{number}/")).collect();
            paths.iter().for_each(|path| drop(nginx.get(path).expect(200)));
            (count, nginx, paths)
        });
        let all: Vec<Process> = sites.iter().flat_map(|(_, nginx, _)| workers(nginx)).collect();
        let rounds = undisturbed(ROUNDS, &all, || sites.each_ref().map(|(_, nginx, paths)| rate(nginx, paths, 16)));
        println!("\n{} rounds", rounds.len());
        for (index, (count, ..)) in sites.iter().enumerate() {
            let rate = median(rounds.iter().map(|round| round[index]));
            println!("{rate:8.0} responses/s  {count} interpreters, GIL {gil}");
        }
    }
}

/// Memory and time until all of `count` interpreters have responded.
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
        || Site::plain().repository_directory("django_site").http(&format!("wsgi_python_home {};", venv().display()));
    let cases: [(&str, &dyn Fn() -> Site, &str, &str); 2] = [
        ("an empty application", &empty, "wsgi_pass app.py;", ""),
        ("Django with its admin", &django, "wsgi_pass project/wsgi.py;", "hello/you"),
    ];
    for (name, site, pass, path) in cases {
        for gil in gils() {
            let directives = format!("wsgi_threads 4; wsgi_interpreter_gil {gil};");
            let (one, eleven) = (1, 11);
            let measure = |count| start(count, site(), pass, &directives, path);
            let rounds = undisturbed(STARTS, &[], || (measure(one), measure(eleven)));
            let each = (eleven - one) as f64;
            println!(
                "\n{} rounds, {name}, GIL {gil}: {:.1} MB and {:.0} ms with one; {:.1} MB and {:.0} ms for each one more",
                rounds.len(),
                median(rounds.iter().map(|(less, _)| less.0)),
                median(rounds.iter().map(|(less, _)| less.1)),
                median(rounds.iter().map(|(less, more)| (more.0 - less.0) / each)),
                median(rounds.iter().map(|(less, more)| (more.1 - less.1) / each)),
            );
        }
    }
}
