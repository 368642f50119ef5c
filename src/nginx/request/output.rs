//! Response body: buffers for nginx's filters, with the memory and files behind them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Arc;

use super::{Request, Status, file_alerts};
use crate::nginx::file::{self, FilePart};
use crate::nginx::log::Level;
use crate::nginx::sys;

/// Input of one call of nginx's filters: bytes, then a part of a file.
#[derive(Debug, Default)]
pub struct OutputParts {
    pub memory: Vec<u8>,
    pub file: Option<FilePart>,
}

impl OutputParts {
    /// Returns the number of bytes.
    pub fn length(&self) -> u64 {
        self.memory.len() as u64 + self.file.as_ref().map_or(0, |file| file.length)
    }
}

/// Amount of output that nginx has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentCounts {
    /// Number of bytes from memory.
    pub memory: usize,
    /// Number of parts of files that were sent completely.
    pub files: usize,
}

/// Output of one request: the buffers that nginx has not sent completely, and free ones.
pub struct Output {
    chains: RefCell<Chains>,
}

struct Chains {
    free: *mut sys::ngx_chain_t,
    busy: *mut sys::ngx_chain_t,
    /// Content of the busy buffers, in their order.
    contents: VecDeque<Content>,
    /// Content of the last buffer, if it was passed alone.
    last: Vec<u8>,
    /// True once nginx has read less from a file than it was to send.
    is_short: bool,
}

/// Content of a buffer, kept as long as nginx uses the buffer.
enum Content {
    Memory(Vec<u8>),
    File {
        /// File of the descriptor in `description`.
        file: Arc<File>,
        _description: Box<sys::ngx_file_t>,
        /// Offset of the end of the part.
        end: u64,
    },
}

impl Default for Output {
    fn default() -> Self {
        let (free, busy) = (ptr::null_mut(), ptr::null_mut());
        let chains = Chains { free, busy, contents: VecDeque::new(), last: Vec::new(), is_short: false };
        Self { chains: RefCell::new(chains) }
    }
}

impl Output {
    /// Passes `parts` to nginx, to be sent without delay; `last` ends the body. Returns the amount sent.
    ///
    /// # Errors
    /// The status to finalize the request with.
    pub fn send(&self, request: Request, parts: OutputParts, last: bool) -> Result<SentCounts, Status> {
        let OutputParts { memory, file } = parts;
        if memory.is_empty() && file.is_none() && !last {
            return self.flush(request);
        }
        request.read_files_at_once();
        let mut chains = self.chains.borrow_mut();
        if last && file.is_none() && chains.contents.is_empty() {
            chains.send_last(request, memory)?;
            return Ok(SentCounts::default());
        }
        // SAFETY: the links and their buffers are of the request's pool. The content of a buffer moves to `contents`, which
        // does not move blocks on the heap, and stays there until nginx has consumed the buffer or the pool is destroyed.
        unsafe {
            let mut first = ptr::null_mut();
            let mut end = ptr::null_mut();
            if !memory.is_empty() || file.is_none() {
                end = chains.link(request)?;
                first = end;
                chains.contents.push_back(fill_memory(&mut *(*end).buf, memory));
            }
            if let Some(file) = file {
                let link = chains.link(request)?;
                chains.contents.push_back(fill_file(&mut *(*link).buf, file, request));
                if end.is_null() {
                    first = link
                } else {
                    (*end).next = link
                }
                end = link;
            }
            let buffer = &mut *(*end).buf;
            if last {
                mark_last(buffer, request);
            } else {
                buffer.set_flush(1);
            }
            chains.filter(request, first)
        }
    }

    /// Lets nginx send the data that it holds. Returns the amount sent.
    ///
    /// # Errors
    /// The status to finalize the request with.
    pub fn flush(&self, request: Request) -> Result<SentCounts, Status> {
        let mut chains = self.chains.borrow_mut();
        // With no data pending, nginx treats an empty chain as an error.
        if chains.busy.is_null() && !request.has_buffered() {
            return Ok(SentCounts::default());
        }
        // SAFETY: a live request. A null chain makes the filters send the data that they hold.
        unsafe { chains.filter(request, ptr::null_mut()) }
    }

