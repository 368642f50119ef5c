//! `ngx-wsgi-top` in a terminal, with the status page of this nginx.

use crate::harness::{Client, Conn, Engine, Nginx, Site, Terminal, curl, in_repository, make_certificate, wait_for};
use std::process::{Command, Output};

/// Application whose call of `/wait…` ends once there is a file `go`, and whose call of `/fail` raises an exception.
const APP: &str = r#"
import os, time

@event@

__version__ = "4.2.1"

def wait_for_the_file():
    event("begun")
    while not os.path.exists("@prefix@/go"):
        time.sleep(0.01)

def application(environ, start_response):
    if environ["PATH_INFO"].startswith("/wait"):
        wait_for_the_file()
    elif environ["PATH_INFO"] == "/fail":
        raise ValueError("\x1b[2J\x1b]0;evil\x07 日本語")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"#;

fn site() -> Site {
    Site::new(Engine::Threads)
        .http("wsgi_status_zone status 1m;")
        .app(APP)
        .location("= /status", "wsgi_status;")
        .errors_expected()
}

/// The program with these arguments, for the status page of an nginx.
fn top(client: &Client, arguments: &[&str]) -> Command {
    let mut command = Command::new(in_repository("python/ngx_wsgi/top.py"));
    command.arg(client.url("/status")).args(arguments);
    command
}

