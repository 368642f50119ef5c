//! Handlers of a request's events, and its end.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use super::{Request, Status};
use crate::nginx::log::Level;
use crate::nginx::upstream::{MARK, MARK_ERROR};
use crate::nginx::{guard, module, sys};

/// Handlers of the events of a request.
pub trait RequestEvents: Sized + 'static {
    /// Called when the client's socket can take more data.
    fn writable(&self);

    /// Called when a body that is streamed to a running call may have more data, or the client has disconnected or
    /// timed out.
    fn readable(&self);

    /// Called when nginx ends the request. Its handle must not be used afterwards. May be called twice.
    fn cleanup(&self);
}

impl Request {
    /// Installs `events` until the request ends. From now on a disconnect of the client is detected.
    ///
    /// # Errors
    /// Returns `events` if the pool has no memory.
    pub fn install<E: RequestEvents>(&self, events: Arc<E>) -> Result<(), Arc<E>> {
        // SAFETY: both clean-up handlers are registered before the context publishes the value. nginx runs the first
        // when the request ends, perhaps with references left, and the second, which releases the value, when it frees the
        // request's memory.
        unsafe {
            let request = self.as_ptr();
            let request_cleanup = sys::ngx_http_cleanup_add(request, 0);
            let pool_cleanup = sys::ngx_pool_cleanup_add((*request).pool, 0);
            if request_cleanup.is_null() || pool_cleanup.is_null() {
                return Err(events);
            }
            let events = Arc::into_raw(events).cast_mut();
            (*pool_cleanup).data = events.cast();
            (*pool_cleanup).handler = Some(free_events::<E>);
            (*request_cleanup).data = events.cast();
            (*request_cleanup).handler = Some(end_events::<E>);
            *(*request).ctx.add(module::ctx_index()) = events.cast();
            let read: unsafe extern "C" fn(*mut sys::ngx_http_request_t) =
                if self.is_reading_body() { read_event::<E> } else { sys::ngx_http_test_reading };
            (*request).read_event_handler = Some(read);
            (*request).write_event_handler = Some(write_event::<E>);
            Ok(())
        }
    }

    /// Returns the newest events of type `E` that [`Request::install`] has added to this request and that satisfy
    /// `predicate`.
    ///
    /// Searches the pool, as an internal redirect clears the context. A subrequest shares the pool of its main request.
    pub fn installed<E: RequestEvents>(&self, predicate: impl Fn(&E) -> bool) -> Option<&E> {
        let free: unsafe extern "C" fn(*mut c_void) = free_events::<E>;
        // SAFETY: the clean-up handlers of a live pool are a null-terminated list. One with this handler was made by
        // `install`, and its data is an `E` until the pool is destroyed.
        unsafe {
            let mut cleanup = (*self.get().pool).cleanup;
            while let Some(found) = cleanup.as_ref() {
                if found.handler.is_some_and(|handler| ptr::fn_addr_eq(handler, free))
                    && let Some(events) = found.data.cast::<E>().as_ref()
                    && predicate(events)
                {
                    return Some(events);
                }
                cleanup = found.next;
            }
            None
        }
    }

    /// Keeps the request until [`Request::finalize`], in its content handler, which returns the status.
    pub fn hold(&self) -> Status {
        self.count_reference();
        Status::DONE
    }

    /// Finalizes the request with `status`, which releases this module's reference.
    pub fn finalize(self, status: Status) {
        if status.0 >= sys::NGX_HTTP_SPECIAL_RESPONSE as isize && !self.is_header_sent() {
            if self.is_from_front() {
                // Without memory for the header the front shows the page of the instance, which is nginx's as well.
                let _ = self.add_header(MARK.as_bytes(), MARK_ERROR.as_bytes());
            }
            // The error_page of the status may be another location.
            self.withhold_streamed_body();
        }
        // SAFETY: live by the rule of the type, and not used afterwards.
        unsafe { sys::ngx_http_finalize_request(self.as_ptr(), status.0) };
    }

    /// Runs `body` outside of the events of this request, then the posted requests of its connection.
    pub fn run_in_other_event(self, body: impl FnOnce(Request)) {
        let connection = self.get().connection;
        self.log();
        body(self);
        // SAFETY: nginx does not free the structure of a connection. Without posted requests the call has no effect.
        unsafe { sys::ngx_http_run_posted_requests(connection) };
    }

    /// Waits for the client's socket to take more data, for `send_timeout` at most.
    pub fn wait_until_writable(&self) -> Result<(), Status> {
        let location = self.core_location();
        let (lowat, timeout) = (location.send_lowat, location.send_timeout);
        // SAFETY: the write event of a live connection, used as by ngx_http_set_write_handler and ngx_http_writer.
        unsafe {
            let event = (*self.get().connection).write;
            if (*event).delayed() == 0 {
                ngx::ffi::ngx_add_timer(event, timeout);
            }
            if sys::ngx_handle_write_event(event, lowat) != Status::OK.0 {
                return Err(Status::ERROR);
            }
        }
        Ok(())
    }

    /// Stops the timer of [`Request::wait_until_writable`].
    pub fn stop_send_timer(&self) {
        // SAFETY: the write event of a live connection.
        unsafe {
            let event = (*self.get().connection).write;
            if (*event).timer_set() != 0 && (*event).delayed() == 0 {
                ngx::ffi::ngx_del_timer(event);
            }
        }
    }
}

unsafe extern "C" fn end_events<E: RequestEvents>(data: *mut c_void) {
    // SAFETY: nginx passes the value of `install`, which lives until `free_events`.
    guard((), || unsafe { &*data.cast::<E>() }.cleanup());
}

unsafe extern "C" fn free_events<E: RequestEvents>(data: *mut c_void) {
    guard((), || {
        // SAFETY: nginx passes the value of `install` once, when it destroys the pool.
        let events = unsafe { Arc::from_raw(data.cast::<E>()) };
        // Without memory a request may end without running its own clean-up handlers.
        events.cleanup();
    });
}

unsafe extern "C" fn read_event<E: RequestEvents>(request: *mut sys::ngx_http_request_t) {
    guard((), || {
        // SAFETY: nginx passes a live request. Its context is null after an internal redirect, or the value of
        // `install`.
        if let Some(events) = unsafe { (*(*request).ctx.add(module::ctx_index())).cast::<E>().as_ref() } {
            events.readable();
        }
    });
}

unsafe extern "C" fn write_event<E: RequestEvents>(request: *mut sys::ngx_http_request_t) {
    guard((), || {
        // SAFETY: nginx passes a live request. Its context is null after an internal redirect, or the value of
        // `install`.
        let (request, events) = unsafe {
            let events = (*(*request).ctx.add(module::ctx_index())).cast::<E>();
            (Request::new(request), events.as_ref())
        };
        let (Some(request), Some(events)) = (request, events) else {
            return;
        };
        // SAFETY: the write event of a live connection.
        let (timed_out, delayed) = unsafe {
            let event = (*request.get().connection).write;
            ((*event).timedout() != 0, (*event).delayed() != 0)
        };
        if timed_out && !delayed {
            request.log().write(Level::Info, "client timed out while reading the response");
            // SAFETY: as ngx_http_writer does before it finalizes the request.
            unsafe { (*request.get().connection).set_timedout(1) };
            request.finalize(Status::CLIENT_TIMED_OUT);
            return;
        }
        events.writable();
    });
}
