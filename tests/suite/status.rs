//! `wsgi_status`: formats, headers and methods.

use crate::harness::{Nginx, Site};

fn start() -> Nginx {
    Site::plain().location("= /status", "wsgi_status;").start()
}

#[test]
fn an_argument_or_the_accept_header_selects_the_format() {
    let nginx = start();
    for (path, accept, content_type) in [
        ("/status", "*/*", "text/html; charset=utf-8"),
        ("/status", "application/json", "application/json"),
        ("/status?format=json", "text/html", "application/json"),
        ("/status?format=html", "application/json", "text/html; charset=utf-8"),
        ("/status?format=prometheus", "*/*", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "/status",
            "application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ] {
        let response = nginx.request("GET", path, &[("Accept", accept)], b"");
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.header("Content-Type"), Some(content_type), "{path} {accept}");
    }
}
