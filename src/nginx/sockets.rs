//! The sockets of a worker, kept from the programs and child processes that applications start.
//!
//! Otherwise clients would not see their connections closed, and ports would stay bound, for as long as those live.

use super::{guard, sys};

/// Lets no program inherit the sockets that this worker listens on, nor those it accepts from now on.
///
/// nginx opens both without close-on-exec, as its master passes the former on to a new binary. A worker does not.
///
/// # Safety
/// `cycle` is the live cycle of this worker, whose event loop does not run yet.
pub unsafe fn close_on_exec(cycle: *mut sys::ngx_cycle_t) {
    // SAFETY: an array of listening sockets that is this process's own by now.
    for socket in unsafe { (*cycle).listening.as_slice_mut::<sys::ngx_listening_t>() } {
        set_close_on_exec(socket.fd);
        let of_http: unsafe extern "C" fn(*mut sys::ngx_connection_t) = sys::ngx_http_init_connection;
        if socket.handler.is_some_and(|handler| std::ptr::fn_addr_eq(handler, of_http)) {
            socket.handler = Some(init_connection);
        }
    }
}

unsafe extern "C" fn init_connection(connection: *mut sys::ngx_connection_t) {
    // SAFETY: nginx passes a connection that it has just accepted, of a socket whose handler was this one of HTTP.
    unsafe {
        guard((), || set_close_on_exec((*connection).fd));
        sys::ngx_http_init_connection(connection);
    }
}

/// As [`close_on_exec`], for all that is open now: connections to upstream servers and those of other modules as well.
/// From any thread.
pub fn close_all_on_exec() {
    for_each(set_close_on_exec);
}

/// Closes all sockets. In a child process that an application has forked; as it may run between `fork` and `exec`, it
/// allocates nothing.
pub fn close_all() {
    for_each(|descriptor| {
        // SAFETY: the descriptor is of this process, which does not use it.
        unsafe { libc::close(descriptor) };
    });
}

fn set_close_on_exec(descriptor: i32) {
    // SAFETY: at worst the descriptor is closed or another file by now; no descriptor of a worker needs to survive exec, as
    // only the master executes a new binary.
    unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
}

/// The descriptors of all connections and listening sockets.
fn for_each(visit: impl Fn(i32)) {
    let visit = |descriptor| {
        if descriptor > libc::STDERR_FILENO {
            visit(descriptor);
        }
    };
    // SAFETY: the tables are made once and do not move while the cycle lives, which is as long as this process
    // (`exit_before_cycle_is_freed`; an empty one takes its place at the very end). Reading a number that the event loop is
    // changing gives the old one or the new one.
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
