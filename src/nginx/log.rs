//! Records in nginx's error log: whole lines, none cut at nginx's limit.

use std::fmt;

use super::sys;

/// Severities of nginx's error log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    Emerg = sys::NGX_LOG_EMERG,
    Alert = sys::NGX_LOG_ALERT,
    Crit = sys::NGX_LOG_CRIT,
    Error = sys::NGX_LOG_ERR,
    Warn = sys::NGX_LOG_WARN,
    Notice = sys::NGX_LOG_NOTICE,
    Info = sys::NGX_LOG_INFO,
    /// Not only where nginx itself was built to log at this level.
    Debug = sys::NGX_LOG_DEBUG,
}

/// An nginx log: that of a cycle, a connection or a configuration. Valid as long as what it was taken from.
#[derive(Clone, Copy)]
pub struct Log(*mut sys::ngx_log_t);

/// nginx cuts a record at 2,048 bytes (NGX_MAX_ERROR_STR); this leaves room for the time and the request's context.
const LONGEST_PIECE: usize = 1400;

impl Log {
    /// # Safety
    /// `log` is valid for as long as this value is used.
    pub unsafe fn new(log: *mut sys::ngx_log_t) -> Self {
        Self(log)
    }

    /// The log of the running cycle.
    pub fn cycle() -> Self {
        // SAFETY: ngx_cycle is set before any module code runs, and has a log.
        Self(unsafe { (*sys::ngx_cycle).log })
    }

    fn enabled(self, level: Level) -> bool {
        // SAFETY: valid by construction.
        unsafe { (*self.0).log_level >= level as usize }
    }

    /// Logs `text`: one record a line, long lines in pieces. Only the first record carries the request's context.
    pub fn write(self, level: Level, text: &str) {
        if !self.enabled(level) {
            return;
        }
        let mut first = true;
        for line in text.split('\n') {
            for piece in pieces(line) {
                self.record(level, piece, first);
                first = false;
            }
        }
    }

    fn record(self, level: Level, text: &str, with_context: bool) {
        let printable = Printable(text).to_string();
        // SAFETY: the log is valid; "%*s" takes a length and a pointer; the handler is put back before anyone else can
        // look, as only the event loop thread uses logs.
        unsafe {
            let handler = (*self.0).handler;
            if !with_context {
                (*self.0).handler = None;
            }
            sys::ngx_log_error_core(level as usize, self.0, 0, c"%*s".as_ptr(), printable.len(), printable.as_ptr());
            (*self.0).handler = handler;
        }
    }
}

/// Writes `text` to the cycle's error log at level `error`, one record a line, on any thread while the event loop is busy.
///
/// nginx's own functions are for the event loop alone, so this is a plain write to the log's files. A log that is none, as
/// syslog, does not get it.
pub fn write_directly(connection: u64, text: &str) {
    let mut records = String::new();
    // SAFETY: asks for a number.
    let (process, thread) = (std::process::id(), unsafe { libc::gettid() });
    let prefix = format!("{} [error] {process}#{thread}: *{connection} ", local_time());
    for piece in text.split('\n').flat_map(pieces) {
        records.extend([prefix.as_str(), &Printable(piece).to_string(), "\n"]);
    }
    // SAFETY: the logs of a running cycle and their files stay while the event loop is busy with a call; only it opens them
    // anew. A descriptor that cannot be written to is an error that there is nobody to tell of.
    unsafe {
        let mut log = (*sys::ngx_cycle).log;
        while let Some(one) = log.as_ref() {
            if one.log_level >= Level::Error as usize
                && one.writer.is_none()
                && let Some(file) = one.file.as_ref()
            {
                libc::write(file.fd, records.as_ptr().cast(), records.len());
            }
            log = one.next;
        }
    }
}

/// The time as in nginx's records.
fn local_time() -> String {
    // SAFETY: plain structures of the C library, filled by it; a time that it cannot take apart stays zero.
    let time = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut time: libc::tm = std::mem::zeroed();
        libc::localtime_r(&now, &mut time);
        time
    };
    let (year, month) = (time.tm_year + 1900, time.tm_mon + 1);
    format!("{year}/{month:02}/{:02} {:02}:{:02}:{:02}", time.tm_mday, time.tm_hour, time.tm_min, time.tm_sec)
}

/// Cuts a line into pieces that fit into a record, at character boundaries; all but the last end with a mark.
fn pieces(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        if text.len() <= LONGEST_PIECE {
            return Some(text);
        }
        let end = (0..=LONGEST_PIECE).rev().find(|end| text.is_char_boundary(*end))?;
        let (piece, tail) = text.split_at(end);
        rest = Some(tail);
        Some(piece)
    })
}

/// Text with control characters escaped: what a client sent must not write to somebody's terminal.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        for character in self.0.chars() {
            match character {
                '\t' => formatter.write_char('\t')?,
                control if control.is_control() => write!(formatter, "\\x{:02x}", control as u32)?,
                other => formatter.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_cut_into_pieces_that_give_it_whole() {
        let line = "ä".repeat(LONGEST_PIECE);
        let all: Vec<&str> = pieces(&line).collect();
        assert_eq!(all.concat(), line);
        assert!(all.len() == 2 && all.iter().all(|piece| piece.len() <= LONGEST_PIECE));
        assert_eq!(pieces("").collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(Printable("a\x1b[0m\tb\r").to_string(), "a\\x1b[0m\tb\\x0d");
    }
}
