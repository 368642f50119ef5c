//! Bookkeeping of a thread pool: which calls wait, which thread runs which call, which thread is to wake up or to exit.
//!
//! Plain data under one lock; `J` is a call with everything that is needed to run it.

use std::collections::VecDeque;
use std::ops::Range;

use crate::python::stack::ThreadId;
use crate::wsgi::call::CallNumber;

/// Calls and threads of a pool.
pub struct Scheduler<J> {
    /// Calls that any thread may start.
    queue: VecDeque<(CallNumber, J)>,
    /// Calls whose application is being imported.
    awaiting_import: Vec<(CallNumber, J)>,
    slots: Vec<Slot>,
    groups: Vec<Group<J>>,
    /// Number of threads that each group should have live.
    group_size: usize,
    /// Number of started calls that hold no thread.
    suspended: usize,
    /// Number of resumed calls that have yet to run `close()`.
    closing: usize,
    /// Threads are to be woken soon: at the end of the iteration of the event loop.
    plans_wake_up: bool,
    /// No call is accepted any more.
    closed: bool,
    /// No more calls come; the threads exit after the last one.
    draining: bool,
}

/// Threads of one interpreter. Each can start any call.
struct Group<J> {
    /// Suspended calls of this interpreter that continue.
    resumed: VecDeque<(CallNumber, J)>,
    /// Number of threads, without those that are stuck in an aborted call.
    live: usize,
    /// Number of calls that run and are not aborted.
    running: usize,
    sleeping: usize,
    wake: Wake,
}

/// Place of a thread. Behind the first slots of all groups are those of replacement threads, which take the place of
/// threads that are stuck in an aborted call.
#[derive(Default)]
struct Slot {
    group: usize,
    is_used: bool,
    thread: Option<ThreadId>,
    call: Option<CallNumber>,
    /// The call has exceeded its time limit, and its client has a response.
    aborted: bool,
}

/// State of a group's wake-up: `None → Sent → Claimed → None`.
///
/// Only one thread of an interpreter runs at a time, so one at a time is woken. It claims the wake-up, takes the GIL,
/// then a call, and wakes the next thread if more calls wait. Meanwhile the thread that holds the GIL can work through
/// the queue alone. As soon as it releases the GIL in a call, the woken thread continues.
#[derive(Default, PartialEq, Eq)]
enum Wake {
    #[default]
    None,
    /// A sleeping thread was notified.
    Sent,
    /// A thread is awake and takes a call soon.
    Claimed,
}

/// Next step of a thread.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<J> {
    Run(J),
    Sleep,
    /// The replaced thread has returned, or the pool has drained.
    Exit,
}

/// Numbers of threads and calls of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolFigures {
    /// Threads that are not stuck.
    pub threads: usize,
    /// Threads that run a call and are not stuck.
    pub busy: usize,
    /// Threads in aborted calls.
    pub stuck: usize,
    /// Calls that wait for a thread.
    pub waiting: usize,
}

/// Maximum number of stuck threads that are replaced at a time. With more, the pool gets smaller.
const MAX_STUCK: usize = 64;

/// Number of calls that wait for one wake-up at most. With more, the cost of the wake-up matters less than the time that
/// idle threads lose on other processor cores.
const MAX_PLANNED: usize = 16;

impl<J> Scheduler<J> {
    /// Creates `groups` groups of `group_size` threads, which the caller starts.
    pub fn new(group_size: usize, groups: usize) -> Self {
        let slot = |index| Slot { group: index / group_size, is_used: true, ..Slot::default() };
        let group = |_| Group { resumed: VecDeque::new(), live: group_size, running: 0, sleeping: 0, wake: Wake::None };
        Self {
            queue: VecDeque::new(),
            awaiting_import: Vec::new(),
            slots: (0..group_size * groups).map(slot).collect(),
            groups: (0..groups).map(group).collect(),
            group_size,
            suspended: 0,
            closing: 0,
            plans_wake_up: false,
            closed: false,
            draining: false,
        }
    }

