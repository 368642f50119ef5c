//! Distribution of times in words of shared memory.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::report::{Bucket, Histogram};

/// Upper bounds of the buckets in microseconds, and so the numbers of `le`. Times above the last one have a bucket of their
/// own.
const BOUNDS: [u64; 16] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// For each number of leading zeros of a time, the bucket of the shortest time that has so many. So at most two bounds are
/// compared with a time, which happens three times in each call.
static FIRST_BUCKETS: [u8; 65] = {
    let mut buckets = [0; 65];
    let mut zeros = 0;
    while zeros < 64 {
        let shortest = 1 << (63 - zeros);
        while LIMITS[buckets[zeros] as usize] < shortest {
            buckets[zeros] += 1;
        }
        zeros += 1;
    }
    buckets
};

/// The bounds, and one that no time exceeds.
static LIMITS: [u64; BOUNDS.len() + 1] = {
    let mut limits = [u64::MAX; BOUNDS.len() + 1];
    limits.split_at_mut(BOUNDS.len()).0.copy_from_slice(&BOUNDS);
    limits
};

/// Words of a histogram: the number of times of each bucket, and the sum of all times in microseconds.
pub const WORDS: usize = BOUNDS.len() + 2;

/// Index of the sum.
const SUM: usize = WORDS - 1;

/// Microseconds of a second.
const SECOND: f64 = 1e6;

/// Adds a time in microseconds to a histogram, which no other thread changes.
pub fn record(words: &[AtomicU64; WORDS], time: u64) {
    let mut bucket = FIRST_BUCKETS[time.leading_zeros() as usize] as usize;
    while LIMITS[bucket] < time {
        bucket += 1;
    }
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
        assert!((all.sum - 3_720.002_002).abs() < 1e-6, "{}", all.sum);
        let count = |le: f64| all.buckets.iter().find(|bucket| bucket.le.to_bits() == le.to_bits()).unwrap().count;
        assert_eq!([count(0.0005), count(0.001), count(0.0025), count(30.0), count(60.0)], [2, 4, 4, 4, 5]);
    }

    #[test]
    fn each_time_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        for time in (0..200_000).chain((0..64).flat_map(|bit| [1 << bit, (1 << bit) - 1, (1 << bit) + 1])) {
            let expected = BOUNDS.iter().position(|bound| time <= *bound).unwrap_or(BOUNDS.len());
            let words = [const { AtomicU64::new(0) }; WORDS];
            record(&words, time);
            assert_eq!(words[expected].load(Relaxed), 1, "{time}");
        }
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
