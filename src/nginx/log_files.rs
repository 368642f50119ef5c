//! Error logs of a cycle, for a process that lives longer than the cycle in the master: the supervisor of process groups.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::log::{Level, Log};
use super::sys;
use super::worker_process::set_process_title;
use crate::os::inherited;

/// Cycle whose modules nginx initialises.
#[derive(Clone, Copy)]
pub struct StartingCycle(*mut sys::ngx_cycle_t);

impl StartingCycle {
    /// # Safety
    /// `cycle` is the argument of `init_module`, and the value is only used until that returns, or in a process that is
    /// forked meanwhile.
    pub unsafe fn new(cycle: *mut sys::ngx_cycle_t) -> Self {
        Self(cycle)
    }

    /// Returns the log for messages while modules are initialised.
    pub fn log(self) -> Log {
        // SAFETY: every cycle has a log.
        unsafe { Log::new((*self.0).log) }
    }

    /// Returns the error logs of the main configuration that are files. (Others, such as syslog, are not in it.)
    pub fn log_files(self) -> Vec<LogFile> {
        let mut files = Vec::new();
        for log in chain(self.log_chain()) {
            // SAFETY: a log of the cycle, which lives as long; the name of its file as well.
            unsafe {
                if let (None, Some(file)) = ((*log).writer, (*log).file.as_ref()) {
                    let name = String::from_utf8_lossy(super::bytes(file.name)).into_owned();
                    files.push(LogFile {
                        descriptor: file.fd,
                        name: name.into(),
                        level: (*log).log_level,
                        identity: None,
                    });
                }
            }
        }
        files
    }

    /// Returns whether there are other logs, for which [`write_to_others`] is.
    pub fn has_other_logs(self) -> bool {
        // SAFETY: a log of the cycle, which lives as long.
        chain(self.log_chain()).any(|log| unsafe { (*log).writer.is_some() })
    }

    fn log_chain(self) -> *mut sys::ngx_log_t {
        // SAFETY: every cycle has a log.
        unsafe { (*self.0).log }
    }

    /// Makes this process, which was forked for it, a helper of the master: with this cycle and log, its own pid in the log,
    /// and a title.
    pub fn become_helper(self, title: &CStr) {
        // SAFETY: plain variables of a process with one thread.
        unsafe {
            sys::ngx_cycle = self.0;
            sys::ngx_process = sys::NGX_PROCESS_HELPER as _;
            sys::ngx_parent = libc::getppid();
            sys::ngx_pid = libc::getpid();
            sys::ngx_use_stderr = 0;
        }
        set_process_title(title);
    }
}

/// Logs a message of this helper, with the time of now: nginx's clock is set by event loops only.
#[cfg(not(test))]
pub fn write_now(level: Level, text: &str) {
    // SAFETY: this process has one thread, which runs no event loop.
    unsafe { sys::ngx_time_update() };
    Log::cycle().write(level, text);
}

/// Writes a line of another process to the logs of this process that are no files, such as syslog.
#[cfg(not(test))]
pub fn write_to_others(level: Level, text: &str) {
    // SAFETY: a log of the live cycle. The copy, which is the end of a chain, is used here only.
    unsafe {
        for log in chain((*sys::ngx_cycle).log) {
            if (*log).writer.is_some() {
                let mut alone = std::ptr::read(log);
                alone.next = std::ptr::null_mut();
                Log::new(&mut alone).write(level, text);
            }
        }
    }
}

/// Stands in for nginx in unit tests.
#[cfg(test)]
pub fn write_now(level: Level, text: &str) {
    eprintln!("[{level:?}] {text}");
}

/// Stands in for nginx in unit tests.
#[cfg(test)]
pub fn write_to_others(_: Level, _: &str) {}

fn chain(mut log: *mut sys::ngx_log_t) -> impl Iterator<Item = *mut sys::ngx_log_t> {
    std::iter::from_fn(move || {
        let current = log;
        if current.is_null() {
            return None;
        }
        // SAFETY: a log of a cycle, whose chain lives as long.
        log = unsafe { (*current).next };
        Some(current)
    })
}

