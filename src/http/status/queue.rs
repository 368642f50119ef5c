//! Threads that answer status requests: making a report waits for other processes, which the event loop must not.
//!
//! One report serves all requests that wait for one.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, LazyLock};
use std::thread;

use super::format::Format;
use super::ready;
use super::response::{PendingRequest, Response};
use crate::python::log;
use crate::sync::Mutex;
use crate::worker::event_loop::{EventLoop, Message};

/// Number of requests that may wait. Those of the readiness address, which everybody may ask, do not count: one answer serves
/// them all.
const MAX_WAITING: usize = 64;

/// Number of threads.
const MAX_THREADS: usize = 3;

/// Number of those that may wait for a stack, which may take long: until a call in C code releases the GIL.
const MAX_STACKS: usize = MAX_THREADS - 1;

/// What a client wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Report(Format),
    Stack {
        pid: u32,
        number: u64,
    },
    /// Whether the process groups are ready.
    Ready,
}

/// Request for a thread.
pub struct Job {
    pub question: Question,
    pub pending: Arc<PendingRequest>,
    pub event_loop: &'static EventLoop,
}

/// Error: too many requests wait.
pub struct Full;

#[derive(Default)]
struct Queue {
    jobs: Vec<Job>,
    threads: usize,
    /// Threads that wait for a stack.
    stacks: usize,
}

static QUEUE: LazyLock<Mutex<Queue>> = LazyLock::new(Mutex::default);

/// Queues a request for a thread. On the event loop thread.
///
/// # Errors
/// If too many requests wait, or the system has no more threads.
pub fn push(job: Job) -> Result<(), Full> {
    let mut queue = QUEUE.lock();
    let counts = |question| question != Question::Ready;
    if counts(job.question) && queue.jobs.iter().filter(|job| counts(job.question)).count() >= MAX_WAITING {
        return Err(Full);
    }
    if queue.threads < MAX_THREADS {
        match thread::Builder::new().name("wsgi-report".to_owned()).spawn(serve) {
            Ok(_) => queue.threads += 1,
            Err(error) if queue.threads == 0 => {
                log::error(&format!("wsgi: cannot start the thread that makes reports: {error}"));
                return Err(Full);
            }
            // Another one will take it.
            Err(_) => {}
        }
    }
    queue.jobs.push(job);
    Ok(())
}

/// Body of a thread: answers requests until none waits.
fn serve() {
    loop {
        // A statement of its own, as the lock must not be held below.
        let taken = QUEUE.lock().take();
        let Some((question, jobs)) = taken else { return };
        // A panic leaves the requests with an error, and the thread for the others.
        let answer = panic::catch_unwind(AssertUnwindSafe(|| answer(question, &jobs)));
        let responses = answer.unwrap_or_else(|_| jobs.iter().map(|_| Response::failed()).collect());
        if question.is_stack() {
            QUEUE.lock().stacks -= 1;
        }
        for (Job { pending, event_loop, .. }, response) in jobs.into_iter().zip(responses) {
            event_loop.send(Message::Run(Box::new(move || pending.respond(response))));
        }
    }
}

impl Question {
    fn is_stack(self) -> bool {
        matches!(self, Self::Stack { .. })
    }
}

impl Queue {
    /// Takes the most urgent question, with all requests that its answer serves. Ends the thread if there is none.
    fn take(&mut self) -> Option<(Question, Vec<Job>)> {
        let is_urgent: [fn(Question) -> bool; 3] = [
            |question| question == Question::Ready,
            |question| matches!(question, Question::Report(_)),
            Question::is_stack,
        ];
        let kinds = if self.stacks < MAX_STACKS { &is_urgent[..] } else { &is_urgent[..2] };
        let first = kinds.iter().find_map(|kind| Some((kind, self.jobs.iter().position(|job| kind(job.question))?)));
        let Some((kind, index)) = first else {
            self.threads -= 1;
            return None;
        };
        let question = self.jobs[index].question;
        let jobs = if question.is_stack() {
            self.stacks += 1;
            vec![self.jobs.remove(index)]
        } else {
            self.jobs.extract_if(.., |job| kind(job.question)).collect()
        };
        Some((question, jobs))
    }
}

/// Returns the response to each of the requests.
fn answer(question: Question, jobs: &[Job]) -> Vec<Response> {
    if question == Question::Ready {
        let response = ready::response(if ready::has_groups() { &[] } else { &["groups"] });
        return jobs.iter().map(|_| response.clone()).collect();
    }
    let Some(sources) = super::sources() else { return jobs.iter().map(|_| Response::failed()).collect() };
    if let Question::Stack { pid, number } = question {
        let answer = serde_json::json!({ "stack": sources.stack(pid, number) });
        return vec![Response::ok("application/json", answer.to_string().into_bytes())];
    }
    let report = Arc::new(sources.report());
    let mut made: Vec<(Format, Response)> = Vec::new();
    let mut response = |job: &Job| {
        let Question::Report(format) = job.question else { return Response::failed() };
        if let Some((_, response)) = made.iter().find(|(known, _)| *known == format) {
            return response.clone();
        }
        let response = format.response(&report);
        made.push((format, response.clone()));
        response
    };
    jobs.iter().map(&mut response).collect()
}

/// Parses the name of a call: the pid of its worker, and its number.
pub fn parse_call(text: &[u8]) -> Option<(u32, u64)> {
    let (pid, number) = str::from_utf8(text).ok()?.split_once('.')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(pid) && is_number(number)).then_some(())?;
    Some((pid.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_named_by_pid_and_number() {
        assert_eq!(parse_call(b"12.345"), Some((12, 345)));
        for text in ["", "12", "12.", ".3", "+12.3", "12.-3", "12.3.4", "12.3 ", "99999999999.1", "x.y"] {
            assert_eq!(parse_call(text.as_bytes()), None, "{text}");
        }
    }
}
