//! Commit of a new version by all workers, so that no client that has seen the new version is served the old one again.
//!
//! Each worker loads the proposed version beside the old one and votes once it is ready to serve it. The first worker to
//! see that all are ready commits the version; from that moment every worker serves it, because each checks the status
//! with every request. All state is in words of shared memory, without a lock that a worker could die with.

use std::sync::atomic::{AtomicU64, Ordering};

/// Version commit of one application as seen by one worker.
///
/// The shared words are the proposed version and whether it is committed, the last version known to be committed, and the
/// vote of each worker. A version is the time of the newest change in nanoseconds.
#[derive(Clone, Copy)]
pub struct VersionCommit {
    words: &'static [AtomicU64],
    slot: usize,
    workers: usize,
}

/// Status of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitStatus {
    /// All workers serve it.
    Committed,
    /// Some workers are not ready.
    Pending,
    /// A newer version is proposed: this one will never be committed.
    Superseded,
}

/// Version that a worker proposes to all.
#[derive(Clone, Copy)]
struct Proposal {
    version: u64,
    is_committed: bool,
}

impl Proposal {
    fn to_word(self) -> u64 {
        self.version << 1 | u64::from(self.is_committed)
    }

    fn from_word(word: u64) -> Self {
        Self { version: word >> 1, is_committed: word & 1 == 1 }
    }
}

const PROPOSAL: usize = 0;
const LAST_COMMITTED: usize = 1;
const VOTES: usize = 2;
/// Vote of a worker that has loaded no version, and will load the newest.
const ANY: u64 = u64::MAX;
/// Flag in the vote of a worker that could not load the version.
const REFUSED: u64 = 1 << 63;

impl VersionCommit {
    /// Returns the number of shared words for `workers` workers.
    pub const fn words(workers: usize) -> usize {
        VOTES + workers
    }

    /// Joins as the worker in `slot`. The other workers wait for this one until it votes or leaves.
    pub fn join(words: &'static [AtomicU64], slot: usize, workers: usize) -> Option<Self> {
        let version_commit = Self { words, slot, workers };
        (slot < workers && words.len() >= Self::words(workers)).then(|| {
            version_commit.vote_ready(0);
            version_commit
        })
    }

    /// Leaves until the next vote: this worker exits, or has nothing loaded.
    pub fn leave(&self) {
        self.vote(ANY);
    }

    /// Registers the version loaded at worker start, identified by the time of its newest change. Returns the version.
    pub fn register(&self, changed: u64) -> u64 {
        loop {
            let proposal = self.proposal();
            if proposal.version >= changed || self.propose_instead(proposal, changed) {
                self.vote_ready(changed);
                return changed;
            }
        }
    }

    /// Proposes the version after `loaded` and returns it; this worker is to load it. `note` notes the state of the files,
    /// which are to be read after that, and returns the time of the newest change.
    pub fn propose(&self, loaded: u64, note: impl Fn() -> u64) -> u64 {
        loop {
            // The proposal is read before the files: edits that another worker saw before it proposed are seen here too.
            let proposal = self.proposal();
            let changed = note();
            let is_ahead = proposal.version > loaded;
            // A change that no time reflects (deleted file, clock set back) gets the next number, unless another worker has
            // already proposed it.
            let version = if changed > proposal.version || is_ahead {
                changed.max(proposal.version)
            } else {
                proposal.version + 1
            };
            if version == proposal.version || self.propose_instead(proposal, version) {
                return version;
            }
        }
    }

    /// Proposes a newer version, unless another worker has changed the proposal. Returns true if it is proposed now.
    fn propose_instead(&self, current: Proposal, version: u64) -> bool {
        if current.is_committed {
            // Before the proposal that says so is overwritten.
            self.words[LAST_COMMITTED].fetch_max(current.version, Ordering::SeqCst);
        }
        self.replace_proposal(current, Proposal { version, is_committed: false })
    }

    /// Votes that this worker can serve a version.
    pub fn vote_ready(&self, version: u64) {
        self.vote(version);
    }

    /// Votes that this worker cannot load a version. It may try again, and vote that it is ready.
    pub fn vote_refuse(&self, version: u64) {
        self.vote(version | REFUSED);
    }

    fn vote(&self, vote: u64) {
        self.words[VOTES + self.slot].store(vote, Ordering::SeqCst);
    }

