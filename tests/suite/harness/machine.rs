//! Machine for the commands of a document, in a directory: they run unchanged, on paths and ports of its own.
//!
//! Two things differ from the document, both listed here: `paths` has the texts that are replaced, and `PROGRAMS` the
//! programs that are: those that would change this machine, or fetch from another.

use super::{PYTHON, Process, Site, is_for_everybody, is_root, module, python_is_for_everybody, venv, wait_for};
use std::cell::RefCell;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Programs in front of the others on PATH, as shell scripts. In them `@root@` is the machine's directory.
const PROGRAMS: [(&str, &str); 7] = [
    // Packages are there already: those of the test run. That of the module starts nginx.
    ("apt", r#"case "$*" in *libnginx-mod-http-wsgi*) exec nginx ;; esac"#),
    // `make install` is another test's: this machine's nginx.conf loads the module.
    ("make", "exit 0"),
    (
        "sudo",
        r#"if [ "$1" = -u ]; then user=$2; shift 2; else user=root; fi
if [ "$user" != root ] && [ -n "@has_user@" ]; then exec runuser -u "$user" -- "$@"; fi
exec "$@""#,
    ),
    // Where workers cannot have a user of their own.
    ("chown", r#"[ -z "@has_user@" ] || exec /bin/chown "$@""#),
    // The arguments of the system's own nginx, which are compiled in, unless others are given.
    (
        "nginx",
        r#"case " $* " in *" -c "*) ;; *) set -- -p @root@ -c @root@/etc/nginx/nginx.conf "$@" ;; esac
exec @nginx@ -e @root@/var/log/nginx/error.log "$@""#,
    ),
    (
        "systemctl",
        r#"case $1 in
enable) ;;
restart) [ ! -s @root@/nginx.pid ] || nginx -s stop; nginx ;;
reload) nginx -s reload ;;
*) echo "systemctl $*?" >&2; exit 1 ;;
esac"#,
    ),
    // A virtual environment whose pip finds the packages of the tests' own.
    (
        "python3",
        r#"[ "$1 $2" = "-m venv" ] || exec @python@ "$@"
@python@ -m venv --without-pip "$3"
cat >"$3/bin/pip" <<PIP
#!/bin/sh
case \$1 in
install) echo "@packages@" >"\$(echo $(realpath "$3")/lib/python*/site-packages)/tests.pth" ;;
freeze) exec @venv@/bin/python -m pip freeze ;;
*) echo "pip \$*?" >&2; exit 1 ;;
esac
PIP
chmod +x "$3/bin/pip""#,
    ),
];

