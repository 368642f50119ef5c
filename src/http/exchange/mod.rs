//! The exchange of one request: the thread of the call fills it, the event loop empties it into nginx.
//!
//! This file has the exchange itself, from its registration to the one function that ends it:
//! [`RequestExchange::detach`]. The files below have the event loop's side ([`output`]: the response, [`body`]: the
//! request body, [`limits`]: timeouts) and the call's side ([`transport`], [`spill`]: the temporary file).

mod body;
mod limits;
mod output;
pub mod record;
mod spill;
mod state;
mod transport;

use std::cell::{Cell, RefCell};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use record::{Ending, Facts, Record};
use state::ResponseState;

use super::body_stream::{BodyEnd, BodyStream};
use super::call_stats::CallStats;
use super::response_buffer::{ResponseBuffer, SharedBuffer};
use crate::conf::header_rules::HeaderRules;
use crate::conf::location::{Buffering, LocationConf};
use crate::conf::log::ApplicationLog;
use crate::engine::call_clock::CallClock;
use crate::engine::pool::{CallHandle, Queued};
use crate::engine::{Engine, Submission, TimedTransport};
use crate::nginx::log::{Level, Log};
use crate::nginx::request::events::RequestEvents;
use crate::nginx::request::output::Output;
use crate::nginx::request::{Request, Status};
use crate::nginx::thread_bound::EventLoopBound;
use crate::python::log::{self, Sink};
use crate::sync::{Mutex, MutexGuard};
use crate::worker::Worker;
use crate::worker::active_requests::{ActiveGuard, ActiveRequest};
use crate::worker::event_loop::Message;
use crate::worker::log_forms::LogContext;
use crate::wsgi::call::CallNumber;
use crate::wsgi::transport::Suspended;

/// The exchange of one request.
pub struct RequestExchange {
    myself: Weak<Self>,
    buffer: SharedBuffer,
    /// Held by the one thread that writes to the temporary file.
    spilling: Mutex<()>,
    worker: &'static Worker,
    buffering: Arc<Buffering>,
    /// The client is the front of a process group.
    from_front: bool,
    /// `wsgi_optimize_send_headers`.
    optimizes: bool,
    header_rules: Arc<HeaderRules>,
    /// The client asks for several ranges of the body.
    wants_parts: bool,
    /// The request body, if it is read while the call runs.
    body_stream: Option<Arc<BodyStream>>,
    stats: CallStats,
    /// `None` if the worker has no status.
    record: Option<Record>,
    /// Number of the client's connection in the log.
    connection: u64,
    /// Log of the application, if it has one.
    log: Option<Arc<ApplicationLog>>,
    /// Facts about the request for that log, once they were needed.
    log_context: OnceLock<Arc<LogContext>>,
    /// Log for threads that the call starts.
    log_of_threads: Option<Arc<dyn Sink>>,
    event_loop: EventLoopBound<EventLoopSide>,
}

/// The part that only the event loop thread touches.
struct EventLoopSide {
    /// The request of the exchange, for comparison only: it may be gone.
    origin: Request,
    /// `None` once the exchange is detached or its request released.
    request: Cell<Option<Request>>,
    /// The request has ended before its call, which is not disconnected.
    is_released: Cell<bool>,
    /// The client and the request line, for text that a call of a released request logs.
    released_context: RefCell<String>,
    registration: ActiveGuard,
    facts: Facts,
    output: Output,
    state: RefCell<ResponseState>,
    /// The call is closed: `close()` of its iterable has run.
    call_closed: Cell<bool>,
    /// The call, once a thread pool has it.
    handle: RefCell<Option<CallHandle>>,
    /// A call that holds no thread until nginx has sent its output.
    suspended: RefCell<Option<Box<dyn Suspended>>>,
    /// The output that the suspended call waits for is a file, which must be sent completely.
    sends_file: Cell<bool>,
    /// A message to continue the output is on its way.
    output_posted: Cell<bool>,
    /// The response gets `Refresh: 0`, unless the application sets that header.
    adds_refresh: Cell<bool>,
}

