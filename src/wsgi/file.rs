//! A file that is a body, and whether its size is to be believed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A part of a regular file that is a body.
#[derive(Debug)]
pub struct FileBody {
    pub file: File,
    pub offset: u64,
    pub length: u64,
}

impl FileBody {
    /// What there is of a regular file from `offset` on. `None` of everything that has to be read to be sent, which a file
    /// is as well whose size says nothing of its content. May wait for the disk.
    pub fn new(file: File, offset: u64) -> Option<Self> {
        let size = || file.metadata().ok().filter(std::fs::Metadata::is_file).map(|found| found.len());
        let length = size()?.checked_sub(offset).filter(|length| *length > 0)?;
        let is_true = is_true(offset + length, |buffer, position| file.read_at(buffer, position), size);
        is_true.then_some(Self { file, offset, length })
    }
}

/// Whether a file whose size is this ends there: files of /proc say that they are empty, those of /sys that they have a
/// page, and a file system in user space may say anything. `now` is its size as it is afterwards: it may grow meanwhile.
fn is_true(
    size: u64,
    read_at: impl FnOnce(&mut [u8], u64) -> io::Result<usize>,
    now: impl FnOnce() -> Option<u64>,
) -> bool {
    match read_at(&mut [0; 2], size - 1) {
        Ok(1) => true,
        Ok(2) => now().is_some_and(|now| now > size),
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
    fn a_size_is_true_where_the_content_ends() {
        let of = |content: u64, size: u64, now: u64| {
            let read_at =
                |buffer: &mut [u8], position| Ok(content.saturating_sub(position).min(buffer.len() as u64) as usize);
            is_true(size, read_at, || Some(now))
        };
        assert!(of(10, 10, 10));
        assert!(!of(9, 10, 10), "shorter than it says");
        assert!(!of(20, 10, 10), "longer than it says");
        assert!(of(20, 10, 20), "it has grown");
        assert!(!is_true(10, |_, _| Err(io::ErrorKind::InvalidInput.into()), || Some(10)));
    }
}
