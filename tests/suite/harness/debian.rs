//! Debian without Rust: a fresh directory of a release, in which a package is installed and commands run, as root or as
//! a user. `tools/debian.sh` makes the directory, `tools/in_debian.sh` runs the commands.
//!
//! Processes have the network and /tmp of this machine. There is no service manager: packages start no service until
//! `allow_services`, and from then on by the scripts of /etc/init.d, which `systemctl` runs as well.

use super::{Process, in_repository, is_root, wait_for};
use std::cell::RefCell;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Home directory of root in every Debian.
const HOME_OF_ROOT: &str = "/root";

/// Seconds for commands, which may download packages.
const LIMIT: &str = "500";

/// Names of the directories begin with this; the id of the process follows, and a number.
const PREFIX: &str = "test-";

const SYSTEMCTL: &str = "#!/bin/sh
case $1 in
enable | daemon-reload) ;;
*) exec /etc/init.d/\"$2\" \"$1\" ;;
esac
";

/// The directory, which is removed with all of its processes in the end.
pub struct Debian {
    root: PathBuf,
    package: String,
    user: Option<String>,
    directory: RefCell<String>,
}

impl Debian {
    /// Makes a directory of the release `WSGI_TEST_DEBIAN`, by default that of this machine, and copies the package
    /// that `variable` names to the home directory of root. `None`, with a message, where there is no such package, or no root.
    pub fn with_package(variable: &str) -> Option<Debian> {
        let debian = Debian::without_lists(variable)?;
        debian.paste("apt-get -q update");
        Some(debian)
    }

