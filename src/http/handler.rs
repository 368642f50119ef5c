//! The content handler of a location with `wsgi_pass`: builds the call of a request and submits it to the engine.

use std::sync::Arc;

use super::body_stream::BodyEnd;
use super::call_stats::CallStats;
use super::exchange::RequestExchange;
use super::exchange::record::{Ending, Record};
use super::{dispatch, request_params};
use crate::conf::location::LocationConf;
use crate::engine::QueueFull;
use crate::engine::call_clock::CallClock;
use crate::nginx::log::Level;
use crate::nginx::request::{Request, Status};
use crate::reload;
use crate::worker;
use crate::wsgi::body::{BodySource, BufferedBody};
use crate::wsgi::call::Call;
use crate::wsgi::params::CgiParams;

/// Reason to respond with an error before an application sees the request.
struct Refusal {
    status: Status,
    reason: String,
}

impl Refusal {
    fn internal(reason: impl Into<String>) -> Self {
        Self { status: Status::INTERNAL_SERVER_ERROR, reason: reason.into() }
    }
}

/// Submits the call of a request whose body has been read, or finalizes the request.
pub fn run(request: Request, conf: &LocationConf) {
    if let Err(Refusal { status, reason }) = submit(request, conf) {
        request.log().write(Level::Error, &reason);
        if status == Status::SERVICE_UNAVAILABLE {
            // Without memory for the header the response is right without it.
            let _ = request.add_header(b"Retry-After", b"1");
        }
        request.finalize(status);
    }
}

fn submit(request: Request, conf: &LocationConf) -> Result<(), Refusal> {
    request.leave_conditions_to_application();
    let worker = worker::get().ok_or_else(|| Refusal::internal("worker is not started, see its first alert"))?;
    let specification = conf.application().ok_or_else(|| Refusal::internal("location has no \"wsgi_pass\""))?;
    let application = worker.application(specification).ok_or_else(|| {
        Refusal::internal(
            "application needs an interpreter that this process does not have, restart nginx (\"master_process off\")",
        )
    })?;
    let stats = CallStats::new(application.application.name().clone(), CallClock::new(conf.limits()));
    // A body that is still being read comes through the exchange.
    let read = if request.is_reading_body() { None } else { Some(Box::new(body(request)?)) };
    let length = read.as_ref().and_then(|body| body.remaining());
    let params = params(request, conf, length)?;
    let record = application.calls.and_then(|calls| Record::new(calls, &params));
    let exchange = RequestExchange::new(request, worker, conf, stats, record, application.application.log());
    let body: Box<dyn BodySource> = match (read, exchange.streamed_body()) {
        (Some(body), _) => body,
        (None, Some(body)) => Box::new(body),
        (None, None) => Box::new(BufferedBody::default()),
    };
    let call = Call {
        number: exchange.number(),
        params,
        body,
        transport: exchange.clone(),
        debug: conf.debug(),
        application_name: exchange.stats().application.clone(),
    };
    request.install(exchange.clone()).map_err(|_| Refusal::internal("no memory for the request"))?;
    if request.is_reading_body() {
        request.pause_reading();
    }
    exchange.enter(length);
    worker.recycler.count_call();
    if reload::before_call(&application) {
        exchange.add_refresh();
    }
    match worker.engine.submit(application.interpreter, &application.application, call, &exchange) {
        Ok(submission) => exchange.follow(submission),
        Err(QueueFull) => {
            exchange.detach(BodyEnd::Disconnected, Ending::QueueFull);
            let reason = "too many requests wait for the applications of this worker".to_owned();
            return Err(Refusal { status: Status::SERVICE_UNAVAILABLE, reason });
        }
    }
    Ok(())
}

/// Returns the body that nginx has read.
fn body(request: Request) -> Result<BufferedBody, Refusal> {
    request_params::body(request)
        .map_err(|error| Refusal::internal(format!("cannot take over the request body: {error}")))
}

/// Returns the parameters of the call, with the `length` of its body, if nginx has read that.
fn params(request: Request, conf: &LocationConf, length: Option<u64>) -> Result<Arc<CgiParams>, Refusal> {
    if conf.is_instance() {
        return dispatch::take_params(request).ok_or_else(|| Refusal {
            status: Status::BAD_REQUEST,
            reason: "request of a process group does not come from its front".to_owned(),
        });
    }
    request_params::params(request, conf, length)
        .map_err(|request_params::Failed| Refusal::internal("cannot evaluate a variable for environ"))
}
