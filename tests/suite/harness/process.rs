//! The state of a process as the kernel knows it.

use super::{latin1, wait_for};
use std::fs;
use std::time::Duration;

/// A process, by its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(pub i32);

impl Process {
    /// All that there are.
    pub fn all() -> Vec<Process> {
        let entries = fs::read_dir("/proc").expect("Linux");
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().map(Process)).collect()
    }

    /// Its parent, unless it is a zombie.
    pub fn parent(self) -> Option<i32> {
        let stat = self.stat();
        if stat.first()? == "Z" { None } else { stat.get(1)?.parse().ok() }
    }

    /// Its command line, or the title that it has given itself.
    pub fn title(self) -> String {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.0)).unwrap_or_default();
        latin1(&bytes).trim_end_matches(['\0', ' ']).to_owned()
    }

    /// It runs; a zombie does not.
    pub fn is_alive(self) -> bool {
        !matches!(self.stat().first().map(String::as_str), None | Some("Z"))
    }

    #[track_caller]
    pub fn wait_gone(self) {
        wait_for(&format!("the end of process {}", self.0), || (!self.is_alive()).then_some(()));
    }

    /// Resident memory in bytes.
    pub fn memory(self) -> u64 {
        self.status("VmRSS:").map_or(0, |kib| kib * 1024)
    }

    /// Number of times that the main thread has waited: in a worker, the event loop.
    pub fn waits(self) -> u64 {
        self.status("voluntary_ctxt_switches:").unwrap_or_default()
    }

    /// The most memory that was resident at a time, in bytes.
    pub fn peak_memory(self) -> u64 {
        self.status("VmHWM:").map_or(0, |kib| kib * 1024)
    }

    pub fn threads(self) -> u64 {
        self.status("Threads:").unwrap_or(0)
    }

    pub fn descriptors(self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0)).map_or(0, Iterator::count)
    }

    /// Targets of its descriptors: paths, or the like of `socket:[NUMBER]`.
    pub fn open_files(self) -> Vec<String> {
        let Ok(directory) = fs::read_dir(format!("/proc/{}/fd", self.0)) else { return Vec::new() };
        let links = directory.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.map(|link| link.to_string_lossy().into_owned()).collect()
    }

    /// Its current directory; empty if it has ended.
    pub fn directory(self) -> String {
        let link = fs::read_link(format!("/proc/{}/cwd", self.0)).unwrap_or_default();
        link.to_string_lossy().into_owned()
    }

    /// Files that it has open and that have no name any more.
    pub fn unlinked_files(self) -> Vec<String> {
        self.open_files().into_iter().filter(|file| file.ends_with("(deleted)")).collect()
    }

    /// The lines of its memory map.
    pub fn mappings(self) -> Vec<String> {
        let text = fs::read(format!("/proc/{}/maps", self.0)).unwrap_or_default();
        latin1(&text).lines().map(str::to_owned).collect()
    }

    /// Processor time it has used, to a hundredth of a second; none if it is gone.
    pub fn cpu(self) -> Duration {
        ticks(self.stat().iter().skip(11).take(2))
    }

    /// The same with that of its children that have ended, and of theirs.
    pub fn cpu_of_all(self) -> Duration {
        ticks(self.stat().iter().skip(11).take(4))
    }

    /// Processor time that all processes of the machine have used together.
    pub fn machine_cpu() -> Duration {
        let text = fs::read_to_string("/proc/stat").expect("Linux");
        let line = text.lines().next().unwrap_or_default();
        let fields: Vec<String> = line.split_whitespace().skip(1).map(str::to_owned).collect();
        // Not idle, not for interrupts.
        ticks(fields.iter().take(3))
    }

    /// The words of a line of its status: all that follows the name.
    pub fn status_words(self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }

    pub fn signal(self, signal: i32) {
        // SAFETY: no memory is involved.
        unsafe { libc::kill(self.0, signal) };
    }

    /// The fields after the name, from the state on.
    fn stat(self) -> Vec<String> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        let fields = text.rfind(')').map_or("", |at| &text[at + 1..]);
        fields.split_whitespace().map(str::to_owned).collect()
    }

    fn status(self, name: &str) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }
}

/// A sum of what `/proc` counts in hundredths of a second.
fn ticks<'a>(fields: impl Iterator<Item = &'a String>) -> Duration {
    let sum: u64 = fields.map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(sum * 10)
}
