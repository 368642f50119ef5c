//! Reloads: nothing is lost, the new code runs, and the master stays as it was.

use crate::harness::{
    Engine, Load, Nginx, Process, Site, both_engines, in_repository, is_root, python_is_for_everybody, wait_for,
};
use std::path::PathBuf;
use std::time::Duration;

both_engines!(
    no_request_is_lost,
    new_code_runs_after_each_reload,
    changed_modules_run_after_each_reload,
    nothing_of_the_old_python_is_left,
    a_slow_import_loses_no_request,
    a_failed_import_is_of_its_location_alone,
    a_failed_import_is_tried_again_from_the_start,
    a_refused_configuration_keeps_the_old_workers,
    an_application_may_come_and_go,
    a_reload_may_follow_a_reload_at_once,
    only_workers_run_python,
    reloads_leave_the_master_as_it_was,
);

fn responding(text: &str) -> String {
    format!(
        "
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [{text:?}.encode()]
"
    )
}

fn no_request_is_lost(engine: Engine) {
    let nginx = Site::new(engine).workers(2).app(&responding("fine")).start();
    nginx.get("/").expect(200);
    let load = Load::start(&nginx, "/", 4);
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(150));
        nginx.reload();
    }
    std::thread::sleep(Duration::from_millis(150));
    load.stop().assert_good();
}

fn new_code_runs_after_each_reload(engine: Engine) {
    let nginx = Site::new(engine).app(&responding("version 0")).start();
    nginx.get("/").expect(200);
    for version in 1..=4 {
        // The same length, and within the second that file times in byte code are precise to.
        nginx.write("app.py", &responding(&format!("version {version}")));
        nginx.reload();
        for _ in 0..10 {
            let response = nginx.connect().send("GET / HTTP/1.0\r\n\r\n").response();
            assert_eq!(response.expect(200).text(), format!("version {version}"));
        }
    }
}

/// Modules are Python's to import: byte code is renewed when a source's time or length has changed.
fn changed_modules_run_after_each_reload(engine: Engine) {
    let app = "from helper import application\n";
    let nginx = Site::new(engine).file("helper.py", &responding("version")).app(app).start();
    assert_eq!(nginx.get("/").expect(200).text(), "version");
    for version in ["version 1", "version 10", "version 100"] {
        nginx.write("helper.py", &responding(version));
        nginx.reload();
        let response = nginx.connect().send("GET / HTTP/1.0\r\n\r\n").response();
        assert_eq!(response.expect(200).text(), version);
    }
}

/// State of Python, C and the process that an application can change.
const STATE: &str = r#"
import builtins, ctypes, json, locale, os, sys, threading

libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p
requests = []

def maps(name):
    return any(name in line for line in open("/proc/self/maps"))

def state():
    mask = os.umask(0)
    os.umask(mask)
    return {
        "module": len(requests),
        "sys.modules": "left" in sys.modules,
        "sys.path": sys.path,
        "builtins": hasattr(builtins, "left"),
        "types": len(Exception.__subclasses__()),
        "recursion": sys.getrecursionlimit(),
        "interval": sys.getswitchinterval(),
        "strings": sys.get_int_max_str_digits(),
        "os.environ": os.environ.get("LEFT"),
        "getenv": str(libc.getenv(b"LEFT_IN_C")),
        "locale": locale.setlocale(locale.LC_ALL),
        "extension": maps("_zoneinfo."),
        "threads": any(thread.name == "left" for thread in threading.enumerate()),
        "umask": mask,
        "directory": os.getcwd(),
        "descriptor": os.path.exists("/proc/self/fd/200"),
    }

def spoil():
    global kept
    requests.extend(range(10))
    sys.modules["left"] = sys
    sys.path.append("/left")
    builtins.left = True
    kept = type("Left", (Exception,), {})
    sys.setrecursionlimit(4321)
    sys.setswitchinterval(0.5)
    sys.set_int_max_str_digits(1234)
    os.environ["LEFT"] = "left"
    libc.setenv(b"LEFT_IN_C", b"left", 1)
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    import zoneinfo
    threading.Thread(target=threading.Event().wait, name="left", daemon=True).start()
    os.umask(0o123)
    os.chdir("/")
    os.dup2(0, 200)

def application(environ, start_response):
    if environ["PATH_INFO"] == "/spoil":
        spoil()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([os.getpid(), state()]).encode()]
