//! Listening sockets of a worker that accept connections, or leave them to the other workers.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::worker_process::{self, Role};
use super::{guard, sys};

/// Set while nginx accepts a connection. nginx may add the listening socket to epoll again after that (its balance for
/// EPOLLEXCLUSIVE), so the socket must not be removed meanwhile.
static IS_ACCEPTING: AtomicBool = AtomicBool::new(false);

/// Runs when few free connections are left after one was accepted.
static ON_FEW_CONNECTIONS: OnceLock<fn()> = OnceLock::new();

/// Part of the connections below which few are free: as nginx itself decides with `accept_mutex`.
const FEW: usize = 8;

/// Part that must be free for them to be few no longer.
const ENOUGH: usize = 4;

/// NGX_READ_EVENT and NGX_EXCLUSIVE_EVENT of epoll, which bindgen does not see.
const READ_EVENT: isize = (libc::EPOLLIN | libc::EPOLLRDHUP) as isize;
const EXCLUSIVE_EVENT: usize = libc::EPOLLEXCLUSIVE as usize;

/// Runs the handler of an accepted connection.
pub(super) fn while_accepting(handle: impl FnOnce()) {
    IS_ACCEPTING.store(true, Ordering::Relaxed);
    handle();
    IS_ACCEPTING.store(false, Ordering::Relaxed);
    if let Some(run) = ON_FEW_CONNECTIONS.get()
        && has_few_connections(false)
    {
        guard((), run);
    }
}

/// Sets what runs each time that a connection was accepted and few are left free. Only the first call has an effect.
pub fn set_on_few_connections(run: fn()) {
    ON_FEW_CONNECTIONS.get_or_init(|| run);
}

/// Returns true if this worker has few free connections (`worker_connections`). With `had_few` more have to be free before
/// it has enough again. Belongs to the event loop thread.
pub fn has_few_connections(had_few: bool) -> bool {
    // SAFETY: plain variables of the live cycle, which belong to this thread.
    let (all, free) = unsafe { ((*sys::ngx_cycle).connection_n, (*sys::ngx_cycle).free_connection_n) };
    free < all / if had_few { ENOUGH } else { FEW }
}

/// Returns true if nginx itself accepts no connections for a while, as there were no descriptors left. Belongs to the event
/// loop thread.
pub fn is_paused() -> bool {
    sockets().any(|socket| {
        // SAFETY: a listening socket with a connection, which lives as long as nginx listens. nginx uses the timer of its
        // read event for nothing else.
        unsafe { (*(*socket.connection).read).timer_set() != 0 }
    })
}

/// Returns true if this worker shares listening sockets with other workers and may leave connections to them.
///
/// Not with `accept_mutex`, where nginx itself adds and removes the sockets, and only with epoll. With `reuseport` each
/// worker has sockets of its own: their connections would wait for this worker. With `has_masters` the other workers have
/// masters of their own, and nginx need not have another worker here.
pub fn is_shared(has_masters: bool) -> bool {
    // SAFETY: plain variables, which nginx sets before it initializes modules in a worker.
    let uses_epoll_alone = unsafe {
        let has_others = sys::ngx_use_exclusive_accept != 0
            || has_masters && sys::ngx_event_flags & sys::NGX_USE_EPOLL_EVENT as usize != 0;
        has_others && sys::ngx_use_accept_mutex == 0
    };
    worker_process::role() == Role::Worker && uses_epoll_alone && shared_sockets().next().is_some()
}

/// Lets this worker accept connections, or leaves them to other workers. Returns true if it accepts connections now:
/// not all changes are possible at any time, and while nginx [is paused](is_paused) it adds the sockets itself later.
/// Belongs to the event loop thread.
pub fn set(accepts: bool) -> bool {
    if !accepts && IS_ACCEPTING.load(Ordering::Relaxed) {
        return true;
    }
    if accepts && is_paused() {
        return false;
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
    sockets().filter(|socket| {
        // HTTP/3 receives datagrams, which belong to connections that exist.
        let is_stream = socket.type_ == libc::SOCK_STREAM;
        is_stream && socket.reuseport() == 0 && super::sockets::is_of_http(socket)
    })
}

/// Returns all sockets that this worker listens on.
fn sockets() -> impl Iterator<Item = &'static sys::ngx_listening_t> {
    // SAFETY: the array lives as long as the cycle of this worker; only this thread, the event loop's, changes it, when the
    // worker begins to exit.
    let sockets = unsafe { (*sys::ngx_cycle).listening.as_slice::<sys::ngx_listening_t>() };
    sockets.iter().filter(|socket| !socket.connection.is_null())
}
