//! `wsgi_reload_mechanism process`: workers make room for new code one after another, and only for code that loads.

use crate::harness::{Engine, Load, Nginx, Process, Response, Site, both_engines, wait_for};
use crate::recycle::assert_one_at_a_time;
use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant, SystemTime};

both_engines!(
    an_edited_script,
    a_script_replaced_by_rename,
    a_switched_link,
    an_older_date,
    a_helper_is_new_with_its_script,
    a_helper_that_is_watched,
    a_syntax_error_then_fixed,
    a_file_removed_then_back,
    edits_within_a_second,
    many_files_copied_under_load,
    an_application_that_was_never_called,
    the_first_client_after_a_change_gets_a_refresh,
    a_refresh_of_the_application_stays,
    the_first_request_after_an_edit_gets_the_new_code,
    a_call_under_way_is_not_cut,
    one_worker_makes_clients_wait_but_refuses_none,
    a_single_process_stays_as_it_is,
    versions_do_not_go_back,
);

const PROCESS: &str = "wsgi_script_reloading on; wsgi_reload_mechanism process;";

/// Responds with `version`, the process and its worker slot; at `/call` when `@prefix@/go` is there.
fn app(version: &str) -> String {
    format!(
        "
import ngx_wsgi
import os
import time

print(f'loaded {version}', flush=True)

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    if environ['PATH_INFO'] == '/call':
        print('a call is under way', flush=True)
        while not os.path.exists('@prefix@/go'):
            time.sleep(0.01)
    return [f'{version} {{os.getpid()}} {{ngx_wsgi.worker_number}}'.encode()]
"
    )
}

/// The same with the version of `helper.py`.
fn app_with_helper() -> String {
    format!("from helper import VERSION\n{}", app("{VERSION}"))
}

fn helper(version: &str) -> String {
    format!("VERSION = {version:?}\n")
}

fn site(engine: Engine) -> Site {
    // Python's own output is at this level.
    Site::new(engine).http(PROCESS).http("keepalive_requests 100000;").app(&app("one")).errors_expected()
}

/// Version, process and worker slot of a response.
fn all_parts(response: &Response) -> (String, i32, usize) {
    let text = response.text();
    let parts: Vec<&str> = text.split(' ').collect();
    let [version, pid, place] = parts[..] else { panic!("{text:?}") };
    (version.to_owned(), pid.parse().unwrap(), place.parse().unwrap())
}

fn parts(response: &Response) -> (String, i32) {
    let (version, pid, _) = all_parts(response);
    (version, pid)
}

/// A response on a new connection.
#[track_caller]
fn get(nginx: &Nginx, path: &str) -> Response {
    let mut conn = nginx.connect();
    conn.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    conn.response()
}

/// Version and process that respond on a new connection.
#[track_caller]
fn ask(nginx: &Nginx) -> (String, i32) {
    parts(&get(nginx, "/").expect(200))
}

/// Waits until another process than `old` responds with `version`; which one.
#[track_caller]
fn wait_version(nginx: &Nginx, version: &str, old: i32) -> i32 {
    wait_for(&format!("version {version:?}"), || {
        let (found, pid) = ask(nginx);
        (found == version && pid != old).then_some(pid)
    })
}

/// Waits until new code has been refused so often.
#[track_caller]
fn wait_refusals(nginx: &Nginx, count: usize) {
    wait_for(&format!("{count} refusals"), || (refusals(nginx) >= count).then_some(()));
}

fn refusals(nginx: &Nginx) -> usize {
    nginx.logged("reload failed, keeping the previous version").len()
}

/// Starts it and waits until all workers have loaded `version`; a process that responds with it.
fn start(site: Site, version: &str) -> (Nginx, i32) {
    let nginx = site.start();
    let (workers, loaded) = (nginx.workers().len(), format!("loaded {version}"));
    wait_for("all workers", || (nginx.logged(&loaded).len() >= workers).then_some(()));
    let (found, pid) = ask(&nginx);
    assert_eq!(found, version);
    (nginx, pid)
}

/// The process in which the code of a worker is imported before it is used.
fn preflight_process(worker: i32) -> i32 {
    wait_for("the preflight process", || {
        let text = fs::read_to_string(format!("/proc/{worker}/task/{worker}/children")).unwrap();
        let mut children = text.split_whitespace().map(|pid| pid.parse().unwrap());
        children.find(|pid| {
            let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            title.starts_with("nginx: wsgi preflight process")
        })
    })
}

