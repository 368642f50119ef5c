//! The metrics of `wsgi_status`, and its JSON: what docs/status.md says of a server on which everything has happened.

use crate::harness::{Engine, GroupNginx, Nginx, Site, in_repository, wait_for};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

const APP: &str = r#"
import os, time

__version__ = "1.7"

def application(environ, start_response):
    path = environ["PATH_INFO"]
    environ["wsgi.input"].read()
    if path.endswith("/fail"):
        raise ValueError("as told")
    if path.endswith("/wait"):
        with open("@prefix@/events", "a") as events:
            events.write("begun\n")
        while not os.path.exists("@prefix@/release"):
            time.sleep(0.005)
    start_response(environ.get("HTTP_X_STATUS", "200 OK"), [("Content-Type", "text/plain")])
    return [b"fine"]
"#;

/// What a server says of itself on which everything has happened.
struct Said {
    report: Value,
    openmetrics: String,
    prometheus: String,
}

/// Asked once, for all tests.
fn said() -> &'static Said {
    static SAID: OnceLock<Said> = OnceLock::new();
    SAID.get_or_init(|| {
        let site = Site::new(Engine::Threads)
            .errors_expected()
            .http("wsgi_status_zone wsgi 256k; wsgi_process_group blog chdir=@prefix@;")
            .location("= /status", "wsgi_status;")
            .app(APP)
            .file("broken.py", "raise RuntimeError('no code')\n")
            .location("/broken", "wsgi_pass broken.py;")
            .location("/blog", "wsgi_pass app.py process=blog;");
        let nginx = GroupNginx::start(site);
        nginx.get("/").expect(200);
        nginx.reload();
        nginx.get("/broken").expect(500);
        nginx.get("/fail").expect(500);
        for (status, number) in [("302 Found", 302), ("404 Not Found", 404), ("503 Service Unavailable", 503)] {
            nginx.request("GET", "/", &[("X-Status", status)], b"").expect(number);
        }
        nginx.post("/", "12345").expect(200);
        nginx.get("/blog/fail").expect(500);
        let mut calls = [nginx.connect(), nginx.connect()];
        for (call, path) in calls.iter_mut().zip(["/wait", "/blog/wait"]) {
            call.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        }
        nginx.wait_events(&["begun", "begun"]);
        let report = wait_for("the end of the old worker", || {
            let report = nginx.get("/status?format=json").expect(200).json();
            (report["workers"].as_array().unwrap().len() == 2).then_some(report)
        });
        let openmetrics = metrics(&nginx, "application/openmetrics-text; version=1.0.0");
        let prometheus = metrics(&nginx, "text/plain");
        nginx.write("release", "");
        for call in &mut calls {
            assert_eq!(call.response().status, 200);
        }
        Said { report, openmetrics, prometheus }
    })
}

fn metrics(nginx: &Nginx, accept: &str) -> String {
    nginx.request("GET", "/status?format=prometheus", &[("Accept", accept)], b"").expect(200).text()
}

