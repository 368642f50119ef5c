//! Calls of this worker that have not ended, for a thread that shows them while the event loop may be blocked.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::report::{Call, CallState};
use crate::sync::Mutex;

/// Limits of the texts of a call in bytes. Longer ones are cut.
const METHOD_LIMIT: usize = 24;
const PATH_LIMIT: usize = 256;
/// Longest address: `unix:`, or IPv6 with a zone.
const CLIENT_LIMIT: usize = 64;

/// Number of calls that are kept. Further ones are not shown.
const MAX_CALLS: usize = 4096;

/// Marks the end of a text that was cut.
const CUT: &str = "…";

/// Facts about a call that change.
pub trait LiveCall: Send + Sync {
    /// Returns the facts of now. On any thread.
    fn progress(&self) -> Progress;
}

/// What a call does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub application: String,
    pub state: CallState,
    /// Time since its arrival.
    pub time: Duration,
    /// Time since its start.
    pub running_time: Option<Duration>,
    pub thread: Option<String>,
    pub timed_out: bool,
}

/// Calls of a worker.
#[derive(Default)]
pub struct LiveCalls(Mutex<Slots>);

#[derive(Default)]
struct Slots {
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
}

/// Place of a call among the live calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(usize);

struct Entry {
    number: u64,
    method: Text<METHOD_LIMIT>,
    path: Text<PATH_LIMIT>,
    client: Text<CLIENT_LIMIT>,
    call: Weak<dyn LiveCall>,
}

/// Text without memory of its own.
struct Text<const LIMIT: usize> {
    bytes: [u8; LIMIT],
    length: usize,
    is_cut: bool,
}

impl<const LIMIT: usize> Text<LIMIT> {
    fn new(text: &[u8]) -> Self {
        let length = text.len().min(LIMIT);
        let mut bytes = [0; LIMIT];
        bytes[..length].copy_from_slice(&text[..length]);
        Self { bytes, length, is_cut: text.len() > LIMIT }
    }

    /// Returns the text, of which other bytes than those of UTF-8 are replaced.
    fn text(&self) -> String {
        let mut bytes = &self.bytes[..self.length];
        if self.is_cut
            && let Err(error) = str::from_utf8(bytes)
            && error.error_len().is_none()
        {
            // The cut is in the middle of a character.
            bytes = &bytes[..error.valid_up_to()];
        }
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        if self.is_cut {
            text.push_str(CUT);
        }
        text
    }
}

impl LiveCalls {
    /// Adds a call. Returns its place, `None` if there are too many calls.
    pub fn add(
        &self,
        number: u64,
        method: &[u8],
        path: &[u8],
        client: &[u8],
        call: Weak<dyn LiveCall>,
    ) -> Option<Place> {
        let entry = Entry { number, method: Text::new(method), path: Text::new(path), client: Text::new(client), call };
        let mut slots = self.0.lock();
        match slots.free.pop() {
            Some(place) => {
                slots.slots[place] = Some(entry);
                Some(Place(place))
            }
            None if slots.slots.len() < MAX_CALLS => {
                slots.slots.push(Some(entry));
                Some(Place(slots.slots.len() - 1))
            }
            None => None,
        }
    }

    /// Removes a call. On any thread.
    pub fn remove(&self, place: Place) {
        let mut slots = self.0.lock();
        let entry = slots.slots.get_mut(place.0).and_then(Option::take);
        if entry.is_some() {
            slots.free.push(place.0);
        }
        drop(slots);
    }

    /// Returns the live calls of the process `pid`, the oldest first. On any thread.
    pub fn list(&self, pid: u32) -> Vec<Call> {
        // Calls are released without the lock, as that may do more than to free memory.
        let mut found: Vec<(u64, Call, Arc<dyn LiveCall>)> = {
            let slots = self.0.lock();
            let live = slots.slots.iter().flatten().filter_map(|entry| {
                let call = entry.call.upgrade()?;
                Some((entry.number, entry.call(pid), call))
            });
            live.collect()
        };
        found.sort_by_key(|(number, ..)| *number);
        let with_progress = found.into_iter().map(|(_, call, live)| {
            let Progress { application, state, time, running_time, thread, timed_out } = live.progress();
            let running_time = running_time.map(|time| time.as_secs_f64());
            Call { application, state, time: time.as_secs_f64(), running_time, thread, timed_out, ..call }
        });
        with_progress.collect()
    }
}

