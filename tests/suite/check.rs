//! `wsgi_check`: `nginx -t` and reload import the applications in a child that is thrown away; a start does not.

use crate::harness::{Check, Engine, Nginx, Process, Site, both_engines, is_root, python_is_for_everybody, wait_for};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

use std::time::{Duration, Instant};

both_engines!(a_worker_loads_the_checked_application,);

pub const FINE: &str = "
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'fine']
";

/// A site with the check, as nginx has it by default.
pub fn checked() -> Site {
    Site::plain().http("wsgi_check_timeout 20s;")
}

/// An import that does this before there is an application.
pub fn after(code: &str) -> String {
    format!("{code}\n{FINE}")
}

/// Returns the lines of `nginx -t` after its own `[emerg]`.
fn said(check: &Check) -> Vec<&str> {
    check.output.lines().filter_map(|line| line.strip_prefix("nginx: [emerg] ")).collect()
}

/// Refused with this about the application whose `wsgi_pass` is in the last line that holds `at`.
#[track_caller]
fn assert_refused(check: &Check, prefix: &str, at: &str, application: &str, why: &str) {
    let line = 1 + check.conf_text.lines().collect::<Vec<_>>().iter().rposition(|line| line.contains(at)).unwrap();
    let start = format!("wsgi_pass \"{prefix}/{application}\" in {prefix}/conf/nginx.conf:{line}: {why}");
    assert!(!check.ok, "accepted, though: {start}");
    assert!(said(check).iter().any(|line| line.starts_with(&start)), "wanted: {start}\ngot: {}", check.output);
}

fn prefix_of(site: &Site) -> String {
    site.prefix().to_str().unwrap().to_owned()
}

/// The processes that were named in the events, one number a line.
fn noted_processes(site: &Site) -> Vec<Process> {
    let events = std::fs::read_to_string(site.prefix().join("events")).unwrap_or_default();
    events.lines().map(|line| Process(line.parse().expect("a number"))).collect()
}

#[track_caller]
fn assert_gone(processes: &[Process]) {
    assert!(!processes.is_empty(), "nothing was noted");
    for process in processes {
        process.wait_gone();
    }
}

/// Python that notes a process, for [`noted_processes`].
pub const NOTE: &str = "
def note(process):
    with open('@prefix@/events', 'a') as events:
        events.write(f'{process}\\n')
";

// ---- nginx -t -------------------------------------------------------------------------------------------------------

#[test]
fn a_module_that_is_missing_is_named_with_file_line_and_traceback() {
    let site = checked().app("import not_there\n");
    let prefix = prefix_of(&site);
    let check = site.check();
    let why = "ModuleNotFoundError: No module named 'not_there'";
    assert_refused(&check, &prefix, "wsgi_pass", "app.py", why);
    let said = said(&check);
    let at = format!("  File \"{prefix}/app.py\", line 1, in <module>");
    assert_eq!(said[1..], ["Traceback (most recent call last):", &at, "    import not_there", why]);
}

#[test]
fn the_reason_is_that_of_the_import_also_if_a_module_was_searched_twice() {
    let source = "import importlib.util\nassert importlib.util.find_spec('helper')\nimport helper, not_there\n";
    let site = checked().app(source).file("helper.py", "");
    let prefix = prefix_of(&site);
    let why = "ModuleNotFoundError: No module named 'not_there'";
    assert_refused(&site.check(), &prefix, "wsgi_pass", "app.py", why);
}

#[test]
fn records_of_a_log_handler_are_shown_with_a_failure() {
    let source = "import logging, ngx_wsgi\nlogging.basicConfig(handlers=[ngx_wsgi.LogHandler()])\n";
    let site = checked().app(&format!("{source}logging.warning('two\\nlines')\nraise LookupError('bad')\n"));
    let prefix = prefix_of(&site);
    let check = site.check();
    assert_refused(&check, &prefix, "wsgi_pass", "app.py", "LookupError: bad");
    assert_eq!(said(&check)[1..3], ["WARNING:root:two", "lines"]);
}

