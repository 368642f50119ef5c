//! Logs of a group's applications, which the supervisor writes: the user of the group needs no right for them, and cannot change
//! what is in them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::plan::GroupLog;
use crate::nginx::log::Level;
use crate::nginx::log_files::write_now as log;
use crate::os::append;
use crate::os::inherited;
use crate::os::log_socket::{self, MAX_PACKET, Packet};

/// Bytes that are read at once, before other groups get their turn.
const MAX_READ: usize = 256 * 1024;

/// Size of all records of a group of which the end has not come. A group must not fill the memory of the supervisor.
const MAX_PENDING: usize = 32 * 1024 * 1024;

/// Interval between two looks at the name of a file.
const ROTATION_INTERVAL: Duration = Duration::from_secs(1);

/// A file that has one of the logs.
struct LogFile {
    plan: GroupLog,
    file: Option<File>,
    /// Device and number of the file.
    identity: Option<(u64, u64)>,
    checked: Instant,
    /// The configuration has it no more: it is kept for workers that still have the configuration before.
    is_old: bool,
    has_failed: bool,
    /// The last record was not written to its end.
    is_torn: bool,
}

/// The logs of a group, and the socket from which their records come.
pub struct GroupLogs {
    here: OwnedFd,
    there: OwnedFd,
    files: Vec<LogFile>,
    /// Records without their end, by log and process.
    pending: HashMap<(u32, u32), Vec<u8>>,
    buffer: Vec<u8>,
}

impl GroupLogs {
    /// Opens the socket.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub fn new() -> io::Result<Self> {
        let (here, there) = log_socket::pair()?;
        Ok(Self { here, there, files: Vec::new(), pending: HashMap::new(), buffer: vec![0; MAX_PACKET] })
    }

    /// Returns the end of the instances.
    pub fn of_instances(&self) -> BorrowedFd<'_> {
        self.there.as_fd()
    }

    /// Takes the logs of a new plan.
    pub fn update(&mut self, plans: &[GroupLog]) {
        self.files.retain(|file| plans.contains(&file.plan) || !file.is_old);
        for file in &mut self.files {
            file.is_old = !plans.contains(&file.plan);
        }
        for plan in plans {
            if self.files.iter().all(|file| file.plan != *plan) {
                self.files.push(LogFile::new(plan.clone()));
            }
        }
    }

    /// Writes the records that have come, up to a limit. Returns false if there was none.
    pub fn copy(&mut self) -> bool {
        let mut texts: Vec<(u32, Vec<u8>)> = Vec::new();
        let mut read = 0;
        while read < MAX_READ {
            match log_socket::receive(&self.here, &mut self.buffer) {
                Ok(0) => break,
                Ok(length) => {
                    read += length;
                    self.take(length, &mut texts);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        for (number, text) in texts {
            if let Some(file) = self.files.iter_mut().find(|file| file.plan.number == number) {
                file.write(&text);
            }
        }
        read > 0
    }

    /// Takes a packet of this length out of the buffer, and adds what is complete to `texts`.
    fn take(&mut self, length: usize, texts: &mut Vec<(u32, Vec<u8>)>) {
        let Some(Packet { log, process, has_more, text }) = Packet::parse(&self.buffer[..length]) else { return };
        let key = (log, process);
        let pending: usize = self.pending.values().map(Vec::len).sum();
        let is_part = has_more || self.pending.contains_key(&key);
        if !is_part {
            return add(texts, log, text);
        }
        self.pending.entry(key).or_default().extend_from_slice(text);
        if !has_more && let Some(record) = self.pending.remove(&key) {
            add(texts, log, &record);
        } else if pending + text.len() > MAX_PENDING {
            // Nothing is lost, but a line may be torn.
            for ((log, _), mut record) in self.pending.drain() {
                record.push(b'\n');
                add(texts, log, &record);
            }
        }
    }

    /// Writes all that is left, at the end of the group.
    pub fn finish(&mut self) {
        while self.copy() {}
    }
}

/// Adds text to that of the same log, so that it is written at once.
fn add(texts: &mut Vec<(u32, Vec<u8>)>, log: u32, text: &[u8]) {
    match texts.last_mut().filter(|(last, _)| *last == log) {
        Some((_, last)) => last.extend_from_slice(text),
        None => texts.push((log, text.to_owned())),
    }
}

impl AsFd for GroupLogs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.here.as_fd()
    }
}

impl LogFile {
    fn new(plan: GroupLog) -> Self {
        let mut log = Self {
            plan,
            file: None,
            identity: None,
            checked: Instant::now(),
            is_old: false,
            has_failed: false,
            is_torn: false,
        };
        log.open();
        log
    }

