//! Applications that would get modules or Django settings of another one of their interpreter.

use crate::harness::{Check, Engine, Nginx, Site, both_engines, venv, wait_for};

both_engines!(
    a_worker_does_not_serve_the_second_of_two,
    an_import_within_a_function_gets_no_file_of_another,
    an_application_that_cannot_be_loaded_leaves_no_directory_behind,
    an_edited_script_that_needs_a_module_of_another_is_not_taken,
    an_import_by_a_framework_gets_no_file_of_another,
    settings_come_back_for_the_first_when_others_are_loaded,
);

/// An application that responds with an expression, after other code.
fn app(code: &str, expression: &str) -> String {
    format!(
        "
{code}
def application(environ, start_response):
    body = str({expression}).encode()
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [body]
"
    )
}

/// Django's habit.
fn with_settings(settings: &str) -> String {
    app(
        &format!("import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', '{settings}')"),
        "os.environ['DJANGO_SETTINGS_MODULE']",
    )
}

/// Two applications of two directories, below `/a` and `/b`.
fn two(site: Site, one: &str, other: &str) -> Site {
    site.location("/a", &format!("wsgi_pass a/{one};")).location("/b", &format!("wsgi_pass b/{other};"))
}

fn checked() -> Site {
    Site::plain().http("wsgi_check on;")
}

/// Refused: the line that says it is about the application at `/b`, and the lines below name both.
#[track_caller]
fn assert_refused(check: &Check, problem: &str, sides: [&str; 2]) {
    assert!(!check.ok, "accepted: {}", check.conf_text);
    let prefix = check.conf().parent().and_then(|conf| conf.parent()).unwrap().to_str().unwrap();
    let lines: Vec<_> = check.output.lines().collect();
    let first = lines.iter().find(|line| line.contains("[emerg] wsgi_pass")).unwrap_or(&"");
    let remedy = "\"wsgi_enable_subinterpreters on;\" gives each application its own";
    assert!(first.contains(problem) && first.ends_with(remedy), "{problem}: {}", check.output);
    for (side, location) in sides.into_iter().zip(["/a", "/b"]) {
        let line =
            1 + check.conf_text.lines().position(|line| line.contains(&format!("location {location} "))).unwrap();
        let place = format!("in {prefix}/conf/nginx.conf:{line}");
        let side = side.replace("@prefix@", prefix);
        let said = lines.iter().any(|line| line.contains(&side) && line.ends_with(&place));
        assert!(said, "wanted: {side} … {place}\ngot: {}", check.output);
    }
}

/// Two projects whose packages have one name, as Django's tool makes them.
fn two_packages(site: Site) -> Site {
    let site = ["a", "b"].into_iter().fold(site, |site, directory| {
        site.file(&format!("{directory}/mysite/__init__.py"), "")
            .file(&format!("{directory}/mysite/name.py"), &format!("name = '{directory}'\n"))
            .file(&format!("{directory}/mysite/wsgi.py"), &app("from mysite.name import name", "name"))
    });
    two(site, "mysite/wsgi.py", "mysite/wsgi.py")
}

/// Two applications that import a module of one name, each from its directory.
fn two_modules(site: Site, one: &str, other: &str) -> Site {
    let site = site
        .file("a/utils.py", "name = 'a'\n")
        .file("b/utils.py", "name = 'b'\n")
        .file("a/one.py", one)
        .file("b/other.py", other);
    two(site, "one.py", "other.py")
}

const NOW: &str = "import utils";
const LATE: &str = "def late():\n    import utils\n    return utils";

const MODULES: &str = "two applications of one interpreter have different modules of the name";
const SETTINGS: &str = "two applications of one interpreter have different settings of Django";

// ---- nginx -t -------------------------------------------------------------------------------------------------------

#[test]
fn two_packages_of_one_name_are_refused() {
    let sides = ["@prefix@/a/mysite", "@prefix@/b/mysite"];
    for path in ["", "wsgi_python_path @prefix@/a @prefix@/b;", "wsgi_python_path @prefix@/b @prefix@/a;"] {
        assert_refused(&two_packages(checked().http(path)).check(), &format!("{MODULES} 'mysite'"), sides);
    }
}

