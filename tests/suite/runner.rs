//! `ngx-wsgi`: the start of a server, and what it says.

use crate::harness::{Project, is_root, wait_for};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

/// Responds with facts about its process and its request.
pub const FACTS: &str = r#"
import json, os, sys, threading
import ngx_wsgi

def status(name):
    with open("/proc/self/status") as file:
        return next(line.split()[1] for line in file if line.startswith(name + ":"))

def application(environ, start_response):
    facts = {
        "pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid(), "cwd": os.getcwd(), "umask": status("Umask"),
        "path": sys.path, "thread": threading.current_thread().name, "interpreter": ngx_wsgi.interpreter,
        "environ": {key: value for key, value in environ.items() if isinstance(value, str)},
        "variables": dict(os.environ),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(facts).encode()]
"#;

pub const HELLO: &str = r#"
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"#;

#[test]
fn a_server_is_introduced_in_three_lines_and_serves() {
    let project = Project::with_app(HELLO);
    let server = project.serve(&["app", "--workers", "2", "--log-level", "error"]);
    assert_eq!(server.get("/").expect(200).text(), "hello");
    let said = server.said();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert_eq!(lines[0], format!("ngx-wsgi: serving app on http://{}", project.address()));
    assert_eq!(lines[1], "ngx-wsgi: 2 workers, 4 threads each");
    assert!(lines[2].starts_with(concat!("ngx-wsgi: version ", env!("CARGO_PKG_VERSION"), ", nginx 1.")), "{said}");
    assert!(lines[2].contains(", Python 3."), "{said}");
    assert_eq!(server.workers().len(), 2);
    // It is nginx itself that a service manager or a container sees.
    assert!(server.process().title().starts_with("nginx: master process "), "{}", server.process().title());
}

#[test]
fn run_is_the_default_command_and_a_target_has_the_forms_of_wsgi_pass() {
    let project = Project::with_app(HELLO);
    project.write("package/__init__.py", "");
    project.write("package/shop.py", &HELLO.replace("application", "create"));
    let shop = "import package.shop\ndef factory():\n    return package.shop.create\n";
    project.write("shop.py", shop);
    let script = project.path("my app.py");
    project.write("my app.py", &HELLO.replace("hello", "script"));
    for (target, text) in [
        ("app:application", "hello"),
        ("package.shop:create", "hello"),
        ("shop:factory()", "hello"),
        (script.to_str().unwrap(), "script"),
        ("./my app.py:application", "script"),
    ] {
        let server = project.serve(&["run", target, "--workers", "1"]);
        assert_eq!(server.get("/").expect(200).text(), text, "{target}");
        server.quit();
    }
}

#[test]
fn the_application_gets_the_whole_environment_and_no_file_has_the_values() {
    let project = Project::with_app(FACTS);
    let arguments = ["app", "--workers", "1", "--env", "GIVEN=a=b $HOME;", "--bind", &project.address()];
    let runner =
        project.runner(&arguments).set("SECRET", "from \"outside\";").set("ODD-NAME", "kept").set("NGINX", "0");
    let server = runner.start();
    let facts = server.get("/").json();
    let variables = &facts["variables"];
    assert_eq!(variables["SECRET"], "from \"outside\";");
    assert_eq!(variables["ODD-NAME"], "kept");
    assert_eq!(variables["GIVEN"], "a=b $HOME;");
    assert_eq!(variables.get("NGINX"), None);
    let runtime = fs::read_dir(project.path("tmp")).unwrap().next().unwrap().unwrap().path();
    let configurations: Vec<String> = fs::read_dir(&runtime)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path().join("nginx.conf")).unwrap())
        .collect();
    assert_eq!(configurations.len(), 1);
    assert!(configurations[0].contains("env \"SECRET\";") && !configurations[0].contains("outside"));
    // The same server uses the same directory again.
    server.quit();
    project.serve(&["app"]).quit();
    assert_eq!(fs::read_dir(&runtime).unwrap().count(), 1);
}

#[test]
fn other_users_cannot_read_the_runtime_directory() {
    let project = Project::with_app(HELLO);
    let server = project.serve(&["app", "--workers", "1"]);
    let runtime = fs::read_dir(project.path("tmp")).unwrap().next().unwrap().unwrap().path();
    let mode = fs::metadata(&runtime).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, if is_root() { 0o711 } else { 0o700 }, "{runtime:?}");
    server.quit();
    // A directory that others can write to is not used.
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o777)).unwrap();
    let ended = project.runner(&["app", "--bind", &project.address()]).run();
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.stderr.contains("its contents are not trusted; remove it"), "{}", ended.stderr);
}

#[test]
fn an_application_that_cannot_be_imported_is_shown_with_its_traceback_and_nothing_is_served() {
    let project = Project::with_app("import json\n\n1 / 0\n");
    for arguments in [&["app"][..], &["app", "--check-config"]] {
        let ended = project.runner(&[arguments, &["--bind", &project.address()]].concat()).run();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        assert_eq!(ended.stderr.matches("Traceback (most recent call last)").count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains("app.py\", line 3"), "{}", ended.stderr);
        assert!(ended.stderr.trim_end().ends_with(", for the reason above."), "{}", ended.stderr);
        assert!(!ended.stderr.contains("serving"), "{}", ended.stderr);
    }
}

