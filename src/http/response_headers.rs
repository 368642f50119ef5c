//! Headers of an application's response: nginx sends them, or responds itself in place of the application.

use super::dispatch;
use crate::conf::header_rules::HeaderRules;
use crate::nginx::log::Level;
use crate::nginx::request::headers_out::{HeaderTexts, NoMemory};
use crate::nginx::request::{Request, Status};
use crate::nginx::upstream::{MARK, MARK_REPORT};
use crate::worker::{self, Worker};
use crate::wsgi::headers::{Field, ResponseHeaders};

const LIMIT_RATE: &str = "X-Accel-Limit-Rate";

/// Response of nginx in place of the application's, once the call is closed.
pub enum Replacement {
    /// An internal redirect to the location that `X-Accel-Redirect` names.
    Redirect(ResponseHeaders),
    /// The `error_page` of the status (`wsgi_intercept_errors`).
    ErrorPage(ResponseHeaders),
    /// In an instance of a process group, the headers alone: its front redirects, or has an `error_page`.
    OfFront(ResponseHeaders),
}

impl Replacement {
    /// Returns the status that the application has given.
    pub fn status(&self) -> u16 {
        let (Self::Redirect(headers) | Self::ErrorPage(headers) | Self::OfFront(headers)) = self;
        headers.status
    }
}

/// Sends the header block, or returns the replacement of the whole response. `is_whole` is true if the complete body is
/// there in one piece.
///
/// # Errors
/// The status to finalize the request with.
pub fn send(
    request: Request,
    headers: ResponseHeaders,
    is_whole: bool,
    rules: &HeaderRules,
) -> Result<Option<Replacement>, Status> {
    let from_front = request.is_from_front();
    if !headers.dropped.is_empty() {
        let names = headers.dropped.join("\", \"");
        request
            .log()
            .write(Level::Warn, &format!("hop-by-hop header \"{names}\" dropped: nginx manages the connection"));
    }
    // In the order of ngx_http_upstream_process_header.
    if from_front {
        if worker::get().is_some_and(Worker::leaves_connections) {
            // With a new connection the next request of the front comes to another worker, with this one to this worker.
            request.disable_keepalive();
        }
        add_headers_for_front(request, &headers)?;
    } else {
        apply_accel_headers(request, &headers)?;
    }
    if rules.intercept_errors && is_interceptable(&headers) && request.has_error_page(headers.status) {
        return Ok(Some(Replacement::ErrorPage(headers)));
    }
    if from_front && is_interceptable(&headers) && dispatch::is_intercepted(request, headers.status) {
        return Ok(Some(Replacement::OfFront(headers)));
    }
    if headers.redirect().is_some() {
        let replacement = if from_front { Replacement::OfFront } else { Replacement::Redirect };
        return Ok(Some(replacement(headers)));
    }
    let ranges = rules.allow_ranges && headers.status == 200 && headers.content_length.is_some();
    set_header_block(request, &headers, rules, ranges)?;
    if ranges {
        request.allow_ranges(is_whole);
    }
    if headers.header("ETag").is_none() && headers.header("Last-Modified").is_none() {
        // `If-None-Match: *` would match a response that has no version.
        request.disable_not_modified();
    }
    if request.is_reading_body() {
        // nginx closes the connection if the rest of the body is not read; the client gets `Connection: close`.
        request.disable_keepalive();
    }
    request.send_header()?;
    Ok(None)
}

/// Adds what the front of a process group needs to know about the response.
fn add_headers_for_front(request: Request, headers: &ResponseHeaders) -> Result<(), NoMemory> {
    let is_limited = headers.header(LIMIT_RATE).and_then(limit_rate).is_some_and(|rate| rate > 0);
    // nginx limits the rate of a response only if it buffers that.
    if headers.header(LIMIT_RATE).is_some_and(|rate| rate == b"off") {
        // The upstream module knows numbers only.
        request.add_header(LIMIT_RATE.as_bytes(), b"0")?;
    }
    if headers.header("X-Accel-Buffering").is_none() && !is_limited && !dispatch::is_buffered(request) {
        request.add_header(b"X-Accel-Buffering", b"no")?;
    }
    if headers.is_report { request.add_header(MARK.as_bytes(), MARK_REPORT.as_bytes()) } else { Ok(()) }
}

/// Returns whether nginx sends a body with these headers.
pub fn has_body(request: Request, headers: &ResponseHeaders) -> bool {
    !request.is_head() && headers.has_body()
}

