//! Counters of one application in one slot.
//!
//! They never go down: the sum over all rows is that of all workers there have been. A copy of the counters at the start of
//! the present worker of the slot, the base, gives those of this worker.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::status::histogram::{self, add};
use crate::status::report::{Counters, Responses};

/// Word that says whose row this is: number of the slot + 1 above, number of the application + 1 below; 0 if the row is
/// free.
pub const KEY: usize = 0;

/// Numbers of calls in the present worker: of those that have come, that a thread has started, that have ended after that,
/// and that have ended without. Threads of the pool change the second one.
const ENTERED: usize = 1;
const STARTED: usize = 2;
const LEFT_STARTED: usize = 3;
const LEFT_UNSTARTED: usize = 4;

/// Start of the counters.
const COUNTERS: usize = 8;

/// Counters, by their place among the counters.
const CALLS: usize = 0;
/// Five classes of status, from 1xx to 5xx.
const CLASSES: usize = 1;
const QUEUE_FULL: usize = 6;
const QUEUE_TIMEOUT: usize = 7;
const TIMED_OUT: usize = 8;
const EXCEPTIONS: usize = 9;
const CLIENT_GONE: usize = 10;
const RECEIVED: usize = 11;
const SENT: usize = 12;
const QUEUE_TIME: usize = 13;
const HEADER_TIME: usize = QUEUE_TIME + histogram::WORDS;
const TOTAL_TIME: usize = HEADER_TIME + histogram::WORDS;
const COUNT: usize = TOTAL_TIME + histogram::WORDS;

/// Start of the base.
const BASE: usize = COUNTERS + COUNT;

/// Words of a row: whole cache lines.
pub const WORDS: usize = (BASE + COUNT).next_multiple_of(8);

/// Reason why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `wsgi_queue` calls waited already.
    QueueFull,
    /// The call waited for `wsgi_queue_timeout`.
    QueueTimeout,
}

/// Facts about a call that has ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ended {
    /// A thread has started the call.
    pub started: bool,
    /// First digit of the status of the response; 0 if there was none.
    pub class: u16,
    pub refused: Option<Refusal>,
    pub timed_out: bool,
    /// The client left before the end of the response.
    pub client_gone: bool,
    /// Bytes of the bodies.
    pub received: u64,
    pub sent: u64,
    /// Time in microseconds that the call waited for a thread; not counted for a call that was refused at once.
    pub queue_time: Option<u64>,
    /// Time in microseconds from the start of the call to its response headers, if it gave any.
    pub header_time: Option<u64>,
    /// Time in microseconds from the arrival of the call to its end; not counted for a call that was refused at once.
    pub total_time: Option<u64>,
}

/// Writer of a row. The event loop thread of the slot's worker records, pool threads note starts and
/// exceptions.
#[derive(Clone, Copy, Debug)]
pub struct Row(&'static [AtomicU64; WORDS]);

/// Figures of a row.
#[derive(Clone, Copy)]
pub struct RowValues<'a>(&'a [u64; WORDS]);

impl Row {
    /// Returns the row in these words.
    pub fn of(words: &'static [AtomicU64]) -> Option<Self> {
        words.first_chunk().map(Self)
    }

    pub(super) fn key(&self) -> &AtomicU64 {
        &self.0[KEY]
    }

    /// Begins the figures of another worker.
    pub(super) fn reset(&self) {
        for gauge in [ENTERED, STARTED, LEFT_STARTED, LEFT_UNSTARTED] {
            self.0[gauge].store(0, Relaxed);
        }
        for counter in 0..COUNT {
            self.0[BASE + counter].store(self.0[COUNTERS + counter].load(Relaxed), Relaxed);
        }
    }

    /// Returns the number of calls that have ended in the present worker.
    pub(super) fn calls(&self) -> u64 {
        self.0[COUNTERS + CALLS].load(Relaxed).saturating_sub(self.0[BASE + CALLS].load(Relaxed))
    }

