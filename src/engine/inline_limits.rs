//! `wsgi_threads off`: a thread that enforces the timeouts of the call on the event loop thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use pyo3::prelude::*;

use super::TimedTransport;
use super::call_clock::{CallClock, LimitCheck};
use super::interpreter::PreparedInterpreter;
use super::thread::spawn;
use crate::python::log;
use crate::python::stack::ThreadId;
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::wsgi::call::{Call, CallNumber};
use crate::wsgi::transport::Transport;

/// Name of the event loop thread in messages.
pub const EVENT_LOOP_THREAD: &str = "main";

/// The call that runs on the event loop thread, and the thread that enforces its limits.
pub struct InlineLimiter {
    prepared: &'static PreparedInterpreter,
    event_loop: ThreadId,
    /// Number of the call whose part runs, plus 1; 0 for none.
    current: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    running: Option<LimitedCall>,
    /// Time of the thread's next check; `None` if the thread waits for a notification.
    next_check: Option<Instant>,
    has_thread: bool,
}

/// A call with a timeout. Its clock runs only while the call does.
pub struct LimitedCall {
    number: CallNumber,
    application: Arc<str>,
    transport: Arc<dyn TimedTransport>,
}

impl LimitedCall {
    /// Returns the part of `call` that its limits need, if it has any.
    pub fn new(call: &Call, transport: &Arc<impl TimedTransport + 'static>) -> Option<Self> {
        transport.clock().limits_running_time().then(|| Self {
            number: call.number,
            application: call.application_name.clone(),
            transport: transport.clone(),
        })
    }

    fn clock(&self) -> &CallClock {
        self.transport.clock()
    }

    /// Notes that the call has exceeded a limit, and returns the message for that.
    fn exceed(&self, timed_out: bool) -> String {
        let directive = if timed_out { "wsgi_request_timeout" } else { "wsgi_slow_request" };
        let message = self.clock().message(&self.application, EVENT_LOOP_THREAD, directive);
        if timed_out {
            // Before the stack dump, which may wait for the GIL for long.
            self.transport.time_out();
            self.clock().set_timed_out();
        } else {
            self.clock().set_reported_slow();
        }
        message
    }
}

impl InlineLimiter {
    /// Creates the limiter of the calling thread, for the life of the worker.
    pub fn new(py: Python<'_>, prepared: &'static PreparedInterpreter) -> &'static Self {
        let (current, state) = (AtomicU64::new(0), Mutex::default());
        Box::leak(Box::new(Self {
            prepared,
            event_loop: ThreadId::current(py),
            current,
            state,
            changed: Condvar::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Runs a part of a call within its limits, if it has any. `body` does not panic.
    pub fn during<R>(&'static self, number: CallNumber, call: &mut Option<LimitedCall>, body: impl FnOnce() -> R) -> R {
        self.current.store(number + 1, Ordering::Relaxed);
        let limited = call.take();
        let is_limited = limited.is_some();
        if let Some(limited) = limited {
            self.enter(limited);
        }
        let result = body();
        if is_limited {
            *call = self.leave();
        }
        self.current.store(0, Ordering::Relaxed);
        result
    }

    /// Returns whether a part of a call runs. On any thread.
    pub fn is_busy(&self) -> bool {
        self.current.load(Ordering::Relaxed) != 0
    }

    /// Returns the Python stack of a call, if a part of it runs. On any other thread; waits for the GIL.
    pub fn stack(&self, number: CallNumber) -> Option<String> {
        let is_current = || self.current.load(Ordering::Relaxed) == number + 1;
        if !is_current() {
            return None;
        }
        let stack = Python::attach(|py| self.event_loop.stack(py, &self.prepared.interpreter));
        // Otherwise it is perhaps that of another call.
        is_current().then(|| stack.trim_end().to_owned())
    }

    fn enter(&'static self, call: LimitedCall) {
        call.clock().resume();
        let due = match call.clock().check() {
            LimitCheck::Later(wait) => wait.map(|wait| Instant::now() + wait),
            _ => Some(Instant::now()),
        };
        let mut state = self.lock();
        state.running = Some(call);
        if !std::mem::replace(&mut state.has_thread, true)
            && let Err(error) = spawn("wsgi-watch".to_owned(), || self.watch())
        {
            log::error(&format!("wsgi: cannot start the thread that enforces timeouts: {error}"));
        }
        // Usually the check that is due for an earlier call comes soon enough.
        if due.is_some_and(|due| state.next_check.is_none_or(|next| next > due)) {
            state.next_check = due;
            drop(state);
            self.changed.notify_one();
        }
    }

    fn leave(&self) -> Option<LimitedCall> {
        let call = self.lock().running.take()?;
        call.clock().pause();
        if call.clock().has_timed_out() {
            // A pending exception must not reach the next call. The thread may raise it in a later part of this call,
            // after a long wait for the GIL.
            Python::attach(|py| self.event_loop.cancel_exception(py));
        }
        Some(call)
    }

    /// Enforces the limits of each call, on a thread of its own.
    fn watch(&self) {
        let mut state = self.lock();
        loop {
            let check = state.running.as_ref().map_or(LimitCheck::Later(None), |call| call.clock().check());
            state = match (&state.running, check) {
                (Some(call), LimitCheck::Slow | LimitCheck::RequestTimeout) => {
                    let timed_out = check == LimitCheck::RequestTimeout;
                    let text = call.exceed(timed_out);
                    let (number, transport): (_, Arc<dyn Transport>) = (call.number, call.transport.clone());
                    drop(state);
                    Python::attach(|py| self.dump_stack(py, number, &transport, &text, timed_out));
                    self.lock()
                }
                (_, LimitCheck::Later(Some(left))) => {
                    state.next_check = Some(Instant::now() + left);
                    self.changed.wait_timeout(state, left)
                }
                _ => {
                    state.next_check = None;
                    self.changed.wait(state)
                }
            };
        }
    }

    /// Logs the stack of the event loop thread, and raises `RequestTimeout` in it if the call has `timed_out`, unless
    /// the call has ended.
    fn dump_stack(
        &self,
        py: Python<'_>,
        number: CallNumber,
        transport: &Arc<dyn Transport>,
        text: &str,
        timed_out: bool,
    ) {
        let stack = self.event_loop.stack(py, &self.prepared.interpreter);
        let exception = self.prepared.interpreter.bootstrap(py, "RequestTimeout");
        let state = self.lock();
        if state.running.as_ref().is_none_or(|call| call.number != number) {
            return;
        }
        if timed_out && let Ok(exception) = &exception {
            self.event_loop.raise(exception);
        }
        drop(state);
        let sink = transport.clone().sink();
        py.detach(|| sink.write_at_once(text, stack.trim_end()));
    }
}
