//! The body of an answer on its way into nginx's filters, with the memory it stands in.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ptr;

use super::request::{Request, Status};
use super::sys;

/// Buffers of one request that nginx has or has not sent yet.
pub struct Output {
    chains: RefCell<Chains>,
}

struct Chains {
    free: *mut sys::ngx_chain_t,
    busy: *mut sys::ngx_chain_t,
    /// The memory of the busy buffers, in their order.
    memory: VecDeque<Vec<u8>>,
}

impl Default for Output {
    fn default() -> Self {
        let memory = VecDeque::new();
        Self { chains: RefCell::new(Chains { free: ptr::null_mut(), busy: ptr::null_mut(), memory }) }
    }
}

impl Output {
    /// Hands `data` to nginx, to be sent without delay; `last` ends the body. Returns the bytes that have been sent.
    ///
    /// # Errors
    /// The status to finalize the request with.
    pub fn send(&self, request: Request, data: Vec<u8>, last: bool) -> Result<usize, Status> {
        if data.is_empty() && !last {
            return self.flush(request);
        }
        let mut chains = self.chains.borrow_mut();
        // SAFETY: the link and its buffer are from the request's pool; the buffer's memory is moved into `memory`
        // (the heap block does not move) and kept until nginx has consumed it, or until the pool goes.
        unsafe {
            let pool = (*request.as_ptr()).pool;
            let link = sys::ngx_chain_get_free_buf(pool, &mut chains.free);
            if link.is_null() {
                return Err(Status::ERROR);
            }
            let buffer = (*link).buf;
            buffer.write(std::mem::zeroed());
            (*buffer).tag = tag();
            if !data.is_empty() {
                (*buffer).start = data.as_ptr().cast_mut();
                (*buffer).pos = (*buffer).start;
                (*buffer).last = (*buffer).start.add(data.len());
                (*buffer).end = (*buffer).last;
                (*buffer).set_memory(1);
            }
            (*buffer).set_flush(u32::from(!last));
            if last {
                (*buffer).set_last_buf(u32::from(request.is_main()));
                (*buffer).set_last_in_chain(1);
                // As ngx_http_send_special does: without data and not the last of all it must say why it is there.
                (*buffer).set_sync(u32::from(data.is_empty() && !request.is_main()));
            }
            (*link).next = ptr::null_mut();
            chains.memory.push_back(data);
            chains.filter(request, link)
        }
    }

    /// Lets nginx send on what it has. Returns the bytes that have been sent.
    ///
    /// # Errors
    /// The status to finalize the request with.
    pub fn flush(&self, request: Request) -> Result<usize, Status> {
        let mut chains = self.chains.borrow_mut();
        // With nothing pending nginx takes an empty chain for an error.
        if chains.busy.is_null() && !request.has_buffered() {
            return Ok(0);
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
    /// # Safety
    /// `link` is null or one link whose buffer stays valid while it is in `busy`.
    unsafe fn filter(&mut self, request: Request, mut link: *mut sys::ngx_chain_t) -> Result<usize, Status> {
        // SAFETY: as promised; afterwards nginx's own bookkeeping sorts the consumed links out of `busy`.
        unsafe {
            let result = sys::ngx_http_output_filter(request.as_ptr(), link);
            if result == Status::ERROR.0 {
                return Err(Status::ERROR);
            }
            let pool = (*request.as_ptr()).pool;
            sys::ngx_chain_update_chains(pool, &mut self.free, &mut self.busy, &mut link, tag());
        }
        let mut busy = 0;
        let mut next = self.busy;
        while !next.is_null() {
            busy += 1;
            // SAFETY: a null-terminated chain.
            next = unsafe { (*next).next };
        }
        let sent = self.memory.len() - busy;
        Ok(self.memory.drain(..sent).map(|data| data.len()).sum())
    }
}

/// Marks the buffers of this module for `ngx_chain_update_chains`.
fn tag() -> sys::ngx_buf_tag_t {
    // Any address that is nobody else's.
    static TAG: u8 = 0;
    (&raw const TAG).cast_mut().cast()
}
