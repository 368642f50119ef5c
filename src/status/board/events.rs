//! Rings of records: the last ended workers, loads, and failures of calls. All workers write to them, from any thread.
//!
//! A record has a checksum: one that is being written, or whose writer has died, does not count.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use super::text::{self, BYTES, cut_middle};
use crate::status::report::{EndedWorker, Event, EventKind};

/// Words of a record before its contents: its number, from 1; its checksum; the number of words of its contents.
const NUMBER: usize = 0;
const CHECKSUM: usize = 1;
const LENGTH: usize = 2;
const CONTENTS: usize = 3;

/// Words of the record of an ended worker.
pub const ENDED_WORDS: usize = 10;

/// Fewest and most words of the record of an event.
pub const MIN_WORDS: usize = 1024 / BYTES;
pub const MAX_WORDS: usize = 8 * 1024 / BYTES;

/// Contents of an event: time, kind, pid, lengths of the three texts, and the texts, each in words of its own.
const EVENT_TEXTS: usize = 6;

/// Limits of the texts in bytes; the third one has the rest of the record.
const APPLICATION_LIMIT: usize = 256;
const SUMMARY_LIMIT: usize = 256;

/// Reason why a worker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// It has left without a word.
    Crash = 0,
    Reload = 1,
    Stop = 2,
    MaxRequests = 3,
    MaxMemory = 4,
    StuckThreads = 5,
    NewCode = 6,
}

impl Goodbye {
    pub const ALL: [Self; 7] =
        [Self::Crash, Self::Reload, Self::Stop, Self::MaxRequests, Self::MaxMemory, Self::StuckThreads, Self::NewCode];

    /// Returns the reason with this number in a word.
    pub fn of_word(word: u64) -> Self {
        Self::ALL.into_iter().find(|reason| *reason as u64 == word).unwrap_or(Self::Crash)
    }

    /// Returns the reason as the report has it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Reload => "reload",
            Self::Stop => "stop",
            Self::MaxRequests => "max_requests",
            Self::MaxMemory => "max_memory",
            Self::StuckThreads => "stuck_threads",
            Self::NewCode => "new_code",
        }
    }
}

/// Writer of a ring, whose records have `record` words each.
pub struct Ring<'a> {
    /// Word with the number of records that were written.
    pub count: &'a AtomicU64,
    pub words: &'a [AtomicU64],
    pub record: usize,
}

impl Ring<'_> {
    /// Writes a record in place of the oldest one.
    pub fn push(&self, contents: &[u64]) {
        let places = self.words.len() / self.record;
        let before = self.count.fetch_add(1, Relaxed);
        let number = before.wrapping_add(1);
        let place = usize::try_from(before % places as u64).unwrap_or_default() * self.record;
        let words = &self.words[place..place + self.record];
        words[CHECKSUM].store(0, Relaxed);
        words[NUMBER].store(number, Relaxed);
        words[LENGTH].store(contents.len() as u64, Relaxed);
        for (word, value) in words[CONTENTS..].iter().zip(contents) {
            word.store(*value, Relaxed);
        }
        words[CHECKSUM].store(checksum(number, contents), Relaxed);
    }
}

fn checksum(number: u64, contents: &[u64]) -> u64 {
    text::hash_words([number, contents.len() as u64].into_iter().chain(contents.iter().copied()))
}

/// Returns the contents of all complete records of a ring, the newest first.
fn records(words: &[u64], record: usize) -> Vec<&[u64]> {
    let complete = words.chunks_exact(record).filter_map(|words| {
        let length = usize::try_from(words[LENGTH]).ok()?;
        let contents = words[CONTENTS..].get(..length)?;
        (words[CHECKSUM] == checksum(words[NUMBER], contents)).then_some((words[NUMBER], contents))
    });
    let mut complete: Vec<_> = complete.collect();
    complete.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    complete.into_iter().map(|(_, contents)| contents).collect()
}

/// Returns the time of day in microseconds since the epoch.
pub fn now() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or_default()
}

/// Returns a time in microseconds as the report has it.
pub fn seconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1e6
}

/// A worker that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub pid: u32,
    pub number: u32,
    /// Times in microseconds since the epoch.
    pub started: u64,
    pub ended: u64,
    pub calls: u64,
    pub reason: Goodbye,
}

