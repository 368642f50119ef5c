//! Output of a call that nginx has not taken: response headers, data in bounded memory, then in a bounded file.
//!
//! [`ResponseBuffer`] has the rules, [`SharedBuffer`] the lock between the thread of the call and the event loop.

use std::fs::File;
use std::sync::Arc;

use crate::conf::location::Buffering;
use crate::nginx::file::FilePart;
use crate::nginx::request::output::{OutputParts, SentCounts};
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::wsgi::headers::ResponseHeaders;
use crate::wsgi::transport::{Disconnected, End, Suspended};

/// Output that the thread of the call adds and the event loop takes.
///
/// Open until the end of the body is known or the client leaves; closed together with the call:
///
/// ```text
///          end()          close_call()
///   open ────────▶ ended ──────────────▶ closed
///     │              │                      ▲
///     └── disconnect() ──▶ disconnected ────┘ close_call()
/// ```
pub struct ResponseBuffer {
    buffering: Arc<Buffering>,
    headers: Option<ResponseHeaders>,
    data: Vec<u8>,
    spill: Option<Spill>,
    /// The temporary file failed and takes no more data.
    spill_failed: bool,
    /// File of the application that is the rest of the body.
    app_file: Option<FilePart>,
    /// Bytes of memory, and parts of files, that nginx has and has not sent.
    in_flight: SentCounts,
    end: Option<End>,
    call_closed: bool,
    /// Call that resumes when its file has been sent.
    suspended: Option<Box<dyn Suspended>>,
    /// The event loop takes no more output.
    disconnected: bool,
    /// The event loop has been notified and has not taken a batch since.
    notified: bool,
    gathering: Gathering,
    /// Small chunks are joined before the event loop is notified.
    joins: bool,
    /// The client gets a body after the headers; `None` until nginx has the headers.
    body_wanted: Option<bool>,
}

/// Data beyond the memory bound, in an unlinked temporary file.
struct Spill {
    file: Arc<File>,
    /// Ends of the parts that nginx has taken and that have been written.
    taken: u64,
    written: u64,
}

/// State of gathering: the body is taken only when it is complete, as nginx can cut several ranges out of a single
/// buffer only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gathering {
    No,
    InMemory,
    InFile,
}

/// Output that the event loop takes at once.
#[derive(Default)]
pub struct SendBatch {
    pub headers: Option<ResponseHeaders>,
    pub parts: OutputParts,
    /// `parts` has a file of the application.
    pub has_app_file: bool,
    /// `parts` is the complete body in one piece.
    pub is_whole: bool,
    /// End of the response, if no data follows.
    pub end: Option<End>,
    pub call_closed: bool,
    pub suspended: Option<Box<dyn Suspended>>,
}

/// Position in the temporary file for the next data.
pub struct SpillPlace {
    /// The file, if it exists already.
    pub file: Option<Arc<File>>,
    pub offset: u64,
    /// Bytes that are left of `wsgi_max_temp_file_size`.
    pub room: u64,
}

impl ResponseBuffer {
    /// Creates an empty buffer with the limits of `buffering`.
    pub fn new(buffering: Arc<Buffering>) -> Self {
        Self {
            headers: None,
            data: Vec::new(),
            spill: None,
            spill_failed: false,
            app_file: None,
            in_flight: SentCounts::default(),
            end: None,
            call_closed: false,
            suspended: None,
            disconnected: false,
            notified: false,
            gathering: Gathering::No,
            joins: buffering.join,
            body_wanted: None,
            buffering,
        }
    }

    /// Sets the headers. With `gather` the body is kept until it is complete, if the buffer has room for all of it.
    pub fn set_headers(&mut self, headers: ResponseHeaders, gather: bool) {
        self.gathering = match headers.content_length {
            Some(length) if gather && length <= self.buffering.memory as u64 => Gathering::InMemory,
            Some(length) if gather && length <= self.buffering.file => Gathering::InFile,
            _ => Gathering::No,
        };
        match headers.header("x-accel-buffering") {
            Some(value) if value.eq_ignore_ascii_case(b"yes") => self.joins = true,
            Some(value) if value.eq_ignore_ascii_case(b"no") => self.joins = false,
            _ => {}
        }
        self.headers = Some(headers);
    }

