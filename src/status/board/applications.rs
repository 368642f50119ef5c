//! Table of applications: the name of each, and its uncaught exceptions by class. All workers write to it.
//!
//! Entries are never removed, so an index means the same for ever.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::text::{self, BYTES, cut_middle};

/// An entry begins with a name.
const NAME: usize = 2 + NAME_TEXT;
/// Words for the text of a name.
const NAME_TEXT: usize = 40;

/// A class of exceptions: a name, and its count.
const CLASS: usize = 3 + CLASS_TEXT;
const CLASS_TEXT: usize = 9;

/// Number of classes of an application. Further classes are counted together, in a word of its own.
pub const CLASSES: usize = 16;

/// Name of further classes in the report.
pub const OTHER: &str = "other";

/// Word with the number of exceptions of further classes.
const OTHER_COUNT: usize = NAME;
/// Start of the classes.
const FIRST_CLASS: usize = NAME + 2;

/// Words of an application.
pub const WORDS: usize = (FIRST_CLASS + CLASSES * CLASS).next_multiple_of(8);

/// A name in the words of an entry: its hash, which claims the entry; its length + 1 once the text is there; the text.
struct Name<'a>(&'a [AtomicU64]);

impl Name<'_> {
    /// Claims the entry for `name`, or finds that it is `name`'s already. Returns false if it has another name.
    fn claim(&self, name: &str) -> bool {
        let hash = text::hash(name.as_bytes());
        match self.0[0].compare_exchange(0, hash, SeqCst, SeqCst) {
            Ok(_) => {
                let text = cut_middle(name, (self.0.len() - 2) * BYTES);
                text::write(&self.0[2..], text.as_bytes());
                self.0[1].store(text.len() as u64 + 1, SeqCst);
                true
            }
            Err(found) => found == hash,
        }
    }
}

/// Returns the name in these words, `None` if the entry is free, or its writer has died.
fn read_name(words: &[u64]) -> Option<String> {
    let length = words[1].checked_sub(1).filter(|_| words[0] != 0)?;
    Some(String::from_utf8_lossy(&text::read(&words[2..], length)).into_owned())
}

/// Claims an entry for the application `name`, or finds its entry. Returns false if it is another application's.
pub fn claim(words: &[AtomicU64], name: &str) -> bool {
    Name(&words[..NAME]).claim(name)
}

/// Writer of the exceptions of an application. On any thread.
#[derive(Clone, Copy, Debug)]
pub struct Exceptions(&'static [AtomicU64; WORDS]);

impl Exceptions {
    /// Returns those of the application in these words.
    pub fn of(words: &'static [AtomicU64]) -> Option<Self> {
        words.first_chunk().map(Self)
    }

    /// Counts an exception of this class.
    pub fn count(&self, class: &str) {
        let mut classes = self.0[FIRST_CLASS..].chunks_exact(CLASS).take(CLASSES);
        let entry = classes.find(|entry| Name(&entry[..CLASS - 1]).claim(class));
        let count = entry.map_or(&self.0[OTHER_COUNT], |entry| &entry[CLASS - 1]);
        count.fetch_add(1, Relaxed);
    }
}

/// Returns name and exceptions of the application in these words, `None` if the entry is free.
pub fn read(words: &[u64]) -> Option<(String, BTreeMap<String, u64>)> {
    let name = read_name(&words[..NAME])?;
    let mut exceptions = BTreeMap::new();
    let mut add = |class: String, count: u64| {
        if count > 0 {
            let sum: &mut u64 = exceptions.entry(class).or_default();
            *sum = sum.saturating_add(count);
        }
    };
    for entry in words[FIRST_CLASS..].chunks_exact(CLASS).take(CLASSES) {
        add(read_name(&entry[..CLASS - 1]).unwrap_or_else(|| OTHER.to_owned()), entry[CLASS - 1]);
    }
    add(OTHER.to_owned(), words[OTHER_COUNT]);
    Some((name, exceptions))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> &'static [AtomicU64] {
        (0..WORDS).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak()
    }

    fn read_entry(words: &[AtomicU64]) -> Option<(String, BTreeMap<String, u64>)> {
        read(&words.iter().map(|word| word.load(Relaxed)).collect::<Vec<_>>())
    }

    #[test]
    fn an_entry_belongs_to_one_name() {
        let words = entry();
        assert_eq!(read_entry(words), None);
        assert!(claim(words, "/srv/a.py"));
        assert!(claim(words, "/srv/a.py"));
        assert!(!claim(words, "/srv/b.py"));
        assert_eq!(read_entry(words).unwrap().0, "/srv/a.py");
        let long = "/srv/".repeat(200);
        let words = entry();
        assert!(claim(words, &long) && claim(words, &long));
        let name = read_entry(words).unwrap().0;
        assert!(name.len() <= NAME_TEXT * BYTES && name.contains('…'));
    }

    #[test]
    fn further_classes_are_counted_together() {
        let words = entry();
        claim(words, "a");
        let exceptions = Exceptions::of(words).unwrap();
        let classes: Vec<_> = (0..CLASSES + 3).map(|number| format!("Error{number:02}")).collect();
        for class in &classes {
            exceptions.count(class);
            exceptions.count(class);
        }
        exceptions.count(&format!("package.{}", "Long".repeat(50)));
        let read = read_entry(words).unwrap().1;
        assert_eq!(read.len(), CLASSES + 1);
        assert_eq!((read["Error00"], read["Error15"], read[OTHER]), (2, 2, 7));
    }

    #[test]
    fn an_entry_whose_writer_has_died_is_counted_without_its_name() {
        let words = entry();
        claim(words, "a");
        let exceptions = Exceptions::of(words).unwrap();
        exceptions.count("ValueError");
        words[FIRST_CLASS + 1].store(0, Relaxed);
        exceptions.count("ValueError");
        assert_eq!(read_entry(words).unwrap().1, BTreeMap::from([(OTHER.to_owned(), 2)]));
    }

    #[test]
    fn threads_agree_about_the_classes() {
        let words = entry();
        claim(words, "a");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..400 {
                        Exceptions::of(words).unwrap().count(&format!("E{}", round % 20));
                    }
                });
            }
        });
        let read = read_entry(words).unwrap().1;
        assert_eq!(read.values().sum::<u64>(), 1600);
        assert_eq!(read.len(), CLASSES + 1);
    }
}
