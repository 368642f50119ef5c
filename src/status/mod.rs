//! What a status page shows: counters in shared memory, the report that is made of them, and its texts.
//!
//! Knows neither nginx nor Python.

mod ask;
pub mod board;
pub mod gather;
pub mod groups;
mod histogram;
pub mod live_calls;
pub mod openmetrics;
pub mod report;
pub mod reporter;