    /// Returns whether nginx holds data of this output.
    pub fn is_busy(&self) -> bool {
        !self.chains.borrow().busy.is_null()
    }
}

impl Request {
    /// Sends the end of a response without a body.
    ///
    /// # Errors
    /// The status to finalize the request with.
    pub fn send_end(&self) -> Result<(), Status> {
        // SAFETY: a live request by the rule of the type.
        let result = unsafe { sys::ngx_http_send_special(self.as_ptr(), sys::NGX_HTTP_LAST as usize) };
        if result == Status::ERROR.0 { Err(Status::ERROR) } else { Ok(()) }
    }

    /// Makes nginx read files of this request when it gets them. To be called before the first output.
    ///
    /// An HTTP/2 connection without TLS sends the files of all its streams with `sendfile`, so nginx might read them later,
    /// on behalf of another request.
    fn read_files_at_once(&self) {
        if !self.get().stream.is_null() {
            // SAFETY: the connection of a stream belongs to its request.
            unsafe { (*self.get().connection).set_sendfile(0) };
        }
    }
}

impl Chains {
    /// Returns a link with an empty buffer.
    ///
    /// # Safety
    /// `request` is live, and the other links are of its pool.
    unsafe fn link(&mut self, request: Request) -> Result<*mut sys::ngx_chain_t, Status> {
        // SAFETY: as promised by the caller; link and buffer are of the pool or the free list.
        unsafe {
            let link = sys::ngx_chain_get_free_buf((*request.as_ptr()).pool, &mut self.free);
            if link.is_null() {
                return Err(Status::ERROR);
            }
            (*link).next = ptr::null_mut();
            (*link).buf.write(std::mem::zeroed());
            (*(*link).buf).tag = tag();
            Ok(link)
        }
    }

    /// Passes `memory`, the end of the body, to nginx when it holds nothing of the body: no more output follows, so the buffer
    /// needs none of the lists.
    fn send_last(&mut self, request: Request, memory: Vec<u8>) -> Result<(), Status> {
        // SAFETY: the buffer is of the request's pool, and its content stays in `last` until the pool is destroyed. As in
        // ngx_http_send_response, the link is needed during the call only: filters copy the links that they keep.
        let result = unsafe {
            let buffer =
                sys::ngx_palloc((*request.as_ptr()).pool, size_of::<sys::ngx_buf_t>()).cast::<sys::ngx_buf_t>();
            if buffer.is_null() {
                return Err(Status::ERROR);
            }
            buffer.write(std::mem::zeroed());
            self.last = memory;
            set_memory(&mut *buffer, &self.last);
            mark_last(&mut *buffer, request);
            let mut link = sys::ngx_chain_t { buf: buffer, next: ptr::null_mut() };
            sys::ngx_http_output_filter(request.as_ptr(), &mut link)
        };
        if result == Status::ERROR.0 { Err(Status::ERROR) } else { Ok(()) }
    }

    /// Passes `links` through nginx's filters. Returns the amount sent.
    ///
    /// # Safety
    /// `links` is null or a chain of buffers that stay valid while they are in `busy`.
    unsafe fn filter(&mut self, request: Request, mut links: *mut sys::ngx_chain_t) -> Result<SentCounts, Status> {
        // SAFETY: as promised by the caller. ngx_chain_update_chains moves consumed links from `busy` to `free`.
        unsafe {
            let result = if self.contents.iter().any(|content| matches!(content, Content::File { .. })) {
                let filter = || sys::ngx_http_output_filter(request.as_ptr(), links);
                let (result, has_alert) = file_alerts::suppress(request.connection().log, filter);
                self.is_short |= has_alert;
                result
            } else {
                sys::ngx_http_output_filter(request.as_ptr(), links)
            };
            if result == Status::ERROR.0 {
                self.log_short_file(request);
                return Err(Status::ERROR);
            }
            let pool = (*request.as_ptr()).pool;
            sys::ngx_chain_update_chains(pool, &mut self.free, &mut self.busy, &mut links, tag());
        }
        let mut busy = 0;
        let mut next = self.busy;
        while !next.is_null() {
            busy += 1;
            // SAFETY: a null-terminated chain.
            next = unsafe { (*next).next };
        }
        let consumed = self.contents.len() - busy;
        let mut sent = SentCounts::default();
        for content in self.contents.drain(..consumed) {
            match content {
                Content::Memory(bytes) => sent.memory += bytes.len(),
                Content::File { .. } => sent.files += 1,
            }
        }
        Ok(sent)
    }

