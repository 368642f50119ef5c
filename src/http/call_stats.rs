//! What is known of a call while it waits and runs: its times, its thread, how it failed, and when its limits are reached.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::engine::limits::{Limits, has_run};

/// The record of one call. Written by the thread that runs it and by the event loop, read by the event loop.
pub struct CallStats {
    /// What the log calls the application.
    pub application: Arc<str>,
    limits: Limits,
    entered: Instant,
    started: Offset,
    head: Offset,
    closed: Offset,
    /// Since when the call waits for its client.
    pause: Offset,
    /// How long it has done so before, in microseconds.
    paused: AtomicU64,
    thread: OnceLock<Arc<str>>,
    interpreter: OnceLock<Arc<str>>,
    exception: OnceLock<String>,
    timed_out: AtomicBool,
    reported_slow: AtomicBool,
}

/// A time after the call came, or none yet: microseconds, and one more.
#[derive(Default)]
struct Offset(AtomicU64);

impl Offset {
    fn set(&self, after: Duration) {
        self.0.store(after.as_micros() as u64 + 1, Ordering::Release);
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }

    fn get(&self) -> Option<Duration> {
        self.0.load(Ordering::Acquire).checked_sub(1).map(Duration::from_micros)
    }
}

/// What has to be done about a call now.
#[derive(Debug, PartialEq, Eq)]
pub enum LimitCheck {
    /// Nothing before this time has passed, if ever.
    Later(Option<Duration>),
    /// It has waited too long for a thread.
    QueueTimeout,
    /// It is slow, and has not been logged for it.
    Slow,
    /// It has run too long.
    RequestTimeout,
}

impl CallStats {
    /// The record of a call that comes now.
    pub fn new(application: Arc<str>, limits: Limits) -> Self {
        Self {
            application,
            limits,
            entered: Instant::now(),
            started: Offset::default(),
            head: Offset::default(),
            closed: Offset::default(),
            pause: Offset::default(),
            paused: AtomicU64::new(0),
            thread: OnceLock::new(),
            interpreter: OnceLock::new(),
            exception: OnceLock::new(),
            timed_out: AtomicBool::new(false),
            reported_slow: AtomicBool::new(false),
        }
    }

    /// The soonest that anything can be due.
    pub fn soonest(&self) -> Option<Duration> {
        self.limits.soonest()
    }

    /// A thread takes the call on, in an interpreter.
    pub fn start(&self, thread: &Arc<str>, interpreter: &Arc<str>) {
        let _ = self.thread.set(thread.clone());
        let _ = self.interpreter.set(interpreter.clone());
        self.started.set(self.entered.elapsed());
    }

    /// The application has given the head of its answer.
    pub fn head(&self) {
        self.head.set(self.entered.elapsed());
    }

    /// The call is over.
    pub fn close(&self) {
        self.closed.set(self.entered.elapsed());
    }

    /// The call waits for its client from now on: that time is not its own.
    pub fn pause(&self) {
        self.pause.set(self.entered.elapsed());
    }

    /// The client has taken something.
    pub fn resume(&self) {
        if let Some(since) = self.pause.get() {
            let time = self.entered.elapsed().saturating_sub(since);
            self.paused.fetch_add(time.as_micros() as u64, Ordering::Release);
            self.pause.clear();
        }
    }

    /// The call ends by its time limit.
    pub fn time_out(&self) {
        self.timed_out.store(true, Ordering::Release);
        self.raised("ngx_wsgi.RequestTimeout");
    }

