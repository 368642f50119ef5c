//! The scheduler shared by the threads of a pool, which sleep here until there is a call for them.

use super::scheduler::{Next, Scheduler};

use crate::sync::{Condvar, Mutex, MutexGuard};

/// A scheduler behind a lock, with the condition variables that its threads sleep on.
pub struct SharedScheduler<J> {
    scheduler: Mutex<Scheduler<J>>,
    /// One for each group. Signalled when there is a call for a thread of the group, or a thread must exit.
    changed: Vec<Condvar>,
}

impl<J> SharedScheduler<J> {
    /// Shares `scheduler`, whose threads the caller starts.
    pub fn new(scheduler: Scheduler<J>) -> Self {
        let changed = (0..scheduler.group_count()).map(|_| Condvar::new()).collect();
        Self { scheduler: Mutex::new(scheduler), changed }
    }

    /// Locks the scheduler.
    pub fn lock(&self) -> MutexGuard<'_, Scheduler<J>> {
        self.scheduler.lock()
    }

    /// Wakes a thread for a call, if one sleeps and no other is about to take the call. Call it after each new call.
    pub fn wake_one(&self, mut scheduler: MutexGuard<'_, Scheduler<J>>) {
        if let Some(group) = scheduler.choose_group_to_wake() {
            drop(scheduler);
            self.changed[group].notify_one();
        }
    }

    /// Wakes the threads that [`Scheduler::plan_wake_up`] has promised to wake: one of each group, at most.
    pub fn wake_planned(&self) {
        for _ in 0..self.changed.len() {
            let mut scheduler = self.lock();
            scheduler.end_plan();
            let Some(group) = scheduler.choose_group_to_wake() else { return };
            drop(scheduler);
            self.changed[group].notify_one();
        }
    }

    /// Wakes all threads, so that each checks whether it must exit.
    pub fn wake_all(&self) {
        self.changed.iter().for_each(Condvar::notify_all);
    }

    /// Returns the next step of a thread; `claimed` is the result of its last [`SharedScheduler::sleep`], false after a
    /// call.
    pub fn next(&self, slot: usize, claimed: bool) -> Next<J> {
        let mut scheduler = self.lock();
        let next = scheduler.next(slot, claimed);
        if claimed {
            self.wake_one(scheduler);
        }
        if let Next::Exit = next {
            // Other threads may have gone back to sleep because this one had claimed the wake-up.
            self.wake_all();
        }
        next
    }

    /// Sleeps until there is a call or the thread must exit. Returns true if the thread has claimed a wake-up, to take
    /// a call.
    pub fn sleep(&self, slot: usize) -> bool {
        let mut scheduler = self.lock();
        let (group, _) = scheduler.label_of(slot);
        let mut woken = false;
        // A call may have come since `next`, when this thread was not counted as sleeping.
        while !woken && scheduler.may_sleep(slot) {
            scheduler.fall_asleep(slot);
            scheduler = self.changed[group].wait(scheduler);
            woken = scheduler.wake_up(slot);
        }
        let claims = woken || !scheduler.must_exit(slot);
        if claims {
            scheduler.claim(slot);
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

    /// Call that continues only when `AWAITED` runs, as one does that sends a request to its own server.
    const WAITING: CallNumber = 1;
    const AWAITED: CallNumber = 2;
    /// Last call. It ends the threads of the model.
    const LAST: CallNumber = CallNumber::MAX;

    /// Runs calls as a pool thread does, until the last one, which it leaves for the other threads.
    fn run_calls(shared: &SharedScheduler<CallNumber>, slot: usize, awaited: &Notify) -> Vec<CallNumber> {
        let (mut run, mut claimed) = (Vec::new(), false);
        loop {
            match shared.next(slot, claimed) {
                Next::Run(LAST) => {
                    let mut scheduler = shared.lock();
                    scheduler.end_call(slot);
                    scheduler.push(LAST, LAST);
                    shared.wake_one(scheduler);
                    return run;
                }
                Next::Run(call) => {
                    claimed = false;
                    match call {
                        WAITING => awaited.wait(),
                        AWAITED => awaited.notify(),
                        _ => {}
                    }
                    run.push(call);
                    let mut scheduler = shared.lock();
                    scheduler.end_call(slot);
                    let must_shrink = scheduler.group_must_shrink(slot);
                    drop(scheduler);
                    if must_shrink {
                        shared.wake_all();
                    }
                }
                Next::Sleep => claimed = shared.sleep(slot),
                Next::Exit => return run,
            }
        }
    }

    /// Adds calls as the event loop does: with one wake-up after the last of them.
    fn push(shared: &SharedScheduler<CallNumber>, calls: &[CallNumber]) {
        let mut wakes = false;
        for call in calls {
            let mut scheduler = shared.lock();
            scheduler.push(*call, *call);
            wakes |= scheduler.plan_wake_up();
        }
        if wakes {
            shared.wake_planned();
        }
    }

    /// Checks that two threads, in `groups` groups of `group_size`, run every call once.
    fn every_call_runs_once(group_size: usize, groups: usize) {
        // Three threads have too many interleavings; this checks those with at most three preemptions.
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let shared = Arc::new((SharedScheduler::new(Scheduler::new(group_size, groups)), Notify::new()));
            let threads = [0, 1].map(|slot| {
                let shared = shared.clone();
                thread::spawn(move || run_calls(&shared.0, slot, &shared.1))
            });
            push(&shared.0, &[WAITING, AWAITED]);
            push(&shared.0, &[LAST]);
            let mut all = threads.map(|thread| thread.join().unwrap()).concat();
            all.sort_unstable();
            assert_eq!(all, [WAITING, AWAITED]);
        });
    }

    #[test]
    fn every_call_runs_once_and_no_thread_sleeps_while_one_waits() {
        every_call_runs_once(2, 1);
    }

    #[test]
    fn every_call_runs_once_and_no_interpreter_sleeps_while_one_waits() {
        every_call_runs_once(1, 2);
    }

    #[test]
    fn a_resumed_call_runs_in_its_own_group() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let shared = Arc::new(SharedScheduler::new(Scheduler::new(1, 2)));
            let threads = [0, 1].map(|slot| {
                let shared = shared.clone();
                thread::spawn(move || run_calls(&shared, slot, &Notify::new()))
            });
            let mut scheduler = shared.lock();
            scheduler.suspend();
            scheduler.resume(3, 3, 1);
            shared.wake_one(scheduler);
            push(&shared, &[LAST]);
            let [other, own] = threads.map(|thread| thread.join().unwrap());
            assert_eq!((other, own), (vec![], vec![3]));
        });
    }

    /// Shutdown at any point, with the last call run by any thread or cancelled.
    #[test]
    fn all_threads_exit_when_the_pool_drains() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let shared = Arc::new(SharedScheduler::new(Scheduler::new(2, 1)));
            let threads = [0, 1].map(|slot| {
                let shared = shared.clone();
                thread::spawn(move || run_calls(&shared, slot, &Notify::new()))
            });
            push(&shared, &[3]);
            shared.lock().drain();
            shared.wake_all();
            let cancelled = shared.lock().cancel(3);
            let run = threads.map(|thread| thread.join().unwrap()).concat();
            assert_eq!(run.len(), usize::from(cancelled.is_none()));
        });
    }

    #[test]
    fn a_call_runs_or_is_cancelled_and_never_both() {
        loom::model(|| {
            let shared = Arc::new(SharedScheduler::new(Scheduler::new(1, 1)));
            let thread = thread::spawn({
                let shared = shared.clone();
                move || run_calls(&shared, 0, &Notify::new())
            });
            push(&shared, &[3, 4]);
            let cancelled = shared.lock().cancel(4);
            push(&shared, &[LAST]);
            let mut all = thread.join().unwrap();
            all.extend(cancelled);
            assert_eq!(all, [3, 4]);
        });
    }
}