    /// Returns the number of groups.
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// Returns the slots of the threads that a group starts with.
    pub fn first_slots(&self, group: usize) -> Range<usize> {
        group * self.group_size..(group + 1) * self.group_size
    }

    /// Returns the number of slots of all groups without those of replacement threads.
    fn first_slot_count(&self) -> usize {
        self.group_size * self.groups.len()
    }

    /// Returns true if a group has threads, including those that are about to start.
    pub fn has_threads(&self, group: usize) -> bool {
        self.slots.iter().any(|slot| slot.group == group && slot.is_used)
    }

    /// Returns the group of a thread, and its number in the group, from 1.
    pub fn label_of(&self, slot: usize) -> (usize, usize) {
        let first_slots = self.first_slot_count();
        let number = if slot < first_slots { slot % self.group_size } else { self.group_size + slot - first_slots };
        (self.slots[slot].group, number + 1)
    }

    /// Returns the number of calls that run and are not aborted.
    fn running(&self) -> usize {
        self.groups.iter().map(|group| group.running).sum()
    }

    /// Returns true if one more call is accepted where `queue` calls may wait for a thread.
    pub fn has_room(&self, queue: usize) -> bool {
        !self.closed && self.accepted() < queue.saturating_add(self.first_slot_count())
    }

    /// Returns the number of calls that wait or run and are not aborted.
    fn accepted(&self) -> usize {
        // A free thread takes a call soon, but not at once.
        self.queue.len() + self.awaiting_import.len() + self.running()
    }

    /// Returns 0 if a thread is free for one more call, and otherwise the place in the queue that it would get, from 1.
    pub fn backlog(&self) -> usize {
        match self.first_slot_count() {
            // The main interpreter alone, which runs no calls.
            0 => 0,
            threads => (self.accepted() + 1).saturating_sub(threads),
        }
    }

    /// Returns the numbers of threads and calls.
    pub fn figures(&self) -> PoolFigures {
        PoolFigures {
            threads: self.groups.iter().map(|group| group.live).sum(),
            busy: self.running(),
            stuck: self.slots.iter().filter(|slot| slot.aborted).count(),
            waiting: self.queue.len() + self.awaiting_import.len(),
        }
    }

    /// Adds a call that any thread may start.
    pub fn push(&mut self, number: CallNumber, job: J) {
        self.queue.push_back((number, job));
    }

    /// Adds a call whose application is being imported.
    pub fn push_awaiting_import(&mut self, number: CallNumber, job: J) {
        self.awaiting_import.push((number, job));
    }

    /// Removes and returns the calls that await the import of an application; `is_of` selects its jobs.
    pub fn take_awaiting_import(&mut self, is_of: impl Fn(&J) -> bool) -> Vec<(CallNumber, J)> {
        self.awaiting_import.extract_if(.., |(_, job)| is_of(job)).collect()
    }

    /// Records that a started call holds no thread until it is resumed.
    pub fn suspend(&mut self) {
        self.suspended += 1;
    }

    /// Adds a suspended call for the threads of its group, ahead of calls that have not started.
    pub fn resume(&mut self, number: CallNumber, job: J, group: usize) {
        self.suspended -= 1;
        self.closing += 1;
        self.groups[group].resumed.push_back((number, job));
    }

    /// Records that a resumed call has run `close()`.
    pub fn end_resumed(&mut self) {
        self.closing -= 1;
    }

    /// Returns true if resumed calls have yet to run `close()`.
    pub fn has_closing_calls(&self) -> bool {
        self.closing > 0
    }

    /// Removes a call that has not started, and returns it.
    pub fn cancel(&mut self, number: CallNumber) -> Option<J> {
        if let Some(index) = self.awaiting_import.iter().position(|(awaiting, _)| *awaiting == number) {
            return Some(self.awaiting_import.remove(index).1);
        }
        let index = self.queue.iter().position(|(queued, _)| *queued == number)?;
        self.queue.remove(index).map(|(_, job)| job)
    }

    /// Sets the thread of a slot, which has started.
    pub fn set_thread(&mut self, slot: usize, thread: ThreadId) {
        self.slots[slot].thread = Some(thread);
    }