#[test]
fn an_importable_application_is_accepted() {
    let site = checked()
        .file("middle.py", "def middleware(application):\n    return application\n")
        .file("package/__init__.py", "")
        .file("package/module.py", &format!("{FINE}\nclass site:\n    make = staticmethod(lambda: application)\n"))
        .http("wsgi_python_path @prefix@;")
        .app(FINE)
        .location("/wrapped", "wsgi_pass app.py; wsgi_middleware middle;")
        .location("/factory", "wsgi_pass package.module:site.make();")
        .location("/late", "wsgi_pass package/module.py; wsgi_preload off;");
    let check = site.check();
    check.assert_ok();
    assert!(!check.output.contains('['), "{}", check.output);
}

#[test]
fn every_broken_application_is_reported() {
    // File and arguments, source, expected message.
    let broken = [
        ("missing.py", "import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("syntax.py", "def (", "SyntaxError: "),
        ("exits.py", "import sys; sys.exit(3)", "SystemExit: 3"),
        ("interrupts.py", "raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("leaves.py", "import os; os._exit(0)", "the process that imported it ended with exit code 0"),
        ("crashes.py", "import ctypes; ctypes.string_at(0)", "the process that imported it ended by signal 11 ("),
        ("killed.py", "import os; os.kill(os.getpid(), 15)", "the process that imported it ended by signal 15 ("),
        ("closes.py", "import os; os.closerange(3, 100)", "the process that imported it ended "),
        ("nameless.py", "app = 1", "AttributeError: '"),
        ("number.py", "application = 1", "TypeError: 'application' of "),
    ];
    let mut site = checked().app(FINE);
    for (file, source, _) in broken {
        site = site.app_at(&format!("/{file}"), file, source);
    }
    site = site
        .location("/factory", "wsgi_pass app.py make();")
        .location("/module", "wsgi_pass not_there.wsgi_app;")
        .location("/middleware", "wsgi_pass app.py; wsgi_middleware not_there;")
        .app_at("/last", "last.py", FINE);
    let prefix = prefix_of(&site);
    let check = site.check();
    for (file, _, why) in broken {
        assert_refused(&check, &prefix, &format!("/{file}"), file, why);
    }
    assert_refused(&check, &prefix, "/factory", "app.py:make()", "AttributeError: ");
    assert_refused(&check, &prefix, "/middleware", "app.py", "ModuleNotFoundError: No module named 'not_there'");
    let module = said(&check).into_iter().filter(|line| line.starts_with("wsgi_pass \"not_there.wsgi_app\" in "));
    assert_eq!(module.count(), 1, "{}", check.output);
    let count = said(&check).iter().filter(|line| line.starts_with("wsgi_pass ")).count();
    assert_eq!(count, broken.len() + 3, "{}", check.output);
    assert!(check.output.contains("test failed"), "{}", check.output);
}

#[test]
fn an_application_without_preload_is_checked_too() {
    let site = checked().file("app.py", "import not_there").location("/", "wsgi_pass app.py; wsgi_preload off;");
    let prefix = prefix_of(&site);
    assert_refused(&site.check(), &prefix, "location /", "app.py", "ModuleNotFoundError");
}

#[test]
fn an_application_of_several_locations_is_reported_once() {
    let site = checked().app("import not_there").location("/again", "wsgi_pass app.py;");
    let check = site.check();
    assert_eq!(said(&check).iter().filter(|line| line.starts_with("wsgi_pass ")).count(), 1, "{}", check.output);
}

#[test]
fn a_crash_shows_where_it_was() {
    let check = checked().app("def deep():\n    import ctypes; ctypes.string_at(0)\ndeep()\n").check();
    assert!(!check.ok);
    assert!(said(&check).iter().any(|line| line.ends_with("app.py\", line 2 in deep")), "{}", check.output);
}

#[test]
fn a_crash_leaves_no_core_file() {
    let unlimited = ["sh", "-c", "ulimit -c unlimited; exec \"$@\"", "sh"];
    let app = after("import resource\nassert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)");
    checked().wrapped_in(&unlimited).app(&app).check().assert_ok();
}

#[test]
fn lines_are_whole_and_cannot_write_to_a_terminal() {
    let check = checked().app("raise ValueError('ä' * 3000 + '|\\n\\x1b[31mred')\n").check();
    assert!(!check.ok);
    let said = said(&check);
    // A line of a traceback that is too long for a record goes on in the next.
    assert!(said.concat().contains(&format!("ValueError: {}|", "ä".repeat(3000))), "{}", check.output);
    assert!(said.contains(&"\\x1b[31mred"), "{}", check.output);
    assert!(said.iter().all(|line| line.len() < 2048));
}

#[test]
fn the_output_of_an_import_is_shown_with_its_failure_alone() {
    let speaks = "
import os, sys
print('from print')
print('from stderr', file=sys.stderr)
os.write(1, b'from descriptor 1\\n')
os.system('echo from a program')
with open('/dev/stdout', 'w') as stream:
    stream.write('from /dev/stdout\\n')
sys.stdout.write('from the end')
";
    let sources = ["print", "stderr", "descriptor 1", "a program", "/dev/stdout", "the end"];
    let site = checked().user("nobody nogroup").app(&after(speaks));
    let site = if python_is_for_everybody() { site } else { site.user("root") };
    let check = site.check_again();
    check.assert_ok();
    assert!(!check.output.contains("from "), "{}", check.output);
    let log = std::fs::read_to_string(site.prefix().join("logs/error.log")).unwrap();
    for source in sources {
        let end = format!(": from {source}");
        assert!(log.lines().any(|line| line.contains("[notice]") && line.ends_with(&end)), "{source}: {log}");
    }

    let check = site.app_at("/broken", "broken.py", &format!("{speaks}\nsys.exit(1)")).check();
    let said = said(&check);
    for source in sources {
        let wanted = format!("from {source}");
        assert_eq!(said.iter().filter(|line| **line == wanted).count(), 1, "{source}: {}", check.output);
    }
    assert!(said[0].ends_with("SystemExit: 1"), "{}", check.output);
}

#[test]
fn much_output_keeps_its_end() {
    let check = checked().app("for _ in range(100_000):\n    print('x' * 100)\nimport not_there\n").check();
    assert!(!check.ok);
    let said = said(&check);
    assert!(said[1].contains("earlier output omitted") && said.len() < 2000, "{} lines: {}", said.len(), said[1]);
    assert_eq!(said.last(), Some(&"ModuleNotFoundError: No module named 'not_there'"));
}

#[test]
fn an_import_that_takes_too_long_is_ended_with_all_that_it_started() {
    let app = "
import os, subprocess, time

def deep():
    time.sleep(100)

note(os.getpid())
note(subprocess.Popen(['sleep', '100']).pid)
child = os.fork()
if child:
    note(child)
deep()
";
    let site = Site::plain()
        .http("wsgi_check_timeout 1500ms;")
        .app(&format!("{NOTE}{app}"))
        .app_at("/second", "second.py", FINE)
        .app_at("/third", "third.py", FINE);
    let start = Instant::now();
    let check = site.check_again();
    assert!(start.elapsed() > Duration::from_millis(1400), "{:?}", start.elapsed());
    let prefix = prefix_of(&site);
    let why = "not imported within wsgi_check_timeout (1500ms)";
    assert_refused(&check, &prefix, "location / ", "app.py", why);
    let said = said(&check);
    assert!(said.iter().any(|line| line.contains("app.py\", line 9 in deep")), "{}", check.output);
    assert_eq!(said.last(), Some(&"wsgi_check ended, 2 more applications not imported"));
    assert_eq!(noted_processes(&site).len(), 3);
    assert_gone(&noted_processes(&site));
}

#[test]
fn whatever_an_import_started_ends_with_the_check() {
    let app = "
import atexit, os, subprocess, threading, time

note(os.getpid())
for daemon in (False, True):
    threading.Thread(target=time.sleep, args=(100,), daemon=daemon).start()
note(subprocess.Popen(['sleep', '100']).pid)
atexit.register(note, 0)
child = os.fork()
if child:
    note(child)
    # One that comes out of the import like its parent reports nothing.
    os.waitpid(child, 0)
else:
    note(os.getpid())
stays = os.fork()
if not stays:
    while True:
        time.sleep(100)
note(stays)
";
    let site = checked().app(&format!("{NOTE}{}", after(app)));
    site.check_again().assert_ok();
    let noted = noted_processes(&site);
    assert!(!noted.contains(&Process(0)), "an atexit function ran");
    assert_gone(&noted);
}

#[test]
fn the_check_ends_with_nginx() {
    // State left by Ctrl-C or worse.
    let app = "
import os, subprocess, time
note(os.getpid())
note(subprocess.Popen(['sleep', '100']).pid)
time.sleep(100)
";
    let site = checked().app(&format!("{NOTE}{app}"));
    let nginx = std::thread::scope(|scope| {
        let checking = scope.spawn(|| site.check_again());
        let noted = wait_for("the import", || Some(noted_processes(&site)).filter(|noted| noted.len() == 2));
        let nginx = parent_of(noted[0]);
        Process(nginx).signal(libc::SIGKILL);
        assert!(!checking.join().unwrap().ok);
        assert_gone(&noted);
        nginx
    });
    assert!(nginx > 1);
}

fn parent_of(process: Process) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0)).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

#[test]
fn it_can_be_switched_off() {
    let app = format!("open('@prefix@/imported', 'w')\n{FINE}\nimport not_there\n");
    let site = Site::plain().http("wsgi_check off;").app(&app);
    site.check_again().assert_ok();
    assert!(!site.prefix().join("imported").exists());
}

#[test]
fn no_byte_code_is_left() {
    let site = checked().file("helper.py", FINE).app("from helper import application\n");
    site.check_again().assert_ok();
    assert!(!site.prefix().join("__pycache__").exists());
}

#[test]
fn a_python_that_does_not_start_is_reported() {
    // Enough of an installation to pass for one at first sight.
    let library = concat!("home/lib/python", env!("WSGI_PYTHON_VERSION"), "/os.py");
    let site = checked().file(library, "").http("wsgi_python_home @prefix@/home;").app(FINE).app_at("/b", "b.py", FINE);
    let prefix = prefix_of(&site);
    let check = site.check();
    assert_refused(&check, &prefix, "location / ", "app.py", "Python cannot be initialised: ");
    assert_eq!(said(&check).last(), Some(&"wsgi_check ended, 1 more applications not imported"));
}

#[test]
fn a_parent_that_ignores_the_end_of_children_does_no_harm() {
    let ignoring = ["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh"];
    let site = checked().wrapped_in(&ignoring).app(FINE);
    site.check_again().assert_ok();
    let check = site.app_at("/leaves", "leaves.py", "import os; os._exit(0)").check();
    assert!(!check.ok);
    assert!(said(&check)[0].contains("the process that imported it ended"), "{}", check.output);
}

// ---- as a worker ----------------------------------------------------------------------------------------------------

/// An application that responds with what its process is, and notes the same when it is only checked.
const SELF: &str = r#"
import json
import os
import sys
import ngx_wsgi

def whether(function, *arguments):
    try:
        function(*arguments)
        return True
    except OSError:
        return False

with open("/proc/self/status") as status:
    signals = {k: v.strip() for k, _, v in (line.partition(":") for line in status) if k in ("SigBlk", "SigIgn")}

facts = {
    "users": os.getresuid(),
    "groups": os.getresgid(),
    "more groups": sorted(os.getgroups()),
    "root": os.getresuid() == (0, 0, 0) or whether(os.setuid, 0),
    "directory": os.getcwd(),
    # nginx with HTTP/3 gives its workers a variable of its own.
    "environment": {name: value for name, value in os.environ.items() if name != "NGINX_BPF_MAPS"},
    "mask": os.umask(0),
    "path": sys.path,
    "prefixes": [sys.prefix, sys.exec_prefix, sys.executable],
    "optimize": sys.flags.optimize,
    "number": ngx_wsgi.worker_number,
    "itself": ngx_wsgi.worker_pid == os.getpid(),
    "signals": signals,
    "stdin": os.fstat(0).st_rdev,
    "own environment": whether(open, "/proc/self/environ"),
}
os.umask(facts["mask"])
if ngx_wsgi.checking:
    with open("@prefix@/checked", "w") as file:
        file.write(json.dumps(facts))

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([facts, ngx_wsgi.checking]).encode()]
"#;

