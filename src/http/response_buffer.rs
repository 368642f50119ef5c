//! What an answer holds between the application and nginx: a head, data in bounded memory, then in a bounded file.

use std::fs::File;
use std::sync::Arc;

use crate::conf::location::Buffering;
use crate::nginx::request::output::{FilePart, OutputParts, SentCounts};
use crate::wsgi::headers::ResponseHeaders;
use crate::wsgi::transport::{End, Suspended};

/// The side of an answer that the application's thread fills and the event loop empties.
pub struct ResponseBuffer {
    buffering: Arc<Buffering>,
    head: Option<ResponseHeaders>,
    data: Vec<u8>,
    spill: Option<Spill>,
    /// The temporary file failed; there is no room in it any more.
    spill_failed: bool,
    /// A file of the application that is the rest of the body.
    document: Option<FilePart>,
    /// Bytes of memory, and parts of files, that nginx has taken and not sent.
    in_flight: SentCounts,
    end: Option<End>,
    closed: bool,
    /// A call that goes on when what it gave has been sent.
    suspended: Option<Box<dyn Suspended>>,
    /// Nobody takes the answer any more.
    disconnected: bool,
    /// The event loop has been told that there is something to take.
    announced: bool,
    gathering: Gathering,
    /// Whether small chunks are joined before the event loop is told.
    joins: bool,
    /// Whether the client gets a body after the head, once nginx has said so.
    body_wanted: Option<bool>,
}

/// Data beyond the memory bound, in an unlinked temporary file.
struct Spill {
    file: Arc<File>,
    /// What nginx has been given of it, and what has been written to it.
    taken: u64,
    written: u64,
}

/// Whether nothing is taken before all is there: nginx cuts several ranges out of a single buffer only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gathering {
    No,
    InMemory,
    InFile,
}

/// What the event loop takes at once.
#[derive(Default)]
pub struct SendBatch {
    pub head: Option<ResponseHeaders>,
    pub parts: OutputParts,
    /// Whether `parts` has a file of the application.
    pub is_document: bool,
    /// Whether `parts` is the body in one piece.
    pub is_whole: bool,
    /// How the answer ended, if nothing follows this data.
    pub end: Option<End>,
    pub closed: bool,
    pub suspended: Option<Box<dyn Suspended>>,
}

/// Where the next data goes that memory has no room for.
pub struct SpillPlace {
    /// The file, if there is one already.
    pub file: Option<Arc<File>>,
    pub offset: u64,
    /// How much of `wsgi_max_temp_file_size` is left.
    pub room: u64,
}

impl ResponseBuffer {
    /// An answer that may hold what `buffering` says.
    pub fn new(buffering: Arc<Buffering>) -> Self {
        Self {
            head: None,
            data: Vec::new(),
            spill: None,
            spill_failed: false,
            document: None,
            in_flight: SentCounts::default(),
            end: None,
            closed: false,
            suspended: None,
            disconnected: false,
            announced: false,
            gathering: Gathering::No,
            joins: buffering.join,
            body_wanted: None,
            buffering,
        }
    }

    /// Sets the head. With `gather` the body is kept until it is complete, where there is room for all of it.
    pub fn set_head(&mut self, head: ResponseHeaders, gather: bool) {
        self.gathering = match head.content_length {
            Some(length) if gather && length <= self.buffering.memory as u64 => Gathering::InMemory,
            Some(length) if gather && length <= self.buffering.file => Gathering::InFile,
            _ => Gathering::No,
        };
        match head.header("x-accel-buffering") {
            Some(value) if value.eq_ignore_ascii_case(b"yes") => self.joins = true,
            Some(value) if value.eq_ignore_ascii_case(b"no") => self.joins = false,
            _ => {}
        }
        self.head = Some(head);
    }

    /// Whether the data that waits is to be joined with more before it goes.
    pub fn joins_more(&self) -> bool {
        self.joins && self.room() > 0
    }

    /// Notes whether the client gets a body.
    pub fn set_body_wanted(&mut self, wanted: bool) {
        self.body_wanted = Some(wanted);
    }