/// Error log in a file.
pub struct LogFile {
    descriptor: RawFd,
    /// Empty for standard error.
    name: PathBuf,
    level: usize,
    /// Device and number of the file, once known.
    identity: Option<(u64, u64)>,
}

impl LogFile {
    pub fn descriptor(&self) -> RawFd {
        self.descriptor
    }

    pub fn name(&self) -> &Path {
        &self.name
    }

    /// Returns whether the log takes messages of this level.
    pub fn takes(&self, level: Level) -> bool {
        self.level >= level as usize
    }

    /// Appends text to the file.
    ///
    /// # Errors
    /// As of the system, for example without room on the disk.
    pub fn write(&self, text: &[u8]) -> io::Result<()> {
        self.file().write_all(text)
    }

    fn file(&self) -> ManuallyDrop<File> {
        // SAFETY: the descriptor of the log stays open, and is not closed here.
        ManuallyDrop::new(unsafe { File::from_raw_fd(self.descriptor) })
    }

    /// Opens the file again if its name is that of another file by now, as after a rotation. nginx creates that file.
    ///
    /// # Errors
    /// If it cannot be opened. The old file remains in use.
    pub fn reopen_if_renamed(&mut self) -> io::Result<()> {
        let identity = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
        let open = match self.identity {
            Some(open) => open,
            None => {
                let metadata = self.file().metadata()?;
                // Names such as /dev/stderr stand for other files in this process than in the master.
                if !metadata.is_file() {
                    self.name = PathBuf::new();
                }
                *self.identity.insert(identity(&metadata))
            }
        };
        match fs::metadata(&self.name) {
            Ok(metadata) if metadata.is_file() && identity(&metadata) != open => self.open_again(),
            _ => Ok(()),
        }
    }

    /// Goes on in another file.
    ///
    /// # Errors
    /// If it cannot be opened. The old file remains in use.
    pub fn rename(&mut self, name: &Path) -> io::Result<()> {
        if self.name == name || name.as_os_str().is_empty() {
            return Ok(());
        }
        let old = std::mem::replace(&mut self.name, name.to_owned());
        self.open_again().inspect_err(|_| self.name = old)
    }

    fn open_again(&mut self) -> io::Result<()> {
        // The mode that nginx uses. Not to wait for the reader of a pipe.
        let file =
            File::options().append(true).create(true).mode(0o644).custom_flags(libc::O_NONBLOCK).open(&self.name)?;
        let metadata = file.metadata()?;
        inherited::replace(&file.as_fd().as_raw_fd(), self.descriptor)?;
        self.identity = Some((metadata.dev(), metadata.ino()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_in_the_file_that_has_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let (name, old) = (directory.path().join("error.log"), directory.path().join("error.log.1"));
        let open = File::options().append(true).create(true).open(&name).unwrap();
        let level = Level::Error as usize;
        let mut log = LogFile { descriptor: open.as_raw_fd(), name: name.clone(), level, identity: None };
        assert!(log.takes(Level::Error) && !log.takes(Level::Warn));
        log.reopen_if_renamed().unwrap();
        log.write(b"one\n").unwrap();
        fs::rename(&name, &old).unwrap();
        // Until nginx has created the new file.
        log.reopen_if_renamed().unwrap();
        log.write(b"two\n").unwrap();
        fs::write(&name, "nginx\n").unwrap();
        log.reopen_if_renamed().unwrap();
        log.write(b"three\n").unwrap();
        assert_eq!(fs::read_to_string(&old).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&name).unwrap(), "nginx\nthree\n");

        let other = directory.path().join("other.log");
        log.rename(&other).unwrap();
        log.write(b"four\n").unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "four\n");
        assert!(log.rename(Path::new("/nowhere/error.log")).is_err());
        assert_eq!(log.name(), other);
    }

    #[test]
    fn a_device_is_never_replaced_by_a_file_of_the_same_name() {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().join("error.log");
        fs::write(&name, "").unwrap();
        let null = File::options().write(true).open("/dev/null").unwrap();
        let mut log = LogFile { descriptor: null.as_raw_fd(), name: name.clone(), level: 8, identity: None };
        log.reopen_if_renamed().unwrap();
        log.write(b"lost\n").unwrap();
        assert_eq!(fs::read_to_string(&name).unwrap(), "");
    }
}
