//! `wsgi_process_group`: the identity, the limits and the files of the processes of a group, and what one group can see of
//! another.

use crate::directives::make_venv;
use crate::harness::{Nginx, Process, Site, User, files_below, ids, is_root, open_to_all, two_users, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Responds with the facts about its process, as JSON. `/make` also makes a file and a directory; `/print` prints.
const FACTS: &str = r#"
import json
import os
import resource
import sys
import threading

def application(environ, start_response):
    with open("/proc/self/status") as status:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in status)
    if environ["PATH_INFO"] == "/make":
        with open("@prefix@/made/file", "w"):
            pass
        os.mkdir("@prefix@/made/directory")
    if environ["PATH_INFO"] == "/print":
        print("printed by", os.getuid())
    facts = {
        "pid": os.getpid(),
        "uid": [os.getuid(), os.geteuid()],
        "gid": [os.getgid(), os.getegid()],
        "groups": os.getgroups(),
        "umask": status["Umask"],
        "cwd": os.getcwd(),
        "environ": dict(os.environ),
        "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
        "data": resource.getrlimit(resource.RLIMIT_DATA),
        "prefix": sys.prefix,
        "path": sys.path,
        "multithread": environ["wsgi.multithread"],
        "multiprocess": environ["wsgi.multiprocess"],
        "is main thread": threading.current_thread() is threading.main_thread(),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(facts).encode()]
"#;

/// A site with one group `facts`, with these arguments.
fn site(arguments: &str) -> Site {
    let group = format!("wsgi_process_group facts {arguments};");
    Site::plain().http(&group).file("facts.py", FACTS).location("/", "wsgi_pass facts.py process=facts;")
}

#[track_caller]
fn facts(nginx: &Nginx) -> Value {
    nginx.get("/").expect(200).json()
}

/// Asserts the identity that the kernel knows.
#[track_caller]
fn assert_identity(process: Process, uid: u32, gid: u32) {
    let four = |id: u32| vec![id.to_string(); 4];
    let title = process.title();
    assert_eq!(process.status_words("Uid"), four(uid), "{title}");
    assert_eq!(process.status_words("Gid"), four(gid), "{title}");
    assert_eq!(process.status_words("Groups"), [gid.to_string()], "{title}");
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(process.status_words(set), ["0000000000000000"], "{set} of {title}");
    }
}

// ---- identity -------------------------------------------------------------------------------------------------------

#[test]
fn a_group_runs_as_its_user() {
    let Some([user, _]) = two_users() else { return };
    let nginx = site(&format!("user={} processes=2", user.name)).user("nobody nogroup").start();
    let facts = facts(&nginx);
    assert_eq!(facts["uid"], json!([user.uid, user.uid]));
    assert_eq!(facts["gid"], json!([user.gid, user.gid]));
    assert_eq!(facts["groups"], json!([user.gid]));
    assert_eq!(facts["multiprocess"], true);
    let group = nginx.group("facts");
    let (master, workers) = (group.master(), group.wait_workers(2));
    assert!(workers.iter().any(|worker| facts["pid"] == worker.0), "{facts} {workers:?}");
    for process in workers.into_iter().chain([master]) {
        assert_identity(process, user.uid, user.gid);
        assert_eq!(process.status_words("NoNewPrivs"), ["1"]);
    }
    // The supervisor starts them, so it is still root.
    let supervisor = group.supervisor();
    assert_eq!(supervisor.status_words("Uid"), ["0"; 4]);
    assert_ne!(supervisor.0, nginx.master());
}

#[test]
fn a_group_has_its_own_group_of_users() {
    let Some([user, other]) = two_users() else { return };
    let nginx = site(&format!("user={} group={}", user.name, other.name)).user("nobody nogroup").start();
    let facts = facts(&nginx);
    assert_eq!(facts["uid"], json!([user.uid, user.uid]));
    assert_eq!(facts["gid"], json!([other.gid, other.gid]));
    assert_eq!(facts["groups"], json!([other.gid]));
    assert_identity(nginx.group("facts").master(), user.uid, other.gid);
}

