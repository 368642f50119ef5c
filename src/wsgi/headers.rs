//! Status and headers of a response, checked by the rules of PEP 3333 and RFC 9110 when `start_response` is called.

use std::ops::Range;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};
use thiserror::Error;

use crate::python::text::latin1_bytes;

/// Status and headers of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHeaders {
    pub status: u16,
    pub content_length: Option<u64>,
    /// Names of hop-by-hop headers that were dropped.
    pub dropped: Vec<String>,
    /// True if this is the page of `wsgi_debug`, which no error page replaces.
    pub is_report: bool,
    /// The status line, then the headers in the application's order, without Content-Length and hop-by-hop headers. One
    /// block, so that a response allocates once, and is copied to nginx's memory once.
    ///
    /// A header is the lengths of its name and of its value, the name, and the value. A NUL follows each text, as nginx
    /// expects of its strings.
    text: Vec<u8>,
    status_line_length: usize,
    names: NameFilter,
}

/// The place of a header in [`ResponseHeaders::text`].
pub struct Field {
    pub name: Range<usize>,
    pub value: Range<usize>,
}

/// A filter over header names: says at once of most names that are looked for that they are not among some others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NameFilter(u64);

impl NameFilter {
    /// Returns the filter of `names`.
    pub const fn of(names: &[&str]) -> Self {
        let mut filter = Self(0);
        let mut index = 0;
        while index < names.len() {
            filter.add(names[index].as_bytes());
            index += 1;
        }
        filter
    }

    /// Adds a name.
    pub const fn add(&mut self, name: &[u8]) {
        self.0 |= Self::bit(name);
    }

    /// Returns false if the name was not added, in any case of its letters.
    pub const fn may_have(self, name: &[u8]) -> bool {
        self.0 & Self::bit(name) != 0
    }

    /// Returns the bit of all names with this length and this first letter.
    const fn bit(name: &[u8]) -> u64 {
        let first = if let Some(first) = name.first() { first.to_ascii_lowercase() as usize } else { 0 };
        // An odd factor spreads the letters over all bits.
        1 << ((name.len() + 11 * first) % 64)
    }
}

/// The reason why a status or a header was refused.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum InvalidHeader {
    #[error("invalid status {status:?}: {reason}")]
    Status { status: String, reason: &'static str },
    #[error("invalid header name {0:?}")]
    Name(String),
    /// The value is left out, as it may be an attack on the log.
    #[error("the value of header {0:?} holds a control character")]
    Value(String),
    #[error("invalid Content-Length {0:?}")]
    ContentLength(String),
    #[error("Content-Length is given twice")]
    DuplicateContentLength,
}

/// Size of the two lengths before a header.
const LENGTHS: usize = 2 * size_of::<usize>();

/// Space for a header of usual size.
const USUAL_HEADER: usize = 64;

/// Headers about the connection, which belongs to the server (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

const HOP_BY_HOP_FILTER: NameFilter = NameFilter::of(&HOP_BY_HOP);

impl ResponseHeaders {
    /// Creates a response with this status and no headers.
    ///
    /// # Errors
    /// The status is not three digits, alone or followed by a space and a reason phrase; it is informational (only the
    /// server sends those); or it contains a control character.
    pub fn new(status: &[u8]) -> Result<Self, InvalidHeader> {
        Self::with_room(status, 1)
    }

    /// Creates a response as [`ResponseHeaders::new`] does, with room for some headers.
    fn with_room(status: &[u8], headers: usize) -> Result<Self, InvalidHeader> {
        let invalid = |reason| {
            let status = String::from_utf8_lossy(status).into_owned();
            Err(InvalidHeader::Status { status, reason })
        };
        if has_control_character(status) || status.contains(&b'\t') {
            return invalid("it holds a control character");
        }
        let [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', phrase @ ..] = status else {
            return invalid("it must begin with three digits");
        };
        let digit = |byte: &u8| u16::from(byte - b'0');
        let code = digit(a) * 100 + digit(b) * 10 + digit(c);
        if !(phrase.is_empty() || phrase.starts_with(b" ")) {
            return invalid("a space must follow the three digits");
        }
        if code < 200 {
            return invalid("an informational response cannot be the final one");
        }
        let line = if phrase.trim_ascii().is_empty() { &[] } else { status };
        Ok(Self::empty(code, line, headers))
    }

    /// Creates a response with this status, which leaves the reason phrase to the server, and no headers.
    pub fn with_status(status: u16) -> Self {
        Self::empty(status, &[], 1)
    }

    fn empty(status: u16, line: &[u8], headers: usize) -> Self {
        let mut text = Vec::with_capacity(line.len() + 1 + headers * USUAL_HEADER);
        push_text(&mut text, line);
        Self {
            status,
            content_length: None,
            dropped: Vec::new(),
            is_report: false,
            text,
            status_line_length: line.len(),
            names: NameFilter::default(),
        }
    }

