//! docs/kubernetes.md: the manifest is consistent, and a rolling update of two pods loses no request. Two containers without
//! a container engine are the pods, and clients that are told too late of a change are the service.

use crate::containers::{ask_slow, let_go, wheel};
use crate::harness::{Container, Load, Page, in_repository, wait_for};
use serde_yaml_ng::Value;
use std::fs;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The time after which the clients connect to the other pod, although the old one was deleted before.
const LAG: Duration = Duration::from_millis(1000);

/// preStop; shorter than in the manifest.
const SLEEP: Duration = Duration::from_millis(2000);

fn manifest() -> (String, Value, Value) {
    let text = fs::read_to_string(in_repository("packaging/kubernetes/deployment.yaml")).unwrap();
    let mut documents = text.split("\n---\n").map(|text| serde_yaml_ng::from_str(text).unwrap());
    let (deployment, service) = (documents.next().unwrap(), documents.next().unwrap());
    assert!(documents.next().is_none());
    (text, deployment, service)
}

#[test]
fn the_manifest_fits_the_image() {
    let (_, deployment, service) = manifest();
    let template = &deployment["spec"]["template"];
    let pod = &template["spec"];
    let container = &pod["containers"][0];
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]);
    assert_eq!(service["spec"]["selector"], template["metadata"]["labels"]);
    assert_eq!(service["spec"]["ports"][0]["targetPort"], container["ports"][0]["name"]);

    let image = fs::read_to_string(in_repository("packaging/containers/wheel/Containerfile")).unwrap();
    let port = container["ports"][0]["containerPort"].as_u64().unwrap();
    assert!(image.contains(&format!("\nEXPOSE {port}\n")));
    assert!(image.contains("\nUSER 10001:10001\n"), "runAsNonRoot needs a number");
    for probe in ["startupProbe", "readinessProbe"] {
        let probe = &container[probe]["httpGet"];
        assert_eq!(probe["port"], container["ports"][0]["name"]);
        let location = format!("location = {} {{ wsgi_status ready;", probe["path"].as_str().unwrap());
        assert!(image.contains(&location), "the image has no {location}");
    }

    let command = &container["lifecycle"]["preStop"]["exec"]["command"];
    assert_eq!(command[0], "sleep");
    let sleep: u64 = command[1].as_str().unwrap().parse().unwrap();
    let graceful = 30;
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() > sleep + graceful + 1);
    assert_eq!(container["volumeMounts"][0]["name"], pod["volumes"][0]["name"]);
    assert_eq!(container["volumeMounts"][0]["mountPath"], "/tmp");
}

#[test]
fn the_page_shows_the_manifest() {
    let (text, ..) = manifest();
    let blocks = Page::read("docs/kubernetes.md").blocks();
    assert!(blocks.iter().any(|block| block.language == "yaml" && block.text == text));
}

/// Connections of clients to one of two pods.
struct Service {
    clients: Vec<Load>,
    use_new: Arc<Mutex<bool>>,
}

impl Service {
    /// Two clients with kept connections, and two with a connection for each request.
    fn start(old: &Container, new: &Container) -> Service {
        let use_new = Arc::new(Mutex::new(false));
        let clients = [true, false].map(|keep| {
            let (old, new, use_new) = (old.connector(), new.connector(), use_new.clone());
            let connect = move || if *use_new.lock().unwrap() { new() } else { old() };
            Load::over(connect, "/health", 2, keep)
        });
        Service { clients: clients.into(), use_new }
    }

    /// Lets each new connection be one to the new pod.
    fn switch(&self) {
        *self.use_new.lock().unwrap() = true;
    }

    /// Returns the number of responses, and the failures.
    fn stop(self) -> (usize, Vec<String>) {
        let stats: Vec<_> = self.clients.into_iter().map(Load::stop).collect();
        (stats.iter().map(|stats| stats.good).sum(), stats.into_iter().flat_map(|stats| stats.bad).collect())
    }
}

#[test]
fn a_rolling_update_loses_no_request() {
    let Some(image) = wheel() else { return };
    let mut old = Container::start(&image, &[]);
    let new = Container::start(&image, &[]);
    // Its readiness probe.
    wait_for("a pod that is ready", || (new.get("/ready").status == 200).then_some(()));
    let service = Service::start(&old, &new);
    let mut slow = ask_slow(&old);

    // The old pod is deleted: its endpoint is removed, which the clients learn late, and preStop begins.
    thread::sleep(LAG);
    service.switch();
    thread::sleep(SLEEP - LAG);
    old.stop();
    wait_for("the old pod to accept no more connections", || old.connect().is_err().then_some(()));
    let_go(&old);
    assert_eq!(slow.response().expect(200).text(), "done");
    assert_eq!(old.wait().code(), Some(0));
    // The clients go on with the new pod.
    thread::sleep(LAG);
    let (good, bad) = service.stop();
    eprintln!("{good} requests, none lost");
    assert!(bad.is_empty(), "{good} good, lost: {bad:?}");
    assert!(good > 100, "{good} requests");
}

#[test]
fn without_pre_stop_requests_are_refused() {
    let Some(image) = wheel() else { return };
    let mut old = Container::start(&image, &[]);
    let new = Container::start(&image, &[]);
    let service = Service::start(&old, &new);
    thread::sleep(LAG);
    old.stop();
    assert_eq!(old.wait().code(), Some(0));
    thread::sleep(LAG);
    service.switch();
    thread::sleep(LAG);
    let (_, bad) = service.stop();
    assert!(bad.iter().any(|failure| failure.starts_with("connect: Connection refused")), "{bad:?}");
}
