//! The book-keeping of a pool of threads: which calls wait, which thread runs what, which one is to wake or to end.
//!
//! Plain data under one lock; `W` is a call with what is needed to run it.

use std::collections::VecDeque;

use crate::python::stack::ThreadId;
use crate::wsgi::call::CallNumber;

/// Calls and threads of a pool.
pub struct Scheduler<W> {
    /// Calls that any thread may take.
    queue: VecDeque<(CallNumber, W)>,
    /// Calls whose application is being loaded.
    awaiting_import: Vec<(CallNumber, W)>,
    slots: Vec<Slot>,
    groups: Vec<Group<W>>,
    /// ThreadPool of each crew that are to serve.
    size: usize,
    /// Calls that have begun and need no thread for now.
    suspended: usize,
    /// Calls that were resumed to be ended, and have not been yet.
    closing: usize,
    closed: bool,
    /// No more calls come; the threads end with the last.
    draining: bool,
}

/// The threads of one interpreter, all of which can take any call that has not begun.
struct Group<W> {
    /// Calls that have run in this interpreter before, and go on.
    resumed: VecDeque<(CallNumber, W)>,
    /// ThreadPool that serve: all but those whose call was given up.
    serving: usize,
    running: usize,
    sleeping: usize,
    wake: Wake,
}

/// A thread, by its index. Those behind the threads of all crews are substitutes for some that are stuck in a call.
#[derive(Default)]
struct Slot {
    group: usize,
    is_used: bool,
    thread: Option<ThreadId>,
    call: Option<CallNumber>,
    /// The call has run out of time, and nobody waits for it any more.
    aborted: bool,
}

/// Whether a sleeping thread of a crew has been told of work: `None → Sent → Claimed → None`.
///
/// Only one thread of an interpreter runs at a time, so one at a time is woken. It claims the wake-up, takes the GIL, then
/// a call, and wakes the next thread if more calls wait. Meanwhile the thread that has the GIL may go through the queue
/// alone; as soon as it lets go of it in a call, the woken one is there.
#[derive(Default, PartialEq, Eq)]
enum Wake {
    #[default]
    None,
    Sent,
    Claimed,
}

/// What a thread does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<W> {
    Run(W),
    Sleep,
    /// It was a substitute, and the thread that it stood in for is back; or no more calls will come.
    End,
}

/// So many threads may be stuck at a time and still be replaced; with more, the pool gets smaller instead.
const MOST_STUCK: usize = 64;

impl<W> Scheduler<W> {
    /// A pool of `crews` times `size` threads, to be started.
    pub fn new(size: usize, groups: usize) -> Self {
        let slot = |index| Slot { group: index / size, is_used: true, ..Slot::default() };
        let group = |_| Group { resumed: VecDeque::new(), serving: size, running: 0, sleeping: 0, wake: Wake::None };
        Self {
            queue: VecDeque::new(),
            awaiting_import: Vec::new(),
            slots: (0..size * groups).map(slot).collect(),
            groups: (0..groups).map(group).collect(),
            size,
            suspended: 0,
            closing: 0,
            closed: false,
            draining: false,
        }
    }

    /// The number of crews.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// The threads of a crew that are to be started first.
    pub fn slots_of(&self, group: usize) -> std::ops::Range<usize> {
        group * self.size..(group + 1) * self.size
    }

    /// Whether a crew has threads, those included that are to be started.
    pub fn has_threads(&self, group: usize) -> bool {
        self.slots.iter().any(|slot| slot.group == group && slot.is_used)
    }

    /// The crew of a thread, and its number in that, from 1 on.
    pub fn label_of(&self, slot: usize) -> (usize, usize) {
        let firsts = self.size * self.groups.len();
        let number = if slot < firsts { slot % self.size } else { self.size + slot - firsts };
        (self.slots[slot].group, number + 1)
    }

    /// Calls that run and that somebody waits for.
    fn running(&self) -> usize {
        self.groups.iter().map(|group| group.running).sum()
    }

    /// Whether one more call may come where `queue` of them may wait for a thread.
    pub fn has_room(&self, queue: usize) -> bool {
        // A call is taken as soon as a thread is free, but not at once.
        let under_way = self.queue.len() + self.awaiting_import.len() + self.running();
        !self.closed && under_way < queue.saturating_add(self.size * self.groups.len())
    }

    /// A call waits for a thread.
    pub fn push(&mut self, number: CallNumber, work: W) {
        self.queue.push_back((number, work));
    }

    /// A call goes on without a thread until it is resumed.
    pub fn suspend(&mut self) {
        self.suspended += 1;
    }

    /// A call that has run in `crew` before, and was away, waits for a thread of it to be ended by, before those that have
    /// not begun.
    pub fn resume(&mut self, number: CallNumber, work: W, group: usize) {
        self.suspended -= 1;
        self.closing += 1;
        self.groups[group].resumed.push_back((number, work));
    }

