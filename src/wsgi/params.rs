//! The CGI parameters of a request: plain data, made on the event loop, read by the thread that runs the call.

use std::borrow::Cow;
use std::io::Write;

use super::header_keys;

macro_rules! variables {
    ($($variable:ident = $name:literal $tag:literal,)*) => {
        /// A CGI variable that the server sets itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Variable {
            $($variable,)*
        }

        impl Variable {
            /// All variables, by their numbers.
            const ALL: &[Self] = &[$(Self::$variable,)*];
            /// Their names, in the same order.
            pub const NAMES: [&'static str; Self::ALL.len()] = [$($name,)*];

            /// Returns the tag in the [wire format](super::wire).
            pub fn tag(self) -> u8 {
                match self {
                    $(Self::$variable => $tag,)*
                }
            }

            /// Returns the variable of a tag.
            pub fn with_tag(tag: u8) -> Option<Self> {
                match tag {
                    $($tag => Some(Self::$variable),)*
                    _ => None,
                }
            }

            /// Returns all variables.
            #[cfg(test)]
            pub fn all() -> &'static [Self] {
                Self::ALL
            }
        }
    };
}

variables! {
    RequestMethod = "REQUEST_METHOD" b'M',
    ScriptName = "SCRIPT_NAME" b'S',
    PathInfo = "PATH_INFO" b'P',
    QueryString = "QUERY_STRING" b'Q',
    RequestUri = "REQUEST_URI" b'U',
    RequestScheme = "REQUEST_SCHEME" b's',
    ServerProtocol = "SERVER_PROTOCOL" b'V',
    ServerName = "SERVER_NAME" b'N',
    ServerPort = "SERVER_PORT" b'p',
    DocumentRoot = "DOCUMENT_ROOT" b'D',
    RemoteAddr = "REMOTE_ADDR" b'R',
    RemotePort = "REMOTE_PORT" b'r',
    RemoteUser = "REMOTE_USER" b'u',
    AuthType = "AUTH_TYPE" b'a',
    Https = "HTTPS" b'H',
    ContentLength = "CONTENT_LENGTH" b'L',
    UrlScheme = "wsgi.url_scheme" b'w',
}

/// A key of environ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    Variable(Variable),
    Named(&'a [u8]),
    /// The name of a request header as it was sent. [`header_keys`] has the rules for its key and value.
    Header(&'a [u8]),
}

impl Key<'_> {
    /// Returns the key as it is in environ.
    pub fn name(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Variable(variable) => Variable::NAMES[*variable as usize].as_bytes().into(),
            Self::Named(name) => (*name).into(),
            Self::Header(name) => header_keys::key(name).into(),
        }
    }
}

/// The environ of a request as bytes.
///
/// All keys are in one piece of memory and all values in another: requests with the same keys are found by one comparison
/// ([`EnvironCache`](super::environ_cache::EnvironCache)).
#[derive(Clone, Debug)]
pub struct CgiParams {
    /// For each key its tag, and for a name its length and its bytes.
    keys: Vec<u8>,
    /// The lengths of the values, in the order of the keys.
    lengths: Vec<usize>,
    values: Vec<u8>,
    /// True if the request method is HEAD, so that the response has no body.
    pub is_head: bool,
    /// The low digits of the number of the client's connection.
    pub connection: u32,
}

// Tags of names. A smaller tag is the number of a variable.
const NAMED: u8 = 0x40;
const HEADER: u8 = 0x41;

impl Default for CgiParams {
    fn default() -> Self {
        Self::new(0)
    }
}

impl CgiParams {
    /// Allocates memory for a typical request of this connection.
    pub fn new(connection: u64) -> Self {
        Self {
            keys: Vec::with_capacity(512),
            lengths: Vec::with_capacity(64),
            values: Vec::with_capacity(1024),
            is_head: false,
            connection: connection as u32,
        }
    }

    /// Sets one of the server's variables.
    pub fn set(&mut self, variable: Variable, value: &[u8]) {
        self.keys.push(variable as u8);
        self.push_value(value);
    }

