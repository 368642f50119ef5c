//! `wsgi_check` for process groups: each configuration is tested by an nginx that runs as the user of the group.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::time::{Duration, Instant};

use nix::unistd::getpid;
use tempfile::TempDir;

use super::configuration;
use super::plan::ProcessPlan;
use super::planning;
use crate::conf::main::MainConf;
use crate::conf::process_group::ProcessGroup;
use crate::conf::settings::quoted;
use crate::nginx::cycle::NewCycle;
use crate::nginx::log::Level;
use crate::nginx::worker_process::set_process_title;
use crate::os::child::{ChildProcess, Event};
use crate::os::fork::exit;
use crate::os::spawn;
use crate::reload::check::{self, CheckFailed};

/// Exit code of a process that could not execute nginx (as of a shell).
const CANNOT_TEST: i32 = 127;

/// Time for the test of a configuration beside its imports, which have a limit of their own.
const TIME_FOR_NGINX: Duration = Duration::from_secs(10);

/// Tests the configuration of each process group that has a location, and logs those that are refused.
///
/// # Errors
/// If one is refused.
pub fn run(main: &MainConf, cycle: NewCycle) -> Result<(), CheckFailed> {
    if !check::is_useful(main, cycle) {
        return Ok(());
    }
    let used = main.process_groups().iter().filter(|group| !group.locations.is_empty());
    let mut result = Ok(());
    for group in used {
        match test(main, group, cycle) {
            Ok(Outcome::Accepted) => {}
            Ok(Outcome::Refused) => result = Err(CheckFailed),
            Ok(Outcome::Interrupted) => {
                cycle.log().write(Level::Notice, "wsgi_check aborted: nginx was told to exit");
                return Err(CheckFailed);
            }
            Err(problem) => {
                let message = format!("wsgi_process_group \"{}\" in {}: {problem}", group.name, group.source_location);
                cycle.log().write(Level::Emerg, &message);
                result = Err(CheckFailed);
            }
        }
    }
    result
}

enum Outcome {
    Accepted,
    /// The reasons have been logged.
    Refused,
    Interrupted,
}

/// Tests the configuration of one group.
///
/// # Errors
/// The reason, if nginx could not test it.
fn test(main: &MainConf, group: &ProcessGroup, cycle: NewCycle) -> Result<Outcome, String> {
    let cannot = |error: io::Error| format!("cannot test the configuration: {error}");
    let process = planning::process(group, cycle).map_err(cannot)?;
    let directory = directory(&process).map_err(cannot)?;
    let temporary = directory.path().join("tmp");
    let has_module = |name: &str| cycle.has_module(name);
    let front = planning::front(cycle, &process, &has_module).map_err(cannot)?;
    let text = configuration::text(main, group, &front, &temporary.join("socket"), &temporary);
    let pid = temporary.join("nginx.pid");
    let file = directory.path().join("nginx.conf");
    fs::write(&file, format!("pid {};\n{text}", quoted(&pid.to_string_lossy()))).map_err(cannot)?;

    let deadline = Instant::now() + main.check_timeout() + TIME_FOR_NGINX;
    let set_title = || set_process_title(c"wsgi check process");
    let (prefix, file) = (directory.path().as_os_str(), file.as_os_str());
    let arguments = ["-t", "-e", "stderr", "-p"].map(OsStr::new).into_iter().chain([prefix, OsStr::new("-c"), file]);
    let arguments: Vec<&OsStr> = arguments.collect();
    let parent = getpid();
    let (name, place) = (&group.name, &group.source_location);
    let mut child = ChildProcess::start(set_title, deadline, |_| {
        let output = io::stderr();
        // Returns only if nginx cannot be executed. The connection for reports is closed by then.
        let problem = spawn::exec(&process, &arguments, &[], output.as_fd(), &[], parent);
        eprintln!("nginx: [emerg] wsgi_process_group \"{name}\" in {place}: {problem}");
        // The descriptors of the parent's values are closed, or are those of other files: none of them may be dropped.
        exit(CANNOT_TEST);
    })
    .map_err(cannot)?;
    let (event, output) = child.next();
    if let Some(reason) = log_refusals(&output, cycle) {
        record_refusal(main, group, cycle, reason, &output);
        return Ok(Outcome::Refused);
    }
    match event {
        Event::Ended(how) if how == "with exit code 0" => Ok(Outcome::Accepted),
        Event::Ended(how) => Err(format!("the nginx that tested the configuration ended {how}")),
        Event::Reported(_) => Err("the configuration was not tested".to_owned()),
        Event::TimedOut => Err("the configuration was not tested within wsgi_check_timeout".to_owned()),
        Event::Interrupted => Ok(Outcome::Interrupted),
    }
}

