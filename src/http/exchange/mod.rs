//! The nginx side of [`Transport`]: filled by the thread that runs the call, emptied by the event loop.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::body_stream::{BodyEnd, BodyStream, StreamedBody};
use super::call_stats::{CallStats, LimitCheck};
use super::response_buffer::{ResponseBuffer, SendBatch};
use super::response_headers::{self, Replacement};
use super::shared_buffer::SharedBuffer;
use crate::conf::header_rules::HeaderRules;
use crate::conf::location::{Buffering, LocationConf};
use crate::engine::pool::CallHandle;
use crate::nginx::log::{Level, Log, write_directly};
use crate::nginx::request::body::Reading;
use crate::nginx::request::output::{FilePart, Output, SentCounts};
use crate::nginx::request::{Request, RequestEvents, Status};
use crate::nginx::thread_bound::EventLoopBound;
use crate::python::log::{self, Sink};
use crate::sync::{Mutex, MutexGuard};
use crate::worker::active_requests::{ActiveRequest, ActiveRequests, Message};
use crate::worker::recycle;
use crate::wsgi::body::{BodySource, Interrupt};
use crate::wsgi::call::CallNumber;
use crate::wsgi::file::FileBody;
use crate::wsgi::headers::ResponseHeaders;
use crate::wsgi::transport::{Disconnected, End, Suspended, Transport};

/// How often in a row an answer may go on before the event loop sees to others.
const TURNS: usize = 4;

/// The exchange of one request.
pub struct RequestExchange {
    myself: Weak<Self>,
    buffer: SharedBuffer,
    /// Held by the one thread that writes to the temporary file.
    spilling: Mutex<()>,
    requests: &'static ActiveRequests,
    buffering: Arc<Buffering>,
    optimizes: bool,
    header_rules: Arc<HeaderRules>,
    /// Whether the client asks for several ranges of the body.
    wants_parts: bool,
    /// The request's body, if it is read while the call runs.
    body_stream: Option<Arc<BodyStream>>,
    stats: CallStats,
    /// The number of the client's connection, as the log has it.
    connection: u64,
    event_loop: EventLoopBound<EventLoopSide>,
}

/// What only the event loop thread touches.
struct EventLoopSide {
    /// Whose request it is; perhaps gone.
    origin: Request,
    /// `None` once the request is finalized or given up.
    request: Cell<Option<Request>>,
    number: CallNumber,
    output: Output,
    /// Whether nginx's filters have the head; some (image_filter) keep it until they have seen the body.
    head_sent: Cell<bool>,
    /// What nginx answers instead when the call is over.
    replacement: RefCell<Option<Replacement>>,
    /// Whether nginx has been given some of the body.
    begun: Cell<bool>,
    /// Whether the last buffer is on its way.
    ended: Cell<bool>,
    /// Whether the answer failed and nothing follows.
    failed: Cell<bool>,
    /// Whether the call is over.
    closed: Cell<bool>,
    /// What nginx said when it could not send.
    error: Cell<Option<Status>>,
    /// The call, once it is handed to the threads.
    handle: RefCell<Option<CallHandle>>,
    /// A call that waits until nginx has sent what it gave.
    suspended: RefCell<Option<Box<dyn Suspended>>>,
    /// Whether that is a file, all of which is to be gone.
    sends_document: Cell<bool>,
    /// Whether a message is on its way that gives the answer its next turn.
    turn_posted: Cell<bool>,
    /// Whether the client is to ask again at once.
    refreshes: Cell<bool>,
}

