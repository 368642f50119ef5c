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
pub struct VersionCommit {
    words: &'static [AtomicU64],
    place: usize,
    workers: usize,
}

/// What becomes of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitStatus {
    /// All answer with it.
    Committed,
    /// Some are not ready.
    Pending,
    /// A newer one is aimed at: it never will be.
    Superseded,
}

const AIM: usize = 0;
const LAST_COMMITTED: usize = 1;
const READY: usize = 2;
/// Of a worker that has no version, and will load the newest.
const ANY: u64 = u64::MAX;
/// Beside a version: of a worker that could not load it.
const REFUSED: u64 = 1 << 63;

impl VersionCommit {
    /// How many words it takes for so many workers.
    pub const fn words(workers: usize) -> usize {
        READY + workers
    }

    /// The side of the worker in `place`, of `workers`. The others wait for it until it is ready for something, or
    /// leaves.
    pub fn join(words: &'static [AtomicU64], place: usize, workers: usize) -> Option<Self> {
        let version_commit = Self { words, place, workers };
        (place < workers && words.len() >= Self::words(workers)).then(|| {
            version_commit.vote_ready(0);
            version_commit
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
            let (propose, is_committed) = self.aimed();
            if propose >= changed || self.move_on((propose, is_committed), changed) {
                self.vote_ready(changed);
                return changed;
            }
        }
    }

    /// The version that a worker is to load that has had version `before`. It is aimed at from now on. `note` notes the
    /// files, which are read after that, and returns when the newest of them was changed.
    pub fn propose(&self, before: u64, note: impl Fn() -> u64) -> u64 {
        loop {
            // In this order: what others have seen before they aimed is seen here as well.
            let (propose, is_committed) = self.aimed();
            let changed = note();
            // What does not show in a time (a file is gone, a clock was set back) is one more than there was; unless
            // somebody else has seen it already.
            let version = if changed > propose || propose > before { changed.max(propose) } else { propose + 1 };
            if version == propose || self.move_on((propose, is_committed), version) {
                return version;
            }
        }
    }

    /// Aims at a newer version, if nobody else has meanwhile.
    fn move_on(&self, (propose, is_committed): (u64, bool), version: u64) -> bool {
        if is_committed {
            // Before it is out of sight.
            self.words[LAST_COMMITTED].fetch_max(propose, Ordering::SeqCst);
        }
        self.exchange((propose, is_committed), (version, false))
    }

    /// This worker can answer with a version.
    pub fn vote_ready(&self, version: u64) {
        self.words[READY + self.place].store(version, Ordering::SeqCst);
    }

    /// Whether another worker has aimed at a newer version than this one, and this worker is still to load it: it need not
    /// know the file that has changed, as each imports some modules only with the calls that it has.
    pub fn is_behind(&self, version: u64) -> bool {
        let (propose, _) = self.aimed();
        propose > version && self.words[READY + self.place].load(Ordering::SeqCst) != propose | REFUSED
    }

    /// This worker cannot load a version. It may try again, and be ready for it then.
    pub fn vote_refuse(&self, version: u64) {
        self.words[READY + self.place].store(version | REFUSED, Ordering::SeqCst);
    }

    /// Whether a worker cannot load that version, as far as it has tried.
    fn is_refused(&self, version: u64) -> bool {
        let vote_ready = &self.words[READY..][..self.workers];
        vote_ready.iter().any(|word| word.load(Ordering::SeqCst) == version | REFUSED)
    }

    /// What becomes of a version that this worker is ready for.
    pub fn status(&self, version: u64) -> CommitStatus {
        loop {
            let (propose, is_committed) = self.aimed();
            if propose == version && is_committed || self.words[LAST_COMMITTED].load(Ordering::SeqCst) == version {
                return CommitStatus::Committed;
            }
            if propose != version {
                return CommitStatus::Superseded;
            }
            let is_ready = |word: &AtomicU64| matches!(word.load(Ordering::SeqCst), vote_ready if vote_ready == version || vote_ready == ANY);
            if !self.words[READY..][..self.workers].iter().all(is_ready) {
                return CommitStatus::Pending;
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

    fn version_commits(workers: usize) -> Vec<VersionCommit> {
        let words: Vec<_> = (0..VersionCommit::words(workers)).map(|_| AtomicU64::new(0)).collect();
        let words = Vec::leak(words);
        let all: Vec<_> = (0..workers).map(|place| VersionCommit::join(words, place, workers).unwrap()).collect();
        for version_commit in &all {
            assert_eq!(version_commit.begin(100), 100);
        }
        assert_eq!(all[0].status(100), CommitStatus::Committed);
        all
    }

    #[test]
    fn a_version_is_committed_when_all_are_ready() {
        let all = version_commits(3);
        for version_commit in &all {
            assert_eq!(version_commit.propose(100, || 200), 200);
        }
        for version_commit in &all {
            assert_eq!(all[0].status(200), CommitStatus::Pending);
            version_commit.vote_ready(200);
        }
        for version_commit in &all {
            assert_eq!(version_commit.status(200), CommitStatus::Committed);
        }
    }

    #[test]
    fn a_newer_one_takes_the_place_of_one_that_is_not_committed() {
        let all = version_commits(2);
        assert_eq!((all[0].propose(100, || 200), all[1].propose(100, || 300)), (200, 300));
        all[0].vote_ready(200);
        all[1].vote_ready(300);
        assert_eq!(all[0].status(200), CommitStatus::Superseded);
        assert_eq!(all[1].status(300), CommitStatus::Pending);
        assert_eq!(all[0].propose(200, || 300), 300);
        all[0].vote_ready(300);
        assert_eq!(all[0].status(300), CommitStatus::Committed);
    }

    #[test]
    fn one_that_was_committed_stays_so_when_there_is_a_newer_one() {
        let all = version_commits(2);
        all.iter().for_each(|version_commit| version_commit.vote_ready(version_commit.propose(100, || 200)));
        assert_eq!(all[0].status(200), CommitStatus::Committed);
        // The other has not looked since.
        assert_eq!(all[0].propose(200, || 300), 300);
        assert_eq!(all[1].status(200), CommitStatus::Committed);
        assert_eq!(all[1].status(300), CommitStatus::Pending);
    }

    #[test]
    fn what_no_time_shows_is_a_version_as_well_and_one_for_all() {
        let all = version_commits(2);
        assert_eq!(all[0].propose(100, || 90), 101);
        assert_eq!(all[1].propose(100, || 90), 101);
    }

    #[test]
    fn one_that_began_with_an_older_version_is_waited_for() {
        let words = Vec::leak((0..VersionCommit::words(2)).map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
        let [one, other] = [0, 1].map(|place| VersionCommit::join(words, place, 2).unwrap());
        one.begin(100);
        one.vote_ready(one.propose(100, || 200));
        assert_eq!(one.status(200), CommitStatus::Pending);
        assert_eq!(other.begin(100), 100);
        assert_eq!(one.status(200), CommitStatus::Pending);
        other.vote_ready(other.propose(100, || 200));
        assert_eq!(one.status(200), CommitStatus::Committed);
    }

    #[test]
    fn files_that_change_while_they_are_noted_are_noted_again() {
        let all = version_commits(2);
        let noted = std::cell::Cell::new(0);
        let version = all[0].propose(100, || {
            noted.set(noted.get() + 1);
            if noted.get() == 1 {
                // The other has seen an edit that came after these files were noted.
                assert_eq!(all[1].propose(100, || 300), 300);
                200
            } else {
                300
            }
        });
        assert_eq!((version, noted.get()), (300, 2));
    }

    /// A worker that answers with what it has loaded, and keeps up with the others.
    struct Worker {
        version_commit: VersionCommit,
        /// The version, and the edit that it is of.
        serving: (u64, u64),
        next: Option<(u64, u64)>,
    }

    impl Worker {
        fn answer(&mut self) -> u64 {
            if let Some((version, _)) = self.next
                && self.version_commit.status(version) == CommitStatus::Committed
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
        let words = Vec::leak((0..VersionCommit::words(WORKERS)).map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
        let workers: Vec<_> = (0..WORKERS)
            .map(|place| {
                let version_commit = VersionCommit::join(words, place, WORKERS).unwrap();
                Mutex::new(Worker { version_commit, serving: (version_commit.begin(1000), 1000), next: None })
            })
            .collect();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for worker in &workers {
                scope.spawn(|| {
                    let version_commit = worker.lock().unwrap().version_commit;
                    let mut version = 1000;
                    let mut loaded = 1000;
                    while !is_over.load(Ordering::Relaxed) {
                        if disk.load(Ordering::SeqCst) == loaded {
                            std::thread::yield_now();
                            continue;
                        }
                        let noted = AtomicU64::new(0);
                        version = version_commit.propose(version, || {
                            noted.store(disk.load(Ordering::SeqCst), Ordering::SeqCst);
                            noted.load(Ordering::SeqCst)
                        });
                        loaded = noted.into_inner();
                        std::thread::sleep(Duration::from_micros(loaded * 37 % 200));
                        worker.lock().unwrap().next = Some((version, loaded));
                        version_commit.vote_ready(version);
                        while version_commit.status(version) == CommitStatus::Pending
                            && !is_over.load(Ordering::Relaxed)
                        {
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
                assert!(start.elapsed() < Duration::from_secs(20) && !client.is_finished(), "the workers never agreed");
                std::thread::yield_now();
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(client.join().unwrap() <= 1000 + EDITS);
        });
    }

    #[test]
    fn a_worker_that_is_gone_or_has_nothing_is_not_waited_for() {
        let all = version_commits(2);
        all[0].vote_ready(all[0].propose(100, || 200));
        assert_eq!(all[0].status(200), CommitStatus::Pending);
        all[1].leave();
        assert_eq!(all[0].status(200), CommitStatus::Committed);
    }

    #[test]
    fn one_that_never_gets_ready_does_not_hold_up_the_others_for_ever() {
        let all = version_commits(2);
        all[0].vote_ready(all[0].propose(100, || 200));
        assert!(all[0].commit(200));
        assert_eq!(all[0].status(200), CommitStatus::Committed);
    }

    #[test]
    fn a_worker_is_told_of_a_change_that_it_does_not_see() {
        let all = version_commits(2);
        assert!(!all[1].is_behind(100));
        all[0].vote_ready(all[0].propose(100, || 200));
        assert!(all[1].is_behind(100) && !all[0].is_behind(200));
        let version = all[1].propose(100, || 100);
        assert_eq!(version, 200);
        all[1].vote_refuse(version);
        assert!(!all[1].is_behind(100), "it tries again, but not for this reason");
        all[1].vote_ready(version);
        assert!(!all[1].is_behind(version));
        assert_eq!(all[0].status(200), CommitStatus::Committed);
    }

    #[test]
    fn one_that_cannot_load_it_holds_up_the_others_until_it_can() {
        let all = version_commits(2);
        all[0].vote_ready(all[0].propose(100, || 200));
        all[1].vote_refuse(all[1].propose(100, || 200));
        assert!(!all[0].commit(200));
        assert_eq!(all[0].status(200), CommitStatus::Pending);
        assert_eq!(all[1].propose(100, || 200), 200);
        all[1].vote_ready(200);
        assert_eq!(all[0].status(200), CommitStatus::Committed);
    }
}
