//! The main thread of an interpreter: starts it, loads its applications, and ends it.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use pyo3::prelude::*;

use super::shared::{Command, Job, Shared, Stage, note};
use crate::app::application::Application;
use crate::engine::interpreter::{Configuration, PreparedInterpreter};
use crate::engine::{guarded, spawn};
use crate::python::log;
use crate::python::threads::InterpreterHandle;
use crate::sync::Mutex;

impl Shared {
    /// Starts the thread that gives other interpreters their turn, where one is needed.
    fn start_turns(self: &Arc<Self>, copy: usize, handle: InterpreterHandle) {
        let spec = &self.copies[copy].spec;
        if !spec.needs_turns() {
            return;
        }
        let shared = self.clone();
        let give = move || shared.copies[copy].gil_yielder.give(handle, || shared.lock().is_busy(copy));
        match spawn(format!("{}-gil", spec.threads()), give) {
            Ok(thread) => note(&self.copies[copy].helpers, thread),
            Err(error) => {
                log::error(&format!("cannot start the thread that gives other interpreters their turn: {error}"));
            }
        }
    }
}

/// The main thread of an interpreter: stays as long as that.
pub(super) fn main_thread(
    shared: &Arc<Shared>,
    configuration: &Configuration,
    copy: usize,
    commands: Receiver<Command>,
) {
    let interpreter = &shared.copies[copy];
    match PreparedInterpreter::start(configuration, &interpreter.spec) {
        Ok((prepared, mut attach_thread)) => {
            let prepared = Arc::new(prepared);
            *interpreter.prepared.lock() = Some(prepared.clone());
            shared.start_turns(copy, prepared.handle);
            let slots = shared.lock().slots_of(copy);
            slots.for_each(|slot| shared.start_thread(slot));
            // A reference to the receiver may not cross into `detach`, a lock around it may.
            let commands = Mutex::new(commands);
            attach_thread.attach(|py| serve(py, shared, copy, prepared, &commands));
            // Its world is released, and no other thread of ours is in it.
            if let Err(threads) = attach_thread.end() {
                log::error(&format!(
                    "interpreter \"{}\" stays in memory though it has been replaced: {threads} threads that its \
                     application has started do not end",
                    interpreter.spec.name
                ));
            }
        }
        Err(error) => {
            log::error(&error);
            for command in commands {
                match command {
                    Command::Load(application) | Command::Reload(application) => {
                        after_loading(shared, &application, Err(error.clone()));
                    }
                    Command::Started(then) => then(),
                    Command::ShutDown { done, .. } => drop(done.send(())),
                    Command::End { .. } => break,
                }
            }
        }
    }
}

/// Does what the main thread of an interpreter is told; returns when that is to be ended, and has released all of it.
fn serve(
    py: Python<'_>,
    shared: &Arc<Shared>,
    copy: usize,
    prepared: Arc<PreparedInterpreter>,
    commands: &Mutex<Receiver<Command>>,
) {
    let interpreter = &shared.copies[copy];
    while let Ok(command) = py.detach(|| commands.lock().recv()) {
        match command {
            // The worker ends: nobody waits for what has not begun to be loaded.
            Command::Load(_) if py.detach(|| shared.lock().is_closed()) => {}
            Command::Load(application) => {
                // Another copy may have failed when this one did not.
                let is_loaded = prepared.loader.has(&application);
                let is_replacement = interpreter.spec.is_replacement;
                let loaded = if is_loaded { Ok(()) } else { prepared.loader.load(py, &application, is_replacement) };
                py.detach(|| after_loading(shared, &application, loaded));
            }
            Command::Reload(application) => {
                // Whether or not, something is loaded.
                prepared.loader.reload(py, &application);
                py.detach(|| after_loading(shared, &application, Ok(())));
            }
            Command::Started(then) => py.detach(then),
            Command::ShutDown { limit, done } => {
                prepared.interpreter.shut_down(py, limit);
                let _ = done.send(());
            }
            Command::End { limit } => {
                py.detach(|| interpreter.join_threads(|| shared.lock().has_threads(copy)));
                prepared.interpreter.shut_down(py, limit);
                // Neither under the lock, nor anywhere but in here.
                let last = interpreter.prepared.lock().take();
                drop((last, prepared));
                return;
            }
        }
    }
}

/// Once all copies have reported: lets the calls go on that waited for an application, or refuses them.
fn after_loading(shared: &Shared, application: &Arc<Application>, loaded: Result<(), String>) {
    // The pool's lock first, as in `enqueue`.
    let mut pool = shared.lock();
    let mut stages = shared.stages();
    let stage = stages.entry(application.number()).or_default();
    let Stage::Loading { left, failure } = stage else { return };
    *left -= 1;
    *failure = failure.take().or(loaded.err());
    if *left > 0 {
        return;
    }
    let failure = failure.take();
    *stage = if failure.is_none() { Stage::Loaded } else { Stage::Unloaded };
    drop(stages);
    let calls = pool
        .take_held(|work| matches!(work, Job::Start(awaiting_import, _) if Arc::ptr_eq(awaiting_import, application)));
    match failure {
        None => {
            for (number, work) in calls {
                pool.push(number, work);
            }
            shared.queue.wake_one(pool);
        }
        Some(traceback) => {
            drop(pool);
            for (_, work) in calls {
                if let Job::Start(_, call) = work {
                    let exchange = call.transport.clone();
                    guarded(&exchange, || call.refuse(&traceback));
                }
            }
        }
    }
}
