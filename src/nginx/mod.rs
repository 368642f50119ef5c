//! Safe layer over the parts of nginx that the `ngx` crate does not wrap: configuration, requests, output chains,
//! notification of the event loop by other threads, the log, the process.
//!
//! Uses no Python. Types belong to the event loop thread unless their documentation says otherwise.

pub mod accept;
pub mod access;
pub mod conf;
pub mod cycle;
pub mod directive;
pub mod file;
pub mod log;
pub mod log_context;
pub mod log_files;
pub mod log_target;
pub mod message_queue;
pub mod module;
pub mod notify;
pub mod request;
pub mod shared_memory;
pub mod sockets;
pub mod thread_bound;
pub mod timer;
pub mod upstream;
pub mod variable;
pub mod worker_process;

pub use ngx::ffi as sys;

use sys::ngx_str_t;

/// Returns the bytes of an nginx string.
///
/// # Safety
/// `string` is valid, and its bytes live and do not change for `'a`.
unsafe fn bytes<'a>(string: ngx_str_t) -> &'a [u8] {
    if string.len == 0 {
        return &[];
    }
    // SAFETY: a string of nginx is a pointer and a length. The pointer is not null unless the length is 0.
    unsafe { std::slice::from_raw_parts(string.data, string.len) }
}

/// Copies `bytes` to `pool`, with a terminating null, which many users of nginx strings expect.
///
/// # Safety
/// `pool` is a live pool.
unsafe fn pool_string(pool: *mut sys::ngx_pool_t, bytes: &[u8]) -> Option<ngx_str_t> {
    // SAFETY: the pool is live as promised by the caller, and returns null or the requested number of bytes.
    unsafe {
        let data = sys::ngx_pnalloc(pool, bytes.len() + 1).cast::<u8>();
        if data.is_null() {
            return None;
        }
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), data, bytes.len());
        *data.add(bytes.len()) = 0;
        Some(ngx_str_t { len: bytes.len(), data })
    }
}

/// Runs the body of an `extern "C"` function. Logs a panic and returns `otherwise`.
pub fn guard<R>(otherwise: R, body: impl FnOnce() -> R) -> R {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        log::Log::cycle().write(log::Level::Alert, &format!("wsgi: panic: {text}"));
        otherwise
    })
}
