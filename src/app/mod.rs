//! Applications: where their code is, and how it is loaded.

pub mod application;
pub mod file_watcher;
pub mod limits;
pub mod source_files;
pub mod specification;
