//! `make install` and `make uninstall`, below a DESTDIR.

use crate::harness::{PYTHON, Script, in_repository, is_root, module};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// A directory that every user may enter.
fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    dir
}

fn write(path: impl AsRef<Path>, content: &str) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn write_program(path: impl AsRef<Path>, content: &str) {
    write(&path, content);
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

/// Returns the paths of all files of this name below a directory.
fn found(below: &Path, name: &str) -> Vec<PathBuf> {
    let output = Command::new("find").arg(below).args(["-name", name]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect()
}

/// Makes a directory of links to the system's programs, without Rust's.
fn programs_without_rust(dir: &Path) -> PathBuf {
    let programs = dir.join("programs");
    fs::create_dir(&programs).unwrap();
    for directory in ["/usr/sbin", "/usr/bin"] {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            if name != "cargo" && name != "rustc" {
                let _ = symlink(entry.path(), programs.join(name));
            }
        }
    }
    programs
}

/// Returns the path of the configuration of the nginx under test, below the directory.
fn configuration(destination: &Path) -> PathBuf {
    let nginx = std::env::var("NGINX").unwrap_or_else(|_| "/usr/sbin/nginx".to_owned());
    let output = Command::new(nginx).arg("-V").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let words = text.split_whitespace();
    let path =
        words.filter_map(|word| word.strip_prefix("--conf-path=")).next().unwrap_or("/usr/local/nginx/conf/nginx.conf");
    destination.join(path.trim_start_matches('/'))
}

#[test]
fn what_is_installed_is_removed_again() {
    let destination = directory();
    let install = || Script::new("install.sh").set("DESTDIR", destination.path());
    let (succeeded, said) = install().set("MODULE", module()).run();
    assert!(succeeded, "{said}");
    let installed = found(destination.path(), "ngx_http_wsgi_module.so");
    assert_eq!(installed.len(), 1, "{said}");
    assert!(fs::read(&installed[0]).unwrap() == fs::read(module()).unwrap());
    let control = destination.path().join("usr/bin/ngx-wsgi-ctl");
    assert_eq!(fs::metadata(&control).unwrap().permissions().mode() & 0o7777, 0o755, "{said}");
    let version = Command::new(control).arg("--version").output().unwrap();
    assert!(version.stdout.starts_with(b"ngx-wsgi-ctl "), "{version:?}");
    let top = destination.path().join("usr/bin/ngx-wsgi-top");
    assert_eq!(fs::metadata(&top).unwrap().permissions().mode() & 0o7777, 0o755, "{said}");
    let version = Command::new(top).arg("--version").output().unwrap();
    assert!(version.stdout.starts_with(b"ngx-wsgi-top "), "{version:?}");
    let (succeeded, said) = install().argument("--remove").run();
    assert!(succeeded, "{said}");
    assert!(found(destination.path(), "*wsgi*").is_empty(), "{said}");
}

#[test]
fn uninstall_refuses_while_the_configuration_uses_the_module_and_says_where() {
    let destination = directory();
    let (succeeded, said) = Script::new("install.sh").set("DESTDIR", destination.path()).set("MODULE", module()).run();
    assert!(succeeded, "{said}");
    let main = configuration(destination.path());
    let beside = |name: &str| main.parent().unwrap().join(name);
    let main_text = "events { }\n\
         include modules-enabled/*.conf;\n\
         http {\n\
         \x20   # wsgi_pass in a comment;\n\
         \x20   log_format a '$remote_addr '\n\
         \x20                \"$wsgi_time\";\n\
         \x20   map $uri $text#x { default \"wsgi_pass x;\"; }\n\
         \x20   uwsgi_temp_path a;\n\
         \x20   include sites/*;\n\
         \x20   include /absolute.conf;\n\
         }\n";
    write(&main, main_text);
    write(beside("sites/shop"), "server {\n    location ~ \"^/a{2}\" {wsgi_pass\n        /srv/shop.py; }\n}\n");
    write(beside("not-included.conf"), "wsgi_check off;\n");
    write(destination.path().join("absolute.conf"), "\nwsgi_env SECRET_KEY \"not; shown\";\n");
    let remove = || Script::new("install.sh").set("DESTDIR", destination.path()).argument("--remove").run();

    let (succeeded, said) = remove();
    assert!(!succeeded, "{said}");
    let at = |path: PathBuf| path.display().to_string();
    let uses = [
        format!("{}:5: log_format a", at(main.clone())),
        format!("{}:2: wsgi_pass /srv/shop.py", at(beside("sites/shop"))),
        format!("{}:2: wsgi_env SECRET_KEY", at(destination.path().join("absolute.conf"))),
    ];
    assert!(said.ends_with(&format!(":\n{}\n", uses.join("\n"))), "{said}");
    assert_eq!(found(destination.path(), "ngx_http_wsgi_module.so").len(), 1);

    write(&main, "load_module modules/ngx_http_wsgi_module.so;\n");
    let (succeeded, said) = remove();
    assert!(!succeeded && said.contains(&format!("{}:1: load_module", main.display())), "{said}");

    write(&main, "events { }\ninclude modules-enabled/*.conf;\n");
    let (succeeded, said) = remove();
    assert!(succeeded, "{said}");
    assert!(found(destination.path(), "ngx_http_wsgi_module.so").is_empty());
}

#[test]
fn without_rust_only_a_build_of_these_sources_is_installed() {
    let dir = directory();
    let programs = programs_without_rust(dir.path());
    let built = dir.path().join("target/release/libngx_http_wsgi_module.so");
    let install = || {
        Script::new("install.sh")
            .set("DESTDIR", dir.path().join("root"))
            .set("PATH", &programs)
            .set("HOME", dir.path())
            .unset("CARGO_HOME")
            .set("CARGO_TARGET_DIR", dir.path().join("target"))
            .run()
    };
    let installed = || found(&dir.path().join("root"), "ngx_http_wsgi_module.so");

    let (succeeded, said) = install();
    assert!(!succeeded && said.contains("is missing, and there is no Rust here"), "{said}");

    fs::create_dir_all(built.parent().unwrap()).unwrap();
    fs::copy(module(), &built).unwrap();
    let age = |time: SystemTime| File::options().write(true).open(&built).unwrap().set_modified(time).unwrap();
    age(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    let (succeeded, said) = install();
    assert!(!succeeded && said.contains("is older than src/"), "{said}");
    assert!(said.contains("Run make build as a user who has Rust"), "{said}");
    assert!(installed().is_empty());

    age(SystemTime::now());
    let (succeeded, said) = install();
    assert!(succeeded, "{said}");
    assert_eq!(installed().len(), 1);
    assert!(said.contains("ngx-wsgi-ctl is missing"), "{said}");

    // A build for another Python is no build for this one.
    fs::write(&built, "libpython2.7.so").unwrap();
    let (succeeded, said) = install();
    assert!(!succeeded && said.contains(&format!("is for another Python than {PYTHON}")), "{said}");
}

#[test]
fn rust_is_asked_for_before_packages_are_installed() {
    let dir = directory();
    let programs = programs_without_rust(dir.path());
    for name in ["apt-get", "dpkg-query"] {
        fs::remove_file(programs.join(name)).ok();
        write_program(programs.join(name), &format!("#!/bin/sh\ntouch {}/asked\n", dir.path().display()));
    }
    let script = Script::new("setup.sh").set("PATH", &programs).set("HOME", dir.path()).unset("CARGO_HOME");
    let (succeeded, said) = script.run();
    assert!(!succeeded && said.starts_with("Rust 1."), "{said}");
    assert!(!dir.path().join("asked").exists(), "{said}");
}

/// A cargo of a version that is new enough. The module that it builds names the user who has built it.
const CARGO: &str = r#"#!/bin/sh
if [ "$1" = --version ]; then
    echo cargo 9.9.9
else
    mkdir -p target/release
    echo "$(id -un) $HOME" >target/release/libngx_http_wsgi_module.so
fi
"#;

#[test]
fn under_sudo_the_user_who_called_it_builds_with_their_rust() {
    if !is_root() {
        return;
    }
    let dir = directory();
    let home = dir.path().join("home");
    let checkout = dir.path().join("checkout");
    let programs = programs_without_rust(dir.path());
    write_program(home.join(".cargo/bin/cargo"), CARGO);
    fs::remove_file(programs.join("getent")).ok();
    write_program(programs.join("getent"), &format!("#!/bin/sh\necho nobody:x:1:1::{}:/bin/sh\n", home.display()));
    let copy = |name: &str| {
        let copied = Command::new("cp").arg("-r").arg(in_repository(name)).arg(&checkout).status().unwrap();
        assert!(copied.success());
    };
    fs::create_dir(&checkout).unwrap();
    for name in ["tools", "python", "Cargo.toml"] {
        copy(name);
    }
    write(checkout.join("objs/ngx_auto_config.h"), "");
    let owned = Command::new("chown").args(["-R", "nobody"]).arg(&checkout).status().unwrap();
    assert!(owned.success());

    let (succeeded, said) = Script::of(&checkout, "install.sh")
        .set("DESTDIR", dir.path().join("root"))
        .set("PATH", &programs)
        .set("SUDO_USER", "nobody")
        // That of the tests may be closed to this user.
        .unset("PYTHON")
        .set("NGINX_BUILD_DIR", checkout.join("objs"))
        .unset("CARGO_HOME")
        .set("CARGO_TARGET_DIR", checkout.join("target"))
        .run();
    assert!(succeeded, "{said}");
    let installed = found(&dir.path().join("root"), "ngx_http_wsgi_module.so");
    assert_eq!(fs::read_to_string(&installed[0]).unwrap(), format!("nobody {}\n", home.display()));
}
