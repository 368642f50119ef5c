//! A regular file as a response body, if its size can be trusted.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A part of a regular file that is sent as a body.
#[derive(Debug)]
pub struct FileBody {
    pub file: File,
    pub offset: u64,
    pub length: u64,
}

impl FileBody {
    /// Returns the content of a regular file from `offset` on. Returns `None` if it has to be read to be sent: for any
    /// other kind of file, and for a file whose size does not match its content. May wait for the disk.
    pub fn new(file: File, offset: u64) -> Option<Self> {
        let size = || file.metadata().ok().filter(std::fs::Metadata::is_file).map(|found| found.len());
        let length = size()?.checked_sub(offset).filter(|length| *length > 0)?;
        let is_size_true = is_size_true(offset + length, |buffer, position| file.read_at(buffer, position), size);
        is_size_true.then_some(Self { file, offset, length })
    }
}

/// Returns whether a file of this size ends there. Files of /proc claim to be empty, those of /sys to have a page, and a
/// file system in user space may claim anything. `size_now` reads the size again, as the file may have grown since.
fn is_size_true(
    size: u64,
    read_at: impl FnOnce(&mut [u8], u64) -> io::Result<usize>,
    size_now: impl FnOnce() -> Option<u64>,
) -> bool {
    match read_at(&mut [0; 2], size - 1) {
        Ok(1) => true,
        Ok(2) => size_now().is_some_and(|now| now > size),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn body(content: &[u8], offset: u64) -> Option<(u64, u64)> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        FileBody::new(file, offset).map(|body| (body.offset, body.length))
    }

    #[test]
    fn a_regular_file_is_sent_from_its_position() {
        assert_eq!(body(b"content", 0), Some((0, 7)));
        assert_eq!(body(b"content", 6), Some((6, 1)));
        assert_eq!(body(b"content", 7), None);
        assert_eq!(body(b"content", 8), None);
        assert_eq!(body(b"", 0), None);
    }

    #[test]
    fn a_size_is_trusted_if_the_content_ends_there() {
        let of = |content: u64, size: u64, now: u64| {
            let read_at =
                |buffer: &mut [u8], position| Ok(content.saturating_sub(position).min(buffer.len() as u64) as usize);
            is_size_true(size, read_at, || Some(now))
        };
        assert!(of(10, 10, 10));
        assert!(!of(9, 10, 10), "shorter than it says");
        assert!(!of(20, 10, 10), "longer than it says");
        assert!(of(20, 10, 20), "it has grown");
        assert!(!is_size_true(10, |_, _| Err(io::ErrorKind::InvalidInput.into()), || Some(10)));
    }
}
