//! What nginx makes of an application's head: it goes to the client, or something of nginx's answers in its place.

use crate::conf::header_rules::HeaderRules;
use crate::nginx::log::Level;
use crate::nginx::request::headers_out::NoMemory;
use crate::nginx::request::{Request, Status};
use crate::wsgi::headers::ResponseHeaders;

/// What takes the place of an application's answer when its call is over.
pub enum Replacement {
    /// The location that its `X-Accel-Redirect` names.
    Redirect(ResponseHeaders),
    /// The `error_page` of its status, by `wsgi_intercept_errors`.
    ErrorPage(ResponseHeaders),
}

/// Sends a head, or says what takes the place of the whole answer; `is_whole` says whether its body is there in one
/// piece.
///
/// # Errors
/// The status to finalize the request with.
pub fn send(
    request: Request,
    head: ResponseHeaders,
    is_whole: bool,
    rules: &HeaderRules,
) -> Result<Option<Replacement>, Status> {
    if !head.dropped.is_empty() {
        let names = head.dropped.join("\", \"");
        request.log().write(
            Level::Warn,
            &format!("hop-by-hop header \"{names}\" of the application is dropped, the connection is nginx's"),
        );
    }
    // In the order of ngx_http_upstream_process_header.
    obey(request, &head)?;
    if rules.intercept_errors && is_interceptable(&head) && request.has_error_page(head.status) {
        return Ok(Some(Replacement::ErrorPage(head)));
    }
    if head.redirect().is_some() {
        return Ok(Some(Replacement::Redirect(head)));
    }
    let ranges = rules.allow_ranges && head.status == 200 && head.content_length.is_some();
    set(request, &head, rules, ranges)?;
    if ranges {
        request.allow_ranges(is_whole);
    }
    if head.header("ETag").is_none() && head.header("Last-Modified").is_none() {
        // `If-None-Match: *` would match what has no version.
        request.send_though_not_modified();
    }
    if request.is_reading_body() {
        // nginx closes a connection on which more of a body may come than anybody reads; the client is to know.
        request.end_connection();
    }
    request.send_header()?;
    Ok(None)
}

/// Follows `X-Accel-Limit-Rate` and `X-Accel-Charset`, which hold for what answers instead as well.
fn obey(request: Request, head: &ResponseHeaders) -> Result<(), NoMemory> {
    if let Some(rate) = head.header("X-Accel-Limit-Rate").and_then(limit_rate) {
        request.set_limit_rate(rate);
    }
    match head.header("X-Accel-Charset") {
        Some(charset) => request.override_charset(charset),
        None => Ok(()),
    }
}

/// Bytes a second, 0 for no limit; what is neither a number nor `off` is ignored, as nginx does.
fn limit_rate(value: &[u8]) -> Option<usize> {
    if value == b"off" {
        return Some(0);
    }
    let digits = str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|rate| *rate <= isize::MAX as usize)
}

/// Whether `wsgi_intercept_errors` is about such an answer at all.
fn is_interceptable(head: &ResponseHeaders) -> bool {
    // To finalize a request with 408 or 444 tells nginx to close the connection without an answer.
    head.status >= 300 && !matches!(head.status, 408 | 444) && !head.is_report
}

fn set(request: Request, head: &ResponseHeaders, rules: &HeaderRules, ranges: bool) -> Result<(), NoMemory> {
    // For 204 and 304 nginx leaves out the headers of a body, but only if the status line is its own.
    let line = head.status_line.as_deref().filter(|_| head.has_body());
    request.set_status(head.status, line)?;
    if let Some(length) = head.content_length {
        request.set_content_length(length);
    }
    // nginx's range filter says itself which it takes.
    set_headers(request, head, |name| !(rules.is_hidden(name) || ranges && name.eq_ignore_ascii_case(b"accept-ranges")))
}

fn set_headers(request: Request, head: &ResponseHeaders, is_wanted: impl Fn(&[u8]) -> bool) -> Result<(), NoMemory> {
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

impl Replacement {
    /// Sends the response of nginx. Ends the request for this module.
    pub fn send(self, request: Request, rules: &HeaderRules) {
        let (Self::Redirect(head) | Self::ErrorPage(head)) = &self;
        let kept = set_headers(request, head, |name| self.keeps(name) && !rules.is_hidden(name));
        match (kept, self) {
            (Err(NoMemory), _) => request.finalize(NoMemory.into()),
            (Ok(()), Self::Redirect(head)) => request.redirect(head.redirect().unwrap_or_default()),
            (Ok(()), Self::ErrorPage(head)) => request.show_error_page(head.status),
        }
    }

    /// Whether a header of the application stays.
    fn keeps(&self, name: &[u8]) -> bool {
        // Those with `redirect` in ngx_http_upstream_headers_in.
        const BY_REDIRECT: [&str; 6] =
            ["Content-Type", "Set-Cookie", "Content-Disposition", "Cache-Control", "Expires", "Accept-Ranges"];
        match self {
            Self::Redirect(_) => BY_REDIRECT.iter().any(|kept| kept.as_bytes().eq_ignore_ascii_case(name)),
            // How to log in is what a 401 is about, whoever writes the page.
            Self::ErrorPage(head) => head.status == 401 && name.eq_ignore_ascii_case(b"www-authenticate"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_or_off() {
        for (value, rate) in [
            ("0", Some(0)),
            ("1024", Some(1024)),
            ("off", Some(0)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1k", None),
            ("99999999999999999999", None),
            ("18446744073709551615", None),
        ] {
            assert_eq!(limit_rate(value.as_bytes()), rate, "{value:?}");
        }
    }
}
