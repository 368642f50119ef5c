//! POSIX only: child processes and their reports, the fork server, privileges, facts about the process.
//!
//! Uses neither nginx nor Python.

pub mod child;
mod fork;
pub mod fork_server;
mod message;
pub mod privileges;
pub mod reporter;
pub mod system;
