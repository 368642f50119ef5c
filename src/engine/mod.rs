//! Execution of calls: on the event loop thread, or on the pool threads of an interpreter.

pub mod call_clock;
pub mod inline;
mod inline_limits;
pub mod interpreter;
pub mod load_check;
pub mod pool;
mod thread;
pub mod versions;

use std::sync::Arc;
use std::time::Duration;

use call_clock::CallClock;
use inline::Inline;
use pool::{PoolFigures, Queued, ThreadPool};
use versions::InterpreterVersions;

use crate::app::application::Application;
use crate::python::threads::Gil;
use crate::wsgi::call::{Call, CallNumber};
use crate::wsgi::transport::{Suspended, Transport};

/// Engine that runs the calls of a worker.
pub enum Engine {
    /// `wsgi_threads off`: calls run on the event loop thread, in the only interpreter.
    Inline(Box<Inline>),
    /// Calls run on the threads of their interpreter. The main interpreter is the first.
    Pools(Vec<InterpreterVersions>),
}

/// Transport of a call that has the call's clock.
pub trait TimedTransport: Transport {
    /// Returns the clock of the call.
    fn clock(&self) -> &CallClock;
}

/// Result of the submission of a call.
pub enum Submission {
    /// A thread will run the call.
    Queued(Queued),
    /// The call has run to its end, or until its response had to wait.
    Ran(Option<Box<dyn Suspended>>),
}

/// What an interpreter of a worker does.
pub struct Interpreter {
    pub name: String,
    pub gil: Gil,
    /// `wsgi_interpreters`.
    pub copies: usize,
    pub figures: PoolFigures,
}

/// Error: as many calls wait as `wsgi_queue` allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

impl Engine {
    /// Runs a call, or queues it for a thread of its interpreter. `transport` is the one of the call. On the event loop
    /// thread.
    ///
    /// # Errors
    /// Too many calls wait already, or the interpreter has ended.
    pub fn submit(
        &self,
        interpreter: usize,
        application: &Arc<Application>,
        call: Call,
        transport: &Arc<impl TimedTransport + 'static>,
    ) -> Result<Submission, QueueFull> {
        match self {
            Self::Inline(inline) => Ok(Submission::Ran(inline.run(application, call, transport))),
            Self::Pools(interpreters) => {
                let limit = transport.clock().queue_limit();
                let queued = interpreters[interpreter].with_active(|pool| pool.enqueue(application, call, limit));
                // A refused call is dropped here, without the locks of its pool.
                queued.map(Submission::Queued).map_err(|_call| QueueFull)
            }
        }
    }

    /// Returns the largest backlog of an interpreter: 0 if each has a free thread for one more call, and otherwise the
    /// place in the queue that the call would get, from 1. Always 0 with `wsgi_threads off`.
    pub fn backlog(&self) -> usize {
        match self {
            Self::Inline(_) => 0,
            Self::Pools(interpreters) => {
                interpreters.iter().map(|versions| versions.with_active(ThreadPool::backlog)).max().unwrap_or_default()
            }
        }
    }

    /// Returns the numbers of threads and calls of all interpreters. On any thread.
    pub fn figures(&self) -> PoolFigures {
        let mut sum = PoolFigures::default();
        for Interpreter { figures, .. } in self.interpreters() {
            sum.threads += figures.threads;
            sum.busy += figures.busy;
            sum.stuck += figures.stuck;
            sum.waiting += figures.waiting;
        }
        sum
    }

    /// Returns what each interpreter does. On any thread.
    pub fn interpreters(&self) -> Vec<Interpreter> {
        match self {
            Self::Inline(inline) => {
                let figures = PoolFigures { threads: 1, busy: usize::from(inline.is_busy()), ..PoolFigures::default() };
                vec![Interpreter { name: inline.interpreter().to_owned(), gil: Gil::Shared, copies: 1, figures }]
            }
            Self::Pools(interpreters) => interpreters.iter().map(InterpreterVersions::interpreter).collect(),
        }
    }

    /// Returns true if calls find the application loaded. On any thread.
    pub fn has_loaded(&self, interpreter: usize, application: &Application) -> bool {
        match self {
            Self::Inline(inline) => inline.has_loaded(application),
            Self::Pools(interpreters) => interpreters[interpreter].active().has_loaded(application) == Some(true),
        }
    }

    /// Loads the changed modules of an application in its interpreter. `note` notes its files before that. On any
    /// thread.
    pub fn reload(&self, interpreter: usize, application: &Arc<Application>, note: impl FnOnce()) {
        match self {
            // Only the event loop thread can load them; it does so with the next call.
            Self::Inline(_) => {
                if let Some(reload) = application.reload() {
                    reload.files.make_stale();
                }
            }
            Self::Pools(interpreters) => interpreters[interpreter].active().reload(application, note),
        }
    }

    /// Returns the Python stack of a running call, `None` if it does not run or its interpreter does not answer within
    /// `limit`. On any thread but that of the event loop; with `wsgi_threads off` it waits for the GIL without a limit.
    pub fn stack(&self, call: CallNumber, limit: Duration) -> Option<String> {
        match self {
            Self::Inline(inline) => inline.stack(call),
            Self::Pools(interpreters) => {
                let mut pools = interpreters.iter().flat_map(InterpreterVersions::all);
                pools.find_map(|pool| pool.running(call)).and_then(|call| call.stack(limit))
            }
        }
    }

    /// Returns the versions of an interpreter, `None` with `wsgi_threads off`.
    pub fn versions(&self, interpreter: usize) -> Option<&InterpreterVersions> {
        match self {
            Self::Inline(_) => None,
            Self::Pools(interpreters) => Some(&interpreters[interpreter]),
        }
    }

    /// Shuts down all interpreters within `limit`, of which the calls get at most `calls`. Calls `meanwhile`
    /// repeatedly.
    pub fn shut_down(&self, calls: Duration, limit: Duration, meanwhile: impl Fn()) {
        match self {
            Self::Inline(inline) => inline.shut_down(limit),
            Self::Pools(interpreters) => {
                pool::shut_down(
                    interpreters.iter().flat_map(InterpreterVersions::all).collect(),
                    calls,
                    limit,
                    meanwhile,
                );
            }
        }
    }
}
