//! The CGI parameters of a request: plain data, made on the event loop, read by the thread that runs the call.

use std::ops::Range;

/// A CGI variable that the server sets itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Variable {
    RequestMethod,
    ScriptName,
    PathInfo,
    QueryString,
    RequestUri,
    RequestScheme,
    ServerProtocol,
    ServerName,
    ServerPort,
    DocumentRoot,
    RemoteAddr,
    RemotePort,
    RemoteUser,
    AuthType,
    Https,
    ContentType,
    ContentLength,
    UrlScheme,
}

impl Variable {
    /// Their names, in the order of the variants.
    pub const NAMES: [&'static str; 18] = [
        "REQUEST_METHOD",
        "SCRIPT_NAME",
        "PATH_INFO",
        "QUERY_STRING",
        "REQUEST_URI",
        "REQUEST_SCHEME",
        "SERVER_PROTOCOL",
        "SERVER_NAME",
        "SERVER_PORT",
        "DOCUMENT_ROOT",
        "REMOTE_ADDR",
        "REMOTE_PORT",
        "REMOTE_USER",
        "AUTH_TYPE",
        "HTTPS",
        "CONTENT_TYPE",
        "CONTENT_LENGTH",
        "wsgi.url_scheme",
    ];
}

/// A key of environ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    Variable(Variable),
    Named(&'a [u8]),
}

/// The environ of a request as bytes, in one piece of memory.
#[derive(Debug, Default)]
pub struct CgiParams {
    arena: Vec<u8>,
    entries: Vec<Entry>,
    /// True if the request method is HEAD, so that the response has no body.
    pub is_head: bool,
    /// True if the client accepts HTML.
    pub accepts_html: bool,
}

#[derive(Debug)]
struct Entry {
    key: StoredKey,
    value: Range<usize>,
}

#[derive(Debug)]
enum StoredKey {
    Variable(Variable),
    Named(Range<usize>),
}

impl CgiParams {
    /// Allocates memory for a typical request.
    pub fn new() -> Self {
        Self { arena: Vec::with_capacity(2048), entries: Vec::with_capacity(40), ..Self::default() }
    }

    /// Sets one of the server's variables.
    pub fn set(&mut self, variable: Variable, value: &[u8]) {
        let value = self.store(value);
        self.entries.push(Entry { key: StoredKey::Variable(variable), value });
    }

    /// Sets any key; a later value overrides an earlier one.
    pub fn set_named(&mut self, name: &[u8], value: &[u8]) {
        let name = self.store(name);
        let value = self.store(value);
        self.entries.push(Entry { key: StoredKey::Named(name), value });
    }

    /// Adds the HTTP headers as CONTENT_TYPE and HTTP_ variables (RFC 3875, section 4.1.18).
    ///
    /// White space around a value is removed. Repeated headers are joined, cookies by `; ` and others by `, `. Left out
    /// are Content-Length and Transfer-Encoding, as the body is passed decoded; `Proxy`, which CGI programs mistake for
    /// HTTP_PROXY; and a name with an underscore if the same name with a hyphen is present, as both have one key.
    pub fn set_headers<'a>(&mut self, headers: impl Iterator<Item = (&'a [u8], &'a [u8])>, pass_authorization: bool) {
        let mut fields: Vec<Field> = headers
            .filter(|(name, _)| !is_withheld(name, pass_authorization))
            .map(|(name, value)| Field {
                key: self.store_key(name),
                has_underscore: name.contains(&b'_'),
                value: without_white_space(value),
            })
            .collect();
        let arena = &self.arena;
        // Stable: repeated headers stay in their order.
        fields.sort_by(|a, b| arena[a.key.clone()].cmp(&arena[b.key.clone()]));
        let mut rest = fields.as_slice();
        while let Some(first) = rest.first() {
            let key = &self.arena[first.key.clone()];
            let same = rest.iter().take_while(|field| self.arena[field.key.clone()] == *key).count();
            let (group, others) = rest.split_at(same);
            self.set_joined(group);
            rest = others;
        }
    }

    fn set_joined(&mut self, group: &[Field]) {
        let key = group[0].key.clone();
        let hyphens_only = group.iter().any(|field| !field.has_underscore);
        let mut values = group.iter().filter(|field| !(hyphens_only && field.has_underscore)).map(|field| field.value);
        let name = &self.arena[key.clone()];
        let single = matches!(name, b"HTTP_HOST" | b"HTTP_AUTHORIZATION" | b"HTTP_CONTENT_TYPE");
        let separator: &[u8] = if name == b"HTTP_COOKIE" { b"; " } else { b", " };
        let is_accept = name == b"HTTP_ACCEPT";
        let is_content_type = name == b"HTTP_CONTENT_TYPE";

        let start = self.arena.len();
        self.arena.extend_from_slice(values.next().unwrap_or_default());
        if !single {
            for value in values {
                self.arena.extend_from_slice(separator);
                self.arena.extend_from_slice(value);
            }
        }
        let value = start..self.arena.len();
        if is_accept {
            self.accepts_html = contains(&self.arena[value.clone()], b"text/html");
        }
        let key = if is_content_type { StoredKey::Variable(Variable::ContentType) } else { StoredKey::Named(key) };
        self.entries.push(Entry { key, value });
    }

    fn store(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.arena.len();
        self.arena.extend_from_slice(bytes);
        start..self.arena.len()
    }

    fn store_key(&mut self, header: &[u8]) -> Range<usize> {
        let start = self.arena.len();
        self.arena.extend_from_slice(b"HTTP_");
        self.arena.extend(header.iter().map(|byte| match byte {
            b'-' => b'_',
            other => other.to_ascii_uppercase(),
        }));
        start..self.arena.len()
    }

    /// Iterates over the entries in the order they were set.
    pub fn iter(&self) -> impl Iterator<Item = (Key<'_>, &[u8])> {
        self.entries.iter().map(|entry| {
            let key = match &entry.key {
                StoredKey::Variable(variable) => Key::Variable(*variable),
                StoredKey::Named(range) => Key::Named(&self.arena[range.clone()]),
            };
            (key, &self.arena[entry.value.clone()])
        })
    }
}

