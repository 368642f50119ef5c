//! Setters of the directives: each checks the arguments of a directive and stores its value.
//!
//! `args` is nginx's `cf->args`: the name of the directive and its arguments, as many as the directive table allows.

use std::ffi::CStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::main::MainConf;
use super::values::{EnvironVariable, Located, MaxRequests, Pass, Status, StatusKind, Threads};
use super::{content_handler, environment_file};
use crate::app::source_files::{Mechanism, Patterns};
use crate::app::specification::{Callable, Target, is_dotted_name};
use crate::nginx::conf::{ComplexValue, Conf, parse_size, parse_time};
use crate::nginx::directive::Problem;
use crate::python::runtime::{BUILD_VERSION, check_home};
use crate::python::threads::Gil;
use crate::wsgi::headers::is_header_name;

/// Callable of `wsgi_pass` that does not name one.
pub const DEFAULT_CALLABLE: &str = "application";
/// Callable of `wsgi_middleware` that does not name one.
pub const DEFAULT_MIDDLEWARE: &str = "middleware";

/// Upper limits of values; larger ones are taken for mistakes.
const MAX_BUFFER_SIZE: u64 = 1 << 30;
const MAX_INTERPRETERS: usize = 256;

const ONE_ENVIRONMENT: &str = "set it once, to an environment with the packages of all applications";

pub(super) type SetResult = Result<(), Problem>;

/// Stores the value of a directive that may stand once at a level.
pub(super) fn once_with<T>(slot: &mut Option<T>, parse: impl FnOnce() -> Result<T, Problem>) -> SetResult {
    if slot.is_some() {
        return Err(Problem::Duplicate);
    }
    *slot = Some(parse()?);
    Ok(())
}

/// Stores the value of a directive that may stand once in the whole configuration. The message for a duplicate, which
/// often stands in the file of another site, names the first one and ends with `remedy`.
fn once_for_all<T>(
    cf: &Conf,
    args: &[&str],
    slot: &mut Option<Located<T>>,
    remedy: &str,
    parse: impl FnOnce() -> Result<T, Problem>,
) -> SetResult {
    if let Some(first) = slot {
        return Err(Problem::Message(format!(
            "\"{}\" directive is duplicate, the first is in {}: all applications of an nginx share one Python; {remedy}",
            args[0], first.source_location
        )));
    }
    *slot = Some(Located { value: parse()?, source_location: cf.source_location() });
    Ok(())
}

pub(super) fn invalid_value(args: &[&str], value: &str, must_be: &str) -> Problem {
    Problem::invalid_value(args[0], value, must_be)
}

/// Completes a message with the name of the directive.
fn in_directive(args: &[&str]) -> impl Fn(String) -> String {
    move |problem| format!("{problem} in \"{}\" directive", args[0])
}

/// Sets `on` or `off`, as ngx_conf_set_flag_slot does.
pub fn flag(_: &Conf, args: &[&str], slot: &mut Option<bool>) -> SetResult {
    once_with(slot, || match args[1] {
        value if value.eq_ignore_ascii_case("on") => Ok(true),
        value if value.eq_ignore_ascii_case("off") => Ok(false),
        value => Err(invalid_value(args, value, "\"on\" or \"off\"")),
    })
}

/// Sets a number that is not negative.
pub fn number<T: FromStr>(_: &Conf, args: &[&str], slot: &mut Option<T>) -> SetResult {
    once_with(slot, || parse_number(args, args[1]))
}

fn parse_number<T: FromStr>(args: &[&str], value: &str) -> Result<T, Problem> {
    // Rust's parser accepts `+1`, nginx does not.
    let digits = value.bytes().all(|byte| byte.is_ascii_digit()).then_some(value);
    let number = digits.and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| invalid_value(args, value, "a number"))
}

/// Sets a number of bytes, as ngx_conf_set_off_slot does.
pub fn size(_: &Conf, args: &[&str], slot: &mut Option<u64>) -> SetResult {
    once_with(slot, || parse_size_argument(args))
}

