//! `wsgi_status` and process groups of other users, one of which tells lies.

use crate::harness::{Nginx, Process, Site, two_users, wait_for};
use serde_json::Value;

/// Changes what the front can learn of its own group, as only its user can.
const LIAR: &str = r#"
import os, random, re, socket, struct, threading, time

def board():
    for line in open("/proc/self/maps"):
        if "memfd:wsgi status" in line:
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            return begin, end - begin
    raise RuntimeError("no board")

def write(offset, data):
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(board()[0] + offset)
        memory.write(data)

def read():
    begin, size = board()
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        memory.seek(begin)
        return memory.read(size)

original = None

def fill(make):
    global original
    original = original or read()
    write(0, make(len(original)))

def answer(make):
    """Has another socket of this process answer the front in place of the reporter."""
    data = read()
    tokens = [bytes.fromhex(name)[::-1] for name in re.findall("@ngx-wsgi-status-([0-9a-f]{16})", open("/proc/net/unix").read())]
    offset = next(data.index(token) for token in tokens if token in data)
    other = random.randbytes(8)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0ngx-wsgi-status-" + other[::-1].hex())
    listener.listen()
    write(offset, other)

    def serve():
        while True:
            client, _ = listener.accept()
            threading.Thread(target=lie, args=(client,), daemon=True).start()

    def lie(client):
        client.recv(100)
        try:
            for part in make():
                client.sendall(part)
        except OSError:
            pass
        client.close()

    threading.Thread(target=serve, daemon=True).start()

def forever(part):
    while True:
        yield part

def silence():
    yield b"{"
    time.sleep(3600)

def trickle():
    while True:
        yield b" "
        time.sleep(0.01)

CALL = b'{"id":"1.1","application":"<script>","process_group":"other","pid":1,"state":"running","method":"GET","path":"/",' \
    b'"client":"","time":1e300,"running_time":null,"thread":null,"timed_out":false}'
DETAILS = b'{"state":"running","memory":18446744073709551615,"cpu":-1e308,"threads":{"total":1,"busy":18446744073709551615,"stuck":0},' \
    b'"interpreters":[%s],"applications":[],"calls":[%s]}'
INTERPRETER = b'{"name":"<b>","gil":"own","copies":18446744073709551615,"threads":{"total":1,"busy":1,"stuck":1},"queued":0}'

LIES = {
    "random": lambda: fill(lambda size: random.randbytes(size)),
    "ones": lambda: fill(lambda size: b"\xff" * size),
    "zeros": lambda: fill(lambda size: b"\0" * size),
    "magic": lambda: fill(lambda size: original[:128] + random.randbytes(size - 128)),
    "ones after magic": lambda: fill(lambda size: original[:128] + b"\xff" * (size - 128)),
    "restored": lambda: fill(lambda size: original),
    "silence": lambda: answer(silence),
    "trickle": lambda: answer(trickle),
    "endless": lambda: answer(lambda: forever(b"x" * 65536)),
    "no json": lambda: answer(lambda: [b"\xff\x00"]),
    "deep json": lambda: answer(lambda: [b"[" * 1000000]),
    "calls of others": lambda: answer(lambda: [DETAILS % (b",".join([INTERPRETER] * 9), b",".join([CALL] * 1000))]),
}

def many_calls():
    call = CALL.replace(b'"1.1"', b'"%d.1"' % os.getpid())
    yield DETAILS % (INTERPRETER, b",".join([call] * 1500))

LIES["many calls"] = lambda: answer(many_calls)

def application(environ, start_response):
    lie = environ["PATH_INFO"].rpartition("/")[2].replace("_", " ")
    if lie == "wait":
        with open("@prefix@/events", "a") as events:
            events.write("begun\n")
        while not os.path.exists("@prefix@/release"):
            time.sleep(0.005)
    elif lie.isdigit():
        # A worker of another group as its own.
        data = read()
        write(data.index(struct.pack("=Q", os.getpid())), struct.pack("=Q", int(lie)))
    elif lie:
        LIES[lie]()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"fine"]
"#;

const FINE: &str = "
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'fine']
";

/// Calls of `/honest/wait` wait until the file `release` exists.
const HONEST: &str = r#"
import os, time

def application(environ, start_response):
    while environ["PATH_INFO"].endswith("/wait") and not os.path.exists("@prefix@/release"):
        time.sleep(0.005)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"fine"]
"#;

fn start() -> Option<Nginx> {
    let [one, other] = two_users()?;
    let site = Site::plain()
        .user("nobody nogroup")
        .errors_expected()
        .http("wsgi_status_zone wsgi 64k;")
        .http(&format!("wsgi_process_group liar chdir=@prefix@ user={};", one.name))
        .http(&format!("wsgi_process_group honest chdir=@prefix@ user={};", other.name))
        .location("= /status", "wsgi_status;")
        .app(FINE)
        .file("liar.py", LIAR)
        .file("honest.py", HONEST)
        .location("/liar/", "wsgi_pass liar.py process=liar;")
        .location("/honest/", "wsgi_pass honest.py process=honest;");
    std::fs::write(site.prefix().join("events"), "").unwrap();
    crate::harness::open_to_all(&site.prefix().join("events"));
    let nginx = site.start();
    for path in ["/", "/liar/", "/honest/"] {
        nginx.get(path).expect(200);
    }
    Some(nginx)
}

#[track_caller]
fn report(nginx: &Nginx) -> Value {
    nginx.get("/status?format=json").expect(200).json()
}

