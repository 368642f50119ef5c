//! Every directive: what it defaults to, how it is inherited and overridden, and what `nginx -t` refuses.

use crate::harness::{Check, PYTHON, Site, in_repository};

use std::process::Command;

/// A directive with arguments that are right, and the levels where it may stand.
struct Directive {
    name: &'static str,
    right: &'static str,
    levels: &'static [Level],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Main,
    Http,
    Server,
    Location,
}

use Level::{Http, Location, Main, Server};

const ALL: [Level; 4] = [Main, Http, Server, Location];
const HSL: &[Level] = &[Http, Server, Location];

const DIRECTIVES: &[Directive] = &[
    directive("wsgi_pass", "app.py", &[Location]),
    directive("wsgi_script_name", "/mount", HSL),
    directive("wsgi_var", "NAME value", HSL),
    directive("wsgi_middleware", "middle", HSL),
    directive("wsgi_pass_authorization", "off", HSL),
    directive("wsgi_preload", "off", HSL),
    directive("wsgi_check", "off", &[Http]),
    directive("wsgi_check_timeout", "5s", &[Http]),
    directive("wsgi_enable_subinterpreters", "on", HSL),
    directive("wsgi_use_main_interpreter", "on", HSL),
    directive("wsgi_interpreter", "name", HSL),
    directive("wsgi_interpreter_gil", "shared", HSL),
    directive("wsgi_interpreters", "2", HSL),
    directive("wsgi_threads", "2", HSL),
    directive("wsgi_queue", "10", HSL),
    directive("wsgi_queue_timeout", "5s", HSL),
    directive("wsgi_request_timeout", "30s", HSL),
    directive("wsgi_slow_request", "2s", HSL),
    directive("wsgi_balance", "off", &[Http]),
    directive("wsgi_max_requests", "1000 100", &[Http]),
    directive("wsgi_max_memory", "512m", &[Http]),
    directive("wsgi_debug", "on", HSL),
    directive("wsgi_request_buffering", "off", HSL),
    directive("wsgi_output_buffering", "on", HSL),
    directive("wsgi_output_buffer_size", "8k", HSL),
    directive("wsgi_max_temp_file_size", "2g", HSL),
    directive("wsgi_temp_path", "tmp/wsgi 1 2", HSL),
    directive("wsgi_write_buffering", "on", HSL),
    directive("wsgi_write_buffer_size", "8k", HSL),
    directive("wsgi_allow_ranges", "on", HSL),
    directive("wsgi_optimize_send_headers", "on", HSL),
    directive("wsgi_intercept_errors", "on", HSL),
    directive("wsgi_hide_header", "X-Name", HSL),
    directive("wsgi_pass_header", "X-Name", HSL),
    directive("wsgi_script_reloading", "on", HSL),
    directive("wsgi_reload_mechanism", "process", HSL),
    directive("wsgi_reload_watch", "modules", HSL),
    directive("wsgi_env", "NAME value", HSL),
    directive("wsgi_python_home", "@prefix@/venv", &[Http]),
    directive("wsgi_python_executable", "@prefix@/venv/bin/python", &[Http]),
    directive("wsgi_python_path", "@prefix@/lib", &[Http]),
    directive("wsgi_python_optimize", "1", &[Http]),
    directive("wsgi_shutdown_timeout", "5s", &[Http]),
    directive("wsgi_status_zone", "status 64k query=on", &[Http]),
];

const fn directive(name: &'static str, right: &'static str, levels: &'static [Level]) -> Directive {
    Directive { name, right, levels }
}

/// Those that may be given once a level.
fn single() -> impl Iterator<Item = &'static Directive> {
    const REPEATED: [&str; 5] = ["wsgi_var", "wsgi_middleware", "wsgi_env", "wsgi_hide_header", "wsgi_pass_header"];
    DIRECTIVES.iter().filter(|d| !REPEATED.contains(&d.name))
}

const FLAGS: &[&str] = &[
    "wsgi_pass_authorization",
    "wsgi_preload",
    "wsgi_check",
    "wsgi_balance",
    "wsgi_enable_subinterpreters",
    "wsgi_use_main_interpreter",
    "wsgi_debug",
    "wsgi_request_buffering",
    "wsgi_output_buffering",
    "wsgi_write_buffering",
    "wsgi_allow_ranges",
    "wsgi_optimize_send_headers",
    "wsgi_intercept_errors",
];

