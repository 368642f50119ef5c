//! Calls of this worker that have not ended, for a thread that shows them while the event loop may be blocked.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::report::{Call, CallState};
use crate::sync::Mutex;

/// Limits of the texts of a call in bytes. Longer ones are cut.
const METHOD_LIMIT: usize = 24;
const PATH_LIMIT: usize = 256;
/// Longest address: IPv6 with a zone.
const CLIENT_LIMIT: usize = 64;

/// Number of calls that are kept. Further ones are not shown.
const MAX_CALLS: usize = 4096;

/// Marks the end of a text that was cut.
const CUT: &str = "…";

/// Request of a call, which does not change.
pub trait LiveRequest: Send + Sync {
    fn method(&self) -> &[u8];

    /// Returns path and query string as the client has sent them.
    fn target(&self) -> &[u8];

    /// Returns the address of the client.
    fn client(&self) -> &[u8];
}

/// A call that has not ended.
pub trait LiveCall: Send + Sync {
    /// Returns its request, if it is known. On any thread.
    fn request(&self) -> Option<&dyn LiveRequest>;

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

/// Calls of a worker. A call costs no more than two locks and its place.
#[derive(Default)]
pub struct LiveCalls(Mutex<Slots>);

#[derive(Default)]
struct Slots {
    slots: Vec<Slot>,
    /// The first free slot, if it is less than their number.
    free: usize,
}

enum Slot {
    /// It is free. So is the next one, if it is less than the number of slots.
    Free(usize),
    /// It has a call with this number.
    Used(u64, Weak<dyn LiveCall>),
}

/// Place of a call among the live calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(pub usize);

impl LiveCalls {
    /// Adds a call. Returns its place, `None` if there are too many calls.
    pub fn add(&self, number: u64, call: Weak<dyn LiveCall>) -> Option<Place> {
        let mut slots = self.0.lock();
        let place = slots.free;
        if place == slots.slots.len() {
            if place == MAX_CALLS {
                return None;
            }
            slots.slots.push(Slot::Free(place + 1));
        }
        let slot = slots.slots.get_mut(place)?;
        if let Slot::Free(next) = std::mem::replace(slot, Slot::Used(number, call)) {
            slots.free = next;
        }
        Some(Place(place))
    }

    /// Removes a call. On any thread.
    pub fn remove(&self, Place(place): Place) {
        let mut slots = self.0.lock();
        let next = slots.free;
        let removed = match slots.slots.get_mut(place) {
            Some(slot @ Slot::Used(..)) => std::mem::replace(slot, Slot::Free(next)),
            Some(Slot::Free(_)) | None => return,
        };
        slots.free = place;
        // It is released without the lock.
        drop(slots);
        drop(removed);
    }