    fn open(&mut self) {
        let opened = if self.plan.is_standard_error() {
            standard_error()
        } else {
            // The mode that nginx uses. Not to wait for the reader of a pipe.
            let mut options = File::options();
            options.append(true).create(true).mode(0o644).custom_flags(libc::O_NONBLOCK);
            options.open(&self.plan.path)
        };
        match opened {
            Ok(file) => {
                self.identity = file.metadata().ok().map(|metadata| identity(&metadata));
                self.file = Some(file);
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Logs a failure, unless that before has not ended.
    fn fail(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.has_failed, true) {
            let path = if self.plan.is_standard_error() { Path::new("stderr") } else { &self.plan.path };
            let path = path.display();
            log(Level::Alert, &format!("wsgi: cannot write to \"{path}\" (\"wsgi_log\"): {error}"));
        }
    }

    fn write(&mut self, text: &[u8]) {
        self.follow_rotation();
        let Some(file) = &self.file else { return };
        let rest_of_line: &[u8] = if self.is_torn { b"\n" } else { b"" };
        match append::write(file.as_raw_fd(), &[rest_of_line, text].concat()) {
            Ok(()) => (self.has_failed, self.is_torn) = (false, false),
            Err(failure) => {
                self.is_torn |= failure.written > 0;
                self.fail(&failure.error);
            }
        }
    }

    /// Opens the file again if its name is that of another file by now. nginx creates that file.
    fn follow_rotation(&mut self) {
        if self.checked.elapsed() < ROTATION_INTERVAL && self.file.is_some() {
            return;
        }
        self.checked = Instant::now();
        if self.file.is_none() {
            return self.open();
        }
        match fs::metadata(&self.plan.path) {
            Ok(metadata) if metadata.is_file() && Some(identity(&metadata)) != self.identity => self.open(),
            _ => {}
        }
    }
}

/// Whether the supervisor has the standard error of nginx.
static HAS_STANDARD_ERROR: AtomicBool = AtomicBool::new(false);

/// Notes whether this process has the standard error of nginx: if no log of its first plan was that, it has not.
pub fn set_standard_error(is_kept: bool) {
    HAS_STANDARD_ERROR.store(is_kept, Ordering::Relaxed);
}

fn standard_error() -> io::Result<File> {
    if !HAS_STANDARD_ERROR.load(Ordering::Relaxed) {
        return Err(io::Error::other("restart nginx, the supervisor was started without it"));
    }
    inherited::duplicate(libc::STDERR_FILENO).map(File::from)
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::log_socket::{MAX_TEXT, send_to};

    #[test]
    fn records_are_written_to_their_files() {
        let directory = tempfile::tempdir().unwrap();
        let plan = |number: u32| GroupLog { number, path: directory.path().join(number.to_string()) };
        let text = |number: u32| fs::read_to_string(directory.path().join(number.to_string())).unwrap();
        let mut logs = GroupLogs::new().unwrap();
        logs.update(&[plan(1), plan(2)]);
        let there = logs.of_instances().as_raw_fd();
        let long = format!("{}\n", "x".repeat(3 * MAX_TEXT));
        for (number, record) in [(1, "one\n"), (2, "two\n"), (1, "three\n"), (3, "lost\n"), (2, &long), (2, "end\n")] {
            send_to(there, number, std::iter::once(record.as_bytes())).unwrap();
        }
        logs.finish();
        assert_eq!(text(1), "one\nthree\n");
        assert_eq!(text(2), format!("two\n{long}end\n"));

        // The workers of the configuration before go on.
        logs.update(&[plan(2)]);
        send_to(there, 1, std::iter::once(&b"late\n"[..])).unwrap();
        logs.finish();
        assert!(text(1).ends_with("late\n"));
        logs.update(&[plan(2)]);
        assert_eq!(logs.files.len(), 1);
    }

    #[test]
    fn a_record_begins_a_line_after_one_without_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        let mut log = LogFile::new(GroupLog { number: 1, path });
        let mut read = || {
            let mut text = Vec::new();
            // The end of what there is, not of the pipe.
            let _ = std::io::Read::read_to_end(&mut reader, &mut text);
            String::from_utf8(text).unwrap()
        };
        // More than a pipe takes.
        log.write(format!("{}\n", "x".repeat(1024 * 1024)).as_bytes());
        assert!(log.has_failed && read().ends_with('x'));
        log.write(b"two\n");
        log.write(b"three\n");
        assert_eq!(read(), "\ntwo\nthree\n");
    }
}
