//! The body of a request: read by nginx before its call, or while the call runs.

use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr;

use super::{Request, Status};
use crate::nginx::sys;

/// A part of a request body that nginx has read.
pub enum BodyPart<'a> {
    Memory(&'a [u8]),
    /// `length` bytes of a file from `offset` on.
    File {
        file: File,
        offset: u64,
        length: u64,
    },
}

/// What an attempt to read more of a body gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// All of it has come.
    Complete,
    /// Nothing more is here now.
    Waiting,
}

impl Request {
    /// Whether the request announced a body, by length or chunked.
    pub fn announces_body(&self) -> bool {
        let headers = &self.get().headers_in;
        headers.content_length_n >= 0 || headers.chunked() != 0
    }

    /// Whether the body is sent in chunks, so that its length is not known before it is there.
    pub fn is_chunked(&self) -> bool {
        self.get().headers_in.chunked() != 0
    }

    /// The length that the request announced for its body.
    pub fn announced_length(&self) -> Option<u64> {
        u64::try_from(self.get().headers_in.content_length_n).ok()
    }

    /// Starts to read the body. With `buffering`, `read` is called when all of it is there, perhaps at once; without, as
    /// soon as nginx has looked at what came with the head.
    ///
    /// What it returns is what the content handler returns.
    pub fn read_body(&self, buffering: bool, read: unsafe extern "C" fn(*mut sys::ngx_http_request_t)) -> Status {
        // A location that redirected here may have read some of it.
        self.withhold_streamed_body();
        // SAFETY: called from the content handler, once unless there was a redirect; the flag is set before, as
        // ngx_http_upstream does.
        let status = unsafe {
            self.set_request_body_no_buffering(u32::from(!buffering));
            sys::ngx_http_read_client_request_body(self.as_ptr(), Some(read))
        };
        if status < sys::NGX_HTTP_SPECIAL_RESPONSE as isize {
            return Status::DONE;
        }
        // What came with the head is no body, and the error_page may be another location.
        self.withhold_body();
        Status(status)
    }

    /// Whether nginx has not read all of the body yet.
    pub fn is_reading_body(&self) -> bool {
        self.reading_body() != 0
    }

    /// The body that was read, in order.
    ///
    /// # Errors
    /// When the descriptor of the temporary file cannot be duplicated.
    pub fn body(&self) -> std::io::Result<Vec<BodyPart<'_>>> {
        let mut parts = Vec::new();
        // SAFETY: the buffers are a null-terminated chain. The last may be neither in memory nor in a file (empty and
        // chunked bodies). A file part is complete on disk; its descriptor is open while the request lives, so that it
        // can be duplicated here.
        unsafe {
            let body = self.get().request_body;
            let mut link = if body.is_null() { ptr::null_mut() } else { (*body).bufs };
            while !link.is_null() {
                let buffer = &*(*link).buf;
                link = (*link).next;
                if buffer.in_file() != 0 {
                    let length = (buffer.file_last - buffer.file_pos).max(0) as u64;
                    let file = duplicate((*buffer.file).fd)?.into();
                    parts.push(BodyPart::File { file, offset: buffer.file_pos as u64, length });
                } else if let Some(bytes) = in_memory(buffer) {
                    parts.push(BodyPart::Memory(bytes));
                }
            }
        }
        Ok(parts)
    }

    /// Whether something has come that [`Request::take_body`] gives.
    pub fn has_body_to_take(&self) -> bool {
        // SAFETY: null or the body of the live request.
        unsafe { self.get().request_body.as_ref().is_some_and(|body| !body.bufs.is_null()) }
    }

    /// Gives what has come of a body that is read while the call runs to `take`; nginx has the room for more then.
    pub fn take_body(&self, mut take: impl FnMut(&[u8])) {
        // SAFETY: as in `body`; without buffering nothing is in a file. A buffer that is marked as consumed is nginx's
        // again, and so are the links, as in ngx_http_upstream_send_request_body.
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

    /// Reads on. What has come is then to be had by [`Request::take_body`].
    ///
    /// # Errors
    /// The status to finalize the request with: the client has left or stopped, or the body is not what it may be.
    pub fn read_more_of_body(&self) -> Result<Reading, Status> {
        // SAFETY: the request's body is being read without buffering.
        let status = unsafe { sys::ngx_http_read_unbuffered_request_body(self.as_ptr()) };
        match status {
            _ if self.connection().error() != 0 => Err(Status::CLIENT_CLOSED_REQUEST),
            _ if status == Status::OK.0 => Ok(Reading::Complete),
            _ if status == sys::NGX_AGAIN as isize => Ok(Reading::Waiting),
            _ if status >= sys::NGX_HTTP_SPECIAL_RESPONSE as isize => Err(Status(status)),
            _ => Err(Status::INTERNAL_SERVER_ERROR),
        }
    }

    /// Nothing is wanted of the client for now, so it has no time limit, and has not missed one.
    pub fn pause_reading(&self) {
        // SAFETY: the read event of a live connection.
        unsafe {
            let event = (*self.get().connection).read;
            if (*event).timer_set() != 0 {
                ngx::ffi::ngx_del_timer(event);
            }
            (*event).set_timedout(0);
            // Where events are told again and again, this one is not watched until it is wanted.
            sys::ngx_handle_read_event(event, 0);
        }
    }

    /// All of the body is here; from now on a client that leaves is noticed.
    pub fn body_is_complete(&self) {
        // SAFETY: a live request.
        unsafe { (*self.as_ptr()).read_event_handler = Some(sys::ngx_http_test_reading) };
    }

    /// Whether the client has reset its connection while there is data of it that nobody has read yet.
    pub fn is_reset(&self) -> bool {
        let connection = self.connection();
        // SAFETY: a live connection's event; getsockopt writes an integer.
        unsafe {
            if connection.error() != 0 {
                return true;
            }
            let event = &*connection.read;
            if event.pending_eof() == 0 || !self.get().stream.is_null() {
                return false;
            }
            let (mut error, mut length) = (0i32, size_of::<i32>() as libc::socklen_t);
            let (level, name) = (libc::SOL_SOCKET, libc::SO_ERROR);
            libc::getsockopt(connection.fd, level, name, (&raw mut error).cast(), &mut length) == 0 && error != 0
        }
    }
}

/// The bytes of a buffer, none if it has none.
///
/// # Safety
/// What the buffer points to lives for `'a`.
unsafe fn in_memory<'a>(buffer: &sys::ngx_buf_t) -> Option<&'a [u8]> {
    if buffer.pos.is_null() || buffer.last <= buffer.pos {
        return None;
    }
    // SAFETY: both are of one block of memory, by nginx's rules and the caller's promise.
    unsafe {
        let length = buffer.last.offset_from(buffer.pos) as usize;
        Some(std::slice::from_raw_parts(buffer.pos, length))
    }
}

fn duplicate(descriptor: i32) -> std::io::Result<OwnedFd> {
    // SAFETY: an open descriptor of nginx, borrowed for the call.
    unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned()
}
