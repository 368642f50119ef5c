//! A timer that keeps a worker alive while calls are under way.
//!
//! A worker that is told to quit exits as soon as no timer that counts is left; a request that waits for a Python
//! thread has none of its own.

use std::cell::UnsafeCell;
use std::mem;

use super::{guard, sys};

/// Counts the calls under way; while there are any, a timer is armed.
pub struct Hold {
    inner: UnsafeCell<Inner>,
}

struct Inner {
    calls: usize,
    event: sys::ngx_event_t,
    /// nginx's debug log prints the descriptor of what an event's data points to.
    connection: sys::ngx_connection_t,
}

/// The timer is only there to exist; it is armed again when it fires.
const PERIOD: sys::ngx_msec_t = 60 * 60 * 1000;

// SAFETY: only the event loop thread calls the methods, see there.
unsafe impl Send for Hold {}
// SAFETY: as above.
unsafe impl Sync for Hold {}

impl Default for Hold {
    fn default() -> Self {
        // SAFETY: both are plain C structures for which all zeroes is "not in use".
        let inner = unsafe { Inner { calls: 0, event: mem::zeroed(), connection: mem::zeroed() } };
        Self { inner: UnsafeCell::new(inner) }
    }
}

impl Hold {
    /// One more call is under way. On the event loop thread, on a hold that does not move any more.
    pub fn enter(&'static self) {
        let inner = self.inner.get();
        // SAFETY: only this thread uses the cell, and never re-entrantly; the event is static.
        unsafe {
            (*inner).calls += 1;
            if (*inner).calls == 1 {
                (*inner).connection.fd = -1;
                (*inner).event.data = (&raw mut (*inner).connection).cast();
                (*inner).event.log = (*sys::ngx_cycle).log;
                (*inner).event.handler = Some(again);
                ngx::ffi::ngx_add_timer(&raw mut (*inner).event, PERIOD);
            }
        }
    }

    /// A call has ended. On the event loop thread.
    pub fn leave(&'static self) {
        let inner = self.inner.get();
        // SAFETY: as in `enter`.
        unsafe {
            (*inner).calls -= 1;
            if (*inner).calls == 0 && (*inner).event.timer_set() != 0 {
                ngx::ffi::ngx_del_timer(&raw mut (*inner).event);
            }
        }
    }
}

unsafe extern "C" fn again(event: *mut sys::ngx_event_t) {
    guard((), || {
        // SAFETY: nginx passes the event that was armed in `enter`, which is static.
        unsafe { ngx::ffi::ngx_add_timer(event, PERIOD) };
    });
}
