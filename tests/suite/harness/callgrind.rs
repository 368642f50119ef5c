//! Instructions that a program executes, counted by valgrind's callgrind.

use super::in_repository;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program that runs under callgrind. Instructions are counted only within [`Callgrind::count`].
pub struct Callgrind {
    process: u32,
    output: PathBuf,
    parts: u32,
}

impl Callgrind {
    /// Returns the command in front of the program's own; callgrind writes below `directory`.
    pub fn command(directory: &Path) -> Vec<String> {
        let output = directory.join("callgrind").display().to_string();
        let mut command = ["valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no"].map(String::from).to_vec();
        command.extend([format!("--callgrind-out-file={output}"), format!("--vgdb-prefix={output}-gdb")]);
        command
    }

    /// The process that runs that command with that directory.
    pub fn of(process: u32, directory: &Path) -> Callgrind {
        Callgrind { process, output: directory.join("callgrind"), parts: 0 }
    }

    /// Counts while `run` runs. The program must wait for input before and after it.
    pub fn count(&mut self, run: impl FnOnce()) -> Profile {
        self.control(&["instrumentation", "on"]);
        run();
        self.control(&["dump"]);
        self.control(&["instrumentation", "off"]);
        self.parts += 1;
        let part = format!("{}.{}", self.output.display(), self.parts);
        Profile::parse(&fs::read_to_string(&part).unwrap_or_else(|e| panic!("{part}: {e}")))
    }

    /// Sends a command to callgrind. The program waits in a system call, so vgdb interrupts it with ptrace.
    fn control(&self, words: &[&str]) {
        let output = Command::new("vgdb")
            .arg(format!("--pid={}", self.process))
            .arg(format!("--vgdb-prefix={}-gdb", self.output.display()))
            .args(words)
            .output()
            .expect("run vgdb, a part of valgrind");
        assert!(output.status.success(), "vgdb {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The source of an instruction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The executable or library.
    pub object: String,
    /// The file of the instruction, or of the function that it was inlined into if the file is not one of this repository.
    pub file: String,
}

/// Counts of instructions.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    pub total: u64,
    pub sources: BTreeMap<Source, u64>,
}

impl Profile {
    /// Reads callgrind's own format: lines `NAME=(ID) TEXT`, where the text of an ID is given once, and lines of costs.
    fn parse(text: &str) -> Profile {
        let (mut objects, mut files) = (Names::default(), Names::default());
        let (mut object, mut file, mut function_file) = (String::new(), String::new(), String::new());
        let mut profile = Profile::default();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            match line.split_once('=') {
                Some(("ob", name)) => object = objects.resolve(name),
                Some(("fl" | "fi" | "fe", name)) => file = files.resolve(name),
                Some(("cob", name)) => drop(objects.resolve(name)),
                Some(("cfi" | "cfl", name)) => drop(files.resolve(name)),
                Some(("fn", _)) => function_file.clone_from(&file),
                // The next line is the cost of the called function, which has lines of its own.
                Some(("calls", _)) => drop(lines.next()),
                _ if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) => {
                    let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok()).unwrap_or(0);
                    let is_ours = |file: &str| Path::new(file).starts_with(in_repository("src"));
                    let file = if is_ours(&file) { &file } else { &function_file };
                    let source = Source { object: object.clone(), file: file.clone() };
                    profile.sources.entry(source).or_default().add_assign(cost);
                    profile.total += cost;
                }
                _ => {}
            }
        }
        profile
    }
}

/// The texts of the ids seen so far.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    fn resolve(&mut self, name: &str) -> String {
        match name.split_once(' ') {
            Some((id, text)) => {
                self.0.insert(id.to_owned(), text.to_owned());
                text.to_owned()
            }
            None => self.0.get(name).cloned().unwrap_or_default(),
        }
    }
}

#[test]
fn own_instructions_count_and_not_those_of_called_functions() {
    let ours = in_repository("src/wsgi/call.rs").display().to_string();
    let text = format!(
        "summary: 111\n\nob=(1) /m.so\nfl=(1) {ours}\nfn=(1) call\n3 100\nfi=(2) /rust/vec.rs\n4 10\n\
         cob=(2) /libc.so\ncfi=(3) malloc.c\ncfn=(2) malloc\ncalls=5 7 \n3 9000\n\nob=(2)\nfl=(3)\nfn=(2)\n+1 1\n"
    );
    let profile = Profile::parse(&text);
    let count = |object: &str, file: &str| profile.sources[&Source { object: object.into(), file: file.into() }];
    assert_eq!(profile.total, 111);
    assert_eq!(count("/m.so", &ours), 110);
    assert_eq!(count("/libc.so", "malloc.c"), 1);
}
