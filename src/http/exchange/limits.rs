//! Timeouts of a call that a thread pool has. (With `wsgi_threads off` a thread of the engine watches the event loop.)

use std::time::Duration;

use super::{RequestExchange, ResponseState};
use crate::engine::call_clock::LimitCheck;
use crate::engine::pool::CallHandle;
use crate::nginx::log::Level;
use crate::nginx::request::{Request, Status};

impl RequestExchange {
    /// Acts on each limit that has expired. Returns the time until the next check, if one is due.
    pub(super) fn act_on_limits(&self) -> Option<Duration> {
        let side = self.event_loop.get();
        loop {
            let request = side.request.get();
            if request.is_none() && !side.is_released.get() {
                return None;
            }
            // Without a handle the call is suspended on this thread and waits for its client.
            let handle = side.handle.borrow().clone()?;
            match self.stats.clock.check() {
                LimitCheck::Later(wait) => return wait,
                LimitCheck::QueueTimeout => self.refuse_queued(request?),
                LimitCheck::Slow => self.report_slow(&handle),
                LimitCheck::RequestTimeout => self.time_out(request, handle),
            }
        }
    }

    /// Refuses a call that has waited for a thread too long.
    fn refuse_queued(&self, request: Request) {
        let mut buffer = self.lock();
        if self.stats.clock.is_started() {
            return;
        }
        // No thread can start the call any more. It has not started, so it is not suspended.
        drop(buffer.disconnect());
        drop(buffer);
        self.event_loop.get().facts.set_queue_timeout();
        let message = format!("application \"{}\" was not called within wsgi_queue_timeout", self.stats.application);
        request.log().write(Level::Error, &message);
        // Without memory for the header the response is right without it.
        let _ = request.add_header(b"Retry-After", b"1");
        request.run_in_other_event(|request| self.finalize(request, Status::SERVICE_UNAVAILABLE));
    }

    /// Logs the stack of a slow call.
    fn report_slow(&self, handle: &CallHandle) {
        self.stats.clock.set_reported_slow();
        handle.dump_stack(self.stats.limit_message("wsgi_slow_request"), self.shared());
    }

    /// Notes that the call has exceeded `wsgi_request_timeout`, for which `message` was logged.
    pub(super) fn note_timeout(&self, message: &str) {
        self.stats.set_timed_out();
        if let Some(record) = &self.record {
            record.timed_out(&self.stats.application, message);
        }
    }

    /// Responds in place of a call that runs too long, and aborts the call as soon as it runs Python code.
    fn time_out(&self, request: Option<Request>, handle: CallHandle) {
        let side = self.event_loop.get();
        let headline = format!("stack of {}", self.stats.thread().unwrap_or_default());
        let Some(request) = request else {
            // The client has its response, but the call holds a thread.
            side.is_released.set(false);
            let message = self.stats.limit_message("wsgi_request_timeout");
            self.log_after_request(Level::Error, &message);
            self.note_timeout(&message);
            self.leave(side);
            handle.abort(headline, self.shared());
            return self.worker.recycler.watch_timed_out(handle);
        };
        let status = match *side.state.borrow() {
            // The response is complete; only the call is late.
            ResponseState::LastQueued => Status::OK,
            _ => side.status_instead(request, Status::GATEWAY_TIME_OUT),
        };
        let message = self.stats.limit_message("wsgi_request_timeout");
        request.log().write(Level::Error, &message);
        self.note_timeout(&message);
        request.run_in_other_event(|request| self.finalize(request, status));
        handle.abort(headline, self.shared());
        self.worker.recycler.watch_timed_out(handle);
    }
}
