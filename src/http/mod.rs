//! Requests of nginx as calls of applications: the content handler, the exchange, the worker that they belong to; and
//! the check of applications before there are any.

pub mod body_stream;
pub mod call_stats;
pub mod exchange;
pub mod handler;
pub mod request_params;
pub mod response_buffer;
pub mod response_headers;
pub mod variables;
