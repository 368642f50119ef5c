//! A headless Chromium, driven through chromedriver.
//!
//! WebDriver is JSON over HTTP, and the tests need six of its commands. The crates for it (fantoccini, thirtyfour) would bring
//! an asynchronous runtime and another HTTP client.

use super::{Conn, is_root, wait_for};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A browser with one window.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    /// Path of the session's commands.
    session: String,
    /// Its files, also those that Chromium would leave in the temporary directory.
    _directory: TempDir,
}

impl Browser {
    /// Starts it. Where Chromium is not installed, this returns `None` and says so; in CI it is an error.
    pub fn start() -> Option<Browser> {
        let directory = tempfile::Builder::new().prefix("ngx-wsgi-browser-").tempdir().expect("a temporary directory");
        let mut command = Command::new("chromedriver");
        // A process group of its own, with which the browser ends.
        command.arg("--port=0").env("TMPDIR", directory.path()).env("HOME", directory.path()).process_group(0);
        let mut driver = match command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn() {
            Ok(driver) => driver,
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "chromedriver: {error}");
                eprintln!("skipped: chromedriver: {error}; Debian has it in the package chromium-driver");
                return None;
            }
        };
        // "ChromeDriver was started successfully on port 12345."
        let mut said = BufReader::new(driver.stdout.take().expect("its output")).lines();
        let port = said
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("successfully on port ")?.1.trim_end_matches('.').parse::<u16>().ok());
        // It must not wait for a reader of its output.
        std::thread::spawn(move || said.for_each(drop));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.expect("chromedriver's port")));
        let mut browser = Browser { driver, address, session: String::new(), _directory: directory };
        let created = browser.command("POST", "/session", &capabilities());
        browser.session = format!("/session/{}", created["sessionId"].as_str().expect("an identifier"));
        Some(browser)
    }

    /// Opens a page, and waits until it has been loaded.
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.post("url", json!({ "url": url }));
    }

    /// Runs a script in each page that is opened from now on, before those of the page.
    #[track_caller]
    pub fn run_in_pages(&self, script: &str) {
        self.devtools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script }));
    }

    /// Calls a JavaScript function with this body. A promise is waited for.
    #[track_caller]
    pub fn run(&self, body: &str) -> Value {
        self.run_with(body, json!([]))
    }

    /// Calls a JavaScript function with this body and these arguments (`arguments`).
    #[track_caller]
    pub fn run_with(&self, body: &str, arguments: Value) -> Value {
        self.post("execute/sync", json!({ "script": body, "args": arguments }))
    }

    /// Waits until a JavaScript expression is true.
    #[track_caller]
    pub fn wait(&self, expression: &str) {
        let body = format!("return Boolean({expression})");
        wait_for(expression, || self.run(&body).as_bool()?.then_some(()));
    }

    /// Presses a key and lets it go; `keys` of WebDriver stand for those without a character.
    #[track_caller]
    pub fn press(&self, key: &str) {
        let actions = json!([{ "type": "keyDown", "value": key }, { "type": "keyUp", "value": key }]);
        self.post("actions", json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": actions }] }));
    }

    /// Sends a command of the Chrome DevTools Protocol.
    #[track_caller]
    pub fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", json!({ "cmd": command, "params": parameters }))
    }

    /// Sets the width of the window, and what the page's media queries find.
    #[track_caller]
    pub fn emulate(&self, width: u32, color_scheme: &str) {
        let metrics = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
        let features = json!([{ "name": "prefers-color-scheme", "value": color_scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Returns the warnings and errors that were written to the console since the last call.
    #[track_caller]
    pub fn console(&self) -> Vec<String> {
        let entries = self.post("se/log", json!({ "type": "browser" }));
        entries.as_array().expect("entries").iter().map(|entry| entry["message"].to_string()).collect()
    }

    #[track_caller]
    fn post(&self, command: &str, body: Value) -> Value {
        self.command("POST", &format!("{}/{command}", self.session), &body)
    }

    /// Sends a command of WebDriver and returns its value.
    #[track_caller]
    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut conn = Conn::open(self.address);
        // The first command starts the browser.
        conn.set_timeout(Duration::from_secs(60));
        let response = conn.send(request(self.address, method, path, &body.to_string())).response();
        let value = response.json()["value"].take();
        assert!(response.status == 200, "{method} {path} {body}: {}: {}", value["error"], value["message"]);
        value
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser. A test that has failed ends here too, so nothing panics.
        if let Ok(mut stream) = TcpStream::connect(self.address) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = stream.write_all(request(self.address, "DELETE", &self.session, "").as_bytes());
            let _ = stream.read(&mut [0; 1024]);
        }
        let group = nix::unistd::Pid::from_raw(self.driver.id() as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.driver.wait();
    }
}

fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

fn capabilities() -> Value {
    // The shared memory of containers is small.
    let mut arguments = vec!["--headless=new", "--disable-gpu", "--disable-dev-shm-usage"];
    if is_root() {
        // Chromium has no sandbox for root.
        arguments.push("--no-sandbox");
    }
    json!({ "capabilities": { "alwaysMatch": {
        "browserName": "chrome",
        "goog:chromeOptions": { "args": arguments },
        "goog:loggingPrefs": { "browser": "WARNING" },
    } } })
}