const HELLO: &str = r#"
def application(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]
"#;

/// A site that could run, with `text` at a level. The environment that it may name is there.
fn with(level: Level, text: &str) -> Site {
    let site = Site::plain().file("app.py", HELLO);
    // A directory that need not be a working environment would do for parsing; a real one is right for both.
    std::fs::create_dir(site.prefix().join("lib")).unwrap();
    if text.contains("venv") {
        make_venv(&site, "venv");
    }
    match level {
        Main => site.main(text),
        Http => site.http(text),
        Server => site.server(text),
        Location => site.location("/", text),
    }
}

pub fn make_venv(site: &Site, name: &str) {
    let made = Command::new(PYTHON)
        .args(["-m", "venv", "--without-pip"])
        .arg(site.prefix().join(name))
        .status()
        .expect("run python3 -m venv");
    assert!(made.success());
}

// ---- what nginx -t refuses ------------------------------------------------------------------------------------------

#[test]
fn each_directive_is_accepted_where_it_belongs() {
    for directive in DIRECTIVES {
        for level in directive.levels {
            let text = format!("{} {};", directive.name, directive.right);
            let check = with(*level, &text).check();
            assert!(check.ok, "{text} at {level:?}: {}", check.output);
        }
    }
}

#[test]
fn each_directive_is_refused_where_it_does_not_belong() {
    for directive in DIRECTIVES {
        for level in ALL.iter().filter(|l| !directive.levels.contains(l)) {
            let text = format!("{} {};", directive.name, directive.right);
            let message = format!("\"{}\" directive is not allowed here", directive.name);
            with(*level, &text).check().assert_refused(&message, directive.name);
        }
    }
}

/// The message for a duplicate directive.
fn duplicate(name: &str, check: &Check) -> String {
    let remedy = match name {
        "wsgi_python_home" | "wsgi_python_executable" => {
            "set it once, to an environment with the packages of all applications"
        }
        "wsgi_python_path" => "list the directories of all applications in one directive",
        "wsgi_python_optimize" => "set it once",
        _ => return format!("\"{name}\" directive is duplicate"),
    };
    let mut lines = check.conf_text.lines();
    let first = 1 + lines.position(|line| line.contains(name)).expect("the first of two");
    let place = format!("{}:{first}", check.conf().display());
    format!(
        "\"{name}\" directive is duplicate, the first is in {place}: all applications of an nginx share one Python; {remedy}"
    )
}

#[test]
fn duplicates_are_refused() {
    for directive in single() {
        let Directive { name, right, .. } = directive;
        for level in directive.levels {
            let text = format!("{name} {right};\n{name} {right};");
            let check = with(*level, &text).check();
            check.assert_refused(&duplicate(name, &check), name);
        }
    }
}

#[test]
fn a_duplicate_with_another_value_is_refused_too() {
    for (name, one, other) in [
        ("wsgi_threads", "off", "2"),
        ("wsgi_threads", "4", "off"),
        ("wsgi_enable_subinterpreters", "off", "on"),
        ("wsgi_use_main_interpreter", "off", "on"),
        ("wsgi_interpreter", "one", "other"),
        ("wsgi_interpreter_gil", "shared", "own"),
        ("wsgi_interpreters", "1", "2"),
        ("wsgi_script_reloading", "off", "on"),
        ("wsgi_reload_mechanism", "module", "process"),
        ("wsgi_reload_watch", "modules", "*.html"),
        ("wsgi_debug", "off", "on"),
        ("wsgi_preload", "on", "off"),
        ("wsgi_pass_authorization", "on", "off"),
        ("wsgi_script_name", "\"\"", "/x"),
        ("wsgi_python_optimize", "0", "1"),
        ("wsgi_shutdown_timeout", "0", "10s"),
        ("wsgi_check", "off", "on"),
        ("wsgi_check_timeout", "1s", "30s"),
        ("wsgi_queue", "0", "1000"),
        ("wsgi_queue_timeout", "0", "60s"),
        ("wsgi_request_timeout", "0", "1s"),
        ("wsgi_slow_request", "0", "1s"),
        ("wsgi_balance", "off", "on"),
        ("wsgi_max_requests", "0", "1 1"),
        ("wsgi_max_memory", "0", "1g"),
    ] {
        let text = format!("{name} {one};\n{name} {other};");
        let check = with(Http, &text).check();
        check.assert_refused(&duplicate(name, &check), name);
    }
}