#[test]
fn a_group_without_a_user_runs_as_the_user_of_the_workers() {
    let Some([user, _]) = two_users() else { return };
    let nginx = site("").user("nobody nogroup").start();
    let (nobody, nogroup) = ids("nobody").unwrap();
    let found = facts(&nginx);
    assert_eq!((&found["uid"], &found["gid"]), (&json!([nobody, nobody]), &json!([nogroup, nogroup])));
    assert_identity(nginx.group("facts").master(), nobody, nogroup);

    let nginx = site(&format!("group={}", user.name)).user("nobody nogroup").start();
    let found = facts(&nginx);
    assert_eq!((&found["uid"], &found["gid"]), (&json!([nobody, nobody]), &json!([user.gid, user.gid])));
}

#[test]
fn without_root_a_group_runs_as_the_user_of_nginx() {
    let mut site = site("processes=2 umask=077");
    // SAFETY: always succeeds and has no argument.
    let mut uid = unsafe { libc::geteuid() };
    if is_root() {
        let Some([first, _]) = two_users() else { return };
        for directory in ["logs", "tmp"] {
            open_to_all(&site.prefix().join(directory));
        }
        let wrapper = first.wrapper();
        site = site.wrapped_in(&wrapper.iter().map(String::as_str).collect::<Vec<_>>());
        uid = first.uid;
    }
    let mut nginx = site.start();
    let facts = facts(&nginx);
    assert_eq!(facts["uid"], json!([uid, uid]));
    assert_eq!(facts["umask"], "0077");
    let group = nginx.group("facts");
    group.wait_workers(2);
    let supervisor = group.supervisor();
    assert_eq!(supervisor.status_words("Uid"), vec![uid.to_string(); 4]);
    // Nobody else can connect, and an instance cannot remove the socket.
    assert_eq!(fs::metadata(group.socket().parent().unwrap()).unwrap().mode() & 0o7777, 0o510);
    let log = nginx.stop_by(libc::SIGQUIT);
    assert!(!log.contains("[alert]") && !log.contains("[emerg]"), "{log}");
    supervisor.wait_gone();
    assert!(!nginx.prefix().join("wsgi_run").exists());
}

#[test]
fn new_privileges_can_be_allowed() {
    let nginx = site("no_new_privs=off").start();
    facts(&nginx);
    let group = nginx.group("facts");
    for process in group.wait_workers(1).into_iter().chain([group.master()]) {
        assert_eq!(process.status_words("NoNewPrivs"), ["0"]);
    }
}

#[test]
fn the_output_of_a_group_is_in_the_error_log() {
    let Some([user, _]) = two_users() else { return };
    let nginx = site(&format!("user={}", user.name)).user("nobody nogroup").errors_expected().start();
    nginx.get("/print").expect(200);
    let line = nginx.wait_log(&format!("printed by {}", user.uid));
    assert!(line.contains("client: 127.0.0.1"), "{line}");
    // Which its user can neither read nor write.
    let log = fs::metadata(nginx.prefix().join("logs/error.log")).unwrap();
    assert_ne!(log.uid(), user.uid);
    for worker in nginx.group("facts").wait_workers(1) {
        let files = worker.open_files();
        assert!(!files.iter().any(|file| file.contains("/logs/")), "{files:?}");
    }
}

#[test]
fn nothing_of_the_front_is_open_in_a_group() {
    let nginx =
        site("").http("wsgi_process_group other;").location("/other", "wsgi_pass facts.py process=other;").start();
    facts(&nginx);
    nginx.get("/other").expect(200);
    let files = |process: Process| -> Vec<String> {
        let files = process.open_files();
        assert!(!files.is_empty(), "{}", process.title());
        files
            .into_iter()
            .filter(|file| file.starts_with("socket:") || file.starts_with('/') && !file.starts_with("/memfd:"))
            .collect()
    };
    let (facts, other) = (nginx.group("facts"), nginx.group("other"));
    let listening: Vec<String> = files(Process(nginx.master()));
    for (group, foreign) in [(&facts, &other), (&other, &facts)] {
        // Each has the null device, and each worker connections of its own.
        let foreign: Vec<String> = files(foreign.master());
        for process in group.workers().into_iter().chain([group.master()]) {
            for file in files(process).iter().filter(|file| *file != "/dev/null") {
                assert!(!listening.contains(file), "{file} of {} is one of the front", process.title());
                assert!(!foreign.contains(file), "{file} of {} is one of another group", process.title());
            }
        }
    }
}

// ---- files ----------------------------------------------------------------------------------------------------------

