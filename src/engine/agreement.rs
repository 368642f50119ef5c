//! How the workers agree which version of an application they answer with, so that nobody who has seen the new one sees the
//! old one again.
//!
//! Each loads the new version beside the old one, and says when it is ready to answer with it. When all are, the one that
//! finds that out commits it, and from that moment everybody answers with it: a worker asks with every call. All of it is
//! in words of memory that the workers share, without a lock that one of them could die with.

use std::sync::atomic::{AtomicU64, Ordering};

/// The memory of one application: the version that is aimed at and whether it is committed, the last one that was known
/// to be committed, and what each worker is ready for.
#[derive(Clone, Copy)]
pub struct Agreement {
    words: &'static [AtomicU64],
    place: usize,
    workers: usize,
}

/// What becomes of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All answer with it.
    Committed,
    /// Some are not ready.
    Pending,
    /// A newer one is aimed at: it never will be.
    Superseded,
}

const AIM: usize = 0;
const LAST: usize = 1;
const READY: usize = 2;
/// Of a worker that has no version, and will load the newest.
const ANY: u64 = u64::MAX;
/// Beside a version: of a worker that could not load it.
const REFUSED: u64 = 1 << 63;

impl Agreement {
    /// How many words it takes for so many workers.
    pub const fn words(workers: usize) -> usize {
        READY + workers
    }

    /// The side of the worker in `place`, of `workers`. The others wait for it until it is ready for something, or
    /// leaves.
    pub fn join(words: &'static [AtomicU64], place: usize, workers: usize) -> Option<Self> {
        let agreement = Self { words, place, workers };
        (place < workers && words.len() >= Self::words(workers)).then(|| {
            agreement.ready(0);
            agreement
        })
    }

    /// This worker does not count, until it is ready for something: it ends, or has nothing loaded.
    pub fn leave(&self) {
        self.words[READY + self.place].store(ANY, Ordering::SeqCst);
    }

    /// What this worker has loaded before there was anything to agree on: files whose newest change was at `changed`, in
    /// nanoseconds. Returns the version.
    pub fn begin(&self, changed: u64) -> u64 {
        loop {
            let (aim, is_committed) = self.aimed();
            if aim >= changed || self.move_on((aim, is_committed), changed) {
                self.ready(changed);
                return changed;
            }
        }
    }

    /// The version that a worker is to load that has had version `before`. It is aimed at from now on. `note` notes the
    /// files, which are read after that, and returns when the newest of them was changed.
    pub fn aim(&self, before: u64, note: impl Fn() -> u64) -> u64 {
        loop {
            // In this order: what others have seen before they aimed is seen here as well.
            let (aim, is_committed) = self.aimed();
            let changed = note();
            // What does not show in a time (a file is gone, a clock was set back) is one more than there was; unless
            // somebody else has seen it already.
            let version = if changed > aim || aim > before { changed.max(aim) } else { aim + 1 };
            if version == aim || self.move_on((aim, is_committed), version) {
                return version;
            }
        }
    }

    /// Aims at a newer version, if nobody else has meanwhile.
    fn move_on(&self, (aim, is_committed): (u64, bool), version: u64) -> bool {
        if is_committed {
            // Before it is out of sight.
            self.words[LAST].fetch_max(aim, Ordering::SeqCst);
        }
        self.exchange((aim, is_committed), (version, false))
    }

    /// This worker can answer with a version.
    pub fn ready(&self, version: u64) {
        self.words[READY + self.place].store(version, Ordering::SeqCst);
    }

    /// Whether another worker has aimed at a newer version than this one, and this worker is still to load it: it need not
    /// know the file that has changed, as each imports some modules only with the calls that it has.
    pub fn is_behind(&self, version: u64) -> bool {
        let (aim, _) = self.aimed();
        aim > version && self.words[READY + self.place].load(Ordering::SeqCst) != aim | REFUSED
    }

    /// This worker cannot load a version. It may try again, and be ready for it then.
    pub fn refuse(&self, version: u64) {
        self.words[READY + self.place].store(version | REFUSED, Ordering::SeqCst);
    }

    /// Whether a worker cannot load that version, as far as it has tried.
    fn is_refused(&self, version: u64) -> bool {
        let ready = &self.words[READY..][..self.workers];
        ready.iter().any(|word| word.load(Ordering::SeqCst) == version | REFUSED)
    }

