//! The nginx side of [`Exchange`]: filled by the thread that runs the call, emptied by the event loop.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::hand_over::HandOver;
use super::head::{self, Replacement};
use super::incoming::{BodyEnd, Incoming, StreamedBody};
use super::outgoing::{Batch, Outgoing};
use super::post::{Addressee, Message, Post};
use super::record::{Due, Record};
use super::retire;
use crate::conf::head_rules::HeadRules;
use crate::conf::location::{Buffering, LocationConf};
use crate::engine::threads::Ticket;
use crate::nginx::body::Reading;
use crate::nginx::cell::EventLoopCell;
use crate::nginx::log::{Level, Log, write_directly};
use crate::nginx::output::{FilePart, Output, Sent};
use crate::nginx::request::{Request, RequestEvents, Status};
use crate::python::log::{self, Sink};
use crate::sync::MutexGuard;
use crate::wsgi::body::{BodySource, Interrupt};
use crate::wsgi::call::CallNumber;
use crate::wsgi::exchange::{Disconnected, End, Exchange, Suspended};
use crate::wsgi::file::FileBody;
use crate::wsgi::head::ResponseHead;

/// How often in a row an answer may go on before the event loop sees to others.
const TURNS: usize = 4;

/// The exchange of one request.
pub struct RequestExchange {
    myself: Weak<Self>,
    hand_over: HandOver,
    /// Held by the one thread that writes to the temporary file.
    spilling: Mutex<()>,
    post: &'static Post,
    buffering: Arc<Buffering>,
    optimizes: bool,
    head_rules: Arc<HeadRules>,
    /// Whether the client asks for several ranges of the body.
    wants_parts: bool,
    /// The request's body, if it is read while the call runs.
    incoming: Option<Arc<Incoming>>,
    record: Record,
    /// The number of the client's connection, as the log has it.
    connection: u64,
    event_loop: EventLoopCell<EventLoopSide>,
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
    ticket: RefCell<Option<Ticket>>,
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
    pub fn new(request: Request, post: &'static Post, conf: &LocationConf, record: Record) -> Arc<Self> {
        let buffering = conf.buffering();
        let soonest = record.soonest();
        Arc::new_cyclic(|myself: &Weak<Self>| Self {
            myself: myself.clone(),
            hand_over: HandOver::new(Outgoing::new(buffering.clone())),
            spilling: Mutex::new(()),
            post,
            buffering: buffering.clone(),
            optimizes: conf.optimize_send_headers(),
            head_rules: conf.head_rules().clone(),
            wants_parts: conf.allow_ranges() && request.wants_several_ranges(),
            incoming: request.is_reading_body().then(Arc::default),
            record,
            connection: request.connection_number(),
            event_loop: EventLoopCell::new(EventLoopSide {
                origin: request,
                request: Cell::new(Some(request)),
                number: post.enter(myself.clone(), soonest),
                output: Output::default(),
                head_sent: Cell::new(false),
                replacement: RefCell::new(None),
                begun: Cell::new(false),
                ended: Cell::new(false),
                failed: Cell::new(false),
                closed: Cell::new(false),
                error: Cell::new(None),
                ticket: RefCell::new(None),
                suspended: RefCell::new(None),
                sends_document: Cell::new(false),
                turn_posted: Cell::new(false),
                refreshes: Cell::new(false),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.hand_over.lock()
    }

    fn shared(&self) -> Arc<Self> {
        self.myself.upgrade().expect("only methods of a living Arc are called")
    }

    /// Names the call.
    pub fn number(&self) -> CallNumber {
        self.event_loop.get().number
    }

    /// What is known of the call.
    pub fn record(&self) -> &Record {
        &self.record
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
    pub fn hand_over(&self, ticket: Ticket) {
        self.event_loop.get().ticket.replace(Some(ticket));
    }

    /// Keeps a call until there is room for more of its answer.
    pub fn suspend(&self, suspended: Option<Box<dyn Suspended>>) {
        if suspended.is_some() {
            *self.event_loop.get().suspended.borrow_mut() = suspended;
        }
    }

    /// Tells the event loop that there is something to take; on its own thread hands it to nginx right away.
    fn announce(&self, mut outgoing: MutexGuard<'_, Outgoing>) {
        if self.event_loop.is_here() {
            drop(outgoing);
            if let Some(request) = self.event_loop.get().request.get() {
                self.transfer(request);
            }
        } else if outgoing.announce() {
            drop(outgoing);
            self.post.mailbox.send(Message::Answer(self.shared()));
        }
    }

    /// The body of a request that is read while the call runs.
    pub fn streamed_body(&self) -> Option<impl BodySource + use<>> {
        let (exchange, asking) = (self.shared(), self.shared());
        let ask = move || asking.post.mailbox.send(Message::Answer(asking.clone()));
        self.incoming.clone().map(|incoming| Unhurried { body: StreamedBody::new(incoming, ask), exchange })
    }

    /// Gives the application more of the body if it waits for more.
    fn fill(&self, request: Request) {
        let Some(incoming) = self.incoming.as_ref().filter(|incoming| incoming.is_wanted()) else { return };
        loop {
            let mut has_come = false;
            request.take_body(|bytes| {
                has_come = true;
                incoming.push(bytes);
            });
            if !request.is_reading_body() {
                incoming.end(BodyEnd::Complete);
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
        self.fill(request);
        if self.incoming.as_ref().is_some_and(|incoming| !incoming.is_wanted())
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
        self.let_go(end);
        request.finalize(status);
    }

    /// Hands to nginx what there is, and lets a suspended call go on, until one of the two has to wait. Finalizes the
    /// request when its answer is over.
    pub fn pump(&self) {
        let side = self.event_loop.get();
        for _ in 0..TURNS {
            let Some(request) = side.request.get() else { return };
            self.transfer(request);
            if let Some(replacement) = side.due_replacement() {
                // With the request goes what may be the last reference to this exchange.
                let _alive = self.shared();
                self.release();
                return replacement.answer(request, &self.head_rules);
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
            self.post.mailbox.send(Message::Answer(self.shared()));
        }
    }

    /// Moves one batch into nginx's filters. Finalizes nothing, so a call that runs on this thread may use it.
    fn transfer(&self, request: Request) {
        let side = self.event_loop.get();
        if side.error.get().is_some() {
            return;
        }
        if self.is_disconnected() {
            // With `wsgi_threads off` the client hears of a time limit when the call has ended.
            if self.record.has_timed_out() && self.lock().is_closed() {
                self.post.write_log();
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
        let suspended = self.hand_over.change(Outgoing::disconnect);
        self.suspend(suspended);
    }

    fn move_batch(&self, request: Request, batch: Batch) -> Result<(), Status> {
        let side = self.event_loop.get();
        let Batch { head, mut parts, is_document, is_whole, end, closed, suspended } = batch;
        self.suspend(suspended);
        if closed {
            // What the call has logged was queued before it was closed, and is to be logged before the request goes.
            self.post.write_log();
        }
        side.closed.set(closed);
        side.failed.set(end == Some(End::Failed));
        if let Some(mut head) = head {
            if side.refreshes.get() && head.header("Refresh").is_none() {
                head.headers.push((b"Refresh".to_vec(), b"0".to_vec()));
            }
            match head::send(request, head, is_whole, &self.head_rules)? {
                None => side.head_sent.set(true),
                replacement => *side.replacement.borrow_mut() = replacement,
            }
            if self.optimizes {
                self.hand_over
                    .change(|outgoing| outgoing.set_body_wanted(side.head_sent.get() && !request.is_header_only()));
            }
        }
        let all = Sent { memory: parts.memory.len(), files: usize::from(parts.file.is_some()) };
        if side.replacement.borrow().is_some() {
            // Nobody gets this body, but its call goes on to its end.
            self.hand_over.change(|outgoing| outgoing.sent(all));
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
        if sent != Sent::default() {
            self.hand_over.change(|outgoing| outgoing.sent(sent));
        }
        Ok(())
    }

    fn finalize(&self, request: Request, status: Status) {
        self.release();
        request.finalize(status);
    }

    /// Lets the request go: from now on the call finds nobody there.
    pub fn release(&self) {
        self.let_go(BodyEnd::Disconnected);
    }

    /// The same; `end` is what a call that waits for more of the body is told.
    fn let_go(&self, end: BodyEnd) {
        let side = self.event_loop.get();
        if side.request.get().is_none() {
            return;
        }
        // Before the body ends: what the application makes of that is not logged as an error if its client has left.
        self.disconnect();
        if let Some(incoming) = &self.incoming {
            incoming.end(end);
        }
        if let Some(ticket) = side.ticket.take()
            && !self.record.is_started()
        {
            ticket.cancel();
        }
        // What close() logs still has the context of the request.
        if let Some(suspended) = side.suspended.take() {
            suspended.abandon();
        }
        side.request.set(None);
        self.post.leave(side.number);
    }
}

/// What the limits of the call want done.
impl RequestExchange {
    /// The call has waited too long: it never runs.
    fn refuse_start(&self, request: Request) {
        let mut outgoing = self.lock();
        if self.record.is_started() {
            return;
        }
        // From here on no thread can start it.
        // A call that has not started is not suspended.
        drop(outgoing.disconnect());
        drop(outgoing);
        request.log().write(
            Level::Error,
            &format!("application \"{}\" was not called within wsgi_queue_timeout", self.record.application),
        );
        // Without memory for the header the answer is right without it.
        let _ = request.add_header(b"Retry-After", b"1");
        request.in_foreign_event(|request| self.finalize(request, Status::SERVICE_UNAVAILABLE));
    }

    fn report_slow(&self, ticket: &Ticket) {
        self.record.report_slow();
        let headline = format!("{} (wsgi_slow_request)", self.record.has_run());
        ticket.log_stack(headline, self.shared());
    }

    /// The call has run too long: the client hears of it now, and the call when it runs Python code again.
    fn give_up_call(&self, request: Request, ticket: Ticket) {
        let side = self.event_loop.get();
        // After a complete answer nobody but the call itself is late.
        let status = if side.ended.get() { Status::OK } else { side.status_instead(request, Status::GATEWAY_TIME_OUT) };
        let log = request.log();
        log.write(Level::Error, &format!("{} and is given up (wsgi_request_timeout)", self.record.has_run()));
        let headline = format!("stack of {}", self.record.thread().unwrap_or_default());
        self.record.time_out();
        request.in_foreign_event(|request| self.finalize(request, status));
        ticket.give_up(headline, self.shared());
        retire::expect_end(ticket);
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
        let _writer = self.spilling.lock().unwrap_or_else(PoisonError::into_inner);
        let place = {
            let outgoing = self.lock();
            if !outgoing.is_open() {
                return Err(Disconnected);
            }
            outgoing.spill_place()
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
                let mut outgoing = self.lock();
                if !outgoing.is_open() {
                    return Err(Disconnected);
                }
                outgoing.spilled(file, place.offset, count as u64);
                self.announce(outgoing);
                Ok(count)
            }
            Err(error) => {
                let directory = self.buffering.directory.display();
                self.write(
                    log::Level::Error,
                    &format!("cannot write a temporary file for an answer in \"{directory}\": {error}"),
                );
                let mut outgoing = self.lock();
                outgoing.spill_failed();
                if !unlimited {
                    return Ok(0);
                }
                outgoing.end(End::Failed);
                Err(Disconnected)
            }
        }
    }

    fn temporary_file(&self) -> io::Result<Arc<std::fs::File>> {
        tempfile::tempfile_in(&self.buffering.directory).map(Arc::new)
    }
}

impl Exchange for RequestExchange {
    fn start(&self, thread: &Arc<str>, interpreter: &Arc<str>) -> bool {
        // Under the lock: nothing starts that was given up.
        let outgoing = self.lock();
        let starts = !outgoing.is_disconnected();
        if starts {
            self.record.start(thread, interpreter);
        }
        starts
    }

    fn go_on(&self) {
        self.record.resume();
    }

    fn raised(&self, class: &str) {
        self.record.raised(class);
    }

    fn time_out(&self) {
        self.hand_over.change(|outgoing| {
            self.record.time_out();
            // What is complete goes out all the same, though its close() is late.
            if outgoing.is_unfinished() {
                drop(outgoing.disconnect());
            }
        });
    }

    fn has_timed_out(&self) -> bool {
        self.record.has_timed_out()
    }

    fn send_head(&self, head: ResponseHead) {
        self.record.head();
        self.lock().set_head(head, self.wants_parts);
    }

    fn send(&self, data: &[u8], more_follows: bool) -> Result<usize, Disconnected> {
        let mut outgoing = self.lock();
        if !outgoing.is_open() {
            return Err(Disconnected);
        }
        let count = outgoing.push(data);
        if count < data.len() || !(more_follows || outgoing.joins_more()) {
            self.announce(outgoing);
        }
        Ok(count)
    }

    fn spill(&self, data: &[u8]) -> Result<usize, Disconnected> {
        self.spill_up_to(data, false)
    }

    fn send_all(&self, data: &[u8]) -> Result<(), Disconnected> {
        let mut outgoing = self.lock();
        if !outgoing.is_open() {
            return Err(Disconnected);
        }
        let mut rest = &data[outgoing.push(data)..];
        if !rest.is_empty() || outgoing.waiting() >= self.buffering.write_join {
            self.announce(outgoing);
        } else {
            drop(outgoing);
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
        self.record.pause();
        let document = FilePart { file: Arc::new(file), offset, length, direct: false };
        let mut outgoing = self.lock();
        match outgoing.set_document(document, last, call) {
            Ok(()) => {
                if last {
                    outgoing.end(End::Complete);
                }
                self.announce(outgoing);
            }
            Err(call) => {
                drop(outgoing);
                call.abandon();
            }
        }
    }

    fn optimizes(&self) -> bool {
        self.optimizes
    }

    fn wants_body(&self) -> bool {
        self.announce(self.lock());
        // On the event loop thread it is known at once, if at all.
        if self.event_loop.is_here() {
            return self.lock().is_body_wanted().unwrap_or(true);
        }
        self.hand_over.wait_for_verdict()
    }

    fn wait_for_room(&self) -> Result<(), Disconnected> {
        self.record.pause();
        let result = self.hand_over.wait_for_room();
        self.record.resume();
        result
    }

    fn end(&self, end: End, closed_follows: bool) {
        let mut outgoing = self.lock();
        outgoing.end(end);
        if !closed_follows {
            self.announce(outgoing);
        }
    }

    fn closed(&self) {
        self.record.close();
        let mut outgoing = self.lock();
        outgoing.close();
        self.announce(outgoing);
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
            self.post.log(Some(self.shared()), level, text);
        }
    }

    fn write_at_once(&self, text: &str) {
        write_directly(self.connection, text);
    }
}

impl Addressee for RequestExchange {
    fn deliver(&self) {
        self.event_loop.get().turn_posted.set(false);
        // Not an event of the request's own, so what it posts has to be run.
        if let Some(request) = self.event_loop.get().request.get() {
            request.in_foreign_event(|request| {
                self.fill(request);
                self.pump();
            });
        }
    }

    fn log_here(&self, level: log::Level, text: &str) {
        match self.event_loop.get().request.get() {
            Some(request) => request.log().write(level.into(), text),
            None => Log::cycle().write(level.into(), text),
        }
    }

    fn give_up(&self) {
        if let Some(request) = self.event_loop.get().request.get() {
            let status = self.event_loop.get().status_instead(request, Status::SERVICE_UNAVAILABLE);
            request.in_foreign_event(|request| self.finalize(request, status));
        }
    }

    fn look(&self) -> Option<Duration> {
        let side = self.event_loop.get();
        loop {
            // A call on this thread is not under way now, or waits for its client.
            let (request, ticket) = (side.request.get()?, side.ticket.borrow().clone()?);
            match self.record.due() {
                Due::Later(wait) => return wait,
                Due::QueueTimeout => self.refuse_start(request),
                Due::Slow => self.report_slow(&ticket),
                Due::RequestTimeout => self.give_up_call(request, ticket),
            }
        }
    }
}

/// A body that is read while the call runs: the time for which the client makes it wait is not the call's.
struct Unhurried<B> {
    body: B,
    exchange: Arc<RequestExchange>,
}

impl<B: BodySource> BodySource for Unhurried<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.exchange.record.pause();
        let read = self.body.read(buffer);
        self.exchange.record.resume();
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
        self.0.pump();
    }

    fn readable(&self) {
        self.0.read();
    }

    fn cleanup(&self) {
        self.0.release();
    }
}
