//! Bodies that one location reads without buffering, withheld from all other locations.
//!
//! Otherwise nginx would send the announced length to an upstream server, with only the bytes that have not been taken, and
//! keep the connection: the server would read the next request as the rest of the body.

use std::ptr;

use super::{Request, Status};
use crate::nginx::conf::Conf;
use crate::nginx::{guard, sys};

impl Request {
    /// Removes the body from this request if this location, or one before it, reads the body without buffering. Further data
    /// of the client is discarded, and the connection is closed after the response.
    pub(in crate::nginx) fn withhold_streamed_body(self) {
        if self.request_body_no_buffering() != 0 {
            self.withhold_body();
        }
    }

    /// Removes the body as [`Request::withhold_streamed_body`] does, with or without buffering.
    pub(in crate::nginx) fn withhold_body(self) {
        if !self.is_main() || self.get().request_body.is_null() {
            return;
        }
        if self.is_reading_body() {
            self.pause_reading();
            self.skip_stream_data();
            self.set_reading_body(0);
            // As ngx_http_finalize_connection does for a body that has not been read.
            self.set_keepalive(0);
            self.set_lingering_close(1);
        }
        self.set_request_body_no_buffering(0);
        // SAFETY: plain fields of the live request and its body. The handler ignores further data of the client.
        unsafe {
            (*self.as_ptr()).read_event_handler = Some(sys::ngx_http_block_reading);
            let body = (*self.as_ptr()).request_body;
            (*body).bufs = ptr::null_mut();
            (*body).rest = 0;
        }
        self.announce_no_body();
    }

    /// Makes the request announce neither a length nor chunks.
    fn announce_no_body(self) {
        // SAFETY: plain fields of the live request. A subrequest has fields of its own.
        unsafe {
            let headers = &mut (*self.as_ptr()).headers_in;
            headers.content_length = ptr::null_mut();
            headers.content_length_n = -1;
            headers.set_chunked(0);
        }
    }
}

/// Withholds a body that is read without buffering from the subrequests of its request. To be called in postconfiguration.
///
/// # Errors
/// If nginx has no memory.
pub fn withhold_from_subrequests(conf: &Conf) -> Result<(), ()> {
    // SAFETY: in an http block the core module has a main configuration. Modules add handlers to its phases in this step;
    // nginx builds the phase engine afterwards.
    unsafe {
        let context = (*conf.as_ptr()).ctx.cast::<sys::ngx_http_conf_ctx_t>();
        let index = sys::ngx_http_core_module.ctx_index;
        let core = (*(*context).main_conf.add(index)).cast::<sys::ngx_http_core_main_conf_t>();
        let phase = &mut (*core).phases[sys::ngx_http_phases_NGX_HTTP_PREACCESS_PHASE as usize];
        let handler = sys::ngx_array_push(&mut phase.handlers).cast::<sys::ngx_http_handler_pt>();
        if handler.is_null() {
            return Err(());
        }
        handler.write(Some(preaccess_handler));
    }
    Ok(())
}

unsafe extern "C" fn preaccess_handler(request: *mut sys::ngx_http_request_t) -> isize {
    guard(Status::ERROR.0, || {
        // SAFETY: nginx passes a live request.
        let request = unsafe { Request::new(request) };
        if let Some(request) = request.filter(|request| !request.is_main())
            && request.main().request_body_no_buffering() != 0
        {
            request.announce_no_body();
            // SAFETY: a plain field of the subrequest. The body itself belongs to the main request.
            unsafe { (*request.as_ptr()).request_body = ptr::null_mut() };
        }
        sys::NGX_DECLINED as isize
    })
}
