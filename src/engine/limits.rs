//! What a location allows its calls: how many may wait, how long they may wait and run.

use std::time::Duration;

/// The limits of one call. A time that is `None` has no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `wsgi_queue`: calls that may wait in the worker while every thread is busy.
    pub queue: usize,
    /// `wsgi_queue_timeout`: how long a call may wait to be started.
    pub queue_timeout: Option<Duration>,
    /// `wsgi_request_timeout`: how long it may run.
    pub request_timeout: Option<Duration>,
    /// `wsgi_slow_request`: how long it may run without being logged for it.
    pub slow_request: Option<Duration>,
}

impl Limits {
    /// The soonest that any of the times can be over for a call that comes now.
    pub fn soonest(&self) -> Option<Duration> {
        [self.queue_timeout, self.request_timeout, self.slow_request].into_iter().flatten().min()
    }
}

/// How the log speaks of a call that runs.
pub fn has_run(application: &str, time: Duration, thread: &str) -> String {
    format!("application \"{application}\" has run for {} ms on thread {thread}", time.as_millis())
}
