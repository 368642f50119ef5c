//! Every directive: what it defaults to, how it is inherited and overridden, and what `nginx -t` refuses.

use crate::harness::{
    Check, Engine, Nginx, PYTHON, Response, Site, both_engines, in_repository, is_root, python_is_for_everybody,
};
use serde_json::Value;
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

fn make_venv(site: &Site, name: &str) {
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

const PASS: &str = "wsgi_pass app.py;";

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

both_engines!(
    authorization_is_passed_by_default,
    vars_are_added_after_the_headers,
    vars_are_latin_1_and_may_be_left_out,
    vars_are_inherited_as_proxy_set_header_is,
    vars_may_set_the_scheme,
    ranges_are_taken_where_they_are_allowed,
    debug_shows_the_traceback,
    debug_page_escapes_what_it_shows,
    applications_are_imported_before_they_are_asked,
    preload_off_waits_for_the_first_request,
    a_failed_import_is_tried_again,
    middleware_wraps_in_the_order_it_is_named,
    middleware_is_inherited_and_replaced,
    missing_middleware_is_an_error_of_the_location,
    wsgi_env_is_there_at_import,
    nginxs_own_env_is_there_too,
    usual_variables_are_there_though_nginx_clears_them,
    python_path_comes_first,
    pth_files_of_the_python_path_count,
    python_home_is_the_environment_used,
    python_executable_is_the_environment_used,
    optimize_is_as_the_options_of_python,
);

/// `wsgi_threads` at each level, and whether the application may run in several threads.
#[test]
fn threads_are_inherited_and_overridden() {
    for (http, server, location, threads) in [
        ("", "", "", Some(4)),
        ("wsgi_threads 2;", "", "", Some(2)),
        ("wsgi_threads off;", "wsgi_threads 3;", "", Some(3)),
        ("wsgi_threads 3;", "wsgi_threads off;", "", None),
        ("wsgi_threads off;", "wsgi_threads off;", "wsgi_threads 2;", Some(2)),
        ("wsgi_threads 3;", "wsgi_threads 2;", "wsgi_threads 1;", Some(1)),
    ] {
        let nginx = Site::plain()
            .file(
                "app.py",
                r#"
import threading

entered = threading.Semaphore(0)
leave = threading.Event()

def application(environ, start_response):
    if environ["QUERY_STRING"]:
        # Waits until that many calls are in here at once.
        count = int(environ["QUERY_STRING"])
        entered.release()
        for _ in range(1000):
            if entered._value >= count:
                leave.set()
            if leave.wait(0.01):
                break
        together = leave.is_set()
    else:
        together = threading.get_native_id() == __import__("os").getpid()
    start_response("200 OK", [])
    return [f"{environ['wsgi.multithread']} {together}".encode()]
"#,
            )
            .http(http)
            .server(server)
            .location("/", &format!("{PASS} {location}"))
            .start();
        let text = nginx.get("/").expect(200).text();
        let Some(threads) = threads else {
            assert_eq!(text, "False True", "not on the event loop's thread");
            continue;
        };
        let several = if threads > 1 { "True" } else { "False" };
        assert_eq!(text, format!("{several} False"), "{threads} threads");
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let nginx = &nginx;
                scope.spawn(move || {
                    let answer = nginx.get(&format!("/?{threads}")).expect(200);
                    assert_eq!(answer.text(), format!("{several} True"));
                });
            }
        });
    }
}

#[test]
fn no_more_calls_run_at_once_than_there_are_threads() {
    let nginx = Site::plain()
        .http("wsgi_threads 2;")
        .app(
            r#"
import threading
import time

running = 0
most = 0
lock = threading.Lock()

def application(environ, start_response):
    global running, most
    with lock:
        running += 1
        most = max(most, running)
    time.sleep(0.03)
    with lock:
        running -= 1
    start_response("200 OK", [])
    return [str(most).encode()]
"#,
        )
        .start();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let nginx = &nginx;
            scope.spawn(move || nginx.get("/").expect(200));
        }
    });
    assert_eq!(nginx.get("/").expect(200).text(), "2");
}

fn environ(response: Response) -> Value {
    response.expect(200).json()["environ"].clone()
}

