//! The main thread of an interpreter: starts the interpreter, loads its applications, and ends it.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use pyo3::prelude::*;

use super::shared::{Command, Job, LoadState, Shared};
use crate::app::application::Application;
use crate::engine::interpreter::{EngineConfig, PreparedInterpreter};
use crate::engine::thread::{guarded, spawn};
use crate::python::log;
use crate::python::threads::InterpreterHandle;
use crate::sync::Mutex;

impl Shared {
    /// Starts the GIL yield thread of an interpreter that needs one.
    fn start_gil_yielder(self: &Arc<Self>, copy: usize, handle: InterpreterHandle) {
        let interpreter = &self.copies[copy];
        if !interpreter.spec.needs_gil_yielder() {
            return;
        }
        let shared = self.clone();
        let body = move || shared.copies[copy].gil_yielder.run(handle, || shared.lock().is_busy(copy));
        match spawn(format!("{}-gil", interpreter.spec.thread_prefix()), body) {
            Ok(thread) => interpreter.helper_threads.push(thread),
            Err(error) => log::error(&format!("wsgi: cannot start the GIL yield thread: {error}")),
        }
    }
}

/// Body of the main thread. Returns when the interpreter has ended.
pub(super) fn main_thread(
    shared: &Arc<Shared>,
    engine_config: &EngineConfig,
    copy: usize,
    commands: Receiver<Command>,
) {
    let interpreter = &shared.copies[copy];
    match PreparedInterpreter::start(engine_config, &interpreter.spec) {
        Ok((prepared, mut attach_thread)) => {
            let prepared = Arc::new(prepared);
            *interpreter.prepared.lock() = Some(prepared.clone());
            shared.start_gil_yielder(copy, prepared.handle);
            let slots = shared.lock().first_slots(copy);
            slots.for_each(|slot| shared.start_thread(slot));
            // A reference to the receiver may not cross into `detach`, a lock around it may.
            let commands = Mutex::new(commands);
            attach_thread.attach(|py| run_commands(py, shared, copy, prepared, &commands));
            // Its objects are released, and all threads of the pool have exited.
            if let Err(threads) = attach_thread.end() {
                log::error(&format!(
                    "interpreter \"{}\" cannot be ended: {threads} application threads still running",
                    interpreter.spec.name
                ));
            }
        }
        Err(error) => {
            let message = error.to_string();
            log::error(&message);
            for command in commands {
                match command {
                    Command::Load(application) | Command::Reload(application) => {
                        record_load(shared, &application, Err(message.clone()));
                    }
                    Command::NotifyStarted(notify) => notify(),
                    Command::ShutDown { done, .. } => drop(done.send(())),
                    Command::End { .. } => break,
                }
            }
        }
    }
}

/// Runs commands until [`Command::End`], and then releases the interpreter's objects.
fn run_commands(
    py: Python<'_>,
    shared: &Arc<Shared>,
    copy: usize,
    prepared: Arc<PreparedInterpreter>,
    commands: &Mutex<Receiver<Command>>,
) {
    let interpreter = &shared.copies[copy];
    while let Ok(command) = py.detach(|| commands.lock().recv()) {
        match command {
            // The worker shuts down: no call waits for the import any more.
            Command::Load(_) if py.detach(|| shared.lock().is_closed()) => {}
            Command::Load(application) => {
                // Loaded here and failed in another copy, perhaps.
                let is_loaded = prepared.loader.has(&application);
                let is_replacement = interpreter.spec.is_replacement;
                let loaded = if is_loaded { Ok(()) } else { prepared.loader.load(py, &application, is_replacement) };
                py.detach(|| record_load(shared, &application, loaded));
            }
            Command::Reload(application) => {
                // After a failure the previous version is still loaded.
                prepared.loader.reload(py, &application);
                py.detach(|| record_load(shared, &application, Ok(())));
            }
            Command::NotifyStarted(notify) => py.detach(notify),
            Command::ShutDown { limit, done } => {
                prepared.interpreter.shut_down(py, limit);
                // The receiver may have stopped waiting.
                let _ = done.send(());
            }
            Command::End { limit } => {
                py.detach(|| interpreter.join_threads(|| shared.lock().has_threads(copy)));
                prepared.interpreter.shut_down(py, limit);
                // Dropped without the lock, and attached to the interpreter.
                let last = interpreter.prepared.lock().take();
                drop((last, prepared));
                return;
            }
        }
    }
}

/// Records that a copy has loaded an application or failed to. When all copies have reported, queues the calls that
/// await the import, or refuses them after a failure.
fn record_load(shared: &Shared, application: &Arc<Application>, loaded: Result<(), String>) {
    // The lock of the scheduler first, as in `enqueue`.
    let mut scheduler = shared.lock();
    let mut load_states = shared.load_states();
    let load_state = load_states.entry(application.number()).or_default();
    let LoadState::Loading { left, failure } = load_state else { return };
    *left -= 1;
    *failure = failure.take().or(loaded.err());
    if *left > 0 {
        return;
    }
    let failure = failure.take();
    *load_state = if failure.is_none() { LoadState::Loaded } else { LoadState::Unloaded };
    drop(load_states);
    let is_of_application = |job: &Job| matches!(job, Job::Start(of_job, _) if Arc::ptr_eq(of_job, application));
    let calls = scheduler.take_awaiting_import(is_of_application);
    match failure {
        None => {
            for (number, job) in calls {
                scheduler.push(number, job);
            }
            shared.scheduler.wake_one(scheduler);
        }
        Some(traceback) => {
            drop(scheduler);
            for (_, job) in calls {
                if let Job::Start(_, call) = job {
                    let transport = call.transport.clone();
                    guarded(&transport, || call.refuse(&traceback));
                }
            }
        }
    }
}
