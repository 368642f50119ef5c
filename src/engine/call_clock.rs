//! The clock of a call: when it arrived, started and ended, how much of its time it ran, and when its limits expire.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::app::limits::Limits;

/// Times of one call. Written by the thread that runs the call and by the event loop, read by both.
pub struct CallClock {
    limits: Limits,
    arrived: Instant,
    started: Offset,
    ended: Offset,
    /// Start of the current wait for the client.
    pause: Offset,
    /// Length of all earlier waits for the client, in microseconds.
    paused: AtomicU64,
    /// The call was logged as slow.
    reported_slow: AtomicBool,
    /// The call exceeded `wsgi_request_timeout`.
    timed_out: AtomicBool,
}

/// Optional offset from the arrival, stored as microseconds + 1 so that 0 means unset.
#[derive(Default)]
pub struct Offset(AtomicU64);

impl Offset {
    /// Sets the offset.
    pub fn set(&self, after: Duration) {
        self.0.store(after.as_micros() as u64 + 1, Ordering::Release);
    }

    /// Unsets the offset.
    fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Returns the offset if it is set.
    pub fn get(&self) -> Option<Duration> {
        self.microseconds().map(Duration::from_micros)
    }

    /// Returns the offset in microseconds if it is set.
    pub fn microseconds(&self) -> Option<u64> {
        self.0.load(Ordering::Acquire).checked_sub(1)
    }
}

/// Result of a check of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitCheck {
    /// No limit has expired. The next check is due after this time, if at all.
    Later(Option<Duration>),
    /// The call waited for a thread longer than `wsgi_queue_timeout`.
    QueueTimeout,
    /// The call runs longer than `wsgi_slow_request` and was not logged for it.
    Slow,
    /// The call runs longer than `wsgi_request_timeout`.
    RequestTimeout,
}

