//! Output of the instances on its way to the front's error log.
//!
//! An instance writes to a pipe, so its user needs no rights for log files, and cannot change what is in them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Pid, pipe2};

use crate::nginx::log::Level;
use crate::nginx::log_files::{LogFile, write_to_others};

/// Longest line. A longer one is split: an instance must not fill the memory of the supervisor.
const MAX_LINE: usize = 64 * 1024;

/// Size of a pipe: an instance that writes more at once waits until the supervisor has read it.
const PIPE_SIZE: i32 = 1024 * 1024;

/// Bytes that are read from an instance at once, before others get their turn.
const MAX_READ: usize = 256 * 1024;

/// Interval between two looks at the names of the log files.
const ROTATION_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of an instance that are no whole line yet.
#[derive(Default)]
struct LineSplitter {
    pending: Vec<u8>,
}

impl LineSplitter {
    /// Adds bytes, and moves the whole lines to `lines`.
    fn push(&mut self, bytes: &[u8], lines: &mut Vec<Vec<u8>>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (mut text, is_end) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            while self.pending.len() + text.len() > MAX_LINE {
                let (head, tail) = text.split_at(MAX_LINE - self.pending.len());
                self.pending.extend_from_slice(head);
                self.finish(lines);
                text = tail;
            }
            self.pending.extend_from_slice(text);
            if is_end {
                self.pending.push(b'\n');
                lines.push(mem::take(&mut self.pending));
            }
        }
    }

    /// Moves what is no whole line to `lines`.
    fn finish(&mut self, lines: &mut Vec<Vec<u8>>) {
        if !self.pending.is_empty() {
            self.pending.push(b'\n');
            lines.push(mem::take(&mut self.pending));
        }
    }
}

/// Number of pipes of a group that are read after the end of their instance. A program that has left its instance may keep
/// its pipe open, and a group must not use up the descriptors of the supervisor, which are for all groups.
const MAX_LEFTOVERS: usize = 8;

/// Reading end of an instance's pipe.
pub struct Relay {
    /// Group and master of the instance, once it runs.
    source: Option<(String, Pid)>,
    pipe: File,
    lines: LineSplitter,
    is_open: bool,
}

/// Opens a pipe for an instance. Returns its end as well.
///
/// # Errors
/// If there are no descriptors left.
pub fn pipe() -> io::Result<(Relay, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    // Without the right to do this the pipe is smaller.
    let _ = fcntl(&reader, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
    Ok((Relay { source: None, pipe: File::from(reader), lines: LineSplitter::default(), is_open: true }, writer))
}

/// Closes the oldest of the pipes whose instances have ended, beyond a number for each group. `is_running` says whether there
/// is anything left of the instance with this group and master.
pub fn close_leftovers(relays: &mut Vec<Relay>, logs: &mut Logs, is_running: impl Fn(&str, Pid) -> bool) {
    let mut counts: HashMap<String, usize> = HashMap::new();
    // The newest are the last.
    for index in (0..relays.len()).rev() {
        let Some((group, _)) = relays[index].source.as_ref().filter(|(group, master)| !is_running(group, *master))
        else {
            continue;
        };
        let count = counts.entry(group.clone()).or_default();
        *count += 1;
        if *count > MAX_LEFTOVERS {
            relays.remove(index).copy(logs);
        }
    }
}

impl Relay {
    /// Notes the instance that writes to the pipe.
    pub fn set_source(&mut self, group: &str, master: Pid) {
        self.source = Some((group.to_owned(), master));
    }

    /// Returns false once all processes have closed the pipe and everything is copied.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Copies lines to the logs.
    pub fn copy(&mut self, logs: &mut Logs) {
        let mut buffer = vec![0; 64 * 1024];
        let mut lines = Vec::new();
        for _ in 0..MAX_READ / buffer.len() {
            match self.pipe.read(&mut buffer) {
                Ok(0) => {
                    self.lines.finish(&mut lines);
                    self.is_open = false;
                    break;
                }
                Ok(length) => self.lines.push(&buffer[..length], &mut lines),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.is_open = error.kind() == io::ErrorKind::WouldBlock;
                    break;
                }
            }
        }
        logs.write(&lines);
    }
}

impl AsFd for Relay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// The front's error logs.
pub struct Logs {
    files: Vec<LogFile>,
    has_others: bool,
    checked: Instant,
}

impl Logs {
    pub fn new(files: Vec<LogFile>, has_others: bool) -> Self {
        Self { files, has_others, checked: Instant::now() }
    }

    /// Writes whole lines to each log that takes their level.
    fn write(&mut self, lines: &[Vec<u8>]) {
        if lines.is_empty() {
            return;
        }
        self.follow_rotation();
        let lines: Vec<(Level, &Vec<u8>)> = lines.iter().map(|line| (level(line), line)).collect();
        for file in &self.files {
            let text: Vec<u8> =
                lines.iter().filter(|(level, _)| file.takes(*level)).flat_map(|(_, line)| (*line).clone()).collect();
            // Failure to write cannot be logged.
            let _ = file.write(&text);
        }
        for (level, line) in lines.into_iter().filter(|_| self.has_others) {
            write_to_others(level, String::from_utf8_lossy(line).trim_end());
        }
    }

