//! The nginx process that this code runs in: its role, its state, its exit.

use std::ffi::{CStr, CString, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use super::log::{Level, Log};
use super::sys;
use super::timer::Timer;
use crate::os::system;

/// Version of the nginx whose headers this module was built with, such as `1.22.1`. Other versions do not load the module.
pub const NGINX_VERSION: &str = text(sys::NGINX_VERSION);
/// Name and version of that nginx, such as `nginx/1.22.1`.
pub const SERVER_SOFTWARE: &str = text(sys::NGINX_VER);

const fn text(version: &CStr) -> &str {
    match version.to_str() {
        Ok(text) => text,
        Err(_) => "nginx",
    }
}

/// Signals that nginx handles or ignores.
const NGINX_SIGNALS: [c_int; 11] = [
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

/// Role of an nginx process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The only process (`master_process off`).
    Single,
    Worker,
    /// Master, signaller, cache manager or cache loader, which run no applications.
    Other,
}

/// Returns the role of this process.
pub fn role() -> Role {
    // SAFETY: a plain variable that nginx sets before modules run.
    match unsafe { sys::ngx_process } as u32 {
        sys::NGX_PROCESS_SINGLE => Role::Single,
        sys::NGX_PROCESS_WORKER => Role::Worker,
        _ => Role::Other,
    }
}

/// Returns true if this process only tests a configuration (`nginx -t`).
pub fn is_testing() -> bool {
    // SAFETY: a plain variable that nginx sets before it reads a configuration.
    unsafe { sys::ngx_test_config != 0 }
}

/// Returns the number of this worker, from 0.
pub fn worker_number() -> usize {
    // SAFETY: a plain variable that nginx sets before modules run.
    unsafe { sys::ngx_worker }
}

/// Number of the first worker, which is not 0 in an nginx that runs some of the workers of a process group.
static FIRST_NUMBER: AtomicUsize = AtomicUsize::new(0);

/// Sets the number of the first worker. To be called in the master, before it starts workers.
pub fn set_first_number(number: usize) {
    FIRST_NUMBER.store(number, Ordering::Relaxed);
}

/// Returns the number of this worker among all that run its applications.
pub fn number_in_group() -> usize {
    FIRST_NUMBER.load(Ordering::Relaxed) + worker_number()
}

/// Returns the number of workers.
///
/// # Safety
/// `cycle` is a live, configured cycle.
pub unsafe fn worker_count(cycle: *mut sys::ngx_cycle_t) -> usize {
    // SAFETY: every cycle has a configuration of this type for the core module.
    let core = unsafe {
        let index = sys::ngx_core_module.index;
        &*(*(*cycle).conf_ctx.add(index)).cast::<sys::ngx_core_conf_t>()
    };
    if role() == Role::Worker { core.worker_processes.max(1) as usize } else { 1 }
}

/// Returns whether this process was told to exit at once (TERM) rather than gracefully (QUIT).
pub fn is_terminating() -> bool {
    // SAFETY: a flag that nginx's signal handler sets.
    unsafe { sys::ngx_terminate != 0 }
}

/// Returns whether this process is exiting gracefully: it only finishes its requests.
pub fn is_exiting() -> bool {
    // SAFETY: a flag that the event loop sets.
    unsafe { sys::ngx_exiting != 0 }
}

/// Makes this worker exit gracefully, like QUIT. The master starts another worker after the exit.
///
/// Belongs to the event loop thread, which checks the flag after the current events.
pub fn quit() {
    // SAFETY: a plain variable that is written by this thread and its signal handler only.
    unsafe { sys::ngx_quit = 1 };
}

/// Restores the default action of SIGCHLD, so that `waitpid` in this process finds its children.
///
/// nginx's handler for SIGCHLD reaps all children, in workers as well: `subprocess` would report success for each program.
pub fn reset_sigchld() {
    system::reset_signals([libc::SIGCHLD]);
}

/// Restores the default actions of the signals that nginx handles or ignores. For child processes that applications fork.
pub fn reset_signals() {
    system::reset_signals(NGINX_SIGNALS);
}

/// Makes this process exit just before nginx frees the memory of the cycle. To be called in `exit_process`.
///
/// Other threads may still read that memory (the cycle, its log and connections, the environment) or run in libraries, so
/// they would not survive it. Only that and the destructors of libraries are skipped of nginx's own exit.
pub fn exit_before_cycle_is_freed() {
    unsafe extern "C" fn exit_in_cleanup(_: *mut c_void) {
        // A worker logs this after freeing the memory; a process without a master has logged it by now.
        if role() == Role::Worker {
            Log::cycle().write(Level::Notice, "exit");
        }
        exit();
    }
    extern "C" fn exit() {
        // SAFETY: ends the process, and with it every use of memory.
        unsafe { libc::_exit(0) }
    }
    // SAFETY: on the event loop thread, with a live cycle. nginx runs the clean-up handlers of a pool in the order of this
    // list before it frees the pool's memory. The new handler, which has no data, is moved from the front of the list to its
    // end, after the handlers of all modules. Without memory for that, the handler that `atexit` registered last runs first
    // and does not return.
    unsafe {
        let pool = (*sys::ngx_cycle).pool;
        let cleanup = sys::ngx_pool_cleanup_add(pool, 0);
        if cleanup.is_null() {
            libc::atexit(exit);
            return;
        }
        (*cleanup).handler = Some(exit_in_cleanup);
        let mut end = &raw mut (*pool).cleanup;
        *end = (*cleanup).next;
        while !(*end).is_null() {
            end = &raw mut (**end).next;
        }
        (*cleanup).next = std::ptr::null_mut();
        *end = cleanup;
    }
}

/// Makes this process exit after `timeout`, whatever its other threads do.
pub fn exit_after(timeout: Duration) {
    let watchdog = move || {
        thread::sleep(timeout);
        // SAFETY: ends the process, and with it every use of memory.
        unsafe { libc::_exit(0) }
    };
    if let Err(error) = thread::Builder::new().name("wsgi-watchdog".to_owned()).spawn(watchdog) {
        let message = format!("wsgi: cannot start watchdog thread, shutdown may take forever: {error}");
        Log::cycle().write(Level::Alert, &message);
    }
}

/// Shows `title` after `nginx: ` in the list of processes.
pub fn set_process_title(title: &CStr) {
    // SAFETY: nginx copies the text to the memory of its arguments, which it prepares before it reads a configuration.
    unsafe { sys::ngx_setproctitle(title.as_ptr().cast_mut()) };
}

/// Tells this worker to exit gracefully (SIGQUIT) when its master has been killed. Without that, nginx's workers stay.
pub fn exit_with_master() {
    if role() != Role::Worker {
        return;
    }
    let _ = set_pdeathsig(Signal::SIGQUIT);
    // SAFETY: a plain variable that nginx sets when it forks the worker.
    if getppid().as_raw() != unsafe { sys::ngx_parent } {
        quit();
    }
}

/// Titles of the processes of an instance of a process group: of its master and of its workers.
static INSTANCE_TITLES: OnceLock<[CString; 2]> = OnceLock::new();

/// Shows this master as `nginx: wsgi NAME master` from the moment when it starts its first worker, and its workers as
/// `nginx: wsgi NAME worker` after [`title_worker`]. To be called in `init_module`; nginx sets a title of its own after it.
pub fn title_as_instance(name: &str) {
    /// Runs before each `fork` of this process and of its children.
    unsafe extern "C" fn before_fork() {
        // SAFETY: plain variables that nginx sets.
        let is_master = unsafe { sys::ngx_process } as u32 == sys::NGX_PROCESS_MASTER;
        // A library of an application forks workers of its own, whose titles are not ours.
        if is_master && let Some([master, _]) = INSTANCE_TITLES.get() {
            set_process_title(master);
        }
    }
    let title = |role: &str| CString::new(format!("wsgi {name} {role}")).unwrap_or_default();
    if INSTANCE_TITLES.set([title("master"), title("worker")]).is_ok() {
        // SAFETY: the handler only writes to memory that nginx prepares before it reads a configuration. The C library removes
        // it when the module's file is unloaded.
        unsafe { libc::pthread_atfork(Some(before_fork), None, None) };
    }
}

/// Shows this worker as a worker of its process group once the event loop runs: nginx sets a title of its own after
/// `init_process`, where this is to be called. Does nothing in other workers.
pub fn title_worker() {
    static TIMER: OnceLock<Timer> = OnceLock::new();
    fn set_title() {
        if let Some([_, worker]) = INSTANCE_TITLES.get()
            && !is_exiting()
        {
            set_process_title(worker);
        }
    }
    if role() == Role::Worker && INSTANCE_TITLES.get().is_some() {
        TIMER.get_or_init(|| Timer::new(false, set_title)).arm(Duration::ZERO);
    }
}