/// Records the reason for a refused reload, which names the application first: `wsgi_pass "…" in …: …`.
fn record_refusal(main: &MainConf, group: &ProcessGroup, cycle: NewCycle, reason: &str, output: &str) {
    let applications = group.locations.iter().map(|location| location.application.specification.to_string());
    let place = |application: &String| reason.strip_prefix(&format!("wsgi_pass \"{application}\" in "));
    let found = applications.filter_map(|application| Some((place(&application)?.to_owned(), application))).next();
    let (error, application) = found.unwrap_or_else(|| (reason.to_owned(), group.name.clone()));
    let lines: Vec<&str> = output.lines().map(|line| split(line).1).collect();
    let error = format!("process group \"{}\", {error}", group.name);
    check::record_refusal(main, cycle, &application, &error, &lines.join("\n"));
}

/// Logs what the nginx of the group has logged. Returns the first reason to refuse the configuration that is among it.
fn log_refusals(output: &str, cycle: NewCycle) -> Option<&str> {
    let mut reason = None;
    for line in output.lines() {
        let (level, message) = split(line);
        // nginx's verdict on a file that exists for this test only.
        let verdict = message.strip_prefix("nginx: ").unwrap_or(message);
        if verdict.starts_with("configuration file ") || verdict.starts_with("the configuration file ") {
            continue;
        }
        if matches!(level, Level::Emerg) {
            reason = reason.or(Some(message));
        }
        cycle.log().write(level, message);
    }
    reason
}

/// Splits a line of nginx into level and message: `nginx: [emerg] …`, or `2026/01/02 03:04:05 [emerg] 12#12: …`. Other lines
/// are output of the application.
fn split(line: &str) -> (Level, &str) {
    let split = || {
        let (before, rest) = line.split_once('[')?;
        let (level, rest) = rest.split_once("] ")?;
        let level = Level::parse(level)?;
        if before == "nginx: " {
            return Some((level, rest));
        }
        let is_time = before.len() == 20 && before.starts_with(|first: char| first.is_ascii_digit());
        let (_, message) = rest.split_once(": ").filter(|_| is_time)?;
        Some((level, message))
    };
    split().unwrap_or((Level::Notice, line))
}

/// Makes a directory for a test, which the user of the group may read, with a directory `tmp` that it may write to. Root
/// writes nothing where the user could have put a symbolic link.
fn directory(process: &ProcessPlan) -> io::Result<TempDir> {
    let directory = tempfile::Builder::new().prefix("ngx-wsgi-check-").tempdir()?;
    let temporary = directory.path().join("tmp");
    fs::DirBuilder::new().mode(0o700).create(&temporary)?;
    if let Some(user) = &process.user {
        chown(&temporary, Some(user.uid), Some(user.gid))?;
        chown(directory.path(), None, Some(user.gid))?;
        fs::set_permissions(directory.path(), Permissions::from_mode(0o750))?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_nginx_have_a_level() {
        for (line, expected) in [
            ("nginx: [emerg] wsgi_pass \"a\": b", (Level::Emerg, "wsgi_pass \"a\": b")),
            ("2026/01/02 03:04:05 [warn] 12#34: a: b", (Level::Warn, "a: b")),
            ("[error] of the application: x", (Level::Notice, "[error] of the application: x")),
            ("nginx: [other] x", (Level::Notice, "nginx: [other] x")),
            ("", (Level::Notice, "")),
        ] {
            assert_eq!(split(line), expected);
        }
    }
}
