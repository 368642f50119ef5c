//! A thread that takes the GIL for a moment at regular intervals, so that the threads of other interpreters get it.
//!
//! Before Python 3.13 a thread that waits for the GIL requests it from the threads of its own interpreter only. A call
//! that computes in another interpreter then keeps the shared GIL until it waits for something, and delays all other
//! applications of the worker. So while calls run in an interpreter, a thread of that interpreter requests the GIL for
//! the others.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::python::threads::InterpreterHandle;

/// Time between two requests, in addition to Python's switch interval of five milliseconds.
const INTERVAL: Duration = Duration::from_millis(15);

/// The thread that requests the GIL in one interpreter.
#[derive(Default)]
pub struct GilYielder {
    thread: OnceLock<Thread>,
    is_idle: AtomicBool,
    is_stopped: AtomicBool,
}

impl GilYielder {
    /// Requests the GIL while a call runs, until [`GilYielder::stop`]. `is_busy` returns true while a call runs. Call
    /// it on a thread of its own, which has not used Python before.
    pub fn run(&self, handle: InterpreterHandle, is_busy: impl Fn() -> bool) {
        self.thread.get_or_init(thread::current);
        let mut attach_thread = handle.attach_thread();
        while !self.is_stopped.load(Ordering::SeqCst) {
            self.is_idle.store(true, Ordering::SeqCst);
            if !is_busy() {
                thread::park();
                continue;
            }
            self.is_idle.store(false, Ordering::SeqCst);
            thread::sleep(INTERVAL);
            attach_thread.attach(|_| ());
        }
    }

    /// Stops the thread. No more calls run.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Wakes the thread for a call that runs: `is_busy` returns true from now on.
    pub fn notify(&self) {
        if self.is_idle.load(Ordering::SeqCst)
            && self.is_idle.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}
