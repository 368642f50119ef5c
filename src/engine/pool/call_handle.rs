//! A handle of a call in a pool: cancels it, aborts it, logs its stack.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

use pyo3::prelude::*;

use super::shared::{Shared, StackDump};
use crate::engine::interpreter::PreparedInterpreter;
use crate::engine::thread::spawn;
use crate::python::log::{self, Sink};
use crate::wsgi::call::CallNumber;

/// Handle of a call that waits for a thread, runs, or has ended.
#[derive(Clone)]
pub struct CallHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) number: CallNumber,
}

impl CallHandle {
    /// Removes the call from the queue, if it has not started.
    pub fn cancel(self) {
        let call = self.shared.lock().cancel(self.number);
        // Not under the lock.
        drop(call);
    }

    /// Logs the Python stack of the call after `headline`, if the call still runs.
    pub fn dump_stack(&self, headline: String, sink: Arc<dyn Sink>) {
        self.shared.request_stack_dump(StackDump { call: self.number, headline, sink, raises: false });
    }

    /// Returns the Python stack of the call, `None` if it has ended or its interpreter does not answer within `limit`.
    pub fn stack(&self, limit: Duration) -> Option<String> {
        let (sender, stack) = mpsc::channel();
        self.dump_stack(String::new(), Arc::new(StackReceiver(sender)));
        // Without an answer the call has ended, and the sink is gone.
        stack.recv_timeout(limit).ok()
    }

    /// Aborts a running call: logs its stack after `headline`, raises `RequestTimeout` in it, and replaces its thread
    /// until the call ends.
    pub fn abort(&self, headline: String, sink: Arc<dyn Sink>) {
        let replacement = self.shared.lock().abort(self.number);
        if let Some(slot) = replacement {
            self.shared.start_thread(slot);
        }
        self.shared.request_stack_dump(StackDump { call: self.number, headline, sink, raises: true });
    }

    /// Returns true while a thread runs the call.
    pub fn is_running(&self) -> bool {
        self.shared.lock().thread_of(self.number, false).is_some()
    }
}

/// Sink that passes on a stack in place of writing it to the log.
struct StackReceiver(Sender<String>);

impl Sink for StackReceiver {
    fn write(&self, record: log::Record) {
        // The headline is empty. The receiver may have stopped to wait.
        let _ = self.0.send(record.traceback.to_owned());
    }
}

impl Shared {
    /// Sends an order to the stack dump thread of the call's interpreter, and starts that thread if there is none.
    fn request_stack_dump(self: &Arc<Self>, dump: StackDump) {
        let copy = self.lock().group_of(dump.call);
        // Otherwise the call has ended meanwhile.
        let Some(copy) = copy else { return };
        let interpreter = &self.copies[copy];
        let mut stack_dumps = interpreter.stack_dumps.lock();
        let sender = stack_dumps.get_or_insert_with(|| {
            let (sender, dumps) = mpsc::channel();
            let shared = self.clone();
            let name = format!("{}-watch", interpreter.spec.thread_prefix());
            match spawn(name, move || shared.dump_stacks(copy, &dumps)) {
                Ok(thread) => interpreter.helper_threads.push(thread),
                Err(error) => log::error(&format!("wsgi: cannot start the stack dump thread: {error}")),
            }
            sender
        });
        // Without the thread there is no stack; its failure is in the log.
        let _ = sender.send(dump);
    }

    /// Dumps stacks of the calls of a copy, on a thread of its own: a call in C code may hold the GIL for long.
    fn dump_stacks(&self, copy: usize, dumps: &Receiver<StackDump>) {
        let Some(prepared) = self.copies[copy].prepared() else { return };
        let mut attach_thread = prepared.handle.attach_thread();
        for dump in dumps {
            attach_thread.attach(|py| self.dump_stack(py, &prepared, dump));
        }
    }

    fn dump_stack(&self, py: Python<'_>, prepared: &PreparedInterpreter, dump: StackDump) {
        let StackDump { call, headline, sink, raises } = dump;
        let Some(thread) = self.lock().thread_of(call, raises) else { return };
        let stack = thread.stack(py, &prepared.interpreter);
        let exception = prepared.interpreter.bootstrap(py, "RequestTimeout");
        {
            // While the stack was formatted, the thread may have started another call.
            let scheduler = self.lock();
            if scheduler.thread_of(call, raises) != Some(thread) {
                return;
            }
            if raises && let Ok(exception) = &exception {
                thread.raise(exception);
            }
        }
        py.detach(|| {
            let (message, traceback) = (headline.as_bytes(), stack.trim_end());
            sink.write(log::Record { level: log::Level::Error, message, traceback });
        });
    }
}
