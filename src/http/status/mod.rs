//! `wsgi_status`: the content handler of the status page and of the readiness address.

mod format;
mod queue;
mod ready;
mod response;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use self::format::Format;
use self::queue::{Full, Job, Question};
use self::response::{PendingRequest, Response};
use crate::conf::location::LocationConf;
use crate::conf::main::MainConf;
use crate::conf::process_group::ProcessGroup;
use crate::conf::status_zone::StatusZone;
use crate::conf::values::StatusKind;
use crate::nginx::log::{Level, Log};
use crate::nginx::request::{Request, Status};
use crate::nginx::worker_process::NGINX_VERSION;
use crate::os::{run_directory, system};
use crate::python::{log, runtime, status as python_status};
use crate::status::gather::{self, Sources};
use crate::status::report::{Versions, WorkerDetails};
use crate::status::reporter::{self, Facts};
use crate::worker;
use crate::worker::event_loop::EventLoop;

static SOURCES: OnceLock<Sources> = OnceLock::new();

/// Path of the supervisor's status socket, in a front of process groups.
static SUPERVISOR: OnceLock<PathBuf> = OnceLock::new();

/// Returns the sources of the reports of this worker, `None` without a zone.
fn sources() -> Option<&'static Sources> {
    SOURCES.get()
}

fn supervisor() -> Option<&'static PathBuf> {
    SUPERVISOR.get()
}

/// Starts the reporter of a worker, and lets its applications ask for the report. To be called in `init_process`, before they
/// are imported, which may take long on this thread.
pub fn prepare(conf: &MainConf) {
    if let Some(status) = worker::status::get()
        && let Err(error) = reporter::start(status.writer().identity().token, status.front_user(), Arc::new(ThisWorker))
    {
        log::error(&format!("wsgi: cannot start the reporter of this worker: {error}"));
    }
    if let Some(directory) = conf.claimed_directory()
        && conf.process_groups().iter().any(|group| !group.locations.is_empty())
    {
        let _ = SUPERVISOR.set(run_directory::status_socket(directory));
    }
    let groups = conf.process_groups().iter().filter(|group| !group.locations.is_empty());
    let user_of = |group: &ProcessGroup| {
        let name = group.user.as_ref().map(|user| user.name.clone());
        name.or_else(|| system::user().map(|(name, _)| name)).unwrap_or_default()
    };
    let attached = worker::status::get().map(|status| status.writer().board());
    let Some(board) = attached.or_else(|| conf.status_words()) else { return };
    let versions = Versions {
        module: env!("CARGO_PKG_VERSION").to_owned(),
        nginx: NGINX_VERSION.to_owned(),
        python: runtime::library_version(),
    };
    let _ = SOURCES.set(Sources {
        versions,
        board,
        group_words: conf.status_zone().map_or(0, StatusZone::words),
        process_group: conf.instance().map(str::to_owned),
        supervisor: supervisor().cloned(),
        groups: groups.map(|group| (group.name.clone(), user_of(group))).collect(),
    });
    python_status::set_source(|| {
        let report = sources().map(Sources::report).unwrap_or_default();
        // A report has only values that JSON can have.
        serde_json::to_string(&report).unwrap_or_default()
    });
}

/// Starts what a worker needs for status pages: its event loop for answers of other threads. To be called in `init_process`,
/// after the worker has started.
pub fn start(conf: &MainConf) {
    if conf.has_status() {
        ready::note_applications(conf);
        if let Err(error) = EventLoop::attach() {
            Log::cycle().write(Level::Alert, &format!("wsgi: status pages are not available: {error}"));
        }
    }
}

/// What this worker knows about itself.
struct ThisWorker;

impl Facts for ThisWorker {
    fn details(&self) -> WorkerDetails {
        worker::status::details()
    }

    fn stack(&self, call: u64) -> Option<String> {
        worker::get()?.engine.stack(call, gather::STACK_TIME)
    }
}

/// Handles a request of a location with `wsgi_status`.
pub fn run(request: Request, conf: &LocationConf) -> Status {
    if !(request.is_get() || request.is_head()) {
        return Status::NOT_ALLOWED;
    }
    if let Err(status) = request.discard_body() {
        return status;
    }
    match conf.status_kind() {
        Some(StatusKind::Ready) => ready(request),
        Some(StatusKind::Report) if !may_see(request, conf) => Status::FORBIDDEN,
        Some(StatusKind::Report) => answer(request),
        None => Status::NOT_FOUND,
    }
}

/// Returns whether the client may see the report: access control of the location itself has let it in, or it is on this
/// machine, and no proxy passes on the requests of others.
fn may_see(request: Request, conf: &LocationConf) -> bool {
    if request.is_let_in_by(conf.own_access()) {
        return true;
    }
    let reason = match () {
        () if !request.is_main() => "a subrequest skips access control",
        () if !request.is_from_this_machine() => "the client is not on this machine",
        () if request.is_for_other_domain() => "the request is for a domain that is not a server_name here",
        () if request.is_forwarded() => "a proxy has forwarded the request",
        () => return true,
    };
    let message = format!("\"wsgi_status\" is forbidden: {reason}; put \"allow\" or \"auth_basic\" in its location");
    request.log().write(Level::Error, &message);
    false
}

/// Starts to make the report, or to ask for a stack.
fn answer(request: Request) -> Status {
    let question = match request.variable("arg_stack") {
        Some(id) => match queue::parse_call(id) {
            Some((pid, number)) => Question::Stack { pid, number },
            None => return Status::BAD_REQUEST,
        },
        None => match Format::of(request) {
            // It gets its reports later.
            Some(Format::Html) => return response::send_now(request, format::page()),
            Some(format) => Question::Report(format),
            None => return Status::BAD_REQUEST,
        },
    };
    wait(request, question)
}

/// Says whether this worker is ready. For the process groups it has to ask the supervisor.
fn ready(request: Request) -> Status {
    let reasons = ready::reasons();
    if reasons.is_empty() && supervisor().is_some() {
        return wait(request, Question::Ready);
    }
    response::send_now(request, ready::response(&reasons))
}

/// Has a thread answer the request.
fn wait(request: Request, question: Question) -> Status {
    // The alert of `init_worker` says why there is none.
    let Some(event_loop) = EventLoop::attached() else { return Status::INTERNAL_SERVER_ERROR };
    let pending = Arc::new(PendingRequest::new(request));
    if request.install(pending.clone()).is_err() {
        return Status::INTERNAL_SERVER_ERROR;
    }
    match queue::push(Job { question, pending: pending.clone(), event_loop }) {
        Ok(()) => {
            pending.hold();
            request.hold()
        }
        Err(Full) => response::send_now(request, Response::busy()),
    }
}
