//! Timers of the event loop that live as long as the worker.

use std::cell::UnsafeCell;
use std::mem;
use std::time::Duration;

use super::{guard, sys};

/// Returns nginx's clock, which it reads once for the events that it handles together. Belongs to the event loop thread.
pub fn current_milliseconds() -> usize {
    // SAFETY: a plain variable, which the event loop thread sets.
    unsafe { sys::ngx_current_msec }
}

/// Timer that runs a function on the event loop thread, once each time it is armed.
pub struct Timer {
    inner: UnsafeCell<Inner>,
}

struct Inner {
    run: fn(),
    holds_worker: bool,
    event: sys::ngx_event_t,
    /// Data of the event: nginx's debug log prints the descriptor of the connection there.
    connection: sys::ngx_connection_t,
}

// SAFETY: only the event loop thread calls the methods.
unsafe impl Send for Timer {}
// SAFETY: only the event loop thread calls the methods.
unsafe impl Sync for Timer {}

impl Timer {
    /// Creates a timer for `run`.
    ///
    /// While a timer that `holds_worker` is armed, a worker that exits gracefully waits, unless it has been released. It does
    /// not wait for other timers.
    pub fn new(holds_worker: bool, run: fn()) -> Self {
        // SAFETY: both are plain C structures for which zeroes mean "not in use".
        let (event, connection) = unsafe { (mem::zeroed(), mem::zeroed()) };
        Self { inner: UnsafeCell::new(Inner { run, holds_worker, event, connection }) }
    }

    /// Arms the timer to expire after `wait`, or earlier if it is armed for an earlier time. Belongs to the event loop thread.
    pub fn arm(&'static self, wait: Duration) {
        // Rounded up: the timer must not expire early.
        let milliseconds = wait.as_micros().div_ceil(1000).try_into().unwrap_or(sys::ngx_msec_t::MAX / 4);
        let inner = self.inner.get();
        // SAFETY: only this thread uses the cell, and never re-entrantly; the event is static. The timer is removed before it
        // is added, as `ngx_add_timer` keeps one whose time differs by less than 300 ms.
        unsafe {
            let event = &raw mut (*inner).event;
            (*event).set_cancelable(u32::from(!(*inner).holds_worker));
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
            }
            ngx::ffi::ngx_add_timer(event, milliseconds);
        }
    }

    /// Lets a worker exit though the timer is armed, until it is armed again. Belongs to the event loop thread.
    pub fn release_worker(&'static self) {
        // SAFETY: only this thread uses the cell, and never re-entrantly. nginx reads the flag when it looks for timers that
        // hold a worker.
        unsafe { (*self.inner.get()).event.set_cancelable(1) };
    }
}

unsafe extern "C" fn expired(event: *mut sys::ngx_event_t) {
    guard((), || {
        // SAFETY: nginx passes the event of `arm`, a part of a static Timer. No reference into the cell is alive, so `run` may
        // use the timer.
        let run = unsafe { (*event.byte_sub(mem::offset_of!(Inner, event)).cast::<Inner>()).run };
        run();
    });
}
