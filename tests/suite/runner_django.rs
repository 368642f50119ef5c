//! Frameworks below `ngx-wsgi`: Django by `manage.py runnginx`, and Flask.

use crate::harness::{Project, curl};
use std::fs;

const URLS: &str = r#"
from django.contrib import admin
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("", lambda request: HttpResponse("page")), path("admin/", admin.site.urls)]
"#;

/// A project as startproject makes it, with the app of the runner.
fn django() -> Project {
    let project = Project::new();
    let made = project.python(&["-m", "django", "startproject", "mysite", "."]).run();
    assert!(made.status.success(), "{}", made.stderr);
    change_settings(&project, |text| text.replace("INSTALLED_APPS = [", "INSTALLED_APPS = [\n    'ngx_wsgi.django',"));
    project.write("mysite/urls.py", URLS);
    project
}

fn change_settings(project: &Project, change: impl FnOnce(&str) -> String) {
    let text = project.read("mysite/settings.py");
    let changed = change(&text);
    assert_ne!(text, changed);
    project.write("mysite/settings.py", &changed);
}

fn manage<'p>(project: &'p Project, arguments: &[&str]) -> crate::harness::Runner<'p> {
    project.python(&[&["manage.py"], arguments].concat())
}

#[test]
fn runnginx_refuses_settings_that_do_not_work_and_serves_the_others() {
    let project = django();
    let address = project.address();
    let refused = |arguments: &[&str], sentence: &str| {
        let ended = manage(&project, &[&["runnginx"], arguments].concat()).run();
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(sentence), "{}", ended.stderr);
    };
    refused(&["--bind", "0.0.0.0:8000"], "CommandError: DEBUG = True on 0.0.0.0:8000");
    change_settings(&project, |text| text.replace("DEBUG = True", "DEBUG = False"));
    refused(&["--bind", &address], "CommandError: ALLOWED_HOSTS is empty");
    change_settings(&project, |text| text.replace("ALLOWED_HOSTS = []", "ALLOWED_HOSTS = ['127.0.0.1']"));
    refused(&["--bind", &address], "CommandError: STATIC_ROOT is not set");
    change_settings(&project, |text| text.to_owned() + "STATIC_ROOT = BASE_DIR / 'collected'\n");
    refused(&["--bind", &address], "collected) is empty. Run `manage.py collectstatic`");
    refused(&["--preload"], "--preload is not supported");
    let ended = manage(&project, &["runnginx", "--nonsense"]).run();
    assert!(ended.stderr.contains("unrecognized arguments: --nonsense"), "{}", ended.stderr);

    for command in [&["collectstatic", "--noinput"][..], &["migrate"]] {
        let ended = manage(&project, command).run();
        assert!(ended.status.success(), "{}", ended.stderr);
    }
    // An option of Django's, and one of the runner's.
    let arguments = ["runnginx", "--verbosity", "2", "--workers", "1", "--bind", &address, "--pid", "nginx.pid"];
    let server = manage(&project, &arguments).start();
    let said = server.said();
    assert!(said.contains("SECRET_KEY is the one that startproject has written"), "{said}");
    assert!(said.contains(&format!("serving mysite.wsgi:application on http://{address}")), "{said}");
    assert_eq!(server.get("/").expect(200).text(), "page");
    let style = server.get("/static/admin/css/base.css").expect(200);
    assert_eq!(style.header("Content-Type"), Some("text/css"));
    assert!(server.get("/admin/login/").expect(200).text().contains("csrfmiddlewaretoken"));
    // A clean process: it is nginx.
    assert_eq!(project.master("nginx.pid"), server.process());
}

#[test]
fn runnginx_works_from_another_directory_and_with_other_settings() {
    let project = django();
    let settings = project.read("mysite/settings.py");
    project.write("site/mysite/__init__.py", "");
    for name in ["urls.py", "wsgi.py"] {
        project.write(&format!("site/mysite/{name}"), &project.read(&format!("mysite/{name}")));
    }
    project.write("site/manage.py", &project.read("manage.py"));
    project.write("site/mysite/other.py", &(settings + "ALLOWED_HOSTS = ['127.0.0.1']\nDEBUG = False\n"));
    fs::remove_dir_all(project.path("mysite")).unwrap();
    project.write("site/static/a.css", "a");
    let more = "STATIC_ROOT = BASE_DIR / 'static'\n";
    project.write("site/mysite/other.py", &(project.read("site/mysite/other.py") + more));
    let arguments =
        ["site/manage.py", "runnginx", "--settings", "mysite.other", "--workers", "1", "--bind", &project.address()];
    let server = project.python(&arguments).start();
    assert_eq!(server.get("/").expect(200).text(), "page");
    assert_eq!(server.get("/static/a.css").expect(200).text(), "a");
}

#[test]
fn runnginx_serves_this_machine_with_debug() {
    let project = django();
    let server = manage(&project, &["runnginx", "--workers", "1", "--bind", &project.address(), "--reload"]).start();
    assert!(server.said().contains("static files are not served; runserver serves them"), "{}", server.said());
    assert_eq!(server.get("/").expect(200).text(), "page");
    project.write("mysite/urls.py", &URLS.replace("\"page\"", "\"edited\""));
    crate::harness::wait_for("the edit", || (server.get("/").text() == "edited").then_some(()));
}

#[test]
fn flask_is_served_from_a_factory() {
    let project = Project::with_app(
        r#"
from flask import Flask, request

def create_app():
    app = Flask(__name__)

    @app.post("/upload")
    def upload():
        return {"size": len(request.get_data()), "scheme": request.scheme}

    return app
"#,
    );
    project.write("static/site.css", "body {}");
    let server = project.serve(&["app:create_app()", "--workers", "1", "--static", "/static/=static"]);
    let response = server.post("/upload", vec![b'a'; 3 << 20]).expect(200).json();
    assert_eq!((&response["size"], &response["scheme"]), (&(3 << 20).into(), &"http".into()));
    assert_eq!(curl(&[&server.url("/static/site.css")]).expect(200).text(), "body {}");
}
