//! The front's side of process groups: nginx's upstream module towards the instances.

use std::ffi::{CStr, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

use super::conf::Conf;
use super::log::Level;
use super::request::Request;
use super::{bytes, guard, module, pool_string, sys};

unsafe extern "C" {
    fn ngx_http_wsgi_upstream_request_sent(upstream: *const sys::ngx_http_upstream_t) -> c_uint;
    fn ngx_http_wsgi_upstream_set_request_sent(upstream: *mut sys::ngx_http_upstream_t, value: c_uint);
    fn ngx_http_wsgi_upstream_cacheable(upstream: *const sys::ngx_http_upstream_t) -> c_uint;
    fn ngx_http_wsgi_upstream_store(upstream: *const sys::ngx_http_upstream_t) -> c_uint;
    fn ngx_http_wsgi_peer_cached(peer: *const sys::ngx_peer_connection_t) -> c_uint;
    fn ngx_http_wsgi_peer_set_cached(peer: *mut sys::ngx_peer_connection_t, value: c_uint);
    fn ngx_http_wsgi_upstream_has_cache(conf: *const sys::ngx_http_upstream_conf_t) -> c_uint;
    fn ngx_http_wsgi_upstream_set_preserve_output(conf: *mut sys::ngx_http_upstream_conf_t);
}

/// Response header from an instance to its front: the kind of a response that needs special treatment.
pub const MARK: &str = "Wsgi-Response";
/// Value of [`MARK`]: the module responds in place of the application, so nginx's `error_page` applies.
pub const MARK_ERROR: &str = "error";
/// Value of [`MARK`]: a page for the developer, to which no `error_page` applies.
pub const MARK_REPORT: &str = "report";

/// Response headers that nginx evaluates and hides from clients.
pub const FOR_NGINX: [&str; 5] =
    ["X-Accel-Expires", "X-Accel-Redirect", "X-Accel-Limit-Rate", "X-Accel-Buffering", "X-Accel-Charset"];

/// Size of the buffer for the response header, for which an embedded application has no limit.
const BUFFER_SIZE: usize = 128 * 1024;
/// That for responses that nginx may put into its cache, where it allows 64 kilobytes for a header.
const CACHED_BUFFER_SIZE: usize = 32 * 1024;
/// How often a request is sent again that no instance has read.
const MAX_RETRIES: u32 = 3;

/// Settings of this module that the upstream module applies to the responses of a process group.
pub struct UpstreamSettings<'a> {
    pub intercept_errors: bool,
    pub allow_ranges: bool,
    pub request_buffering: bool,
    /// Headers of [`FOR_NGINX`] that clients get all the same.
    pub pass_headers: Vec<&'a str>,
}

impl Conf {
    /// Applies `settings` to the location that is being merged, whose `proxy_pass` leads to a process group. The proxy
    /// module has merged its part before.
    ///
    /// # Errors
    /// Without memory. nginx has logged the cause.
    pub fn set_upstream(&self, settings: &UpstreamSettings) -> Result<(), ()> {
        // SAFETY: the location has a configuration of each HTTP module. The structure of the proxy module is private, but its
        // first field is the configuration of the upstream.
        unsafe {
            let index = self.ctx_index_of(c"ngx_http_proxy_module").ok_or(())?;
            let context = (*self.as_ptr()).ctx.cast::<sys::ngx_http_conf_ctx_t>();
            let conf = (*(*context).loc_conf.add(index)).cast::<sys::ngx_http_upstream_conf_t>();
            let upstream = &mut *conf;
            upstream.intercept_errors = settings.intercept_errors.into();
            upstream.force_ranges = settings.allow_ranges.into();
            upstream.request_buffering = settings.request_buffering.into();
            if !settings.request_buffering {
                ngx_http_wsgi_upstream_set_preserve_output(conf);
            }
            let is_cached = ngx_http_wsgi_upstream_has_cache(conf) != 0;
            enlarge_buffers(upstream, if is_cached { CACHED_BUFFER_SIZE } else { BUFFER_SIZE });
            self.set_hidden_headers(upstream, &settings.pass_headers)
        }
    }

