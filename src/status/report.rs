//! The report: all that the status page shows, as one value. Its JSON is the documented schema (docs/status.md).
//!
//! Times of day are Unix times in seconds, durations are in seconds, sizes in bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the schema. It rises when a field is removed or changes its meaning; new fields may appear without.
pub const SCHEMA: u32 = 1;

/// State of this nginx, with all its workers and process groups.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When the report was made.
    pub time: f64,
    /// Since when the counters count: the creation of the `wsgi_status_zone`.
    pub since: f64,
    pub versions: Versions,
    /// Applications by process group and name.
    pub applications: Vec<Application>,
    /// Workers that live, by process group and number.
    pub workers: Vec<Worker>,
    /// Workers that have ended, the newest first; limited in number.
    pub ended_workers: Vec<EndedWorker>,
    /// Numbers of all workers that have ended.
    #[serde(default)]
    pub ends: Vec<Ends>,
    pub process_groups: Vec<ProcessGroup>,
    /// Calls that wait, run or are being sent, the oldest first.
    pub calls: Vec<Call>,
    /// Last errors and loads, the newest first; limited in number.
    pub events: Vec<Event>,
}

/// Versions of the software.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    pub module: String,
    pub nginx: String,
    pub python: String,
}

/// An application, over all workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Application {
    pub name: String,
    /// `None` for an application that runs in nginx's own workers.
    pub process_group: Option<String>,
    /// Number of calls that run, including those whose response is being sent.
    pub running: u64,
    /// Number of calls that wait for a thread.
    pub queued: u64,
    pub counters: Counters,
    /// Numbers of uncaught exceptions by class.
    pub exceptions: BTreeMap<String, u64>,
}

/// Counters of calls. A call is counted when it has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Calls that have ended, also those that were refused.
    pub calls: u64,
    pub responses: Responses,
    /// Calls refused with 503, as `wsgi_queue` calls waited already.
    pub refused_queue_full: u64,
    /// Calls refused with 503, as they had waited for `wsgi_queue_timeout`.
    pub refused_queue_timeout: u64,
    /// Calls that exceeded `wsgi_request_timeout`.
    pub timed_out: u64,
    /// Calls that failed with an uncaught exception.
    pub exceptions: u64,
    /// Calls whose client left before the end of the response.
    pub client_gone: u64,
    /// Bytes of request bodies.
    pub bytes_received: u64,
    /// Bytes of response bodies.
    pub bytes_sent: u64,
    /// Time that calls waited for a thread.
    pub queue_time: Histogram,
    /// Time from the start of calls to their response headers.
    pub header_time: Histogram,
    /// Time from the arrival of calls to their end.
    pub total_time: Histogram,
}

/// Calls by the class of their status. A call whose client left first has none, unless its response had begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Responses {
    #[serde(rename = "1xx")]
    pub informational: u64,
    #[serde(rename = "2xx")]
    pub successful: u64,
    #[serde(rename = "3xx")]
    pub redirection: u64,
    #[serde(rename = "4xx")]
    pub client_error: u64,
    #[serde(rename = "5xx")]
    pub server_error: u64,
}

/// Distribution of times.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Number of times.
    pub count: u64,
    /// Sum of the times.
    pub sum: f64,
    /// Buckets by rising bounds. Each counts the times up to its bound, so also those of the buckets before; times above the
    /// last bound are only in `count`.
    pub buckets: Vec<Bucket>,
}

/// Number of times up to a bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Bucket {
    pub le: f64,
    pub count: u64,
}

/// What a worker does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// Its applications are being imported.
    #[default]
    Starting,
    Running,
    /// It accepts no connections any more and finishes its calls.
    Draining,
}

/// A worker process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    pub pid: u32,
    /// Number of the worker among those of nginx or of its process group, from 0.
    pub number: u32,
    pub process_group: Option<String>,
    /// When it started.
    pub started: f64,
    /// Calls since its start that have ended.
    pub calls: u64,
    pub running: u64,
    pub queued: u64,
    /// What the worker itself says; `None` if it did not answer in time.
    pub details: Option<WorkerDetails>,
    /// Its applications, with the counters since its start.
    pub applications: Vec<WorkerApplication>,
}