/// Rows of the first table of a section, without its head: the cells.
fn table(section: &str) -> Vec<Vec<String>> {
    let page = std::fs::read_to_string(in_repository("docs/status.md")).unwrap();
    let (_, rest) = page.split_once(&format!("# {section}\n")).unwrap_or_else(|| panic!("no section {section}"));
    let rest = rest.split("\n#").next().unwrap();
    let rows = rest.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// Compares an object with the section about it, and the objects in it with theirs. Notes the sections in `seen`.
fn compare(object: &Map<String, Value>, section: &str, seen: &mut BTreeMap<String, BTreeSet<String>>) {
    let rows = table(section);
    let documented: Vec<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    let fields: Vec<&str> = object.keys().map(String::as_str).collect();
    assert_eq!(sorted(fields), sorted(documented), "{section}");
    for row in &rows {
        let (field, kind) = (row[0].trim_matches('`'), row[1].as_str());
        let value = &object[field];
        let place = format!("{section}.{field}: {kind}, {value}");
        let kind = match kind.strip_suffix(" or null") {
            Some(_) if value.is_null() => continue,
            Some(kind) => kind,
            None => kind,
        };
        seen.entry(section.to_owned()).or_default().insert(field.to_owned());
        let linked = |kind: &str| kind.split_once('[').map(|(_, rest)| rest.split_once(']').unwrap().0.to_owned());
        match (kind, linked(kind)) {
            ("string", _) => assert!(value.is_string(), "{place}"),
            ("integer", _) => assert!(value.is_u64(), "{place}"),
            ("number", _) => assert!(value.is_f64(), "{place}"),
            ("boolean", _) => assert!(value.is_boolean(), "{place}"),
            ("integers by class" | "integers by reason", _) => {
                assert!(value.as_object().expect(&place).values().all(Value::is_u64), "{place}");
            }
            (_, Some(section)) if kind.starts_with("list of ") => {
                for entry in value.as_array().expect(&place) {
                    compare(entry.as_object().expect(&place), &section, seen);
                }
            }
            (_, Some(section)) => compare(value.as_object().expect(&place), &section, seen),
            _ => panic!("unknown type: {place}"),
        }
    }
}

fn sorted(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names
}

#[test]
fn the_page_describes_each_field_of_a_report() {
    let mut seen = BTreeMap::new();
    compare(said().report.as_object().unwrap(), "report", &mut seen);
    // Nothing is left that the server never had.
    let page = std::fs::read_to_string(in_repository("docs/status.md")).unwrap();
    for section in page.split("\n### ").skip(1) {
        let section = section.lines().next().unwrap();
        let fields: BTreeSet<String> = table(section).iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
        assert_eq!(seen.get(section), Some(&fields), "{section}");
    }
}

#[test]
fn figures_are_those_of_the_calls_in_all_formats() {
    let Said { report, openmetrics, prometheus } = said();
    let applications = report["applications"].as_array().unwrap();
    let application = applications.iter().find(|one| one["name"].as_str().unwrap().ends_with("/app.py")).unwrap();
    let counters = &application["counters"];
    let name = application["name"].as_str().unwrap();
    let labels = format!("application=\"{name}\",process_group=\"\"");
    // The call that waits is not among them.
    for (value, expected, sample) in [
        (&counters["calls"], 6, format!("wsgi_calls_total{{{labels}}}")),
        (&counters["responses"]["2xx"], 2, format!("wsgi_responses_total{{{labels},status=\"2xx\"}}")),
        (&counters["responses"]["3xx"], 1, format!("wsgi_responses_total{{{labels},status=\"3xx\"}}")),
        (&counters["responses"]["4xx"], 1, format!("wsgi_responses_total{{{labels},status=\"4xx\"}}")),
        (&counters["responses"]["5xx"], 2, format!("wsgi_responses_total{{{labels},status=\"5xx\"}}")),
        (&counters["exceptions"], 1, format!("wsgi_failed_calls_total{{{labels}}}")),
        (
            &application["exceptions"]["ValueError"],
            1,
            format!("wsgi_exceptions_total{{{labels},class=\"ValueError\"}}"),
        ),
        (&counters["bytes_received"], 5, format!("wsgi_received_bytes_total{{{labels}}}")),
        (&counters["queue_time"]["count"], 6, format!("wsgi_queue_time_seconds_count{{{labels}}}")),
        (&application["running"], 1, format!("wsgi_calls_running{{{labels}}}")),
    ] {
        assert_eq!(*value, expected, "{sample}");
        for text in [openmetrics, prometheus] {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{sample} ")));
            assert_eq!(line.map(|value| value.parse()), Some(Ok(f64::from(expected))), "{sample}\n{text}");
        }
    }
}

/// Names, types and labels of metrics: of a text in the format of OpenMetrics.
fn families(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families = BTreeMap::new();
    let mut current = (String::new(), String::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            current = (format!("{name}{suffix}"), kind.to_owned());
        }
        if line.starts_with('#') {
            continue;
        }
        assert!(line.starts_with(&current.0), "{line} is not of {current:?}");
        let labels = line.split_once('{').map(|(_, rest)| rest.rsplit_once('}').unwrap().0).unwrap_or_default();
        // No value of these metrics has a quote and a comma.
        let names = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
        let names: BTreeSet<String> = names.filter(|name| name != "le").collect();
        families.insert(current.0.clone(), (current.1.clone(), names));
    }
    families
}

#[test]
fn the_page_describes_each_metric() {
    let said = families(&said().openmetrics);
    let rows = table("Metrics");
    let documented = rows.iter().map(|row| {
        let [name, kind, labels, _] = &row[..] else { panic!("{row:?}") };
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        (name.trim_matches('`').to_owned(), (kind.clone(), labels.filter(|label| !label.is_empty()).collect()))
    });
    assert_eq!(documented.collect::<BTreeMap<_, _>>(), said);
}

#[test]
fn openmetrics_ends_with_its_mark_and_prometheus_accepts_the_other_format() {
    let Said { openmetrics, prometheus, .. } = said();
    assert!(openmetrics.ends_with("\n# EOF\n") && openmetrics.contains("# UNIT wsgi_sent_bytes bytes\n"));
    let command =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = command else { return eprintln!("skipped: this needs promtool") };
    promtool.stdin.take().unwrap().write_all(prometheus.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
}
