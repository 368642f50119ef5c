//! `ngx-wsgi-ctl` with the supervisor of a running nginx.

use crate::harness::{GroupNginx, Process, Site, two_users, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

const APP: &str = r#"
import os

def application(environ, start_response):
    if environ["PATH_INFO"].endswith("/wait"):
        with open("@prefix@/events", "a") as events:
            events.write("begun\n")
        while not os.path.exists("@prefix@/release"):
            pass
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"first"]
"#;

/// A site with the groups `blog` and `shop`, with these arguments.
fn site(blog: &str, shop: &str) -> Site {
    [("blog", blog), ("shop", shop)].iter().fold(Site::plain(), |site, (name, arguments)| {
        site.http(&format!("wsgi_process_group {name} chdir=@prefix@ {arguments};"))
            .file(&format!("{name}.py"), APP)
            .location(&format!("/{name}/"), &format!("wsgi_pass {name}.py process={name};"))
    })
}

fn start(blog: &str, shop: &str) -> GroupNginx {
    started(site(blog, shop))
}

fn started(site: Site) -> GroupNginx {
    let nginx = GroupNginx::start(site);
    for name in ["blog", "shop"] {
        assert_eq!(nginx.get(&format!("/{name}/")).expect(200).text(), "first");
    }
    nginx
}

/// How the command ended.
#[derive(Debug)]
struct Ran {
    status: i32,
    output: String,
    errors: String,
}

impl Ran {
    fn of(command: &mut Command) -> Ran {
        let output = command.output().expect("run it");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { status: output.status.code().unwrap(), output: text(output.stdout), errors: text(output.stderr) }
    }

    #[track_caller]
    fn expect(self, status: i32) -> Ran {
        assert_eq!(self.status, status, "{self:?}");
        self
    }
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_ngx-wsgi-ctl"))
}

fn control(nginx: &GroupNginx, arguments: &[&str]) -> Ran {
    Ran::of(Command::new(program()).arg("-d").arg(nginx.run_directory()).args(arguments).env_clear())
}

/// The same as another user, who can read a copy of the program.
fn control_as(nginx: &GroupNginx, wrapper: &[String], arguments: &[&str]) -> Ran {
    let copy: PathBuf = nginx.prefix().join("ngx-wsgi-ctl");
    if !copy.exists() {
        // By a process of its own: a child of another test would keep a file open that is written here, and a file that is
        // open for writing cannot be executed.
        assert!(Command::new("cp").arg(program()).arg(&copy).status().unwrap().success());
    }
    let mut command = Command::new(&wrapper[0]);
    Ran::of(command.args(&wrapper[1..]).arg(copy).arg("-d").arg(nginx.run_directory()).args(arguments))
}

#[track_caller]
fn status_of(nginx: &GroupNginx, group: &str) -> Value {
    let ran = control(nginx, &["status", "--json", group]).expect(0);
    serde_json::from_str(&ran.output).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

/// Processes of a group: the master and the workers.
fn pids(nginx: &GroupNginx, group: &str) -> (Vec<i32>, Vec<i32>) {
    (nginx.masters(group), nginx.group_workers(group))
}

#[test]
fn status_shows_the_processes() {
    let nginx = start("processes=2", "");
    let workers = nginx.wait_group_workers("blog", 2);
    let master = nginx.group_master("blog");
    let status = wait_for("both workers in the status", || {
        let status = status_of(&nginx, "blog");
        (status["processes"][0]["workers"].as_array().is_some_and(|workers| workers.len() == 2)).then_some(status)
    });
    assert_eq!(status["name"], "blog");
    assert_eq!(status["state"], "running");
    assert_eq!(status["restarts"], 0);
    assert_eq!(status["processes"].as_array().unwrap().len(), 1);
    assert_eq!(status["processes"][0]["master"], master);
    let mut found: Vec<i64> =
        status["processes"][0]["workers"].as_array().unwrap().iter().map(|pid| pid.as_i64().unwrap()).collect();
    found.sort();
    assert_eq!(found, workers.iter().map(|pid| i64::from(*pid)).collect::<Vec<_>>());
    assert_eq!(status["socket"], nginx.run_directory().join("sockets/blog").to_str().unwrap());
    assert_eq!((&status["busy"], &status["waiting"]), (&Value::from(0), &Value::from(0)));

    let table = control(&nginx, &["status"]).expect(0).output;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 3, "{table}");
    assert_eq!(&lines[0][..2], ["NAME", "STATE"], "{table}");
    assert_eq!(&lines[1][..2], ["blog", "running"], "{table}");
    assert_eq!(&lines[2][..2], ["shop", "running"], "{table}");
}