fn an_edited_script(engine: Engine) {
    let (nginx, old) = start(site(engine), "one");
    nginx.write("app.py", &app("two"));
    wait_version(&nginx, "two", old);
    Process(old).wait_gone();
    assert_eq!(refusals(&nginx), 0);
    let line = nginx.wait_log("worker shutting down gracefully: files of application");
    let script = nginx.prefix().join("app.py");
    let end = format!(" changed: {}", script.display());
    assert!(line.contains("[notice]") && line.ends_with(&end), "{line}");
}

fn a_script_replaced_by_rename(engine: Engine) {
    let (nginx, old) = start(site(engine), "one");
    nginx.write("new.py", &app("two"));
    fs::rename(nginx.prefix().join("new.py"), nginx.prefix().join("app.py")).unwrap();
    wait_version(&nginx, "two", old);
}

fn a_switched_link(engine: Engine) {
    let site = Site::new(engine)
        .errors_expected()
        .http(PROCESS)
        .file("releases/1/app.py", &app_with_helper())
        .file("releases/1/helper.py", &helper("one"))
        .file("releases/2/app.py", &app_with_helper())
        .file("releases/2/helper.py", &helper("two"))
        .location("/", "wsgi_pass current/app.py;");
    symlink("releases/1", site.prefix().join("current")).unwrap();
    let (nginx, mut pid) = start(site, "one");
    for (release, version) in [("releases/2", "two"), ("releases/1", "one")] {
        symlink(release, nginx.prefix().join("next")).unwrap();
        fs::rename(nginx.prefix().join("next"), nginx.prefix().join("current")).unwrap();
        pid = wait_version(&nginx, version, pid);
    }
}

fn an_older_date(engine: Engine) {
    let (nginx, old) = start(site(engine), "one");
    // The same length, with an old date, and never another file in between.
    nginx.write("new.py", &app("two"));
    let new = nginx.prefix().join("new.py");
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    File::options().write(true).open(&new).unwrap().set_times(FileTimes::new().set_modified(date)).unwrap();
    fs::rename(new, nginx.prefix().join("app.py")).unwrap();
    wait_version(&nginx, "two", old);
}

/// One that is not watched is no reason to recycle a worker, but new in the next worker.
fn a_helper_is_new_with_its_script(engine: Engine) {
    let site =
        Site::new(engine).errors_expected().http(PROCESS).file("helper.py", &helper("one")).app(&app_with_helper());
    let (nginx, old) = start(site, "one");
    nginx.write("helper.py", &helper("two"));
    let quiet = Instant::now() + Duration::from_millis(600);
    while Instant::now() < quiet {
        assert_eq!(ask(&nginx), ("one".to_owned(), old));
    }
    nginx.write("app.py", &app_with_helper());
    wait_version(&nginx, "two", old);
}

fn a_helper_that_is_watched(engine: Engine) {
    let site = Site::new(engine).errors_expected().http(PROCESS).http("wsgi_reload_watch modules;");
    let (nginx, old) = start(site.file("helper.py", &helper("one")).app(&app_with_helper()), "one");
    nginx.write("helper.py", &helper("two"));
    wait_version(&nginx, "two", old);
}

fn a_syntax_error_then_fixed(engine: Engine) {
    let (nginx, old) = start(site(engine), "one");
    let preflight = preflight_process(old);
    for round in 1..=2 {
        nginx.write("app.py", "def broken(:\n");
        wait_refusals(&nginx, round);
        assert_eq!(ask(&nginx), ("one".to_owned(), old));
    }
    nginx.wait_log("SyntaxError");
    nginx.wait_log("app.py\", line 1");
    nginx.write("app.py", &app("two"));
    wait_version(&nginx, "two", old);
    Process(old).wait_gone();
    Process(preflight).wait_gone();
}

fn a_file_removed_then_back(engine: Engine) {
    let (nginx, old) = start(site(engine), "one");
    fs::remove_file(nginx.prefix().join("app.py")).unwrap();
    let quiet = Instant::now() + Duration::from_millis(400);
    while Instant::now() < quiet {
        assert_eq!(ask(&nginx), ("one".to_owned(), old));
    }
    nginx.write("app.py", &app("two"));
    wait_version(&nginx, "two", old);
    assert_eq!(refusals(&nginx), 0);
}

