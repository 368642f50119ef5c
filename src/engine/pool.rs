//! The book-keeping of a pool of threads: which calls wait, which thread runs what, which one is to wake or to end.
//!
//! Plain data under one lock; `W` is a call with what is needed to run it.

use std::collections::VecDeque;

use crate::python::interrupt::ThreadId;
use crate::wsgi::call::CallNumber;

/// Calls and threads of a pool.
pub struct Pool<W> {
    /// Calls that any thread may take.
    queue: VecDeque<(CallNumber, W)>,
    /// Calls whose application is being loaded.
    held: Vec<(CallNumber, W)>,
    members: Vec<Member>,
    crews: Vec<Crew<W>>,
    /// Threads of each crew that are to serve.
    size: usize,
    /// Calls that have begun and need no thread for now.
    away: usize,
    /// Calls that were resumed to be ended, and have not been yet.
    ending: usize,
    closed: bool,
    /// No more calls come; the threads end with the last.
    retired: bool,
}

/// The threads of one interpreter, all of which can take any call that has not begun.
struct Crew<W> {
    /// Calls that have run in this interpreter before, and go on.
    begun: VecDeque<(CallNumber, W)>,
    /// Threads that serve: all but those whose call was given up.
    serving: usize,
    running: usize,
    sleeping: usize,
    wake: Wake,
}

/// A thread, by its index. Those behind the threads of all crews are substitutes for some that are stuck in a call.
#[derive(Default)]
struct Member {
    crew: usize,
    is_used: bool,
    thread: Option<ThreadId>,
    call: Option<CallNumber>,
    /// The call has run out of time, and nobody waits for it any more.
    given_up: bool,
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

impl<W> Pool<W> {
    /// A pool of `crews` times `size` threads, to be started.
    pub fn new(size: usize, crews: usize) -> Self {
        let member = |index| Member { crew: index / size, is_used: true, ..Member::default() };
        let crew = |_| Crew { begun: VecDeque::new(), serving: size, running: 0, sleeping: 0, wake: Wake::None };
        Self {
            queue: VecDeque::new(),
            held: Vec::new(),
            members: (0..size * crews).map(member).collect(),
            crews: (0..crews).map(crew).collect(),
            size,
            away: 0,
            ending: 0,
            closed: false,
            retired: false,
        }
    }

    /// The number of crews.
    pub fn crews(&self) -> usize {
        self.crews.len()
    }

    /// The threads of a crew that are to be started first.
    pub fn members_of(&self, crew: usize) -> std::ops::Range<usize> {
        crew * self.size..(crew + 1) * self.size
    }

    /// Whether a crew has threads, those included that are to be started.
    pub fn has_members(&self, crew: usize) -> bool {
        self.members.iter().any(|member| member.crew == crew && member.is_used)
    }

    /// The crew of a thread, and its number in that, from 1 on.
    pub fn place_of(&self, member: usize) -> (usize, usize) {
        let firsts = self.size * self.crews.len();
        let number = if member < firsts { member % self.size } else { self.size + member - firsts };
        (self.members[member].crew, number + 1)
    }

    /// Calls that run and that somebody waits for.
    fn running(&self) -> usize {
        self.crews.iter().map(|crew| crew.running).sum()
    }

    /// Whether one more call may come where `queue` of them may wait for a thread.
    pub fn has_room(&self, queue: usize) -> bool {
        // A call is taken as soon as a thread is free, but not at once.
        let under_way = self.queue.len() + self.held.len() + self.running();
        !self.closed && under_way < queue.saturating_add(self.size * self.crews.len())
    }

    /// A call waits for a thread.
    pub fn push(&mut self, number: CallNumber, work: W) {
        self.queue.push_back((number, work));
    }

    /// A call goes on without a thread until it is resumed.
    pub fn go_away(&mut self) {
        self.away += 1;
    }

    /// A call that has run in `crew` before, and was away, waits for a thread of it to be ended by, before those that have
    /// not begun.
    pub fn resume(&mut self, number: CallNumber, work: W, crew: usize) {
        self.away -= 1;
        self.ending += 1;
        self.crews[crew].begun.push_back((number, work));
    }

