//! Status and headers on their way from the application to the transport.

use super::{Response, application, get};
use crate::wsgi::headers::ResponseHeaders;

/// Returns the response with these headers, given as Python source.
#[track_caller]
fn with_headers(headers: &str) -> Response {
    get(&application(&format!("start_response('200 OK', {headers})\nyield b'body'"))).expect(200)
}

/// Returns names and values as text.
fn pairs(response: &Response) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect();
    response.headers().headers().map(|(name, value)| (text(name), text(value))).collect()
}

fn status_line(headers: &ResponseHeaders) -> Option<&[u8]> {
    headers.status_line().map(|place| &headers.text()[place])
}

fn expected(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_reason_phrase_is_kept_and_a_missing_one_left_to_the_server() {
    for (status, code, line) in [
        ("200", 200, None),
        ("404", 404, None),
        ("200 ", 200, None),
        ("200 Fine", 200, Some("200 Fine")),
        ("404 No Such Cat", 404, Some("404 No Such Cat")),
        ("418 I'm a teapot", 418, Some("418 I'm a teapot")),
        ("599 Last", 599, Some("599 Last")),
    ] {
        let response = get(&application(&format!("start_response(\"{status}\", [])\nreturn [b'body']"))).expect(code);
        assert_eq!(status_line(response.headers()), line.map(str::as_bytes));
        // An error status of the application is a response like any other, with its own body.
        assert_eq!(response.text(), "body");
    }
}

#[test]
fn repeated_headers_stay_apart_and_in_order() {
    let headers =
        [("Set-Cookie", "a=1"), ("X-Twice", "1"), ("Set-Cookie", "b=2"), ("X-Twice", "2"), ("set-cookie", "c")];
    let source: Vec<String> = headers.iter().map(|(name, value)| format!("('{name}', '{value}')")).collect();
    assert_eq!(pairs(&with_headers(&format!("[{}]", source.join(", ")))), expected(&headers));
}

#[test]
fn names_keep_their_case() {
    let response = with_headers("[('x-lOwEr', '1'), ('X_Under', '2')]");
    assert_eq!(pairs(&response), expected(&[("x-lOwEr", "1"), ("X_Under", "2")]));
}

#[test]
fn values_are_latin_1_bytes() {
    let response = with_headers(r#"[("X-A", "caf\xe9 \xff\tb"), ("X-Empty", "")]"#);
    assert_eq!(pairs(&response), expected(&[("X-A", "caf\u{e9} \u{ff}\tb"), ("X-Empty", "")]));
    assert_eq!(response.headers().header("X-A"), Some(&b"caf\xe9 \xff\tb"[..]));
}

#[test]
fn hop_by_hop_headers_are_dropped_in_any_case() {
    let names = [
        "Connection",
        "Keep-Alive",
        "Proxy-Authenticate",
        "Proxy-Authorization",
        "TE",
        "Trailer",
        "Transfer-Encoding",
        "Upgrade",
    ];
    for name in names.into_iter().flat_map(|name| [name.to_owned(), name.to_uppercase(), name.to_lowercase()]) {
        let response = with_headers(&format!("[('X-Before', '1'), ('{name}', 'x'), ('X-After', '2')]"));
        assert_eq!(pairs(&response), expected(&[("X-Before", "1"), ("X-After", "2")]));
        assert_eq!(response.headers().dropped, [name]);
    }
}

#[test]
fn no_header_is_invented() {
    let response = with_headers("[]");
    assert_eq!(pairs(&response), expected(&[]));
    assert_eq!(response.headers().content_length, None);
}

#[test]
fn many_and_long_headers_are_passed_on() {
    let response =
        with_headers("[(f'X-{i}', str(i)) for i in range(200)] + [('X-Long', 'v' * 100000), ('N' * 1000, 'n')]");
    assert_eq!(pairs(&response).len(), 202);
    assert_eq!(response.header("X-199"), Some("199"));
    assert_eq!(response.header("X-Long").map(str::len), Some(100_000));
    assert_eq!(response.header(&"N".repeat(1000)), Some("n"));
}
