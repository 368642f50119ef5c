//! Applications: where their code is, how it is loaded, and the files that it is reloaded for.

pub mod application;
pub mod file_watcher;
pub mod limits;
pub mod loader;
pub mod source_files;
pub mod specification;
