//! What a status page shows: counters in shared memory, the report that is made of them, and its texts.
//!
//! Knows neither nginx nor Python.

// Until the rooms above fill and show the report.
#![allow(dead_code, unused_imports)]

pub mod board;
pub mod gather;
mod histogram;
pub mod live_calls;
pub mod openmetrics;
pub mod report;
