//! A real Prometheus that scrapes the status page; the rules, the dashboard and the configuration of `packaging/monitoring/`.

use crate::harness::{GroupNginx, Nginx, Site, curl, free_port, in_repository, wait_for};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const APP: &str = r#"
__version__ = "1.5"

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path.endswith("/fail"):
        raise KeyError("no")
    body = environ["wsgi.input"].read()
    start_response("404 Not Found" if path.endswith("/missing") else "200 OK", [("Content-Type", "text/plain")])
    return [b"x" * 100 + body]
"#;

/// An nginx whose applications at `/` and, in a process group, at `/shop/` have answered requests.
fn start() -> GroupNginx {
    let site = Site::plain()
        .http("wsgi_status_zone status 1m; wsgi_process_group shop chdir=@prefix@;")
        .app(APP)
        .file("shop.py", APP)
        .location("/shop/", "wsgi_pass shop.py process=shop;")
        .location("= /status", "wsgi_status;")
        .errors_expected();
    let nginx = GroupNginx::start(site);
    for _ in 0..5 {
        nginx.get("/").expect(200);
    }
    nginx.post("/", "0123456789").expect(200);
    nginx.get("/missing").expect(404);
    nginx.get("/fail").expect(500);
    for _ in 0..3 {
        nginx.get("/shop/").expect(200);
    }
    nginx.get("/shop/fail").expect(500);
    nginx
}

