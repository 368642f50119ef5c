//! A bounded cache with keys that clients choose, which no choice of keys can make useless.
//!
//! It is set-associative: a key that is looked up again moves towards the front of its set, and a new key replaces the
//! last one, so keys that occur once only replace each other. A look-up compares no more keys than its set has, however
//! many keys share a hash. So the hash needs no secret.

use std::hash::Hasher;

use rustc_hash::FxHasher;

/// A bounded cache of values by keys of bytes.
pub struct Cache<T> {
    sets: Box<[Set<T>]>,
}

type Set<T> = [Option<(Box<[u8]>, T)>; WAYS];

const SETS: usize = 128;
const WAYS: usize = 4;

/// The maximum length of a key: no browser, library or proxy sends longer header names.
const MAX_KEY_LENGTH: usize = 64;

impl<T> Default for Cache<T> {
    fn default() -> Self {
        Self { sets: (0..SETS).map(|_| Set::default()).collect() }
    }
}

impl<T> Cache<T> {
    /// Returns the value for the key `bytes`.
    pub fn get(&mut self, bytes: &[u8]) -> Option<&T> {
        let set = self.set(bytes);
        let found = set.iter().position(|slot| slot.as_ref().is_some_and(|(known, _)| **known == *bytes))?;
        let slot = found.saturating_sub(1);
        set.swap(slot, found);
        set[slot].as_ref().map(|(_, value)| value)
    }

    /// Inserts the value for `bytes`, a key that is not in the cache, unless the key is too long.
    pub fn insert(&mut self, bytes: &[u8], value: T) {
        if bytes.len() <= MAX_KEY_LENGTH {
            let set = self.set(bytes);
            let slot = set.iter().position(Option::is_none).unwrap_or(WAYS - 1);
            set[slot] = Some((bytes.into(), value));
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

    /// Looks up a key and inserts it if it is absent, as for each header of a request. Returns whether it was present.
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
    fn names_are_cached_after_thousands_that_occurred_once() {
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
    fn repeated_names_stay_among_thousands_that_occur_once() {
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
    fn names_of_one_hash_share_one_set() {
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
    fn long_names_are_not_cached() {
        let mut cache = Cache::default();
        cache.insert(&[b'A'; MAX_KEY_LENGTH + 1], 1);
        assert_eq!(count(&cache), 0);
        cache.insert(&[b'A'; MAX_KEY_LENGTH], 2);
        assert_eq!(count(&cache), 1);
    }
}