    /// Whether the client gets a body, if that is known; it is assumed where the head is kept back.
    pub fn is_body_wanted(&self) -> Option<bool> {
        match self.gathering {
            _ if self.disconnected => Some(false),
            Gathering::No => self.body_wanted,
            Gathering::InMemory | Gathering::InFile => Some(true),
        }
    }

    /// Whether the answer is given up.
    pub fn is_disconnected(&self) -> bool {
        self.disconnected
    }

    /// Whether data may still be pushed: the answer is neither given up nor has it ended, as another thread of the
    /// application may not know.
    pub fn is_open(&self) -> bool {
        !self.disconnected && self.end.is_none()
    }

    /// Gives the answer up: nothing of it is taken any more. Returns the call that waited for it.
    pub fn disconnect(&mut self) -> Option<Box<dyn Suspended>> {
        self.disconnected = true;
        self.head = None;
        self.data = Vec::new();
        self.spill = None;
        self.document = None;
        self.suspended.take()
    }

    /// How many bytes there is room for in memory.
    pub fn room(&self) -> usize {
        if self.has_untaken_file() || self.gathering == Gathering::InFile {
            0
        } else {
            self.buffering.memory.saturating_sub(self.data.len() + self.in_flight.memory)
        }
    }

    /// Whether nothing more can be taken from the application now.
    pub fn is_full(&self) -> bool {
        self.room() == 0 && self.spill_room() == 0
    }

    fn has_untaken_file(&self) -> bool {
        self.document.is_some() || self.spill.as_ref().is_some_and(|spill| spill.taken < spill.written)
    }

    fn is_gathering(&self) -> bool {
        self.gathering != Gathering::No && self.end.is_none() && !self.closed
    }

    /// Whether there is data to take that nginx could send now.
    pub fn has_data(&self) -> bool {
        !self.is_gathering() && (!self.data.is_empty() || self.has_untaken_file())
    }

    /// Bytes that wait in memory to be taken.
    pub fn waiting(&self) -> usize {
        self.data.len()
    }

    /// Takes as much of `data` as there is room for.
    pub fn push(&mut self, data: &[u8]) -> usize {
        let count = data.len().min(self.room());
        self.data.extend_from_slice(&data[..count]);
        count
    }

    fn spill_room(&self) -> u64 {
        let written = self.spill.as_ref().map_or(0, |spill| spill.written);
        if self.spill_failed { 0 } else { self.buffering.file.saturating_sub(written) }
    }

    /// Where data goes that memory has no room for. One thread at a time writes there.
    pub fn spill_place(&self) -> SpillPlace {
        SpillPlace {
            file: self.spill.as_ref().map(|spill| spill.file.clone()),
            offset: self.spill.as_ref().map_or(0, |spill| spill.written),
            room: self.spill_room(),
        }
    }

    /// `count` bytes stand in `file` from `offset` on.
    pub fn spilled(&mut self, file: Arc<File>, offset: u64, count: u64) {
        // All that was there before may have been sent, and the file forgotten, meanwhile.
        let spill = self.spill.get_or_insert(Spill { file, taken: offset, written: offset });
        spill.written += count;
    }

    /// The temporary file cannot be used; what comes waits for the client instead.
    pub fn spill_failed(&mut self) {
        self.spill_failed = true;
        self.gathering = Gathering::No;
    }

