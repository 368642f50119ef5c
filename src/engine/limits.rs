//! Limits of a location for its calls: how many wait, how long they wait and run.

use std::time::Duration;

/// Limits of one call. `None` means no limit.
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
    /// Returns the shortest time after which a limit of a new call can expire.
    pub fn soonest(&self) -> Option<Duration> {
        [self.queue_timeout, self.request_timeout, self.slow_request].into_iter().flatten().min()
    }
}
