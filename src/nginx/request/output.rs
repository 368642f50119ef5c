//! The body of an answer on its way into nginx's filters, with the memory and the files it stands in.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Arc;

use super::{Request, Status, file_alerts};
use crate::nginx::log::Level;
use crate::nginx::sys;

/// A part of a regular file.
#[derive(Clone, Debug)]
pub struct FilePart {
    pub file: Arc<File>,
    pub offset: u64,
    pub length: u64,
    /// Whether the file was opened for direct access (`directio`).
    pub direct: bool,
}

/// What nginx is given at once: bytes, then a part of a file.
#[derive(Debug, Default)]
pub struct OutputParts {
    pub memory: Vec<u8>,
    pub file: Option<FilePart>,
}

/// What nginx has sent of what it was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentCounts {
    /// Bytes of memory.
    pub memory: usize,
    /// OutputParts of files, counted when all of a part has gone.
    pub files: usize,
}

/// Buffers of one request that nginx has or has not sent yet.
pub struct Output {
    chains: RefCell<Chains>,
}

struct Chains {
    free: *mut sys::ngx_chain_t,
    busy: *mut sys::ngx_chain_t,
    /// What the busy buffers stand in, in their order.
    held: VecDeque<Held>,
    /// nginx has read less of a file than was to be sent.
    is_short: bool,
}

/// What a buffer points to: kept as long as nginx has the buffer.
enum Held {
    Memory(Vec<u8>),
    File {
        /// The descriptor that `description` names.
        file: Arc<File>,
        _description: Box<sys::ngx_file_t>,
        /// Where the part ends that is to be sent.
        end: u64,
    },
}

impl Default for Output {
    fn default() -> Self {
        let held = VecDeque::new();
        Self { chains: RefCell::new(Chains { free: ptr::null_mut(), busy: ptr::null_mut(), held, is_short: false }) }
    }
}

impl Output {
    /// Hands `parts` to nginx, to be sent without delay; `last` ends the body. Returns what has been sent.
    ///
    /// # Errors
    /// The status to finalize the request with.
    pub fn send(&self, request: Request, parts: OutputParts, last: bool) -> Result<SentCounts, Status> {
        let OutputParts { memory, file } = parts;
        if memory.is_empty() && file.is_none() && !last {
            return self.flush(request);
        }
        request.reads_files_at_once();
        let mut chains = self.chains.borrow_mut();
        // SAFETY: the links and their buffers are from the request's pool; what a buffer points to is moved into `held`
        // (heap blocks do not move) and kept until nginx has consumed the buffer, or until the pool goes.
        unsafe {
            let mut first = ptr::null_mut();
            let mut end = ptr::null_mut();
            if !memory.is_empty() || file.is_none() {
                end = chains.link(request)?;
                first = end;
                chains.held.push_back(fill_memory(&mut *(*end).buf, memory));
            }
            if let Some(file) = file {
                let link = chains.link(request)?;
                chains.held.push_back(fill_file(&mut *(*link).buf, file, request));
                if end.is_null() {
                    first = link
                } else {
                    (*end).next = link
                }
                end = link;
            }
            let buffer = &mut *(*end).buf;
            buffer.set_flush(u32::from(!last));
            if last {
                buffer.set_last_buf(u32::from(request.is_main()));
                buffer.set_last_in_chain(1);
                // As ngx_http_send_special does: without data and not the last of all it must say why it is there.
                let is_empty = buffer.memory() == 0 && buffer.in_file() == 0;
                buffer.set_sync(u32::from(is_empty && !request.is_main()));
            }
            chains.filter(request, first)
        }
    }

    /// Lets nginx send on what it has. Returns what has been sent.
    ///
    /// # Errors
    /// The status to finalize the request with.
    pub fn flush(&self, request: Request) -> Result<SentCounts, Status> {
        let mut chains = self.chains.borrow_mut();
        // With nothing pending nginx takes an empty chain for an error.
        if chains.busy.is_null() && !request.has_buffered() {
            return Ok(SentCounts::default());
        }
        // SAFETY: a live request; a null chain asks the filters to send what they hold.
        unsafe { chains.filter(request, ptr::null_mut()) }
    }

