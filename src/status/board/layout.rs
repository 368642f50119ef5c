//! Layout of a board: which words are what, by the number of words.

use std::ops::Range;

use super::row;
use super::{applications, events};

/// Fewest words of a board, 56 KiB: somewhat less than what is left of a shared memory zone of 64 KiB.
pub const MIN_WORDS: usize = 56 * 1024 / 8;

/// Most words that are used: beyond, all tables have their longest length.
const MAX_WORDS: usize = 512 * 1024 * 1024 / 8;

/// Marks a board, with the version of this layout. nginx may be reloaded with another version of the module, whose workers
/// find the memory of this one.
pub const MAGIC: u64 = 0x7773_6769_0000_0001;

/// Word with [`MAGIC`].
pub const MAGIC_WORD: usize = 0;
/// Word with the time of the board's creation, in microseconds since the epoch.
pub const CREATED: usize = 1;
/// Word with the number of workers that have been recorded as ended.
pub const ENDED_COUNT: usize = 2;
/// Word with the number of recorded loads.
pub const LOAD_COUNT: usize = 3;
/// Word with the number of recorded failures of calls.
pub const FAILURE_COUNT: usize = 4;
/// First word of the numbers of workers that have ended, by reason.
pub const ENDED_BY_REASON: usize = 5;
const HEADER: usize = 16;

/// Words of the slot of a worker: two cache lines.
pub const SLOT: usize = 16;

/// Number of ended workers that are kept.
const ENDED: usize = 32;

/// Places of the tables of a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of slots for workers.
    pub slots: usize,
    /// Number of applications.
    pub applications: usize,
    /// Number of rows: counters of an application in a slot.
    pub rows: usize,
    /// Words of an event.
    pub event_words: usize,
    /// Number of kept loads.
    pub loads: usize,
    /// Number of kept failures of calls.
    pub failures: usize,
}

impl Layout {
    /// Returns the layout of a board with so many words, `None` if these are too few.
    pub fn of(words: usize) -> Option<Self> {
        if words < MIN_WORDS {
            return None;
        }
        let words = words.min(MAX_WORDS);
        let events = words / 4;
        let event_words = (events / 32).clamp(events::MIN_WORDS, events::MAX_WORDS);
        let events = events / event_words;
        // Failures of calls may be many. They are not to replace the loads.
        let loads = events / 4;
        let mut layout = Self {
            slots: (words / 512).clamp(16, 1024),
            applications: (words / 2048).clamp(8, 256),
            rows: 0,
            event_words,
            loads,
            failures: events - loads,
        };
        layout.rows = (words - layout.row(0).start) / row::WORDS;
        Some(layout)
    }

    pub fn slot(&self, index: usize) -> Range<usize> {
        entry(HEADER, SLOT, index)
    }

    /// Words before the tables after the slots.
    pub fn head(&self) -> usize {
        self.slot(self.slots).start
    }

    pub fn ended(&self) -> Range<usize> {
        let start = self.slot(self.slots).start;
        start..start + ENDED * events::ENDED_WORDS
    }

    pub fn load_events(&self) -> Range<usize> {
        let start = self.ended().end;
        start..start + self.loads * self.event_words
    }

    pub fn failure_events(&self) -> Range<usize> {
        let start = self.load_events().end;
        start..start + self.failures * self.event_words
    }

    pub fn application(&self, index: usize) -> Range<usize> {
        entry(self.failure_events().end, applications::WORDS, index)
    }

    pub fn row(&self, index: usize) -> Range<usize> {
        entry(self.application(self.applications).start, row::WORDS, index)
    }
}

fn entry(start: usize, words: usize, index: usize) -> Range<usize> {
    let start = start + index * words;
    start..start + words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tables_fit_in_any_size() {
        assert_eq!(Layout::of(MIN_WORDS - 1), None);
        let sizes = (MIN_WORDS..MIN_WORDS + 2000).chain((1..400).map(|times| times * MIN_WORDS));
        for words in sizes.chain([MAX_WORDS, usize::MAX / 8]) {
            let layout = Layout::of(words).unwrap();
            assert!(layout.row(layout.rows).start <= words, "{words}");
            assert!(layout.rows >= 19 && layout.loads >= 1 && layout.failures >= 3, "{words} {layout:?}");
            let event_words = layout.load_events().len() + layout.failure_events().len();
            assert!(words > MAX_WORDS || (words / 5..=words / 4).contains(&event_words), "{words} {layout:?}");
        }
    }

    #[test]
    fn the_header_has_a_word_for_each_reason() {
        assert!(ENDED_BY_REASON + events::Goodbye::ALL.len() <= HEADER);
    }

    #[test]
    fn a_megabyte_is_enough_for_hundreds_of_workers_and_applications() {
        let layout = Layout::of(1024 * 1024 / 8).unwrap();
        assert!(layout.slots >= 256 && layout.applications >= 64 && layout.rows >= 400, "{layout:?}");
    }
}
