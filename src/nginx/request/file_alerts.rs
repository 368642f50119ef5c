//! What nginx says of a file that it cannot send whole.
//!
//! For its own files that is an alert: they are not to be truncated while they are sent, but replaced. The files of an
//! application are changed by anybody, so such a record is kept back, and the caller says what has happened.

use std::cell::Cell;
use std::ffi::CStr;
use std::ptr;

use crate::nginx::sys;

/// What nginx calls the files of applications; all its alerts about them have it.
pub(super) const NAME: &CStr = c"a file of the WSGI application";

/// What stands in for a log meanwhile.
struct Watch {
    /// The log as it was.
    log: sys::ngx_log_t,
    has_alert: Cell<bool>,
}

/// Runs `send`, in which nginx may send files of this name. Returns whether it wanted to write an alert about one into
/// `log`; all else is written as ever.
///
/// # Safety
/// `log` is live, and `send` does not unwind.
pub(super) unsafe fn keep_back<R>(log: *mut sys::ngx_log_t, send: impl FnOnce() -> R) -> (R, bool) {
    // SAFETY: as promised; the watch outlives `send`, and nobody but it writes to the log from then on. If another log
    // has been set there (`ngx_set_connection_log`), that stays.
    unsafe {
        let watch = Watch { log: ptr::read(log), has_alert: Cell::new(false) };
        (*log).writer = Some(write);
        (*log).wdata = (&raw const watch).cast_mut().cast();
        (*log).next = ptr::null_mut();
        let result = send();
        if ptr::eq((*log).wdata, (&raw const watch).cast()) {
            (*log).writer = watch.log.writer;
            (*log).wdata = watch.log.wdata;
            (*log).next = watch.log.next;
        }
        (result, watch.has_alert.get())
    }
}

/// Writes a record into the logs of the chain as ngx_log_error_core does, unless it is one to be kept back.
unsafe extern "C" fn write(log: *mut sys::ngx_log_t, level: usize, text: *mut u8, length: usize) {
    // SAFETY: nginx passes the log that was set above, and the text of a record; the logs of a chain are live.
    unsafe {
        let watch = &*(*log).wdata.cast::<Watch>();
        let record = std::slice::from_raw_parts(text, length);
        let name = NAME.to_bytes();
        if level == sys::NGX_LOG_ALERT as usize && record.windows(name.len()).any(|part| part == name) {
            return watch.has_alert.set(true);
        }
        let has_all = watch.log.log_level & sys::NGX_LOG_DEBUG_CONNECTION as usize != 0;
        let mut next = (&raw const watch.log).cast_mut();
        while let Some(one) = next.as_ref()
            && (one.log_level >= level || has_all)
        {
            if let Some(writer) = one.writer {
                writer(next, level, text, length);
            } else if let Some(file) = one.file.as_ref() {
                libc::write(file.fd, text.cast(), length);
            }
            next = one.next;
        }
    }
}