fn edits_within_a_second(engine: Engine) {
    let site = site(engine).http("wsgi_reload_watch modules;").file("helper.py", &helper("one"));
    let site = site.file("app.py", &app_with_helper());
    let (nginx, mut pid) = start(site, "one");
    for version in ["two", "six", "ten"] {
        // The same length as the one that it follows at once.
        nginx.write("helper.py", &helper("not"));
        nginx.write("helper.py", &helper(version));
        pid = wait_version(&nginx, version, pid);
    }
}

/// Whatever is tried in between is neither the old nor the new application, and cannot be loaded.
fn many_files_copied_under_load(engine: Engine) {
    let app = format!(
        "import importlib\nversions = {{importlib.import_module(f'm{{i:03}}').VERSION for i in range(200)}}\n\
         [VERSION] = versions\n{}",
        app("{VERSION}")
    );
    let mut site = Site::new(engine).workers(2).http(PROCESS).http("wsgi_reload_watch modules;").errors_expected();
    for index in 0..200 {
        site = site.file(&format!("m{index:03}.py"), &helper("one"));
    }
    let (nginx, _) = start(site.app(&app), "one");
    let old = nginx.workers();
    let load = Load::start(&nginx, "/", 3);
    for index in 0..200 {
        nginx.write(&format!("m{index:03}.py"), &helper("two"));
        std::thread::sleep(Duration::from_millis(2));
    }
    nginx.write("app.py", &app);
    wait_all(&nginx, "two", &old);
    load.stop().assert_good();
}

/// Waits until all workers have this version, and none of these processes is left.
#[track_caller]
fn wait_all(nginx: &Nginx, version: &str, old: &[i32]) {
    old.iter().for_each(|pid| Process(*pid).wait_gone());
    wait_for(&format!("version {version:?} in all workers"), || (0..20).all(|_| ask(nginx).0 == version).then_some(()));
}

fn an_application_that_was_never_called(engine: Engine) {
    let nginx = site(engine).http("wsgi_preload off;").start();
    let old = nginx.workers();
    nginx.write("app.py", &app("two"));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(ask(&nginx), ("two".to_owned(), old[0]));
    assert_eq!(nginx.workers(), old);
}

/// Its response is of the old code. No other client gets one for the same change.
fn the_first_client_after_a_change_gets_a_refresh(engine: Engine) {
    let (nginx, mut pid) = start(site(engine).file("app.py", &app("v0")), "v0");
    for round in 1..20 {
        let (old, new) = (format!("v{}", round - 1), format!("v{round}"));
        nginx.write("app.py", &app(&new));
        let first = get(&nginx, "/").expect(200);
        let mut refreshes = usize::from(first.header("refresh") == Some("0"));
        let is_first = refreshes > 0;
        if is_first {
            assert_eq!(parts(&first), (old, pid));
        }
        pid = wait_for("the new version", || {
            let response = get(&nginx, "/").expect(200);
            refreshes += usize::from(response.header("refresh").is_some());
            let (found, pid) = parts(&response);
            (found == new).then_some(pid)
        });
        assert!(refreshes <= 1, "{refreshes} responses with a refresh");
        if is_first {
            return;
        }
        // On a busy machine the watch was first.
    }
    panic!("no response had the header");
}

fn a_refresh_of_the_application_stays(engine: Engine) {
    let app = |version: &str| app(version).replace("'text/plain')]", "'text/plain'), ('refresh', '7')]");
    let (nginx, _) = start(site(engine).file("app.py", &app("one")), "one");
    nginx.write("app.py", &app("two"));
    wait_for("the new version", || {
        let response = get(&nginx, "/").expect(200);
        assert_eq!(response.header("refresh"), Some("7"));
        (parts(&response).0 == "two").then_some(())
    });
}