    /// Sets one of the server's variables to a number.
    pub fn set_number(&mut self, variable: Variable, number: u64) {
        self.keys.push(variable as u8);
        let start = self.values.len();
        // Writing to memory does not fail.
        let _ = write!(self.values, "{number}");
        self.lengths.push(self.values.len() - start);
    }

    /// Sets any key; a later value overrides an earlier one.
    pub fn set_named(&mut self, name: &[u8], value: &[u8]) {
        self.push_name(NAMED, name);
        self.push_value(value);
    }

    /// Adds the HTTP headers, except those that are withheld from applications.
    pub fn set_headers<'a>(&mut self, headers: impl Iterator<Item = (&'a [u8], &'a [u8])>, pass_authorization: bool) {
        headers.filter(|(name, _)| !header_keys::is_withheld(name, pass_authorization)).for_each(|(name, value)| {
            self.push_name(HEADER, name);
            self.push_value(header_keys::without_white_space(value));
        });
    }

    /// Adds a header that is not withheld, with white space around its value removed.
    pub fn add_header(&mut self, name: &[u8], value: &[u8]) {
        self.push_name(HEADER, name);
        self.push_value(value);
    }

    /// Returns the last value of a key.
    pub fn value(&self, key: Key<'_>) -> Option<&[u8]> {
        self.iter().filter(|(known, _)| *known == key).last().map(|(_, value)| value)
    }

    fn push_name(&mut self, tag: u8, name: &[u8]) {
        self.keys.push(tag);
        self.keys.extend_from_slice(&name.len().to_ne_bytes());
        self.keys.extend_from_slice(name);
    }

    fn push_value(&mut self, value: &[u8]) {
        self.lengths.push(value.len());
        self.values.extend_from_slice(value);
    }

    /// Returns whether `other` has the same keys in the same order.
    pub fn has_keys_of(&self, other: &Self) -> bool {
        self.keys == other.keys
    }

    /// Returns whether `other`, which has the same keys, has the same values.
    pub fn has_values_of(&self, other: &Self) -> bool {
        self.lengths == other.lengths && self.values == other.values
    }

    /// Returns the length of all keys and values, in bytes.
    pub fn len(&self) -> usize {
        self.keys.len() + self.values.len()
    }

    /// Iterates over the keys in the order they were set.
    pub fn keys(&self) -> impl Iterator<Item = Key<'_>> {
        let mut rest = self.keys.as_slice();
        std::iter::from_fn(move || {
            let (tag, others) = rest.split_first()?;
            rest = others;
            let mut name = || {
                let (length, others) = rest.split_first_chunk()?;
                let (name, others) = others.split_at_checked(usize::from_ne_bytes(*length))?;
                rest = others;
                Some(name)
            };
            Some(match *tag {
                NAMED => Key::Named(name()?),
                HEADER => Key::Header(name()?),
                number => Key::Variable(Variable::ALL[usize::from(number)]),
            })
        })
    }

    /// Iterates over the values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.values.as_slice();
        self.lengths.iter().map_while(move |length| {
            let (value, others) = rest.split_at_checked(*length)?;
            rest = others;
            Some(value)
        })
    }

    /// Iterates over keys and values in the order they were set.
    pub fn iter(&self) -> impl Iterator<Item = (Key<'_>, &[u8])> {
        self.keys().zip(self.values())
    }

    /// Iterates over names and values of the headers, as they were sent.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.iter().filter_map(|(key, value)| match key {
            Key::Header(name) => Some((name, value)),
            Key::Variable(_) | Key::Named(_) => None,
        })
    }

    /// Returns whether the client accepts HTML.
    pub fn accepts_html(&self) -> bool {
        let is_html = |value: &[u8]| value.windows(9).any(|window| window.eq_ignore_ascii_case(b"text/html"));
        self.headers().any(|(name, value)| name.eq_ignore_ascii_case(b"accept") && is_html(value))
    }
}