    /// Whether [`CallStats::time_out`] was called.
    pub fn has_timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Acquire)
    }

    /// The call has failed with an exception of this class; the first counts.
    pub fn raised(&self, class: &str) {
        let _ = self.exception.set(class.to_owned());
    }

    /// It has been logged as slow.
    pub fn report_slow(&self) {
        self.reported_slow.store(true, Ordering::Relaxed);
    }

    /// Whether a thread has taken it on.
    pub fn is_started(&self) -> bool {
        self.started.get().is_some()
    }

    /// The name of that thread.
    pub fn thread(&self) -> Option<&str> {
        self.thread.get().map(AsRef::as_ref)
    }

    /// The name of that interpreter.
    pub fn interpreter(&self) -> Option<&str> {
        self.interpreter.get().map(AsRef::as_ref)
    }

    /// The class of the exception that it failed with.
    pub fn exception(&self) -> Option<&str> {
        self.exception.get().map(String::as_str)
    }

    /// How long it waited to be started; up to now if it still does.
    pub fn queue_time(&self) -> Duration {
        self.started.get().unwrap_or_else(|| self.entered.elapsed())
    }

    /// How long it took from its start to the head of its answer.
    pub fn application_time(&self) -> Option<Duration> {
        Some(self.head.get()?.saturating_sub(self.started.get()?))
    }

    /// How long it took from its start to its end; up to now if it still runs.
    pub fn time(&self) -> Option<Duration> {
        let started = self.started.get()?;
        Some(self.closed.get().unwrap_or_else(|| self.entered.elapsed()).saturating_sub(started))
    }

    /// How long it has run by itself, without waiting for its client; none if it does not run.
    fn running_time(&self) -> Option<Duration> {
        self.running_at(self.entered.elapsed())
    }

    /// How the log speaks of the call while it runs.
    pub fn has_run(&self) -> String {
        has_run(&self.application, self.running_time().unwrap_or_default(), self.thread().unwrap_or_default())
    }

    fn running_at(&self, now: Duration) -> Option<Duration> {
        let started = self.started.get()?;
        if self.closed.get().is_some() {
            return None;
        }
        let until = self.pause.get().unwrap_or(now);
        let paused = Duration::from_micros(self.paused.load(Ordering::Acquire));
        Some(until.saturating_sub(started).saturating_sub(paused))
    }

    /// What is to be done about it now.
    pub fn due(&self) -> LimitCheck {
        self.due_at(self.entered.elapsed())
    }

    fn due_at(&self, now: Duration) -> LimitCheck {
        let Limits { queue_timeout, request_timeout, slow_request, .. } = self.limits;
        if !self.is_started() {
            let Some(left) = queue_timeout.map(|limit| limit.saturating_sub(now)) else {
                return LimitCheck::Later(self.soonest());
            };
            // It may be started right now.
            let next = [left].into_iter().chain(request_timeout).chain(slow_request).min();
            return if left.is_zero() { LimitCheck::QueueTimeout } else { LimitCheck::Later(next) };
        }
        let Some(run) = self.running_at(now) else { return LimitCheck::Later(None) };
        let slow_request = slow_request.filter(|_| !self.reported_slow.load(Ordering::Relaxed));
        if request_timeout.is_some_and(|limit| run >= limit) {
            return LimitCheck::RequestTimeout;
        }
        if slow_request.is_some_and(|limit| run >= limit) {
            return LimitCheck::Slow;
        }
        LimitCheck::Later(request_timeout.into_iter().chain(slow_request).map(|limit| limit - run).min())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        queue: 0,
        queue_timeout: Some(Duration::from_millis(500)),
        request_timeout: Some(Duration::from_millis(300)),
        slow_request: Some(Duration::from_millis(100)),
    };

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn later(milliseconds: u64) -> LimitCheck {
        LimitCheck::Later(Some(ms(milliseconds)))
    }

    #[test]
    fn a_call_that_waits_may_start_at_any_time() {
        let stats = CallStats::new("app".into(), LIMITS);
        assert_eq!(stats.due_at(ms(0)), later(100));
        assert_eq!(stats.due_at(ms(450)), later(50));
        assert_eq!(stats.due_at(ms(500)), LimitCheck::QueueTimeout);
        let stats = CallStats::new("app".into(), Limits { queue_timeout: None, ..LIMITS });
        assert_eq!(stats.due_at(ms(5000)), later(100));
    }

    #[test]
    fn a_call_is_slow_once_and_then_out_of_time() {
        let stats = CallStats::new("app".into(), LIMITS);
        stats.started.set(ms(1000));
        assert_eq!(stats.due_at(ms(1010)), later(90));
        assert_eq!(stats.due_at(ms(1100)), LimitCheck::Slow);
        stats.report_slow();
        assert_eq!(stats.due_at(ms(1100)), later(200));
        assert_eq!(stats.due_at(ms(1300)), LimitCheck::RequestTimeout);
        stats.closed.set(ms(1301));
        assert_eq!(stats.due_at(ms(2000)), LimitCheck::Later(None));
    }

    #[test]
    fn waiting_for_the_client_does_not_count() {
        let stats = CallStats::new("app".into(), LIMITS);
        stats.started.set(ms(0));
        stats.pause.set(ms(50));
        assert_eq!(stats.due_at(ms(5000)), later(50));
        stats.pause.clear();
        stats.paused.store(ms(4950).as_micros() as u64, Ordering::Release);
        assert_eq!(stats.running_at(ms(5010)), Some(ms(60)));
    }
}