impl Entry {
    /// Returns the call as far as it does not change.
    fn call(&self, pid: u32) -> Call {
        Call {
            id: format!("{pid}.{}", self.number),
            pid,
            method: self.method.text(),
            path: self.path.text(),
            client: self.client.text(),
            ..Call::default()
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Running(Progress);

    impl LiveCall for Running {
        fn progress(&self) -> Progress {
            self.0.clone()
        }
    }

    fn running() -> Arc<dyn LiveCall> {
        Arc::new(Running(Progress {
            application: "a".to_owned(),
            state: CallState::Running,
            time: Duration::from_secs(2),
            running_time: Some(Duration::from_millis(1500)),
            thread: Some("wsgi-1".to_owned()),
            timed_out: false,
        }))
    }

    #[test]
    fn calls_are_shown_until_they_are_removed() {
        let (calls, one, two) = (LiveCalls::default(), running(), running());
        let first = calls.add(7, b"GET", b"/first", b"127.0.0.1", Arc::downgrade(&one)).unwrap();
        let second = calls.add(9, b"POST", b"/second", b"unix:", Arc::downgrade(&two)).unwrap();
        assert_ne!(first, second);
        let all = calls.list(42);
        let Call { id, application, pid, state, method, path, client, time, running_time, .. } = &all[0];
        assert_eq!([id, application, method, path, client], ["42.7", "a", "GET", "/first", "127.0.0.1"]);
        assert_eq!((*pid, *state, *time, *running_time), (42, CallState::Running, 2.0, Some(1.5)));
        assert_eq!(all[1].id, "42.9");
        calls.remove(first);
        calls.remove(first);
        assert_eq!(calls.list(42).len(), 1);
        // Its place is free, for one that came later.
        assert_eq!(calls.add(11, b"GET", b"/third", b"", Arc::downgrade(&one)), Some(first));
        let ids: Vec<_> = calls.list(42).into_iter().map(|call| call.id).collect();
        assert_eq!(ids, ["42.9", "42.11"]);
        // A call that is gone without removal.
        drop(two);
        assert_eq!(calls.list(42).len(), 1);
    }

    #[test]
    fn long_and_strange_texts_are_cut_and_replaced() {
        let (calls, one) = (LiveCalls::default(), running());
        let path = format!("/{}", "ä".repeat(300));
        calls.add(1, &[b'M'; 100], path.as_bytes(), b"\xff<script>", Arc::downgrade(&one)).unwrap();
        let call = &calls.list(1)[0];
        assert_eq!(call.path, format!("/{}…", "ä".repeat(127)));
        assert_eq!(call.method, format!("{}…", "M".repeat(METHOD_LIMIT)));
        assert_eq!(call.client, "\u{fffd}<script>");
    }

    #[test]
    fn the_number_of_calls_is_bounded() {
        let (calls, one) = (LiveCalls::default(), running());
        let add = || calls.add(1, b"GET", b"/", b"", Arc::downgrade(&one));
        let places: Vec<_> = (0..MAX_CALLS).filter_map(|_| add()).collect();
        assert_eq!((places.len(), add()), (MAX_CALLS, None));
        calls.remove(places[3]);
        assert_eq!(add(), Some(places[3]));
    }

    #[test]
    fn calls_are_listed_while_others_come_and_go() {
        let calls = LiveCalls::default();
        std::thread::scope(|scope| {
            for thread in 0..3u64 {
                let calls = &calls;
                scope.spawn(move || {
                    for number in 0..500 {
                        let one = running();
                        let path = format!("/{thread}");
                        let place = calls.add(number, b"GET", path.as_bytes(), b"", Arc::downgrade(&one)).unwrap();
                        calls.remove(place);
                    }
                });
            }
            for _ in 0..200 {
                assert!(calls.list(1).len() <= 3);
            }
        });
        assert!(calls.list(1).is_empty());
    }
}
