//! Instructions a request in the release build, which unlike times are the same on a busy machine: `make
//! bench-instructions` prints them, and a test compares them with those that `tests/instructions.json` records.

mod bare_loop;
mod record;
mod request;
mod table;

use crate::harness::{Callgrind, Nginx, Profile, Site, venv};
use crate::valgrind;
use bare_loop::Interpreter;
use record::Record;
use std::collections::BTreeMap;
use std::time::Duration;

/// The variants of [`Figures`]. The last three are the module's.
const RETURN: &str = "return 200";
const EXECUTABLE: &str = "loop in the executable";
const LOOP: &str = "loop";
const ENGINES: [(&str, &str); 3] = [("inline", "off"), ("1 thread", "1"), ("4 threads", "4")];

/// Calls before those that are counted: caches fill, CPython specializes its bytecode.
const WARM_UP: usize = 200;
const RECORD_AGAIN: &str = "`make bench-instructions RECORD=1` records the figures that are counted now";

/// Number of counts that must differ from the record.
const COUNTS: usize = 3;
/// Limit of a single response under callgrind.
const PATIENCE: Duration = Duration::from_secs(120);

/// An application: its files, and its path below each nginx.
struct Application {
    name: &'static str,
    /// The path below `tests/apps` and the module, with dots.
    directory: &'static str,
    module: &'static str,
    path: &'static str,
    /// Number of counted calls.
    count: usize,
}

const APPLICATIONS: [Application; 2] = [
    Application { name: "hello", directory: "hello", module: "hello", path: "/hello", count: 500 },
    Application { name: "Django", directory: "django_site", module: "project.wsgi", path: "/hello/you", count: 200 },
];

/// Python code after the import of an application. A collection of all its objects takes as many instructions as several
/// calls, and happens once in hundreds of calls.
const FREEZE: &str = "import gc\ngc.freeze()\n";

/// Instructions a request, by application and variant.
type Figures = BTreeMap<(&'static str, &'static str), Share>;

/// Instructions of one request, by part of the program.
#[derive(Clone, Debug, Default)]
struct Share {
    total: u64,
    parts: BTreeMap<&'static str, u64>,
}

impl Share {
    fn new(profile: &Profile, requests: usize) -> Share {
        let requests = requests as u64;
        let mut parts: BTreeMap<&str, u64> = BTreeMap::new();
        for (source, count) in &profile.sources {
            *parts.entry(table::part(source)).or_default() += count;
        }
        parts.values_mut().for_each(|count| *count = (*count + requests / 2) / requests);
        Share { total: profile.total / requests, parts }
    }
}

/// Counts calls of each application without a server.
fn count_loops(figures: &mut Figures) {
    for application in &APPLICATIONS {
        for (variant, interpreter) in [(EXECUTABLE, Interpreter::Executable), (LOOP, Interpreter::SharedLibrary)] {
            let profile = bare_loop::count(interpreter, application);
            figures.insert((application.name, variant), Share::new(&profile, application.count));
        }
    }
}

/// Counts requests to nginx alone, and to each application with each engine.
fn count_requests() -> Figures {
    let mut figures = Figures::new();
    for (engine, threads) in ENGINES {
        count_nginx(engine, threads, &mut figures);
    }
    figures
}

/// Counts the requests to an nginx with one engine; with the first one also nginx alone.
fn count_nginx(engine: &'static str, threads: &str, figures: &mut Figures) {
    let mut site = Site::plain().release_module();
    let mut paths = Vec::new();
    for Application { name, directory, module, path, count } in &APPLICATIONS {
        site = site
            .repository_directory(directory)
            .file(&format!("counted_{name}.py"), &format!("from {module} import application\n{FREEZE}"));
        paths.push((*name, engine, *path, *count));
    }
    if engine == ENGINES[0].0 {
        paths.push(("hello", RETURN, "/return", APPLICATIONS[0].count));
    }
    let command = Callgrind::command(site.prefix());
    let [hello, django] = &APPLICATIONS;
    let mut nginx = site
        // The order of a dictionary's keys is the same in each run, so that each takes the same number of steps.
        .main("master_process off; env PYTHONHASHSEED=0;")
        .http(&format!("wsgi_python_home {}; access_log off;", venv().display()))
        .http(&format!("keepalive_requests 1000000; wsgi_threads {threads};"))
        .location("= /return", "default_type text/plain; return 200 hello;")
        .location(&format!("= {}", hello.path), &format!("wsgi_pass counted_{}.py;", hello.name))
        .location("/", &format!("wsgi_pass counted_{}.py;", django.name))
        .wrapped_in(&command.iter().map(String::as_str).collect::<Vec<_>>())
        .start();
    let mut callgrind = Callgrind::of(nginx.master() as u32, nginx.prefix());
    // All of them first: applications are loaded at the same time.
    for (_, _, path, _) in &paths {
        send(&nginx, path, WARM_UP);
    }
    for (name, variant, path, count) in paths {
        let profile = callgrind.count(|| send(&nginx, path, count));
        figures.insert((name, variant), Share::new(&profile, count));
    }
    valgrind::quit(&mut nginx);
}

