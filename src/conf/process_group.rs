//! `wsgi_process_group`: a group of processes of its own, with a user of its own, for applications with `process=NAME`.
//!
//! The directive expands to an `upstream` block, to which the locations of the group pass their requests.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use nix::unistd::{Group, User};

use super::environment_file;
use super::group_location::GroupLocation;
use super::interpreters;
use super::main::MainConf;
use super::settings::quoted;
use super::values::{MaxRequests, Processes, Threads};
use crate::nginx::conf::{Conf, parse_size, parse_time};
use crate::nginx::directive::Problem;
use crate::os::run_directory;
use crate::os::spawn::Identity;
use crate::os::system;
use crate::python::runtime::check_home;

/// Umask of a group without `umask=`.
const DEFAULT_UMASK: u32 = 0o022;

/// Connections to the processes of a group that a worker of the front keeps open while they are idle.
const KEEPALIVE: usize = 32;

/// Longest path of a Unix socket: the length of `sun_path` without its terminating null.
const MAX_SOCKET_PATH: usize = 107;

const ARGUMENTS: &str = "\"user\", \"group\", \"processes\", \"threads\", \"home\", \"path\", \"chdir\", \"umask\", \"env\", \
     \"env_file\", \"idle_timeout\", \"max_requests\", \"max_memory\", \"nofile\", \"memory_limit\", \"stop_timeout\" or \
     \"no_new_privs\"";

/// A process group. A value that is `None` is that of the front, or has the default of its directive.
#[derive(Clone, Debug, Default)]
pub struct ProcessGroup {
    pub name: String,
    /// `user=` and `group=`; `None` without `user=`: the user of the front's workers.
    pub user: Option<Identity>,
    /// `group=` without `user=`.
    pub group: Option<u32>,
    pub processes: Option<Processes>,
    pub threads: Option<Threads>,
    pub home: Option<PathBuf>,
    pub path: Vec<PathBuf>,
    pub chdir: Option<PathBuf>,
    umask: Option<u32>,
    /// `env=` and the variables of `env_file=`, of which `env=` wins.
    env: Vec<(String, String)>,
    env_file: Vec<(String, String)>,
    pub idle_timeout: Option<Duration>,
    pub max_requests: Option<MaxRequests>,
    pub max_memory: Option<u64>,
    pub nofile: Option<u64>,
    pub memory_limit: Option<u64>,
    pub stop_timeout: Option<Duration>,
    no_new_privs: Option<bool>,
    /// File and line of the directive.
    pub source_location: String,
    /// Locations with `process=NAME`.
    pub locations: Vec<GroupLocation>,
}

/// Defines a process group, and the upstream for its locations.
pub fn define(cf: &Conf, args: &[&str], main: &mut MainConf) -> Result<(), Problem> {
    let group = ProcessGroup::parse(cf, args)?;
    if let Some(first) = main.process_groups().iter().find(|known| known.name == group.name) {
        return Err(Problem::Message(format!(
            "duplicate process group \"{}\", the first is in {}",
            group.name, first.source_location
        )));
    }
    let directory = main.run_directory(cf)?;
    let socket = run_directory::socket(directory, &group.name);
    let length = socket.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        return Err(Problem::Message(format!(
            "path of the socket of process group \"{}\" has {length} bytes, {MAX_SOCKET_PATH} are possible: \"{}\"; set a \
             shorter \"wsgi_socket_path\" before",
            group.name,
            socket.display()
        )));
    }
    let upstream = format!(
        "upstream {} {{ server {} max_fails=0; keepalive {KEEPALIVE}; }}",
        upstream_name(&group.name),
        quoted(&format!("unix:{}", socket.display()))
    );
    cf.parse(&upstream).map_err(|()| Problem::Logged)?;
    main.settings.process_group.get_or_insert_default().push(group);
    Ok(())
}

/// Sets `wsgi_socket_path`.
pub fn socket_path(cf: &Conf, args: &[&str], main: &mut MainConf) -> Result<(), Problem> {
    if main.settings.socket_path.is_some() {
        return Err(Problem::Duplicate);
    }
    if let Some(first) = main.process_groups().first() {
        return Err(Problem::Message(format!(
            "\"wsgi_socket_path\" directive must stand before the first \"wsgi_process_group\", which is in {}",
            first.source_location
        )));
    }
    main.settings.socket_path = Some(cf.full_path(args[1]).ok_or(Problem::Logged)?);
    Ok(())
}

