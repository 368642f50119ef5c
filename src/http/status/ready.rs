//! The readiness address, `wsgi_status ready`: whether this worker and the process groups can serve requests.

use std::fs::File;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::response::{Response, TEXT};
use crate::app::specification::Specification;
use crate::conf::main::MainConf;
use crate::nginx::worker_process;
use crate::os::{memory_file, system};
use crate::status::board::{self, Layout};
use crate::status::groups;
use crate::status::report::WorkerState;
use crate::worker;

/// Time that the supervisor has to answer.
const SUPERVISOR_TIME: Duration = Duration::from_secs(1);

/// Applications that this worker imports when it starts.
static PRELOADED: OnceLock<Vec<Arc<Specification>>> = OnceLock::new();

/// Notes the applications of a worker.
pub fn note_applications(conf: &MainConf) {
    let applications = conf.interpreters().into_iter().flat_map(|interpreter| interpreter.applications);
    let preloaded = applications.filter(|application| application.preload).map(|application| application.specification);
    let _ = PRELOADED.set(preloaded.collect());
}

/// Returns the reasons why this worker cannot serve requests, one word each. On the event loop thread.
pub fn reasons() -> Vec<&'static str> {
    let mut reasons = Vec::new();
    if worker_process::is_exiting() {
        reasons.push("draining");
    }
    let is_loaded = |specification: &Arc<Specification>| {
        let worker = worker::get();
        worker.is_some_and(|worker| worker.application(specification).is_some_and(|known| worker.is_loaded(&known)))
    };
    if !PRELOADED.get().is_none_or(|preloaded| preloaded.iter().all(is_loaded)) {
        // Each has been tried, and the log has the reason.
        let is_over = worker::get().is_some_and(worker::Worker::has_loaded);
        reasons.push(if is_over { "failed" } else { "loading" });
    }
    reasons
}

/// Returns true if each process group serves requests, or starts with its next request. Asks the supervisor, and waits for it.
pub fn has_groups() -> bool {
    let Some(path) = super::supervisor() else { return true };
    groups::ask(path, Instant::now() + SUPERVISOR_TIME).is_ok_and(|groups| {
        groups.iter().all(|(group, board)| match group.state.as_str() {
            "running" => !board.as_ref().is_some_and(is_loading),
            state => state == "idle",
        })
    })
}

/// Returns true if all workers of a process group that are to stay are importing their applications, as its board says.
fn is_loading(file: &File) -> bool {
    let states = || {
        let count = super::sources()?.group_words;
        // Anybody may ask for this: the rest of the board may be large.
        let head = memory_file::read(file, Layout::of(count)?.head()).ok()?;
        Some(board::worker_states(&head, count, system::exists))
    };
    let states = states().unwrap_or_default();
    let is_any = |state| states.contains(&state);
    is_any(WorkerState::Starting) && !is_any(WorkerState::Running)
}

/// Returns the response: 200, or 503 with the reasons, one a line.
pub fn response(reasons: &[&str]) -> Response {
    if reasons.is_empty() {
        return Response::ok(TEXT, b"ready\n".to_vec());
    }
    let text: String = reasons.iter().flat_map(|reason| [*reason, "\n"]).collect();
    Response { status: 503, ..Response::ok(TEXT, text.into_bytes()) }.with_header("Retry-After", "1".to_owned())
}
