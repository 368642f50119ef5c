//! The life of process groups: reloads, ends of every kind, kills, upgrades, start on demand, and what is left: nothing.

use crate::harness::{COUNTED, Conn, CountedLoad, GroupNginx, Process, Site, two_users, wait_for, with_record};
use std::fs;

/// What the applications of all groups here can do; the last part of the path says what is asked for.
const APP: &str = r#"
import json, os, sys, time

VERSION = "first"

def wait(environ):
    name = environ["QUERY_STRING"]
    with open("@prefix@/events", "a") as events:
        events.write(f"begun {name}\n")
    while not os.path.exists("@prefix@/release"):
        time.sleep(0.01)
    return f"done {name}"

def facts(environ):
    return json.dumps({
        "worker": os.getpid(),
        "master": os.getppid(),
        "uid": os.getuid(),
        "mark": os.environ.get("MARK"),
        "multithread": environ["wsgi.multithread"],
    })

def log(environ):
    print(environ["QUERY_STRING"], file=environ["wsgi.errors"], flush=True)
    return "logged"

def version(environ):
    return VERSION

ASKED = {"wait": wait, "facts": facts, "log": log, "": version}

def application(environ, start_response):
    asked = environ["PATH_INFO"].rpartition("/")[2]
    if asked == "count":
        return counted(environ, start_response)
    environ["wsgi.input"].read()
    body = ASKED[asked](environ).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"#;

fn app() -> String {
    format!("{COUNTED}{APP}")
}

/// `wsgi_process_group` directives: the name and the arguments of each. All run in the prefix, by which they are found.
fn groups(groups: &[(&str, &str)]) -> String {
    groups.iter().map(|(name, arguments)| format!("wsgi_process_group {name} chdir=@prefix@ {arguments};\n")).collect()
}

/// A location `/NAME/` for each of them.
fn locations(groups: &[(&str, &str)]) -> String {
    groups.iter().map(|(name, _)| format!("location /{name}/ {{ wsgi_pass {name}.py process={name}; }}\n")).collect()
}

/// A site with these groups, each with the application in a file of its own.
fn site(with: &[(&str, &str)]) -> Site {
    let names = ["blog", "shop", "wiki"];
    assert!(with.iter().all(|(name, _)| names.contains(name)));
    let site = names.iter().fold(Site::plain(), |site, name| site.file(&format!("{name}.py"), &app()));
    with_record(site)
        // With the name of the directive, which the harness looks for: wsgi_process_group.
        .http("include groups.conf; # wsgi_process_group")
        .server("include locations.conf;")
        .file("conf/groups.conf", &groups(with))
        .file("conf/locations.conf", &locations(with))
}

/// Starts it with a worker of each group.
fn start(with: &[(&str, &str)]) -> GroupNginx {
    started(site(with), with)
}

fn started(site: Site, with: &[(&str, &str)]) -> GroupNginx {
    let nginx = GroupNginx::start(site);
    for (name, _) in with {
        assert_eq!(nginx.get(&format!("/{name}/")).expect(200).text(), "first");
    }
    nginx
}

/// A site whose instances end under load. They close kept connections, and the front logs it if it has just sent a request on
/// one, which it sends again on another.
fn under_load(with: &[(&str, &str)]) -> Site {
    site(with).errors_expected()
}

/// Replaces the groups, without a reload.
fn configure(nginx: &GroupNginx, with: &[(&str, &str)]) {
    nginx.write("conf/groups.conf", &groups(with));
    nginx.write("conf/locations.conf", &locations(with));
}

const TWO: [(&str, &str); 2] = [("blog", "processes=2"), ("shop", "")];

/// Sends requests until the response is this one.
#[track_caller]
fn wait_text(nginx: &GroupNginx, path: &str, wanted: &str) {
    wait_for(&format!("{wanted:?} from {path}"), || (nginx.get(path).text() == wanted).then_some(()));
}

/// Calls that wait for a file, each on a connection of its own; returns once at least `begun` of them run.
fn waiting(nginx: &GroupNginx, path: &str, method: &str, names: &[&str], begun: usize) -> Vec<Conn> {
    let before = nginx.events().len();
    let conns = names.iter().map(|name| send_waiting(nginx, path, method, name)).collect();
    wait_for(&format!("{begun} running calls"), || (nginx.events().len() >= before + begun).then_some(()));
    conns
}

fn send_waiting(nginx: &GroupNginx, path: &str, method: &str, name: &str) -> Conn {
    let mut conn = nginx.connect();
    let length = if method == "POST" { "Content-Length: 2\r\n" } else { "" };
    let body = if method == "POST" { "ab" } else { "" };
    conn.send(format!("{method} {path}wait?{name} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{length}\r\n{body}"));
    conn
}

fn release(nginx: &GroupNginx) {
    nginx.write("release", "");
}

/// Kills processes at once.
fn kill(pids: &[i32]) {
    for pid in pids {
        Process(*pid).signal(libc::SIGKILL);
    }
    for pid in pids {
        Process(*pid).wait_gone();
    }
}

/// Kills a process of the groups, whose end the log is to tell.
fn kill_logged(nginx: &mut GroupNginx, pids: &[i32]) {
    kill(pids);
    nginx.expect_errors("exited on signal 9");
}

// ---- reloads --------------------------------------------------------------------------------------------------------

