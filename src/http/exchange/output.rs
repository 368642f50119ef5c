//! The event loop's side of the response: output of the call into nginx's filters.

use std::mem;

use super::record::Ending;
use super::{EventLoopSide, RequestExchange, ResponseState};
use crate::http::body_stream::BodyEnd;
use crate::http::response_buffer::SendBatch;
use crate::http::response_headers::{self, Replacement};
use crate::nginx::request::output::SentCounts;
use crate::nginx::request::{Request, Status};
use crate::worker::event_loop::Message;
use crate::wsgi::headers::ResponseHeaders;
use crate::wsgi::transport::{End, Transport};

/// Maximum of consecutive rounds of output before the event loop serves other requests.
const MAX_ROUNDS: usize = 4;

impl RequestExchange {
    /// Hands output to nginx and resumes a suspended call, in turn, until one of the two has to wait. Finalizes the
    /// request when its response has ended.
    pub fn run_output(&self) {
        let side = self.event_loop.get();
        for _ in 0..MAX_ROUNDS {
            let Some(request) = side.request.get() else { return };
            self.send_batch(request);
            if self.finish(request) {
                return;
            }
            if side.is_busy(request) {
                if request.is_active()
                    && let Err(status) = request.wait_until_writable()
                {
                    return self.finalize(request, status);
                }
                if side.sends_file.get() || self.lock().is_full() {
                    return;
                }
                // The buffer has room for more, so that the call may end though its client is slow.
            } else if self.lock().has_data() {
                continue;
            } else if request.is_active() && side.suspended.borrow().is_none() {
                request.stop_send_timer();
            }
            let Some(suspended) = side.suspended.take() else { return };
            side.sends_file.set(false);
            self.suspend(suspended.resume());
        }
        // A call that has ended in the last round has handed all of its output to nginx. nginx, which sends the rest once the
        // request is finalized, waits for an event of the socket, and that must not come before.
        if side.request.get().is_some_and(|request| self.finish(request)) {
            return;
        }
        // With a fast client, or for a HEAD request, this could go on for ever.
        if !side.output_posted.replace(true) {
            self.worker.event_loop.send(Message::Response(self.shared()));
        }
    }

    /// Finalizes the request if its response has ended. Returns true if it has.
    fn finish(&self, request: Request) -> bool {
        let side = self.event_loop.get();
        if let Some(replacement) = side.take_due_replacement() {
            // The request may hold the last reference to this exchange.
            let _alive = self.shared();
            self.detach(BodyEnd::Disconnected, Ending::Replaced(replacement.status()));
            replacement.send(request, &self.header_rules);
            return true;
        }
        if self.from_front && side.may_release() {
            self.release(request);
            return true;
        }
        match side.final_status(request) {
            Some(status) => {
                self.finalize(request, status);
                true
            }
            None => false,
        }
    }

    /// Moves one batch of output into nginx's filters. Finalizes nothing, so a call on this thread may use it.
    pub(super) fn send_batch(&self, request: Request) {
        let side = self.event_loop.get();
        match *side.state.borrow() {
            ResponseState::Failed(_) => return,
            // All output has been taken.
            ResponseState::LastQueued if side.call_closed.get() => return,
            _ => {}
        }
        let mut buffer = self.lock();
        if buffer.is_disconnected() {
            let is_call_closed = buffer.is_call_closed();
            drop(buffer);
            // With `wsgi_threads off` the client gets the 504 when the call has ended.
            if is_call_closed && self.has_timed_out() {
                self.worker.event_loop.write_log();
                side.fail(side.status_instead(request, Status::GATEWAY_TIME_OUT));
            }
            return;
        }
        let batch = buffer.take(side.output.is_busy());
        drop(buffer);
        if let Err(status) = self.move_batch(request, batch) {
            side.fail(status);
            self.disconnect_call();
        }
    }

