//! The content handler of a location with `wsgi_pass`: reads the body, takes the snapshot, hands the call over.

use std::sync::Arc;

use super::call_stats::CallStats;
use super::exchange::{Installed, RequestExchange};
use super::request_params;
use crate::conf::location::LocationConf;
use crate::nginx::log::Level;
use crate::nginx::request::{Request, Status};
use crate::reload;
use crate::worker::{self, Submitted, recycle};
use crate::wsgi::body::BodySource;
use crate::wsgi::call::Call;
use crate::wsgi::params::CgiParams;

/// Why a request is answered with an error before any application sees it.
struct Refusal {
    status: Status,
    reason: String,
}

impl Refusal {
    fn internal(reason: impl Into<String>) -> Self {
        Self { status: Status::INTERNAL_SERVER_ERROR, reason: reason.into() }
    }
}

/// Hands over a request whose body has been read, or finalizes it.
pub fn run(request: Request, conf: &LocationConf) {
    match submit(request, conf) {
        Ok(None) => {}
        // The call has run on this thread: its answer, or the first part of it, is there.
        Ok(Some(exchange)) => exchange.run_output(),
        Err(Refusal { status, reason }) => {
            request.log().write(Level::Error, &reason);
            if status == Status::SERVICE_UNAVAILABLE {
                // Without memory for the header the answer is right without it.
                let _ = request.add_header(b"Retry-After", b"1");
            }
            request.finalize(status);
        }
    }
}

fn snapshot(
    request: Request,
    conf: &LocationConf,
    exchange: &Arc<RequestExchange>,
) -> Result<(CgiParams, Box<dyn BodySource>), Refusal> {
    let body: Box<dyn BodySource> = match exchange.streamed_body() {
        Some(body) => Box::new(body),
        None => Box::new(
            request_params::body(request)
                .map_err(|error| Refusal::internal(format!("cannot take over the request body: {error}")))?,
        ),
    };
    let head = request_params::head(request, conf, &*body)
        .map_err(|request_params::Failed| Refusal::internal("cannot evaluate a variable for environ"))?;
    Ok((head, body))
}

/// Returns the exchange if the caller has to pump it.
fn submit(request: Request, conf: &LocationConf) -> Result<Option<Arc<RequestExchange>>, Refusal> {
    request.leave_conditions_to_application();
    let worker = worker::get().ok_or_else(|| Refusal::internal("this worker could not start Python"))?;
    let specification =
        conf.application().ok_or_else(|| Refusal::internal("no \"wsgi_pass\" holds for this location"))?;
    let application = worker.application(specification).ok_or_else(|| {
        Refusal::internal(
            "the interpreter of this application came with a reload, but this process stays: restart nginx",
        )
    })?;
    let application_name = application.application.name();
    let limits = conf.limits();
    let exchange =
        RequestExchange::new(request, worker.requests, conf, CallStats::new(application_name.clone(), limits));
    let snapshot = snapshot(request, conf, &exchange).inspect_err(|_| exchange.release());
    let (head, body) = snapshot?;
    if request.install(Installed(exchange.clone())).is_err() {
        exchange.release();
        return Err(Refusal::internal("no memory for the request"));
    }
    if request.is_reading_body() {
        request.pause_reading();
    }
    let call = Call {
        number: exchange.number(),
        head,
        body,
        exchange: exchange.clone(),
        debug: conf.debug(),
        application_name: application_name.clone(),
    };
    recycle::count_call();
    if reload::before_call(worker, &application) {
        exchange.ask_to_refresh();
    }
    match worker.submit(&application, call, &limits) {
        Submitted::Queued(handle) => {
            exchange.attach_handle(handle);
            Ok(None)
        }
        Submitted::Run(suspended) => {
            exchange.suspend(suspended);
            Ok(Some(exchange))
        }
        Submitted::Refused => {
            exchange.release();
            let reason = "too many requests wait for the applications of this worker".to_owned();
            Err(Refusal { status: Status::SERVICE_UNAVAILABLE, reason })
        }
    }
}