fn run(mut command: Command) -> (bool, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.success(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Sends a request and returns when its call runs.
fn begin(nginx: &Nginx, path: &str) -> Conn {
    let before = nginx.events().len();
    let mut connection = nginx.connect();
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
    wait_for("the call to begin", || (nginx.events().len() > before).then_some(()));
    connection
}

#[test]
fn a_running_call_is_shown_with_its_stack_and_the_terminal_is_restored() {
    let nginx = site().start();
    let mut connection = begin(&nginx, "/wait/for/it?token=secret");
    let mut terminal = Terminal::start(top(&nginx, &["-d", "0.5"]), 80, 24);
    let before = terminal.mode();
    let screen = terminal.wait_shown("/wait/for/it");
    assert!(!screen.contains("secret") && screen.contains("4.2.1") && screen.contains("app.py"), "{screen}");
    assert!(terminal.mode().has_alternate_screen);

    terminal.keys("\r");
    let screen = terminal.wait_shown("in wait_for_the_file");
    assert!(screen.contains("GET /wait/for/it"), "{screen}");
    terminal.keys("q");
    terminal.wait_shown("q quit");
    // Each view, in sizes that a terminal may be given.
    for (columns, rows) in [(100, 30), (40, 10), (12, 4), (1, 1), (80, 24)] {
        terminal.resize(columns, rows);
        for (key, head) in [("a", "APPLICATION"), ("w", "WORKER"), ("e", "EVENT"), ("c", "PATH"), ("o", "Threads")] {
            terminal.keys(key);
            if rows > 10 {
                terminal.wait_shown(head);
            }
        }
    }
    terminal.wait_shown("/wait/for/it");
    nginx.write("go", "");
    connection.response();
    // In the view of calls, as applications are still called so.
    terminal.keys("c");
    terminal.wait_shown("no call runs or waits");
    terminal.keys("q");
    assert!(terminal.wait_end().success());
    assert_eq!(terminal.mode(), before);
}

#[test]
fn a_signal_ends_it_and_restores_the_terminal() {
    let nginx = site().start();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let mut terminal = Terminal::start(top(&nginx, &[]), 80, 24);
        let before = terminal.mode();
        terminal.wait_shown("APPLICATION");
        terminal.signal(signal);
        assert_eq!(terminal.wait_end().code(), Some(128 + signal));
        assert_eq!(terminal.mode(), before);
        let screen = terminal.screen();
        assert!(!screen.contains("Traceback"), "{screen}");
    }
}

#[test]
fn a_terminal_that_it_cannot_use_is_named() {
    let nginx = site().start();
    for (name, part) in [("dumb", "can only print lines"), ("none-of-this-name", "is unknown")] {
        let mut command = top(&nginx, &[]);
        command.env("TERM", name);
        let mut terminal = Terminal::start(command, 200, 24);
        let before = terminal.mode();
        terminal.wait_shown(part);
        assert_eq!(terminal.wait_end().code(), Some(1));
        assert_eq!(terminal.mode(), before);
    }
}

#[test]
fn data_of_an_application_cannot_command_the_terminal() {
    let nginx = site().start();
    nginx.get("/fail").expect(500);
    let mut connection = begin(&nginx, "/wait/%1b%5b2J/%e6%97%a5%e6%9c%ac/%c2%9b1m/end");
    let mut terminal = Terminal::start(top(&nginx, &["-d", "0.5"]), 120, 24);
    let screen = terminal.wait_shown("/wait/");
    assert!(screen.starts_with("ngx-wsgi-top "), "{screen}");
    terminal.keys("e");
    let screen = terminal.wait_shown(r"ValueError: \x1b[2J\x1b]0;evil\x07 日本語");
    assert!(screen.starts_with("ngx-wsgi-top "), "{screen}");
    terminal.keys("\r");
    terminal.wait_shown("Traceback (most recent call last)");
    nginx.write("go", "");
    connection.response();
}

#[test]
fn tables_as_text_have_the_counters_of_the_requests() {
    let nginx = site().start();
    for _ in 0..7 {
        nginx.get("/").expect(200);
    }
    nginx.get("/fail").expect(500);
    // A call is counted a moment after its response.
    let said = wait_for("the end of the calls", || {
        let (succeeded, said, errors) = run(top(&nginx, &["--once", "-d", "0.1"]));
        assert!(succeeded && errors.is_empty(), "{errors}");
        said.contains("running: 0").then_some(said)
    });
    let table: Vec<&str> = said.lines().skip_while(|line| !line.starts_with("APPLICATION")).take(2).collect();
    let names: Vec<&str> = table[0].split_whitespace().collect();
    let values: Vec<&str> = table[1].split_whitespace().collect();
    let value = |name: &str| values[names.iter().position(|&known| known == name).unwrap()];
    assert_eq!((value("CALLS"), value("EXC"), value("RUN"), value("CODE")), ("8", "1", "0", "4.2.1"), "{said}");
    assert!(said.contains("exception"), "{said}");
    assert!(said.contains(&format!("\n{:>6} ", nginx.workers()[0])), "{said}");
}

#[test]
fn the_stack_of_a_call_is_printed_for_scripts() {
    let nginx = site().start();
    let mut connection = begin(&nginx, "/wait");
    let (_, said, _) = run(top(&nginx, &["--once", "-d", "0.1"]));
    let call = said.lines().find(|line| line.contains(" /wait")).expect("the call").split(' ').next().unwrap();
    let (succeeded, said, _) = run(top(&nginx, &["--stack", call]));
    assert!(succeeded && said.contains("in wait_for_the_file"), "{said}");
    nginx.write("go", "");
    connection.response();
    let ended = wait_for("the end of the call", || Some(run(top(&nginx, &["--stack", call]))).filter(|ended| !ended.0));
    assert!(ended.2.contains("runs no Python code"), "{}", ended.2);
}

#[test]
fn access_control_is_explained_and_passed() {
    let site = site()
        .location("= /denied", "wsgi_status; deny all;")
        .location("= /private", "wsgi_status; auth_basic status; auth_basic_user_file users;")
        .file("conf/users", "me:{PLAIN}secret\n")
        .file("password", "secret\n")
        .file("wrong", "wrong\n");
    let tls = site.another_port();
    make_certificate(site.prefix());
    let nginx = site
        .server(&format!(
            "listen 127.0.0.1:{tls} ssl; listen unix:@prefix@/socket;
            ssl_certificate @prefix@/certificate.pem; ssl_certificate_key @prefix@/key.pem;"
        ))
        .start();
    let file = |name: &str| nginx.prefix().join(name).to_str().unwrap().to_owned();
    let ask = |url: &str, arguments: &[&str]| {
        let mut command = Command::new(in_repository("python/ngx_wsgi/top.py"));
        command.args([url, "--once", "-d", "0.1"]).args(arguments);
        run(command)
    };
    let assert_refused = |(succeeded, _, said): (bool, String, String), part: &str| {
        assert!(!succeeded && said.contains(part) && !said.contains("Traceback"), "{part} is not in: {said}");
    };
    let assert_shown = |(succeeded, said, errors): (bool, String, String)| {
        assert!(succeeded && said.contains("Threads:"), "{errors}");
    };
    assert_refused(ask(&nginx.url("/denied"), &[]), "Add `allow ADDRESS;`");
    assert_refused(ask(&nginx.url("/elsewhere/"), &[]), "has sent no JSON");
    let private = nginx.url("/private");
    assert_refused(ask(&private, &[]), "give --user NAME");
    assert_refused(ask(&private, &["--user", "me", "--password-file", &file("wrong")]), "does not accept the user me");
    assert_shown(ask(&private, &["--user", "me", "--password-file", &file("password")]));

    let secure = format!("https://localhost:{tls}/status");
    assert_refused(ask(&secure, &[]), "--cafile FILE");
    assert_shown(ask(&secure, &["--insecure"]));
    assert_shown(ask(&secure, &["--cafile", &file("certificate.pem")]));
    assert_shown(ask(&format!("unix:{}:/status", file("socket")), &[]));
    // The same by hand, to see that it is the page that refuses.
    assert_eq!(curl(&[&nginx.url("/denied")]).response.status, 403);
}
