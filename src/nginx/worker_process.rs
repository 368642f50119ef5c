//! The process this code runs in: its role, its signals, the way out.

use std::ffi::c_void;

use super::log::{Level, Log};
use super::sys;

/// The nginx whose headers this module was built with, as `1.22.1`; nginx loads no module of another version.
pub const NGINX_VERSION: &str = text(sys::NGINX_VERSION);
/// As `nginx/1.22.1`.
pub const SERVER_SOFTWARE: &str = text(sys::NGINX_VER);

const fn text(version: &std::ffi::CStr) -> &str {
    match version.to_str() {
        Ok(text) => text,
        Err(_) => "nginx",
    }
}

/// What nginx made this process for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `master_process off`: everything in one process.
    Single,
    Worker,
    /// Master, signaller, cache manager and loader: no place for an application.
    Other,
}

/// The role of this process.
pub fn role() -> Role {
    // SAFETY: a plain variable of nginx, set before modules run.
    match unsafe { sys::ngx_process } as u32 {
        sys::NGX_PROCESS_SINGLE => Role::Single,
        sys::NGX_PROCESS_WORKER => Role::Worker,
        _ => Role::Other,
    }
}

/// The number of this worker, from 0.
pub fn worker_number() -> usize {
    // SAFETY: as above.
    unsafe { sys::ngx_worker }
}

/// How many workers there are.
///
/// # Safety
/// `cycle` is a live, configured cycle.
pub unsafe fn worker_count(cycle: *mut sys::ngx_cycle_t) -> usize {
    // SAFETY: the core module has a configuration of this type in every cycle.
    let core = unsafe {
        let index = sys::ngx_core_module.index;
        &*(*(*cycle).conf_ctx.add(index)).cast::<sys::ngx_core_conf_t>()
    };
    if role() == Role::Worker { core.worker_processes.max(1) as usize } else { 1 }
}

/// Whether the process was told to end at once (TERM) and not gracefully (QUIT).
pub fn is_terminating() -> bool {
    // SAFETY: a flag that nginx's signal handler sets.
    unsafe { sys::ngx_terminate != 0 }
}

/// Whether the process was told to end gracefully and only waits for what it has begun.
pub fn is_exiting() -> bool {
    // SAFETY: a flag that the event loop sets.
    unsafe { sys::ngx_exiting != 0 }
}

/// Tells this worker to end gracefully, as QUIT does; the master starts another one once it has exited.
///
/// On the event loop thread: the loop looks at the flag when its turn is over.
pub fn quit() {
    // SAFETY: a plain variable that only this thread and its signal handler set.
    unsafe { sys::ngx_quit = 1 };
}

/// Whether there is a process of this number that a worker may signal, as it may its fellows, which have its user.
pub fn is_alive(process: u32) -> bool {
    // SAFETY: signal 0 only asks.
    i32::try_from(process).is_ok_and(|process| unsafe { libc::kill(process, 0) } == 0)
}

/// A random number, another one in each process.
pub fn random() -> u64 {
    let mut number = u64::from(std::process::id());
    // SAFETY: writes at most the eight bytes of the variable; where the system gives none, the process number stays.
    unsafe { libc::getrandom((&raw mut number).cast(), size_of::<u64>(), libc::GRND_NONBLOCK) };
    number
}

/// AttachedThread memory of this process in bytes, `None` where the system does not say.
pub fn resident_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    // SAFETY: asks for a constant of the system.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    Some(pages * page)
}

/// Lets `waitpid` in this process see its own children.
///
/// nginx's handler for SIGCHLD reaps every child, in workers as well, which have none of their own: the `subprocess`
/// of an application would then report success for every program.
pub fn leave_children_alone() {
    // SAFETY: sets a default disposition.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// Leaves a working directory that this process's user may not enter: nginx was started there as root.
///
/// Nothing can be opened relative to it anyway, and a program that is told to enter it fails.
pub fn leave_closed_directory() {
    // SAFETY: the paths are null-terminated. Where neither can be entered, nothing changes.
    unsafe {
        if libc::access(c".".as_ptr(), libc::X_OK) != 0 {
            libc::chdir(c"/".as_ptr());
        }
    }
}

/// Makes the coming end of this process leave out what its other threads would not survive: they may still read nginx's
/// memory (the cycle, its log and connections, the environment), and may be inside of libraries.
///
/// Of what nginx does at the end of a process only the freeing of the cycle's memory and the destructors of libraries are
/// left out. To be called in `exit_process`.
pub fn leave_before_memory_goes() {
    unsafe extern "C" fn leave_pool(_: *mut c_void) {
        // nginx's own last record comes after the memory is freed; the process without a master has it before.
        if role() == Role::Worker {
            Log::cycle().write(Level::Notice, "exit");
        }
        leave();
    }
    extern "C" fn leave() {
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) }
    }
    // SAFETY: on the event loop thread, with a live cycle. nginx's cleanup handlers run before the memory of their pool is
    // freed, in the order of this list: the new one, which has no data, is moved from its front to its end, so that those
    // of all modules have run. The last handler that is registered for `exit`, where there is no memory for that, runs
    // first and does not return.
    unsafe {
        let pool = (*sys::ngx_cycle).pool;
        let cleanup = sys::ngx_pool_cleanup_add(pool, 0);
        if cleanup.is_null() {
            libc::atexit(leave);
            return;
        }
        (*cleanup).handler = Some(leave_pool);
        let mut end = &raw mut (*pool).cleanup;
        *end = (*cleanup).next;
        while !(*end).is_null() {
            end = &raw mut (**end).next;
        }
        (*cleanup).next = std::ptr::null_mut();
        *end = cleanup;
    }
}

/// Ends this process after `limit`, whatever its other threads do.
pub fn leave_after(limit: std::time::Duration) {
    let watchdog = move || {
        std::thread::sleep(limit);
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) }
    };
    if std::thread::Builder::new().name("wsgi-watchdog".to_owned()).spawn(watchdog).is_err() {
        let message = "wsgi: no watchdog thread, the end of this worker is not bounded";
        Log::cycle().write(Level::Alert, message);
    }
}

/// Gives the signals of nginx their default actions back. In a child process that an application has forked.
pub fn reset_signals() {
    const OF_NGINX: [i32; 11] = [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGQUIT,
        libc::SIGUSR1,
        libc::SIGUSR2,
        libc::SIGWINCH,
        libc::SIGALRM,
        libc::SIGIO,
        libc::SIGPIPE,
        libc::SIGSYS,
    ];
    for signal in OF_NGINX {
        // SAFETY: sets a default disposition.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Shows `title` as this process's in the list of processes, after `nginx: `.
pub fn set_process_title(title: &std::ffi::CStr) {
    // SAFETY: nginx copies the text into the memory of its arguments, which it has made ready before any configuration.
    unsafe { sys::ngx_setproctitle(title.as_ptr().cast::<std::ffi::c_char>().cast_mut()) };
}

/// Name and home of the user that this process runs as.
pub fn user() -> Option<(String, String)> {
    // SAFETY: called before the process has other threads; the entry and its texts stay valid until the next call.
    unsafe {
        let entry = libc::getpwuid(libc::geteuid()).as_ref()?;
        let text = |pointer| std::ffi::CStr::from_ptr(pointer).to_string_lossy().into_owned();
        Some((text(entry.pw_name), text(entry.pw_dir)))
    }
}
