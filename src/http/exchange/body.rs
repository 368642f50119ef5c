//! The event loop's side of a request body that is read while the call runs.

use std::io;
use std::sync::Arc;

use super::RequestExchange;
use super::record::Ending;
use crate::http::body_stream::{BodyEnd, StreamedBody};
use crate::nginx::log::Level;
use crate::nginx::request::body::Reading;
use crate::nginx::request::{Request, Status};
use crate::worker::event_loop::Message;
use crate::wsgi::body::{BodySource, Interrupt};

impl RequestExchange {
    /// Returns the body for the call, if the body is read while the call runs.
    pub fn streamed_body(&self) -> Option<impl BodySource + use<>> {
        let (exchange, asking) = (self.shared(), self.shared());
        let ask = move || asking.worker.event_loop.send(Message::Response(asking.clone()));
        self.body_stream.clone().map(|stream| UntimedBody { body: StreamedBody::new(stream, ask), exchange })
    }

    /// Passes more of the body to the application if it waits for more.
    pub(super) fn feed_body(&self, request: Request) {
        let Some(stream) = self.body_stream.as_ref().filter(|stream| stream.is_wanted()) else { return };
        loop {
            let mut has_come = false;
            request.take_body(|bytes| {
                has_come = true;
                self.event_loop.get().facts.add_received(bytes.len() as u64);
                stream.push(bytes);
            });
            if !request.is_reading_body() {
                stream.end(BodyEnd::Complete);
                return request.watch_for_disconnect();
            }
            if has_come {
                // The rest stays in the socket until the application has read this part.
                return request.pause_reading();
            }
            match request.read_more_of_body() {
                Ok(Reading::Complete) => {}
                Ok(Reading::Waiting) if request.has_body_to_take() => {}
                Ok(Reading::Waiting) => return,
                Err(status) => return self.fail_body(request, status),
            }
        }
    }

    /// Handles a readable or closed socket of the client.
    pub(super) fn read_client(&self) {
        let Some(request) = self.event_loop.get().request.get() else { return };
        self.feed_body(request);
        if self.event_loop.get().request.get().is_none() {
            return;
        }
        if self.body_stream.as_ref().is_some_and(|stream| !stream.is_wanted()) && request.is_reading_body() {
            // HTTP/2 takes all data up to its window, and sets a timeout meanwhile.
            request.pause_reading();
        }
        if request.is_reset() {
            request.log().write(Level::Info, "client prematurely closed connection");
            self.finalize(request, Status::CLIENT_CLOSED_REQUEST);
        }
    }

    /// Ends a request whose body cannot be read.
    fn fail_body(&self, request: Request, status: Status) {
        if status == Status::CLIENT_TIMED_OUT {
            request.log().write(Level::Info, "client timed out while sending its body");
        }
        let end = match status {
            Status::CLIENT_CLOSED_REQUEST => BodyEnd::Disconnected,
            Status::CLIENT_TIMED_OUT => BodyEnd::TimedOut,
            _ => BodyEnd::Refused,
        };
        let status = if request.is_header_sent() && end == BodyEnd::Refused { Status::ERROR } else { status };
        self.detach(end, Ending::Finalized(status));
        request.finalize(status);
    }
}

/// Streamed request body; waiting for the client does not count against the call's time limits.
struct UntimedBody<B> {
    body: B,
    exchange: Arc<RequestExchange>,
}

impl<B: BodySource> BodySource for UntimedBody<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let clock = &self.exchange.stats.clock;
        clock.pause();
        let read = self.body.read(buffer);
        clock.resume();
        read
    }

    fn remaining(&self) -> Option<u64> {
        self.body.remaining()
    }

    fn may_block(&self) -> bool {
        self.body.may_block()
    }

    fn interrupt(&self) -> Option<Arc<dyn Interrupt>> {
        self.body.interrupt()
    }
}
