//! A pool thread: takes calls and runs them, as long as its interpreter lasts.

use std::sync::Arc;

use pyo3::prelude::*;

use super::scheduler::Next;
use super::shared::{Job, Shared, SuspendedCall, note};
use crate::app::application::Application;
use crate::engine::interpreter::PreparedInterpreter;
use crate::engine::{guarded, spawn};
use crate::python::stack::ThreadId;
use crate::python::{log, traceback};
use crate::wsgi::body_iter::Progress;
use crate::wsgi::call::{Call, Finished};
use crate::wsgi::transport::Suspended;

impl Shared {
    /// Starts a pool thread; not before its interpreter is started.
    pub(super) fn start_thread(self: &Arc<Self>, slot: usize) {
        let (copy, number) = self.lock().label_of(slot);
        let interpreter = &self.copies[copy];
        let Some(prepared) = interpreter.prepared() else { return self.lock().leave(slot) };
        let shared = self.clone();
        let name = format!("{}-{number}", interpreter.spec.threads());
        match spawn(name.clone(), move || pool_thread(&shared, prepared, copy, slot, &name.into())) {
            Ok(thread) => note(&interpreter.pool_threads, thread),
            Err(error) => {
                log::error(&format!("cannot start a pool thread: {error}"));
                self.lock().leave(slot);
            }
        }
    }

    fn call_ended(&self, py: Python<'_>, slot: usize) {
        let mut pool = self.lock();
        let interrupted = pool.ended(slot);
        let (drained, surplus) = (pool.is_drained(), pool.has_surplus(slot));
        drop(pool);
        if let Some(thread) = interrupted {
            // From here on nothing more is raised in it, and what was is not to come up in its next call.
            thread.cancel_exception(py);
        }
        if drained {
            self.idle.notify_all();
        }
        if surplus {
            self.queue.wake_all();
        }
    }
}

/// A pool thread: attached to its interpreter for its whole life, so that `threading.local` lasts from call to call.
fn pool_thread(shared: &Arc<Shared>, prepared: Arc<PreparedInterpreter>, copy: usize, slot: usize, name: &Arc<str>) {
    let thread = Thread { shared, prepared: &prepared, copy, name };
    prepared.handle.attach_thread().attach(|py| {
        if let Err(error) = prepared.interpreter.adopt_thread(py, name) {
            log::error(&traceback::format(&error, py));
        }
        shared.lock().join(slot, ThreadId::current(py));
        let mut claimed = false;
        loop {
            // Only a thread that would sleep gives the GIL up: going on with it saves two hand-overs a call. And a call is
            // taken only with the GIL: until then another thread may do it.
            match shared.queue.next(slot, claimed) {
                Next::Run(work) => {
                    claimed = false;
                    shared.copies[copy].gil_yielder.begin();
                    let finished = match work {
                        Job::Start(application, call) => thread.start(py, &application, call),
                        Job::Resume(suspended) => {
                            let exchange = suspended.exchange.clone();
                            exchange.resumed();
                            let finished = guarded(&exchange, || run(py, suspended)).flatten();
                            shared.lock().resumed_has_ended();
                            finished
                        }
                    };
                    // In this order: a client that has its answer finds the thread free.
                    shared.call_ended(py, slot);
                    if let Some(finished) = finished {
                        finished.close();
                    }
                }
                Next::Sleep => claimed = py.detach(|| shared.queue.sleep(slot)),
                Next::End => break,
            }
        }
        if let Err(error) = prepared.interpreter.leave_thread(py) {
            log::error(&traceback::format(&error, py));
        }
    });
    // Not after it has left: its main thread is to release the last reference.
    drop(prepared);
    shared.lock().leave(slot);
}

/// What a call is started with.
struct Thread<'a> {
    shared: &'a Arc<Shared>,
    prepared: &'a PreparedInterpreter,
    copy: usize,
    name: &'a Arc<str>,
}

impl Thread<'_> {
    /// Starts a call, and returns what [`run`] does.
    fn start(&self, py: Python<'_>, application: &Application, call: Call) -> Option<Finished> {
        let Self { shared, prepared, copy, name } = *self;
        let exchange = call.transport.clone();
        if !exchange.start(name, &shared.copies[copy].spec.name) {
            exchange.closed();
            return None;
        }
        guarded(&exchange.clone(), || {
            let Some(callable) = prepared.loader.callable(py, application) else {
                call.refuse("the application is not loaded");
                return None;
            };
            let number = call.number;
            let since = application.call_start();
            let running = call.start(py, &prepared.environ_template, &callable);
            let finished = run(py, SuspendedCall { number, running, exchange, shared: shared.clone(), copy });
            prepared.loader.note_modules(py, application, since);
            finished
        })?
    }
}

/// Runs a call to its end, which is still to be told to its exchange, or until its file is to be sent: for that it needs no
/// thread.
fn run(py: Python<'_>, mut call: SuspendedCall) -> Option<Finished> {
    loop {
        match call.running.advance(py, None) {
            Progress::NoRoom => call.running.wait_for_room(py),
            Progress::TimeSliceOver => {}
            Progress::File { body, last } => {
                call.shared.lock().suspend();
                call.exchange.clone().send_file(body, last, Box::new(call));
                return None;
            }
            Progress::Done => return Some(call.running.finish(py)),
        }
    }
}

impl Suspended for SuspendedCall {
    fn resume(self: Box<Self>) -> Option<Box<dyn Suspended>> {
        let shared = self.shared.clone();
        shared.resume(*self);
        None
    }

    fn abandon(self: Box<Self>) {
        // The thread that takes it finds nobody there.
        self.resume();
    }
}
