//! `ngx-wsgi` below a terminal: Ctrl-C, signals, and the end of the terminal.

use crate::harness::{Process, Project, Server, WAITS, wait_for};
use std::thread::ScopedJoinHandle;

fn serve(project: &Project) -> Server<'_> {
    let arguments = ["app", "--workers", "1", "--pid", "nginx.pid", "--bind", &project.address()];
    project.runner(&arguments).start_in_terminal()
}

/// Sends a request that waits for the file "go"; returns when it has begun.
fn begin<'s>(
    scope: &'s std::thread::Scope<'s, '_>,
    project: &Project,
    server: &Server<'_>,
) -> ScopedJoinHandle<'s, Vec<u8>> {
    let mut connection = server.connect();
    let request = scope.spawn(move || connection.send("GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n").read_to_end());
    wait_for("the request to begin", || project.path("begun").exists().then_some(()));
    request
}

fn runner_of(project: &Project) -> Process {
    Process(project.master("nginx.pid").parent().expect("the runner"))
}

#[test]
fn ctrl_c_waits_for_the_running_request() {
    let project = Project::with_app(WAITS);
    let mut server = serve(&project);
    let master = project.master("nginx.pid");
    // Ctrl-C reaches the group of the runner alone.
    assert_ne!(runner_of(&project).status_words("NSpgid"), master.status_words("NSpgid"));
    std::thread::scope(|scope| {
        let request = begin(scope, &project, &server);
        server.write_keys("\x03");
        server.wait_said("waiting for running requests; Ctrl-C again ends them");
        project.write("go", "");
        assert!(String::from_utf8(request.join().unwrap()).unwrap().contains("complete"));
    });
    assert!(server.wait_end().success());
    assert!(!master.is_alive());
}

#[test]
fn a_second_ctrl_c_does_not_wait() {
    let project = Project::with_app(WAITS);
    // nginx says so of the connection that it closes.
    let mut server = serve(&project).alerts_expected("open socket").alerts_expected("aborting");
    std::thread::scope(|scope| {
        let request = begin(scope, &project, &server);
        server.write_keys("\x03");
        server.wait_said("Ctrl-C again ends them");
        server.write_keys("\x03");
        server.wait_end();
        assert!(!String::from_utf8(request.join().unwrap()).unwrap().contains("complete"));
    });
}

#[test]
fn the_end_of_the_terminal_stops_the_server_after_its_requests() {
    let project = Project::with_app(WAITS);
    let mut server = serve(&project);
    let master = project.master("nginx.pid");
    std::thread::scope(|scope| {
        let request = begin(scope, &project, &server);
        // The program that has the other side of the pseudo-terminal.
        server.signal(libc::SIGKILL);
        server.wait_end();
        project.write("go", "");
        assert!(String::from_utf8(request.join().unwrap()).unwrap().contains("complete"));
    });
    master.wait_gone();
    // Also the runner.
    wait_for("the end of all processes", || project.processes().is_empty().then_some(()));
}

#[test]
fn other_signals_are_passed_on() {
    let project = Project::with_app(WAITS);
    let mut server = serve(&project);
    let workers = server.workers();
    // The terminal is there, so this is a reload and no hangup.
    runner_of(&project).signal(libc::SIGHUP);
    wait_for("new workers", || (!server.workers().is_empty() && server.workers() != workers).then_some(()));
    server.get("/").expect(200);
    runner_of(&project).signal(libc::SIGTERM);
    assert!(server.wait_end().success());
}

#[test]
fn nginx_does_not_outlive_the_runner() {
    let project = Project::with_app(WAITS);
    let mut server = serve(&project);
    let master = project.master("nginx.pid");
    runner_of(&project).signal(libc::SIGKILL);
    server.wait_end();
    master.wait_gone();
}
