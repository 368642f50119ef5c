//! Records in nginx's error log. Long lines are split at nginx's limit instead of truncated.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

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
    /// Works without nginx's build option `--with-debug` as well.
    Debug = sys::NGX_LOG_DEBUG,
}

impl Level {
    const NAMES: [(&'static str, Self); 8] = [
        ("emerg", Self::Emerg),
        ("alert", Self::Alert),
        ("crit", Self::Crit),
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("notice", Self::Notice),
        ("info", Self::Info),
        ("debug", Self::Debug),
    ];

    /// Returns the level with a name of nginx's configuration.
    pub fn parse(name: &str) -> Option<Self> {
        Self::NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, level)| level)
    }

    /// Returns its name in nginx's configuration and records.
    pub fn name(self) -> &'static str {
        Self::NAMES.into_iter().find(|(_, level)| *level == self).map_or("", |(name, _)| name)
    }
}

/// Log of a cycle, a connection or a configuration. Must not outlive that.
#[derive(Clone, Copy)]
pub struct Log(*mut sys::ngx_log_t);

/// Size limit of a part of a line. nginx truncates records at 2,048 bytes (NGX_MAX_ERROR_STR), including time and context.
const MAX_PART: usize = 1400;

impl Log {
    /// # Safety
    /// `log` is valid for as long as this value is used.
    pub unsafe fn new(log: *mut sys::ngx_log_t) -> Self {
        Self(log)
    }

    /// Returns the log of the running cycle.
    pub fn cycle() -> Self {
        // SAFETY: ngx_cycle is set before code of modules runs, and every cycle has a log.
        Self(unsafe { (*sys::ngx_cycle).log })
    }

    fn enabled(self, level: Level) -> bool {
        // SAFETY: the log is valid by the rule of the type.
        unsafe { (*self.0).log_level >= level as usize }
    }

    /// Logs `text` with one record per line, or several for a long line. Only the first record has the request's context.
    pub fn write(self, level: Level, text: &str) {
        if !self.enabled(level) {
            return;
        }
        let mut first = true;
        for line in text.split('\n') {
            for part in parts(line) {
                self.record(level, part, first);
                first = false;
            }
        }
    }

    /// Logs `text` as a record of a connection whose request has ended, with `context` behind the first line.
    pub fn write_after(self, connection: u64, context: &str, level: Level, text: &str) {
        let (first, rest) = text.split_at(text.find('\n').unwrap_or(text.len()));
        // SAFETY: the log is valid by the rule of the type. Only the event loop thread uses logs, so nothing else sees the number.
        unsafe {
            let number = std::mem::replace(&mut (*self.0).connection, connection as sys::ngx_atomic_uint_t);
            self.write(level, &format!("{first}{context}{rest}"));
            (*self.0).connection = number;
        }
    }

    fn record(self, level: Level, text: &str, with_context: bool) {
        let printable = Printable(text).to_string();
        // SAFETY: the log is valid by the rule of the type, and "%*s" takes a length and a pointer. Only the event loop thread
        // uses logs, so nothing sees the changed handler.
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

/// Writes `text` to the files of the cycle's error log at level `error`, one record per line. May be called on any thread
/// while the event loop runs a call of an application.
///
/// Logs other than files, such as syslog, are skipped: nginx's functions for them belong to the event loop thread.
pub fn write_directly(connection: u64, text: &str) {
    write_to_files(Level::Error, &format!("*{connection} "), text);
}

/// Writes a message that belongs to no request as [`write_directly`] does, at level `alert`.
pub fn alert_directly(text: &str) {
    write_to_files(Level::Alert, "", text);
}

fn write_to_files(level: Level, connection: &str, text: &str) {
    let mut records = String::new();
    let (process, thread) = (std::process::id(), nix::unistd::gettid());
    let prefix = format!("{} [{}] {process}#{thread}: {connection}", local_time(), level.name());
    for part in text.split('\n').flat_map(parts) {
        records.extend([prefix.as_str(), &Printable(part).to_string(), "\n"]);
    }
    // SAFETY: the event loop, which alone reopens the logs of the cycle, is busy with a call. Failure to write cannot be
    // logged.
    unsafe {
        let mut log = (*sys::ngx_cycle).log;
        while let Some(one) = log.as_ref() {
            if one.log_level >= level as usize
                && one.writer.is_none()
                && let Some(file) = one.file.as_ref()
            {
                libc::write(file.fd, records.as_ptr().cast(), records.len());
            }
            log = one.next;
        }
    }
}

/// Returns the local time in the format of nginx's records.
fn local_time() -> String {
    LocalTime::of(SystemTime::now()).in_records()
}

/// A time in the time zone of this process.
pub struct LocalTime {
    time: libc::tm,
    microseconds: u32,
}

impl LocalTime {
    /// Converts a time. One that the C library cannot convert stays zero.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = libc::time_t::try_from(since.as_secs()).unwrap_or_default();
        // SAFETY: a plain structure that the C library fills.
        let time = unsafe {
            let mut time: libc::tm = std::mem::zeroed();
            libc::localtime_r(&seconds, &mut time);
            time
        };
        Self { time, microseconds: since.subsec_micros() }
    }

    /// Returns it in the format of nginx's records.
    pub fn in_records(&self) -> String {
        let Self { time, .. } = self;
        let (year, month) = (time.tm_year + 1900, time.tm_mon + 1);
        format!("{year}/{month:02}/{:02} {:02}:{:02}:{:02}", time.tm_mday, time.tm_hour, time.tm_min, time.tm_sec)
    }

    /// Returns it in the format of ISO 8601, with microseconds and the difference to UTC.
    pub fn iso_8601(&self) -> String {
        let Self { time, microseconds } = self;
        let (year, month) = (time.tm_year + 1900, time.tm_mon + 1);
        let (day, hour, minute, second) = (time.tm_mday, time.tm_hour, time.tm_min, time.tm_sec);
        let (sign, offset) = if time.tm_gmtoff < 0 { ('-', -time.tm_gmtoff) } else { ('+', time.tm_gmtoff) };
        let (hours, minutes) = (offset / 3600, offset / 60 % 60);
        format!(
            "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{microseconds:06}{sign}{hours:02}:{minutes:02}"
        )
    }
}

/// Splits a line at character boundaries into parts that fit into a record.
fn parts(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        if text.len() <= MAX_PART {
            return Some(text);
        }
        let end = (0..=MAX_PART).rev().find(|end| text.is_char_boundary(*end))?;
        let (part, tail) = text.split_at(end);
        rest = Some(tail);
        Some(part)
    })
}

/// Text with escaped control characters: text of a client must not control the terminal that shows the log.
pub struct Printable<'a>(pub &'a str);

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
    fn a_long_line_is_split_without_loss() {
        let line = "ä".repeat(MAX_PART);
        let all: Vec<&str> = parts(&line).collect();
        assert_eq!(all.concat(), line);
        assert!(all.len() == 2 && all.iter().all(|part| part.len() <= MAX_PART));
        assert_eq!(parts("").collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(Printable("a\x1b[0m\tb\r").to_string(), "a\\x1b[0m\tb\\x0d");
    }
}
