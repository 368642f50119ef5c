//! `ngx-wsgi-ctl`, with a supervisor that only replies.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use crate::harness::is_root;
use tempfile::TempDir;

/// A directory of `wsgi_socket_path`, which every user may enter.
fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("lock"), "").unwrap();
    // Another user may not enter it.
    fs::create_dir(dir.path().join("sockets")).unwrap();
    fs::set_permissions(dir.path().join("sockets"), Permissions::from_mode(0o710)).unwrap();
    dir
}

/// Makes the directory of a group, with a control socket that sends the reply to each client. Returns the commands.
fn supervise(dir: &Path, group: &str, reply: String) -> Receiver<String> {
    let dir = dir.join(group);
    fs::create_dir_all(&dir).unwrap();
    let listener = UnixListener::bind(dir.join("wsgi_control")).unwrap();
    let (sender, commands) = mpsc::channel();
    // It ends with the tests.
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut command = String::new();
            BufReader::new(&client).read_line(&mut command).unwrap();
            let _ = sender.send(command);
            // In two parts, the reply is still one.
            let (first, second) = reply.split_at(reply.len() / 2);
            let _ = client.write_all(first.as_bytes()).and_then(|()| client.write_all(second.as_bytes()));
        }
    });
    commands
}

/// Makes a control socket that nothing listens on, as a killed nginx leaves it.
fn abandon(dir: &Path, group: &str) {
    fs::create_dir_all(dir.join(group)).unwrap();
    drop(UnixListener::bind(dir.join(group).join("wsgi_control")).unwrap());
}

fn group(name: &str, requests: u64) -> String {
    format!(
        r#"{{"ok": true, "message": "done", "group": {{"name": "{name}", "state": "running", "user": "{name}",
           "processes": [{{"master": 10, "workers": [11, 12], "uptime": 61}}], "restarts": 1, "requests": {requests},
           "busy": 2, "waiting": 0, "socket": "/run/{name}"}}}}"#
    )
}

fn control(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ngx-wsgi-ctl"));
    command.env_clear().env("NGX_WSGI_SOCKET_PATH", dir);
    command
}

/// Runs it with these arguments; returns status, output and errors.
fn run(command: &mut Command, arguments: &[&str]) -> (i32, String, String) {
    let output = command.args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn it_links_to_no_python() {
    let output = Command::new("ldd").arg(env!("CARGO_BIN_EXE_ngx-wsgi-ctl")).output().unwrap();
    let libraries = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && !libraries.contains("python"), "{libraries}");
    let (status, said, errors) =
        run(Command::new(env!("CARGO_BIN_EXE_ngx-wsgi-ctl")).env("LD_BIND_NOW", "1"), &["--version"]);
    assert_eq!((status, said.starts_with("ngx-wsgi-ctl ")), (0, true), "{errors}");
}

#[test]
fn a_command_is_one_line_for_each_group() {
    let dir = directory();
    let commands = ["blog", "shop"].map(|name| supervise(dir.path(), name, group(name, 0)));
    for command in ["reload", "stop", "start"] {
        let ran = run(&mut control(dir.path()), &[command, "blog", "shop"]);
        assert_eq!(ran, (0, "blog: done\nshop: done\n".to_owned(), String::new()));
        for received in &commands {
            assert_eq!(received.recv().unwrap(), format!("{command}\n"));
        }
    }
}

#[test]
fn status_is_a_table_of_all_groups_or_of_those_named() {
    let dir = directory();
    let _commands = ["shop", "blog"].map(|name| supervise(dir.path(), name, group(name, 12_000)));
    abandon(dir.path(), "old");
    let header = "NAME  STATE    USER  PROCESSES  BUSY  WAITING  REQUESTS  RESTARTS  UPTIME\n";
    let blog = "blog  running  blog          2     2        0     12000         1   1m 1s\n";
    let shop = "shop  running  shop          2     2        0     12000         1   1m 1s\n";
    let ran = run(&mut control(dir.path()), &["status"]);
    assert_eq!(ran, (0, format!("{header}{blog}{shop}"), String::new()));
    let ran = run(&mut control(Path::new("/nowhere")), &["status", "shop", "-d", dir.path().to_str().unwrap()]);
    assert_eq!(ran, (0, format!("{header}{shop}"), String::new()));
}