fn worker<'a>(report: &'a Value, group: Option<&str>) -> Option<&'a Value> {
    report["workers"].as_array().unwrap().iter().find(|worker| worker["process_group"].as_str() == group)
}

#[test]
fn workers_of_other_users_say_what_they_do() {
    let Some(nginx) = start() else { return };
    let mut call = nginx.connect();
    call.send("GET /liar/wait HTTP/1.1\r\nHost: x\r\n\r\n");
    nginx.wait_events(&["begun"]);
    let report = report(&nginx);
    for group in [None, Some("liar"), Some("honest")] {
        let worker = worker(&report, group).unwrap_or_else(|| panic!("{report:#}"));
        assert!(worker["details"]["memory"].as_u64() > Some(0), "{report:#}");
    }
    let id = report["calls"][0]["id"].as_str().unwrap_or_else(|| panic!("{report:#}"));
    let stack = nginx.get(&format!("/status?stack={id}")).expect(200).json();
    assert!(stack["stack"].as_str().unwrap_or_default().contains("in application"), "{stack}");
    nginx.write("release", "");
    assert_eq!(call.response().status, 200);
}

#[test]
fn groups_without_a_supervisor_are_down() {
    let Some(mut nginx) = start() else { return };
    let up = |value: u8| {
        let metrics = nginx.get("/status?format=prometheus").expect(200).text();
        metrics.contains(&format!("\nwsgi_process_group_up{{process_group=\"honest\"}} {value}"))
    };
    let restarts =
        || nginx.get("/status?format=prometheus").expect(200).text().contains("\nwsgi_process_group_restarts");
    assert!(up(1) && restarts());
    let supervisor = nginx.group("honest").supervisor();
    supervisor.signal(libc::SIGKILL);
    let state = || report(&nginx)["process_groups"][1]["state"].as_str().map(str::to_owned);
    wait_for("the end of the supervisor", || (state().as_deref() == Some("no answer")).then_some(()));
    assert_eq!(report(&nginx)["process_groups"][0]["name"], "liar");
    assert!(up(0) && !restarts());
    nginx.reload();
    wait_for("the groups", || {
        let metrics = nginx.get("/status?format=prometheus").expect(200).text();
        metrics.contains("\nwsgi_process_group_up{process_group=\"honest\"} 1").then_some(())
    });
    nginx.wait_expected_error(&format!("unknown process {} exited on signal 9", supervisor.0));
    nginx.wait_expected_error("supervisor of the process groups has ended, starting another");
}

#[test]
fn a_group_that_lies_does_no_harm_to_the_others() {
    let Some(nginx) = start() else { return };
    let workers = nginx.workers();
    let supervisor = nginx.group("honest").supervisor();
    for lie in [
        "random",
        "random",
        "ones",
        "zeros",
        "magic",
        "ones after magic",
        "restored",
        "silence",
        "trickle",
        "endless",
        "no json",
        "deep json",
        "calls of others",
    ] {
        nginx.get(&format!("/liar/{}", lie.replace(' ', "_"))).expect(200);
        let report = report(&nginx);
        for format in ["prometheus", "html"] {
            nginx.get(&format!("/status?format={format}")).expect(200);
        }
        for group in [None, Some("honest")] {
            assert!(worker(&report, group).is_some_and(|worker| worker["details"].is_object()), "{lie}: {report:#}");
            let applications = report["applications"].as_array().unwrap().iter();
            let mut applications = applications.filter(|one| one["process_group"].as_str() == group);
            assert_eq!(applications.next().map(|one| &one["counters"]["calls"]), Some(&1.into()), "{lie}: {report:#}");
        }
        // Its own call may not have ended yet.
        let calls = report["calls"].as_array().unwrap();
        assert!(calls.iter().all(|call| call["path"].as_str().unwrap().starts_with("/liar/")), "{lie}: {calls:?}");
        if lie == "silence" || lie == "endless" {
            assert_eq!(worker(&report, Some("liar")).unwrap()["details"], Value::Null, "{lie}");
        }
    }
    assert_eq!(nginx.workers(), workers);
    assert!(Process(supervisor.0).is_alive());
    wait_for("the group", || (nginx.get("/liar/").status == 200).then_some(()));
}

#[test]
fn a_group_that_lies_does_not_hide_the_calls_of_others() {
    let Some(nginx) = start() else { return };
    let mut call = nginx.connect();
    call.send("GET /honest/wait HTTP/1.1\r\nHost: x\r\n\r\n");
    let honest = || {
        let report = report(&nginx);
        let mut calls = report["calls"].as_array().unwrap().iter();
        calls.find(|call| call["process_group"] == "honest").cloned()
    };
    let id = wait_for("the call", honest)["id"].as_str().unwrap().to_owned();
    nginx.get("/liar/many_calls").expect(200);
    assert!(report(&nginx)["calls"].as_array().unwrap().len() >= 1000);
    assert_eq!(honest().unwrap()["id"], *id);
    // It claims the worker of the other group.
    let pid = id.split('.').next().unwrap();
    nginx.get(&format!("/liar/{pid}")).expect(200);
    let stack = nginx.get(&format!("/status?stack={id}")).expect(200).json();
    assert!(stack["stack"].as_str().unwrap_or_default().contains("honest.py"), "{stack}");
    nginx.write("release", "");
    assert_eq!(call.response().status, 200);
}
