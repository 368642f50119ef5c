//! Response header: the list of nginx, and the fields for single headers that its filters read.

use std::ops::Range;

use super::{Request, Status};
use crate::nginx::{bytes, pool_string, sys};

/// Failure to allocate memory for a header. The request cannot continue.
#[derive(Debug)]
pub struct NoMemory;

impl From<NoMemory> for Status {
    fn from(NoMemory: NoMemory) -> Self {
        Self::INTERNAL_SERVER_ERROR
    }
}

/// Texts of response headers in the memory of their request. Parts of it are used without another copy; a NUL should
/// follow each part, which many users of nginx strings expect.
pub struct HeaderTexts {
    request: Request,
    text: sys::ngx_str_t,
}

impl HeaderTexts {
    /// Returns a part of the text.
    fn part(&self, range: Range<usize>) -> sys::ngx_str_t {
        // SAFETY: the text is in the pool of the live request.
        let part = &unsafe { bytes(self.text) }[range];
        sys::ngx_str_t { len: part.len(), data: part.as_ptr().cast_mut() }
    }

    /// Sets the status line; without one nginx uses its own reason phrase.
    pub fn set_status_line(&self, line: Range<usize>) {
        // SAFETY: a plain field of the live request.
        unsafe { (*self.request.as_ptr()).headers_out.status_line = self.part(line) };
    }

    /// Sets the media type. Its charset is separated for nginx's charset filter.
    ///
    /// Follows `ngx_http_upstream_copy_content_type`.
    pub fn set_content_type(&self, value: Range<usize>) {
        let text = self.part(value);
        // SAFETY: the slices are of the text, which is in the pool of the live request.
        unsafe {
            let (length, charset) = split_charset(bytes(text));
            let out = &mut (*self.request.as_ptr()).headers_out;
            out.content_type = text;
            // The filters compare only this part of the type.
            out.content_type_len = length;
            out.content_type_lowcase = std::ptr::null_mut();
            // Set without a charset as well: a location before a redirect may have left one.
            out.charset = charset.map_or(sys::ngx_str_t::empty(), |charset| sys::ngx_str_t {
                data: text.data.add(charset.start),
                len: charset.len(),
            });
        }
    }

    /// Adds a header. If nginx has a field for headers of this name, sets that as well.
    pub fn add_header(&self, name: Range<usize>, value: Range<usize>) -> Result<(), NoMemory> {
        // SAFETY: the texts are in the pool of the live request, and the element is complete before it is used.
        unsafe {
            let request = self.request.as_ptr();
            let element = sys::ngx_list_push(&raw mut (*request).headers_out.headers).cast::<sys::ngx_table_elt_t>();
            if element.is_null() {
                return Err(NoMemory);
            }
            element.write(std::mem::zeroed());
            (*element).hash = 1;
            (*element).key = self.part(name);
            (*element).value = self.part(value);
            set_field(&mut (*request).headers_out, element)
        }
    }
}

impl Request {
    /// Sets the status code.
    pub fn set_status(&self, code: u16) {
        // SAFETY: a plain field of the live request.
        unsafe { (*self.as_ptr()).headers_out.status = usize::from(code) };
    }

    /// Returns the status code of the response, once its header is sent.
    pub fn response_status(&self) -> u16 {
        u16::try_from(self.get().headers_out.status).unwrap_or_default()
    }

    /// Copies the texts of a header block to the memory of the request, for [`HeaderTexts`] to use parts of it.
    pub fn header_texts(&self, text: &[u8]) -> Result<HeaderTexts, NoMemory> {
        // SAFETY: the pool of the live request.
        let text = unsafe { pool_string((*self.as_ptr()).pool, text) }.ok_or(NoMemory)?;
        Ok(HeaderTexts { request: *self, text })
    }

    /// Sets the length of the body, which nginx sends as Content-Length.
    pub fn set_content_length(&self, length: u64) {
        // SAFETY: a plain field of the live request.
        unsafe { (*self.as_ptr()).headers_out.content_length_n = length as i64 };
    }