#[test]
fn a_second_environment_in_another_file_is_refused_with_the_place_of_the_first() {
    let site = Site::plain()
        .file("sites/mysite", "wsgi_python_path @prefix@;\nwsgi_python_home @prefix@/venv;\n")
        .file("sites/shop", "wsgi_python_home @prefix@/other;\n")
        .http("include @prefix@/sites/*;");
    make_venv(&site, "venv");
    let prefix = site.prefix().display().to_string();
    let check = site.check();
    let message = format!(
        "[emerg] \"wsgi_python_home\" directive is duplicate, the first is in {prefix}/sites/mysite:2: all applications \
         of an nginx share one Python; set it once, to an environment with the packages of all \
         applications in {prefix}/sites/shop:1\n"
    );
    assert!(!check.ok && check.output.contains(&message), "{}", check.output);
}

#[test]
fn wrong_numbers_of_arguments_are_refused() {
    for directive in DIRECTIVES {
        let Directive { name, right, .. } = directive;
        let level = directive.levels[0];
        let message = format!("invalid number of arguments in \"{name}\" directive");
        with(level, &format!("{name};")).check().assert_refused(&message, name);
        // Directives that take any number of paths have no upper limit.
        if !["wsgi_python_path", "wsgi_reload_watch"].contains(name) {
            let text = format!("{name} {right} more and more and more;");
            with(level, &text).check().assert_refused(&message, name);
        }
    }
}

#[test]
fn flags_are_on_or_off() {
    for name in FLAGS {
        for value in ["yes", "1", "\"\"", "true", "onn"] {
            let message = format!(
                "invalid value \"{}\" in \"{name}\" directive, it must be \"on\" or \"off\"",
                value.trim_matches('"')
            );
            let text = format!("{name} {value};");
            with(Http, &text).check().assert_refused(&message, name);
        }
        for value in ["on", "off", "ON", "Off"] {
            with(Http, &format!("{name} {value};")).check().assert_ok();
        }
    }
}

/// Refused by a sentence with these words about the directive at its line.
#[track_caller]
fn assert_refused_somehow(check: &Check, words: &[&str]) {
    assert!(!check.ok, "accepted, though: {words:?}");
    let said = check.output.lines().any(|l| l.contains("[emerg]") && words.iter().all(|w| l.contains(w)));
    assert!(said, "wanted: {words:?}\ngot: {}", check.output);
}

#[test]
fn numbers_and_times_are_checked() {
    for (name, values) in [
        ("wsgi_threads", &["0", "-1", "x", "1.5", "4k", "\"\"", "on", "99999999999999999999"][..]),
        ("wsgi_python_optimize", &["3", "-1", "x", "\"\"", "on", "00000000000000000000001x"]),
        ("wsgi_output_buffer_size", &["0", "-1", "x", "\"\"", "1q", "2g", "99999999999999999999"]),
        ("wsgi_write_buffer_size", &["0", "-1", "x", "\"\"", "1q", "2g"]),
        ("wsgi_max_temp_file_size", &["-1", "x", "\"\"", "1q", "99999999999999999999"]),
        ("wsgi_temp_path", &["tmp/wsgi 0", "tmp/wsgi 4", "tmp/wsgi x", "tmp/wsgi 1 2 9"]),
        ("wsgi_shutdown_timeout", &["10q", "-1s", "x", "\"\"", "1s1m", "1.5s"]),
        ("wsgi_check_timeout", &["10q", "-1s", "x", "\"\"", "1s1m", "1.5s", "0", "0s"]),
        ("wsgi_queue", &["-1", "+1", "x", "1.5", "4k", "\"\"", "off", "99999999999999999999"]),
        ("wsgi_queue_timeout", &["10q", "-1s", "x", "\"\"", "off"]),
        ("wsgi_request_timeout", &["10q", "-1s", "x", "\"\"", "off"]),
        ("wsgi_slow_request", &["10q", "-1s", "x", "\"\"", "off"]),
        ("wsgi_max_requests", &["-1", "x", "\"\"", "off", "10 x", "10 -1", "10 10%"]),
        ("wsgi_max_memory", &["-1", "x", "\"\"", "off", "1t", "50%"]),
    ] {
        for value in values {
            let check = with(Http, &format!("{name} {value};")).check();
            let directive = format!("\"{name}\" directive");
            assert_refused_somehow(&check, &[&directive, "invalid", "nginx.conf:"]);
        }
    }
    for text in [
        "wsgi_threads 1;",
        "wsgi_threads off;",
        "wsgi_threads 64;",
        "wsgi_python_optimize 0;",
        "wsgi_python_optimize 2;",
        "wsgi_output_buffer_size 1;",
        "wsgi_output_buffer_size 1m;",
        "wsgi_max_temp_file_size 0;",
        "wsgi_max_temp_file_size 10g;",
        "wsgi_temp_path tmp/wsgi 1 2 3;",
        "wsgi_shutdown_timeout 500ms;",
        "wsgi_shutdown_timeout 1m30s;",
        "wsgi_shutdown_timeout 0;",
        "wsgi_check_timeout 500ms;",
        "wsgi_check_timeout 2m;",
        "wsgi_queue 0;",
        "wsgi_queue_timeout 0;",
        "wsgi_request_timeout 1500ms;",
        "wsgi_slow_request 1m;",
        "wsgi_max_requests 0;",
        "wsgi_max_requests 1000;",
        "wsgi_max_memory 0;",
        "wsgi_max_memory 1g;",
    ] {
        with(Http, text).check().assert_ok();
    }
}

