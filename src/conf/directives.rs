//! Every directive of the module: its name, where it may stand, what it does with its arguments.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ngx::ngx_string;

use super::location::{EnvironVariable, LocationConf, Pass, Threads};
use super::main::{MainConf, MaxRequests, content_handler};
use crate::app::source_files::{Mechanism, Patterns};
use crate::app::specification::{Callable, Target, is_dotted_name};
use crate::nginx::conf::{Conf, parse_size, parse_time};
use crate::nginx::directive::{HTTP_SERVER_LOCATION, LOCATION_IF_LIMIT, Problem, location, main};
use crate::nginx::sys::{
    NGX_CONF_1MORE, NGX_CONF_FLAG, NGX_CONF_TAKE1, NGX_CONF_TAKE2, NGX_CONF_TAKE12, NGX_CONF_TAKE23, NGX_CONF_TAKE1234,
    ngx_command_t,
};
use crate::python::runtime::{BUILD_VERSION, check_home};
use crate::python::threads::Gil;
use crate::wsgi::headers::is_header_name;

type Applied = Result<(), Problem>;

const FLAG: u32 = HTTP_SERVER_LOCATION | NGX_CONF_FLAG;
const SIZE: u32 = HTTP_SERVER_LOCATION | NGX_CONF_TAKE1;