    /// It has been ended.
    pub fn resumed_has_ended(&mut self) {
        self.ending -= 1;
    }

    /// Whether there are calls that only have to be ended.
    pub fn is_ending(&self) -> bool {
        self.ending > 0
    }

    /// A call waits for its application.
    pub fn hold(&mut self, number: CallNumber, work: W) {
        self.held.push((number, work));
    }

    /// The calls of an application have waited long enough.
    pub fn take_held(&mut self, is_of: impl Fn(&W) -> bool) -> Vec<(CallNumber, W)> {
        self.held.extract_if(.., |(_, work)| is_of(work)).collect()
    }

    /// Gives back a call that waits to begin, and its place with it.
    pub fn cancel(&mut self, number: CallNumber) -> Option<W> {
        if let Some(index) = self.held.iter().position(|(held, _)| *held == number) {
            return Some(self.held.remove(index).1);
        }
        let index = self.queue.iter().position(|(queued, _)| *queued == number)?;
        self.queue.remove(index).map(|(_, work)| work)
    }

    /// A thread has come to life.
    pub fn join(&mut self, member: usize, thread: ThreadId) {
        self.members[member].thread = Some(thread);
    }

    /// A thread has ended, or could not be started.
    pub fn leave(&mut self, member: usize) {
        let left = std::mem::take(&mut self.members[member]);
        self.members[member].crew = left.crew;
        self.crews[left.crew].serving -= 1;
    }

    /// What `member` does next; `claimed` when it was woken.
    pub fn next(&mut self, member: usize, claimed: bool) -> Next<W> {
        let is_surplus = self.is_surplus(member);
        let crew = &mut self.crews[self.members[member].crew];
        if claimed {
            crew.wake = Wake::None;
        }
        if is_surplus {
            return Next::End;
        }
        let Some((number, work)) = crew.begun.pop_front().or_else(|| self.queue.pop_front()) else {
            return Next::Sleep;
        };
        crew.running += 1;
        self.members[member].call = Some(number);
        Next::Run(work)
    }

    /// The call of `member` is over. Returns the call's thread if something may have been raised in it.
    pub fn ended(&mut self, member: usize) -> Option<ThreadId> {
        let member = &mut self.members[member];
        let crew = &mut self.crews[member.crew];
        member.call = None;
        if !std::mem::take(&mut member.given_up) {
            crew.running -= 1;
            return None;
        }
        crew.serving += 1;
        member.thread
    }

    /// Nobody waits for this call any more, though it runs on. Returns the substitute to be started for its thread, which
    /// has to join or leave, if there may be one more.
    pub fn give_up(&mut self, number: CallNumber) -> Option<usize> {
        let member = self.members.iter_mut().find(|member| member.call == Some(number))?;
        if std::mem::replace(&mut member.given_up, true) {
            return None;
        }
        let index = member.crew;
        let crew = &mut self.crews[index];
        crew.running -= 1;
        crew.serving -= 1;
        if self.closed || self.members.iter().filter(|member| member.given_up).count() > MOST_STUCK {
            return None;
        }
        crew.serving += 1;
        let free = self.members.iter().position(|member| !member.is_used);
        let substitute = free.unwrap_or_else(|| {
            self.members.push(Member::default());
            self.members.len() - 1
        });
        self.members[substitute] = Member { crew: index, is_used: true, ..Member::default() };
        Some(substitute)
    }

    /// The crew whose thread runs a call.
    pub fn crew_of(&self, number: CallNumber) -> Option<usize> {
        self.members.iter().find(|member| member.call == Some(number)).map(|member| member.crew)
    }

    /// The thread that runs a call; with `given_up` only if the call was given up there.
    pub fn thread_of(&self, number: CallNumber, given_up: bool) -> Option<ThreadId> {
        let found = self.members.iter().find(|member| member.call == Some(number));
        found.filter(|member| member.given_up || !given_up).and_then(|member| member.thread)
    }

    /// Takes no more calls, and gives back those that wait to begin.
    pub fn close(&mut self) -> Vec<(CallNumber, W)> {
        self.closed = true;
        self.queue.drain(..).chain(self.held.drain(..)).collect()
    }

