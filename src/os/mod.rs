//! Plain POSIX: child processes with reports, the fork server, privileges, facts about the process.
//!
//! Knows nothing of nginx or Python.

pub mod child;
pub mod fork_server;