    /// Adds one header.
    ///
    /// # Errors
    /// The name is no token, the value contains a control character, or Content-Length is no number or a duplicate.
    pub fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), InvalidHeader> {
        let shown = || String::from_utf8_lossy(name).into_owned();
        if !is_header_name(name) {
            return Err(InvalidHeader::Name(shown()));
        }
        if has_control_character(value) {
            return Err(InvalidHeader::Value(shown()));
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            return self.set_content_length(value);
        }
        if HOP_BY_HOP_FILTER.may_have(name) && HOP_BY_HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop.as_bytes())) {
            self.dropped.push(shown());
            return Ok(());
        }
        self.push(name, value);
        Ok(())
    }

    /// Adds a header that is known to be valid.
    pub fn push(&mut self, name: &[u8], value: &[u8]) {
        self.names.add(name);
        self.text.reserve(LENGTHS + name.len() + value.len() + 2);
        let mut lengths = [0; LENGTHS];
        lengths[..LENGTHS / 2].copy_from_slice(&name.len().to_ne_bytes());
        lengths[LENGTHS / 2..].copy_from_slice(&value.len().to_ne_bytes());
        self.text.extend_from_slice(&lengths);
        push_text(&mut self.text, name);
        push_text(&mut self.text, value);
    }

    fn set_content_length(&mut self, value: &[u8]) -> Result<(), InvalidHeader> {
        let text = str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let length = text.and_then(|text| text.parse::<u64>().ok()).filter(|length| *length <= i64::MAX as u64);
        let Some(length) = length else {
            return Err(InvalidHeader::ContentLength(String::from_utf8_lossy(value).into_owned()));
        };
        if self.content_length.replace(length).is_some() {
            return Err(InvalidHeader::DuplicateContentLength);
        }
        Ok(())
    }

    /// Returns the status line without the protocol, `404 Not Found`; `None` leaves the phrase to the server.
    pub fn status_line(&self) -> Option<Range<usize>> {
        (self.status_line_length > 0).then_some(0..self.status_line_length)
    }

    /// Returns the text that [`ResponseHeaders::status_line`] and [`ResponseHeaders::fields`] are places in.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Returns the headers, in the application's order.
    pub fn fields(&self) -> impl Iterator<Item = Field> {
        let mut start = self.status_line_length + 1;
        std::iter::from_fn(move || {
            let (name_length, lengths) = self.text.get(start..)?.split_first_chunk()?;
            let (value_length, _) = lengths.split_first_chunk()?;
            let name = start + LENGTHS;
            let value = name + usize::from_ne_bytes(*name_length) + 1;
            let end = value + usize::from_ne_bytes(*value_length);
            start = end + 1;
            Some(Field { name: name..value - 1, value: value..end })
        })
    }

    /// Returns names and values of the headers, in the application's order.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields().map(|Field { name, value }| (&self.text[name], &self.text[value]))
    }

    /// Returns the value of the first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        if !self.names.may_have(name.as_bytes()) {
            return None;
        }
        let found = self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()));
        found.map(|(_, value)| value)
    }

    /// Returns the target of an internal redirect, which discards the body of this response.
    pub fn redirect(&self) -> Option<&[u8]> {
        self.header("X-Accel-Redirect")
    }

    /// Returns whether a response with this status can have a body (RFC 9110, section 6.4.1).
    pub fn has_body(&self) -> bool {
        !matches!(self.status, 204 | 304)
    }

    /// Creates status and headers from the arguments of `start_response`.
    ///
    /// # Errors
    /// `TypeError` for anything that is not `str`, a list, or a pair; `ValueError` for an [`InvalidHeader`].
    pub fn from_python(status: &Bound<'_, PyAny>, headers: &Bound<'_, PyAny>) -> PyResult<Self> {
        let value_error = |error: InvalidHeader| PyValueError::new_err(error.to_string());
        let status = bytes_of(native_string(status, "status")?, "status")?;
        let Ok(list) = headers.cast::<PyList>() else {
            // The status comes first, also in what is refused.
            Self::new(status).map_err(value_error)?;
            return Err(type_error("headers", "a list of tuples", headers));
        };
        let mut response = Self::with_room(status, list.len()).map_err(value_error)?;
        for item in list.iter() {
            let Ok(pair) = item.cast::<PyTuple>() else {
                return Err(type_error("a header", "a tuple (name, value)", &item));
            };
            if pair.len() != 2 {
                let message = format!("a header must be a tuple (name, value), not one of {} items", pair.len());
                return Err(PyTypeError::new_err(message));
            }
            let (name, value) = (pair.get_borrowed_item(0)?, pair.get_borrowed_item(1)?);
            let name = native_string(&name, "a header name")?;
            let value = native_string(&value, "a header value")?;
            response.add(bytes_of(name, "a header name")?, bytes_of(value, "a header value")?).map_err(value_error)?;
        }
        Ok(response)
    }
}

/// Appends `part` and a NUL.
fn push_text(text: &mut Vec<u8>, part: &[u8]) {
    text.extend_from_slice(part);
    text.push(0);
}

