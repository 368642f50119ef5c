//! The submodules of the Python package `ngx_wsgi` in a worker, whose own module of that name stays.

use crate::directives::make_venv;
use crate::harness::{Engine, Nginx, Site, both_engines, wait_for};

/// The directory of packages in a virtual environment.
const PACKAGES: &str = concat!("lib/python", env!("WSGI_PYTHON_VERSION"), "/site-packages");

both_engines!(
    submodules_come_from_the_python_path,
    submodules_come_from_the_virtual_environment,
    submodules_come_from_a_directory_that_the_application_adds,
    the_module_of_the_worker_stays_when_a_pth_file_imports_the_package,
    submodules_stay_when_a_script_is_loaded_again,
);

/// What an application sees: the module of the worker, which has the number of its process, and a submodule.
const SEEN: &str = "[ngx_wsgi.worker_pid == os.getpid(), 'is_package' in dir(ngx_wsgi), submodule.name, sub.name]";

/// The response if the submodule is that of the package of this name.
fn right(name: &str) -> String {
    format!("[True, False, '{name}', '{name}']")
}

/// An application that imports a submodule after other code, and responds with [`SEEN`].
fn app(code: &str) -> String {
    format!(
        "
import os, sys
{code}
import ngx_wsgi
import ngx_wsgi.submodule.inner as sub
from ngx_wsgi import submodule
def application(environ, start_response):
    body = str({SEEN}).encode()
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [body]
"
    )
}

/// Adds a package `ngx_wsgi` in a directory below the prefix.
fn package(site: Site, directory: &str, name: &str) -> Site {
    site.file(&format!("{directory}/ngx_wsgi/__init__.py"), "is_package = True\n")
        .file(&format!("{directory}/ngx_wsgi/submodule/__init__.py"), &format!("name = '{name}'\n"))
        .file(&format!("{directory}/ngx_wsgi/submodule/inner.py"), "from . import name\n")
}

#[track_caller]
fn assert_seen(nginx: &Nginx, target: &str, name: &str) {
    assert_eq!(nginx.get(target).expect(200).text(), right(name), "{target}");
}

fn submodules_come_from_the_python_path(engine: Engine) {
    let site = package(Site::new(engine).app(&app("")), "packages", "path");
    let nginx = site.http("wsgi_python_path @prefix@/packages;").start();
    assert_seen(&nginx, "/", "path");
}

fn submodules_come_from_the_virtual_environment(engine: Engine) {
    let site = Site::new(engine).app(&app("")).http("wsgi_python_home @prefix@/venv;");
    make_venv(&site, "venv");
    let nginx = package(site, &format!("venv/{PACKAGES}"), "home").start();
    assert_seen(&nginx, "/", "home");
}

fn submodules_come_from_a_directory_that_the_application_adds(engine: Engine) {
    let code = "
import ngx_wsgi
try:
    import ngx_wsgi.submodule
except ModuleNotFoundError as error:
    assert error.name == 'ngx_wsgi.submodule', error
    sys.path.append('@prefix@/packages')
";
    let nginx = package(Site::new(engine).app(&app(code)), "packages", "added").start();
    assert_seen(&nginx, "/", "added");
}

/// Python runs such files before the module of the worker is there.
fn the_module_of_the_worker_stays_when_a_pth_file_imports_the_package(engine: Engine) {
    let site = Site::new(engine).app(&app("")).http("wsgi_python_home @prefix@/venv;");
    make_venv(&site, "venv");
    let site = site.file(&format!("venv/{PACKAGES}/early.pth"), "import ngx_wsgi.submodule\n");
    let nginx = package(site, &format!("venv/{PACKAGES}"), "early").start();
    assert_seen(&nginx, "/", "early");
}

#[test]
fn submodules_are_found_in_each_interpreter() {
    let site = ["/main", "/one", "/two"].into_iter().fold(Site::new(Engine::Threads), |site, location| {
        let interpreter = location.trim_start_matches('/');
        let (name, directory) = (format!("{interpreter}.py"), format!("packages/{interpreter}"));
        let directives = if interpreter == "main" {
            format!("wsgi_pass {name}; wsgi_use_main_interpreter on;")
        } else {
            format!("wsgi_pass {name}; wsgi_interpreter {interpreter};")
        };
        package(site, &directory, interpreter)
            .file(&name, &app(&format!("sys.path.append('@prefix@/{directory}')")))
            .location(location, &directives)
    });
    let nginx = site.http("wsgi_enable_subinterpreters on;").start();
    for interpreter in ["main", "one", "two"] {
        assert_seen(&nginx, &format!("/{interpreter}"), interpreter);
    }
}

fn submodules_stay_when_a_script_is_loaded_again(engine: Engine) {
    let site = package(Site::new(engine).app(&app("")), "packages", "again");
    let nginx = site.http("wsgi_python_path @prefix@/packages; wsgi_script_reloading on;").start();
    assert_seen(&nginx, "/", "again");
    nginx.write("app.py", &app("").replace("body = ", "body = b'edited ' + "));
    let edited = format!("edited {}", right("again"));
    wait_for("the edited script", || (nginx.get("/").expect(200).text() == edited).then_some(()));
}

#[test]
fn a_missing_package_is_a_missing_module() {
    let nginx = Site::plain().app(&app("")).errors_expected().start();
    nginx.get("/").expect(500);
    nginx.wait_log("ModuleNotFoundError: No module named 'ngx_wsgi.submodule'");
}
