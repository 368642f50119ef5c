//! Environment, module path and options of Python.

use crate::directives::make_venv;
use crate::harness::{Engine, Nginx, PYTHON, Site, both_engines, is_root, python_is_for_everybody};
use serde_json::Value;
use std::process::Command;

both_engines!(
    wsgi_env_is_there_at_import,
    nginxs_own_env_is_there_too,
    usual_variables_are_there_though_nginx_clears_them,
    python_path_comes_first,
    pth_files_of_the_python_path_count,
    python_home_is_the_environment_used,
    python_executable_is_the_environment_used,
    optimize_is_as_the_options_of_python,
    an_interpreter_imports_no_more_than_it_needs,
);

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

fn an_interpreter_imports_no_more_than_it_needs(engine: Engine) {
    // Without `json`, which imports modules that must not be among them.
    let app = r#"
import sys
FOUND = "\n".join(sorted(set(sys.modules) - {__name__}))

def application(environ, start_response):
    start_response("200 OK", [])
    return [FOUND.encode()]
"#;
    let nginx = Site::new(engine).app(app).start();
    let found = nginx.get("/").expect(200).text();

    let code = "
import atexit, faulthandler, functools, importlib.machinery, io, site, sys, threading, time, types, zlib
print(*sys.modules)
";
    // As in nginx, whose environment has no locale.
    let environment = [("LC_ALL", "C"), ("PYTHONCOERCECLOCALE", "0")];
    let output = Command::new(PYTHON).args(["-X", "utf8", "-c", code]).envs(environment).output().unwrap();
    let known = String::from_utf8(output.stdout).unwrap();
    let known: Vec<_> = known.split_whitespace().collect();
    let more: Vec<_> = found.lines().filter(|name| !known.contains(name)).collect();
    assert_eq!(more, ["ngx_wsgi"]);
}
