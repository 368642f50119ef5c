//! `wsgi_check` at start, reload, stop and upgrade.

use crate::check::{FINE, NOTE, after, checked, end_after_refusals};
use crate::harness::{Engine, Load, Nginx, Process, Site, both_engines, in_repository, wait_for};

use std::process::Command;
use std::time::Duration;

both_engines!(a_reload_with_broken_code_changes_nothing,);

fn a_reload_with_broken_code_changes_nothing(engine: Engine) {
    let app = format!("{NOTE}\nimport ngx_wsgi, os\nif not ngx_wsgi.checking: note(os.getpid())\n{FINE}");
    let mut nginx = Site::new(engine).http("wsgi_check on;").workers(2).app(&app).start();
    // A worker that has not imported the old version yet would import the new one.
    wait_for("the import in both workers", || (nginx.events().len() == 2).then_some(()));
    let workers = nginx.workers();
    let load = Load::start(&nginx, "/", 2);
    nginx.write("app.py", "import not_there\n");
    for count in 1..=2 {
        let line = nginx.reload_refused();
        assert!(line.contains("app.py\" in ") && line.contains("nginx.conf:"), "{line}");
        assert!(line.ends_with(": ModuleNotFoundError: No module named 'not_there'"), "{line}");
        // Its first line and its last.
        let lines = || nginx.logged(": ModuleNotFoundError: No module").len();
        wait_for("the whole traceback", || (lines() == 2 * count).then_some(()));
    }
    assert_eq!(nginx.workers(), workers);
    assert_eq!(nginx.get("/").expect(200).text(), "fine");
    nginx.write("app.py", &FINE.replace("fine", "repaired"));
    nginx.reload();
    assert_eq!(nginx.connect().send("GET / HTTP/1.0\r\n\r\n").response().expect(200).text(), "repaired");
    load.stop().assert_good();
    end_after_refusals(nginx);
}

/// There is nothing to fall back on then, and the workers import it all the same.
#[test]
fn a_start_opens_its_sockets_before_any_import() {
    let app = format!(
        "{NOTE}\nimport ngx_wsgi, os, time\nnote(int(ngx_wsgi.checking))\nwhile not os.path.exists('@prefix@/go'): time.sleep(0.01)\n{FINE}"
    );
    let nginx = checked().app(&app).start();
    let mut conn = nginx.connect();
    conn.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    nginx.wait_events(&["0"]);
    nginx.write("go", "");
    assert_eq!(conn.response().expect(200).text(), "fine");
    assert_eq!(nginx.events(), ["0"], "imported more than once");
}

#[test]
fn a_start_serves_the_others_and_the_worker_logs_the_failure() {
    let nginx = checked()
        .app_at("/fine", "fine.py", FINE)
        .app_at("/broken", "broken.py", "import not_there\n")
        .errors_expected()
        .start();
    assert_eq!(nginx.get("/fine").expect(200).text(), "fine");
    let line = nginx.wait_log("broken.py\" could not be loaded: ModuleNotFoundError");
    assert!(line.contains("[error]"), "{line}");
    nginx.get("/broken").expect(500);
    assert!(nginx.logged("[warn]").is_empty(), "{}", nginx.error_log());
    // A reload does not take what the start did.
    nginx.signal(libc::SIGHUP);
    nginx.wait_log("[emerg]");
    end_after_refusals(nginx);
}

#[test]
fn only_the_master_checks() {
    let app = "
import ngx_wsgi, os
if ngx_wsgi.checking:
    with open('@prefix@/events', 'a') as events:
        events.write(f'by {os.getppid()}\\n')
";
    let nginx = checked().app(&after(app)).start();
    nginx.get("/").expect(200);
    assert!(nginx.events().is_empty(), "{:?}", nginx.events());
    // Started in the foreground: the master is who read the configuration.
    let master = format!("by {}", nginx.master());
    for count in 1..=2 {
        let before = nginx.workers();
        let output = nginx.run(&["-s", "reload"]);
        assert!(output.status.success(), "{output:?}");
        wait_for("a new worker", || nginx.workers().first().filter(|worker| !before.contains(worker)).copied());
        nginx.wait_events(&vec![master.as_str(); count]);
    }
    let output = nginx.run(&["-s", "reopen"]);
    assert!(output.status.success(), "{output:?}");
    nginx.wait_events(&[master.as_str(); 2]);
}

#[test]
fn a_single_process_checks_until_it_runs_applications_itself() {
    let site = checked().main("master_process off;").file("app.py", "import os; os._exit(3)\n");
    let mut nginx = site.file("page", "a page").location("/page", "root @prefix@;").start();
    nginx.reconfigure(|site| site.location("/app", "wsgi_pass app.py;"));
    // nginx's own handler, which reaps every child, is at work here.
    let line = nginx.reload_refused();
    assert!(line.ends_with("ended with exit code 3"), "{line}");
    assert_eq!(nginx.get("/page").expect(200).text(), "a page");
    end_after_refusals(nginx);

    let nginx = checked().main("master_process off;").app(FINE).start();
    assert_eq!(nginx.get("/").expect(200).text(), "fine");
    nginx.write("app.py", "import not_there\n");
    nginx.signal(libc::SIGHUP);
    nginx.wait_log("wsgi_check skipped");
    nginx.terminate();
}

