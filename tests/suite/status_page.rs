//! The status page in a browser. Starting one takes seconds, so all checks share it.

use crate::harness::{Browser, Nginx, Site, wait_for};
use serde_json::{Value, json};

#[allow(dead_code)]
#[path = "../../src/status/report.rs"]
mod report;

const TAB: &str = "\u{E004}";
const ENTER: &str = "\u{E007}";

/// Narrow as a telephone, and wide enough for all columns.
const NARROW: u32 = 360;
const WIDE: u32 = 1440;

/// All that an application and its clients can put into a report is markup here.
const MARKUP: &str = r#"
import os, threading, time

__version__ = "<iframe src=javascript:alert('version')>"

def wait_for_the_test():
    open("@prefix@/begun", "w").close()
    while not os.path.exists("@prefix@/go"):
        time.sleep(0.01)

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/raise"):
        raise type("<script>alert('class')</script>", (Exception,), {})("<img src=x onerror=alert('message')>")
    if path.startswith("/wait"):
        threading.current_thread().name = "<b onclick=alert('thread')>"
        wait_for_the_test()
    start_response("200 OK", [])
    return [b"complete"]
"#;

const FILE: &str = "<img src=x onerror=alert('file')>.py";
const WAIT: &str = "/wait/<svg/onload=alert('path')>";

/// Functions of the checks.
const FUNCTIONS: &str = include_str!("status_page.js");

#[test]
fn the_status_page_works_in_a_browser() {
    let site = Site::plain()
        .http("wsgi_threads 4; wsgi_status_zone status 1m; wsgi_script_reloading on;")
        .location("= /status", "wsgi_status;")
        .file(FILE, MARKUP)
        .location("/", &format!("wsgi_pass \"{FILE}\";"))
        .errors_expected();
    let mut nginx = site.start();
    // It ends before nginx, which would wait for its connections.
    let Some(browser) = Browser::start() else { return };
    browser.run_in_pages(FUNCTIONS);
    browser.emulate(WIDE, "light");
    browser.open(&nginx.url("/status"));
    browser.wait("document.getElementById('state').textContent === 'Live'");
    assert_eq!(browser.run("return document.querySelector('main').checkVisibility()"), true);

    counts_rise_and_charts_draw(&browser, &nginx);
    a_call_shows_its_stack_by_keyboard(&browser, &nginx);
    errors_are_shown(&browser, &nginx);
    for color_scheme in ["light", "dark"] {
        for width in [WIDE, NARROW] {
            browser.emulate(width, color_scheme);
            is_accessible(&browser);
        }
        text_has_contrast(&browser, color_scheme);
    }
    a_telephone_needs_no_sideways_scrolling(&browser);
    nothing_is_injected(&browser);
    assert_eq!(browser.console(), [""; 0]);
    a_restart_is_shown(&browser, &mut nginx);
    figures_are_right(&browser, &nginx.url("/status"));
}

fn counts_rise_and_charts_draw(browser: &Browser, nginx: &Nginx) {
    let before = browser.run("return [number('Traffic', 0, 'Calls'), path('s2xx'), path('busy')]");
    for _ in 0..20 {
        nginx.get("/").expect(200);
    }
    let calls = before[0].as_u64().expect("calls") + 20;
    browser.wait(&format!("number('Traffic', 0, 'Calls') === {calls} && number('Traffic', 0, '2xx') === {calls}"));
    browser.wait("tile('p95').textContent.includes('s') && number('Traffic', 0, 'Req/s') > 0");
    browser.wait(&format!("path('s2xx') !== {} && path('busy') !== {}", before[1], before[2]));
    browser.wait("document.querySelector('figure path.s2xx').getBBox().height > 0");
    browser.wait(
        "[...document.querySelectorAll('figure svg[role=img]')].every((item) => /Now: .*\\d/.test(item.ariaLabel))",
    );
    browser.wait("tile('Threads busy').textContent === '0 of 4'");
}