#[test]
fn a_reload_keeps_the_masters_and_replaces_the_workers() {
    let nginx = start(&TWO);
    let supervisor = nginx.supervisor();
    let masters = [nginx.group_master("blog"), nginx.group_master("shop")];
    let workers = [nginx.wait_group_workers("blog", 2), nginx.wait_group_workers("shop", 1)];
    for (name, version) in [("blog", "second"), ("shop", "third")] {
        nginx.write(&format!("{name}.py"), &app().replace("first", version));
    }
    nginx.reload();
    nginx.wait_new_group_workers("blog", &workers[0]);
    nginx.wait_new_group_workers("shop", &workers[1]);
    wait_text(&nginx, "/blog/", "second");
    wait_text(&nginx, "/shop/", "third");
    assert_eq!([nginx.group_master("blog"), nginx.group_master("shop")], masters);
    assert_eq!(nginx.supervisor(), supervisor);
}

#[test]
fn a_changed_number_of_threads_takes_effect_at_a_reload() {
    let nginx = start(&[("blog", "threads=2"), ("shop", "")]);
    assert_eq!(nginx.get("/blog/facts").json()["multithread"], true);
    let master = nginx.group_master("blog");
    configure(&nginx, &[("blog", "threads=1"), ("shop", "")]);
    nginx.reload();
    wait_for("one thread", || (nginx.get("/blog/facts").json()["multithread"] == false).then_some(()));
    assert_eq!(nginx.group_master("blog"), master);
}

#[test]
fn a_changed_number_of_processes_takes_effect_at_a_reload() {
    let nginx = start(&TWO);
    nginx.wait_group_workers("blog", 2);
    for count in [3, 1] {
        configure(&nginx, &[("blog", &format!("processes={count}")), ("shop", "")]);
        nginx.reload();
        nginx.wait_group_workers("blog", count);
        wait_text(&nginx, "/blog/", "first");
    }
}

#[test]
fn a_changed_environment_takes_effect_at_a_reload() {
    let nginx = start(&[("blog", "env=MARK=old"), ("shop", "env=MARK=shop")]);
    assert_eq!(nginx.get("/blog/facts").json()["mark"], "old");
    let (blog, shop) = (nginx.group_master("blog"), nginx.group_master("shop"));
    configure(&nginx, &[("blog", "env=MARK=new"), ("shop", "env=MARK=shop")]);
    nginx.reload();
    wait_for("the new environment", || (nginx.get("/blog/facts").json()["mark"] == "new").then_some(()));
    Process(blog).wait_gone();
    assert_eq!(nginx.group_master("shop"), shop);
    assert_eq!(nginx.get("/shop/facts").json()["mark"], "shop");
}

#[test]
fn a_changed_user_takes_effect_at_a_reload() {
    let Some([a, b]) = two_users() else { return };
    let of = |name: &str| format!("user={name}");
    let mut nginx = start(&[("blog", &of(&a.name))]);
    assert_eq!(nginx.get("/blog/facts").json()["uid"], a.uid);
    let old = nginx.group_master("blog");
    let socket = || fs::metadata(nginx.group("blog").socket()).unwrap().modified().unwrap();
    let socket_of_old = socket();
    configure(&nginx, &[("blog", &of(&b.name))]);
    nginx.reload();
    wait_for("the new user", || (nginx.get("/blog/facts").json()["uid"] == b.uid).then_some(()));
    // A program of the user before that has kept the socket gets no requests.
    assert_ne!(socket(), socket_of_old);
    Process(old).wait_gone();
    // The directory of its pid file may have been the new user's by then.
    nginx.expect_errors("tmp/nginx.pid\" failed");
}

#[test]
fn a_reload_starts_new_groups_and_ends_removed_ones() {
    let nginx = start(&[("blog", "")]);
    let blog = nginx.group_master("blog");
    configure(&nginx, &TWO);
    nginx.reload();
    wait_text(&nginx, "/shop/", "first");
    assert_eq!(nginx.group_master("blog"), blog);
    let old = [nginx.group_workers("blog"), vec![blog]].concat();

    configure(&nginx, &[("shop", ""), ("wiki", "")]);
    nginx.reload();
    wait_text(&nginx, "/wiki/", "first");
    wait_text(&nginx, "/shop/", "first");
    for pid in old {
        Process(pid).wait_gone();
    }
    let directory = nginx.run_directory();
    wait_for("the end of its files", || {
        (!directory.join("sockets/blog").exists() && !directory.join("blog").exists()).then_some(())
    });
    assert!(directory.join("sockets/shop").exists() && directory.join("shop/nginx.conf").exists());
}

#[test]
fn a_request_that_arrives_while_its_group_is_removed_is_served() {
    let nginx = start(&TWO);
    let mut conn = nginx.connect();
    conn.send("POST /blog/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo");
    // Once this is answered, a worker has read the request before as well.
    wait_text(&nginx, "/blog/", "first");
    configure(&nginx, &[("shop", "")]);
    nginx.reload();
    conn.send("dy");
    assert_eq!(conn.response().expect(200).text(), "first");
}

#[test]
fn the_last_group_may_be_removed_and_another_one_added() {
    let nginx = started(site(&ONE).errors_expected(), &ONE);
    let master = nginx.group_master("blog");
    configure(&nginx, &[]);
    nginx.reload();
    Process(master).wait_gone();
    wait_for("404", || (nginx.get("/blog/").status == 404).then_some(()));
    configure(&nginx, &[("shop", "")]);
    nginx.reload();
    wait_for("the new location", || (nginx.get("/shop/").status == 200).then_some(()));
}