    /// Returns true if the data should be joined with more before nginx gets it.
    pub fn joins_more(&self) -> bool {
        self.joins && self.room() > 0
    }

    /// Sets whether the client gets a body.
    pub fn set_body_wanted(&mut self, wanted: bool) {
        self.body_wanted = Some(wanted);
    }

    /// Returns whether the client gets a body, if that is known. While the body is gathered, true is assumed.
    pub fn is_body_wanted(&self) -> Option<bool> {
        match self.gathering {
            _ if self.disconnected => Some(false),
            Gathering::No => self.body_wanted,
            Gathering::InMemory | Gathering::InFile => Some(true),
        }
    }

    /// Returns true after [`ResponseBuffer::disconnect`].
    pub fn is_disconnected(&self) -> bool {
        self.disconnected
    }

    /// Returns true if data may be pushed: the response is neither disconnected nor ended. (Another thread of the
    /// application may try.)
    pub fn is_open(&self) -> bool {
        !self.disconnected && self.end.is_none()
    }

    /// Discards all output, now and later. Returns the suspended call.
    pub fn disconnect(&mut self) -> Option<Box<dyn Suspended>> {
        self.disconnected = true;
        self.headers = None;
        self.data = Vec::new();
        self.spill = None;
        self.app_file = None;
        self.suspended.take()
    }

    /// Returns the number of bytes that memory has room for.
    pub fn room(&self) -> usize {
        if self.has_untaken_file() || self.gathering == Gathering::InFile {
            0
        } else {
            self.buffering.memory.saturating_sub(self.data.len() + self.in_flight.memory)
        }
    }

    /// Returns true if neither memory nor the temporary file has room.
    pub fn is_full(&self) -> bool {
        self.room() == 0 && self.spill_room() == 0
    }

    fn has_untaken_file(&self) -> bool {
        self.app_file.is_some() || self.spill.as_ref().is_some_and(|spill| spill.taken < spill.written)
    }

    fn is_gathering(&self) -> bool {
        self.gathering != Gathering::No && self.end.is_none() && !self.call_closed
    }

    /// Returns true if the event loop can take data.
    pub fn has_data(&self) -> bool {
        !self.is_gathering() && (!self.data.is_empty() || self.has_untaken_file())
    }

    /// Returns the number of bytes in memory.
    pub fn waiting(&self) -> usize {
        self.data.len()
    }

    /// Copies as much of `data` as memory has room for. Returns the number of bytes.
    pub fn push(&mut self, data: &[u8]) -> usize {
        let count = data.len().min(self.room());
        if self.data.is_empty() {
            // Often the only piece: its memory gets the right size.
            self.data = data[..count].to_vec();
        } else {
            self.data.extend_from_slice(&data[..count]);
        }
        count
    }

    fn spill_room(&self) -> u64 {
        let written = self.spill.as_ref().map_or(0, |spill| spill.written);
        if self.spill_failed { 0 } else { self.buffering.file.saturating_sub(written) }
    }

    /// Returns the position in the temporary file. One thread at a time writes there.
    pub fn spill_place(&self) -> SpillPlace {
        SpillPlace {
            file: self.spill.as_ref().map(|spill| spill.file.clone()),
            offset: self.spill.as_ref().map_or(0, |spill| spill.written),
            room: self.spill_room(),
        }
    }

    /// Adds `count` bytes that were written to `file` at `offset`.
    pub fn spilled(&mut self, file: Arc<File>, offset: u64, count: u64) {
        // Meanwhile all earlier data may have been sent, and the file dropped.
        let spill = self.spill.get_or_insert(Spill { file, taken: offset, written: offset });
        spill.written += count;
    }

