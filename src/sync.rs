//! The locks that threads hand work over with: those of the standard library, or those of `loom`, which runs every
//! interleaving of the threads of a model (`make model`).

#[cfg(loom)]
pub use loom::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
pub use std::sync::{Condvar, Mutex, MutexGuard};
