//! `ngx-wsgi-ctl`: shows, reloads, stops and starts the process groups of a running nginx.
//!
//! Each group has a control socket, `DIR/GROUP/wsgi_control`, of the supervisor. A client sends one line, the command, and
//! gets one JSON object. DIR is the directory of `wsgi_socket_path`. A second nginx that uses the same directory at the same
//! time, as during a binary upgrade, has its groups in a directory below it, `DIR/N`.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

use clap::{Parser, Subcommand};
use serde_json::{Value, json};

/// Name of the control socket in the directory of a group.
const SOCKET: &str = "wsgi_control";

/// Names that no group has: nginx's own files.
const RESERVED: [&str; 2] = ["sockets", "lock"];

/// Directory of `wsgi_socket_path` without that directive.
const DEFAULT_DIRECTORY: &str = concat!(env!("WSGI_NGINX_PREFIX"), "/wsgi_run");

/// Bytes of a reply at most: the output of a failed import can be long.
const MAX_REPLY: u64 = 16 * 1024 * 1024;

/// Shows and controls the process groups of nginx (wsgi_process_group).
///
/// Only root and the user of a group may do this.
///
/// Exit status: 0 if all succeeded, 1 if the supervisor refused, 2 for wrong arguments, 3 if there is no such group or
/// nothing responds.
#[derive(Debug, Parser)]
#[command(name = "ngx-wsgi-ctl", version, verbatim_doc_comment)]
struct Arguments {
    /// Directory of wsgi_socket_path
    #[arg(short, long, value_name = "DIR", global = true, env = "NGX_WSGI_SOCKET_PATH", default_value = DEFAULT_DIRECTORY)]
    directory: PathBuf,
    /// Seconds to wait for the reply about a group
    #[arg(short, long, value_name = "SECONDS", global = true, default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows groups, all without a name
    Status {
        /// Print a JSON object for each group, one a line
        #[arg(long)]
        json: bool,
        #[arg(value_name = "GROUP", value_parser = group_name)]
        groups: Vec<String>,
    },
    /// Loads the code of a group again, if it can be imported
    Reload {
        #[arg(value_name = "GROUP", required = true, value_parser = group_name)]
        groups: Vec<String>,
    },
    /// Stops the processes of a group
    Stop {
        #[arg(value_name = "GROUP", required = true, value_parser = group_name)]
        groups: Vec<String>,
    },
    /// Starts the processes of a group that was stopped
    Start {
        #[arg(value_name = "GROUP", required = true, value_parser = group_name)]
        groups: Vec<String>,
    },
}

/// A reason not to have done what was asked.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// The supervisor has refused.
    Refused(String),
    /// The socket belongs to others.
    Forbidden(String),
    /// There is no such group, or no supervisor.
    Absent(String),
}

impl Failure {
    fn status(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Forbidden(_) | Self::Absent(_) => 3,
        }
    }

    fn message(&self) -> &str {
        let (Self::Refused(message) | Self::Forbidden(message) | Self::Absent(message)) = self;
        message
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let control = Control { directory: arguments.directory, timeout: Duration::from_secs(arguments.timeout) };
    let status = match arguments.command {
        Command::Status { json, groups } => control.status(&groups, json),
        Command::Reload { groups } => control.all("reload", &groups),
        Command::Stop { groups } => control.all("stop", &groups),
        Command::Start { groups } => control.all("start", &groups),
    };
    ExitCode::from(status)
}

/// Prints to standard output. A reader that has left, such as `head`, is no error.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Prints a failure, and returns its exit status.
fn complain(failure: &Failure) -> u8 {
    let _ = writeln!(io::stderr(), "ngx-wsgi-ctl: {}", failure.message());
    failure.status()
}

/// The control sockets below a directory.
struct Control {
    directory: PathBuf,
    timeout: Duration,
}

impl Control {
    /// Sends a command to groups, one after another. Returns the exit status.
    fn all(&self, command: &str, groups: &[String]) -> u8 {
        let statuses = groups.iter().map(|group| match self.ask(group, command) {
            Ok(reply) => {
                let message = printable(reply["message"].as_str().filter(|text| !text.is_empty()).unwrap_or("ok"));
                print(&format!("{group}: {message}\n"));
                0
            }
            Err(failure) => complain(&failure),
        });
        statuses.max().unwrap_or_default()
    }