    /// Notes that the temporary file cannot be used; more data waits for the client instead.
    pub fn spill_failed(&mut self) {
        self.spill_failed = true;
        self.gathering = Gathering::No;
    }

    /// Sets a file as the rest of the body, which is complete with the file if `is_last`; `call` resumes when the file
    /// has been sent.
    ///
    /// # Errors
    /// The call, if the buffer is disconnected.
    pub fn set_file(
        &mut self,
        file: FilePart,
        is_last: bool,
        call: Box<dyn Suspended>,
    ) -> Result<(), Box<dyn Suspended>> {
        if self.disconnected {
            return Err(call);
        }
        self.app_file = Some(file);
        self.suspended = Some(call);
        if !is_last {
            // The call resumes when the file has been sent, so the file cannot wait for the rest of the call.
            self.gathering = Gathering::No;
        }
        Ok(())
    }

    /// Sets the end of the body; only the first one counts. Returns true if this is the first.
    pub fn end(&mut self, end: End) -> bool {
        let is_first = self.end.is_none();
        self.end.get_or_insert(end);
        is_first
    }

    /// Marks the call as closed.
    pub fn close_call(&mut self) {
        self.call_closed = true;
    }

    /// Returns true if the application has not given the complete response.
    pub fn is_unfinished(&self) -> bool {
        self.end.is_none() && !self.call_closed && self.suspended.is_none()
    }

    /// Returns true after [`ResponseBuffer::close_call`].
    pub fn is_call_closed(&self) -> bool {
        self.call_closed
    }

    /// Marks the event loop as notified until it takes a batch. Returns false if it was already.
    pub fn mark_notified(&mut self) -> bool {
        !std::mem::replace(&mut self.notified, true)
    }

