//! Content handlers of this module. The room that has them is above this one.

use std::sync::OnceLock;

use crate::nginx::sys;

/// Content handler of a location, in nginx's form.
pub type ContentHandler = unsafe extern "C" fn(*mut sys::ngx_http_request_t) -> isize;

/// The content handlers by directive.
#[derive(Clone, Copy)]
pub struct Handlers {
    /// Of `wsgi_pass`.
    pub pass: ContentHandler,
    /// Of `wsgi_dispatch`.
    pub dispatch: ContentHandler,
    /// Of `wsgi_status`.
    pub status: ContentHandler,
}

static HANDLERS: OnceLock<Handlers> = OnceLock::new();

/// Sets the content handlers. Only the first call has an effect.
pub fn set(handlers: Handlers) {
    let _ = HANDLERS.set(handlers);
}

/// Returns the content handler of `wsgi_pass`, once it is set.
pub(super) fn get() -> Option<ContentHandler> {
    HANDLERS.get().map(|handlers| handlers.pass)
}

/// Returns the content handler of `wsgi_dispatch`, once it is set.
pub(super) fn dispatch() -> Option<ContentHandler> {
    HANDLERS.get().map(|handlers| handlers.dispatch)
}

/// Returns the content handler of `wsgi_status`, once it is set.
pub(super) fn status() -> Option<ContentHandler> {
    HANDLERS.get().map(|handlers| handlers.status)
}
