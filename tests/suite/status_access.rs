//! Who may see `wsgi_status`: this machine alone, until its location has access control of its own.

use crate::harness::{Nginx, Response, Site};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

const HINT: &str = "put \"allow\" or \"auth_basic\" in its location";

/// The header of a request that comes from another machine, as far as nginx knows.
const ELSEWHERE: (&str, &str) = ("X-Test-Client", "192.0.2.7");

/// A site on which a header says where a client is.
fn site() -> Site {
    Site::plain()
        .errors_expected()
        .http("wsgi_status_zone wsgi 64k; set_real_ip_from 127.0.0.0/8; real_ip_header X-Test-Client;")
        .file("passwords", "operator:{PLAIN}secret\n")
}

/// Status of the report for a request with these headers.
#[track_caller]
fn ask(nginx: &Nginx, path: &str, headers: &[(&str, &str)]) -> u16 {
    let path = format!("{path}?format=json");
    let response = nginx.request("GET", &path, headers, b"");
    if response.status == 200 {
        assert!(response.json()["schema"].is_number());
    } else {
        assert!(!response.text().contains("schema"));
    }
    response.status
}

#[test]
fn only_clients_of_this_machine_see_it_and_none_that_a_proxy_has_forwarded() {
    let nginx = site().location("= /status", "wsgi_status;").start();
    assert_eq!(ask(&nginx, "/status", &[]), 200);
    // The realip module takes the address of a client from a header, which the client may have written itself.
    for client in ["127.0.0.1", "127.0.0.1:1234", "127.0.0.2", "::1", "::ffff:127.0.0.1"] {
        assert_eq!(ask(&nginx, "/status", &[("X-Test-Client", client)]), 403, "{client}");
    }
    assert!(!nginx.error_log().contains("the client is not on this machine"));
    for client in ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::1"] {
        assert_eq!(ask(&nginx, "/status", &[("X-Test-Client", client)]), 403, "{client}");
    }
    nginx.wait_log(&format!("\"wsgi_status\" is forbidden: the client is not on this machine; {HINT}"));
    for header in ["X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Forwarded", "Via", "x-forwarded-for"] {
        assert_eq!(ask(&nginx, "/status", &[(header, "127.0.0.1")]), 403, "{header}");
    }
    nginx.wait_log(&format!("\"wsgi_status\" is forbidden: a proxy has forwarded the request; {HINT}"));
    for path in ["/status", "/status?format=prometheus", "/status?stack=1.2"] {
        nginx.request("GET", path, &[ELSEWHERE], b"").expect(403);
    }
}

#[test]
fn a_page_of_another_domain_cannot_read_it_through_a_browser_on_this_machine() {
    let nginx = site().server("server_name status.example.com;").location("= /status", "wsgi_status;").start();
    for (host, status) in [
        ("status.example.com", 200),
        ("127.0.0.1", 200),
        ("[::1]:8080", 200),
        ("localhost:8080", 200),
        ("web1", 200),
        ("rebind.example", 403),
        ("rebind.example:80", 403),
        ("127.0.0.1.rebind.example", 403),
    ] {
        assert_eq!(ask(&nginx, "/status", &[("Host", host)]), status, "{host}");
    }
    nginx.wait_log(&format!("the request is for a domain that is not a server_name here; {HINT}"));
}