    /// Wraps the content handler that `proxy_pass` has set for this location.
    pub fn wrap_proxy_handler(&self) {
        let location = self.core_location();
        if let Some(handler) = location.handler() {
            // There is only one such handler.
            let _ = PROXY_HANDLER.set(handler);
            location.set_handler(proxy_handler);
        }
    }

    /// Returns a number for the upstream of `proxy_pass` in the location that is being merged, 0 without one.
    pub fn proxy_upstream(&self) -> usize {
        // SAFETY: as in `set_upstream`. The address is not dereferenced.
        self.ctx_index_of(c"ngx_http_proxy_module").map_or(0, |index| unsafe {
            let context = (*self.as_ptr()).ctx.cast::<sys::ngx_http_conf_ctx_t>();
            let conf = (*(*context).loc_conf.add(index)).cast::<sys::ngx_http_upstream_conf_t>();
            (*conf).upstream as usize
        })
    }

    /// Returns whether the location that is being merged has a `proxy_pass`, also one with variables, which has no upstream.
    pub fn has_proxy_pass(&self) -> bool {
        let handler = self.core_location().handler();
        let is_proxy = |(handler, proxy)| ptr::fn_addr_eq::<ProxyHandler, ProxyHandler>(handler, proxy);
        self.proxy_upstream() != 0 || handler.zip(PROXY_HANDLER.get().copied()).is_some_and(is_proxy)
    }

    /// Hides the headers that are for nginx, and no others unless `proxy_hide_header` names them.
    fn set_hidden_headers(&self, upstream: &mut sys::ngx_http_upstream_conf_t, pass: &[&str]) -> Result<(), ()> {
        let text = |text: &str| {
            // SAFETY: the pool of the configuration.
            unsafe { pool_string(self.pool(), text.as_bytes()) }.ok_or(())
        };
        let names = FOR_NGINX.into_iter().filter(|name| !pass.iter().any(|passed| passed.eq_ignore_ascii_case(name)));
        let mut names = names.chain([MARK]).map(text).collect::<Result<Vec<_>, ()>>()?;
        names.push(sys::ngx_str_t::empty());
        // SAFETY: the list of names ends with an empty one, and the texts live as long as the configuration. The structures
        // on the stack are used during the call only. nginx compares both lists of `none` with those of the location, and
        // needs one that is set.
        unsafe {
            let unset = ptr::without_provenance_mut::<sys::ngx_array_t>(usize::MAX);
            let mut none: sys::ngx_http_upstream_conf_t = std::mem::zeroed();
            (none.hide_headers, none.pass_headers) = (unset, unset);
            if upstream.hide_headers == unset && upstream.pass_headers == unset {
                upstream.pass_headers = sys::ngx_array_create(self.pool(), 1, size_of::<sys::ngx_str_t>());
                if upstream.pass_headers.is_null() {
                    return Err(());
                }
            }
            let mut hash: sys::ngx_hash_init_t = std::mem::zeroed();
            hash.max_size = 512;
            hash.bucket_size = (64 * size_of::<usize>()).next_multiple_of(sys::ngx_cacheline_size);
            hash.name = c"wsgi_headers_hash".as_ptr().cast_mut();
            let hashed = sys::ngx_http_upstream_hide_headers_hash(
                self.as_ptr(),
                upstream,
                &mut none,
                names.as_mut_ptr(),
                &mut hash,
            );
            if hashed == sys::NGX_OK as isize { Ok(()) } else { Err(()) }
        }
    }
}

