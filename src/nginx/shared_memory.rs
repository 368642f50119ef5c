//! Shared memory: atomic words that all workers see.

use std::ffi::c_void;
use std::io;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::conf::{Conf, page_size};
use super::worker_process::{self, Role};
use super::{pool_string, sys};

/// Words in a shared memory zone of nginx. The next configuration finds the same words.
#[derive(Debug)]
pub struct ShmZone {
    zone: *mut sys::ngx_shm_zone_t,
    count: usize,
}

/// Room for the slab pool that nginx creates in every zone.
const SLAB_POOL_SIZE: usize = 32 * 1024;

impl ShmZone {
    /// Adds a zone `name` of `count` words, which are 0 at first. To be called while the configuration is read. A zone of
    /// the same name and size in the next configuration is the same memory.
    ///
    /// # Errors
    /// If there is no memory, or another module has a zone of that name. nginx has logged the cause.
    pub fn add(conf: &Conf, name: &str, count: usize) -> Result<Self, ()> {
        // nginx distinguishes the zones of modules by an address that belongs to the module.
        static TAG: u8 = 0;
        // SAFETY: the name is a copy in the configuration's pool, and the zone belongs to the cycle that is being read.
        unsafe {
            let mut name = pool_string(conf.pool(), name.as_bytes()).ok_or(())?;
            let size = (SLAB_POOL_SIZE + 2 * count * size_of::<AtomicU64>()).next_multiple_of(page_size());
            let zone = sys::ngx_shared_memory_add(conf.as_ptr(), &mut name, size, (&raw const TAG).cast_mut().cast());
            if zone.is_null() {
                return Err(());
            }
            (*zone).init = Some(init_zone);
            Ok(Self { zone, count })
        }
    }

    /// Returns the words in a worker, and `None` in other processes.
    pub fn get(&self) -> Option<&'static [AtomicU64]> {
        if worker_process::role() != Role::Worker {
            return None;
        }
        // SAFETY: `init_zone` has set the data to the words, which the slab allocator aligns. Zones are unmapped by processes
        // that read another configuration, and a worker does not.
        unsafe {
            let words = (*self.zone).data.cast::<AtomicU64>();
            (!words.is_null()).then(|| slice::from_raw_parts(words, self.count))
        }
    }
}

unsafe extern "C" fn init_zone(zone: *mut sys::ngx_shm_zone_t, old: *mut c_void) -> sys::ngx_int_t {
    // SAFETY: nginx passes a mapped zone with its slab pool, and the data of the zone of the previous configuration, which is
    // the same memory. Half of the size beyond the room for the slab pool is the size of the words.
    unsafe {
        let size = ((*zone).shm.size - SLAB_POOL_SIZE) / 2;
        (*zone).data = if old.is_null() { sys::ngx_slab_calloc((*zone).shm.addr.cast(), size) } else { old };
        if (*zone).data.is_null() { sys::NGX_ERROR as isize } else { sys::NGX_OK as isize }
    }
}

/// Words in anonymous shared memory of one configuration. The workers of the next configuration have other words.
#[derive(Clone, Debug)]
pub struct AnonymousShm(Arc<Mapping>);

/// Pages that this process and its children share, mapped until the last reference is dropped.
#[derive(Debug)]
struct Mapping {
    words: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the words are atomic, and the pointer does not change.
unsafe impl Send for Mapping {}
// SAFETY: the words are atomic, and the pointer does not change.
unsafe impl Sync for Mapping {}

impl AnonymousShm {
    /// Maps `count` words, which are 0 at first.
    ///
    /// # Errors
    /// If the system has no memory.
    pub fn new(count: usize) -> io::Result<Self> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: maps new pages, which the system fills with zeros.
        let pages = unsafe { libc::mmap(ptr::null_mut(), count * size_of::<AtomicU64>(), protection, flags, -1, 0) };
        match NonNull::new(pages.cast()) {
            Some(words) if pages != libc::MAP_FAILED => Ok(Self(Arc::new(Mapping { words, count }))),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Returns the words, which stay mapped for the life of this process: its threads outlive the configuration.
    pub fn keep(&self) -> &'static [AtomicU64] {
        Box::leak(Box::new(self.0.clone())).words()
    }
}

impl Mapping {
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `new` has mapped that many words, aligned to a page, for the life of this value.
        unsafe { slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `new` has mapped this size, and references to the words do not outlive this value.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.count * size_of::<AtomicU64>()) };
    }
}
