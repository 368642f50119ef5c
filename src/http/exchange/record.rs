//! The record of a call in the status of its worker: from its registration to its end, which is counted in one place,
//! [`RequestExchange::leave`].

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use super::{RequestExchange, ResponseState};
use crate::nginx::request::{Request, Status};
use crate::status::board::{Calls, Ended, NewEvent, Refusal};
use crate::status::live_calls::{LiveCall, Place, Progress};
use crate::status::report::{CallState, EventKind};
use crate::worker::status::{self, Status as WorkerStatus};
use crate::wsgi::params::{CgiParams, Key, Variable};

/// Record of a call.
pub struct Record {
    calls: Calls,
    status: &'static WorkerStatus,
    /// Place among the live calls; unset if there is none.
    place: OnceLock<Place>,
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
    /// Status of the response.
    status: Cell<Option<u16>>,
    refused: Cell<Option<Refusal>>,
    client_gone: Cell<bool>,
}

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is finalized with this status.
    Finalized(Status),
    /// nginx responds in place of the application.
    Replaced,
    /// `wsgi_queue` calls wait already.
    QueueFull,
    /// nginx itself has ended it.
    CleanedUp,
}

impl Record {
    /// Returns the record of a call of the application with these counters.
    pub fn new(calls: Calls) -> Option<Self> {
        let (place, ends) = (OnceLock::new(), AtomicU8::new(0));
        status::get().map(|status| Self { calls, status, place, ends })
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
        if self.ends.fetch_or(this, Ordering::AcqRel) & other != 0 {
            self.remove();
        }
    }

    fn remove(&self) {
        if let Some(place) = self.place.get() {
            self.status.live_calls().remove(*place);
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
    pub fn enter(&self, request: Request, params: &CgiParams, body_length: Option<u64>) {
        let Some(record) = &self.record else { return };
        record.calls.enter();
        let side = self.event_loop.get();
        // A streamed body is counted as it comes.
        if self.body_stream.is_none() {
            side.facts.add_received(body_length.unwrap_or_default());
        }
        let of_client = |variable| params.value(Key::Variable(variable)).unwrap_or_default();
        let [method, target, client] = if self.from_front {
            [Variable::RequestMethod, Variable::RequestUri, Variable::RemoteAddr].map(of_client)
        } else {
            [request.method(), request.unparsed_uri(), request.remote_address()]
        };
        let path = match target.iter().position(|byte| *byte == b'?') {
            Some(end) if !record.status.shows_query() => &target[..end],
            _ => target,
        };
        if let Some(place) =
            record.status.live_calls().add(side.registration.number(), method, path, client, self.myself.clone())
        {
            let _ = record.place.set(place);
        }
    }

    /// Notes the response of a request that is about to end.
    pub(super) fn note_ending(&self, request: Request, ending: Ending) {
        let side = self.event_loop.get();
        let facts = &side.facts;
        let instead = match ending {
            Ending::Finalized(Status::CLIENT_CLOSED_REQUEST | Status::CLIENT_TIMED_OUT) => {
                facts.client_gone.set(true);
                None
            }
            Ending::Finalized(status) => u16::try_from(status.0).ok().filter(|status| *status >= 100),
            Ending::Replaced => None,
            Ending::QueueFull => {
                facts.refused.set(Some(Refusal::QueueFull));
                Some(Status::SERVICE_UNAVAILABLE.0 as u16)
            }
            Ending::CleanedUp => {
                facts.client_gone.set(true);
                None
            }
        };
        let state = side.state.borrow();
        let status = match &*state {
            ResponseState::Replaced(replacement) => Some(replacement.status()),
            ResponseState::LastQueued if side.call_closed.get() => Some(request.response_status()),
            _ if request.is_header_sent() => {
                // nginx could not send more, and the call was not the reason.
                let is_broken = matches!(*state, ResponseState::Failed(_)) || ending == Ending::CleanedUp;
                facts.client_gone.set(facts.client_gone.get() || is_broken && request.has_connection_error());
                Some(request.response_status())
            }
            _ => instead,
        };
        facts.status.set(status);
    }

    /// Ends the registration of the call, and counts it. The call may go on. Does nothing the second time.
    pub(super) fn leave(&self) {
        let side = self.event_loop.get();
        if !side.registration.leave() {
            return;
        }
        let Some(record) = &self.record else { return };
        let (clock, facts) = (&self.stats.clock, &side.facts);
        let started = clock.is_started();
        let refused = facts.refused.get();
        let is_timed = refused != Some(Refusal::QueueFull);
        record.calls.record(&Ended {
            started,
            status: facts.status.get(),
            refused,
            timed_out: clock.has_timed_out(),
            client_gone: facts.client_gone.get(),
            received: facts.received.get(),
            sent: facts.sent.get(),
            queue_time: is_timed.then(|| clock.queue_time()),
            header_time: self.stats.application_time(),
            total_time: is_timed.then(|| clock.ended().unwrap_or_else(|| clock.elapsed())),
        });
        if started {
            record.end(LEFT, CLOSED);
        } else {
            record.remove();
        }
    }
}

impl LiveCall for RequestExchange {
    fn progress(&self) -> Progress {
        let clock = &self.stats.clock;
        let buffer = self.lock();
        // A call that waits until its request body comes has no headers yet.
        let waits_for_client = buffer.is_full() || clock.is_paused() && self.stats.has_headers();
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
