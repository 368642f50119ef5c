//! What other threads of a worker send to its event loop: answers to take, text for the error log.

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::log_queue::{LogQueue, Record};
use crate::nginx::cell::EventLoopCell;
use crate::nginx::log::{Level, Log};
use crate::nginx::mailbox::{Mailbox, Receiver};
use crate::nginx::timer::Hold;
use crate::python::log::{self, Sink};

/// A request that the event loop is told of.
pub trait Addressee: Send + Sync {
    /// Takes what there is of its answer.
    fn deliver(&self);

    /// Logs text with its context.
    fn log_here(&self, level: log::Level, text: &str);

    /// Ends it now, whatever its call does.
    fn give_up(&self);
}

/// What the event loop is told.
pub enum Message {
    /// There is something of an answer to take.
    Answer(Arc<dyn Addressee>),
    /// There are records in the log queue.
    Log,
}

/// The event loop's side of a worker.
pub struct Post {
    pub mailbox: Mailbox<Message>,
    log: LogQueue<Option<Arc<dyn Addressee>>>,
    hold: Hold,
    /// The requests whose calls are under way.
    calls: EventLoopCell<Calls>,
}

#[derive(Default)]
struct Calls {
    under_way: RefCell<FxHashMap<CallNumber, Weak<dyn Addressee>>>,
    next: Cell<CallNumber>,
}

/// Names a call under way in its worker.
pub type CallNumber = u64;

impl Post {
    /// The post of a worker; when it quits and its calls go on for longer than `shutdown_timeout`, `give_up` is called.
    ///
    /// # Errors
    /// See [`Mailbox::new`].
    pub fn new(shutdown_timeout: Duration, give_up: fn()) -> io::Result<Self> {
        Ok(Self {
            mailbox: Mailbox::new()?,
            log: LogQueue::default(),
            hold: Hold::new(shutdown_timeout, give_up),
            calls: EventLoopCell::new(Calls::default()),
        })
    }

    /// A call is under way, and keeps the worker. On the event loop thread, as the next three.
    pub fn enter(&'static self, request: Weak<dyn Addressee>) -> CallNumber {
        let calls = self.calls.get();
        let number = calls.next.get();
        calls.next.set(number + 1);
        calls.under_way.borrow_mut().insert(number, request);
        self.hold.enter();
        number
    }

    /// The request of a call is over.
    pub fn leave(&'static self, number: CallNumber) {
        if self.calls.get().under_way.borrow_mut().remove(&number).is_some() {
            self.hold.leave();
        }
    }

    /// Ends the requests of all calls under way.
    pub fn give_up(&self) {
        let requests: Vec<_> = self.calls.get().under_way.borrow().values().filter_map(Weak::upgrade).collect();
        for request in requests {
            request.give_up();
        }
    }

    /// How long the worker has waited for calls since it was told to quit.
    pub fn waited(&self) -> Duration {
        self.hold.waited()
    }

    /// Logs text of another thread, of a request or of none.
    pub fn log(&self, source: Option<Arc<dyn Addressee>>, level: log::Level, text: &str) {
        if self.log.push(Record { source, level, text: text.to_owned() }) {
            self.mailbox.send(Message::Log);
        }
    }

    /// Writes what other threads have logged up to now. On the event loop thread.
    pub fn write_log(&self) {
        for Record { source, level, text } in self.log.take() {
            match source {
                Some(request) => request.log_here(level, &text),
                None => Log::cycle().write(level.into(), &text),
            }
        }
    }
}

impl Receiver for Post {
    type Message = Message;

    fn mailbox(&self) -> &Mailbox<Message> {
        &self.mailbox
    }

    fn receive(&self, message: Message) {
        match message {
            Message::Answer(request) => request.deliver(),
            Message::Log => self.write_log(),
        }
    }
}

impl From<log::Level> for Level {
    fn from(level: log::Level) -> Self {
        match level {
            log::Level::Error => Self::Error,
            log::Level::Info => Self::Info,
        }
    }
}

/// Text that belongs to no request: of an import, of a thread that an application started.
pub struct WorkerSink {
    post: &'static Post,
    event_loop: EventLoopCell<()>,
}

impl WorkerSink {
    /// On the event loop thread.
    pub fn new(post: &'static Post) -> Self {
        Self { post, event_loop: EventLoopCell::new(()) }
    }
}

impl Sink for WorkerSink {
    fn write(&self, level: log::Level, text: &str) {
        if self.event_loop.is_here() {
            Log::cycle().write(level.into(), text);
        } else {
            self.post.log(None, level, text);
        }
    }
}