    /// It has been ended.
    pub fn resumed_has_ended(&mut self) {
        self.closing -= 1;
    }

    /// Whether there are calls that only have to be ended.
    pub fn is_ending(&self) -> bool {
        self.closing > 0
    }

    /// A call waits for its application.
    pub fn hold(&mut self, number: CallNumber, work: W) {
        self.awaiting_import.push((number, work));
    }

    /// The calls of an application have waited long enough.
    pub fn take_held(&mut self, is_of: impl Fn(&W) -> bool) -> Vec<(CallNumber, W)> {
        self.awaiting_import.extract_if(.., |(_, work)| is_of(work)).collect()
    }

    /// Gives back a call that waits to begin, and its place with it.
    pub fn cancel(&mut self, number: CallNumber) -> Option<W> {
        if let Some(index) = self.awaiting_import.iter().position(|(awaiting_import, _)| *awaiting_import == number) {
            return Some(self.awaiting_import.remove(index).1);
        }
        let index = self.queue.iter().position(|(queued, _)| *queued == number)?;
        self.queue.remove(index).map(|(_, work)| work)
    }

    /// A thread has come to life.
    pub fn join(&mut self, slot: usize, thread: ThreadId) {
        self.slots[slot].thread = Some(thread);
    }

    /// A thread has ended, or could not be started.
    pub fn leave(&mut self, slot: usize) {
        let left = std::mem::take(&mut self.slots[slot]);
        self.slots[slot].group = left.group;
        self.groups[left.group].serving -= 1;
    }

    /// What `member` does next; `claimed` when it was woken.
    pub fn next(&mut self, slot: usize, claimed: bool) -> Next<W> {
        let is_surplus = self.is_surplus(slot);
        let group = &mut self.groups[self.slots[slot].group];
        if claimed {
            group.wake = Wake::None;
        }
        if is_surplus {
            return Next::End;
        }
        let Some((number, work)) = group.resumed.pop_front().or_else(|| self.queue.pop_front()) else {
            return Next::Sleep;
        };
        group.running += 1;
        self.slots[slot].call = Some(number);
        Next::Run(work)
    }

    /// The call of `member` is over. Returns the call's thread if something may have been raised in it.
    pub fn ended(&mut self, slot: usize) -> Option<ThreadId> {
        let slot = &mut self.slots[slot];
        let group = &mut self.groups[slot.group];
        slot.call = None;
        if !std::mem::take(&mut slot.aborted) {
            group.running -= 1;
            return None;
        }
        group.serving += 1;
        slot.thread
    }

    /// Nobody waits for this call any more, though it runs on. Returns the substitute to be started for its thread, which
    /// has to join or leave, if there may be one more.
    pub fn abort(&mut self, number: CallNumber) -> Option<usize> {
        let slot = self.slots.iter_mut().find(|slot| slot.call == Some(number))?;
        if std::mem::replace(&mut slot.aborted, true) {
            return None;
        }
        let index = slot.group;
        let group = &mut self.groups[index];
        group.running -= 1;
        group.serving -= 1;
        if self.closed || self.slots.iter().filter(|slot| slot.aborted).count() > MOST_STUCK {
            return None;
        }
        group.serving += 1;
        let free = self.slots.iter().position(|slot| !slot.is_used);
        let substitute = free.unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        self.slots[substitute] = Slot { group: index, is_used: true, ..Slot::default() };
        Some(substitute)
    }

    /// The crew whose thread runs a call.
    pub fn group_of(&self, number: CallNumber) -> Option<usize> {
        self.slots.iter().find(|slot| slot.call == Some(number)).map(|slot| slot.group)
    }

    /// The thread that runs a call; with `aborted` only if the call was given up there.
    pub fn thread_of(&self, number: CallNumber, aborted: bool) -> Option<ThreadId> {
        let found = self.slots.iter().find(|slot| slot.call == Some(number));
        found.filter(|slot| slot.aborted || !aborted).and_then(|slot| slot.thread)
    }

    /// Takes no more calls, and gives back those that wait to begin.
    pub fn close(&mut self) -> Vec<(CallNumber, W)> {
        self.closed = true;
        self.queue.drain(..).chain(self.awaiting_import.drain(..)).collect()
    }

    /// Whether it takes no more calls.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// No more calls will come: the threads end when those that are there have.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether the threads of a crew have nothing to wait for any more.
    fn is_over(&self, group: usize) -> bool {
        let calls = self.queue.len() + self.awaiting_import.len() + self.groups[group].resumed.len() + self.suspended;
        self.draining && calls == 0
    }

    /// Whether a call runs that somebody waits for.
    pub fn is_running(&self) -> bool {
        self.running() > 0
    }

