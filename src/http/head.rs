//! What nginx makes of an application's head.

use crate::conf::head_rules::HeadRules;
use crate::nginx::headers::NoMemory;
use crate::nginx::log::Level;
use crate::nginx::request::{Request, Status};
use crate::wsgi::head::ResponseHead;

/// Sends a head; `is_whole` says whether its body is there in one piece.
///
/// # Errors
/// The status to finalize the request with.
pub fn send(request: Request, head: &ResponseHead, is_whole: bool, rules: &HeadRules) -> Result<(), Status> {
    if !head.dropped.is_empty() {
        let names = head.dropped.join("\", \"");
        request.log().write(
            Level::Warn,
            &format!("hop-by-hop header \"{names}\" of the application is dropped, the connection is nginx's"),
        );
    }
    let ranges = rules.allow_ranges && head.status == 200 && head.content_length.is_some();
    set(request, head, rules, ranges)?;
    if ranges {
        request.allow_ranges(is_whole);
    }
    request.send_header()
}

fn set(request: Request, head: &ResponseHead, rules: &HeadRules, ranges: bool) -> Result<(), NoMemory> {
    // For 204 and 304 nginx leaves out the headers of a body, but only if the status line is its own.
    let line = head.status_line.as_deref().filter(|_| head.has_body());
    request.set_status(head.status, line)?;
    if let Some(length) = head.content_length {
        request.set_content_length(length);
    }
    // nginx's range filter says itself which it takes.
    set_headers(request, head, |name| !(rules.is_hidden(name) || ranges && name.eq_ignore_ascii_case(b"accept-ranges")))
}

fn set_headers(request: Request, head: &ResponseHead, is_wanted: impl Fn(&[u8]) -> bool) -> Result<(), NoMemory> {
    let mut has_content_type = false;
    for (name, value) in head.headers.iter().filter(|(name, _)| is_wanted(name)) {
        if !has_content_type && name.eq_ignore_ascii_case(b"content-type") {
            has_content_type = true;
            request.set_content_type(value)?;
        } else {
            request.add_header(name, value)?;
        }
    }
    Ok(())
}