/// The master does not handle signals while it reads a configuration.
#[test]
fn a_master_that_waits_for_an_import_can_be_ended() {
    for signal in [libc::SIGTERM, libc::SIGQUIT] {
        let app = format!("{NOTE}\nimport os, time\nnote(os.getpid())\ntime.sleep(100)\n");
        let mut nginx = checked().app(FINE).start();
        nginx.get("/").expect(200);
        nginx.write("app.py", &app);
        nginx.signal(libc::SIGHUP);
        let checking = wait_for("the import", || nginx.events().first()?.parse().ok().map(Process));
        let log = nginx.stop_by(signal);
        checking.wait_gone();
        assert!(log.contains("wsgi_check aborted") && !log.contains("[emerg]"), "{log}");
    }
}

/// Like `reload::reloads_leave_the_master_as_it_was`; `WSGI_TEST_RELOADS=200` for more reloads.
#[test]
fn checks_leave_the_master_as_it_was() {
    let reloads = std::env::var("WSGI_TEST_RELOADS").map_or(20, |n| n.parse().expect("a number"));
    let mut nginx = checked().app(FINE).app_at("/other", "other.py", FINE).start();
    let master = Process(nginx.master());
    let descriptors = |nginx: &Nginx| {
        wait_for("one worker", || (nginx.all_children().len() == 1).then_some(()));
        std::thread::sleep(Duration::from_millis(50));
        master.descriptors()
    };
    let round = |nginx: &mut Nginx| {
        nginx.write("other.py", FINE);
        nginx.reload();
        // One that is refused after each that is not.
        nginx.write("other.py", "import not_there\n");
        let refusals = nginx.logged("other.py\" in ").len();
        nginx.signal(libc::SIGHUP);
        wait_for("a refusal", || (nginx.logged("other.py\" in ").len() > refusals).then_some(()));
    };
    for _ in 0..5 {
        round(&mut nginx);
    }
    let before = (descriptors(&nginx), master.mappings().len(), master.memory());
    for _ in 0..reloads {
        round(&mut nginx);
    }
    wait_for("as many descriptors as before", || (descriptors(&nginx) == before.0).then_some(()));
    let (mappings, memory) = (master.mappings().len(), master.memory());
    assert!(mappings <= before.1 + 2, "{mappings} mappings: {before:?}");
    assert!(memory < before.2 + 512 * 1024, "{memory} bytes: {before:?}");
    eprintln!("{reloads} reloads and as many refusals: {} bytes of memory, then {memory}", before.2);
    assert_eq!(master.threads(), 1);
    assert!(!master.mappings().iter().any(|line| line.contains("lib-dynload")), "Python ran in the master");
    end_after_refusals(nginx);
}

#[test]
fn an_upgrade_of_nginx_is_refused_like_a_reload() {
    let nginx = checked().daemon().app(FINE).start();
    assert_eq!(nginx.get("/").expect(200).text(), "fine");
    let (master, workers) = (nginx.master(), nginx.workers());
    nginx.write("app.py", "import not_there\n");
    nginx.signal(libc::SIGUSR2);
    wait_for("the end of the new binary", || {
        nginx.logged("new binary process").into_iter().find(|l| l.contains("exited"))
    });
    nginx.wait_log("[emerg]");
    assert_eq!(nginx.workers(), workers);
    assert_eq!(nginx.get("/").expect(200).text(), "fine");
    // nginx puts the file back that tells its number.
    wait_for("the pid file", || (nginx.read("logs/nginx.pid").trim() == master.to_string()).then_some(()));
    end_after_refusals(nginx);
}

/// Runs the script as an administrator would; whether it succeeded, and all that was said.
fn deploy(nginx: &Nginx, directory: &str) -> (bool, String) {
    let prefix = nginx.prefix().display();
    let program = std::env::var("NGINX").unwrap_or_else(|_| "/usr/sbin/nginx".to_owned());
    let output = Command::new(in_repository("nginx-conf/deploy.sh"))
        .args([nginx.prefix().join(directory), nginx.prefix().join("site")])
        .env("NGINX_COMMAND", format!("{program} -p {prefix} -c {prefix}/conf/nginx.conf -e {prefix}/logs/error.log"))
        .output()
        .expect("run deploy.sh");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

#[test]
fn the_script_brings_a_release_live_or_leaves_the_old_one() {
    let site = checked().file("site/releases/first/app.py", FINE);
    std::os::unix::fs::symlink("releases/first", site.prefix().join("site/current")).unwrap();
    let nginx = site.location("/", "wsgi_pass site/current/app.py;").start();
    let current = || std::fs::read_link(nginx.prefix().join("site/current")).unwrap();
    assert_eq!(nginx.get("/").expect(200).text(), "fine");

    let workers = nginx.workers();
    nginx.write("work/app.py", "import not_there\n");
    let (good, text) = deploy(&nginx, "work");
    assert!(!good && text.contains("ModuleNotFoundError") && text.contains("is not live"), "{text}");
    assert_eq!(current().to_str(), Some("releases/first"));
    assert_eq!(nginx.workers(), workers);

    nginx.write("work/app.py", &FINE.replace("fine", "second"));
    // The time of a release has whole seconds.
    let (good, text) =
        wait_for("a second that has no release", || Some(deploy(&nginx, "work")).filter(|(good, _)| *good));
    assert!(good && text.contains("is live"), "{text}");
    assert_ne!(current().to_str(), Some("releases/first"));
    let new = || nginx.connect().send("GET / HTTP/1.0\r\n\r\n").response().text();
    wait_for("the new release", || (new() == "second").then_some(()));
    let log = { nginx }.stop_by(libc::SIGQUIT);
    assert!(!log.contains("[alert]"), "{log}");
}