    /// Whether it takes no more calls.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// No more calls will come: the threads end when those that are there have.
    pub fn retire(&mut self) {
        self.retired = true;
    }

    /// Whether the threads of a crew have nothing to wait for any more.
    fn is_over(&self, crew: usize) -> bool {
        let calls = self.queue.len() + self.held.len() + self.crews[crew].begun.len() + self.away;
        self.retired && calls == 0
    }

    /// Whether a call runs that somebody waits for.
    pub fn is_running(&self) -> bool {
        self.running() > 0
    }

    /// Whether a thread of `crew` runs any call.
    pub fn is_busy(&self, crew: usize) -> bool {
        self.members.iter().any(|member| member.crew == crew && member.call.is_some())
    }

    /// Whether the last of its running calls has ended, in a pool that is closed.
    pub fn is_drained(&self) -> bool {
        self.closed && self.running() == 0
    }

    /// A crew of which a sleeping thread is to be woken now; says so once.
    pub fn crew_to_wake(&mut self) -> Option<usize> {
        let woken = self.crews.iter().filter(|crew| crew.wake != Wake::None).count();
        let is_more = self.queue.len() > woken;
        let able =
            self.crews.iter_mut().enumerate().filter(|(_, crew)| {
                crew.wake == Wake::None && crew.sleeping > 0 && (is_more || !crew.begun.is_empty())
            });
        // What has begun goes first; else the crew that has the least to do.
        let (index, crew) = able.min_by_key(|(_, crew)| (crew.begun.is_empty(), crew.running))?;
        crew.wake = Wake::Sent;
        Some(index)
    }

    /// Whether there is nothing for `member` to do.
    pub fn may_sleep(&self, member: usize) -> bool {
        let crew = &self.crews[self.members[member].crew];
        let is_idle = self.queue.is_empty() && crew.begun.is_empty();
        (is_idle || crew.wake == Wake::Claimed) && !self.is_surplus(member)
    }

    fn crew_of_member(&mut self, member: usize) -> &mut Crew<W> {
        &mut self.crews[self.members[member].crew]
    }

    /// A thread goes to sleep.
    pub fn fall_asleep(&mut self, member: usize) {
        self.crew_of_member(member).sleeping += 1;
    }

    /// It is awake; returns whether it was woken for a call.
    pub fn wake_up(&mut self, member: usize) -> bool {
        let crew = self.crew_of_member(member);
        crew.sleeping -= 1;
        crew.wake == Wake::Sent
    }

    /// The thread that is awake goes for a call.
    pub fn claim(&mut self, member: usize) {
        self.crew_of_member(member).wake = Wake::Claimed;
    }

    /// Whether there is a thread too many in the crew of `member`.
    pub fn has_surplus(&self, member: usize) -> bool {
        let crew = self.members[member].crew;
        self.crews[crew].serving > self.size || self.is_over(crew)
    }