    /// Logs the file that nginx could not send completely, if there is one.
    fn log_short_file(&self, request: Request) {
        if !self.is_short {
            return;
        }
        let files = self.contents.iter().filter_map(|content| match content {
            Content::File { file, end, .. } => Some((file, file.metadata().map_or(0, |metadata| metadata.len()), *end)),
            Content::Memory(_) => None,
        });
        // Files that have been sent are not in the list any more. One that is too short now is the likely cause.
        let Some((file, length, end)) = files.min_by_key(|(_, length, end)| length >= end) else { return };
        let name = file::name(file);
        let name = name.display();
        let cause = if length < end {
            format!("was truncated while it was sent: {length} bytes left, {end} expected")
        } else {
            "returned fewer bytes than its size while it was sent".to_owned()
        };
        request.log().write(Level::Error, &format!("file \"{name}\" of the application {cause}"));
    }
}

/// Makes `buffer` one of `bytes`, or an empty one.
fn fill_memory(buffer: &mut sys::ngx_buf_t, bytes: Vec<u8>) -> Content {
    set_memory(buffer, &bytes);
    Content::Memory(bytes)
}

/// Makes an empty `buffer` one of `bytes`, if there are any.
fn set_memory(buffer: &mut sys::ngx_buf_t, bytes: &[u8]) {
    if !bytes.is_empty() {
        let range = bytes.as_ptr_range();
        (buffer.start, buffer.end) = (range.start.cast_mut(), range.end.cast_mut());
        (buffer.pos, buffer.last) = (buffer.start, buffer.end);
        buffer.set_memory(1);
    }
}

/// Marks `buffer` as the end of the body.
fn mark_last(buffer: &mut sys::ngx_buf_t, request: Request) {
    buffer.set_last_buf(u32::from(request.is_main()));
    buffer.set_last_in_chain(1);
    // As in ngx_http_send_special: an empty buffer that is not the last of all needs a reason to exist.
    let is_empty = buffer.memory() == 0 && buffer.in_file() == 0;
    buffer.set_sync(u32::from(is_empty && !request.is_main()));
}

/// Makes `buffer` one of a part of a file, as ngx_http_static_handler does.
fn fill_file(buffer: &mut sys::ngx_buf_t, part: FilePart, request: Request) -> Content {
    // SAFETY: a plain C structure for which zeroes mean "not set".
    let mut description: Box<sys::ngx_file_t> = Box::new(unsafe { std::mem::zeroed() });
    description.fd = part.file.as_raw_fd();
    // Log records of nginx print the name up to its NUL.
    let name = file_alerts::NAME;
    description.name = sys::ngx_str_t { len: name.count_bytes(), data: name.as_ptr().cast_mut().cast() };
    // The log of the connection lives as long as the request.
    description.log = request.connection().log;
    description.set_directio(u32::from(part.direct));
    buffer.file = &raw mut *description;
    let end = part.offset + part.length;
    buffer.file_pos = part.offset as i64;
    buffer.file_last = end as i64;
    buffer.set_in_file(1);
    Content::File { file: part.file, _description: description, end }
}

/// Returns the mark of this module's buffers for `ngx_chain_update_chains`: an address that no other module has.
fn tag() -> sys::ngx_buf_tag_t {
    static TAG: u8 = 0;
    (&raw const TAG).cast_mut().cast()
}
