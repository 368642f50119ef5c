//! Content handlers of this module. The room that has them is above this one.

use std::sync::OnceLock;

use crate::nginx::sys;

/// Content handler of a location, in nginx's form.
pub type ContentHandler = unsafe extern "C" fn(*mut sys::ngx_http_request_t) -> isize;

static HANDLERS: OnceLock<(ContentHandler, ContentHandler)> = OnceLock::new();

/// Sets the content handlers: of locations with `wsgi_pass`, and with `wsgi_dispatch`. Only the first call has an effect.
pub fn set(pass: ContentHandler, dispatch: ContentHandler) {
    let _ = HANDLERS.set((pass, dispatch));
}

/// Returns the content handler of `wsgi_pass`, once it is set.
pub(super) fn get() -> Option<ContentHandler> {
    HANDLERS.get().map(|(pass, _)| *pass)
}

/// Returns the content handler of `wsgi_dispatch`, once it is set.
pub(super) fn dispatch() -> Option<ContentHandler> {
    HANDLERS.get().map(|(_, dispatch)| *dispatch)
}
