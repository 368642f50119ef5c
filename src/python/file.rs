//! Descriptors of files that Python code has opened.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

/// Duplicates the descriptor of an open file, which Python may close at any time after.
///
/// # Errors
/// If the process has no descriptor left, or `descriptor` is not open.
pub fn duplicate(descriptor: i32) -> io::Result<File> {
    if descriptor < 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: any number but -1 may be borrowed for the call; a closed descriptor is the error EBADF.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    borrowed.try_clone_to_owned().map(File::from)
}
