//! Makes the report: of the shared memory, of what the workers say about themselves, and of the process groups.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::unistd::geteuid;

use super::ask::{Address, Lane, ask};
use super::board::{self, Contents};
use super::groups::{self, GroupStatus};
use super::report::{
    Application, Call, Ends, NO_ANSWER, ProcessGroup, Report, SCHEMA, Versions, Worker, WorkerDetails,
};
use super::reporter::StackAnswer;
use crate::os::{memory_file, system};

/// Time that all workers together have to say what they do, and time of the supervisor before that.
const WORKERS_TIME: Duration = Duration::from_millis(500);
const SUPERVISOR_TIME: Duration = Duration::from_millis(250);

/// Time to wait for a stack: its thread needs the GIL.
pub const STACK_TIME: Duration = Duration::from_secs(3);

/// Limits of the answers of all workers of nginx or of a process group, and of a stack.
const MAX_DETAILS: usize = 64 * 1024 * 1024;
const MAX_GROUP_DETAILS: usize = 2 * 1024 * 1024;
const MAX_STACK: usize = 256 * 1024;

/// Number of workers of a process group that are asked. Its user can write any number to its board.
const MAX_GROUP_WORKERS: usize = 256;

/// Numbers of entries of the report by process group: none can leave others without room.
const MAX_CALLS: usize = 1000;
const MAX_ENDED_WORKERS: usize = 50;
const MAX_EVENTS: usize = 50;

/// Sources of a report. Used by any thread but that of an event loop: the workers need time to answer.
#[derive(Clone, Debug)]
pub struct Sources {
    pub versions: Versions,
    /// The board of this worker, and of all with the same.
    pub board: &'static [AtomicU64],
    /// Number of words of the boards of process groups.
    pub group_words: usize,
    /// The process group that this worker belongs to.
    pub process_group: Option<String>,
    /// The socket of the supervisor, if this is the front of process groups.
    pub supervisor: Option<PathBuf>,
    /// Names and users of these groups, for the time in which the supervisor does not answer.
    pub groups: Vec<(String, String)>,
}

/// A board with the user of its workers.
struct Board {
    process_group: Option<String>,
    uid: u32,
    contents: Contents,
}

impl Board {
    /// Returns the reporters of its workers.
    fn addresses(&self) -> impl Iterator<Item = Address> {
        let limit = if self.process_group.is_some() { MAX_GROUP_WORKERS } else { usize::MAX };
        let workers = self.contents.workers.iter().take(limit);
        workers.map(|worker| Address { token: worker.token, pid: worker.pid, uid: self.uid })
    }
}

impl Sources {
    /// Returns the report.
    pub fn report(&self) -> Report {
        let (boards, process_groups) = self.boards();
        let mut report = Report {
            schema: SCHEMA,
            time: now(),
            versions: self.versions.clone(),
            process_groups,
            ..Report::default()
        };
        report.since = boards.first().map(|board| board.contents.since).unwrap_or_default();
        let deadline = Instant::now() + WORKERS_TIME;
        let limit =
            |board: &Board| if board.process_group == self.process_group { MAX_DETAILS } else { MAX_GROUP_DETAILS };
        let lane = |board: &Board| Lane { reporters: board.addresses().collect(), limit: limit(board) };
        let answers = ask(&boards.iter().map(lane).collect::<Vec<_>>(), "details\n", deadline);
        for (board, answers) in boards.into_iter().zip(answers) {
            report.add(board, answers.into_iter().map(|details| serde_json::from_slice(&details?).ok()));
        }
        sort_calls(&mut report.calls);
        report.events.sort_by(|one, other| other.time.total_cmp(&one.time));
        report.ended_workers.sort_by(|one, other| other.ended.total_cmp(&one.ended));
        report
    }

