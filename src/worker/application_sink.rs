//! Log of an application for its text outside of requests: of an import, of threads that it has started, of its shutdown.

use std::sync::{Arc, Weak};

use super::event_loop::EventLoop;
use super::log_forms::ApplicationRecord;
use crate::conf::log::ApplicationLog;
use crate::nginx::log_target::Batch;
use crate::nginx::thread_bound::EventLoopBound;
use crate::python::log::{Record, Sink};

/// Sink of an application that has a log of its own.
pub struct ApplicationSink {
    myself: Weak<Self>,
    event_loop: &'static EventLoop,
    thread: EventLoopBound<()>,
    log: Arc<ApplicationLog>,
    application: Arc<str>,
}

impl ApplicationSink {
    /// Makes the sink. On the event loop thread.
    pub fn new(event_loop: &'static EventLoop, log: Arc<ApplicationLog>, application: Arc<str>) -> Arc<Self> {
        let thread = EventLoopBound::new(());
        Arc::new_cyclic(|myself| Self { myself: myself.clone(), event_loop, thread, log, application })
    }
}

impl Sink for ApplicationSink {
    fn write(&self, record: Record) {
        let record = ApplicationRecord::new(record, &self.application);
        if self.thread.is_here() {
            let mut batch = Batch::default();
            record.write(&self.log, None, &mut batch);
            self.log.target.write(&batch);
        } else {
            self.event_loop.log_of_application(None, self.log.clone(), record);
        }
    }

    fn keeps_lines(&self) -> bool {
        true
    }

    fn of_threads(&self) -> Option<Arc<dyn Sink>> {
        self.myself.upgrade().map(|sink| sink as Arc<dyn Sink>)
    }
}
