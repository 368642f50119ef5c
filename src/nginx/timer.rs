//! A timer that keeps a worker alive while calls are under way.
//!
//! A worker that is told to quit exits as soon as no timer that counts is left; a request that waits for a Python
//! thread has none of its own. The wait is bounded: calls that go on for long after that do not keep the worker.

use std::cell::UnsafeCell;
use std::mem;
use std::time::{Duration, Instant};

use super::log::{Level, Log};
use super::{guard, sys};

/// Counts the calls under way; while there are any, a timer is armed.
pub struct Hold {
    inner: UnsafeCell<Inner>,
}

struct Inner {
    calls: usize,
    /// How long calls may go on after the worker was told to quit.
    limit: Duration,
    /// What is called when they have gone on for longer.
    give_up: fn(),
    /// When it was seen to be told.
    quit: Option<Instant>,
    event: sys::ngx_event_t,
    /// nginx's debug log prints the descriptor of what an event's data points to.
    connection: sys::ngx_connection_t,
}

/// How often the timer looks whether the worker was told to quit.
const PERIOD: sys::ngx_msec_t = 250;

// SAFETY: only the event loop thread calls the methods, see there.
unsafe impl Send for Hold {}
// SAFETY: as above.
unsafe impl Sync for Hold {}

impl Hold {
    /// A hold on a worker that waits for its calls for `limit` once it is told to quit, then calls `give_up`.
    pub fn new(limit: Duration, give_up: fn()) -> Self {
        // SAFETY: both are plain C structures for which all zeroes is "not in use".
        let (event, connection) = unsafe { (mem::zeroed(), mem::zeroed()) };
        Self { inner: UnsafeCell::new(Inner { calls: 0, limit, give_up, quit: None, event, connection }) }
    }

    /// How long the worker has waited for calls since it was told to quit. On the event loop thread.
    pub fn waited(&self) -> Duration {
        // SAFETY: only this thread uses the cell, and never re-entrantly.
        unsafe { (*self.inner.get()).quit }.map_or(Duration::ZERO, |quit| quit.elapsed())
    }

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
                (*inner).event.handler = Some(look);
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

impl Inner {
    /// Whether the calls under way still keep the worker.
    fn holds(&mut self) -> bool {
        if !super::process::is_exiting() {
            return true;
        }
        let waited = self.quit.get_or_insert_with(Instant::now).elapsed();
        if waited < self.limit {
            return true;
        }
        let message = format!("wsgi: {} calls are given up, they did not end within wsgi_shutdown_timeout", self.calls);
        Log::cycle().write(Level::Warn, &message);
        false
    }
}

unsafe extern "C" fn look(event: *mut sys::ngx_event_t) {
    guard((), || {
        // SAFETY: nginx passes the event that was armed in `enter`, a part of a static Hold; this is its one thread.
        unsafe {
            let inner = event.byte_sub(mem::offset_of!(Inner, event)).cast::<Inner>();
            if (*inner).holds() {
                ngx::ffi::ngx_add_timer(event, PERIOD);
                return;
            }
            // It makes calls leave, which uses the cell: no reference to it is alive here.
            ((*inner).give_up)();
        }
    });
}
