//! Values of the event loop thread in structures that other threads share.

thread_local! {
    static THREAD: u8 = const { 0 };
}

/// Returns a number of this thread that no other living thread has.
fn this_thread() -> usize {
    THREAD.with(|variable| std::ptr::from_ref(variable).addr())
}

/// Value that is accessible on the thread that created it, and on no other.
pub struct EventLoopBound<T> {
    owner: usize,
    value: T,
}

// SAFETY: `get` returns the value on its own thread only. Another thread may drop the value, when its owner has no access
// any more; the destructors of the types in use do not depend on the thread.
unsafe impl<T> Send for EventLoopBound<T> {}
// SAFETY: `get` returns the value on its own thread only.
unsafe impl<T> Sync for EventLoopBound<T> {}

impl<T> EventLoopBound<T> {
    /// Binds a value to the current thread, the event loop's.
    pub fn new(value: T) -> Self {
        Self { owner: this_thread(), value }
    }

    /// Returns whether the value belongs to the current thread.
    pub fn is_here(&self) -> bool {
        self.owner == this_thread()
    }

    /// Returns the value.
    ///
    /// # Panics
    /// On any other thread.
    pub fn get(&self) -> &T {
        assert!(self.is_here(), "a value of the event loop is used on another thread");
        &self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_belongs_to_one_thread() {
        let value = EventLoopBound::new(1);
        assert_eq!(*value.get(), 1);
        let value = &value;
        std::thread::scope(|scope| assert!(scope.spawn(|| !value.is_here()).join().unwrap()));
    }
}
