//! Data that is shared with other threads but used by the event loop thread only.

thread_local! {
    static THREAD: u8 = const { 0 };
}

/// A number for this thread that no other living thread has.
fn this_thread() -> usize {
    THREAD.with(|here| std::ptr::from_ref(here).addr())
}

/// A value that only the thread which made it can reach.
pub struct EventLoopBound<T> {
    owner: usize,
    value: T,
}

// SAFETY: `get` gives the value to its owner only. A value that is dropped on another thread is no longer reached by
// its owner; the types used here have no thread of their own in their destructors.
unsafe impl<T> Send for EventLoopBound<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for EventLoopBound<T> {}

impl<T> EventLoopBound<T> {
    /// A value of the current thread, which is the event loop's.
    pub fn new(value: T) -> Self {
        Self { owner: this_thread(), value }
    }

    /// Whether this is the thread of the value.
    pub fn is_here(&self) -> bool {
        self.owner == this_thread()
    }

    /// The value.
    ///
    /// # Panics
    /// On any other thread.
    pub fn get(&self) -> &T {
        assert!(self.is_here(), "a value of the event loop is used on another thread");
        &self.value
    }
}
