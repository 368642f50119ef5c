//! Directives: the table, the configuration of a location and of the `http` block, and how they merge.

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