/// Splits a decoded path into SCRIPT_NAME and PATH_INFO at a mount point.
///
/// The mount point matches whole path segments only: `/api` is not the mount point of `/apiary`. If it does not match,
/// SCRIPT_NAME is empty and PATH_INFO is the whole path.
pub fn split_path<'a>(path: &'a [u8], mount: &[u8]) -> (&'a [u8], &'a [u8]) {
    let mount = mount.strip_suffix(b"/").unwrap_or(mount);
    match path.strip_prefix(mount) {
        Some(rest) if rest.is_empty() || rest[0] == b'/' => path.split_at(mount.len()),
        _ => (&[], path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_returned_in_their_order() {
        let mut params = CgiParams::default();
        params.set(Variable::RequestMethod, b"GET");
        params.set_headers([(&b"X-A"[..], &b" 1\t"[..]), (b"Proxy", b"2")].into_iter(), true);
        params.set_number(Variable::ServerPort, 8080);
        params.set_named(b"K", b"");
        params.set_named(b"", b"v");
        let all: Vec<_> = params.iter().collect();
        assert_eq!(
            all,
            [
                (Key::Variable(Variable::RequestMethod), &b"GET"[..]),
                (Key::Header(b"X-A"), b"1"),
                (Key::Variable(Variable::ServerPort), b"8080"),
                (Key::Named(b"K"), b""),
                (Key::Named(b""), b"v"),
            ]
        );
    }

    #[test]
    fn keys_and_values_are_compared_each_by_itself() {
        let params = |set: &dyn Fn(&mut CgiParams)| {
            let mut params = CgiParams::default();
            set(&mut params);
            params
        };
        let all = [
            params(&|params| params.set_named(b"A", b"BC")),
            params(&|params| params.set_named(b"AB", b"C")),
            params(&|params| params.set_headers([(&b"A"[..], &b"BC"[..])].into_iter(), true)),
            params(&|params| params.set(Variable::ServerName, b"BC")),
            params(&|params| params.set(Variable::PathInfo, b"BC")),
            params(&|_| {}),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(one.has_keys_of(&one.clone()) && one.has_values_of(&one.clone()));
            assert!(all[..index].iter().all(|other| !one.has_keys_of(other)), "{index}");
        }
        let two = |first: &'static [u8], second: &'static [u8]| {
            params(&move |params| {
                params.set(Variable::PathInfo, first);
                params.set(Variable::QueryString, second);
            })
        };
        assert!(two(b"ab", b"c").has_keys_of(&two(b"a", b"bc")));
        assert!(!two(b"ab", b"c").has_values_of(&two(b"a", b"bc")));
    }

    #[test]
    fn html_is_accepted_by_any_accept_header() {
        for (headers, accepts) in [
            (&[("Accept", "*/*"), ("aCCept", "a/b, TEXT/html;q=1")][..], true),
            (&[("Accept", "text/plain"), ("X-Accept", "text/html")], false),
            (&[], false),
        ] {
            let mut params = CgiParams::default();
            params.set_headers(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), true);
            assert_eq!(params.accepts_html(), accepts, "{headers:?}");
        }
    }

    #[test]
    fn a_mount_point_matches_whole_segments_only() {
        let split = |path: &'static str, mount: &str| {
            let (script, info) = split_path(path.as_bytes(), mount.as_bytes());
            (str::from_utf8(script).unwrap(), str::from_utf8(info).unwrap())
        };
        assert_eq!(split("/api/x", "/api"), ("/api", "/x"));
        assert_eq!(split("/api/x", "/api/"), ("/api", "/x"));
        assert_eq!(split("/api", "/api"), ("/api", ""));
        assert_eq!(split("/api/", "/api"), ("/api", "/"));
        assert_eq!(split("/apiary", "/api"), ("", "/apiary"));
        assert_eq!(split("/ap", "/api"), ("", "/ap"));
        assert_eq!(split("/x", "/"), ("", "/x"));
        assert_eq!(split("/x", ""), ("", "/x"));
    }
}
