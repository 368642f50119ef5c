//! A call that has been handed over: it can be taken back, looked into, given up.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};

use pyo3::prelude::*;

use super::shared::{Shared, StackDump, note};
use crate::engine::interpreter::PreparedInterpreter;
use crate::engine::spawn;
use crate::python::log::{self, Sink};
use crate::wsgi::call::CallNumber;

/// A call that has been handed over, and may still wait or run.
#[derive(Clone)]
pub struct CallHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) number: CallNumber,
}

impl CallHandle {
    /// Takes the call back if no thread has taken it: it does not run, and its place is free.
    pub fn cancel(self) {
        let call = self.shared.lock().cancel(self.number);
        // The lock is not held any more.
        drop(call);
    }

    /// Logs the Python stack of the call after `headline`, if it still runs.
    pub fn dump_stack(&self, headline: String, sink: Arc<dyn Sink>) {
        self.shared.dump_stack_later(StackDump { call: self.number, headline, sink, raise: false });
    }

    /// Nobody waits for the call any more: logs its stack after `headline`, raises `RequestTimeout` in it, and lets
    /// another thread serve in place of its own until it is over.
    pub fn abort(&self, headline: String, sink: Arc<dyn Sink>) {
        let substitute = self.shared.lock().abort(self.number);
        if let Some(substitute) = substitute {
            self.shared.start_thread(substitute);
        }
        self.shared.dump_stack_later(StackDump { call: self.number, headline, sink, raise: true });
    }

    /// Whether the call runs.
    pub fn is_running(&self) -> bool {
        self.shared.lock().thread_of(self.number, false).is_some()
    }
}

impl Shared {
    fn dump_stack_later(self: &Arc<Self>, inspection: StackDump) {
        let copy = self.lock().group_of(inspection.call);
        // It has ended meanwhile.
        let Some(copy) = copy else { return };
        let interpreter = &self.copies[copy];
        let mut watch = interpreter.watch.lock();
        let watch = watch.get_or_insert_with(|| {
            let (sender, inspections) = mpsc::channel();
            let shared = self.clone();
            let name = format!("{}-watch", interpreter.spec.threads());
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
    fn watch(&self, copy: usize, inspections: &Receiver<StackDump>) {
        let Some(prepared) = self.copies[copy].prepared() else { return };
        let mut attach_thread = prepared.handle.attach_thread();
        for inspection in inspections {
            attach_thread.attach(|py| self.look(py, &prepared, inspection));
        }
    }

    fn look(&self, py: Python<'_>, prepared: &PreparedInterpreter, inspection: StackDump) {
        let StackDump { call, headline, sink, raise } = inspection;
        let Some(thread) = self.lock().thread_of(call, raise) else { return };
        let stack = thread.stack(py, &prepared.interpreter);
        let timeout = prepared.interpreter.bootstrap(py, "RequestTimeout");
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