impl RequestExchange {
    /// Creates the exchange of `request` and registers it as an active request, on the event loop thread.
    pub fn new(
        request: Request,
        worker: &'static Worker,
        conf: &LocationConf,
        stats: CallStats,
        record: Option<Record>,
        log_of_threads: Option<Arc<dyn Sink>>,
    ) -> Arc<Self> {
        let buffering = conf.buffering();
        let soonest = stats.clock.soonest();
        let log_context = OnceLock::new();
        let log = conf.log().cloned().flatten();
        if let Some(log) = &log
            && matches!(worker.engine, Engine::Inline(_))
            && stats.clock.limits_running_time()
        {
            // Another thread may log the stack of the call, and may not look at the request.
            log_context.get_or_init(|| Arc::new(LogContext::of(request, log)));
        }
        Arc::new_cyclic(|myself: &Weak<Self>| Self {
            myself: myself.clone(),
            buffer: SharedBuffer::new(ResponseBuffer::new(buffering.clone())),
            spilling: Mutex::new(()),
            worker,
            buffering: buffering.clone(),
            from_front: request.is_from_front(),
            optimizes: conf.optimize_send_headers(),
            header_rules: conf.header_rules().clone(),
            wants_parts: conf.allow_ranges() && request.wants_several_ranges(),
            body_stream: request.is_reading_body().then(Arc::default),
            stats,
            record,
            connection: request.connection_number(),
            log,
            log_context,
            log_of_threads,
            event_loop: EventLoopBound::new(EventLoopSide {
                origin: request,
                request: Cell::new(Some(request)),
                is_released: Cell::new(false),
                released_context: RefCell::default(),
                registration: worker.requests.enter(myself.clone(), soonest),
                facts: Facts::default(),
                output: Output::default(),
                state: RefCell::default(),
                call_closed: Cell::new(false),
                handle: RefCell::new(None),
                suspended: RefCell::new(None),
                sends_file: Cell::new(false),
                output_posted: Cell::new(false),
                adds_refresh: Cell::new(false),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, ResponseBuffer> {
        self.buffer.lock()
    }

    fn shared(&self) -> Arc<Self> {
        self.myself.upgrade().expect("only methods of a living Arc are called")
    }

    /// Returns the number of the call.
    pub fn number(&self) -> CallNumber {
        self.event_loop.get().registration.number()
    }

    /// Returns times and outcome of the call.
    pub fn stats(&self) -> &CallStats {
        &self.stats
    }

    /// Returns true if `request` is the one of this exchange.
    pub fn is_of(&self, request: Request) -> bool {
        self.event_loop.get().origin == request
    }

    /// Adds `Refresh: 0` to the response, unless the application sets that header.
    pub fn add_refresh(&self) {
        self.event_loop.get().adds_refresh.set(true);
    }

    /// Follows a call that the engine has accepted.
    pub fn follow(&self, submission: Submission) {
        match submission {
            Submission::Queued(Queued { handle, wake_up, backlog }) => {
                self.event_loop.get().handle.replace(Some(handle));
                self.worker.note_queued(backlog);
                if let Some(wake_up) = wake_up {
                    self.worker.event_loop.wake_later(wake_up);
                }
            }
            Submission::Ran(suspended) => {
                self.suspend(suspended);
                self.run_output();
            }
        }
    }

    /// Keeps a call that waits until nginx has sent its output.
    fn suspend(&self, suspended: Option<Box<dyn Suspended>>) {
        if suspended.is_some() {
            *self.event_loop.get().suspended.borrow_mut() = suspended;
        }
    }

    /// Tells the event loop that there is output; on its own thread hands the output to nginx at once.
    fn notify(&self, mut buffer: MutexGuard<'_, ResponseBuffer>) {
        if self.event_loop.is_here() {
            drop(buffer);
            if let Some(request) = self.event_loop.get().request.get() {
                self.send_batch(request);
            }
        } else if buffer.mark_notified() {
            drop(buffer);
            self.worker.event_loop.send(Message::Response(self.shared()));
        }
    }

    /// Separates the call from its request, which nginx may free from now on. Does nothing the second time.
    ///
    /// Each end of a request comes here: [`Self::finalize`] (response sent, failed or timed out; client left; worker
    /// exits), a replaced response, a refused call, a request body that nginx has refused, and nginx's own cleanup. The
    /// call gets [`Disconnected`](crate::wsgi::transport::Disconnected) at its next output; `end` is the error that it
    /// gets at its next read of the request body, `ending` what the record of the call has of it.
    pub fn detach(&self, end: BodyEnd, ending: Ending) {
        let side = self.event_loop.get();
        let Some(request) = side.request.get() else { return };
        self.note_ending(side, request, ending);
        // Before the end of the body: an error that the application raises for that is not logged as one if the client
        // has left. A call that is closed needs no notice.
        if !side.call_closed.get() {
            self.note_log_context();
            self.disconnect_call();
        }
        if let Some(body_stream) = &self.body_stream {
            body_stream.end(end);
        }
        if let Some(handle) = side.handle.take()
            && !self.stats.clock.is_started()
        {
            handle.cancel();
        }
        // With the request still here: it is the context of the text that close() logs.
        if let Some(suspended) = side.suspended.take() {
            suspended.abandon();
        }
        side.request.set(None);
        self.leave(side);
    }

    /// Detaches the call and finalizes the request.
    fn finalize(&self, request: Request, status: Status) {
        self.detach(BodyEnd::Disconnected, Ending::Finalized(status));
        request.finalize(status);
    }

    /// Finalizes a request whose response is complete, while the call runs its `close()`. The front of a process group sends
    /// the next request, of another client, on the same connection.
    fn release(&self, request: Request) {
        let side = self.event_loop.get();
        self.note_log_context();
        if let Some(body_stream) = &self.body_stream {
            body_stream.end(BodyEnd::CallEnded);
        }
        let line = [request.method(), request.unparsed_uri(), request.protocol()].join(&b' ');
        let (address, line) = (String::from_utf8_lossy(request.remote_address()), String::from_utf8_lossy(&line));
        side.released_context.replace(format!(", client: {address}, request: \"{line}\""));
        self.note_ending(side, request, Ending::Finalized(Status::OK));
        side.request.set(None);
        side.is_released.set(true);
        request.finalize(Status::OK);
    }

    /// Ends the exchange of a released request, once its call is closed.
    fn end_released(&self) {
        let side = self.event_loop.get();
        if side.is_released.get() && self.lock().is_call_closed() {
            self.worker.event_loop.write_log();
            side.is_released.set(false);
            self.leave(side);
        }
    }

    /// Logs `text` after the end of the request.
    fn log_after_request(&self, level: Level, text: &str) {
        match self.event_loop.get().released_context.borrow().as_str() {
            "" => Log::cycle().write(level, text),
            context => Log::cycle().write_after(self.connection, context, level, text),
        }
    }

    /// Takes the facts about the request that records of its call need, which may come after the request.
    fn note_log_context(&self) {
        if let (Some(log), Some(request)) = (&self.log, self.event_loop.get().request.get()) {
            self.log_context.get_or_init(|| Arc::new(LogContext::of(request, log)));
        }
    }

    /// Discards the output of the call, now and later.
    fn disconnect_call(&self) {
        let suspended = self.buffer.change(ResponseBuffer::disconnect);
        self.suspend(suspended);
    }
}

impl EventLoopSide {
    /// Returns the status to finalize with in place of the application's response.
    fn status_instead(&self, request: Request, status: Status) -> Status {
        if request.is_header_sent() { Status::ERROR } else { status }
    }
}

impl ActiveRequest for RequestExchange {
    fn on_output(&self) {
        self.event_loop.get().output_posted.set(false);
        match self.event_loop.get().request.get() {
            // This is not an event of the request's connection, so the events that it posts have to be run.
            Some(request) => request.run_in_other_event(|request| {
                self.feed_body(request);
                self.run_output();
            }),
            None => self.end_released(),
        }
    }

    fn log_here(&self, level: log::Level, text: &str) {
        match self.event_loop.get().request.get() {
            Some(request) => request.log().write(level.into(), text),
            None => self.log_after_request(level.into(), text),
        }
    }

    fn log_context(&self, _: &ApplicationLog) -> Option<Arc<LogContext>> {
        self.note_log_context();
        Some(self.log_context.get().cloned().unwrap_or_else(|| Arc::new(LogContext::of_connection(self.connection))))
    }

    fn abort(&self) {
        let side = self.event_loop.get();
        match side.request.get() {
            Some(request) => {
                let status = side.status_instead(request, Status::SERVICE_UNAVAILABLE);
                request.run_in_other_event(|request| self.finalize(request, status));
            }
            None if side.is_released.take() => self.leave(side),
            None => {}
        }
    }

    fn check_limits(&self) -> Option<Duration> {
        self.act_on_limits()
    }
}

impl TimedTransport for RequestExchange {
    fn clock(&self) -> &CallClock {
        &self.stats.clock
    }
}

impl RequestEvents for RequestExchange {
    fn writable(&self) {
        self.run_output();
    }

    fn readable(&self) {
        self.read_client();
    }

    fn cleanup(&self) {
        self.detach(BodyEnd::Disconnected, Ending::CleanedUp);
    }
}
