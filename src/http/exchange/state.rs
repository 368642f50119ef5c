//! States of a response as the event loop sees them.

use crate::http::response_headers::Replacement;
use crate::nginx::request::Status;

/// State of the response between the call and nginx's filters.
///
/// ```text
///                     headers sent                last buffer sent
///   AwaitHeaders ───────────────────▶ Streaming ───────────────────▶ LastQueued
///        │                                │                              │
///        │ nginx responds instead         │ the call fails               │
///        ▼                                ▼                              │
///    Replaced                          Broken                            │
///        │                                │                              │
///        └────────────────────────────────┴───── nginx cannot send ──────┴────▶ Failed
/// ```
///
/// The call has an end of its own (`close()` may take its time): the request is finalized once the call is closed,
/// and at once in `Failed`. A call that is closed in `AwaitHeaders` has failed: it gave no response.
///
/// Other threads see two more machines, each under its own lock: the call's
/// ([`wsgi`](crate::wsgi::start_response): is start_response due, are headers given, is the body complete) and the
/// buffer's between both ([`ResponseBuffer`](crate::http::response_buffer::ResponseBuffer): open, ended, closed or
/// disconnected).
#[derive(Default)]
pub enum ResponseState {
    /// nginx's filters have no headers yet.
    #[default]
    AwaitHeaders,
    /// nginx's filters have the headers. Some filters (image_filter) keep them until they have seen the body.
    Streaming {
        /// nginx has a part of the body.
        body_begun: bool,
    },
    /// nginx has the last buffer, and sends the rest of the response itself.
    LastQueued,
    /// The call failed after its headers: the connection is broken once the data before that is sent.
    Broken,
    /// nginx responds in place of the application when the call is closed.
    Replaced(Replacement),
    /// The request is finalized with this status now.
    Failed(Status),
}

impl ResponseState {
    /// Returns true if nginx's filters have the headers.
    pub fn has_headers(&self) -> bool {
        matches!(self, Self::Streaming { .. } | Self::LastQueued | Self::Broken)
    }
}