/// Owner, group, kind and mode of each file below a directory, by its path.
fn listing(directory: &Path) -> BTreeMap<String, (u32, u32, char, String)> {
    let mut all = files_below(directory);
    all.push(directory.to_owned());
    let entries = all.iter().filter_map(|path| {
        let found = fs::symlink_metadata(path).ok()?;
        let kind = match found.mode() & libc::S_IFMT {
            libc::S_IFDIR => 'd',
            libc::S_IFREG => '-',
            libc::S_IFSOCK => 's',
            _ => '?',
        };
        let name = path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
        Some((name, (found.uid(), found.gid(), kind, format!("{:04o}", found.mode() & 0o7777))))
    });
    entries.collect()
}

#[test]
fn the_files_of_groups_have_owners_and_modes() {
    let Some([first, second]) = two_users() else { return };
    let nginx = two_groups(&first, &second).start();
    for path in ["/first", "/second"] {
        nginx.post(path, "[]").expect(200);
    }
    let (_, nogroup) = ids("nobody").unwrap();
    let directory = nginx.prefix().join("wsgi_run");
    let found = listing(&directory);
    let mut wanted = vec![
        (String::new(), (0, 0, 'd', "0755")),
        ("lock".to_owned(), (0, 0, '-', "0600")),
        ("sockets".to_owned(), (0, nogroup, 'd', "0710")),
        ("sockets/status.sock".to_owned(), (0, 0, 's', "0666")),
    ];
    for (name, user) in [("first", &first), ("second", &second)] {
        wanted.extend([
            (format!("sockets/{name}"), (0, 0, 's', "0666")),
            (name.to_owned(), (0, user.gid, 'd', "0750")),
            (format!("{name}/nginx.conf"), (0, user.gid, '-', "0640")),
            (format!("{name}/wsgi_control"), (user.uid, user.gid, 's', "0600")),
            (format!("{name}/tmp"), (user.uid, user.gid, 'd', "0700")),
        ]);
    }
    for (path, (uid, gid, kind, mode)) in &wanted {
        assert_eq!(found.get(path), Some(&(*uid, *gid, *kind, mode.to_string())), "{path:?} in {found:#?}");
    }
    for (path, (uid, gid, ..)) in &found {
        let user =
            [("first/tmp/", &first), ("second/tmp/", &second)].into_iter().find(|(below, _)| path.starts_with(below));
        match user {
            Some((_, user)) => assert_eq!((*uid, *gid), (user.uid, user.gid), "{path}"),
            None => assert!(wanted.iter().any(|(known, _)| known == path), "{path} is not expected in {found:#?}"),
        }
    }
}

#[test]
fn files_of_the_application_have_its_owner_and_umask() {
    let Some([user, _]) = two_users() else { return };
    for (argument, file_mode, directory_mode) in
        [("", 0o644, 0o755), ("umask=027", 0o640, 0o750), ("umask=0", 0o666, 0o777)]
    {
        let site = site(&format!("user={} {argument}", user.name));
        let made = site.prefix().join("made");
        fs::create_dir(&made).unwrap();
        open_to_all(&made);
        let nginx = site.user("nobody nogroup").start();
        nginx.get("/make").expect(200);
        for (name, mode) in [("file", file_mode), ("directory", directory_mode)] {
            let found = fs::metadata(made.join(name)).unwrap();
            assert_eq!((found.uid(), found.gid()), (user.uid, user.gid), "{name}");
            assert_eq!(found.mode() & 0o777, mode, "{name} with {argument:?}");
        }
    }
}

#[test]
fn sockets_can_be_in_another_directory() {
    let Some([user, _]) = two_users() else { return };
    let mut nginx = Site::plain()
        .user("nobody nogroup")
        .http("wsgi_socket_path run/below;")
        .http(&format!("wsgi_process_group facts user={};", user.name))
        .file("facts.py", FACTS)
        .file("run/other", "is not of nginx")
        .location("/", "wsgi_pass facts.py process=facts;")
        .start();
    assert_eq!(facts(&nginx)["uid"][0], user.uid);
    let group = nginx.group_in("run/below", "facts");
    assert_identity(group.master(), user.uid, user.gid);
    assert!(!nginx.prefix().join("wsgi_run").exists());
    nginx.stop_by(libc::SIGQUIT);
    assert!(!nginx.prefix().join("run/below").exists());
    assert!(nginx.prefix().join("run/other").exists());
}