    /// Adds a header, as [`HeaderTexts::add_header`] does.
    pub fn add_header(&self, name: &[u8], value: &[u8]) -> Result<(), NoMemory> {
        let name_end = name.len() + 1;
        let texts = self.header_texts(&[name, b"\0", value].concat())?;
        texts.add_header(0..name.len(), name_end..name_end + value.len())
    }

    /// Sets the charset that the charset filter adds to the response; with `off` it adds none.
    pub fn override_charset(&self, charset: &[u8]) -> Result<(), NoMemory> {
        // SAFETY: text and string are in the pool of the live request, which the filter needs later.
        unsafe {
            let request = self.as_ptr();
            let text = pool_string((*request).pool, charset).ok_or(NoMemory)?;
            let string = sys::ngx_palloc((*request).pool, size_of::<sys::ngx_str_t>()).cast::<sys::ngx_str_t>();
            if string.is_null() {
                return Err(NoMemory);
            }
            string.write(text);
            (*request).headers_out.override_charset = string;
        }
        Ok(())
    }

    /// Limits the rate of the response to `rate` bytes per second, or not at all for 0. Overrides `limit_rate`.
    pub fn set_limit_rate(&self, rate: usize) {
        // SAFETY: a plain field of the live request.
        unsafe { (*self.as_ptr()).limit_rate = rate };
        self.set_limit_rate_set(1);
    }

    /// Allows nginx to serve byte ranges of this response. Several ranges at once need a body that `is_whole`, in one buffer.
    pub fn allow_ranges(&self, is_whole: bool) {
        self.set_allow_ranges(1);
        self.set_single_range(u32::from(!is_whole));
    }

    /// Hides the conditional headers of the request from nginx, except those that lead to a 304 for GET and HEAD.
    ///
    /// The application evaluates them before it acts. Afterwards a 412 from `ngx_http_not_modified_filter` would deny a
    /// change that was made. The headers remain in the list of request headers.
    pub fn leave_conditions_to_application(&self) {
        let is_read_only = self.is_head() || self.is_get();
        // SAFETY: plain fields of the live request, which are null or point to elements of its list of headers.
        unsafe {
            let headers = &mut (*self.as_ptr()).headers_in;
            headers.if_match = std::ptr::null_mut();
            headers.if_unmodified_since = std::ptr::null_mut();
            if !is_read_only {
                headers.if_none_match = std::ptr::null_mut();
                headers.if_modified_since = std::ptr::null_mut();
                // nginx serves ranges for all methods, HTTP defines them for GET (RFC 9110, section 14.2).
                headers.range = std::ptr::null_mut();
            }
        }
    }