    fn votes(&self) -> impl Iterator<Item = u64> {
        self.words[VOTES..][..self.workers].iter().map(|word| word.load(Ordering::SeqCst))
    }

    /// Returns true if another worker has proposed a newer version than `loaded`, and this worker has yet to load it. The
    /// changed file may be unknown here, because each worker knows only the modules that its own calls have imported.
    pub fn is_behind(&self, loaded: u64) -> bool {
        let Proposal { version, .. } = self.proposal();
        version > loaded && self.words[VOTES + self.slot].load(Ordering::SeqCst) != version | REFUSED
    }

    /// Returns the status of a version that this worker is ready for, and commits it if all are.
    pub fn status(&self, version: u64) -> CommitStatus {
        loop {
            let proposal = self.proposal();
            let is_proposed = proposal.version == version;
            if is_proposed && proposal.is_committed || self.words[LAST_COMMITTED].load(Ordering::SeqCst) == version {
                return CommitStatus::Committed;
            }
            if !is_proposed {
                return CommitStatus::Superseded;
            }
            if !self.votes().all(|vote| vote == version || vote == ANY) {
                return CommitStatus::Pending;
            }
            self.commit(version);
        }
    }

    /// Commits a version without waiting for the workers that have not voted; not if one has refused it. Returns true if
    /// this call committed it.
    pub fn commit(&self, version: u64) -> bool {
        let is_refused = self.votes().any(|vote| vote == version | REFUSED);
        let (pending, committed) =
            (Proposal { version, is_committed: false }, Proposal { version, is_committed: true });
        !is_refused && self.replace_proposal(pending, committed)
    }

    fn proposal(&self) -> Proposal {
        Proposal::from_word(self.words[PROPOSAL].load(Ordering::SeqCst))
    }

