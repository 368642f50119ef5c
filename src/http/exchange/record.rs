//! The record of a call in the status of its worker: from its registration to its end, which is counted in one place,
//! [`RequestExchange::leave`].

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use super::{EventLoopSide, RequestExchange, ResponseState};
use crate::nginx::request::{Request, Status};
use crate::status::board::{Calls, Ended, NewEvent, Refusal};
use crate::status::live_calls::{LiveCall, LiveRequest, Place, Progress};
use crate::status::report::{CallState, EventKind};
use crate::worker::status::{self, Status as WorkerStatus};
use crate::wsgi::params::{CgiParams, Key, Variable};

/// Record of a call.
pub struct Record {
    calls: Calls,
    status: &'static WorkerStatus,
    params: Arc<CgiParams>,
    /// Place among the live calls + 1; 0 if there is none.
    place: AtomicUsize,
    /// Which of [`LEFT`] and [`CLOSED`] holds.
    ends: AtomicU8,
}

/// The event loop has no more to do with a call that was started.
const LEFT: u8 = 1;
/// The call is closed.
const CLOSED: u8 = 2;

/// Facts that the event loop collects for the record.
#[derive(Default)]
pub struct Facts {
    received: Cell<u64>,
    sent: Cell<u64>,
    /// First digit of the status of the response; 0 if there was none.
    class: Cell<u16>,
    refused: Cell<Option<Refusal>>,
    client_gone: Cell<bool>,
}

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is finalized with this status.
    Finalized(Status),
    /// nginx responds in place of the application, which has given this status.
    Replaced(u16),
    /// `wsgi_queue` calls wait already.
    QueueFull,
    /// nginx itself has ended it.
    CleanedUp,
}

impl Record {
    /// Returns the record of a call of the application with these counters, `None` if the worker has no status.
    pub fn new(calls: Calls, params: &Arc<CgiParams>) -> Option<Self> {
        let (place, ends) = (AtomicUsize::new(0), AtomicU8::new(0));
        status::get().map(|status| Self { calls, status, params: params.clone(), place, ends })
    }

    /// Notes that a thread starts the call.
    pub fn start(&self) {
        self.calls.start();
    }

    /// Notes that the call is closed. On any thread.
    pub fn close(&self) {
        self.end(CLOSED, LEFT);
    }

    /// Notes an end of the call, and removes it from the live calls if the `other` one has come before.
    fn end(&self, this: u8, other: u8) {
        // Each end comes once.
        if self.ends.fetch_add(this, Ordering::AcqRel) == other {
            self.remove();
        }
    }

    #[inline]
    fn remove(&self) {
        if let Some(place) = self.place.load(Ordering::Relaxed).checked_sub(1) {
            self.status.live_calls().remove(Place(place));
        }
    }

    /// Counts an exception that the call has failed with. On any thread.
    pub fn raised(&self, application: &str, class: &str, summary: &str, traceback: &str) {
        self.calls.raised(class);
        let event = NewEvent { kind: EventKind::Exception, application, summary, text: traceback };
        self.status.writer().record_event(&event);
    }

    /// Records that the call exceeded `wsgi_request_timeout`. On any thread.
    pub fn timed_out(&self, application: &str, message: &str) {
        let event = NewEvent { kind: EventKind::TimedOut, application, summary: message, text: "" };
        self.status.writer().record_event(&event);
    }
}

impl Facts {
    /// Adds bytes of the request body.
    pub fn add_received(&self, bytes: u64) {
        self.received.set(self.received.get() + bytes);
    }

    /// Adds bytes of the response body.
    pub fn add_sent(&self, bytes: u64) {
        self.sent.set(self.sent.get() + bytes);
    }

    /// Notes that the call was refused, as it had waited for `wsgi_queue_timeout`.
    pub fn set_queue_timeout(&self) {
        self.refused.set(Some(Refusal::QueueTimeout));
    }
}

impl RequestExchange {
    /// Registers the call in the status of the worker, if there is one. To be called before the call is submitted.
    pub fn enter(&self, body_length: Option<u64>) {
        let Some(record) = &self.record else { return };
        record.calls.enter();
        let side = self.event_loop.get();
        // A streamed body is counted as it comes.
        if self.body_stream.is_none() {
            side.facts.add_received(body_length.unwrap_or_default());
        }
        let live_calls = record.status.live_calls();
        if let Some(place) = live_calls.add(side.registration.number(), self.myself.clone()) {
            record.place.store(place.0 + 1, Ordering::Relaxed);
        }
    }