#[test]
fn a_status_zone_needs_a_name_of_its_own_and_a_size() {
    const SIZE: &str = "it must be a size from 64k to 1g such as \"1m\"";
    const NAME: &str = "it must be a name that does not begin with \"ngx_http_wsgi_\"";
    for (arguments, value, must_be) in [
        ("status 63k", "63k", SIZE),
        ("status 2g", "2g", SIZE),
        ("status many", "many", SIZE),
        ("status -1m", "-1m", SIZE),
        ("'' 1m", "", NAME),
        ("ngx_http_wsgi_recycle_lock 1m", "ngx_http_wsgi_recycle_lock", NAME),
        ("status 1m query", "query", "it must be \"query=on\" or \"query=off\""),
        ("status 1m query=yes", "query=yes", "it must be \"query=on\" or \"query=off\""),
    ] {
        let message = format!("invalid value \"{value}\" in \"wsgi_status_zone\" directive, {must_be}");
        with(Http, &format!("wsgi_status_zone {arguments};")).check().assert_refused(&message, "wsgi_status_zone");
    }
    // A zone of another module.
    let taken = "limit_req_zone $uri zone=status:1m rate=1r/s;\nwsgi_status_zone status 1m;";
    let message = "the shared memory zone \"status\" is already declared for a different use";
    with(Http, taken).check().assert_refused(message, "wsgi_status_zone");
    for size in ["64k", "65536", "100000", "1m", "1g"] {
        with(Http, &format!("wsgi_status_zone status {size};")).check().assert_ok();
    }
}

#[test]
fn a_script_that_is_not_there_is_refused() {
    for path in ["missing.py", "@prefix@/missing.wsgi", "dir/missing"] {
        let check = with(Location, &format!("wsgi_pass {path};")).check();
        assert_refused_somehow(&check, &["missing", "nginx.conf:"]);
    }
    // A directory is no script.
    let check = with(Location, "wsgi_pass @prefix@/lib;").check();
    assert_refused_somehow(&check, &["/lib", "nginx.conf:"]);
}

#[test]
fn an_invalid_target_is_refused() {
    for target in ["\"\"", "a..b", ".a", "a.", "a:", ":a", "a:b:c", "a-b", "1a", "a:1b", "\"a b\""] {
        let check = with(Location, &format!("wsgi_pass {target};")).check();
        assert_refused_somehow(&check, &["wsgi_pass", "nginx.conf:"]);
    }
    for callable in ["\"\"", "1a", "a-b", "\"a b\"", "a(", "a)"] {
        let check = with(Location, &format!("wsgi_pass app.py {callable};")).check();
        assert_refused_somehow(&check, &["wsgi_pass", "nginx.conf:"]);
    }
}

#[test]
fn an_invalid_header_name_is_refused() {
    for name in ["wsgi_hide_header", "wsgi_pass_header"] {
        for value in ["X-Name:", "\"\"", "\"X Name\"", "X-N\u{e4}me"] {
            let message = format!(
                "invalid value \"{}\" in \"{name}\" directive, it must be the name of a header",
                value.trim_matches('"')
            );
            with(Http, &format!("{name} {value};")).check().assert_refused(&message, name);
        }
    }
}

