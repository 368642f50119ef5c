//! Files that Python code has opened.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

/// A descriptor of our own for an open file of Python, which may close its one at any time after.
///
/// # Errors
/// When the process has no descriptor left, or this is none.
pub fn duplicate(descriptor: i32) -> io::Result<File> {
    if descriptor < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: a number that is not -1 may be borrowed for the call; one that is closed by now is the error EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    borrowed.try_clone_to_owned().map(File::from)
}
