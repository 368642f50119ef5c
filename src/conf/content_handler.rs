//! Content handler of locations with `wsgi_pass`. The room that has it is above this one.

use std::sync::OnceLock;

use crate::nginx::sys;

/// Content handler of a location, in nginx's form.
pub type ContentHandler = unsafe extern "C" fn(*mut sys::ngx_http_request_t) -> isize;

static CONTENT_HANDLER: OnceLock<ContentHandler> = OnceLock::new();

/// Sets the content handler of locations with `wsgi_pass`. Only the first call has an effect.
pub fn set(handler: ContentHandler) {
    let _ = CONTENT_HANDLER.set(handler);
}

/// Returns the content handler, once it is set.
pub(super) fn get() -> Option<ContentHandler> {
    CONTENT_HANDLER.get().copied()
}
