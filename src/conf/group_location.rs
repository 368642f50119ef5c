//! Locations whose applications run in a process group: their numbers, and their text in the configuration of an instance.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::interpreters::RegisteredApplication;
use super::location::LocationConf;
use super::log::{ApplicationLog, OF_GROUP};
use super::settings::quoted;
use super::values::{Pass, Threads};
use crate::app::source_files::Patterns;
use crate::app::specification::{Callable, Target};

/// Headers that nginx's proxy module evaluates, so only the front may pass or hide them.
const ACCEL: &str = "X-Accel-";

/// Directives that the front evaluates or applies, and those that are written in another form.
const NOT_AS_WRITTEN: [&str; 12] = [
    "wsgi_pass",
    "wsgi_script_name",
    "wsgi_var",
    "wsgi_pass_authorization",
    "wsgi_intercept_errors",
    "wsgi_temp_path",
    "wsgi_env",
    "wsgi_threads",
    "wsgi_env_file",
    "wsgi_reload_watch",
    "wsgi_status",
    "wsgi_log",
];

/// A location whose application runs in a process group.
#[derive(Clone, Debug)]
pub struct GroupLocation {
    /// Number of the location, 16 hexadecimal digits. The same for each reading of a configuration.
    pub id: String,
    /// The `location` block for the configuration of an instance.
    pub text: String,
    pub application: RegisteredApplication,
}

/// A log that the supervisor writes for a process group, whose user need not have the right to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupLog {
    /// The same for each reading of a configuration: workers of the configuration before a reload use it as well.
    pub number: u32,
    /// Absolute path; empty for standard error.
    pub path: PathBuf,
}

impl GroupLog {
    /// Returns the log of a location; `None` if the location has none, or the group can write it.
    pub fn of(log: &ApplicationLog) -> Option<Self> {
        let path = log.target.path()?;
        let hash = hash([path].into_iter());
        let number = (hash >> 32) as u32 ^ hash as u32;
        Some(Self { number, path: PathBuf::from(OsStr::from_bytes(path)) })
    }

    pub fn is_standard_error(&self) -> bool {
        self.path.as_os_str().is_empty()
    }
}

/// Returns a number for a text: the hash FNV-1a, which stays the same in each version of the module.
fn hash<'a>(parts: impl Iterator<Item = &'a [u8]>) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.flat_map(|part| part.iter().chain([&0])) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

/// Returns the number of a location of a server: the `ordinal`-th of its `kind` and `name`. Settings of the location have no
/// part in it: workers that still have the configuration before a reload use the same number.
pub fn id(server_names: &[&[u8]], kind: &str, name: &[u8], ordinal: usize) -> String {
    let (kind, ordinal) = (kind.as_bytes(), ordinal.to_string());
    let parts = server_names.iter().copied().chain([b"\n", kind, name, ordinal.as_bytes()]);
    format!("{:016x}", hash(parts))
}

/// Returns the directives of a location for the configuration of an instance, without the block around them.
/// `server_tokens` is that of the front: the header `Server` and the error pages come from the instance.
pub fn directives(conf: &LocationConf, pass: &Pass, threads: Threads, server_tokens: &str) -> String {
    let mut text = String::new();
    let mut line = |name: &str, args: &[String]| {
        let args: String = args.iter().flat_map(|arg| [" ".to_owned(), quoted(arg)]).collect();
        // Writing to memory does not fail.
        let _ = writeln!(text, "            {name}{args};");
    };
    line("wsgi_pass", &[target(pass), format!("source={}", pass.source_location)]);
    for (name, args) in conf.settings.lines.iter() {
        let is_header = matches!(name, "wsgi_hide_header" | "wsgi_pass_header");
        let is_accel =
            args.iter().any(|arg| arg.get(..ACCEL.len()).is_some_and(|name| name.eq_ignore_ascii_case(ACCEL)));
        if !(NOT_AS_WRITTEN.contains(&name) || is_header && is_accel) {
            line(name, args);
        }
    }
    line("server_tokens", &[server_tokens.to_owned()]);
    line("wsgi_threads", &[threads.to_string()]);
    if let Some(Some(log)) = conf.log() {
        let argument = match GroupLog::of(log) {
            Some(GroupLog { number, .. }) => format!("{OF_GROUP}{number}"),
            None => log.argument.clone(),
        };
        line("wsgi_log", &[argument, log.form.name().to_owned()]);
    }
    for (name, value) in conf.environment() {
        line("wsgi_env", &[name, value]);
    }
    if let Some(Patterns { modules, globs, .. }) = conf.reload_watch() {
        let mut args = globs.clone();
        args.extend(modules.then(|| "modules".to_owned()));
        line("wsgi_reload_watch", &args);
    }
    text
}

/// Returns the first argument of `wsgi_pass`, with an absolute path.
fn target(pass: &Pass) -> String {
    let Callable { name, is_factory } = &pass.callable;
    let call = if *is_factory { "()" } else { "" };
    match &pass.target {
        Target::Script(path) => format!("{}:{name}{call}", path.display()),
        Target::Module(module) => format!("{module}:{name}{call}"),
    }
}

/// Returns a `location` block for the configuration of an instance.
pub fn block(id: &str, directives: &str) -> String {
    format!("        location @{id} {{\n{directives}        }}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_that_of_server_kind_name_and_ordinal() {
        let numbers = [
            id(&[b"a", b"b"], "prefix", b"/", 0),
            id(&[b"a", b"b"], "prefix", b"/", 1),
            id(&[b"a", b"b"], "exact", b"/", 0),
            id(&[b"a"], "prefix", b"/", 0),
            id(&[b"ab"], "prefix", b"/", 0),
            id(&[b"a", b"b"], "prefix", b"/x", 0),
        ];
        for (index, number) in numbers.iter().enumerate() {
            assert!(number.len() == 16 && number.bytes().all(|byte| byte.is_ascii_hexdigit()), "{number}");
            assert!(!numbers[..index].contains(number));
        }
        // A change would make workers of the configuration before a reload fail.
        assert_eq!(id(&[b"example.com"], "prefix", b"/", 0), "721e638894626053");
    }
}