/// The focus and the stack stay while the page shows new reports, and after the call has ended.
fn a_call_shows_its_stack_by_keyboard(browser: &Browser, nginx: &Nginx) {
    let mut call = nginx.connect();
    call.send(format!("GET {WAIT} HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    wait_for("the call", || nginx.prefix().join("begun").exists().then_some(()));
    browser.wait("button() !== null && cell(button().closest('tr'), 'State').textContent === 'running'");
    assert!(browser.run("return button().ariaLabel").as_str().unwrap().ends_with(WAIT));
    let has_focus = |_| {
        browser.press(TAB);
        browser.run("return document.activeElement === button()") == true
    };
    assert!((0..30).any(has_focus), "the tabulator does not lead to the button");
    browser.press(ENTER);
    browser.wait("stack().includes('in wait_for_the_test')");
    browser.wait(&format!("stack().includes({})", json!(FILE)));
    assert_eq!(browser.run("return button().ariaExpanded"), "true");
    let time = browser.run("return cell(button().closest('tr'), 'Time').textContent");
    browser.wait(&format!("cell(button().closest('tr'), 'Time').textContent !== {time}"));
    browser.wait("tile('Threads busy').textContent === '1 of 4'");
    nginx.write("go", "");
    assert_eq!(call.response().status, 200);
    browser.wait("cell(button().closest('tr'), 'State').textContent === 'ended'");
    assert_eq!(
        browser.run("return document.activeElement === button() && stack().includes('wait_for_the_test')"),
        true
    );
    browser.press(ENTER);
    browser.run("document.activeElement.blur()");
    browser.wait("button() === null");
}

/// An exception and a failed load have their tracebacks, which stay open.
fn errors_are_shown(browser: &Browser, nginx: &Nginx) {
    nginx.get("/raise").expect(500);
    browser.wait("texts('Errors')[0].join().includes('Exception')");
    browser.run("document.querySelector('#events summary').click()");
    nginx.write(FILE, "raise RuntimeError('<script>alert(\"load\")</script>')\n");
    nginx.get("/").expect(200);
    browser.wait("texts('Errors').some((row) => row.join().includes('Load failed'))");
    browser.wait("cell(rows('Code')[0], 'Failed load').textContent.includes('RuntimeError')");
    let open = "return [...document.querySelectorAll('#events details[open] pre')].map((item) => item.innerText)";
    let open = browser.run(open);
    assert!(open[0].as_str().is_some_and(|text| text.contains("in application")), "{open}");
    assert_eq!(browser.run("return number('Traffic', 0, 'Exceptions')"), 1);
    browser.run("for (const item of document.querySelectorAll('details')) item.open = true");
}

/// What a checker of accessibility looks at first.
fn is_accessible(browser: &Browser) {
    let faults = browser.run("return accessibilityFaults()");
    assert_eq!(faults, json!([]));
    // Tables are tables for screen readers too, also where they look otherwise.
    let tree = browser.devtools("Accessibility.getFullAXTree", json!({}));
    let nodes = tree["nodes"].as_array().expect("nodes");
    let count = |role: &str| nodes.iter().filter(|node| node["role"]["value"] == role).count();
    let tables = browser.run("return document.querySelectorAll('table:not([hidden])').length");
    assert_eq!(json!(count("table")), tables);
    assert!(count("columnheader") > 20 && count("rowheader") > 3 && count("cell") > 30, "roles of cells");
    let unnamed = |node: &&Value| node["role"]["value"] == "button" && node["name"]["value"] == "";
    assert_eq!(nodes.iter().find(unnamed), None);
}

/// Text has the contrast that WCAG 2 asks for (level AA, 1.4.3).
fn text_has_contrast(browser: &Browser, color_scheme: &str) {
    let found = browser.run("return contrast()");
    assert_eq!(found["poor"], json!([]), "{color_scheme}");
    assert_eq!(found["dark"], color_scheme == "dark");
    assert!(found["count"].as_u64() > Some(100), "{found}");
}

fn a_telephone_needs_no_sideways_scrolling(browser: &Browser) {
    browser.emulate(NARROW, "light");
    assert_eq!(
        browser.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth"),
        true
    );
    let wide =
        "return [...document.querySelectorAll('.scroll')].filter((item) => item.scrollWidth > item.clientWidth).length";
    assert_eq!(browser.run(wide), 0);
    assert!(
        browser.run("return cell(rows('Traffic')[0], 'Sent').getBoundingClientRect().right").as_f64() < Some(360.0)
    );
}

/// The markup that the application and the client have put everywhere is text.
fn nothing_is_injected(browser: &Browser) {
    let text = browser.run("return document.body.textContent");
    let text = text.as_str().expect("text");
    for marker in ["file", "class", "message", "version", "load"] {
        assert!(
            text.contains(&format!("alert('{marker}')>"))
                || text.contains(&format!("alert(\"{marker}\")<"))
                || text.contains(&format!("alert('{marker}')<")),
            "{marker} is not shown: {text}"
        );
    }
    let elements = browser.run(
        "return [...document.querySelectorAll('script, img, iframe, b[onclick], [onload], [onerror]')].map((item) => item.outerHTML.slice(0, 80))",
    );
    assert_eq!(elements.as_array().map(Vec::len), Some(1), "{elements}");
    assert_eq!(browser.run("return window.injected"), json!([]));
}

fn a_restart_is_shown(browser: &Browser, nginx: &mut Nginx) {
    browser.emulate(WIDE, "light");
    nginx.write(FILE, MARKUP);
    nginx.get("/").expect(200);
    browser.wait("cell(rows('Code')[0], 'Failed load').textContent === ''");
    let code = browser.run("return texts('Code')[0]");
    nginx.stop_by(libc::SIGTERM);
    browser.wait("document.getElementById('state').textContent.startsWith('The server does not answer')");
    browser
        .wait("/The figures are those of \\d\\d:\\d\\d:\\d\\d\\./.test(document.getElementById('state').textContent)");
    assert_eq!(browser.run("return texts('Code')[0]"), code, "the last figures stay");
    for color_scheme in ["dark", "light"] {
        browser.emulate(WIDE, color_scheme);
        text_has_contrast(browser, color_scheme);
    }
    nginx.start_again();
    browser.wait("document.getElementById('state').textContent === 'Live'");
    browser.wait("number('Traffic', 0, 'Calls') === 0");
}

/// Rates, percentiles and the rest of a report, from reports that the test has made.
fn figures_are_right(browser: &Browser, url: &str) {
    let mut older = report();
    let mut newer = report();
    newer["time"] = json!(1010.0);
    newer["applications"][0]["counters"] = counters(100, [0, 80, 5, 5, 10], [50, 95, 100]);
    newer["workers"][0]["details"]["cpu"] = json!(8.0);
    serde_json::from_value::<report::Report>(newer.clone()).expect("a report");
    let mut silent = newer.clone();
    silent["time"] = json!(1011.0);
    silent["workers"][0]["details"] = Value::Null;
    let script = format!(
        "window.reports = {}; window.asked = 0;
         window.fetch = async () => {{
           asked++;
           if (!reports.length) throw new TypeError('the server is away');
           return new Response(JSON.stringify(reports.shift()));
         }};",
        json!([older.take(), newer])
    );
    browser.run_in_pages(&script);
    browser.open(url);
    browser.wait("document.getElementById('state').textContent.startsWith('The server does not answer')");
    let tiles = browser.run("return [...document.querySelectorAll('#tiles dd')].map((item) => item.textContent)");
    assert_eq!(
        tiles,
        json!([
            "10/s",
            "100 in all",
            "10 %",
            "5xx; 3 uncaught exceptions",
            "100 ms",
            "p50 10 ms, p99 820 ms",
            "3 of 5",
            "1 stuck",
            "2",
            "p95 of the wait 100 ms",
            "6",
            "6 in all",
            "4",
            "4 in all"
        ])
    );
    let traffic = browser.run("return texts('Traffic')");
    assert_eq!(
        traffic,
        json!([[
            "app", "blue", "10", "3", "2", "10 ms", "100 ms", "820 ms", "100", "80", "5", "5", "10", "6", "4", "3",
            "7", "1 KiB", "2 MiB"
        ]])
    );
    let worker = browser.run("return texts('Workers that run')[0]");
    assert_eq!(
        worker,
        json!([
            "17",
            "0",
            "blue",
            "draining",
            "15 min 10 s",
            "100",
            "3",
            "2",
            "64 MiB",
            "8 s",
            "30 %",
            "3 of 5",
            "1",
            "main: own GIL, 2 copies, 3 of 5 threads busy, 1 stuck, 2 queued"
        ])
    );
    let ended = browser.run("return texts('Workers that have ended')[0].toSpliced(3, 2)");
    assert_eq!(ended, json!(["16", "1", "", "1 min 40 s", "9", "crash"]));
    let ends = browser.run("return document.getElementById('ends').textContent");
    assert_eq!(ends, "ended since the counters began: crash 3, max requests 3");
    assert_eq!(browser.run("return texts('State and restarts')"), json!([["blue", "www", "stopped", "2", "1"]]));
    assert_eq!(browser.run("return texts('Code')[0][2]"), "not loaded yet");

    // A worker that does not answer is there all the same; and a hidden page asks for nothing.
    browser.run_with("reports.push(arguments[0])", json!([silent]));
    browser.wait("texts('Workers that run')[0][3] === 'does not answer'");
    assert_eq!(browser.run("return tile('Threads busy').textContent"), "0 of 0");
    browser.run("reports = { length: 1, shift: () => ({ schema: 2 }) }");
    browser.wait("document.getElementById('state').textContent.startsWith('The server has another version')");
    let hide = "Object.defineProperty(document, 'hidden', { value: arguments[0], configurable: true });
                document.dispatchEvent(new Event('visibilitychange'));";
    browser.run_with(hide, json!([true]));
    let asked = "const before = asked; return new Promise((done) => later(() => done(asked - before), 300))";
    let while_hidden = browser.run(asked);
    browser.run_with(hide, json!([false]));
    let while_visible = browser.run(asked);
    assert!(while_hidden == 0 && while_visible.as_u64() > Some(0), "{while_hidden} {while_visible}");
}

/// A report with one of everything, as at its first second.
fn report() -> Value {
    let threads = json!({ "total": 5, "busy": 3, "stuck": 1 });
    json!({
        "schema": 1,
        "time": 1000.0,
        "since": 100.0,
        "versions": { "module": "1", "nginx": "2", "python": "3" },
        "applications": [{
            "name": "app", "process_group": "blue", "running": 3, "queued": 2,
            "counters": counters(0, [0; 5], [0; 3]), "exceptions": { "ValueError": 3 },
        }],
        "workers": [{
            "pid": 17, "number": 0, "process_group": "blue", "started": 100.0, "calls": 100, "running": 3, "queued": 2,
            "applications": [],
            "details": {
                "state": "draining", "memory": 64 << 20, "cpu": 5.0, "threads": threads, "calls": [],
                "interpreters": [{ "name": "main", "gil": "own", "copies": 2, "threads": threads, "queued": 2 }],
                "applications": [{ "name": "app", "interpreter": "main", "code": null, "loads": 0, "failure": null }],
            },
        }],
        "ended_workers": [{
            "pid": 16, "number": 1, "process_group": null, "started": 200.0, "ended": 300.0, "calls": 9, "reason": "crash",
        }],
        "ends": [
            { "process_group": null, "by_reason": { "crash": 2, "max_requests": 3, "stop": 0 } },
            { "process_group": "blue", "by_reason": { "crash": 1 } },
        ],
        "process_groups": [{ "name": "blue", "user": "www", "state": "stopped", "workers": 2, "restarts": 1 }],
        "calls": [],
        "events": [],
    })
}

/// Counters after so many calls, with the numbers of times up to 10 ms, 100 ms and 1 s; all others are 0 before any call.
fn counters(calls: u64, responses: [u64; 5], buckets: [u64; 3]) -> Value {
    let some = |value: u64| if calls == 0 { 0 } else { value };
    let [first, second, third] = buckets;
    let times = json!({
        "count": calls,
        "sum": 1.0,
        "buckets": [{ "le": 0.01, "count": first }, { "le": 0.1, "count": second }, { "le": 1.0, "count": third }],
    });
    let responses = json!({
        "1xx": responses[0], "2xx": responses[1], "3xx": responses[2], "4xx": responses[3], "5xx": responses[4],
    });
    json!({
        "calls": calls, "responses": responses, "refused_queue_full": some(5), "refused_queue_timeout": some(1),
        "timed_out": some(4), "exceptions": some(3), "client_gone": some(7), "bytes_received": some(1 << 10),
        "bytes_sent": some(2 << 20), "queue_time": times, "header_time": times, "total_time": times,
    })
}