    /// Notes the response of a request that is about to end.
    pub(super) fn note_ending(&self, side: &EventLoopSide, request: Request, ending: Ending) {
        if self.record.is_none() {
            return;
        }
        // Of most requests.
        let is_complete = side.call_closed.get() && matches!(*side.state.borrow(), ResponseState::LastQueued);
        let status = if is_complete { request.response_status() } else { Self::status_of(side, request, ending) };
        side.facts.class.set(status / 100);
    }

    /// Returns the status of a response, 0 if there is none, and notes why it is not complete.
    #[cold]
    fn status_of(side: &EventLoopSide, request: Request, ending: Ending) -> u16 {
        let facts = &side.facts;
        // A client that has it all may leave while the call still runs, at the end its `close()`.
        let is_whole = matches!(*side.state.borrow(), ResponseState::LastQueued)
            || request.is_header_only() && request.is_header_sent();
        let is_sent = is_whole && !request.has_buffered();
        let instead = match ending {
            Ending::Finalized(Status::CLIENT_CLOSED_REQUEST | Status::CLIENT_TIMED_OUT) | Ending::CleanedUp => {
                facts.client_gone.set(!is_sent);
                None
            }
            Ending::Finalized(status) => u16::try_from(status.0).ok().filter(|status| *status >= 100),
            Ending::Replaced(status) => Some(status),
            Ending::QueueFull => {
                facts.refused.set(Some(Refusal::QueueFull));
                Some(Status::SERVICE_UNAVAILABLE.0 as u16)
            }
        };
        match &*side.state.borrow() {
            ResponseState::Replaced(replacement) => replacement.status(),
            state if request.is_header_sent() => {
                // nginx could not send more.
                if matches!(state, ResponseState::Failed(_)) && request.has_connection_error() && !is_sent {
                    facts.client_gone.set(true);
                }
                request.response_status()
            }
            _ => instead.unwrap_or_default(),
        }
    }

    /// Ends the registration of the call, and counts it. The call may go on. Does nothing the second time.
    pub(super) fn leave(&self, side: &EventLoopSide) {
        if !side.registration.leave() {
            return;
        }
        let Some(record) = &self.record else { return };
        let (clock, facts) = (&self.stats.clock, &side.facts);
        let (start, end) = clock.start_and_end();
        let (start, end) = (start.microseconds(), end.microseconds());
        let started = start.is_some();
        let refused = facts.refused.get();
        let is_timed = refused != Some(Refusal::QueueFull);
        let now = || clock.elapsed().as_micros() as u64;
        let header_time = start.zip(self.stats.headers().microseconds());
        record.calls.record(&Ended {
            started,
            class: facts.class.get(),
            refused,
            timed_out: clock.has_timed_out(),
            client_gone: facts.client_gone.get(),
            received: facts.received.get(),
            sent: facts.sent.get(),
            queue_time: is_timed.then(|| start.unwrap_or_else(now)),
            header_time: header_time.map(|(start, headers)| headers.saturating_sub(start)),
            total_time: is_timed.then(|| end.unwrap_or_else(now)),
        });
        if started {
            record.end(LEFT, CLOSED);
        } else {
            record.remove();
        }
    }
}

impl LiveRequest for CgiParams {
    fn method(&self) -> &[u8] {
        self.value(Key::Variable(Variable::RequestMethod)).unwrap_or_default()
    }

    fn target(&self) -> &[u8] {
        self.value(Key::Variable(Variable::RequestUri)).unwrap_or_default()
    }

    fn client(&self) -> &[u8] {
        self.value(Key::Variable(Variable::RemoteAddr)).unwrap_or_default()
    }
}

impl LiveCall for RequestExchange {
    fn request(&self) -> Option<&dyn LiveRequest> {
        self.record.as_ref().map(|record| &*record.params as _)
    }

    fn progress(&self) -> Progress {
        let clock = &self.stats.clock;
        let buffer = self.lock();
        // A call that waits until its request body comes has no headers yet.
        let waits_for_client = buffer.is_full() || clock.is_paused() && self.stats.headers().get().is_some();
        let is_over = buffer.is_call_closed();
        drop(buffer);
        let state = match clock.started() {
            None => CallState::Queued,
            Some(_) if waits_for_client || is_over => CallState::Sending,
            Some(_) => CallState::Running,
        };
        let running_time: Option<Duration> = clock.running_time().or_else(|| clock.total_time());
        Progress {
            application: self.stats.application.to_string(),
            state,
            time: clock.elapsed(),
            running_time,
            thread: self.stats.thread().map(str::to_owned),
            timed_out: clock.has_timed_out(),
        }
    }
}
