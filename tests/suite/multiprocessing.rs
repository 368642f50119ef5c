//! Processes that an application starts with multiprocessing: they find its functions and classes.

use crate::harness::{Engine, Nginx, PYTHON, Site, both_engines, is_root, python_is_for_everybody, venv};
use serde_json::json;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

both_engines!(
    functions_of_a_script_run_in_pools,
    functions_of_a_script_run_in_executors,
    a_process_runs_a_function_of_a_script,
    objects_of_a_script_go_to_and_fro,
    a_process_starts_others,
    any_name_of_a_script_will_do,
    scripts_of_packages_and_modules_are_found,
    several_scripts_are_found,
    a_virtual_environment_is_that_of_the_processes,
    a_script_that_cannot_be_imported_there_is_an_error,
    a_pool_that_an_import_makes_is_an_error_there,
    without_an_executable_there_is_an_error,
    a_prefix_is_that_of_the_processes,
    a_closed_working_directory_is_no_obstacle,
);

/// The first lines of scripts here. `result()` returns the value to send as JSON.
const SCRIPT: &str = r#"
import concurrent.futures
import json
import multiprocessing
import os
import sys

METHODS = ("spawn", "forkserver")
PATIENCE = 40

def square(number):
    return number * number

def application(environ, start_response):
    body = json.dumps(result()).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]

def in_pools(function, arguments):
    results = []
    for method in METHODS:
        with multiprocessing.get_context(method).Pool(1) as pool:
            results.append(pool.map_async(function, arguments).get(PATIENCE))
    return results
"#;

const SQUARES: &str = "def result(): return in_pools(square, [1, 2, 3])\n";

fn script(source: &str) -> String {
    format!("{SCRIPT}\n{source}")
}

fn site(engine: Engine, source: &str) -> Site {
    // Standard error of a process is in the error log unchanged.
    Site::new(engine).app(&script(source)).errors_expected()
}

#[track_caller]
fn result(nginx: &Nginx, path: &str) -> serde_json::Value {
    nginx.get(path).expect(200).json()
}

fn squares() -> serde_json::Value {
    json!([[1, 4, 9], [1, 4, 9]])
}

fn functions_of_a_script_run_in_pools(engine: Engine) {
    let nginx = site(engine, SQUARES).start();
    assert_eq!(result(&nginx, "/"), squares());
}

fn functions_of_a_script_run_in_executors(engine: Engine) {
    let source = r#"
def result():
    results = []
    for method in METHODS:
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
            results.append(list(executor.map(square, [1, 2, 3], timeout=PATIENCE)))
    return results
"#;
    let nginx = site(engine, source).start();
    assert_eq!(result(&nginx, "/"), squares());
}

fn a_process_runs_a_function_of_a_script(engine: Engine) {
    let source = r#"
def put(queue, number):
    queue.put([square(number), os.getpid() != number])

def result():
    results = []
    for method in METHODS:
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=put, args=(queue, os.getpid()))
        process.start()
        results.append(queue.get(timeout=PATIENCE) == [square(os.getpid()), True])
        process.join(PATIENCE)
        results.append(process.exitcode)
    return results
"#;
    let nginx = site(engine, source).start();
    assert_eq!(result(&nginx, "/"), json!([true, 0, true, 0]));
}

fn objects_of_a_script_go_to_and_fro(engine: Engine) {
    let source = r#"
class Point:
    def __init__(self, x):
        self.x = x
    def moved(self):
        return Point(self.x + 1)

def result():
    moved = in_pools(Point.moved, [Point(1), Point(2)])
    return [[point.x for point in points if type(point) is Point] for points in moved]
"#;
    let nginx = site(engine, source).start();
    assert_eq!(result(&nginx, "/"), json!([[2, 3], [2, 3]]));
}

fn a_process_starts_others(engine: Engine) {
    let source = r#"
def spread(numbers):
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return list(executor.map(square, numbers, timeout=PATIENCE))

def result():
    results = []
    for method in METHODS:
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
            results.append(executor.submit(spread, [1, 2, 3]).result(PATIENCE))
    return results
"#;
    let nginx = site(engine, source).start();
    assert_eq!(result(&nginx, "/"), squares());
}

fn any_name_of_a_script_will_do(engine: Engine) {
    let mut site = Site::new(engine).errors_expected();
    for (location, file) in
        [("/a", "my.site.wsgi"), ("/b", "größe-1.py"), ("/c", "no_extension"), ("/d", "two words.py")]
    {
        site = site.file(file, &script(SQUARES)).location(location, &format!("wsgi_pass \"@prefix@/{file}\";"));
    }
    let nginx = site.start();
    for path in ["/a", "/b", "/c", "/d"] {
        assert_eq!(result(&nginx, path), squares(), "{path}");
    }
}

fn scripts_of_packages_and_modules_are_found(engine: Engine) {
    let nginx = Site::new(engine)
        .file("package/__init__.py", "")
        .file("package/script.py", &script(SQUARES))
        .file("package/module.py", &script(SQUARES))
        .http("wsgi_python_path @prefix@;")
        .location("/script", "wsgi_pass package/script.py;")
        .location("/module", "wsgi_pass package.module;")
        .errors_expected()
        .start();
    assert_eq!(result(&nginx, "/script"), squares());
    assert_eq!(result(&nginx, "/module"), squares());
}

