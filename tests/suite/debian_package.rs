//! The Debian package that `make deb` builds: installed, upgraded and removed in a Debian without Rust.

use crate::harness::{Conn, Debian, Page, Response, free_port, in_repository, wait_for};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use tempfile::TempDir;

const NAME: &str = "libnginx-mod-http-wsgi";
const SITE: &str = "www.example.com";
const NEWER: &str = "s/^Version: .*/Version: 9.0-1/";

/// A Debian for the package of `WSGI_TEST_DEB`.
fn debian() -> Option<Debian> {
    Debian::with_package("WSGI_TEST_DEB")
}

/// Commands that install nginx alone. Its own site listens at another port than 80, which the machine may use.
fn install_nginx(debian: &Debian) {
    debian.paste("apt-get -q install -y --no-install-recommends nginx");
    move_default_site(debian);
}

fn move_default_site(debian: &Debian) {
    let site = "/etc/nginx/sites-available/default";
    let text = debian.read(site).replace("listen [::]:80 default_server;", "");
    let moved = text.replace("listen 80 default_server;", &format!("listen 127.0.0.1:{} default_server;", free_port()));
    assert_ne!(moved, text);
    debian.write(site, &moved);
}

/// Makes a package with another control file than that of the package, and returns its path inside.
fn repacked(debian: &Debian, file: &str, change: &str) -> String {
    debian.paste_as_root(&format!(
        "rm -rf ~/repacked
        dpkg-deb -R ~/{} ~/repacked
        sed -i '{change}' ~/repacked/DEBIAN/control
        dpkg-deb -b ~/repacked /var/lib/{file}",
        debian.package()
    ));
    format!("/var/lib/{file}")
}

/// Prints all files but those in which dpkg, apt, Python and logs keep a state.
const LIST: &str = "find / -xdev \\( -path /proc -o -path /dev -o -path /tmp -o -path ~ -o -path /var/cache \
                    -o -path /var/log -o -path /var/lib \\) -prune -o ! -name '*.pyc' ! -name __pycache__ -print";

fn files(debian: &Debian) -> BTreeSet<String> {
    debian.paste_as_root(LIST).lines().map(str::to_owned).collect()
}

/// Returns the names and contents of the files and links of nginx's configuration.
fn configuration(debian: &Debian) -> String {
    debian.paste_as_root(
        "cd /etc/nginx
        find . -type f -exec sha256sum {} + | sort
        find . -type l -printf '%p %l\\n' | sort",
    )
}

/// Asks a site; more headers end with a line break each.
fn ask(port: u16, request: &str, headers: &str, body: &str) -> Response {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{request} HTTP/1.1\r\nHost: {SITE}\r\nConnection: close\r\n{headers}{length}");
    Conn::open(SocketAddr::from(([127, 0, 0, 1], port))).send(format!("{head}\r\n{body}")).response()
}

fn get(port: u16, path: &str) -> Response {
    ask(port, &format!("GET {path}"), "", "")
}

const HELLO: &str = r#"
import os

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello from process %d of user %d" % (os.getppid(), os.getuid())]
"#;

/// Serves an application at a free port.
fn serve_hello(debian: &Debian) -> u16 {
    let port = free_port();
    debian.write("/srv/hello/hello.py", HELLO);
    debian.write(
        "/etc/nginx/sites-enabled/hello",
        &format!("server {{\n    listen 127.0.0.1:{port};\n    location / {{ wsgi_pass /srv/hello/hello.py; }}\n}}\n"),
    );
    port
}