    /// Notes that a call has come. On the event loop thread.
    pub fn enter(&self) {
        self.add(ENTERED, 1);
    }

    /// Notes that a thread starts a call. On any thread.
    pub fn start(&self) {
        self.0[STARTED].fetch_add(1, Relaxed);
    }

    /// Counts an exception. On any thread.
    pub fn raised(&self) {
        self.0[COUNTERS + EXCEPTIONS].fetch_add(1, Relaxed);
    }

    /// Counts a call that has ended. On the event loop thread.
    ///
    /// Each request runs this, so it has neither loops nor divisions that it can do without.
    pub fn record(&self, ended: &Ended) {
        self.add(if ended.started { LEFT_STARTED } else { LEFT_UNSTARTED }, 1);
        self.add(COUNTERS + CALLS, 1);
        if let class @ 1..=5 = ended.class {
            self.add(COUNTERS + CLASSES - 1 + usize::from(class), 1);
        }
        self.add(COUNTERS + RECEIVED, ended.received);
        self.add(COUNTERS + SENT, ended.sent);
        self.add_time::<QUEUE_TIME>(ended.queue_time);
        self.add_time::<HEADER_TIME>(ended.header_time);
        self.add_time::<TOTAL_TIME>(ended.total_time);
        if ended.refused.is_some() || ended.timed_out || ended.client_gone {
            self.record_failure(ended);
        }
    }

    #[cold]
    fn record_failure(&self, ended: &Ended) {
        match ended.refused {
            Some(Refusal::QueueFull) => self.add(COUNTERS + QUEUE_FULL, 1),
            Some(Refusal::QueueTimeout) => self.add(COUNTERS + QUEUE_TIMEOUT, 1),
            None => {}
        }
        self.add(COUNTERS + TIMED_OUT, u64::from(ended.timed_out));
        self.add(COUNTERS + CLIENT_GONE, u64::from(ended.client_gone));
    }

    fn add(&self, word: usize, value: u64) {
        add(&self.0[word], value);
    }

    fn add_time<const HISTOGRAM: usize>(&self, time: Option<u64>) {
        if let Some(time) = time
            && let Some(words) = self.0[COUNTERS + HISTOGRAM..].first_chunk()
        {
            histogram::record(words, time);
        }
    }
}

impl<'a> RowValues<'a> {
    /// Returns the row in these words.
    pub fn of(words: &'a [u64]) -> Option<Self> {
        words.first_chunk().map(Self)
    }

    /// Returns the indices of the slot and the application, `None` if the row is free.
    pub fn owner(&self) -> Option<(usize, usize)> {
        let (slot, application) = (self.0[KEY] >> 32, self.0[KEY] & 0xffff_ffff);
        let index = |number: u64| usize::try_from(number.checked_sub(1)?).ok();
        Some((index(slot)?, index(application)?))
    }

    /// Returns the number of calls that run, and of those that wait for a thread.
    pub fn gauges(&self) -> (u64, u64) {
        let [entered, started, left_started, left_unstarted] =
            [ENTERED, STARTED, LEFT_STARTED, LEFT_UNSTARTED].map(|gauge| self.0[gauge]);
        let queued = entered.saturating_sub(started).saturating_sub(left_unstarted);
        (started.saturating_sub(left_started), queued)
    }

    /// Returns the counters of all workers that have had the row.
    pub fn totals(&self) -> Values {
        let mut values = [0; COUNT];
        values.copy_from_slice(&self.0[COUNTERS..BASE]);
        Values(values)
    }

    /// Returns the counters of the present worker.
    pub fn since_start(&self) -> Values {
        let mut values = self.totals();
        for (value, base) in values.0.iter_mut().zip(&self.0[BASE..]) {
            *value = value.saturating_sub(*base);
        }
        values
    }
}

/// Values of all counters.
#[derive(Clone)]
pub struct Values([u64; COUNT]);

