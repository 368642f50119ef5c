//! `wsgi_threads off`: looks after the time that a call takes of the event loop, which cannot do so itself meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use super::interpreter::PreparedInterpreter;
use super::limits::{Limits, has_run};
use super::spawn;
use crate::python::log;
use crate::python::stack::ThreadId;
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::wsgi::call::{Call, CallNumber};
use crate::wsgi::transport::Transport;

/// What runs on the event loop thread, and the thread that watches it.
pub struct InlineLimiter {
    prepared: &'static PreparedInterpreter,
    event_loop: ThreadId,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    current: Option<RunningClock>,
    /// When the watching thread looks without being told to.
    next_look: Option<Instant>,
    has_thread: bool,
}

/// What a call with limits has used of its time. The time that it waits for its client is not counted.
pub struct CallClock {
    number: CallNumber,
    application: Arc<str>,
    exchange: Arc<dyn Transport>,
    spent: Duration,
    request_timeout: Option<Duration>,
    slow_request: Option<Duration>,
    /// Whether `RequestTimeout` may have been raised in it.
    is_over: bool,
}

/// A clock that runs.
struct RunningClock {
    clock: CallClock,
    since: Instant,
}

impl CallClock {
    /// The clock of a call, if it has limits.
    pub fn new(call: &Call, limits: &Limits) -> Option<Self> {
        let Limits { request_timeout, slow_request, .. } = *limits;
        if request_timeout.is_none() && slow_request.is_none() {
            return None;
        }
        Some(Self {
            number: call.number,
            application: call.application_name.clone(),
            exchange: call.exchange.clone(),
            spent: Duration::ZERO,
            request_timeout,
            slow_request,
            is_over: false,
        })
    }
}

impl RunningClock {
    fn spent(&self) -> Duration {
        self.clock.spent + self.since.elapsed()
    }

    /// What is left of the next limit.
    fn left(&self) -> Option<Duration> {
        let limits = self.clock.request_timeout.into_iter().chain(self.clock.slow_request);
        limits.min().map(|limit| limit.saturating_sub(self.spent()))
    }
}

impl InlineLimiter {
    /// A watch over the calling thread. It lives as long as the worker.
    pub fn new(py: Python<'_>, prepared: &'static PreparedInterpreter) -> &'static Self {
        let state = Mutex::default();
        Box::leak(Box::new(Self { prepared, event_loop: ThreadId::current(py), state, changed: Condvar::new() }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Runs a part of a call while its clock, if it has one, runs too. `body` does not panic.
    pub fn during<R>(&'static self, clock: &mut Option<CallClock>, body: impl FnOnce() -> R) -> R {
        let Some(running) = clock.take() else { return body() };
        self.enter(running);
        let result = body();
        *clock = self.leave();
        result
    }

    fn enter(&'static self, clock: CallClock) {
        let turn = RunningClock { clock, since: Instant::now() };
        let mut state = self.lock();
        let due = turn.left().map(|left| turn.since + left);
        state.current = Some(turn);
        if !std::mem::replace(&mut state.has_thread, true)
            && let Err(error) = spawn("wsgi-watch".to_owned(), || self.watch())
        {
            log::error(&format!("cannot start the thread that looks after the time of calls: {error}"));
        }
        // Mostly it wakes soon enough for this call, having been told to for another.
        if due.is_some_and(|due| state.next_look.is_none_or(|next| next > due)) {
            state.next_look = due;
            drop(state);
            self.changed.notify_one();
        }
    }

    fn leave(&self) -> Option<CallClock> {
        let turn = self.lock().current.take()?;
        let spent = turn.spent();
        let clock = CallClock { spent, ..turn.clock };
        if clock.is_over {
            // What was raised and has not come up yet is not for the next call. In a later part of this one it may be
            // raised all the same, by a watch that has waited for the GIL.
            Python::attach(|py| self.event_loop.forgive(py));
        }
        Some(clock)
    }

    fn watch(&self) {
        let mut state = self.lock();
        loop {
            let left = state.current.as_ref().and_then(RunningClock::left);
            state = match (&mut state.current, left) {
                (Some(turn), Some(Duration::ZERO)) => {
                    let spent = turn.spent();
                    let clock = &mut turn.clock;
                    let is_over = clock.request_timeout.is_some_and(|limit| limit <= spent);
                    if is_over {
                        // Now, as it may take long to have the GIL.
                        clock.exchange.time_out();
                        (clock.request_timeout, clock.slow_request) = (None, None);
                        clock.is_over = true;
                    } else {
                        clock.slow_request = None;
                    }
                    let what = if is_over { "and is given up (wsgi_request_timeout)" } else { "(wsgi_slow_request)" };
                    let text = format!("{} {what}", has_run(&clock.application, spent, "main"));
                    let (number, exchange) = (clock.number, clock.exchange.clone());
                    drop(state);
                    Python::attach(|py| self.look(py, number, &exchange, &text, is_over));
                    self.lock()
                }
                (_, Some(left)) => {
                    state.next_look = Some(Instant::now() + left);
                    self.changed.wait_timeout(state, left)
                }
                (_, None) => {
                    state.next_look = None;
                    self.changed.wait(state)
                }
            };
        }
    }

    /// Logs the stack of the event loop thread, and raises `RequestTimeout` in it, unless its call has ended.
    fn look(&self, py: Python<'_>, number: CallNumber, exchange: &Arc<dyn Transport>, text: &str, raise: bool) {
        let stack = self.event_loop.stack(py, &self.prepared.interpreter);
        let timeout = self.prepared.interpreter.bootstrap(py, "RequestTimeout");
        let state = self.lock();
        if state.current.as_ref().is_none_or(|turn| turn.clock.number != number) {
            return;
        }
        if raise && let Ok(timeout) = &timeout {
            self.event_loop.raise(timeout);
        }
        drop(state);
        let sink = exchange.clone().sink();
        py.detach(|| sink.write_at_once(&format!("{text}\n{}", stack.trim_end())));
    }
}
