//! HTTP request of nginx: its fields.

pub mod body;
pub mod client;
pub mod events;
mod file_alerts;
mod flags;
pub mod headers_out;
pub mod output;
pub mod redirect;
pub mod withheld_body;

use std::borrow::Cow;
use std::iter;
use std::ptr::NonNull;

use super::conf::ComplexValue;
use super::file::FilePart;
use super::log::Log;
use super::{bytes, module, sys};

/// Type of this module's location configuration.
///
/// # Safety
/// It is the type that the module's `create_loc_conf` makes.
pub unsafe trait LocationConfiguration {}

/// Handle of a live request. Copies refer to the same request.
///
/// Handles belong to the event loop thread. None is used after [`Request::finalize`] or after the clean-up of
/// [`events::RequestEvents`], which makes all methods below sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request(NonNull<sys::ngx_http_request_t>);

/// Result of a handler: an HTTP status, or one of nginx's codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub isize);

impl Status {
    pub const OK: Self = Self(sys::NGX_OK as isize);
    pub const ERROR: Self = Self(sys::NGX_ERROR as isize);
    pub const DONE: Self = Self(sys::NGX_DONE as isize);
    pub const BAD_REQUEST: Self = Self(400);
    pub const FORBIDDEN: Self = Self(403);
    pub const NOT_FOUND: Self = Self(404);
    pub const NOT_ALLOWED: Self = Self(405);
    pub const INTERNAL_SERVER_ERROR: Self = Self(500);
    pub const SERVICE_UNAVAILABLE: Self = Self(503);
    pub const GATEWAY_TIME_OUT: Self = Self(504);
    /// Status 499 of nginx: the client has closed the connection.
    pub const CLIENT_CLOSED_REQUEST: Self = Self(sys::NGX_HTTP_CLIENT_CLOSED_REQUEST as isize);
    /// Status 408: the client did not send its body or read its response in time.
    pub const CLIENT_TIMED_OUT: Self = Self(sys::NGX_HTTP_REQUEST_TIME_OUT as isize);
}

impl Request {
    /// # Safety
    /// `request` is null or a live request, and this is the event loop thread.
    pub unsafe fn new(request: *mut sys::ngx_http_request_t) -> Option<Self> {
        NonNull::new(request).map(Self)
    }

    pub(super) fn as_ptr(self) -> *mut sys::ngx_http_request_t {
        self.0.as_ptr()
    }

    pub(super) fn get(&self) -> &sys::ngx_http_request_t {
        // SAFETY: live by the rule of the type. The reference is dropped before the next call of an nginx function.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn connection(&self) -> &sys::ngx_connection_t {
        // SAFETY: a live request has a connection.
        unsafe { &*self.get().connection }
    }

    pub(super) fn core_location(&self) -> &sys::ngx_http_core_loc_conf_t {
        // SAFETY: every request has a location configuration of the core module.
        unsafe {
            let index = sys::ngx_http_core_module.ctx_index;
            &*(*self.get().loc_conf.add(index)).cast::<sys::ngx_http_core_loc_conf_t>()
        }
    }

    /// Returns this module's merged configuration for the location that serves the request.
    pub fn location_conf<T: LocationConfiguration>(&self) -> &T {
        // SAFETY: every request has a location configuration of each HTTP module, of type T by the rule of the trait. It does
        // not change after the merge.
        unsafe { &*(*self.get().loc_conf.add(module::ctx_index())).cast::<T>() }
    }

    /// Returns the request method as sent by the client.
    pub fn method(&self) -> &[u8] {
        // SAFETY: the text lives as long as the request.
        unsafe { bytes(self.get().method_name) }
    }

    /// Returns the path: decoded, with merged slashes, after rewrites.
    pub fn path(&self) -> &[u8] {
        // SAFETY: the text lives as long as the request.
        unsafe { bytes(self.get().uri) }
    }

    /// Returns the query string.
    pub fn query(&self) -> &[u8] {
        // SAFETY: the text lives as long as the request.
        unsafe { bytes(self.get().args) }
    }

