//! Makes the report: of the shared memory, of what the workers say about themselves, and of the process groups.

use std::time::{SystemTime, UNIX_EPOCH};

use super::report::{Report, SCHEMA, Versions};

/// Sources of a report. Used by any thread but that of an event loop: the workers need time to answer.
#[derive(Clone, Debug)]
pub struct Sources {
    pub versions: Versions,
}

impl Sources {
    /// Returns the report.
    pub fn report(&self) -> Report {
        Report { schema: SCHEMA, time: now(), versions: self.versions.clone(), ..Report::default() }
    }

    /// Returns the Python stack of a call, `None` if it does not run.
    pub fn stack(&self, _pid: u32, _number: u64) -> Option<String> {
        None
    }
}

/// Returns the Unix time in seconds.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
