//! WSGI (PEP 3333) on top of `python`: environ, `start_response`, `wsgi.input`, the iteration over the response.
//!
//! Depends on HTTP and Python, not on nginx. A request is a [`params::CgiParams`] and a [`body::BodySource`]; the
//! response goes out through a [`transport::Transport`].

pub mod body;
pub mod body_iter;
pub mod cache;
pub mod call;
mod call_objects;
pub mod debug_page;
pub mod environ;
mod environ_cache;
pub mod file;
mod header_keys;
pub mod headers;
pub mod input;
pub mod params;
#[cfg(test)]
pub mod recording;
pub mod response;
pub mod start_response;
#[cfg(test)]
mod tests;
pub mod transport;
pub mod wire;