struct Field<'a> {
    key: Range<usize>,
    has_underscore: bool,
    value: &'a [u8],
}

fn is_withheld(name: &[u8], pass_authorization: bool) -> bool {
    let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
    match name.len() {
        5 => is(b"proxy"),
        12 => name.contains(&b'_') && is(b"content_type"),
        13 => !pass_authorization && is(b"authorization"),
        14 => is(b"content-length") || is(b"content_length"),
        17 => is(b"transfer-encoding") || is(b"transfer_encoding"),
        _ => false,
    }
}

/// Removes spaces and tabs around a value (RFC 9110, section 5.5); nginx removes spaces only.
fn without_white_space(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
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

    fn headers(list: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut params = CgiParams::new();
        params.set_headers(list.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())), true);
        params
            .iter()
            .map(|(key, value)| {
                let key = match key {
                    Key::Variable(variable) => Variable::NAMES[variable as usize].to_owned(),
                    Key::Named(name) => String::from_utf8_lossy(name).into_owned(),
                };
                (key, String::from_utf8_lossy(value).into_owned())
            })
            .collect()
    }

    fn expect(list: &[(&str, &str)], expected: &[(&str, &str)]) {
        let expected: Vec<_> = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(headers(list), expected);
    }

    #[test]
    fn repeated_headers_are_joined_in_order() {
        expect(
            &[("X-B", "1"), ("cookie", "a=1"), ("x-b", "2"), ("Cookie", "b=2"), ("Host", "h"), ("Host", "i")],
            &[("HTTP_COOKIE", "a=1; b=2"), ("HTTP_HOST", "h"), ("HTTP_X_B", "1, 2")],
        );
    }

    #[test]
    fn white_space_around_a_value_is_removed() {
        expect(
            &[("A", "\t x\ty \t"), ("B", " \t"), ("C", "1\t"), ("C", "\t2"), ("Content-Type", "\tt/p")],
            &[("HTTP_A", "x\ty"), ("HTTP_B", ""), ("HTTP_C", "1, 2"), ("CONTENT_TYPE", "t/p")],
        );
    }

    #[test]
    fn proxy_and_body_framing_headers_are_left_out() {
        expect(
            &[("Proxy", "x"), ("Content-Length", "3"), ("Transfer-Encoding", "chunked"), ("Content-Type", "t/p")],
            &[("CONTENT_TYPE", "t/p")],
        );
    }

    #[test]
    fn a_name_with_a_hyphen_overrides_one_with_an_underscore() {
        expect(&[("X_User", "forged"), ("X-User", "real")], &[("HTTP_X_USER", "real")]);
        expect(&[("X-User", "real"), ("X_User", "forged")], &[("HTTP_X_USER", "real")]);
        expect(&[("X_User", "alone")], &[("HTTP_X_USER", "alone")]);
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

    #[test]
    fn every_variable_has_a_name() {
        assert_eq!(Variable::NAMES[Variable::UrlScheme as usize], "wsgi.url_scheme");
        assert_eq!(Variable::NAMES[Variable::ContentLength as usize], "CONTENT_LENGTH");
    }
}