/// Makes room for large response headers, and keeps the relations that the proxy module requires.
fn enlarge_buffers(upstream: &mut sys::ngx_http_upstream_conf_t, header: usize) {
    upstream.buffer_size = upstream.buffer_size.max(header);
    upstream.bufs.size = upstream.bufs.size.max(CACHED_BUFFER_SIZE);
    let largest = upstream.buffer_size.max(upstream.bufs.size);
    upstream.bufs.num = upstream.bufs.num.max(4);
    upstream.busy_buffers_size = upstream.busy_buffers_size.max(largest);
    // nginx requires a busy size below that of all buffers but one.
    while upstream.busy_buffers_size > (upstream.bufs.num as usize - 1) * upstream.bufs.size {
        upstream.bufs.num += 1;
    }
    upstream.temp_file_write_size = upstream.temp_file_write_size.max(2 * largest);
    if upstream.max_temp_file_size != 0 {
        upstream.max_temp_file_size = upstream.max_temp_file_size.max(largest);
    }
}

/// Content handler of the proxy module.
static PROXY_HANDLER: OnceLock<ProxyHandler> = OnceLock::new();

type ProxyHandler = unsafe extern "C" fn(*mut sys::ngx_http_request_t) -> isize;

/// Passes a request to its process group. The `error_page` of a body that is refused finds a request without a body.
unsafe extern "C" fn proxy_handler(request: *mut sys::ngx_http_request_t) -> isize {
    guard(500, || {
        let Some(handler) = PROXY_HANDLER.get() else { return 500 };
        // SAFETY: nginx passes a live request, and has not finalized it if the handler returns the status for that.
        unsafe {
            let status = handler(request);
            if status >= sys::NGX_HTTP_SPECIAL_RESPONSE as isize
                && let Some(request) = Request::new(request)
            {
                request.withhold_body();
            }
            status
        }
    })
}

/// The function of an upstream that prepares a request, as it was before [`wrap_peers`].
struct OriginalInit {
    init: sys::ngx_http_upstream_init_peer_pt,
    is_allowed: fn(Request) -> bool,
}

/// Wraps the choice of connections of the upstreams with these names. To be called in postconfiguration, when the upstream
/// module has initialized them.
///
/// A request for which `is_allowed` returns false gets no connection: other locations may lead here by the name of the
/// upstream, such as one with `proxy_pass http://$host;`, and would pass the headers of a client, who could choose environ.
///
/// # Errors
/// If there is no such upstream, or no memory.
pub fn wrap_peers<'a>(
    conf: &Conf,
    names: impl IntoIterator<Item = &'a str>,
    is_allowed: fn(Request) -> bool,
) -> Result<(), ()> {
    for name in names {
        // SAFETY: in an http block the upstream module has a main configuration with an array of this type. An upstream that is
        // a block has a configuration for each HTTP module, and that of this module is not used otherwise.
        unsafe {
            let index = conf.ctx_index_of(c"ngx_http_upstream_module").ok_or(())?;
            let context = (*conf.as_ptr()).ctx.cast::<sys::ngx_http_conf_ctx_t>();
            let main = (*(*context).main_conf.add(index)).cast::<sys::ngx_http_upstream_main_conf_t>();
            let upstreams = (*main).upstreams.as_slice::<*mut sys::ngx_http_upstream_srv_conf_t>();
            let is_named = |upstream: &&*mut sys::ngx_http_upstream_srv_conf_t| {
                !(***upstream).srv_conf.is_null() && bytes((***upstream).host).eq_ignore_ascii_case(name.as_bytes())
            };
            let upstream = *upstreams.iter().find(is_named).ok_or(())?;
            let slot = (*upstream).srv_conf.add(module::ctx_index());
            if !(*slot).is_null() {
                continue;
            }
            let original = sys::ngx_palloc(conf.pool(), size_of::<OriginalInit>()).cast::<OriginalInit>();
            if original.is_null() {
                return Err(());
            }
            original.write(OriginalInit { init: (*upstream).peer.init, is_allowed });
            *slot = original.cast();
            (*upstream).peer.init = Some(init_peer);
        }
    }
    Ok(())
}