    /// Frees the slot of a thread that has exited or could not be started.
    pub fn free_slot(&mut self, slot: usize) {
        let group = self.slots[slot].group;
        self.slots[slot] = Slot { group, ..Slot::default() };
        self.groups[group].live -= 1;
    }

    /// Returns the next step of a thread; `claimed` if the thread was woken for a call.
    pub fn next(&mut self, slot: usize, claimed: bool) -> Next<J> {
        let must_exit = self.must_exit(slot);
        let group = &mut self.groups[self.slots[slot].group];
        if claimed {
            group.wake = Wake::None;
        }
        if must_exit {
            return Next::Exit;
        }
        let Some((number, job)) = group.resumed.pop_front().or_else(|| self.queue.pop_front()) else {
            return Next::Sleep;
        };
        group.running += 1;
        self.slots[slot].call = Some(number);
        Next::Run(job)
    }

    /// Ends the call of a thread. Returns the thread if the call was aborted: an exception may be pending in it.
    pub fn end_call(&mut self, slot: usize) -> Option<ThreadId> {
        let slot = &mut self.slots[slot];
        let group = &mut self.groups[slot.group];
        slot.call = None;
        if !std::mem::take(&mut slot.aborted) {
            group.running -= 1;
            return None;
        }
        group.live += 1;
        slot.thread
    }

    /// Stops counting a call as running, though its thread is still in it. Returns the slot of a replacement thread,
    /// unless [`MAX_STUCK`] is reached; the caller starts the thread or frees the slot.
    pub fn abort(&mut self, number: CallNumber) -> Option<usize> {
        let slot = self.slots.iter_mut().find(|slot| slot.call == Some(number))?;
        if std::mem::replace(&mut slot.aborted, true) {
            return None;
        }
        let index = slot.group;
        let group = &mut self.groups[index];
        group.running -= 1;
        group.live -= 1;
        if self.closed || self.slots.iter().filter(|slot| slot.aborted).count() > MAX_STUCK {
            return None;
        }
        group.live += 1;
        let free = self.slots.iter().position(|slot| !slot.is_used);
        let replacement = free.unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        self.slots[replacement] = Slot { group: index, is_used: true, ..Slot::default() };
        Some(replacement)
    }

    /// Returns the group whose thread runs a call.
    pub fn group_of(&self, number: CallNumber) -> Option<usize> {
        self.slots.iter().find(|slot| slot.call == Some(number)).map(|slot| slot.group)
    }

    /// Returns the thread that runs a call; with `only_aborted` only if the call was aborted.
    pub fn thread_of(&self, number: CallNumber, only_aborted: bool) -> Option<ThreadId> {
        let found = self.slots.iter().find(|slot| slot.call == Some(number));
        found.filter(|slot| slot.aborted || !only_aborted).and_then(|slot| slot.thread)
    }

    /// Accepts no more calls. Removes and returns those that have not started.
    pub fn close(&mut self) -> Vec<(CallNumber, J)> {
        self.closed = true;
        self.queue.drain(..).chain(self.awaiting_import.drain(..)).collect()
    }

    /// Returns true after [`Scheduler::close`].
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Lets the threads exit after the last call. No more calls come.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Returns true after [`Scheduler::drain`], when no call is left that needs a thread of the group.
    fn has_drained(&self, group: usize) -> bool {
        let calls = self.queue.len() + self.awaiting_import.len() + self.groups[group].resumed.len() + self.suspended;
        self.draining && calls == 0
    }

    /// Returns true if a call runs that is not aborted.
    pub fn has_running_calls(&self) -> bool {
        self.running() > 0
    }

    /// Returns true if a thread of the group runs a call, aborted or not.
    pub fn is_busy(&self, group: usize) -> bool {
        self.slots.iter().any(|slot| slot.group == group && slot.call.is_some())
    }

    /// Returns true after [`Scheduler::close`], when the last call has ended.
    pub fn is_closed_and_idle(&self) -> bool {
        self.closed && self.running() == 0
    }