#[test]
fn check_config_imports_the_application_and_serves_nothing() {
    let project = Project::with_app("open('imported', 'w').close()\ndef application(e, s): pass\n");
    // The port may be in use.
    let _taken = TcpListener::bind(("127.0.0.1", project.port())).unwrap();
    let pid_file = project.path("nginx.pid");
    let arguments = ["app", "--check-config", "--bind", &project.address(), "--pid", pid_file.to_str().unwrap()];
    let ended = project.runner(&arguments).run();
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(ended.stderr, "ngx-wsgi: app can be imported, and the configuration is right.\n");
    assert!(project.path("imported").exists());
    assert!(!pid_file.exists());
}

#[test]
fn standard_streams_may_be_closed() {
    let project = Project::with_app(HELLO);
    for closed in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"] {
        let close = format!(r#"exec "$@" {closed}"#);
        let ended = project.runner(&["app", "--check-config"]).wrapped_in(&["sh", "-c", &close, "sh"]).run();
        assert!(ended.status.success(), "{closed}: {}", ended.stderr);
    }
}

#[test]
fn a_reload_that_comes_before_the_start_does_not_end_the_server() {
    let project = Project::with_app(
        r#"
import os, signal
import ngx_wsgi

if ngx_wsgi.checking:
    with open("runner.pid") as file:
        os.kill(int(file.read()), signal.SIGHUP)

def application(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]
"#,
    );
    let runner = project.runner(&["app", "--workers", "1", "--bind", &project.address()]);
    let server = runner.wrapped_in(&["sh", "-c", r#"echo $$ >runner.pid && exec "$@""#, "sh"]).start();
    server.get("/").expect(200);
}

#[test]
fn a_signal_ends_the_check_too() {
    let project = Project::with_app(
        r#"
import os, time

with open("runner.pid") as file:
    runner, number = file.read().split()
os.kill(int(runner), int(number))
time.sleep(60)
"#,
    );
    for number in [libc::SIGTERM, libc::SIGQUIT] {
        let shell = format!(r#"echo $$ {number} >runner.pid && exec "$@""#);
        let ended =
            project.runner(&["app", "--bind", &project.address()]).wrapped_in(&["sh", "-c", &shell, "sh"]).run();
        assert_eq!(ended.status.code(), Some(128 + number), "{}", ended.stderr);
        wait_for("the end of the check", || project.processes().is_empty().then_some(()));
    }
}

#[test]
fn check_config_changes_nothing_of_a_running_server() {
    let project = Project::with_app(HELLO);
    let server = project.serve(&["app", "--workers", "1", "--pid", "nginx.pid"]);
    let address = project.address();
    let arguments = ["app", "--check-config", "--workers", "2", "--pid", "nginx.pid", "--bind", &address];
    let ended = project.runner(&arguments).run();
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(project.master("nginx.pid"), server.process());
    let ended = project.runner(&["reload", "--pid", "nginx.pid"]).run();
    assert_eq!(ended.stderr, "ngx-wsgi: reloaded app: 1 new worker\n");
}

#[test]
fn an_address_in_use_is_one_sentence() {
    let project = Project::with_app(HELLO);
    let taken = TcpListener::bind(("127.0.0.1", project.port())).unwrap();
    let ended = project.runner(&["app", "--bind", &project.address()]).run();
    drop(taken);
    assert_eq!(ended.status.code(), Some(2));
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    let sentence =
        format!("ngx-wsgi: cannot listen on {}: another program does already; stop it, or", project.address());
    assert!(ended.stderr.starts_with(&sentence), "{}", ended.stderr);
}

#[test]
fn a_mistake_on_the_command_line_is_one_sentence() {
    let project = Project::with_app(HELLO);
    for (arguments, sentence) in [
        (&["app", "--preload"][..], "--preload is not supported: Python starts in the workers"),
        (&["app", "--worker-class", "gevent"], "--worker-class is not supported: requests run on threads (--threads)"),
        (&["app", "--bind", "fd://3"], "sockets of systemd are not supported; name the address here"),
        (&["app", "--workers", "none"], "argument -w/--workers: 'none' is not a number from 1 to 1024"),
        (&["app", "--http2"], "--http2 needs --certfile"),
        (&["app", "--nonsense"], "unrecognized arguments: --nonsense (`ngx-wsgi --help` lists the options)"),
        (&[], "there is no application to serve: name it, as in `ngx-wsgi mysite.wsgi:application`"),
        (&["none.py"], "none.py: there is no file "),
    ] {
        let ended = project.runner(arguments).run();
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.starts_with("ngx-wsgi: ") && ended.stderr.contains(sentence), "{}", ended.stderr);
    }
}

#[test]
fn help_and_version_are_for_people() {
    let project = Project::new();
    let help = project.runner(&["--help"]).run();
    assert!(help.status.success() && help.stdout.contains("ngx-wsgi reload [--pid FILE]"), "{}", help.stdout);
    let version = project.runner(&["--version"]).run();
    assert_eq!(version.stdout, concat!("ngx-wsgi ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn signals_are_those_of_nginx() {
    let project = Project::with_app(FACTS);
    let mut server = project.serve(&["app", "--workers", "1"]);
    let first = server.workers();
    server.signal(libc::SIGHUP);
    wait_for("new workers", || {
        let now = server.workers();
        (now.len() == 1 && now != first).then_some(())
    });
    server.get("/").expect(200);
    server.signal(libc::SIGTERM);
    assert!(server.wait_end().success());
}
