//! Applications that `wsgi_pass` accepts, and its contexts.

use crate::harness::{Engine, Site, both_engines};

both_engines!(
    a_script_is_found_from_the_prefix,
    a_script_is_found_by_its_absolute_path,
    a_script_may_have_any_name,
    a_script_may_name_its_callable,
    a_script_knows_where_it_is,
    a_script_is_a_module_that_can_be_imported_by_its_name,
    two_scripts_of_one_name_are_two,
    a_module_is_imported,
    a_module_may_name_its_callable,
    a_callable_may_be_found_in_an_object,
    a_factory_is_called_once,
    anything_callable_is_an_application,
    a_missing_callable_is_an_error_of_the_location,
    a_missing_module_is_an_error_of_the_location,
    an_import_may_raise_anything,
    several_applications_live_side_by_side,
    an_application_may_stand_in_an_if,
    an_application_may_stand_in_limit_except,
    an_application_may_be_reached_by_error_page,
    an_application_may_be_reached_by_try_files,
    a_source_in_another_encoding_is_read,
);

/// The source of an application that responds with an expression.
fn responding(expression: &str) -> String {
    format!(
        "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [({expression}).encode()]\n"
    )
}

fn a_script_is_found_from_the_prefix(engine: Engine) {
    let nginx = Site::new(engine)
        .file("app.py", &responding("'top'"))
        .file("deep/er/app.wsgi", &responding("'deep'"))
        .location("/top", "wsgi_pass app.py;")
        .location("/deep", "wsgi_pass deep/er/app.wsgi;")
        .location("/dot", "wsgi_pass ./deep/er/../er/app.wsgi;")
        .start();
    assert_eq!(nginx.get("/top").expect(200).text(), "top");
    assert_eq!(nginx.get("/deep").expect(200).text(), "deep");
    assert_eq!(nginx.get("/dot").expect(200).text(), "deep");
}

fn a_script_is_found_by_its_absolute_path(engine: Engine) {
    let nginx =
        Site::new(engine).file("app.py", &responding("'absolute'")).location("/", "wsgi_pass @prefix@/app.py;").start();
    assert_eq!(nginx.get("/").expect(200).text(), "absolute");
}

fn a_script_may_have_any_name(engine: Engine) {
    let mut site = Site::new(engine);
    let names = [
        "with-dash.py",
        "1number.wsgi",
        "sys.py",
        "two.dots.py",
        "dir/no_ending",
        "with space.py",
        "caf\u{e9}.py",
        "class.py",
    ];
    for (i, name) in names.iter().enumerate() {
        site = site
            .file(name, &responding(&format!("'number {i}'")))
            .location(&format!("/{i}"), &format!("wsgi_pass \"{name}\";"));
    }
    let nginx = site.start();
    for (i, name) in names.iter().enumerate() {
        let response = nginx.get(&format!("/{i}")).expect(200);
        assert_eq!(response.text(), format!("number {i}"), "{name}");
    }
}

fn a_script_may_name_its_callable(engine: Engine) {
    let nginx = Site::new(engine)
        .file("app.py", &(responding("'default'") + &responding("'other'").replace("application", "other")))
        .location("/default", "wsgi_pass app.py;")
        .location("/other", "wsgi_pass app.py other;")
        .start();
    assert_eq!(nginx.get("/default").expect(200).text(), "default");
    assert_eq!(nginx.get("/other").expect(200).text(), "other");
}

fn a_script_knows_where_it_is(engine: Engine) {
    let nginx =
        Site::new(engine).file("dir/app.py", &responding("__file__")).location("/", "wsgi_pass dir/app.py;").start();
    let path = nginx.prefix().join("dir/app.py");
    assert_eq!(nginx.get("/").expect(200).text(), path.to_str().unwrap());
}