/// As documented, edits are served a second later, and no request has to come first. The import of the new code and the
/// exit of the worker are no longer than with a reload of nginx, which the test measures on the same machine.
fn the_first_request_after_an_edit_gets_the_new_code(engine: Engine) {
    let (nginx, mut pid) = start(site(engine), "one");
    let mut replace = |change: &dyn Fn(), version: &str| {
        let start = Instant::now();
        change();
        Process(pid).wait_gone();
        let (found, new) = ask(&nginx);
        assert_eq!(found, version);
        assert_ne!(new, pid);
        pid = new;
        start.elapsed()
    };
    let mut old = "one".to_owned();
    let rounds = (0..5).map(|round| {
        let new = format!("v{round}");
        let reload = replace(&|| nginx.signal(libc::SIGHUP), &old);
        let edit = replace(&|| nginx.write("app.py", &app(&new)), &new);
        old = new;
        (edit, reload)
    });
    let (edits, reloads): (Vec<Duration>, Vec<Duration>) = rounds.unzip();
    let (edit, reload) = (edits.iter().min().unwrap(), reloads.iter().max().unwrap());
    // The code is imported twice: before the worker exits, and by the next one.
    assert!(*edit < Duration::from_millis(400) + 2 * *reload, "edits {edits:?}, reloads {reloads:?}");
}

fn a_call_under_way_is_not_cut(engine: Engine) {
    let (nginx, old) = start(site(engine).http("wsgi_shutdown_timeout 30s;"), "one");
    let mut conn = nginx.connect();
    conn.send("GET /call HTTP/1.1\r\nHost: a\r\n\r\n");
    nginx.wait_log("a call is under way");
    nginx.write("app.py", &app("two"));
    if engine == Engine::Threads {
        nginx.wait_log("worker shutting down gracefully");
        nginx.wait_log("gracefully shutting down");
        std::thread::sleep(Duration::from_millis(300));
    }
    nginx.write("go", "");
    assert_eq!(parts(&conn.response().expect(200)), ("one".to_owned(), old));
    wait_version(&nginx, "two", old);
}

/// Requests that come while there is no worker wait for the rest of the calls, the end of the old Python and the start of the
/// new one.
fn one_worker_makes_clients_wait_but_refuses_none(engine: Engine) {
    let (nginx, old) = start(site(engine).http("wsgi_shutdown_timeout 30s;"), "one");
    let load = Load::start(&nginx, "/", 4);
    let mut pid = old;
    for version in ["two", "three", "four"] {
        nginx.write("app.py", &app(version));
        pid = wait_version(&nginx, version, pid);
    }
    load.stop().assert_good();
}

fn a_single_process_stays_as_it_is(engine: Engine) {
    let nginx = site(engine).main("master_process off;").start();
    let warning = "\"wsgi_reload_mechanism process\" has no effect with \"master_process off\"";
    let said = nginx.read("logs/stderr") + &nginx.error_log();
    assert!(said.contains(warning), "{said}");
    assert_eq!(ask(&nginx), ("one".to_owned(), nginx.master()));
    for round in 1..=2 {
        nginx.write("app.py", &app("two"));
        let warnings =
            || nginx.logged("worker cannot be recycled with \"master_process off\": files of application").len();
        wait_for("the warning", || (warnings() >= round).then_some(()));
        for _ in 0..10 {
            let response = nginx.get("/").expect(200);
            assert_eq!((parts(&response), response.header("refresh")), (("one".to_owned(), nginx.master()), None));
        }
        assert_eq!(warnings(), round);
    }
}

#[test]
fn without_a_master_the_configuration_is_warned_of() {
    let site = |main: &str| Site::plain().main(main).http(PROCESS).app(&app("one")).check();
    let without = site("master_process off;");
    without.assert_ok();
    assert!(
        without.output.contains("nginx: [warn] \"wsgi_reload_mechanism process\" has no effect"),
        "{}",
        without.output
    );
    let with = site("");
    assert!(with.ok && !with.output.contains("[warn]"), "{}", with.output);
}

