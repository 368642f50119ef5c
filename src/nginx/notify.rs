//! Messages from other threads to the event loop: a queue, and an eventfd that wakes the event loop.
//!
//! `ngx_notify` is not usable: each process has one handler for it, which belongs to nginx's own thread pools. The eventfd
//! has a connection of its own in each worker. It is edge-triggered, so under epoll it is never read.
//!
//! nginx has no hook before it sleeps in epoll. The read event of the eventfd stands in for one: posted, it runs at the end
//! of an iteration of the event loop, after all other events. Nor has it one for a graceful exit, but it calls the handlers
//! of idle connections then, to close them.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicPtr, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::message_queue::MessageQueue;
use super::{guard, sys};

/// Queue of messages to the event loop of this worker.
pub struct Notifier<T> {
    messages: MessageQueue<T>,
    wakeup: EventFd,
    /// Read event of the eventfd, null until it is attached.
    event: AtomicPtr<sys::ngx_event_t>,
}

/// Handler of a notifier's messages on the event loop thread.
pub trait NotifyHandler: Send + Sync + 'static {
    type Message: Send;

    /// Returns the notifier whose messages this handler receives.
    fn notifier(&self) -> &Notifier<Self::Message>;

    /// Runs before and after messages are received: at the end of each iteration of the event loop in which it
    /// [stays awake](Notifier::stay_awake), and perhaps before.
    fn end_iteration(&self);

    /// Runs when this worker begins to exit gracefully.
    fn begin_exit(&self);

    /// Handles a message.
    fn receive(&self, message: Self::Message);
}

impl<T: Send> Notifier<T> {
    /// Creates an empty queue.
    ///
    /// # Errors
    /// If the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        let wakeup = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { messages: MessageQueue::new(), wakeup, event: AtomicPtr::default() })
    }

    /// Sends a message from any thread, without waiting.
    pub fn send(&self, message: T) {
        if self.messages.push(message) {
            // A full counter (EAGAIN) wakes the event loop as well.
            let _ = self.wakeup.write(1);
        }
    }

    /// Lets the event loop take messages at the end of this iteration, without wake-ups until then. Belongs to the event
    /// loop thread.
    pub fn stay_awake(&self) {
        let event = self.event.load(Ordering::Relaxed);
        // SAFETY: the event is that of `attach`, which lives as long as the worker; only this thread posts it.
        unsafe {
            if event.is_null() || (*event).posted() != 0 {
                return;
            }
            ngx::ffi::ngx_post_event(event, &raw mut sys::ngx_posted_events);
        }
        self.messages.wake_up();
    }
}

/// Handles the messages that are in the queue. A panic ends the handling of one message, not of those after it. Belongs to
/// the event loop thread.
pub fn drain<H: NotifyHandler>(handler: &H) {
    for message in handler.notifier().messages.take() {
        guard((), || handler.receive(message));
    }
}

/// Registers the notifier of `handler` with the event loop of this worker, for the worker's life.
///
/// # Errors
/// If nginx has no free connection (`worker_connections`) or cannot watch the eventfd.
pub fn attach<H: NotifyHandler>(handler: &'static H) -> Result<(), &'static str> {
    // SAFETY: called in init_process on the event loop thread. The connection belongs to nginx and remains until the exit;
    // the handler is static. `channel` marks it as no client's connection, which nginx neither closes nor reports at exit.
    unsafe {
        let log = (*sys::ngx_cycle).log;
        let connection = sys::ngx_get_connection(handler.notifier().wakeup.as_raw_fd(), log);
        if connection.is_null() {
            return Err("no free connection for the eventfd: increase worker_connections");
        }
        (*connection).data = std::ptr::from_ref(handler).cast_mut().cast();
        (*connection).set_idle(1);
        let read = (*connection).read;
        (*read).handler = Some(wake_up::<H>);
        (*read).log = log;
        (*(*connection).write).log = log;
        (*read).set_channel(1);
        (*(*connection).write).set_channel(1);
        if sys::ngx_handle_read_event(read, 0) != sys::NGX_OK as isize {
            sys::ngx_free_connection(connection);
            return Err("cannot watch the eventfd");
        }
        handler.notifier().event.store(read, Ordering::Relaxed);
        Ok(())
    }
}

/// Handles messages: as the handler of an event of epoll, and as that of a posted event at the end of an iteration.
unsafe extern "C" fn wake_up<H: NotifyHandler>(event: *mut sys::ngx_event_t) {
    guard((), || {
        // SAFETY: nginx calls the handler of the connection that `attach` set up, whose data is a static H.
        let (handler, begins_exit, is_edge_triggered) = unsafe {
            let connection = (*event).data.cast::<sys::ngx_connection_t>();
            let begins_exit = (*connection).close() != 0;
            (*connection).set_close(0);
            let is_edge_triggered = sys::ngx_event_flags & sys::NGX_USE_CLEAR_EVENT as usize != 0;
            (&*(*connection).data.cast::<H>(), begins_exit, is_edge_triggered)
        };
        if begins_exit {
            return handler.begin_exit();
        }
        let Notifier { messages, wakeup, .. } = handler.notifier();
        if !is_edge_triggered {
            let _ = wakeup.read();
        }
        let ends_iteration = messages.wake_up();
        if ends_iteration && messages.fall_asleep() {
            // SAFETY: as in `stay_awake`.
            unsafe { unpost(event) };
            return handler.end_iteration();
        }
        // Posted before messages are handled, so that it is posted after a panic as well: while the event loop is noted as
        // awake, nothing else wakes it.
        // SAFETY: as in `stay_awake`. Events of the second queue run at the end of the next iteration, in which nginx does
        // not sleep: it gets to sockets before it takes more messages.
        unsafe {
            let queue =
                if ends_iteration { &raw mut sys::ngx_posted_next_events } else { &raw mut sys::ngx_posted_events };
            ngx::ffi::ngx_post_event(event, queue);
        }
        handler.end_iteration();
        drain(handler);
        // Again, as a message may have started another request.
        handler.end_iteration();
        if ends_iteration && messages.fall_asleep() {
            // SAFETY: as in `stay_awake`.
            unsafe { unpost(event) };
        }
    });
}

/// Removes an event from the queue that it is posted to, if any.
///
/// # Safety
/// On the event loop thread; the event is live.
unsafe fn unpost(event: *mut sys::ngx_event_t) {
    // SAFETY: by the caller's promise.
    unsafe {
        if (*event).posted() != 0 {
            ngx::ffi::ngx_delete_posted_event(event);
        }
    }
}
