//! The files of packaging/systemd/: systemd accepts them, the commands of the unit work, and the pages show them.

use crate::harness::{Page, Project, in_repository, wait_for};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const DROP_IN: &str = "packaging/systemd/nginx.service.d/wsgi.conf";
const UNIT: &str = "packaging/systemd/ngx-wsgi@.service";
const NGINX_UNIT: &str = "/lib/systemd/system/nginx.service";

fn read(path: &str) -> String {
    fs::read_to_string(in_repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs `systemd-analyze verify` on a unit; returns its complaints. `None`, with a message, where there is no systemd.
fn complaints(unit: &Path) -> Option<String> {
    let Ok(output) = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(unit).output() else {
        eprintln!("skipped: systemd-analyze is not installed (package systemd)");
        return None;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() || !said.is_empty(), "{}", output.status);
    Some(said)
}

/// A directory with the unit of the machine's nginx, and a drop-in of this text.
fn with_drop_in(text: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::copy(NGINX_UNIT, directory.path().join("nginx.service")).unwrap();
    fs::create_dir(directory.path().join("nginx.service.d")).unwrap();
    fs::write(directory.path().join("nginx.service.d/wsgi.conf"), text).unwrap();
    directory
}

#[test]
fn systemd_accepts_the_drop_in_for_nginx() {
    if !Path::new(NGINX_UNIT).exists() {
        eprintln!("skipped: this machine has no {NGINX_UNIT}");
        return;
    }
    let text = read(DROP_IN);
    let check = |text: &str| complaints(&with_drop_in(text).path().join("nginx.service"));
    let Some(said) = check(&text) else { return };
    assert_eq!(said, "");
    let said = check(&text.replace("TimeoutStopSec=40", "TimeoutStopSec=soon")).unwrap();
    assert!(said.contains("soon"), "the drop-in is not read: {said:?}");
}

#[test]
fn systemd_accepts_the_unit_of_the_runner() {
    let directory = tempfile::tempdir().unwrap();
    // The program is in the virtual environment of a site.
    let program = directory.path().join("ngx-wsgi");
    symlink("/bin/true", &program).unwrap();
    let check = |text: &str| {
        let unit = directory.path().join("ngx-wsgi@.service");
        fs::write(&unit, text.replace("/srv/%i/venv/bin/ngx-wsgi", program.to_str().unwrap())).unwrap();
        complaints(&unit)
    };
    let text = read(UNIT);
    let Some(said) = check(&text) else { return };
    assert_eq!(said, "");
    let said = check(&text.replace("KillSignal=SIGQUIT", "KillSignal=SIGQUITE")).unwrap();
    assert!(said.contains("SIGQUITE"), "{said:?}");
}

/// Returns the arguments of the program of a line of the unit.
fn arguments(key: &str) -> String {
    let text = read(UNIT);
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).expect(key);
    line.strip_prefix("/srv/%i/venv/bin/ngx-wsgi ").expect(line).to_owned()
}

#[test]
fn the_commands_of_the_unit_start_reload_and_stop_a_server() {
    let application = "def application(environ, start_response):
    start_response('200 OK', [])
    return [b'NUMBER']
";
    let project = Project::new();
    project.write("mysite/__init__.py", "");
    project.write("mysite/wsgi.py", &application.replace("NUMBER", "1"));
    let text = read(UNIT);
    let example = text.lines().find_map(|line| line.strip_prefix("#   ARGUMENTS=")).expect("an example");
    assert_eq!(arguments("ExecStart"), "$ARGUMENTS");
    let start = example.replace("127.0.0.1:8000", &project.address());
    let server = project.runner(&start.split_whitespace().collect::<Vec<_>>()).start();
    assert_eq!(server.get("/").expect(200).text(), "1");
    // A worker that has not loaded the application yet would load the next version.
    let loaded = || server.said().matches("application \"mysite.wsgi\" loaded").count();
    wait_for("the import in both workers", || (loaded() == 2).then_some(()));

    let line = arguments("ExecReload").replace("$MAINPID", &server.process().0.to_string());
    let reload = || project.runner(&line.split_whitespace().collect::<Vec<_>>()).run();
    project.write("mysite/wsgi.py", "raise ValueError('not this')\n");
    let ended = reload();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("ValueError: not this"), "{ended:?}");
    assert_eq!(server.get("/").expect(200).text(), "1");
    project.write("mysite/wsgi.py", &application.replace("NUMBER", "2"));
    let ended = reload();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(server.get("/").expect(200).text(), "2");
    // By QUIT, and with status 0.
    assert!(text.contains("\nKillSignal=SIGQUIT\n"));
    server.quit();
}

#[test]
fn the_page_shows_the_drop_in() {
    let blocks = Page::read("docs/deploying.md").blocks();
    let text = read(DROP_IN);
    let (_, service) = text.split_once("\n\n").unwrap();
    assert!(blocks.iter().any(|block| block.language == "ini" && block.text == service), "{DROP_IN} has changed");
}