/// Neither in a process, and so on a connection, nor among the processes that follow each other in a worker slot.
/// Different connections may see both versions, as long as old and new workers serve side by side.
fn versions_do_not_go_back(engine: Engine) {
    let (nginx, _) = start(site(engine).workers(4), "one");
    let old = nginx.workers();
    let load = Load::start(&nginx, "/", 4);
    let rank = |version: &str| ["one", "two"].iter().position(|known| *known == version).expect("a version");
    let (mut of_process, mut of_place) = (BTreeMap::new(), BTreeMap::new());
    let mut note = || {
        let (version, pid, place) = all_parts(&get(&nginx, "/").expect(200));
        let rank = rank(&version);
        assert_eq!(*of_process.entry(pid).or_insert(rank), rank);
        let before = of_place.insert(place, rank);
        assert!(before.is_none_or(|before| before <= rank), "place {place} has gone back");
        version
    };
    nginx.write("app.py", &app("two"));
    wait_for("the end of the old workers", || {
        note();
        old.iter().all(|pid| !Process(*pid).is_alive()).then_some(())
    });
    for _ in 0..100 {
        assert_eq!(note(), "two");
    }
    load.stop().assert_good();
    assert_one_at_a_time(&nginx.error_log());
    assert_eq!(nginx.logged("worker shutting down gracefully").len(), 4);
}

/// Length of the call that is under way while four workers are replaced: `RELOAD_CALL`, in seconds.
fn long_call() -> Duration {
    let seconds = std::env::var("RELOAD_CALL").ok().map(|text| text.parse().expect("RELOAD_CALL in seconds"));
    Duration::from_secs(seconds.unwrap_or(4))
}

#[test]
fn four_workers_are_replaced_during_a_long_call() {
    let (nginx, _) = start(site(Engine::Threads).workers(4).http("wsgi_shutdown_timeout 60s;"), "one");
    let old = nginx.workers();
    let mut conn = nginx.connect();
    conn.send("GET /call HTTP/1.1\r\nHost: a\r\n\r\n");
    nginx.wait_log("a call is under way");
    let load = Load::start(&nginx, "/", 4);
    nginx.write("app.py", &app("two"));
    let edited = Instant::now();
    let mut fewest = usize::MAX;
    while edited.elapsed() < long_call() {
        // A connection that is refused would fail the test.
        ask(&nginx);
        fewest = fewest.min(nginx.workers().len());
        std::thread::sleep(Duration::from_millis(1));
    }
    nginx.write("go", "");
    let (version, with_call) = parts(&conn.response().expect(200));
    assert!(version == "one" && old.contains(&with_call));
    wait_all(&nginx, "two", &old);
    let stats = load.stop();
    stats.assert_good();
    assert_eq!(fewest, 3, "workers that serve");
    assert_one_at_a_time(&nginx.error_log());
    assert_eq!(nginx.logged("worker shutting down gracefully").len(), 4);
}

/// A worker that waits for the recycle lock has its preflight once it has the lock.
#[test]
fn code_that_breaks_before_a_worker_is_replaced() {
    let (nginx, _) = start(site(Engine::Threads).workers(2).http("wsgi_shutdown_timeout 60s;"), "one");
    let old = nginx.workers();
    let mut calls = Vec::new();
    while nginx.logged("a call is under way").len() < 2 || calls.len() < 2 {
        let (_, pid) = ask(&nginx);
        if calls.iter().any(|(known, _)| *known == pid) {
            continue;
        }
        // The response names the worker that has this connection. The call must run there, too.
        let mut conn = nginx.connect();
        conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let (_, pid) = parts(&conn.response().expect(200));
        if calls.iter().all(|(known, _)| *known != pid) {
            conn.send("GET /call HTTP/1.1\r\nHost: a\r\n\r\n");
            calls.push((pid, conn));
        }
    }
    nginx.write("app.py", &app("two"));
    nginx.wait_log("worker shutting down gracefully");
    nginx.write("app.py", "def broken(:\n");
    nginx.write("go", "");
    for (pid, conn) in &mut calls {
        assert_eq!(parts(&conn.response().expect(200)), ("one".to_owned(), *pid));
    }
    wait_refusals(&nginx, 1);
    let alive: Vec<_> = old.iter().filter(|pid| Process(**pid).is_alive()).collect();
    assert_eq!(alive.len(), 1, "one of {old:?} serves on");
    assert_eq!(nginx.logged("worker shutting down gracefully").len(), 1);
    nginx.write("app.py", &app("three"));
    wait_all(&nginx, "three", &old);
}

