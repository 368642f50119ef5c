//! Words in an anonymous file, shared by processes that inherit its descriptor.

use std::ffi::{CStr, c_uint};
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::atomic::AtomicU64;

use nix::errno::Errno;

/// Creates a file of so many words, all 0. Its size is fixed: with a shorter one a process that has mapped it would crash.
/// `/proc` shows its `name`.
///
/// # Errors
/// If there is no memory or descriptor left.
pub fn create(name: &CStr, words: usize) -> io::Result<File> {
    let flags: c_uint = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string; the new descriptor is owned by the new value. The seals have no other arguments.
    unsafe {
        let descriptor = Errno::result(libc::memfd_create(name.as_ptr(), flags))?;
        let file = File::from_raw_fd(descriptor);
        file.set_len(size(words))?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        Errno::result(libc::fcntl(descriptor, libc::F_ADD_SEALS, seals))?;
        // Only those who inherit the descriptor write to it: [`read_only`].
        file.set_permissions(Permissions::from_mode(0o600))?;
        Ok(file)
    }
}

/// Opens the file again, for another user who may read it only.
///
/// # Errors
/// Where `/proc` is not mounted.
pub fn read_only(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn size(words: usize) -> u64 {
    words as u64 * 8
}

/// Reads all words of the file.
///
/// # Errors
/// If the file is shorter.
pub fn read(file: &File, words: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; words * 8];
    file.read_exact_at(&mut bytes, 0)?;
    let (words, _) = bytes.as_chunks();
    Ok(words.iter().map(|word| u64::from_ne_bytes(*word)).collect())
}

/// Writes words from the one with the number `first` on.
///
/// # Errors
/// As of the system.
pub fn write(file: &File, first: usize, words: &[u64]) -> io::Result<()> {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    file.write_all_at(&bytes, size(first))
}

/// Maps the words of the file that is inherited with this number, and closes the descriptor. Fails if the file has fewer than
/// so many words.
///
/// # Errors
/// If no such file has this number.
pub fn map_inherited(descriptor: RawFd, at_least: usize) -> io::Result<&'static [AtomicU64]> {
    // SAFETY: the seals are asked for first: a file that has them was made by `create`, and keeps its size. The mapping is
    // never removed, and shared words are only used as atomics.
    unsafe {
        let seals = Errno::result(libc::fcntl(descriptor, libc::F_GET_SEALS))?;
        let file = File::from_raw_fd(descriptor);
        let words = usize::try_from(file.metadata()?.len() / size(1)).unwrap_or_default();
        if seals & libc::F_SEAL_SHRINK == 0 || words < at_least {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let address = libc::mmap(std::ptr::null_mut(), words * 8, access, libc::MAP_SHARED, descriptor, 0);
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(std::slice::from_raw_parts(address.cast(), words))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn words_are_shared_and_cannot_be_cut_off() {
        let file = create(c"test", 16).unwrap();
        assert!(file.set_len(8).is_err());
        let words = map_inherited(file.try_clone().unwrap().into_raw_fd(), 8).unwrap();
        assert_eq!(words.len(), 16);
        assert!(map_inherited(file.try_clone().unwrap().into_raw_fd(), 17).is_err());
        words[3].store(7, Ordering::Relaxed);
        assert_eq!(read(&file, 16).unwrap()[3], 7);
        write(&file, 4, &[8, 9]).unwrap();
        assert_eq!(words[5].load(Ordering::Relaxed), 9);
        let reader = read_only(&file).unwrap();
        assert_eq!(read(&reader, 16).unwrap()[3], 7);
        assert!(write(&reader, 4, &[1]).is_err());
    }
}
