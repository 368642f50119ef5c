//! A pool thread: runs calls, one after the other, until its interpreter ends.

use std::sync::Arc;

use pyo3::prelude::*;

use super::scheduler::Next;
use super::shared::{Job, Shared, SuspendedCall};
use crate::app::application::Application;
use crate::engine::interpreter::PreparedInterpreter;
use crate::engine::thread::{guarded, spawn};
use crate::python::stack::ThreadId;
use crate::python::{log, traceback};
use crate::wsgi::body_iter::Progress;
use crate::wsgi::call::{Call, Finished};
use crate::wsgi::transport::Suspended;

impl Shared {
    /// Starts the pool thread of a slot. Its interpreter has been started.
    pub(super) fn start_thread(self: &Arc<Self>, slot: usize) {
        let (copy, number) = self.lock().label_of(slot);
        let interpreter = &self.copies[copy];
        let Some(prepared) = interpreter.prepared() else { return self.lock().free_slot(slot) };
        let shared = self.clone();
        let name = format!("{}-{number}", interpreter.spec.thread_prefix());
        match spawn(name.clone(), move || pool_thread(&shared, prepared, copy, slot, &name.into())) {
            Ok(thread) => interpreter.pool_threads.push(thread),
            Err(error) => {
                log::error(&format!("wsgi: cannot start a pool thread: {error}"));
                self.lock().free_slot(slot);
            }
        }
    }

    /// Ends the call of a thread in the scheduler, and notifies the threads that this concerns.
    fn end_call(&self, py: Python<'_>, slot: usize) {
        let mut scheduler = self.lock();
        let aborted = scheduler.end_call(slot);
        let (is_idle, must_shrink) = (scheduler.is_closed_and_idle(), scheduler.group_must_shrink(slot));
        drop(scheduler);
        if let Some(thread) = aborted {
            // The stack dump thread raises nothing more in this call. A pending exception must not reach the next one.
            thread.cancel_exception(py);
        }
        if is_idle {
            self.idle.notify_all();
        }
        if must_shrink {
            self.scheduler.wake_all();
        }
    }
}

/// Body of a pool thread. It is attached to its interpreter for its whole life, so that `threading.local` lasts from
/// call to call.
fn pool_thread(shared: &Arc<Shared>, prepared: Arc<PreparedInterpreter>, copy: usize, slot: usize, name: &Arc<str>) {
    let thread = PoolThread { shared, prepared: &prepared, copy, name };
    prepared.handle.attach_thread().attach(|py| {
        if let Err(error) = prepared.interpreter.adopt_thread(py, name) {
            log::error(&traceback::format(&error, py));
        }
        shared.lock().set_thread(slot, ThreadId::current(py));
        let mut claimed = false;
        loop {
            // A thread releases the GIL only to sleep: to keep it saves two switches of the GIL for each call. And a
            // thread takes a call only while it holds the GIL: until then another thread may run the call.
            match shared.scheduler.next(slot, claimed) {
                Next::Run(job) => {
                    claimed = false;
                    shared.copies[copy].gil_yielder.notify();
                    let finished = thread.run(py, job);
                    // In this order, so that a client that has its response finds the thread free.
                    shared.end_call(py, slot);
                    if let Some(finished) = finished {
                        finished.close_call();
                    }
                }
                Next::Sleep => claimed = py.detach(|| shared.scheduler.sleep(slot)),
                Next::Exit => break,
            }
        }
        if let Err(error) = prepared.interpreter.leave_thread(py) {
            log::error(&traceback::format(&error, py));
        }
    });
    // Before the slot is free: the main thread must be the one to release the last reference.
    drop(prepared);
    shared.lock().free_slot(slot);
}

/// Pool thread with its interpreter.
struct PoolThread<'a> {
    shared: &'a Arc<Shared>,
    prepared: &'a PreparedInterpreter,
    copy: usize,
    name: &'a Arc<str>,
}

impl PoolThread<'_> {
    /// Starts or continues a call. Returns it when it has finished, `None` if it is suspended or has failed.
    fn run(&self, py: Python<'_>, job: Job) -> Option<Finished> {
        match job {
            Job::Start(application, call) => self.start(py, &application, call),
            Job::Resume(suspended) => {
                let transport = suspended.transport.clone();
                transport.resumed();
                let finished = guarded(&transport, || advance(py, suspended)).flatten();
                self.shared.lock().end_resumed();
                finished
            }
        }
    }

    fn start(&self, py: Python<'_>, application: &Application, call: Call) -> Option<Finished> {
        let Self { shared, prepared, copy, name } = *self;
        let transport = call.transport.clone();
        if !transport.start(name, &shared.copies[copy].spec.name) {
            transport.close_call();
            return None;
        }
        guarded(&transport.clone(), || {
            let Some(callable) = prepared.loader.callable(py, application) else {
                call.refuse("the application is not loaded");
                return None;
            };
            let number = call.number;
            let since = application.call_start();
            let running = call.start(py, &prepared.environ_template, &callable);
            let finished = advance(py, SuspendedCall { number, running, transport, shared: shared.clone(), copy });
            prepared.loader.note_modules(py, application, since);
            finished
        })?
    }
}

/// Runs a call until it has finished or nginx sends its file, for which the call needs no thread.
fn advance(py: Python<'_>, mut call: SuspendedCall) -> Option<Finished> {
    loop {
        match call.running.advance(py, None) {
            Progress::NoRoom => call.running.wait_for_room(py),
            Progress::TimeSliceOver => {}
            Progress::File { body, last } => {
                call.shared.lock().suspend();
                call.transport.clone().send_file(body, last, Box::new(call));
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
        // A pool thread closes the iterable; the transport takes no more output.
        self.resume();
    }
}
