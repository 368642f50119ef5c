//! POSIX only: child processes and their reports, the fork server, privileges, facts about the process.
//!
//! Uses neither nginx nor Python.

pub mod append;
pub mod child;
pub mod file_passing;
pub mod fork;
pub mod fork_server;
pub mod inherited;
pub mod log_socket;
pub mod memory_file;
mod message;
pub mod privileges;
pub mod reporter;
pub mod run_directory;
pub mod spawn;
pub mod system;
