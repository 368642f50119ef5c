//! docs/migrating.md: each configuration "after" serves what the one "before" it served.

use crate::harness::{
    Conn, Machine, Page, Process, Project, Response, is_for_everybody, module, two_users, venv, wait_for,
};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// Responds with the facts that the configurations decide.
const APPLICATION: &str = r#"
import os, pwd, sys, time

def application(environ, start_response):
    while environ["PATH_INFO"].endswith("/slow"):
        time.sleep(0.01)
    mask = os.umask(0o022)
    os.umask(mask)
    facts = {name: environ.get(name) for name in ("SCRIPT_NAME", "PATH_INFO", "HTTP_AUTHORIZATION", "shop.currency")}
    facts |= {name: os.environ.get(name) for name in ("DJANGO_SETTINGS_MODULE", "DATABASE_URL", "SHOP_CURRENCY")}
    facts |= {"user": pwd.getpwuid(os.getuid()).pw_name, "umask": f"{mask:03o}", "directory": os.getcwd()}
    facts |= {"home": sys.prefix, "body": len(environ["wsgi.input"].read())}
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{name}: {value}\n".encode() for name, value in facts.items()]
"#;

/// A machine whose nginx has a configuration of the page.
struct After {
    machine: Machine,
    /// The directory of the site, as the page names it.
    site: &'static str,
    /// The user of the process group, if it has one here.
    user: Option<String>,
}

impl After {
    /// Starts nginx with the complete configuration of a section. `site` is the directory of the site.
    fn start(section: &str, site: &'static str) -> After {
        let machine = Machine::new();
        let name = site.rsplit('/').next().unwrap();
        let path = |path: &str| machine.path(&format!("{site}/{path}"));
        for directory in [path(&format!("app/{name}")), path("static"), machine.path("/run")] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(path(&format!("app/{name}/__init__.py")), "").unwrap();
        fs::write(path(&format!("app/{name}/wsgi.py")), APPLICATION).unwrap();
        fs::write(path("static/site.css"), "body { color: #222 }\n").unwrap();
        fs::write(path("environment"), "DATABASE_URL=postgres://localhost/mysite\n").unwrap();
        symlink(venv(), path("venv")).unwrap();
        fs::write(machine.path("/etc/nginx/mime.types"), "types { text/css css; }\n").unwrap();

        let text = complete(section);
        let user = two_users().filter(|_| text.contains("user=")).map(|[user, _]| user.name);
        let arguments = format!("user={name} group={name}");
        let configuration = machine
            .mapped(&text.replace(&arguments, &user.iter().map(|user| format!("user={user}")).collect::<String>()))
            .replace("/run/", &format!("{}/", machine.path("/run").display()))
            .replace(&format!("{}/nginx.pid", machine.path("/run").display()), "nginx.pid")
            .replace(module().to_str().unwrap(), readable_module(&machine).to_str().unwrap())
            // A call that takes too long takes a second.
            .replace("wsgi_request_timeout 60s;", "wsgi_request_timeout 1s;");
        fs::write(machine.path("/etc/nginx/nginx.conf"), configuration).unwrap();
        machine.paste("sudo nginx -t && sudo systemctl restart nginx");
        After { machine, site, user }
    }

    fn request(&self, request: &str, headers: &str, body: &str) -> Response {
        let head = format!("{request} HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n{headers}\r\n");
        Conn::open(SocketAddr::from(([127, 0, 0, 1], self.machine.port()))).send(head + body).response()
    }

    fn get(&self, path: &str) -> Response {
        self.request(&format!("GET {path}"), "", "")
    }

    /// Asserts what all four have in common, for an application at `mount`.
    fn assert_serves(&self, mount: &str) {
        let style = self.get("/static/site.css").expect(200);
        assert_eq!(style.header("Content-Type"), Some("text/css"));

        let headers = "Authorization: Bearer abc\r\n";
        let page = self.request(&format!("GET {mount}/page"), headers, "").expect(200).text();
        let home = self.path("venv");
        let fact = |name: &str, value: &str| assert!(page.contains(&format!("{name}: {value}\n")), "{name}: {page}");
        fact("SCRIPT_NAME", mount);
        fact("PATH_INFO", "/page");
        fact("HTTP_AUTHORIZATION", "Bearer abc");
        fact("home", &home);
        if let Some(user) = &self.user {
            fact("user", user);
        }

        let upload = "x".repeat(3 << 19);
        let length = format!("Content-Length: {}\r\n", upload.len());
        let page = self.request(&format!("POST {mount}/upload"), &length, &upload).expect(200).text();
        assert!(page.contains(&format!("body: {}\n", upload.len())), "{page}");
        let too_long = format!("Content-Length: {}\r\n", (20 << 20) + 1);
        self.request(&format!("POST {mount}/upload"), &too_long, "").expect(413);
        self.get(&format!("{mount}/slow")).expect(504);
    }

    /// Asserts that the page shows a fact.
    fn assert_fact(&self, path: &str, name: &str, value: &str) {
        let page = self.get(path).expect(200).text();
        assert!(page.contains(&format!("{name}: {value}\n")), "{name}: {value} in {page}");
    }

    fn path(&self, path: &str) -> String {
        self.machine.path(&format!("{}/{path}", self.site)).display().to_string()
    }

    /// Processes of the group, which run in the directory of the application.
    fn group_workers(&self) -> usize {
        let directory = self.path("app");
        let title = format!("nginx: wsgi {} worker", self.site.rsplit('/').next().unwrap());
        Process::all().iter().filter(|process| process.title() == title && process.directory() == directory).count()
    }

    fn quit(self) {
        self.machine.paste("nginx -s quit");
        self.machine.wait_stopped();
        wait_for("the processes of the group to end", || (self.group_workers() == 0).then_some(()));
    }
}