/// The table, in the order of the README.
pub const DIRECTIVES: [ngx_command_t; 43] = [
    location(ngx_string!("wsgi_pass"), LOCATION_IF_LIMIT | NGX_CONF_TAKE12, wsgi_pass),
    location(ngx_string!("wsgi_script_name"), HTTP_SERVER_LOCATION | NGX_CONF_TAKE1, wsgi_script_name),
    location(ngx_string!("wsgi_var"), HTTP_SERVER_LOCATION | NGX_CONF_TAKE23, wsgi_var),
    location(ngx_string!("wsgi_middleware"), HTTP_SERVER_LOCATION | NGX_CONF_TAKE12, wsgi_middleware),
    location::<LocationConf>(ngx_string!("wsgi_pass_authorization"), FLAG, |_, words, conf| {
        flag(words, &mut conf.pass_authorization)
    }),
    location::<LocationConf>(ngx_string!("wsgi_preload"), FLAG, |_, words, conf| flag(words, &mut conf.preload)),
    main::<MainConf>(ngx_string!("wsgi_check"), NGX_CONF_FLAG, |_, words, conf| flag(words, &mut conf.check)),
    main(ngx_string!("wsgi_check_timeout"), NGX_CONF_TAKE1, wsgi_check_timeout),
    main(ngx_string!("wsgi_python_home"), NGX_CONF_TAKE1, wsgi_python_home),
    main(ngx_string!("wsgi_python_executable"), NGX_CONF_TAKE1, wsgi_python_executable),
    main(ngx_string!("wsgi_python_path"), NGX_CONF_1MORE, wsgi_python_path),
    main(ngx_string!("wsgi_python_optimize"), NGX_CONF_TAKE1, wsgi_python_optimize),
    location(ngx_string!("wsgi_env"), HTTP_SERVER_LOCATION | NGX_CONF_TAKE2, wsgi_env),
    location::<LocationConf>(ngx_string!("wsgi_enable_subinterpreters"), FLAG, |_, words, conf| {
        flag(words, &mut conf.enable_subinterpreters)
    }),
    location::<LocationConf>(ngx_string!("wsgi_use_main_interpreter"), FLAG, |_, words, conf| {
        flag(words, &mut conf.use_main_interpreter)
    }),
    location(ngx_string!("wsgi_interpreter"), HTTP_SERVER_LOCATION | NGX_CONF_TAKE1, wsgi_interpreter),
    location(ngx_string!("wsgi_interpreter_gil"), HTTP_SERVER_LOCATION | NGX_CONF_TAKE1, wsgi_interpreter_gil),
    location(ngx_string!("wsgi_interpreters"), HTTP_SERVER_LOCATION | NGX_CONF_TAKE1, wsgi_interpreters),
    location(ngx_string!("wsgi_threads"), HTTP_SERVER_LOCATION | NGX_CONF_TAKE1, wsgi_threads),
    location(ngx_string!("wsgi_queue"), HTTP_SERVER_LOCATION | NGX_CONF_TAKE1, wsgi_queue),
    location::<LocationConf>(
        ngx_string!("wsgi_queue_timeout"),
        HTTP_SERVER_LOCATION | NGX_CONF_TAKE1,
        |_, words, conf| time(words, &mut conf.queue_timeout),
    ),
    location::<LocationConf>(
        ngx_string!("wsgi_request_timeout"),
        HTTP_SERVER_LOCATION | NGX_CONF_TAKE1,
        |_, words, conf| time(words, &mut conf.request_timeout),
    ),
    location::<LocationConf>(
        ngx_string!("wsgi_slow_request"),
        HTTP_SERVER_LOCATION | NGX_CONF_TAKE1,
        |_, words, conf| time(words, &mut conf.slow_request),
    ),
    main(ngx_string!("wsgi_max_requests"), NGX_CONF_TAKE12, wsgi_max_requests),
    main(ngx_string!("wsgi_max_memory"), NGX_CONF_TAKE1, wsgi_max_memory),
    main(ngx_string!("wsgi_shutdown_timeout"), NGX_CONF_TAKE1, wsgi_shutdown_timeout),
    location::<LocationConf>(ngx_string!("wsgi_request_buffering"), FLAG, |_, words, conf| {
        flag(words, &mut conf.request_buffering)
    }),
    location::<LocationConf>(ngx_string!("wsgi_output_buffering"), FLAG, |_, words, conf| {
        flag(words, &mut conf.output_buffering)
    }),
    location::<LocationConf>(ngx_string!("wsgi_output_buffer_size"), SIZE, |_, words, conf| {
        buffer_size(words, &mut conf.output_buffer_size)
    }),
    location(ngx_string!("wsgi_max_temp_file_size"), SIZE, wsgi_max_temp_file_size),
    location(ngx_string!("wsgi_temp_path"), HTTP_SERVER_LOCATION | NGX_CONF_TAKE1234, wsgi_temp_path),
    location::<LocationConf>(ngx_string!("wsgi_write_buffering"), FLAG, |_, words, conf| {
        flag(words, &mut conf.write_buffering)
    }),
    location::<LocationConf>(ngx_string!("wsgi_write_buffer_size"), SIZE, |_, words, conf| {
        buffer_size(words, &mut conf.write_buffer_size)
    }),
    location::<LocationConf>(ngx_string!("wsgi_allow_ranges"), FLAG, |_, words, conf| {
        flag(words, &mut conf.allow_ranges)
    }),
    location::<LocationConf>(ngx_string!("wsgi_optimize_send_headers"), FLAG, |_, words, conf| {
        flag(words, &mut conf.optimize_send_headers)
    }),
    location::<LocationConf>(ngx_string!("wsgi_intercept_errors"), FLAG, |_, words, conf| {
        flag(words, &mut conf.intercept_errors)
    }),
    location::<LocationConf>(
        ngx_string!("wsgi_hide_header"),
        HTTP_SERVER_LOCATION | NGX_CONF_TAKE1,
        |_, words, conf| header_name(words, &mut conf.hide_headers),
    ),
    location::<LocationConf>(
        ngx_string!("wsgi_pass_header"),
        HTTP_SERVER_LOCATION | NGX_CONF_TAKE1,
        |_, words, conf| header_name(words, &mut conf.pass_headers),
    ),
    location::<LocationConf>(ngx_string!("wsgi_debug"), FLAG, |_, words, conf| flag(words, &mut conf.debug)),
    location::<LocationConf>(ngx_string!("wsgi_script_reloading"), FLAG, |_, words, conf| {
        flag(words, &mut conf.script_reloading)
    }),
    location(ngx_string!("wsgi_reload_mechanism"), HTTP_SERVER_LOCATION | NGX_CONF_TAKE1, wsgi_reload_mechanism),
    location(ngx_string!("wsgi_reload_watch"), HTTP_SERVER_LOCATION | NGX_CONF_1MORE, wsgi_reload_watch),
    ngx_command_t::empty(),
];

