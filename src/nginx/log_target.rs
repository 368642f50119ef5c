//! Where the log of an application goes: a file that nginx opens and opens again, standard error, syslog, or the supervisor of
//! process groups.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::conf::Conf;
use super::log::{Level, Log};
use super::{bytes, pool_string, sys};
use crate::os::append;
use crate::os::log_socket;

/// Records for a log, each of one or more whole lines.
#[derive(Default)]
pub struct Batch {
    text: Vec<u8>,
    /// Level and end of each record.
    ends: Vec<(Level, usize)>,
}

impl Batch {
    /// Adds a record, which ends with a newline.
    pub fn push(&mut self, level: Level, record: &[u8]) {
        self.text.extend_from_slice(record);
        self.ends.push((level, self.text.len()));
    }

    fn records(&self) -> impl Iterator<Item = (Level, &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        starts.zip(&self.ends).map(|(start, (level, end))| (*level, &self.text[start..*end]))
    }
}

/// Where a log goes. Belongs to the cycle whose configuration names it.
#[derive(Debug)]
pub struct LogTarget {
    kind: Kind,
    /// Its name in messages.
    name: String,
    /// Absolute path of a file; empty for standard error.
    file_name: Option<Vec<u8>>,
    /// The cycle that has opened it.
    cycle: *mut sys::ngx_cycle_t,
    /// The cycle is gone.
    is_freed: Arc<AtomicBool>,
    /// Time of the last message about a failure, in seconds since the start of the process, and one more.
    reported: AtomicU64,
    /// The last record was not written to its end.
    is_torn: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    File(*mut sys::ngx_open_file_t),
    Syslog(*mut sys::ngx_syslog_peer_t),
    /// The log of this number in a process group.
    Group(u32),
}

// SAFETY: a log is written on the event loop thread, or on another thread while the event loop runs a call and so neither opens
// files again nor frees a cycle. The other fields are atomic.
unsafe impl Send for LogTarget {}
// SAFETY: as above.
unsafe impl Sync for LogTarget {}

/// Interval between two messages about a log that cannot be written, as of nginx's access log.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Size limit of a message to syslog: one packet of UDP has 65,507 bytes, header included.
const MAX_SYSLOG: usize = 60_000;

/// Room for what nginx puts in front of a message to syslog: priority, time, host name, tag (NGX_SYSLOG_MAX_STR).
const SYSLOG_HEADER: usize = 512;

impl LogTarget {
    /// Has nginx open a file, relative to its prefix, as its own logs.
    ///
    /// # Errors
    /// Without memory.
    pub fn file(conf: &Conf, path: &str) -> Result<Self, ()> {
        // SAFETY: the parser has the new cycle. The name is in its pool.
        let file = unsafe {
            let mut name = pool_string(conf.pool(), path.as_bytes()).ok_or(())?;
            sys::ngx_conf_open_file((*conf.as_ptr()).cycle, &mut name)
        };
        if file.is_null() { Err(()) } else { Self::new(conf, Kind::File(file), path) }
    }

    /// Uses standard error, as `error_log stderr` does.
    ///
    /// # Errors
    /// Without memory.
    pub fn standard_error(conf: &Conf) -> Result<Self, ()> {
        // SAFETY: the parser has the new cycle. An empty name is that of standard error.
        let file = unsafe {
            let cycle = (*conf.as_ptr()).cycle;
            (*cycle).log_use_stderr = 1;
            sys::ngx_conf_open_file(cycle, &mut sys::ngx_str_t::empty())
        };
        if file.is_null() { Err(()) } else { Self::new(conf, Kind::File(file), "stderr") }
    }

    /// Uses syslog with these parameters, the first argument of the directive that is being read, as nginx's own logs.
    ///
    /// # Errors
    /// nginx has logged the cause.
    pub fn syslog(conf: &Conf, parameters: &str) -> Result<Self, ()> {
        // SAFETY: the parser is at a directive with an argument, which nginx changes: so it gets a copy. It fills the structure,
        // which is in the configuration's pool and begins as zeros.
        let peer = unsafe {
            let argument = (*(*conf.as_ptr()).args).elts.cast::<sys::ngx_str_t>().add(1);
            *argument = pool_string(conf.pool(), parameters.as_bytes()).ok_or(())?;
            let peer =
                sys::ngx_pcalloc(conf.pool(), size_of::<sys::ngx_syslog_peer_t>()).cast::<sys::ngx_syslog_peer_t>();
            if peer.is_null() || !sys::ngx_syslog_process_conf(conf.as_ptr(), peer).is_null() {
                return Err(());
            }
            peer
        };
        Self::new(conf, Kind::Syslog(peer), parameters)
    }

    /// Uses the log of this number in the process group that this nginx is an instance of.
    ///
    /// # Errors
    /// Without memory.
    pub fn of_group(conf: &Conf, number: u32) -> Result<Self, ()> {
        Self::new(conf, Kind::Group(number), "supervisor")
    }

