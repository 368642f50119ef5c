//! Words of memory that all workers share.

use std::sync::atomic::AtomicU64;

use super::conf::{Conf, page_size};
use super::{pool_string, sys};

/// A zone of shared memory with nothing but words; every worker sees the same ones.
#[derive(Debug)]
pub struct SharedWords {
    zone: *mut sys::ngx_shm_zone_t,
    count: usize,
}

/// nginx makes a slab pool in every zone, and wants room for that.
const ROOM: usize = 32 * 1024;

impl SharedWords {
    /// The `count` words of the zone `name`, 0 until somebody writes them. To be called while the configuration is read.
    /// A zone of the same name and count in the next configuration is the same memory, if it `stays`.
    ///
    /// # Errors
    /// nginx has logged why: no memory, or another module has a zone of that name.
    pub fn add(conf: &Conf, name: &str, count: usize, stays: bool) -> Result<Self, ()> {
        // The zones of one module have the address of something that is its own.
        static TAG: u8 = 0;
        // SAFETY: the name is a copy in the configuration's pool; the zone belongs to the cycle that is being read.
        unsafe {
            let mut name = pool_string(conf.pool(), name.as_bytes()).ok_or(())?;
            let size = (ROOM + 2 * count * size_of::<AtomicU64>()).next_multiple_of(page_size());
            let zone = sys::ngx_shared_memory_add(conf.as_ptr(), &mut name, size, (&raw const TAG).cast_mut().cast());
            if zone.is_null() {
                return Err(());
            }
            (*zone).init = Some(init);
            (*zone).noreuse = usize::from(!stays);
            Ok(Self { zone, count })
        }
    }

    /// The words, once the configuration holds: in a worker.
    pub fn get(&self) -> Option<&'static [AtomicU64]> {
        // SAFETY: `init` has set data to the words of the zone, aligned by the slab allocator; a worker's cycle and its
        // zones stay until the process ends.
        unsafe {
            let words = (*self.zone).data.cast::<AtomicU64>();
            (!words.is_null()).then(|| std::slice::from_raw_parts(words, self.count))
        }
    }
}

unsafe extern "C" fn init(zone: *mut sys::ngx_shm_zone_t, old: *mut std::ffi::c_void) -> sys::ngx_int_t {
    // SAFETY: nginx passes a mapped zone with its slab pool, and the data of the zone it continues, which is the same
    // memory. Half of what is beyond the room for the pool is what was asked for.
    unsafe {
        let size = ((*zone).shm.size - ROOM) / 2;
        (*zone).data = if old.is_null() { sys::ngx_slab_calloc((*zone).shm.addr.cast(), size) } else { old };
        if (*zone).data.is_null() { sys::NGX_ERROR as isize } else { sys::NGX_OK as isize }
    }
}