/// Returns the name of the upstream of a group.
pub fn upstream_name(group: &str) -> String {
    format!("wsgi.{group}")
}

impl ProcessGroup {
    fn parse(cf: &Conf, args: &[&str]) -> Result<Self, Problem> {
        let name = args[1];
        if !is_group_name(name) {
            return Err(Problem::invalid_value(
                args[0],
                name,
                "a name that begins with a letter and has letters, digits, \"_\" and \"-\"",
            ));
        }
        if run_directory::RESERVED_NAMES.contains(&name) {
            return Err(Problem::Message(format!("\"{name}\" cannot be the name of a process group")));
        }
        let mut group = Self { name: name.to_owned(), source_location: cf.source_location(), ..Self::default() };
        let (mut user, mut system_group) = (None, None);
        for argument in &args[2..] {
            let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
            let value = Value { cf, directive: args[0], key, value };
            match key {
                "user" => once(&mut user, &value, || value.user())?,
                "group" => once(&mut system_group, &value, || value.group())?,
                "processes" => once(&mut group.processes, &value, || value.processes())?,
                "threads" => once(&mut group.threads, &value, || value.threads())?,
                "home" => once(&mut group.home, &value, || value.checked_path(check_home))?,
                "path" => group.path.push(value.checked_path(is_directory)?),
                "chdir" => once(&mut group.chdir, &value, || value.checked_path(is_directory))?,
                "umask" => once(&mut group.umask, &value, || value.umask())?,
                "env" => group.env.push(value.variable()?),
                "env_file" => group.env_file.extend(environment_file::read(&value.path()?)?),
                "idle_timeout" => once(&mut group.idle_timeout, &value, || value.time())?,
                "max_requests" => once(&mut group.max_requests, &value, || {
                    Ok(MaxRequests { calls: value.number("a number")?, jitter: 0 })
                })?,
                "max_memory" => once(&mut group.max_memory, &value, || value.size())?,
                "nofile" => once(&mut group.nofile, &value, || value.number("a number above 0"))?,
                "memory_limit" => once(&mut group.memory_limit, &value, || value.size())?,
                "stop_timeout" => once(&mut group.stop_timeout, &value, || value.time())?,
                "no_new_privs" => once(&mut group.no_new_privs, &value, || value.flag())?,
                _ => {
                    return Err(Problem::Message(format!(
                        "invalid parameter \"{argument}\" in \"{}\" directive, it must be {ARGUMENTS} with \"=\" and a value",
                        args[0]
                    )));
                }
            }
        }
        group.set_identity(user, system_group);
        Ok(group)
    }

    fn set_identity(&mut self, user: Option<User>, group: Option<Group>) {
        let gid = group.map(|group| group.gid.as_raw());
        self.user = user.map(|user| Identity {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: gid.unwrap_or(user.gid.as_raw()),
        });
        self.group = gid;
    }

    /// Returns the umask of its processes.
    pub fn umask(&self) -> u32 {
        self.umask.unwrap_or(DEFAULT_UMASK)
    }

    /// Returns true unless its processes may get more privileges from the programs that they start.
    pub fn no_new_privs(&self) -> bool {
        self.no_new_privs.unwrap_or(true)
    }

    /// Returns the environment variables of its processes, each once.
    pub fn environment(&self) -> Vec<(String, String)> {
        environment_file::merged(&self.env_file, &self.env)
    }

    /// Checks the settings of the group's applications against each other, as those of the front.
    ///
    /// # Errors
    /// If they contradict each other; the message names file and line.
    pub fn validate(&self) -> Result<(), String> {
        interpreters::check(self.locations.iter().map(|location| &location.application))
    }
}

/// An argument `key=value`.
struct Value<'a> {
    cf: &'a Conf,
    directive: &'a str,
    key: &'a str,
    value: &'a str,
}

/// Stores the value of an argument that may stand once.
fn once<T>(slot: &mut Option<T>, value: &Value, parse: impl FnOnce() -> Result<T, Problem>) -> Result<(), Problem> {
    if slot.is_some() {
        return Err(Problem::Message(format!(
            "duplicate parameter \"{}\" in \"{}\" directive",
            value.key, value.directive
        )));
    }
    *slot = Some(parse()?);
    Ok(())
}

