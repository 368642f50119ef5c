//! The report as metrics: OpenMetrics, and the text format 0.0.4 of Prometheus.

use std::fmt::{self, Debug};
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::report::{Application, Histogram, LoadedApplication, NO_ANSWER, Report, Responses, Worker, WorkerState};

/// Returns the report in the text format of OpenMetrics 1.0.
pub fn openmetrics(report: &Arc<Report>) -> Vec<u8> {
    encode(report, text::encode)
}

/// Returns the report in the text format 0.0.4 of Prometheus.
pub fn prometheus(report: &Arc<Report>) -> Vec<u8> {
    encode(report, prometheus_text::encode)
}

fn encode(report: &Arc<Report>, encode: impl FnOnce(&mut String, &Registry) -> fmt::Result) -> Vec<u8> {
    let mut registry = Registry::with_prefix("wsgi");
    registry.register_collector(Box::new(ReportCollector(report.clone())));
    let mut text = String::new();
    // Writing to memory does not fail.
    let _ = encode(&mut text, &registry);
    text.into_bytes()
}

/// Metrics of a report.
#[derive(Debug)]
struct ReportCollector(Arc<Report>);

impl Collector for ReportCollector {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut families = Families(encoder);
        let Self(report) = self;
        families.of_nginx(report)?;
        families.of_applications(report)?;
        families.of_code(report)?;
        families.of_workers(report)?;
        families.of_process_groups(report)
    }
}

/// Labels: names and values.
struct Labels<'a>(Vec<(&'static str, &'a str)>);

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> fmt::Result {
        self.0.as_slice().encode(encoder)
    }
}

impl<'a> Labels<'a> {
    fn of_group(group: Option<&'a String>) -> Self {
        Self(vec![("process_group", group.map(String::as_str).unwrap_or_default())])
    }

    fn of_worker((worker, (number, pid)): NamedWorker<'a>) -> Self {
        Self::of_group(worker.process_group.as_ref()).and("worker", number).and("pid", pid)
    }

    fn of_code((worker, application): (NamedWorker<'a>, &'a LoadedApplication)) -> Self {
        Self(vec![("application", &application.name)]).and_all(Self::of_worker(worker))
    }

    fn of(application: &'a Application) -> Self {
        Self(vec![("application", &application.name)]).and_all(Self::of_group(application.process_group.as_ref()))
    }

    fn and(mut self, name: &'static str, value: &'a str) -> Self {
        self.0.push((name, value));
        self
    }

    fn and_all(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }
}

/// A worker with its number and its pid as texts.
type NamedWorker<'a> = (&'a Worker, &'a (String, String));

/// Returns the numbers and pids of the workers as texts.
fn names(report: &Report) -> Vec<(String, String)> {
    report.workers.iter().map(|worker| (worker.number.to_string(), worker.pid.to_string())).collect()
}

/// A value of a metric.
#[derive(Clone, Copy)]
enum Value<'a> {
    Counter(u64),
    Seconds(f64),
    Gauge(f64),
    Histogram(&'a Histogram),
    /// All it has are labels.
    Info,
}

impl Value<'_> {
    fn encode(self, encoder: &mut MetricEncoder) -> fmt::Result {
        match self {
            Self::Counter(value) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
            Self::Seconds(value) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
            Self::Gauge(value) => encoder.encode_gauge(&value),
            Self::Info => encoder.encode_info(&Labels(Vec::new())),
            Self::Histogram(histogram) => {
                encoder.encode_histogram::<NoLabelSet>(histogram.sum, histogram.count, &buckets(histogram), None)
            }
        }
    }
}

/// Returns bounds and numbers, each without those of the buckets before; the last bound is infinite.
fn buckets(histogram: &Histogram) -> Vec<(f64, u64)> {
    let last = (f64::INFINITY, histogram.count);
    let mut before = 0;
    let bounds = histogram.buckets.iter().map(|bucket| (bucket.le, bucket.count)).chain([last]);
    bounds.map(|(bound, count)| (bound, count.saturating_sub(std::mem::replace(&mut before, count)))).collect()
}

