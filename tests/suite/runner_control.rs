//! `ngx-wsgi reload`, `stop` and `status`, and servers in the background.

use crate::harness::{Ended, Load, Process, Project, WAITS, curl, wait_for};
use crate::runner::{FACTS, HELLO};
use std::fs;
use std::os::unix::fs::symlink;

impl Project {
    /// `ngx-wsgi COMMAND --pid nginx.pid`: other tests have servers of the same user.
    fn control(&self, command: &str) -> Ended {
        self.runner(&[command, "--pid", "nginx.pid"]).run()
    }
}

#[test]
fn reload_loads_new_code_under_load_without_losing_a_request() {
    let project = Project::with_app(HELLO);
    let server = project.serve(&["app", "--workers", "2", "--pid", "nginx.pid", "--bind", "unix:app.sock"]);
    let load = Load::start(&server, "/", 4);
    for text in ["second", "third"] {
        project.write("app.py", &HELLO.replace("hello", text));
        let ended = project.control("reload");
        assert!(ended.status.success(), "{}", ended.stderr);
        assert_eq!(ended.stderr, "ngx-wsgi: reloaded app: 2 new workers\n");
        assert_eq!(server.get("/").text(), text);
    }
    load.stop().assert_good();
    let socket = project.path("app.sock");
    curl(&["--unix-socket", socket.to_str().unwrap(), "http://localhost/"]).expect(200);
}

#[test]
fn reload_keeps_the_running_code_if_the_new_code_cannot_be_imported() {
    let project = Project::with_app(HELLO);
    let server = project.serve(&["app", "--workers", "1", "--pid", "nginx.pid"]);
    let workers = server.workers();
    // The worker has imported it.
    assert_eq!(server.get("/").text(), "hello");
    project.write("app.py", "import missing_module\n");
    let ended = project.control("reload");
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("ModuleNotFoundError: No module named 'missing_module'"), "{}", ended.stderr);
    assert!(ended.stderr.contains("not reloaded, for the reason above"), "{}", ended.stderr);
    assert_eq!(server.workers(), workers);
    assert_eq!(server.get("/").text(), "hello");
}

#[test]
fn reload_checks_with_the_environment_and_the_directory_of_the_start() {
    let project = Project::new();
    project.write(
        "site/app.py",
        &format!("import os\nassert os.environ['NEEDED'] == 'x'\nassert os.path.exists('app.py')\n{HELLO}"),
    );
    let arguments = ["app", "--chdir", "site", "--workers", "1", "--pid", "../nginx.pid", "--bind", &project.address()];
    let server = project.runner(&arguments).set("NEEDED", "x").start();
    let ended = project.control("reload");
    assert!(ended.status.success(), "{}", ended.stderr);
    server.get("/").expect(200);
}

#[test]
fn the_application_cannot_change_what_a_reload_runs() {
    let project = Project::with_app(
        r#"
import os

def find():
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink("/proc/self/fd/" + name).startswith("/memfd:ngx-wsgi "):
                yield int(name)
        except FileNotFoundError:
            pass

def attempt(change, *arguments):
    try:
        change(*arguments)
        return "changed"
    except PermissionError:
        return "refused"

def application(environ, start_response):
    start_response("200 OK", [])
    [state] = find()
    attempts = [attempt(os.pwrite, state, b"{}", 0), attempt(os.truncate, state, 0)]
    return [" ".join(attempts).encode()]
"#,
    );
    let server = project.serve(&["app", "--workers", "1", "--pid", "nginx.pid"]);
    assert_eq!(server.get("/").text(), "refused refused");
    assert!(project.control("reload").status.success());
}

#[test]
fn a_reload_follows_a_symbolic_link_to_the_next_release() {
    let project = Project::new();
    for release in ["first", "second"] {
        project.write(&format!("{release}/app.py"), &HELLO.replace("hello", release));
    }
    symlink("first", project.path("current")).unwrap();
    let arguments = ["app", "--workers", "1", "--pid", "../nginx.pid", "--bind", &project.address()];
    let server = project.runner(&arguments).wrapped_in(&["sh", "-c", r#"cd current && exec "$@""#, "sh"]).start();
    assert_eq!(server.get("/").expect(200).text(), "first");
    symlink("second", project.path("next")).unwrap();
    fs::rename(project.path("next"), project.path("current")).unwrap();
    assert!(project.control("reload").status.success());
    assert_eq!(server.get("/").expect(200).text(), "second");
}

#[test]
fn a_server_in_the_background_is_reloaded_and_stopped_by_its_pid_file() {
    let project = Project::with_app(FACTS);
    let address = project.address();
    let start =
        ["app", "--daemon", "--error-logfile", "error.log", "--pid", "nginx.pid", "--workers", "2", "--bind", &address];
    let ended = project.runner(&[&start[..], &["--umask", "027"]].concat()).run();
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stderr.contains(&format!("serving app on http://{address}")), "{}", ended.stderr);
    let master = project.master("nginx.pid");
    // The output of the command ends with the command.
    assert!(!master.open_files().iter().any(|file| file.ends_with("of-command")), "{:?}", master.open_files());
    let url = format!("http://{address}/");
    let facts = curl(&[&url]).expect(200).json();
    assert_eq!(facts["umask"], "0027");

    let status = project.control("status");
    assert!(status.status.success());
    assert_eq!(status.stdout, format!("{}  app  {address}  2 workers\n", master.0));
    let ended = project.control("reload");
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_ne!(curl(&[&url]).expect(200).json()["pid"], facts["pid"]);
    let ended = project.control("stop");
    assert_eq!((ended.status.success(), &*ended.stderr), (true, "ngx-wsgi: stopped app\n"));
    assert!(!master.is_alive());
    let ended = project.control("status");
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.stderr.contains("there is no such file, so the server is not running"), "{}", ended.stderr);
}