fn a_script_is_a_module_that_can_be_imported_by_its_name(engine: Engine) {
    // pickle and dataclasses look a class's module up in sys.modules.
    let nginx = Site::new(engine)
        .app(
            r#"
import dataclasses
import pickle
import sys
import typing

@dataclasses.dataclass
class Point:
    x: int
    y: "typing.ClassVar[int]" = 5

def application(environ, start_response):
    again = pickle.loads(pickle.dumps(Point(3)))
    same = vars(sys.modules[__name__]) is globals()
    start_response("200 OK", [])
    return [f"{again} {same} {__name__ == '__main__'}".encode()]
"#,
        )
        .start();
    assert_eq!(nginx.get("/").expect(200).text(), "Point(x=3) True False");
}

fn two_scripts_of_one_name_are_two(engine: Engine) {
    let nginx = Site::new(engine)
        .file("one/app.py", &responding("'one'"))
        .file("two/app.py", &responding("'two'"))
        .location("/one", "wsgi_pass one/app.py;")
        .location("/two", "wsgi_pass two/app.py;")
        .start();
    assert_eq!(nginx.get("/one").expect(200).text(), "one");
    assert_eq!(nginx.get("/two").expect(200).text(), "two");
}

fn a_module_is_imported(engine: Engine) {
    let nginx = Site::new(engine)
        .file("lib/single.py", &responding("__name__"))
        .file("lib/package/__init__.py", "")
        .file("lib/package/inner.py", &responding("__name__"))
        .http("wsgi_python_path @prefix@/lib;")
        .location("/single", "wsgi_pass single;")
        .location("/inner", "wsgi_pass package.inner;")
        .start();
    assert_eq!(nginx.get("/single").expect(200).text(), "single");
    assert_eq!(nginx.get("/inner").expect(200).text(), "package.inner");
}

fn a_module_may_name_its_callable(engine: Engine) {
    let nginx = Site::new(engine)
        .file("lib/package/__init__.py", "")
        .file("lib/package/wsgi.py", &responding("'mine'").replace("application", "mine"))
        .http("wsgi_python_path @prefix@/lib;")
        .location("/colon", "wsgi_pass package.wsgi:mine;")
        .location("/word", "wsgi_pass package.wsgi mine;")
        .start();
    assert_eq!(nginx.get("/colon").expect(200).text(), "mine");
    assert_eq!(nginx.get("/word").expect(200).text(), "mine");
}

fn a_callable_may_be_found_in_an_object(engine: Engine) {
    let source = r#"
class Holder:
    def application(self, environ, start_response):
        start_response("200 OK", [])
        return [b"method"]

holder = Holder()
"#;
    let nginx = Site::new(engine)
        .file("app.py", source)
        .file("lib/held.py", source)
        .http("wsgi_python_path @prefix@/lib;")
        .location("/script", "wsgi_pass app.py holder.application;")
        .location("/module", "wsgi_pass held:holder.application;")
        .start();
    assert_eq!(nginx.get("/script").expect(200).text(), "method");
    assert_eq!(nginx.get("/module").expect(200).text(), "method");
}

fn a_factory_is_called_once(engine: Engine) {
    let source = r#"
def create():
    with open("@prefix@/events", "a") as events:
        events.write("created\n")
    def application(environ, start_response):
        start_response("200 OK", [])
        return [b"made"]
    return application
"#;
    for (target, expected) in [("app.py create()", "script"), ("made:create()", "module")] {
        let nginx = Site::new(engine)
            .file("app.py", source)
            .file("lib/made.py", source)
            .http("wsgi_python_path @prefix@/lib;")
            .location("/", &format!("wsgi_pass {target};"))
            .start();
        for _ in 0..3 {
            assert_eq!(nginx.get("/").expect(200).text(), "made", "{expected}");
        }
        nginx.wait_events(&["created"]);
    }
}

