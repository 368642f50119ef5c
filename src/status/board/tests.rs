//! Tests of a whole board: several workers, crashes, any contents.

use std::cell::Cell;

use super::writer::AttachError;
use super::*;
use crate::status::report::{EventKind, WorkerState};

fn words(count: usize) -> &'static [AtomicU64] {
    (0..count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak()
}

fn board() -> &'static [AtomicU64] {
    words(64 * 1024 / 8)
}

fn identity(pid: u32, number: u32) -> Identity {
    Identity { pid, number, token: u64::from(pid) << 32 }
}

fn attach(words: &'static [AtomicU64], pid: u32, number: u32) -> Writer {
    Writer::attach(words, identity(pid, number), |_| true).unwrap()
}

fn contents(words: &[AtomicU64]) -> Contents {
    read(&snapshot(words), |_| true)
}

/// A call that was answered with 200.
fn success(calls: &Calls) {
    calls.enter();
    calls.start();
    calls.record(&Ended { started: true, class: 2, sent: 5, ..Ended::default() });
}

#[test]
fn workers_add_up() {
    let words = board();
    let (one, two) = (attach(words, 10, 0), attach(words, 11, 1));
    one.set_running();
    let (a1, b1, a2) = (one.calls("a").unwrap(), one.calls("b").unwrap(), two.calls("a").unwrap());
    success(&a1);
    success(&a1);
    success(&b1);
    success(&a2);
    a2.enter();
    a2.enter();
    a2.start();
    a2.raised("ValueError");
    a2.record(&Ended { started: true, class: 5, ..Ended::default() });
    a1.enter();
    a1.start();
    let found = contents(words);
    assert!(found.since > 1e9);
    let [a, b] = &*found.applications else { panic!("{found:?}") };
    assert_eq!((a.name.as_str(), a.counters.calls, a.running, a.queued), ("a", 4, 1, 1));
    assert_eq!((a.counters.responses.successful, a.counters.responses.server_error), (3, 1));
    assert_eq!(a.exceptions.get("ValueError"), Some(&1));
    assert_eq!((b.name.as_str(), b.counters.calls, b.counters.bytes_sent), ("b", 1, 5));
    let [first, second] = &*found.workers else { panic!("{found:?}") };
    assert_eq!((first.pid, first.number, first.calls, first.running, first.queued), (10, 0, 3, 1, 0));
    assert_eq!((first.state, second.state), (WorkerState::Running, WorkerState::Starting));
    assert_eq!((second.pid, second.calls, second.queued, second.token), (11, 2, 1, 11 << 32));
    assert_eq!(first.applications.len(), 2);
    assert!(found.ended.is_empty() && found.events.is_empty());
}

#[test]
fn counters_stay_and_gauges_go_with_a_worker() {
    let words = board();
    let one = attach(words, 10, 0);
    let calls = one.calls("a").unwrap();
    success(&calls);
    calls.enter();
    // Killed in a call.
    let dead = |pid: u32| pid != 10;
    let found = read(&snapshot(words), dead);
    assert!(found.workers.is_empty());
    assert_eq!((found.applications[0].counters.calls, found.applications[0].queued), (1, 0));
    let [ended] = &*found.ended else { panic!("{found:?}") };
    assert_eq!((ended.pid, ended.calls, ended.reason.as_str()), (10, 1, "crash"));
    assert_eq!(found.ended_by_reason["crash"], 1);
    // Its successor takes the slot and the rows.
    let two = Writer::attach(words, identity(12, 0), dead).unwrap();
    let calls = two.calls("a").unwrap();
    success(&calls);
    success(&calls);
    let found = read(&snapshot(words), dead);
    assert_eq!(found.applications[0].counters.calls, 3);
    let [worker] = &*found.workers else { panic!("{found:?}") };
    assert_eq!((worker.pid, worker.calls, worker.queued), (12, 2, 0));
    let [ended] = &*found.ended else { panic!("{found:?}") };
    assert_eq!((ended.pid, ended.number, ended.calls, ended.reason.as_str()), (10, 0, 1, "crash"));
    assert_eq!(found.ended_by_reason["crash"], 1);
    assert!(ended.ended >= ended.started && ended.started > 1e9);
}