#[test]
fn two_modules_of_one_name_are_refused_however_they_are_imported() {
    let ways = [
        "import utils",
        "from utils import name",
        "try:\n    from utils import not_there\nexcept ImportError:\n    pass",
        "import importlib\nfor part in ['tils']:\n    importlib.import_module('u' + part)",
        "__import__('utils')",
    ];
    let sides = ["@prefix@/a/utils.py", "@prefix@/b/utils.py"];
    for way in ways {
        let site = two_modules(checked(), &app(NOW, "utils.name"), &app(way, "0"));
        assert_refused(&site.check(), &format!("{MODULES} 'utils'"), sides);
    }
    // It is enough that one of them does; the other may at any time.
    for (one, other) in [(NOW, LATE), (LATE, NOW), (NOW, ""), ("", NOW)] {
        let site = two_modules(checked(), &app(one, "0"), &app(other, "0"));
        assert_refused(&site.check(), &format!("{MODULES} 'utils'"), sides);
    }
}

#[test]
fn directories_that_a_script_adds_to_the_path_are_its_own() {
    let script =
        |directory: &str| app(&format!("import sys\nsys.path.append('@prefix@/{directory}')\nimport utils"), "0");
    let site = two(checked(), "apache/one.py", "apache/other.py")
        .file("a/utils.py", "")
        .file("b/utils.py", "")
        .file("a/apache/one.py", &script("a"))
        .file("b/apache/other.py", &script("b"));
    assert_refused(&site.check(), &format!("{MODULES} 'utils'"), ["@prefix@/a/utils.py", "@prefix@/b/utils.py"]);
}

#[test]
fn the_order_of_directories_is_as_without_others() {
    let script = |directory: &str| {
        format!(
            "import sys\nsys.path.insert(0, '@prefix@/{directory}/first')\nimport utils\n\
             assert utils.__file__ == '@prefix@/{directory}/first/utils.py', utils\n"
        )
    };
    let site = |one: &str| {
        let site = checked().file("b/utils.py", "").file("b/first/utils.py", "").file("a/one.py", one);
        two(site.file("b/other.py", &app(&script("b"), "0")), "one.py", "other.py")
    };
    site(&app("", "0")).check().assert_ok();
    let adds = app("import sys\nsys.path.append('@prefix@/b')", "0");
    let sides = ["@prefix@/b/utils.py", "@prefix@/b/first/utils.py"];
    assert_refused(&site(&adds).check(), &format!("{MODULES} 'utils'"), sides);
}

#[test]
fn a_module_that_hides_one_for_all_is_refused() {
    let site =
        checked().http("wsgi_python_path @prefix@/common;").file("common/utils.py", "").file("a/one.py", &app("", "0"));
    let site = two(site.file("b/utils.py", "").file("b/other.py", &app(NOW, "0")), "one.py", "other.py");
    let sides = ["@prefix@/common/utils.py", "@prefix@/b/utils.py"];
    assert_refused(&site.check(), &format!("{MODULES} 'utils'"), sides);
}

#[test]
fn a_refused_import_counts_also_if_the_application_goes_on_without() {
    let guarded = "try:\n    import utils\nexcept ImportError:\n    pass";
    let site = two_modules(checked(), &app("", "0"), &app(guarded, "0"));
    assert_refused(&site.check(), &format!("{MODULES} 'utils'"), ["@prefix@/a/utils.py", "@prefix@/b/utils.py"]);
}

#[test]
fn scripts_of_one_directory_are_distinguished() {
    let script =
        |directory: &str, code: &str| app(&format!("import sys\nsys.path.append('@prefix@/{directory}')\n{code}"), "0");
    for (one, other) in [(NOW, NOW), (NOW, LATE), (LATE, NOW)] {
        let site = checked()
            .file("a/utils.py", "")
            .file("b/utils.py", "")
            .file("scripts/one.py", &script("a", one))
            .file("scripts/other.py", &script("b", other))
            .location("/a", "wsgi_pass scripts/one.py;")
            .location("/b", "wsgi_pass scripts/other.py;");
        assert_refused(&site.check(), &format!("{MODULES} 'utils'"), ["@prefix@/a/utils.py", "@prefix@/b/utils.py"]);
    }
}

#[test]
fn a_module_by_its_name_is_not_that_of_a_script() {
    let site = checked()
        .http("wsgi_python_path @prefix@/b;")
        .file("a/utils.py", "")
        .file("b/utils.py", "")
        .file("a/one.py", &app(NOW, "0"))
        .file("b/shop.py", &app(NOW, "0"))
        .location("/a", "wsgi_pass a/one.py;")
        .location("/b", "wsgi_pass shop;");
    assert_refused(&site.check(), &format!("{MODULES} 'utils'"), ["@prefix@/a/utils.py", "@prefix@/b/utils.py"]);
}