/// Sets a value that may stand once at a level.
fn once<T>(slot: &mut Option<T>, value: T) -> Applied {
    if slot.is_some() {
        return Err(Problem::Duplicate);
    }
    *slot = Some(value);
    Ok(())
}

/// `on` or `off`, as ngx_conf_set_flag_slot reads it.
fn flag(words: &[&str], slot: &mut Option<bool>) -> Applied {
    if slot.is_some() {
        return Err(Problem::Duplicate);
    }
    let value = match words[1] {
        value if value.eq_ignore_ascii_case("on") => true,
        value if value.eq_ignore_ascii_case("off") => false,
        value => return Err(Problem::invalid_value(words[0], value, "\"on\" or \"off\"")),
    };
    once(slot, value)
}

fn size(words: &[&str]) -> Result<u64, Problem> {
    parse_size(words[1]).ok_or_else(|| Problem::invalid_value(words[0], words[1], "a size, as \"64k\""))
}

/// More than this in memory for one answer is taken for a mistake.
const LARGEST_BUFFER: u64 = 1 << 30;

/// The size of a buffer in memory.
fn buffer_size(words: &[&str], slot: &mut Option<usize>) -> Applied {
    if slot.is_some() {
        return Err(Problem::Duplicate);
    }
    match size(words)? {
        size @ 1..=LARGEST_BUFFER => once(slot, size as usize),
        _ => Err(Problem::invalid_value(words[0], words[1], "a size from 1 to 1g")),
    }
}

fn wsgi_max_temp_file_size(_: &Conf, words: &[&str], conf: &mut LocationConf) -> Applied {
    if conf.max_temp_file_size.is_some() {
        return Err(Problem::Duplicate);
    }
    once(&mut conf.max_temp_file_size, size(words)?)
}

/// As ngx_conf_set_path_slot reads it.
fn wsgi_temp_path(cf: &Conf, words: &[&str], conf: &mut LocationConf) -> Applied {
    if conf.temp_path.is_some() {
        return Err(Problem::Duplicate);
    }
    let mut levels = [0; 3];
    for (level, word) in levels.iter_mut().zip(&words[2..]) {
        *level = word
            .parse()
            .ok()
            .filter(|level| (1..=3).contains(level))
            .ok_or_else(|| Problem::invalid_value(words[0], word, "a level from 1 to 3"))?;
    }
    let path = cf.add_path(words[1], levels).map_err(|()| Problem::Logged)?;
    once(&mut conf.temp_path, path)
}

/// Adds the name of a header to those of this level.
fn header_name(words: &[&str], names: &mut Option<Vec<String>>) -> Applied {
    let name = words[1];
    if !is_header_name(name.as_bytes()) {
        return Err(Problem::invalid_value(words[0], name, "the name of a header"));
    }
    names.get_or_insert_default().push(name.to_owned());
    Ok(())
}

/// A time as nginx's directives take it.
fn time(words: &[&str], slot: &mut Option<Duration>) -> Applied {
    if slot.is_some() {
        return Err(Problem::Duplicate);
    }
    let milliseconds =
        parse_time(words[1]).ok_or_else(|| Problem::invalid_value(words[0], words[1], "a time, as \"10s\""))?;
    once(slot, Duration::from_millis(milliseconds))
}

/// A number that is not negative.
fn number<T: FromStr>(words: &[&str], value: &str) -> Result<T, Problem> {
    // `+1` is a number for Rust and none for nginx.
    let digits = value.bytes().all(|byte| byte.is_ascii_digit()).then_some(value);
    let number = digits.and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| Problem::invalid_value(words[0], value, "a number"))
}

