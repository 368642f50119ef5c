//! Requests by way of curl: for TLS, HTTP/2 and Unix sockets.

use super::{Framing, Response, latin1};
use std::path::Path;
use std::process::Command;

/// Response that curl received, and its exit code.
#[derive(Debug)]
pub struct Curl {
    /// 0 when all went well; 18 for a body cut short, 92 for an HTTP/2 stream that was reset.
    pub code: i32,
    /// Version as curl prints it: `1.1` or `2`.
    pub version: String,
    pub response: Response,
    pub stderr: String,
}

/// Runs curl with these arguments, which name the URL as well.
#[track_caller]
pub fn curl(arguments: &[&str]) -> Curl {
    let output = Command::new("curl")
        .args(["-q", "-sS", "-i", "-k", "--noproxy", "*", "--max-time", "30"])
        .args(arguments)
        .output()
        .expect("run curl; it belongs to the tools that `make test` installs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut rest = &output.stdout[..];
    let (mut head, mut body) = (String::new(), &rest[..0]);
    // Interim responses come before the final one.
    while let Some(end) = rest.windows(4).position(|w| w == b"\r\n\r\n") {
        head = latin1(&rest[..end]);
        body = &rest[end + 4..];
        rest = body;
        if !head.split(' ').nth(1).is_some_and(|s| s.starts_with('1')) {
            break;
        }
    }
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().splitn(3, ' ');
    let version = first.next().unwrap_or_default();
    let version = version.trim_start_matches("HTTP/").to_owned();
    let status = first.next().and_then(|s| s.parse().ok());
    Curl {
        code: output.status.code().expect("curl was not killed"),
        version,
        response: Response {
            status: status.unwrap_or_else(|| panic!("no response: {stderr}")),
            reason: first.next().unwrap_or_default().to_owned(),
            headers: lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            body: body.to_vec(),
            framing: Framing::Client,
        },
        stderr,
    }
}

impl Curl {
    /// The response, when curl had nothing to complain of and the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Response {
        assert_eq!(self.code, 0, "curl: {}", self.stderr);
        self.response.expect(status)
    }
}

/// Makes `certificate.pem` and `key.pem` of a server in `directory`.
#[track_caller]
pub fn make_certificate(directory: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"])
        .current_dir(directory)
        .output()
        .expect("run openssl; it belongs to the tools that `make test` installs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