fn authorization_is_passed_by_default(engine: Engine) {
    for (http, server, location, passed) in [
        ("", "", "", true),
        ("off", "", "", false),
        ("", "off", "", false),
        ("", "", "off", false),
        ("off", "on", "", true),
        ("on", "off", "", false),
        ("off", "off", "on", true),
        ("on", "on", "off", false),
    ] {
        let say = |value: &str| match value {
            "" => String::new(),
            v => format!("wsgi_pass_authorization {v};"),
        };
        let site = Site::new(engine).repository_app("/other", "environ.py");
        let nginx = site
            .http(&say(http))
            .server(&say(server))
            .location("/", &format!("wsgi_pass environ.py; {}", say(location)))
            .start();
        let found = environ(nginx.request("GET", "/", &[("Authorization", "Bearer x")], b""));
        assert_eq!(
            found.get("HTTP_AUTHORIZATION").is_some(),
            passed,
            "http {http:?}, server {server:?}, location {location:?}"
        );
        assert_eq!(found["HTTP_HOST"], format!("127.0.0.1:{}", nginx.port()));
    }
}

fn vars_are_added_after_the_headers(engine: Engine) {
    let nginx = Site::new(engine)
        .server(
            "wsgi_var PLAIN value; wsgi_var HTTP_X_MINE overridden; wsgi_var COMBINED \"$request_method $arg_a!\";
             wsgi_var SERVER_NAME other.example; wsgi_var EMPTY \"\"; wsgi_var my.dotted x;",
        )
        .repository_app("/", "environ.py")
        .start();
    let found = environ(nginx.request("GET", "/?a=b", &[("X-Mine", "forged")], b""));
    assert_eq!(found["PLAIN"], "value");
    assert_eq!(found["HTTP_X_MINE"], "overridden");
    assert_eq!(found["COMBINED"], "GET b!");
    assert_eq!(found["SERVER_NAME"], "other.example");
    assert_eq!(found["EMPTY"], "");
    assert_eq!(found["my.dotted"], "x");
}

fn vars_are_latin_1_and_may_be_left_out(engine: Engine) {
    let nginx = Site::new(engine)
        .server(
            "wsgi_var RAW $http_x_raw; wsgi_var MAYBE $arg_maybe if_not_empty; wsgi_var ALWAYS $arg_always;
             wsgi_var TEXT caf\u{e9};",
        )
        .repository_app("/", "environ.py")
        .start();
    let mut conn = nginx.connect();
    conn.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Raw: \xc3\xa9\xff\r\n\r\n");
    let found = environ(conn.response());
    assert_eq!(found["RAW"], "\u{c3}\u{a9}\u{ff}");
    assert_eq!(found["TEXT"], "caf\u{c3}\u{a9}");
    assert_eq!(found["ALWAYS"], "");
    assert_eq!(found.get("MAYBE"), None);
    let found = environ(nginx.get("/?maybe=yes&always=yes"));
    assert_eq!(found["MAYBE"], "yes");
    assert_eq!(found["ALWAYS"], "yes");
}

fn vars_are_inherited_as_proxy_set_header_is(engine: Engine) {
    let nginx = Site::new(engine)
        .http("wsgi_var LEVEL http; wsgi_var OF_HTTP yes;")
        .repository_app("/", "environ.py")
        .location("/own", "wsgi_pass environ.py; wsgi_var OF_OWN yes;")
        .location(
            "/outer/",
            "wsgi_pass environ.py; wsgi_var LEVEL outer; location /outer/inner { wsgi_pass environ.py; }",
        )
        .start();
    let found = environ(nginx.get("/"));
    assert_eq!(found["LEVEL"], "http");
    assert_eq!(found["OF_HTTP"], "yes");
    // A level that has its own has none of the outer ones.
    let found = environ(nginx.get("/own"));
    assert_eq!(found["OF_OWN"], "yes");
    assert_eq!(found.get("LEVEL"), None);
    assert_eq!(found.get("OF_HTTP"), None);
    assert_eq!(environ(nginx.get("/outer/inner"))["LEVEL"], "outer");
}