    /// Returns the live calls of the process `pid`, the oldest first; with `query` their paths have the query string. On any
    /// thread.
    pub fn list(&self, pid: u32, query: bool) -> Vec<Call> {
        // Calls are released without the lock, as that may do more than to free memory.
        let mut found: Vec<(u64, Arc<dyn LiveCall>)> = {
            let slots = self.0.lock();
            let live = slots.slots.iter().filter_map(|slot| match slot {
                Slot::Used(number, call) => Some((*number, call.upgrade()?)),
                Slot::Free(_) => None,
            });
            live.collect()
        };
        found.sort_by_key(|(number, _)| *number);
        let calls = found.into_iter().filter_map(|(number, live)| {
            let request = live.request()?;
            let Progress { application, state, time, running_time, thread, timed_out } = live.progress();
            let target = request.target();
            let end = target.iter().position(|byte| *byte == b'?').filter(|_| !query).unwrap_or(target.len());
            Some(Call {
                id: format!("{pid}.{number}"),
                application,
                process_group: None,
                pid,
                state,
                method: text(request.method(), METHOD_LIMIT),
                path: text(&target[..end], PATH_LIMIT),
                client: text(request.client(), CLIENT_LIMIT),
                time: time.as_secs_f64(),
                running_time: running_time.map(|time| time.as_secs_f64()),
                thread,
                timed_out,
            })
        });
        calls.collect()
    }
}

/// Returns a text of at most `limit` bytes, of which other bytes than those of UTF-8 are replaced.
fn text(bytes: &[u8], limit: usize) -> String {
    if bytes.len() <= limit {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut kept = &bytes[..limit];
    if let Err(error) = str::from_utf8(kept)
        && error.error_len().is_none()
    {
        // The cut is in the middle of a character.
        kept = &kept[..error.valid_up_to()];
    }
    format!("{}{CUT}", String::from_utf8_lossy(kept))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Running([Vec<u8>; 3]);

    impl LiveCall for Running {
        fn request(&self) -> Option<&dyn LiveRequest> {
            Some(self)
        }

        fn progress(&self) -> Progress {
            Progress {
                application: "a".to_owned(),
                state: CallState::Running,
                time: Duration::from_secs(2),
                running_time: Some(Duration::from_millis(1500)),
                thread: Some("wsgi-1".to_owned()),
                timed_out: false,
            }
        }
    }

    impl LiveRequest for Running {
        fn method(&self) -> &[u8] {
            &self.0[0]
        }

        fn target(&self) -> &[u8] {
            &self.0[1]
        }

        fn client(&self) -> &[u8] {
            &self.0[2]
        }
    }

    fn call(method: &[u8], target: &[u8], client: &[u8]) -> Arc<dyn LiveCall> {
        Arc::new(Running([method, target, client].map(<[u8]>::to_vec)))
    }

    fn running() -> Arc<dyn LiveCall> {
        call(b"GET", b"/", b"")
    }

    #[test]
    fn calls_are_shown_until_they_are_removed() {
        let calls = LiveCalls::default();
        let (one, two) = (call(b"GET", b"/first", b"127.0.0.1"), call(b"POST", b"/second", b"unix:"));
        let first = calls.add(7, Arc::downgrade(&one)).unwrap();
        let second = calls.add(9, Arc::downgrade(&two)).unwrap();
        assert_ne!(first, second);
        let all = calls.list(42, false);
        let Call { id, application, pid, state, method, path, client, time, running_time, .. } = &all[0];
        assert_eq!([id, application, method, path, client], ["42.7", "a", "GET", "/first", "127.0.0.1"]);
        assert_eq!((*pid, *state, *time, *running_time), (42, CallState::Running, 2.0, Some(1.5)));
        assert_eq!(all[1].id, "42.9");
        calls.remove(first);
        calls.remove(first);
        assert_eq!(calls.list(42, false).len(), 1);
        // Its place is free, for one that came later.
        assert_eq!(calls.add(11, Arc::downgrade(&one)), Some(first));
        let ids: Vec<_> = calls.list(42, false).into_iter().map(|call| call.id).collect();
        assert_eq!(ids, ["42.9", "42.11"]);
        // A call that is gone without removal.
        drop(two);
        assert_eq!(calls.list(42, false).len(), 1);
    }

    #[test]
    fn query_strings_are_shown_only_on_request() {
        let (calls, one) = (LiveCalls::default(), call(b"GET", b"/a?token=secret?x", b""));
        calls.add(1, Arc::downgrade(&one)).unwrap();
        let path = |query| calls.list(1, query).remove(0).path;
        assert_eq!([path(false), path(true)], ["/a", "/a?token=secret?x"]);
    }

    #[test]
    fn long_and_strange_texts_are_cut_and_replaced() {
        let path = format!("/{}", "ä".repeat(300));
        let (calls, one) = (LiveCalls::default(), call(&[b'M'; 100], path.as_bytes(), b"\xff<script>"));
        calls.add(1, Arc::downgrade(&one)).unwrap();
        let call = &calls.list(1, false)[0];
        assert_eq!(call.path, format!("/{}…", "ä".repeat(127)));
        assert_eq!(call.method, format!("{}…", "M".repeat(METHOD_LIMIT)));
        assert_eq!(call.client, "\u{fffd}<script>");
    }

    #[test]
    fn the_number_of_calls_is_bounded() {
        let (calls, one) = (LiveCalls::default(), running());
        let add = || calls.add(1, Arc::downgrade(&one));
        let places: Vec<_> = (0..MAX_CALLS).filter_map(|_| add()).collect();
        assert_eq!((places.len(), add()), (MAX_CALLS, None));
        calls.remove(places[3]);
        assert_eq!(add(), Some(places[3]));
    }

    #[test]
    fn calls_are_listed_while_others_come_and_go() {
        let calls = LiveCalls::default();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for number in 0..500 {
                        let one = running();
                        let place = calls.add(number, Arc::downgrade(&one)).unwrap();
                        calls.remove(place);
                    }
                });
            }
            for _ in 0..200 {
                assert!(calls.list(1, false).len() <= 3);
            }
        });
        assert!(calls.list(1, false).is_empty());
    }
}