/// Choice of connections for one request: the functions of the upstream, with ours around them.
struct Peer {
    request: *mut sys::ngx_http_request_t,
    data: *mut c_void,
    get: sys::ngx_event_get_peer_pt,
    free: sys::ngx_event_free_peer_pt,
    process_header: Handler,
    reinit_request: Handler,
    finalize_request: Option<unsafe extern "C" fn(*mut sys::ngx_http_request_t, sys::ngx_int_t)>,
    /// How often the request was sent again.
    retries: u32,
    /// The next connection is for the same request again.
    is_retry: bool,
}

type Handler = Option<unsafe extern "C" fn(*mut sys::ngx_http_request_t) -> sys::ngx_int_t>;

unsafe extern "C" fn init_peer(
    request: *mut sys::ngx_http_request_t,
    upstream: *mut sys::ngx_http_upstream_srv_conf_t,
) -> sys::ngx_int_t {
    let error = sys::NGX_ERROR as isize;
    guard(error, || {
        // SAFETY: nginx passes a live request, and an upstream that `wrap_peers` has wrapped. The structure is in the pool of
        // the request, as the one that it refers to.
        unsafe {
            let original = (*(*upstream).srv_conf.add(module::ctx_index())).cast::<OriginalInit>();
            let (Some(init), Some(handle)) = ((*original).init, Request::new(request)) else { return error };
            if !((*original).is_allowed)(handle) {
                let message = "only a location with \"wsgi_pass\" and \"process\" can pass requests to a process group";
                handle.log().write(Level::Error, message);
                return error;
            }
            let result = init(request, upstream);
            if result != sys::NGX_OK as isize {
                return result;
            }
            let peer = sys::ngx_palloc((*request).pool, size_of::<Peer>()).cast::<Peer>();
            if peer.is_null() {
                return error;
            }
            let upstream = (*request).upstream;
            peer.write(Peer {
                request,
                data: (*upstream).peer.data,
                get: (*upstream).peer.get,
                free: (*upstream).peer.free,
                process_header: (*upstream).process_header,
                reinit_request: (*upstream).reinit_request,
                finalize_request: (*upstream).finalize_request,
                retries: 0,
                is_retry: false,
            });
            (*upstream).peer.data = peer.cast();
            (*upstream).peer.get = Some(get_peer);
            (*upstream).peer.free = Some(free_peer);
            (*upstream).process_header = Some(process_header);
            (*upstream).reinit_request = Some(reinit_request);
            (*upstream).finalize_request = Some(finalize_request);
            sys::NGX_OK as isize
        }
    })
}

unsafe extern "C" fn get_peer(connection: *mut sys::ngx_peer_connection_t, data: *mut c_void) -> sys::ngx_int_t {
    let error = sys::NGX_ERROR as isize;
    guard(error, || {
        // SAFETY: nginx passes the data of `init_peer` and the connection of a live request with an upstream.
        unsafe {
            let peer = &mut *data.cast::<Peer>();
            let (Some(get), Some(request)) = (peer.get, Request::new(peer.request)) else { return error };
            let mut result = get(connection, peer.data);
            // A kept connection may be one that the instance has closed. A body that is streamed cannot be sent again.
            let needs_new = request.has_streamed_body() || peer.retries > 0;
            if result == sys::NGX_DONE as isize && ngx_http_wsgi_peer_cached(connection) != 0 && needs_new {
                let kept = (*connection).connection;
                sys::ngx_destroy_pool((*kept).pool);
                sys::ngx_close_connection(kept);
                (*connection).connection = ptr::null_mut();
                ngx_http_wsgi_peer_set_cached(connection, 0);
                result = sys::NGX_OK as isize;
            }
            if std::mem::take(&mut peer.is_retry) {
                // Makes nginx send all of the request again.
                ngx_http_wsgi_upstream_set_request_sent((*peer.request).upstream, 1);
            }
            result
        }
    })
}