#[test]
fn a_start_in_the_background_that_fails_is_reported() {
    let project = Project::with_app(HELLO);
    let common = ["app", "--daemon", "--error-logfile", "error.log", "--bind", &project.address()];
    project.write("app.py", "1 / 0\n");
    let ended = project.runner(&common).run();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stderr.contains("ZeroDivisionError"), "{}", ended.stderr);
    assert_eq!(project.processes(), []);
}

#[test]
fn stop_waits_for_running_requests_and_stop_now_does_not() {
    for at_once in [false, true] {
        let project = Project::with_app(WAITS);
        let mut server = project.serve(&["app", "--workers", "1", "--pid", "nginx.pid"]);
        std::thread::scope(|scope| {
            let mut connection = server.connect();
            let request =
                scope.spawn(move || connection.send("GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n").read_to_end());
            wait_for("the request to begin", || project.path("begun").exists().then_some(()));
            let stop = scope.spawn(|| {
                let now: &[&str] = if at_once { &["--now"] } else { &[] };
                project.runner(&[&["stop", "--pid", "nginx.pid"], now].concat()).run()
            });
            if !at_once {
                server.wait_said("gracefully shutting down");
                project.write("go", "");
            }
            server.wait_end();
            assert!(stop.join().unwrap().status.success());
            let response = String::from_utf8(request.join().unwrap()).unwrap();
            assert_eq!(response.contains("complete"), !at_once, "{response:?}");
        });
    }
}

#[test]
fn without_a_pid_file_several_servers_are_listed() {
    let (one, other) = (Project::with_app(HELLO), Project::with_app(HELLO));
    let (first, second) = (one.serve(&["app", "--workers", "1"]), other.serve(&["app", "--workers", "1"]));
    let ended = one.runner(&["reload"]).run();
    assert_eq!(ended.status.code(), Some(2));
    for (project, server) in [(&one, &first), (&other, &second)] {
        let line = format!("{} serves app on {}", server.process().0, project.address());
        assert!(ended.stderr.contains(&line), "{}", ended.stderr);
        let status = one.runner(&["status"]).run();
        assert!(status.stdout.contains(&format!("{}  app  {}  1 worker\n", server.process().0, project.address())));
        // The number itself names the server, too.
        let ended = one.runner(&["reload", "--pid", &server.process().0.to_string()]).run();
        assert!(ended.status.success(), "{}", ended.stderr);
    }
}

#[test]
fn a_process_that_is_no_server_is_not_signalled() {
    let project = Project::new();
    project.write("nginx.pid", &std::process::id().to_string());
    for command in ["reload", "stop", "status"] {
        let ended = project.control(command);
        assert_eq!(ended.status.code(), Some(2), "{command}");
        assert!(ended.stderr.contains("is no server that this user may control"), "{}", ended.stderr);
    }
    assert!(Process(std::process::id() as i32).is_alive());
}

#[test]
fn an_edit_replaces_the_workers_and_a_wrong_one_does_not() {
    let project = Project::with_app(&format!("import helper\n{}", HELLO.replace("b\"hello\"", "helper.TEXT")));
    project.write("helper.py", "TEXT = b'first'\n");
    project.write("data/words.txt", "");
    let arguments = ["app", "--workers", "1", "--reload", "--reload-extra-file", "data"];
    let server = project.serve(&arguments).errors_expected();
    assert_eq!(server.get("/").text(), "first");
    let wait_served = |text: &str| wait_for(text, || (server.get("/").text() == text).then_some(()));
    project.write("helper.py", "TEXT = b'second'\n");
    wait_served("second");
    project.write("helper.py", "TEXT = b'broken\n");
    server.wait_said("SyntaxError");
    assert_eq!(server.get("/").text(), "second");
    project.write("helper.py", "TEXT = b'third'\n");
    wait_served("third");
    let workers = server.workers();
    project.write("data/words.txt", "new");
    wait_for("new workers", || (!server.workers().is_empty() && server.workers() != workers).then_some(()));
}