    /// What becomes of a version that this worker is ready for.
    pub fn verdict(&self, version: u64) -> Verdict {
        loop {
            let (aim, is_committed) = self.aimed();
            if aim == version && is_committed || self.words[LAST].load(Ordering::SeqCst) == version {
                return Verdict::Committed;
            }
            if aim != version {
                return Verdict::Superseded;
            }
            let is_ready =
                |word: &AtomicU64| matches!(word.load(Ordering::SeqCst), ready if ready == version || ready == ANY);
            if !self.words[READY..][..self.workers].iter().all(is_ready) {
                return Verdict::Pending;
            }
            self.commit(version);
        }
    }

    /// All that are ready for a version answer with it, and do not wait for those that have not come to that; unless one
    /// has, and cannot load it.
    pub fn commit(&self, version: u64) -> bool {
        !self.is_refused(version) && self.exchange((version, false), (version, true))
    }

    fn aimed(&self) -> (u64, bool) {
        let word = self.words[AIM].load(Ordering::SeqCst);
        (word >> 1, word & 1 == 1)
    }

    fn exchange(&self, before: (u64, bool), after: (u64, bool)) -> bool {
        let word = |(version, is_committed): (u64, bool)| version << 1 | u64::from(is_committed);
        self.words[AIM].compare_exchange(word(before), word(after), Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    fn agreements(workers: usize) -> Vec<Agreement> {
        let words: Vec<_> = (0..Agreement::words(workers)).map(|_| AtomicU64::new(0)).collect();
        let words = Vec::leak(words);
        let all: Vec<_> = (0..workers).map(|place| Agreement::join(words, place, workers).unwrap()).collect();
        for agreement in &all {
            assert_eq!(agreement.begin(100), 100);
        }
        assert_eq!(all[0].verdict(100), Verdict::Committed);
        all
    }

    #[test]
    fn a_version_is_committed_when_all_are_ready() {
        let all = agreements(3);
        for agreement in &all {
            assert_eq!(agreement.aim(100, || 200), 200);
        }
        for agreement in &all {
            assert_eq!(all[0].verdict(200), Verdict::Pending);
            agreement.ready(200);
        }
        for agreement in &all {
            assert_eq!(agreement.verdict(200), Verdict::Committed);
        }
    }

    #[test]
    fn a_newer_one_takes_the_place_of_one_that_is_not_committed() {
        let all = agreements(2);
        assert_eq!((all[0].aim(100, || 200), all[1].aim(100, || 300)), (200, 300));
        all[0].ready(200);
        all[1].ready(300);
        assert_eq!(all[0].verdict(200), Verdict::Superseded);
        assert_eq!(all[1].verdict(300), Verdict::Pending);
        assert_eq!(all[0].aim(200, || 300), 300);
        all[0].ready(300);
        assert_eq!(all[0].verdict(300), Verdict::Committed);
    }

    #[test]
    fn one_that_was_committed_stays_so_when_there_is_a_newer_one() {
        let all = agreements(2);
        all.iter().for_each(|agreement| agreement.ready(agreement.aim(100, || 200)));
        assert_eq!(all[0].verdict(200), Verdict::Committed);
        // The other has not looked since.
        assert_eq!(all[0].aim(200, || 300), 300);
        assert_eq!(all[1].verdict(200), Verdict::Committed);
        assert_eq!(all[1].verdict(300), Verdict::Pending);
    }

    #[test]
    fn what_no_time_shows_is_a_version_as_well_and_one_for_all() {
        let all = agreements(2);
        assert_eq!(all[0].aim(100, || 90), 101);
        assert_eq!(all[1].aim(100, || 90), 101);
    }

    #[test]
    fn one_that_began_with_an_older_version_is_waited_for() {
        let words = Vec::leak((0..Agreement::words(2)).map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
        let [one, other] = [0, 1].map(|place| Agreement::join(words, place, 2).unwrap());
        one.begin(100);
        one.ready(one.aim(100, || 200));
        assert_eq!(one.verdict(200), Verdict::Pending);
        assert_eq!(other.begin(100), 100);
        assert_eq!(one.verdict(200), Verdict::Pending);
        other.ready(other.aim(100, || 200));
        assert_eq!(one.verdict(200), Verdict::Committed);
    }

    #[test]
    fn files_that_change_while_they_are_noted_are_noted_again() {
        let all = agreements(2);
        let noted = std::cell::Cell::new(0);
        let version = all[0].aim(100, || {
            noted.set(noted.get() + 1);
            if noted.get() == 1 {
                // The other has seen an edit that came after these files were noted.
                assert_eq!(all[1].aim(100, || 300), 300);
                200
            } else {
                300
            }
        });
        assert_eq!((version, noted.get()), (300, 2));
    }

    /// A worker that answers with what it has loaded, and keeps up with the others.
    struct Worker {
        agreement: Agreement,
        /// The version, and the edit that it is of.
        serving: (u64, u64),
        next: Option<(u64, u64)>,
    }

    impl Worker {
        fn answer(&mut self) -> u64 {
            if let Some((version, _)) = self.next
                && self.agreement.verdict(version) == Verdict::Committed
            {
                self.serving = self.next.take().unwrap();
            }
            self.serving.1
        }
    }

    /// Edits, loads and calls at any time, on threads of their own.
    #[test]
    fn nobody_who_has_seen_an_edit_sees_an_older_one() {
        const WORKERS: usize = 3;
        const EDITS: u64 = 300;
        let disk = AtomicU64::new(1000);
        let words = Vec::leak((0..Agreement::words(WORKERS)).map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
        let workers: Vec<_> = (0..WORKERS)
            .map(|place| {
                let agreement = Agreement::join(words, place, WORKERS).unwrap();
                Mutex::new(Worker { agreement, serving: (agreement.begin(1000), 1000), next: None })
            })
            .collect();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for worker in &workers {
                scope.spawn(|| {
                    let agreement = worker.lock().unwrap().agreement;
                    let mut version = 1000;
                    let mut loaded = 1000;
                    while !is_over.load(Ordering::Relaxed) {
                        if disk.load(Ordering::SeqCst) == loaded {
                            std::thread::yield_now();
                            continue;
                        }
                        let noted = AtomicU64::new(0);
                        version = agreement.aim(version, || {
                            noted.store(disk.load(Ordering::SeqCst), Ordering::SeqCst);
                            noted.load(Ordering::SeqCst)
                        });
                        loaded = noted.into_inner();
                        std::thread::sleep(Duration::from_micros(loaded * 37 % 200));
                        worker.lock().unwrap().next = Some((version, loaded));
                        agreement.ready(version);
                        while agreement.verdict(version) == Verdict::Pending && !is_over.load(Ordering::Relaxed) {
                            std::thread::yield_now();
                        }
                        let mut worker = worker.lock().unwrap();
                        worker.answer();
                        worker.next = None;
                    }
                });
            }
            let client = scope.spawn(|| {
                let (mut seen, mut turn) = (0, 0);
                while !is_over.load(Ordering::Relaxed) {
                    turn += 1;
                    let answer = workers[turn * 7 % WORKERS].lock().unwrap().answer();
                    assert!(answer >= seen, "{answer} after {seen}");
                    seen = answer;
                }
                seen
            });
            for edit in 0..EDITS {
                std::thread::sleep(Duration::from_micros(edit * 61 % 900));
                disk.fetch_add(1, Ordering::SeqCst);
            }
            let start = Instant::now();
            while workers.iter().any(|worker| worker.lock().unwrap().answer() < 1000 + EDITS) {
                assert!(start.elapsed() < Duration::from_secs(20) && !client.is_finished(), "no agreement in the end");
                std::thread::yield_now();
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(client.join().unwrap() <= 1000 + EDITS);
        });
    }

    #[test]
    fn a_worker_that_is_gone_or_has_nothing_is_not_waited_for() {
        let all = agreements(2);
        all[0].ready(all[0].aim(100, || 200));
        assert_eq!(all[0].verdict(200), Verdict::Pending);
        all[1].leave();
        assert_eq!(all[0].verdict(200), Verdict::Committed);
    }

    #[test]
    fn one_that_never_gets_ready_does_not_hold_up_the_others_for_ever() {
        let all = agreements(2);
        all[0].ready(all[0].aim(100, || 200));
        assert!(all[0].commit(200));
        assert_eq!(all[0].verdict(200), Verdict::Committed);
    }

    #[test]
    fn a_worker_is_told_of_a_change_that_it_does_not_see() {
        let all = agreements(2);
        assert!(!all[1].is_behind(100));
        all[0].ready(all[0].aim(100, || 200));
        assert!(all[1].is_behind(100) && !all[0].is_behind(200));
        let version = all[1].aim(100, || 100);
        assert_eq!(version, 200);
        all[1].refuse(version);
        assert!(!all[1].is_behind(100), "it tries again, but not for this reason");
        all[1].ready(version);
        assert!(!all[1].is_behind(version));
        assert_eq!(all[0].verdict(200), Verdict::Committed);
    }

    #[test]
    fn one_that_cannot_load_it_holds_up_the_others_until_it_can() {
        let all = agreements(2);
        all[0].ready(all[0].aim(100, || 200));
        all[1].refuse(all[1].aim(100, || 200));
        assert!(!all[0].commit(200));
        assert_eq!(all[0].verdict(200), Verdict::Pending);
        assert_eq!(all[1].aim(100, || 200), 200);
        all[1].ready(200);
        assert_eq!(all[0].verdict(200), Verdict::Committed);
    }
}