#[test]
fn reloads_under_load_lose_no_request() {
    let with = [("blog", "processes=2 threads=4"), ("shop", "env=MARK=0"), ("wiki", "threads=off")];
    let nginx = started(under_load(&with), &with);
    let load = CountedLoad::start(&nginx, &["/blog/count", "/shop/count", "/wiki/count"], 3, 1);
    for number in 1..=4 {
        let workers = nginx.group_workers("blog");
        let shop = nginx.group_master("shop");
        // The instance of one group is replaced, those of the others reload.
        configure(&nginx, &[with[0], ("shop", &format!("env=MARK={number}")), with[2]]);
        nginx.reload();
        nginx.wait_new_group_workers("blog", &workers);
        wait_for("another instance", || (!nginx.masters("shop").contains(&shop)).then_some(()));
        wait_for("its environment", || {
            let mark = nginx.get("/shop/facts").json()["mark"].clone();
            (mark.as_str() == Some(number.to_string().as_str())).then_some(())
        });
    }
    load.stop().assert_good(&nginx);
}

#[test]
fn running_calls_finish_over_a_reload() {
    let nginx = start(&[("blog", "env=MARK=old stop_timeout=1h"), ("shop", "")]);
    let mut conns = waiting(&nginx, "/blog/", "POST", &["1"], 1);
    conns.extend(waiting(&nginx, "/shop/", "GET", &["2"], 1));
    let old = [nginx.group_workers("blog"), nginx.group_workers("shop")].concat();
    configure(&nginx, &[("blog", "env=MARK=new stop_timeout=1h"), ("shop", "")]);
    nginx.reload();
    wait_for("the new instance", || (nginx.get("/blog/facts").json()["mark"] == "new").then_some(()));
    assert!(old.iter().all(|pid| Process(*pid).is_alive()), "the old workers have running calls");
    release(&nginx);
    for (conn, text) in conns.iter_mut().zip(["done 1", "done 2"]) {
        assert_eq!(conn.response().expect(200).text(), text);
    }
    for pid in old {
        Process(pid).wait_gone();
    }
}

/// A module at another path is loaded beside the first one, and has memory of its own.
#[test]
fn another_copy_of_the_module_takes_over_the_groups_at_a_reload() {
    let mut nginx = started(site(&TWO).copied_module("first.so"), &TWO);
    let before = (nginx.supervisor(), nginx.group_master("blog"), nginx.group_master("shop"));
    for version in ["second", "third"] {
        let (blog, shop) = (nginx.wait_group_workers("blog", 2), nginx.wait_group_workers("shop", 1));
        let file = format!("{version}.so");
        nginx.reconfigure(|site| site.copied_module(&file));
        nginx.write("blog.py", &app().replace("first", version));
        nginx.reload();
        let workers =
            [nginx.wait_new_group_workers("blog", &blog), nginx.wait_new_group_workers("shop", &shop)].concat();
        for pid in workers {
            assert!(Process(pid).mappings().iter().any(|line| line.ends_with(&file)), "{file} in {pid}");
        }
        wait_text(&nginx, "/blog/", version);
        assert_eq!((nginx.supervisor(), nginx.group_master("blog"), nginx.group_master("shop")), before);
    }
    // It also takes changes.
    configure(&nginx, &[("blog", "env=MARK=new")]);
    nginx.reload();
    wait_for("the new environment", || (nginx.get("/blog/facts").json()["mark"] == "new").then_some(()));
    Process(before.2).wait_gone();
    assert_eq!(nginx.supervisor(), before.0);
}

#[test]
fn a_refused_reload_changes_nothing() {
    let mut nginx = start(&TWO);
    let before = (nginx.wait_group_workers("blog", 2), nginx.wait_group_workers("shop", 1), nginx.workers());
    let masters = (nginx.supervisor(), nginx.group_master("blog"), nginx.group_master("shop"));
    let files = fs::read(nginx.run_directory().join("blog/nginx.conf")).unwrap();
    for wrong in ["processes=2 thread=1", "processes=0", "processes=2 path=@prefix@/nowhere"] {
        // With a change of the other group that is none.
        configure(&nginx, &[("blog", wrong), ("shop", "env=MARK=new"), ("wiki", "")]);
        let line = nginx.reload_refused();
        assert!(line.contains("groups.conf:1"), "{line}");
    }
    assert_eq!(nginx.get("/blog/").expect(200).text(), "first");
    assert_eq!(nginx.get("/shop/facts").expect(200).json()["mark"], serde_json::Value::Null);
    assert_eq!((nginx.group_workers("blog"), nginx.group_workers("shop"), nginx.workers()), before);
    assert_eq!((nginx.supervisor(), nginx.group_master("blog"), nginx.group_master("shop")), masters);
    assert_eq!(fs::read(nginx.run_directory().join("blog/nginx.conf")).unwrap(), files);
    assert!(!nginx.run_directory().join("wiki").exists());
}

