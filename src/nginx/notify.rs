//! Messages from other threads to the event loop: a queue, and an eventfd that wakes the event loop.
//!
//! `ngx_notify` is not usable: each process has one handler for it, which belongs to nginx's own thread pools. The eventfd
//! has a connection of its own in each worker. It is edge-triggered, so under epoll it is never read.

use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{guard, sys};
use crate::sync::Mutex;

/// Queue of messages to the event loop of this worker.
pub struct Notifier<T> {
    messages: Mutex<Vec<T>>,
    wakeup: EventFd,
}

/// Handler of a notifier's messages on the event loop thread.
pub trait NotifyHandler: Send + Sync + 'static {
    type Message: Send;

    /// Returns the notifier whose messages this handler receives.
    fn notifier(&self) -> &Notifier<Self::Message>;

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
        Ok(Self { messages: Mutex::new(Vec::new()), wakeup })
    }

    /// Sends a message from any thread, without waiting.
    pub fn send(&self, message: T) {
        let was_empty = {
            let mut messages = self.messages.lock();
            messages.push(message);
            messages.len() == 1
        };
        if was_empty {
            // A full counter (EAGAIN) wakes the event loop as well.
            let _ = self.wakeup.write(1);
        }
    }

    /// Returns the messages since the previous call.
    fn take(&self) -> Vec<T> {
        mem::take(&mut *self.messages.lock())
    }
}

/// Handles the messages that are in the queue. Belongs to the event loop thread.
pub fn drain<H: NotifyHandler>(handler: &H) {
    for message in handler.notifier().take() {
        handler.receive(message);
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
        Ok(())
    }
}

unsafe extern "C" fn wake_up<H: NotifyHandler>(event: *mut sys::ngx_event_t) {
    guard((), || {
        // SAFETY: nginx calls the handler of the connection that `attach` set up, whose data is a static H.
        let (handler, is_edge_triggered) = unsafe {
            let connection = (*event).data.cast::<sys::ngx_connection_t>();
            let is_edge_triggered = sys::ngx_event_flags & sys::NGX_USE_CLEAR_EVENT as usize != 0;
            (&*(*connection).data.cast::<H>(), is_edge_triggered)
        };
        if !is_edge_triggered {
            let _ = handler.notifier().wakeup.read();
        }
        drain(handler);
    });
}