/// What a worker says about itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerDetails {
    pub state: WorkerState,
    /// Resident memory.
    pub memory: u64,
    /// Processor time in user and kernel mode.
    pub cpu: f64,
    pub threads: Threads,
    pub interpreters: Vec<Interpreter>,
    pub applications: Vec<LoadedApplication>,
    /// Its calls. In a report they are with those of all workers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<Call>,
}

/// Threads that run calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Threads {
    pub total: u64,
    pub busy: u64,
    /// Threads in calls that exceeded `wsgi_request_timeout`. They are neither in `total` nor in `busy`, as others replace
    /// them.
    pub stuck: u64,
}

/// An interpreter of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interpreter {
    pub name: String,
    /// `shared` or `own`.
    pub gil: String,
    /// `wsgi_interpreters`.
    pub copies: u64,
    /// The threads of all copies.
    pub threads: Threads,
    pub queued: u64,
}

/// An application of a worker: its counters since the worker's start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerApplication {
    pub name: String,
    pub running: u64,
    pub queued: u64,
    pub counters: Counters,
}

/// An application of a worker: its code.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadedApplication {
    pub name: String,
    pub interpreter: String,
    /// The code that serves calls; `None` until it has been loaded.
    pub code: Option<Code>,
    /// How often code was loaded in this worker.
    pub loads: u64,
    /// The last attempt to load it that failed, if none has succeeded since.
    pub failure: Option<LoadFailure>,
}

/// Code that is loaded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Code {
    /// `__version__` of the application's module, if it is a string.
    pub version: Option<String>,
    /// When the application's file was last modified before it was loaded.
    pub modified: Option<f64>,
    /// When it was loaded.
    pub loaded: f64,
    /// How long the import took.
    pub import_time: f64,
}

/// A failed attempt to load code.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadFailure {
    pub time: f64,
    pub traceback: String,
}

/// A worker that has ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndedWorker {
    pub pid: u32,
    pub number: u32,
    pub process_group: Option<String>,
    pub started: f64,
    pub ended: f64,
    pub calls: u64,
    /// `reload`, `stop`, `max_requests`, `max_memory`, `stuck_threads`, `new_code`, or `crash` if it left without a word.
    pub reason: String,
}

/// Numbers of workers that have ended, of nginx or of a process group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    pub process_group: Option<String>,
    /// By reason, as in [`EndedWorker`]. Each reason is there.
    pub by_reason: BTreeMap<String, u64>,
}

/// State of a process group whose supervisor does not answer.
pub const NO_ANSWER: &str = "no answer";

/// A process group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessGroup {
    pub name: String,
    pub user: String,
    /// As `ngx-wsgi-ctl status` names it: `running`, `idle`, `stopped`, …; or [`NO_ANSWER`].
    pub state: String,
    /// Number of its workers.
    pub workers: u64,
    /// How often an instance was started again after it had ended by itself.
    pub restarts: u64,
}

/// State of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallState {
    /// It waits for a thread.
    #[default]
    Queued,
    Running,
    /// It waits until the client has taken a part of the response.
    Sending,
}

/// A call that has not ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// `PID.NUMBER`: names the call in a request for its stack.
    pub id: String,
    pub application: String,
    pub process_group: Option<String>,
    /// Worker that has the call.
    pub pid: u32,
    pub state: CallState,
    pub method: String,
    /// Path, with the query string only where `wsgi_status_zone` has `query=on`. A long one is cut, and ends with `…`.
    pub path: String,
    /// Address of the client.
    pub client: String,
    /// Time since its arrival.
    pub time: f64,
    /// Time that it has run; `None` while it is queued.
    pub running_time: Option<f64>,
    /// Name of the thread that runs it.
    pub thread: Option<String>,
    /// It exceeded `wsgi_request_timeout`, and its client has a response.
    pub timed_out: bool,
}

/// Kind of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// An application was loaded.
    #[default]
    Loaded,
    /// Changed code replaced the code of an application.
    Reloaded,
    /// An application could not be loaded. The text is the traceback.
    LoadFailed,
    /// A call failed with an exception. The text is the traceback.
    Exception,
    /// A call exceeded `wsgi_request_timeout`.
    TimedOut,
}

/// Something that happened in a worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub time: f64,
    pub kind: EventKind,
    pub application: String,
    pub process_group: Option<String>,
    pub pid: u32,
    /// One line: class and message of an exception, time of an import.
    pub summary: String,
    /// The traceback, cut in the middle if it is long; empty without one.
    pub text: String,
}
