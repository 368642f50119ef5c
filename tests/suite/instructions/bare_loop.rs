//! The bare loop: `tests/apps/loop.py`, in the `python3` executable or with the libpython of the module.

use super::{Application, WARM_UP, request};
use crate::harness::{Callgrind, PYTHON, Profile, in_repository, venv};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Python, as a program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Interpreter {
    Executable,
    SharedLibrary,
}

/// Counts calls of the application.
pub fn count(interpreter: Interpreter, application: &Application) -> Profile {
    let directory = tempfile::tempdir().unwrap();
    let program = match interpreter {
        Interpreter::Executable => PathBuf::from(PYTHON),
        Interpreter::SharedLibrary => link(directory.path()),
    };
    let mut python = Loop::start(&program, directory.path(), application);
    while python.calls < WARM_UP {
        python.call();
    }
    let mut callgrind = Callgrind::of(python.child.id(), directory.path());
    callgrind.count(|| python.call())
}

/// Makes a `python3` that has its code in the libpython that the module is linked to.
fn link(directory: &Path) -> PathBuf {
    let (source, program) = (directory.join("python.c"), directory.join("python"));
    fs::write(&source, "int Py_BytesMain(int, char **);\nint main(int n, char **s) { return Py_BytesMain(n, s); }\n")
        .unwrap();
    let script = "import sysconfig; print(*map(sysconfig.get_config_var, ('LIBDIR', 'LDVERSION')), sep='\\n')";
    let output = Command::new(PYTHON).args(["-c", script]).output().expect("run Python");
    let text = String::from_utf8(output.stdout).unwrap();
    let (directory, version) = text.trim().split_once('\n').expect("two lines");
    let status = Command::new("cc")
        .arg(source)
        .arg("-o")
        .arg(&program)
        .args([format!("-L{directory}"), format!("-lpython{version}"), format!("-Wl,-rpath,{directory}")])
        .status()
        .expect("run cc");
    assert!(status.success(), "cc links no program to libpython{version} in {directory}");
    program
}

/// The running loop.
struct Loop {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    calls: usize,
    count: usize,
}

impl Loop {
    fn start(program: &Path, directory: &Path, application: &Application) -> Loop {
        let command = Callgrind::command(directory);
        let packages = venv().join(concat!("lib/python", env!("WSGI_PYTHON_VERSION"), "/site-packages"));
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .arg(program)
            .arg(in_repository("tests/apps/loop.py"))
            .arg(in_repository("tests/apps").join(application.directory))
            .arg(application.module)
            .arg(application.count.to_string())
            .arg(request::environ(application.path).to_string())
            .envs([("PYTHONHASHSEED", "0"), ("PYTHONDONTWRITEBYTECODE", "1")])
            .env("PYTHONPATH", packages)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run valgrind");
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Loop { child, stdin, stdout: BufReader::new(stdout), calls: 0, count: application.count }
    }

    /// Has it make its calls.
    fn call(&mut self) {
        self.stdin.write_all(b"\n").expect("a loop that waits");
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("its output");
        assert_eq!(line, "done\n", "the loop failed");
        self.calls += self.count;
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