    /// Returns true if threads sleep that the calls in the queue need, and records that the caller wakes them soon.
    pub fn plan_wake_up(&mut self) -> bool {
        let able = |group: &Group<J>| group.wake == Wake::None && group.sleeping > 0;
        !self.plans_wake_up && self.groups.iter().any(able) && {
            self.plans_wake_up = true;
            true
        }
    }

    /// Returns true if so many calls wait for the planned wake-up that it must be sent now.
    pub fn is_plan_full(&self) -> bool {
        self.plans_wake_up && self.queue.len() >= MAX_PLANNED
    }

    /// Records that the threads are woken now.
    pub fn end_plan(&mut self) {
        self.plans_wake_up = false;
    }

    /// Chooses a group of which one sleeping thread must be notified now, and records that it is.
    pub fn choose_group_to_wake(&mut self) -> Option<usize> {
        let woken = self.groups.iter().filter(|group| group.wake != Wake::None).count();
        let has_more = self.queue.len() > woken;
        let able = self.groups.iter_mut().enumerate().filter(|(_, group)| {
            group.wake == Wake::None && group.sleeping > 0 && (has_more || !group.resumed.is_empty())
        });
        // Resumed calls go first; otherwise the group with the fewest running calls.
        let (index, group) = able.min_by_key(|(_, group)| (group.resumed.is_empty(), group.running))?;
        group.wake = Wake::Sent;
        Some(index)
    }

    /// Returns true if a thread has nothing to do.
    pub fn may_sleep(&self, slot: usize) -> bool {
        let group = &self.groups[self.slots[slot].group];
        let is_idle = self.queue.is_empty() && group.resumed.is_empty();
        (is_idle || group.wake == Wake::Claimed) && !self.must_exit(slot)
    }

    fn group_mut(&mut self, slot: usize) -> &mut Group<J> {
        &mut self.groups[self.slots[slot].group]
    }

    /// Counts a thread as sleeping.
    pub fn fall_asleep(&mut self, slot: usize) {
        self.group_mut(slot).sleeping += 1;
    }

    /// Counts a thread as awake. Returns true if a thread of its group was notified and none has claimed that.
    pub fn wake_up(&mut self, slot: usize) -> bool {
        let group = self.group_mut(slot);
        group.sleeping -= 1;
        group.wake == Wake::Sent
    }

    /// Claims the wake-up of the group for a thread that is awake.
    pub fn claim(&mut self, slot: usize) {
        self.group_mut(slot).wake = Wake::Claimed;
    }

    /// Returns true if a thread in the group of this thread must exit.
    pub fn group_must_shrink(&self, slot: usize) -> bool {
        let group = self.slots[slot].group;
        self.groups[group].live > self.group_size || self.has_drained(group)
    }

