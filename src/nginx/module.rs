//! Where this module's configuration and contexts stand in nginx's per-module arrays.

use std::ffi::CStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::sys;

static CTX_INDEX: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Notes the index that nginx gave the module; called at the start of every configuration.
pub fn set_ctx_index(index: usize) {
    CTX_INDEX.store(index, Ordering::Relaxed);
}

pub(super) fn ctx_index() -> usize {
    CTX_INDEX.load(Ordering::Relaxed)
}

/// The main configuration of the cycle, `None` without an `http` block.
///
/// # Safety
/// `T` is the type that the module's `create_main_conf` makes, and `cycle` is a live cycle.
pub unsafe fn main_conf<'a, T>(cycle: *mut sys::ngx_cycle_t) -> Option<&'a T> {
    // SAFETY: conf_ctx has a slot for the http module, null or an ngx_http_conf_ctx_t with a slot for every HTTP module.
    unsafe {
        let http_index = sys::ngx_http_module.index;
        let context = (*(*cycle).conf_ctx.add(http_index)).cast::<sys::ngx_http_conf_ctx_t>();
        context.as_ref().map(|context| &*(*context.main_conf.add(ctx_index())).cast::<T>())
    }
}

/// The index of another HTTP module's configurations, if this nginx has it.
pub(super) fn ctx_index_of(name: &CStr) -> Option<usize> {
    // SAFETY: the cycle's modules are complete structures with static names.
    unsafe {
        let cycle = sys::ngx_cycle;
        let modules = std::slice::from_raw_parts((*cycle).modules, (*cycle).modules_n);
        modules.iter().find(|module| CStr::from_ptr((***module).name) == name).map(|module| (**module).ctx_index)
    }
}
