//! One HTTP request of nginx, from its parsed head to its end.

pub mod body;
mod file_alerts;
mod flags;
pub mod headers_out;
pub mod output;
pub mod redirect;
pub mod withheld_body;

use std::borrow::Cow;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::ptr::NonNull;
use std::sync::Arc;

use super::log::Log;
use super::{bytes, guard, module, sys};
use output::FilePart;

/// A handle of a live request. Copies are the same request.
///
/// Only the event loop thread has handles, and none is used after [`Request::finalize`] or after the clean-up that
/// [`Request::on_cleanup`] registered: that keeps every method below sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request(NonNull<sys::ngx_http_request_t>);

/// What a handler tells nginx: a status of HTTP, or one of nginx's own codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub isize);

impl Status {
    pub const OK: Self = Self(sys::NGX_OK as isize);
    pub const ERROR: Self = Self(sys::NGX_ERROR as isize);
    pub const DONE: Self = Self(sys::NGX_DONE as isize);
    pub const NOT_FOUND: Self = Self(404);
    pub const INTERNAL_SERVER_ERROR: Self = Self(500);
    pub const SERVICE_UNAVAILABLE: Self = Self(503);
    pub const GATEWAY_TIME_OUT: Self = Self(504);
    /// nginx's 499, for a client that left.
    pub const CLIENT_CLOSED_REQUEST: Self = Self(sys::NGX_HTTP_CLIENT_CLOSED_REQUEST as isize);
    /// nginx's 408, for a client that did not send its body or take its answer in time.
    pub const CLIENT_TIMED_OUT: Self = Self(sys::NGX_HTTP_REQUEST_TIME_OUT as isize);
}

/// What runs at an event of a request.
pub trait RequestEvents: Sized + 'static {
    /// The socket of the client can take data again, or has not for too long.
    fn writable(&self);

    /// More of a body that is read while the call runs may have come, or the client has left or stopped.
    fn readable(&self);

    /// nginx gives the request up, or is done with it: the last moment to use its handle.
    fn cleanup(&self);
}

impl Request {
    /// # Safety
    /// `request` is a live request and this is the event loop thread.
    pub unsafe fn new(request: *mut sys::ngx_http_request_t) -> Option<Self> {
        NonNull::new(request).map(Self)
    }

    pub(super) fn as_ptr(self) -> *mut sys::ngx_http_request_t {
        self.0.as_ptr()
    }

    pub(super) fn get(&self) -> &sys::ngx_http_request_t {
        // SAFETY: live by the rule of the type; the reference is short, no nginx function is called under it.
        unsafe { self.0.as_ref() }
    }

    pub(super) fn connection(&self) -> &sys::ngx_connection_t {
        // SAFETY: a live request has a connection.
        unsafe { &*self.get().connection }
    }

    /// The request method as it was sent.
    pub fn method(&self) -> &[u8] {
        // SAFETY: points into the request's memory.
        unsafe { bytes(self.get().method_name) }
    }

    /// The path: decoded, slashes merged, as after rewrites.
    pub fn path(&self) -> &[u8] {
        // SAFETY: as above.
        unsafe { bytes(self.get().uri) }
    }

    /// What follows the question mark.
    pub fn query(&self) -> &[u8] {
        // SAFETY: as above.
        unsafe { bytes(self.get().args) }
    }

    /// The request target as the client sent it.
    pub fn raw_uri(&self) -> &[u8] {
        // SAFETY: as above.
        unsafe { bytes(self.get().unparsed_uri) }
    }

    /// `HTTP/1.1` and the like.
    pub fn protocol(&self) -> &[u8] {
        // SAFETY: as above.
        let protocol = unsafe { bytes(self.get().http_protocol) };
        if protocol.is_empty() { b"HTTP/0.9" } else { protocol }
    }

    /// Whether the client's connection is TLS.
    pub fn is_tls(&self) -> bool {
        !self.connection().ssl.is_null()
    }

