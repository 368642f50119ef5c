//! Messages from other threads to the event loop: a queue, and an eventfd that wakes it.
//!
//! Not `ngx_notify`: that has one handler slot a process, shared with nginx's own thread pool. The eventfd is a
//! connection of its own in each worker; it is edge-triggered, so it need never be read under epoll.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{guard, sys};

use crate::sync::{Mutex, MutexGuard};

/// A queue of messages into the event loop of this worker.
pub struct Notifier<T> {
    messages: Mutex<Vec<T>>,
    descriptor: OwnedFd,
}

/// Takes the messages of a notifier on the event loop thread.
pub trait NotifyHandler: Send + Sync + 'static {
    type Message: Send;

    /// The notifier whose messages this receiver handles.
    fn notifier(&self) -> &Notifier<Self::Message>;

    /// Handles one message.
    fn receive(&self, message: Self::Message);
}

impl<T: Send> Notifier<T> {
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: a plain system call; a descriptor that is not -1 is ours.
        let descriptor = unsafe {
            let descriptor = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(descriptor)
        };
        Ok(Self { messages: Mutex::new(Vec::new()), descriptor })
    }

    /// Sends a message from any thread and never waits.
    pub fn send(&self, message: T) {
        let mut messages = self.lock();
        let wake = messages.is_empty();
        messages.push(message);
        drop(messages);
        if wake {
            let one = 1u64;
            // SAFETY: writes eight bytes of a live variable; a full counter (EAGAIN) wakes the loop as well.
            unsafe { libc::write(self.descriptor.as_raw_fd(), (&raw const one).cast(), 8) };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.messages.lock()
    }

    /// All that has come since the last time.
    fn take(&self) -> Vec<T> {
        mem::take(&mut *self.lock())
    }
}

/// Handles what is in the notifier now. On the event loop thread.
pub fn drain<R: NotifyHandler>(receiver: &R) {
    for message in receiver.notifier().take() {
        receiver.receive(message);
    }
}

/// Registers the notifier of `receiver` with the event loop of this worker, for the worker's life.
///
/// # Errors
/// When nginx has no free connection (`worker_connections`) or cannot watch the descriptor.
pub fn attach<R: NotifyHandler>(receiver: &'static R) -> Result<(), &'static str> {
    // SAFETY: called in init_process on the event loop thread; the connection is nginx's and stays until exit; the
    // receiver is static. `channel` marks it as no client's connection: it is not closed or complained of at exit.
    unsafe {
        let descriptor = receiver.notifier().descriptor.as_raw_fd();
        let log = (*sys::ngx_cycle).log;
        let connection = sys::ngx_get_connection(descriptor, log);
        if connection.is_null() {
            return Err("no free connection for the wake-up descriptor, worker_connections are not enough");
        }
        (*connection).data = std::ptr::from_ref(receiver).cast_mut().cast();
        let read = (*connection).read;
        (*read).handler = Some(wake_up::<R>);
        (*read).log = log;
        (*(*connection).write).log = log;
        (*read).set_channel(1);
        (*(*connection).write).set_channel(1);
        if sys::ngx_handle_read_event(read, 0) != sys::NGX_OK as isize {
            sys::ngx_free_connection(connection);
            return Err("the wake-up descriptor cannot be watched");
        }
        Ok(())
    }
}

unsafe extern "C" fn wake_up<R: NotifyHandler>(event: *mut sys::ngx_event_t) {
    guard((), || {
        // SAFETY: nginx calls the handler of the connection that `attach` made, whose data is a static receiver.
        let receiver = unsafe {
            let connection = (*event).data.cast::<sys::ngx_connection_t>();
            if sys::ngx_event_flags & sys::NGX_USE_CLEAR_EVENT as usize == 0 {
                let mut count = 0u64;
                libc::read((*connection).fd, (&raw mut count).cast(), 8);
            }
            &*(*connection).data.cast::<R>()
        };
        drain(receiver);
    });
}