    /// Whether nginx holds data of this output.
    pub fn is_busy(&self) -> bool {
        !self.chains.borrow().busy.is_null()
    }
}

impl Chains {
    /// A link with a cleared buffer of this module.
    ///
    /// # Safety
    /// `request` is live and its pool the one of the other links.
    unsafe fn link(&mut self, request: Request) -> Result<*mut sys::ngx_chain_t, Status> {
        // SAFETY: as promised; both come from the pool or from the free list.
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

    /// # Safety
    /// `links` is null or a chain whose buffers stay valid while they are in `busy`.
    unsafe fn filter(&mut self, request: Request, mut links: *mut sys::ngx_chain_t) -> Result<SentCounts, Status> {
        // SAFETY: as promised; afterwards nginx's own bookkeeping sorts the consumed links out of `busy`.
        unsafe {
            let result = if self.held.iter().any(|held| matches!(held, Held::File { .. })) {
                let filter = || sys::ngx_http_output_filter(request.as_ptr(), links);
                let (result, has_alert) = file_alerts::keep_back(request.connection().log, filter);
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
        let gone = self.held.len() - busy;
        let mut sent = SentCounts::default();
        for held in self.held.drain(..gone) {
            match held {
                Held::Memory(bytes) => sent.memory += bytes.len(),
                Held::File { .. } => sent.files += 1,
            }
        }
        Ok(sent)
    }

    /// Says which file could not be sent whole, if that was why.
    fn log_short_file(&self, request: Request) {
        if !self.is_short {
            return;
        }
        let files = self.held.iter().filter_map(|held| match held {
            Held::File { file, end, .. } => Some((file, file.metadata().map_or(0, |found| found.len()), *end)),
            Held::Memory(_) => None,
        });
        // Nothing is left of one that has been sent.
        let Some((file, length, end)) = files.min_by_key(|(_, length, end)| length >= end) else { return };
        let name = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
        let name = name.display();
        let what = match length < end {
            true => format!("became shorter while it was sent: {length} bytes are left where {end} were to be sent"),
            false => "gave less than its size when it was sent".to_owned(),
        };
        request.log().write(Level::Error, &format!("the file \"{name}\" of the application {what}"));
    }
}

/// Lets a buffer stand for bytes, none if there are none.
fn fill_memory(buffer: &mut sys::ngx_buf_t, bytes: Vec<u8>) -> Held {
    if !bytes.is_empty() {
        let range = bytes.as_ptr_range();
        (buffer.start, buffer.end) = (range.start.cast_mut(), range.end.cast_mut());
        (buffer.pos, buffer.last) = (buffer.start, buffer.end);
        buffer.set_memory(1);
    }
    Held::Memory(bytes)
}

/// Lets a buffer stand for a part of a file, as ngx_http_static_handler does.
fn fill_file(buffer: &mut sys::ngx_buf_t, part: FilePart, request: Request) -> Held {
    // SAFETY: a plain C structure for which all zeroes is "not set".
    let mut description: Box<sys::ngx_file_t> = Box::new(unsafe { std::mem::zeroed() });
    description.fd = part.file.as_raw_fd();
    // Messages of nginx print it up to its NUL.
    let name = file_alerts::NAME;
    description.name = sys::ngx_str_t { len: name.count_bytes(), data: name.as_ptr().cast_mut().cast() };
    // The connection's lives as long as the request.
    description.log = request.connection().log;
    description.set_directio(u32::from(part.direct));
    buffer.file = &raw mut *description;
    let end = part.offset + part.length;
    buffer.file_pos = part.offset as i64;
    buffer.file_last = end as i64;
    buffer.set_in_file(1);
    Held::File { file: part.file, _description: description, end }
}

/// Marks the buffers of this module for `ngx_chain_update_chains`.
fn tag() -> sys::ngx_buf_tag_t {
    // Any address that is nobody else's.
    static TAG: u8 = 0;
    (&raw const TAG).cast_mut().cast()
}