#[test]
fn status_as_json_is_an_object_a_line() {
    let dir = directory();
    let _commands = ["shop", "blog"].map(|name| supervise(dir.path(), name, group(name, 3)));
    let (status, said, errors) = run(&mut control(dir.path()), &["status", "--json"]);
    assert_eq!(status, 0, "{errors}");
    let objects = said.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let names: Vec<String> = objects.map(|object| object["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["blog", "shop"]);
}

#[test]
fn a_refusal_is_status_1_with_the_message_of_the_supervisor() {
    let dir = directory();
    let refusal =
        r#"{"ok": false, "message": "nginx: [emerg] ModuleNotFoundError: No module named 'flask'\n\u001b[2J"}"#;
    let _commands =
        (supervise(dir.path(), "blog", refusal.to_owned()), supervise(dir.path(), "shop", group("shop", 0)));
    let (status, said, errors) = run(&mut control(dir.path()), &["reload", "blog", "shop"]);
    // The other group is reloaded.
    assert_eq!((status, said.as_str()), (1, "shop: done\n"));
    let expected = "ngx-wsgi-ctl: blog: nginx: [emerg] ModuleNotFoundError: No module named 'flask'\n\\u{1b}[2J\n";
    assert_eq!(errors, expected);
}

#[test]
fn wrong_arguments_are_status_2() {
    let dir = directory();
    for arguments in [&["reload"][..], &["restart", "blog"], &["stop", "../blog"], &[]] {
        let (status, said, errors) = run(&mut control(dir.path()), arguments);
        assert_eq!((status, said.as_str()), (2, ""), "{errors}");
        assert!(errors.contains("--help") || errors.contains("Usage:"), "{errors}");
    }
}

#[test]
fn without_group_or_supervisor_it_is_status_3_with_the_path() {
    let dir = directory();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (status, _, errors) = run(&mut control(dir.path()), &["status"]);
    assert!(status == 3 && errors.contains("no process group") && errors.contains(&path("")[..path("").len() - 1]));
    let _commands = supervise(dir.path(), "shop", group("shop", 0));
    let (status, _, errors) = run(&mut control(dir.path()), &["stop", "blog"]);
    let expected = format!(
        "ngx-wsgi-ctl: no process group \"blog\" (there are: shop): {} does not exist\n",
        path("blog/wsgi_control")
    );
    assert_eq!((status, errors), (3, expected));
    abandon(dir.path(), "blog");
    let (status, _, errors) = run(&mut control(dir.path()), &["stop", "blog"]);
    assert!(status == 3 && errors.contains(&format!("listens on {}", path("blog/wsgi_control"))), "{errors}");
    let (status, _, errors) = run(&mut control(&dir.path().join("nowhere")), &["status"]);
    assert!(status == 3 && errors.contains(&path("nowhere")), "{errors}");
    let _silent = supervise(dir.path(), "silent", String::new());
    let (status, _, errors) = run(&mut control(dir.path()), &["stop", "silent"]);
    assert!(status == 3 && errors.contains("ended before it replied"), "{errors}");
}

#[test]
fn a_supervisor_that_does_not_reply_in_time_is_status_3() {
    let dir = directory();
    fs::create_dir(dir.path().join("blog")).unwrap();
    let _silent = UnixListener::bind(dir.path().join("blog/wsgi_control")).unwrap();
    let (status, _, errors) = run(&mut control(dir.path()), &["reload", "blog", "--timeout", "1"]);
    assert!(status == 3 && errors.contains("within 1 s"), "{errors}");
}

#[test]
fn the_newest_socket_that_accepts_connections_is_used() {
    let dir = directory();
    let asked = |commands: &Receiver<String>| commands.try_recv().is_ok();
    let first = supervise(dir.path(), "blog", group("blog", 1));
    let second = supervise(&dir.path().join("1"), "blog", group("blog", 2));
    abandon(&dir.path().join("2"), "blog");
    // Sockets that are made at once may have the same time.
    let set_time = |socket: &str, seconds: u32| {
        let time = format!("@{}", 1_000_000_000 + seconds);
        assert!(Command::new("touch").args(["-d", &time]).arg(dir.path().join(socket)).status().unwrap().success());
    };
    set_time("blog/wsgi_control", 1);
    set_time("1/blog/wsgi_control", 2);
    set_time("2/blog/wsgi_control", 3);
    let (status, said, errors) = run(&mut control(dir.path()), &["status"]);
    assert_eq!((status, said.lines().count()), (0, 2), "{said}{errors}");
    assert!(asked(&second) && !asked(&first));
    // The first directory is used again once the first nginx has ended.
    fs::remove_dir_all(dir.path().join("blog")).unwrap();
    let third = supervise(dir.path(), "blog", group("blog", 3));
    set_time("blog/wsgi_control", 4);
    assert_eq!(run(&mut control(dir.path()), &["stop", "blog"]).0, 0);
    assert!(asked(&third) && !asked(&second));
}

#[test]
fn another_user_is_told_who_may_control_a_group() {
    if !is_root() {
        return;
    }
    let dir = directory();
    let _commands = ["blog", "shop"].map(|name| supervise(dir.path(), name, group(name, 0)));
    fs::set_permissions(dir.path().join("blog"), Permissions::from_mode(0o750)).unwrap();
    // The directory of the tests may be closed to other users.
    let program = dir.path().join("program");
    fs::copy(env!("CARGO_BIN_EXE_ngx-wsgi-ctl"), &program).unwrap();
    let nobody = || {
        let mut command = Command::new(&program);
        command.env_clear().env("NGX_WSGI_SOCKET_PATH", dir.path()).uid(65_534).gid(65_534);
        command
    };
    fs::set_permissions(dir.path().join("shop/wsgi_control"), Permissions::from_mode(0o666)).unwrap();
    let (status, _, errors) = run(&mut nobody(), &["stop", "blog"]);
    assert_eq!(status, 3);
    assert!(errors.contains("permission denied") && errors.contains("only root and the user"), "{errors}");
    // The own groups are shown, with a note about the others.
    let (status, said, errors) = run(&mut nobody(), &["status"]);
    assert_eq!((status, said.lines().count()), (0, 2), "{said}{errors}");
    assert!(errors.contains("permission denied") && errors.contains("blog"), "{errors}");
}
