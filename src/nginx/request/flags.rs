//! Flags of nginx's request. They are bit-fields, which flags.c reads and writes.
//!
//! clippy.toml forbids bindgen's methods for them: if the fields begin in the middle of a word, as in nginx 1.30, these
//! access the wrong bits. (bindgen 0.73 is right, but nginx-sys 0.5 uses 0.72.)

use std::ffi::c_uint;

use super::Request;
use crate::nginx::sys;

unsafe extern "C" {
    fn ngx_http_wsgi_skip_stream_data(request: *mut sys::ngx_http_request_t);
    fn ngx_http_wsgi_hold(request: *mut sys::ngx_http_request_t);
}

impl Request {
    /// Discards further data on the stream of an HTTP/2 request.
    pub(super) fn skip_stream_data(self) {
        // SAFETY: a live request by the rule of the type; on the event loop thread.
        unsafe { ngx_http_wsgi_skip_stream_data(self.as_ptr()) };
    }

    /// Counts a reference to the request, which [`Request::finalize`] releases.
    pub(super) fn count_reference(self) {
        // SAFETY: a live request by the rule of the type; on the event loop thread.
        unsafe { ngx_http_wsgi_hold(self.as_ptr()) };
    }
}

macro_rules! flags {
    (read $($flag:ident = $read:ident),+; write $($set_flag:ident = $write:ident),+;) => {
        unsafe extern "C" {
            $(fn $read(request: *const sys::ngx_http_request_t) -> c_uint;)+
            $(fn $write(request: *mut sys::ngx_http_request_t, value: c_uint);)+
        }

        impl Request {
            $(pub(super) fn $flag(self) -> u32 {
                // SAFETY: a live request by the rule of the type.
                unsafe { $read(self.as_ptr()) }
            })+
            $(pub(super) fn $set_flag(self, value: u32) {
                // SAFETY: a live request by the rule of the type. Only the event loop thread uses the word of the flag.
                unsafe { $write(self.as_ptr(), value) }
            })+
        }
    };
}

flags! {
    read
        buffered = ngx_http_wsgi_buffered,
        header_only = ngx_http_wsgi_header_only,
        header_sent = ngx_http_wsgi_header_sent,
        reading_body = ngx_http_wsgi_reading_body,
        request_body_no_buffering = ngx_http_wsgi_request_body_no_buffering;
    write
        set_allow_ranges = ngx_http_wsgi_set_allow_ranges,
        set_disable_not_modified = ngx_http_wsgi_set_disable_not_modified,
        set_keepalive = ngx_http_wsgi_set_keepalive,
        set_limit_rate_set = ngx_http_wsgi_set_limit_rate_set,
        set_lingering_close = ngx_http_wsgi_set_lingering_close,
        set_reading_body = ngx_http_wsgi_set_reading_body,
        set_request_body_no_buffering = ngx_http_wsgi_set_request_body_no_buffering,
        set_single_range = ngx_http_wsgi_set_single_range;
}