#[test]
fn clients_of_a_unix_socket_see_it() {
    let nginx = site()
        .listen("listen 127.0.0.1:@port@; listen unix:@prefix@/socket;")
        .location("= /status", "wsgi_status;")
        .start();
    let get = |headers: &str| {
        let mut stream = UnixStream::connect(nginx.prefix().join("socket")).unwrap();
        stream.write_all(format!("GET /status?format=json HTTP/1.0\r\n{headers}\r\n").as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(get(""), "200");
    assert_eq!(get("X-Forwarded-For: 127.0.0.1\r\n"), "403");
}

#[test]
fn a_request_with_the_proxy_protocol_is_forwarded() {
    let nginx = site().listen("listen 127.0.0.1:@port@ proxy_protocol;").location("= /status", "wsgi_status;").start();
    let mut connection = nginx.connect();
    connection.send("PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\nGET /status HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(connection.response().status, 403);
}

#[test]
fn access_control_of_its_own_decides() {
    const PASSWORD: &str = "auth_basic operators; auth_basic_user_file @prefix@/passwords;";
    let nginx = site()
        .location("= /allow", "wsgi_status; allow 192.0.2.0/24; deny all;")
        .location("= /deny", "wsgi_status; deny 192.0.2.8;")
        .location("= /password", &format!("wsgi_status; {PASSWORD}"))
        .location("= /request", "wsgi_status; auth_request /check;")
        .location("= /check", "internal; if ($http_x_key = open) { return 204; } return 403;")
        .location("/outer/", "allow all; location = /outer/status { wsgi_status; if ($arg_x) { set $y 1; } }")
        .location("/own/", "wsgi_status; allow all; if ($arg_format) { set $y 1; }")
        .location("= /off", "wsgi_status; auth_basic off; auth_request off;")
        .location(
            "= /sometimes",
            &format!(
                "set $realm off; if ($arg_p) {{ set $realm operators; }} wsgi_status; {}",
                PASSWORD.replace("operators", "$realm")
            ),
        )
        .start();
    let elsewhere = |path: &str, more: &[(&str, &str)]| ask(&nginx, path, &[&[ELSEWHERE], more].concat());
    // Also what a proxy has forwarded.
    assert_eq!(elsewhere("/allow", &[("X-Forwarded-For", "192.0.2.1")]), 200);
    assert_eq!(ask(&nginx, "/allow", &[]), 403);
    assert_eq!(elsewhere("/deny", &[]), 200);
    assert_eq!(ask(&nginx, "/deny", &[("X-Test-Client", "192.0.2.8")]), 403);
    assert_eq!(elsewhere("/password", &[]), 401);
    // operator:secret
    assert_eq!(elsewhere("/password", &[("Authorization", "Basic b3BlcmF0b3I6c2VjcmV0")]), 200);
    assert_eq!(elsewhere("/request", &[]), 403);
    assert_eq!(elsewhere("/request", &[("X-Key", "open")]), 200);
    // Inherited rules are about something else.
    assert_eq!(elsewhere("/outer/status", &[]), 403);
    assert_eq!(ask(&nginx, "/outer/status", &[]), 200);
    // A block in the location has the rules of the location.
    assert_eq!(elsewhere("/own/", &[]), 200);
    assert_eq!(elsewhere("/off", &[]), 403);
    assert_eq!(ask(&nginx, "/off", &[]), 200);
    assert_eq!(elsewhere("/sometimes", &[]), 403);
    assert_eq!(nginx.request("GET", "/sometimes?p=1", &[ELSEWHERE], b"").status, 401);
}

#[test]
fn inherited_access_control_does_not_open_it() {
    for rules in [
        "allow all;",
        "auth_basic operators; auth_basic_user_file @prefix@/passwords;",
        "auth_request /check;",
        "satisfy any; allow all; auth_basic operators; auth_basic_user_file @prefix@/passwords;",
    ] {
        for level in ["http", "server"] {
            let site = site().location("= /check", "internal; auth_request off; return 204;");
            let site = if level == "http" { site.http(rules) } else { site.server(rules) };
            let nginx = site.location("= /status", "wsgi_status;").start();
            let headers = [ELSEWHERE, ("Authorization", "Basic b3BlcmF0b3I6c2VjcmV0")];
            assert_eq!(ask(&nginx, "/status", &headers), 403, "{level}: {rules}");
            assert_eq!(ask(&nginx, "/status", &headers[1..]), 200, "{level}: {rules}");
        }
    }
}

#[test]
fn a_subrequest_that_skips_access_control_does_not_see_it() {
    let nginx = site()
        .location("= /status", "wsgi_status; deny 192.0.2.7;")
        .location("/", "ssi on; root @prefix@;")
        .file("page.html", "<!--# include virtual=\"/status?format=json\" -->")
        .start();
    let response: Response = nginx.request("GET", "/page.html", &[ELSEWHERE], b"").expect(200);
    assert!(!response.text().contains("schema"), "{}", response.text());
    nginx.wait_log("\"wsgi_status\" is forbidden: a subrequest skips access control");
}