    /// Returns the request target as sent by the client.
    pub fn unparsed_uri(&self) -> &[u8] {
        // SAFETY: the text lives as long as the request.
        unsafe { bytes(self.get().unparsed_uri) }
    }

    /// Returns the protocol, such as `HTTP/1.1`.
    pub fn protocol(&self) -> &[u8] {
        // SAFETY: the text lives as long as the request.
        let protocol = unsafe { bytes(self.get().http_protocol) };
        if protocol.is_empty() { b"HTTP/0.9" } else { protocol }
    }

    /// Returns whether this is a HEAD request.
    pub fn is_head(&self) -> bool {
        self.get().method == sys::NGX_HTTP_HEAD as usize
    }

    pub(crate) fn is_get(&self) -> bool {
        self.get().method == sys::NGX_HTTP_GET as usize
    }

    /// Returns whether the connection uses TLS.
    pub fn is_tls(&self) -> bool {
        !self.connection().ssl.is_null()
    }

    /// Returns the user that `auth_basic` has authenticated, or an empty string.
    ///
    /// nginx parses the name of a client also where nothing verifies it (for `$remote_user`), and `satisfy any` may have
    /// accepted a wrong password. Neither counts.
    pub fn user(&self) -> &[u8] {
        let request = self.get();
        // SAFETY: the text lives as long as the request.
        let user = unsafe { bytes(request.headers_in.user) };
        // Subrequests skip the access phase, which verifies passwords.
        let is_authenticated = !user.is_empty()
            && self.is_main()
            && self.core_location().satisfy != sys::NGX_HTTP_SATISFY_ANY as usize
            && self.has_auth_basic();
        if is_authenticated { user } else { b"" }
    }

    /// Returns whether `auth_basic` is on in the location.
    pub(crate) fn has_auth_basic(&self) -> bool {
        let Some(index) = module::ctx_index_of(c"ngx_http_auth_basic_module") else { return false };
        // SAFETY: every request has a location configuration of each HTTP module. The structure of auth_basic is private,
        // but since nginx 1.3.10 its first field is the realm: a complex value or null.
        unsafe {
            let conf = *self.get().loc_conf.add(index);
            let realm = *conf.cast::<*mut sys::ngx_http_complex_value_t>();
            let mut value = sys::ngx_str_t::empty();
            !realm.is_null()
                && sys::ngx_http_complex_value(self.as_ptr(), realm, &mut value) == Status::OK.0
                && bytes(value) != b"off"
        }
    }

    /// Returns the requested host, validated and without port. It may be empty.
    pub fn host(&self) -> &[u8] {
        // SAFETY: the text lives as long as the request.
        unsafe { bytes(self.get().headers_in.server) }
    }

    /// Returns the authority of a request target in absolute form, with its port.
    pub fn target_authority(&self) -> Option<&[u8]> {
        let request = self.get();
        if request.host_start.is_null() || request.host_end.is_null() {
            return None;
        }
        // SAFETY: nginx's parser has set both to ends of one text, which lives as long as the request.
        let host = unsafe {
            let length = usize::try_from(request.host_end.offset_from(request.host_start)).ok()?;
            std::slice::from_raw_parts(request.host_start, length)
        };
        // SAFETY: the text lives as long as the request.
        let line = unsafe { bytes(request.request_line) };
        let offset = host.as_ptr().addr().wrapping_sub(line.as_ptr().addr());
        // HTTP/2 and HTTP/3 have the authority as a separate text, with its port.
        let rest = line.get(offset..).filter(|rest| rest.len() >= host.len());
        let authority = rest.map_or(host, |rest| with_port(rest, host.len()));
        (!authority.is_empty()).then_some(authority)
    }