fn wsgi_pass(cf: &Conf, words: &[&str], conf: &mut LocationConf) -> Applied {
    if conf.pass.is_some() {
        return Err(Problem::Duplicate);
    }
    let (target, after_colon) = Target::parse(words[1], |path| cf.full_path(path))
        .map_err(|problem| Problem::Message(format!("{problem} in \"wsgi_pass\" directive")))?;
    let callable = match (after_colon, words.get(2)) {
        (Some(_), Some(_)) => {
            return Err(Problem::Message(format!(
                "\"wsgi_pass\" directive names a callable twice, in \"{}\" and \"{}\"",
                words[1], words[2]
            )));
        }
        (Some(callable), None) => callable,
        (None, Some(callable)) => callable,
        (None, None) => "application",
    };
    let callable = Callable::parse(callable)
        .map_err(|problem| Problem::Message(format!("{problem} in \"wsgi_pass\" directive")))?;
    if let Some(script) = target.script() {
        let metadata = std::fs::metadata(script)
            .map_err(|error| Problem::Message(format!("wsgi_pass \"{}\" cannot be used: {error}", script.display())))?;
        if !metadata.is_file() {
            return Err(Problem::Message(format!("wsgi_pass \"{}\" is not a file", script.display())));
        }
    }
    if let Some(handler) = content_handler() {
        cf.core_location().set_handler(handler);
    }
    once(&mut conf.pass, Pass { target, callable, place: cf.place() })
}

fn wsgi_script_name(cf: &Conf, words: &[&str], conf: &mut LocationConf) -> Applied {
    if conf.script_name.is_some() {
        return Err(Problem::Duplicate);
    }
    let value = words[1];
    if !(value.is_empty() || value.starts_with(['/', '$'])) {
        return Err(Problem::invalid_value(words[0], value, "empty or begin with \"/\""));
    }
    let value = cf.complex_value(value).map_err(|()| Problem::Logged)?;
    once(&mut conf.script_name, value)
}

fn wsgi_var(cf: &Conf, words: &[&str], conf: &mut LocationConf) -> Applied {
    let name = words[1];
    if name.is_empty() || (name.starts_with("wsgi.") && name != "wsgi.url_scheme") {
        return Err(Problem::Message(format!("\"{name}\" cannot be set by the \"wsgi_var\" directive")));
    }
    let if_not_empty = match words.get(3) {
        None => false,
        Some(&"if_not_empty") => true,
        Some(other) => return Err(Problem::Message(format!("invalid parameter \"{other}\""))),
    };
    let value = cf.complex_value(words[2]).map_err(|()| Problem::Logged)?;
    let variable = EnvironVariable { name: name.to_owned(), value, if_not_empty };
    conf.variables.get_or_insert_default().push(variable);
    Ok(())
}

fn wsgi_middleware(_: &Conf, words: &[&str], conf: &mut LocationConf) -> Applied {
    let (module, callable) = (words[1], words.get(2).copied().unwrap_or("middleware"));
    if !is_dotted_name(module) {
        return Err(Problem::invalid_value(words[0], module, "the name of a Python module"));
    }
    let callable = Callable::parse(callable)
        .map_err(|problem| Problem::Message(format!("{problem} in \"wsgi_middleware\" directive")))?;
    conf.middleware.get_or_insert_default().push((module.to_owned(), callable));
    Ok(())
}

