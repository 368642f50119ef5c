//! Where the thread that runs a call and the event loop meet: what there is of an answer, under one lock.

use super::response_buffer::ResponseBuffer;
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::wsgi::transport::Disconnected;

/// An answer on its way from one thread to the other.
pub struct SharedBuffer {
    buffer: Mutex<ResponseBuffer>,
    /// Signalled when there is room again, when it is known whether a body is wanted, and when nobody takes more.
    changed: Condvar,
}

impl SharedBuffer {
    /// Begins with this.
    pub fn new(buffer: ResponseBuffer) -> Self {
        Self { buffer: Mutex::new(buffer), changed: Condvar::new() }
    }

    /// What there is. No thread waits for anything else while it has this.
    pub fn lock(&self) -> MutexGuard<'_, ResponseBuffer> {
        self.buffer.lock()
    }

    /// Changes what a waiting thread looks at.
    pub fn change<R>(&self, change: impl FnOnce(&mut ResponseBuffer) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until something may be pushed.
    ///
    /// # Errors
    /// Nobody is there to take more.
    pub fn wait_for_room(&self) -> Result<(), Disconnected> {
        self.wait(|buffer| match buffer.is_open() {
            true => (!buffer.is_full()).then_some(Ok(())),
            false => Some(Err(Disconnected)),
        })
    }

    /// Waits until it is known whether the client gets a body.
    pub fn wait_for_verdict(&self) -> bool {
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

    /// The thread of a call gives `DATA` through two bytes of memory, in every order with the event loop, which takes what
    /// it is told of, and disconnects after `taken` batches.
    fn model(disconnect_after: usize) {
        loom::model(move || {
            let buffering = Buffering { memory: 2, ..Buffering::default() };
            let shared = Arc::new(SharedBuffer::new(ResponseBuffer::new(Arc::new(buffering))));
            let (announced, messages) = mpsc::channel();
            let call = thread::spawn({
                let shared = shared.clone();
                move || {
                    // Whatever happens, the end of the call is told.
                    let given = give(&shared, &announced);
                    let mut buffer = shared.lock();
                    buffer.end(if given.is_ok() { End::Complete } else { End::Failed });
                    buffer.close();
                    if buffer.notify() {
                        announced.send(()).unwrap();
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
                if batch.closed {
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

    fn give(shared: &SharedBuffer, announced: &mpsc::Sender<()>) -> Result<(), Disconnected> {
        let mut rest = DATA;
        while !rest.is_empty() {
            let mut buffer = shared.lock();
            if buffer.is_disconnected() {
                return Err(Disconnected);
            }
            rest = &rest[buffer.push(rest)..];
            let tell = buffer.notify();
            drop(buffer);
            if tell {
                announced.send(()).unwrap();
            }
            if !rest.is_empty() {
                shared.wait_for_room()?;
            }
        }
        Ok(())
    }

    #[test]
    fn an_answer_arrives_whole_and_ends() {
        model(usize::MAX);
    }

    #[test]
    fn a_call_whose_client_has_left_ends() {
        for batches in 1..=2 {
            model(batches);
        }
    }

    #[test]
    fn whether_a_body_is_wanted_is_told_to_the_thread_that_waits() {
        for disconnects in [false, true] {
            loom::model(move || {
                let shared = Arc::new(SharedBuffer::new(ResponseBuffer::new(Arc::default())));
                let call = thread::spawn({
                    let shared = shared.clone();
                    move || shared.wait_for_verdict()
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