    /// The user whose password nginx has checked (`auth_basic`), empty if it did not.
    ///
    /// nginx parses a name that a client claims also where nothing checks it (`$remote_user` does), and with `satisfy
    /// any` a wrong password may have passed; neither counts.
    pub fn user(&self) -> &[u8] {
        let request = self.get();
        // SAFETY: points into the request's memory.
        let user = unsafe { bytes(request.headers_in.user) };
        // The access phase, where passwords are checked, is the main request's only.
        let is_checked = !user.is_empty()
            && self.is_main()
            && self.core_location().satisfy != sys::NGX_HTTP_SATISFY_ANY as usize
            && self.has_auth_basic();
        if is_checked { user } else { b"" }
    }

    /// Whether `auth_basic` holds for the location.
    fn has_auth_basic(&self) -> bool {
        let Some(index) = module::ctx_index_of(c"ngx_http_auth_basic_module") else { return false };
        // SAFETY: every HTTP module has a location configuration here. That of auth_basic is private, but has begun with
        // the realm, a complex value or null, since nginx 1.3.10.
        unsafe {
            let conf = *self.get().loc_conf.add(index);
            let realm = *conf.cast::<*mut sys::ngx_http_complex_value_t>();
            let mut value = sys::ngx_str_t::empty();
            !realm.is_null()
                && sys::ngx_http_complex_value(self.as_ptr(), realm, &mut value) == Status::OK.0
                && bytes(value) != b"off"
        }
    }

    /// The host that the client asked for, validated and without port; may be empty.
    pub fn host(&self) -> &[u8] {
        // SAFETY: as above.
        unsafe { bytes(self.get().headers_in.server) }
    }

    /// The authority of an absolute request target, with its port.
    pub fn target_authority(&self) -> Option<&[u8]> {
        let request = self.get();
        if request.host_start.is_null() || request.host_end.is_null() {
            return None;
        }
        // SAFETY: nginx's parser set both ends within one text, which lives as long as the request.
        let host = unsafe {
            let length = usize::try_from(request.host_end.offset_from(request.host_start)).ok()?;
            std::slice::from_raw_parts(request.host_start, length)
        };
        // SAFETY: as above.
        let line = unsafe { bytes(request.request_line) };
        let offset = host.as_ptr().addr().wrapping_sub(line.as_ptr().addr());
        // In HTTP/2 and 3 it is a text of its own, complete.
        let rest = line.get(offset..).filter(|rest| rest.len() >= host.len());
        let authority = rest.map_or(host, |rest| with_port(rest, host.len()));
        (!authority.is_empty()).then_some(authority)
    }

    /// The first `server_name` of the server; may be empty.
    pub fn server_name(&self) -> &[u8] {
        // SAFETY: every request has a server configuration of the core module.
        unsafe {
            let index = sys::ngx_http_core_module.ctx_index;
            let conf = (*self.get().srv_conf.add(index)).cast::<sys::ngx_http_core_srv_conf_t>();
            bytes((*conf).server_name)
        }
    }

    /// The client's address as text, as realip may have changed it.
    pub fn remote_address(&self) -> &[u8] {
        // SAFETY: points into the connection's memory.
        unsafe { bytes(self.connection().addr_text) }
    }

    /// The client's port, 0 for a Unix socket.
    pub fn remote_port(&self) -> u16 {
        // SAFETY: the address of a client's connection is set.
        unsafe { sys::ngx_inet_get_port(self.connection().sockaddr) }
    }

    /// The port that the client connected to, 0 for a Unix socket.
    pub fn local_port(&self) -> u16 {
        // SAFETY: fills local_sockaddr on success.
        unsafe {
            let connection = self.get().connection;
            if sys::ngx_connection_local_sockaddr(connection, std::ptr::null_mut(), 0) != Status::OK.0 {
                return 0;
            }
            sys::ngx_inet_get_port((*connection).local_sockaddr)
        }
    }