    /// Takes the output. While nginx is `busy` with earlier data, data stays here, unless the call is closed: then nginx
    /// gets all of it.
    pub fn take(&mut self, busy: bool) -> SendBatch {
        self.notified = false;
        if self.is_gathering() {
            return SendBatch::default();
        }
        if self.gathering != Gathering::No && self.end != Some(End::Complete) {
            // Nothing has been sent, so the client gets an error page instead of a part of the body.
            self.headers = None;
            self.data = Vec::new();
            self.spill = None;
        }
        let mut batch =
            SendBatch { headers: self.headers.take(), call_closed: self.call_closed, ..SendBatch::default() };
        batch.suspended = self.suspended.take();
        if !busy || (self.call_closed && self.end == Some(End::Complete)) {
            batch.parts.memory = std::mem::take(&mut self.data);
            self.in_flight.memory += batch.parts.memory.len();
            batch.parts.file = self.take_spill();
            if batch.parts.file.is_none() {
                batch.parts.file = self.app_file.take();
                batch.has_app_file = batch.parts.file.is_some();
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

    /// Notes the output that nginx has sent.
    pub fn sent(&mut self, sent: SentCounts) {
        self.in_flight.memory = self.in_flight.memory.saturating_sub(sent.memory);
        self.in_flight.files = self.in_flight.files.saturating_sub(sent.files);
        if self.in_flight.files == 0 && !self.has_untaken_file() {
            // Frees the space on the disk.
            self.spill = None;
        }
    }
}

/// A response buffer under a lock.
pub struct SharedBuffer {
    buffer: Mutex<ResponseBuffer>,
    /// Signalled when the buffer has room again, when `body_wanted` is set, and when the buffer is disconnected.
    changed: Condvar,
}

impl SharedBuffer {
    /// Puts `buffer` under a lock.
    pub fn new(buffer: ResponseBuffer) -> Self {
        Self { buffer: Mutex::new(buffer), changed: Condvar::new() }
    }

    /// Locks the buffer. No thread waits for anything else while it holds the lock.
    pub fn lock(&self) -> MutexGuard<'_, ResponseBuffer> {
        self.buffer.lock()
    }

    /// Changes the buffer and wakes the threads that wait for a change.
    pub fn change<R>(&self, change: impl FnOnce(&mut ResponseBuffer) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until the buffer has room.
    ///
    /// # Errors
    /// The buffer takes no more data.
    pub fn wait_for_room(&self) -> Result<(), Disconnected> {
        self.wait(|buffer| match buffer.is_open() {
            true => (!buffer.is_full()).then_some(Ok(())),
            false => Some(Err(Disconnected)),
        })
    }

    /// Waits until it is known whether the client gets a body, and returns that.
    pub fn wait_until_body_is_wanted(&self) -> bool {
        self.wait(|buffer| buffer.is_body_wanted())
    }

    fn wait<R>(&self, until: impl Fn(&ResponseBuffer) -> Option<R>) -> R {
        let mut buffer = self.lock();
        loop {
            match until(&buffer) {
                Some(result) => return result,
                None => buffer = self.changed.wait(buffer),
            }
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

    /// Writes as the exchange does.
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
    fn data_beyond_the_limits_waits_for_room_and_stays_in_order() {
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
    fn the_end_follows_the_data() {
        let mut buffer = buffer();
        buffer.push(b"x");
        spill(&mut buffer, b"y");
        buffer.end(End::Complete);
        assert_eq!(buffer.take(true).end, None);
        let batch = buffer.take(false);
        assert_eq!((bytes(&batch.parts).as_slice(), batch.end), (&b"xy"[..], Some(End::Complete)));
    }

    #[test]
    fn no_data_is_accepted_after_the_end() {
        let mut ended = buffer();
        assert!(ended.is_open());
        ended.end(End::Complete);
        assert!(!ended.is_open());
        let mut given_up = buffer();
        drop(given_up.disconnect());
        assert!(!given_up.is_open());
    }

    #[test]
    fn the_output_of_a_closed_call_is_taken_at_once() {
        let mut buffer = buffer();
        buffer.push(b"x");
        spill(&mut buffer, b"y");
        buffer.end(End::Complete);
        buffer.close_call();
        let batch = buffer.take(true);
        assert_eq!((bytes(&batch.parts).as_slice(), batch.end), (&b"xy"[..], Some(End::Complete)));
    }

    #[test]
    fn a_gathered_body_that_fails_is_discarded() {
        for length in [MEMORY, MEMORY + 1] {
            let mut buffer = buffer();
            let mut headers = ResponseHeaders::new(b"200 OK").unwrap();
            headers.content_length = Some(length as u64);
            buffer.set_headers(headers, true);
            if buffer.push(b"z") == 0 {
                spill(&mut buffer, b"z");
            }
            buffer.end(End::Failed);
            let batch = buffer.take(false);
            assert!(batch.headers.is_none() && bytes(&batch.parts).is_empty() && batch.end == Some(End::Failed));
        }
    }

    #[test]
    fn a_gathered_body_comes_in_one_part() {
        for length in [MEMORY, MEMORY + 1] {
            let mut buffer = buffer();
            let mut headers = ResponseHeaders::new(b"200 OK").unwrap();
            headers.content_length = Some(length as u64);
            buffer.set_headers(headers, true);
            for _ in 0..length {
                let pushed = buffer.push(b"z");
                assert_eq!(pushed + if pushed == 0 { spill(&mut buffer, b"z") } else { 0 }, 1);
                let batch = buffer.take(false);
                assert!(batch.headers.is_none() && bytes(&batch.parts).is_empty() && !buffer.has_data());
            }
            buffer.end(End::Complete);
            let batch = buffer.take(false);
            assert!(batch.headers.is_some() && batch.is_whole && batch.end == Some(End::Complete));
            assert_eq!(bytes(&batch.parts).len(), length);
            assert!(batch.parts.memory.is_empty() || batch.parts.file.is_none());
        }
    }

    #[test]
    fn a_body_beyond_the_limits_is_not_gathered() {
        let mut buffer = buffer();
        let mut headers = ResponseHeaders::new(b"200 OK").unwrap();
        headers.content_length = Some(FILE + 1);
        buffer.set_headers(headers, true);
        buffer.push(b"z");
        let batch = buffer.take(false);
        assert!(batch.headers.is_some() && !batch.is_whole);
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::sync::mpsc;
    use loom::thread;

    use super::*;
    use crate::conf::location::Buffering;
    use crate::nginx::request::output::SentCounts;
    use crate::wsgi::transport::End;

    const DATA: &[u8] = b"abc";

    /// Runs the thread of a call, which sends `DATA` through two bytes of memory, and the event loop, which disconnects
    /// after this number of batches, in every order. The response `ends_with_data`, or later, with the call.
    fn model(disconnect_after: usize, ends_with_data: bool) {
        loom::model(move || {
            let buffering = Buffering { memory: 2, ..Buffering::default() };
            let shared = Arc::new(SharedBuffer::new(ResponseBuffer::new(Arc::new(buffering))));
            let (notify, messages) = mpsc::channel();
            let call = thread::spawn({
                let shared = shared.clone();
                move || {
                    // The end of the call is always notified.
                    let given = give(&shared, &notify, ends_with_data);
                    let mut buffer = shared.lock();
                    let is_first = buffer.end(if given.is_ok() { End::Complete } else { End::Failed });
                    assert!(is_first != (ends_with_data && given.is_ok()));
                    buffer.close_call();
                    if buffer.mark_notified() {
                        notify.send(()).unwrap();
                    }
                    given
                }
            });
            let (mut got, mut end, mut batches) = (Vec::new(), None, 0);
            loop {
                messages.recv().unwrap();
                let batch = shared.lock().take(false);
                batches += 1;
                got.extend_from_slice(&batch.parts.memory);
                end = end.or(batch.end);
                if batch.call_closed {
                    break;
                }
                let sent = SentCounts { memory: batch.parts.memory.len(), files: 0 };
                shared.change(|buffer| buffer.sent(sent));
                if batches == disconnect_after {
                    drop(shared.change(ResponseBuffer::disconnect));
                }
            }
            match call.join().unwrap() {
                Ok(()) => assert!(end == Some(End::Complete) && (got == DATA || batches > disconnect_after)),
                Err(Disconnected) => assert!(batches > disconnect_after && DATA.starts_with(&got)),
            }
        });
    }

    fn give(shared: &SharedBuffer, notify: &mpsc::Sender<()>, ends_with_data: bool) -> Result<(), Disconnected> {
        let mut rest = DATA;
        while !rest.is_empty() {
            let mut buffer = shared.lock();
            if buffer.is_disconnected() {
                return Err(Disconnected);
            }
            rest = &rest[buffer.push(rest)..];
            if rest.is_empty() && ends_with_data {
                buffer.end(End::Complete);
            }
            let tell = buffer.mark_notified();
            drop(buffer);
            if tell {
                notify.send(()).unwrap();
            }
            if !rest.is_empty() {
                shared.wait_for_room()?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_response_arrives_whole_and_ends() {
        model(usize::MAX, false);
        model(usize::MAX, true);
    }

    #[test]
    fn the_call_of_a_disconnected_client_ends() {
        for batches in 1..=2 {
            model(batches, false);
            model(batches, true);
        }
    }

    #[test]
    fn a_waiting_thread_learns_if_a_body_is_wanted() {
        for disconnects in [false, true] {
            loom::model(move || {
                let shared = Arc::new(SharedBuffer::new(ResponseBuffer::new(Arc::default())));
                let call = thread::spawn({
                    let shared = shared.clone();
                    move || shared.wait_until_body_is_wanted()
                });
                if disconnects {
                    drop(shared.change(ResponseBuffer::disconnect));
                } else {
                    shared.change(|buffer| buffer.set_body_wanted(true));
                }
                assert_eq!(call.join().unwrap(), !disconnects);
            });
        }
    }
}