    /// Returns the first `server_name` of the server. It may be empty.
    pub fn server_name(&self) -> &[u8] {
        // SAFETY: every request has a server configuration of the core module.
        unsafe {
            let index = sys::ngx_http_core_module.ctx_index;
            let conf = (*self.get().srv_conf.add(index)).cast::<sys::ngx_http_core_srv_conf_t>();
            bytes((*conf).server_name)
        }
    }

    /// Returns the configured names of the server, wildcards and regular expressions as they are written.
    pub fn server_names(&self) -> impl Iterator<Item = &[u8]> {
        // SAFETY: as above. The array of names lives as long as the configuration.
        let names = unsafe {
            let index = sys::ngx_http_core_module.ctx_index;
            let conf = (*self.get().srv_conf.add(index)).cast::<sys::ngx_http_core_srv_conf_t>();
            (*conf).server_names.as_slice::<sys::ngx_http_server_name_t>()
        };
        // SAFETY: as above.
        names.iter().map(|name| unsafe { bytes(name.name) })
    }

    /// Returns the address of the client as text. The realip module may have changed it.
    pub fn remote_address(&self) -> &[u8] {
        // SAFETY: the text lives as long as the connection.
        unsafe { bytes(self.connection().addr_text) }
    }

    /// Returns the port of the client, 0 for a Unix socket.
    pub fn remote_port(&self) -> u16 {
        // SAFETY: the connection of a client has an address.
        unsafe { sys::ngx_inet_get_port(self.connection().sockaddr) }
    }

    /// Returns the port that the client is connected to, 0 for a Unix socket.
    pub fn local_port(&self) -> u16 {
        // SAFETY: on success the call has set local_sockaddr.
        unsafe {
            let connection = self.get().connection;
            if sys::ngx_connection_local_sockaddr(connection, std::ptr::null_mut(), 0) != Status::OK.0 {
                return 0;
            }
            sys::ngx_inet_get_port((*connection).local_sockaddr)
        }
    }

    /// Returns `root` (or `alias`) of the location as an absolute path.
    pub fn document_root(&self) -> Option<&[u8]> {
        let location = self.core_location();
        // SAFETY: the path of the location lives as long as the configuration, and one that is made as long as the request.
        // Its script is run as for nginx's own $document_root (ngx_http_variable_document_root).
        unsafe {
            if location.root_lengths.is_null() {
                return Some(bytes(location.root));
            }
            let mut path = sys::ngx_str_t::empty();
            let lengths = (*location.root_lengths).elts;
            let values = (*location.root_values).elts;
            let result = sys::ngx_http_script_run(self.as_ptr(), &mut path, lengths, 0, values);
            (!result.is_null()).then(|| bytes(path))
        }
    }