#[test]
fn status_counts_requests_running_calls_and_restarts() {
    let mut nginx = start("", "threads=1");
    let before = status_of(&nginx, "shop")["requests"].as_u64().unwrap();
    for _ in 0..5 {
        nginx.get("/shop/").expect(200);
    }
    wait_for("five requests more", || (status_of(&nginx, "shop")["requests"] == before + 5).then_some(()));
    assert_eq!(status_of(&nginx, "blog")["requests"], 1);
    // One runs, two wait for the only thread.
    let mut conns: Vec<_> = (0..3).map(|_| nginx.connect()).collect();
    for conn in &mut conns {
        conn.send("GET /shop/wait HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    wait_for("one busy thread and two calls that wait", || {
        let status = status_of(&nginx, "shop");
        (status["busy"] == 1 && status["waiting"] == 2).then_some(())
    });
    nginx.write("release", "");
    for conn in &mut conns {
        conn.response().expect(200);
    }
    wait_for("rest", || (status_of(&nginx, "shop")["busy"] == 0).then_some(()));

    let master = nginx.group_master("blog");
    Process(master).signal(libc::SIGKILL);
    nginx.wait_expected_error(&format!("master {master} exited on signal 9"));
    wait_for("a restart", || (status_of(&nginx, "blog")["restarts"] == 1).then_some(()));
    nginx.get("/blog/").expect(200);
    assert_eq!(status_of(&nginx, "shop")["restarts"], 0);
}

#[test]
fn reload_loads_the_new_code_of_one_group() {
    let nginx = start("processes=2", "");
    let (master, workers) = (nginx.group_master("blog"), nginx.wait_group_workers("blog", 2));
    let others = (pids(&nginx, "shop"), nginx.workers(), nginx.supervisor());
    for name in ["blog.py", "shop.py"] {
        nginx.write(name, &APP.replace("first", "second"));
    }
    control(&nginx, &["reload", "blog"]).expect(0);
    nginx.wait_new_group_workers("blog", &workers);
    wait_for("the new code", || (nginx.get("/blog/").expect(200).text() == "second").then_some(()));
    assert_eq!(nginx.group_master("blog"), master);
    assert_eq!(nginx.get("/shop/").expect(200).text(), "first");
    assert_eq!((pids(&nginx, "shop"), nginx.workers(), nginx.supervisor()), others);
}

#[test]
fn reload_refuses_broken_code_with_the_traceback() {
    let nginx = started(site("", "").http("wsgi_check on;"));
    nginx.wait_group_workers("blog", 1);
    let before = (pids(&nginx, "blog"), pids(&nginx, "shop"), nginx.workers());
    nginx.write("blog.py", "def broken():\n    import not_there\n\nbroken()\n");
    for _ in 0..2 {
        let ran = control(&nginx, &["reload", "blog"]).expect(1);
        assert!(ran.errors.contains("ModuleNotFoundError: No module named 'not_there'"), "{ran:?}");
        assert!(ran.errors.contains("blog.py\", line 2, in broken"), "{ran:?}");
        assert_eq!(nginx.get("/blog/").expect(200).text(), "first");
    }
    assert_eq!((pids(&nginx, "blog"), pids(&nginx, "shop"), nginx.workers()), before);
    nginx.write("blog.py", &APP.replace("first", "second"));
    control(&nginx, &["reload", "blog"]).expect(0);
    wait_for("the new code", || (nginx.get("/blog/").expect(200).text() == "second").then_some(()));
}

#[test]
fn reload_lets_running_calls_finish() {
    let nginx = start("", "");
    let workers = nginx.wait_group_workers("blog", 1);
    let mut conn = nginx.connect();
    conn.send("GET /blog/wait HTTP/1.1\r\nHost: a\r\n\r\n");
    nginx.wait_events(&["begun"]);
    control(&nginx, &["reload", "blog"]).expect(0);
    nginx.wait_new_group_workers("blog", &workers);
    assert!(Process(workers[0]).is_alive());
    nginx.write("release", "");
    assert_eq!(conn.response().expect(200).text(), "first");
    Process(workers[0]).wait_gone();
}

#[test]
fn a_stopped_group_refuses_requests_until_it_is_started() {
    let mut nginx = started(site("", "").errors_expected());
    let shop = (nginx.group_master("shop"), nginx.wait_group_workers("shop", 1));
    let (masters, workers) = pids(&nginx, "blog");
    control(&nginx, &["stop", "blog"]).expect(0);
    for pid in [masters.clone(), workers].concat() {
        Process(pid).wait_gone();
    }
    assert_eq!(status_of(&nginx, "blog")["state"], "stopped");
    assert_eq!(status_of(&nginx, "blog")["processes"], Value::Array(Vec::new()));
    // At once, as nothing says when it will be started.
    nginx.get("/blog/").expect(502);
    nginx.post("/blog/", "body").expect(502);
    assert_eq!(nginx.get("/shop/").expect(200).text(), "first");
    // A reload of nginx is not about it.
    nginx.reload();
    nginx.wait_new_group_workers("shop", &shop.1);
    nginx.get("/blog/").expect(502);
    assert_eq!(status_of(&nginx, "blog")["state"], "stopped");

    control(&nginx, &["start", "blog"]).expect(0);
    assert_eq!(nginx.post("/blog/", "body").expect(200).text(), "first");
    assert_eq!(status_of(&nginx, "blog")["state"], "running");
    assert!(!masters.contains(&nginx.group_master("blog")));
    assert_eq!(nginx.group_master("shop"), shop.0);
    // What is so already is no error.
    control(&nginx, &["start", "blog"]).expect(0);
    control(&nginx, &["stop", "shop"]).expect(0);
    control(&nginx, &["stop", "shop"]).expect(0);
    nginx.expect_errors("/blog/");
}