impl CallClock {
    /// Creates the clock of a call that arrives now.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            arrived: Instant::now(),
            started: Offset::default(),
            ended: Offset::default(),
            pause: Offset::default(),
            paused: AtomicU64::new(0),
            reported_slow: AtomicBool::new(false),
            timed_out: AtomicBool::new(false),
        }
    }

    /// Returns the shortest time after which a limit can expire.
    pub fn soonest(&self) -> Option<Duration> {
        self.limits.soonest()
    }

    /// Returns `wsgi_queue`: the number of calls that may wait.
    pub fn queue_limit(&self) -> usize {
        self.limits.queue
    }

    /// Returns true if a limit applies to a running call.
    pub fn limits_running_time(&self) -> bool {
        self.limits.request_timeout.is_some() || self.limits.slow_request.is_some()
    }

    /// Returns the time since the arrival.
    pub fn elapsed(&self) -> Duration {
        self.arrived.elapsed()
    }

    /// Marks the start of the call on a thread.
    pub fn start(&self) {
        self.started.set(self.elapsed());
    }

    /// Marks the end of the call.
    pub fn end(&self) {
        self.ended.set(self.elapsed());
    }

    /// Stops counting running time: the call waits for its client.
    pub fn pause(&self) {
        if self.pause.get().is_none() {
            self.pause.set(self.elapsed());
        }
    }

    /// Counts running time again.
    pub fn resume(&self) {
        if let Some(since) = self.pause.get() {
            let time = self.elapsed().saturating_sub(since);
            self.paused.fetch_add(time.as_micros() as u64, Ordering::Release);
            self.pause.clear();
        }
    }

    /// Notes that the call was logged as slow.
    pub fn set_reported_slow(&self) {
        self.reported_slow.store(true, Ordering::Relaxed);
    }

    /// Notes that the call exceeded `wsgi_request_timeout`. No limit applies to it any more.
    pub fn set_timed_out(&self) {
        self.timed_out.store(true, Ordering::Release);
    }

    /// Returns true after [`CallClock::set_timed_out`].
    pub fn has_timed_out(&self) -> bool {
        self.timed_out.load(Ordering::Acquire)
    }

    /// Returns true after [`CallClock::start`].
    pub fn is_started(&self) -> bool {
        self.started.get().is_some()
    }

    /// Returns the offset of the start.
    pub fn started(&self) -> Option<Duration> {
        self.started.get()
    }

    /// Returns the offsets of the start and of the end.
    pub fn start_and_end(&self) -> (&Offset, &Offset) {
        (&self.started, &self.ended)
    }

    /// Returns whether the call waits for the client.
    pub fn is_paused(&self) -> bool {
        self.pause.get().is_some()
    }

    /// Returns the time that the call waited for a thread, up to now if it still waits.
    pub fn queue_time(&self) -> Duration {
        self.started.get().unwrap_or_else(|| self.elapsed())
    }

    /// Returns the time from the start to the end, up to now if the call still runs; `None` before the start.
    pub fn total_time(&self) -> Option<Duration> {
        let started = self.started.get()?;
        Some(self.ended.get().unwrap_or_else(|| self.elapsed()).saturating_sub(started))
    }

    /// Returns the time that the call has run without waiting for its client; `None` if it does not run.
    pub fn running_time(&self) -> Option<Duration> {
        self.running_time_at(self.elapsed())
    }

    fn running_time_at(&self, now: Duration) -> Option<Duration> {
        let started = self.started.get()?;
        if self.ended.get().is_some() {
            return None;
        }
        let until = self.pause.get().unwrap_or(now);
        let paused = Duration::from_micros(self.paused.load(Ordering::Acquire));
        Some(until.saturating_sub(started).saturating_sub(paused))
    }

    /// Compares the times with the limits.
    pub fn check(&self) -> LimitCheck {
        self.check_at(self.elapsed())
    }

    fn check_at(&self, now: Duration) -> LimitCheck {
        let Limits { queue_timeout, request_timeout, slow_request, .. } = self.limits;
        if self.has_timed_out() {
            return LimitCheck::Later(None);
        }
        if !self.is_started() {
            let Some(left) = queue_timeout.map(|limit| limit.saturating_sub(now)) else {
                return LimitCheck::Later(self.soonest());
            };
            // A thread may start the call at any moment.
            let next = [left].into_iter().chain(request_timeout).chain(slow_request).min();
            return if left.is_zero() { LimitCheck::QueueTimeout } else { LimitCheck::Later(next) };
        }
        let Some(running) = self.running_time_at(now) else { return LimitCheck::Later(None) };
        let slow_request = slow_request.filter(|_| !self.reported_slow.load(Ordering::Relaxed));
        if request_timeout.is_some_and(|limit| running >= limit) {
            return LimitCheck::RequestTimeout;
        }
        if slow_request.is_some_and(|limit| running >= limit) {
            return LimitCheck::Slow;
        }
        LimitCheck::Later(request_timeout.into_iter().chain(slow_request).map(|limit| limit - running).min())
    }

    /// Returns the log message of a limit that a call on `thread` has exceeded.
    pub fn message(&self, application: &str, thread: &str, directive: &str) -> String {
        let milliseconds = self.running_time().unwrap_or_default().as_millis();
        format!("application \"{application}\" exceeded {directive}: running for {milliseconds} ms on thread {thread}")
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
    fn a_waiting_call_may_start_at_any_time() {
        let clock = CallClock::new(LIMITS);
        assert_eq!(clock.check_at(ms(0)), later(100));
        assert_eq!(clock.check_at(ms(450)), later(50));
        assert_eq!(clock.check_at(ms(500)), LimitCheck::QueueTimeout);
        let clock = CallClock::new(Limits { queue_timeout: None, ..LIMITS });
        assert_eq!(clock.check_at(ms(5000)), later(100));
    }

    #[test]
    fn a_call_is_slow_once_and_then_exceeds_its_timeout_once() {
        let clock = CallClock::new(LIMITS);
        clock.started.set(ms(1000));
        assert_eq!(clock.check_at(ms(1010)), later(90));
        assert_eq!(clock.check_at(ms(1100)), LimitCheck::Slow);
        clock.set_reported_slow();
        assert_eq!(clock.check_at(ms(1100)), later(200));
        assert_eq!(clock.check_at(ms(1300)), LimitCheck::RequestTimeout);
        clock.set_timed_out();
        assert_eq!(clock.check_at(ms(1300)), LimitCheck::Later(None));
    }

    #[test]
    fn no_limit_applies_after_the_end() {
        let clock = CallClock::new(LIMITS);
        clock.started.set(ms(1000));
        clock.ended.set(ms(1301));
        assert_eq!(clock.check_at(ms(2000)), LimitCheck::Later(None));
    }

    #[test]
    fn time_of_waiting_for_the_client_does_not_count() {
        let clock = CallClock::new(LIMITS);
        clock.started.set(ms(0));
        clock.pause.set(ms(50));
        assert_eq!(clock.check_at(ms(5000)), later(50));
        clock.pause.clear();
        clock.paused.store(ms(4950).as_micros() as u64, Ordering::Release);
        assert_eq!(clock.running_time_at(ms(5010)), Some(ms(60)));
    }

    #[test]
    fn a_second_pause_does_not_forget_the_first() {
        let clock = CallClock::new(LIMITS);
        clock.start();
        clock.pause();
        let first = clock.pause.get();
        std::thread::sleep(ms(2));
        clock.pause();
        assert_eq!(clock.pause.get(), first);
        clock.resume();
        assert!(clock.paused.load(Ordering::Acquire) >= 2000);
    }
}