    /// `root` (or `alias`) of the location as an absolute path.
    pub fn document_root(&self) -> Option<Vec<u8>> {
        let location = self.core_location();
        // SAFETY: the location's root outlives the request; script code made for this location is run with it, as
        // nginx's own $document_root does (ngx_http_variable_document_root).
        unsafe {
            if location.root_lengths.is_null() {
                return Some(bytes(location.root).to_vec());
            }
            let mut path = sys::ngx_str_t::empty();
            let lengths = (*location.root_lengths).elts;
            let values = (*location.root_values).elts;
            let result = sys::ngx_http_script_run(self.as_ptr(), &mut path, lengths, 0, values);
            (!result.is_null()).then(|| bytes(path).to_vec())
        }
    }

    pub(super) fn core_location(&self) -> &sys::ngx_http_core_loc_conf_t {
        // SAFETY: every request has a location configuration of the core module.
        unsafe {
            let index = sys::ngx_http_core_module.ctx_index;
            &*(*self.get().loc_conf.add(index)).cast::<sys::ngx_http_core_loc_conf_t>()
        }
    }

    /// The headers of the request, in the order they came.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut part: *const sys::ngx_list_part_t = &raw const self.get().headers_in.headers.part;
        let mut index = 0;
        std::iter::from_fn(move || {
            // SAFETY: an nginx list is a chain of parts of nelts elements; deleted headers have a hash of 0 and are
            // skipped; all of it lives as long as the request.
            unsafe {
                loop {
                    if part.is_null() {
                        return None;
                    }
                    if index >= (*part).nelts {
                        part = (*part).next;
                        index = 0;
                        continue;
                    }
                    let header = &*(*part).elts.cast::<sys::ngx_table_elt_t>().add(index);
                    index += 1;
                    if header.hash != 0 {
                        return Some((bytes(header.key), bytes(header.value)));
                    }
                }
            }
        })
    }

    /// The merged configuration of this module that serves the request.
    ///
    /// # Safety
    /// `T` is the type that the module's `create_loc_conf` makes.
    pub unsafe fn location_conf<T>(&self) -> &T {
        // SAFETY: nginx keeps a location configuration of every HTTP module for every request, of type T by the caller's
        // promise; it is only read after the configuration was merged.
        unsafe { &*(*self.get().loc_conf.add(module::ctx_index())).cast::<T>() }
    }

    /// The number of the connection, with a `*` in records of the log.
    pub fn connection_number(&self) -> u64 {
        self.connection().number
    }

    /// The log of the connection; the request is named in its records.
    pub fn log(&self) -> Log {
        let log = self.connection().log;
        // SAFETY: valid while the request is. Its handler names the current request, several may share a connection.
        unsafe {
            let context = (*log).data.cast::<sys::ngx_http_log_ctx_t>();
            if !context.is_null() {
                (*context).current_request = self.as_ptr();
            }
            Log::new(log)
        }
    }

    /// The client's request, of which this may be a subrequest.
    pub(super) fn main(&self) -> Request {
        // SAFETY: every request has one, at least itself, that lives as long.
        Self(unsafe { NonNull::new_unchecked(self.get().main) })
    }

    /// Whether this is the client's request and not a subrequest of one.
    pub fn is_main(&self) -> bool {
        self.get().main == self.as_ptr()
    }

    /// Whether only the head of the answer is sent, as nginx found after it sent it (HEAD, 204, 304).
    pub fn is_header_only(&self) -> bool {
        self.header_only() != 0
    }

    /// Whether this is a HEAD request.
    pub fn is_head(&self) -> bool {
        self.get().method == sys::NGX_HTTP_HEAD as usize
    }

    /// Whether the head of an answer was sent.
    pub fn is_header_sent(&self) -> bool {
        self.header_sent() != 0
    }

    /// Installs `events` for the rest of the request; a client that leaves is noticed from now on.
    ///
    /// # Errors
    /// Gives `events` back when the pool has no memory.
    pub fn install<E: RequestEvents>(&self, events: E) -> Result<&E, E> {
        // SAFETY: both clean-ups are registered before the value is published in the context. The first runs when
        // nginx knows the request to be over, perhaps with references left; the second when its memory goes.
        unsafe {
            let request = self.as_ptr();
            let cancel = sys::ngx_http_cleanup_add(request, 0);
            let release = sys::ngx_pool_cleanup_add((*request).pool, 0);
            if cancel.is_null() || release.is_null() {
                return Err(events);
            }
            let events = Box::into_raw(Box::new(events));
            (*release).data = events.cast();
            (*release).handler = Some(release_events::<E>);
            (*cancel).data = events.cast();
            (*cancel).handler = Some(cancel_events::<E>);
            *(*request).ctx.add(module::ctx_index()) = events.cast();
            let read: unsafe extern "C" fn(*mut sys::ngx_http_request_t) =
                if self.is_reading_body() { read_event::<E> } else { sys::ngx_http_test_reading };
            (*request).read_event_handler = Some(read);
            (*request).write_event_handler = Some(write_event::<E>);
            Ok(&*events)
        }
    }

    /// The newest events of type `E` that [`Request::install`] put into the memory of this request and that are `wanted`.
    ///
    /// The context does not do for that: an internal redirect clears it. A subrequest has its memory in common with the
    /// main request.
    pub fn installed<E: RequestEvents>(&self, wanted: impl Fn(&E) -> bool) -> Option<&E> {
        // SAFETY: the clean-ups of a live pool are a null-terminated list; one with this handler was made by `install`, and
        // its data is an `E` until the pool goes.
        unsafe {
            let mut cleanup = (*self.get().pool).cleanup;
            while let Some(found) = cleanup.as_ref() {
                let is_ours = found.handler.is_some_and(|handler| {
                    std::ptr::fn_addr_eq(handler, release_events::<E> as unsafe extern "C" fn(*mut std::ffi::c_void))
                });
                if is_ours
                    && let Some(events) = found.data.cast::<E>().as_ref()
                    && wanted(events)
                {
                    return Some(events);
                }
                cleanup = found.next;
            }
            None
        }
    }

    /// Ends the request for this module: gives back its reference with nginx's verdict.
    pub fn finalize(self, status: Status) {
        if status.0 >= sys::NGX_HTTP_SPECIAL_RESPONSE as isize && !self.is_header_sent() {
            // The error_page of the status may be another location.
            self.withhold_streamed_body();
        }
        // SAFETY: live by the rule of the type, and not used afterwards.
        unsafe { sys::ngx_http_finalize_request(self.as_ptr(), status.0) };
    }

    /// Runs `body` from an event that is not the request's own, then what it posted.
    pub fn in_foreign_event(self, body: impl FnOnce(Request)) {
        let connection = self.get().connection;
        self.log();
        body(self);
        // SAFETY: a connection structure stays allocated (nginx reuses it); with nothing posted this does nothing.
        unsafe { sys::ngx_http_run_posted_requests(connection) };
    }

    /// Arms the event of the client's socket and `send_timeout`, while data waits to be sent.
    pub fn wait_until_writable(&self) -> Result<(), Status> {
        let location = self.core_location();
        let (lowat, timeout) = (location.send_lowat, location.send_timeout);
        // SAFETY: as in ngx_http_set_write_handler and ngx_http_writer.
        unsafe {
            let event = (*self.get().connection).write;
            if (*event).delayed() == 0 {
                ngx::ffi::ngx_add_timer(event, timeout);
            }
            if sys::ngx_handle_write_event(event, lowat) != Status::OK.0 {
                return Err(Status::ERROR);
            }
        }
        Ok(())
    }

    /// The data that waited has been sent.
    pub fn stop_waiting(&self) {
        // SAFETY: the write event of a live connection.
        unsafe {
            let event = (*self.get().connection).write;
            if (*event).timer_set() != 0 && (*event).delayed() == 0 {
                ngx::ffi::ngx_del_timer(event);
            }
        }
    }

    /// A file as `directio` wants it read: its sizes above the limit past the cache of the system.
    ///
    /// The descriptor is opened anew, as the application's own shares its flags with the duplicate.
    pub fn with_directio(&self, part: FilePart) -> FilePart {
        let limit = self.core_location().directio;
        let wants_direct = |file: &File| file.metadata().is_ok_and(|found| found.len() as i64 >= limit);
        if limit == sys::NGX_OPEN_FILE_DIRECTIO_OFF as i64 || !wants_direct(&part.file) {
            return part;
        }
        let path = format!("/proc/self/fd/{}", part.file.as_raw_fd());
        match File::options().read(true).custom_flags(libc::O_DIRECT).open(path) {
            Ok(file) => FilePart { file: Arc::new(file), direct: true, ..part },
            // The file system has no direct access, or the file is not this user's: it can be read all the same.
            Err(_) => part,
        }
    }

    /// Has nginx read files of this request when it is given them, where it would send them later, in the name of another
    /// request: an HTTP/2 connection without TLS sends the files of all its streams with `sendfile`. To be called before
    /// any of the body is given.
    pub fn reads_files_at_once(&self) {
        if !self.get().stream.is_null() {
            // SAFETY: the connection of a stream is nobody else's.
            unsafe { (*self.get().connection).set_sendfile(0) };
        }
    }

    /// Whether nginx itself holds data of this request, or the answers of its subrequests, back.
    pub fn has_buffered(&self) -> bool {
        self.buffered() != 0 || self.connection().buffered() != 0 || !self.get().postponed.is_null()
    }

    /// Whether this request may write to the connection now; a subrequest may have to wait for others.
    pub fn is_active(&self) -> bool {
        self.connection().data == self.as_ptr().cast()
    }

    /// The value of a parameter that may hold variables.
    pub fn evaluate<'a>(&'a self, value: &'a crate::nginx::conf::ComplexValue) -> Option<Cow<'a, [u8]>> {
        value.evaluate(self.as_ptr())
    }
}