impl Ended {
    pub fn contents(&self) -> [u64; 6] {
        let Self { pid, number, started, ended, calls, reason } = *self;
        [u64::from(pid), u64::from(number), started, ended, calls, reason as u64]
    }

    pub fn report(&self) -> EndedWorker {
        EndedWorker {
            pid: self.pid,
            number: self.number,
            process_group: None,
            started: seconds(self.started),
            ended: seconds(self.ended),
            calls: self.calls,
            reason: self.reason.text().to_owned(),
        }
    }
}

/// Returns the ended workers of a ring, the newest first.
pub fn read_ended(words: &[u64]) -> impl Iterator<Item = Ended> {
    records(words, ENDED_WORDS).into_iter().filter_map(|contents| {
        let [pid, number, started, ended, calls, reason] = *contents.first_chunk()?;
        let (pid, number) = (u32::try_from(pid).ok()?, u32::try_from(number).ok()?);
        Some(Ended { pid, number, started, ended, calls, reason: Goodbye::of_word(reason) })
    })
}

/// Something to be recorded.
#[derive(Clone, Copy, Debug)]
pub struct NewEvent<'a> {
    pub kind: EventKind,
    pub application: &'a str,
    /// One line.
    pub summary: &'a str,
    /// Traceback, if any.
    pub text: &'a str,
}

const KINDS: [EventKind; 5] =
    [EventKind::Loaded, EventKind::Reloaded, EventKind::LoadFailed, EventKind::Exception, EventKind::TimedOut];

impl NewEvent<'_> {
    /// Returns the contents of a record with `record` words.
    pub fn contents(&self, time: u64, pid: u32, record: usize) -> Vec<u64> {
        let application = cut_middle(self.application, APPLICATION_LIMIT);
        let summary = cut_middle(self.summary, SUMMARY_LIMIT);
        let used = EVENT_TEXTS + [&application, &summary].map(|text| text.len().div_ceil(BYTES)).iter().sum::<usize>();
        let text = cut_middle(self.text, (record - CONTENTS).saturating_sub(used) * BYTES);
        let kind = KINDS.iter().position(|kind| *kind == self.kind).unwrap_or_default();
        let texts = [application, summary, text];
        let lengths = texts.each_ref().map(|text| text.len() as u64);
        let mut contents = vec![time, kind as u64, u64::from(pid)];
        contents.extend(lengths);
        for text in &texts {
            let chunks = text.as_bytes().chunks(BYTES);
            contents.extend(chunks.map(|chunk| {
                let mut bytes = [0; BYTES];
                bytes[..chunk.len()].copy_from_slice(chunk);
                u64::from_ne_bytes(bytes)
            }));
        }
        contents
    }
}