unsafe extern "C" fn free_peer(connection: *mut sys::ngx_peer_connection_t, data: *mut c_void, state: sys::ngx_uint_t) {
    guard((), || {
        // SAFETY: nginx passes the data of `init_peer` and the connection of a live request with an upstream.
        unsafe {
            let peer = &mut *data.cast::<Peer>();
            let (Some(free), Some(request)) = (peer.free, Request::new(peer.request)) else { return };
            let upstream = (*peer.request).upstream;
            let has_failed = state & sys::NGX_PEER_FAILED as usize != 0;
            let is_unread = has_failed
                && ngx_http_wsgi_upstream_request_sent(upstream) != 0
                && !request.has_streamed_body()
                && (*upstream).state.as_ref().is_some_and(|state| state.bytes_received == 0)
                && (*connection).connection.as_ref().is_some_and(|connection| is_reset(connection));
            free(connection, peer.data, state);
            if has_failed {
                // nginx sends a request again that it has sent on a kept connection. But a call may have run.
                ngx_http_wsgi_peer_set_cached(connection, 0);
            }
            if is_unread && peer.retries < MAX_RETRIES {
                peer.retries += 1;
                peer.is_retry = true;
                (*connection).tries += 1;
                // No call has begun, so this is right for a POST as well.
                ngx_http_wsgi_upstream_set_request_sent(upstream, 0);
            }
        }
    });
}

/// Returns whether the instance has closed its Unix socket with a part of the request unread: the system reports a reset.
/// A call begins when all is read. If an instance ends during a call, it is an end of file instead.
///
/// # Safety
/// The events of the connection are live.
unsafe fn is_reset(connection: &sys::ngx_connection_t) -> bool {
    // SAFETY: as promised by the caller.
    unsafe {
        let (read, write) = (&*connection.read, &*connection.write);
        read.eof() == 0 && (read.error() != 0 || write.error() != 0) && read.timedout() == 0
    }
}

/// Returns the structure that `init_peer` has added to an upstream, and the upstream.
///
/// # Safety
/// `request` is a live request.
unsafe fn peer_of<'a>(
    request: *mut sys::ngx_http_request_t,
) -> Option<(&'a mut Peer, &'a mut sys::ngx_http_upstream_t)> {
    // SAFETY: as promised by the caller. Only `init_peer` sets this function with its structure.
    unsafe {
        let upstream = (*request).upstream.as_mut()?;
        let ours: unsafe extern "C" fn(*mut sys::ngx_peer_connection_t, *mut c_void) -> sys::ngx_int_t = get_peer;
        let is_ours = upstream.peer.get.is_some_and(|get| ptr::fn_addr_eq(get, ours));
        is_ours.then(|| (&mut *upstream.peer.data.cast::<Peer>(), upstream))
    }
}

unsafe extern "C" fn reinit_request(request: *mut sys::ngx_http_request_t) -> sys::ngx_int_t {
    let error = sys::NGX_ERROR as isize;
    guard(error, || {
        // SAFETY: nginx passes a live request.
        unsafe {
            let Some((peer, _)) = peer_of(request) else { return error };
            let Some(reinit) = peer.reinit_request else { return error };
            let result = reinit(request);
            wrap_process_header(request);
            result
        }
    })
}

/// Puts our function around the one that the proxy module has set.
///
/// # Safety
/// `request` is a live request.
unsafe fn wrap_process_header(request: *mut sys::ngx_http_request_t) {
    // SAFETY: as promised by the caller.
    unsafe {
        let Some((peer, upstream)) = peer_of(request) else { return };
        let ours: unsafe extern "C" fn(*mut sys::ngx_http_request_t) -> sys::ngx_int_t = process_header;
        if !upstream.process_header.is_some_and(|handler| ptr::fn_addr_eq(handler, ours)) {
            peer.process_header = upstream.process_header;
            upstream.process_header = Some(ours);
        }
    }
}

/// Parses a part of the response header, and looks at the complete one.
unsafe extern "C" fn process_header(request: *mut sys::ngx_http_request_t) -> sys::ngx_int_t {
    let error = sys::NGX_ERROR as isize;
    guard(error, || {
        // SAFETY: nginx passes a live request. The reference to the upstream is not used across the call of the proxy module.
        unsafe {
            let process = peer_of(request).and_then(|(peer, _)| peer.process_header);
            let Some(process) = process else { return error };
            let result = process(request);
            // The proxy module has one function for the status line and another for the rest.
            wrap_process_header(request);
            if result == sys::NGX_OK as isize {
                select_error_page(request);
                return take_over_header(request);
            }
            result
        }
    })
}

