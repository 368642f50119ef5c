//! Parts of regular files in responses.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Part of a regular file.
#[derive(Clone, Debug)]
pub struct FilePart {
    pub file: Arc<File>,
    pub offset: u64,
    pub length: u64,
    /// True if the file was opened with O_DIRECT.
    pub direct: bool,
}

impl FilePart {
    /// Reopens the file with O_DIRECT if its size reaches `limit`.
    ///
    /// A duplicate of the descriptor does not suffice: it shares the flags of the application's descriptor.
    pub(super) fn reopen_for_directio(self, limit: u64) -> Self {
        if !self.file.metadata().is_ok_and(|metadata| metadata.len() >= limit) {
            return self;
        }
        match File::options().read(true).custom_flags(libc::O_DIRECT).open(descriptor_path(&self.file)) {
            Ok(file) => Self { file: Arc::new(file), direct: true, ..self },
            // The file system does not support O_DIRECT, or our user may not open the file. Other reads work.
            Err(_) => self,
        }
    }
}

/// Returns the name of an open file, or an empty one if `/proc` is not mounted.
pub(super) fn name(file: &File) -> PathBuf {
    std::fs::read_link(descriptor_path(file)).unwrap_or_default()
}

fn descriptor_path(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_is_not_reopened() {
        let file = Arc::new(File::open("/proc/self/exe").unwrap());
        let part = FilePart { file: file.clone(), offset: 0, length: 1, direct: false };
        let part = part.reopen_for_directio(u64::MAX);
        assert!(Arc::ptr_eq(&part.file, &file) && !part.direct);
    }

    #[test]
    fn an_open_file_has_a_name() {
        let path = std::env::current_exe().unwrap();
        assert_eq!(name(&File::open(&path).unwrap()), path);
    }
}