/// The next worker has it as well.
#[test]
fn another_application_of_the_worker_is_tried_too() {
    let site = site(Engine::Threads).file("other.py", &app("other")).file("bad.py", "import missing_module\n");
    let off = "wsgi_script_reloading off;";
    let site = site.location("/other", &format!("wsgi_pass other.py; {off}"));
    let (nginx, old) = start(site.location("/bad", &format!("wsgi_pass bad.py; {off}")), "one");
    get(&nginx, "/bad").expect(500);
    nginx.write("other.py", "raise RuntimeError('broken')\n");
    nginx.write("app.py", &app("two"));
    let line = nginx.wait_log("reload failed, keeping the previous version");
    assert!(line.contains("other.py") && line.contains("RuntimeError: broken"), "{line}");
    assert_eq!(ask(&nginx), ("one".to_owned(), old));
    assert_eq!(parts(&get(&nginx, "/other").expect(200)), ("other".to_owned(), old));
    nginx.write("other.py", &app("fixed"));
    nginx.write("app.py", &app("three"));
    wait_version(&nginx, "three", old);
    assert_eq!(parts(&get(&nginx, "/other").expect(200)).0, "fixed");
    // It is as it was before.
    get(&nginx, "/bad").expect(500);
}

#[test]
fn code_that_ends_or_holds_the_process_it_is_tried_in() {
    let (nginx, old) = start(site(Engine::Threads).http("wsgi_check off; wsgi_check_timeout 1s;"), "one");
    nginx.write("app.py", "import os\nos._exit(3)\n");
    nginx.wait_log("keeping the previous version: the process that imported it ended with exit code 3");
    nginx.write("app.py", "import time\ntime.sleep(60)\n");
    nginx.wait_log("keeping the previous version: not imported within wsgi_check_timeout (1s)");
    assert_eq!(ask(&nginx), ("one".to_owned(), old));
    nginx.write("app.py", &app("two"));
    wait_version(&nginx, "two", old);
}

/// It is tried again without a change, in case what it needs has come.
#[test]
fn a_missing_module_that_comes_later() {
    let (nginx, old) = start(site(Engine::Threads), "one");
    nginx.write("app.py", &app_with_helper());
    nginx.wait_log("ModuleNotFoundError: No module named 'helper'");
    assert_eq!(ask(&nginx), ("one".to_owned(), old));
    nginx.write("helper.py", &helper("two"));
    wait_version(&nginx, "two", old);
}

/// A worker that has served its calls stays as long as the next one would load what cannot be loaded.
#[test]
fn other_reasons_to_recycle_wait_for_good_code() {
    let (nginx, old) = start(site(Engine::Threads).http("wsgi_max_requests 50;"), "one");
    nginx.write("app.py", "def broken(:\n");
    wait_refusals(&nginx, 1);
    for _ in 0..100 {
        assert_eq!(ask(&nginx), ("one".to_owned(), old));
    }
    nginx.write("app.py", &app("two"));
    wait_version(&nginx, "two", old);
}

#[test]
fn without_its_preflight_process_a_worker_stays() {
    let (nginx, old) = start(site(Engine::Threads), "one");
    Process(preflight_process(old)).signal(libc::SIGKILL);
    nginx.write("app.py", &app("two"));
    nginx.wait_log("preflight failed, keeping the previous version: preflight process has exited");
    assert_eq!(ask(&nginx), ("one".to_owned(), old));
    // As it says, this is the way out.
    nginx.reload();
    wait_version(&nginx, "two", old);
}

/// It has none of the worker's descriptors, and ends with the worker even if another process has a copy of its socket.
#[test]
fn the_preflight_process_ends_with_its_worker() {
    let source = format!(
        "import os, time\nif os.fork() == 0:\n    while not os.path.exists('@prefix@/go'):\n        time.sleep(0.01)\n    \
         os._exit(0)\n{}",
        app("one")
    );
    let (mut nginx, worker) = start(site(Engine::Threads).file("app.py", &source), "one");
    let preflight = Process(preflight_process(worker));
    assert_eq!(preflight.descriptors(), 4, "{:?}", preflight.open_files());
    assert!(
        preflight.open_files().iter().filter(|file| *file == "/dev/null").count() == 3,
        "{:?}",
        preflight.open_files()
    );
    assert_eq!(preflight.threads(), 1);
    Process(worker).signal(libc::SIGKILL);
    preflight.wait_gone();
    nginx.wait_expected_error(&format!("worker process {worker} exited on signal 9"));
    nginx.write("go", "");
    let (_, next) = ask(&nginx);
    let preflight = Process(preflight_process(next));
    nginx.quit();
    preflight.wait_gone();
}
