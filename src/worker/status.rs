//! This worker's part of the status that `wsgi_status_zone` keeps: its writer on the board, and its live calls.

use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use super::WorkerApplication;
use crate::app::application::LoadRecord;
use crate::conf::main::MainConf;
use crate::engine::Interpreter;
use crate::engine::pool::PoolFigures;
use crate::nginx::log::{Level, Log};
use crate::nginx::shared_memory::AnonymousShm;
use crate::nginx::worker_process::{self, Role};
use crate::os::{memory_file, system};
use crate::python::threads::Gil;
use crate::status::board::{self, Calls, Goodbye, Identity, Writer};
use crate::status::live_calls::LiveCalls;
use crate::status::report::{self, LoadedApplication, Threads, WorkerDetails};

/// Number of the descriptor of the board that a worker of a process group inherits.
const DESCRIPTOR: RawFd = 5;

static STATUS: OnceLock<Status> = OnceLock::new();

/// Status of this worker.
pub struct Status {
    writer: Writer,
    live_calls: LiveCalls,
    /// Live calls show query strings.
    query: bool,
    /// User whose processes may ask this worker beside its own and root: the one of the front's workers, in an instance of a
    /// process group.
    front_user: Option<u32>,
}

/// Returns the status of this worker, `None` without `wsgi_status_zone`.
pub fn get() -> Option<&'static Status> {
    STATUS.get()
}

/// Attaches this worker to the board of its nginx or process group, if there is one. To be called once, in `init_process`,
/// before the worker starts a program.
pub fn start(conf: &MainConf) {
    let Some((words, query)) = words(conf) else { return };
    let identity = Identity {
        pid: std::process::id(),
        number: u32::try_from(worker_process::number_in_group()).unwrap_or_default(),
        token: system::random(),
    };
    let attached =
        words.and_then(|words| Writer::attach(words, identity, system::is_alive).map_err(|error| error.to_string()));
    match attached {
        Ok(writer) => {
            let front_user = conf.instance_status().map(|status| status.front_user);
            let _ = STATUS.set(Status { writer, live_calls: LiveCalls::default(), query, front_user });
        }
        Err(error) => {
            let message = format!("wsgi: this worker does not use the memory of wsgi_status_zone: {error}");
            Log::cycle().write(Level::Warn, &message);
        }
    }
}

/// Returns the words of the board, or the reason why there are none, and whether query strings are shown; `None` without
/// `wsgi_status_zone`.
fn words(conf: &MainConf) -> Option<(Result<&'static [AtomicU64], String>, bool)> {
    if let Some(status) = conf.instance_status() {
        let mapped = memory_file::map_inherited(DESCRIPTOR, board::MIN_WORDS);
        return Some((mapped.map_err(|error| error.to_string()), status.query));
    }
    let zone = conf.status_zone()?;
    let words = match worker_process::role() {
        // It reads the next configuration itself, and may unmap the zone.
        Role::Single => AnonymousShm::new(zone.words()).map(|memory| memory.keep()).map_err(|error| error.to_string()),
        Role::Worker | Role::Other => conf.status_words().ok_or_else(|| "it is not mapped".to_owned()),
    };
    Some((words, zone.query))
}

impl Status {
    /// Returns the writer of this worker.
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Returns the calls of this worker that have not ended.
    pub fn live_calls(&self) -> &LiveCalls {
        &self.live_calls
    }

    /// Returns the user of the front's workers, in an instance of a process group.
    pub fn front_user(&self) -> Option<u32> {
        self.front_user
    }

    /// Returns the counters of an application, `None` if the zone has no room for them, which is logged.
    pub fn calls(&self, application: &str) -> Option<Calls> {
        let calls = self.writer.calls(application);
        if calls.is_none() {
            let message =
                format!("wsgi: calls of application \"{application}\" are not counted, increase wsgi_status_zone");
            Log::cycle().write(Level::Warn, &message);
        }
        calls
    }

    /// Notes that the worker stops to accept connections.
    pub fn begin_exit(&self) {
        self.writer.set_draining();
    }

    /// Records the end of this worker. To be called last, in `exit_process`.
    pub fn end(&self) {
        // Its master reloads, unless it ends as well: only in the first case another worker has this one's number.
        let is_reload = !worker_process::is_terminating() && self.writer.has_successor();
        self.writer.say_goodbye(if is_reload { Goodbye::Reload } else { Goodbye::Stop });
        self.writer.leave();
    }
}

/// Notes why this worker is about to exit, as far as it knows the reason itself.
pub fn say_goodbye(reason: Goodbye) {
    if let Some(status) = get() {
        status.writer.say_goodbye(reason);
    }
}

/// Notes that this worker has loaded its applications, or has none. On any thread.
pub fn note_loaded() {
    if let Some(status) = get() {
        status.writer.set_running();
    }
}

/// Returns what this worker says about itself. On any thread; never waits for the GIL or the event loop.
pub fn details() -> WorkerDetails {
    let Some(status) = get() else { return WorkerDetails::default() };
    let mut details = WorkerDetails {
        state: status.writer.state(),
        memory: system::resident_memory().unwrap_or_default(),
        cpu: system::cpu_time().as_secs_f64(),
        calls: status.live_calls.list(status.writer.identity().pid, status.query),
        ..WorkerDetails::default()
    };
    let Some(worker) = super::get() else { return details };
    let interpreters = worker.engine.interpreters();
    details.applications = worker.applications().iter().map(|one| loaded_application(one, &interpreters)).collect();
    for Interpreter { name, gil, copies, figures } in interpreters {
        let PoolFigures { threads, busy, stuck, waiting } = figures;
        let threads = Threads { total: threads as u64, busy: busy as u64, stuck: stuck as u64 };
        details.threads.total += threads.total;
        details.threads.busy += threads.busy;
        details.threads.stuck += threads.stuck;
        // The main interpreter has no threads if no application runs in it.
        if threads.total > 0 {
            let gil = if gil == Gil::Own { "own" } else { "shared" }.to_owned();
            let (copies, queued) = (copies as u64, waiting as u64);
            details.interpreters.push(report::Interpreter { name, gil, copies, threads, queued });
        }
    }
    details
}

fn loaded_application(known: &WorkerApplication, interpreters: &[Interpreter]) -> LoadedApplication {
    let LoadRecord { code, loads, failure } = known.application.load_record();
    LoadedApplication {
        name: known.application.name().to_string(),
        interpreter: interpreters.get(known.interpreter).map(|one| one.name.clone()).unwrap_or_default(),
        code,
        loads,
        failure,
    }
}