impl Default for Values {
    fn default() -> Self {
        Self([0; COUNT])
    }
}

impl Values {
    /// Adds the values of another row.
    pub fn add(&mut self, other: &Self) {
        for (value, other) in self.0.iter_mut().zip(&other.0) {
            *value = value.saturating_add(*other);
        }
    }

    /// Returns the counters as the report has them.
    pub fn counters(&self) -> Counters {
        let values = &self.0;
        let histogram = |start: usize| values[start..].first_chunk().map(histogram::read).unwrap_or_default();
        Counters {
            calls: values[CALLS],
            responses: Responses {
                informational: values[CLASSES],
                successful: values[CLASSES + 1],
                redirection: values[CLASSES + 2],
                client_error: values[CLASSES + 3],
                server_error: values[CLASSES + 4],
            },
            refused_queue_full: values[QUEUE_FULL],
            refused_queue_timeout: values[QUEUE_TIMEOUT],
            timed_out: values[TIMED_OUT],
            exceptions: values[EXCEPTIONS],
            client_gone: values[CLIENT_GONE],
            bytes_received: values[RECEIVED],
            bytes_sent: values[SENT],
            queue_time: histogram(QUEUE_TIME),
            header_time: histogram(HEADER_TIME),
            total_time: histogram(TOTAL_TIME),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row::of((0..WORDS).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak()).unwrap()
    }

    fn values(row: Row) -> Vec<u64> {
        row.0.iter().map(|word| word.load(Relaxed)).collect()
    }

    #[test]
    fn each_fact_has_its_counter() {
        let row = row();
        let time = Some(3000);
        let one = Ended { started: true, class: 2, received: 5, sent: 7, ..Ended::default() };
        row.record(&Ended { queue_time: time, header_time: time, total_time: time, ..one });
        row.record(&Ended { class: 3, client_gone: true, ..one });
        row.record(&Ended { class: 4, ..one });
        row.raised();
        row.record(&Ended { class: 5, timed_out: true, ..one });
        row.record(&Ended { class: 1, ..one });
        row.record(&Ended { class: 0, refused: Some(Refusal::QueueFull), ..one });
        row.record(&Ended { class: 9, refused: Some(Refusal::QueueTimeout), ..one });
        let counters = RowValues::of(&values(row)).unwrap().totals().counters();
        assert_eq!(counters.calls, 7);
        let responses = Responses { informational: 1, successful: 1, redirection: 1, client_error: 1, server_error: 1 };
        assert_eq!(counters.responses, responses);
        assert_eq!((counters.refused_queue_full, counters.refused_queue_timeout), (1, 1));
        assert_eq!((counters.timed_out, counters.exceptions, counters.client_gone), (1, 1, 1));
        assert_eq!((counters.bytes_received, counters.bytes_sent), (35, 49));
        for histogram in [counters.queue_time, counters.header_time, counters.total_time] {
            assert_eq!(histogram.count, 1);
            assert!((histogram.sum - 0.003).abs() < 1e-9);
        }
    }

    #[test]
    fn gauges_follow_calls_and_start_with_the_worker() {
        let row = row();
        let gauges = || RowValues::of(&values(row)).unwrap().gauges();
        let (started, waiting) = (Ended { started: true, ..Ended::default() }, Ended::default());
        (0..4).for_each(|_| row.enter());
        assert_eq!(gauges(), (0, 4));
        row.start();
        row.start();
        assert_eq!(gauges(), (2, 2));
        row.record(&started);
        row.record(&waiting);
        assert_eq!(gauges(), (1, 1));
        row.reset();
        assert_eq!(gauges(), (0, 0));
        let all = values(row);
        let all = RowValues::of(&all).unwrap();
        assert_eq!((all.totals().counters().calls, all.since_start().counters().calls), (2, 0));
        row.record(&started);
        assert_eq!(row.calls(), 1);
    }
}
