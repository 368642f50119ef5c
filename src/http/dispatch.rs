//! The instance's side of a request that comes from the front: `wsgi_dispatch`.

use std::cell::RefCell;
use std::sync::Arc;

use crate::nginx::log::Level;
use crate::nginx::log_context::FrontRequestId;
use crate::nginx::request::client::Client;
use crate::nginx::request::{Request, Status};
use crate::wsgi::params::{CgiParams, Key, Variable};
use crate::wsgi::wire;

/// Name of the header, in lower case. Only the front can send it: it passes no header of a client.
const HEADER: &[u8] = b"wsgi-environ";
/// Length of the number of a location.
const ID_LENGTH: usize = 16;

/// First part of the header, before environ: `LOCATION CONNECTION FLAGS STATUS…`.
#[derive(Debug, PartialEq, Eq)]
pub struct FrontHeader<'a> {
    /// Number of the location.
    pub location: &'a str,
    /// Number of the client's connection in the log of the front.
    pub connection: u64,
    /// The front keeps the whole response, as for a cache: it needs not be streamed.
    pub buffers: bool,
    /// The instance serves the ranges that the client asks for, as the front cannot serve several at once.
    pub ranges: bool,
    /// Statuses of the application for which the front shows its own page.
    pub intercepted: Vec<u16>,
    /// `$request_id` for the log of the application, if that has it.
    pub request_id: Option<String>,
}

impl<'a> FrontHeader<'a> {
    /// Returns the value of the header.
    pub fn encode(&self, params: &CgiParams) -> Vec<u8> {
        let (buffers, ranges) = (if self.buffers { "b" } else { "" }, if self.ranges { "r" } else { "" });
        let id = self.request_id.as_ref().map(|id| format!("={id}")).unwrap_or_default();
        let mut text = format!("{} {} -{buffers}{ranges}{id}", self.location, self.connection).into_bytes();
        for status in &self.intercepted {
            text.extend_from_slice(format!(" {status}").as_bytes());
        }
        wire::encode(params, &mut text);
        text
    }

    /// Returns the parts of the header before environ, and the rest of `text`.
    fn split(text: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let end = text.iter().position(u8::is_ascii_control)?;
        let (first, environ) = text.split_at(end);
        let mut words = str::from_utf8(first).ok()?.split(' ');
        let (location, connection, flags) = (words.next()?, words.next()?, words.next()?);
        let is_id = location.len() == ID_LENGTH && location.bytes().all(|byte| byte.is_ascii_hexdigit());
        let connection = connection.parse().ok()?;
        let intercepted = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let (flags, request_id) =
            flags.split_once('=').map_or((flags, None), |(flags, id)| (flags, Some(id.to_owned())));
        let (buffers, ranges) = (flags.contains('b'), flags.contains('r'));
        is_id.then_some((Self { location, connection, buffers, ranges, intercepted, request_id }, environ))
    }
}

/// A request of the front, attached to the request of the instance.
pub struct FrontRequest {
    params: RefCell<Option<Arc<CgiParams>>>,
    buffers: bool,
    intercepted: Vec<u16>,
}

/// Passes a request to the location that the front names.
pub fn run(request: Request) -> Status {
    let Some(location) = receive(request) else {
        request.log().write(Level::Error, "request of a process group does not come from its front");
        return Status::BAD_REQUEST;
    };
    request.redirect_to_named(format!("@{location}").as_bytes())
}

/// Reads the header of the front. Returns the number of the location, `None` if there is no such header, or a bad one.
fn receive(request: Request) -> Option<String> {
    let mut values = request.headers().filter(|(name, _)| name.eq_ignore_ascii_case(HEADER));
    let (_, text) = values.next()?;
    let (header, environ) = FrontHeader::split(text)?;
    let mut params = CgiParams::new(header.connection);
    wire::decode(environ, &mut params).ok()?;
    params.is_head = params.value(Key::Variable(Variable::RequestMethod)) == Some(b"HEAD");
    let client = Client {
        address: params.value(Key::Variable(Variable::RemoteAddr)).unwrap_or_default(),
        connection: header.connection,
        host: host(&params),
        request_line: request_line(&params),
    };
    request.set_client(&client)?;
    request.set_conditions(params.headers(), header.ranges)?;
    let location = header.location.to_owned();
    let FrontHeader { buffers, intercepted, request_id, .. } = header;
    if let Some(id) = request_id {
        request.attach(FrontRequestId(id))?;
    }
    request.attach(FrontRequest { params: RefCell::new(Some(Arc::new(params))), buffers, intercepted })?;
    Some(location)
}

/// Returns the request line of the client: that of the front's request is another after a rewrite, or if the client speaks
/// HTTP/2. `None` without its parts, and if one could begin a line of its own in the log.
fn request_line(params: &CgiParams) -> Option<Vec<u8>> {
    let parts = [Variable::RequestMethod, Variable::RequestUri, Variable::ServerProtocol];
    let parts: Vec<&[u8]> = parts.into_iter().map(|part| params.value(Key::Variable(part))).collect::<Option<_>>()?;
    let line = parts.join(&b' ');
    (!line.iter().any(u8::is_ascii_control)).then_some(line)
}

fn host(params: &CgiParams) -> &[u8] {
    let named = params.value(Key::Named(b"HTTP_HOST"));
    let mut headers = params.headers().filter(|(name, _)| name.eq_ignore_ascii_case(b"host"));
    named.or_else(|| headers.next().map(|(_, value)| value)).unwrap_or_default()
}

/// Takes the parameters of the call that the front has sent.
pub fn take_params(request: Request) -> Option<Arc<CgiParams>> {
    request.attached::<FrontRequest>()?.params.take()
}

/// Returns whether the front shows its own page in place of a response with this status.
pub fn is_intercepted(request: Request, status: u16) -> bool {
    request.attached::<FrontRequest>().is_some_and(|front| front.intercepted.contains(&status))
}

/// Returns whether the front keeps the whole response.
pub fn is_buffered(request: Request) -> bool {
    request.attached::<FrontRequest>().is_some_and(|front| front.buffers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_the_front_arrives() {
        let mut params = CgiParams::default();
        params.set(Variable::PathInfo, b"/ \0 ");
        let header = FrontHeader {
            location: "0123456789abcdef",
            connection: 77,
            buffers: true,
            ranges: false,
            intercepted: vec![404, 500],
            request_id: Some("0b".to_owned()),
        };
        let text = header.encode(&params);
        let (arrived, environ) = FrontHeader::split(&text).unwrap();
        assert_eq!(arrived, header);
        let mut decoded = CgiParams::default();
        wire::decode(environ, &mut decoded).unwrap();
        assert_eq!(decoded.value(Key::Variable(Variable::PathInfo)), Some(&b"/ \0 "[..]));
    }

    #[test]
    fn a_malformed_header_is_refused() {
        for text in [
            "",
            "\x01.",
            "0123456789abcdef 1 -",
            "0123456789abcde 1 -\x01.",
            "0123456789abcdeg 1 -\x01.",
            "0123456789abcdef x -\x01.",
            "0123456789abcdef -1 -\x01.",
            "0123456789abcdef 1\x01.",
            "0123456789abcdef 1 - -\x01.",
            "0123456789abcdef 1 - 70000\x01.",
            "0123456789abcdef  1 -\x01.",
        ] {
            assert_eq!(FrontHeader::split(text.as_bytes()), None, "{text:?}");
        }
    }
}