/// An absolute path that `check` finds right.
fn checked_path(
    cf: &Conf,
    words: &[&str],
    path: &str,
    check: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, Problem> {
    let path = cf.full_path(path).ok_or(Problem::Logged)?;
    check(&path).map_err(|problem| Problem::Message(format!("{problem} in \"{}\" directive", words[0])))?;
    Ok(path)
}

/// Notes where a setting of Python stands; a second one, often in the file of another site, is told where the first is and
/// what to do instead.
fn once_for_all(cf: &Conf, words: &[&str], conf: &mut MainConf, remedy: &str) -> Applied {
    let name = words[0];
    if let Some(first) = conf.python_places.get(name) {
        return Err(Problem::Message(format!(
            "\"{name}\" directive is duplicate, the first is in {first}: all applications of an nginx share one Python; \
             {remedy}"
        )));
    }
    conf.python_places.insert(name.to_owned(), cf.place());
    Ok(())
}

const ONE_ENVIRONMENT: &str = "set it once, to an environment that has the packages of all";

fn wsgi_python_home(cf: &Conf, words: &[&str], conf: &mut MainConf) -> Applied {
    once_for_all(cf, words, conf, ONE_ENVIRONMENT)?;
    once(&mut conf.home, checked_path(cf, words, words[1], check_home)?)
}

fn wsgi_python_executable(cf: &Conf, words: &[&str], conf: &mut MainConf) -> Applied {
    once_for_all(cf, words, conf, ONE_ENVIRONMENT)?;
    let is_file =
        |path: &Path| if path.is_file() { Ok(()) } else { Err(format!("\"{}\" is not a file", path.display())) };
    once(&mut conf.executable, checked_path(cf, words, words[1], is_file)?)
}

fn wsgi_python_path(cf: &Conf, words: &[&str], conf: &mut MainConf) -> Applied {
    once_for_all(cf, words, conf, "name the directories of all in one directive")?;
    let is_directory =
        |path: &Path| if path.is_dir() { Ok(()) } else { Err(format!("\"{}\" is not a directory", path.display())) };
    let paths: Result<Vec<_>, _> = words[1..].iter().map(|path| checked_path(cf, words, path, is_directory)).collect();
    once(&mut conf.path, paths?)
}

fn wsgi_python_optimize(cf: &Conf, words: &[&str], conf: &mut MainConf) -> Applied {
    once_for_all(cf, words, conf, "set it once, for all")?;
    let level = match words[1] {
        "0" => 0,
        "1" => 1,
        "2" => 2,
        value => return Err(Problem::invalid_value(words[0], value, "0, 1 or 2")),
    };
    once(&mut conf.optimize, level)
}

fn wsgi_env(_: &Conf, words: &[&str], conf: &mut LocationConf) -> Applied {
    let (name, value) = (words[1], words[2]);
    if name.is_empty() || name.contains('=') || words[1..].iter().any(|word| word.contains('\0')) {
        return Err(Problem::invalid_value(words[0], name, "the name of an environment variable"));
    }
    let variables = conf.environment.get_or_insert_default();
    if variables.iter().any(|(known, _)| known == name) {
        return Err(Problem::Message(format!("duplicate \"{name}\" in \"wsgi_env\" directive")));
    }
    variables.push((name.to_owned(), value.to_owned()));
    Ok(())
}

fn wsgi_interpreter(_: &Conf, words: &[&str], conf: &mut LocationConf) -> Applied {
    if conf.interpreter.is_some() {
        return Err(Problem::Duplicate);
    }
    let name = words[1];
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|character| character.is_ascii_alphanumeric() || "_.-".contains(character))
    };
    if !is_name(name) {
        return Err(Problem::invalid_value(words[0], name, "a name of letters, digits, \"_\", \".\" and \"-\""));
    }
    if name == "main" {
        return Err(Problem::Message(
            "\"main\" in \"wsgi_interpreter\" directive is the name of the main interpreter, which \
             \"wsgi_use_main_interpreter on\" chooses"
                .to_owned(),
        ));
    }
    once(&mut conf.interpreter, name.to_owned())
}

fn wsgi_interpreter_gil(_: &Conf, words: &[&str], conf: &mut LocationConf) -> Applied {
    if conf.interpreter_gil.is_some() {
        return Err(Problem::Duplicate);
    }
    let gil = match words[1] {
        "shared" => Gil::Shared,
        "own" if Gil::CAN_BE_OWN => Gil::Own,
        "own" => {
            return Err(Problem::Message(format!(
                "\"own\" in \"wsgi_interpreter_gil\" directive needs Python 3.12 or later, but this module is built for \
                 Python {BUILD_VERSION}"
            )));
        }
        value => return Err(Problem::invalid_value(words[0], value, "\"shared\" or \"own\"")),
    };
    once(&mut conf.interpreter_gil, gil)
}

/// More interpreters than this are taken for a mistake.
const MOST_INTERPRETERS: usize = 256;