#[test]
fn a_worker_that_leaves_says_why() {
    let words = board();
    let one = attach(words, 10, 3);
    assert!(!one.has_successor());
    one.set_draining();
    one.set_running();
    assert_eq!(one.state(), WorkerState::Draining);
    let two = attach(words, 11, 3);
    let three = attach(words, 12, 4);
    assert!(one.has_successor() && !three.has_successor());
    one.say_goodbye(Goodbye::MaxRequests);
    one.say_goodbye(Goodbye::Reload);
    one.leave();
    one.leave();
    two.say_goodbye(Goodbye::Stop);
    // It is killed after that.
    Writer::attach(words, identity(13, 0), |pid| pid != 11).unwrap();
    let found = contents(words);
    let ended: Vec<_> = found.ended.iter().map(|ended| (ended.pid, ended.reason.as_str())).collect();
    assert_eq!(ended, [(11, "stop"), (10, "max_requests")]);
    let reasons: Vec<_> = found.ended_by_reason.iter().filter(|(_, count)| **count > 0).collect();
    assert_eq!(reasons, [(&"max_requests".to_owned(), &1), (&"stop".to_owned(), &1)]);
    let workers: Vec<_> = found.workers.iter().map(|worker| worker.pid).collect();
    assert_eq!(workers, [13, 12]);
}

#[test]
fn a_slot_that_was_being_changed_is_freed() {
    let words = board();
    attach(words, 10, 0);
    let layout = layout::Layout::of(words.len()).unwrap();
    let slot = &words[layout.slot(0)];
    slot[writer::PID].store(10 | writer::CHANGING, Relaxed);
    assert!(contents(words).workers.is_empty());
    // It lives.
    attach(words, 11, 1);
    assert_eq!(slot[writer::PID].load(Relaxed), 10 | writer::CHANGING);
    Writer::attach(words, identity(12, 2), |pid| pid != 10).unwrap();
    assert_eq!(slot[writer::PID].load(Relaxed), 12);
    assert!(contents(words).ended.is_empty());
}

#[test]
fn a_full_board_counts_no_more_and_says_so() {
    let words = board();
    let layout = layout::Layout::of(words.len()).unwrap();
    let mut writers: Vec<_> = (0..layout.slots).map(|slot| attach(words, slot as u32 + 1, slot as u32)).collect();
    let full = Writer::attach(words, identity(1000, 0), |_| true).err();
    assert_eq!(full, Some(AttachError::Full));
    let all = writers.iter().flat_map(|writer| (0..layout.applications).map(|name| writer.calls(&name.to_string())));
    assert_eq!(all.flatten().inspect(success).count(), layout.rows);
    assert!(writers[0].calls("one too many").is_none());
    let found = contents(words);
    assert_eq!(found.applications.iter().map(|one| one.counters.calls).sum::<u64>(), layout.rows as u64);
    // A worker of the next configuration has the rows of the slot that it takes.
    writers.remove(0).leave();
    let next = attach(words, 2000, 0);
    assert!(next.calls("0").is_some());
    let small = Writer::attach(self::words(MIN_WORDS - 1), identity(1, 0), |_| true).err();
    assert_eq!(small, Some(AttachError::TooSmall));
    words[layout::MAGIC_WORD].store(layout::MAGIC + 1, Relaxed);
    assert_eq!(Writer::attach(words, identity(1, 0), |_| true).err(), Some(AttachError::OtherVersion));
    assert_eq!(contents(words), Contents::default());
}

#[test]
fn loads_outlive_many_failures() {
    let words = board();
    let one = attach(words, 10, 0);
    let event = |kind, summary: &str, text: &str| one.record_event(&NewEvent { kind, application: "a", summary, text });
    event(EventKind::Loaded, "loaded in 0.1 s", "");
    event(EventKind::LoadFailed, "SyntaxError", "Traceback");
    for number in 0..100 {
        event(EventKind::Exception, &format!("ValueError: {number}"), "Traceback");
    }
    let found = contents(words).events;
    assert_eq!(found[0].summary, "ValueError: 99");
    assert!(found.iter().any(|event| event.kind == EventKind::LoadFailed && event.text == "Traceback"));
    assert!(found.iter().any(|event| event.kind == EventKind::Loaded && event.pid == 10));
    assert!(found.is_sorted_by(|one, other| one.time >= other.time));
}