#[test]
fn directories_without_init_are_distinguished_by_their_modules() {
    let site = |module: &str| {
        let site = checked()
            .file("a/conf/one.py", "")
            .file(&format!("b/conf/{module}.py"), "")
            .file("a/one.py", &app("import conf.one", "0"))
            .file("b/other.py", &app(&format!("from conf import {module}"), "0"));
        two(site, "one.py", "other.py")
    };
    site("two").check().assert_ok();
    let sides = ["@prefix@/a/conf/one.py", "@prefix@/b/conf/one.py"];
    assert_refused(&site("one").check(), &format!("{MODULES} 'conf.one'"), sides);
    // The other part of it is in a directory of both.
    let common = checked()
        .http("wsgi_python_path @prefix@/common;")
        .file("common/conf/two.py", "")
        .file("a/conf/one.py", "")
        .file("a/one.py", &app("import conf.one", "0"))
        .file("b/other.py", &app("import conf.two", "0"));
    two(common, "one.py", "other.py").check().assert_ok();
}

#[test]
fn two_django_projects_are_refused() {
    let site = |one: &str, other: &str| {
        let site = checked().file("a/one.py", &with_settings(one)).file("b/other.py", &with_settings(other));
        two(site.file("a/same/settings.py", "").file("b/same/settings.py", ""), "one.py", "other.py")
    };
    let sides = ["DJANGO_SETTINGS_MODULE=one.settings", "DJANGO_SETTINGS_MODULE=other.settings"];
    assert_refused(&site("one.settings", "other.settings").check(), SETTINGS, sides);
    let sides = ["(@prefix@/a/same/settings.py)", "(@prefix@/b/same/settings.py)"];
    assert_refused(&site("same.settings", "same.settings").check(), SETTINGS, sides);
    let assigned = app("import os\nos.environ['DJANGO_SETTINGS_MODULE'] = 'late.settings'", "0");
    let site = site("one.settings", "other.settings").file("b/other.py", &assigned);
    let sides = ["DJANGO_SETTINGS_MODULE=one.settings", "DJANGO_SETTINGS_MODULE=late.settings"];
    assert_refused(&site.check(), SETTINGS, sides);
}

#[test]
fn two_real_django_projects_are_refused_and_serve_in_sub_interpreters() {
    let project = |site: Site, directory: &str| {
        site.file(&format!("{directory}/{directory}_site/__init__.py"), "")
            .file(
                &format!("{directory}/{directory}_site/settings.py"),
                &format!("SECRET_KEY = 'x'\nALLOWED_HOSTS = ['*']\nROOT_URLCONF = '{directory}_site.urls'\n"),
            )
            .file(
                &format!("{directory}/{directory}_site/urls.py"),
                &format!(
                    "from django.http import HttpResponse\nfrom django.urls import re_path\n\
                     urlpatterns = [re_path('', lambda request: HttpResponse('{directory}'))]\n"
                ),
            )
            .file(
                &format!("{directory}/{directory}_site/wsgi.py"),
                &format!(
                    "import os\nfrom django.core.wsgi import get_wsgi_application\n\
                     os.environ.setdefault('DJANGO_SETTINGS_MODULE', '{directory}_site.settings')\n\
                     application = get_wsgi_application()\n"
                ),
            )
    };
    let site = |site: Site| {
        let site = project(project(site, "a"), "b").http(&format!("wsgi_python_home {};", venv().display()));
        two(site, "a_site/wsgi.py", "b_site/wsgi.py")
    };
    let sides = ["DJANGO_SETTINGS_MODULE=a_site.settings", "DJANGO_SETTINGS_MODULE=b_site.settings"];
    assert_refused(&site(checked()).check(), SETTINGS, sides);
    let nginx = site(checked().http("wsgi_enable_subinterpreters on;")).start();
    assert_eq!(nginx.get("/a").expect(200).text(), "a");
    assert_eq!(nginx.get("/b").expect(200).text(), "b");
}

#[test]
fn applications_of_a_named_interpreter_know_its_name() {
    let site = two_packages(checked().http("wsgi_enable_subinterpreters on; wsgi_interpreter both;"));
    let check = site.check();
    assert!(!check.ok && check.output.contains("another \"wsgi_interpreter\" gives each"), "{}", check.output);
}