    /// Whether a thread of `crew` runs any call.
    pub fn is_busy(&self, group: usize) -> bool {
        self.slots.iter().any(|slot| slot.group == group && slot.call.is_some())
    }

    /// Whether the last of its running calls has ended, in a pool that is closed.
    pub fn is_drained(&self) -> bool {
        self.closed && self.running() == 0
    }

    /// A crew of which a sleeping thread is to be woken now; says so once.
    pub fn group_to_wake(&mut self) -> Option<usize> {
        let woken = self.groups.iter().filter(|group| group.wake != Wake::None).count();
        let is_more = self.queue.len() > woken;
        let able = self.groups.iter_mut().enumerate().filter(|(_, group)| {
            group.wake == Wake::None && group.sleeping > 0 && (is_more || !group.resumed.is_empty())
        });
        // What has begun goes first; else the crew that has the least to do.
        let (index, group) = able.min_by_key(|(_, group)| (group.resumed.is_empty(), group.running))?;
        group.wake = Wake::Sent;
        Some(index)
    }

    /// Whether there is nothing for `member` to do.
    pub fn may_sleep(&self, slot: usize) -> bool {
        let group = &self.groups[self.slots[slot].group];
        let is_idle = self.queue.is_empty() && group.resumed.is_empty();
        (is_idle || group.wake == Wake::Claimed) && !self.is_surplus(slot)
    }

    fn group_mut(&mut self, slot: usize) -> &mut Group<W> {
        &mut self.groups[self.slots[slot].group]
    }

    /// A thread goes to sleep.
    pub fn fall_asleep(&mut self, slot: usize) {
        self.group_mut(slot).sleeping += 1;
    }

    /// It is awake; returns whether it was woken for a call.
    pub fn wake_up(&mut self, slot: usize) -> bool {
        let group = self.group_mut(slot);
        group.sleeping -= 1;
        group.wake == Wake::Sent
    }

    /// The thread that is awake goes for a call.
    pub fn claim(&mut self, slot: usize) {
        self.group_mut(slot).wake = Wake::Claimed;
    }

    /// Whether there is a thread too many in the crew of `member`.
    pub fn has_surplus(&self, slot: usize) -> bool {
        let group = self.slots[slot].group;
        self.groups[group].serving > self.size || self.is_over(group)
    }