"#;

/// A reload restarts Python, and not only the application: another process, and all of what was in the old one is gone.
fn nothing_of_the_old_python_is_left(engine: Engine) {
    let nginx = Site::new(engine).app(STATE).start();
    let ask = |path: &str| {
        let response = nginx.connect().send(format!("GET {path} HTTP/1.0\r\n\r\n")).response().expect(200).json();
        (Process(response[0].as_i64().unwrap() as i32), response[1].as_object().unwrap().clone())
    };
    let (old, fresh) = ask("/");
    for _ in 0..2 {
        let (spoilt_in, spoilt) = ask("/spoil");
        for (what, value) in &fresh {
            assert_ne!(spoilt[what], *value, "{what} has not been changed");
        }
        nginx.reload();
        let (new, state) = ask("/");
        assert_ne!(new, spoilt_in);
        assert_eq!(state, fresh);
        spoilt_in.wait_gone();
    }
    assert!(!old.is_alive());
    assert!(!runs_python(Process(nginx.master())));
}

/// An application that is imported only when the test writes `go`.
fn slow(text: &str) -> String {
    let wait = "event('importing')\nwhile not os.path.exists('@prefix@/go'): time.sleep(0.01)\n";
    format!("import os, time\n@event@\n{wait}{}", responding(text))
}

fn a_slow_import_loses_no_request(engine: Engine) {
    let nginx = Site::new(engine).app(&responding("fine")).start();
    nginx.get("/").expect(200);
    nginx.write("app.py", &slow("new"));
    let load = Load::start(&nginx, "/", 4);
    // Without threads, a worker imports before it is seen as one.
    nginx.signal(libc::SIGHUP);
    nginx.wait_events(&["importing"]);
    // Requests wait meanwhile.
    std::thread::sleep(Duration::from_millis(300));
    nginx.write("go", "");
    wait_for("the new application", || (nginx.get("/").expect(200).text() == "new").then_some(()));
    load.stop().assert_good();
}

/// A worker that is told to quit during an import responds to the requests that wait for it, within its time limit.
#[test]
fn a_request_that_waits_for_an_import_is_aborted_as_a_call_is() {
    let nginx = Site::new(Engine::Threads)
        .http("wsgi_shutdown_timeout 500ms;")
        .app(&slow("fine"))
        .location("= /not-python", "return 204;")
        .errors_expected()
        .start();
    let worker = Process(nginx.workers()[0]);
    let mut conn = nginx.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    // On another connection, accepted after that one.
    nginx.get("/not-python").expect(204);
    nginx.reload();
    conn.response().expect(503);
    nginx.wait_log("aborting 1 calls still running after wsgi_shutdown_timeout");
    nginx.write("go", "");
    worker.wait_gone();
    assert_eq!(nginx.get("/").expect(200).text(), "fine");
}

#[test]
fn a_slow_import_does_not_delay_other_locations() {
    let nginx = Site::new(Engine::Threads)
        .app(&responding("fine"))
        .file("static/file", "static")
        .location("/static/", "root @prefix@;")
        .start();
    nginx.get("/").expect(200);
    nginx.write("app.py", &slow("slow"));
    nginx.reload();
    nginx.wait_events(&["importing"]);
    let mut waits = nginx.connect();
    waits.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    for _ in 0..20 {
        assert_eq!(nginx.get("/static/file").expect(200).text(), "static");
    }
    nginx.write("go", "");
    assert_eq!(waits.response().expect(200).text(), "slow");
}

fn a_failed_import_is_of_its_location_alone(engine: Engine) {
    let nginx = Site::new(engine)
        .workers(2)
        .app_at("/fine", "fine.py", &responding("fine"))
        .app_at("/broken", "broken.py", &responding("not yet"))
        .file("static/file", "static")
        .location("/static/", "root @prefix@;")
        .errors_expected()
        .start();
    assert_eq!(nginx.get("/broken").expect(200).text(), "not yet");
    nginx.write("broken.py", "def broken():\n    raise LookupError('the reason')\nbroken()\n");
    let workers = nginx.reload();
    for _ in 0..3 {
        assert_eq!(nginx.get("/fine").expect(200).text(), "fine");
        assert_eq!(nginx.get("/static/file").expect(200).text(), "static");
        let response = nginx.get("/broken").expect(500).text();
        assert!(!response.contains("LookupError") && response.contains("nginx"), "{response}");
    }
    nginx.wait_log("in broken");
    nginx.wait_log("LookupError: the reason");
    nginx.write("broken.py", &responding("repaired"));
    assert_eq!(nginx.get("/broken").expect(200).text(), "repaired");
    assert_eq!(nginx.workers(), workers, "no worker was replaced");
}

