//! Tracebacks in the error log: complete, and without frames of the server.

use crate::harness::{Engine, Site, both_engines, wait_for};
use crate::log::{does, letters_logged, message};

both_engines!(
    a_long_traceback_is_whole,
    chained_exceptions_are_whole,
    a_syntax_error_is_shown_with_its_line,
    tracebacks_of_imports_have_no_frames_of_the_server,
    a_debug_page_has_no_frames_of_the_server,
    tracebacks_of_calls_have_no_frames_of_importlib,
    frames_are_logged_without_the_traceback_module,
);

fn a_long_traceback_is_whole(engine: Engine) {
    let nginx = Site::new(engine)
        .app(
            r#"
# Sixty functions that call one another: f0 calls f1, and so on.
source = "\n".join(f"def f{i}():\n    return f{i + 1}()\n" for i in range(60))
exec(compile(source, "frames.py", "exec"))

def f60():
    raise ValueError("q" * 10240 + " the very end")

def application(environ, start_response):
    f0()
"#,
        )
        .errors_expected()
        .start_shared();
    nginx.get("/").expect(500);
    nginx.wait_log("the very end");
    nginx.wait_log("Traceback (most recent call last):");
    let log = nginx.error_log();
    for i in 0..=60 {
        assert!(log.contains(&format!("in f{i}")), "frame f{i} is missing");
    }
    let (_, end) = log.rsplit_once("raise ValueError(").expect("the source line");
    assert_eq!(letters_logged(end, 'q'), 10_240);
}

fn chained_exceptions_are_whole(engine: Engine) {
    let nginx = does(
        engine,
        r#"
try:
    try:
        {}["inner key"]
    except KeyError as e:
        raise ValueError("the middle\nof two lines") from e
except ValueError:
    raise RuntimeError("the outer")
"#,
    )
    .start_shared();
    nginx.get("/").expect(500);
    nginx.wait_log("RuntimeError: the outer");
    let log = nginx.error_log();
    let at: Vec<usize> = [
        "KeyError: 'inner key'",
        "The above exception was the direct cause of the following exception:",
        "ValueError: the middle",
        "of two lines",
        "During handling of the above exception, another exception occurred:",
        "RuntimeError: the outer",
    ]
    .iter()
    .map(|text| log.rfind(text).unwrap_or_else(|| panic!("no {text}")))
    .collect();
    assert!(at.is_sorted(), "in another order");
}

fn a_syntax_error_is_shown_with_its_line(engine: Engine) {
    let nginx = Site::new(engine)
        .app("def application(environ, start_response):\n    retrun []\n    a b\n")
        .errors_expected()
        .start();
    nginx.get("/").expect(500);
    nginx.wait_log("SyntaxError: invalid syntax");
    let line = nginx.wait_log("app.py\", line 2");
    assert!(line.contains("File \""), "{line}");
}

/// Imports that fail: the file, its text, and the messages of all records of the failure but the first.
fn failing_imports() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    vec![
        (
            "missing.py",
            "import not_there\n",
            vec![
                "Traceback (most recent call last):",
                "  File \"@prefix@/missing.py\", line 1, in <module>",
                "    import not_there",
                "ModuleNotFoundError: No module named 'not_there'",
            ],
        ),
        (
            "syntax.py",
            "a b\n",
            vec!["  File \"@prefix@/syntax.py\", line 1", "    a b", "    ^^^", "SyntaxError: invalid syntax"],
        ),
        (
            "callable.py",
            "other = 1\n",
            vec![
                "AttributeError: '@prefix@/callable.py' has no 'application'; the name of the callable is the second \
                 argument of wsgi_pass",
            ],
        ),
        (
            "chained.py",
            "import importlib\ntry:\n    importlib.import_module('broken')\nexcept KeyError as error:\n    \
             raise ValueError('chained') from error\n",
            vec![
                "Traceback (most recent call last):",
                "  File \"@prefix@/chained.py\", line 3, in <module>",
                "    importlib.import_module('broken')",
                "  File \"@importlib@\", line @, in import_module",
                "    return _bootstrap._gcd_import(name[level:], package, level)",
                "  File \"@prefix@/broken.py\", line 1, in <module>",
                "    raise KeyError('inner')",
                "KeyError: 'inner'",
                "",
                "The above exception was the direct cause of the following exception:",
                "",
                "Traceback (most recent call last):",
                "  File \"@prefix@/chained.py\", line 5, in <module>",
                "    raise ValueError('chained') from error",
                "ValueError: chained",
            ],
        ),
        (
            "imports_syntax.py",
            "import syntax\n",
            vec![
                "Traceback (most recent call last):",
                "  File \"@prefix@/imports_syntax.py\", line 1, in <module>",
                "    import syntax",
                "  File \"@prefix@/syntax.py\", line 1",
                "    a b",
                "    ^^^",
                "SyntaxError: invalid syntax",
            ],
        ),
    ]
}

