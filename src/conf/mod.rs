//! Directives: the configuration of `http`, `server` and `location`, inheritance, and checks.

pub mod content_handler;
pub mod directives;
#[cfg(test)]
mod documentation;
pub mod header_rules;
pub mod interpreters;
pub mod location;
pub mod main;
pub mod mounts;
mod setters;
mod settings;
pub mod values;
