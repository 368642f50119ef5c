//! `make run`, the development server: what it serves, what it takes up, and when it says that it serves.

use crate::harness::{Conn, Response, RunningScript, Script, Site, module, venv, wait_for};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;

/// An application's directory, and the port that it is to be served on.
struct Project {
    site: Site,
    port: u16,
}

impl Project {
    fn new() -> Project {
        let site = Site::plain();
        let port = site.another_port();
        Project { site, port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.prefix().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// `make run APP=… PORT=…`
    fn script(&self, app: &str) -> Script {
        let script = Script::new("run.sh").set("MODULE", module()).set("PORT", self.port.to_string());
        script.set("APP", self.path(app))
    }

    fn serve(&self, script: Script) -> RunningScript {
        let mut running = script.start();
        running.wait_said(&format!("on http://127.0.0.1:{}/ (Ctrl-C ends it)", self.port));
        running
    }

    fn get(&self, path: &str) -> Response {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        Conn::open(address).send(request).response()
    }

    fn wait_served(&self, path: &str, text: &str) {
        wait_for(&format!("{text:?} at {path}"), || self.get(path).text().contains(text).then_some(()));
    }
}

const APPLICATION: &str = r#"
import os, helper
with open(os.path.join(os.path.dirname(__file__), "templates/page.html")) as file:
    PAGE = file.read()

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [(helper.TEXT + " " + PAGE).encode()]
"#;

#[test]
fn what_is_edited_is_served() {
    let project = Project::new();
    project.write("shop/app.py", APPLICATION);
    project.write("shop/helper.py", "TEXT = 'first'\n");
    project.write("shop/templates/page.html", "page");
    let running = project.serve(project.script("shop/app.py"));
    assert_eq!(project.get("/").expect(200).text(), "first page");
    project.write("shop/helper.py", "TEXT = 'second'\n");
    project.wait_served("/", "second page");
    project.write("shop/templates/page.html", "template");
    project.wait_served("/", "second template");
    assert!(!running.said().contains("Traceback"), "{}", running.said());
}

#[test]
fn an_edit_that_cannot_be_imported_is_reported_and_the_old_code_serves_on() {
    let project = Project::new();
    project.write("shop/app.py", APPLICATION);
    project.write("shop/helper.py", "TEXT = 'first'\n");
    project.write("shop/templates/page.html", "page");
    let mut running = project.serve(project.script("shop/app.py"));
    project.write("shop/helper.py", "TEXT = 'second\n");
    running.wait_said("SyntaxError");
    assert_eq!(project.get("/").expect(200).text(), "first page");
    project.write("shop/helper.py", "TEXT = 'third'\n");
    project.wait_served("/", "third page");
}

#[test]
fn an_import_error_is_said_once_and_nothing_is_served() {
    let project = Project::new();
    project.write("app.py", "import ngx_wsgi\n\n1 / 0\n");
    let (succeeded, said) = project.script("app.py").set("WORKERS", "2").run();
    assert!(!succeeded, "{said}");
    assert!(!said.contains("Serving"), "{said}");
    assert_eq!(said.matches("Traceback (most recent call last)").count(), 1, "{said}");
    assert!(said.contains("ZeroDivisionError: division by zero"), "{said}");
    assert!(said.ends_with("Not served, for the reason above.\n"), "{said}");
}

#[test]
fn a_port_that_is_taken_is_named_before_anything_is_built() {
    let project = Project::new();
    project.write("app.py", "");
    let taken = TcpListener::bind(("127.0.0.1", project.port)).unwrap();
    // A build would find no such module.
    let (succeeded, said) = project.script("app.py").set("MODULE", "/none.so").run();
    drop(taken);
    assert!(!succeeded, "{said}");
    assert!(said.starts_with(&format!("PORT={} of 127.0.0.1 is taken", project.port)), "{said}");
    assert!(!said.contains("Serving"), "{said}");
}

const WAITS: &str = r#"
import os, time, ngx_wsgi
here = os.path.dirname(__file__)
if not ngx_wsgi.checking:
    open(here + "/begun", "w").close()
    while not os.path.exists(here + "/go"):
        time.sleep(0.01)

def application(environ, start_response):
    start_response("200 OK", [])
    return [b"loaded"]
"#;

#[test]
fn it_says_that_it_serves_only_when_the_application_is_loaded() {
    let project = Project::new();
    project.write("app.py", WAITS);
    let mut running = project.script("app.py").start();
    wait_for("the import in the worker", || project.path("begun").exists().then_some(()));
    assert!(!running.said().contains("Serving"), "{}", running.said());
    project.write("go", "");
    running.wait_said("Serving");
    assert_eq!(project.get("/").expect(200).text(), "loaded");
}

#[test]
fn the_demo_is_served_without_an_application() {
    let project = Project::new();
    let _running = project.serve(project.script("none").unset("APP"));
    assert!(project.get("/").expect(200).text().contains("<title>"));
    assert_eq!(project.get("/static/demo.css").expect(200).header("Content-Type"), Some("text/css"));
}

const VIEWS: &str = r#"
from django.http import HttpResponse
from django.templatetags.static import static

def index(request):
    return HttpResponse("first " + static("site.css") + " " + static("admin/css/base.css"))
"#;

const URLS: &str = r#"
from django.urls import path
from mysite import views
urlpatterns = [path("", views.index)]
"#;

#[test]
fn a_django_project_has_its_static_files_and_takes_edits() {
    let project = Project::new();
    let python = venv().join("bin/python");
    let made = Command::new(&python)
        .args(["-m", "django", "startproject", "mysite"])
        .arg(project.site.prefix())
        .status()
        .expect("run django-admin");
    assert!(made.success());
    project.write("mysite/views.py", VIEWS);
    project.write("mysite/urls.py", URLS);
    project.write("assets/site.css", "body { color: #222 }\n");
    project.write("collected/site.0123456789ab.css", "body { color: #333 }\n");
    let settings = fs::read_to_string(project.path("mysite/settings.py")).unwrap()
        + "STATICFILES_DIRS = [BASE_DIR / 'assets']\nSTATIC_ROOT = BASE_DIR / 'collected'\n";
    project.write("mysite/settings.py", &settings);
    // The directory of the project is found from the script.
    let mut running = project.serve(project.script("mysite/wsgi.py").set("VENV", venv()).unset("PYTHON"));

    assert_eq!(project.get("/").expect(200).text(), "first /static/site.css /static/admin/css/base.css");
    let style = project.get("/static/site.css").expect(200);
    assert_eq!(style.header("Content-Type"), Some("text/css"));
    assert_eq!(style.text(), "body { color: #222 }\n");
    project.get("/static/admin/css/base.css").expect(200);
    // What collectstatic has renamed is found in its directory.
    assert_eq!(project.get("/static/site.0123456789ab.css").expect(200).text(), "body { color: #333 }\n");
    project.get("/static/none.css").expect(404);
    project.get("/static/../mysite/settings.py").expect(404);

    project.write("mysite/views.py", &VIEWS.replace("first", "second"));
    project.wait_served("/", "second");
    // Django imports views with the first request; here they are tried before.
    project.write("mysite/views.py", &VIEWS.replace("def index", "def index(("));
    running.wait_said("SyntaxError");
    assert!(project.get("/").expect(200).text().starts_with("second"));
    project
        .write("mysite/settings.py", &settings.replace("\"static/\"", "\"files/\"").replace("'static/'", "'files/'"));
    project.write("mysite/views.py", VIEWS);
    project.wait_served("/", "/files/site.css");
    project.get("/files/site.css").expect(200);
    project.get("/static/site.css").expect(404);
}
