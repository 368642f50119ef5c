//! What an answer holds between the application and nginx: a head, data in bounded memory, then in a file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::wsgi::exchange::End;
use crate::wsgi::head::ResponseHead;

/// The side of an answer that the application's thread fills and the event loop empties.
#[derive(Default)]
pub struct Outgoing {
    head: Option<ResponseHead>,
    data: Vec<u8>,
    overflow: Option<Overflow>,
    /// Bytes that nginx has taken and not sent.
    in_flight: usize,
    end: Option<End>,
    closed: bool,
    /// Nobody takes the answer any more.
    disconnected: bool,
    /// The event loop has been told that there is something to take.
    announced: bool,
}

/// Data beyond the memory bound, in an unlinked temporary file.
struct Overflow {
    file: File,
    read: u64,
    written: u64,
}

/// What the event loop takes at once.
#[derive(Debug, Default)]
pub struct Batch {
    pub head: Option<ResponseHead>,
    pub data: Vec<u8>,
    /// How the answer ended, if nothing follows this data.
    pub end: Option<End>,
    pub closed: bool,
}

/// What an answer may hold in memory.
pub const LIMIT: usize = 64 * 1024;

impl Outgoing {
    /// Sets the head.
    pub fn set_head(&mut self, head: ResponseHead) {
        self.head = Some(head);
    }

    /// Whether the answer is given up.
    pub fn is_disconnected(&self) -> bool {
        self.disconnected
    }

    /// Gives the answer up: nothing of it is taken any more.
    pub fn disconnect(&mut self) {
        *self = Self { disconnected: true, closed: self.closed, end: self.end, ..Self::default() };
    }

    /// How many bytes there is room for.
    pub fn room(&self) -> usize {
        if self.overflow.is_some() { 0 } else { LIMIT.saturating_sub(self.data.len() + self.in_flight) }
    }

    /// Whether there is data to take that nginx could send now.
    pub fn has_data(&self) -> bool {
        !self.data.is_empty() || self.overflow.is_some()
    }

    /// Takes as much of `data` as there is room for.
    pub fn push(&mut self, data: &[u8]) -> usize {
        let count = data.len().min(self.room());
        self.data.extend_from_slice(&data[..count]);
        count
    }

    /// Takes all of `data`, what is too much for the memory into a file in `directory`.
    ///
    /// # Errors
    /// When the file cannot be made or written.
    pub fn push_all(&mut self, data: &[u8], directory: &Path) -> io::Result<()> {
        let rest = &data[self.push(data)..];
        if rest.is_empty() {
            return Ok(());
        }
        if self.overflow.is_none() {
            let file = tempfile::tempfile_in(directory)?;
            self.overflow = Some(Overflow { file, read: 0, written: 0 });
        }
        if let Some(overflow) = &mut self.overflow {
            overflow.file.write_all_at(rest, overflow.written)?;
            overflow.written += rest.len() as u64;
        }
        Ok(())
    }

    /// Notes the end; only the first counts.
    pub fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    /// Notes that the call is over.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether the event loop has to be told now; it is told once until it takes a batch.
    pub fn announce(&mut self) -> bool {
        !std::mem::replace(&mut self.announced, true)
    }

    /// What there is. While nginx is `busy` with earlier data, more of it gathers here.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn take(&mut self, busy: bool) -> io::Result<Batch> {
        self.announced = false;
        let mut batch = Batch { head: self.head.take(), closed: self.closed, ..Batch::default() };
        if !busy {
            if self.data.is_empty() {
                self.refill()?;
            }
            batch.data = std::mem::take(&mut self.data);
            self.in_flight += batch.data.len();
        }
        if self.data.is_empty() && self.overflow.is_none() {
            batch.end = self.end;
        }
        Ok(batch)
    }

    fn refill(&mut self) -> io::Result<()> {
        let Some(overflow) = &mut self.overflow else {
            return Ok(());
        };
        let count = (overflow.written - overflow.read).min(LIMIT as u64) as usize;
        let mut data = vec![0; count];
        overflow.file.read_exact_at(&mut data, overflow.read)?;
        overflow.read += count as u64;
        if overflow.read == overflow.written {
            self.overflow = None;
        }
        self.data = data;
        Ok(())
    }

    /// nginx has sent this many bytes.
    pub fn sent(&mut self, count: usize) {
        self.in_flight = self.in_flight.saturating_sub(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_and_counts_what_nginx_holds() {
        let mut outgoing = Outgoing::default();
        let data = vec![7; LIMIT + 1];
        assert_eq!(outgoing.push(&data), LIMIT);
        assert_eq!(outgoing.take(false).unwrap().data.len(), LIMIT);
        assert_eq!(outgoing.push(&data), 0);
        outgoing.sent(10);
        assert_eq!(outgoing.push(&data), 10);
    }

    #[test]
    fn data_beyond_the_bound_comes_back_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let mut outgoing = Outgoing::default();
        let data: Vec<u8> = (0..3 * LIMIT + 5).map(|index| (index % 251) as u8).collect();
        for part in data.chunks(LIMIT / 3) {
            outgoing.push_all(part, directory.path()).unwrap();
        }
        outgoing.end(End::Complete);
        let mut got = Vec::new();
        loop {
            let batch = outgoing.take(false).unwrap();
            assert!(batch.data.len() <= LIMIT);
            outgoing.sent(batch.data.len());
            got.extend_from_slice(&batch.data);
            if batch.end.is_some() {
                break;
            }
        }
        assert!(got == data);
        assert_eq!(outgoing.room(), LIMIT);
    }

    #[test]
    fn the_end_waits_for_the_data_before_it() {
        let mut outgoing = Outgoing::default();
        outgoing.push(b"x");
        outgoing.end(End::Complete);
        assert_eq!(outgoing.take(true).unwrap().end, None);
        let batch = outgoing.take(false).unwrap();
        assert_eq!((batch.data.as_slice(), batch.end), (&b"x"[..], Some(End::Complete)));
    }
}