impl Value<'_> {
    fn invalid(&self, must_be: &str) -> Problem {
        Problem::Message(format!(
            "invalid value \"{}\" of \"{}\" in \"{}\" directive, it must be {must_be}",
            self.value, self.key, self.directive
        ))
    }

    /// Adds the name of the argument to a message.
    fn in_argument(&self, problem: impl std::fmt::Display) -> Problem {
        Problem::Message(format!("{problem} in \"{}\" of \"{}\" directive", self.key, self.directive))
    }

    fn require_root(&self) -> Result<(), Problem> {
        if system::is_root() {
            return Ok(());
        }
        Err(Problem::Message(format!(
            "\"{}={}\" in \"{}\" directive requires an nginx that is started by root: only root can change the user",
            self.key, self.value, self.directive
        )))
    }

    fn user(&self) -> Result<User, Problem> {
        self.require_root()?;
        let user = User::from_name(self.value).map_err(|error| self.in_argument(error))?;
        let user = user.ok_or_else(|| self.invalid("the name of a user of this system"))?;
        if user.uid.is_root() {
            return Err(self.invalid("another user than root"));
        }
        Ok(user)
    }

    fn group(&self) -> Result<Group, Problem> {
        self.require_root()?;
        let group = Group::from_name(self.value).map_err(|error| self.in_argument(error))?;
        group.ok_or_else(|| self.invalid("the name of a group of users of this system"))
    }

    fn processes(&self) -> Result<Processes, Problem> {
        let error = || self.invalid("a number from 1 to 256, or two such numbers as in \"2:8\", the smaller first");
        let (min, max) = self.value.split_once(':').unwrap_or((self.value, self.value));
        let (min, max) = (digits(min).ok_or_else(error)?, digits(max).ok_or_else(error)?);
        if min < 1 || max < min || max > Processes::MAX { Err(error()) } else { Ok(Processes { min, max }) }
    }

    fn threads(&self) -> Result<Threads, Problem> {
        Threads::parse(self.value).ok_or_else(|| self.invalid(&Threads::must_be()))
    }

    fn path(&self) -> Result<PathBuf, Problem> {
        if self.value.is_empty() {
            return Err(self.invalid("a path"));
        }
        self.cf.full_path(self.value).ok_or(Problem::Logged)
    }

    fn checked_path(&self, check: impl FnOnce(&Path) -> Result<(), String>) -> Result<PathBuf, Problem> {
        let path = self.path()?;
        check(&path).map_err(|problem| self.in_argument(problem))?;
        Ok(path)
    }

    fn umask(&self) -> Result<u32, Problem> {
        let is_octal = !self.value.is_empty() && self.value.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        let mask = is_octal.then(|| u32::from_str_radix(self.value, 8).ok()).flatten();
        mask.filter(|mask| *mask <= 0o777).ok_or_else(|| self.invalid("an octal number such as \"022\""))
    }

    fn variable(&self) -> Result<(String, String), Problem> {
        let variable = self.value.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) = variable.ok_or_else(|| {
            Problem::Message(format!(
                "invalid value of \"env\" in \"{}\" directive, it must be NAME=value",
                self.directive
            ))
        })?;
        Ok((name.to_owned(), value.to_owned()))
    }

    fn time(&self) -> Result<Duration, Problem> {
        let time = parse_time(self.value).filter(|time| *time > 0).map(Duration::from_millis);
        time.ok_or_else(|| self.invalid("a time above 0 such as \"10s\""))
    }

    fn size(&self) -> Result<u64, Problem> {
        parse_size(self.value).filter(|size| *size > 0).ok_or_else(|| self.invalid("a size such as \"512m\""))
    }

    fn number(&self, must_be: &str) -> Result<u64, Problem> {
        digits(self.value).filter(|number| *number > 0).ok_or_else(|| self.invalid(must_be))
    }

    fn flag(&self) -> Result<bool, Problem> {
        match self.value {
            "on" => Ok(true),
            "off" => Ok(false),
            _ => Err(self.invalid("\"on\" or \"off\"")),
        }
    }
}

fn digits<T: FromStr>(text: &str) -> Option<T> {
    // Rust's parser accepts `+1`.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn is_group_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.chars().all(|character| character.is_ascii_alphanumeric() || "_-".contains(character))
}

fn is_directory(path: &Path) -> Result<(), String> {
    if path.is_dir() { Ok(()) } else { Err(format!("\"{}\" is not a directory", path.display())) }
}