/// The values that the requests of `start` lead to.
const VALUES: [(&str, f64); 14] = [
    (r#"wsgi_calls_total{process_group=""}"#, 8.0),
    (r#"wsgi_calls_total{process_group="shop"}"#, 4.0),
    (r#"wsgi_responses_total{process_group="",status="2xx"}"#, 6.0),
    (r#"wsgi_responses_total{process_group="",status="3xx"}"#, 0.0),
    (r#"wsgi_responses_total{process_group="",status="4xx"}"#, 1.0),
    (r#"wsgi_responses_total{process_group="shop",status="5xx"}"#, 1.0),
    (r#"wsgi_exceptions_total{process_group="",class="KeyError"}"#, 1.0),
    (r#"wsgi_failed_calls_total{process_group="shop"}"#, 1.0),
    (r#"wsgi_refused_calls_total{process_group="",reason="queue_full"}"#, 0.0),
    (r#"wsgi_received_bytes_total{process_group=""}"#, 10.0),
    (r#"wsgi_total_time_seconds_count{process_group=""}"#, 8.0),
    (r#"wsgi_total_time_seconds_bucket{process_group="",le="+Inf"}"#, 8.0),
    (r#"wsgi_application_info{process_group="shop",version="1.5"}"#, 1.0),
    (r#"wsgi_process_group_up{process_group="shop"}"#, 1.0),
];

fn file(name: &str) -> PathBuf {
    in_repository("packaging/monitoring").join(name)
}

/// A Prometheus with a configuration, on a port and with a directory of its own.
struct Prometheus {
    child: Child,
    url: String,
    directory: TempDir,
}

impl Prometheus {
    /// Starts it with the configuration of `packaging/monitoring/`, for this nginx and with an interval of a second.
    fn start(nginx: &Nginx) -> Prometheus {
        let directory = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(file("prometheus.yml")).unwrap();
        let changed = text
            .replace("127.0.0.1:8080", &nginx.address().to_string())
            .replace("_interval: 15s", "_interval: 1s")
            .replace("- prometheus-rules.yml", &format!("- {}", file("prometheus-rules.yml").display()));
        let configuration = directory.path().join("prometheus.yml");
        fs::write(&configuration, changed).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new("prometheus");
        command
            .arg("--config.file")
            .arg(configuration)
            .arg("--storage.tsdb.path")
            .arg(directory.path().join("data"))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.path().join("log")).unwrap());
        // SAFETY: prctl is async-signal-safe; nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                // Should the tests be killed, it ends too.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let child = command.spawn().expect("run prometheus; it belongs to the tools that `make test` installs");
        Prometheus { child, url: format!("http://{address}"), directory }
    }

    /// Asks its API; `None` as long as it does not answer.
    fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Option<Value> {
        let mut command = Command::new("curl");
        command.args(["-q", "-sS", "--noproxy", "*", "--max-time", "10", "--get"]);
        for (name, value) in parameters {
            command.args(["--data-urlencode", &format!("{name}={value}")]);
        }
        let output = command.arg(format!("{}/api/v1/{path}", self.url)).output().unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Returns the labels and values that an expression has now.
    #[track_caller]
    fn query(&self, expression: &str) -> Vec<Value> {
        let reply = wait_for("prometheus to answer", || self.ask("query", &[("query", expression)]));
        assert_eq!(reply["status"], "success", "{expression}: {reply}");
        let result = &reply["data"]["result"];
        result.as_array().unwrap_or_else(|| panic!("{expression} is no vector: {reply}")).clone()
    }

    /// Returns the sum of the values of an expression.
    fn sum(&self, expression: &str) -> Option<f64> {
        let values = self.query(expression);
        let numbers = values.iter().map(|value| value["value"][1].as_str().unwrap().parse::<f64>().unwrap());
        (!values.is_empty()).then(|| numbers.sum())
    }

    #[track_caller]
    fn wait_value(&self, expression: &str, value: f64) {
        let mut last = None;
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(expression, || {
                last = self.sum(expression);
                (last == Some(value)).then_some(())
            });
        }));
        assert!(found.is_ok(), "{expression} is {last:?}, not {value}; {}", self.log());
    }

    fn log(&self) -> String {
        let targets = self.ask("targets", &[("state", "active")]);
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        format!("targets: {targets:?}\n{log}")
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs promtool, with something on its standard input; fails unless it succeeds.
#[track_caller]
fn promtool(arguments: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(in_repository(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run promtool, of Debian's package prometheus, which `make test` installs");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}:\n{said}");
    said
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(file("grafana-dashboard.json")).unwrap()).unwrap()
}

/// Returns an expression of the dashboard with values for Grafana's variables.
fn without_variables(expression: &str) -> String {
    let mut text = expression.replace("$__rate_interval", "1m");
    for variable in ["$instance", "$application", "$process_group"] {
        text = text.replace(variable, ".*");
    }
    assert!(!text.contains('$'), "{expression} has an unknown variable");
    text
}

/// Returns the expressions of the panels and annotations.
fn dashboard_expressions() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let annotations = dashboard["annotations"]["list"].as_array().unwrap().iter();
    let expressions = targets.chain(annotations).filter_map(|target| target["expr"].as_str());
    let expressions: Vec<String> = expressions.map(without_variables).collect();
    assert!(expressions.len() > 30, "{expressions:?}");
    expressions
}

/// Returns the alerts: names and rules.
fn rules() -> Vec<serde_yaml_ng::Value> {
    let text = fs::read_to_string(file("prometheus-rules.yml")).unwrap();
    let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(&text).unwrap();
    value["groups"][0]["rules"].as_sequence().unwrap().clone()
}

/// Returns the names of metrics in an expression.
fn names_in(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("wsgi_")).map(str::to_owned).collect()
}

#[test]
fn prometheus_scrapes_what_the_requests_lead_to_and_knows_each_metric_of_the_dashboard_and_the_rules() {
    let nginx = start();
    let prometheus = Prometheus::start(&nginx);
    prometheus.wait_value(r#"up{job="wsgi"}"#, 1.0);
    for (expression, value) in VALUES {
        prometheus.wait_value(expression, value);
    }
    // Counters go on after a reload, which ends the workers.
    nginx.reload();
    prometheus.wait_value(r#"wsgi_ended_workers_total{process_group="",reason="reload"}"#, 1.0);
    nginx.get("/").expect(200);
    prometheus.wait_value(r#"wsgi_calls_total{process_group=""}"#, 9.0);

    let expressions = dashboard_expressions();
    let mut names: BTreeSet<String> = expressions.iter().flat_map(|expression| names_in(expression)).collect();
    for rule in rules() {
        names.extend(names_in(rule["expr"].as_str().unwrap()));
    }
    assert!(names.len() > 25, "{names:?}");
    let known = wait_for("the names", || prometheus.ask("label/__name__/values", &[]));
    for name in &names {
        assert!(known["data"].as_array().unwrap().iter().any(|one| one == name.as_str()), "there is no metric {name}");
    }
    for expression in &expressions {
        prometheus.query(expression);
    }
    // The rules are evaluated, and nothing is wrong that needs no time to be seen.
    let groups = wait_for("the rules to be evaluated", || {
        let reply = prometheus.ask("rules", &[])?;
        let rules = reply["data"]["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] == "ok").then_some(rules)
    });
    assert_eq!(groups.len(), rules().len());
    let firing = prometheus.query(r#"ALERTS{alertstate="firing"}"#);
    assert!(firing.is_empty(), "{firing:?}");
}

#[test]
fn promtool_finds_no_fault_in_the_metrics() {
    let nginx = start();
    let response = curl(&[&nginx.url("/status?format=prometheus")]).expect(200);
    assert_eq!(promtool(&["check", "metrics"], &response.body), "");
}

#[test]
fn the_configuration_and_the_rules_are_valid_and_alert_as_they_should() {
    let path = |name: &str| file(name).to_str().unwrap().to_owned();
    promtool(&["check", "config", &path("prometheus.yml")], b"");
    promtool(&["check", "rules", &path("prometheus-rules.yml")], b"");
    promtool(&["test", "rules", "tests/prometheus-rules.yml"], b"");
    let page = fs::read_to_string(in_repository("docs/prometheus.md")).unwrap();
    let tests = fs::read_to_string(in_repository("tests/prometheus-rules.yml")).unwrap();
    for rule in rules() {
        let name = rule["alert"].as_str().unwrap();
        for part in ["for", "expr"] {
            assert!(rule[part].is_string(), "{name} has no {part}");
        }
        assert!(rule["annotations"]["summary"].is_string() && rule["annotations"]["description"].is_string(), "{name}");
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["warning", "critical"].contains(&severity), "{name}");
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap_or_default();
        assert!(row.contains(&format!("| {severity} |")), "docs/prometheus.md: {name}");
        assert!(tests.contains(name), "{name} has no test");
    }
}

#[test]
fn the_expressions_of_the_dashboard_are_valid() {
    let rules: String = dashboard_expressions()
        .iter()
        .enumerate()
        .map(|(number, expression)| {
            format!("      - {{ record: 'dashboard:{number}', expr: {} }}\n", Value::String(expression.clone()))
        })
        .collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dashboard.yml");
    fs::write(&path, format!("groups:\n  - name: dashboard\n    rules:\n{rules}")).unwrap();
    promtool(&["check", "rules", path.to_str().unwrap()], b"");
}

/// Place and size of a panel.
fn area(panel: &Value) -> [u64; 4] {
    ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64().unwrap())
}

#[test]
fn the_dashboard_is_one_that_grafana_imports() {
    let dashboard = dashboard();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 39);
    assert!(dashboard["id"].is_null(), "the id is that of one Grafana");
    assert!(!dashboard["uid"].as_str().unwrap().is_empty() && dashboard["uid"].as_str().unwrap().len() <= 40);
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "instance", "application", "process_group"]);
    for variable in &variables[1..] {
        // An empty process group, that of nginx's own workers, is among all of them.
        assert_eq!(variable["allValue"], ".*");
        assert_eq!(variable["datasource"]["uid"], "${datasource}");
    }
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for (number, panel) in panels.iter().enumerate() {
        let title = panel["title"].as_str().unwrap();
        let [x, y, width, height] = area(panel);
        assert!(x + width <= 24, "{title} is beyond the right edge");
        for other in &panels[..number] {
            let [left, top, other_width, other_height] = area(other);
            let is_apart = x >= left + other_width || left >= x + width || y >= top + other_height || top >= y + height;
            assert!(is_apart, "{title} covers {}", other["title"]);
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(["timeseries", "stat"].contains(&panel["type"].as_str().unwrap()), "{title}");
        assert!(panel["description"].is_string() && panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title}");
        let targets = panel["targets"].as_array().unwrap();
        let references: BTreeSet<&str> = targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
        assert_eq!(references.len(), targets.len(), "{title}");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}