/// Sets the size of a buffer in memory.
pub fn buffer_size(_: &Conf, args: &[&str], slot: &mut Option<usize>) -> SetResult {
    once_with(slot, || match parse_size_argument(args)? {
        size @ 1..=MAX_BUFFER_SIZE => Ok(size as usize),
        _ => Err(invalid_value(args, args[1], "a size from 1 to 1g")),
    })
}

fn parse_size_argument(args: &[&str]) -> Result<u64, Problem> {
    parse_size(args[1]).ok_or_else(|| invalid_value(args, args[1], "a size such as \"64k\""))
}

/// Sets a time, as ngx_conf_set_msec_slot does.
pub fn time(_: &Conf, args: &[&str], slot: &mut Option<Duration>) -> SetResult {
    once_with(slot, || parse_time_argument(args))
}

/// Sets a time that is not 0.
pub fn positive_time(_: &Conf, args: &[&str], slot: &mut Option<Duration>) -> SetResult {
    once_with(slot, || match parse_time_argument(args)? {
        Duration::ZERO => Err(invalid_value(args, args[1], "a time above 0 such as \"30s\"")),
        time => Ok(time),
    })
}

fn parse_time_argument(args: &[&str]) -> Result<Duration, Problem> {
    let time = parse_time(args[1]).map(Duration::from_millis);
    time.ok_or_else(|| invalid_value(args, args[1], "a time such as \"10s\""))
}

/// Adds the name of a header.
pub fn header_name(_: &Conf, args: &[&str], names: &mut Option<Vec<String>>) -> SetResult {
    let name = args[1];
    if !is_header_name(name.as_bytes()) {
        return Err(invalid_value(args, name, "the name of a header"));
    }
    names.get_or_insert_default().push(name.to_owned());
    Ok(())
}

/// Parameters of `wsgi_pass` after the target.
#[derive(Default)]
struct PassParameters<'a> {
    callable: Option<&'a str>,
    process: Option<&'a str>,
    source: Option<&'a str>,
}

