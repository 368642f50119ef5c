//! Values by bytes that clients choose: bounded, and of the same use whatever they send.
//!
//! A set of a few places for each hash. What is looked up again moves towards the front of its set, and what is new takes
//! the last place, so names that come once push out each other. However many names have one hash, a look-up compares no
//! more than those of its set: it needs no secret in its hash.

use std::hash::Hasher;

use rustc_hash::FxHasher;

/// See above.
pub struct Cache<T> {
    sets: Box<[Set<T>]>,
}

type Set<T> = [Option<(Box<[u8]>, T)>; WAYS];

const SETS: usize = 128;
const WAYS: usize = 4;

/// Names that are longer are of no browser, library or proxy.
const LONGEST: usize = 64;

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { sets: (0..SETS).map(|_| Set::default()).collect() }
    }
}

impl<T> Cache<T> {
    /// The value for `bytes`.
    pub fn get(&mut self, bytes: &[u8]) -> Option<&T> {
        let set = self.set(bytes);
        let found = set.iter().position(|place| place.as_ref().is_some_and(|(known, _)| **known == *bytes))?;
        let place = found.saturating_sub(1);
        set.swap(place, found);
        set[place].as_ref().map(|(_, value)| value)
    }

    /// Takes the value for `bytes`, which has none, unless they are too long.
    pub fn insert(&mut self, bytes: &[u8], value: T) {
        if bytes.len() <= LONGEST {
            let set = self.set(bytes);
            let place = set.iter().position(Option::is_none).unwrap_or(WAYS - 1);
            set[place] = Some((bytes.into(), value));
        }
    }

    fn set(&mut self, bytes: &[u8]) -> &mut Set<T> {
        let mut hasher = FxHasher::default();
        hasher.write(bytes);
        &mut self.sets[hasher.finish() as usize % SETS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn junk(number: usize) -> Vec<u8> {
        format!("HTTP_X_JUNK_{number}").into_bytes()
    }

    fn count<T>(cache: &Cache<T>) -> usize {
        cache.sets.iter().flatten().flatten().count()
    }

    /// As for each header of a request; whether it was there.
    fn look_up(cache: &mut Cache<Vec<u8>>, name: &[u8]) -> bool {
        match cache.get(name) {
            Some(value) => {
                assert_eq!(value, name);
                true
            }
            None => {
                cache.insert(name, name.to_vec());
                false
            }
        }
    }

    #[test]
    fn it_takes_names_after_thousands_that_came_once() {
        let mut cache = Cache::default();
        for number in 0..20_000 {
            assert!(!look_up(&mut cache, &junk(number)));
        }
        assert_eq!(count(&cache), SETS * WAYS);
        for name in ["HTTP_HOST", "HTTP_ACCEPT", "HTTP_USER_AGENT", "HTTP_COOKIE"] {
            look_up(&mut cache, name.as_bytes());
            assert!(look_up(&mut cache, name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn names_that_come_again_stay_among_thousands_that_come_once() {
        let mut cache = Cache::default();
        let names = ["HTTP_HOST", "HTTP_ACCEPT", "HTTP_USER_AGENT", "HTTP_COOKIE"];
        for _ in 0..2 {
            for name in names {
                look_up(&mut cache, name.as_bytes());
            }
        }
        for number in 0..20_000 {
            look_up(&mut cache, &junk(number));
            if number % 1000 == 0 {
                assert!(names.iter().all(|name| look_up(&mut cache, name.as_bytes())), "after {number}");
            }
        }
    }

    #[test]
    fn names_of_one_hash_take_the_places_of_one_set() {
        let mut cache: Cache<usize> = Cache::default();
        let first = std::ptr::from_ref(cache.set(&junk(0)));
        let same: Vec<_> = (0..100_000).map(junk).filter(|name| std::ptr::eq(cache.set(name), first)).collect();
        assert!(same.len() > WAYS);
        for (number, name) in same.iter().enumerate() {
            assert_eq!(cache.get(name), None);
            cache.insert(name, number);
            assert_eq!(cache.get(name), Some(&number));
        }
        assert_eq!(count(&cache), WAYS);
    }

    #[test]
    fn long_names_are_not_kept() {
        let mut cache = Cache::default();
        cache.insert(&[b'A'; LONGEST + 1], 1);
        assert_eq!(count(&cache), 0);
        cache.insert(&[b'A'; LONGEST], 2);
        assert_eq!(count(&cache), 1);
    }
}