    /// Returns true if this thread must exit. In a group with too many threads, replacement threads exit.
    pub fn must_exit(&self, slot: usize) -> bool {
        let is_replacement = slot >= self.first_slot_count();
        (is_replacement && self.group_must_shrink(slot)) || self.has_drained(self.slots[slot].group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates the scheduler of one group whose jobs are the numbers of the calls.
    fn scheduler(group_size: usize, calls: &[CallNumber]) -> Scheduler<CallNumber> {
        let mut scheduler = Scheduler::new(group_size, 1);
        for call in calls {
            scheduler.push(*call, *call);
        }
        scheduler
    }

    #[test]
    fn the_queue_limit_counts_calls_beyond_the_number_of_threads() {
        let mut scheduler = scheduler(2, &[1, 2]);
        assert!(!scheduler.has_room(0) && scheduler.has_room(1));
        assert_eq!(scheduler.next(0, false), Next::Run(1));
        scheduler.push_awaiting_import(3, 3);
        assert!(!scheduler.has_room(1) && scheduler.has_room(2));
        scheduler.end_call(0);
        assert!(scheduler.has_room(1));
        assert_eq!(scheduler.close(), [(2, 2), (3, 3)]);
        assert!(!scheduler.has_room(1000) && scheduler.is_closed_and_idle());
    }

    #[test]
    fn a_call_is_cancelled_only_before_its_start() {
        let mut scheduler = scheduler(1, &[1, 2, 3]);
        scheduler.push_awaiting_import(4, 4);
        assert_eq!((scheduler.cancel(2), scheduler.cancel(4), scheduler.cancel(5)), (Some(2), Some(4), None));
        assert_eq!(scheduler.next(0, false), Next::Run(1));
        assert_eq!(scheduler.cancel(1), None);
        scheduler.end_call(0);
        assert_eq!(scheduler.next(0, false), Next::Run(3));
    }

    #[test]
    fn a_replacement_thread_exits_when_the_stuck_thread_returns() {
        let mut scheduler = scheduler(1, &[1, 2, 3]);
        assert_eq!(scheduler.next(0, false), Next::Run(1));
        assert_eq!(scheduler.abort(1), Some(1));
        assert_eq!(scheduler.abort(1), None);
        assert!(!scheduler.has_running_calls());
        assert_eq!(scheduler.next(1, false), Next::Run(2));
        scheduler.end_call(1);
        scheduler.end_call(0);
        assert!(scheduler.group_must_shrink(0) && !scheduler.may_sleep(1));
        assert_eq!(scheduler.next(1, false), Next::Exit);
        scheduler.free_slot(1);
        assert!(!scheduler.group_must_shrink(0) && scheduler.has_threads(0));
        assert_eq!(scheduler.next(0, false), Next::Run(3));
    }

    /// The main thread of the interpreter waits for such threads, too.
    #[test]
    fn a_replacement_thread_counts_before_it_has_started() {
        let mut scheduler = scheduler(1, &[1]);
        assert_eq!(scheduler.next(0, false), Next::Run(1));
        scheduler.drain();
        assert_eq!(scheduler.abort(1), Some(1));
        scheduler.end_call(0);
        assert_eq!(scheduler.next(0, false), Next::Exit);
        scheduler.free_slot(0);
        assert!(scheduler.has_threads(0));
        assert_eq!(scheduler.next(1, false), Next::Exit);
        scheduler.free_slot(1);
        assert!(!scheduler.has_threads(0));
    }

    #[test]
    fn a_stuck_replacement_thread_is_replaced() {
        let mut scheduler = scheduler(1, &[1, 2]);
        assert_eq!(scheduler.next(0, false), Next::Run(1));
        assert_eq!(scheduler.abort(1), Some(1));
        assert_eq!(scheduler.next(1, false), Next::Run(2));
        assert_eq!(scheduler.abort(2), Some(2));
        scheduler.end_call(1);
        // Two replacement threads are live in place of one thread.
        assert_eq!(scheduler.next(2, false), Next::Exit);
        scheduler.free_slot(2);
        assert_eq!(scheduler.next(1, false), Next::Sleep);
        scheduler.end_call(0);
        assert_eq!(scheduler.next(1, false), Next::Exit);
        scheduler.free_slot(1);
        assert_eq!(scheduler.next(0, false), Next::Sleep);
    }

    #[test]
    fn the_number_of_stuck_threads_is_bounded() {
        let calls: Vec<CallNumber> = (0..MAX_STUCK as CallNumber + 1).collect();
        let mut scheduler = scheduler(1, &calls);
        let mut slot = 0;
        for call in &calls[..MAX_STUCK] {
            assert_eq!(scheduler.next(slot, false), Next::Run(*call));
            slot = scheduler.abort(*call).expect("a replacement");
        }
        assert_eq!(scheduler.next(slot, false), Next::Run(MAX_STUCK as CallNumber));
        assert_eq!(scheduler.abort(MAX_STUCK as CallNumber), None);
    }

    #[test]
    fn one_sleeping_thread_at_a_time_is_woken() {
        let mut scheduler = scheduler(2, &[]);
        scheduler.fall_asleep(0);
        scheduler.fall_asleep(1);
        assert_eq!(scheduler.choose_group_to_wake(), None);
        scheduler.push(1, 1);
        assert_eq!(scheduler.choose_group_to_wake(), Some(0));
        scheduler.push(2, 2);
        assert_eq!(scheduler.choose_group_to_wake(), None);
        assert!(scheduler.wake_up(0));
        scheduler.claim(0);
        assert_eq!(scheduler.choose_group_to_wake(), None);
        assert_eq!(scheduler.next(0, true), Next::Run(1));
        assert_eq!(scheduler.choose_group_to_wake(), Some(0));
    }

    #[test]
    fn a_wake_up_is_planned_once_for_many_calls() {
        let mut scheduler = scheduler(1, &[1]);
        assert!(!scheduler.plan_wake_up(), "no thread sleeps");
        scheduler.fall_asleep(0);
        assert!(scheduler.plan_wake_up());
        scheduler.push(2, 2);
        assert!(!scheduler.plan_wake_up());
        scheduler.end_plan();
        assert_eq!(scheduler.choose_group_to_wake(), Some(0));
        assert!(!scheduler.plan_wake_up(), "the only thread was notified");
    }

    #[test]
    fn a_wake_up_is_not_planned_for_any_number_of_calls() {
        let mut scheduler = scheduler(1, &[]);
        scheduler.fall_asleep(0);
        for call in 1..=MAX_PLANNED {
            assert!(!scheduler.is_plan_full());
            scheduler.push(call as CallNumber, call as CallNumber);
            scheduler.plan_wake_up();
        }
        assert!(scheduler.is_plan_full());
        assert_eq!(scheduler.choose_group_to_wake(), Some(0));
    }

    /// Creates the scheduler of two groups of two threads that sleep.
    fn two_groups() -> Scheduler<CallNumber> {
        let mut scheduler = Scheduler::new(2, 2);
        (0..4).for_each(|slot| scheduler.fall_asleep(slot));
        scheduler
    }

    #[test]
    fn the_group_with_the_fewest_running_calls_is_woken() {
        let mut scheduler = two_groups();
        scheduler.push(1, 1);
        assert_eq!(scheduler.choose_group_to_wake(), Some(0));
        assert_eq!(scheduler.choose_group_to_wake(), None, "a thread was notified of the only call");
        scheduler.push(2, 2);
        assert_eq!(scheduler.choose_group_to_wake(), Some(1));
        assert!(scheduler.wake_up(0));
        scheduler.claim(0);
        assert_eq!(scheduler.next(0, true), Next::Run(1));
        assert!(scheduler.wake_up(2));
        scheduler.claim(2);
        assert_eq!(scheduler.next(2, true), Next::Run(2));
        scheduler.end_call(0);
        scheduler.push(3, 3);
        assert_eq!(
            (scheduler.choose_group_to_wake(), scheduler.is_busy(0), scheduler.is_busy(1)),
            (Some(0), false, true)
        );
    }

    #[test]
    fn a_resumed_call_continues_in_its_group() {
        let mut scheduler = two_groups();
        scheduler.suspend();
        scheduler.resume(1, 1, 1);
        assert_eq!(scheduler.choose_group_to_wake(), Some(1));
        assert_eq!(scheduler.next(0, false), Next::Sleep);
        assert!(scheduler.may_sleep(0) && !scheduler.may_sleep(3));
        assert_eq!(scheduler.cancel(1), None, "it has objects of its interpreter");
        assert_eq!(scheduler.close(), []);
        assert_eq!(scheduler.next(3, true), Next::Run(1));
        assert_eq!((scheduler.group_of(1), scheduler.label_of(3)), (Some(1), (1, 2)));
    }

    #[test]
    fn a_replacement_thread_joins_the_group_of_the_stuck_thread() {
        let mut scheduler = two_groups();
        scheduler.push(1, 1);
        assert_eq!(scheduler.next(2, false), Next::Run(1));
        assert_eq!(scheduler.abort(1), Some(4));
        assert_eq!((scheduler.label_of(4), scheduler.label_of(2)), ((1, 3), (1, 1)));
        scheduler.end_call(2);
        assert!(scheduler.group_must_shrink(2) && !scheduler.group_must_shrink(0));
        assert_eq!(scheduler.next(4, false), Next::Exit);
    }
}
