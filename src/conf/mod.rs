//! The directives: one table, the configuration of a location and of the `http` block, how they merge.

pub mod directives;
pub mod header_rules;
pub mod interpreters;
pub mod location;
pub mod main;
pub mod mounts;
