//! What other threads of a worker send to its event loop: answers to take, text for the error log.

use std::io;
use std::sync::Arc;

use super::log_queue::{LogQueue, Record};
use crate::nginx::cell::EventLoopCell;
use crate::nginx::log::{Level, Log};
use crate::nginx::mailbox::{Mailbox, Receiver};
use crate::nginx::timer::Hold;
use crate::python::log::Sink;

/// A request that the event loop is told of.
pub trait Addressee: Send + Sync {
    /// Takes what there is of its answer.
    fn deliver(&self);

    /// Logs text with its context.
    fn log_here(&self, text: &str);
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
    /// The calls under way.
    pub calls: Hold,
}

impl Post {
    /// # Errors
    /// See [`Mailbox::new`].
    pub fn new() -> io::Result<Self> {
        Ok(Self { mailbox: Mailbox::new()?, log: LogQueue::default(), calls: Hold::default() })
    }

    /// Logs text of another thread, of a request or of none.
    pub fn log(&self, source: Option<Arc<dyn Addressee>>, text: &str) {
        if self.log.push(Record { source, text: text.to_owned() }) {
            self.mailbox.send(Message::Log);
        }
    }

    /// Writes what other threads have logged up to now. On the event loop thread.
    pub fn write_log(&self) {
        for Record { source, text } in self.log.take() {
            match source {
                Some(request) => request.log_here(&text),
                None => Log::cycle().write(Level::Error, &text),
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
    fn error(&self, text: &str) {
        if self.event_loop.is_here() {
            Log::cycle().write(Level::Error, text);
        } else {
            self.post.log(None, text);
        }
    }
}
