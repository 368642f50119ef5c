//! Directories and files that the workers' user cannot use: the first of them is named, with the user.

use crate::harness::{Check, Engine, PYTHON, Site, both_engines, is_root, python_is_for_everybody};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

both_engines!(a_worker_names_a_closed_directory, a_worker_names_a_closed_environment);

const FINE: &str = "
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'fine']
";

/// A site whose workers are not root; `None` where the test cannot have one.
fn as_nobody(site: Site) -> Option<Site> {
    if !is_root() || !python_is_for_everybody() {
        eprintln!("skipped: this needs root, and a Python that everybody can read");
        return None;
    }
    Some(site.user("nobody nogroup"))
}

fn close(site: &Site, path: &str, mode: u32) {
    fs::set_permissions(site.prefix().join(path), Permissions::from_mode(mode)).unwrap();
}

/// The files of a virtual environment that Python reads.
fn environment(site: Site) -> Site {
    let version = env!("WSGI_PYTHON_VERSION");
    let home = fs::canonicalize(PYTHON).unwrap();
    let home = home.parent().unwrap().display();
    let site = site
        .file("private/venv/pyvenv.cfg", &format!("home = {home}\nversion = {version}\n"))
        .file(&format!("private/venv/lib/python{version}/site-packages/packaged.py"), FINE);
    fs::create_dir(site.prefix().join("private/venv/bin")).unwrap();
    symlink(PYTHON, site.prefix().join("private/venv/bin/python")).unwrap();
    site
}

#[track_caller]
fn assert_refused(check: &Check, site: &Site, sentence: &str) {
    let sentence = sentence.replace("@prefix@", site.prefix().to_str().unwrap());
    assert!(!check.ok, "accepted, though: {sentence}");
    let said = check.output.lines().any(|line| line.contains("[emerg] wsgi_pass ") && line.contains(&sentence));
    assert!(said, "wanted: {sentence}\ngot: {}", check.output);
}

const CLOSED: &str = "is closed to user nobody (mode 0700, owner root): \"chmod o+x @prefix@/private\" would open it";

#[test]
fn a_closed_virtual_environment_is_named_before_python_starts() {
    let directives = [
        "wsgi_python_home @prefix@/private/venv;",
        "wsgi_python_home @prefix@/link/venv;",
        "wsgi_python_executable @prefix@/private/venv/bin/python;",
    ];
    for directive in directives {
        let Some(site) = as_nobody(Site::plain().http("wsgi_check on;")) else { return };
        let site = environment(site).app(FINE).http(directive);
        symlink("private", site.prefix().join("link")).unwrap();
        site.check_again().assert_ok();
        close(&site, "private", 0o700);
        let check = site.check_again();
        let sentence = format!("Python cannot be started: directory \"@prefix@/private\" {CLOSED}");
        assert_refused(&check, &site, &sentence);
        assert!(!check.output.contains("Python path configuration"), "{}", check.output);
        close(&site, "private", 0o701);
        site.check_again().assert_ok();
        close(&site, "private/venv/pyvenv.cfg", 0o600);
        let sentence =
            "file \"@prefix@/private/venv/pyvenv.cfg\" cannot be read by user nobody (mode 0600, owner root)";
        assert_refused(&site.check_again(), &site, sentence);
    }
}

#[test]
fn packages_that_cannot_be_read_are_named() {
    let Some(site) = as_nobody(Site::plain().http("wsgi_check on;")) else { return };
    let site =
        environment(site).http("wsgi_python_home @prefix@/private/venv;").app("from packaged import application\n");
    site.check_again().assert_ok();
    let packages = concat!("private/venv/lib/python", env!("WSGI_PYTHON_VERSION"), "/site-packages");
    close(&site, packages, 0o711);
    let sentence = format!("\"@prefix@/{packages}\" cannot be read by user nobody (mode 0711, owner root)");
    assert_refused(&site.check_again(), &site, &sentence);
    close(&site, packages, 0o755);
    // Its packages are not on sys.path then.
    close(&site, "private/venv/lib", 0o700);
    let sentence = "\"@prefix@/private/venv/lib\" is closed to user nobody (mode 0700, owner root)";
    assert_refused(&site.check_again(), &site, sentence);
    let site = site.http("wsgi_enable_subinterpreters on;");
    assert_refused(&site.check_again(), &site, sentence);
}

#[test]
fn closed_scripts_and_modules_are_named() {
    // wsgi_pass and what else is in the configuration, the path that is closed.
    let cases = [
        ("wsgi_pass private/app.py;", ""),
        ("wsgi_pass private/package/wsgi.py;", ""),
        ("wsgi_pass link/app.py;", ""),
        ("wsgi_pass app;", "wsgi_python_path @prefix@/private;"),
        ("wsgi_pass package.wsgi;", "wsgi_python_path @prefix@/private;"),
        ("wsgi_pass private.package.wsgi;", "wsgi_python_path @prefix@;"),
        ("wsgi_pass private;", "wsgi_python_path @prefix@;"),
    ];
    for (pass, path) in cases {
        let Some(site) = as_nobody(Site::plain().http("wsgi_check on;")) else { return };
        let site = site
            .file("private/__init__.py", FINE)
            .file("private/app.py", FINE)
            .file("private/package/__init__.py", "")
            .file("private/package/wsgi.py", FINE)
            .http(path)
            .location("/", pass);
        symlink("private", site.prefix().join("link")).unwrap();
        site.check_again().assert_ok();
        close(&site, "private", 0o700);
        assert_refused(&site.check_again(), &site, &format!("directory \"@prefix@/private\" {CLOSED}"));
    }
}

#[test]
fn other_failures_are_as_they_were() {
    let Some(site) = as_nobody(Site::plain().http("wsgi_check on;")) else { return };
    let check = site.app("import not_there\n").check();
    assert!(check.output.contains("ModuleNotFoundError: No module named 'not_there'"), "{}", check.output);
    assert!(!check.output.contains("user nobody"), "{}", check.output);
}

fn a_worker_names_a_closed_directory(engine: Engine) {
    let Some(site) = as_nobody(Site::new(engine).errors_expected()) else { return };
    let site = site.app_at("/private", "private/app.py", FINE).app(FINE);
    close(&site, "private", 0o700);
    let nginx = site.start();
    nginx.get("/private").expect(500);
    let line = nginx.wait_log("could not be loaded");
    assert!(line.contains("/private\" is closed to user nobody (mode 0700, owner root)"), "{line}");
    assert_eq!(nginx.get("/").expect(200).text(), "fine");
}

fn a_worker_names_a_closed_environment(engine: Engine) {
    let Some(site) = as_nobody(Site::new(engine).errors_expected()) else { return };
    let site = environment(site).app(FINE).http("wsgi_python_home @prefix@/private/venv;");
    close(&site, "private", 0o700);
    let nginx = site.start();
    nginx.get("/").expect(500);
    let line = nginx.wait_log("Python cannot be started");
    assert!(line.contains("/private\" is closed to user nobody (mode 0700, owner root)"), "{line}");
    assert!(!nginx.read("logs/stderr").contains("Python path configuration"));
}
