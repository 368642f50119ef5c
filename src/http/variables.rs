//! The variables `$wsgi_…`: what became of the call of a request, for the access log and for `map`.

use std::time::Duration;

use super::call_stats::CallStats;
use super::exchange::Installed;
use crate::nginx::request::Request;
use crate::nginx::variable::Variable;

/// The variables, in the order of docs/directives.md. A request without a call of its own has none of them.
pub static VARIABLES: [Variable; 7] = [
    variable("wsgi_app", |request| of_call(request, |stats| Some(stats.application.to_string()))),
    variable("wsgi_interpreter", |request| of_call(request, |stats| stats.interpreter().map(str::to_owned))),
    variable("wsgi_thread", |request| of_call(request, |stats| stats.thread().map(str::to_owned))),
    variable("wsgi_queue_time", |request| of_call(request, |stats| Some(seconds(stats.clock.queue_time())))),
    variable("wsgi_app_time", |request| of_call(request, |stats| stats.application_time().map(seconds))),
    variable("wsgi_time", |request| of_call(request, |stats| stats.clock.total_time().map(seconds))),
    variable("wsgi_exception", |request| of_call(request, |stats| stats.exception().map(str::to_owned))),
];

const fn variable(name: &'static str, value: fn(Request) -> Option<String>) -> Variable {
    Variable { name, value }
}

/// What is wanted of the newest call that this request has made, also before an internal redirect.
fn of_call(request: Request, value: impl Fn(&CallStats) -> Option<String>) -> Option<String> {
    let Installed(exchange) = request.installed(|Installed(exchange)| exchange.is_of(request))?;
    value(exchange.stats())
}

/// As nginx writes `$request_time`.
fn seconds(time: Duration) -> String {
    format!("{}.{:03}", time.as_secs(), time.subsec_millis())
}
