//! Applications: where their code is, and how it is loaded.

pub mod application;
pub mod files;
pub mod specification;
pub mod watch;