/// Without the lines of marks that newer Pythons put below code, and where they differ.
fn is_of_every_version(line: &str) -> bool {
    !line.trim().is_empty() && !line.trim_matches([' ', '^', '~']).is_empty()
}

fn tracebacks_of_imports_have_no_frames_of_the_server(engine: Engine) {
    for (file, text, wanted) in failing_imports() {
        let nginx = Site::new(engine)
            .file("broken.py", "raise KeyError('inner')\n")
            .file("syntax.py", "a b\n")
            .app_at("/", file, text)
            .errors_expected()
            .start();
        let prefix = nginx.prefix().display().to_string();
        let wanted: Vec<String> = wanted.iter().map(|line| line.replace("@prefix@", &prefix)).collect();
        // The headline says what the last line says.
        let log = wait_for("the traceback", || {
            let is_last = |line: &str| line.ends_with(wanted.last().unwrap()) && !line.contains("could not be loaded");
            let log = nginx.error_log();
            log.lines().any(is_last).then_some(log)
        });
        let lines = log.lines().filter(|line| line.contains("[error]")).map(message);
        let found: Vec<&str> = lines.skip(1).filter(|line| is_of_every_version(line)).take(wanted.len()).collect();
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).filter(|line| is_of_every_version(line)).collect();
        for (found, wanted) in found.iter().zip(&wanted) {
            let is_importlib = wanted.contains("@importlib@") && found.ends_with("in import_module");
            assert!(is_importlib || found == wanted, "{file}: {found:?} instead of {wanted:?} in\n{log}");
        }
        assert!(found.len() >= wanted.len(), "{file}: {found:?}");
        assert!(!log.contains("ngx_wsgi/") && !log.contains("<frozen importlib"), "{log}");
    }
}

fn a_debug_page_has_no_frames_of_the_server(engine: Engine) {
    let nginx = Site::new(engine).http("wsgi_debug on;").app("import not_there\n").errors_expected().start();
    let page = nginx.get("/").expect(500).text();
    let start = format!(
        "Traceback (most recent call last):\n  File \"{}/app.py\", line 1, in <module>\n",
        nginx.prefix().display()
    );
    assert!(page.starts_with(&start) && page.ends_with("No module named 'not_there'\n"), "{page}");
}

/// Also of several errors at once.
fn tracebacks_of_calls_have_no_frames_of_importlib(engine: Engine) {
    let nginx = does(
        engine,
        r#"
import importlib
failures = []
for name in ("broken", "broken"):
    try:
        importlib.import_module(name)
    except KeyError as error:
        failures.append(error)
if sys.version_info >= (3, 11):
    raise ExceptionGroup("several", failures)
raise failures[0]
"#,
    )
    .file("broken.py", "raise KeyError('inner')\n")
    .start();
    nginx.get("/").expect(500);
    nginx.wait_log("KeyError: 'inner'");
    let log = nginx.error_log();
    assert!(log.contains("in import_module") && log.contains("/broken.py\", line 1"), "{log}");
    assert!(!log.contains("<frozen importlib"), "{log}");
}

fn frames_are_logged_without_the_traceback_module(engine: Engine) {
    let nginx = does(
        engine,
        r#"
import sys
# Its import fails, as it does when no descriptor is left.
sys.modules["traceback"] = None
raise ValueError("the cause")
"#,
    )
    .errors_expected()
    .start();
    nginx.get("/").expect(500);
    nginx.wait_log("(the traceback could not be formatted)");
    nginx.wait_log("Traceback (most recent call last):");
    nginx.wait_log("in application");
    nginx.wait_log("ValueError: the cause");
}
