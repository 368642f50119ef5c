//! What a crash in C code leaves behind: the Python stacks of the threads, on standard error, which nginx makes its error
//! log.

use std::ptr::NonNull;

use pyo3::prelude::*;

/// Standard error of a worker is the file of the main `error_log`, or what it was at nginx's start with `error_log stderr`.
pub const STANDARD_ERROR: i32 = libc::STDERR_FILENO;

/// Lets `faulthandler` write the stacks when this process gets a signal of a crash. That then ends the process, as ever.
///
/// In the main interpreter: it is for all of the process, and refuses interpreters with a GIL of their own.
pub fn show_stacks(py: Python<'_>) -> PyResult<()> {
    py.import("faulthandler")?.call_method1("enable", (STANDARD_ERROR,)).map(drop)
}

/// Memory for signal handlers of the thread that makes it: without, nothing can handle that its stack is used up.
pub struct SignalStack {
    memory: NonNull<libc::c_void>,
    length: usize,
    /// To be dropped where it was made.
    here: std::marker::PhantomData<*mut ()>,
}

impl SignalStack {
    /// A stack for the calling thread; `None` if the system has no memory for it.
    pub fn new() -> Option<Self> {
        const FOR_HANDLERS: usize = 64 * 1024;
        // SAFETY: asks for a number. With wide registers to be saved it is more than the constant of old.
        let minimum = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
        let length = FOR_HANDLERS + minimum;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new memory, which nobody else knows.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        let memory = NonNull::new(memory).filter(|_| memory != libc::MAP_FAILED)?;
        let stack = libc::stack_t { ss_sp: memory.as_ptr(), ss_flags: 0, ss_size: length };
        // SAFETY: the memory stays mapped until `drop` has told the system not to use it.
        unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) };
        Some(Self { memory, length, here: std::marker::PhantomData })
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        let none = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: this is the thread that made it, outside of any handler; the system does not use the memory any more.
        unsafe {
            libc::sigaltstack(&none, std::ptr::null_mut());
            libc::munmap(self.memory.as_ptr(), self.length);
        }
    }
}
