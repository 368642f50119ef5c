//! Integration tests: the module in a real nginx. One file a subject; `tests/README.md` says how to write one.

mod accel;
mod applications;
mod body;
mod check;
mod configurations;
mod directives;
mod documents;
mod endless;
mod environ;
mod files;
mod frameworks;
mod harness;
mod headers;
mod input;
mod late;
mod log;
mod process;
mod protocols;
mod reload;
mod response;
mod shutdown;
mod slow;
mod start_response;
mod streaming;
mod valgrind;
mod validate;
