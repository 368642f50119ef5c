//! Messages from other threads of a worker to its event loop: output of calls, log records, tasks.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, OnceLock};

use super::active_requests::ActiveRequest;
use super::log_forms::ApplicationRecord;
use super::log_forward::{Entry, LogQueue};
use crate::conf::log::ApplicationLog;
use crate::engine::pool::WakeUp;
use crate::nginx::log::Log;
use crate::nginx::notify::{self, Notifier, NotifyHandler};
use crate::nginx::thread_bound::EventLoopBound;
use crate::python::log::{self, Record, Sink};

/// Message to the event loop.
pub enum Message {
    /// The call of this request has produced output.
    Response(Arc<dyn ActiveRequest>),
    /// There are records in the log queue.
    Log,
    /// Task that only the event loop thread may run.
    Run(Box<dyn FnOnce() + Send>),
}

/// The event loop of this worker, once it is attached.
static ATTACHED: OnceLock<&'static EventLoop> = OnceLock::new();

/// Event loop of this worker, as its other threads reach it.
pub struct EventLoop {
    notifier: Notifier<Message>,
    log: LogQueue,
    /// Pools that have calls for threads that sleep.
    wake_ups: EventLoopBound<RefCell<Vec<WakeUp>>>,
}

impl EventLoop {
    /// Registers the message queue with nginx's event loop, for the life of the process, unless it is registered already.
    /// On the event loop thread.
    ///
    /// # Errors
    /// If there is no file descriptor or nginx connection left for it.
    pub fn attach() -> io::Result<&'static Self> {
        if let Some(attached) = Self::attached() {
            return Ok(attached);
        }
        let event_loop = Box::leak(Box::new(Self {
            notifier: Notifier::new()?,
            log: LogQueue::default(),
            wake_ups: EventLoopBound::new(RefCell::default()),
        }));
        notify::attach(event_loop).map_err(io::Error::other)?;
        Ok(ATTACHED.get_or_init(|| event_loop))
    }

    /// Returns the event loop once it is attached.
    pub fn attached() -> Option<&'static Self> {
        ATTACHED.get().copied()
    }

    /// Sends a message from any thread and never waits.
    pub fn send(&self, message: Message) {
        self.notifier.send(message);
    }

    /// Wakes threads of a pool at the end of this iteration of the event loop: once for all calls that have come until
    /// then, and not in the middle of the other events, which a thread on the same core would delay.
    pub fn wake_later(&self, wake_up: WakeUp) {
        self.wake_ups.get().borrow_mut().push(wake_up);
        self.notifier.stay_awake();
    }

    /// Logs text from any other thread, with the context of `request` if there is one.
    pub fn log(&self, request: Option<Arc<dyn ActiveRequest>>, level: log::Level, text: String) {
        self.queue(request, Entry::ErrorLog { level, text });
    }

    /// Writes a record to the log of an application from any other thread, with the context of `request` if there is one.
    pub fn log_of_application(
        &self,
        request: Option<Arc<dyn ActiveRequest>>,
        log: Arc<ApplicationLog>,
        record: ApplicationRecord,
    ) {
        self.queue(request, Entry::Application { log, record });
    }

    fn queue(&self, request: Option<Arc<dyn ActiveRequest>>, entry: Entry) {
        if self.log.push(request, entry) {
            self.send(Message::Log);
        }
    }

    /// Writes the records that other threads have logged up to now. On the event loop thread.
    pub fn write_log(&self) {
        self.log.write();
    }

    /// Handles the messages that have arrived. On the event loop thread.
    pub fn drain(&self) {
        notify::drain(self);
    }
}

impl NotifyHandler for EventLoop {
    type Message = Message;

    fn notifier(&self) -> &Notifier<Message> {
        &self.notifier
    }

    fn end_iteration(&self) {
        self.wake_ups.get().borrow_mut().drain(..).for_each(WakeUp::send);
    }

    fn begin_exit(&self) {
        if let Some(worker) = super::get() {
            worker.leave_balance();
        }
        if let Some(status) = super::status::get() {
            status.begin_exit();
        }
    }

    fn receive(&self, message: Message) {
        match message {
            Message::Response(request) => {
                request.on_output();
                if let Some(worker) = super::get() {
                    worker.note_output();
                }
            }
            Message::Log => self.write_log(),
            Message::Run(task) => task(),
        }
    }
}

/// Sink for text that belongs to no request: of an import, or of a thread that an application started.
pub struct WorkerSink {
    event_loop: &'static EventLoop,
    thread: EventLoopBound<()>,
}

impl WorkerSink {
    /// Makes the sink. On the event loop thread.
    pub fn new(event_loop: &'static EventLoop) -> Self {
        Self { event_loop, thread: EventLoopBound::new(()) }
    }
}

impl Sink for WorkerSink {
    fn write(&self, record: Record) {
        if self.thread.is_here() {
            Log::cycle().write(record.level.into(), &record.text());
        } else {
            self.event_loop.log(None, record.level, record.text());
        }
    }
}
