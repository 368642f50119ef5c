//! Decides when a group with `processes=MIN:MAX` gets a worker more or less.

use std::time::{Duration, Instant};

/// Interval between two samples.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);

/// Number of samples in a row with waiting calls after which a worker is started: a single one may be a moment's queue.
const WAITING_SAMPLES: u32 = 2;

/// Time for which a worker must not have been needed before it is stopped.
const SPARE_TIME: Duration = Duration::from_secs(30);

/// Load of a group at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Calls that wait for a thread, and connections that wait for a worker.
    pub waiting: u64,
    /// Calls that run.
    pub busy: u64,
    /// Calls that can run at once.
    pub capacity: u64,
    /// True while a worker has not started yet.
    pub starting: bool,
}

/// What to do about the number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Keep,
    More,
    Less,
}

/// Samples of a group, as far as they matter for the next decision.
#[derive(Debug, Default)]
pub struct Scaler {
    waiting: u32,
    spare_since: Option<Instant>,
}

impl Scaler {
    /// Adds a sample of a group with so many workers, and decides.
    pub fn decide(&mut self, now: Instant, sample: Sample, workers: usize, min: usize, max: usize) -> Decision {
        self.waiting = if sample.waiting > 0 && !sample.starting { self.waiting + 1 } else { 0 };
        let has_spare = sample.waiting == 0 && fits_into_less(sample, workers as u64);
        self.spare_since = has_spare.then(|| self.spare_since.unwrap_or(now));

        if self.waiting >= WAITING_SAMPLES && workers < max {
            *self = Self::default();
            return Decision::More;
        }
        if workers > min && self.spare_since.is_some_and(|since| now.duration_since(since) >= SPARE_TIME) {
            *self = Self::default();
            return Decision::Less;
        }
        Decision::Keep
    }
}

/// Returns whether one worker less could run the same calls.
fn fits_into_less(sample: Sample, workers: u64) -> bool {
    let (busy, capacity) = (u128::from(sample.busy), u128::from(sample.capacity));
    busy * u128::from(workers) <= capacity * u128::from(workers.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Sample = Sample { waiting: 0, busy: 0, capacity: 8, starting: false };
    const WAITING: Sample = Sample { waiting: 1, busy: 8, capacity: 8, starting: false };

    #[test]
    fn calls_that_wait_twice_start_one_worker_up_to_the_maximum() {
        let (mut scaler, now) = (Scaler::default(), Instant::now());
        let mut decide = |sample, workers| scaler.decide(now, sample, workers, 2, 4);
        assert_eq!(decide(WAITING, 2), Decision::Keep);
        assert_eq!(decide(QUIET, 2), Decision::Keep);
        assert_eq!(decide(WAITING, 2), Decision::Keep);
        assert_eq!(decide(WAITING, 2), Decision::More);
        // The new one starts and takes its time.
        assert_eq!(decide(Sample { starting: true, ..WAITING }, 3), Decision::Keep);
        assert_eq!(decide(Sample { starting: true, ..WAITING }, 3), Decision::Keep);
        assert_eq!(decide(WAITING, 3), Decision::Keep);
        assert_eq!(decide(WAITING, 3), Decision::More);
        for _ in 0..5 {
            assert_eq!(decide(WAITING, 4), Decision::Keep);
        }
    }

    #[test]
    fn a_worker_that_is_not_needed_for_a_while_is_stopped() {
        let (mut scaler, start) = (Scaler::default(), Instant::now());
        let mut decide =
            |seconds, sample, workers| scaler.decide(start + Duration::from_secs(seconds), sample, workers, 1, 4);
        assert_eq!(decide(0, QUIET, 2), Decision::Keep);
        // Five calls need both workers, with four threads each.
        assert_eq!(decide(20, Sample { busy: 5, ..QUIET }, 2), Decision::Keep);
        assert_eq!(decide(21, Sample { busy: 4, ..QUIET }, 2), Decision::Keep);
        assert_eq!(decide(50, QUIET, 2), Decision::Keep);
        assert_eq!(decide(51, QUIET, 2), Decision::Less);
        assert_eq!(decide(100, QUIET, 1), Decision::Keep);
        assert_eq!(decide(200, QUIET, 1), Decision::Keep);
    }
}
