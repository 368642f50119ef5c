//! The variables `$wsgi_…`: application, thread, times and exception of a call, load of the worker, for `log_format` and `map`.

use std::time::Duration;

use super::call_stats::CallStats;
use super::exchange::RequestExchange;
use super::front;
use crate::engine::pool::PoolFigures;
use crate::nginx::request::Request;
use crate::nginx::variable::Variable;
use crate::worker;

/// Variables, in the order of docs/directives.md. Those of a call are not found for a request without one.
pub static VARIABLES: [Variable; 9] = [
    variable("wsgi_app", |request| of_call(request, |stats| Some(stats.application.to_string()))),
    variable("wsgi_interpreter", |request| of_call(request, |stats| stats.interpreter().map(str::to_owned))),
    variable("wsgi_thread", |request| of_call(request, |stats| stats.thread().map(str::to_owned))),
    variable("wsgi_queue_time", |request| of_call(request, |stats| Some(seconds(stats.clock.queue_time())))),
    variable("wsgi_app_time", |request| of_call(request, |stats| stats.application_time().map(seconds))),
    variable("wsgi_time", |request| of_call(request, |stats| stats.clock.total_time().map(seconds))),
    variable("wsgi_exception", |request| of_call(request, |stats| stats.exception().map(str::to_owned))),
    variable("wsgi_busy", |_| of_worker(|figures| figures.busy)),
    variable("wsgi_waiting", |_| of_worker(|figures| figures.waiting)),
];

const fn variable(name: &'static str, value: fn(Request) -> Option<Vec<u8>>) -> Variable {
    Variable { name, value }
}

/// Variables that `wsgi_pass` with a process group passes to its instance. They are not for administrators.
pub static FOR_INSTANCE: [Variable; 2] =
    [variable("wsgi_environ", front::environ), variable("wsgi_content_length", front::content_length)];

/// Returns a value of the newest call of this request, which may have been made before an internal redirect.
fn of_call(request: Request, value: impl Fn(&CallStats) -> Option<String>) -> Option<Vec<u8>> {
    let exchange = request.installed(|exchange: &RequestExchange| exchange.is_of(request))?;
    value(exchange.stats()).map(String::into_bytes)
}

/// Returns a number of this worker.
fn of_worker(value: impl Fn(PoolFigures) -> usize) -> Option<Vec<u8>> {
    let figures = worker::get().map(|worker| worker.engine.figures()).unwrap_or_default();
    Some(value(figures).to_string().into_bytes())
}

/// Formats a time as nginx formats `$request_time`.
fn seconds(time: Duration) -> String {
    format!("{}.{:03}", time.as_secs(), time.subsec_millis())
}