    /// The same, but apt has no lists of packages.
    pub fn without_lists(variable: &str) -> Option<Debian> {
        let Some(package) = std::env::var_os(variable).filter(|_| is_root()).map(PathBuf::from) else {
            eprintln!("skipped: this needs root, and {variable}=PACKAGE");
            return None;
        };
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let output = Command::new(in_repository("tools/debian.sh"))
            .args(["copy", &release(), &name])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .expect("run tools/debian.sh");
        assert!(output.status.success(), "tools/debian.sh copy {}", release());
        let root = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end());
        remove_left_behind(root.parent().unwrap());
        let file = package.file_name().unwrap().to_str().unwrap().to_owned();
        let debian = Debian { root, package: file, user: None, directory: RefCell::new(HOME_OF_ROOT.to_owned()) };
        fs::copy(&package, debian.home_of_root().join(&debian.package))
            .unwrap_or_else(|error| panic!("{variable}={}: {error}", package.display()));
        debian.write_program("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n");
        debian.write_program("/usr/bin/systemctl", SYSTEMCTL);
        Some(debian)
    }

    /// The file name of the package, in the home directory of root.
    pub fn package(&self) -> &str {
        &self.package
    }

    /// The home directory of the root inside.
    pub fn home_of_root(&self) -> PathBuf {
        self.path(HOME_OF_ROOT)
    }

    /// Path outside of a path inside.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn write_program(&self, path: &str, text: &str) {
        self.write(path, text);
        fs::set_permissions(self.path(path), Permissions::from_mode(0o755)).unwrap();
    }

    /// Lets packages start and reload services.
    pub fn allow_services(&self) {
        self.write_program("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 0\n");
    }

    /// From now on commands are those of a new user who may use sudo, in the home directory, which has the package.
    pub fn become_user(&mut self, user: &str) {
        self.paste(&format!(
            "apt-get -q install -y --no-install-recommends sudo
            useradd --create-home --shell /bin/bash {user}
            echo '{user} ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/{user}
            cp ~/{} /home/{user}/",
            self.package
        ));
        self.user = Some(user.to_owned());
        *self.directory.borrow_mut() = format!("/home/{user}");
    }

    /// A command that runs inside as root, with its variables before it as `NAME=value`. Its process is the one that is
    /// started, so signals reach it.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(in_repository("tools/in_debian.sh"));
        command.arg(&self.root).args(words).stdin(Stdio::null());
        command
    }

    /// Runs commands of the user, one after the other, in the directory that earlier ones have changed to, until one
    /// fails. Returns whether all succeeded, and their output.
    pub fn run(&self, commands: &str) -> (bool, String) {
        self.run_as(self.user.as_deref(), commands)
    }

    /// The same, and all of them succeed; what they said.
    #[track_caller]
    pub fn paste(&self, commands: &str) -> String {
        self.assert_run(self.user.as_deref(), commands)
    }

    /// The same as root, in the home directory of root.
    #[track_caller]
    pub fn paste_as_root(&self, commands: &str) -> String {
        self.assert_run(None, &format!("cd\n{commands}"))
    }

    #[track_caller]
    fn assert_run(&self, user: Option<&str>, commands: &str) -> String {
        let (succeeded, said) = self.run_as(user, commands);
        assert!(succeeded, "{commands}\n---- output ----\n{said}");
        said
    }

    fn run_as(&self, user: Option<&str>, commands: &str) -> (bool, String) {
        let directory = self.directory.borrow().clone();
        self.write("/var/lib/pasted", &format!("set -eo pipefail\ncd {directory}\ntrap 'pwd >&9' EXIT\n{commands}"));
        let (name, home) = user.map_or(("root", HOME_OF_ROOT.to_owned()), |name| (name, format!("/home/{name}")));
        // Root opens the file, and the user writes to it.
        let shell = "exec 9>/var/lib/left; exec timeout \"$1\" runuser -u \"$2\" -- env HOME=\"$3\" USER=\"$2\" \
                     DEBIAN_FRONTEND=noninteractive bash /var/lib/pasted";
        let output = self.command(&["sh", "-c", shell, "sh", LIMIT, name, &home]).output().expect("run commands");
        let left = self.read("/var/lib/left").trim_end().to_owned();
        if user == self.user.as_deref() && !left.is_empty() {
            *self.directory.borrow_mut() = left;
        }
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        // apt runs dpkg at a terminal of its own.
        (output.status.success(), said.replace('\r', ""))
    }

    pub fn error_log(&self) -> String {
        self.read("/var/log/nginx/error.log")
    }

    /// The processes that run inside.
    pub fn processes(&self) -> Vec<Process> {
        processes_in(&self.root)
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- error log in {} ----\n{}", self.root.display(), self.error_log());
        }
        remove(&self.root);
    }
}

/// The release of the tests.
fn release() -> String {
    std::env::var("WSGI_TEST_DEBIAN").unwrap_or_else(|_| {
        let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        name.expect("a Debian, or WSGI_TEST_DEBIAN=RELEASE").to_owned()
    })
}

fn processes_in(root: &Path) -> Vec<Process> {
    let inside = |process: &Process| fs::read_link(format!("/proc/{}/root", process.0)).is_ok_and(|link| link == root);
    Process::all().into_iter().filter(inside).filter(|process| process.is_alive()).collect()
}

/// Again and again, as a process that is killed may have started another.
fn kill_all_in(root: &Path) {
    wait_for("the end of the processes", || {
        let processes = processes_in(root);
        processes.iter().for_each(|process| process.signal(libc::SIGKILL));
        processes.is_empty().then_some(())
    });
}

fn remove(root: &Path) {
    kill_all_in(root);
    // Never into a file system that is mounted there.
    let removed = Command::new("rm").args(["-rf", "--one-file-system"]).arg(root).status();
    if !removed.is_ok_and(|status| status.success()) && !std::thread::panicking() {
        panic!("{} is not removed", root.display());
    }
}

/// Removes the directories of test processes that were killed.
fn remove_left_behind(parent: &Path) {
    for entry in fs::read_dir(parent).unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if number.and_then(|number| number.parse().ok()).is_some_and(|process| !Process(process).is_alive()) {
            remove(&parent.join(name));
        }
    }
}