/// Makes nginx treat a response as that of an embedded application. Returns the result of the handler.
///
/// # Safety
/// `request` is a live request whose response header is complete.
unsafe fn take_over_header(request: *mut sys::ngx_http_request_t) -> sys::ngx_int_t {
    // SAFETY: as promised by the caller.
    let (handle, has_redirect) = unsafe {
        // A response before an internal redirect may have left one. The proxy module sets that of this response later.
        (*request).headers_out.charset = sys::ngx_str_t::empty();
        let has_redirect = (*request).upstream.as_ref().is_some_and(|up| !up.headers_in.x_accel_redirect.is_null());
        (Request::new(request), has_redirect)
    };
    let Some(request) = handle else { return sys::NGX_ERROR as isize };
    if request.is_reading_body() {
        // nginx closes the connection of a client whose body is not read; this says so to the client.
        request.disable_keepalive();
    }
    if !request.upstream_caches() {
        request.leave_conditions_to_application();
        let may_keep = !has_redirect || request.is_head() || request.is_get();
        if !may_keep && request.drop_conditions().is_err() {
            return sys::NGX_ERROR as isize;
        }
    }
    sys::NGX_OK as isize
}

/// Ends the part of the upstream in a request. Another location that responds instead finds no body if that was sent to the
/// instance while it came.
unsafe extern "C" fn finalize_request(request: *mut sys::ngx_http_request_t, status: sys::ngx_int_t) {
    guard((), || {
        // SAFETY: nginx passes a live request.
        unsafe {
            let Some((peer, _)) = peer_of(request) else { return };
            if let Some(finalize) = peer.finalize_request {
                finalize(request, status);
            }
            let is_redirected = status == sys::NGX_DECLINED as isize;
            if let Some(request) = Request::new(request)
                && (is_redirected || status >= sys::NGX_HTTP_SPECIAL_RESPONSE as isize && !request.is_header_sent())
            {
                request.withhold_streamed_body();
            }
        }
    });
}

/// Decides whether nginx's `error_page` takes the place of the response.
///
/// # Safety
/// `request` is a live request whose response header is complete.
unsafe fn select_error_page(request: *mut sys::ngx_http_request_t) {
    // SAFETY: as promised by the caller. The copy of the configuration is in the pool of the request.
    unsafe {
        let Some((_, upstream)) = peer_of(request) else { return };
        let is_set = (*upstream.conf).intercept_errors;
        let mark = header_of(&upstream.headers_in, MARK);
        let intercepts = match (mark, upstream.headers_in.status_n) {
            (Some(mark), _) if mark == MARK_ERROR.as_bytes() => 1,
            (Some(_), _) => 0,
            // A request that is finalized with these makes nginx close the connection without a response.
            (None, 408 | 444) => 0,
            (None, _) => is_set,
        };
        if mark.is_some_and(|mark| mark == MARK_ERROR.as_bytes()) {
            keep_retry_after(request, upstream);
        }
        if intercepts != 0 && upstream.headers_in.status_n == 401 {
            keep_challenges(request, upstream);
        }
        if intercepts == is_set {
            return;
        }
        let size = size_of::<sys::ngx_http_upstream_conf_t>();
        let copy = sys::ngx_palloc((*request).pool, size).cast::<sys::ngx_http_upstream_conf_t>();
        if !copy.is_null() {
            ptr::copy_nonoverlapping(upstream.conf, copy, 1);
            (*copy).intercept_errors = intercepts;
            upstream.conf = copy;
        }
    }
}