    fn move_batch(&self, request: Request, batch: SendBatch) -> Result<(), Status> {
        let side = self.event_loop.get();
        let SendBatch { headers, mut parts, has_app_file, is_whole, end, call_closed, suspended } = batch;
        self.suspend(suspended);
        if call_closed {
            // The call has queued its last text for the log before it was closed, and the request is finalized soon.
            self.worker.event_loop.write_log();
        }
        side.call_closed.set(call_closed);
        if let Some(headers) = headers {
            if self.from_front && end != Some(End::Complete) && !response_headers::has_body(request, &headers) {
                // The front takes the response for complete when it has the header, and may send another request.
                request.disable_keepalive();
            }
            self.send_headers(request, headers, is_whole)?;
        }
        let all = SentCounts { memory: parts.memory.len(), files: usize::from(parts.file.is_some()) };
        let body_begun = match *side.state.borrow() {
            // The body is discarded, but its call continues to the end.
            ResponseState::Replaced(_) => {
                self.buffer.change(|buffer| buffer.sent(all));
                return Ok(());
            }
            ResponseState::AwaitHeaders | ResponseState::Failed(_) => return Ok(()),
            // No data follows, but the call goes on: it waits until this is sent, or in close().
            ResponseState::LastQueued => None,
            ResponseState::Streaming { body_begun } => Some(body_begun),
            ResponseState::Broken => Some(true),
        };
        let Some(body_begun) = body_begun else {
            let sent = side.output.flush(request)?;
            self.note_sent(sent);
            return Ok(());
        };
        if has_app_file {
            side.sends_file.set(true);
            // nginx aligns its buffers for direct reading only if the body begins with the file.
            if parts.memory.is_empty() && !body_begun {
                parts.file = parts.file.map(|file| request.with_directio(file));
            }
        }
        let body_begun = body_begun || !parts.memory.is_empty() || parts.file.is_some();
        *side.state.borrow_mut() = match end {
            Some(End::Complete) => ResponseState::LastQueued,
            Some(End::Failed) => ResponseState::Broken,
            None => ResponseState::Streaming { body_begun },
        };
        let last = end == Some(End::Complete);
        if request.is_header_only() {
            self.note_sent(all);
            return Ok(());
        }
        side.facts.add_sent(parts.length());
        let sent = side.output.send(request, parts, last)?;
        self.note_sent(sent);
        Ok(())
    }

    /// Sends the headers, or notes the response of nginx that replaces them.
    fn send_headers(&self, request: Request, mut headers: ResponseHeaders, is_whole: bool) -> Result<(), Status> {
        let side = self.event_loop.get();
        if side.adds_refresh.get() && headers.header("Refresh").is_none() {
            headers.push(b"Refresh", b"0");
        }
        let state = match response_headers::send(request, headers, is_whole, &self.header_rules)? {
            None => ResponseState::Streaming { body_begun: false },
            Some(replacement) => ResponseState::Replaced(replacement),
        };
        if self.optimizes {
            let wanted = state.has_headers() && !request.is_header_only();
            self.buffer.change(|buffer| buffer.set_body_wanted(wanted));
        }
        *side.state.borrow_mut() = state;
        Ok(())
    }

    fn note_sent(&self, sent: SentCounts) {
        if sent != SentCounts::default() {
            self.buffer.change(|buffer| buffer.sent(sent));
        }
    }
}

impl EventLoopSide {
    /// Returns whether the response is complete, and the call continues on a thread of its own.
    fn may_release(&self) -> bool {
        let is_complete = matches!(*self.state.borrow(), ResponseState::LastQueued);
        is_complete && !self.call_closed.get() && self.suspended.borrow().is_none() && self.handle.borrow().is_some()
    }

    /// Takes the response of nginx that replaces the application's, once the call is closed.
    fn take_due_replacement(&self) -> Option<Replacement> {
        let mut state = self.state.borrow_mut();
        if !self.call_closed.get() || !matches!(*state, ResponseState::Replaced(_)) {
            return None;
        }
        match mem::take(&mut *state) {
            ResponseState::Replaced(replacement) => Some(replacement),
            _ => None,
        }
    }

    fn fail(&self, status: Status) {
        *self.state.borrow_mut() = ResponseState::Failed(status);
    }

    /// Returns true if the call has to wait until nginx has sent more.
    fn is_busy(&self, request: Request) -> bool {
        if let ResponseState::LastQueued = *self.state.borrow() {
            // Buffers split by the range filter are never reported as sent, and a filter may still hold the tail of a
            // file it has read.
            request.has_buffered()
        } else {
            self.output.is_busy() || (self.sends_file.get() && request.has_buffered())
        }
    }

    /// Returns the status to finalize with, once the response has ended.
    fn final_status(&self, request: Request) -> Option<Status> {
        match *self.state.borrow() {
            ResponseState::Failed(status) => Some(status),
            _ if !self.call_closed.get() => None,
            ResponseState::AwaitHeaders => Some(Status::INTERNAL_SERVER_ERROR),
            // After the last buffer nginx itself sends the rest.
            ResponseState::LastQueued => Some(Status::OK),
            ResponseState::Broken if !request.is_header_sent() => Some(Status::INTERNAL_SERVER_ERROR),
            ResponseState::Broken if !self.output.is_busy() => Some(Status::ERROR),
            ResponseState::Broken | ResponseState::Streaming { .. } | ResponseState::Replaced(_) => None,
        }
    }
}