#[test]
fn the_package_serves_django_of_debian_after_the_commands_of_the_page() {
    let Some(mut debian) = debian() else { return };
    debian.paste("apt-get -q install -y --no-install-recommends curl");
    debian.become_user("me");
    let page = Page::read("docs/django.md");
    let (django, option) = ("sudo apt install -y python3-django", "--system-site-packages");
    assert!(page.text.contains(django) && page.text.contains(option));
    let port = free_port();
    let blocks = page.blocks().into_iter().filter(|block| block.language == "sh");
    let mut blocks = blocks.map(|block| {
        block
            .text
            .replace("libnginx-mod-http-wsgi_0.2.0-1_amd64.deb", debian.package())
            .replace("-m venv /srv", &format!("-m venv {option} /srv"))
            .replace("listen 80;", &format!("listen 127.0.0.1:{port};"))
            .replace("http://127.0.0.1/", &format!("http://127.0.0.1:{port}/"))
    });

    let install = blocks.next().unwrap();
    let said = debian.paste(&install);
    for package in ["nginx", "libpython3"] {
        assert!(said.contains(&format!("Setting up {package}")), "{package} is not installed:\n{said}");
    }
    debian.paste(django);
    move_default_site(&debian);
    debian.allow_services();
    debian.paste("sudo systemctl start nginx");

    let mut followed = 0;
    for block in blocks {
        if block.starts_with("curl ") {
            let greeting = "Hello from Django\n";
            wait_for("the site", || debian.run(&block).1.contains(greeting).then_some(()));
        } else {
            debian.paste(&block);
        }
        followed += 1;
    }
    assert!(followed > 7, "{followed} blocks");
    let path = debian.paste("/srv/venv/bin/python -c 'import django; print(django.__file__)'");
    assert!(path.starts_with("/usr/lib/python3/dist-packages/"), "{path}");
    let user = fs::metadata(debian.path("/srv/mysite/data/db.sqlite3")).unwrap().uid();
    let workers: Vec<_> =
        debian.processes().into_iter().filter(|process| process.title() == "nginx: worker process").collect();
    assert!(!workers.is_empty());
    for worker in &workers {
        wait_for("a worker of www-data", || (worker.status_words("Uid")[0] == user.to_string()).then_some(()));
    }
    assert_eq!(debian.paste("id -u www-data").trim(), user.to_string());

    let style = get(port, "/static/admin/css/base.css").expect(200);
    assert_eq!(style.header("Content-Type"), Some("text/css"));
    log_in(&debian, port);

    // The site is as it was after an upgrade of the package, and served.
    let before = configuration(&debian);
    let newer = repacked(&debian, "newer.deb", NEWER);
    debian.paste(&format!("sudo apt-get -q install -y {newer}"));
    assert_eq!(configuration(&debian), before);
    assert_eq!(get(port, "/").expect(200).text(), "Hello from Django\n");
    let log = debian.error_log();
    assert!(!log.contains("Traceback"), "{log}");
}

/// Logs in to the administration of the project, as a browser does.
fn log_in(debian: &Debian, port: u16) {
    debian.paste(
        "cd /srv/mysite/app
        sudo -u www-data env DJANGO_SUPERUSER_PASSWORD=secret /srv/venv/bin/python manage.py createsuperuser \
            --noinput --username me --email me@localhost",
    );
    let form = get(port, "/admin/login/").expect(200);
    let cookie = form.header("Set-Cookie").unwrap().split(';').next().unwrap().to_owned();
    let token =
        form.text().split_once("name=\"csrfmiddlewaretoken\" value=\"").expect("a form with a token").1.to_owned();
    let token = token.split('"').next().unwrap();
    let login = |cookie: &str, token: &str| {
        let headers = format!("Cookie: {cookie}\r\nContent-Type: application/x-www-form-urlencoded\r\n");
        let body = format!("csrfmiddlewaretoken={token}&username=me&password=secret&next=/admin/");
        ask(port, "POST /admin/login/", &headers, &body)
    };
    login("other=1", token).expect(403);
    let response = login(&cookie, token).expect(302);
    let cookies = response.all("Set-Cookie").into_iter().map(|cookie| cookie.split(';').next().unwrap());
    let session = cookies.into_iter().find(|cookie| cookie.starts_with("sessionid=")).expect("a session");
    let start = ask(port, "GET /admin/", &format!("Cookie: {session}\r\n"), "").expect(200);
    assert!(start.text().contains("Site administration"), "{}", start.text());
}

/// Sends requests, each on a connection of its own, while something is done. Returns how many were sent; all succeed.
fn under_load(port: u16, action: impl FnOnce()) -> usize {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                assert!(get(port, "/").expect(200).text().starts_with("hello "));
                sent += 1;
            }
            sent
        });
        action();
        done.store(true, Ordering::Relaxed);
        client.join().unwrap()
    })
}