    /// Opens log files again that were renamed.
    pub fn follow_rotation(&mut self) {
        if self.checked.elapsed() >= ROTATION_INTERVAL {
            self.checked = Instant::now();
            for file in &mut self.files {
                let _ = file.reopen_if_renamed();
            }
        }
    }

    /// Goes on in the files that a new configuration names.
    pub fn rename(&mut self, names: &[PathBuf]) {
        for (file, name) in self.files.iter_mut().zip(names) {
            let _ = file.rename(name);
        }
    }
}

/// Returns the level of a line: nginx's, such as `2026/01/02 03:04:05 [error] …`. Other text has none, and is for all logs: nginx
/// itself would write it to its log without asking for the level.
fn level(line: &[u8]) -> Level {
    /// Length of the time and of the space behind it.
    const TIME: usize = 20;
    let parse = || {
        let rest = line.get(TIME..)?.strip_prefix(b"[")?;
        let end = rest.iter().position(|byte| *byte == b']')?;
        Level::parse(str::from_utf8(&rest[..end]).ok()?)
    };
    parse().unwrap_or(Level::Emerg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut splitter, mut lines) = (LineSplitter::default(), Vec::new());
        pieces.iter().for_each(|piece| splitter.push(piece, &mut lines));
        lines
    }

    #[test]
    fn only_whole_lines_are_copied() {
        assert_eq!(split(&[b"a", b"b\nc\n\nd"]), [b"ab\n".to_vec(), b"c\n".to_vec(), b"\n".to_vec()]);
        let (mut splitter, mut lines) = (LineSplitter::default(), Vec::new());
        splitter.push(b"the end", &mut lines);
        splitter.finish(&mut lines);
        splitter.finish(&mut lines);
        assert_eq!(lines, [b"the end\n"]);
    }

    #[test]
    fn a_long_line_is_split_without_loss() {
        let line = [b"x".repeat(MAX_LINE * 5 / 2).as_slice(), b"\n"].concat();
        for size in [line.len(), 1000, MAX_LINE] {
            let lines = split(&line.chunks(size).collect::<Vec<_>>());
            assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_LINE + 1, MAX_LINE + 1, MAX_LINE / 2 + 1]);
        }
        // Exactly one line.
        assert_eq!(split(&[&[b"x".repeat(MAX_LINE).as_slice(), b"\n"].concat()]).len(), 1);
        let lines = split(&[&b"x".repeat(MAX_LINE), b"\n", b"y\n"]);
        assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_LINE + 1, 2]);
    }

    #[test]
    fn lines_have_the_level_of_nginx() {
        assert_eq!(level(b"2026/01/02 03:04:05 [error] 1#1: *1 x\n"), Level::Error);
        assert_eq!(level(b"2026/01/02 03:04:05 [info] 1#1: *1 x\n"), Level::Info);
        // Text of a library, which all logs take.
        assert_eq!(level(b"[debug] hello\n"), Level::Emerg);
        assert_eq!(level("ääääääääää [debug] hello\n".as_bytes()), Level::Emerg);
    }

    #[test]
    fn a_pipe_is_read_to_its_end() {
        use std::io::Write;
        let (mut relay, writer) = pipe().unwrap();
        let mut logs = Logs::new(Vec::new(), false);
        let mut writer = File::from(writer);
        writer.write_all(b"one\ntwo").unwrap();
        relay.copy(&mut logs);
        assert!(relay.is_open());
        assert_eq!(relay.lines.pending, b"two");
        drop(writer);
        relay.copy(&mut logs);
        assert!(!relay.is_open());
        assert!(relay.lines.pending.is_empty());
    }

    #[test]
    fn pipes_that_outlive_their_instance_are_limited_for_each_group() {
        let mut logs = Logs::new(Vec::new(), false);
        let (mut relays, mut writers) = (Vec::new(), Vec::new());
        for number in 0..2 * MAX_LEFTOVERS as i32 {
            for group in ["one", "two"] {
                let (mut relay, writer) = pipe().unwrap();
                relay.set_source(group, Pid::from_raw(number));
                relays.push(relay);
                writers.push(writer);
            }
        }
        let (unknown, _writer) = pipe().unwrap();
        relays.insert(0, unknown);
        // All of one group run, and the oldest of the other.
        close_leftovers(&mut relays, &mut logs, |group, master| group == "one" || master.as_raw() == 0);
        let left = |group: &str| {
            let of_group = relays.iter().filter_map(|relay| relay.source.as_ref()).filter(|(name, _)| name == group);
            of_group.map(|(_, master)| master.as_raw()).collect::<Vec<_>>()
        };
        assert_eq!(left("one").len(), 2 * MAX_LEFTOVERS);
        assert_eq!(left("two"), [0, 8, 9, 10, 11, 12, 13, 14, 15]);
        assert!(relays[0].source.is_none());
    }
}
