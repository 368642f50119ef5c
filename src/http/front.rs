//! The front's side of a request that a process group serves: what its instance needs, as values of request headers.

use super::dispatch::FrontHeader;
use super::request_params;
use crate::conf::location::LocationConf;
use crate::nginx::log::Level;
use crate::nginx::request::Request;

/// Returns the value of `$wsgi_environ`, `None` if the location has no process group or if a variable cannot be evaluated.
pub fn environ(request: Request) -> Option<Vec<u8>> {
    let conf = request.location_conf::<LocationConf>();
    let location = conf.group_location()?;
    let Ok(params) = request_params::params(request, conf, read_length(request)) else {
        request.log().write(Level::Error, "cannot evaluate a variable for environ");
        return None;
    };
    // nginx limits the rate of a response only if it buffers that.
    let buffers = request.upstream_stores() || request.has_limit_rate();
    // Responses for a cache are complete.
    let ranges = conf.allow_ranges() && !request.upstream_caches() && request.wants_permitted_ranges();
    let intercepted = if conf.intercept_errors() { request.error_page_statuses() } else { Vec::new() };
    let connection = request.connection_number();
    let request_id = conf.log().and_then(Option::as_ref).and_then(|log| request.log_id(Some(log.request_id?)));
    let header = FrontHeader { location, connection, buffers, ranges, intercepted, request_id };
    Some(header.encode(&params))
}

/// Returns the value of `$wsgi_content_length`, `None` if the body is sent in chunks, or if there is none. (In its place
/// nginx sends the length that the client announces, also for a subrequest that has no body.)
pub fn content_length(request: Request) -> Option<Vec<u8>> {
    request.location_conf::<LocationConf>().group_location()?;
    let length = match read_length(request) {
        Some(0) if !request.announces_body() => None,
        Some(length) => Some(length),
        // Since it has read it, nginx knows the length of a body in chunks.
        None if request.is_chunked() && request.is_reading_body() => None,
        None => request.announced_length(),
    };
    Some(length?.to_string().into_bytes())
}

/// Returns the length of a body that nginx has read.
fn read_length(request: Request) -> Option<u64> {
    (!request.has_streamed_body()).then(|| request.read_length())
}
