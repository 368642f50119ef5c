//! Distribution of times in words of shared memory.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::report::{Bucket, Histogram};

/// Upper bounds of the buckets in microseconds, and so the numbers of `le`. Times above the last one have a bucket of their
/// own.
const BOUNDS: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// Words of a histogram: the number of times of each bucket, and the sum of all times in microseconds.
pub const WORDS: usize = BOUNDS.len() + 2;

/// Index of the sum.
const SUM: usize = WORDS - 1;

/// Microseconds of a second.
const SECOND: f64 = 1e6;

/// Adds a time in microseconds to a histogram, which no other thread changes.
pub fn record(words: &[AtomicU64; WORDS], time: u64) {
    // Most times are short.
    let bucket = BOUNDS.iter().position(|bound| time <= *bound).unwrap_or(BOUNDS.len());
    add(&words[bucket], 1);
    add(&words[SUM], time);
}

/// Adds to a word that no other thread changes.
pub fn add(word: &AtomicU64, value: u64) {
    word.store(word.load(Relaxed).wrapping_add(value), Relaxed);
}

/// Returns the histogram in these words.
pub fn read(words: &[u64; WORDS]) -> Histogram {
    let mut count: u64 = 0;
    let buckets = BOUNDS.iter().zip(words).map(|(bound, number)| {
        count = count.saturating_add(*number);
        Bucket { le: *bound as f64 / SECOND, count }
    });
    let buckets = buckets.collect();
    Histogram { count: count.saturating_add(words[BOUNDS.len()]), sum: words[SUM] as f64 / SECOND, buckets }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(times: &[u64]) -> Histogram {
        let words = [const { AtomicU64::new(0) }; WORDS];
        times.iter().for_each(|time| record(&words, *time));
        read(&words.map(AtomicU64::into_inner))
    }

    #[test]
    fn a_bucket_counts_the_times_up_to_its_bound() {
        let all = histogram(&[0, 500, 501, 1_000, 60_000_000, 60_000_001, 3_600_000_000]);
        assert_eq!(all.count, 7);
        assert!((all.sum - 3720.002_002).abs() < 1e-6, "{}", all.sum);
        let count = |le: f64| all.buckets.iter().find(|bucket| bucket.le.to_bits() == le.to_bits()).unwrap().count;
        assert_eq!([count(0.0005), count(0.001), count(0.0025), count(30.0), count(60.0)], [2, 4, 4, 4, 5]);
    }

    #[test]
    fn bounds_rise_and_an_empty_histogram_has_all_buckets() {
        assert!(BOUNDS.is_sorted());
        let empty = histogram(&[]);
        assert_eq!((empty.count, empty.sum, empty.buckets.len()), (0, 0.0, BOUNDS.len()));
    }

    #[test]
    fn any_words_are_a_histogram() {
        let all = read(&[u64::MAX; WORDS]);
        assert_eq!(all.count, u64::MAX);
        assert!(all.buckets.iter().all(|bucket| bucket.count == u64::MAX));
    }
}
