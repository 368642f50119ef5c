//! Alerts of nginx about application files that it cannot send completely.
//!
//! nginx expects that its own files are replaced and never truncated. Applications may truncate their files at any time, so
//! these alerts are suppressed, and the caller logs an error of its own.

use std::cell::Cell;
use std::ffi::CStr;
use std::ptr;

use crate::nginx::sys;

/// Name of all application files in nginx's log records.
pub(super) const NAME: &CStr = c"a file of the WSGI application";

/// Data of the writer that replaces the log's own.
struct Filter {
    /// Copy of the original log.
    log: sys::ngx_log_t,
    has_alert: Cell<bool>,
}

/// Runs `send` and suppresses alerts about application files in `log`. Returns whether there was such an alert.
///
/// # Safety
/// `log` is live, and `send` does not unwind.
pub(super) unsafe fn suppress<R>(log: *mut sys::ngx_log_t, send: impl FnOnce() -> R) -> (R, bool) {
    // SAFETY: as promised by the caller. The filter outlives `send` and is the only writer of the log meanwhile. A log that
    // `send` sets instead (`ngx_set_connection_log`) is left as it is.
    unsafe {
        let filter = Filter { log: ptr::read(log), has_alert: Cell::new(false) };
        (*log).writer = Some(write);
        (*log).wdata = (&raw const filter).cast_mut().cast();
        (*log).next = ptr::null_mut();
        let result = send();
        if ptr::eq((*log).wdata, (&raw const filter).cast()) {
            (*log).writer = filter.log.writer;
            (*log).wdata = filter.log.wdata;
            (*log).next = filter.log.next;
        }
        (result, filter.has_alert.get())
    }
}

/// Writes a record to the original chain of logs as ngx_log_error_core does, unless it is to be suppressed.
unsafe extern "C" fn write(log: *mut sys::ngx_log_t, level: usize, text: *mut u8, length: usize) {
    // SAFETY: nginx passes the log that `suppress` has changed, and the text of a record. The logs of the chain are live.
    unsafe {
        let filter = &*(*log).wdata.cast::<Filter>();
        let record = std::slice::from_raw_parts(text, length);
        let name = NAME.to_bytes();
        if level == sys::NGX_LOG_ALERT as usize && record.windows(name.len()).any(|part| part == name) {
            return filter.has_alert.set(true);
        }
        let has_debug_connection = filter.log.log_level & sys::NGX_LOG_DEBUG_CONNECTION as usize != 0;
        let mut next = (&raw const filter.log).cast_mut();
        while let Some(log) = next.as_ref()
            && (log.log_level >= level || has_debug_connection)
        {
            if let Some(writer) = log.writer {
                writer(next, level, text, length);
            } else if let Some(file) = log.file.as_ref() {
                libc::write(file.fd, text.cast(), length);
            }
            next = log.next;
        }
    }
}
