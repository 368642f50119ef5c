//! The flags of nginx's request: bit-fields, which flags.c reads and writes.
//!
//! bindgen has methods for them as well, which clippy.toml forbids: it gets wrong which bits they are where they begin in
//! the middle of a word, as they do in nginx 1.30. (bindgen 0.73 gets it right, but nginx-sys 0.5 is made with 0.72.)

use std::ffi::c_uint;

use super::Request;
use crate::nginx::sys;

unsafe extern "C" {
    fn ngx_http_wsgi_skip_stream_data(request: *mut sys::ngx_http_request_t);
}

impl Request {
    /// Drops what still comes of the body of an HTTP/2 request.
    pub(super) fn skip_stream_data(self) {
        // SAFETY: a live request by the rule of the type; on the event loop thread.
        unsafe { ngx_http_wsgi_skip_stream_data(self.as_ptr()) };
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
                // SAFETY: as above; on the event loop thread, nobody else uses the word.
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
