//! The nginx side of [`Exchange`]: filled by the thread that runs the call, emptied by the event loop.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use super::outgoing::{Batch, Outgoing};
use super::post::{Addressee, CallNumber, Message, Post};
use crate::engine::inline::Suspended;
use crate::nginx::cell::EventLoopCell;
use crate::nginx::headers::NoMemory;
use crate::nginx::log::{Level, Log};
use crate::nginx::output::Output;
use crate::nginx::request::{Request, RequestEvents, Status};
use crate::python::log::Sink;
use crate::wsgi::exchange::{Disconnected, End, Exchange};
use crate::wsgi::head::ResponseHead;

/// How often in a row an answer may go on before the event loop sees to others.
const TURNS: usize = 4;

/// The exchange of one request.
pub struct RequestExchange {
    myself: Weak<Self>,
    outgoing: Mutex<Outgoing>,
    room: Condvar,
    post: &'static Post,
    temporary_files: PathBuf,
    allow_ranges: bool,
    event_loop: EventLoopCell<EventLoopSide>,
}

/// What only the event loop thread touches.
struct EventLoopSide {
    /// `None` once the request is finalized or given up.
    request: Cell<Option<Request>>,
    number: CallNumber,
    output: Output,
    /// Whether nginx's filters have the head; some (image_filter) keep it until they have seen the body.
    head_sent: Cell<bool>,
    /// Whether the last buffer is on its way.
    ended: Cell<bool>,
    /// Whether the answer failed and nothing follows.
    failed: Cell<bool>,
    /// Whether the call is over.
    closed: Cell<bool>,
    /// What nginx said when it could not send.
    error: Cell<Option<Status>>,
    /// With `wsgi_threads off`: the call whose answer waits for the client.
    suspended: RefCell<Option<Suspended>>,
}

