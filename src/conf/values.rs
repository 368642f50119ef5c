//! Values of directives that are more than a flag, a number, a size, a time or a text.

use std::fmt;

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
    /// Process group that runs the application, in place of the workers of this nginx.
    pub process: Option<String>,
    /// File and line of the directive; in an instance those of the directive of the front.
    pub source_location: String,
}

/// A `wsgi_status`.
#[derive(Clone, Debug)]
pub struct Status {
    pub kind: StatusKind,
    /// File and line of the directive.
    pub source_location: String,
}

/// What `wsgi_status` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusKind {
    /// The report, to those who may see it.
    Report,
    /// Whether the worker is ready, to everybody.
    Ready,
}

/// Threads that run the calls of an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The event loop thread.
    Off,
    /// This many pool threads of each worker process.
    Pool(usize),
}

impl Threads {
    const MAX: usize = 1024;

    /// Parses `off` or a number.
    pub fn parse(text: &str) -> Option<Self> {
        match (text, text.parse()) {
            ("off", _) => Some(Self::Off),
            (_, Ok(count)) if (1..=Self::MAX).contains(&count) => Some(Self::Pool(count)),
            _ => None,
        }
    }

    /// Describes the values that [`Threads::parse`] accepts.
    pub fn must_be() -> String {
        format!("\"off\" or a number from 1 to {}", Self::MAX)
    }
}

impl fmt::Display for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Pool(count) => write!(f, "{count}"),
        }
    }
}

/// `processes=` of a process group: the number of its worker processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processes {
    pub min: usize,
    /// Above `min` further ones are started while calls wait.
    pub max: usize,
}

impl Processes {
    pub const MAX: usize = 256;
    /// Without the argument.
    pub const ONE: Self = Self { min: 1, max: 1 };
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
