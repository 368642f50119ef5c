//! The configurations of `nginx-conf/`: each is accepted by `nginx -t` and serves.

use crate::harness::{
    Conn, Machine, Response, Site, curl, in_repository, is_for_everybody, is_root, module, venv, wait_for,
};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The directory that nginx is started in, with the ports that replace those of the files.
struct Prefix {
    site: Site,
    ports: Vec<(u16, u16)>,
}

impl Prefix {
    /// Makes a directory with everything of `nginx-conf/`.
    fn new() -> Prefix {
        let site = Site::plain();
        let ports = [8080, 8081, 8082, 8443].map(|named| (named, site.another_port()));
        let prefix = Prefix { site, ports: ports.to_vec() };
        for entry in fs::read_dir(in_repository("nginx-conf")).unwrap() {
            let path = entry.unwrap().path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("conf") => {
                    let name = path.file_name().unwrap().to_str().unwrap();
                    prefix.write(name, &prefix.rewritten(&fs::read_to_string(&path).unwrap()));
                }
                Some("py") => drop(fs::copy(&path, prefix.path(path.file_name().unwrap())).unwrap()),
                _ => {}
            }
        }
        prefix
    }

    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.site.prefix().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn port(&self, named: u16) -> u16 {
        let found = self.ports.iter().find(|(from, _)| *from == named);
        found.expect("a port that the files name").1
    }

    /// Returns the text of a file with the module under test, free ports, an existing user, and the test's directories.
    fn rewritten(&self, text: &str) -> String {
        let mut text = text.replace("/usr/lib/nginx/modules/ngx_http_wsgi_module.so", module().to_str().unwrap());
        for (named, free) in &self.ports {
            text = text.replace(&format!("127.0.0.1:{named}"), &format!("127.0.0.1:{free}"));
        }
        let user = if is_root() { "user root;" } else { "" };
        let workers = "worker_processes 1;";
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("    {name}_temp_path {name}_temp;\n"))
            .concat();
        text.replace("user www-data;", user)
            .replace("worker_processes auto;", workers)
            .replace("\nhttp {\n", &format!("\nhttp {{\n{temporary}"))
    }

    fn nginx(&self, conf: &str) -> Command {
        let program = std::env::var("NGINX").unwrap_or_else(|_| "/usr/sbin/nginx".to_owned());
        let mut command = Command::new(program);
        command
            .arg("-p")
            .arg(self.site.prefix())
            .args(["-c", conf, "-e", "logs/error.log"])
            .env_clear()
            .stdin(Stdio::null());
        command
    }

    /// Tests the configuration, then runs it until the first of the ports that the file names accepts connections.
    fn start(&self, conf: &str, named: u16) -> Running {
        let check = self.nginx(conf).arg("-t").output().expect("run nginx -t");
        assert!(check.status.success(), "{conf}: {}", String::from_utf8_lossy(&check.stderr));
        let mut command = self.nginx(conf);
        command.args(["-g", "daemon off;"]).process_group(0);
        // SAFETY: prctl is async-signal-safe; nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // Should the tests be killed, nginx ends too.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        let running = Running {
            child: command.spawn().expect("run nginx"),
            port: self.port(named),
            log: self.path("logs/error.log"),
        };
        wait_for(&format!("{conf} to listen"), || std::net::TcpStream::connect(running.address()).ok());
        running
    }
}

/// An nginx with one of the configurations; it ends with this value.
struct Running {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Running {
    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    #[track_caller]
    fn get(&self, path: &str) -> Response {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n"), "")
    }

