//! The head of an answer: nginx's header list, and the slots that its filters look at.

use std::ops::Range;

use super::{Request, Status};
use crate::nginx::{bytes, pool_string, sys};

/// Out of memory while a header was added; the request can only fail.
#[derive(Debug)]
pub struct NoMemory;

impl From<NoMemory> for Status {
    fn from(NoMemory: NoMemory) -> Self {
        Self::INTERNAL_SERVER_ERROR
    }
}

impl Request {
    /// The status code, and the whole status line unless nginx is to use its own phrase.
    pub fn set_status(&self, code: u16, line: Option<&[u8]>) -> Result<(), NoMemory> {
        // SAFETY: the text is copied to the pool of the live request.
        unsafe {
            let request = self.as_ptr();
            (*request).headers_out.status = usize::from(code);
            if let Some(line) = line {
                (*request).headers_out.status_line = pool_string((*request).pool, line).ok_or(NoMemory)?;
            }
        }
        Ok(())
    }

    /// The length of the body, which nginx sends itself.
    pub fn set_content_length(&self, length: u64) {
        // SAFETY: a plain field of the live request.
        unsafe { (*self.as_ptr()).headers_out.content_length_n = length as i64 };
    }

    /// The media type, with its charset parted off so that nginx's charset filter sees it.
    ///
    /// Follows `ngx_http_upstream_copy_content_type`.
    pub fn set_content_type(&self, value: &[u8]) -> Result<(), NoMemory> {
        let (length, charset) = split_charset(value);
        // SAFETY: the value is copied to the pool first; the slices below are of that copy.
        unsafe {
            let request = self.as_ptr();
            let text = pool_string((*request).pool, value).ok_or(NoMemory)?;
            let out = &mut (*request).headers_out;
            out.content_type = text;
            // The filters compare this many bytes of the type.
            out.content_type_len = length;
            out.content_type_lowcase = std::ptr::null_mut();
            // Also without one: before a redirect there may have been another type.
            out.charset = charset.map_or(sys::ngx_str_t::empty(), |charset| sys::ngx_str_t {
                data: text.data.add(charset.start),
                len: charset.len(),
            });
        }
        Ok(())
    }

    /// Adds a header, and puts it into the slot of its name if nginx has one.
    pub fn add_header(&self, name: &[u8], value: &[u8]) -> Result<(), NoMemory> {
        // SAFETY: both texts are copied to the pool; the element is complete before anybody reads the list.
        unsafe {
            let request = self.as_ptr();
            let key = pool_string((*request).pool, name).ok_or(NoMemory)?;
            let text = pool_string((*request).pool, value).ok_or(NoMemory)?;
            let element = sys::ngx_list_push(&raw mut (*request).headers_out.headers).cast::<sys::ngx_table_elt_t>();
            if element.is_null() {
                return Err(NoMemory);
            }
            element.write(std::mem::zeroed());
            (*element).hash = 1;
            (*element).key = key;
            (*element).value = text;
            fill_slot(&mut (*request).headers_out, element)
        }
    }

    /// Lets the charset filter make this the charset of the answer, `off` none of its own.
    pub fn override_charset(&self, charset: &[u8]) -> Result<(), NoMemory> {
        // SAFETY: text and string are in the pool of the live request, where the filter finds them later.
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

    /// How many bytes a second nginx sends of this answer, 0 for as many as it can; `limit_rate` no longer counts.
    pub fn set_limit_rate(&self, rate: usize) {
        // SAFETY: a plain field of the live request.
        unsafe { (*self.as_ptr()).limit_rate = rate };
        self.set_limit_rate_set(1);
    }

    /// Lets nginx answer `Range` requests from this answer; several ranges at once only if the body `is_whole`, in one
    /// buffer.
    pub fn allow_ranges(&self, is_whole: bool) {
        self.set_allow_ranges(1);
        self.set_single_range(u32::from(!is_whole));
    }

    /// Takes the conditions of the request from nginx, but for those of a GET or HEAD that may be answered 304.
    ///
    /// They are the application's to judge before it acts. Once it has acted, a 412 of `ngx_http_not_modified_filter` would
    /// deny a change that was made. The headers themselves stay in the list of the request.
    pub fn leave_conditions_to_application(&self) {
        let is_read_only = self.is_head() || self.get().method == sys::NGX_HTTP_GET as usize;
        // SAFETY: plain fields of the live request, which point into its list of headers or are null.
        unsafe {
            let headers = &mut (*self.as_ptr()).headers_in;
            headers.if_match = std::ptr::null_mut();
            headers.if_unmodified_since = std::ptr::null_mut();
            if !is_read_only {
                headers.if_none_match = std::ptr::null_mut();
                headers.if_modified_since = std::ptr::null_mut();
                // nginx has ranges of any method, HTTP those of GET (RFC 9110, section 14.2).
                headers.range = std::ptr::null_mut();
            }
        }
    }

    /// Takes the conditions and ranges of a request that was no GET out of its headers, where it goes on as one: they are not
    /// for what is shown then, and a server behind the next location would judge them, and answer 412, as nginx would.
    ///
    /// # Errors
    /// When nginx has no memory.
    pub(super) fn drop_conditions(&self) -> Result<(), NoMemory> {
        const JUDGED: [&str; 6] =
            ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "range"];
        // SAFETY: the live request's own list: a chain of parts of nelts elements. What points to an element keeps it, as the
        // new list has copies, in one part: its `last` is that part, in the place where the request has it.
        unsafe {
            let request = self.as_ptr();
            let headers = &mut (*request).headers_in.headers;
            let parts = std::iter::successors(Some(&headers.part), |part| part.next.as_ref());
            let count: usize = parts.clone().map(|part| part.nelts).sum();
            let list = sys::ngx_list_create((*request).pool, count.max(1), size_of::<sys::ngx_table_elt_t>());
            if list.is_null() {
                return Err(NoMemory);
            }
            for part in parts {
                for index in 0..part.nelts {
                    let element = part.elts.cast::<sys::ngx_table_elt_t>().add(index);
                    let name = bytes((*element).key);
                    if !JUDGED.iter().any(|judged| judged.as_bytes().eq_ignore_ascii_case(name)) {
                        // There is room for all.
                        sys::ngx_list_push(list).cast::<sys::ngx_table_elt_t>().copy_from_nonoverlapping(element, 1);
                    }
                }
            }
            *headers = *list;
            headers.last = &raw mut headers.part;
        }
        Ok(())
    }

