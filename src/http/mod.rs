//! Requests of nginx as calls of applications: the content handler, the exchange, the worker that they belong to; and
//! the check of applications before there are any.

pub mod check;
pub mod environment;
pub mod exchange;
pub mod hand_over;
pub mod handler;
pub mod head;
pub mod incoming;
pub mod log_queue;
pub mod outgoing;
pub mod post;
pub mod record;
pub mod reload;
pub mod renewal;
pub mod retire;
pub mod snapshot;
pub mod trial;
pub mod variables;
pub mod worker;