    /// Whether that is `member`: substitutes go first.
    pub fn is_surplus(&self, slot: usize) -> bool {
        let is_substitute = slot >= self.size * self.groups.len();
        (is_substitute && self.has_surplus(slot)) || self.is_over(self.slots[slot].group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool whose calls are their own work.
    fn pool(size: usize, calls: &[CallNumber]) -> Scheduler<CallNumber> {
        let mut pool = Scheduler::new(size, 1);
        for call in calls {
            pool.push(*call, *call);
        }
        pool
    }

    #[test]
    fn so_many_may_wait_beyond_those_that_threads_can_take() {
        let mut pool = pool(2, &[1, 2]);
        assert!(!pool.has_room(0) && pool.has_room(1));
        assert_eq!(pool.next(0, false), Next::Run(1));
        pool.hold(3, 3);
        assert!(!pool.has_room(1) && pool.has_room(2));
        pool.ended(0);
        assert!(pool.has_room(1));
        assert_eq!(pool.close(), [(2, 2), (3, 3)]);
        assert!(!pool.has_room(1000) && pool.is_drained());
    }

    #[test]
    fn a_call_that_is_cancelled_gives_its_place_back() {
        let mut pool = pool(1, &[1, 2, 3]);
        pool.hold(4, 4);
        assert_eq!((pool.cancel(2), pool.cancel(4), pool.cancel(5)), (Some(2), Some(4), None));
        assert_eq!(pool.next(0, false), Next::Run(1));
        assert_eq!(pool.cancel(1), None);
        pool.ended(0);
        assert_eq!(pool.next(0, false), Next::Run(3));
    }

    #[test]
    fn a_substitute_serves_until_the_stuck_thread_is_back() {
        let mut pool = pool(1, &[1, 2, 3]);
        assert_eq!(pool.next(0, false), Next::Run(1));
        let substitute = pool.abort(1);
        assert_eq!(substitute, Some(1));
        assert_eq!(pool.abort(1), None);
        assert!(!pool.is_running());
        assert_eq!(pool.next(1, false), Next::Run(2));
        pool.ended(1);
        pool.ended(0);
        assert!(pool.has_surplus(0) && !pool.may_sleep(1));
        assert_eq!(pool.next(1, false), Next::End);
        pool.leave(1);
        assert!(!pool.has_surplus(0) && pool.has_threads(0));
        assert_eq!(pool.next(0, false), Next::Run(3));
    }

    /// Whoever ends their interpreter waits for those, too.
    #[test]
    fn a_substitute_counts_before_it_is_started() {
        let mut pool = pool(1, &[1]);
        assert_eq!(pool.next(0, false), Next::Run(1));
        pool.drain();
        assert_eq!(pool.abort(1), Some(1));
        pool.ended(0);
        assert_eq!(pool.next(0, false), Next::End);
        pool.leave(0);
        assert!(pool.has_threads(0));
        assert_eq!(pool.next(1, false), Next::End);
        pool.leave(1);
        assert!(!pool.has_threads(0));
    }

    #[test]
    fn a_substitute_that_is_stuck_itself_is_replaced_by_another() {
        let mut pool = pool(1, &[1, 2]);
        assert_eq!(pool.next(0, false), Next::Run(1));
        assert_eq!(pool.abort(1), Some(1));
        assert_eq!(pool.next(1, false), Next::Run(2));
        assert_eq!(pool.abort(2), Some(2));
        pool.ended(1);
        // Two substitutes serve in place of one thread.
        assert_eq!(pool.next(2, false), Next::End);
        pool.leave(2);
        assert_eq!(pool.next(1, false), Next::Sleep);
        pool.ended(0);
        assert_eq!(pool.next(1, false), Next::End);
        pool.leave(1);
        assert_eq!(pool.next(0, false), Next::Sleep);
    }

    #[test]
    fn the_number_of_stuck_threads_is_bounded() {
        let calls: Vec<CallNumber> = (0..MOST_STUCK as CallNumber + 1).collect();
        let mut pool = pool(1, &calls);
        let mut slot = 0;
        for call in &calls[..MOST_STUCK] {
            assert_eq!(pool.next(slot, false), Next::Run(*call));
            slot = pool.abort(*call).expect("a substitute");
        }
        assert_eq!(pool.next(slot, false), Next::Run(MOST_STUCK as CallNumber));
        assert_eq!(pool.abort(MOST_STUCK as CallNumber), None);
    }

    #[test]
    fn one_sleeper_at_a_time_is_woken() {
        let mut pool = pool(2, &[]);
        pool.fall_asleep(0);
        pool.fall_asleep(1);
        assert_eq!(pool.group_to_wake(), None);
        pool.push(1, 1);
        assert_eq!(pool.group_to_wake(), Some(0));
        pool.push(2, 2);
        assert_eq!(pool.group_to_wake(), None);
        assert!(pool.wake_up(0));
        pool.claim(0);
        assert_eq!(pool.group_to_wake(), None);
        assert_eq!(pool.next(0, true), Next::Run(1));
        assert_eq!(pool.group_to_wake(), Some(0));
    }

    /// Two crews of two threads that sleep.
    fn two_groups() -> Scheduler<CallNumber> {
        let mut pool = Scheduler::new(2, 2);
        (0..4).for_each(|slot| pool.fall_asleep(slot));
        pool
    }

    #[test]
    fn the_crew_with_the_least_to_do_is_woken() {
        let mut pool = two_groups();
        pool.push(1, 1);
        assert_eq!(pool.group_to_wake(), Some(0));
        assert_eq!(pool.group_to_wake(), None, "one is on its way to the only call");
        pool.push(2, 2);
        assert_eq!(pool.group_to_wake(), Some(1));
        assert!(pool.wake_up(0));
        pool.claim(0);
        assert_eq!(pool.next(0, true), Next::Run(1));
        assert!(pool.wake_up(2));
        pool.claim(2);
        assert_eq!(pool.next(2, true), Next::Run(2));
        pool.ended(0);
        pool.push(3, 3);
        assert_eq!((pool.group_to_wake(), pool.is_busy(0), pool.is_busy(1)), (Some(0), false, true));
    }

    #[test]
    fn a_call_goes_on_in_the_crew_that_has_begun_it() {
        let mut pool = two_groups();
        pool.suspend();
        pool.resume(1, 1, 1);
        assert_eq!(pool.group_to_wake(), Some(1));
        assert_eq!(pool.next(0, false), Next::Sleep);
        assert!(pool.may_sleep(0) && !pool.may_sleep(3));
        assert_eq!(pool.cancel(1), None, "it has objects of its interpreter");
        assert_eq!(pool.close(), []);
        assert_eq!(pool.next(3, true), Next::Run(1));
        assert_eq!((pool.group_of(1), pool.label_of(3)), (Some(1), (1, 2)));
    }

    #[test]
    fn a_substitute_is_of_the_crew_of_the_stuck_thread() {
        let mut pool = two_groups();
        pool.push(1, 1);
        assert_eq!(pool.next(2, false), Next::Run(1));
        assert_eq!(pool.abort(1), Some(4));
        assert_eq!((pool.label_of(4), pool.label_of(2)), ((1, 3), (1, 1)));
        pool.ended(2);
        assert!(pool.has_surplus(2) && !pool.has_surplus(0));
        assert_eq!(pool.next(4, false), Next::End);
    }
}