const NGINX_CONF: &str = "load_module @module@;
user @user@;
worker_processes 2;
pid nginx.pid;
error_log var/log/nginx/error.log notice;
events { }
http {
    access_log off;
    types { text/html html; text/css css; }
    include @root@/etc/nginx/conf.d/*.conf;
    include @root@/etc/nginx/sites-enabled/*;
    # Debian's own site.
    server { listen 127.0.0.1:@port@ default_server; return 404; }
}
";

pub struct Machine {
    site: Site,
    words: Vec<(String, String)>,
    port: u16,
    has_user: bool,
    directory: RefCell<PathBuf>,
}

impl Machine {
    pub fn new() -> Machine {
        let site = Site::plain();
        let packages = packages();
        // As www-data the workers have to be able to read both.
        let has_user = is_root() && python_is_for_everybody() && is_for_everybody(&packages);
        let port = site.another_port();
        let words = paths(&site, port);
        let directory = RefCell::new(site.prefix().to_owned());
        let machine = Machine { site, words, port, has_user, directory };
        for directory in
            ["srv", "etc/nginx/conf.d", "etc/nginx/sites-available", "etc/nginx/sites-enabled", "var/log/nginx"]
        {
            fs::create_dir_all(machine.path(directory)).unwrap();
        }
        machine.write("etc/nginx/nginx.conf", NGINX_CONF);
        for (name, text) in PROGRAMS {
            let program = format!("bin/{name}");
            machine.write(&program, &format!("#!/bin/sh\nset -e\n{text}\n"));
            fs::set_permissions(machine.path(&program), Permissions::from_mode(0o755)).unwrap();
        }
        machine
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.site.prefix().join(path.trim_start_matches('/'))
    }

    /// Port 80.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A file of the machine; the names of PROGRAMS are filled in.
    fn write(&self, path: &str, text: &str) {
        let nginx = std::env::var("NGINX").unwrap_or_else(|_| "/usr/sbin/nginx".to_owned());
        let text = text
            .replace("@root@", self.site.prefix().to_str().unwrap())
            .replace("@module@", module().to_str().unwrap())
            .replace("@port@", &self.port.to_string())
            .replace("@user@", self.user())
            .replace("@has_user@", if self.has_user { "yes" } else { "" })
            .replace("@nginx@", &nginx)
            .replace("@python@", PYTHON)
            .replace("@venv@", venv().to_str().unwrap())
            .replace("@packages@", packages().to_str().unwrap());
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, self.without_users(text)).unwrap();
    }

    /// nginx warns of `user` if it does not run as root, and then cannot create its default directories.
    fn without_users(&self, text: String) -> String {
        if is_root() {
            return text;
        }
        let directories = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("    {name}_temp_path {}/{name}_temp;\n", self.site.prefix().display()))
            .concat();
        text.replace("user root;", "").replace("\nhttp {\n", &format!("\nhttp {{\n{directories}"))
    }

    /// A text of the document, with the paths and ports of this machine.
    pub fn mapped(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.words {
            text = text.replace(from, to);
        }
        self.without_users(text.replace("user www-data;", &format!("user {};", self.user())))
    }

    /// The workers' user.
    pub fn user(&self) -> &str {
        if self.has_user { "www-data" } else { "root" }
    }

    /// Copies a directory with documents, mapped.
    pub fn copy(&self, from: &Path, to: &str) {
        let directory = self.path(to);
        fs::create_dir_all(&directory).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let text = fs::read_to_string(entry.path()).unwrap();
            fs::write(directory.join(entry.file_name()), self.mapped(&text)).unwrap();
        }
    }

    /// Runs commands of a document, one after the other, in the directory that earlier ones have changed to, until one
    /// fails. Returns whether all succeeded, and their output.
    pub fn run(&self, commands: &str) -> (bool, String) {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap_or_default());
        let script = self.path("pasted");
        let left = self.path("left");
        let first = format!("set -eo pipefail\ntrap 'pwd >{}' EXIT\n", left.display());
        fs::write(&script, first + &self.mapped(commands)).unwrap();
        // One that stays in the foreground ends after a while.
        let output = Command::new("timeout")
            .args(["60", "bash"])
            .arg(&script)
            .current_dir(&*self.directory.borrow())
            .env_clear()
            .env("PATH", path)
            .env("HOME", self.site.prefix())
            .env("USER", if is_root() { "root".to_owned() } else { std::env::var("USER").unwrap_or_default() })
            .output()
            .expect("run bash");
        *self.directory.borrow_mut() = fs::read_to_string(left).expect("the directory at the end").trim_end().into();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        (output.status.success(), said)
    }

    /// The same, and all of them succeed; what they said.
    #[track_caller]
    pub fn paste(&self, commands: &str) -> String {
        let (succeeded, said) = self.run(commands);
        assert!(succeeded, "{said}\n---- error log ----\n{}", self.error_log());
        said
    }

    pub fn error_log(&self) -> String {
        fs::read_to_string(self.path("var/log/nginx/error.log")).unwrap_or_default()
    }

    /// The masters and workers that run here.
    fn nginx(&self, title: &str) -> Vec<i32> {
        let prefix = self.site.prefix().to_str().unwrap().to_owned();
        let masters = Process::all().into_iter().filter(|process| {
            let command = process.title();
            command.starts_with("nginx: master process") && command.contains(&prefix)
        });
        let masters: Vec<i32> = masters.map(|process| process.0).collect();
        if title == "master" {
            return masters;
        }
        let workers = Process::all().into_iter().filter(|process| {
            process.title() == "nginx: worker process"
                && process.parent().is_some_and(|parent| masters.contains(&parent))
        });
        workers.map(|process| process.0).collect()
    }

    pub fn workers(&self) -> Vec<i32> {
        self.nginx("worker")
    }

    /// Waits until nginx, which was told to quit, has exited.
    pub fn wait_stopped(&self) {
        wait_for("nginx to end", || self.nginx("master").is_empty().then_some(()));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for master in self.nginx("master") {
            Process(master).signal(libc::SIGTERM);
        }
        if !std::thread::panicking() {
            self.wait_stopped();
        }
    }
}

/// Texts of a document and their replacements. A text stands before those that it contains.
fn paths(site: &Site, port: u16) -> Vec<(String, String)> {
    let root = site.prefix().display().to_string();
    let mut words = vec![
        ("/usr/lib/nginx/modules/ngx_http_wsgi_module.so".to_owned(), module().display().to_string()),
        ("/usr/bin/python3".to_owned(), format!("{root}/bin/python3")),
        ("listen 80;".to_owned(), format!("listen 127.0.0.1:{port};")),
        ("http://127.0.0.1/".to_owned(), format!("http://127.0.0.1:{port}/")),
    ];
    for directory in ["/srv/", "/etc/nginx/", "/var/log/nginx/"] {
        words.push((directory.to_owned(), format!("{root}{directory}")));
    }
    // Those of nginx-conf/.
    for named in [8000, 8080, 8081, 8082, 8443] {
        words.push((format!(":{named}"), format!(":{}", site.another_port())));
    }
    words
}

/// Directory with the packages of the tests.
fn packages() -> PathBuf {
    venv().join(format!("lib/python{}/site-packages", env!("WSGI_PYTHON_VERSION")))
}