#[test]
fn another_directory_of_the_sockets_takes_effect_at_a_reload() {
    let nginx = start(&TWO);
    let old: Vec<i32> = nginx.processes_of_groups().into_iter().map(|(pid, _)| pid).collect();
    nginx.write("conf/groups.conf", &format!("wsgi_socket_path @prefix@/other;\n{}", groups(&TWO)));
    nginx.reload();
    wait_text(&nginx, "/blog/", "first");
    assert!(nginx.prefix().join("other/sockets/blog").exists());
    for pid in old {
        Process(pid).wait_gone();
    }
    wait_for("the end of the first directory", || (!nginx.run_directory().exists()).then_some(()));
    nginx.supervisor();
    // And back.
    configure(&nginx, &TWO);
    nginx.reload();
    wait_text(&nginx, "/shop/", "first");
    wait_for("the end of the other directory", || (!nginx.prefix().join("other").exists()).then_some(()));
    assert!(nginx.run_directory().join("sockets/blog").exists());
    nginx.supervisor();
}

#[test]
fn a_supervisor_that_hangs_does_not_hold_up_a_reload_for_ever() {
    let mut nginx = start(&TWO);
    let supervisor = Process(nginx.supervisor());
    let blog = nginx.group_master("blog");
    supervisor.signal(libc::SIGSTOP);
    configure(&nginx, &[("blog", "env=MARK=new"), ("shop", "")]);
    // The front goes on without an answer.
    nginx.reload();
    nginx.wait_expected_error("cannot send the plan to the supervisor");
    assert_eq!(nginx.get("/blog/").expect(200).text(), "first");
    supervisor.signal(libc::SIGCONT);
    wait_for("the new environment", || (nginx.get("/blog/facts").json()["mark"] == "new").then_some(()));
    Process(blog).wait_gone();
    configure(&nginx, &[("blog", "env=MARK=newer"), ("shop", "")]);
    nginx.reload();
    wait_for("the newest", || (nginx.get("/blog/facts").json()["mark"] == "newer").then_some(()));
    assert_eq!(nginx.supervisor(), supervisor.0);
}

// ---- kills ----------------------------------------------------------------------------------------------------------

/// The requests that were running in the killed processes respond with 502, and the log says why.
#[track_caller]
fn assert_lost(nginx: &GroupNginx, conns: Vec<Conn>, names: &[&str]) {
    for (mut conn, name) in conns.into_iter().zip(names) {
        conn.response().expect(502);
        let line = nginx.wait_log(&format!("wait?{name} "));
        assert!(line.contains("[error]") && line.contains("prematurely closed connection"), "{line}");
    }
}

#[test]
fn a_killed_worker_costs_only_its_calls() {
    let mut nginx = started(site(&TWO).errors_expected(), &TWO);
    let master = nginx.group_master("blog");
    nginx.wait_group_workers("blog", 2);
    let shop = waiting(&nginx, "/shop/", "GET", &["shop"], 1);
    let calls = waiting(&nginx, "/blog/", "POST", &["1"], 1);
    // Which worker has it is not known: both are killed.
    let workers = nginx.wait_group_workers("blog", 2);
    kill_logged(&mut nginx, &workers);
    assert_lost(&nginx, calls, &["1"]);
    assert_eq!(nginx.post("/blog/", "more").expect(200).text(), "first");
    nginx.wait_new_group_workers("blog", &workers);
    assert_eq!(nginx.group_master("blog"), master);
    for pid in workers {
        nginx.wait_expected_error(&format!("worker process {pid} exited on signal 9"));
    }
    release(&nginx);
    for mut conn in shop {
        assert_eq!(conn.response().expect(200).text(), "done shop");
    }
    // Not even the one that failed ran again.
    assert_eq!(nginx.events().len(), 2);
}

#[test]
fn a_killed_master_of_an_instance_costs_no_call() {
    let mut nginx = start(&TWO);
    let calls = waiting(&nginx, "/blog/", "POST", &["1", "2"], 2);
    let (master, shop) = (nginx.group_master("blog"), nginx.group_master("shop"));
    let workers = nginx.wait_group_workers("blog", 2);
    kill(&[master]);
    let line = nginx.wait_expected_error(&format!("master {master} exited on signal 9"));
    assert!(line.contains("process group \"blog\""), "{line}");
    // Waits until there is another.
    assert_eq!(nginx.post("/blog/", "more").expect(200).text(), "first");
    release(&nginx);
    for (mut conn, text) in calls.into_iter().zip(["done 1", "done 2"]) {
        assert_eq!(conn.response().expect(200).text(), text);
    }
    for pid in workers {
        Process(pid).wait_gone();
    }
    assert_eq!(nginx.events().len(), 2);
    assert_eq!(nginx.group_master("shop"), shop);
}

#[test]
fn a_killed_instance_costs_only_its_calls() {
    let with = [("blog", "threads=2"), ("shop", "")];
    let mut nginx = started(site(&with).errors_expected(), &with);
    let shop = waiting(&nginx, "/shop/", "GET", &["shop"], 1);
    let calls = waiting(&nginx, "/blog/", "POST", &["1", "2"], 2);
    let (master, workers) = (nginx.group_master("blog"), nginx.wait_group_workers("blog", 1));
    // First the supervisor's wait for it is held up, so that requests come while there is no instance.
    let supervisor = Process(nginx.supervisor());
    supervisor.signal(libc::SIGSTOP);
    kill(&[workers.clone(), vec![master]].concat());
    assert_lost(&nginx, calls, &["1", "2"]);
    let queued: Vec<Conn> = ["3", "4"].map(|name| send_waiting(&nginx, "/blog/", "POST", name)).into();
    release(&nginx);
    supervisor.signal(libc::SIGCONT);
    nginx.wait_expected_error(&format!("master {master} exited on signal 9"));
    for (mut conn, text) in queued.into_iter().zip(["done 3", "done 4"]) {
        assert_eq!(conn.response().expect(200).text(), text);
    }
    let mut events = nginx.events();
    events.sort();
    assert_eq!(events, ["begun 1", "begun 2", "begun 3", "begun 4", "begun shop"]);
    for mut conn in shop {
        assert_eq!(conn.response().expect(200).text(), "done shop");
    }
    nginx.expect_errors("exited on signal 9");
}