fn a_worker_loads_the_checked_application(engine: Engine) {
    let site = Site::new(engine)
        .http("wsgi_check on; wsgi_python_path @prefix@/tmp; wsgi_python_optimize 1; wsgi_env ONE 1;")
        .main("working_directory @prefix@/tmp;\nenv TWO=2;\nenv TZ=Asia/Tokyo;")
        .user(if python_is_for_everybody() { "www-data" } else { "root" })
        .app(SELF);
    open_to_all(&site, "tmp");
    let nginx = site.start();
    nginx.reload();
    let response: Value = serde_json::from_str(&nginx.get("/").expect(200).text()).unwrap();
    let checked: Value = serde_json::from_str(&nginx.read("checked")).unwrap();
    assert_eq!(checked["environment"]["ONE"], "1");
    assert_eq!(checked["environment"]["TZ"], "Asia/Tokyo");
    assert_eq!(response[0], checked);
    assert_eq!(response[1], false, "ngx_wsgi.checking in a worker");
    if is_root() && python_is_for_everybody() {
        assert_eq!(checked["root"], false);
        assert_ne!(checked["users"][0], 0);
    }
}

fn open_to_all(site: &Site, directory: &str) {
    std::fs::set_permissions(site.prefix().join(directory), std::fs::Permissions::from_mode(0o777)).unwrap();
}

