//! Diagnosis of crashes in C code: the Python stacks of all threads on standard error, which nginx redirects to its
//! error log.

use std::ptr::NonNull;

use pyo3::prelude::*;

/// The descriptor of standard error: in a worker, the file of the main `error_log`, or with `error_log stderr` that of
/// nginx's start.
pub const STANDARD_ERROR: i32 = libc::STDERR_FILENO;

/// Lets `faulthandler` write the stacks on a fatal signal, before the process ends.
///
/// Call it in the main interpreter: it takes effect for the whole process, and interpreters with a GIL of their own
/// refuse the module.
pub fn enable_faulthandler(py: Python<'_>) -> PyResult<()> {
    py.import("faulthandler")?.call_method1("enable", (STANDARD_ERROR,)).map(drop)
}

/// An alternate signal stack of the calling thread. Without it no signal handler can run after a stack overflow.
pub struct SignalStack {
    memory: NonNull<libc::c_void>,
    length: usize,
    /// Not `Send`: dropped on the thread that it was created on.
    not_send: std::marker::PhantomData<*mut ()>,
}

impl SignalStack {
    /// Creates a stack for the calling thread; returns `None` if the system has no memory for it.
    pub fn new() -> Option<Self> {
        const HANDLER_SIZE: usize = 64 * 1024;
        // SAFETY: reads a number. It depends on the size of the CPU's registers, unlike the constant MINSIGSTKSZ.
        let minimum = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
        let length = HANDLER_SIZE + minimum;
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new memory, to which there is no other pointer.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        let memory = NonNull::new(memory).filter(|_| memory != libc::MAP_FAILED)?;
        let stack = libc::stack_t { ss_sp: memory.as_ptr(), ss_flags: 0, ss_size: length };
        // SAFETY: the memory stays mapped until `drop` has disabled its use.
        unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) };
        Some(Self { memory, length, not_send: std::marker::PhantomData })
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        let none = libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: this is the thread that created it, outside of any signal handler; once disabled, the stack is
        // unused.
        unsafe {
            libc::sigaltstack(&none, std::ptr::null_mut());
            libc::munmap(self.memory.as_ptr(), self.length);
        }
    }
}
