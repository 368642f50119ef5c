//! The readiness address, `wsgi_status ready`: whether this worker and the process groups can serve requests.

use super::response::Response;
use crate::nginx::worker_process;
use crate::worker;

/// Returns the response: 200, or 503 with the reasons, one word a line.
pub fn response() -> Response {
    let reasons = reasons();
    if reasons.is_empty() {
        return Response::ok("text/plain; charset=utf-8", b"ready\n".to_vec());
    }
    let text: String = reasons.iter().flat_map(|reason| [reason, "\n"]).collect();
    Response { status: 503, ..Response::ok("text/plain; charset=utf-8", text.into_bytes()) }
        .with_header("Retry-After", "1".to_owned())
}

fn reasons() -> Vec<&'static str> {
    let mut reasons = Vec::new();
    if worker_process::is_exiting() {
        reasons.push("draining");
    }
    if worker::get().is_some_and(|worker| !worker.has_loaded()) {
        reasons.push("loading");
    }
    reasons
}
