//! A call that has been handed over: it can be taken back, looked into, given up.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use pyo3::prelude::*;

use super::shared::{Inspection, Shared, lock, note};
use crate::engine::python::World;
use crate::engine::spawn;
use crate::python::log::{self, Sink};
use crate::wsgi::call::CallNumber;

/// A call that has been handed over, and may still wait or run.
#[derive(Clone)]
pub struct Ticket {
    pub(super) shared: Arc<Shared>,
    pub(super) number: CallNumber,
}

impl Ticket {
    /// Takes the call back if no thread has taken it: it does not run, and its place is free.
    pub fn cancel(self) {
        let call = self.shared.lock().cancel(self.number);
        // The lock is not held any more.
        drop(call);
    }

    /// Logs the Python stack of the call after `headline`, if it still runs.
    pub fn log_stack(&self, headline: String, sink: Arc<dyn Sink>) {
        self.shared.inspect(Inspection { call: self.number, headline, sink, raise: false });
    }

    /// Nobody waits for the call any more: logs its stack after `headline`, raises `RequestTimeout` in it, and lets
    /// another thread serve in place of its own until it is over.
    pub fn give_up(&self, headline: String, sink: Arc<dyn Sink>) {
        let substitute = self.shared.lock().give_up(self.number);
        if let Some(substitute) = substitute {
            self.shared.start_thread(substitute);
        }
        self.shared.inspect(Inspection { call: self.number, headline, sink, raise: true });
    }

    /// Whether the call runs.
    pub fn is_running(&self) -> bool {
        self.shared.lock().thread_of(self.number, false).is_some()
    }
}

impl Shared {
    fn inspect(self: &Arc<Self>, inspection: Inspection) {
        let copy = self.lock().crew_of(inspection.call);
        // It has ended meanwhile.
        let Some(copy) = copy else { return };
        let interpreter = &self.copies[copy];
        let mut watch = lock(&interpreter.watch);
        let watch = watch.get_or_insert_with(|| {
            let (sender, inspections) = mpsc::channel();
            let shared = self.clone();
            let name = format!("{}-watch", interpreter.plan.threads());
            match spawn(name, move || shared.watch(copy, &inspections)) {
                Ok(thread) => note(&interpreter.helpers, thread),
                Err(error) => log::error(&format!("cannot start the thread that looks into calls: {error}")),
            }
            sender
        });
        // Without the thread there is no stack, which is in the log.
        let _ = watch.send(inspection);
    }

    /// The thread that looks into the calls of `copy`. It waits for the GIL, which a call in C code may keep for long.
    fn watch(&self, copy: usize, inspections: &Receiver<Inspection>) {
        let Some(world) = self.copies[copy].world() else { return };
        let mut resident = world.home.resident();
        for inspection in inspections {
            resident.attach(|py| self.look(py, &world, inspection));
        }
    }

    fn look(&self, py: Python<'_>, world: &World, inspection: Inspection) {
        let Inspection { call, headline, sink, raise } = inspection;
        let Some(thread) = self.lock().thread_of(call, raise) else { return };
        let stack = thread.stack(py, &world.interpreter);
        let timeout = world.interpreter.prelude(py, "RequestTimeout");
        {
            // While the stack was formatted, the thread may have gone on to another call.
            let pool = self.lock();
            if pool.thread_of(call, raise) != Some(thread) {
                return;
            }
            if raise && let Ok(timeout) = &timeout {
                thread.raise(timeout);
            }
        }
        py.detach(|| sink.write(log::Level::Error, &format!("{headline}\n{}", stack.trim_end())));
    }
}