fn vars_may_set_the_scheme(engine: Engine) {
    let nginx = Site::new(engine)
        .server("wsgi_var wsgi.url_scheme $http_x_forwarded_proto if_not_empty; wsgi_var HTTPS on;")
        .repository_app("/", "environ.py")
        .start();
    assert_eq!(environ(nginx.get("/"))["wsgi.url_scheme"], "http");
    let found = environ(nginx.request("GET", "/", &[("X-Forwarded-Proto", "https")], b""));
    assert_eq!(found["wsgi.url_scheme"], "https");
    assert_eq!(found["HTTPS"], "on");
}

fn ranges_are_taken_where_they_are_allowed(engine: Engine) {
    for (server, location, taken) in [
        ("", "", false),
        ("wsgi_allow_ranges on;", "", true),
        ("wsgi_allow_ranges on;", "wsgi_allow_ranges off;", false),
        ("wsgi_allow_ranges off;", "wsgi_allow_ranges on;", true),
    ] {
        let nginx = Site::new(engine)
            .file(
                "app.py",
                r#"
def application(environ, start_response):
    if environ["QUERY_STRING"] == "stream":
        start_response("200 OK", [])
        return iter([b"01234", b"56789"])
    if environ["QUERY_STRING"] == "missing":
        start_response("404 Not Found", [("Content-Length", "10")])
        return [b"0123456789"]
    start_response("200 OK", [("Content-Length", "10"), ("Accept-Ranges", "bytes")])
    return iter([b"01234", b"56789"])
"#,
            )
            .server(server)
            .location("/", &format!("{PASS} {location}"))
            .start();
        let ask = |path: &str| nginx.request("GET", path, &[("Range", "bytes=3-6")], b"");
        assert_eq!(nginx.get("/").all("Accept-Ranges"), ["bytes"]);
        let response = ask("/");
        if taken {
            assert_eq!(response.status, 206, "{server} {location}");
            assert_eq!(response.text(), "3456");
            assert_eq!(response.header("Content-Range"), Some("bytes 3-6/10"));
        } else {
            assert_eq!(response.expect(200).text(), "0123456789");
        }
        // Only of a response that is there and whose length is known.
        assert_eq!(ask("/?stream").expect(200).text(), "0123456789");
        assert_eq!(ask("/?missing").expect(404).text(), "0123456789");
    }
}

const FAILS: &str = r#"
def application(environ, start_response):
    raise RuntimeError("a <b>secret</b> & more")
"#;

fn debug_shows_the_traceback(engine: Engine) {
    for (server, location, shown) in [
        ("", "", false),
        ("wsgi_debug on;", "", true),
        ("wsgi_debug on;", "wsgi_debug off;", false),
        ("wsgi_debug off;", "wsgi_debug on;", true),
    ] {
        let nginx = Site::new(engine)
            .file("app.py", FAILS)
            .server(server)
            .location("/", &format!("{PASS} {location}"))
            .errors_expected()
            .start();
        let response = nginx.get("/").expect(500);
        assert_eq!(response.text().contains("RuntimeError"), shown, "{server} {location}");
        // It is in the log either way.
        nginx.wait_log("RuntimeError: a <b>secret</b> & more");
    }
}

fn debug_page_escapes_what_it_shows(engine: Engine) {
    let nginx = Site::new(engine).app(FAILS).server("wsgi_debug on;").errors_expected().start();
    let html = nginx.request("GET", "/", &[("Accept", "text/html,*/*")], b"").expect(500);
    let kind = html.header("Content-Type").unwrap();
    assert!(kind.starts_with("text/html"), "{kind}");
    let text = html.text();
    assert!(text.contains("a &lt;b&gt;secret&lt;/b&gt; &amp; more"), "{text}");
    assert!(!text.contains("<b>secret"), "{text}");
    let plain = nginx.request("GET", "/", &[("Accept", "text/plain")], b"").expect(500);
    let kind = plain.header("Content-Type").unwrap();
    assert!(kind.starts_with("text/plain"), "{kind}");
    assert!(plain.text().contains("RuntimeError: a <b>secret</b> & more"), "{}", plain.text());
    assert!(plain.text().contains("app.py"), "{}", plain.text());
}

const TELLS_IMPORT: &str = r#"
with open("@prefix@/events", "a") as events:
    events.write("imported\n")