fn anything_callable_is_an_application(engine: Engine) {
    let nginx = Site::new(engine)
        .file(
            "app.py",
            r#"
import functools

class Called:
    def __call__(self, environ, start_response):
        start_response("200 OK", [])
        return [b"called"]

class Instance:
    """Each request is an instance."""
    def __init__(self, environ, start_response):
        self.start_response = start_response
    def __iter__(self):
        self.start_response("200 OK", [])
        yield b"iterated"

def more(text, environ, start_response):
    start_response("200 OK", [])
    return [text]

called = Called()
partial = functools.partial(more, b"partial")
function = lambda e, s: more(b"lambda", e, s)
"#,
        )
        .location("/called", "wsgi_pass app.py called;")
        .location("/instance", "wsgi_pass app.py Instance;")
        .location("/partial", "wsgi_pass app.py partial;")
        .location("/function", "wsgi_pass app.py function;")
        .start();
    for (path, body) in
        [("/called", "called"), ("/instance", "iterated"), ("/partial", "partial"), ("/function", "lambda")]
    {
        assert_eq!(nginx.get(path).expect(200).text(), body);
    }
}

fn a_missing_callable_is_an_error_of_the_location(engine: Engine) {
    let nginx = Site::new(engine)
        .file("app.py", &responding("'fine'"))
        .file("text.py", "application = 'text'\n")
        .file("none.py", "def application():\n    return None\n")
        .location("/fine", "wsgi_pass app.py;")
        .location("/absent", "wsgi_pass app.py absent;")
        .location("/text", "wsgi_pass text.py;")
        .location("/none", "wsgi_pass none.py application();")
        .errors_expected()
        .start();
    nginx.get("/absent").expect(500);
    nginx.wait_log("absent");
    nginx.get("/text").expect(500);
    nginx.wait_log("callable");
    nginx.get("/none").expect(500);
    nginx.get("/fine").expect(200);
}

fn a_missing_module_is_an_error_of_the_location(engine: Engine) {
    let nginx = Site::new(engine)
        .file("app.py", &responding("'fine'"))
        .location("/fine", "wsgi_pass app.py;")
        .location("/absent", "wsgi_pass no_such.module;")
        .errors_expected()
        .start();
    nginx.get("/absent").expect(500);
    nginx.wait_log("No module named 'no_such'");
    nginx.get("/fine").expect(200);
}

fn an_import_may_raise_anything(engine: Engine) {
    let mut site = Site::new(engine)
        .file("app.py", &responding("'fine'"))
        .location("/fine", "wsgi_pass app.py;")
        .errors_expected();
    let raises = [
        "raise SystemExit(3)",
        "raise KeyboardInterrupt",
        "import sys; sys.exit()",
        "raise BaseException('base')",
        "def f(): f()\nf()",
        "a b c",
        "\\0",
    ];
    for (i, source) in raises.iter().enumerate() {
        site = site.app_at(&format!("/{i}"), &format!("raises{i}.py"), source);
    }
    let nginx = site.start();
    let workers = nginx.workers();
    for (i, source) in raises.iter().enumerate() {
        let response = nginx.get(&format!("/{i}"));
        assert_eq!(response.status, 500, "{source}");
    }
    nginx.get("/fine").expect(200);
    assert_eq!(nginx.workers(), workers);
    for name in ["SystemExit", "KeyboardInterrupt", "RecursionError", "SyntaxError"] {
        nginx.wait_log(name);
    }
}

fn several_applications_live_side_by_side(engine: Engine) {
    let mut site = Site::new(engine);
    for i in 0..10 {
        let source = format!("STATE = []\n{}", responding("str(STATE.append(1) or len(STATE))"));
        site = site.app_at(&format!("/{i}/"), &format!("app{i}.py"), &source);
    }
    let nginx = site.start();
    for round in 1..4 {
        for i in 0..10 {
            let response = nginx.get(&format!("/{i}/")).expect(200);
            assert_eq!(response.text(), round.to_string());
        }
    }
}

