//! The temporary file for output that the memory has no room for, written by the thread of the call.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::RequestExchange;
use crate::python::log::Level;
use crate::wsgi::transport::{Disconnected, End};

impl RequestExchange {
    /// Writes as much of `data` to the temporary file as `wsgi_max_temp_file_size` allows, or all of it if `unlimited`:
    /// a call on the event loop thread cannot wait for room. Returns the number of bytes.
    ///
    /// # Errors
    /// The response takes no more data.
    pub(super) fn spill_up_to(&self, data: &[u8], unlimited: bool) -> Result<usize, Disconnected> {
        let _writer = self.spilling.lock();
        let place = {
            let buffer = self.lock();
            if !buffer.is_open() {
                return Err(Disconnected);
            }
            buffer.spill_place()
        };
        let room = if unlimited { u64::MAX } else { place.room };
        let count = data.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        if count == 0 {
            return Ok(0);
        }
        // Without the lock of the buffer: the disk may be slow, and the event loop must not wait for it.
        let written = place.file.map_or_else(|| self.temporary_file(), Ok).and_then(|file| {
            file.write_all_at(&data[..count], place.offset)?;
            Ok(file)
        });
        match written {
            Ok(file) => {
                let mut buffer = self.lock();
                if !buffer.is_open() {
                    return Err(Disconnected);
                }
                buffer.spilled(file, place.offset, count as u64);
                self.notify(buffer);
                Ok(count)
            }
            Err(error) => {
                let directory = self.buffering.directory.display();
                let message = format!("cannot write a temporary file for a response in \"{directory}\": {error}");
                self.write_to_error_log(Level::Error, message);
                let mut buffer = self.lock();
                buffer.spill_failed();
                if !unlimited {
                    return Ok(0);
                }
                buffer.end(End::Failed);
                Err(Disconnected)
            }
        }
    }

    fn temporary_file(&self) -> io::Result<Arc<File>> {
        tempfile::tempfile_in(&self.buffering.directory).map(Arc::new)
    }
}
