//! Formats of the status page: the one that a request asks for, and the text of a report in it.

use std::sync::Arc;

use crate::nginx::request::Request;
use crate::os::system;
use crate::status::openmetrics;
use crate::status::report::Report;

use super::response::Response;

const PAGE: &str = include_str!("page.html");

/// Media type of OpenMetrics.
const OPENMETRICS: &str = "application/openmetrics-text";

/// Format of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Html,
    Json,
    OpenMetrics,
    /// The text format 0.0.4 of Prometheus.
    Prometheus,
}

impl Format {
    /// Returns the format that a request asks for by its argument `format`, or by its header `Accept`; `None` if the argument
    /// is unknown.
    pub fn of(request: Request) -> Option<Self> {
        let mut headers = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case(b"accept"));
        let accept = headers.next().map(|(_, value)| String::from_utf8_lossy(value)).unwrap_or_default();
        Self::select(request.variable("arg_format"), &accept)
    }

    fn select(argument: Option<&[u8]>, accept: &str) -> Option<Self> {
        let quality = |media_type: &str| quality(accept, media_type);
        match argument {
            Some(b"html") => Some(Self::Html),
            Some(b"json") => Some(Self::Json),
            Some(b"prometheus") if quality(OPENMETRICS) > quality("text/plain") => Some(Self::OpenMetrics),
            Some(b"prometheus") => Some(Self::Prometheus),
            Some(_) => None,
            None => {
                let (html, json, openmetrics) =
                    (quality("text/html"), quality("application/json"), quality(OPENMETRICS));
                Some(match () {
                    () if openmetrics > html.max(json) => Self::OpenMetrics,
                    () if json > html => Self::Json,
                    () => Self::Html,
                })
            }
        }
    }

    /// Returns the response with a report.
    pub fn response(self, report: &Arc<Report>) -> Response {
        let (content_type, body) = match self {
            Self::Html => return page(),
            // A report has only values that JSON can have.
            Self::Json => ("application/json", serde_json::to_vec(&**report).unwrap_or_default()),
            Self::OpenMetrics => {
                ("application/openmetrics-text; version=1.0.0; charset=utf-8", openmetrics::openmetrics(report))
            }
            Self::Prometheus => ("text/plain; version=0.0.4; charset=utf-8", openmetrics::prometheus(report)),
        };
        Response::ok(content_type, body)
    }
}

/// Returns the page, with a Content-Security-Policy that lets only its own script and style run.
pub fn page() -> Response {
    let nonce = format!("{:016x}{:016x}", system::random(), system::random());
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = Response::ok("text/html; charset=utf-8", PAGE.replace("{nonce}", &nonce).into_bytes());
    response.headers.push(("Content-Security-Policy", policy));
    response
}

/// Returns the quality of a media type in a header `Accept`, in thousandths; 0 if the header does not name it.
fn quality(accept: &str, media_type: &str) -> u32 {
    let qualities = accept.split(',').filter_map(|element| {
        let mut parts = element.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case(media_type) {
            return None;
        }
        let quality = parts.find_map(|parameter| parameter.strip_prefix("q=").or(parameter.strip_prefix("Q=")));
        let quality = quality.map_or(Some(1.0), |quality| quality.parse::<f64>().ok())?;
        Some((quality.clamp(0.0, 1.0) * 1000.0) as u32)
    });
    qualities.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_comes_before_the_header() {
        const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        const SCRAPER: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                               application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (argument, accept, expected) in [
            (None, "", Some(Format::Html)),
            (None, "*/*", Some(Format::Html)),
            (None, BROWSER, Some(Format::Html)),
            (None, "application/json", Some(Format::Json)),
            (None, "text/html;q=0.5, application/json", Some(Format::Json)),
            (None, "application/json;q=0", Some(Format::Html)),
            (None, SCRAPER, Some(Format::OpenMetrics)),
            (Some("json"), BROWSER, Some(Format::Json)),
            (Some("html"), "application/json", Some(Format::Html)),
            (Some("prometheus"), "", Some(Format::Prometheus)),
            (Some("prometheus"), BROWSER, Some(Format::Prometheus)),
            (Some("prometheus"), SCRAPER, Some(Format::OpenMetrics)),
            (Some("prometheus"), "text/plain;version=0.0.4", Some(Format::Prometheus)),
            (Some("xml"), "", None),
        ] {
            assert_eq!(Format::select(argument.map(str::as_bytes), accept), expected, "{argument:?} {accept}");
        }
    }
}