    /// Sets a file as the rest of the body, which is complete with it if it `is_last`; `call` goes on when it has been
    /// sent.
    ///
    /// # Errors
    /// The call, when nobody takes the answer any more.
    pub fn set_document(
        &mut self,
        document: FilePart,
        is_last: bool,
        call: Box<dyn Suspended>,
    ) -> Result<(), Box<dyn Suspended>> {
        if self.disconnected {
            return Err(call);
        }
        self.document = Some(document);
        self.suspended = Some(call);
        if !is_last {
            // The call goes on when the file has been sent, so it cannot wait for the call.
            self.gathering = Gathering::No;
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

    /// Whether more of the answer is to come from the application.
    pub fn is_unfinished(&self) -> bool {
        self.end.is_none() && !self.closed && self.suspended.is_none()
    }

    /// Whether the call is over.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether the event loop has to be told now; it is told once until it takes a batch.
    pub fn notify(&mut self) -> bool {
        !std::mem::replace(&mut self.announced, true)
    }

    /// What there is. While nginx is `busy` with earlier data, more of it gathers here, unless that is all of it: then it
    /// is nginx's to send, and nothing of the call is left.
    pub fn take(&mut self, busy: bool) -> SendBatch {
        self.announced = false;
        if self.is_gathering() {
            return SendBatch::default();
        }
        if self.gathering != Gathering::No && self.end != Some(End::Complete) {
            // Nothing is out yet, so the client gets an error page and not what there is.
            self.head = None;
            self.data = Vec::new();
            self.spill = None;
        }
        let mut batch = SendBatch { head: self.head.take(), closed: self.closed, ..SendBatch::default() };
        batch.suspended = self.suspended.take();
        if !busy || (self.closed && self.end == Some(End::Complete)) {
            batch.parts.memory = std::mem::take(&mut self.data);
            self.in_flight.memory += batch.parts.memory.len();
            batch.parts.file = self.take_spill();
            if batch.parts.file.is_none() {
                batch.parts.file = self.document.take();
                batch.is_document = batch.parts.file.is_some();
            }
            self.in_flight.files += usize::from(batch.parts.file.is_some());
        }
        if self.data.is_empty() && !self.has_untaken_file() {
            batch.end = self.end;
            batch.is_whole =
                self.gathering != Gathering::No && (batch.parts.memory.is_empty() || batch.parts.file.is_none());
        }
        batch
    }

    fn take_spill(&mut self) -> Option<FilePart> {
        let spill = self.spill.as_mut().filter(|spill| spill.taken < spill.written)?;
        let offset = std::mem::replace(&mut spill.taken, spill.written);
        Some(FilePart { file: spill.file.clone(), offset, length: spill.written - offset, direct: false })
    }

    /// nginx has sent this much.
    pub fn sent(&mut self, sent: SentCounts) {
        self.in_flight.memory = self.in_flight.memory.saturating_sub(sent.memory);
        self.in_flight.files = self.in_flight.files.saturating_sub(sent.files);
        if self.in_flight.files == 0 && !self.has_untaken_file() {
            // The space on the disk is given back.
            self.spill = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const MEMORY: usize = 100;
    const FILE: u64 = 1000;

    fn buffer() -> ResponseBuffer {
        ResponseBuffer::new(Arc::new(Buffering { memory: MEMORY, file: FILE, ..Buffering::default() }))
    }

    fn memory(count: usize) -> SentCounts {
        SentCounts { memory: count, files: 0 }
    }

    /// As the exchange does it.
    fn spill(buffer: &mut ResponseBuffer, data: &[u8]) -> usize {
        let place = buffer.spill_place();
        let count = data.len().min(place.room as usize);
        let file = place.file.unwrap_or_else(|| Arc::new(tempfile::tempfile().unwrap()));
        file.write_all_at(&data[..count], place.offset).unwrap();
        buffer.spilled(file, place.offset, count as u64);
        count
    }

    fn bytes(parts: &OutputParts) -> Vec<u8> {
        let mut all = parts.memory.clone();
        if let Some(part) = &parts.file {
            let mut bytes = vec![0; part.length as usize];
            part.file.read_exact_at(&mut bytes, part.offset).unwrap();
            all.extend(bytes);
        }
        all
    }

    #[test]
    fn memory_is_bounded_and_counts_what_nginx_holds() {
        let mut buffer = buffer();
        let data = [7; MEMORY + 1];
        assert_eq!(buffer.push(&data), MEMORY);
        assert_eq!(buffer.take(false).parts.memory.len(), MEMORY);
        assert_eq!(buffer.push(&data), 0);
        buffer.sent(memory(10));
        assert_eq!(buffer.push(&data), 10);
    }

    #[test]
    fn data_beyond_the_bounds_comes_back_in_order_and_waits_for_room() {
        let mut buffer = buffer();
        let data: Vec<u8> = (0..5 * FILE).map(|index| (index % 251) as u8).collect();
        let (mut given, mut got) = (0, Vec::new());
        while got.len() < data.len() {
            while given < data.len() && !buffer.is_full() {
                let piece = &data[given..data.len().min(given + 37)];
                let pushed = buffer.push(piece);
                given += pushed + spill(&mut buffer, &piece[pushed..]);
            }
            assert!(given - got.len() <= 2 * MEMORY + FILE as usize);
            let batch = buffer.take(false);
            got.extend(bytes(&batch.parts));
            let files = usize::from(batch.parts.file.is_some());
            buffer.sent(SentCounts { memory: batch.parts.memory.len(), files });
        }
        assert!(got == data);
        assert_eq!((buffer.room(), buffer.spill_place().offset), (MEMORY, 0));
    }

    #[test]
    fn the_end_waits_for_the_data_before_it() {
        let mut buffer = buffer();
        buffer.push(b"x");
        spill(&mut buffer, b"y");
        buffer.end(End::Complete);
        assert_eq!(buffer.take(true).end, None);
        let batch = buffer.take(false);
        assert_eq!((bytes(&batch.parts).as_slice(), batch.end), (&b"xy"[..], Some(End::Complete)));
    }

    #[test]
    fn nothing_is_taken_from_the_application_after_the_end() {
        let mut ended = buffer();
        assert!(ended.is_open());
        ended.end(End::Complete);
        assert!(!ended.is_open());
        let mut given_up = buffer();
        drop(given_up.disconnect());
        assert!(!given_up.is_open());
    }

    #[test]
    fn all_of_an_answer_that_is_over_is_taken_at_once() {
        let mut buffer = buffer();
        buffer.push(b"x");
        spill(&mut buffer, b"y");
        buffer.end(End::Complete);
        buffer.close();
        let batch = buffer.take(true);
        assert_eq!((bytes(&batch.parts).as_slice(), batch.end), (&b"xy"[..], Some(End::Complete)));
    }

    #[test]
    fn a_gathered_body_that_fails_is_none() {
        for length in [MEMORY, MEMORY + 1] {
            let mut buffer = buffer();
            let mut head = ResponseHeaders::new(b"200 OK").unwrap();
            head.content_length = Some(length as u64);
            buffer.set_head(head, true);
            if buffer.push(b"z") == 0 {
                spill(&mut buffer, b"z");
            }
            buffer.end(End::Failed);
            let batch = buffer.take(false);
            assert!(batch.head.is_none() && bytes(&batch.parts).is_empty() && batch.end == Some(End::Failed));
        }
    }

    #[test]
    fn a_gathered_body_comes_in_one_part() {
        for length in [MEMORY, MEMORY + 1] {
            let mut buffer = buffer();
            let mut head = ResponseHeaders::new(b"200 OK").unwrap();
            head.content_length = Some(length as u64);
            buffer.set_head(head, true);
            for _ in 0..length {
                let pushed = buffer.push(b"z");
                assert_eq!(pushed + if pushed == 0 { spill(&mut buffer, b"z") } else { 0 }, 1);
                let batch = buffer.take(false);
                assert!(batch.head.is_none() && bytes(&batch.parts).is_empty() && !buffer.has_data());
            }
            buffer.end(End::Complete);
            let batch = buffer.take(false);
            assert!(batch.head.is_some() && batch.is_whole && batch.end == Some(End::Complete));
            assert_eq!(bytes(&batch.parts).len(), length);
            assert!(batch.parts.memory.is_empty() || batch.parts.file.is_none());
        }
    }

    #[test]
    fn a_body_that_is_too_much_to_gather_is_not() {
        let mut buffer = buffer();
        let mut head = ResponseHeaders::new(b"200 OK").unwrap();
        head.content_length = Some(FILE + 1);
        buffer.set_head(head, true);
        buffer.push(b"z");
        let batch = buffer.take(false);
        assert!(batch.head.is_some() && !batch.is_whole);
    }
}