#[test]
fn compatible_directives_are_accepted() {
    let fine = [
        // Nothing imports the module that both have.
        two_modules(checked(), &app("", "0"), &app("", "0")),
        // Both import the same.
        checked()
            .file("utils.py", "")
            .file("one.py", &app(NOW, "0"))
            .file("two.py", &app(NOW, "0"))
            .location("/a", "wsgi_pass one.py;")
            .location("/b", "wsgi_pass two.py;"),
        two_modules(checked().http("wsgi_enable_subinterpreters on;"), &app(NOW, "0"), &app(NOW, "0")),
        // One project in two locations, by two callables, by two scripts.
        checked()
            .file("one.py", &format!("{}\nother = application\n", with_settings("same.settings")))
            .file("two.py", &with_settings("same.settings"))
            .file("same/settings.py", "")
            .location("/a", "wsgi_pass one.py;")
            .location("/again", "wsgi_pass one.py;")
            .location("/b", "wsgi_pass one.py other;")
            .location("/c", "wsgi_pass two.py;"),
        // One of them has nothing to do with Django.
        two(
            checked()
                .http("wsgi_env DJANGO_SETTINGS_MODULE settings;")
                .file("a/settings.py", "")
                .file("b/settings.py", "")
                .file("a/one.py", &app("import os", "0"))
                .file("b/other.py", &app("", "0")),
            "one.py",
            "other.py",
        ),
    ];
    for site in fine {
        site.check().assert_ok();
    }
}

// ---- workers --------------------------------------------------------------------------------------------------------

/// The one that was loaded first serves, the other one is refused for this reason.
#[track_caller]
fn assert_first_serves(nginx: &Nginx, problem: &str) {
    for _ in 0..2 {
        assert_eq!(nginx.get("/a").expect(200).text(), "a");
        nginx.get("/b").expect(500);
    }
    assert!(nginx.wait_log("could not be loaded").contains(problem), "{}", nginx.error_log());
    let line = 1 + nginx.read("conf/nginx.conf").lines().position(|line| line.contains("location /a ")).unwrap();
    nginx.wait_log(&format!("conf/nginx.conf:{line}"));
}

fn a_worker_does_not_serve_the_second_of_two(engine: Engine) {
    for directives in ["wsgi_check off;", "wsgi_check off; wsgi_preload off;", "wsgi_check on;"] {
        let nginx = two_packages(Site::new(engine).http(directives)).errors_expected().start();
        assert_first_serves(&nginx, &format!("{MODULES} 'mysite'"));
    }
}

fn an_import_within_a_function_gets_no_file_of_another(engine: Engine) {
    // The directory of the second one is in front of sys.path.
    for (module, error) in [("utils", "utils"), ("more", "utils")] {
        let late = format!("def late():\n    import {module}\n    return 'a'");
        let site = two_modules(Site::new(engine), &app(&late, "late()"), &app("", "'b'"));
        let nginx = site.file("a/more.py", "import utils\n").errors_expected().start();
        assert_eq!(nginx.get("/b").expect(200).text(), "b");
        nginx.get("/a").expect(500);
        nginx.wait_log(&format!("{MODULES} '{error}'"));
        assert_eq!(nginx.get("/b").expect(200).text(), "b");
    }
}

fn an_application_that_cannot_be_loaded_leaves_no_directory_behind(engine: Engine) {
    let late = "import sys\nbefore = list(sys.path)\ndef late():\n    import utils\n    \
                return utils.name if sys.path == before else sys.path";
    // Its own once more, one of all once more, in front or at the end.
    for add in ["insert(0, '@prefix@/b')", "insert(0, '@prefix@/common')", "append('@prefix@/common')"] {
        let broken = format!("import sys\nsys.path.{add}\nimport not_there");
        let site = two_modules(Site::new(engine), &app(late, "late()"), &app(&broken, "0"));
        let site = site.http("wsgi_python_path @prefix@/common;").file("common/utils.py", "name = 'common'\n");
        let nginx = site.errors_expected().start();
        nginx.get("/b").expect(500);
        nginx.get("/b").expect(500);
        assert_eq!(nginx.get("/a").expect(200).text(), "a");
    }
}

