//! The source of a request body, and the implementation for a body that has been read completely, from memory and
//! files.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::transport::Disconnected;

/// The body that `wsgi.input` reads from.
pub trait BodySource: Send {
    /// Reads into `buffer` as [`io::Read::read`] does; may block.
    ///
    /// # Errors
    /// If the file or the client fails.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Reads up to `limit` bytes, fewer only at the end of the body, and passes them to `take` in pieces. A body in memory
    /// is not copied for that.
    ///
    /// # Errors
    /// If the file or the client fails.
    fn read_pieces(&mut self, limit: usize, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut block = vec![0; limit.min(BLOCK)];
        let mut left = limit;
        while left > 0 {
            let length = block.len().min(left);
            match self.read(&mut block[..length])? {
                0 => break,
                count => {
                    take(&block[..count]);
                    left -= count;
                }
            }
        }
        Ok(())
    }

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

/// Size of the blocks that are read from a file.
const BLOCK: usize = 64 * 1024;

/// Memory that holds a piece of a body, and may be released while the body is in use.
pub trait Memory: Send + Sync {
    /// Passes the bytes to `take`, which must not wait for anything. Returns false if the memory has been released.
    fn with(&self, take: &mut dyn FnMut(&[u8])) -> bool;
}

#[cfg(test)]
impl Memory for Vec<u8> {
    fn with(&self, take: &mut dyn FnMut(&[u8])) -> bool {
        take(self);
        true
    }
}

/// One piece of a body.
pub enum Piece {
    /// `length` bytes in memory.
    Memory { memory: Arc<dyn Memory>, length: usize },
    /// `length` bytes from `offset` on.
    File { file: File, offset: u64, length: u64 },
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
    /// Creates a piece of these bytes.
    #[cfg(test)]
    pub fn memory(bytes: &[u8]) -> Self {
        Self::Memory { memory: Arc::new(bytes.to_vec()), length: bytes.len() }
    }

    fn length(&self) -> u64 {
        match self {
            Self::Memory { length, .. } => *length as u64,
            Self::File { length, .. } => *length,
        }
    }

    fn read_at(&self, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Memory { .. } => {
                let mut filled = 0;
                self.pass(position, buffer.len(), &mut |bytes| {
                    buffer[..bytes.len()].copy_from_slice(bytes);
                    filled = bytes.len();
                })?;
                Ok(filled)
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

    /// Passes up to `limit` bytes in memory from `position` on to `take`.
    fn pass(&self, position: u64, limit: usize, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let Self::Memory { memory, .. } = self else { return Ok(()) };
        let is_there = memory.with(&mut |bytes| {
            let rest = &bytes[position as usize..];
            take(&rest[..rest.len().min(limit)]);
        });
        if is_there { Ok(()) } else { Err(io::Error::new(io::ErrorKind::ConnectionReset, Disconnected.to_string())) }
    }
}

impl BufferedBody {
    /// Creates a body of these pieces, in order.
    pub fn new(pieces: impl IntoIterator<Item = Piece>) -> Self {
        let pieces: VecDeque<Piece> = pieces.into_iter().collect();
        let remaining = pieces.iter().map(Piece::length).sum();
        Self { pieces, position: 0, remaining }
    }

    /// Returns the piece that is read next, if there is one, and the number of its bytes that have been read.
    fn piece(&mut self) -> Option<(&Piece, u64)> {
        while self.pieces.front()?.length() == self.position {
            self.pieces.pop_front();
            self.position = 0;
        }
        Some((self.pieces.front()?, self.position))
    }

    fn advance(&mut self, count: usize) {
        self.position += count as u64;
        self.remaining -= count as u64;
    }
}

impl BodySource for BufferedBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let Some((piece, position)) = self.piece() else { break };
            let count = piece.read_at(position, &mut buffer[filled..])?;
            self.advance(count);
            filled += count;
        }
        Ok(filled)
    }

    fn read_pieces(&mut self, limit: usize, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let mut left = limit;
        while left > 0 {
            let Some((piece, position)) = self.piece() else { break };
            let mut count = 0;
            if let Piece::Memory { .. } = piece {
                piece.pass(position, left, &mut |bytes| {
                    take(bytes);
                    count = bytes.len();
                })?;
            } else {
                let mut block = vec![0; left.min(BLOCK)];
                count = piece.read_at(position, &mut block)?;
                take(&block[..count]);
            }
            self.advance(count);
            left -= count;
        }
        Ok(())
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
        let pieces =
            [Piece::memory(b"ab"), Piece::File { file, offset: 2, length: 3 }, Piece::memory(b""), Piece::memory(b"f")];
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
