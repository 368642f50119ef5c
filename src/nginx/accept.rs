//! Listening sockets of a worker that accept connections, or leave them to the other workers.

use std::sync::atomic::{AtomicBool, Ordering};

use super::sys;
use super::worker_process::{self, Role};

/// Set while nginx accepts a connection. nginx may add the listening socket to epoll again after that (its balance for
/// EPOLLEXCLUSIVE), so the socket must not be removed meanwhile.
static IS_ACCEPTING: AtomicBool = AtomicBool::new(false);

/// NGX_READ_EVENT and NGX_EXCLUSIVE_EVENT of epoll, which bindgen does not see.
const READ_EVENT: isize = (libc::EPOLLIN | libc::EPOLLRDHUP) as isize;
const EXCLUSIVE_EVENT: usize = libc::EPOLLEXCLUSIVE as usize;

/// Runs the handler of an accepted connection.
pub(super) fn while_accepting(handle: impl FnOnce()) {
    IS_ACCEPTING.store(true, Ordering::Relaxed);
    handle();
    IS_ACCEPTING.store(false, Ordering::Relaxed);
}

/// Returns true if this worker shares listening sockets with other workers and may leave connections to them.
///
/// Not with `accept_mutex`, where nginx itself adds and removes the sockets, and only with epoll. With `reuseport` each
/// worker has sockets of its own: their connections would wait for this worker.
pub fn is_shared() -> bool {
    // SAFETY: plain variables, which nginx sets before it initializes modules in a worker.
    let uses_epoll_alone = unsafe { sys::ngx_use_exclusive_accept != 0 && sys::ngx_use_accept_mutex == 0 };
    worker_process::role() == Role::Worker && uses_epoll_alone && shared_sockets().next().is_some()
}

/// Lets this worker accept connections, or leaves them to other workers. Returns true if it accepts connections now:
/// not all changes are possible at any time. Belongs to the event loop thread.
pub fn set(accepts: bool) -> bool {
    if !accepts && IS_ACCEPTING.load(Ordering::Relaxed) {
        return true;
    }
    let mut all_done = true;
    for socket in shared_sockets() {
        // SAFETY: a listening socket with a connection, which lives as long as nginx listens. The functions of epoll are
        // set, as `is_shared` has found.
        all_done &= unsafe {
            let event = (*socket.connection).read;
            let actions = &raw const sys::ngx_event_actions;
            let change = if ((*event).active() != 0) == accepts {
                None
            } else if accepts {
                (*actions).add.map(|add| add(event, READ_EVENT, EXCLUSIVE_EVENT))
            } else {
                (*actions).del.map(|delete| delete(event, READ_EVENT, sys::NGX_DISABLE_EVENT as usize))
            };
            change.is_none_or(|status| status == sys::NGX_OK as isize)
        };
    }
    // After a failure, of which nginx has logged the cause, at least one socket is as before.
    if accepts { all_done } else { !all_done }
}

/// Returns true if a client waits to be accepted. Belongs to the event loop thread.
pub fn has_waiting_clients() -> bool {
    shared_sockets().any(|socket| {
        let mut poll = libc::pollfd { fd: socket.fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, and no time to wait.
        unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
    })
}

/// Returns the sockets for HTTP that all workers listen on. None are left once this worker exits.
fn shared_sockets() -> impl Iterator<Item = &'static sys::ngx_listening_t> {
    // SAFETY: the array lives as long as the cycle of this worker; only this thread, the event loop's, changes it, when the
    // worker begins to exit.
    let sockets = unsafe { (*sys::ngx_cycle).listening.as_slice::<sys::ngx_listening_t>() };
    sockets.iter().filter(|socket| {
        // HTTP/3 receives datagrams, which belong to connections that exist.
        let is_stream = socket.type_ == libc::SOCK_STREAM;
        is_stream && socket.reuseport() == 0 && !socket.connection.is_null() && super::sockets::is_of_http(socket)
    })
}