/// The first `host` bytes of `text` and the port that follows them, if one does. nginx's parser marks the host in the
/// request line, and newer versions no longer the port.
fn with_port(text: &[u8], host: usize) -> &[u8] {
    let port = match text[host..].split_first() {
        Some((b':', digits)) => 1 + digits.iter().take_while(|byte| byte.is_ascii_digit()).count(),
        _ => 0,
    };
    &text[..host + port]
}

unsafe extern "C" fn cancel_events<E: RequestEvents>(data: *mut std::ffi::c_void) {
    // SAFETY: the value lives until `release_events`, which nginx runs later.
    guard((), || unsafe { &*data.cast::<E>() }.cleanup());
}

unsafe extern "C" fn release_events<E: RequestEvents>(data: *mut std::ffi::c_void) {
    guard((), || {
        // SAFETY: made by `install`; nginx runs this once, when the pool of the request is destroyed. A request that
        // ends without its own clean-up (out of memory) is cancelled here; cancelling twice does nothing.
        let events = unsafe { Box::from_raw(data.cast::<E>()) };
        events.cleanup();
    });
}

unsafe extern "C" fn read_event<E: RequestEvents>(request: *mut sys::ngx_http_request_t) {
    guard((), || {
        // SAFETY: as in `write_event`.
        if let Some(events) = unsafe { (*(*request).ctx.add(module::ctx_index())).cast::<E>().as_ref() } {
            events.readable();
        }
    });
}

unsafe extern "C" fn write_event<E: RequestEvents>(request: *mut sys::ngx_http_request_t) {
    guard((), || {
        // SAFETY: nginx calls this with a live request; an internal redirect clears the context, then there is nothing
        // left to do here.
        let (request, events) = unsafe {
            let events = (*(*request).ctx.add(module::ctx_index())).cast::<E>();
            (Request::new(request), events.as_ref())
        };
        let (Some(request), Some(events)) = (request, events) else {
            return;
        };
        // SAFETY: a live connection's write event.
        let (timed_out, delayed) = unsafe {
            let event = (*request.get().connection).write;
            ((*event).timedout() != 0, (*event).delayed() != 0)
        };
        if timed_out && !delayed {
            request.log().write(crate::nginx::log::Level::Info, "client timed out while taking its answer");
            // SAFETY: as ngx_http_writer does before it finalizes.
            unsafe { (*request.get().connection).set_timedout(1) };
            request.finalize(Status::CLIENT_TIMED_OUT);
            return;
        }
        events.writable();
    });
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
