//! The scripts of `tools/`, as `make` runs them, with a module that is built already.

use super::{PYTHON, in_repository, wait_for};
use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use tempfile::TempDir;

/// A script with the variables of `make`; nothing else of the environment but what finds programs and archives.
pub struct Script {
    command: Command,
    said: PathBuf,
    dir: TempDir,
}

impl Script {
    pub fn new(name: &str) -> Script {
        Script::of(&in_repository(""), name)
    }

    /// The script of another checkout.
    pub fn of(repository: &Path, name: &str) -> Script {
        let dir = tempfile::tempdir().unwrap();
        let said = dir.path().join("said");
        let mut command = Command::new(repository.join("tools").join(name));
        command.env_clear().env("PYTHON", PYTHON).current_dir(repository).stdin(Stdio::null()).process_group(0);
        for name in ["PATH", "HOME", "NGINX", "PYENV_ROOT", "CARGO_HOME", "RUSTUP_HOME"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // SAFETY: prctl is async-signal-safe; nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // Should the tests be killed, the script ends too.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                Ok(())
            });
        }
        Script { command, said, dir }
    }

    pub fn argument(mut self, argument: &str) -> Script {
        self.command.arg(argument);
        self
    }

    pub fn set(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Script {
        self.command.env(name, value);
        self
    }

    pub fn unset(mut self, name: &str) -> Script {
        self.command.env_remove(name);
        self
    }

    pub fn start(mut self) -> RunningScript {
        // Appended to, as nginx opens it again by /dev/stdout.
        let said: File = OpenOptions::new().create(true).append(true).open(&self.said).unwrap();
        self.command.stdout(said.try_clone().unwrap()).stderr(said);
        let child = self.command.spawn().expect("run the script");
        RunningScript { child, said: self.said, _dir: self.dir }
    }

    /// Runs it to its end; whether it succeeded, and what it said.
    pub fn run(self) -> (bool, String) {
        self.start().end()
    }
}

/// A running script. Dropping it ends the script and the processes that it has started.
pub struct RunningScript {
    child: Child,
    said: PathBuf,
    _dir: TempDir,
}

impl RunningScript {
    /// Returns its output so far, stdout and stderr.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    #[track_caller]
    pub fn wait_said(&mut self, text: &str) {
        wait_for(&format!("{text:?} of the script"), || {
            let said = self.said();
            let ended = self.child.try_wait().unwrap().is_some();
            assert!(!ended || said.contains(text), "it ended without {text:?}:\n{said}");
            said.contains(text).then_some(())
        });
    }

    /// Waits for its end; whether it succeeded, and what it said.
    #[track_caller]
    pub fn end(mut self) -> (bool, String) {
        let status: ExitStatus = wait_for("the end of the script", || self.child.try_wait().unwrap());
        (status.success(), self.said())
    }
}

impl Drop for RunningScript {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            // SAFETY: no memory is involved; the child is ours and has not been waited for.
            unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
            let failed = std::thread::panicking();
            if !failed {
                wait_for("the script to end", || self.child.try_wait().unwrap());
            }
        }
        // SAFETY: as above; it is the script's own process group.
        unsafe { libc::kill(-(self.child.id() as i32), libc::SIGKILL) };
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- the script ----\n{}", self.said());
        }
    }
}