#[test]
fn nothing_is_left_after_the_end() {
    for signal in [libc::SIGQUIT, libc::SIGTERM, libc::SIGINT] {
        let mut nginx = site("processes=2")
            .http("wsgi_process_group other;")
            .location("/other", "wsgi_pass facts.py process=other;")
            .start();
        facts(&nginx);
        nginx.get("/other").expect(200);
        let mut processes = Vec::new();
        for (name, workers) in [("facts", 2), ("other", 1)] {
            let group = nginx.group(name);
            processes.extend(group.wait_workers(workers));
            processes.extend([group.master(), group.supervisor()]);
        }
        let log = nginx.stop_by(signal);
        for process in processes {
            // The supervisor ends a moment after the master has seen its end.
            process.wait_gone();
        }
        let left = files_below(&nginx.prefix().join("wsgi_run"));
        assert!(!nginx.prefix().join("wsgi_run").exists(), "after signal {signal}: {left:?}");
        for bad in ["[alert]", "[emerg]", "[crit]", "[error]", "exited on signal", "panicked"] {
            assert!(!log.contains(bad), "{bad} after signal {signal}:\n{log}");
        }
    }
}

#[test]
fn a_program_in_a_session_of_its_own_ends_with_nginx() {
    let mut nginx = Site::plain()
        .http("wsgi_process_group programs;")
        .file(
            "programs.py",
            r#"
import subprocess

def application(environ, start_response):
    start_response("200 OK", [])
    # The second cannot be asked to end.
    started = [
        subprocess.Popen(["sleep", "1000"], start_new_session=True),
        subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 1000"], start_new_session=True),
    ]
    return [" ".join(str(process.pid) for process in started).encode()]
"#,
        )
        .location("/", "wsgi_pass programs.py process=programs;")
        .start();
    let text = nginx.get("/").expect(200).text();
    let programs: Vec<Process> = text.split(' ').map(|pid| Process(pid.parse().unwrap())).collect();
    assert!(programs.iter().all(|program| program.parent().is_some()));
    nginx.stop_by(libc::SIGQUIT);
    programs.iter().for_each(|program| program.wait_gone());
}

#[test]
fn a_variable_of_a_group_cannot_replace_those_of_its_supervisor() {
    // nginx takes the first for the number of its listening socket.
    let nginx = site("env=NGINX=9").start();
    facts(&nginx);
}

// ---- separation -----------------------------------------------------------------------------------------------------

/// Tries what it is asked for, a list of pairs of an action and a path, and responds with what became of each.
const TRIES: &str = r#"
import errno
import json
import os
import socket

def connect(path):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)

def read(path):
    with open(path, "rb") as file:
        file.read()

def write(path):
    with open(path, "ab"):
        pass

ACTIONS = {
    "connect": connect,
    "read": read,
    "write": write,
    "list": os.listdir,
    "remove": os.remove,
    "signal": lambda pid: os.kill(int(pid), 0),
}

def attempt(action, path):
    try:
        ACTIONS[action](path)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def application(environ, start_response):
    results = [attempt(action, path) for action, path in json.load(environ["wsgi.input"])]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(results).encode()]
"#;

fn two_groups(first: &User, second: &User) -> Site {
    Site::plain()
        .user("nobody nogroup")
        .http(&format!("wsgi_process_group first user={} env=SECRET=hidden;", first.name))
        .http(&format!("wsgi_process_group second user={} env=SECRET=hidden;", second.name))
        .file("tries.py", TRIES)
        .location("/first", "wsgi_pass tries.py process=first;")
        .location("/second", "wsgi_pass tries.py process=second;")
}

#[track_caller]
fn assert_results(nginx: &Nginx, location: &str, wanted: &[(&str, String, &str)]) {
    let asked: Vec<_> = wanted.iter().map(|(action, path, _)| json!([action, path])).collect();
    let results = nginx.post(location, json!(asked).to_string()).expect(200).json();
    for ((action, path, result), found) in wanted.iter().zip(results.as_array().unwrap()) {
        assert_eq!(found, result, "{location}: {action} {path}");
    }
}

