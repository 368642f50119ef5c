//! WSGI (PEP 3333) on top of `python`: environ, start_response, the input, the response iterator.
//!
//! Knows HTTP and Python and nothing of nginx: a request comes as a [`request::RequestHead`] and a
//! [`body::BodySource`], the answer goes out through an [`exchange::Exchange`].

pub mod body;
pub mod cache;
pub mod call;
pub mod debug_page;
pub mod environ;
pub mod exchange;
pub mod file;
pub mod head;
pub mod input;
#[cfg(test)]
pub mod recording;
pub mod request;
pub mod response;
pub mod start_response;