    /// Prints the state of groups, of all if none is named. Returns the exit status.
    fn status(&self, groups: &[String], json: bool) -> u8 {
        let (mut shown, mut failures) = (Vec::new(), Vec::new());
        let names = match groups {
            [] => self.groups(),
            names => Ok(names.to_vec()),
        };
        match names {
            Ok(names) => {
                for name in names {
                    match self.ask(&name, "status") {
                        Ok(mut reply) => shown.push(reply["group"].take()),
                        // Remains of an nginx that was killed, or a group that ends right now.
                        Err(Failure::Absent(_)) if groups.is_empty() => {}
                        Err(failure) => failures.push(failure),
                    }
                }
            }
            Err(failure) => failures.push(failure),
        }
        if json {
            print(&shown.iter().map(|group| format!("{group}\n")).collect::<String>());
        } else if !shown.is_empty() {
            print(&table(&shown));
        }
        if groups.is_empty() && shown.is_empty() && failures.is_empty() {
            failures.push(self.empty());
        }
        let statuses = failures.iter().map(|failure| {
            let status = complain(failure);
            // A user sees the own groups.
            let is_usual = groups.is_empty() && !shown.is_empty() && matches!(failure, Failure::Forbidden(_));
            if is_usual { 0 } else { status }
        });
        statuses.max().unwrap_or_default()
    }

    /// Returns the directory itself, and those of further nginx instances below it.
    fn slots(&self) -> io::Result<Vec<PathBuf>> {
        let below = entries(&self.directory)?.into_iter().filter(|name| is_slot(name));
        Ok([self.directory.clone()].into_iter().chain(below.map(|name| self.directory.join(name))).collect())
    }

    /// Returns the names of all groups.
    fn groups(&self) -> Result<Vec<String>, Failure> {
        let slots = self.slots().map_err(|error| self.unreadable(&error))?;
        let names =
            slots.iter().flat_map(|slot| entries(slot).unwrap_or_default().into_iter().map(move |name| (slot, name)));
        // Whether there is a socket in a directory of another user is not visible.
        let groups = names.filter(|(slot, name)| {
            let is_there = slot.join(name).join(SOCKET).try_exists();
            let may_be = is_there.unwrap_or_else(|error| error.kind() == io::ErrorKind::PermissionDenied);
            group_name(name).is_ok() && !RESERVED.contains(&name.as_str()) && may_be
        });
        let mut groups: Vec<String> = groups.map(|(_, name)| name).collect();
        groups.sort_unstable();
        groups.dedup();
        Ok(groups)
    }

    /// Sends a command to the newest socket of a group that accepts connections, and returns the reply.
    fn ask(&self, group: &str, command: &str) -> Result<Value, Failure> {
        let slots = self.slots().map_err(|error| self.unreadable(&error))?;
        let mut sockets: Vec<PathBuf> = slots.iter().map(|slot| slot.join(group).join(SOCKET)).collect();
        sockets.sort_by_key(|socket| std::cmp::Reverse(made(socket)));
        // A socket that is not there says less than one that refuses.
        let mut failure = None;
        for socket in &sockets {
            match exchange(socket, command, self.timeout) {
                Ok(reply) => return understood(group, &reply),
                Err(error) => {
                    let goes_on = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
                    let failed = self.failed(group, socket, &error);
                    if !goes_on {
                        return Err(failed);
                    }
                    if failure.is_none() || error.kind() != io::ErrorKind::NotFound {
                        failure = Some(failed);
                    }
                }
            }
        }
        Err(failure.unwrap_or_else(|| self.unreadable(&io::ErrorKind::NotFound.into())))
    }

    fn empty(&self) -> Failure {
        Failure::Absent(format!(
            "no process group of a running nginx in {} (the directory of wsgi_socket_path; -d DIR names another)",
            self.directory.display()
        ))
    }

    fn unreadable(&self, error: &io::Error) -> Failure {
        // nginx removes the directory when it ends.
        if error.kind() == io::ErrorKind::NotFound {
            return self.empty();
        }
        Failure::Absent(format!(
            "cannot read {} (the directory of wsgi_socket_path; -d DIR names another): {error}",
            self.directory.display()
        ))
    }