    /// Lets nginx send this response whole, whatever version the client has.
    pub fn send_though_not_modified(&self) {
        self.set_disable_not_modified(1);
    }

    /// Whether the client asks for more than one range.
    pub fn wants_several_ranges(&self) -> bool {
        // SAFETY: null or a header of the live request.
        unsafe {
            let range = (*self.as_ptr()).headers_in.range;
            !range.is_null() && bytes((*range).value).contains(&b',')
        }
    }

    /// Tells the client that its connection ends with this answer.
    pub fn end_connection(&self) {
        self.set_keepalive(0);
    }

    /// Hands the head to nginx's filters.
    ///
    /// # Errors
    /// The status to finalize the request with.
    pub fn send_header(&self) -> Result<(), Status> {
        // SAFETY: called once a request.
        let result = unsafe { sys::ngx_http_send_header(self.as_ptr()) };
        if result == Status::ERROR.0 || result > Status::OK.0 { Err(Status(result)) } else { Ok(()) }
    }
}

/// # Safety
/// `element` is a complete element of `out`'s header list.
unsafe fn fill_slot(out: &mut sys::ngx_http_headers_out_t, element: *mut sys::ngx_table_elt_t) -> Result<(), NoMemory> {
    // SAFETY: by the caller's promise.
    let (name, value) = unsafe { (bytes((*element).key), (*element).value) };
    let slot = match name.to_ascii_lowercase().as_slice() {
        b"server" => &mut out.server,
        b"date" => &mut out.date,
        b"content-encoding" => &mut out.content_encoding,
        // nginx makes an absolute URL of a path in this slot; an application's answer stays as it is.
        // SAFETY: as above.
        b"location" if unsafe { bytes(value) }.first() != Some(&b'/') => &mut out.location,
        b"refresh" => &mut out.refresh,
        b"last-modified" => {
            // SAFETY: as above; nginx's parser does not write.
            out.last_modified_time = unsafe { sys::ngx_parse_http_time(value.data, value.len) };
            &mut out.last_modified
        }
        b"content-range" => &mut out.content_range,
        b"accept-ranges" => &mut out.accept_ranges,
        b"www-authenticate" => &mut out.www_authenticate,
        b"expires" => &mut out.expires,
        b"etag" => &mut out.etag,
        // SAFETY: as above.
        b"cache-control" => return unsafe { push(&mut out.cache_control, out.headers.pool, element) },
        // SAFETY: as above.
        b"link" => return unsafe { push(&mut out.link, out.headers.pool, element) },
        _ => return Ok(()),
    };
    // SAFETY: a slot is null or the first header of that name.
    unsafe { link(slot, element) };
    Ok(())
}

/// # Safety
/// `slot` is null or points to elements of the same list as `element`.
unsafe fn link(slot: &mut *mut sys::ngx_table_elt_t, element: *mut sys::ngx_table_elt_t) {
    #[cfg(nginx_linked_headers)]
    {
        let mut last: *mut *mut sys::ngx_table_elt_t = slot;
        // SAFETY: elements of one name are a null-terminated list from 1.23.0 on.
        unsafe {
            while !(*last).is_null() {
                last = &raw mut (**last).next;
            }
            *last = element;
        }
    }
    #[cfg(not(nginx_linked_headers))]
    if slot.is_null() {
        *slot = element;
    }
}

#[cfg(nginx_linked_headers)]
unsafe fn push(
    slot: &mut *mut sys::ngx_table_elt_t,
    _pool: *mut sys::ngx_pool_t,
    element: *mut sys::ngx_table_elt_t,
) -> Result<(), NoMemory> {
    // SAFETY: by the caller's promise.
    unsafe { link(slot, element) };
    Ok(())
}

/// # Safety
/// `array` is zeroed or an array of element pointers, `pool` the pool of its request.
#[cfg(not(nginx_linked_headers))]
unsafe fn push(
    array: &mut sys::ngx_array_t,
    pool: *mut sys::ngx_pool_t,
    element: *mut sys::ngx_table_elt_t,
) -> Result<(), NoMemory> {
    // SAFETY: as ngx_http_upstream_copy_multi_header_lines: the array is made when it is first needed.
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

/// Where the media type ends, and where the value of its `charset` parameter is if it has one.
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
    fn a_charset_is_parted_from_its_media_type() {
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
