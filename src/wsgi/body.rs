//! The source of a request body, and the implementation for a body that has been read completely, from memory and
//! files.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// The body that `wsgi.input` reads from.
pub trait BodySource: Send {
    /// Reads into `buffer` as [`io::Read::read`] does; may block.
    ///
    /// # Errors
    /// If the file or the client fails.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Returns the number of unread bytes of a complete body, `None` for a body that is still being received.
    fn remaining(&self) -> Option<u64>;

    /// Returns whether reading may take time, so that other Python threads should run meanwhile.
    fn may_block(&self) -> bool;

    /// Returns a handle that ends a `read` in another thread that waits for the client.
    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        None
    }
}

/// Ends a blocked read.
pub trait Interrupt: Send + Sync {
    /// Lets every read fail from now on.
    fn interrupt(&self);
}

/// One piece of a body.
pub enum Piece {
    Memory(Vec<u8>),
    /// `length` bytes from `offset` on.
    File {
        file: File,
        offset: u64,
        length: u64,
    },
}

/// A body that has been received completely.
#[derive(Default)]
pub struct BufferedBody {
    pieces: VecDeque<Piece>,
    /// The number of bytes read of the first piece.
    position: u64,
    remaining: u64,
}

impl Piece {
    fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Memory(bytes) => {
                let rest = &bytes[position as usize..];
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
            Self::File { file, offset, length } => {
                let count = (length - position).min(buffer.len() as u64) as usize;
                match file.read_at(&mut buffer[..count], offset + position)? {
                    0 if count > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
                    count => Ok(count),
                }
            }
        }
    }
}

impl BufferedBody {
    /// Creates a body of these pieces, in order.
    pub fn new(pieces: impl IntoIterator<Item = Piece>) -> Self {
        let pieces: VecDeque<Piece> = pieces.into_iter().collect();
        let remaining = pieces.iter().map(Piece::length).sum();
        Self { pieces, position: 0, remaining }
    }
}

impl BodySource for BufferedBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let Some(piece) = self.pieces.front() else { break };
            if self.position == piece.length() {
                self.pieces.pop_front();
                self.position = 0;
                continue;
            }
            let count = piece.read_at(self.position, &mut buffer[filled..])?;
            self.position += count as u64;
            self.remaining -= count as u64;
            filled += count;
        }
        Ok(filled)
    }

    fn remaining(&self) -> Option<u64> {
        Some(self.remaining)
    }

    fn may_block(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::File { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn pieces_are_read_in_order_across_their_ends() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"..cdef").unwrap();
        let pieces = [
            Piece::Memory(b"ab".to_vec()),
            Piece::File { file, offset: 2, length: 3 },
            Piece::Memory(Vec::new()),
            Piece::Memory(b"f".to_vec()),
        ];
        let mut body = BufferedBody::new(pieces);
        assert_eq!(body.remaining(), Some(6));
        let mut buffer = [0; 4];
        assert_eq!(body.read(&mut buffer).unwrap(), 4);
        assert_eq!(&buffer, b"abcd");
        assert_eq!(body.read(&mut buffer).unwrap(), 2);
        assert_eq!(&buffer[..2], b"ef");
        assert_eq!((body.read(&mut buffer).unwrap(), body.remaining()), (0, Some(0)));
    }

    #[test]
    fn a_truncated_file_is_an_error_and_not_the_end() {
        let file = tempfile::tempfile().unwrap();
        let mut body = BufferedBody::new([Piece::File { file, offset: 0, length: 3 }]);
        assert!(body.read(&mut [0; 2]).is_err());
    }
}
