//! Sub-interpreters: environment and modules of each are its own.

use crate::harness::{Site, venv};
use crate::interpreters::{ON, found, gils, minor, reporting};
use serde_json::json;

/// Each environment has the values of the configuration and the interpreter's own changes, and no others.
#[test]
fn each_interpreter_has_an_environment_of_its_own() {
    let source = reporting(
        r#"
import ctypes
import subprocess

at_import = os.environ.get("MODE")
os.environ["WRITTEN"] = at_import or "none"
os.environ.setdefault("FIRST", ngx_wsgi.interpreter)

def child(*arguments, **options):
    return subprocess.run(["/bin/sh", "-c", "echo $MODE $WRITTEN $FIRST"], capture_output=True, text=True, **options).stdout

def report(environ):
    # In one with a GIL of its own before 3.13, ctypes is not there.
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    in_c = [(libc.getenv(name) or b"").decode() for name in (b"MODE", b"WRITTEN", b"GIVEN", b"PATH")]
    return [at_import, os.environ["WRITTEN"], os.environ["FIRST"], os.environ["GIVEN"], os.environ["PATH"], in_c, child()]
"#,
    );
    for gil in gils() {
        if *gil == "own" && minor() < 13 {
            continue;
        }
        let gil = format!("wsgi_interpreter_gil {gil};");
        let nginx = Site::plain()
            .file("app.py", &source)
            .main("env GIVEN=by-nginx;")
            .http(ON)
            .location("/a", &format!("wsgi_pass app.py; wsgi_interpreter a; wsgi_env MODE one; {gil}"))
            .location("/b", &format!("wsgi_pass app.py; wsgi_interpreter b; wsgi_env MODE two; {gil}"))
            .location("/c", &format!("wsgi_pass app.py; wsgi_interpreter c; wsgi_env PATH /opt; {gil}"))
            .location("/main", "wsgi_pass app.py; wsgi_use_main_interpreter on; wsgi_env MODE three;")
            .start();
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        // The process has what nginx gives it, and what the main interpreter does to it.
        assert_eq!(
            found(&nginx, "/main"),
            json!([
                "three",
                "three",
                "main",
                "by-nginx",
                path,
                ["three", "three", "by-nginx", path],
                "three three main\n"
            ])
        );
        let in_c = json!(["three", "three", "by-nginx", path]);
        assert_eq!(found(&nginx, "/a"), json!(["one", "one", "a", "by-nginx", path, in_c, "one one a\n"]));
        assert_eq!(found(&nginx, "/b"), json!(["two", "two", "b", "by-nginx", path, in_c, "two two b\n"]));
        assert_eq!(found(&nginx, "/c"), json!([null, "none", "c", "by-nginx", "/opt", in_c, "none c\n"]));
    }
}

/// Every way to change `os.environ`, and every way to start a program that gets it.
#[test]
fn the_environment_is_a_whole_one_and_programs_get_it() {
    let source = reporting(
        r#"
import multiprocessing
import subprocess

def read(name):
    with open(name) as file:
        return file.read()

def raised(function):
    try:
        function()
    except Exception as error:
        return type(error).__name__
    return "nothing"

def report(environ):
    os.environ["MODE"] = "x"
    results = {}
    results["run"] = subprocess.check_output(["/bin/sh", "-c", "echo $MODE"], text=True)
    results["close_fds"] = subprocess.check_output(["/bin/sh", "-c", "echo $MODE"], text=True, close_fds=False)
    results["env"] = subprocess.check_output(["/bin/sh", "-c", "echo $MODE"], text=True, env={"MODE": "given"})
    with os.popen("echo $MODE") as pipe:
        results["popen"] = pipe.read()
    results["system"] = [os.system("test $MODE = x"), os.waitstatus_to_exitcode(os.system("exit 3")), os.system("kill -9 $$")]
    shell = ["/bin/sh", "-c", "echo $MODE > @prefix@/spawned"]
    os.waitpid(os.posix_spawn("/bin/sh", shell, os.environ), 0)
    results["posix_spawn"] = read("@prefix@/spawned")
    shell = ["/bin/sh", "-c", "echo $MODE > @prefix@/multiprocessing"]
    process = multiprocessing.get_context("spawn").Process(target=subprocess.call, args=(shell,))
    process.start()
    process.join()
    process.close()
    results["multiprocessing"] = read("@prefix@/multiprocessing")
    results["bytes"] = [os.environb[b"MODE"].decode(), os.getenv("MODE"), os.getenvb(b"MODE").decode()]
    os.environb[b"MODE"] = b"y"
    results["from bytes"] = os.environ["MODE"]
    os.putenv("MODE", "z")
    results["putenv"] = subprocess.check_output(["/bin/sh", "-c", "echo $MODE"], text=True)
    os.unsetenv("MODE")
    results["unsetenv"] = subprocess.check_output(["/bin/sh", "-c", "echo $MODE"], text=True)
    os.environ["MODE"] = "u"
    del os.environ["MODE"]
    results["del"] = ["MODE" in os.environ, os.environ.pop("MODE", "gone"), raised(lambda: os.environ.pop("MODE"))]
    results["update"] = (os.environ.update(A="1", B="2"), os.environ["A"] + os.environ["B"])[1]
    results["copy"] = type(os.environ.copy()).__name__
    results["wrong"] = [
        raised(lambda: os.environ.__setitem__("A=B", "x")),
        raised(lambda: os.environ.__setitem__("A\0B", "x")),
        raised(lambda: os.environ.__setitem__("", "x")),
        raised(lambda: os.environ.__setitem__("A", 1)),
        raised(lambda: os.environ.__delitem__("MISSING")),
    ]
    count = len(os.environ)
    os.environ.clear()
    results["clear"] = [count > 3, len(os.environ), subprocess.check_output(["/usr/bin/env"], text=True)]
    return results
"#,
    );
    let nginx = Site::plain().app(&source).http(ON).start();
    let results = found(&nginx, "/");
    assert_eq!(
        results,
        json!({
            "run": "x\n",
            "close_fds": "x\n",
            "env": "given\n",
            "popen": "x\n",
            "system": [0, 3, 9],
            "posix_spawn": "x\n",
            "multiprocessing": "x\n",
            "bytes": ["x", "x", "x"],
            "from bytes": "y",
            "putenv": "z\n",
            "unsetenv": "\n",
            "del": [false, "gone", "KeyError"],
            "update": "12",
            "copy": "dict",
            "wrong": ["ValueError", "ValueError", "ValueError", "TypeError", "KeyError"],
            "clear": [true, 0, ""],
        })
    );
}

