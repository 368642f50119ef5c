//! README.md and the pages of docs/: each configuration, program and command in them works.
//!
//! A block that cannot be run has a comment `<!-- not run: reason -->` directly above it.

use crate::harness::{Block, Machine, PYTHON, Page, Site, is_root, make_certificate, module, venv};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Pages whose commands run in `chapters`, one page after another.
const FOLLOWED: [&str; 2] = ["docs/django.md", "docs/flask.md"];

/// Languages of blocks; those after the first three are only read.
const LANGUAGES: [&str; 11] =
    ["nginx", "python", "sh", "apache", "console", "dockerfile", "ini", "json", "rust", "text", "yaml"];

/// Returns the blocks of all pages in a language that are not marked.
fn blocks(language: &str) -> Vec<Block> {
    let blocks = Page::all().into_iter().flat_map(|page| page.blocks());
    let blocks: Vec<Block> = blocks.filter(|block| block.language == language && !block.is_not_run).collect();
    assert!(blocks.len() > 3, "{blocks:?}");
    blocks
}

#[test]
fn each_block_has_a_language() {
    for page in Page::all() {
        for block in page.blocks() {
            assert!(LANGUAGES.contains(&block.language.as_str()), "{}: {:?}", block.location, block.language);
        }
        let prose = page.prose();
        for (before, (number, line)) in prose.iter().zip(prose.iter().skip(1)) {
            // Each section of the reference begins with its directive's syntax.
            let is_code = before.1.is_empty() && line.starts_with("    ") && !line.starts_with("    Syntax: ");
            assert!(!is_code, "{}:{number}: code without a fence: {line}", page.path);
        }
    }
}

#[test]
fn each_mark_of_a_block_has_a_reason_and_a_block() {
    for page in Page::all() {
        let marks = page.prose().iter().filter(|(_, line)| line.trim().starts_with("<!-- not run")).count();
        let marked = page.blocks().iter().filter(|block| block.is_not_run).count();
        assert_eq!(marks, marked, "{}: a mark is not directly above a block, or has no reason", page.path);
    }
}

/// Directories of a machine that stand for directories below the prefix, which is below the first of them.
const ROOTS: [&str; 9] = ["/tmp/", "/srv/", "/etc/", "/var/", "/home/", "/opt/", "/run/", "/usr/share/", "/app/"];

