//! Contents of a board, read from any words.

use std::collections::BTreeMap;

use super::applications;
use super::events::{self, Goodbye, now, seconds};
use super::layout::{self, Layout, MAGIC, MAGIC_WORD};
use super::row::{RowValues, Values};
use super::writer::{CHANGING, GOODBYE, NUMBER, PID, STARTED, STATE, STATES, TOKEN};
use crate::status::report::{Application, EndedWorker, Event, WorkerApplication, WorkerState};

/// Contents of a board. No process group is set anywhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Contents {
    /// Time of the board's creation.
    pub since: f64,
    /// Applications in the order in which they came, with the sums of all workers there have been; the gauges are those of
    /// workers that live.
    pub applications: Vec<Application>,
    /// Workers that live, by number.
    pub workers: Vec<WorkerContents>,
    /// Workers that have ended, the newest first.
    pub ended: Vec<EndedWorker>,
    /// Numbers of all workers that have ended, by reason.
    pub ended_by_reason: BTreeMap<String, u64>,
    /// Loads and failures, the newest first.
    pub events: Vec<Event>,
}

/// A worker that lives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkerContents {
    pub pid: u32,
    pub number: u32,
    pub started: f64,
    pub state: WorkerState,
    /// Random number in the name of its socket.
    pub token: u64,
    pub calls: u64,
    pub running: u64,
    pub queued: u64,
    /// Its applications, with the counters since its start.
    pub applications: Vec<WorkerApplication>,
}

/// Returns the contents of the board in these words, which need not make sense. `is_alive` returns whether a process exists.
pub fn read(words: &[u64], is_alive: impl Fn(u32) -> bool) -> Contents {
    let Some(layout) = Layout::of(words.len()).filter(|_| words[MAGIC_WORD] == MAGIC) else {
        return Contents::default();
    };
    let applications = (0..layout.applications).map(|index| applications::read(&words[layout.application(index)]));
    let applications: Vec<_> = applications.collect();
    let mut totals = vec![(Values::default(), 0u64, 0u64); applications.len()];
    let (mut workers, mut dead) = (BTreeMap::new(), BTreeMap::new());
    for index in 0..layout.slots {
        match Slot::of(&words[layout.slot(index)], &is_alive) {
            Some(Slot::Lives(worker)) => drop(workers.insert(index, worker)),
            Some(Slot::Dead(worker)) => drop(dead.insert(index, worker)),
            None => {}
        }
    }
    for index in 0..layout.rows {
        let Some(row) = RowValues::of(&words[layout.row(index)]) else { continue };
        let Some((slot, application)) = row.owner() else { continue };
        let Some(Some((name, _))) = applications.get(application) else { continue };
        let (sum, running, queued) = &mut totals[application];
        sum.add(&row.totals());
        let counters = row.since_start().counters();
        if let Some(worker) = dead.get_mut(&slot) {
            worker.calls = worker.calls.saturating_add(counters.calls);
        }
        if let Some(worker) = workers.get_mut(&slot) {
            let gauges = row.gauges();
            for (all, one) in [(running, gauges.0), (queued, gauges.1)] {
                *all = all.saturating_add(one);
            }
            worker.running = worker.running.saturating_add(gauges.0);
            worker.queued = worker.queued.saturating_add(gauges.1);
            worker.calls = worker.calls.saturating_add(counters.calls);
            let name = name.clone();
            let application = WorkerApplication { name, running: gauges.0, queued: gauges.1, counters };
            worker.applications.push(application);
        }
    }
    let applications = applications.into_iter().zip(totals).filter_map(|(application, (values, running, queued))| {
        let (name, exceptions) = application?;
        Some(Application { name, process_group: None, running, queued, counters: values.counters(), exceptions })
    });
    let mut workers: Vec<_> = workers.into_values().collect();
    workers.sort_by_key(|worker| (worker.number, worker.pid));
    let mut ended_by_reason: BTreeMap<_, _> = Goodbye::ALL
        .into_iter()
        .map(|reason| (reason.text().to_owned(), words[layout::ENDED_BY_REASON + reason as usize]))
        .collect();
    for worker in dead.values() {
        let count = ended_by_reason.entry(worker.reason.text().to_owned()).or_default();
        *count = count.saturating_add(1);
    }
    let ended = dead.into_values().chain(events::read_ended(&words[layout.ended()]));
    let mut events: Vec<Event> = events::read_events(&words[layout.load_events()], layout.event_words)
        .chain(events::read_events(&words[layout.failure_events()], layout.event_words))
        .collect();
    events.sort_by(|one, other| other.time.total_cmp(&one.time));
    Contents {
        since: seconds(words[layout::CREATED]),
        applications: applications.collect(),
        workers,
        ended: ended.map(|ended| ended.report()).collect(),
        ended_by_reason,
        events,
    }
}

/// Returns what the workers that live do, from the [first words](Layout::head) of a board with `count` words. They need not
/// make sense.
pub fn worker_states(head: &[u64], count: usize, is_alive: impl Fn(u32) -> bool) -> Vec<WorkerState> {
    let Some(layout) = Layout::of(count).filter(|_| head.get(MAGIC_WORD) == Some(&MAGIC)) else { return Vec::new() };
    let slots = (0..layout.slots).filter_map(|index| Slot::of(head.get(layout.slot(index))?, &is_alive));
    let states = slots.filter_map(|slot| match slot {
        Slot::Lives(worker) => Some(worker.state),
        Slot::Dead(_) => None,
    });
    states.collect()
}

/// Slot with a worker.
enum Slot {
    Lives(WorkerContents),
    /// Its worker does not exist any more, and no other has found that.
    Dead(events::Ended),
}

impl Slot {
    /// Returns the worker of a slot, `None` if there is none or it is about to attach or leave.
    fn of(slot: &[u64], is_alive: impl Fn(u32) -> bool) -> Option<Self> {
        let pid = u32::try_from(slot[PID]).ok().filter(|pid| *pid != 0 && slot[PID] & CHANGING == 0)?;
        let number = u32::try_from(slot[NUMBER]).unwrap_or_default();
        if !is_alive(pid) {
            let (started, reason) = (slot[STARTED], Goodbye::of_word(slot[GOODBYE]));
            return Some(Self::Dead(events::Ended { pid, number, started, ended: now(), calls: 0, reason }));
        }
        let state = usize::try_from(slot[STATE]).ok().and_then(|state| STATES.get(state).copied());
        Some(Self::Lives(WorkerContents {
            pid,
            number,
            started: seconds(slot[STARTED]),
            state: state.unwrap_or_default(),
            token: slot[TOKEN],
            ..WorkerContents::default()
        }))
    }
}