/// Returns whether `name` is a valid header name: a `token` of RFC 9110.
pub fn is_header_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().fold(true, |valid, byte| valid & IS_TOKEN[usize::from(*byte)])
}

/// The bytes that may be part of a `token` of RFC 9110.
static IS_TOKEN: [bool; 256] = {
    let mut is_token = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        is_token[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < marks.len() {
        is_token[marks[index] as usize] = true;
        index += 1;
    }
    is_token
};

/// Returns whether `value` has a control character that no header value may have. Looks at all bytes, so that the
/// compiler compares many at once.
fn has_control_character(value: &[u8]) -> bool {
    value.iter().fold(false, |found, byte| found | (*byte < b' ' && *byte != b'\t') | (*byte == 0x7f))
}

fn native_string<'a, 'py>(object: &'a Bound<'py, PyAny>, what: &str) -> PyResult<&'a Bound<'py, PyString>> {
    object.cast::<PyString>().map_err(|_| type_error(what, "a str", object))
}

fn bytes_of<'a>(string: &'a Bound<'_, PyString>, what: &str) -> PyResult<&'a [u8]> {
    latin1_bytes(string)
        .ok_or_else(|| PyValueError::new_err(format!("{what} holds a character above U+00FF, which HTTP cannot carry")))
}

fn type_error(what: &str, expected: &str, found: &Bound<'_, PyAny>) -> PyErr {
    let found = found.get_type().name().map(|name| name.to_string()).unwrap_or_default();
    PyTypeError::new_err(format!("{what} must be {expected}, not {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_three_digits_and_perhaps_a_phrase() {
        let response = ResponseHeaders::new(b"404 Not Found").unwrap();
        let line = response.status_line().map(|line| &response.text()[line]);
        assert_eq!((response.status, line), (404, Some(&b"404 Not Found"[..])));
        assert_eq!(ResponseHeaders::new(b"200").unwrap().status_line(), None);
        assert_eq!(ResponseHeaders::new(b"200 ").unwrap().status_line(), None);
        for refused in ["", "2", "20", "2000", "200OK", "abc", "100 Continue", "200 a\r\nb", "+20 x", "200 \0"] {
            assert!(ResponseHeaders::new(refused.as_bytes()).is_err(), "{refused:?}");
        }
    }

    #[test]
    fn every_control_character_is_refused_in_names_and_values() {
        for byte in (0..=31).chain([127]) {
            let mut response = ResponseHeaders::new(b"200 OK").unwrap();
            assert!(response.add(&[b'a', byte], b"v").is_err(), "name {byte}");
            assert_eq!(response.add(b"a", &[b'v', byte]).is_ok(), byte == b'\t', "value {byte}");
        }
    }

    #[test]
    fn content_length_is_one_number() {
        for (value, valid) in [
            ("0", true),
            ("12", true),
            ("+1", false),
            ("1 ", false),
            ("-1", false),
            ("", false),
            ("99999999999999999999", false),
        ] {
            let mut response = ResponseHeaders::new(b"200 OK").unwrap();
            assert_eq!(response.add(b"Content-Length", value.as_bytes()).is_ok(), valid, "{value:?}");
        }
        let mut response = ResponseHeaders::new(b"200 OK").unwrap();
        response.add(b"content-length", b"1").unwrap();
        assert!(response.add(b"Content-Length", b"1").is_err());
    }

    #[test]
    fn hop_by_hop_headers_are_dropped_and_repeated_ones_kept() {
        let mut response = ResponseHeaders::new(b"200 OK").unwrap();
        for (name, value) in [("Connection", "close"), ("Set-Cookie", "a"), ("Set-Cookie", "b")] {
            response.add(name.as_bytes(), value.as_bytes()).unwrap();
        }
        assert_eq!(response.dropped, ["Connection"]);
        assert_eq!(response.headers().count(), 2);
    }

    #[test]
    fn headers_keep_their_order_and_a_nul_follows_each_text() {
        for status in ["200", "200 OK"] {
            let mut response = ResponseHeaders::new(status.as_bytes()).unwrap();
            let headers = [("A", ""), ("Bb", "value"), ("A", "b\tc")];
            let headers = headers.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
            headers.iter().for_each(|(name, value)| response.add(name, value).unwrap());
            assert!(response.headers().eq(headers));
            for Field { name, value } in response.fields() {
                assert_eq!((response.text()[name.end], response.text()[value.end]), (0, 0));
            }
        }
    }

    #[test]
    fn a_header_is_found_by_its_name_in_any_case() {
        let mut response = ResponseHeaders::new(b"200 OK").unwrap();
        assert_eq!((response.header("Set-Cookie"), response.redirect()), (None, None));
        for (name, value) in [("Set-Cookie2", "x"), ("set-cookie", "a"), ("Set-Cookie", "b"), ("X-ACCEL-Redirect", "")]
        {
            response.add(name.as_bytes(), value.as_bytes()).unwrap();
        }
        assert_eq!(response.header("Set-Cookie"), Some(&b"a"[..]));
        assert_eq!(response.redirect(), Some(&b""[..]));
    }
}