/// Returns the complete configuration of nginx in a section of the page.
fn complete(section: &str) -> String {
    let page = Page::read("docs/migrating.md");
    let heading = format!("\n### {section}, before and after\n");
    let (before, _) = page.text.split_once(&heading).unwrap_or_else(|| panic!("no section {section}"));
    let first = before.lines().count() + 1;
    let line = |location: &str| location.rsplit(':').next().unwrap().parse::<usize>().unwrap();
    let mut blocks = page.blocks().into_iter().filter(|block| line(&block.location) > first);
    let block = blocks.find(|block| block.language == "nginx" && block.text.starts_with("load_module "));
    block.unwrap_or_else(|| panic!("no complete configuration in {section}")).text
}

/// Returns the module, or a copy that the users of process groups can read.
fn readable_module(machine: &Machine) -> PathBuf {
    if is_for_everybody(module()) {
        return module().to_owned();
    }
    let copy = machine.path("ngx_http_wsgi_module.so");
    fs::copy(module(), &copy).unwrap();
    copy
}

#[test]
fn after_gunicorn_nginx_serves_the_site() {
    let after = After::start("gunicorn", "/srv/mysite");
    after.assert_serves("");
    after.assert_fact("/", "DJANGO_SETTINGS_MODULE", "mysite.settings");
    after.assert_fact("/", "DATABASE_URL", "postgres://localhost/mysite");
    after.assert_fact("/", "user", after.machine.user());
    assert_eq!(after.machine.workers().len(), 3);
    after.quit();
}

/// Returns the rest of a line of the page's unit with the runner, whose lines are joined as systemd does.
fn unit_line(key: &str) -> String {
    let blocks = Page::read("docs/migrating.md").blocks();
    let unit = blocks.iter().find(|block| block.language == "ini" && block.text.contains("/ngx-wsgi ")).unwrap();
    let text = unit.text.replace("\\\n", " ");
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).expect(key).to_owned()
}

#[test]
fn after_gunicorn_the_runner_serves_the_site_with_the_same_file() {
    let blocks = Page::read("docs/migrating.md").blocks();
    let settings = blocks.iter().find(|block| block.language == "python" && block.text.contains("wsgi_app")).unwrap();
    let project = Project::new();
    let prefix = project.prefix().to_str().unwrap().to_owned();
    let mapped = |text: &str| text.replace("/srv/mysite", &prefix).replace("0.0.0.0:8000", &project.address());
    project.write("gunicorn.conf.py", &mapped(&settings.text).replace("timeout = 60", "timeout = 1"));
    project.write("app/mysite/__init__.py", "");
    project.write("app/mysite/wsgi.py", APPLICATION);
    project.write("static/site.css", "body { color: #222 }\n");

    let words = mapped(&unit_line("ExecStart"));
    let arguments: Vec<&str> = words.split_whitespace().skip(1).collect();
    // A variable of EnvironmentFile=.
    let server = project.runner(&arguments).set("DATABASE_URL", "postgres://localhost/mysite").start();
    let page = server.get("/page").expect(200).text();
    for fact in [
        "PATH_INFO: /page",
        "DJANGO_SETTINGS_MODULE: mysite.settings",
        "DATABASE_URL: postgres://localhost/mysite",
        &format!("directory: {prefix}/app"),
    ] {
        assert!(page.contains(&format!("{fact}\n")), "{fact}: {page}");
    }
    assert_eq!(server.get("/static/site.css").expect(200).header("Content-Type"), Some("text/css"));
    let upload = "x".repeat(3 << 19);
    let page = server.post("/upload", &upload).expect(200).text();
    assert!(page.contains(&format!("body: {}\n", upload.len())), "{page}");
    let head = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", (20 << 20) + 1);
    assert_eq!(server.connect().send(head).response().status, 413);
    let server = server.errors_expected();
    server.get("/slow").expect(504);
    assert_eq!(server.workers().len(), 3);
    server.quit();
}

#[test]
fn after_uwsgi_a_process_group_serves_the_site() {
    let after = After::start("uWSGI", "/srv/shop");
    after.assert_serves("/shop");
    after.assert_fact("/shop/", "SHOP_CURRENCY", "EUR");
    after.assert_fact("/shop/", "umask", "027");
    after.assert_fact("/shop/", "directory", &after.path("app"));
    after.quit();
}

#[test]
fn after_mod_wsgi_a_process_group_serves_the_site() {
    let after = After::start("mod_wsgi", "/srv/shop");
    after.assert_serves("/shop");
    after.assert_fact("/shop/", "shop.currency", "EUR");
    after.assert_fact("/shop/", "umask", "027");
    after.assert_fact("/shop/", "directory", &after.path("app"));
    wait_for("two processes of the group", || (after.group_workers() == 2).then_some(()));
    after.get("/shop").expect(301);
    after.get("/shopping").expect(404);
    after.quit();
}

#[test]
fn after_unit_a_process_group_serves_the_site() {
    let after = After::start("NGINX Unit", "/srv/mysite");
    after.assert_serves("");
    after.assert_fact("/", "DJANGO_SETTINGS_MODULE", "mysite.settings");
    after.assert_fact("/", "directory", &after.path("app"));
    after.quit();
}

#[test]
fn the_configuration_of_unit_is_json() {
    let blocks = Page::read("docs/migrating.md").blocks();
    let block = blocks.iter().find(|block| block.language == "json").expect("a block of JSON");
    let json: serde_json::Value =
        serde_json::from_str(&block.text).unwrap_or_else(|e| panic!("{}: {e}", block.location));
    assert_eq!(json["applications"]["mysite"]["module"], "mysite.wsgi");
}
