//! The Containerfiles of packaging/containers/: their images are built, and their containers run, without a container engine.
//! With WSGI_TEST_WHEEL and WSGI_TEST_DEB, the packages that they install.

use crate::harness::{Container, Image, Page, Process, in_repository, wait_for};
use std::fs;
use std::sync::{Arc, Mutex, Weak};
use tempfile::TempDir;

const SETTINGS: &str = r#"
from pathlib import Path
BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "for a test"
ALLOWED_HOSTS = ["localhost"]
ROOT_URLCONF = "mysite.urls"
INSTALLED_APPS = ["django.contrib.staticfiles"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
STATIC_URL = "static/"
STATIC_ROOT = "/srv/static"
STATICFILES_DIRS = [BASE_DIR / "assets"]
DATABASES = {}
USE_TZ = True
"#;

const URLS: &str = r#"
import os, subprocess, sys, time
from django.http import HttpResponse
from django.urls import path

def index(request):
    print("a line of the application", file=sys.stderr)
    try:
        open("/srv/app/file", "w")
    except OSError as error:
        refusal = error.strerror
    return HttpResponse(f"{os.getuid()} {os.getpid()} {os.environ.get('SECRET_KEY')} {refusal}")

def slow(request):
    open("/tmp/called", "w").close()
    while not os.path.exists("/tmp/go"):
        time.sleep(0.01)
    return HttpResponse("done")

def orphan(request):
    # The shell ends at once, and process 1 becomes the parent of its child.
    subprocess.run("sleep 3456 & echo", shell=True, stdout=subprocess.DEVNULL)
    return HttpResponse("")

def health(request):
    return HttpResponse(status=500 if os.path.exists("/tmp/broken") else 200)

urlpatterns = [path("", index), path("slow", slow), path("orphan", orphan), path("health", health)]
"#;

const WSGI: &str = r#"
import os
from django.core.wsgi import get_wsgi_application
if os.environ.get("SECRET_KEY") == "wrong":
    raise ValueError("a wrong secret key")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
application = get_wsgi_application()
"#;

const MANAGE: &str = r#"
import os, sys
from django.core.management import execute_from_command_line
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
execute_from_command_line(sys.argv)
"#;

/// Makes a directory with the application that the images contain.
fn context() -> TempDir {
    let context = tempfile::tempdir().unwrap();
    let requirements = fs::read_to_string(in_repository("tests/requirements.txt")).unwrap();
    let django = requirements.lines().find(|line| line.starts_with("Django==")).unwrap().to_owned() + "\n";
    for (name, text) in [
        ("requirements.txt", django.as_str()),
        ("manage.py", MANAGE),
        ("assets/site.css", "body { color: #222 }\n"),
        ("mysite/__init__.py", ""),
        ("mysite/settings.py", SETTINGS),
        ("mysite/urls.py", URLS),
        ("mysite/wsgi.py", WSGI),
    ] {
        let path = context.path().join("app").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    context
}

/// An image that all tests use that run at the same time. `None` if it cannot be built here.
fn shared(built: &Mutex<Weak<Image>>, name: &str, variable: &str) -> Option<Arc<Image>> {
    let mut built = built.lock().unwrap();
    if let Some(image) = built.upgrade() {
        return Some(image);
    }
    let image = Arc::new(Image::build(name, variable, &context())?);
    *built = Arc::downgrade(&image);
    Some(image)
}

/// The image with the Python package.
pub fn wheel() -> Option<Arc<Image>> {
    static BUILT: Mutex<Weak<Image>> = Mutex::new(Weak::new());
    shared(&BUILT, "wheel", "WSGI_TEST_WHEEL")
}

/// The image with the Debian package.
fn debian() -> Option<Arc<Image>> {
    static BUILT: Mutex<Weak<Image>> = Mutex::new(Weak::new());
    shared(&BUILT, "debian", "WSGI_TEST_DEB")
}

/// Makes two tests of each `fn name(image: &Arc<Image>)`: `with_wheel::name` and `with_deb::name`.
macro_rules! both_images {
    ($($name:ident),+ $(,)?) => {
        mod with_wheel {
            $(#[test] fn $name() { if let Some(image) = super::wheel() { super::$name(&image) } })+
        }
        mod with_deb {
            $(#[test] fn $name() { if let Some(image) = super::debian() { super::$name(&image) } })+
        }
    };
}

both_images!(
    a_page_and_static_files_are_served_and_logs_are_on_the_standard_streams,
    the_stop_signal_lets_a_running_request_end,
    term_stops_at_once,
    hup_loads_the_application_again,
    processes_without_a_parent_are_reaped,
    the_health_check_fails_when_the_application_is_broken,
    an_application_that_cannot_be_imported_ends_the_container,
);

fn a_page_and_static_files_are_served_and_logs_are_on_the_standard_streams(image: &Arc<Image>) {
    let container = Container::start(image, &["SECRET_KEY=secret"]);
    let page = container.get("/").expect(200).text();
    let facts: Vec<&str> = page.splitn(4, ' ').collect();
    assert_eq!((facts[0], facts[2], facts[3]), ("10001", "secret", "Read-only file system"), "{page}");
    let style = container.get("/static/site.css").expect(200);
    assert_eq!(style.header("Content-Type"), Some("text/css"));
    assert_eq!(style.text(), "body { color: #222 }\n");
    wait_for("the access log", || container.output().contains("\"GET /static/site.css HTTP/1.1\" 200").then_some(()));
    wait_for("the error log", || container.errors().contains("a line of the application").then_some(()));
    assert!(!container.errors().contains("[alert]") && !container.errors().contains("[emerg]"));
}

/// Asks for a page that waits until `let_go`.
pub fn ask_slow(container: &Container) -> crate::harness::Conn {
    let conn = container.ask("/slow");
    wait_for("the call", || container.path("/tmp/called").exists().then_some(()));
    conn
}

pub fn let_go(container: &Container) {
    fs::write(container.path("/tmp/go"), "").unwrap();
}

fn the_stop_signal_lets_a_running_request_end(image: &Arc<Image>) {
    let mut container = Container::start(image, &[]);
    let mut request = ask_slow(&container);
    container.stop();
    wait_for("nginx to accept no more connections", || container.connect().is_err().then_some(()));
    assert!(container.init().is_alive());
    let_go(&container);
    assert_eq!(request.response().expect(200).text(), "done");
    let status = container.wait();
    assert_eq!(status.code(), Some(0), "{status}");
}

fn term_stops_at_once(image: &Arc<Image>) {
    let mut container = Container::start(image, &[]);
    let mut request = ask_slow(&container);
    container.init().signal(libc::SIGTERM);
    let status = container.wait();
    assert_eq!(status.code(), Some(0), "{status}");
    assert_eq!(request.read_to_end(), b"", "the request was not cut off");
}

fn hup_loads_the_application_again(image: &Arc<Image>) {
    let container = Container::start(image, &[]);
    let worker = || container.get("/").expect(200).text().split(' ').nth(1).unwrap().to_owned();
    let before: Vec<String> = (0..16).map(|_| worker()).collect();
    let mut request = ask_slow(&container);
    container.init().signal(libc::SIGHUP);
    wait_for("a new worker", || (!before.contains(&worker())).then_some(()));
    let_go(&container);
    assert_eq!(request.response().expect(200).text(), "done");
    assert!(container.init().is_alive());
}

fn processes_without_a_parent_are_reaped(image: &Arc<Image>) {
    let container = Container::start(image, &[]);
    container.get("/orphan").expect(200);
    let init = container.init();
    let orphan = wait_for("process 1 to be the parent", || {
        Process::all().into_iter().find(|process| process.parent() == Some(init.0) && process.title().contains("3456"))
    });
    orphan.signal(libc::SIGKILL);
    // A zombie would stay.
    wait_for("the orphan to be reaped", || (!fs::exists(format!("/proc/{}", orphan.0)).unwrap()).then_some(()));
    container.get("/").expect(200);
}

fn the_health_check_fails_when_the_application_is_broken(image: &Arc<Image>) {
    let container = Container::start(image, &[]);
    assert!(container.is_healthy());
    fs::write(container.path("/tmp/broken"), "").unwrap();
    assert!(!container.is_healthy());
    fs::remove_file(container.path("/tmp/broken")).unwrap();
    assert!(container.is_healthy());
}

fn an_application_that_cannot_be_imported_ends_the_container(image: &Arc<Image>) {
    let mut container = Container::start_at_once(image, &["SECRET_KEY=wrong"]);
    let status = container.wait();
    assert_eq!(status.code(), Some(1), "{status}");
    assert!(container.errors().contains("ValueError: a wrong secret key"), "{}", container.errors());
}

#[test]
fn the_page_shows_the_files() {
    let blocks = Page::read("docs/containers.md").blocks();
    for path in ["wheel/Containerfile", "debian/Containerfile", "debian/nginx.conf"] {
        let text = fs::read_to_string(in_repository("packaging/containers").join(path)).unwrap();
        assert!(blocks.iter().any(|block| block.text == text), "{path} is not a block of the page");
    }
}