#[test]
fn kills_under_load_cost_only_running_calls() {
    let with = [("blog", "processes=2 threads=4"), ("shop", "")];
    let mut nginx = started(site(&with).errors_expected(), &with);
    let load = CountedLoad::start(&nginx, &["/blog/count", "/shop/count"], 3, 2);
    let mut killed = Vec::new();
    let calls = || nginx.read("calls").lines().count();
    for round in 0..3 {
        let before = calls();
        wait_for("calls", || (calls() > before + 20).then_some(()));
        let (master, workers) = (nginx.group_master("blog"), nginx.wait_group_workers("blog", 2));
        let victims = match round {
            0 => vec![workers[0]],
            1 => vec![master],
            _ => [vec![master], workers.clone()].concat(),
        };
        kill(&victims);
        killed.extend(&victims);
        wait_for("new workers", || {
            let now = nginx.group_workers("blog");
            (now.len() == 2 && !now.iter().any(|pid| victims.contains(pid)) && nginx.masters("blog").len() == 1)
                .then_some(())
        });
        wait_text(&nginx, "/blog/", "first");
    }
    let stats = load.stop();
    nginx.expect_errors("exited on signal 9");
    stats.assert_only_lost_in(&killed, &nginx);
    // Those of the other group are not concerned.
    assert!(stats.failed.iter().all(|(name, _)| name.starts_with("0-")), "{:?}", stats.failed);
    // A killed master is none of the processes that run calls: theirs end gracefully.
    assert!(stats.good.len() > 100, "{} good", stats.good.len());
}

#[test]
fn a_killed_supervisor_ends_the_groups_and_a_reload_brings_them_back() {
    let mut nginx = started(site(&TWO).errors_expected(), &TWO);
    let calls = waiting(&nginx, "/blog/", "POST", &["1"], 1);
    let supervisor = nginx.supervisor();
    let old = [nginx.masters("blog"), nginx.masters("shop"), nginx.group_workers("blog"), nginx.group_workers("shop")];
    kill(&[supervisor]);
    // Running calls finish.
    release(&nginx);
    for mut conn in calls {
        assert_eq!(conn.response().expect(200).text(), "done 1");
    }
    for pid in old.concat() {
        Process(pid).wait_gone();
    }
    assert_eq!(nginx.get("/blog/").status, 502);
    nginx.reload();
    // An instance that ends by itself removes its socket.
    nginx.wait_expected_error("connect() to unix:");
    nginx.wait_expected_error(&format!("unknown process {supervisor} exited on signal 9"));
    nginx.wait_expected_error("supervisor of the process groups has ended, starting another");
    assert_eq!(nginx.get("/blog/").expect(200).text(), "first");
    assert_eq!(nginx.get("/shop/").expect(200).text(), "first");
    assert_ne!(nginx.supervisor(), supervisor);
}

fn a_killed_front_leaves_nothing_behind(site: Site) {
    let mut nginx = started(site, &TWO);
    let mut calls = waiting(&nginx, "/blog/", "POST", &["1"], 1);
    nginx.stop_by(libc::SIGKILL);
    // The running call finishes: it is not in the process that was killed, and the front's workers end gracefully.
    release(&nginx);
    assert_eq!(calls[0].response().expect(200).text(), "done 1");
    nginx.wait_nothing_left();
}

#[test]
fn a_killed_front_leaves_nothing_behind_in_the_foreground() {
    a_killed_front_leaves_nothing_behind(site(&TWO));
}

#[test]
fn a_killed_front_leaves_nothing_behind_as_a_daemon() {
    a_killed_front_leaves_nothing_behind(site(&TWO).daemon());
}

#[test]
fn a_killed_group_of_processes_leaves_nothing_behind() {
    // As an init system does that kills all processes of a service, the supervisor first.
    let mut nginx = start(&TWO);
    let all: Vec<i32> = nginx.processes().into_iter().map(|(pid, _)| pid).collect();
    let master = nginx.master();
    // None has the time to do something about the end of another.
    all.iter().for_each(|pid| Process(*pid).signal(libc::SIGSTOP));
    kill(&all.into_iter().filter(|pid| *pid != master).collect::<Vec<i32>>());
    nginx.stop_by(libc::SIGKILL);
    // Files are left, which the next start takes over.
    assert!(nginx.run_directory().join("sockets/blog").exists());
    nginx.start_again();
    assert_eq!(nginx.get("/blog/").expect(200).text(), "first");
    assert!(!nginx.run_directory().join("1").exists());
}

// ---- the end --------------------------------------------------------------------------------------------------------

