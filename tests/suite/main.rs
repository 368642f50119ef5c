//! Integration tests: the module in a real nginx. One file a subject; `tests/README.md` says how to write one.

mod applications;
mod body;
mod directives;
mod environ;
mod harness;
mod headers;
mod input;
mod late;
mod log;
mod response;
mod start_response;
mod validate;