#[test]
fn stop_lets_running_calls_finish() {
    let nginx = start("", "");
    let (masters, workers) = pids(&nginx, "blog");
    let mut conn = nginx.connect();
    conn.send("GET /blog/wait HTTP/1.1\r\nHost: a\r\n\r\n");
    nginx.wait_events(&["begun"]);
    let stop = std::thread::scope(|scope| {
        let stop = scope.spawn(|| control(&nginx, &["stop", "blog"]));
        wait_for("the end of its workers", || nginx.group_workers("blog").is_empty().then_some(()));
        assert!(Process(workers[0]).is_alive());
        nginx.write("release", "");
        stop.join().unwrap()
    });
    stop.expect(0);
    assert_eq!(conn.response().expect(200).text(), "first");
    for pid in [masters, workers].concat() {
        Process(pid).wait_gone();
    }
}

#[test]
fn an_idle_group_is_started_by_a_command_as_well() {
    let nginx = start("idle_timeout=1s", "");
    wait_for("an idle group", || (status_of(&nginx, "blog")["state"] == "idle").then_some(()));
    wait_for("its end", || nginx.masters("blog").is_empty().then_some(()));
    control(&nginx, &["reload", "blog"]).expect(0);
    control(&nginx, &["start", "blog"]).expect(0);
    assert_eq!(nginx.get("/blog/").expect(200).text(), "first");
    wait_for("an idle group", || (status_of(&nginx, "blog")["state"] == "idle").then_some(()));
}

#[test]
fn root_and_the_user_of_a_group_control_it_and_nobody_else() {
    let Some([a, b]) = two_users() else { return };
    let nginx = start(&format!("user={}", a.name), &format!("user={}", b.name));
    let shop = pids(&nginx, "shop");
    for arguments in [&["status", "blog"][..], &["reload", "blog"], &["stop", "blog"], &["start", "blog"]] {
        let workers = nginx.wait_group_workers("blog", 1);
        let ran = control_as(&nginx, &b.wrapper(), arguments).expect(3);
        assert!(ran.output.is_empty() && ran.errors.contains("ermission"), "{ran:?}");
        assert_eq!(nginx.group_workers("blog"), workers);
    }
    assert_eq!(status_of(&nginx, "blog")["user"], a.name.as_str());
    let ran = control_as(&nginx, &a.wrapper(), &["status", "blog"]).expect(0);
    assert!(ran.output.contains("running"), "{ran:?}");
    nginx.write("blog.py", &APP.replace("first", "second"));
    control_as(&nginx, &a.wrapper(), &["reload", "blog"]).expect(0);
    wait_for("the new code", || (nginx.get("/blog/").expect(200).text() == "second").then_some(()));
    control_as(&nginx, &a.wrapper(), &["stop", "blog"]).expect(0);
    wait_for("its end", || nginx.masters("blog").is_empty().then_some(()));
    control_as(&nginx, &a.wrapper(), &["start", "blog"]).expect(0);
    assert_eq!(nginx.get("/blog/").expect(200).text(), "second");
    assert_eq!(pids(&nginx, "shop"), shop);
}

#[test]
fn a_silent_client_does_not_keep_others_waiting() {
    let nginx = start("", "");
    let socket = nginx.run_directory().join("blog/wsgi_control");
    let silent: Vec<_> = (0..20).map(|_| std::os::unix::net::UnixStream::connect(&socket)).collect();
    assert_eq!(status_of(&nginx, "shop")["state"], "running");
    let master = nginx.group_master("shop");
    drop(silent);
    wait_for("the status", || (control(&nginx, &["status", "blog"]).status == 0).then_some(()));
    assert_eq!(nginx.group_master("shop"), master);
}

#[test]
fn an_unknown_command_is_refused() {
    use std::io::{Read, Write};
    let nginx = start("", "");
    for line in ["restart\n", "\n", "status blog\n", "\u{1}\u{2}\n"] {
        let mut stream =
            std::os::unix::net::UnixStream::connect(nginx.run_directory().join("blog/wsgi_control")).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let reply: Value = serde_json::from_str(&reply).unwrap_or_else(|e| panic!("{e}: {reply:?}"));
        assert_eq!(reply["ok"], false, "{reply}");
        assert!(!reply["message"].as_str().unwrap().is_empty());
    }
    assert_eq!(nginx.get("/blog/").expect(200).text(), "first");
}