#[test]
fn an_upgrade_loses_no_request_a_package_in_use_is_kept_and_a_purged_one_leaves_no_file() {
    let Some(debian) = debian() else { return };
    install_nginx(&debian);
    let libraries = "dpkg-deb -f ~/*.deb Depends | grep -oP 'libpython3[^ ,]*'";
    debian.paste(&format!("apt-get -q install -y --no-install-recommends python3 $({libraries})"));
    let before = files(&debian);
    debian.paste(&format!("apt-get -q install -y ~/{}", debian.package()));
    let site = "/etc/nginx/sites-enabled/hello";
    let port = serve_hello(&debian);
    debian.allow_services();
    debian.paste("nginx -t && systemctl start nginx");

    let checkout = debian.home_of_root().join("checkout");
    fs::create_dir(&checkout).unwrap();
    let copied = Command::new("cp").arg("-r").arg(in_repository("tools")).arg(checkout).status().unwrap();
    assert!(copied.success());

    let old = wait_for("the application", || Some(get(port, "/").expect(200).text()));
    let newer = repacked(&debian, "newer.deb", NEWER);
    let sent = under_load(port, || {
        debian.paste(&format!("apt-get -q install -y {newer}"));
        // A master process with the new module has taken over.
        wait_for("the new nginx", || (get(port, "/").expect(200).text() != old).then_some(()));
    });
    assert!(sent > 10, "{sent} requests");

    // What a configuration refers to stays.
    for command in ["remove", "purge"] {
        let (removed, said) = debian.run(&format!("apt-get -q {command} -y {NAME}"));
        assert!(!removed, "{said}");
        assert!(said.contains(&format!("\n{site}:3: wsgi_pass /srv/hello/hello.py\n")), "{said}");
        assert!(said.contains("Remove these directives"), "{said}");
    }
    debian.paste("nginx -t");
    get(port, "/").expect(200);
    let (removed, said) = debian.run("~/checkout/tools/install.sh --remove");
    assert!(!removed && said.contains(&format!("belongs to the package {NAME}")), "{said}");

    fs::remove_file(debian.path(site)).unwrap();
    fs::remove_dir_all(debian.path("/srv/hello")).unwrap();
    debian.paste(&format!("apt-get -q purge -y {NAME} && rm {newer}"));
    let after = files(&debian);
    let run = |path: &&String| !path.starts_with("/run/") && !path.starts_with("/srv/");
    assert_eq!(after.difference(&before).filter(run).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(before.difference(&after).filter(run).collect::<Vec<_>>(), Vec::<&String>::new());
    debian.paste("nginx -t && systemctl restart nginx && systemctl stop nginx");
    let log = debian.error_log();
    assert!(!log.contains("[emerg]") && !log.contains("[alert]"), "{log}");
}

#[test]
fn a_module_that_is_not_loaded_is_upgraded_and_one_that_is_used_is_removed_with_nginx() {
    let Some(debian) = debian() else { return };
    debian.paste(&format!("apt-get -q install -y --no-install-recommends nginx ~/{}", debian.package()));
    let link = "/etc/nginx/modules-enabled/50-mod-http-wsgi.conf";
    debian.paste(&format!("mv {link} ~/link"));
    let newer = repacked(&debian, "newer.deb", NEWER);
    debian.paste(&format!("apt-get -q install -y {newer}"));
    debian.paste(&format!("[ ! -e {link} ] && nginx -t && mv ~/link {link}"));

    serve_hello(&debian);
    debian.paste("nginx -t && apt-get -q remove -y nginx");
    let installed = debian.run(&format!("dpkg-query -W -f '${{db:Status-Status}}' {NAME}")).1;
    assert_ne!(installed, "installed");
    assert!(!debian.path("/usr/lib/nginx/modules/ngx_http_wsgi_module.so").exists());
}

#[test]
fn a_package_for_another_nginx_or_python_is_refused_and_the_message_names_it() {
    let Some(debian) = debian() else { return };
    let changes = [
        ("s/nginx-abi-[0-9.-]*/nginx-abi-0.8.15-1/", "nginx-abi-0.8.15-1"),
        ("s/python3 (<< [^)]*)/python3 (<< 3.2~)/", "python3 (< 3.2~)"),
    ];
    for (change, named) in changes {
        let wrong = repacked(&debian, "wrong.deb", change);
        let (installed, said) = debian.run(&format!("apt-get -q install -y {wrong}"));
        assert!(!installed && said.contains(&format!("Depends: {named}")), "{said}");
        assert!(!debian.path("/usr/lib/nginx/modules/ngx_http_wsgi_module.so").exists());
    }
}

#[test]
fn lintian_reports_neither_errors_nor_warnings() {
    let Some(debian) = debian() else { return };
    debian.paste("apt-get -q install -y --no-install-recommends lintian");
    let said = debian.paste(&format!("lintian --allow-root --fail-on error,warning ~/{}", debian.package()));
    assert!(!said.contains("E: ") && !said.contains("W: "), "{said}");
}

/// Unpacks the package, and returns the directory.
fn unpacked() -> Option<TempDir> {
    let Some(package) = std::env::var_os("WSGI_TEST_DEB") else {
        eprintln!("skipped: this needs WSGI_TEST_DEB=PACKAGE");
        return None;
    };
    let dir = tempfile::tempdir().unwrap();
    let unpacked = Command::new("dpkg-deb").arg("-x").arg(package).arg(dir.path()).status().unwrap();
    assert!(unpacked.success());
    Some(dir)
}

#[test]
fn the_manual_page_names_each_directive() {
    let Some(dir) = unpacked() else { return };
    let page = dir.path().join("usr/share/man/man8/ngx_http_wsgi_module.8.gz");
    // Warnings of the formatter go to stderr.
    let output = Command::new("man").args(["--warnings", "-l"]).arg(page).env("MANWIDTH", "200").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let reference = Page::read("docs/directives.md").text;
    let names: Vec<_> = reference.lines().filter_map(|line| line.strip_prefix("### wsgi_")).collect();
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        assert!(text.lines().any(|line| line.trim() == format!("wsgi_{name}")), "wsgi_{name}: {text}");
    }
}