#[test]
fn a_group_cannot_reach_another() {
    let Some([first, second]) = two_users() else { return };
    let nginx = two_groups(&first, &second).start();
    for (location, own, foreign) in [("/first", "first", "second"), ("/second", "second", "first")] {
        let (own, foreign) = (nginx.group(own), nginx.group(foreign));
        let (own_files, files) = (own.directory().display().to_string(), foreign.directory().display().to_string());
        let socket = foreign.socket().display().to_string();
        let sockets = foreign.socket().parent().unwrap().display().to_string();
        let mut wanted = vec![
            ("connect", socket.clone(), "EACCES"),
            ("remove", socket, "EACCES"),
            ("connect", format!("{files}/wsgi_control"), "EACCES"),
            ("read", format!("{files}/nginx.conf"), "EACCES"),
            ("write", format!("{files}/nginx.conf"), "EACCES"),
            ("list", files.clone(), "EACCES"),
            ("list", format!("{files}/tmp"), "EACCES"),
            ("read", format!("{files}/tmp/nginx.pid"), "EACCES"),
            ("write", format!("{files}/new"), "EACCES"),
            ("list", sockets.clone(), "EACCES"),
            ("write", format!("{sockets}/new"), "EACCES"),
            ("write", format!("{}/new", nginx.prefix().join("wsgi_run").display()), "EACCES"),
            ("read", nginx.prefix().join("wsgi_run/lock").display().to_string(), "EACCES"),
            // Its own configuration is for reading alone.
            ("read", format!("{own_files}/nginx.conf"), "done"),
            ("write", format!("{own_files}/nginx.conf"), "EACCES"),
            ("remove", format!("{own_files}/nginx.conf"), "EACCES"),
            ("write", format!("{own_files}/new"), "EACCES"),
            ("remove", format!("{own_files}/wsgi_control"), "EACCES"),
            ("connect", format!("{own_files}/wsgi_control"), "done"),
            ("list", format!("{own_files}/tmp"), "done"),
        ];
        let mut processes = foreign.wait_workers(1);
        processes.extend([foreign.master(), foreign.supervisor(), Process(nginx.master())]);
        for process in processes {
            wanted.extend(
                ["environ", "mem", "maps"].map(|name| ("read", format!("/proc/{}/{name}", process.0), "EACCES")),
            );
            wanted.push(("list", format!("/proc/{}/fd", process.0), "EACCES"));
            wanted.push(("signal", process.0.to_string(), "EPERM"));
        }
        assert_results(&nginx, location, &wanted);
    }
    // It is not that nothing listens.
    for name in ["first", "second"] {
        let group = nginx.group(name);
        UnixStream::connect(group.socket()).unwrap();
        UnixStream::connect(group.directory().join("wsgi_control")).unwrap();
    }
    // Nor can somebody else.
    let files = nginx.group("first").directory();
    let script = "cat $1/nginx.conf || ls $1 || ls $1/tmp || ls $1/../sockets";
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", "nobody", "--regid", &second.gid.to_string(), "--clear-groups", "sh", "-c", script, "sh"])
        .arg(files)
        .output()
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[test]
fn a_request_that_does_not_come_from_the_front_is_refused() {
    let nginx = site("").errors_expected().start();
    facts(&nginx);
    let socket = nginx.group("facts").socket().display().to_string();
    for header in ["X-Any: 1", "Wsgi-Environ: ", "Wsgi-Environ: x", "Wsgi-Environ: 0123456789abcdef 1 -"] {
        let response = crate::harness::curl(&["--unix-socket", &socket, "-H", header, "http://localhost/"]);
        assert_eq!(response.response.status, 400, "{header}");
    }
    nginx.wait_log("does not come from its front");
    facts(&nginx);
}

// ---- Python, environment, limits ------------------------------------------------------------------------------------

#[test]
fn two_groups_have_virtual_environments_of_their_own() {
    let app = r#"
import json
import sys

import packaged
import pathed

def application(environ, start_response):
    start_response("200 OK", [])
    return [json.dumps([packaged.NAME, pathed.NAME, sys.prefix]).encode()]
"#;
    let mut site = Site::plain().file("app.py", app);
    for name in ["one", "two"] {
        make_venv(&site, name);
        let packages = format!("{name}/lib/python{}/site-packages", env!("WSGI_PYTHON_VERSION"));
        site = site
            .file(&format!("{packages}/packaged.py"), &format!("NAME = 'package of {name}'\n"))
            .file(&format!("path-{name}/pathed.py"), &format!("NAME = 'path of {name}'\n"))
            .file(&format!("path-{name}-last/pathed.py"), "NAME = 'last'\n")
            .http(&format!("wsgi_process_group {name} home={name} path=path-{name} path=@prefix@/path-{name}-last;"))
            .location(&format!("/{name}"), &format!("wsgi_pass app.py process={name};"));
    }
    // The front's own Python is another, and it serves the same file.
    let nginx = site
        .file("front/pathed.py", "NAME = 'path of the front'\n")
        .file("front/packaged.py", "NAME = 'package of the front'\n")
        .http("wsgi_python_path front;")
        .location("/front", "wsgi_pass app.py;")
        .start();
    let prefix = nginx.prefix().display();
    for name in ["one", "two"] {
        let found = nginx.get(&format!("/{name}")).expect(200).json();
        let wanted = [format!("package of {name}"), format!("path of {name}"), format!("{prefix}/{name}")];
        assert_eq!(found, json!(wanted));
    }
    assert_eq!(nginx.get("/front").expect(200).json()[0], "package of the front");
}

#[test]
fn a_group_without_a_python_of_its_own_has_that_of_the_front() {
    let site = site("").http("wsgi_python_home venv; wsgi_python_path lib;").file("lib/x.py", "");
    make_venv(&site, "venv");
    let nginx = site.start();
    let facts = facts(&nginx);
    assert_eq!(facts["prefix"], nginx.prefix().join("venv").display().to_string());
    let lib = json!(nginx.prefix().join("lib").display().to_string());
    assert!(facts["path"].as_array().unwrap().contains(&lib), "{facts}");
}

#[test]
fn variables_of_the_environment_are_those_of_the_group() {
    let Some([user, _]) = two_users() else { return };
    let arguments = format!(
        "user={} env=A=1 \"env=B=two words\" env=C= env=BOTH=argument \"env=ODD=a\\\"b;{{}}\\\\ $x = ä\" env_file=@prefix@/secrets",
        user.name
    );
    let secrets = "# A comment\n\nSECRET=top secret\nQUOTED=\"in quotes\"\nBOTH=file\n";
    let site = site(&arguments).user("nobody nogroup").main("env FRONT=1;").file("secrets", secrets);
    fs::set_permissions(site.prefix().join("secrets"), fs::Permissions::from_mode(0o600)).unwrap();
    let nginx = site.start();
    let facts = facts(&nginx);
    for (name, value) in [
        ("A", "1"),
        ("B", "two words"),
        ("C", ""),
        ("BOTH", "argument"),
        ("ODD", "a\"b;{}\\ $x = ä"),
        ("SECRET", "top secret"),
        ("QUOTED", "in quotes"),
    ] {
        assert_eq!(facts["environ"][name], value, "{name}");
    }
    for name in ["FRONT", "NGINX", "NGX_WSGI_SUPERVISOR"] {
        assert_eq!(facts["environ"].get(name), None, "{name}");
    }
    assert_eq!(facts["environ"]["USER"], user.name.as_str());
    // Secrets are nowhere in files or titles.
    let group = nginx.group("facts");
    let text = fs::read_to_string(group.directory().join("nginx.conf")).unwrap();
    assert!(!text.contains("top secret"), "{text}");
    for process in group.workers().into_iter().chain([group.master()]) {
        assert!(!process.title().contains("top secret"));
    }
    let log = nginx.error_log();
    assert!(!log.contains("top secret"), "{log}");
}

#[test]
fn variables_of_a_location_win() {
    let nginx = site("env=A=group env=B=group").server("wsgi_env A location; wsgi_env \"C\" \"a;b\";").start();
    let facts = facts(&nginx);
    assert_eq!(
        (&facts["environ"]["A"], &facts["environ"]["B"], &facts["environ"]["C"]),
        (&json!("location"), &json!("group"), &json!("a;b"))
    );
}

#[test]
fn the_working_directory_is_that_of_the_group() {
    let Some([user, _]) = two_users() else { return };
    let nginx = site("").start();
    assert_eq!(facts(&nginx)["cwd"], "/");
    let site = site(&format!("user={} chdir=work", user.name)).file("work/x", "").user("nobody nogroup");
    // For its user alone: the directory is entered with the rights of the group, also in the check.
    let work = site.prefix().join("work");
    std::os::unix::fs::chown(&work, Some(user.uid), Some(user.gid)).unwrap();
    fs::set_permissions(&work, fs::Permissions::from_mode(0o700)).unwrap();
    let nginx = site.start();
    let prefix = nginx.prefix().canonicalize().unwrap();
    assert_eq!(facts(&nginx)["cwd"], prefix.join("work").display().to_string());
}

#[test]
fn threads_are_those_of_the_group() {
    let app = r#"
import threading

barrier = threading.Barrier(6)

def application(environ, start_response):
    barrier.wait(60)
    start_response("200 OK", [])
    return [b"met"]
"#;
    // The default is four.
    let nginx = site("threads=off")
        .http("wsgi_process_group six threads=6;")
        .file("meets.py", app)
        .location("/meets", "wsgi_pass meets.py process=six;")
        .start();
    let facts = facts(&nginx);
    assert_eq!((&facts["multithread"], &facts["is main thread"]), (&json!(false), &json!(true)));
    let mut all: Vec<_> = (0..6).map(|_| nginx.connect()).collect();
    for conn in &mut all {
        conn.send("GET /meets HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for conn in &mut all {
        assert_eq!(conn.response().expect(200).text(), "met");
    }
}

#[test]
fn calls_are_counted_for_the_group() {
    let nginx = site("max_requests=5").location("/front", "wsgi_pass facts.py;").start();
    let pid = |path: &str| nginx.get(path).expect(200).json()["pid"].as_i64().unwrap();
    let (first, front) = (pid("/"), pid("/front"));
    let master = nginx.group("facts").master();
    wait_for("another worker", || (pid("/") != first).then_some(()));
    for _ in 0..10 {
        assert_eq!(pid("/front"), front);
    }
    assert_eq!(nginx.group("facts").master(), master);
    nginx.wait_log("wsgi_max_requests reached");
}

#[test]
fn memory_is_limited_for_the_group() {
    let app = r#"
import os

kept = []

def application(environ, start_response):
    if environ["PATH_INFO"] == "/eat":
        kept.append(b"x" * 200_000_000)
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"#;
    let nginx = Site::plain()
        .http("wsgi_process_group eats max_memory=150m;")
        .file("eats.py", app)
        .location("/", "wsgi_pass eats.py process=eats;")
        .start();
    let pid = || nginx.get("/").expect(200).text();
    let first = pid();
    nginx.get("/eat").expect(200);
    let line = nginx.wait_log("MB exceeds wsgi_max_memory");
    assert!(line.contains("(150 MB)"), "{line}");
    wait_for("another worker", || (pid() != first).then_some(()));
}

#[test]
fn the_kernel_limits_the_processes_of_a_group() {
    let app = r#"
def application(environ, start_response):
    if environ["PATH_INFO"] == "/big":
        bytearray(2 << 30)
    import os
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"#;
    let nginx = site("nofile=3000 memory_limit=700m")
        .file("big.py", app)
        .location("= /big", "wsgi_pass big.py process=facts;")
        .location("= /small", "wsgi_pass big.py process=facts;")
        .errors_expected()
        .start();
    let found = facts(&nginx);
    assert_eq!(found["nofile"], json!([3000, 3000]));
    assert_eq!(found["data"], json!([700 << 20, 700 << 20]));
    let pid = nginx.get("/small").expect(200).text();
    for _ in 0..3 {
        nginx.get("/big").expect(500);
        nginx.wait_log("MemoryError");
    }
    assert_eq!(nginx.get("/small").expect(200).text(), pid);
    assert_eq!(facts(&nginx)["pid"], found["pid"]);
}

#[test]
fn several_groups_have_processes_of_their_own() {
    let nginx = site("processes=2")
        .http("wsgi_process_group Other-1_x;")
        .http("wsgi_process_group unused;")
        .location("/other", "wsgi_pass facts.py process=Other-1_x;")
        .location("/front", "wsgi_pass facts.py;")
        .start();
    let pid = |path: &str| Process(nginx.get(path).expect(200).json()["pid"].as_i64().unwrap() as i32);
    let (facts, other) = (nginx.group("facts"), nginx.group("Other-1_x"));
    assert!(facts.wait_workers(2).contains(&pid("/")));
    assert_eq!(other.wait_workers(1), [pid("/other")]);
    assert_eq!(nginx.workers(), [pid("/front").0]);
    assert_ne!(facts.master(), other.master());
    assert_eq!(facts.supervisor(), other.supervisor());
    // A group without a location has nothing to do.
    assert!(!nginx.prefix().join("wsgi_run/unused").exists());
}