/// Ends it by a signal while calls run; returns their connections. No instance is there once the master has gone.
fn end_with_running_calls(site: Site, signal: &str, finish: bool) -> Vec<Conn> {
    let mut nginx = started(site, &TWO);
    let calls = waiting(&nginx, "/blog/", "POST", &["1"], 1);
    let groups = nginx.processes_of_groups();
    let said = nginx.run(&["-s", signal]);
    assert!(said.status.success(), "{said:?}");
    if finish {
        // It does not end before.
        wait_for("the workers' quit", || nginx.workers().is_empty().then_some(()));
        assert!(Process(nginx.master()).is_alive());
        release(&nginx);
    }
    nginx.wait_end();
    let left: Vec<_> =
        groups.into_iter().filter(|(pid, title)| !title.ends_with("supervisor") && Process(*pid).is_alive()).collect();
    assert!(left.is_empty(), "{left:?} outlived the master");
    nginx.wait_nothing_left();
    calls
}

#[test]
fn quit_lets_running_calls_finish_and_leaves_nothing() {
    for mut conn in end_with_running_calls(site(&TWO), "quit", true) {
        assert_eq!(conn.response().expect(200).text(), "done 1");
    }
}

#[test]
fn quit_of_a_daemon_lets_running_calls_finish_and_leaves_nothing() {
    for mut conn in end_with_running_calls(site(&TWO).daemon(), "quit", true) {
        assert_eq!(conn.response().expect(200).text(), "done 1");
    }
}

#[test]
fn stop_leaves_nothing() {
    end_with_running_calls(site(&TWO), "stop", false);
}

#[test]
fn stop_of_a_daemon_leaves_nothing() {
    end_with_running_calls(site(&TWO).daemon(), "stop", false);
}

#[test]
fn calls_that_outlive_the_stop_timeout_are_ended() {
    let with = [("blog", "stop_timeout=1s"), ("shop", "")];
    let nginx = started(site(&with).errors_expected(), &with);
    let mut calls = waiting(&nginx, "/blog/", "POST", &["1"], 1);
    let old = [nginx.group_workers("blog"), nginx.masters("blog")].concat();
    configure(&nginx, &[("shop", "")]);
    nginx.reload();
    let status = calls[0].response().status;
    assert!((500..=504).contains(&status), "{status}");
    for pid in old {
        Process(pid).wait_gone();
    }
    wait_for("the end of its files", || (!nginx.run_directory().join("blog").exists()).then_some(()));
}

#[test]
fn a_worker_that_hangs_is_killed_after_the_stop_timeout() {
    let with = [("blog", "stop_timeout=1s"), ("shop", "")];
    let mut nginx = started(site(&with).errors_expected(), &with);
    let (master, workers) = (nginx.group_master("blog"), nginx.wait_group_workers("blog", 1));
    Process(workers[0]).signal(libc::SIGSTOP);
    configure(&nginx, &[("shop", "")]);
    nginx.reload();
    let line = nginx.wait_log("has not ended within its stop_timeout");
    assert!(line.contains("[warn]") && line.contains(&format!("process group \"blog\" master {master} ")), "{line}");
    Process(workers[0]).wait_gone();
    Process(master).wait_gone();
    wait_for("the end of its files", || (!nginx.run_directory().join("blog").exists()).then_some(()));
    nginx.expect_errors("exited on signal 9");
}

#[test]
fn one_process_without_a_master() {
    let with = [("blog", ""), ("shop", "")];
    let nginx = started(site(&with).main("master_process off;"), &with);
    nginx.supervisor();
    assert_eq!(nginx.post("/blog/", "a body").expect(200).text(), "first");
    let old = nginx.group_master("blog");
    drop(nginx);
    assert!(!Process(old).is_alive());
}

// ---- upgrades and second generations --------------------------------------------------------------------------------