def application(environ, start_response):
    with open("@prefix@/events", "a") as events:
        events.write("called\n")
    start_response("200 OK", [])
    return [b"fine"]
"#;

fn applications_are_imported_before_they_are_asked(engine: Engine) {
    let nginx = Site::new(engine).app(TELLS_IMPORT).start();
    nginx.wait_events(&["imported"]);
    nginx.get("/").expect(200);
    nginx.get("/").expect(200);
    nginx.wait_events(&["imported", "called", "called"]);
}

fn preload_off_waits_for_the_first_request(engine: Engine) {
    let nginx =
        Site::new(engine).app(TELLS_IMPORT).http("wsgi_preload off;").location("/static", "return 200 static;").start();
    nginx.get("/static").expect(200);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(nginx.events(), [""; 0]);
    nginx.get("/").expect(200);
    nginx.get("/").expect(200);
    nginx.wait_events(&["imported", "called", "called"]);

    // The other way round, nearer levels win.
    let nginx = Site::new(engine)
        .file("app.py", TELLS_IMPORT)
        .http("wsgi_preload off;")
        .location("/", &format!("{PASS} wsgi_preload on;"))
        .start();
    nginx.wait_events(&["imported"]);
}

fn a_failed_import_is_tried_again(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
import os
import helper

with open("@prefix@/events", "a") as events:
    events.write("import\n")
if not os.path.exists("@prefix@/ready"):
    raise RuntimeError("not ready yet")

def application(environ, start_response):
    start_response("200 OK", [])
    return [helper.NAME.encode()]
"#,
        )
        .file("lib/helper.py", "NAME = 'helped'\n")
        .http("wsgi_python_path @prefix@/lib;")
        .location("/static", "return 200 static;")
        .errors_expected()
        .start();
    nginx.wait_log("RuntimeError: not ready yet");
    let workers = nginx.workers();
    let page = nginx.get("/").expect(500).text();
    assert!(page.contains("500 Internal Server Error"), "{page}");
    nginx.get("/static").expect(200);
    nginx.write("ready", "");
    assert_eq!(nginx.get("/").expect(200).text(), "helped");
    assert_eq!(nginx.get("/").expect(200).text(), "helped");
    assert_eq!(nginx.workers(), workers);
    let imports = nginx.events().len();
    assert!((2..=3).contains(&imports), "{imports} imports");
}

const MIDDLE: &str = r#"
def named(name):
    def middleware(application):
        def wrapped(environ, start_response):
            environ.setdefault("seen", []).append(name)
            return application(environ, start_response)
        return wrapped
    return middleware

middleware = named("default")
one = named("one")
two = named("two")
"#;

const SEEN: &str = r#"
def application(environ, start_response):
    start_response("200 OK", [])
    return [" ".join(environ.get("seen", [])).encode()]
"#;

fn middle(engine: Engine) -> Site {
    Site::new(engine).file("app.py", SEEN).file("lib/middle.py", MIDDLE).http("wsgi_python_path @prefix@/lib;")
}

fn middleware_wraps_in_the_order_it_is_named(engine: Engine) {
    let nginx = middle(engine)
        .location("/none", PASS)
        .location("/default", &format!("wsgi_middleware middle; {PASS}"))
        .location(
            "/two",
            &format!("wsgi_middleware middle two; {PASS} wsgi_middleware middle one; wsgi_middleware middle;"),
        )
        .start();
    assert_eq!(nginx.get("/none").expect(200).text(), "");
    assert_eq!(nginx.get("/default").expect(200).text(), "default");
    assert_eq!(nginx.get("/two").expect(200).text(), "two one default");
}

fn middleware_is_inherited_and_replaced(engine: Engine) {
    let nginx = middle(engine)
        .http("wsgi_middleware middle one;")
        .location("/inherited", PASS)
        .location("/replaced", &format!("{PASS} wsgi_middleware middle two;"))
        .start();
    assert_eq!(nginx.get("/inherited").expect(200).text(), "one");
    assert_eq!(nginx.get("/replaced").expect(200).text(), "two");
}

