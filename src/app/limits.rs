//! Limits that a location sets for the calls of its application.

use std::time::Duration;

/// Limits of one call. `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `wsgi_queue`: number of calls that may wait in a worker while every thread is busy.
    pub queue: usize,
    /// `wsgi_queue_timeout`: time that a call may wait for a thread.
    pub queue_timeout: Option<Duration>,
    /// `wsgi_request_timeout`: time that a call may run.
    pub request_timeout: Option<Duration>,
    /// `wsgi_slow_request`: time after which a running call is logged.
    pub slow_request: Option<Duration>,
}

impl Limits {
    /// Returns the earliest time after its arrival at which a call can exceed a limit.
    pub fn soonest(&self) -> Option<Duration> {
        [self.queue_timeout, self.request_timeout, self.slow_request].into_iter().flatten().min()
    }
}