/// Django is one that cannot be initialised twice in a process.
fn a_failed_import_is_tried_again_from_the_start(engine: Engine) {
    let nginx = Site::new(engine)
        .file(
            "framework/__init__.py",
            "
import threading
from . import registry

def setup():
    if registry.started:
        raise RuntimeError('setup() was called before')
    registry.started = True
    from project import settings
    registry.value = settings.VALUE
",
        )
        .file("framework/registry.py", "started = False\n")
        .file("project/__init__.py", "")
        .file("project/settings.py", "import decimal\nVALUE = open('@prefix@/database').read()\n")
        .app(
            "
import framework
framework.setup()

def application(environ, start_response):
    start_response('200 OK', [])
    return [framework.registry.value.encode()]
",
        )
        .errors_expected()
        .start();
    for _ in 0..3 {
        nginx.get("/").expect(500);
    }
    nginx.wait_log("FileNotFoundError");
    nginx.write("database", "it is up");
    assert_eq!(nginx.get("/").expect(200).text(), "it is up");
    assert_eq!(nginx.logged("was called before"), Vec::<String>::new());
}

fn a_refused_configuration_keeps_the_old_workers(engine: Engine) {
    let mut nginx = Site::new(engine).workers(2).app(&responding("old")).start();
    nginx.get("/").expect(200);
    let workers = nginx.workers();
    let load = Load::start(&nginx, "/", 2);
    nginx.write("app.py", &responding("newer"));
    nginx.reconfigure(|site| site.location("/missing", "wsgi_pass missing.py;"));
    let line = nginx.reload_refused();
    assert!(line.contains("missing.py"), "{line}");
    assert_eq!(nginx.workers(), workers);
    assert_eq!(nginx.get("/").expect(200).text(), "old");
    load.stop().assert_good();
    nginx.write("missing.py", &responding("found"));
    nginx.reload();
    assert_eq!(nginx.get("/missing").expect(200).text(), "found");
    assert_eq!(nginx.get("/").expect(200).text(), "newer");
}

/// From no application to one and back: the module is loaded all the time, Python is not.
fn an_application_may_come_and_go(engine: Engine) {
    let mut nginx = Site::new(engine)
        .file("app.py", &responding("fine"))
        .file("static/file", "static")
        .location("/static/", "root @prefix@;")
        .start();
    assert_eq!(nginx.get("/static/file").expect(200).text(), "static");
    assert_eq!(Process(nginx.workers()[0]).threads(), 1, "no application, no thread");
    nginx.reconfigure(|site| site.location("/app", "wsgi_pass app.py;"));
    nginx.reload();
    assert_eq!(nginx.get("/app").expect(200).text(), "fine");
    nginx.reconfigure(|site| site.location("= /app", "return 204;"));
    nginx.reload();
    nginx.get("/app").expect(204);
}

fn a_reload_may_follow_a_reload_at_once(engine: Engine) {
    let nginx = Site::new(engine).app(&responding("fine")).start();
    let load = Load::start(&nginx, "/", 2);
    for _ in 0..10 {
        nginx.signal(libc::SIGHUP);
        std::thread::sleep(Duration::from_millis(20));
    }
    wait_for("one worker", || {
        let children = nginx.all_children();
        (children.len() == 1 && nginx.workers().len() == 1).then_some(())
    });
    load.stop().assert_good();
}

/// Returns whether a library that Python loads on demand is there.
fn runs_python(process: Process) -> bool {
    process.mappings().iter().any(|line| line.contains("lib-dynload"))
}