#[test]
fn a_third_word_of_wsgi_var_is_if_not_empty() {
    with(Http, "wsgi_var NAME value sometimes;").check().assert_refused("invalid parameter \"sometimes\"", "wsgi_var");
    with(Http, "wsgi_var NAME $arg_x if_not_empty;").check().assert_ok();
}

#[test]
fn an_unknown_variable_is_refused() {
    for text in ["wsgi_var NAME $no_such;", "wsgi_script_name /$no_such;"] {
        let check = with(Http, &format!("{text}\nserver {{ location / {{ {PASS} }} }}")).check();
        assert_refused_somehow(&check, &["unknown \"no_such\" variable"]);
    }
}

pub const PASS: &str = "wsgi_pass app.py;";

#[test]
fn locations_that_disagree_on_threads_are_refused() {
    for (one, other) in [("2", "3"), ("off", "4"), ("4", "off"), ("off", "")] {
        let threads = |n: &str| match n {
            "" => String::new(),
            n => format!("wsgi_threads {n};"),
        };
        let check = Site::plain()
            .file("app.py", HELLO)
            .location("/one", &format!("{PASS} {}", threads(one)))
            .location("/other", &format!("{PASS} {}", threads(other)))
            .check();
        // It names both lines.
        let lines = |name: &str| 1 + check.conf_text.lines().position(|l| l.contains(name)).unwrap();
        let one = format!("nginx.conf:{}", lines("/one "));
        let other = format!("nginx.conf:{}", lines("/other "));
        assert_refused_somehow(&check, &["wsgi_threads", &one, &other]);
    }
    // Agreement is fine however it is said, and locations without an application do not count.
    Site::plain()
        .file("app.py", HELLO)
        .location("/one", &format!("{PASS} wsgi_threads 4;"))
        .location("/other", PASS)
        .location("/static", "wsgi_threads off; return 200;")
        .check()
        .assert_ok();
}

#[test]
fn locations_that_disagree_on_the_environment_are_refused() {
    let check = Site::plain()
        .file("app.py", HELLO)
        .location("/one", &format!("{PASS} wsgi_env MODE one;"))
        .location("/other", &format!("{PASS} wsgi_env MODE other;"))
        .check();
    assert_refused_somehow(&check, &["MODE"]);
    Site::plain()
        .file("app.py", HELLO)
        .location("/one", &format!("{PASS} wsgi_env MODE same; wsgi_env A 1;"))
        .location("/other", &format!("{PASS} wsgi_env MODE same; wsgi_env B 2;"))
        .check()
        .assert_ok();
}

#[test]
fn a_python_that_is_not_there_is_refused() {
    for text in ["wsgi_python_home @prefix@/nowhere;", "wsgi_python_executable @prefix@/nowhere/bin/python;"] {
        let check = with(Http, text).location("/", PASS).check();
        assert_refused_somehow(&check, &["nowhere"]);
    }
    // A directory without an environment in it.
    let check = with(Http, "wsgi_python_home @prefix@/lib;").location("/", PASS).check();
    assert_refused_somehow(&check, &["/lib"]);
}

#[test]
fn an_environment_of_another_python_is_refused() {
    let site = Site::plain().file("app.py", HELLO);
    make_venv(&site, "venv");
    let cfg = site.prefix().join("venv/pyvenv.cfg");
    let text: String = std::fs::read_to_string(&cfg)
        .unwrap()
        .lines()
        .map(|line| match line.split_once('=') {
            Some(("version ", _)) => "version = 3.7.1\n".to_owned(),
            _ => format!("{line}\n"),
        })
        .collect();
    std::fs::write(&cfg, text).unwrap();
    let check = site.http("wsgi_python_home @prefix@/venv;").location("/", PASS).check();
    assert_refused_somehow(&check, &["venv", "3.7"]);
}

// ---- defaults, inheritance, override --------------------------------------------------------------------------------

#[test]
fn the_reference_names_each_directive() {
    let reference = std::fs::read_to_string(in_repository("docs/directives.md")).expect("docs/directives.md");
    for directive in DIRECTIVES {
        assert!(reference.contains(directive.name), "{}", directive.name);
    }
}
