//! How the threads of a pool wait for calls, and are woken.

use super::scheduler::{Next, Scheduler};

use crate::sync::{Condvar, Mutex, MutexGuard};

/// A pool and what its threads sleep on.
pub struct SharedScheduler<W> {
    pool: Mutex<Scheduler<W>>,
    /// One for each crew, signalled when there is work for a thread of it, or one too many of them.
    work: Vec<Condvar>,
}

impl<W> SharedScheduler<W> {
    /// The threads of `pool` are to be started.
    pub fn new(pool: Scheduler<W>) -> Self {
        let work = (0..pool.groups()).map(|_| Condvar::new()).collect();
        Self { pool: Mutex::new(pool), work }
    }

    /// The pool.
    pub fn lock(&self) -> MutexGuard<'_, Scheduler<W>> {
        self.pool.lock()
    }

    /// Wakes a thread if one sleeps and none is on its way; to be called after work has come.
    pub fn wake_one(&self, mut pool: MutexGuard<'_, Scheduler<W>>) {
        if let Some(group) = pool.group_to_wake() {
            drop(pool);
            self.work[group].notify_one();
        }
    }

    /// Wakes all threads, so that those find out that are to end: one too many, or all when no more calls will come.
    pub fn wake_all(&self) {
        self.work.iter().for_each(Condvar::notify_all);
    }

    /// What `member` is to do; `claimed` when it was woken for it.
    pub fn next(&self, slot: usize, claimed: bool) -> Next<W> {
        let mut pool = self.lock();
        let next = pool.next(slot, claimed);
        if claimed {
            self.wake_one(pool);
        }
        if let Next::End = next {
            // Others may have gone back to sleep for what this one was woken for.
            self.wake_all();
        }
        next
    }

    /// Sleeps until there is something to do; for good once the pool is closed. Returns whether it was woken for a call.
    pub fn sleep(&self, slot: usize) -> bool {
        let mut pool = self.lock();
        let (group, _) = pool.label_of(slot);
        let mut woken = false;
        // A call may have come since `next`, when this thread was not asleep.
        while !woken && pool.may_sleep(slot) {
            pool.fall_asleep(slot);
            pool = self.work[group].wait(pool);
            woken = pool.wake_up(slot);
        }
        let claims = woken || !pool.is_surplus(slot);
        if claims {
            pool.claim(slot);
        }
        claims
    }
}

#[cfg(all(test, loom))]
mod models {
    use std::sync::Arc;

    use loom::sync::Notify;
    use loom::thread;

    use super::*;
    use crate::wsgi::call::CallNumber;

    /// This call goes on only when the next one is run, as one that asks its own server does.
    const WAITS: CallNumber = 1;
    const IS_WAITED_FOR: CallNumber = 2;
    /// The last one ends the threads of the model.
    const LAST: CallNumber = CallNumber::MAX;

    /// As a pool thread does: runs calls until the last one, which it leaves for the others.
    fn serve(queue: &SharedScheduler<CallNumber>, slot: usize, waited_for: &Notify) -> Vec<CallNumber> {
        let (mut run, mut claimed) = (Vec::new(), false);
        loop {
            match queue.next(slot, claimed) {
                Next::Run(LAST) => {
                    let mut pool = queue.lock();
                    pool.ended(slot);
                    pool.push(LAST, LAST);
                    queue.wake_one(pool);
                    return run;
                }
                Next::Run(call) => {
                    claimed = false;
                    match call {
                        WAITS => waited_for.wait(),
                        IS_WAITED_FOR => waited_for.notify(),
                        _ => {}
                    }
                    run.push(call);
                    let mut pool = queue.lock();
                    pool.ended(slot);
                    let surplus = pool.has_surplus(slot);
                    drop(pool);
                    if surplus {
                        queue.wake_all();
                    }
                }
                Next::Sleep => claimed = queue.sleep(slot),
                Next::End => return run,
            }
        }
    }

    fn push(queue: &SharedScheduler<CallNumber>, call: CallNumber) {
        let mut pool = queue.lock();
        pool.push(call, call);
        queue.wake_one(pool);
    }

    /// Two threads, in `crews` crews of `size`.
    fn every_call_is_run_once(size: usize, groups: usize) {
        // Three threads have very many interleavings; all that take turns at most three times against their will.
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let shared = Arc::new((SharedScheduler::new(Scheduler::new(size, groups)), Notify::new()));
            let threads = [0, 1].map(|slot| {
                let shared = shared.clone();
                thread::spawn(move || serve(&shared.0, slot, &shared.1))
            });
            for call in [WAITS, IS_WAITED_FOR, LAST] {
                push(&shared.0, call);
            }
            let mut all = threads.map(|thread| thread.join().unwrap()).concat();
            all.sort_unstable();
            assert_eq!(all, [WAITS, IS_WAITED_FOR]);
        });
    }

    #[test]
    fn every_call_is_run_once_and_no_thread_sleeps_beside_one() {
        every_call_is_run_once(2, 1);
    }

    #[test]
    fn every_call_is_run_once_and_no_interpreter_sleeps_beside_one() {
        every_call_is_run_once(1, 2);
    }

    /// The thread of one crew takes what has begun there, the other leaves it alone.
    #[test]
    fn a_call_that_has_begun_is_run_by_its_crew() {
        loom::model(|| {
            let queue = Arc::new(SharedScheduler::new(Scheduler::new(1, 2)));
            let threads = [0, 1].map(|slot| {
                let queue = queue.clone();
                thread::spawn(move || serve(&queue, slot, &Notify::new()))
            });
            let mut pool = queue.lock();
            pool.suspend();
            pool.resume(3, 3, 1);
            queue.wake_one(pool);
            push(&queue, LAST);
            let [other, own] = threads.map(|thread| thread.join().unwrap());
            assert_eq!((other, own), (vec![], vec![3]));
        });
    }

    /// Whenever that comes, and whether the last call is run, by whom ever, or its client leaves.
    #[test]
    fn all_threads_end_when_no_more_calls_come() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let queue = Arc::new(SharedScheduler::new(Scheduler::new(2, 1)));
            let threads = [0, 1].map(|slot| {
                let queue = queue.clone();
                thread::spawn(move || serve(&queue, slot, &Notify::new()))
            });
            push(&queue, 3);
            queue.lock().drain();
            queue.wake_all();
            let cancelled = queue.lock().cancel(3);
            let run = threads.map(|thread| thread.join().unwrap()).concat();
            assert_eq!(run.len(), usize::from(cancelled.is_none()));
        });
    }

    #[test]
    fn a_call_is_run_or_cancelled_and_never_both() {
        loom::model(|| {
            let queue = Arc::new(SharedScheduler::new(Scheduler::new(1, 1)));
            let thread = thread::spawn({
                let queue = queue.clone();
                move || serve(&queue, 0, &Notify::new())
            });
            push(&queue, 3);
            push(&queue, 4);
            let cancelled = queue.lock().cancel(4);
            push(&queue, LAST);
            let mut all = thread.join().unwrap();
            all.extend(cancelled);
            assert_eq!(all, [3, 4]);
        });
    }
}