/// As `ROOT_URLCONF` of Django: no code of the application is on the stack, and its text does not have the name.
fn an_import_by_a_framework_gets_no_file_of_another(engine: Engine) {
    let framework = "
from importlib import import_module
def make(module):
    def application(environ, start_response):
        body = import_module(module).name.encode()
        start_response('200 OK', [('Content-Type', 'text/plain')])
        return [body]
    return application
";
    let application = |code: &str| format!("{code}\nfrom framework import make\napplication = make('urls')\n");
    let site = |code: &str| {
        let site = Site::new(engine).http("wsgi_python_path @prefix@/common;").file("common/framework.py", framework);
        let site = site.file("a/urls.py", "name = 'a'\n").file("b/urls.py", "name = 'b'\n");
        let site = site.file("a/one.py", &application(code)).file("b/other.py", &application(""));
        two(site, "one.py", "other.py").errors_expected().start()
    };
    let nginx = site("");
    // Whichever is loaded first may be asked before the other is there.
    wait_for("both applications", || nginx.logged("loaded in").get(1).map(drop));
    for path in ["/a", "/b", "/a"] {
        nginx.get(path).expect(500);
    }
    nginx.wait_log(&format!("{MODULES} 'urls'"));
    let nginx = site("import urls");
    assert_eq!(nginx.get("/a").expect(200).text(), "a");
    nginx.get("/b").expect(500);
    nginx.wait_log(&format!("{MODULES} 'urls'"));
}

fn an_edited_script_that_needs_a_module_of_another_is_not_taken(engine: Engine) {
    let site = Site::new(engine).file("a/utils.py", "").file("a/one.py", &app(NOW, "'a'"));
    let site = two(site.file("b/other.py", &app("", "'old'")), "one.py", "other.py");
    let nginx = site.http("wsgi_script_reloading on;").errors_expected().start();
    assert_eq!(nginx.get("/a").expect(200).text(), "a");
    assert_eq!(nginx.get("/b").expect(200).text(), "old");
    nginx.write("b/utils.py", "");
    nginx.write("b/other.py", &app(NOW, "'new'"));
    wait_for("the refusal", || {
        assert_eq!(nginx.get("/b").expect(200).text(), "old");
        nginx.error_log().contains(&format!("{MODULES} 'utils'")).then_some(())
    });
    std::fs::remove_file(nginx.prefix().join("b/utils.py")).unwrap();
    nginx.write("b/other.py", &app("", "'new'"));
    wait_for("the new script", || (nginx.get("/b").expect(200).text() == "new").then_some(()));
    assert_eq!(nginx.get("/a").expect(200).text(), "a");
}

/// The first one is called while the second is being imported.
#[test]
fn settings_of_the_first_are_there_while_others_are_loaded() {
    let waits = "
import os, time
assert 'DJANGO_SETTINGS_MODULE' not in os.environ and 'DJANGO_SETTINGS_MODULE' not in dict(os.environ)
os.environ['DJANGO_SETTINGS_MODULE'] = 'other'
del os.environ['DJANGO_SETTINGS_MODULE']
open('@prefix@/events', 'a').write('importing\\n')
while not os.path.exists('@prefix@/go'):
    time.sleep(0.01)
";
    let site = Site::plain()
        .file("a/one.py", &with_settings("one.settings"))
        .file("b/other.py", &app(waits, "os.environ['DJANGO_SETTINGS_MODULE']"));
    let nginx = two(site, "one.py", "other.py").start();
    nginx.wait_events(&["importing"]);
    assert_eq!(nginx.get("/a").expect(200).text(), "one.settings");
    nginx.write("go", "");
    assert_eq!(nginx.get("/b").expect(200).text(), "one.settings");
}

fn settings_come_back_for_the_first_when_others_are_loaded(engine: Engine) {
    let site = Site::new(engine)
        .file("a/one.py", &with_settings("one.settings"))
        .file("b/other.py", &app("import os", "os.environ['DJANGO_SETTINGS_MODULE']"))
        .file("c/broken.py", &with_settings("broken.settings"))
        .location("/c", "wsgi_pass c/broken.py; wsgi_preload off;");
    let nginx = two(site, "one.py", "other.py").errors_expected().start();
    assert_eq!(nginx.get("/a").expect(200).text(), "one.settings");
    assert_eq!(nginx.get("/b").expect(200).text(), "one.settings");
    nginx.get("/c").expect(500);
    assert!(nginx.wait_log("could not be loaded").contains(SETTINGS));
    assert_eq!(nginx.get("/a").expect(200).text(), "one.settings");
}