    fn replace_proposal(&self, current: Proposal, new: Proposal) -> bool {
        let (current, new) = (current.to_word(), new.to_word());
        self.words[PROPOSAL].compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    fn commits(workers: usize) -> Vec<VersionCommit> {
        let words: Vec<_> = (0..VersionCommit::words(workers)).map(|_| AtomicU64::new(0)).collect();
        let words = Vec::leak(words);
        let all: Vec<_> = (0..workers).map(|slot| VersionCommit::join(words, slot, workers).unwrap()).collect();
        for version_commit in &all {
            assert_eq!(version_commit.register(100), 100);
        }
        assert_eq!(all[0].status(100), CommitStatus::Committed);
        all
    }

    #[test]
    fn a_version_is_committed_when_all_are_ready() {
        let all = commits(3);
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
    fn a_newer_version_supersedes_an_uncommitted_one() {
        let all = commits(2);
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
    fn a_committed_version_stays_committed_after_a_newer_proposal() {
        let all = commits(2);
        all.iter().for_each(|version_commit| version_commit.vote_ready(version_commit.propose(100, || 200)));
        assert_eq!(all[0].status(200), CommitStatus::Committed);
        // The other worker has not checked the status since.
        assert_eq!(all[0].propose(200, || 300), 300);
        assert_eq!(all[1].status(200), CommitStatus::Committed);
        assert_eq!(all[1].status(300), CommitStatus::Pending);
    }

    #[test]
    fn a_change_that_no_time_reflects_is_one_version_for_all() {
        let all = commits(2);
        assert_eq!(all[0].propose(100, || 90), 101);
        assert_eq!(all[1].propose(100, || 90), 101);
    }

    #[test]
    fn a_worker_that_started_with_an_older_version_is_waited_for() {
        let words = Vec::leak((0..VersionCommit::words(2)).map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
        let [one, other] = [0, 1].map(|slot| VersionCommit::join(words, slot, 2).unwrap());
        one.register(100);
        one.vote_ready(one.propose(100, || 200));
        assert_eq!(one.status(200), CommitStatus::Pending);
        assert_eq!(other.register(100), 100);
        assert_eq!(one.status(200), CommitStatus::Pending);
        other.vote_ready(other.propose(100, || 200));
        assert_eq!(one.status(200), CommitStatus::Committed);
    }

    #[test]
    fn files_are_noted_again_if_another_worker_proposes_meanwhile() {
        let all = commits(2);
        let noted = std::cell::Cell::new(0);
        let version = all[0].propose(100, || {
            noted.set(noted.get() + 1);
            if noted.get() == 1 {
                // The other worker has seen a later edit.
                assert_eq!(all[1].propose(100, || 300), 300);
                200
            } else {
                300
            }
        });
        assert_eq!((version, noted.get()), (300, 2));
    }

    /// Worker that serves a version and follows the others.
    struct Worker {
        version_commit: VersionCommit,
        /// Version, and the edit that it contains.
        serving: (u64, u64),
        next: Option<(u64, u64)>,
    }

    impl Worker {
        fn respond(&mut self) -> u64 {
            if let Some((version, _)) = self.next
                && self.version_commit.status(version) == CommitStatus::Committed
            {
                self.serving = self.next.take().unwrap();
            }
            self.serving.1
        }
    }

    /// Edits, loads and requests run on threads of their own, in any order.
    #[test]
    fn no_client_sees_an_older_version_after_a_newer_one() {
        const WORKERS: usize = 3;
        const EDITS: u64 = 300;
        let disk = AtomicU64::new(1000);
        let words = Vec::leak((0..VersionCommit::words(WORKERS)).map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
        let workers: Vec<_> = (0..WORKERS)
            .map(|slot| {
                let version_commit = VersionCommit::join(words, slot, WORKERS).unwrap();
                Mutex::new(Worker { version_commit, serving: (version_commit.register(1000), 1000), next: None })
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
                        worker.respond();
                        worker.next = None;
                    }
                });
            }
            let client = scope.spawn(|| {
                let (mut seen, mut request) = (0, 0);
                while !is_over.load(Ordering::Relaxed) {
                    request += 1;
                    let response = workers[request * 7 % WORKERS].lock().unwrap().respond();
                    assert!(response >= seen, "{response} after {seen}");
                    seen = response;
                }
                seen
            });
            for edit in 0..EDITS {
                std::thread::sleep(Duration::from_micros(edit * 61 % 900));
                disk.fetch_add(1, Ordering::SeqCst);
            }
            let start = Instant::now();
            while workers.iter().any(|worker| worker.lock().unwrap().respond() < 1000 + EDITS) {
                assert!(start.elapsed() < Duration::from_secs(20) && !client.is_finished(), "the workers never agreed");
                std::thread::yield_now();
            }
            is_over.store(true, Ordering::Relaxed);
            assert!(client.join().unwrap() <= 1000 + EDITS);
        });
    }

    #[test]
    fn a_worker_that_has_left_is_not_waited_for() {
        let all = commits(2);
        all[0].vote_ready(all[0].propose(100, || 200));
        assert_eq!(all[0].status(200), CommitStatus::Pending);
        all[1].leave();
        assert_eq!(all[0].status(200), CommitStatus::Committed);
    }

    #[test]
    fn a_worker_that_never_votes_can_be_overruled() {
        let all = commits(2);
        all[0].vote_ready(all[0].propose(100, || 200));
        assert!(all[0].commit(200));
        assert_eq!(all[0].status(200), CommitStatus::Committed);
    }

    #[test]
    fn a_worker_learns_of_a_change_that_it_cannot_see() {
        let all = commits(2);
        assert!(!all[1].is_behind(100));
        all[0].vote_ready(all[0].propose(100, || 200));
        assert!(all[1].is_behind(100) && !all[0].is_behind(200));
        let version = all[1].propose(100, || 100);
        assert_eq!(version, 200);
        all[1].vote_refuse(version);
        assert!(!all[1].is_behind(100), "a refused version is not loaded again for this reason");
        all[1].vote_ready(version);
        assert!(!all[1].is_behind(version));
        assert_eq!(all[0].status(200), CommitStatus::Committed);
    }

    #[test]
    fn a_refusal_holds_up_the_others_until_it_is_withdrawn() {
        let all = commits(2);
        all[0].vote_ready(all[0].propose(100, || 200));
        all[1].vote_refuse(all[1].propose(100, || 200));
        assert!(!all[0].commit(200));
        assert_eq!(all[0].status(200), CommitStatus::Pending);
        assert_eq!(all[1].propose(100, || 200), 200);
        all[1].vote_ready(200);
        assert_eq!(all[0].status(200), CommitStatus::Committed);
    }
}
