//! Keys and values of environ for the headers of a request (RFC 3875, section 4.1.18).

/// Returns true for a header that applications do not get: Content-Length and Transfer-Encoding, as the body is passed
/// decoded; `Proxy`, which CGI programs mistake for HTTP_PROXY; and Authorization, unless it is passed.
pub fn is_withheld(name: &[u8], pass_authorization: bool) -> bool {
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

/// Returns the key of a header: CONTENT_TYPE, or its name after HTTP_.
pub fn key(name: &[u8]) -> Vec<u8> {
    let prefix: &[u8] = if name.eq_ignore_ascii_case(b"content-type") { b"" } else { b"HTTP_" };
    let upper = name.iter().map(|byte| match byte {
        b'-' => b'_',
        other => other.to_ascii_uppercase(),
    });
    prefix.iter().copied().chain(upper).collect()
}

/// Removes spaces and tabs around a value (RFC 9110, section 5.5); nginx removes spaces only.
pub fn without_white_space(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Returns keys and values of all headers, each key once.
///
/// Repeated headers are joined in their order, cookies by `; ` and others by `, `; of some only the first counts. A name
/// with an underscore is left out if the same name with a hyphen is present, as both have one key.
pub fn joined<'a>(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut fields: Vec<Field> =
        headers.map(|(name, value)| Field { key: key(name), has_underscore: name.contains(&b'_'), value }).collect();
    // Stable: repeated headers stay in their order.
    fields.sort_by(|a, b| a.key.cmp(&b.key));
    fields.chunk_by(|a, b| a.key == b.key).map(|group| (group[0].key.clone(), join(group))).collect()
}

struct Field<'a> {
    key: Vec<u8>,
    has_underscore: bool,
    value: &'a [u8],
}

/// Joins the values of the fields of one key.
fn join(group: &[Field]) -> Vec<u8> {
    let hyphens_only = group.iter().any(|field| !field.has_underscore);
    let values = group.iter().filter(|field| !(hyphens_only && field.has_underscore)).map(|field| field.value);
    let (count, separator): (_, &[u8]) = match group[0].key.as_slice() {
        b"HTTP_HOST" | b"HTTP_AUTHORIZATION" | b"CONTENT_TYPE" => (1, b""),
        b"HTTP_COOKIE" => (usize::MAX, b"; "),
        _ => (usize::MAX, b", "),
    };
    values.take(count).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(list: &[(&str, &str)], expected: &[(&str, &str)]) {
        let headers = list.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let found = joined(headers.filter(|(name, _)| !is_withheld(name, true)));
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let found: Vec<_> = found.into_iter().map(|(key, value)| (text(key), text(value))).collect();
        let expected: Vec<_> = expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        assert_eq!(found, expected);
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
        for (value, expected) in [("\t x\ty \t", "x\ty"), (" \t", ""), ("1\t", "1"), ("", ""), ("a", "a")] {
            assert_eq!(without_white_space(value.as_bytes()), expected.as_bytes());
        }
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
    fn authorization_is_passed_on_request_only() {
        assert!(is_withheld(b"AUTHORIZATION", false));
        assert!(!is_withheld(b"Authorization", true));
    }
}