/// Of the same name, and one is loaded when processes for the other have been started already.
fn several_scripts_are_found(engine: Engine) {
    let source =
        |name: &str| script(&format!("def name(_): return \"{name}\"\ndef result(): return in_pools(name, [0])\n"));
    let nginx = Site::new(engine)
        .app_at("/a", "a/app.py", &source("a"))
        .file("b/app.py", &source("b"))
        .location("/b", "wsgi_pass b/app.py; wsgi_preload off;")
        .errors_expected()
        .start();
    assert_eq!(result(&nginx, "/a"), json!([["a"], ["a"]]));
    assert_eq!(result(&nginx, "/b"), json!([["b"], ["b"]]));
    assert_eq!(result(&nginx, "/a"), json!([["a"], ["a"]]));
}

fn a_virtual_environment_is_that_of_the_processes(engine: Engine) {
    let source = r#"
import flask

def where(_):
    return [sys.prefix, flask.__file__]

def result():
    return in_pools(where, [0]) == [[where(0)]] * 2
"#;
    let nginx = site(engine, source).http(&format!("wsgi_python_home {};", venv().display())).start();
    assert_eq!(result(&nginx, "/"), json!(true));
}

fn a_script_that_cannot_be_imported_there_is_an_error(engine: Engine) {
    let source = r#"
if os.environ.setdefault("PARENT", str(os.getpid())) != str(os.getpid()):
    raise LookupError("not in a child")

def result():
    results = []
    for method in METHODS:
        context = multiprocessing.get_context(method)
        with context.Pool(1) as pool:
            try:
                pool.map_async(square, [1]).get(PATIENCE)
            except Exception as error:
                results.append([type(error).__name__, str(error)])
        process = context.Process(target=square, args=(1,))
        process.start()
        process.join(PATIENCE)
        results.append(process.exitcode)
    return results
"#;
    let nginx = site(engine, source).start();
    let script = nginx.prefix().join("app.py").display().to_string();
    let error = format!("'{script}' cannot be imported in a child process: LookupError: not in a child");
    let error = json!(["ImportError", error]);
    assert_eq!(result(&nginx, "/"), json!([error, 1, error, 1]));
}

/// In the pool's own processes the import makes another one, which Python refuses.
fn a_pool_that_an_import_makes_is_an_error_there(engine: Engine) {
    let source = r#"
pool = multiprocessing.get_context("spawn").Pool(1)

def result():
    try:
        return pool.map_async(square, [1]).get(PATIENCE)
    except ImportError as error:
        return str(error).partition(": ")[2]
"#;
    let nginx = site(engine, source).start();
    assert_eq!(result(&nginx, "/"), json!("AssertionError: daemonic processes are not allowed to have children"));
}

/// A prefix with the libraries of Python, and with its program or without.
fn in_prefix(engine: Engine, has_program: bool) -> Nginx {
    let source = r#"
def prefix(_):
    return [sys.prefix, os.path.basename(sys.executable)]

def result():
    try:
        return in_pools(prefix, [0])
    except TypeError:
        return sys.executable
"#;
    let version = env!("WSGI_PYTHON_VERSION");
    let site = site(engine, source).http("wsgi_python_home @prefix@/home;");
    let of_python = |expression: &str| {
        let code = format!("import sys, os; print({expression}, end='')");
        let output = std::process::Command::new(PYTHON).args(["-c", &code]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let home = site.prefix().join("home");
    for directory in ["lib", "bin"] {
        fs::create_dir_all(home.join(directory)).unwrap();
    }
    let link = |from: String, to: String| std::os::unix::fs::symlink(from, home.join(to)).unwrap();
    link(of_python("os.path.dirname(os.__file__)"), format!("lib/python{version}"));
    if has_program {
        // A link would lead out of the prefix again.
        let program = home.join(format!("bin/python{version}"));
        let library = of_python("__import__('sysconfig').get_config_var('LIBDIR')");
        let environment = format!("LD_LIBRARY_PATH={library} PYTHONHOME={}", home.display());
        let line = format!("#!/bin/bash\nexport {environment}\nexec -a \"$0\" {PYTHON} \"$@\"\n");
        fs::write(&program, line).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    }
    site.start()
}

fn without_an_executable_there_is_an_error(engine: Engine) {
    let nginx = in_prefix(engine, false);
    assert_eq!(result(&nginx, "/"), json!(null));
}

fn a_prefix_is_that_of_the_processes(engine: Engine) {
    let nginx = in_prefix(engine, true);
    let home = nginx.prefix().join("home");
    let process = json!([[home, concat!("python", env!("WSGI_PYTHON_VERSION"))]]);
    assert_eq!(result(&nginx, "/"), json!([process, process]));
}

/// nginx is started in a directory of root's, and its workers have another user.
fn a_closed_working_directory_is_no_obstacle(engine: Engine) {
    if !is_root() || !python_is_for_everybody() {
        return;
    }
    let site = site(engine, SQUARES).user("nobody nogroup");
    let closed = site.prefix().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    let nginx = site.wrapped_in(&["env", "-C", closed.to_str().unwrap()]).start();
    assert_eq!(result(&nginx, "/"), squares());
}

#[test]
fn sub_interpreters_start_processes() {
    let minor: u32 = env!("WSGI_PYTHON_VERSION").rsplit('.').next().unwrap().parse().unwrap();
    // Before Python 3.13 too much of it refuses an interpreter with a GIL of its own.
    let gils = if minor >= 13 { &["shared", "own"][..] } else { &["shared"] };
    for gil in gils {
        let directives = format!("wsgi_enable_subinterpreters on; wsgi_interpreter_gil {gil};");
        let nginx = site(Engine::Threads, SQUARES).http(&directives).start();
        assert_eq!(result(&nginx, "/"), squares(), "{gil}");
    }
}
