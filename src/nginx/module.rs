//! Indexes of modules in nginx's arrays of configurations and contexts.

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::sys;

static CTX_INDEX: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Stores the index that nginx has assigned to this module. Called at the start of every configuration.
pub fn set_ctx_index(index: usize) {
    CTX_INDEX.store(index, Ordering::Relaxed);
}

pub(super) fn ctx_index() -> usize {
    CTX_INDEX.load(Ordering::Relaxed)
}

/// Returns the file that this module was loaded from.
pub fn file() -> Option<PathBuf> {
    // SAFETY: dladdr fills the structure if it finds the address, which is in this file; the name is then a C string.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr((&raw const CTX_INDEX).cast(), &raw mut info) == 0 || info.dli_fname.is_null() {
            return None;
        }
        let name = CStr::from_ptr(info.dli_fname).to_bytes();
        std::fs::canonicalize(OsStr::from_bytes(name)).ok()
    }
}

/// Returns the main configuration of the cycle, or `None` without an `http` block.
///
/// # Safety
/// `T` is the type that the module's `create_main_conf` makes, and `cycle` is a live cycle.
pub unsafe fn main_conf<'a, T>(cycle: *mut sys::ngx_cycle_t) -> Option<&'a T> {
    // SAFETY: conf_ctx has an element for the http module: null or an ngx_http_conf_ctx_t, which has an element for every HTTP
    // module.
    unsafe {
        let http_index = sys::ngx_http_module.index;
        let context = (*(*cycle).conf_ctx.add(http_index)).cast::<sys::ngx_http_conf_ctx_t>();
        context.as_ref().map(|context| &*(*context.main_conf.add(ctx_index())).cast::<T>())
    }
}

/// Returns the index of another HTTP module, if this nginx has the module.
pub(super) fn ctx_index_of(name: &CStr) -> Option<usize> {
    // SAFETY: the modules of the cycle are complete structures with static names.
    unsafe {
        let cycle = sys::ngx_cycle;
        let modules = std::slice::from_raw_parts((*cycle).modules, (*cycle).modules_n);
        modules.iter().find(|module| CStr::from_ptr((***module).name) == name).map(|module| (**module).ctx_index)
    }
}
