//! Directives: the configuration of `http`, `server` and `location`, inheritance, and checks.

pub mod content_handler;
pub mod directives;
#[cfg(test)]
mod documentation;
mod environment_file;
pub mod group_location;
pub mod header_rules;
mod internal;
pub mod interpreters;
pub mod location;
pub mod log;
pub mod main;
pub mod mounts;
pub mod process_group;
mod setters;
pub mod settings;
pub mod status_zone;
pub mod values;
