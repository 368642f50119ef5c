//! Request body: read by nginx before the call of the application, or streamed to the running call.

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::{io, ptr};

use nix::sys::socket::{getsockopt, sockopt::SocketError};

use super::{Request, Status};
use crate::nginx::{guard, sys};
use crate::sync::Mutex;

/// Part of a request body that nginx has read.
pub enum BodyPart {
    Memory(Arc<BodyMemory>),
    /// `length` bytes of a file from `offset`.
    File {
        file: File,
        offset: u64,
        length: u64,
    },
}

/// Part of a request body in the request's memory, which other threads may read until the request ends.
pub struct BodyMemory {
    /// `None` once the request has ended.
    bytes: Mutex<Option<&'static [u8]>>,
    length: usize,
}

impl BodyMemory {
    /// Returns the number of bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Passes the bytes to `take`. Returns false if the request has ended. nginx waits meanwhile if it ends the request.
    pub fn with(&self, take: &mut dyn FnMut(&[u8])) -> bool {
        let bytes = self.bytes.lock();
        bytes.is_some_and(|bytes| {
            take(bytes);
            true
        })
    }
}

/// State of a streamed body after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The body has been read completely.
    Complete,
    /// The client has not sent more yet.
    Waiting,
}

impl Request {
    /// Returns whether the request announces a body, by its length or in chunks.
    pub fn announces_body(&self) -> bool {
        let headers = &self.get().headers_in;
        headers.content_length_n >= 0 || headers.chunked() != 0
    }

    /// Returns whether the body is sent in chunks, so that its length is not known in advance.
    pub fn is_chunked(&self) -> bool {
        self.get().headers_in.chunked() != 0
    }

    /// Returns the announced length of the body.
    pub fn announced_length(&self) -> Option<u64> {
        u64::try_from(self.get().headers_in.content_length_n).ok()
    }

    /// Makes nginx read the body and throw it away.
    ///
    /// # Errors
    /// The status that the content handler returns.
    pub fn discard_body(&self) -> Result<(), Status> {
        // SAFETY: a live request by the rule of the type, in its content handler.
        match unsafe { sys::ngx_http_discard_request_body(self.as_ptr()) } {
            result if result == Status::OK.0 => Ok(()),
            result => Err(Status(result)),
        }
    }

    /// Starts reading the body. With `buffering`, nginx calls `read` once the body is complete, perhaps at once; without,
    /// as soon as it has processed the data that came with the request header.
    ///
    /// The content handler returns the resulting status.
    pub fn read_body(&self, buffering: bool, read: unsafe extern "C" fn(*mut sys::ngx_http_request_t)) -> Status {
        // A location that redirected here may have read a part of the body.
        self.withhold_streamed_body();
        // SAFETY: called from the content handler, and only after a redirect more than once. The flag is set before the
        // call, as in ngx_http_upstream.
        let status = unsafe {
            self.set_request_body_no_buffering(u32::from(!buffering));
            sys::ngx_http_read_client_request_body(self.as_ptr(), Some(read))
        };
        if status < sys::NGX_HTTP_SPECIAL_RESPONSE as isize {
            return Status::DONE;
        }
        // The error_page of the status may be another location, and the body is incomplete.
        self.withhold_body();
        Status(status)
    }

    /// Returns whether nginx has not read the whole body yet.
    pub fn is_reading_body(&self) -> bool {
        self.reading_body() != 0
    }

    /// Returns whether the body is sent to an upstream while it comes from the client.
    pub fn has_streamed_body(&self) -> bool {
        self.request_body_no_buffering() != 0
    }

    /// Iterates over the buffers of a body that nginx has read. The last one may be neither in memory nor in a file (empty and
    /// chunked bodies).
    fn body_buffers(&self) -> impl Iterator<Item = &sys::ngx_buf_t> {
        // SAFETY: null, or the body of the live request with a null-terminated chain of buffers.
        unsafe {
            let mut link = self.get().request_body.as_ref().map_or(ptr::null_mut(), |body| body.bufs);
            std::iter::from_fn(move || {
                let found = link.as_ref()?;
                link = found.next;
                Some(&*found.buf)
            })
        }
    }

    /// Returns the length of a body that nginx has read.
    pub fn read_length(&self) -> u64 {
        let length = |buffer: &sys::ngx_buf_t| match buffer.in_file() {
            // SAFETY: the memory lives as long as the request.
            0 => unsafe { in_memory(buffer) }.map_or(0, |bytes| bytes.len() as u64),
            _ => (buffer.file_last - buffer.file_pos).max(0) as u64,
        };
        self.body_buffers().map(length).sum()
    }

    /// Returns the parts of a buffered body in order.
    ///
    /// # Errors
    /// If the descriptor of the temporary file cannot be duplicated, or there is no memory.
    pub fn body(&self) -> io::Result<Vec<BodyPart>> {
        let mut parts = Vec::new();
        for buffer in self.body_buffers() {
            // SAFETY: a part in a file is complete, and its descriptor is open while the request lives. So does memory.
            unsafe {
                if buffer.in_file() != 0 {
                    let length = (buffer.file_last - buffer.file_pos).max(0) as u64;
                    let file = duplicate((*buffer.file).fd)?.into();
                    parts.push(BodyPart::File { file, offset: buffer.file_pos as u64, length });
                } else if let Some(bytes) = in_memory(buffer) {
                    parts.push(BodyPart::Memory(self.body_memory(bytes)?));
                }
            }
        }
        Ok(parts)
    }