    /// Returns names and values of the request headers in the order of their arrival.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        // A deleted header has a hash of 0.
        let headers = self.header_elements().filter(|header| header.hash != 0);
        // SAFETY: the texts live as long as the request.
        headers.map(|header| unsafe { (bytes(header.key), bytes(header.value)) })
    }

    /// Returns the elements of the list of request headers.
    fn header_elements(&self) -> impl Iterator<Item = &sys::ngx_table_elt_t> {
        let first = &self.get().headers_in.headers.part;
        // SAFETY: a list of nginx is a chain of parts that lives as long as the request.
        let parts = iter::successors(Some(first), |part| unsafe { part.next.as_ref() });
        parts.flat_map(|part| {
            let elements = part.elts.cast::<sys::ngx_table_elt_t>();
            // SAFETY: a part has `nelts` elements.
            (0..part.nelts).map(move |index| unsafe { &*elements.add(index) })
        })
    }

    /// Returns the number of the connection, which log records show after a `*`.
    pub fn connection_number(&self) -> u64 {
        self.connection().number
    }

    /// Returns the log of the connection. Its records name this request.
    pub fn log(&self) -> Log {
        let log = self.connection().log;
        // SAFETY: the log lives as long as the request. Several requests may share a connection, so the one to name is set.
        unsafe {
            let context = (*log).data.cast::<sys::ngx_http_log_ctx_t>();
            if !context.is_null() {
                (*context).current_request = self.as_ptr();
            }
            Log::new(log)
        }
    }

    /// Returns the client's request, of which this may be a subrequest.
    pub(super) fn main(&self) -> Request {
        // SAFETY: the main request, perhaps this one, lives at least as long as its subrequests.
        Self(unsafe { NonNull::new_unchecked(self.get().main) })
    }

    /// Returns whether this is the client's request rather than a subrequest.
    pub fn is_main(&self) -> bool {
        self.get().main == self.as_ptr()
    }

    /// Returns whether nginx sends no response body (HEAD, 204, 304). Known once the header is sent.
    pub fn is_header_only(&self) -> bool {
        self.header_only() != 0
    }

    /// Returns whether the response header has been sent.
    pub fn is_header_sent(&self) -> bool {
        self.header_sent() != 0
    }

    /// Returns whether nginx holds back data of this request or of its subrequests.
    pub fn has_buffered(&self) -> bool {
        self.buffered() != 0 || self.connection().buffered() != 0 || !self.get().postponed.is_null()
    }

    /// Returns whether this request may write to the connection now. A subrequest may have to wait for others.
    pub fn is_active(&self) -> bool {
        self.connection().data == self.as_ptr().cast()
    }

    /// Returns whether nginx has found that the connection is broken.
    pub fn has_connection_error(&self) -> bool {
        let connection = self.connection();
        connection.error() != 0 || connection.timedout() != 0
    }

    /// Reopens a file above the `directio` limit with O_DIRECT.
    pub fn with_directio(&self, part: FilePart) -> FilePart {
        match self.core_location().directio {
            limit if limit == sys::NGX_OPEN_FILE_DIRECTIO_OFF as i64 => part,
            limit => part.reopen_for_directio(limit.max(0) as u64),
        }
    }

    /// Returns whether nginx limits the rate of the response.
    pub fn has_limit_rate(&self) -> bool {
        // SAFETY: the parameter of the location is null or lives as long as the configuration.
        self.get().limit_rate > 0
            || unsafe { sys::ngx_http_complex_value_size(self.as_ptr(), self.core_location().limit_rate, 0) > 0 }
    }

    /// Returns the value of a variable of nginx, `None` if it has none or an empty one.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        // SAFETY: nginx reads the name during the call only, and the value lives as long as the request.
        unsafe {
            let mut name = sys::ngx_str_t { len: name.len(), data: name.as_ptr().cast_mut() };
            let key = sys::ngx_hash_key(name.data, name.len);
            let value = sys::ngx_http_get_variable(self.as_ptr(), &mut name, key).as_ref()?;
            let text = sys::ngx_str_t { len: value.len() as usize, data: value.data };
            (value.not_found() == 0 && value.len() > 0).then(|| bytes(text))
        }
    }

    /// Returns the value of a parameter that may contain variables, or `None` without memory.
    pub fn evaluate<'a>(&'a self, value: &'a ComplexValue) -> Option<Cow<'a, [u8]>> {
        value.evaluate(self.as_ptr())
    }
}

/// Returns the first `host` bytes of `text`, with the port that follows them, if any. The parser of nginx marks the host in
/// the request line; newer versions no longer mark the port.
fn with_port(text: &[u8], host: usize) -> &[u8] {
    let port = match text[host..].split_first() {
        Some((b':', digits)) => 1 + digits.iter().take_while(|byte| byte.is_ascii_digit()).count(),
        _ => 0,
    };
    &text[..host + port]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_belongs_to_the_host_before_it() {
        assert_eq!(with_port(b"example.com:8080/path HTTP/1.1", 11), b"example.com:8080");
        assert_eq!(with_port(b"example.com:8080", 11), b"example.com:8080");
        assert_eq!(with_port(b"example.com/path:80", 11), b"example.com");
        assert_eq!(with_port(b"example.com", 11), b"example.com");
        assert_eq!(with_port(b"[::1]:80 HTTP/1.1", 5), b"[::1]:80");
    }
}
