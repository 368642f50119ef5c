//! One request: content handler, exchange with the application, response headers, variables, and status page.

pub mod body_stream;
pub mod call_stats;
pub mod dispatch;
pub mod exchange;
mod front;
pub mod handler;
pub mod request_params;
pub mod response_buffer;
pub mod response_headers;
pub mod status;
pub mod variables;