/// Has the other workers of the front take no connection while it asks; returns the process that the call ran in.
fn ask_front(nginx: &GroupNginx, others: &[i32]) -> i32 {
    others.iter().for_each(|pid| Process(*pid).signal(libc::SIGSTOP));
    let mut conn = nginx.connect();
    conn.send("GET /blog/facts HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let response = conn.response();
    others.iter().for_each(|pid| Process(*pid).signal(libc::SIGCONT));
    response.expect(200).json()["worker"].as_i64().unwrap() as i32
}

/// Starts a second generation; returns the masters and the workers of the fronts and those of the groups, old and new.
#[allow(clippy::type_complexity)]
fn upgrade(nginx: &mut GroupNginx) -> [(i32, Vec<i32>, Vec<i32>); 2] {
    let old = (nginx.master(), nginx.workers(), nginx.wait_group_workers("blog", 1));
    nginx.close_idle();
    nginx.signal(libc::SIGUSR2);
    let master = nginx.follow_pid_file();
    let workers = wait_for("the new workers", || Some(nginx.workers()).filter(|workers| !workers.is_empty()));
    let mut of_group = nginx.wait_group_workers("blog", 2);
    of_group.retain(|pid| !old.2.contains(pid));
    assert_eq!(nginx.supervisors().len(), 2);
    [old, (master, workers, of_group)]
}

const ONE: [(&str, &str); 1] = [("blog", "")];

#[test]
fn an_upgrade_leaves_the_new_generation() {
    let mut nginx = started(under_load(&ONE).daemon(), &ONE);
    let [old, new] = upgrade(&mut nginx);
    // Both serve, each with its own processes.
    assert_eq!([ask_front(&nginx, &new.1)], old.2[..]);
    assert_eq!([ask_front(&nginx, &old.1)], new.2[..]);
    assert!(nginx.run_directory().join("1/sockets/blog").exists());

    let load = CountedLoad::start(&nginx, &["/blog/count"], 3, 3);
    Process(old.0).signal(libc::SIGQUIT);
    Process(old.0).wait_gone();
    for pid in [old.1, old.2].concat() {
        Process(pid).wait_gone();
    }
    nginx.supervisor();
    load.stop().assert_good(&nginx);
    assert_eq!(nginx.get("/blog/facts").expect(200).json()["worker"], new.2[0]);
    assert!(!nginx.run_directory().join("sockets/blog").exists());
    // It stays in its directory.
    nginx.write("blog.py", &app().replace("first", "second"));
    nginx.reload();
    wait_text(&nginx, "/blog/", "second");
    assert!(nginx.run_directory().join("1/sockets/blog").exists());
    // The next one takes the first directory again.
    let [old, new] = upgrade(&mut nginx);
    assert_eq!([ask_front(&nginx, &old.1)], new.2[..]);
    assert!(nginx.run_directory().join("sockets/blog").exists());
    Process(old.0).signal(libc::SIGQUIT);
    Process(old.0).wait_gone();
    nginx.supervisor();
    assert_eq!(nginx.get("/blog/").expect(200).text(), "second");
}

#[test]
fn an_upgrade_can_be_taken_back() {
    let mut nginx = started(under_load(&ONE).daemon(), &ONE);
    let [old, new] = upgrade(&mut nginx);
    let load = CountedLoad::start(&nginx, &["/blog/count"], 3, 4);
    Process(new.0).signal(libc::SIGQUIT);
    for pid in [vec![new.0], new.1, new.2].concat() {
        Process(pid).wait_gone();
    }
    assert_eq!(nginx.follow_pid_file(), old.0);
    nginx.supervisor();
    load.stop().assert_good(&nginx);
    assert_eq!(nginx.get("/blog/facts").expect(200).json()["worker"], old.2[0]);
    assert!(nginx.run_directory().join("sockets/blog").exists());
    wait_for("the end of the second directory", || (!nginx.run_directory().join("1").exists()).then_some(()));
}

#[test]
fn a_start_while_the_remains_of_a_killed_one_still_end() {
    let with = [("blog", "stop_timeout=1h")];
    let mut nginx = start(&with);
    let calls = waiting(&nginx, "/blog/", "POST", &["1"], 1);
    let old = nginx.wait_group_workers("blog", 1);
    let supervisor = nginx.supervisor();
    nginx.stop_by(libc::SIGKILL);
    nginx.start_again();
    assert_eq!(nginx.get("/blog/").expect(200).text(), "first");
    assert!(nginx.run_directory().join("1/sockets/blog").exists());
    assert!(Process(old[0]).is_alive() && Process(supervisor).is_alive());
    release(&nginx);
    Process(old[0]).wait_gone();
    Process(supervisor).wait_gone();
    for mut conn in calls {
        assert_eq!(conn.response().expect(200).text(), "done 1");
    }
    assert!(!nginx.run_directory().join("sockets/blog").exists());
    assert_eq!(nginx.get("/blog/").expect(200).text(), "first");
}

#[test]
fn two_starts_in_one_directory_do_not_disturb_each_other() {
    // Two nginx with the same directory of sockets.
    let first = start(&ONE);
    let directory = first.run_directory();
    let second = site(&[]).http(&format!("wsgi_socket_path {};", directory.display()));
    // In the order of the directives.
    let second = second.http("include more.conf;").file("conf/more.conf", &groups(&ONE));
    let second = GroupNginx::start(second.file("conf/locations.conf", &locations(&ONE)));
    assert_eq!(second.get("/blog/").expect(200).text(), "first");
    assert!(directory.join("1/sockets/blog").exists());
    let worker = first.get("/blog/facts").json()["worker"].clone();
    assert_ne!(second.get("/blog/facts").json()["worker"], worker);
    drop(second);
    assert_eq!(first.get("/blog/facts").expect(200).json()["worker"], worker);
}

// ---- crashes, logs --------------------------------------------------------------------------------------------------

#[test]
fn an_instance_that_ends_again_and_again_is_restarted_later_each_time() {
    let mut nginx = start(&TWO);
    let shop = nginx.get("/shop/facts").json()["worker"].clone();
    for delay in ["1 s", "2 s", "4 s"] {
        let master = nginx.group_master("blog");
        let workers = nginx.wait_group_workers("blog", 2);
        kill(&[master]);
        let line = nginx.wait_expected_error(&format!("master {master} exited on signal 9"));
        assert!(line.contains("[alert]") && line.contains("process group \"blog\""), "{line}");
        assert!(line.ends_with(&format!("restarting in {delay}")), "{line}");
        assert_eq!(nginx.get("/shop/facts").expect(200).json()["worker"], shop);
        for pid in workers {
            Process(pid).wait_gone();
        }
    }
    assert_eq!(nginx.get("/blog/").expect(200).text(), "first");
}

#[test]
fn an_instance_that_cannot_start_does_not_disturb_others() {
    // Too little memory for any process.
    let with = [("blog", "memory_limit=64k"), ("shop", "")];
    let mut nginx = GroupNginx::start(site(&with).errors_expected());
    let mut lines = Vec::new();
    wait_for("two restarts", || {
        lines = nginx.logged("restarting in ");
        (lines.len() >= 2).then_some(())
    });
    for (line, delay) in lines.iter().zip(["1 s", "2 s"]) {
        assert!(line.contains("process group \"blog\"") && line.ends_with(delay), "{line}");
    }
    assert_eq!(nginx.get("/shop/").expect(200).text(), "first");
    // With more it comes up.
    configure(&nginx, &TWO);
    nginx.reload();
    wait_for("the group", || (nginx.get("/blog/").status == 200).then_some(()));
    for text in ["process group \"blog\"", "[alert]", "[emerg]"] {
        nginx.expect_errors(text);
    }
}

#[test]
fn lines_of_the_groups_go_to_the_new_log_after_a_rotation() {
    let mut nginx = started(site(&TWO).errors_expected(), &TWO);
    nginx.get("/blog/log?line-1").expect(200);
    nginx.wait_log("line-1");
    for number in 2..4 {
        let log = nginx.prefix().join("logs/error.log");
        fs::rename(&log, log.with_extension(format!("before-{number}"))).unwrap();
        nginx.signal(libc::SIGUSR1);
        for group in ["blog", "shop"] {
            let text = format!("{group}-line-{number}");
            // The supervisor looks at the name of the file at most once a second.
            wait_for("a line in the new log", || {
                nginx.get(&format!("/{group}/log?{text}")).expect(200);
                nginx.error_log().contains(&text).then_some(())
            });
        }
    }
    // Also those of the supervisor.
    let master = nginx.group_master("blog");
    kill(&[master]);
    nginx.wait_expected_error(&format!("master {master} exited on signal 9"));
    assert_eq!(nginx.get("/blog/").expect(200).text(), "first");
}

// ---- on demand ------------------------------------------------------------------------------------------------------

/// The master of the instance that a request is served by.
#[track_caller]
fn serving_master(nginx: &GroupNginx, group: &str) -> i32 {
    nginx.get(&format!("/{group}/facts")).expect(200).json()["master"].as_i64().unwrap() as i32
}

#[test]
fn an_idle_group_stops_and_starts_again_with_the_next_request() {
    let with = [("blog", "idle_timeout=1s"), ("shop", "")];
    let nginx = start(&with);
    let shop = nginx.group_master("shop");
    for method in ["POST", "GET"] {
        let master = serving_master(&nginx, "blog");
        Process(master).wait_gone();
        wait_for("the end of its workers", || nginx.group_workers("blog").is_empty().then_some(()));
        let response = nginx.request(method, "/blog/facts", &[], b"").expect(200);
        assert_ne!(response.json()["master"], master);
    }
    assert_eq!(nginx.group_master("shop"), shop);
}

#[test]
fn a_group_with_a_running_call_is_not_idle() {
    let with = [("blog", "idle_timeout=1s"), ("shop", "idle_timeout=1s")];
    let nginx = start(&with);
    let calls = waiting(&nginx, "/blog/", "POST", &["1"], 1);
    let (blog, shop) = (nginx.group_master("blog"), nginx.masters("shop"));
    // The other has been asked after it.
    nginx.get("/shop/").expect(200);
    for pid in [shop, nginx.masters("shop")].concat() {
        Process(pid).wait_gone();
    }
    assert_eq!(nginx.group_master("blog"), blog);
    release(&nginx);
    for mut conn in calls {
        assert_eq!(conn.response().expect(200).text(), "done 1");
    }
    Process(blog).wait_gone();
}

#[test]
fn an_idle_group_under_occasional_load_loses_no_request() {
    let with = [("blog", "idle_timeout=1s")];
    let nginx = started(under_load(&with), &with);
    // Requests as the group is about to stop, before and after.
    for number in 0..6 {
        let master = serving_master(&nginx, "blog");
        match number % 2 {
            0 => Process(master).wait_gone(),
            _ => wait_for("the end of its workers", || nginx.group_workers("blog").is_empty().then_some(())),
        }
        let load = CountedLoad::start(&nginx, &["/blog/count"], 3, 10 + number);
        wait_for("another master", || {
            nginx.masters("blog").iter().any(|pid| *pid != master && Process(*pid).is_alive()).then_some(())
        });
        load.stop().assert_good(&nginx);
    }
}

#[test]
fn waiting_calls_start_more_processes() {
    let with = [("blog", "processes=1:3 threads=1")];
    let nginx = start(&with);
    nginx.wait_group_workers("blog", 1);
    let names = ["1", "2", "3", "4", "5", "6"];
    let calls = waiting(&nginx, "/blog/", "POST", &names, 1);
    nginx.wait_group_workers("blog", 3);
    // One that is sent now goes to a new process.
    let more = waiting(&nginx, "/blog/", "POST", &["7", "8", "9", "10"], 1);
    release(&nginx);
    for conn in &mut { calls }.into_iter().chain(more).collect::<Vec<_>>() {
        assert!(conn.response().expect(200).text().starts_with("done "));
    }
    let mut events = nginx.events();
    events.sort();
    events.dedup();
    assert_eq!(events.len(), 10);
    assert_eq!(nginx.group_workers("blog").len(), 3);
}
