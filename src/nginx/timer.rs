//! A timer of the event loop that lives as long as the worker.

use std::cell::UnsafeCell;
use std::mem;
use std::time::Duration;

use super::{guard, sys};

/// Runs a function on the event loop thread, once each time it is armed.
pub struct Timer {
    inner: UnsafeCell<Inner>,
}

struct Inner {
    run: fn(),
    holds_worker: bool,
    event: sys::ngx_event_t,
    /// nginx's debug log prints the descriptor of what an event's data points to.
    connection: sys::ngx_connection_t,
}

// SAFETY: only the event loop thread calls the methods, see there.
unsafe impl Send for Timer {}
// SAFETY: as above.
unsafe impl Sync for Timer {}

impl Timer {
    /// A timer for `run`.
    ///
    /// A worker that is told to quit exits as soon as no timer is armed that `holds_worker`, whatever it still waits for.
    pub fn new(holds_worker: bool, run: fn()) -> Self {
        // SAFETY: both are plain C structures for which all zeroes is "not in use".
        let (event, connection) = unsafe { (mem::zeroed(), mem::zeroed()) };
        Self { inner: UnsafeCell::new(Inner { run, holds_worker, event, connection }) }
    }

    /// Runs after `wait` at the latest: at once if it is armed for later. On the event loop thread, as all methods.
    pub fn arm(&'static self, wait: Duration) {
        // Rounded up, so that it is not too early for what it was armed for.
        let milliseconds = wait.as_micros().div_ceil(1000).try_into().unwrap_or(sys::ngx_msec_t::MAX / 4);
        let inner = self.inner.get();
        // SAFETY: only this thread uses the cell, and never re-entrantly; the event is static. `ngx_add_timer` keeps an
        // armed timer that is less than 300 ms off, hence the removal.
        unsafe {
            let event = &raw mut (*inner).event;
            if (*event).timer_set() != 0 {
                let left = (*event).timer.key.wrapping_sub(sys::ngx_current_msec) as isize;
                if left <= milliseconds as isize {
                    return;
                }
                ngx::ffi::ngx_del_timer(event);
            } else {
                (*inner).connection.fd = -1;
                (*event).data = (&raw mut (*inner).connection).cast();
                (*event).log = (*sys::ngx_cycle).log;
                (*event).handler = Some(expired);
                (*event).set_cancelable(u32::from(!(*inner).holds_worker));
            }
            ngx::ffi::ngx_add_timer(event, milliseconds);
        }
    }

    /// Does not run any more until it is armed again.
    pub fn disarm(&'static self) {
        // SAFETY: as in `arm`.
        unsafe {
            let event = &raw mut (*self.inner.get()).event;
            if (*event).timer_set() != 0 {
                ngx::ffi::ngx_del_timer(event);
            }
        }
    }
}

unsafe extern "C" fn expired(event: *mut sys::ngx_event_t) {
    guard((), || {
        // SAFETY: nginx passes the event that was armed above, a part of a static Timer. What it runs may use the timer:
        // no reference into the cell is alive.
        let run = unsafe { (*event.byte_sub(mem::offset_of!(Inner, event)).cast::<Inner>()).run };
        run();
    });
}
