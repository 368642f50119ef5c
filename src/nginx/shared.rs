//! A word of memory that all workers share, and that stays over reloads.

use std::sync::atomic::AtomicU64;

use super::conf::Conf;
use super::{pool_string, sys};

/// A word in a zone of shared memory; every worker sees the same one.
#[derive(Debug)]
pub struct SharedWord(*mut sys::ngx_shm_zone_t);

/// nginx makes a slab pool in every zone, and wants room for that.
const ZONE_SIZE: usize = 32 * 1024;

impl SharedWord {
    /// The word of the zone `name`, 0 until somebody writes it. To be called while the configuration is read.
    ///
    /// # Errors
    /// nginx has logged why: no memory, or another module has a zone of that name.
    pub fn add(conf: &Conf, name: &str) -> Result<Self, ()> {
        // The zones of one module have the address of something that is its own.
        static TAG: u8 = 0;
        // SAFETY: the name is a copy in the configuration's pool; the zone belongs to the cycle that is being read.
        unsafe {
            let mut name = pool_string(conf.pool(), name.as_bytes()).ok_or(())?;
            let zone =
                sys::ngx_shared_memory_add(conf.as_ptr(), &mut name, ZONE_SIZE, (&raw const TAG).cast_mut().cast());
            if zone.is_null() {
                return Err(());
            }
            (*zone).init = Some(init);
            Ok(Self(zone))
        }
    }

    /// The word, once the configuration holds: in a worker.
    pub fn get(&self) -> Option<&'static AtomicU64> {
        // SAFETY: `init` has set data to a word of the zone, aligned by the slab allocator; a worker's cycle and its zones
        // stay until the process ends.
        unsafe { (*self.0).data.cast::<AtomicU64>().as_ref() }
    }
}

unsafe extern "C" fn init(zone: *mut sys::ngx_shm_zone_t, old: *mut std::ffi::c_void) -> sys::ngx_int_t {
    // SAFETY: nginx passes a mapped zone with its slab pool, and the data of the zone it continues, which is the same
    // memory.
    unsafe {
        (*zone).data =
            if old.is_null() { sys::ngx_slab_calloc((*zone).shm.addr.cast(), size_of::<AtomicU64>()) } else { old };
        if (*zone).data.is_null() { sys::NGX_ERROR as isize } else { sys::NGX_OK as isize }
    }
}