fn only_workers_run_python(engine: Engine) {
    let app = format!(
        r#"
import ctypes
import os

with open("@prefix@/events", "a") as events:
    events.write(f"{{os.getpid()}} {{os.getuid()}}\n")
{}"#,
        responding("fine")
    );
    let nginx = Site::new(engine)
        .user(if python_is_for_everybody() { "daemon" } else { "root" })
        .workers(2)
        .http("proxy_cache_path @prefix@/tmp/cache keys_zone=cache:1m;")
        .app(&app)
        .start();
    for _ in 0..2 {
        nginx.get("/").expect(200);
        let workers = wait_for("two imports", || {
            let workers = nginx.workers();
            let events = nginx.events();
            let imported = |pid: &i32| events.iter().any(|e| e.starts_with(&format!("{pid} ")));
            (workers.len() == 2 && workers.iter().all(imported)).then_some(workers)
        });
        let mut helpers = nginx.children("nginx: cache manager process");
        helpers.extend(nginx.children("nginx: cache loader process"));
        assert!(!helpers.is_empty(), "{:?}", nginx.all_children());
        helpers.push(nginx.master());
        for helper in helpers {
            assert_eq!(Process(helper).threads(), 1, "{helper}");
            assert!(!runs_python(Process(helper)), "{helper}");
        }
        assert!(workers.iter().all(|worker| runs_python(Process(*worker))));
        nginx.reload();
    }
    wait_for("as many imports as there were workers", || (nginx.events().len() == 6).then_some(()));
    if is_root() && python_is_for_everybody() {
        let by_root = nginx.events().iter().any(|event| event.ends_with(" 0"));
        assert!(!by_root, "{:?}", nginx.events());
    }
}

/// `WSGI_TEST_RELOADS=200` for more than a glance.
fn reloads_leave_the_master_as_it_was(engine: Engine) {
    let reloads = std::env::var("WSGI_TEST_RELOADS").map_or(20, |n| n.parse().expect("a number"));
    let nginx = Site::new(engine)
        .app(&responding("fine"))
        .http("wsgi_env NAME value; wsgi_var NAME $request_id; wsgi_python_path @prefix@;")
        .location("/other", "wsgi_pass app.py; wsgi_script_name $host;")
        .start();
    let master = Process(nginx.master());
    // The first reloads only grow the allocator.
    for _ in 0..5 {
        nginx.reload();
    }
    let descriptors = || {
        // Two to each worker, until nginx has seen that it ended.
        wait_for("one worker", || (nginx.all_children().len() == 1).then_some(()));
        std::thread::sleep(Duration::from_millis(50));
        master.descriptors()
    };
    let before = (descriptors(), master.mappings().len(), master.memory());
    for _ in 0..reloads {
        nginx.reload();
    }
    wait_for("as many descriptors as before", || (descriptors() == before.0).then_some(()));
    let (mappings, memory) = (master.mappings().len(), master.memory());
    nginx.get("/").expect(200);
    assert!(mappings <= before.1 + 2, "{mappings} mappings: {before:?}");
    assert!(memory < before.2 + 512 * 1024, "{memory} bytes: {before:?}");
}

/// A module built for another Python, if there is one below `target/` that knows the directives of today.
fn module_for_another_python() -> Option<PathBuf> {
    let changed = |path: &std::path::Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    let table = changed(&in_repository("src/conf/directives.rs"));
    std::fs::read_dir(in_repository("target"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("python3") && name != concat!("python", env!("WSGI_PYTHON_VERSION"))
        })
        .flat_map(|path| ["debug", "release"].map(|profile| path.join(profile)))
        .map(|path| path.join("libngx_http_wsgi_module.so"))
        .find(|path| changed(path) > table)
}

#[test]
fn a_module_for_another_python_is_refused_on_reload() {
    let Some(other) = module_for_another_python() else {
        eprintln!("skipped: no module for another Python is built below target/");
        return;
    };
    let mut nginx = Site::plain().app(&responding("fine")).start();
    nginx.get("/").expect(200);
    let workers = nginx.workers();
    replace_module(&mut nginx, &other);
    let line = nginx.reload_refused();
    assert!(line.contains("built for Python") && line.contains("restart"), "{line}");
    assert_eq!(nginx.workers(), workers);
    nginx.get("/").expect(200);
}

fn replace_module(nginx: &mut Nginx, other: &std::path::Path) {
    let path = nginx.prefix().join("conf/nginx.conf");
    let conf = std::fs::read_to_string(&path).unwrap();
    let line = conf.lines().find(|line| line.starts_with("load_module ")).unwrap();
    let changed = conf.replace(line, &format!("load_module {};", other.display()));
    std::fs::write(&path, changed).unwrap();
}
