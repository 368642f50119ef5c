//! WSGI (PEP 3333) on top of `python`: environ, start_response, the input, the response iterator.
//!
//! Knows HTTP and Python and nothing of nginx: a request comes as a [`params::CgiParams`] and a
//! [`body::BodySource`], the answer goes out through an [`transport::Transport`].

pub mod body;
pub mod body_iter;
pub mod cache;
pub mod call;
pub mod debug_page;
pub mod environ;
pub mod file;
pub mod headers;
pub mod input;
pub mod params;
#[cfg(test)]
pub mod recording;
pub mod start_response;
pub mod transport;