    #[track_caller]
    fn ask(&self, head: &str, body: &str) -> Response {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!("{head}{length}Connection: close\r\n\r\n{body}");
        Conn::open(self.address()).send(request).response()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // SAFETY: no memory is involved; the child is ours and has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGQUIT) };
        let failed = std::thread::panicking();
        if !failed {
            wait_for("nginx to quit", || self.child.try_wait().unwrap());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        if failed {
            eprintln!("---- error log ----\n{log}");
            return;
        }
        let bad = ["[alert]", "[emerg]", "[crit]", "panicked", "exited on signal"];
        let found: Vec<&str> = log.lines().filter(|line| bad.iter().any(|bad| line.contains(bad))).collect();
        assert!(found.is_empty(), "in the error log:\n{}", found.join("\n"));
    }
}

#[test]
fn each_configuration_has_a_test_and_a_line_in_the_readme() {
    let readme = fs::read_to_string(in_repository("nginx-conf/README.md")).unwrap();
    let mut names: Vec<String> = fs::read_dir(in_repository("nginx-conf"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".conf"))
        .collect();
    names.sort();
    let tested = [
        "backend.conf",
        "django.conf",
        "front.conf",
        "hello.conf",
        "limits.conf",
        "monitoring.conf",
        "process-groups.conf",
        "several-applications.conf",
    ];
    assert_eq!(names, tested);
    for name in names {
        assert!(readme.contains(&format!("[{name}]({name})")), "{name}");
    }
}

/// The commands in the comments at the top of a configuration.
fn commands(name: &str) -> String {
    let text = fs::read_to_string(in_repository("nginx-conf").join(name)).unwrap();
    let head = text.lines().take_while(|line| line.starts_with('#'));
    head.filter_map(|line| line.strip_prefix("#   ")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn each_configuration_runs_as_its_comments_say() {
    let said = [
        ("hello.conf", &["Hello from Python inside nginx\nurl: http://127.0.0.1:"][..]),
        ("several-applications.conf", &["Hello", "api: mounted at '/api', asked for '/users'\nA file.\n", "''"]),
        ("limits.conf", &["\n200\n", "\n429\n"]),
        ("monitoring.conf", &["ready\n", "/hello.py\",process_group=\"\"} 1\n", "\"uri\":\"/\",\"status\":200"]),
        (
            "process-groups.conf",
            &[
                "Good morning from /blog, user daemon\nWelcome from /shop, user games\n",
                "nginx: wsgi supervisor",
                "wsgi blog master",
                "wsgi shop worker",
                "wsgi_instance blog ",
            ],
        ),
        ("django.conf", &["The install worked successfully!", "HTTP/1.1 200 OK", "Content-Type: text/css"]),
        ("front.conf", &["We are working on it"]),
        ("backend.conf", &["Hello from Python inside nginx\nurl: https://localhost:"]),
    ];
    let machine = Machine::new();
    machine.copy(&in_repository("nginx-conf"), "/srv/try");
    machine.paste("cd /srv/try");
    for (name, expected) in said {
        if name == "process-groups.conf" && !has_users() {
            continue;
        }
        let said = machine.paste(&commands(name));
        for text in expected {
            assert!(said.contains(text), "{name}: no {text:?} in\n{said}");
        }
        machine.wait_stopped();
    }
}

#[test]
fn hello_serves() {
    let prefix = Prefix::new();
    let nginx = prefix.start("hello.conf", 8080);
    let text = nginx.get("/some/where").expect(200).text();
    assert!(text.starts_with("Hello from Python inside nginx\n"), "{text}");
    assert!(text.contains("url: http://localhost/some/where\n"), "{text}");
}

#[test]
fn several_applications_serve_each_at_its_place() {
    let prefix = Prefix::new();
    prefix.write("files/page.txt", "a file\n");
    let nginx = prefix.start("several-applications.conf", 8080);
    let hello = nginx.get("/").expect(200).text();
    assert!(hello.starts_with("Hello"), "{hello}");
    let api = nginx.get("/api/users").expect(200);
    assert_eq!(api.text(), "api: mounted at '/api', asked for '/users'\n");
    assert_eq!(api.header("X-Api-Version"), Some("2"));
    let v1 = nginx.get("/v1/users").expect(200);
    assert_eq!(v1.text(), "api: mounted at '', asked for '/v1/users'\n");
    assert_eq!(v1.header("X-Api-Version"), None);
    assert_eq!(nginx.get("/files/page.txt").expect(200).text(), "a file\n");
    let text = nginx.get("/files/none").expect(200).text();
    assert!(text.contains("/files/none"), "{text}");
    let other = nginx.ask("GET /x HTTP/1.1\r\nHost: api.localhost\r\n", "").expect(200);
    assert_eq!(other.text(), "api: mounted at '', asked for '/x'\n");
}

/// Returns whether process groups can have users of their own, which then load the module.
fn has_users() -> bool {
    is_root() && is_for_everybody(module())
}

#[test]
fn process_groups_run_as_their_users() {
    if !has_users() {
        return;
    }
    let prefix = Prefix::new();
    prefix.write("blog.env", "GREETING=Hi\n");
    let nginx = prefix.start("process-groups.conf", 8080);
    assert_eq!(nginx.get("/blog/").expect(200).text(), "Hi from /blog, user daemon\n");
    assert_eq!(nginx.get("/shop/").expect(200).text(), "Welcome from /shop, user games\n");
    drop(nginx);
    assert!(!prefix.path("run/sockets/blog").exists());
}

#[test]
fn limits_refuse_what_is_too_much() {
    let prefix = Prefix::new();
    let nginx = prefix.start("limits.conf", 8080);
    assert!(nginx.get("/").expect(200).text().starts_with("Hello"));
    // Five at once (one, and a burst of four), then one in five seconds.
    let statuses: Vec<u16> = (0..7).map(|_| nginx.get("/login/").status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429]);
    let large = "x".repeat((1 << 20) + 1);
    let post = |path: &str| nginx.ask(&format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n"), &large);
    assert_eq!(post("/upload/").status, 200);
    let head =
        format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", large.len());
    // Refused by its length, before any of it is sent.
    let refused = Conn::open(nginx.address()).send(head).response();
    assert_eq!(refused.status, 413);
}

const SETTINGS: &str = r#"
from pathlib import Path
BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "for a test"
ALLOWED_HOSTS = ["localhost"]
ROOT_URLCONF = "mysite.urls"
INSTALLED_APPS = ["django.contrib.staticfiles"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR.parent / "static"
MEDIA_URL = "media/"
MEDIA_ROOT = BASE_DIR.parent / "media"
DATABASES = {}
USE_TZ = True
"#;

const URLS: &str = r#"
from django.conf import settings
from django.core.files.storage import default_storage
from django.http import HttpResponse
from django.templatetags.static import static
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

def index(request):
    return HttpResponse(f"{request.build_absolute_uri()} {static('site.css')} {settings.SETTINGS_MODULE}")

def upload(request):
    name = default_storage.save("note.txt", request.FILES["file"])
    return HttpResponse(default_storage.url(name))

urlpatterns = [path("", index), path("upload", upload)]
"#;

const WSGI: &str = r#"
import os
from django.core.wsgi import get_wsgi_application
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
application = get_wsgi_application()
"#;

#[test]
fn a_django_project_serves_pages_static_files_and_uploads() {
    let prefix = Prefix::new();
    std::os::unix::fs::symlink(venv(), prefix.path("venv")).unwrap();
    prefix.write("mysite/mysite/__init__.py", "");
    prefix.write("mysite/mysite/settings.py", SETTINGS);
    prefix.write("mysite/mysite/urls.py", URLS);
    prefix.write("mysite/mysite/wsgi.py", WSGI);
    prefix.write("static/site.css", "body { color: #222 }\n");
    let nginx = prefix.start("django.conf", 8080);

    let page = nginx.get("/?a=b").expect(200).text();
    assert_eq!(page, "http://localhost/?a=b /static/site.css mysite.settings");
    let style = nginx.get("/static/site.css").expect(200);
    assert_eq!(style.header("Content-Type"), Some("text/css"));
    let form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"note.txt\"\r\n\r\nnoted\r\n--b--\r\n";
    let head = "POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n";
    let url = nginx.ask(head, form).expect(200).text();
    assert_eq!(url, "/media/note.txt");
    let note = nginx.get(&url).expect(200);
    assert_eq!(note.text(), "noted");
    assert_eq!(note.header("X-Content-Type-Options"), Some("nosniff"));
}

#[test]
fn a_front_spreads_requests_over_its_back_ends_and_outlives_them() {
    let front = Prefix::new();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"])
        .arg(front.path("key.pem"))
        .arg("-out")
        .arg(front.path("certificate.pem"))
        .stderr(Stdio::null())
        .status()
        .expect("run openssl; it belongs to the tools that `make test` installs");
    assert!(made.success());
    front.write("static/site.css", "body { color: #222 }\n");

    // Two machines, that differ in what their application says.
    let back_end = |named: u16| {
        let machine =
            Prefix { site: Site::plain(), ports: vec![(8081, front.port(named)), (named, front.port(named))] };
        let hello = fs::read_to_string(in_repository("nginx-conf/hello.py")).unwrap();
        machine.write("hello.py", &hello.replace("inside nginx", &format!("of {named}")));
        let conf = fs::read_to_string(in_repository("nginx-conf/backend.conf")).unwrap();
        machine.write("backend.conf", &machine.rewritten(&conf));
        let running = machine.start("backend.conf", named);
        (machine, running)
    };
    let first = back_end(8081);
    let second = back_end(8082);
    let running = front.start("front.conf", 8443);
    let url = |path: &str| format!("https://localhost:{}{path}", front.port(8443));
    let get = |path: &str| curl(&["-4", &url(path)]);

    let texts: Vec<String> = (0..6).map(|_| get("/page").expect(200).text()).collect();
    for named in ["of 8081", "of 8082"] {
        assert!(texts.iter().any(|text| text.contains(named)), "{named}: {texts:?}");
    }
    // Scheme, host and client as the front saw them, whatever the client says itself.
    let forged = ["-4", "-H", "X-Forwarded-For: 192.0.2.1", "-H", "X-Forwarded-Proto: gopher", &url("/page")];
    let text = curl(&forged).expect(200).text();
    assert!(text.contains(&format!("url: {}\n", url("/page"))), "{text}");
    assert!(text.contains("client: 127.0.0.1\n"), "{text}");
    assert_eq!(get("/static/site.css").expect(200).header("Content-Type"), Some("text/css"));
    // Plain HTTP is sent to HTTPS.
    let plain = curl(&["-4", &format!("http://localhost:{}/x?y", front.port(8080))]).expect(301);
    assert_eq!(plain.header("Location"), Some("https://localhost/x?y"));

    // Without one back end the site works. Without both, clients get the page for that.
    drop(first);
    for _ in 0..4 {
        let text = get("/page").expect(200).text();
        assert!(text.contains("of 8082"), "{text}");
    }
    drop(second);
    let response = get("/page").expect(503);
    assert_eq!(response.header("Retry-After"), Some("30"));
    assert!(response.text().contains("back soon"), "{}", response.text());
    drop(running);
}

#[test]
fn a_back_end_talks_to_its_front_only() {
    let prefix = Prefix::new();
    let conf = fs::read_to_string(prefix.path("backend.conf")).unwrap();
    // The front is another machine now.
    prefix.write("backend.conf", &conf.replace("127.0.0.1  1;", "192.0.2.7  1;"));
    let nginx = prefix.start("backend.conf", 8081);
    nginx.get("/").expect(403);
    let forged = "GET / HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.7\r\n";
    nginx.ask(forged, "").expect(403);
}