    /// Returns a handle of a part of the body that nginx holds in memory.
    ///
    /// # Safety
    /// `bytes` are in the memory of the request or of its connection, and are not changed while the request lives.
    unsafe fn body_memory(&self, bytes: &'static [u8]) -> io::Result<Arc<BodyMemory>> {
        // SAFETY: the pool of the live request. Its clean-up runs before the memory is freed or used for the next request of
        // the connection.
        unsafe {
            let cleanup = sys::ngx_pool_cleanup_add((*self.as_ptr()).pool, 0);
            if cleanup.is_null() {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            let memory = Arc::new(BodyMemory { bytes: Mutex::new(Some(bytes)), length: bytes.len() });
            (*cleanup).data = Arc::into_raw(memory.clone()).cast_mut().cast();
            (*cleanup).handler = Some(release_body);
            Ok(memory)
        }
    }

    /// Returns whether [`Request::take_body`] has data to take.
    pub fn has_body_to_take(&self) -> bool {
        // SAFETY: null or the body of the live request.
        unsafe { self.get().request_body.as_ref().is_some_and(|body| !body.bufs.is_null()) }
    }

    /// Passes the received data of a streamed body to `take`, and gives the buffers back to nginx.
    pub fn take_body(&self, mut take: impl FnMut(&[u8])) {
        // SAFETY: the buffers are a null-terminated chain and without buffering all in memory. nginx reuses consumed buffers
        // and free links, as in ngx_http_upstream_send_request_body.
        unsafe {
            let (body, pool) = (self.get().request_body, (*self.as_ptr()).pool);
            if body.is_null() {
                return;
            }
            let mut link = std::mem::replace(&mut (*body).bufs, ptr::null_mut());
            while !link.is_null() {
                let buffer = (*link).buf;
                if let Some(bytes) = in_memory(&*buffer) {
                    take(bytes);
                }
                (*buffer).pos = (*buffer).last;
                let next = (*link).next;
                (*link).next = (*pool).chain;
                (*pool).chain = link;
                link = next;
            }
        }
    }

    /// Reads more of a streamed body, for [`Request::take_body`].
    ///
    /// # Errors
    /// The status to finalize the request with: the client has disconnected or timed out, or the body is invalid.
    pub fn read_more_of_body(&self) -> Result<Reading, Status> {
        // SAFETY: a live request whose body is read without buffering.
        let status = unsafe { sys::ngx_http_read_unbuffered_request_body(self.as_ptr()) };
        match status {
            _ if self.connection().error() != 0 => Err(Status::CLIENT_CLOSED_REQUEST),
            _ if status == Status::OK.0 => Ok(Reading::Complete),
            _ if status == sys::NGX_AGAIN as isize => Ok(Reading::Waiting),
            _ if status >= sys::NGX_HTTP_SPECIAL_RESPONSE as isize => Err(Status(status)),
            _ => Err(Status::INTERNAL_SERVER_ERROR),
        }
    }

    /// Stops reading and clears the read timer and its timeout flag.
    pub fn pause_reading(&self) {
        // SAFETY: the read event of a live connection.
        unsafe {
            let event = (*self.get().connection).read;
            if (*event).timer_set() != 0 {
                ngx::ffi::ngx_del_timer(event);
            }
            (*event).set_timedout(0);
            // With level-triggered events this removes the event until it is needed again.
            sys::ngx_handle_read_event(event, 0);
        }
    }

    /// Detects a disconnect of the client from now on. The body has been read completely.
    pub fn watch_for_disconnect(&self) {
        // SAFETY: a plain field of the live request.
        unsafe { (*self.as_ptr()).read_event_handler = Some(sys::ngx_http_test_reading) };
    }

    /// Returns whether the client has reset its connection while data of it is unread.
    pub fn is_reset(&self) -> bool {
        let connection = self.connection();
        if connection.error() != 0 {
            return true;
        }
        // SAFETY: the read event of a live connection.
        let is_closed = unsafe { (*connection.read).pending_eof() != 0 };
        if !is_closed || !self.get().stream.is_null() {
            return false;
        }
        // SAFETY: a live connection has an open socket.
        let socket = unsafe { BorrowedFd::borrow_raw(connection.fd) };
        getsockopt(&socket, SocketError).is_ok_and(|error| error != 0)
    }
}

unsafe extern "C" fn release_body(data: *mut c_void) {
    guard((), || {
        // SAFETY: nginx passes the handle of `body_memory` once.
        let memory = unsafe { Arc::from_raw(data.cast::<BodyMemory>()) };
        *memory.bytes.lock() = None;
    });
}

/// Returns the bytes of a buffer in memory, if it has any.
///
/// # Safety
/// The memory of the buffer lives for `'a`.
unsafe fn in_memory<'a>(buffer: &sys::ngx_buf_t) -> Option<&'a [u8]> {
    if buffer.pos.is_null() || buffer.last <= buffer.pos {
        return None;
    }
    // SAFETY: both point into one block of memory by the rules of nginx, which lives as promised by the caller.
    unsafe {
        let length = buffer.last.offset_from(buffer.pos) as usize;
        Some(std::slice::from_raw_parts(buffer.pos, length))
    }
}

fn duplicate(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: an open descriptor of nginx, borrowed during the call.
    unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned()
}
