//! A pool thread: takes calls and runs them, as long as its interpreter lasts.

use std::sync::Arc;

use pyo3::prelude::*;

use super::shared::{Parked, Shared, Work, note};
use crate::app::application::Application;
use crate::engine::pool::Next;
use crate::engine::python::World;
use crate::engine::{guarded, spawn};
use crate::python::interrupt::ThreadId;
use crate::python::{log, traceback};
use crate::wsgi::call::{Call, Finished};
use crate::wsgi::exchange::Suspended;
use crate::wsgi::response::Progress;

impl Shared {
    /// Starts a pool thread; not before its interpreter is started.
    pub(super) fn start_thread(self: &Arc<Self>, member: usize) {
        let (copy, number) = self.lock().place_of(member);
        let interpreter = &self.copies[copy];
        let Some(world) = interpreter.world() else { return self.lock().leave(member) };
        let shared = self.clone();
        let name = format!("{}-{number}", interpreter.plan.threads());
        match spawn(name.clone(), move || pool_thread(&shared, world, copy, member, &name.into())) {
            Ok(thread) => note(&interpreter.pool_threads, thread),
            Err(error) => {
                log::error(&format!("cannot start a pool thread: {error}"));
                self.lock().leave(member);
            }
        }
    }

    fn call_ended(&self, py: Python<'_>, member: usize) {
        let mut pool = self.lock();
        let interrupted = pool.ended(member);
        let (drained, surplus) = (pool.is_drained(), pool.has_surplus(member));
        drop(pool);
        if let Some(thread) = interrupted {
            // From here on nothing more is raised in it, and what was is not to come up in its next call.
            thread.forgive(py);
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
fn pool_thread(shared: &Arc<Shared>, world: Arc<World>, copy: usize, member: usize, name: &Arc<str>) {
    let thread = Thread { shared, world: &world, copy, name };
    world.home.resident().attach(|py| {
        if let Err(error) = world.interpreter.adopt_thread(py, name) {
            log::error(&traceback::format(&error, py));
        }
        shared.lock().join(member, ThreadId::current(py));
        let mut claimed = false;
        loop {
            // Only a thread that would sleep gives the GIL up: going on with it saves two hand-overs a call. And a call is
            // taken only with the GIL: until then another thread may do it.
            match shared.queue.next(member, claimed) {
                Next::Run(work) => {
                    claimed = false;
                    shared.copies[copy].turns.begin();
                    let finished = match work {
                        Work::Start(application, call) => thread.start(py, &application, call),
                        Work::Resume(parked) => {
                            let exchange = parked.exchange.clone();
                            exchange.go_on();
                            let finished = guarded(&exchange, || run(py, parked)).flatten();
                            shared.lock().resumed_has_ended();
                            finished
                        }
                    };
                    // In this order: a client that has its answer finds the thread free.
                    shared.call_ended(py, member);
                    if let Some(finished) = finished {
                        finished.close();
                    }
                }
                Next::Sleep => claimed = py.detach(|| shared.queue.sleep(member)),
                Next::End => break,
            }
        }
        if let Err(error) = world.interpreter.leave_thread(py) {
            log::error(&traceback::format(&error, py));
        }
    });
    // Not after it has left: its main thread is to release the last reference.
    drop(world);
    shared.lock().leave(member);
}

/// What a call is started with.
struct Thread<'a> {
    shared: &'a Arc<Shared>,
    world: &'a World,
    copy: usize,
    name: &'a Arc<str>,
}

impl Thread<'_> {
    /// Starts a call, and returns what [`run`] does.
    fn start(&self, py: Python<'_>, application: &Application, call: Call) -> Option<Finished> {
        let Self { shared, world, copy, name } = *self;
        let exchange = call.exchange.clone();
        if !exchange.start(name, &shared.copies[copy].plan.name) {
            exchange.closed();
            return None;
        }
        guarded(&exchange.clone(), || {
            let Some(callable) = world.loader.callable(py, application) else {
                call.refuse("the application is not loaded");
                return None;
            };
            let number = call.number;
            let since = application.look_at_clock();
            let running = call.start(py, &world.vocabulary, &callable);
            let finished = run(py, Parked { number, running, exchange, shared: shared.clone(), copy });
            world.loader.note_modules(py, application, since);
            finished
        })?
    }
}

/// Runs a call to its end, which is still to be told to its exchange, or until its file is to be sent: for that it needs no
/// thread.
fn run(py: Python<'_>, mut call: Parked) -> Option<Finished> {
    loop {
        match call.running.advance(py, None) {
            Progress::NoRoom => call.running.wait_for_room(py),
            Progress::TurnOver => {}
            Progress::File { body, last } => {
                call.shared.lock().go_away();
                call.exchange.clone().send_file(body, last, Box::new(call));
                return None;
            }
            Progress::Done => return Some(call.running.finish(py)),
        }
    }
}

impl Suspended for Parked {
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