/// Returns the events of a ring, the newest first.
pub fn read_events(words: &[u64], record: usize) -> impl Iterator<Item = Event> {
    records(words, record).into_iter().filter_map(|contents| {
        let (head, mut rest) = contents.split_first_chunk::<EVENT_TEXTS>()?;
        let [time, kind, pid, lengths @ ..] = *head;
        let mut next = |length: u64| {
            let words = usize::try_from(length.div_ceil(BYTES as u64)).ok()?;
            let (text, others) = rest.split_at_checked(words)?;
            rest = others;
            Some(String::from_utf8_lossy(&text::read(text, length)).into_owned())
        };
        Some(Event {
            time: seconds(time),
            kind: *KINDS.get(usize::try_from(kind).ok()?)?,
            application: next(lengths[0])?,
            process_group: None,
            pid: u32::try_from(pid).ok()?,
            summary: next(lengths[1])?,
            text: next(lengths[2])?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(count: usize) -> Vec<AtomicU64> {
        (0..count).map(|_| AtomicU64::new(0)).collect()
    }

    fn values(words: &[AtomicU64]) -> Vec<u64> {
        words.iter().map(|word| word.load(Relaxed)).collect()
    }

    fn event<'a>(summary: &'a str, text: &'a str) -> NewEvent<'a> {
        NewEvent { kind: EventKind::Exception, application: "/srv/a.py", summary, text }
    }

    #[test]
    fn a_ring_keeps_the_newest_records() {
        let (count, words) = (AtomicU64::new(0), words(4 * MIN_WORDS));
        let ring = Ring { count: &count, words: &words, record: MIN_WORDS };
        assert_eq!(read_events(&values(&words), MIN_WORDS).count(), 0);
        for number in 0..6 {
            ring.push(&event(&format!("error {number}"), "").contents(1_500_000, 7, MIN_WORDS));
        }
        let all: Vec<_> = read_events(&values(&words), MIN_WORDS).collect();
        let summaries: Vec<_> = all.iter().map(|event| event.summary.as_str()).collect();
        assert_eq!(summaries, ["error 5", "error 4", "error 3", "error 2"]);
        let Event { time, kind, application, pid, text, .. } = &all[0];
        assert_eq!((*time, *kind, application.as_str(), *pid), (1.5, EventKind::Exception, "/srv/a.py", 7));
        assert_eq!(text, "");
    }

    #[test]
    fn long_texts_are_cut_and_fill_the_record() {
        let (count, words) = (AtomicU64::new(0), words(MIN_WORDS));
        let ring = Ring { count: &count, words: &words, record: MIN_WORDS };
        let long = "line ä\n".repeat(1000);
        let new = NewEvent { kind: EventKind::LoadFailed, application: &long, summary: &long, text: &long };
        ring.push(&new.contents(0, 1, MIN_WORDS));
        let read = read_events(&values(&words), MIN_WORDS).next().unwrap();
        for text in [&read.application, &read.summary, &read.text] {
            assert!(text.starts_with("line ä\nline") && text.ends_with("line ä\n") && text.contains('…'), "{text}");
        }
        assert!(read.text.len() > MIN_WORDS * BYTES - APPLICATION_LIMIT - SUMMARY_LIMIT - 100);
    }

    #[test]
    fn an_incomplete_record_does_not_count() {
        let (count, words) = (AtomicU64::new(0), words(2 * MIN_WORDS));
        let ring = Ring { count: &count, words: &words, record: MIN_WORDS };
        ring.push(&event("first", "text").contents(0, 1, MIN_WORDS));
        ring.push(&event("second", "text").contents(0, 1, MIN_WORDS));
        words[CONTENTS].store(77, Relaxed);
        let read: Vec<_> = read_events(&values(&words), MIN_WORDS).map(|event| event.summary).collect();
        assert_eq!(read, ["second"]);
    }

    #[test]
    fn ended_workers_come_back() {
        let (count, words) = (AtomicU64::new(0), words(3 * ENDED_WORDS));
        let ring = Ring { count: &count, words: &words, record: ENDED_WORDS };
        for reason in Goodbye::ALL {
            let ended = Ended { pid: 10, number: 1, started: 1_000_000, ended: 2_500_000, calls: 9, reason };
            ring.push(&ended.contents());
        }
        let read: Vec<_> = read_ended(&values(&words)).map(|ended| ended.report()).collect();
        assert_eq!(
            read.iter().map(|ended| &*ended.reason).collect::<Vec<_>>(),
            ["new_code", "stuck_threads", "max_memory"]
        );
        assert_eq!((read[0].pid, read[0].number, read[0].started, read[0].ended, read[0].calls), (10, 1, 1.0, 2.5, 9));
        assert_eq!(Goodbye::of_word(99), Goodbye::Crash);
    }

    #[test]
    fn concurrent_writers_leave_whole_records() {
        let (count, words) = (AtomicU64::new(0), words(4 * MIN_WORDS));
        let ring = Ring { count: &count, words: &words, record: MIN_WORDS };
        std::thread::scope(|scope| {
            for letter in ["a", "b", "c", "d"] {
                let ring = &ring;
                scope.spawn(move || {
                    for round in 0..500 {
                        let text = letter.repeat(round);
                        ring.push(&event(letter, &text).contents(0, 1, MIN_WORDS));
                    }
                });
            }
            for _ in 0..500 {
                for read in read_events(&values(&words), MIN_WORDS) {
                    let letter = read.summary.chars().next().unwrap();
                    assert!(read.text.chars().all(|character| character == letter || character == '…'), "{read:?}");
                }
            }
        });
        assert!(read_events(&values(&words), MIN_WORDS).count() >= 1);
    }
}