/// `exec` replaces a process, so it is looked at in one that `multiprocessing` has started and one that has only a stub.
#[test]
fn exec_passes_the_environment_of_the_interpreter() {
    let source = reporting(
        r#"
def report(environ):
    os.environ["MODE"] = "x"
    seen = []
    def execve(path, argv, env):
        seen.append([path, list(argv), env["MODE"]])
    # The functions without an environment all end in this one.
    for name, cell in zip(os.execv.__code__.co_freevars, os.execv.__closure__):
        if name == "execve":
            cell.cell_contents = execve
    os.execv("/bin/true", ["true"])
    os.execl("/bin/true", "true", "a")
    return seen
"#,
    );
    let nginx = Site::plain().app(&source).http(ON).start();
    assert_eq!(found(&nginx, "/"), json!([["/bin/true", ["true"], "x"], ["/bin/true", ["true", "a"], "x"]]));
}

/// Two projects with the same module names, of settings, URLs and databases of their own.
#[test]
fn two_django_projects_do_not_see_each_other() {
    let project = |site: Site, directory: &str, word: &str| {
        site.file(&format!("{directory}/project/__init__.py"), "")
            .file(
                &format!("{directory}/project/settings.py"),
                &format!(
                    r#"
SECRET_KEY = "{word}"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "project.urls"
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": "@prefix@/{directory}/db.sqlite3"}}}}
USE_TZ = True
TIME_ZONE = "{zone}"
"#,
                    zone = if word == "one" { "Europe/Berlin" } else { "Asia/Tokyo" }
                ),
            )
            .file(
                &format!("{directory}/project/urls.py"),
                &format!(
                    r#"
import os
from django.conf import settings
from django.db import connection
from django.http import JsonResponse
from django.urls import path, reverse
from django.utils import timezone

def view(request):
    with connection.cursor() as cursor:
        cursor.execute("create table if not exists words (word text)")
        cursor.execute("insert into words values (%s)", ["{word}"])
        cursor.execute("select word from words")
        words = sorted({{row[0] for row in cursor.fetchall()}})
    return JsonResponse({{
        "settings": os.environ["DJANGO_SETTINGS_MODULE"], "key": settings.SECRET_KEY, "words": words,
        "url": reverse("{word}"), "file": settings.DATABASES["default"]["NAME"],
        "zone": timezone.get_current_timezone_name(),
    }})

urlpatterns = [path("{directory}/{word}/", view, name="{word}")]
"#
                ),
            )
            .file(&format!("{directory}/project/{word}_settings.py"), "from project.settings import *\n")
            .file(
                &format!("{directory}/project/wsgi.py"),
                &format!(
                    r#"
import os
from django.core.wsgi import get_wsgi_application
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.{word}_settings")
application = get_wsgi_application()
"#
                ),
            )
    };
    let site = Site::plain().http(&format!("wsgi_python_home {};", venv().display())).http(ON);
    let site = project(project(site, "a", "one"), "b", "two");
    let nginx = site
        .location("/a/", "wsgi_pass a/project/wsgi.py; wsgi_script_name \"\";")
        .location("/b/", "wsgi_pass b/project/wsgi.py; wsgi_script_name \"\";")
        .start();
    for _ in 0..3 {
        for (directory, word, zone) in [("a", "one", "Europe/Berlin"), ("b", "two", "Asia/Tokyo")] {
            let database = nginx.prefix().join(directory).join("db.sqlite3");
            assert_eq!(
                found(&nginx, &format!("/{directory}/{word}/")),
                json!({
                    "settings": format!("project.{word}_settings"), "key": word, "words": [word],
                    "url": format!("/{directory}/{word}/"), "file": database, "zone": zone,
                })
            );
        }
    }
    nginx.get("/a/two/").expect(404);
    nginx.get("/b/one/").expect(404);
}
