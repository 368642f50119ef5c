//! Values of directives that are more than a flag, a number, a size, a time or a text.

use crate::app::specification::{Callable, Target};
use crate::nginx::conf::ComplexValue;

/// A `wsgi_var`: a key of environ.
#[derive(Clone, Debug)]
pub struct EnvironVariable {
    pub name: String,
    pub value: ComplexValue,
    pub if_not_empty: bool,
}

/// A `wsgi_pass`.
#[derive(Clone, Debug)]
pub struct Pass {
    pub target: Target,
    pub callable: Callable,
    /// File and line of the directive.
    pub source_location: String,
}

/// Threads that run the calls of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The event loop thread.
    Off,
    /// This many pool threads of each worker process.
    Pool(usize),
}

/// `wsgi_max_requests`: number of calls after which a worker process is recycled; 0 is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxRequests {
    pub calls: u64,
    /// Upper limit of the random number of calls that each worker process adds.
    pub jitter: u64,
}

/// Value of a directive that may stand once in the whole configuration.
#[derive(Clone, Debug)]
pub struct Located<T> {
    pub value: T,
    /// File and line of the directive; empty for a default.
    pub source_location: String,
}

impl<T> From<T> for Located<T> {
    fn from(value: T) -> Self {
        Self { value, source_location: String::new() }
    }
}