/// A site whose application only root can read, while workers have another user.
fn app_for_root_alone() -> Option<Site> {
    if !is_root() || !python_is_for_everybody() {
        eprintln!("skipped: this needs root, and a Python that everybody can read");
        return None;
    }
    let site = checked().user("nobody nogroup").app("from secret import application\n").file("secret.py", FINE);
    let secret = site.prefix().join("secret.py");
    std::fs::set_permissions(secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    Some(site)
}

fn unreadable(prefix: &str) -> String {
    format!("PermissionError: file \"{prefix}/secret.py\" cannot be read by user nobody (mode 0600, owner root)")
}

#[test]
fn a_file_only_root_can_read_fails_as_it_would_in_a_worker() {
    let Some(site) = app_for_root_alone() else { return };
    let prefix = prefix_of(&site);
    assert_refused(&site.check(), &prefix, "wsgi_pass", "app.py", &unreadable(&prefix));
}

#[test]
fn the_user_counts_also_where_it_stands_last() {
    let Some(site) = app_for_root_alone() else { return };
    let prefix = prefix_of(&site);
    let check = site.user_last().check();
    assert_refused(&check, &prefix, "wsgi_pass", "app.py", &unreadable(&prefix));
}

#[test]
fn without_root_the_check_runs_as_the_user_of_nginx() {
    let Some(site) = app_for_root_alone() else { return };
    for directory in ["logs", "tmp"] {
        open_to_all(&site, directory);
    }
    let as_user = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let site = site.wrapped_in(&as_user);
    let prefix = prefix_of(&site);
    let check = site.check_again();
    assert_refused(&check, &prefix, "wsgi_pass", "app.py", "PermissionError");
    let secret = site.prefix().join("secret.py");
    std::fs::set_permissions(secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    site.check().assert_ok();
}

#[test]
fn nothing_of_nginx_is_open_in_the_check() {
    let app = "
import ngx_wsgi, os, subprocess
if ngx_wsgi.checking:
    links = [os.readlink(f'/proc/self/fd/{number}') for number in range(100) if os.path.exists(f'/proc/self/fd/{number}')]
    kinds = [link.partition(':')[0] for link in links]
    inherited = subprocess.run(['ls', '/proc/self/fd'], close_fds=False, capture_output=True, text=True).stdout
    with open('@prefix@/events', 'a') as events:
        events.write(f'{kinds} {inherited.split()}\\n')
";
    let nginx = checked().app(&after(app)).start();
    nginx.get("/").expect(200);
    nginx.reload();
    nginx.reload();
    // Standard input, output and error, the reports, and what Python's sys.stdin reads. A program that it starts has the
    // first three, and one for the directory that it lists.
    let found = "['/dev/null', 'pipe', 'pipe', 'socket', '/dev/null'] ['0', '1', '2', '3']";
    nginx.wait_events(&[found; 2]);
}

#[test]
fn it_has_the_default_signals_also_on_reload() {
    let app = "
import ngx_wsgi, os, signal, time
if ngx_wsgi.checking and os.path.exists('@prefix@/again'):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(100)
";
    let mut nginx = checked().app(&after(app)).start();
    nginx.get("/").expect(200);
    nginx.write("again", "");
    let line = nginx.reload_refused();
    assert!(line.contains("ended by signal 15"), "{line}");
    end_after_refusals(nginx);
}

// ---- start, reload, stop, upgrade -----------------------------------------------------------------------------------

/// Ends an nginx whose log has `[emerg]` lines that the test has caused; anything else of weight fails it.
#[track_caller]
pub fn end_after_refusals(mut nginx: Nginx) -> String {
    let log = nginx.stop_by(libc::SIGQUIT);
    for bad in ["[alert]", "[crit]", "panicked", "exited on signal", "unknown process"] {
        assert!(!log.contains(bad), "{bad}:\n{log}");
    }
    log
}