    /// Removes the conditional headers and ranges of a request other than GET that continues as GET after a redirect.
    ///
    /// They do not apply to the new response: nginx, or a server behind the next location, would respond with 412.
    ///
    /// # Errors
    /// If nginx has no memory.
    pub(crate) fn drop_conditions(&self) -> Result<(), NoMemory> {
        const CONDITIONS: [&str; 6] =
            ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "range"];
        // SAFETY: the live request's own list, copied to a new one of its pool. Pointers to the old elements stay valid. The
        // new list has one part with room for all elements; its `last` points to that part, which moves to the request.
        unsafe {
            let request = self.as_ptr();
            let count = self.header_elements().count().max(1);
            let list = sys::ngx_list_create((*request).pool, count, size_of::<sys::ngx_table_elt_t>());
            if list.is_null() {
                return Err(NoMemory);
            }
            for element in self.header_elements() {
                let name = bytes(element.key);
                if !CONDITIONS.iter().any(|condition| condition.as_bytes().eq_ignore_ascii_case(name)) {
                    sys::ngx_list_push(list).cast::<sys::ngx_table_elt_t>().copy_from_nonoverlapping(element, 1);
                }
            }
            let headers = &mut (*request).headers_in.headers;
            *headers = *list;
            headers.last = &raw mut headers.part;
        }
        Ok(())
    }

    /// Makes nginx send this response completely and never a 304 instead.
    pub fn disable_not_modified(&self) {
        self.set_disable_not_modified(1);
    }

    /// Returns whether the client requests more than one byte range.
    pub fn wants_several_ranges(&self) -> bool {
        // SAFETY: null or a header of the live request.
        unsafe {
            let range = (*self.as_ptr()).headers_in.range;
            !range.is_null() && bytes((*range).value).contains(&b',')
        }
    }

    /// Returns whether the client requests more than one byte range, and no more than `max_ranges`.
    pub fn wants_permitted_ranges(&self) -> bool {
        let limit = self.core_location().max_ranges;
        // SAFETY: null or a header of the live request.
        let range = unsafe { self.get().headers_in.range.as_ref().map(|range| bytes(range.value)) };
        let count = range.map_or(0, |range| range.iter().filter(|byte| **byte == b',').count() + 1);
        (2..=limit).contains(&count)
    }

    /// Closes the connection after this response, and announces that to the client.
    pub fn disable_keepalive(&self) {
        self.set_keepalive(0);
    }

    /// Sends the response header through nginx's filters.
    ///
    /// # Errors
    /// The status to finalize the request with.
    pub fn send_header(&self) -> Result<(), Status> {
        // SAFETY: a live request by the rule of the type.
        let result = unsafe { sys::ngx_http_send_header(self.as_ptr()) };
        if result == Status::ERROR.0 || result > Status::OK.0 { Err(Status(result)) } else { Ok(()) }
    }
}

/// Sets the field of `out` for headers of the element's name, if there is one.
///
/// # Safety
/// `element` is a complete element of the header list of `out`.
unsafe fn set_field(out: &mut sys::ngx_http_headers_out_t, element: *mut sys::ngx_table_elt_t) -> Result<(), NoMemory> {
    // SAFETY: as promised by the caller.
    let (name, value) = unsafe { (bytes((*element).key), (*element).value) };
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    // By length first: most headers have no field.
    let field = match name.len() {
        4 if is("date") => &mut out.date,
        4 if is("etag") => &mut out.etag,
        // SAFETY: as promised by the caller; the pool is that of the list.
        4 if is("link") => return unsafe { push(&mut out.link, out.headers.pool, element) },
        6 if is("server") => &mut out.server,
        7 if is("refresh") => &mut out.refresh,
        7 if is("expires") => &mut out.expires,
        // nginx makes an absolute URL of a path in this field, which would change the application's response.
        // SAFETY: as promised by the caller.
        8 if is("location") && unsafe { bytes(value) }.first() != Some(&b'/') => &mut out.location,
        13 if is("last-modified") => {
            // SAFETY: as promised by the caller. The parser of nginx does not write.
            out.last_modified_time = unsafe { sys::ngx_parse_http_time(value.data, value.len) };
            &mut out.last_modified
        }
        // SAFETY: as promised by the caller; the pool is that of the list.
        13 if is("cache-control") => return unsafe { push(&mut out.cache_control, out.headers.pool, element) },
        13 if is("content-range") => &mut out.content_range,
        13 if is("accept-ranges") => &mut out.accept_ranges,
        16 if is("content-encoding") => &mut out.content_encoding,
        16 if is("www-authenticate") => &mut out.www_authenticate,
        _ => return Ok(()),
    };
    // SAFETY: the field is null or points to the first header of that name.
    unsafe { link(field, element) };
    Ok(())
}

/// Appends `element` to the headers of its name that `field` points to.
///
/// # Safety
/// `field` is null or points to an element of the same list as `element`.
unsafe fn link(field: &mut *mut sys::ngx_table_elt_t, element: *mut sys::ngx_table_elt_t) {
    #[cfg(nginx_linked_headers)]
    {
        let mut last: *mut *mut sys::ngx_table_elt_t = field;
        // SAFETY: since 1.23.0 the elements of one name are a null-terminated list.
        unsafe {
            while !(*last).is_null() {
                last = &raw mut (**last).next;
            }
            *last = element;
        }
    }
    #[cfg(not(nginx_linked_headers))]
    if field.is_null() {
        *field = element;
    }
}