/// Random numbers that are the same in each run (xorshift).
struct Random(Cell<u64>);

impl Random {
    fn next(&self) -> u64 {
        let mut value = self.0.get();
        value ^= value << 13;
        value ^= value >> 7;
        value ^= value << 17;
        self.0.replace(value)
    }
}

#[test]
fn any_words_can_be_read() {
    let random = Random(Cell::new(88_172_645_463_325_252));
    let some = || match random.next() % 6 {
        0 => 0,
        1 => u64::MAX,
        2 => random.next() % 300,
        3 => ((random.next() % 40) << 32) | (random.next() % 40),
        4 => layout::MAGIC,
        _ => random.next(),
    };
    for size in [0, 1, MIN_WORDS - 1, MIN_WORDS, MIN_WORDS + 1, 64 * 1024 / 8, 256 * 1024 / 8] {
        for _ in 0..30 {
            let mut words: Vec<u64> = (0..size).map(|_| some()).collect();
            if let Some(magic) = words.first_mut() {
                *magic = layout::MAGIC;
            }
            let found = read(&words, |pid| pid % 2 == 0);
            // No more than there is room for.
            let names = found.applications.iter().map(|one| one.name.len()).sum::<usize>();
            assert!(names <= 3 * 8 * size && found.workers.len() <= size && found.events.len() <= size);
            serde_json::to_vec(&found.applications).unwrap();
        }
    }
}

#[test]
fn a_board_with_single_wrong_words_can_be_read_and_written() {
    let random = Random(Cell::new(42));
    for round in 0..300 {
        let words = board();
        let one = attach(words, 10, 0);
        let calls = one.calls("a").unwrap();
        success(&calls);
        calls.raised("KeyError");
        one.record_event(&NewEvent { kind: EventKind::Exception, application: "a", summary: "s", text: "text" });
        for _ in 0..20 {
            let index = random.next() as usize % words.len();
            let value = if round % 2 == 0 { random.next() } else { random.next() % 50 };
            words[index].store(value, Relaxed);
        }
        contents(words);
        // Whatever a worker before has left.
        if let Ok(next) = Writer::attach(words, identity(11, 1), |pid| pid != 10) {
            if let Some(calls) = next.calls("a") {
                success(&calls);
                calls.raised("ValueError");
            }
            next.record_event(&NewEvent { kind: EventKind::Loaded, application: "a", summary: "s", text: "" });
            one.leave();
            next.leave();
        }
        contents(words);
    }
}

#[test]
fn workers_come_go_and_count_at_the_same_time() {
    const ROUNDS: u32 = 40;
    const CALLS: u64 = 50;
    let words = board();
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let pid = 1 + thread * ROUNDS + round;
                    let writer = attach(words, pid, thread);
                    let calls = ["a", "b"].map(|name| writer.calls(name).unwrap());
                    for _ in 0..CALLS {
                        calls.iter().for_each(success);
                        calls[0].enter();
                        calls[0].start();
                        let ended = Ended { started: true, queue_time: Some(0), ..Ended::default() };
                        calls[0].raised("ValueError");
                        calls[0].record(&ended);
                    }
                    writer.say_goodbye(Goodbye::Reload);
                    writer.leave();
                }
            });
        }
        let mut before = 0;
        for _ in 0..50 {
            let found = contents(words);
            let calls = found.applications.iter().map(|one| one.counters.calls).sum();
            assert!(calls >= before, "{calls} after {before}");
            assert!(found.workers.len() <= 4);
            before = calls;
        }
    });
    let found = contents(words);
    let all = u64::from(4 * ROUNDS);
    let [a, b] = &*found.applications else { panic!("{found:?}") };
    let names = [a.name.as_str(), b.name.as_str()];
    assert!(names == ["a", "b"] || names == ["b", "a"]);
    assert_eq!(a.counters.calls + b.counters.calls, 3 * all * CALLS);
    let exceptions = a.exceptions.get("ValueError").or(b.exceptions.get("ValueError"));
    assert_eq!(exceptions, Some(&(all * CALLS)));
    assert!(found.workers.is_empty());
    assert!(found.ended.iter().all(|ended| ended.reason == "reload" && ended.calls == 3 * CALLS));
}