impl<'a> PassParameters<'a> {
    fn parse(args: &[&'a str]) -> Result<Self, Problem> {
        let mut parameters = Self::default();
        for arg in &args[2..] {
            let (slot, value) = match arg.split_once('=') {
                Some(("process", value)) => (&mut parameters.process, value),
                Some(("source", value)) => (&mut parameters.source, value),
                _ => (&mut parameters.callable, *arg),
            };
            if slot.replace(value).is_some() {
                return Err(Problem::Message(format!("invalid parameter \"{arg}\" in \"wsgi_pass\" directive")));
            }
        }
        Ok(parameters)
    }
}

/// Sets `wsgi_pass`, and the content handler of the location.
pub fn pass(cf: &Conf, args: &[&str], slot: &mut Option<Pass>) -> SetResult {
    once_with(slot, || {
        let parameters = PassParameters::parse(args)?;
        if let Some(source) = parameters.source
            && !cf.with_main_conf(MainConf::is_instance)
        {
            let arg = format!("source={source}");
            return Err(Problem::Message(format!("invalid parameter \"{arg}\" in \"wsgi_pass\" directive")));
        }
        let (target, after_colon) = Target::parse(args[1], |path| cf.full_path(path)).map_err(in_directive(args))?;
        let callable = match (after_colon, parameters.callable) {
            (Some(_), Some(other)) => {
                return Err(Problem::Message(format!(
                    "\"wsgi_pass\" directive names a callable twice, in \"{}\" and \"{other}\"",
                    args[1]
                )));
            }
            (Some(callable), None) => callable,
            (None, Some(callable)) => callable,
            (None, None) => DEFAULT_CALLABLE,
        };
        let callable = Callable::parse(callable).map_err(in_directive(args))?;
        // In an instance the import says what is wrong with it, and the other applications of the group run.
        if let Some(script) = target.script()
            && parameters.source.is_none()
        {
            check_script(script, parameters.process.is_some())?;
        }
        match parameters.process {
            Some(process) => pass_to_group(cf, process)?,
            None => {
                if let Some(handler) = content_handler::get() {
                    cf.core_location().set_handler(handler);
                }
            }
        }
        let source_location = parameters.source.map_or_else(|| cf.source_location(), str::to_owned);
        Ok(Pass { target, callable, process: parameters.process.map(str::to_owned), source_location })
    })
}

fn check_script(script: &Path, is_of_group: bool) -> SetResult {
    let metadata = match std::fs::metadata(script) {
        Ok(metadata) => metadata,
        // The user of a group may be the only one who can see its script.
        Err(error) if is_of_group && error.kind() == ErrorKind::PermissionDenied => return Ok(()),
        Err(error) => {
            return Err(Problem::Message(format!(
                "cannot use \"{}\" in \"wsgi_pass\" directive: {error}",
                script.display()
            )));
        }
    };
    if !metadata.is_file() {
        return Err(Problem::Message(format!("\"{}\" is not a file in \"wsgi_pass\" directive", script.display())));
    }
    Ok(())
}

/// Passes the requests of the location to a process group, with directives of nginx's proxy module.
fn pass_to_group(cf: &Conf, group: &str) -> SetResult {
    const MODULES: [(&CStr, &str); 2] =
        [(c"ngx_http_proxy_module", "proxy"), (c"ngx_http_upstream_keepalive_module", "upstream_keepalive")];
    if !cf.with_main_conf(|main: &MainConf| main.has_process_group(group)) {
        return Err(Problem::Message(format!(
            "unknown process group \"{group}\" in \"wsgi_pass\" directive, define it with \"wsgi_process_group\" before"
        )));
    }
    if let Some((_, name)) = MODULES.iter().find(|(module, _)| !cf.has_module(module)) {
        return Err(Problem::Message(format!(
            "\"process\" in \"wsgi_pass\" directive requires an nginx with the {name} module"
        )));
    }
    let text = format!(
        "proxy_pass http://wsgi.{group}; proxy_http_version 1.1; proxy_redirect off; proxy_pass_request_headers off; \
         proxy_set_header Connection \"\"; proxy_set_header Host {group}; proxy_set_header Content-Length $wsgi_content_length; \
         proxy_set_header Wsgi-Environ $wsgi_environ;"
    );
    cf.parse(&text).map_err(|()| Problem::Logged)?;
    cf.wrap_proxy_handler();
    cf.core_location().disable_slash_redirect();
    Ok(())
}

/// Sets `wsgi_script_name`.
pub fn script_name(cf: &Conf, args: &[&str], slot: &mut Option<ComplexValue>) -> SetResult {
    once_with(slot, || {
        let value = args[1];
        if !(value.is_empty() || value.starts_with(['/', '$'])) {
            return Err(invalid_value(args, value, "empty or begin with \"/\""));
        }
        cf.complex_value(value).map_err(|()| Problem::Logged)
    })
}

/// Adds a `wsgi_var`.
pub fn var(cf: &Conf, args: &[&str], variables: &mut Option<Vec<EnvironVariable>>) -> SetResult {
    let name = args[1];
    if name.is_empty() || (name.starts_with("wsgi.") && name != "wsgi.url_scheme") {
        return Err(Problem::Message(format!("\"{name}\" cannot be set by the \"wsgi_var\" directive")));
    }
    let if_not_empty = match args.get(3) {
        None => false,
        Some(&"if_not_empty") => true,
        Some(other) => return Err(Problem::Message(format!("invalid parameter \"{other}\""))),
    };
    let value = cf.complex_value(args[2]).map_err(|()| Problem::Logged)?;
    variables.get_or_insert_default().push(EnvironVariable { name: name.to_owned(), value, if_not_empty });
    Ok(())
}

/// Adds a `wsgi_middleware`: module and callable.
pub fn middleware(_: &Conf, args: &[&str], middleware: &mut Option<Vec<(String, Callable)>>) -> SetResult {
    let (module, callable) = (args[1], args.get(2).copied().unwrap_or(DEFAULT_MIDDLEWARE));
    if !is_dotted_name(module) {
        return Err(invalid_value(args, module, "the name of a Python module"));
    }
    let callable = Callable::parse(callable).map_err(in_directive(args))?;
    middleware.get_or_insert_default().push((module.to_owned(), callable));
    Ok(())
}

/// Adds a `wsgi_env`: name and value.
pub fn env(_: &Conf, args: &[&str], variables: &mut Option<Vec<(String, String)>>) -> SetResult {
    let (name, value) = (args[1], args[2]);
    if name.is_empty() || name.contains('=') || args[1..].iter().any(|arg| arg.contains('\0')) {
        return Err(invalid_value(args, name, "the name of an environment variable"));
    }
    let variables = variables.get_or_insert_default();
    if variables.iter().any(|(known, _)| known == name) {
        return Err(Problem::Message(format!("duplicate \"{name}\" in \"wsgi_env\" directive")));
    }
    variables.push((name.to_owned(), value.to_owned()));
    Ok(())
}

/// Reads a `wsgi_env_file`.
pub fn env_file(cf: &Conf, args: &[&str], variables: &mut Option<Vec<(String, String)>>) -> SetResult {
    let path = cf.full_path(args[1]).ok_or(Problem::Logged)?;
    let read = environment_file::read(&path).map_err(in_directive(args))?;
    variables.get_or_insert_default().extend(read);
    Ok(())
}

/// Sets `wsgi_python_home`.
pub fn python_home(cf: &Conf, args: &[&str], slot: &mut Option<Located<PathBuf>>) -> SetResult {
    once_for_all(cf, args, slot, ONE_ENVIRONMENT, || checked_path(cf, args, args[1], check_home))
}

/// Sets `wsgi_python_executable`.
pub fn python_executable(cf: &Conf, args: &[&str], slot: &mut Option<Located<PathBuf>>) -> SetResult {
    let is_file =
        |path: &Path| if path.is_file() { Ok(()) } else { Err(format!("\"{}\" is not a file", path.display())) };
    once_for_all(cf, args, slot, ONE_ENVIRONMENT, || checked_path(cf, args, args[1], is_file))
}

/// Sets `wsgi_python_path`.
pub fn python_path(cf: &Conf, args: &[&str], slot: &mut Option<Located<Vec<PathBuf>>>) -> SetResult {
    let is_directory =
        |path: &Path| if path.is_dir() { Ok(()) } else { Err(format!("\"{}\" is not a directory", path.display())) };
    once_for_all(cf, args, slot, "list the directories of all applications in one directive", || {
        args[1..].iter().map(|path| checked_path(cf, args, path, is_directory)).collect()
    })
}

/// Returns the absolute path, if `check` accepts it.
fn checked_path(
    cf: &Conf,
    args: &[&str],
    path: &str,
    check: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, Problem> {
    let path = cf.full_path(path).ok_or(Problem::Logged)?;
    check(&path).map_err(in_directive(args))?;
    Ok(path)
}

/// Sets `wsgi_python_optimize`.
pub fn python_optimize(cf: &Conf, args: &[&str], slot: &mut Option<Located<u8>>) -> SetResult {
    once_for_all(cf, args, slot, "set it once", || match args[1] {
        "0" => Ok(0),
        "1" => Ok(1),
        "2" => Ok(2),
        value => Err(invalid_value(args, value, "0, 1 or 2")),
    })
}

/// Sets `wsgi_interpreter`.
pub fn interpreter(_: &Conf, args: &[&str], slot: &mut Option<String>) -> SetResult {
    once_with(slot, || {
        let name = args[1];
        let is_allowed = |character: char| character.is_ascii_alphanumeric() || "_.-".contains(character);
        if name.is_empty() || !name.chars().all(is_allowed) {
            return Err(invalid_value(args, name, "a name of letters, digits, \"_\", \".\" and \"-\""));
        }
        if name == "main" {
            return Err(Problem::Message(
                "\"main\" in \"wsgi_interpreter\" directive is the name of the main interpreter, use \
                 \"wsgi_use_main_interpreter on\""
                    .to_owned(),
            ));
        }
        Ok(name.to_owned())
    })
}

/// Sets `wsgi_interpreter_gil`.
pub fn interpreter_gil(_: &Conf, args: &[&str], slot: &mut Option<Gil>) -> SetResult {
    once_with(slot, || match args[1] {
        "shared" => Ok(Gil::Shared),
        "own" if Gil::CAN_BE_OWN => Ok(Gil::Own),
        "own" => Err(Problem::Message(format!(
            "\"own\" in \"wsgi_interpreter_gil\" directive requires Python 3.12 or later, but this module is built for Python \
             {BUILD_VERSION}"
        ))),
        value => Err(invalid_value(args, value, "\"shared\" or \"own\"")),
    })
}

/// Sets `wsgi_interpreters`.
pub fn interpreters(_: &Conf, args: &[&str], slot: &mut Option<usize>) -> SetResult {
    once_with(slot, || match args[1].parse() {
        Ok(count) if (1..=MAX_INTERPRETERS).contains(&count) => Ok(count),
        _ => Err(invalid_value(args, args[1], &format!("a number from 1 to {MAX_INTERPRETERS}"))),
    })
}

/// Sets `wsgi_threads`.
pub fn threads(_: &Conf, args: &[&str], slot: &mut Option<Threads>) -> SetResult {
    once_with(slot, || Threads::parse(args[1]).ok_or_else(|| invalid_value(args, args[1], &Threads::must_be())))
}

/// Sets `wsgi_reload_mechanism`.
pub fn reload_mechanism(_: &Conf, args: &[&str], slot: &mut Option<Mechanism>) -> SetResult {
    once_with(slot, || match args[1] {
        "module" => Ok(Mechanism::Module),
        "interpreter" => Ok(Mechanism::Interpreter),
        "process" => Ok(Mechanism::Process),
        value => Err(invalid_value(args, value, "\"module\", \"interpreter\" or \"process\"")),
    })
}

/// Sets `wsgi_reload_watch`.
pub fn reload_watch(cf: &Conf, args: &[&str], slot: &mut Option<Patterns>) -> SetResult {
    once_with(slot, || {
        let mut patterns = Patterns::default();
        for arg in &args[1..] {
            if *arg == "modules" {
                patterns.modules = true;
                continue;
            }
            let path = cf.full_path(arg).and_then(|path| path.into_os_string().into_string().ok());
            match path.filter(|path| glob::Pattern::new(path).is_ok()) {
                Some(pattern) => patterns.globs.push(pattern),
                None => return Err(invalid_value(args, arg, "a file pattern or \"modules\"")),
            }
        }
        Ok(patterns)
    })
}

/// Sets `wsgi_status`, and the content handler of the location.
pub fn status(cf: &Conf, args: &[&str], slot: &mut Option<Status>) -> SetResult {
    once_with(slot, || {
        let kind = match args.get(1) {
            None => StatusKind::Report,
            Some(&"ready") => StatusKind::Ready,
            Some(other) => return Err(Problem::Message(format!("invalid parameter \"{other}\""))),
        };
        if let Some(handler) = content_handler::status() {
            cf.core_location().set_handler(handler);
        }
        Ok(Status { kind, source_location: cf.source_location() })
    })
}

/// Sets `wsgi_temp_path`, as ngx_conf_set_path_slot does.
pub fn temp_path(cf: &Conf, args: &[&str], slot: &mut Option<PathBuf>) -> SetResult {
    once_with(slot, || {
        let mut levels = [0; 3];
        for (level, arg) in levels.iter_mut().zip(&args[2..]) {
            let number = arg.parse().ok().filter(|level| (1..=3).contains(level));
            *level = number.ok_or_else(|| invalid_value(args, arg, "a level from 1 to 3"))?;
        }
        cf.add_path(args[1], levels).map_err(|()| Problem::Logged)
    })
}

/// Sets `wsgi_max_requests`.
pub fn max_requests(_: &Conf, args: &[&str], slot: &mut Option<MaxRequests>) -> SetResult {
    once_with(slot, || {
        let calls = parse_number(args, args[1])?;
        let jitter = args.get(2).map_or(Ok(0), |jitter| parse_number(args, jitter))?;
        Ok(MaxRequests { calls, jitter })
    })
}