const APPLICATION: &str = "def application(environ, start_response):
    start_response(\"200 OK\", [])
    return [b\"\"]
";

/// A directory in which nginx tests the configurations of the pages, with stand-ins for the files that they name.
struct Prefix {
    site: Site,
}

impl Prefix {
    fn new() -> Prefix {
        let site = Site::plain();
        make_certificate(site.prefix());
        Prefix { site }
    }

    fn path(&self) -> &Path {
        self.site.prefix()
    }

    /// Replaces the paths and ports of a configuration by ones that are free for use, and creates the files.
    fn prepared(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for root in ROOTS {
            // Only where a word begins, or the value of an argument.
            for before in [" ", "\"", ":", "="] {
                let below = format!("{before}{}{root}", self.path().display());
                text = text.replace(&format!("{before}{root}"), &below);
            }
        }
        if !is_root() {
            text = text.replace("user www-data;", "");
        }
        // nginx refuses `own` with this version.
        if env!("WSGI_PYTHON_VERSION") == "3.11" {
            text = text.replace("wsgi_interpreter_gil own;", "wsgi_interpreter_gil shared;");
        }
        let lines: Vec<String> = text.lines().map(|line| self.prepared_line(line)).collect();
        lines.join("\n")
    }

    fn prepared_line(&self, line: &str) -> String {
        let code = line.split('#').next().unwrap();
        let words: Vec<&str> =
            code.split(|c: char| c.is_whitespace() || ";{}\"'".contains(c)).filter(|word| !word.is_empty()).collect();
        for word in &words {
            let path = Path::new(word.trim_start_matches("unix:"));
            if path.starts_with(self.path()) {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
            }
        }
        let mut line = line.to_owned();
        for (argument, value) in words.iter().filter_map(|word| word.split_once('=')) {
            // Those of a process group.
            match argument {
                "home" => self.link_to_venv(Path::new(value)),
                "path" | "chdir" if Path::new(value).starts_with(self.path()) => fs::create_dir_all(value).unwrap(),
                "env_file" => self.create(Path::new(value), "NAME=value\n"),
                // A user that each system has, and only root may change to.
                "user" | "group" => {
                    let user = if is_root() { format!("{argument}=daemon") } else { String::new() };
                    line = line.replace(&format!("{argument}={value}"), &user);
                }
                _ => {}
            }
        }
        for (directive, value) in words.iter().zip(words.iter().skip(1)) {
            match *directive {
                "listen" if !value.starts_with("unix:") => {
                    let address = format!("listen 127.0.0.1:{}", self.site.another_port());
                    return line.replacen(&format!("listen {value}"), &address, 1);
                }
                "load_module" => return line.replace(value, module().to_str().unwrap()),
                "ssl_certificate" => return line.replace(value, self.path().join("certificate.pem").to_str().unwrap()),
                "ssl_certificate_key" => return line.replace(value, self.path().join("key.pem").to_str().unwrap()),
                "wsgi_pass" if value.contains('/') || value.ends_with(".py") => {
                    self.create(&self.path().join(value.split(':').next().unwrap()), APPLICATION);
                }
                "wsgi_python_home" => self.link_to_venv(Path::new(value)),
                "wsgi_python_executable" => self.link_to_venv(Path::new(value).ancestors().nth(2).unwrap()),
                "wsgi_env_file" => self.create(Path::new(value), "NAME=value\n"),
                "include" if !value.contains('*') => self.create(&self.path().join("conf").join(value), ""),
                _ => {}
            }
        }
        line
    }

    /// Creates a file that a configuration names, if it is below the prefix.
    fn create(&self, path: &Path, content: &str) {
        if path.starts_with(self.path()) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    /// Makes a path of a virtual environment lead to that of the tests.
    fn link_to_venv(&self, home: &Path) {
        if home.starts_with(self.path()) && !home.exists() {
            fs::create_dir_all(home.parent().unwrap()).unwrap();
            symlink(venv(), home).unwrap();
        }
    }

    /// Tests a complete configuration; returns the output of nginx if it is refused.
    fn test(&self, configuration: &str) -> Result<(), String> {
        let path = self.path().join("conf/nginx.conf");
        fs::write(&path, configuration.replace("@port@", &self.site.another_port().to_string())).unwrap();
        let program = std::env::var("NGINX").unwrap_or_else(|_| "/usr/sbin/nginx".to_owned());
        let output = Command::new(program)
            .args(["-t", "-e", "logs/error.log", "-p"])
            .arg(self.path())
            .arg("-c")
            .arg(&path)
            .env_clear()
            .output()
            .expect("run nginx -t");
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Tests a part of a configuration in the contexts in which it may stand.
    fn test_part(&self, text: &str) -> Result<(), String> {
        let text = self.prepared(text);
        let mut refusals = String::new();
        for context in [location, server, http, main] {
            match self.test(&context(&text)) {
                Ok(()) => return Ok(()),
                Err(refusal) => refusals.push_str(&refusal),
            }
        }
        Err(refusals)
    }
}

fn location(part: &str) -> String {
    server(&format!("location /part/ {{\n{part}\n}}"))
}

fn server(part: &str) -> String {
    http(&format!("server {{\nlisten 127.0.0.1:@port@;\n{part}\n}}"))
}

fn http(part: &str) -> String {
    main(&format!("http {{\n{part}\n}}"))
}

/// Completes a configuration by the lines without which nginx cannot test it here.
fn main(part: &str) -> String {
    let lacks = |directive: &str| !part.lines().any(|line| line.trim_start().starts_with(&format!("{directive} ")));
    let mut text = String::new();
    if lacks("load_module") {
        text.push_str(&format!("load_module {};\n", module().display()));
    }
    if lacks("pid") {
        text.push_str("pid logs/nginx.pid;\n");
    }
    if lacks("events") {
        text.push_str("events { }\n");
    }
    let mut http = "access_log off;\n".to_owned();
    if lacks("wsgi_check") {
        // The applications are stand-ins.
        http.push_str("wsgi_check off;\n");
    }
    if lacks("wsgi_status_zone") {
        http.push_str("wsgi_status_zone wsgi 64k;\n");
    }
    for name in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        if lacks(&format!("{name}_temp_path")) {
            http.push_str(&format!("{name}_temp_path tmp/{name};\n"));
        }
    }
    // load_module has to be in front of events.
    if lacks("load_module") { text + &in_http(part, &http) } else { in_http(part, &http) + &text }
}

/// Puts directives at the beginning of the http block, if there is one.
fn in_http(part: &str, directives: &str) -> String {
    part.replacen("http {", &format!("http {{\n{directives}"), 1) + "\n"
}

#[test]
fn nginx_accepts_each_configuration() {
    let prefix = Prefix::new();
    let mut refused = String::new();
    for block in blocks("nginx") {
        if let Err(refusals) = prefix.test_part(&block.text) {
            refused.push_str(&format!("{}:\n{}{refusals}\n", block.location, block.text));
        }
    }
    assert!(refused.is_empty(), "{refused}");
}

#[test]
fn a_configuration_with_a_mistake_is_not_accepted() {
    let prefix = Prefix::new();
    prefix.test_part("location / {\n    wsgi_pass /srv/shop/shop.py;\n}").unwrap();
    for mistake in [
        "location / {\n    wsgi_pas /srv/shop/shop.py;\n}",
        "wsgi_queue many;",
        "location / {\n    wsgi_pass /nowhere/shop.py;\n}",
        "wsgi_pass /srv/shop/shop.py",
    ] {
        assert!(prefix.test_part(mistake).is_err(), "{mistake}");
    }
}

#[test]
fn each_python_program_compiles() {
    let directory = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = blocks("python")
        .iter()
        .map(|block| {
            let file = directory.path().join(block.location.replace('/', "-"));
            fs::write(&file, &block.text).unwrap();
            file
        })
        .collect();
    let compile = "import sys\nfor name in sys.argv[1:]:\n    compile(open(name).read(), name, 'exec')\n";
    let output = Command::new(PYTHON).args(["-c", compile]).args(files).output().expect("run Python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A machine with the files that the commands of the pages expect, and a running nginx.
fn machine() -> Machine {
    let machine = Machine::new();
    for name in ["hello.py", "deploy.sh", "README.md"] {
        let file = machine.path("nginx-conf").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::copy(crate::harness::in_repository("nginx-conf").join(name), &file).unwrap();
        fs::set_permissions(file, Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir_all(machine.path("/srv/mysite")).unwrap();
    // The home directory of the user is that of the machine.
    fs::create_dir_all(machine.path("mysite/mysite")).unwrap();
    fs::write(machine.path("mysite/mysite/wsgi.py"), APPLICATION).unwrap();
    machine.paste("sudo systemctl restart nginx");
    machine
}

#[test]
fn each_command_runs() {
    let mut count = 0;
    for page in Page::all() {
        let blocks: Vec<Block> =
            page.blocks().into_iter().filter(|block| block.language == "sh" && !block.is_not_run).collect();
        if blocks.is_empty() || FOLLOWED.contains(&page.path.as_str()) {
            continue;
        }
        let machine = machine();
        for block in blocks {
            let (succeeded, output) = machine.run(&block.text);
            assert!(succeeded, "{}:\n{}{output}", block.location, block.text);
            count += 1;
        }
    }
    assert!(count > 1, "{count}");
}

#[test]
fn the_application_of_the_readme_is_served() {
    let page = Page::read("README.md");
    let first = |language: &str| page.blocks().into_iter().find(|block| block.language == language).unwrap().text;
    let (program, configuration) = (first("python"), first("nginx"));
    assert_eq!(program.lines().count() + configuration.lines().count(), 6);
    let nginx = Site::plain()
        .file("srv/hello/hello.py", &program)
        .server(&configuration.replace("/srv/", "@prefix@/srv/"))
        .start();
    assert_eq!(nginx.get("/").expect(200).text(), "Hello from Python inside nginx\n");
}

#[test]
fn the_readme_is_short() {
    assert!(Page::read("README.md").text.lines().count() <= 150);
}
