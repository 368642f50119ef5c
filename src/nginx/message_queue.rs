//! Messages from other threads to the event loop, and whether the event loop has to be woken for them.

use std::mem;

use crate::sync::Mutex;

/// Queue of messages to the event loop.
///
/// While the event loop is awake, a message needs no wake-up: the event loop takes it before it sleeps. Between two
/// wake-ups it takes all that has come meanwhile.
pub struct MessageQueue<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    messages: Vec<T>,
    /// The event loop calls [`MessageQueue::fall_asleep`] before it sleeps.
    is_awake: bool,
}

impl<T> MessageQueue<T> {
    /// Creates an empty queue of an event loop that sleeps.
    pub fn new() -> Self {
        Self { state: Mutex::new(State { messages: Vec::new(), is_awake: false }) }
    }

    /// Adds a message, on any thread. Returns true if the event loop must be woken for it.
    #[must_use]
    pub fn push(&self, message: T) -> bool {
        let mut state = self.state.lock();
        state.messages.push(message);
        !state.is_awake && state.messages.len() == 1
    }

    /// Returns the messages since the previous call.
    pub fn take(&self) -> Vec<T> {
        mem::take(&mut self.state.lock().messages)
    }

    /// Notes that the event loop is awake until [`MessageQueue::fall_asleep`]. Returns true if it was.
    pub fn wake_up(&self) -> bool {
        mem::replace(&mut self.state.lock().is_awake, true)
    }

    /// Notes that the event loop sleeps from now on, and returns true; false if there are messages to take before.
    pub fn fall_asleep(&self) -> bool {
        let mut state = self.state.lock();
        state.is_awake = !state.messages.is_empty();
        !state.is_awake
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::sync::Notify;
    use loom::thread;

    use super::*;

    /// Two threads send messages to an event loop that sleeps until it is woken.
    #[test]
    fn every_message_is_taken_before_the_event_loop_sleeps() {
        loom::model(|| {
            let queue = Arc::new((MessageQueue::new(), Notify::new()));
            let threads = [1, 2].map(|message| {
                let queue = queue.clone();
                thread::spawn(move || {
                    if queue.0.push(message) {
                        queue.1.notify();
                    }
                })
            });
            let mut all = Vec::new();
            while all.len() < 2 {
                // Forever, if a message has come without a wake-up.
                queue.1.wait();
                queue.0.wake_up();
                loop {
                    all.extend(queue.0.take());
                    if queue.0.fall_asleep() {
                        break;
                    }
                }
            }
            threads.map(|thread| thread.join().unwrap());
            all.sort_unstable();
            assert_eq!(all, [1, 2]);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_first_message_wakes_an_event_loop_that_sleeps() {
        let queue = MessageQueue::new();
        assert!(queue.push(1) && !queue.push(2));
        assert!(!queue.wake_up() && queue.wake_up());
        assert_eq!(queue.take(), [1, 2]);
        assert!(!queue.push(3), "the event loop is awake");
        assert!(!queue.fall_asleep());
        assert_eq!(queue.take(), [3]);
        assert!(queue.fall_asleep() && queue.push(4));
    }
}