    /// Returns the Python stack of a call, `None` if it does not run.
    pub fn stack(&self, pid: u32, call: u64) -> Option<String> {
        let (boards, _) = self.boards();
        let deadline = Instant::now() + STACK_TIME + CLIENT_TIME;
        // A process group may name the workers of others as its own.
        let lane = |board: &Board| {
            let reporters: Vec<_> = board.addresses().filter(|address| address.pid == pid).collect();
            (!reporters.is_empty()).then_some(Lane { reporters, limit: MAX_STACK })
        };
        let lanes: Vec<_> = boards.iter().filter_map(lane).collect();
        let answers = ask(&lanes, &format!("stack {call}\n"), deadline);
        let stack = |answer: Vec<u8>| serde_json::from_slice::<StackAnswer>(&answer).ok()?.stack;
        answers.into_iter().flatten().flatten().find_map(stack)
    }

    /// Returns the boards of this worker and of all process groups, and these groups.
    fn boards(&self) -> (Vec<Board>, Vec<ProcessGroup>) {
        let own = Board {
            process_group: self.process_group.clone(),
            uid: geteuid().as_raw(),
            contents: board::read(&board::snapshot(self.board), system::exists),
        };
        let supervisor = self.supervisor.as_ref();
        let groups = supervisor.map(|path| groups::ask(path, Instant::now() + SUPERVISOR_TIME));
        let mut boards = vec![own];
        let mut process_groups = Vec::new();
        if let Some(Err(_)) = groups {
            // The log of the master says why the supervisor does not run.
            process_groups.extend(self.groups.iter().map(|(name, user)| ProcessGroup {
                name: name.clone(),
                user: user.clone(),
                state: NO_ANSWER.to_owned(),
                ..ProcessGroup::default()
            }));
        }
        for (group, file) in groups.and_then(Result::ok).unwrap_or_default() {
            boards.extend(file.and_then(|file| self.board_of(&group, &file)));
            let GroupStatus { name, user, state, workers, restarts, .. } = group;
            process_groups.push(ProcessGroup { name, user, state, workers, restarts });
        }
        (boards, process_groups)
    }

    /// Reads the board of a process group.
    fn board_of(&self, group: &GroupStatus, file: &File) -> Option<Board> {
        let words = memory_file::read(file, self.group_words).ok()?;
        let contents = board::read(&words, system::exists);
        Some(Board { process_group: Some(group.name.clone()), uid: group.uid, contents })
    }
}

/// Time beyond that for the stack, in which the answer comes.
const CLIENT_TIME: Duration = Duration::from_millis(500);

impl Report {
    /// Adds the contents of a board, with the details of its workers in their order.
    fn add(&mut self, board: Board, mut details: impl Iterator<Item = Option<WorkerDetails>>) {
        let Board { process_group, contents, .. } = board;
        let group = || process_group.clone();
        let mut board_calls = Vec::new();
        let applications = contents.applications.into_iter();
        self.applications.extend(applications.map(|application| Application { process_group: group(), ..application }));
        for worker in contents.workers {
            let mut details = details.next().flatten();
            let calls = details.as_mut().map(|details| std::mem::take(&mut details.calls)).unwrap_or_default();
            // A worker speaks for itself only.
            let prefix = format!("{}.", worker.pid);
            let calls = calls.into_iter().filter(|call| call.id.starts_with(&prefix));
            board_calls.extend(calls.map(|call| Call { pid: worker.pid, process_group: group(), ..call }));
            if let Some(details) = &mut details {
                details.state = worker.state;
            }
            self.workers.push(Worker {
                pid: worker.pid,
                number: worker.number,
                process_group: group(),
                started: worker.started,
                calls: worker.calls,
                running: worker.running,
                queued: worker.queued,
                details,
                applications: worker.applications,
            });
        }
        sort_calls(&mut board_calls);
        board_calls.truncate(MAX_CALLS);
        self.calls.append(&mut board_calls);
        self.ends.push(Ends { process_group: group(), by_reason: contents.ended_by_reason });
        let ended = contents.ended.into_iter().take(MAX_ENDED_WORKERS);
        self.ended_workers.extend(ended.map(|mut ended| {
            ended.process_group = group();
            ended
        }));
        let events = contents.events.into_iter().take(MAX_EVENTS);
        self.events.extend(events.map(|mut event| {
            event.process_group = group();
            event
        }));
    }
}

/// Sorts calls, the oldest first.
fn sort_calls(calls: &mut [Call]) {
    calls.sort_by(|one, other| other.time.total_cmp(&one.time));
}

/// Returns the Unix time in seconds.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
