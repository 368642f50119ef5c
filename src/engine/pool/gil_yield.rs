//! GilYielder for the threads of other interpreters, where one that computes would keep the GIL that they share.
//!
//! Before Python 3.13 a thread that waits for the GIL asks only the threads of its own interpreter to let go of it. A call
//! that computes in another keeps it then until it waits for something, and all other applications of the worker with it.
//! So while calls run in an interpreter, a thread of it asks for the GIL now and then, on behalf of the others.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::python::threads::InterpreterHandle;

/// How long a thread may have the GIL before it is asked, beside the five milliseconds that Python gives it.
const TURN: Duration = Duration::from_millis(15);

/// The thread that asks, in one interpreter.
#[derive(Default)]
pub struct GilYielder {
    thread: OnceLock<Thread>,
    is_resting: AtomicBool,
    is_over: AtomicBool,
}

impl GilYielder {
    /// Becomes that thread. It has not used Python before. `busy` says whether a call runs.
    pub fn give(&self, handle: InterpreterHandle, busy: impl Fn() -> bool) {
        self.thread.get_or_init(thread::current);
        let mut attach_thread = handle.attach_thread();
        while !self.is_over.load(Ordering::SeqCst) {
            self.is_resting.store(true, Ordering::SeqCst);
            if !busy() {
                thread::park();
                continue;
            }
            self.is_resting.store(false, Ordering::SeqCst);
            thread::sleep(TURN);
            attach_thread.attach(|_| ());
        }
    }

    /// No call will run any more: the thread ends.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// A call runs: `busy` says so from now on.
    pub fn begin(&self) {
        if self.is_resting.load(Ordering::SeqCst)
            && self.is_resting.swap(false, Ordering::SeqCst)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}
