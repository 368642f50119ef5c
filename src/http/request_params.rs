//! Parameters and body of a call, copied from the request on the event loop thread.

use std::io;
use std::sync::Arc;

use crate::conf::location::LocationConf;
use crate::nginx::request::Request;
use crate::nginx::request::body::{BodyMemory, BodyPart};
use crate::wsgi::body::{BufferedBody, Memory, Piece};
use crate::wsgi::params::{CgiParams, Variable, split_path};

impl Memory for BodyMemory {
    fn with(&self, take: &mut dyn FnMut(&[u8])) -> bool {
        Self::with(self, take)
    }
}

/// Error: no memory, or a variable cannot be evaluated.
#[derive(Debug)]
pub struct Failed;

/// Returns the body that nginx has read.
///
/// # Errors
/// The temporary file of the body cannot be duplicated.
pub fn body(request: Request) -> io::Result<BufferedBody> {
    let pieces = request.body()?.into_iter().map(|part| match part {
        BodyPart::Memory(memory) => Piece::Memory { length: memory.length(), memory },
        BodyPart::File { file, offset, length } => Piece::File { file, offset, length },
    });
    Ok(BufferedBody::new(pieces))
}

/// Headers that a cache answers itself, so that it gets complete responses.
const FOR_CACHE: [&str; 6] =
    ["If-Modified-Since", "If-Unmodified-Since", "If-None-Match", "If-Match", "Range", "If-Range"];

/// Returns the parameters of a request. Later values override earlier ones. `remaining` is the length of the body, if nginx has read it.
///
/// # Errors
/// A variable of the configuration cannot be evaluated.
pub fn params(request: Request, conf: &LocationConf, remaining: Option<u64>) -> Result<Arc<CgiParams>, Failed> {
    let mut params = CgiParams::new(request.connection_number());
    // For its cache nginx may turn a HEAD request into a GET request.
    let method = request.upstream_method().unwrap_or(request.method());
    params.is_head = method == b"HEAD";
    params.set(Variable::RequestMethod, method);
    set_paths(&mut params, request, conf)?;
    set_connection(&mut params, request);
    params.set(Variable::DocumentRoot, request.document_root().ok_or(Failed)?);
    if !request.user().is_empty() {
        params.set(Variable::RemoteUser, request.user());
        params.set(Variable::AuthType, b"Basic");
    }
    if let Some(length) = content_length(request, conf, remaining) {
        params.set_number(Variable::ContentLength, length);
    }
    if request.upstream_caches() {
        let is_for_cache = |name: &[u8]| FOR_CACHE.iter().any(|one| one.as_bytes().eq_ignore_ascii_case(name));
        let headers = request.headers().filter(|(name, _)| !is_for_cache(name));
        params.set_headers(headers, conf.pass_authorization());
        for (name, variable) in
            [("If-Modified-Since", "upstream_cache_last_modified"), ("If-None-Match", "upstream_cache_etag")]
        {
            if let Some(value) = request.variable(variable) {
                params.add_header(name.as_bytes(), value);
            }
        }
    } else {
        params.set_headers(request.headers(), conf.pass_authorization());
    }
    // An absolute request target names the host, whatever the header says (RFC 9112, section 3.2.2).
    if let Some(authority) = request.target_authority() {
        params.set_named(b"HTTP_HOST", authority);
    }
    for variable in conf.var().into_iter().flatten() {
        let value = request.evaluate(&variable.value).ok_or(Failed)?;
        // Without a scheme the application cannot build a URL.
        let if_not_empty = variable.if_not_empty || variable.name == "wsgi.url_scheme";
        if !(if_not_empty && value.is_empty()) {
            params.set_named(variable.name.as_bytes(), &value);
        }
    }
    Ok(Arc::new(params))
}

/// Returns `CONTENT_LENGTH`. A chunked body has one only if nginx reads the body before the call.
fn content_length(request: Request, conf: &LocationConf, remaining: Option<u64>) -> Option<u64> {
    if !conf.request_buffering() && request.is_chunked() {
        return None;
    }
    let has_body = request.announces_body() || remaining.is_some_and(|remaining| remaining > 0);
    if has_body { remaining.or_else(|| request.announced_length()) } else { None }
}

fn set_paths(params: &mut CgiParams, request: Request, conf: &LocationConf) -> Result<(), Failed> {
    let mount = conf.mount();
    let (script_name, path_info) = match &mount.script_name {
        Some(value) => split_path(request.path(), &request.evaluate(value).ok_or(Failed)?),
        None => split_path(request.path(), &mount.prefix),
    };
    params.set(Variable::ScriptName, script_name);
    params.set(Variable::PathInfo, path_info);
    params.set(Variable::QueryString, request.query());
    params.set(Variable::RequestUri, request.unparsed_uri());
    Ok(())
}

fn set_connection(params: &mut CgiParams, request: Request) {
    let scheme: &[u8] = if request.is_tls() { b"https" } else { b"http" };
    params.set(Variable::RequestScheme, scheme);
    params.set(Variable::UrlScheme, scheme);
    if request.is_tls() {
        params.set(Variable::Https, b"on");
    }
    params.set(Variable::ServerProtocol, request.protocol());
    params.set(Variable::ServerName, server_name(&request));
    // A Unix socket has no port, but PEP 3333 requires one: the default port of the scheme.
    let port = match request.local_port() {
        0 if request.is_tls() => 443,
        0 => 80,
        port => port,
    };
    params.set_number(Variable::ServerPort, port.into());
    params.set(Variable::RemoteAddr, request.remote_address());
    match request.remote_port() {
        0 => {}
        port => params.set_number(Variable::RemotePort, port.into()),
    }
}

/// Returns the configured name of the server if it is a plain name, otherwise the host of the request. Never empty.
fn server_name(request: &Request) -> &[u8] {
    let configured = request.server_name();
    let is_name = configured.first().is_some_and(|first| !b"_*.~".contains(first));
    match request.host() {
        _ if is_name => configured,
        b"" => b"localhost",
        host => host,
    }
}
