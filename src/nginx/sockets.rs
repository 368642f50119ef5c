//! Sockets of a worker, which programs and child processes of applications must not keep open.
//!
//! Otherwise connections of clients would stay open, and ports would stay bound, as long as such a process lives.

use super::{guard, sys};

/// Sets close-on-exec for the listening sockets of this worker, and for the connections that it accepts from now on.
///
/// nginx does not, as its master passes listening sockets to a new binary. A worker executes no new binary.
///
/// # Safety
/// `cycle` is the live cycle of this worker, and the event loop is not running yet.
pub unsafe fn close_on_exec(cycle: *mut sys::ngx_cycle_t) {
    // SAFETY: an array of listening sockets, which this process owns since the fork.
    for socket in unsafe { (*cycle).listening.as_slice_mut::<sys::ngx_listening_t>() } {
        set_close_on_exec(socket.fd);
        if has_handler(socket, sys::ngx_http_init_connection) {
            socket.handler = Some(init_connection);
        }
    }
}

/// Returns true for a listening socket for HTTP, after [`close_on_exec`].
pub(super) fn is_of_http(socket: &sys::ngx_listening_t) -> bool {
    has_handler(socket, init_connection)
}

fn has_handler(socket: &sys::ngx_listening_t, handler: unsafe extern "C" fn(*mut sys::ngx_connection_t)) -> bool {
    socket.handler.is_some_and(|set| std::ptr::fn_addr_eq(set, handler))
}

unsafe extern "C" fn init_connection(connection: *mut sys::ngx_connection_t) {
    // SAFETY: nginx passes an accepted connection. The handler of its socket was ngx_http_init_connection.
    unsafe {
        guard((), || set_close_on_exec((*connection).fd));
        super::accept::while_accepting(|| sys::ngx_http_init_connection(connection));
    }
}

/// Sets close-on-exec for all sockets that are open, including connections to upstream servers and those of other modules.
/// May be called on any thread.
pub fn close_all_on_exec() {
    for_each(set_close_on_exec);
}

/// Closes all sockets. For child processes that applications fork: may be called between `fork` and `exec`, as it does not
/// allocate memory.
pub fn close_all() {
    for_each(|descriptor| {
        // SAFETY: the descriptor belongs to this child process, which does not use it.
        unsafe { libc::close(descriptor) };
    });
}

fn set_close_on_exec(descriptor: i32) {
    // SAFETY: the event loop may have closed the descriptor or reused its number. No descriptor of a worker needs to survive
    // exec, as only the master executes a new binary.
    unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
}

/// Calls `visit` with the descriptors of all connections and listening sockets.
fn for_each(visit: impl Fn(i32)) {
    let visit = |descriptor| {
        if descriptor > libc::STDERR_FILENO {
            visit(descriptor);
        }
    };
    // SAFETY: the arrays do not move while the cycle lives, which is as long as this process (`exit_before_cycle_is_freed`; at
    // the very end an empty cycle replaces it). Reading a number that the event loop is changing yields the old or new one.
    unsafe {
        let cycle = sys::ngx_cycle;
        for index in 0..(*cycle).connection_n {
            visit((&raw const (*(*cycle).connections.add(index)).fd).read_volatile());
        }
        for socket in (*cycle).listening.as_slice::<sys::ngx_listening_t>() {
            visit(socket.fd);
        }
    }
}