/// Applies `X-Accel-Limit-Rate` and `X-Accel-Charset`, also to a replacement.
fn apply_accel_headers(request: Request, headers: &ResponseHeaders) -> Result<(), NoMemory> {
    if let Some(rate) = headers.header(LIMIT_RATE).and_then(limit_rate) {
        request.set_limit_rate(rate);
    }
    match headers.header("X-Accel-Charset") {
        Some(charset) => request.override_charset(charset),
        None => Ok(()),
    }
}

/// Returns the bytes per second, 0 for no limit. As in nginx, a value that is neither a number nor `off` is ignored.
fn limit_rate(value: &[u8]) -> Option<usize> {
    if value == b"off" {
        return Some(0);
    }
    let digits = str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|rate| *rate <= isize::MAX as usize)
}

/// Returns true if `wsgi_intercept_errors` applies to a response with these headers.
fn is_interceptable(headers: &ResponseHeaders) -> bool {
    // A request that is finalized with 408 or 444 makes nginx close the connection without a response.
    headers.status >= 300 && !matches!(headers.status, 408 | 444) && !headers.is_report
}

fn set_header_block(
    request: Request,
    headers: &ResponseHeaders,
    rules: &HeaderRules,
    ranges: bool,
) -> Result<(), NoMemory> {
    let texts = request.header_texts(headers.text())?;
    request.set_status(headers.status);
    // With its own status line for 204 and 304, nginx omits the headers that describe a body.
    if let Some(line) = headers.status_line().filter(|_| headers.has_body()) {
        texts.set_status_line(line);
    }
    if let Some(length) = headers.content_length {
        request.set_content_length(length);
    }
    let is_unlimited = request.is_from_front() && headers.header(LIMIT_RATE).is_some_and(|rate| rate == b"off");
    // nginx's range filter adds its own Accept-Ranges.
    set_headers(&texts, headers, |name| {
        !(rules.is_hidden(name)
            || ranges && name.eq_ignore_ascii_case(b"accept-ranges")
            || is_unlimited && name.eq_ignore_ascii_case(LIMIT_RATE.as_bytes()))
    })
}

fn set_headers(
    texts: &HeaderTexts,
    headers: &ResponseHeaders,
    is_wanted: impl Fn(&[u8]) -> bool,
) -> Result<(), NoMemory> {
    let mut has_content_type = false;
    for Field { name, value } in headers.fields() {
        let text = &headers.text()[name.clone()];
        if !is_wanted(text) {
            continue;
        }
        if !has_content_type && text.eq_ignore_ascii_case(b"content-type") {
            has_content_type = true;
            texts.set_content_type(value);
        } else {
            texts.add_header(name, value)?;
        }
    }
    Ok(())
}

/// Sends a response without a body.
fn send_alone(request: Request, headers: &ResponseHeaders, rules: &HeaderRules) {
    let sent = set_header_block(request, headers, rules, false).map_err(Status::from).and_then(|()| {
        request.set_content_length(0);
        request.disable_not_modified();
        request.send_header()?;
        request.send_end()
    });
    request.finalize(sent.map_or_else(|status| status, |()| Status::OK));
}

impl Replacement {
    /// Sends the response of nginx. The caller has detached the exchange.
    pub fn send(self, request: Request, rules: &HeaderRules) {
        let headers = match &self {
            Self::Redirect(headers) | Self::ErrorPage(headers) => headers,
            Self::OfFront(headers) => return send_alone(request, headers, rules),
        };
        let kept = request
            .header_texts(headers.text())
            .and_then(|texts| set_headers(&texts, headers, |name| self.keeps(name) && !rules.is_hidden(name)));
        match (kept, self) {
            (Err(NoMemory), _) => request.finalize(NoMemory.into()),
            (Ok(()), Self::OfFront(_)) => {}
            (Ok(()), Self::Redirect(headers)) => request.redirect(headers.redirect().unwrap_or_default()),
            (Ok(()), Self::ErrorPage(headers)) => request.show_error_page(headers.status),
        }
    }

    /// Returns true if nginx's response keeps a header of the application.
    fn keeps(&self, name: &[u8]) -> bool {
        // The headers with `redirect` set in ngx_http_upstream_headers_in.
        const BY_REDIRECT: [&str; 6] =
            ["Content-Type", "Set-Cookie", "Content-Disposition", "Cache-Control", "Expires", "Accept-Ranges"];
        match self {
            Self::Redirect(_) => BY_REDIRECT.iter().any(|kept| kept.as_bytes().eq_ignore_ascii_case(name)),
            // A 401 needs WWW-Authenticate, also with nginx's page.
            Self::OfFront(_) => true,
            Self::ErrorPage(headers) => headers.status == 401 && name.eq_ignore_ascii_case(b"www-authenticate"),
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