/// Appends `element` to the headers of its name that `field` points to.
///
/// # Safety
/// `field` is null or points to an element of the same list as `element`.
#[cfg(nginx_linked_headers)]
unsafe fn push(
    field: &mut *mut sys::ngx_table_elt_t,
    _pool: *mut sys::ngx_pool_t,
    element: *mut sys::ngx_table_elt_t,
) -> Result<(), NoMemory> {
    // SAFETY: as promised by the caller.
    unsafe { link(field, element) };
    Ok(())
}

/// Appends `element` to the array of headers of its name.
///
/// # Safety
/// `array` is zeroed or an array of pointers to elements, and `pool` is the pool of its request.
#[cfg(not(nginx_linked_headers))]
unsafe fn push(
    array: &mut sys::ngx_array_t,
    pool: *mut sys::ngx_pool_t,
    element: *mut sys::ngx_table_elt_t,
) -> Result<(), NoMemory> {
    // SAFETY: as promised by the caller. Like ngx_http_upstream_copy_multi_header_lines, this creates the array on first use.
    unsafe {
        if array.elts.is_null() {
            let size = size_of::<*mut sys::ngx_table_elt_t>();
            *array = std::mem::zeroed();
            array.elts = sys::ngx_palloc(pool, 2 * size);
            if array.elts.is_null() {
                return Err(NoMemory);
            }
            (array.size, array.nalloc, array.pool) = (size, 2, pool);
        }
        let entry = sys::ngx_array_push(array).cast::<*mut sys::ngx_table_elt_t>();
        if entry.is_null() {
            return Err(NoMemory);
        }
        *entry = element;
    }
    Ok(())
}

/// Returns the length of the media type, and the range of the value of its `charset` parameter.
fn split_charset(value: &[u8]) -> (usize, Option<Range<usize>>) {
    const NAME: &[u8] = b"charset=";
    let mut semicolons = value.iter().enumerate().filter(|(_, byte)| **byte == b';').map(|(index, _)| index);
    let found = semicolons.find_map(|semicolon| {
        let spaces = value[semicolon + 1..].iter().take_while(|byte| **byte == b' ').count();
        let start = semicolon + 1 + spaces;
        let is_charset = value.get(start..start + NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME));
        is_charset.then_some((semicolon, start + NAME.len()))
    });
    let Some((semicolon, start)) = found else { return (value.len(), None) };
    let length = value[start..].iter().take_while(|byte| **byte != b';').count();
    let quoted = &value[start..start + length];
    let charset = match quoted.strip_prefix(b"\"").map(|rest| rest.strip_suffix(b"\"").unwrap_or(rest)) {
        Some(unquoted) => start + 1..start + 1 + unquoted.len(),
        None => start..start + length,
    };
    (semicolon, Some(charset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn charset(value: &str) -> (&str, Option<&str>) {
        let (length, charset) = split_charset(value.as_bytes());
        (&value[..length], charset.map(|range| &value[range]))
    }

    #[test]
    fn a_charset_is_separated_from_its_media_type() {
        assert_eq!(charset("text/html; charset=utf-8"), ("text/html", Some("utf-8")));
        assert_eq!(charset("text/html;Charset=\"koi8-r\""), ("text/html", Some("koi8-r")));
        assert_eq!(charset("text/html; charset=utf-8; a=b"), ("text/html", Some("utf-8")));
        assert_eq!(charset("text/html"), ("text/html", None));
        assert_eq!(charset("multipart/mixed; boundary=x"), ("multipart/mixed; boundary=x", None));
        assert_eq!(charset(""), ("", None));
        assert_eq!(charset(";"), (";", None));
        assert_eq!(charset("a;charset="), ("a", Some("")));
    }
}
