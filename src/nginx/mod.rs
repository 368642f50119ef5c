//! A safe layer over what the `ngx` crate does not wrap: configuration, requests, output chains, the wake-up of the
//! event loop from other threads, the log, the process.
//!
//! Knows nginx and nothing of Python. Unless a type says otherwise it belongs to the event loop thread.

pub mod conf;
pub mod cycle;
pub mod directive;
pub mod log;
pub mod module;
pub mod notify;
pub mod request;
pub mod shared_memory;
pub mod sockets;
pub mod thread_bound;
pub mod timer;
pub mod variable;
pub mod worker_process;

pub use ngx::ffi as sys;

use sys::ngx_str_t;

/// The bytes of an nginx string.
///
/// # Safety
/// `string` is valid, and what it points to lives and does not change for `'a`.
unsafe fn bytes<'a>(string: ngx_str_t) -> &'a [u8] {
    if string.len == 0 {
        return &[];
    }
    // SAFETY: nginx strings are a pointer and a length; not null when the length is not zero.
    unsafe { std::slice::from_raw_parts(string.data, string.len) }
}

/// A copy of `bytes` in `pool`, null-terminated as many consumers of nginx strings expect.
///
/// # Safety
/// `pool` is a live pool.
unsafe fn pool_string(pool: *mut sys::ngx_pool_t, bytes: &[u8]) -> Option<ngx_str_t> {
    // SAFETY: the pool returns null or len + 1 writable bytes.
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

/// Runs the body of an `extern "C"` function: a panic ends here, in the log, and `otherwise` is returned.
pub fn guard<R>(otherwise: R, body: impl FnOnce() -> R) -> R {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        log::Log::cycle().write(log::Level::Alert, &format!("wsgi module panicked: {text}"));
        otherwise
    })
}