fn missing_middleware_is_an_error_of_the_location(engine: Engine) {
    let nginx = middle(engine)
        .location("/fine", PASS)
        .location("/module", &format!("{PASS} wsgi_middleware no_such_module;"))
        .location("/name", &format!("{PASS} wsgi_middleware middle no_such_name;"))
        .errors_expected()
        .start();
    nginx.get("/module").expect(500);
    nginx.wait_log("no_such_module");
    nginx.get("/name").expect(500);
    nginx.wait_log("no_such_name");
    nginx.get("/fine").expect(200);
}

/// Responds with an expression evaluated at import.
fn says(engine: Engine, expression: &str) -> Site {
    Site::new(engine).app(&format!(
        r#"
import json
import os
import sys

FOUND = {expression}

def application(environ, start_response):
    """A docstring."""
    start_response("200 OK", [])
    return [json.dumps(FOUND).encode()]
"#
    ))
}

fn found(nginx: &Nginx) -> Value {
    nginx.get("/").expect(200).json()
}

fn wsgi_env_is_there_at_import(engine: Engine) {
    let nginx = says(
        engine,
        "[os.environ.get(n) for n in ('A', 'B', 'EMPTY', 'TEXT', 'LEVEL')]",
    )
    .http("wsgi_env A 1; wsgi_env B \"two words\"; wsgi_env EMPTY \"\"; wsgi_env TEXT caf\u{e9}; wsgi_env LEVEL http;")
    .start();
    let wanted = serde_json::json!(["1", "two words", "", "caf\u{e9}", "http"]);
    assert_eq!(found(&nginx), wanted);

    // The nearest level that has any wins.
    let nginx =
        says(engine, "os.environ.get('LEVEL')").http("wsgi_env LEVEL http;").server("wsgi_env LEVEL server;").start();
    assert_eq!(found(&nginx), "server");
}

fn nginxs_own_env_is_there_too(engine: Engine) {
    let nginx = says(engine, "os.environ.get('FROM_NGINX')").main("env FROM_NGINX=yes;").start();
    assert_eq!(found(&nginx), "yes");
    let nginx = says(engine, "os.environ.get('BOTH')").main("env BOTH=nginx;").http("wsgi_env BOTH wsgi;").start();
    assert_eq!(found(&nginx), "wsgi");
}

fn usual_variables_are_there_though_nginx_clears_them(engine: Engine) {
    let nginx =
        says(engine, "[dict(os.environ), os.path.expanduser('~'), sys.getfilesystemencoding(), sys.flags.utf8_mode]")
            .user(if python_is_for_everybody() { "nobody nogroup" } else { "root" })
            .start();
    let found = found(&nginx);
    for name in ["PATH", "HOME", "USER", "LOGNAME", "LANG"] {
        let value = found[0][name].as_str().unwrap_or_default();
        assert!(!value.is_empty(), "{name} is missing");
    }
    assert_eq!(found[2], "utf-8");
    if is_root() && python_is_for_everybody() {
        assert_eq!(found[0]["USER"], "nobody");
        assert_eq!(found[0]["LOGNAME"], "nobody");
    }
    // A value that is set stays.
    let nginx = says(engine, "[os.environ[n] for n in ('PATH', 'HOME', 'LANG')]")
        .main("env PATH=/only/here; env HOME=/home/mine; env LANG=C.UTF-8;")
        .start();
    assert_eq!(found_list(&nginx), ["/only/here", "/home/mine", "C.UTF-8"]);
}