    fn failed(&self, group: &str, socket: &Path, error: &io::Error) -> Failure {
        let path = socket.display();
        match error.kind() {
            io::ErrorKind::NotFound => {
                let known = self.groups().unwrap_or_default().join(", ");
                let known = if known.is_empty() { "there is none".to_owned() } else { format!("there are: {known}") };
                Failure::Absent(format!("no process group \"{group}\" ({known}): {path} does not exist"))
            }
            io::ErrorKind::PermissionDenied => Failure::Forbidden(format!(
                "permission denied for {path}: only root and the user of process group \"{group}\" may control it"
            )),
            io::ErrorKind::ConnectionRefused => {
                Failure::Absent(format!("no supervisor listens on {path}: nginx does not run, or was killed"))
            }
            io::ErrorKind::TimedOut => Failure::Absent(format!(
                "no reply from {path} within {} s; the command may still be carried out",
                self.timeout.as_secs()
            )),
            _ => Failure::Absent(format!("no reply from {path}: {error}")),
        }
    }
}

/// Returns whether a directory belongs to a further nginx.
fn is_slot(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns the names in a directory that are UTF-8.
fn entries(directory: &Path) -> io::Result<Vec<String>> {
    Ok(std::fs::read_dir(directory)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// Returns the time at which a socket was made, by which the newest is known.
fn made(socket: &Path) -> SystemTime {
    socket.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Checks an argument before it becomes a part of a path.
fn group_name(name: &str) -> Result<String, String> {
    let is_valid = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|character| character.is_ascii_alphanumeric() || "_-".contains(character));
    if is_valid {
        Ok(name.to_owned())
    } else {
        Err("the name of a group begins with a letter and has letters, digits, _ and -".to_owned())
    }
}

/// Sends a command, and returns all that comes until the connection is closed.
fn exchange(socket: &Path, command: &str, timeout: Duration) -> io::Result<String> {
    let (sender, receiver) = mpsc::channel();
    let (socket, line) = (socket.to_owned(), format!("{command}\n"));
    // On a thread: the standard library has no connect with a timeout, and one on the read applies to each read alone.
    thread::spawn(move || {
        let exchanged = UnixStream::connect(socket).and_then(|mut stream| {
            stream.write_all(line.as_bytes())?;
            let mut reply = String::new();
            stream.take(MAX_REPLY).read_to_string(&mut reply)?;
            Ok(reply)
        });
        let _ = sender.send(exchanged);
    });
    receiver.recv_timeout(timeout).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Returns the reply of the supervisor if it has done what it was asked for.
fn understood(group: &str, reply: &str) -> Result<Value, Failure> {
    let value: Value = match serde_json::from_str(reply) {
        Ok(value @ Value::Object(_)) => value,
        _ if reply.is_empty() => {
            return Err(Failure::Absent(format!("{group}: the supervisor ended before it replied")));
        }
        _ => return Err(Failure::Absent(format!("{group}: the reply of the supervisor is no JSON object"))),
    };
    if value["ok"] == json!(true) {
        return Ok(value);
    }
    let message = value["message"].as_str().unwrap_or("refused without a reason");
    Err(Failure::Refused(format!("{group}: {}", printable(message))))
}

/// Escapes what could control the terminal: the text may be the output of an application.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.trim_end().chars() {
        if character.is_control() && character != '\n' && character != '\t' {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

/// Columns of the table, and whether they have numbers, which are aligned at their ends.
const COLUMNS: [(&str, bool); 9] = [
    ("NAME", false),
    ("STATE", false),
    ("USER", false),
    ("PROCESSES", true),
    ("BUSY", true),
    ("WAITING", true),
    ("REQUESTS", true),
    ("RESTARTS", true),
    ("UPTIME", true),
];

/// Lays groups out in aligned columns.
fn table(groups: &[Value]) -> String {
    let mut rows = vec![COLUMNS.map(|(name, _)| name.to_owned())];
    rows.extend(groups.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for ((cell, (_, is_number)), width) in row.iter().zip(COLUMNS).zip(widths) {
            let gap = if line.is_empty() { "" } else { "  " };
            // Writing to a String cannot fail.
            let _ = if is_number { write!(line, "{gap}{cell:>width$}") } else { write!(line, "{gap}{cell:<width$}") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(group: &Value) -> [String; COLUMNS.len()] {
    let text = |name: &str| group[name].as_str().map_or_else(|| "-".to_owned(), printable);
    let number = |name: &str| group[name].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
    let masters = group["processes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let workers: usize = masters.iter().map(|master| master["workers"].as_array().map_or(0, Vec::len)).sum();
    let uptime = masters
        .iter()
        .filter_map(|master| master["uptime"].as_f64())
        .fold(None, |longest: Option<f64>, uptime| Some(longest.map_or(uptime, |longest| longest.max(uptime))));
    [
        text("name"),
        text("state"),
        text("user"),
        workers.to_string(),
        number("busy"),
        number("waiting"),
        number("requests"),
        number("restarts"),
        uptime.map_or_else(|| "-".to_owned(), |seconds| duration(seconds as u64)),
    ]
}

/// Writes a duration with its two largest units.
fn duration(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match seconds {
        DAY.. => format!("{}d {}h", seconds / DAY, seconds % DAY / HOUR),
        HOUR.. => format!("{}h {}m", seconds / HOUR, seconds % HOUR / MINUTE),
        MINUTE.. => format!("{}m {}s", seconds / MINUTE, seconds % MINUTE),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(arguments: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(["ngx-wsgi-ctl"].into_iter().chain(arguments.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_stand_before_or_after_the_command() {
        for line in ["-d /run/wsgi --timeout 5 reload blog shop", "reload blog -d /run/wsgi shop -t 5"] {
            let arguments = parse(line).unwrap();
            assert_eq!((arguments.directory, arguments.timeout), (PathBuf::from("/run/wsgi"), 5));
            assert!(matches!(arguments.command, Command::Reload { groups } if groups == ["blog", "shop"]));
        }
        assert!(
            matches!(parse("status").unwrap().command, Command::Status { json: false, groups } if groups.is_empty())
        );
        assert!(matches!(parse("status --json blog").unwrap().command, Command::Status { json: true, .. }));
    }

    #[test]
    fn commands_that_change_something_need_a_group_and_no_path() {
        for line in ["", "reload", "stop", "start", "kill blog", "stop ../blog", "stop 1", "status -", "-t 0 status"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn only_numbers_are_directories_of_further_instances() {
        assert!(is_slot("1") && is_slot("12"));
        assert!(!is_slot("") && !is_slot("blog") && !is_slot("1a") && !is_slot("-1"));
    }

    #[test]
    fn replies_are_taken_if_they_are_ok() {
        let reply = understood("blog", r#"{"ok": true, "message": "", "group": {"name": "blog"}}"#).unwrap();
        assert_eq!(reply["group"]["name"], "blog");
        let refused = |text: &str| Failure::Refused(text.to_owned());
        assert_eq!(understood("blog", r#"{"ok": false, "message": "no\n"}"#), Err(refused("blog: no")));
        assert_eq!(understood("blog", "{}"), Err(refused("blog: refused without a reason")));
        for reply in ["", "ok", "[]", "{\"ok\": tr"] {
            assert_eq!(understood("blog", reply).unwrap_err().status(), 3, "{reply}");
        }
    }

    #[test]
    fn text_of_an_application_cannot_control_the_terminal() {
        assert_eq!(printable("a\tb\n  c\u{1b}[2J\r\u{9b}ä\n\n"), "a\tb\n  c\\u{1b}[2J\\r\\u{9b}ä");
    }

    #[test]
    fn columns_are_aligned() {
        let groups = [
            json!({
                "name": "blog", "state": "running", "user": "blog", "busy": 3, "waiting": 0, "requests": 120_000,
                "restarts": 0, "processes": [
                    {"master": 10, "workers": [11, 12], "uptime": 90_061},
                    {"master": 20, "workers": [21], "uptime": 5},
                ],
            }),
            json!({
                "name": "a-shop", "state": "waiting to restart", "user": null, "busy": 0, "waiting": 12, "requests": 7,
                "restarts": 4, "processes": [],
            }),
        ];
        assert_eq!(
            table(&groups),
            "NAME    STATE               USER  PROCESSES  BUSY  WAITING  REQUESTS  RESTARTS  UPTIME\n\
             blog    running             blog          3     3        0    120000         0   1d 1h\n\
             a-shop  waiting to restart  -             0     0       12         7         4       -\n"
        );
    }

    #[test]
    fn durations_have_two_units() {
        let written = [0, 59, 60, 3_599, 3_600, 86_399, 86_400].map(duration);
        assert_eq!(written, ["0s", "59s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 0h"]);
    }
}