fn an_application_may_stand_in_an_if(engine: Engine) {
    let nginx = Site::new(engine)
        .file("app.py", &responding("environ['SCRIPT_NAME'] + ' ' + environ['PATH_INFO']"))
        .location("/api/", "if ($arg_python) { wsgi_pass app.py; } return 200 static;")
        .location("/other/", "wsgi_pass app.py; if ($arg_no) { return 403; } if ($arg_set) { set $x 1; }")
        .start();
    assert_eq!(nginx.get("/api/x?python=1").status, 200);
    assert_eq!(nginx.get("/other/x").expect(200).text(), "/other /x");
    assert_eq!(nginx.get("/other/x?set=1").expect(200).text(), "/other /x");
    nginx.get("/other/x?no=1").expect(403);
}

fn an_application_may_stand_in_limit_except(engine: Engine) {
    let nginx = Site::new(engine)
        .file("app.py", &responding("environ['REQUEST_METHOD']"))
        .file("other.py", &responding("'other ' + environ['REQUEST_METHOD']"))
        .location("/switch", "wsgi_pass app.py; limit_except GET { wsgi_pass other.py; }")
        .location("/closed", "wsgi_pass app.py; limit_except GET { deny all; }")
        .errors_expected()
        .start();
    assert_eq!(nginx.get("/switch").expect(200).text(), "GET");
    assert_eq!(nginx.post("/switch", "x").expect(200).text(), "other POST");
    assert_eq!(nginx.get("/closed").expect(200).text(), "GET");
    nginx.post("/closed", "x").expect(403);
}

fn an_application_may_be_reached_by_error_page(engine: Engine) {
    let nginx = Site::new(engine)
        .file("app.py", &responding("environ['PATH_INFO'] + ' ' + environ['REQUEST_METHOD']"))
        .file("fails.py", "def application(e, s):\n    raise RuntimeError('first')\n")
        .location("/", "root html; error_page 404 = /app/missing;")
        .location("/app/", "wsgi_pass app.py;")
        .location("/named/", "return 404; error_page 404 @named;")
        .location("@named", "wsgi_pass app.py;")
        // An application that failed, explained by another.
        .location("/fails", "wsgi_pass fails.py; error_page 500 /app/failed;")
        .errors_expected()
        .start();
    assert_eq!(nginx.get("/x").expect(200).text(), "/missing GET");
    assert_eq!(nginx.get("/named/x").expect(404).text(), "/named/x GET");
    assert_eq!(nginx.get("/fails").expect(500).text(), "/failed GET");
    // With a body that the first of them has read.
    nginx.post("/fails", "x".repeat(100_000)).expect(500);
}

fn an_application_may_be_reached_by_try_files(engine: Engine) {
    let nginx = Site::new(engine)
        .file("app.py", &responding("environ['PATH_INFO'] + ' ' + environ['wsgi.input'].read().decode()"))
        .file("html/page.txt", "a page")
        .location("/", "root html; try_files $uri @application;")
        .location("@application", "wsgi_pass app.py;")
        .start();
    assert_eq!(nginx.get("/page.txt").expect(200).text(), "a page");
    assert_eq!(nginx.get("/other").expect(200).text(), "/other ");
    assert_eq!(nginx.post("/form", "a=b").expect(200).text(), "/form a=b");
}

fn a_source_in_another_encoding_is_read(engine: Engine) {
    let mut source = b"# -*- coding: latin-1 -*-\nTEXT = '\xe9'\n".to_vec();
    source.extend_from_slice(responding("ascii(TEXT)").as_bytes());
    let site = Site::new(engine)
        .file("utf8.py", &format!("TEXT = '\u{e9}'\n{}", responding("ascii(TEXT)")))
        .file("bom.py", &format!("\u{feff}TEXT = '\u{e9}'\n{}", responding("ascii(TEXT)")))
        .location("/latin", "wsgi_pass latin.py;")
        .location("/utf8", "wsgi_pass utf8.py;")
        .location("/bom", "wsgi_pass bom.py;");
    std::fs::write(site.prefix().join("latin.py"), source).unwrap();
    let nginx = site.start();
    for path in ["/latin", "/utf8", "/bom"] {
        assert_eq!(nginx.get(path).expect(200).text(), "'\\xe9'", "{path}");
    }
}