fn found_list(nginx: &Nginx) -> Vec<String> {
    let list = found(nginx);
    let list = list.as_array().unwrap();
    list.iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

fn python_path_comes_first(engine: Engine) {
    let nginx = Site::new(engine)
        .file("one/which.py", "NAME = 'one'\n")
        .file("two/which.py", "NAME = 'two'\n")
        .file("two/other.py", "NAME = 'other'\n")
        // In front of the standard library too.
        .file("two/colorsys.py", "NAME = 'shadow'\n")
        .http("wsgi_python_path @prefix@/one @prefix@/two;")
        .app(
            r#"
import colorsys
import json
import other
import sys
import which

def application(environ, start_response):
    start_response("200 OK", [])
    return [json.dumps([which.NAME, other.NAME, colorsys.NAME, *sys.path]).encode()]
"#,
        )
        .start();
    let list = found_list(&nginx);
    assert_eq!(list[..3], ["one", "other", "shadow"]);
    let one = nginx.prefix().join("one").display().to_string();
    let two = nginx.prefix().join("two").display().to_string();
    let path = &list[3..];
    let at = |dir: &str| path.iter().position(|p| p == dir).unwrap();
    assert!(at(&one) < at(&two), "{path:?}");
    let library = path.iter().position(|p| p.contains("/lib/python3")).unwrap();
    assert!(at(&two) < library, "{path:?}");
    let once = |dir: &str| path.iter().filter(|p| *p == dir).count() == 1;
    assert!(once(&one) && once(&two), "{path:?}");
}

fn pth_files_of_the_python_path_count(engine: Engine) {
    let nginx = says(engine, "__import__('elsewhere').NAME")
        .file("lib/more.pth", "@prefix@/more\n")
        .file("more/elsewhere.py", "NAME = 'by a pth file'\n")
        .http("wsgi_python_path @prefix@/lib;")
        .start();
    assert_eq!(found(&nginx), "by a pth file");
}

const PREFIXES: &str = "[sys.prefix, sys.exec_prefix, sys.executable, __import__('only_there').NAME]";

/// A site with an environment that has a module of its own.
fn in_venv(engine: Engine, directive: &str) -> Site {
    let site = says(engine, PREFIXES).http(directive);
    make_venv(&site, "venv");
    let lib = std::fs::read_dir(site.prefix().join("venv/lib")).unwrap().next().unwrap().unwrap();
    let module = lib.path().join("site-packages/only_there.py");
    std::fs::write(module, "NAME = 'in the environment'\n").unwrap();
    site
}

fn assert_in_venv(nginx: &Nginx) {
    let venv = nginx.prefix().join("venv").display().to_string();
    let list = found_list(nginx);
    assert_eq!(list[0], venv);
    assert_eq!(list[1], venv);
    assert!(list[2].starts_with(&format!("{venv}/bin/python")), "{list:?}");
    assert_eq!(list[3], "in the environment");
}

fn python_home_is_the_environment_used(engine: Engine) {
    let nginx = in_venv(engine, "wsgi_python_home @prefix@/venv;").start();
    assert_in_venv(&nginx);
    // Without it there is no such module.
    let nginx = says(engine, "sys.prefix").start();
    let prefix = Command::new(PYTHON).args(["-c", "import sys; print(sys.base_prefix, end='')"]).output().unwrap();
    assert_eq!(found(&nginx), String::from_utf8(prefix.stdout).unwrap());
}

fn python_executable_is_the_environment_used(engine: Engine) {
    let nginx = in_venv(engine, "wsgi_python_executable @prefix@/venv/bin/python;").start();
    assert_in_venv(&nginx);
}

fn optimize_is_as_the_options_of_python(engine: Engine) {
    for (directive, level, asserts, docstrings) in [
        ("", 0, true, true),
        ("wsgi_python_optimize 0;", 0, true, true),
        ("wsgi_python_optimize 1;", 1, false, true),
        ("wsgi_python_optimize 2;", 2, false, false),
    ] {
        let nginx = says(engine, "[sys.flags.optimize, __debug__, (lambda: 0).__doc__]")
            .file(
                "docs.py",
                "import json\ndef f():\n    'doc'\ndef application(e, s):\n    s('200 OK', [])\n    return [json.dumps(f.__doc__).encode()]\n",
            )
            .location("/docs", "wsgi_pass docs.py;")
            .http(directive)
            .start();
        let found = found(&nginx);
        assert_eq!(found[0], level, "{directive}");
        assert_eq!(found[1], asserts, "{directive}");
        let docs = nginx.get("/docs").expect(200).json();
        assert_eq!(docs.is_string(), docstrings, "{directive}");
    }
}

#[test]
fn the_reference_names_each_directive() {
    let reference = std::fs::read_to_string(in_repository("docs/directives.md")).expect("docs/directives.md");
    for directive in DIRECTIVES {
        assert!(reference.contains(directive.name), "{}", directive.name);
    }
}