/// Encoder of families: metrics with one name, that differ in their labels.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// Encodes a family, unless it has no metric.
    fn family<'a>(
        &mut self,
        (name, unit, kind): (&str, Option<Unit>, MetricType),
        help: &str,
        metrics: impl IntoIterator<Item = (Labels<'a>, Value<'a>)>,
    ) -> fmt::Result {
        let mut metrics = metrics.into_iter().peekable();
        if metrics.peek().is_none() {
            return Ok(());
        }
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        metrics.try_for_each(|(labels, value)| value.encode(&mut encoder.encode_family(&labels)?))
    }

    fn of_nginx(&mut self, report: &Report) -> fmt::Result {
        let versions = &report.versions;
        let labels =
            Labels(vec![("version", &versions.module), ("nginx", &versions.nginx), ("python", &versions.python)]);
        let mut info = self.0.encode_descriptor("build", "Versions of the software", None, MetricType::Info)?;
        info.encode_info(&labels)?;
        self.family(
            ("status_since_timestamp", Some(Unit::Seconds), MetricType::Gauge),
            "Time since which the counters count",
            [(Labels(Vec::new()), Value::Gauge(report.since))],
        )
    }

    fn of_applications(&mut self, report: &Report) -> fmt::Result {
        type Of = fn(&Application) -> Value<'_>;
        let counter = |name| (name, None, MetricType::Counter);
        let bytes = |name| (name, Some(Unit::Bytes), MetricType::Counter);
        let seconds = |name| (name, Some(Unit::Seconds), MetricType::Histogram);
        let gauge = |name| (name, None, MetricType::Gauge);
        let all = &report.applications;
        let labels = Labels::of;
        let families: [(_, &str, Of); 11] = [
            (gauge("calls_running"), "Calls that run or are being sent", |of| Value::Gauge(of.running as f64)),
            (gauge("calls_queued"), "Calls that wait for a thread", |of| Value::Gauge(of.queued as f64)),
            (counter("calls"), "Calls that have ended", |of| Value::Counter(of.counters.calls)),
            (counter("timed_out_calls"), "Calls that exceeded wsgi_request_timeout", |of| {
                Value::Counter(of.counters.timed_out)
            }),
            (counter("client_gone_calls"), "Calls whose client left before the end of the response", |of| {
                Value::Counter(of.counters.client_gone)
            }),
            (counter("failed_calls"), "Calls that failed with an uncaught exception", |of| {
                Value::Counter(of.counters.exceptions)
            }),
            (bytes("received"), "Bytes of request bodies", |of| Value::Counter(of.counters.bytes_received)),
            (bytes("sent"), "Bytes of response bodies", |of| Value::Counter(of.counters.bytes_sent)),
            (seconds("queue_time"), "Time that calls waited for a thread", |of| {
                Value::Histogram(&of.counters.queue_time)
            }),
            (seconds("header_time"), "Time from the start of calls to their response headers", |of| {
                Value::Histogram(&of.counters.header_time)
            }),
            (seconds("total_time"), "Time from the arrival of calls to their end", |of| {
                Value::Histogram(&of.counters.total_time)
            }),
        ];
        for (descriptor, help, value) in families {
            self.family(descriptor, help, all.iter().map(|of| (labels(of), value(of))))?;
        }
        let responses = all.iter().flat_map(|of| {
            let classes = by_class(&of.counters.responses);
            classes.map(|(class, count)| (labels(of).and("status", class), Value::Counter(count)))
        });
        self.family(counter("responses"), "Responses by the class of their status", responses)?;
        let refused = all.iter().flat_map(|of| {
            let counters = &of.counters;
            let reasons =
                [("queue_full", counters.refused_queue_full), ("queue_timeout", counters.refused_queue_timeout)];
            reasons.map(|(reason, count)| (labels(of).and("reason", reason), Value::Counter(count)))
        });
        self.family(counter("refused_calls"), "Calls refused with 503", refused)?;
        let exceptions = all.iter().flat_map(|of| {
            let classes = of.exceptions.iter();
            classes.map(|(class, count)| (labels(of).and("class", class), Value::Counter(*count)))
        });
        self.family(counter("exceptions"), "Uncaught exceptions by class", exceptions)
    }

    /// Encodes what the workers say about the code of the applications.
    fn of_code(&mut self, report: &Report) -> fmt::Result {
        let names = names(report);
        let all = || {
            let workers = report.workers.iter().zip(&names);
            workers.flat_map(|of| {
                let applications = of.0.details.iter().flat_map(|details| &details.applications);
                applications.map(move |application| (of, application))
            })
        };
        let flag = |is_set| Value::Gauge(f64::from(u8::from(is_set)));
        let loaded = all().map(|of| (Labels::of_code(of), flag(of.1.code.is_some())));
        let gauge = |name| (name, None, MetricType::Gauge);
        self.family(
            gauge("application_loaded"),
            "1 if the worker has code of the application that serves calls",
            loaded,
        )?;
        let failed = all().map(|of| (Labels::of_code(of), flag(of.1.failure.is_some())));
        self.family(gauge("application_load_failed"), "1 if the last attempt to load the application failed", failed)?;
        let codes = || all().filter_map(|of| Some((of, of.1.code.as_ref()?)));
        let times = codes().map(|(of, code)| (Labels::of_code(of), Value::Gauge(code.loaded)));
        let seconds = |name| (name, Some(Unit::Seconds), MetricType::Gauge);
        self.family(seconds("application_loaded_timestamp"), "Time at which the code was loaded", times)?;
        let times = codes().map(|(of, code)| (Labels::of_code(of), Value::Gauge(code.import_time)));
        self.family(seconds("application_import"), "Time that the import took", times)?;
        let versions = codes().filter_map(|(of, code)| {
            let version = code.version.as_deref()?;
            Some((Labels::of_code(of).and("version", version), Value::Info))
        });
        self.family(("application", None, MetricType::Info), "Version of the code", versions)
    }

    fn of_workers(&mut self, report: &Report) -> fmt::Result {
        let names = names(report);
        let all = || report.workers.iter().zip(&names);
        let labels = Labels::of_worker;
        let gauge = |name| (name, None, MetricType::Gauge);
        let counter = |name, unit| (name, unit, MetricType::Counter);
        let groups = [None].into_iter().chain(report.process_groups.iter().map(|group| Some(&group.name)));
        let counts = groups.map(|group| {
            let count = report.workers.iter().filter(|worker| worker.process_group.as_ref() == group).count();
            (Labels::of_group(group), Value::Gauge(count as f64))
        });
        self.family(gauge("workers"), "Workers that live", counts)?;
        let ends = report.ends.iter().flat_map(|of| {
            let group = of.process_group.as_ref();
            let reasons = of.by_reason.iter();
            reasons.map(move |(reason, count)| (Labels::of_group(group).and("reason", reason), Value::Counter(*count)))
        });
        self.family(counter("ended_workers", None), "Workers that have ended, by reason", ends)?;
        type Of = fn(&Worker) -> Option<Value<'_>>;
        let families: [(_, &str, Of); 9] = [
            (("worker_start_time", Some(Unit::Seconds), MetricType::Gauge), "Time at which the worker started", |of| {
                Some(Value::Gauge(of.started))
            }),
            (counter("worker_calls", None), "Calls since the start of the worker that have ended", |of| {
                Some(Value::Counter(of.calls))
            }),
            (gauge("worker_running_calls"), "Calls that run or are being sent", |of| {
                Some(Value::Gauge(of.running as f64))
            }),
            (gauge("worker_queued_calls"), "Calls that wait for a thread", |of| Some(Value::Gauge(of.queued as f64))),
            (("worker_memory", Some(Unit::Bytes), MetricType::Gauge), "Resident memory", |of| {
                Some(Value::Gauge(of.details.as_ref()?.memory as f64))
            }),
            (counter("worker_cpu", Some(Unit::Seconds)), "Processor time in user and kernel mode", |of| {
                Some(Value::Seconds(of.details.as_ref()?.cpu))
            }),
            (gauge("worker_threads"), "Threads that can run calls", |of| {
                Some(Value::Gauge(of.details.as_ref()?.threads.total as f64))
            }),
            (gauge("worker_busy_threads"), "Threads that run calls", |of| {
                Some(Value::Gauge(of.details.as_ref()?.threads.busy as f64))
            }),
            (gauge("worker_stuck_threads"), "Threads in calls that exceeded wsgi_request_timeout", |of| {
                Some(Value::Gauge(of.details.as_ref()?.threads.stuck as f64))
            }),
        ];
        for (descriptor, help, value) in families {
            self.family(descriptor, help, all().filter_map(|of| Some((labels(of), value(of.0)?))))?;
        }
        let responding = all().map(|of| {
            let responds = of.0.details.is_some();
            (labels(of), Value::Gauge(f64::from(u8::from(responds))))
        });
        self.family(gauge("worker_responding"), "1 if the worker has said in time what it does", responding)?;
        let states = all().filter(|(worker, _)| worker.details.is_some()).flat_map(|of| {
            let state = of.0.details.as_ref().map(|details| details.state);
            let states = [
                ("starting", WorkerState::Starting),
                ("running", WorkerState::Running),
                ("draining", WorkerState::Draining),
            ];
            states.map(|(name, known)| {
                let is_state = if state == Some(known) { 1.0 } else { 0.0 };
                (labels(of).and("state", name), Value::Gauge(is_state))
            })
        });
        self.family(gauge("worker_state"), "1 for the state of the worker, 0 for the others", states)?;
        let interpreters = all().flat_map(|of| {
            let interpreters = of.0.details.iter().flat_map(|details| &details.interpreters);
            let count = |gil: &str| {
                let copies = interpreters.clone().filter(|known| known.gil == gil).map(|known| known.copies);
                // A process group can claim any number.
                copies.fold(0, u64::saturating_add)
            };
            let kinds = if of.0.details.is_some() { &["shared", "own"][..] } else { &[] };
            let metrics: Vec<_> =
                kinds.iter().map(|gil| (labels(of).and("gil", gil), Value::Gauge(count(gil) as f64))).collect();
            metrics
        });
        self.family(gauge("worker_interpreters"), "Interpreters of the worker, by their GIL", interpreters)
    }

    fn of_process_groups(&mut self, report: &Report) -> fmt::Result {
        let all = || report.process_groups.iter().map(|group| (Labels::of_group(Some(&group.name)), group));
        let up = all().map(|(labels, group)| {
            let is_up = matches!(group.state.as_str(), "running" | "idle");
            (labels, Value::Gauge(f64::from(u8::from(is_up))))
        });
        let up_family = ("process_group_up", None, MetricType::Gauge);
        self.family(up_family, "1 if the process group runs, or starts with the next request", up)?;
        // A counter that began at 0 again would count what has been before as new.
        let known = || all().filter(|(_, group)| group.state != NO_ANSWER);
        let workers = known().map(|(labels, group)| (labels, Value::Gauge(group.workers as f64)));
        self.family(("process_group_workers", None, MetricType::Gauge), "Workers of the process group", workers)?;
        let restarts = known().map(|(labels, group)| (labels, Value::Counter(group.restarts)));
        self.family(
            ("process_group_restarts", None, MetricType::Counter),
            "Starts of an instance after one had ended by itself",
            restarts,
        )
    }
}