/// Sends requests one after the other on a kept connection.
fn send(nginx: &Nginx, path: &str, count: usize) {
    let mut conn = nginx.connect();
    conn.set_timeout(PATIENCE);
    let request = request::request(path, nginx.address());
    for _ in 0..count {
        conn.send(&request).response().expect(200);
    }
}

/// Python code that starts a thread. In a process with threads libc takes locks that it leaves out before the first one, and
/// `wsgi_status_zone` starts one that answers while the event loop is blocked.
const THREAD: &str = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n";

/// Counts the instructions of a request to the first application, in a process with threads, with these directives in `http`.
fn count_hello(threads: &str, directives: &str) -> u64 {
    let Application { directory, module, path, count, .. } = &APPLICATIONS[0];
    let site = Site::plain()
        .release_module()
        .repository_directory(directory)
        .file("counted.py", &format!("from {module} import application\n{THREAD}{FREEZE}"));
    let command = Callgrind::command(site.prefix());
    let mut nginx = site
        .main("master_process off; env PYTHONHASHSEED=0;")
        .http(&format!("wsgi_python_home {}; access_log off;", venv().display()))
        .http(&format!("keepalive_requests 1000000; wsgi_threads {threads}; {directives}"))
        .location("/", "wsgi_pass counted.py;")
        .wrapped_in(&command.iter().map(String::as_str).collect::<Vec<_>>())
        .start();
    let mut callgrind = Callgrind::of(nginx.master() as u32, nginx.prefix());
    send(&nginx, path, WARM_UP);
    let profile = callgrind.count(|| send(&nginx, path, *count));
    valgrind::quit(&mut nginx);
    profile.total / *count as u64
}

#[test]
fn the_status_zone_costs_at_most_300_instructions() {
    const LIMIT: u64 = 300;
    if !valgrind::is_installed() {
        return;
    }
    for (engine, threads) in &ENGINES[..2] {
        let cost = || {
            let without = count_hello(threads, "");
            let with = count_hello(threads, "wsgi_status_zone status 1m;");
            eprintln!("{engine}: {without} instructions without wsgi_status_zone, {with} with");
            with.saturating_sub(without)
        };
        // On a busy machine threads wait for each other more often.
        let costs = std::iter::repeat_with(cost).take(COUNTS);
        let least = costs.take_while(|cost| *cost > LIMIT).count();
        assert!(least < COUNTS, "{engine}: more than {LIMIT} instructions each time");
    }
}

#[test]
fn requests_cost_what_was_recorded() {
    if !valgrind::is_installed() {
        return;
    }
    let recorded = Record::read();
    if let Some(versions) = recorded.other_versions() {
        eprintln!("skipped: {versions}: {RECORD_AGAIN}");
        return;
    }
    let mut figures = count_requests();
    let mut differences = recorded.differences(&figures);
    // On a busy machine threads wait for each other more often. A change of the module is there in each count.
    for _ in 1..COUNTS {
        if !differences.is_empty() {
            eprintln!("counted again: {}", differences.join("; "));
            figures = count_requests();
            differences = recorded.differences(&figures);
        }
    }
    assert!(differences.is_empty(), "{}\n{RECORD_AGAIN}\n\n{}", differences.join("\n"), table::table(&figures));
}

#[test]
#[ignore = "measures"]
fn print_table() {
    let mut figures = count_requests();
    count_loops(&mut figures);
    print!("\n{}", table::table(&figures));
    if std::env::var("RECORD").is_ok_and(|value| !value.is_empty()) {
        Record::new(&figures).write();
        println!("\nrecorded in {}", record::path().display());
    }
}