    fn new(conf: &Conf, kind: Kind, name: &str) -> Result<Self, ()> {
        let is_freed = Arc::new(AtomicBool::new(false));
        // SAFETY: the pool of the new cycle calls the handler once, with this reference.
        let cycle = unsafe {
            let cleanup = sys::ngx_pool_cleanup_add(conf.pool(), 0);
            if cleanup.is_null() {
                return Err(());
            }
            (*cleanup).handler = Some(note_freed);
            (*cleanup).data = Arc::into_raw(is_freed.clone()).cast_mut().cast();
            (*conf.as_ptr()).cycle
        };
        let file_name = match kind {
            // SAFETY: nginx has set the name.
            Kind::File(file) => Some(unsafe { bytes((*file).name) }.to_vec()),
            Kind::Syslog(_) | Kind::Group(_) => None,
        };
        let (reported, is_torn) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Self { kind, name: name.to_owned(), file_name, cycle, is_freed, reported, is_torn })
    }

    /// Returns true if records may be written on any thread while the event loop runs a call.
    pub fn is_file(&self) -> bool {
        !matches!(self.kind, Kind::Syslog(_))
    }

    /// Returns the absolute path of the file, empty for standard error; `None` if it is no file.
    pub fn path(&self) -> Option<&[u8]> {
        self.file_name.as_deref()
    }

    /// Writes all records. Failures are logged in nginx's error log.
    ///
    /// With `master_process off` the process stays at a reload, which closes the files of the cycle before. The records go to
    /// the file with the same name of the new cycle then, or if there is none to nginx's error log.
    ///
    /// On the event loop thread, or for a file on another thread while the event loop runs a call.
    pub fn write(&self, batch: &Batch) {
        if let Kind::Group(number) = self.kind {
            return self.report(log_socket::send(number, batch.records().map(|(_, record)| record)));
        }
        let kind = if self.is_current() { Some(self.kind) } else { self.successor() };
        let Some(kind) = kind else { return self.write_to_error_log(batch) };
        match kind {
            // SAFETY: the cycle is live, and so the description of its file.
            Kind::File(file) => self.append(unsafe { (*file).fd }, &batch.text),
            Kind::Syslog(peer) => batch.records().for_each(|(level, record)| {
                record.chunks(MAX_SYSLOG).for_each(|part| send_to_syslog(peer, level, part));
            }),
            Kind::Group(_) => {}
        }
    }

    fn append(&self, descriptor: RawFd, text: &[u8]) {
        let mut with_newline = Vec::new();
        let text = if self.is_torn.swap(false, Ordering::Relaxed) {
            with_newline.push(b'\n');
            with_newline.extend_from_slice(text);
            &with_newline
        } else {
            text
        };
        let result = append::write(descriptor, text);
        if let Err(append::Failure { written, .. }) = &result {
            self.is_torn.store(*written > 0, Ordering::Relaxed);
        }
        self.report(result.map_err(|failure| failure.error));
    }

    fn is_current(&self) -> bool {
        // SAFETY: a plain variable.
        !self.is_freed.load(Ordering::Acquire) && unsafe { std::ptr::eq(sys::ngx_cycle, self.cycle) }
    }

    /// Returns the file of the current cycle with the name of this log, if this is a file.
    fn successor(&self) -> Option<Kind> {
        let path = self.file_name.as_ref()?;
        // SAFETY: the list of files of the live cycle, a chain of parts.
        unsafe {
            let mut part = (&raw mut (*sys::ngx_cycle).open_files.part).as_ref();
            while let Some(here) = part {
                let files = here.elts.cast::<sys::ngx_open_file_t>();
                let found = (0..here.nelts).map(|index| files.add(index)).find(|file| bytes((**file).name) == path);
                if let Some(file) = found {
                    return Some(Kind::File(file));
                }
                part = here.next.as_ref();
            }
        }
        None
    }

    fn write_to_error_log(&self, batch: &Batch) {
        for (level, record) in batch.records() {
            Log::cycle().write(level, String::from_utf8_lossy(record).trim_end_matches('\n'));
        }
    }

    fn report(&self, result: io::Result<()>) {
        let Err(error) = result else { return };
        let now = append::uptime().as_secs() + 1;
        let last = self.reported.load(Ordering::Relaxed);
        if last == 0 || now - last >= REPORT_INTERVAL.as_secs() {
            self.reported.store(now, Ordering::Relaxed);
            let message = format!("wsgi: cannot write to \"{}\" (\"wsgi_log\"): {error}", self.name);
            super::log::alert_directly(&message);
        }
    }
}

unsafe extern "C" fn note_freed(data: *mut std::ffi::c_void) {
    // SAFETY: the reference that `new` has given to the pool.
    let is_freed = unsafe { Arc::from_raw(data.cast::<AtomicBool>()) };
    is_freed.store(true, Ordering::Release);
}

fn send_to_syslog(peer: *mut sys::ngx_syslog_peer_t, level: Level, record: &[u8]) {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    let mut message = vec![0; SYSLOG_HEADER + record.len()];
    // SAFETY: the peer of a live cycle, on the event loop thread. nginx writes a header that is shorter than its limit.
    unsafe {
        // A failure to send is logged, perhaps to syslog.
        if (*peer).busy() != 0 {
            return;
        }
        (*peer).set_busy(1);
        (*peer).severity = level as usize - 1;
        let start = message.as_mut_ptr();
        let end = sys::ngx_syslog_add_header(peer, start);
        let length = usize::try_from(end.offset_from(start)).unwrap_or(0);
        message.truncate(length);
        message.extend_from_slice(record);
        // nginx logs a failure.
        let _ = sys::ngx_syslog_send(peer, message.as_mut_ptr(), message.len());
        (*peer).set_busy(0);
    }
}