impl RequestExchange {
    /// The exchange of `request`, on the event loop thread.
    pub fn new(request: Request, post: &'static Post, temporary_files: PathBuf, allow_ranges: bool) -> Arc<Self> {
        Arc::new_cyclic(|myself: &Weak<Self>| Self {
            myself: myself.clone(),
            outgoing: Mutex::new(Outgoing::default()),
            room: Condvar::new(),
            post,
            temporary_files,
            allow_ranges,
            event_loop: EventLoopCell::new(EventLoopSide {
                request: Cell::new(Some(request)),
                number: post.enter(myself.clone()),
                output: Output::default(),
                head_sent: Cell::new(false),
                ended: Cell::new(false),
                failed: Cell::new(false),
                closed: Cell::new(false),
                error: Cell::new(None),
                suspended: RefCell::new(None),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> Arc<Self> {
        self.myself.upgrade().expect("only methods of a living Arc are called")
    }

    /// Keeps a call whose answer waits for the client.
    pub fn suspend(&self, suspended: Option<Suspended>) {
        *self.event_loop.get().suspended.borrow_mut() = suspended;
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

    /// Hands to nginx what there is, and lets a suspended call go on, until one of the two has to wait. Finalizes the
    /// request when its answer is over.
    pub fn pump(&self) {
        let side = self.event_loop.get();
        for _ in 0..TURNS {
            let Some(request) = side.request.get() else { return };
            self.transfer(request);
            if let Some(status) = side.verdict(request) {
                return self.finalize(request, status);
            }
            if side.output.is_busy() {
                if request.is_active()
                    && let Err(status) = request.wait_until_writable()
                {
                    self.finalize(request, status);
                }
                return;
            }
            if self.lock().has_data() {
                continue;
            }
            let Some(suspended) = side.suspended.take() else {
                if request.is_active() {
                    request.stop_waiting();
                }
                return;
            };
            self.suspend(suspended.resume());
        }
        // A fast client, or an answer that nobody reads, could keep this up for ever; others get their turn first.
        self.post.mailbox.send(Message::Answer(self.shared()));
    }

    /// Moves one batch into nginx's filters. Finalizes nothing, so a call that runs on this thread may use it.
    fn transfer(&self, request: Request) {
        let side = self.event_loop.get();
        if side.error.get().is_some() || self.is_disconnected() {
            return;
        }
        let batch = self.lock().take(side.output.is_busy());
        let moved = match batch {
            Ok(batch) => self.move_batch(request, batch),
            Err(error) => {
                request.log().write(Level::Error, &format!("cannot read the temporary file of an answer: {error}"));
                Err(Status::ERROR)
            }
        };
        if let Err(status) = moved {
            side.error.set(Some(status));
            self.lock().disconnect();
            self.room.notify_all();
        }
    }

    fn move_batch(&self, request: Request, batch: Batch) -> Result<(), Status> {
        let side = self.event_loop.get();
        let Batch { head, data, end, closed } = batch;
        if closed {
            // What the call has logged was queued before it was closed, and is to be logged before the request goes.
            self.post.write_log();
        }
        side.closed.set(closed);
        side.failed.set(end == Some(End::Failed));
        if let Some(head) = head {
            self.send_head(request, head)?;
            side.head_sent.set(true);
        }
        if !side.head_sent.get() || side.ended.get() {
            return Ok(());
        }
        let last = end == Some(End::Complete);
        let sent = if request.is_header_only() { data.len() } else { side.output.send(request, data, last)? };
        side.ended.set(last);
        if sent > 0 {
            self.lock().sent(sent);
            self.room.notify_all();
        }
        Ok(())
    }

    fn send_head(&self, request: Request, head: ResponseHead) -> Result<(), Status> {
        if !head.dropped.is_empty() {
            let names = head.dropped.join("\", \"");
            request.log().write(
                Level::Warn,
                &format!("hop-by-hop header \"{names}\" of the application is dropped, the connection is nginx's"),
            );
        }
        let ranges = self.allow_ranges && head.status == 200 && head.content_length.is_some();
        set_head(request, &head, ranges).map_err(|NoMemory| Status::INTERNAL_SERVER_ERROR)?;
        if ranges {
            request.allow_ranges();
        }
        request.send_header()
    }

    fn finalize(&self, request: Request, status: Status) {
        self.release();
        request.finalize(status);
    }

    /// Lets the request go: from now on the call finds nobody there.
    pub fn release(&self) {
        let side = self.event_loop.get();
        if side.request.get().is_none() {
            return;
        }
        self.lock().disconnect();
        self.room.notify_all();
        // What close() logs still has the context of the request.
        if let Some(suspended) = side.suspended.take() {
            suspended.abandon();
        }
        side.request.set(None);
        self.post.leave(side.number);
    }
}

impl EventLoopSide {
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

fn set_head(request: Request, head: &ResponseHead, ranges: bool) -> Result<(), NoMemory> {
    // For 204 and 304 nginx leaves out the headers of a body, but only if the status line is its own.
    let line = head.status_line.as_deref().filter(|_| head.has_body());
    request.set_status(head.status, line)?;
    if let Some(length) = head.content_length {
        request.set_content_length(length);
    }
    let mut has_content_type = false;
    for (name, value) in &head.headers {
        if !has_content_type && name.eq_ignore_ascii_case(b"content-type") {
            has_content_type = true;
            request.set_content_type(value)?;
        } else if ranges && name.eq_ignore_ascii_case(b"accept-ranges") {
            // nginx's range filter says it itself.
        } else {
            request.add_header(name, value)?;
        }
    }
    Ok(())
}

impl Exchange for RequestExchange {
    fn send_head(&self, head: ResponseHead) {
        self.lock().set_head(head);
    }

    fn send(&self, data: &[u8], more_follows: bool) -> Result<usize, Disconnected> {
        let mut outgoing = self.lock();
        if outgoing.is_disconnected() {
            return Err(Disconnected);
        }
        let count = outgoing.push(data);
        if !more_follows || count < data.len() {
            self.announce(outgoing);
        }
        Ok(count)
    }

    fn send_all(&self, data: &[u8]) -> Result<(), Disconnected> {
        if self.event_loop.is_here() {
            let mut outgoing = self.lock();
            if outgoing.is_disconnected() {
                return Err(Disconnected);
            }
            return match outgoing.push_all(data, &self.temporary_files) {
                Ok(()) => {
                    self.announce(outgoing);
                    Ok(())
                }
                Err(error) => {
                    outgoing.disconnect();
                    drop(outgoing);
                    self.log_here(&format!("cannot write a temporary file for an answer: {error}"));
                    Err(Disconnected)
                }
            };
        }
        let mut rest = data;
        while !rest.is_empty() {
            let count = self.send(rest, false)?;
            rest = &rest[count..];
            if !rest.is_empty() {
                self.wait_for_room()?;
            }
        }
        Ok(())
    }

    fn wait_for_room(&self) -> Result<(), Disconnected> {
        let mut outgoing = self.lock();
        while outgoing.room() == 0 && !outgoing.is_disconnected() {
            outgoing = self.room.wait(outgoing).unwrap_or_else(PoisonError::into_inner);
        }
        if outgoing.is_disconnected() { Err(Disconnected) } else { Ok(()) }
    }

    fn end(&self, end: End, closed_follows: bool) {
        let mut outgoing = self.lock();
        outgoing.end(end);
        if !closed_follows {
            self.announce(outgoing);
        }
    }

    fn closed(&self) {
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
    fn error(&self, text: &str) {
        if self.event_loop.is_here() {
            self.log_here(text);
        } else {
            self.post.log(Some(self.shared()), text);
        }
    }
}

impl Addressee for RequestExchange {
    fn deliver(&self) {
        // Not an event of the request's own, so what it posts has to be run.
        if let Some(request) = self.event_loop.get().request.get() {
            request.in_foreign_event(|_| self.pump());
        }
    }

    fn log_here(&self, text: &str) {
        match self.event_loop.get().request.get() {
            Some(request) => request.log().write(Level::Error, text),
            None => Log::cycle().write(Level::Error, text),
        }
    }

    fn give_up(&self) {
        if let Some(request) = self.event_loop.get().request.get() {
            let status = if request.is_header_sent() { Status::ERROR } else { Status::SERVICE_UNAVAILABLE };
            request.in_foreign_event(|request| self.finalize(request, status));
        }
    }
}

/// The exchange as nginx's request knows it.
pub struct Installed(pub Arc<RequestExchange>);

impl RequestEvents for Installed {
    fn writable(&self) {
        self.0.pump();
    }

    fn cleanup(&self) {
        self.0.release();
    }
}