/// Keeps the header that says when a full queue has room again, as nginx sends none of the headers with its own page.
///
/// # Safety
/// `request` is a live request with this upstream.
unsafe fn keep_retry_after(request: *mut sys::ngx_http_request_t, upstream: &sys::ngx_http_upstream_t) {
    const NAME: &str = "Retry-After";
    // SAFETY: as promised by the caller.
    let (request, value) = unsafe { (Request::new(request), header_of(&upstream.headers_in, NAME)) };
    if let (Some(request), Some(value)) = (request, value)
        && request.has_error_page(upstream.headers_in.status_n as u16)
    {
        // Without memory for the header the response is right without it.
        let _ = request.add_header(NAME.as_bytes(), value);
    }
}

/// Keeps all `WWW-Authenticate` headers with nginx's own page. (Before 1.23 nginx keeps one.)
///
/// # Safety
/// `request` is a live request with this upstream.
unsafe fn keep_challenges(request: *mut sys::ngx_http_request_t, upstream: &mut sys::ngx_http_upstream_t) {
    const NAME: &str = "WWW-Authenticate";
    // SAFETY: as promised by the caller.
    unsafe {
        let Some(request) = Request::new(request).filter(|request| request.has_error_page(401)) else { return };
        upstream.headers_in.www_authenticate = ptr::null_mut();
        for value in headers_of(&upstream.headers_in, NAME) {
            if request.add_header(NAME.as_bytes(), value).is_err() {
                return;
            }
        }
    }
}

/// Returns the value of the first header with this name.
///
/// # Safety
/// The headers are those of a live request.
unsafe fn header_of<'a>(headers: &sys::ngx_http_upstream_headers_in_t, name: &str) -> Option<&'a [u8]> {
    // SAFETY: as promised by the caller.
    unsafe { headers_of(headers, name) }.into_iter().next()
}

/// Returns the values of the headers with this name.
///
/// # Safety
/// The headers are those of a live request.
unsafe fn headers_of<'a>(headers: &sys::ngx_http_upstream_headers_in_t, name: &str) -> Vec<&'a [u8]> {
    let mut values = Vec::new();
    // SAFETY: a list of nginx is a chain of parts that lives as long as the request, each with `nelts` elements.
    unsafe {
        let mut part = Some(&headers.headers.part);
        while let Some(this) = part {
            let elements = this.elts.cast::<sys::ngx_table_elt_t>();
            for index in 0..this.nelts {
                let element = &*elements.add(index);
                if element.hash != 0 && bytes(element.key).eq_ignore_ascii_case(name.as_bytes()) {
                    values.push(bytes(element.value));
                }
            }
            part = this.next.as_ref();
        }
    }
    values
}

impl Conf {
    /// Returns the index of another HTTP module, if this nginx has the module.
    fn ctx_index_of(&self, name: &CStr) -> Option<usize> {
        // SAFETY: the modules of the cycle are complete structures with static names.
        unsafe {
            let cycle = (*self.as_ptr()).cycle;
            let modules = std::slice::from_raw_parts((*cycle).modules, (*cycle).modules_n);
            modules.iter().find(|module| CStr::from_ptr((***module).name) == name).map(|module| (**module).ctx_index)
        }
    }
}

impl Request {
    /// Returns whether nginx keeps the whole response of the upstream, for a cache or as a file.
    pub fn upstream_stores(&self) -> bool {
        self.upstream_caches()
            // SAFETY: null or the upstream of the live request.
            || unsafe { !self.get().upstream.is_null() && ngx_http_wsgi_upstream_store(self.get().upstream) != 0 }
    }

    /// Returns whether nginx puts the response of the upstream into its cache.
    pub fn upstream_caches(&self) -> bool {
        // SAFETY: null or the upstream of the live request.
        unsafe { !self.get().upstream.is_null() && ngx_http_wsgi_upstream_cacheable(self.get().upstream) != 0 }
    }

    /// Returns the method that nginx sends to the upstream if it is not that of the client.
    pub fn upstream_method(&self) -> Option<&[u8]> {
        // SAFETY: null or the upstream of the live request. The text lives as long as the request.
        let method = unsafe { self.get().upstream.as_ref().map(|upstream| bytes(upstream.method)) };
        method.filter(|method| !method.is_empty())
    }
}