    /// Whether that is `member`: substitutes go first.
    pub fn is_surplus(&self, member: usize) -> bool {
        let is_substitute = member >= self.size * self.crews.len();
        (is_substitute && self.has_surplus(member)) || self.is_over(self.members[member].crew)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool whose calls are their own work.
    fn pool(size: usize, calls: &[CallNumber]) -> Pool<CallNumber> {
        let mut pool = Pool::new(size, 1);
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
        let substitute = pool.give_up(1);
        assert_eq!(substitute, Some(1));
        assert_eq!(pool.give_up(1), None);
        assert!(!pool.is_running());
        assert_eq!(pool.next(1, false), Next::Run(2));
        pool.ended(1);
        pool.ended(0);
        assert!(pool.has_surplus(0) && !pool.may_sleep(1));
        assert_eq!(pool.next(1, false), Next::End);
        pool.leave(1);
        assert!(!pool.has_surplus(0) && pool.has_members(0));
        assert_eq!(pool.next(0, false), Next::Run(3));
    }

    /// Whoever ends their interpreter waits for those, too.
    #[test]
    fn a_substitute_counts_before_it_is_started() {
        let mut pool = pool(1, &[1]);
        assert_eq!(pool.next(0, false), Next::Run(1));
        pool.retire();
        assert_eq!(pool.give_up(1), Some(1));
        pool.ended(0);
        assert_eq!(pool.next(0, false), Next::End);
        pool.leave(0);
        assert!(pool.has_members(0));
        assert_eq!(pool.next(1, false), Next::End);
        pool.leave(1);
        assert!(!pool.has_members(0));
    }

    #[test]
    fn a_substitute_that_is_stuck_itself_is_replaced_by_another() {
        let mut pool = pool(1, &[1, 2]);
        assert_eq!(pool.next(0, false), Next::Run(1));
        assert_eq!(pool.give_up(1), Some(1));
        assert_eq!(pool.next(1, false), Next::Run(2));
        assert_eq!(pool.give_up(2), Some(2));
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
        let mut member = 0;
        for call in &calls[..MOST_STUCK] {
            assert_eq!(pool.next(member, false), Next::Run(*call));
            member = pool.give_up(*call).expect("a substitute");
        }
        assert_eq!(pool.next(member, false), Next::Run(MOST_STUCK as CallNumber));
        assert_eq!(pool.give_up(MOST_STUCK as CallNumber), None);
    }

    #[test]
    fn one_sleeper_at_a_time_is_woken() {
        let mut pool = pool(2, &[]);
        pool.fall_asleep(0);
        pool.fall_asleep(1);
        assert_eq!(pool.crew_to_wake(), None);
        pool.push(1, 1);
        assert_eq!(pool.crew_to_wake(), Some(0));
        pool.push(2, 2);
        assert_eq!(pool.crew_to_wake(), None);
        assert!(pool.wake_up(0));
        pool.claim(0);
        assert_eq!(pool.crew_to_wake(), None);
        assert_eq!(pool.next(0, true), Next::Run(1));
        assert_eq!(pool.crew_to_wake(), Some(0));
    }

    /// Two crews of two threads that sleep.
    fn two_crews() -> Pool<CallNumber> {
        let mut pool = Pool::new(2, 2);
        (0..4).for_each(|member| pool.fall_asleep(member));
        pool
    }

    #[test]
    fn the_crew_with_the_least_to_do_is_woken() {
        let mut pool = two_crews();
        pool.push(1, 1);
        assert_eq!(pool.crew_to_wake(), Some(0));
        assert_eq!(pool.crew_to_wake(), None, "one is on its way to the only call");
        pool.push(2, 2);
        assert_eq!(pool.crew_to_wake(), Some(1));
        assert!(pool.wake_up(0));
        pool.claim(0);
        assert_eq!(pool.next(0, true), Next::Run(1));
        assert!(pool.wake_up(2));
        pool.claim(2);
        assert_eq!(pool.next(2, true), Next::Run(2));
        pool.ended(0);
        pool.push(3, 3);
        assert_eq!((pool.crew_to_wake(), pool.is_busy(0), pool.is_busy(1)), (Some(0), false, true));
    }

    #[test]
    fn a_call_goes_on_in_the_crew_that_has_begun_it() {
        let mut pool = two_crews();
        pool.go_away();
        pool.resume(1, 1, 1);
        assert_eq!(pool.crew_to_wake(), Some(1));
        assert_eq!(pool.next(0, false), Next::Sleep);
        assert!(pool.may_sleep(0) && !pool.may_sleep(3));
        assert_eq!(pool.cancel(1), None, "it has objects of its interpreter");
        assert_eq!(pool.close(), []);
        assert_eq!(pool.next(3, true), Next::Run(1));
        assert_eq!((pool.crew_of(1), pool.place_of(3)), (Some(1), (1, 2)));
    }

    #[test]
    fn a_substitute_is_of_the_crew_of_the_stuck_thread() {
        let mut pool = two_crews();
        pool.push(1, 1);
        assert_eq!(pool.next(2, false), Next::Run(1));
        assert_eq!(pool.give_up(1), Some(4));
        assert_eq!((pool.place_of(4), pool.place_of(2)), ((1, 3), (1, 1)));
        pool.ended(2);
        assert!(pool.has_surplus(2) && !pool.has_surplus(0));
        assert_eq!(pool.next(4, false), Next::End);
    }
}