fn wsgi_interpreters(_: &Conf, words: &[&str], conf: &mut LocationConf) -> Applied {
    if conf.interpreters.is_some() {
        return Err(Problem::Duplicate);
    }
    match words[1].parse() {
        Ok(count) if (1..=MOST_INTERPRETERS).contains(&count) => once(&mut conf.interpreters, count),
        _ => Err(Problem::invalid_value(words[0], words[1], "a number from 1 to 256")),
    }
}

fn wsgi_reload_mechanism(_: &Conf, words: &[&str], conf: &mut LocationConf) -> Applied {
    if conf.reload_mechanism.is_some() {
        return Err(Problem::Duplicate);
    }
    let mechanism = match words[1] {
        "module" => Mechanism::Module,
        "interpreter" => Mechanism::Interpreter,
        "process" => Mechanism::Process,
        value => return Err(Problem::invalid_value(words[0], value, "\"module\", \"interpreter\" or \"process\"")),
    };
    once(&mut conf.reload_mechanism, mechanism)
}

fn wsgi_reload_watch(cf: &Conf, words: &[&str], conf: &mut LocationConf) -> Applied {
    if conf.reload_watch.is_some() {
        return Err(Problem::Duplicate);
    }
    let mut patterns = Patterns::default();
    for word in &words[1..] {
        if *word == "modules" {
            patterns.modules = true;
            continue;
        }
        let path = cf.full_path(word).filter(|path| path.to_str().is_some_and(|text| glob::Pattern::new(text).is_ok()));
        match path.and_then(|path| path.into_os_string().into_string().ok()) {
            Some(pattern) => patterns.globs.push(pattern),
            None => return Err(Problem::invalid_value(words[0], word, "a pattern of files, or \"modules\"")),
        }
    }
    once(&mut conf.reload_watch, patterns)
}

/// More pool threads than this are taken for a mistake.
const MOST_THREADS: usize = 1024;

fn wsgi_threads(_: &Conf, words: &[&str], conf: &mut LocationConf) -> Applied {
    if conf.threads.is_some() {
        return Err(Problem::Duplicate);
    }
    let threads = match words[1] {
        "off" => Threads::Off,
        value => match value.parse() {
            Ok(count) if (1..=MOST_THREADS).contains(&count) => Threads::Pool(count),
            _ => {
                return Err(Problem::invalid_value(words[0], value, "\"off\" or a number from 1 to 1024"));
            }
        },
    };
    once(&mut conf.threads, threads)
}

fn wsgi_check_timeout(_: &Conf, words: &[&str], conf: &mut MainConf) -> Applied {
    if parse_time(words[1]) == Some(0) {
        return Err(Problem::invalid_value(words[0], words[1], "a time above zero, as \"30s\""));
    }
    time(words, &mut conf.check_timeout)
}

fn wsgi_queue(_: &Conf, words: &[&str], conf: &mut LocationConf) -> Applied {
    if conf.queue.is_some() {
        return Err(Problem::Duplicate);
    }
    once(&mut conf.queue, number(words, words[1])?)
}

fn wsgi_max_requests(_: &Conf, words: &[&str], conf: &mut MainConf) -> Applied {
    if conf.max_requests.is_some() {
        return Err(Problem::Duplicate);
    }
    let calls = number(words, words[1])?;
    let jitter = words.get(2).map_or(Ok(0), |jitter| number(words, jitter))?;
    once(&mut conf.max_requests, MaxRequests { calls, jitter })
}

fn wsgi_max_memory(_: &Conf, words: &[&str], conf: &mut MainConf) -> Applied {
    if conf.max_memory.is_some() {
        return Err(Problem::Duplicate);
    }
    let bytes =
        parse_size(words[1]).ok_or_else(|| Problem::invalid_value(words[0], words[1], "a size, as \"512m\""))?;
    once(&mut conf.max_memory, bytes)
}

fn wsgi_shutdown_timeout(_: &Conf, words: &[&str], conf: &mut MainConf) -> Applied {
    time(words, &mut conf.shutdown_timeout)
}
