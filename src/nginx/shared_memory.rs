//! Shared memory: atomic words that all workers see.

use std::ffi::c_void;
use std::io;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::conf::{Conf, page_size};
use super::cycle::NewCycle;
use super::worker_process::{self, Role};
use super::{bytes, pool_string, sys};

/// Words in a shared memory zone of nginx. The next configuration finds the same words.
#[derive(Debug)]
pub struct ShmZone {
    zone: *mut sys::ngx_shm_zone_t,
    /// Number of the words. `None` if a word in front of them has it.
    count: Option<usize>,
}

/// Room for the slab pool that nginx creates in every zone.
const SLAB_POOL_SIZE: usize = 32 * 1024;

/// Fewest pages of a zone, as of nginx's own.
const MIN_PAGES: usize = 8;

impl ShmZone {
    /// Adds a zone `name` of `count` words, which are 0 at first. To be called while the configuration is read. A zone of
    /// the same name and size in the next configuration is the same memory.
    ///
    /// # Errors
    /// If there is no memory, or another module has a zone of that name. nginx has logged the cause.
    pub fn add(conf: &Conf, name: &str, count: usize) -> Result<Self, ()> {
        let size = (SLAB_POOL_SIZE + 2 * count * size_of::<AtomicU64>()).next_multiple_of(page_size());
        Self::add_zone(conf, name, size, init_zone).map(|zone| Self { zone, count: Some(count) })
    }

    /// Adds a zone `name` of `size` bytes, and as many words as it has room for. Otherwise as [`ShmZone::add`].
    ///
    /// # Errors
    /// As [`ShmZone::add`].
    pub fn add_of_size(conf: &Conf, name: &str, size: usize) -> Result<Self, ()> {
        // Large pages leave less.
        let size = size.next_multiple_of(page_size()).max(MIN_PAGES * page_size());
        Self::add_zone(conf, name, size, init_whole_zone).map(|zone| Self { zone, count: None })
    }

    fn add_zone(conf: &Conf, name: &str, size: usize, init: InitZone) -> Result<*mut sys::ngx_shm_zone_t, ()> {
        // nginx distinguishes the zones of modules by an address that belongs to the module.
        static TAG: u8 = 0;
        // SAFETY: the name is a copy in the configuration's pool, and the zone belongs to the cycle that is being read.
        unsafe {
            let mut name = pool_string(conf.pool(), name.as_bytes()).ok_or(())?;
            let zone = sys::ngx_shared_memory_add(conf.as_ptr(), &mut name, size, (&raw const TAG).cast_mut().cast());
            if zone.is_null() {
                return Err(());
            }
            (*zone).init = Some(init);
            Ok(zone)
        }
    }

    /// Returns the words in a worker, and `None` in other processes.
    pub fn get(&self) -> Option<&'static [AtomicU64]> {
        if worker_process::role() != Role::Worker {
            return None;
        }
        // SAFETY: `init_zone` has set the data to the words, which the slab allocator aligns, or `init_whole_zone` to their
        // number, which the words follow. Zones are unmapped by processes that read another configuration, and a worker does
        // not.
        unsafe {
            let data = (*self.zone).data.cast::<AtomicU64>();
            if data.is_null() {
                return None;
            }
            let (words, count) = match self.count {
                Some(count) => (data, count),
                None => (data.add(1), (*self.zone).data.cast::<usize>().read()),
            };
            Some(slice::from_raw_parts(words, count))
        }
    }
}

/// Function that nginx calls when a zone is mapped.
type InitZone = unsafe extern "C" fn(*mut sys::ngx_shm_zone_t, *mut c_void) -> sys::ngx_int_t;

unsafe extern "C" fn init_zone(zone: *mut sys::ngx_shm_zone_t, old: *mut c_void) -> sys::ngx_int_t {
    // SAFETY: nginx passes a mapped zone with its slab pool, and the data of the zone of the previous configuration, which is
    // the same memory. Half of the size beyond the room for the slab pool is the size of the words.
    unsafe {
        let size = ((*zone).shm.size - SLAB_POOL_SIZE) / 2;
        (*zone).data = if old.is_null() { sys::ngx_slab_calloc((*zone).shm.addr.cast(), size) } else { old };
        if (*zone).data.is_null() { sys::NGX_ERROR as isize } else { sys::NGX_OK as isize }
    }
}

unsafe extern "C" fn init_whole_zone(zone: *mut sys::ngx_shm_zone_t, old: *mut c_void) -> sys::ngx_int_t {
    // SAFETY: as in `init_zone`. All pages of a new slab pool are free, and the allocator returns them in one piece, with more
    // room than for the number of words in front.
    unsafe {
        if !old.is_null() {
            (*zone).data = old;
            return sys::NGX_OK as isize;
        }
        let pool = (*zone).shm.addr.cast::<sys::ngx_slab_pool_t>();
        let size = (*pool).pfree * page_size();
        let data = if size > 0 { sys::ngx_slab_calloc(pool, size) } else { ptr::null_mut() };
        if data.is_null() {
            return sys::NGX_ERROR as isize;
        }
        data.cast::<usize>().write(size / size_of::<AtomicU64>() - 1);
        (*zone).data = data;
        sys::NGX_OK as isize
    }
}

/// Returns the words of a zone of [`ShmZone::add_of_size`] with this name in the configuration that is in use, `None` if it
/// has none.
pub fn words_in_use<'a>(cycle: &'a NewCycle, name: &str) -> Option<&'a [AtomicU64]> {
    // SAFETY: the text lives as long as the zone.
    let zone = cycle.used_zones().into_iter().find(|zone| unsafe { bytes(zone.shm.name) } == name.as_bytes())?;
    // SAFETY: a master keeps its zones mapped.
    unsafe { whole_zone_words(zone) }
}

/// Returns the words of a zone that [`init_whole_zone`] has set up, maybe that of another version of this module; `None` if
/// they are not in the memory of the zone.
///
/// # Safety
/// The zone is mapped, or has no address.
unsafe fn whole_zone_words(zone: &sys::ngx_shm_zone_t) -> Option<&[AtomicU64]> {
    let first = zone.data.addr().checked_sub(zone.shm.addr.addr()).filter(|_| !zone.shm.addr.is_null())?;
    let room = zone.shm.size.checked_sub(first)?.checked_sub(size_of::<usize>())?;
    if !zone.data.addr().is_multiple_of(align_of::<AtomicU64>()) {
        return None;
    }
    // SAFETY: the number and the words are in the zone.
    unsafe {
        let count = zone.data.cast::<usize>().read();
        (count <= room / size_of::<AtomicU64>())
            .then(|| slice::from_raw_parts(zone.data.cast::<AtomicU64>().add(1), count))
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