impl RequestExchange {
    /// The exchange of `request`, on the event loop thread.
    pub fn new(
        request: Request,
        requests: &'static ActiveRequests,
        conf: &LocationConf,
        stats: CallStats,
    ) -> Arc<Self> {
        let buffering = conf.buffering();
        let soonest = stats.soonest();
        Arc::new_cyclic(|myself: &Weak<Self>| Self {
            myself: myself.clone(),
            buffer: SharedBuffer::new(ResponseBuffer::new(buffering.clone())),
            spilling: Mutex::new(()),
            requests,
            buffering: buffering.clone(),
            optimizes: conf.optimize_send_headers(),
            header_rules: conf.header_rules().clone(),
            wants_parts: conf.allow_ranges() && request.wants_several_ranges(),
            body_stream: request.is_reading_body().then(Arc::default),
            stats,
            connection: request.connection_number(),
            event_loop: EventLoopBound::new(EventLoopSide {
                origin: request,
                request: Cell::new(Some(request)),
                number: requests.enter(myself.clone(), soonest),
                output: Output::default(),
                head_sent: Cell::new(false),
                replacement: RefCell::new(None),
                begun: Cell::new(false),
                ended: Cell::new(false),
                failed: Cell::new(false),
                closed: Cell::new(false),
                error: Cell::new(None),
                handle: RefCell::new(None),
                suspended: RefCell::new(None),
                sends_document: Cell::new(false),
                turn_posted: Cell::new(false),
                refreshes: Cell::new(false),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, ResponseBuffer> {
        self.buffer.lock()
    }

    fn shared(&self) -> Arc<Self> {
        self.myself.upgrade().expect("only methods of a living Arc are called")
    }

    /// Names the call.
    pub fn number(&self) -> CallNumber {
        self.event_loop.get().number
    }

    /// What is known of the call.
    pub fn stats(&self) -> &CallStats {
        &self.stats
    }

    /// Whether it is the exchange of this request.
    pub fn is_of(&self, request: Request) -> bool {
        self.event_loop.get().origin == request
    }

    /// Lets the client ask again at once, unless the application says otherwise.
    pub fn ask_to_refresh(&self) {
        self.event_loop.get().refreshes.set(true);
    }

    /// Keeps hold of a call that the threads have.
    pub fn attach_handle(&self, handle: CallHandle) {
        self.event_loop.get().handle.replace(Some(handle));
    }

    /// Keeps a call until there is room for more of its answer.
    pub fn suspend(&self, suspended: Option<Box<dyn Suspended>>) {
        if suspended.is_some() {
            *self.event_loop.get().suspended.borrow_mut() = suspended;
        }
    }

    /// Tells the event loop that there is something to take; on its own thread hands it to nginx right away.
    fn notify(&self, mut buffer: MutexGuard<'_, ResponseBuffer>) {
        if self.event_loop.is_here() {
            drop(buffer);
            if let Some(request) = self.event_loop.get().request.get() {
                self.send_batch(request);
            }
        } else if buffer.notify() {
            drop(buffer);
            self.requests.notifier.send(Message::Response(self.shared()));
        }
    }

    /// The body of a request that is read while the call runs.
    pub fn streamed_body(&self) -> Option<impl BodySource + use<>> {
        let (exchange, asking) = (self.shared(), self.shared());
        let ask = move || asking.requests.notifier.send(Message::Response(asking.clone()));
        self.body_stream.clone().map(|body_stream| UntimedBody { body: StreamedBody::new(body_stream, ask), exchange })
    }

    /// Gives the application more of the body if it waits for more.
    fn feed_body(&self, request: Request) {
        let Some(body_stream) = self.body_stream.as_ref().filter(|body_stream| body_stream.is_wanted()) else { return };
        loop {
            let mut has_come = false;
            request.take_body(|bytes| {
                has_come = true;
                body_stream.push(bytes);
            });
            if !request.is_reading_body() {
                body_stream.end(BodyEnd::Complete);
                return request.body_is_complete();
            }
            if has_come {
                // The rest stays where it is until this has been read.
                return request.pause_reading();
            }
            match request.read_more_of_body() {
                Ok(Reading::Complete) => {}
                Ok(Reading::Waiting) if request.has_body_to_take() => {}
                Ok(Reading::Waiting) => return,
                Err(status) => return self.fail_body(request, status),
            }
        }
    }

    /// The client's socket has something to read, or is closed.
    fn read(&self) {
        let Some(request) = self.event_loop.get().request.get() else { return };
        self.feed_body(request);
        if self.body_stream.as_ref().is_some_and(|body_stream| !body_stream.is_wanted())
            && self.event_loop.get().request.get().is_some()
            && request.is_reading_body()
        {
            // HTTP/2 takes what comes, up to its window, and sets a time limit then.
            request.pause_reading();
        }
        if self.event_loop.get().request.get().is_some() && request.is_reset() {
            request.log().write(Level::Info, "client prematurely closed connection");
            self.finalize(request, Status::CLIENT_CLOSED_REQUEST);
        }
    }

    fn fail_body(&self, request: Request, status: Status) {
        if status == Status::CLIENT_TIMED_OUT {
            request.log().write(Level::Info, "client timed out while sending its body");
        }
        let end = match status {
            Status::CLIENT_CLOSED_REQUEST => BodyEnd::Disconnected,
            Status::CLIENT_TIMED_OUT => BodyEnd::TimedOut,
            _ => BodyEnd::Refused,
        };
        let status = if request.is_header_sent() && end == BodyEnd::Refused { Status::ERROR } else { status };
        self.detach(end);
        request.finalize(status);
    }

    /// Hands to nginx what there is, and lets a suspended call go on, until one of the two has to wait. Finalizes the
    /// request when its answer is over.
    pub fn run_output(&self) {
        let side = self.event_loop.get();
        for _ in 0..TURNS {
            let Some(request) = side.request.get() else { return };
            self.send_batch(request);
            if let Some(replacement) = side.due_replacement() {
                // With the request goes what may be the last reference to this exchange.
                let _alive = self.shared();
                self.release();
                return replacement.answer(request, &self.header_rules);
            }
            if let Some(status) = side.verdict(request) {
                return self.finalize(request, status);
            }
            if side.is_busy(request) {
                if request.is_active()
                    && let Err(status) = request.wait_until_writable()
                {
                    return self.finalize(request, status);
                }
                if side.sends_document.get() || self.lock().is_full() {
                    return;
                }
                // There is room for more, so that the call may end though its client is slow.
            } else if self.lock().has_data() {
                continue;
            } else if request.is_active() && side.suspended.borrow().is_none() {
                request.stop_waiting();
            }
            let Some(suspended) = side.suspended.take() else { return };
            side.sends_document.set(false);
            self.suspend(suspended.resume());
        }
        // A fast client, or an answer that nobody reads, could keep this up for ever; others get their turn first.
        if !side.turn_posted.replace(true) {
            self.requests.notifier.send(Message::Response(self.shared()));
        }
    }

    /// Moves one batch into nginx's filters. Finalizes nothing, so a call that runs on this thread may use it.
    fn send_batch(&self, request: Request) {
        let side = self.event_loop.get();
        if side.error.get().is_some() {
            return;
        }
        if self.is_disconnected() {
            // With `wsgi_threads off` the client hears of a time limit when the call has ended.
            if self.stats.has_timed_out() && self.lock().is_closed() {
                self.requests.write_log();
                side.error.set(Some(side.status_instead(request, Status::GATEWAY_TIME_OUT)));
            }
            return;
        }
        let batch = self.lock().take(side.output.is_busy());
        if let Err(status) = self.move_batch(request, batch) {
            side.error.set(Some(status));
            self.disconnect();
        }
    }

    /// From now on the call finds nobody there.
    fn disconnect(&self) {
        let suspended = self.buffer.change(ResponseBuffer::disconnect);
        self.suspend(suspended);
    }

    fn move_batch(&self, request: Request, batch: SendBatch) -> Result<(), Status> {
        let side = self.event_loop.get();
        let SendBatch { head, mut parts, is_document, is_whole, end, closed, suspended } = batch;
        self.suspend(suspended);
        if closed {
            // What the call has logged was queued before it was closed, and is to be logged before the request goes.
            self.requests.write_log();
        }
        side.closed.set(closed);
        side.failed.set(end == Some(End::Failed));
        if let Some(mut head) = head {
            if side.refreshes.get() && head.header("Refresh").is_none() {
                head.headers.push((b"Refresh".to_vec(), b"0".to_vec()));
            }
            match response_headers::send(request, head, is_whole, &self.header_rules)? {
                None => side.head_sent.set(true),
                replacement => *side.replacement.borrow_mut() = replacement,
            }
            if self.optimizes {
                self.buffer.change(|buffer| buffer.set_body_wanted(side.head_sent.get() && !request.is_header_only()));
            }
        }
        let all = SentCounts { memory: parts.memory.len(), files: usize::from(parts.file.is_some()) };
        if side.replacement.borrow().is_some() {
            // Nobody gets this body, but its call goes on to its end.
            self.buffer.change(|buffer| buffer.sent(all));
            return Ok(());
        }
        if !side.head_sent.get() {
            return Ok(());
        }
        if is_document {
            side.sends_document.set(true);
            // nginx aligns its buffers for direct reading only if that is what it begins with.
            if parts.memory.is_empty() && !side.begun.get() {
                parts.file = parts.file.map(|file| request.with_directio(file));
            }
        }
        side.begun.set(side.begun.get() || !parts.memory.is_empty() || parts.file.is_some());
        let last = end == Some(End::Complete);
        let sent = if side.ended.replace(last) {
            // Nothing follows, but the call goes on: it waits for this to be sent, or its close() takes its time.
            side.output.flush(request)?
        } else if request.is_header_only() {
            all
        } else {
            side.output.send(request, parts, last)?
        };
        if sent != SentCounts::default() {
            self.buffer.change(|buffer| buffer.sent(sent));
        }
        Ok(())
    }

    fn finalize(&self, request: Request, status: Status) {
        self.release();
        request.finalize(status);
    }

    /// Lets the request go: from now on the call finds nobody there.
    pub fn release(&self) {
        self.detach(BodyEnd::Disconnected);
    }

    /// The same; `end` is what a call that waits for more of the body is told.
    fn detach(&self, end: BodyEnd) {
        let side = self.event_loop.get();
        if side.request.get().is_none() {
            return;
        }
        // Before the body ends: what the application makes of that is not logged as an error if its client has left.
        self.disconnect();
        if let Some(body_stream) = &self.body_stream {
            body_stream.end(end);
        }
        if let Some(handle) = side.handle.take()
            && !self.stats.is_started()
        {
            handle.cancel();
        }
        // What close() logs still has the context of the request.
        if let Some(suspended) = side.suspended.take() {
            suspended.abandon();
        }
        side.request.set(None);
        self.requests.leave(side.number);
    }
}

/// What the limits of the call want done.
impl RequestExchange {
    /// The call has waited too long: it never runs.
    fn refuse_start(&self, request: Request) {
        let mut buffer = self.lock();
        if self.stats.is_started() {
            return;
        }
        // From here on no thread can start it.
        // A call that has not started is not suspended.
        drop(buffer.disconnect());
        drop(buffer);
        request.log().write(
            Level::Error,
            &format!("application \"{}\" was not called within wsgi_queue_timeout", self.stats.application),
        );
        // Without memory for the header the answer is right without it.
        let _ = request.add_header(b"Retry-After", b"1");
        request.in_foreign_event(|request| self.finalize(request, Status::SERVICE_UNAVAILABLE));
    }

    fn report_slow(&self, handle: &CallHandle) {
        self.stats.report_slow();
        let headline = format!("{} (wsgi_slow_request)", self.stats.has_run());
        handle.dump_stack(headline, self.shared());
    }

    /// The call has run too long: the client hears of it now, and the call when it runs Python code again.
    fn give_up_call(&self, request: Request, handle: CallHandle) {
        let side = self.event_loop.get();
        // After a complete answer nobody but the call itself is late.
        let status = if side.ended.get() { Status::OK } else { side.status_instead(request, Status::GATEWAY_TIME_OUT) };
        let log = request.log();
        log.write(Level::Error, &format!("{} and is given up (wsgi_request_timeout)", self.stats.has_run()));
        let headline = format!("stack of {}", self.stats.thread().unwrap_or_default());
        self.stats.time_out();
        request.in_foreign_event(|request| self.finalize(request, status));
        handle.give_up(headline, self.shared());
        recycle::expect_end(handle);
    }
}

impl EventLoopSide {
    /// The status to finalize with in place of the application's answer.
    fn status_instead(&self, request: Request, status: Status) -> Status {
        if request.is_header_sent() { Status::ERROR } else { status }
    }

    /// Whether the call has to wait until nginx has sent more.
    fn is_busy(&self, request: Request) -> bool {
        if self.ended.get() {
            // Of what the range filter has cut up nothing tells that it was sent, and filters may have read the last of a
            // file and hold it still.
            request.has_buffered()
        } else {
            self.output.is_busy() || (self.sends_document.get() && request.has_buffered())
        }
    }

    /// What answers instead, when it is time.
    fn due_replacement(&self) -> Option<Replacement> {
        if self.closed.get() && self.error.get().is_none() { self.replacement.take() } else { None }
    }

    /// The status to finalize with when the answer is over.
    fn verdict(&self, request: Request) -> Option<Status> {
        if let Some(status) = self.error.get() {
            return Some(status);
        }
        if !self.closed.get() {
            return None;
        }
        if self.failed.get() {
            // An error page, or once the head is out a broken connection, after the data that came before.
            return if !request.is_header_sent() {
                Some(Status::INTERNAL_SERVER_ERROR)
            } else if self.output.is_busy() {
                None
            } else {
                Some(Status::ERROR)
            };
        }
        // After the last buffer nginx itself sends on what is left.
        self.ended.get().then_some(Status::OK)
    }
}

impl RequestExchange {
    /// Writes to the temporary file what there is room for; all of it where the call cannot wait for room.
    fn spill_up_to(&self, data: &[u8], unlimited: bool) -> Result<usize, Disconnected> {
        let _writer = self.spilling.lock();
        let place = {
            let buffer = self.lock();
            if !buffer.is_open() {
                return Err(Disconnected);
            }
            buffer.spill_place()
        };
        let room = if unlimited { u64::MAX } else { place.room };
        let count = data.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        if count == 0 {
            return Ok(0);
        }
        // Without the lock: the disk may take its time, and the event loop does not wait for it.
        let written = place.file.map_or_else(|| self.temporary_file(), Ok).and_then(|file| {
            file.write_all_at(&data[..count], place.offset)?;
            Ok(file)
        });
        match written {
            Ok(file) => {
                let mut buffer = self.lock();
                if !buffer.is_open() {
                    return Err(Disconnected);
                }
                buffer.spilled(file, place.offset, count as u64);
                self.notify(buffer);
                Ok(count)
            }
            Err(error) => {
                let directory = self.buffering.directory.display();
                self.write(
                    log::Level::Error,
                    &format!("cannot write a temporary file for an answer in \"{directory}\": {error}"),
                );
                let mut buffer = self.lock();
                buffer.spill_failed();
                if !unlimited {
                    return Ok(0);
                }
                buffer.end(End::Failed);
                Err(Disconnected)
            }
        }
    }

    fn temporary_file(&self) -> io::Result<Arc<std::fs::File>> {
        tempfile::tempfile_in(&self.buffering.directory).map(Arc::new)
    }
}

impl Transport for RequestExchange {
    fn start(&self, thread: &Arc<str>, interpreter: &Arc<str>) -> bool {
        // Under the lock: nothing starts that was given up.
        let buffer = self.lock();
        let starts = !buffer.is_disconnected();
        if starts {
            self.stats.start(thread, interpreter);
        }
        starts
    }

    fn go_on(&self) {
        self.stats.resume();
    }

    fn raised(&self, class: &str) {
        self.stats.raised(class);
    }

    fn time_out(&self) {
        self.buffer.change(|buffer| {
            self.stats.time_out();
            // What is complete goes out all the same, though its close() is late.
            if buffer.is_unfinished() {
                drop(buffer.disconnect());
            }
        });
    }

    fn has_timed_out(&self) -> bool {
        self.stats.has_timed_out()
    }

    fn send_head(&self, head: ResponseHeaders) {
        self.stats.head();
        self.lock().set_head(head, self.wants_parts);
    }

    fn send(&self, data: &[u8], more_follows: bool) -> Result<usize, Disconnected> {
        let mut buffer = self.lock();
        if !buffer.is_open() {
            return Err(Disconnected);
        }
        let count = buffer.push(data);
        if count < data.len() || !(more_follows || buffer.joins_more()) {
            self.notify(buffer);
        }
        Ok(count)
    }

    fn spill(&self, data: &[u8]) -> Result<usize, Disconnected> {
        self.spill_up_to(data, false)
    }

    fn send_all(&self, data: &[u8]) -> Result<(), Disconnected> {
        let mut buffer = self.lock();
        if !buffer.is_open() {
            return Err(Disconnected);
        }
        let mut rest = &data[buffer.push(data)..];
        if !rest.is_empty() || buffer.waiting() >= self.buffering.write_join {
            self.notify(buffer);
        } else {
            drop(buffer);
        }
        while !rest.is_empty() {
            // On the event loop thread nobody would make room while it waits.
            let spilled = self.spill_up_to(rest, self.event_loop.is_here())?;
            rest = &rest[spilled..];
            if spilled == 0 {
                self.wait_for_room()?;
                rest = &rest[self.send(rest, false)?..];
            }
        }
        Ok(())
    }

    fn send_file(&self, file: FileBody, last: bool, call: Box<dyn Suspended>) {
        let FileBody { file, offset, length } = file;
        self.stats.pause();
        let document = FilePart { file: Arc::new(file), offset, length, direct: false };
        let mut buffer = self.lock();
        match buffer.set_document(document, last, call) {
            Ok(()) => {
                if last {
                    buffer.end(End::Complete);
                }
                self.notify(buffer);
            }
            Err(call) => {
                drop(buffer);
                call.abandon();
            }
        }
    }

    fn optimizes(&self) -> bool {
        self.optimizes
    }

    fn wants_body(&self) -> bool {
        self.notify(self.lock());
        // On the event loop thread it is known at once, if at all.
        if self.event_loop.is_here() {
            return self.lock().is_body_wanted().unwrap_or(true);
        }
        self.buffer.wait_for_verdict()
    }

    fn wait_for_room(&self) -> Result<(), Disconnected> {
        self.stats.pause();
        let result = self.buffer.wait_for_room();
        self.stats.resume();
        result
    }

    fn end(&self, end: End, closed_follows: bool) {
        let mut buffer = self.lock();
        buffer.end(end);
        if !closed_follows {
            self.notify(buffer);
        }
    }

    fn closed(&self) {
        self.stats.close();
        let mut buffer = self.lock();
        buffer.close();
        self.notify(buffer);
    }

    fn is_disconnected(&self) -> bool {
        self.lock().is_disconnected()
    }

    fn sink(self: Arc<Self>) -> Arc<dyn Sink> {
        self
    }
}

impl Sink for RequestExchange {
    fn write(&self, level: log::Level, text: &str) {
        if self.event_loop.is_here() {
            self.log_here(level, text);
        } else {
            self.requests.log(Some(self.shared()), level, text);
        }
    }

    fn write_at_once(&self, text: &str) {
        write_directly(self.connection, text);
    }
}

impl ActiveRequest for RequestExchange {
    fn on_output(&self) {
        self.event_loop.get().turn_posted.set(false);
        // Not an event of the request's own, so what it posts has to be run.
        if let Some(request) = self.event_loop.get().request.get() {
            request.in_foreign_event(|request| {
                self.feed_body(request);
                self.run_output();
            });
        }
    }

    fn log_here(&self, level: log::Level, text: &str) {
        match self.event_loop.get().request.get() {
            Some(request) => request.log().write(level.into(), text),
            None => Log::cycle().write(level.into(), text),
        }
    }

    fn abort(&self) {
        if let Some(request) = self.event_loop.get().request.get() {
            let status = self.event_loop.get().status_instead(request, Status::SERVICE_UNAVAILABLE);
            request.in_foreign_event(|request| self.finalize(request, status));
        }
    }

    fn check_limits(&self) -> Option<Duration> {
        let side = self.event_loop.get();
        loop {
            // A call on this thread is not under way now, or waits for its client.
            let (request, handle) = (side.request.get()?, side.handle.borrow().clone()?);
            match self.stats.due() {
                LimitCheck::Later(wait) => return wait,
                LimitCheck::QueueTimeout => self.refuse_start(request),
                LimitCheck::Slow => self.report_slow(&handle),
                LimitCheck::RequestTimeout => self.give_up_call(request, handle),
            }
        }
    }
}

/// A body that is read while the call runs: the time for which the client makes it wait is not the call's.
struct UntimedBody<B> {
    body: B,
    exchange: Arc<RequestExchange>,
}

impl<B: BodySource> BodySource for UntimedBody<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.exchange.stats.pause();
        let read = self.body.read(buffer);
        self.exchange.stats.resume();
        read
    }

    fn remaining(&self) -> Option<u64> {
        self.body.remaining()
    }

    fn may_block(&self) -> bool {
        self.body.may_block()
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        self.body.interrupt()
    }
}

/// The exchange as nginx's request knows it.
pub struct Installed(pub Arc<RequestExchange>);

impl RequestEvents for Installed {
    fn writable(&self) {
        self.0.run_output();
    }

    fn readable(&self) {
        self.0.read();
    }

    fn cleanup(&self) {
        self.0.release();
    }
}