fn by_class(responses: &Responses) -> [(&'static str, u64); 5] {
    let Responses { informational, successful, redirection, client_error, server_error } = *responses;
    [("1xx", informational), ("2xx", successful), ("3xx", redirection), ("4xx", client_error), ("5xx", server_error)]
}

#[cfg(test)]
mod tests {
    use super::super::report::{Bucket, Counters, ProcessGroup, Versions, WorkerDetails};
    use super::*;

    fn report() -> Arc<Report> {
        let queue_time =
            Histogram { count: 4, sum: 3.5, buckets: vec![Bucket { le: 0.1, count: 1 }, Bucket { le: 1.0, count: 3 }] };
        let counters = Counters { calls: 4, bytes_sent: 70, queue_time, ..Counters::default() };
        let application = Application {
            name: "/srv/\"a\"\\.py".to_owned(),
            running: 2,
            counters,
            exceptions: [("ValueError".to_owned(), 3)].into(),
            ..Application::default()
        };
        let worker = Worker { pid: 77, number: 1, details: Some(WorkerDetails::default()), ..Worker::default() };
        let group =
            ProcessGroup { name: "shop".to_owned(), state: "idle".to_owned(), restarts: 2, ..ProcessGroup::default() };
        Arc::new(Report {
            versions: Versions { module: "1".to_owned(), nginx: "2".to_owned(), python: "3".to_owned() },
            applications: vec![application],
            workers: vec![worker],
            process_groups: vec![group],
            ..Report::default()
        })
    }

    #[test]
    fn openmetrics_names_types_and_units() {
        let text = String::from_utf8(openmetrics(&report())).unwrap();
        for line in [
            "# TYPE wsgi_build info",
            "wsgi_build_info{version=\"1\",nginx=\"2\",python=\"3\"} 1",
            "# TYPE wsgi_calls counter",
            "wsgi_calls_total{application=\"/srv/\\\"a\\\"\\\\.py\",process_group=\"\"} 4",
            "# TYPE wsgi_sent_bytes counter",
            "# UNIT wsgi_sent_bytes bytes",
            "# TYPE wsgi_queue_time_seconds histogram",
            "wsgi_queue_time_seconds_bucket{le=\"1.0\",application=\"/srv/\\\"a\\\"\\\\.py\",process_group=\"\"} 3",
            "wsgi_queue_time_seconds_bucket{le=\"+Inf\",application=\"/srv/\\\"a\\\"\\\\.py\",process_group=\"\"} 4",
            "wsgi_worker_state{process_group=\"\",worker=\"1\",pid=\"77\",state=\"starting\"} 1.0",
            "wsgi_process_group_restarts_total{process_group=\"shop\"} 2",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\nis not in\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
    }

    #[test]
    fn prometheus_names_counters_with_their_suffix() {
        let text = String::from_utf8(prometheus(&report())).unwrap();
        for line in [
            "# TYPE wsgi_build_info gauge",
            "# TYPE wsgi_calls_total counter",
            "wsgi_exceptions_total{application=\"/srv/\\\"a\\\"\\\\.py\",process_group=\"\",class=\"ValueError\"} 3",
            "# TYPE wsgi_sent_bytes_total counter",
        ] {
            assert!(text.lines().any(|known| known == line), "{line}\nis not in\n{text}");
        }
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"));
    }
}