#[test]
fn ngx_wsgi_top_runs_alone_and_has_a_manual_page_with_its_options() {
    let Some(dir) = unpacked() else { return };
    let output = Command::new(dir.path().join("usr/bin/ngx-wsgi-top")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && help.contains("wsgi_status"), "{help}");
    let page = dir.path().join("usr/share/man/man1/ngx-wsgi-top.1.gz");
    let output = Command::new("man").args(["--warnings", "-l"]).arg(page).env("MANWIDTH", "200").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let words = help.split(|c: char| c != '-' && !c.is_ascii_alphabetic());
    let options: BTreeSet<_> =
        words.filter(|word| word.starts_with('-') && !word.trim_matches('-').is_empty()).collect();
    assert!(options.len() > 10, "{help}");
    for option in options {
        assert!(text.contains(option), "{option} is not in the manual page");
    }
}

/// Documents that the package does not have: the licence and the changes are where Debian has them, and the tests are
/// not installed.
const ELSEWHERE: [&str; 3] = ["LICENSE", "CHANGELOG.md", "tests/README.md"];

#[test]
fn the_links_between_the_documents_of_the_package_lead_to_files() {
    let Some(dir) = unpacked() else { return };
    let documents = dir.path().join("usr/share/doc").join(NAME);
    let mut checked = 0;
    for page in Page::all().iter().chain([&Page::read("BUGS.md"), &Page::read("nginx-conf/README.md")]) {
        let path = documents.join(&page.path);
        assert!(fs::read_to_string(&path).unwrap() == page.text, "{}", path.display());
        for (number, line) in page.prose() {
            let line: String = line.split('`').step_by(2).collect();
            for link in line.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap()) {
                let elsewhere = link.starts_with("https:") || ELSEWHERE.contains(&link.trim_start_matches("../"));
                let found = link.is_empty() || path.parent().unwrap().join(link).exists();
                assert!(elsewhere || found, "{}:{number}: {link}", page.path);
                checked += 1;
            }
        }
    }
    assert!(checked > 100, "{checked} links");
}

#[test]
fn the_manual_page_of_ngx_wsgi_ctl_has_its_commands_and_options() {
    let page = fs::read_to_string(in_repository("debian/ngx-wsgi-ctl.8.in")).unwrap().replace('\\', "");
    for arguments in [&["--help"][..], &["status", "--help"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_ngx-wsgi-ctl")).args(arguments).output().unwrap();
        let help = String::from_utf8(output.stdout).unwrap();
        let options = help.split(|c: char| c != '-' && !c.is_ascii_alphabetic()).filter(|word| word.starts_with("--"));
        let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
        let commands = commands.filter_map(|line| line.split_whitespace().next());
        let words: Vec<_> = options.chain(commands).collect();
        assert!(words.len() > 2, "{help}");
        for word in words {
            assert!(page.contains(word), "{word} is not in the manual page");
        }
    }
}

#[test]
fn the_copyright_names_each_crate_that_is_compiled_in() {
    let arguments = ["tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none", "--format", "{p}"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(in_repository("")).output().unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    let compiled: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    let text = fs::read_to_string(in_repository("debian/copyright")).unwrap();
    let named: BTreeSet<_> = text.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(": ")).collect();
    let named: BTreeSet<_> = named.into_iter().map(|(name, _)| name).chain(["ngx-http-wsgi"]).collect();
    assert_eq!(named, compiled);
}

#[test]
fn the_first_entries_of_both_changelogs_are_for_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let debian = fs::read_to_string(in_repository("debian/changelog")).unwrap();
    assert!(debian.starts_with(&format!("{NAME} ({version}-")), "{debian}");
    let changes = fs::read_to_string(in_repository("CHANGELOG.md")).unwrap();
    let first = changes.lines().find_map(|line| line.strip_prefix("## ")).unwrap();
    assert_eq!(first.split(' ').next(), Some(version));
}
