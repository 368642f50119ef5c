//! Words of memory that all workers share.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::conf::{Conf, page_size};
use super::worker_process::{self, Role};
use super::{pool_string, sys};

/// A zone of shared memory with nothing but words; every worker sees the same ones.
#[derive(Debug)]
pub struct ShmZone {
    zone: *mut sys::ngx_shm_zone_t,
    count: usize,
}

/// nginx makes a slab pool in every zone, and wants room for that.
const ROOM: usize = 32 * 1024;

impl ShmZone {
    /// The `count` words of the zone `name`, 0 until somebody writes them. To be called while the configuration is read.
    /// A zone of the same name and count in the next configuration is the same memory.
    ///
    /// # Errors
    /// nginx has logged why: no memory, or another module has a zone of that name.
    pub fn add(conf: &Conf, name: &str, count: usize) -> Result<Self, ()> {
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
            Ok(Self { zone, count })
        }
    }

    /// The words, in a worker; `None` anywhere else.
    pub fn get(&self) -> Option<&'static [AtomicU64]> {
        if worker_process::role() != Role::Worker {
            return None;
        }
        // SAFETY: `init` has set data to the words of the zone, aligned by the slab allocator. Only a process that reads
        // another configuration unmaps zones, and a worker reads none.
        unsafe {
            let words = (*self.zone).data.cast::<AtomicU64>();
            (!words.is_null()).then(|| std::slice::from_raw_parts(words, self.count))
        }
    }
}

/// Words of memory of one configuration: every worker that is started with it sees the same ones.
///
/// Not a zone of nginx, which are there to be found again by the next configuration.
#[derive(Debug)]
pub struct AnonymousShm(Arc<Mapping>);

/// Pages that this process and its children share, until the last reference goes.
#[derive(Debug)]
struct Mapping {
    words: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the words are atomic, and the pointer is never changed.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl AnonymousShm {
    /// `count` words, 0 until somebody writes them.
    ///
    /// # Errors
    /// When the system has no memory.
    pub fn new(count: usize) -> std::io::Result<Self> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: asks for new pages, which the system fills with zeros.
        let pages = unsafe { libc::mmap(std::ptr::null_mut(), count * size_of::<AtomicU64>(), access, kind, -1, 0) };
        match NonNull::new(pages.cast()) {
            Some(words) if pages != libc::MAP_FAILED => Ok(Self(Arc::new(Mapping { words, count }))),
            _ => Err(std::io::Error::last_os_error()),
        }
    }

    /// The words, which from now on stay mapped in this process: its threads outlive the configuration.
    pub fn keep(&self) -> &'static [AtomicU64] {
        Box::leak(Box::new(self.0.clone())).words()
    }
}

impl Mapping {
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped above for so many words, aligned to a page, for as long as this value lives.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped above, with this size; no reference to the words outlives this value.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.count * size_of::<AtomicU64>()) };
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
