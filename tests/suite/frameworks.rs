//! Frameworks as they come from their makers: routes, forms, cookies, uploads, streams.

use crate::harness::{Engine, Framing, Nginx, Response, Site, both_engines, venv};
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

both_engines!(
    django_serves,
    django_serves_below_a_prefix,
    django_admin_logs_in_and_out,
    django_admin_changes_the_database,
    django_refuses_a_forged_form,
    django_keeps_large_uploads_in_files,
    django_runs_asynchronous_views,
    django_hands_files_to_nginx,
    django_starts_once_a_missing_file_is_there,
    flask_serves,
    flask_serves_below_a_prefix,
    bottle_serves,
    bottle_serves_below_a_prefix,
    falcon_serves,
    falcon_serves_below_a_prefix,
    pyramid_serves,
    pyramid_serves_below_a_prefix,
);

/// A client that keeps its cookies.
struct Browser<'a> {
    nginx: &'a Nginx,
    cookies: Vec<(String, String)>,
}

const BOUNDARY: &str = "----boundary----";

impl<'a> Browser<'a> {
    fn new(nginx: &'a Nginx) -> Browser<'a> {
        Browser { nginx, cookies: Vec::new() }
    }

    fn get(&mut self, path: &str) -> Response {
        self.send("GET", path, "text/plain", b"")
    }

    fn post_form(&mut self, path: &str, fields: &[(&str, &str)]) -> Response {
        let fields: Vec<String> = fields.iter().map(|(n, v)| format!("{n}={}", escape(v))).collect();
        let body = fields.join("&");
        self.send("POST", path, "application/x-www-form-urlencoded", body.as_bytes())
    }

    /// A form with the field `text` and the file `file`.
    fn post_file(&mut self, path: &str, name: &str, content: &[u8]) -> Response {
        let mut body = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"text\"\r\n\r\nsome text\r\n\
             --{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        )
        .into_bytes();
        body.extend_from_slice(content);
        body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
        self.send("POST", path, &format!("multipart/form-data; boundary={BOUNDARY}"), &body)
    }

    fn send(&mut self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Response {
        let cookies: Vec<String> = self.cookies.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let (cookies, referer) = (cookies.join("; "), self.nginx.url(path));
        let mut headers = vec![("Content-Type", content_type), ("Referer", &referer)];
        if !cookies.is_empty() {
            headers.push(("Cookie", &cookies));
        }
        let response = self.nginx.request(method, path, &headers, body);
        for cookie in response.all("Set-Cookie") {
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').expect(cookie);
            self.cookies.retain(|(known, _)| known != name);
            if !value.is_empty() && value != "\"\"" {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        response
    }

    fn cookie(&self, name: &str) -> Option<&str> {
        let found = self.cookies.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

fn escape(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric();
    let escape = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect()
}

/// A site for the frameworks, which are in the virtual environment.
fn site(engine: Engine) -> Site {
    Site::new(engine).http(&format!("wsgi_python_home {};", venv().display())).http("client_max_body_size 20m;")
}

/// Checks that every framework here has in common; the application is at this prefix.
fn assert_serves(nginx: &Nginx, prefix: &str) {
    let mut browser = Browser::new(nginx);
    let at = |path: &str| format!("{prefix}{path}");
    assert_eq!(browser.get(&at("/hello/you")).expect(200).text(), "hello you");
    let hello = browser.get(&at("/hello/gr%C3%B6%C3%9Fe%20%E2%82%AC")).expect(200);
    assert_eq!(String::from_utf8(hello.body).unwrap(), "hello größe €");
    browser.get(&at("/absent")).expect(404);

    let form = browser.post_form(&at("/form"), &[("name", "größe"), ("text", "a&b=c d")]).expect(200);
    assert_eq!(form.json(), json!({"name": "größe", "text": "a&b=c d"}));
    let document = json!({"list": [1, 2.5, null], "text": "größe"});
    let text = document.to_string();
    let echoed = browser.send("POST", &at("/json"), "application/json", text.as_bytes()).expect(200);
    assert_eq!(echoed.json(), document);
    assert_takes_chunks(nginx, &at("/json"), &document);

    for count in 1..4 {
        assert_eq!(browser.get(&at("/cookie")).expect(200).text(), count.to_string());
    }
    for size in [0, 10, 50_000, 3_000_000] {
        assert_takes_upload(&mut browser, &at("/upload"), size);
    }

    let lines: String = (0..1000).map(|number| format!("line {number}\n")).collect();
    assert_eq!(browser.get(&at("/stream")).expect(200).text(), lines);
    let mut conn = nginx.connect();
    conn.send(format!("GET {} HTTP/1.1\r\nHost: a\r\n\r\n", at("/stream")));
    let stream = conn.response().expect(200);
    assert_eq!((stream.framing, stream.text()), (Framing::Chunked, lines));
    assert!(browser.get(&at("/file")).expect(200).text().contains("import"));
    let head = nginx.request("HEAD", &at("/hello/you"), &[], b"");
    assert!(matches!(head.status, 200 | 404 | 405) && head.body.is_empty(), "{head:?}");

    let away = browser.get(&at("/redirect"));
    assert!(matches!(away.status, 302 | 303), "{away:?}");
    let location = away.header("Location").expect("Location");
    assert_eq!(location.trim_start_matches(&nginx.url("")), at("/hello/x"));
    assert_eq!(browser.get(&at("/url")).expect(200).text(), nginx.url(&at("/hello/x")));
    for _ in 0..2 {
        browser.get(&at("/raise")).expect(500);
    }
    assert_eq!(browser.get(&at("/hello/you")).expect(200).text(), "hello you");
}

/// Servers that pass on the chunks, or no length, leave frameworks with an empty body.
fn assert_takes_chunks(nginx: &Nginx, path: &str, document: &Value) {
    let text = document.to_string();
    let (one, two) = text.split_at(5);
    let response = nginx
        .connect()
        .send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
             {:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n",
            one.len(),
            two.len()
        ))
        .response();
    assert_eq!(response.expect(200).json(), *document);
}

/// Whatever the size: some frameworks keep small ones in memory and others in files.
fn assert_takes_upload(browser: &mut Browser, path: &str, size: usize) -> Value {
    let content: Vec<u8> = (0..size).map(|i| (i % 253) as u8).collect();
    let seen = browser.post_file(path, "a file.bin", &content).expect(200).json();
    assert_eq!(seen["name"], "a file.bin");
    assert_eq!(seen["size"], size);
    assert_eq!(seen["text"], "some text");
    assert_eq!(seen["digest"], digest(&content), "of {size} bytes");
    seen
}

/// SHA-256, by the tool that is everywhere.
fn digest(content: &[u8]) -> String {
    let mut program =
        Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("run sha256sum");
    std::io::Write::write_all(&mut program.stdin.take().unwrap(), content).unwrap();
    let output = program.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout[..64]).into_owned()
}

// ---- the small ones -------------------------------------------------------------------------------------------------

#[track_caller]
fn assert_script_serves(engine: Engine, file: &str, prefix: &str) {
    let location = if prefix.is_empty() { "/" } else { prefix };
    let nginx = site(engine).repository_app(location, file).errors_expected().start();
    assert_serves(&nginx, prefix);
}

fn flask_serves(engine: Engine) {
    assert_script_serves(engine, "flask_app.py", "");
}

fn flask_serves_below_a_prefix(engine: Engine) {
    assert_script_serves(engine, "flask_app.py", "/some/where");
}

fn bottle_serves(engine: Engine) {
    assert_script_serves(engine, "bottle_app.py", "");
}

fn bottle_serves_below_a_prefix(engine: Engine) {
    assert_script_serves(engine, "bottle_app.py", "/some/where");
}

fn falcon_serves(engine: Engine) {
    assert_script_serves(engine, "falcon_app.py", "");
}

fn falcon_serves_below_a_prefix(engine: Engine) {
    assert_script_serves(engine, "falcon_app.py", "/some/where");
}

fn pyramid_serves(engine: Engine) {
    assert_script_serves(engine, "pyramid_app.py", "");
}

fn pyramid_serves_below_a_prefix(engine: Engine) {
    assert_script_serves(engine, "pyramid_app.py", "/some/where");
}

// ---- Django ---------------------------------------------------------------------------------------------------------

const PASSWORD: &str = "Wohl&behütet=1";

/// The project's database with its tables and the user `admin`, made once.
fn database() -> &'static [u8] {
    static DATABASE: OnceLock<Vec<u8>> = OnceLock::new();
    DATABASE.get_or_init(|| {
        let site = Site::plain().repository_directory("django_site");
        let manage = |arguments: &[&str]| {
            let output = Command::new(venv().join("bin/python"))
                .args(["-B", "-m", "django"])
                .args(arguments)
                .args(["--settings", "project.settings", "--pythonpath"])
                .arg(site.prefix())
                .env("DJANGO_SUPERUSER_PASSWORD", PASSWORD)
                .output()
                .expect("run the Python of the virtual environment");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        manage(&["migrate", "--verbosity", "0"]);
        manage(&["createsuperuser", "--noinput", "--username", "admin", "--email", "admin@example.org"]);
        fs::read(site.prefix().join("db.sqlite3")).unwrap()
    })
}

/// A project as Django's own tool makes it, with its database, at this location.
fn django(engine: Engine, location: &str) -> Site {
    let site = site(engine)
        .repository_directory("django_site")
        .location(location, "wsgi_pass project/wsgi.py;")
        .errors_expected();
    fs::write(site.prefix().join("db.sqlite3"), database()).unwrap();
    site
}

fn django_serves(engine: Engine) {
    assert_serves(&django(engine, "/").start(), "");
}

fn django_serves_below_a_prefix(engine: Engine) {
    let nginx = django(engine, "/app").start();
    assert_serves(&nginx, "/app");
    let away = nginx.get("/app/admin/").expect(302);
    assert_eq!(away.header("Location"), Some("/app/admin/login/?next=/app/admin/"));
}

/// The hidden field of a form's page.
#[track_caller]
fn token(page: &Response) -> String {
    let text = page.text();
    let (_, rest) = text.split_once("name=\"csrfmiddlewaretoken\" value=\"").expect("a token");
    rest.split('"').next().unwrap().to_owned()
}

fn log_in(browser: &mut Browser, password: &str) -> Response {
    let page = browser.get("/admin/login/?next=/admin/").expect(200);
    let token = token(&page);
    browser.post_form(
        "/admin/login/?next=/admin/",
        &[("csrfmiddlewaretoken", &token), ("username", "admin"), ("password", password), ("next", "/admin/")],
    )
}

/// The configuration of docs/static-files.md.
fn django_hands_files_to_nginx(engine: Engine) {
    let nginx = django(engine, "/")
        .file("media/private/a b?%.txt", "0123456789")
        .http("types { text/plain txt; }")
        .location("/protected/", "internal; alias @prefix@/media/private/;")
        .start();
    let response = nginx.request("GET", "/files/a%20b%3f%25.txt", &[("Range", "bytes=3-5")], b"").expect(206);
    assert_eq!(response.text(), "345");
    assert_eq!(response.header("Content-Type"), Some("text/plain"));
    assert_eq!(response.header("Content-Disposition"), Some("attachment"));
}

fn django_admin_logs_in_and_out(engine: Engine) {
    let nginx = django(engine, "/").start();
    let mut browser = Browser::new(&nginx);
    let away = browser.get("/admin/").expect(302);
    assert_eq!(away.header("Location"), Some("/admin/login/?next=/admin/"));
    let refused = log_in(&mut browser, "wrong").expect(200);
    assert!(refused.text().contains("Please enter the correct username and password"));
    assert_eq!(browser.cookie("sessionid"), None);

    let entered = log_in(&mut browser, PASSWORD).expect(302);
    assert_eq!(entered.header("Location"), Some("/admin/"));
    assert!(browser.cookie("sessionid").is_some());
    let page = browser.get("/admin/").expect(200);
    assert!(page.text().contains("Site administration"));
    // Another client is not logged in.
    Browser::new(&nginx).get("/admin/").expect(302);

    let token = token(&page);
    browser.post_form("/admin/logout/", &[("csrfmiddlewaretoken", &token)]).expect(200);
    browser.get("/admin/").expect(302);
}

fn django_admin_changes_the_database(engine: Engine) {
    let nginx = django(engine, "/").start();
    let mut browser = Browser::new(&nginx);
    log_in(&mut browser, PASSWORD).expect(302);
    for name in ["editors", "größen"] {
        let page = browser.get("/admin/auth/group/add/").expect(200);
        let token = token(&page);
        let fields = [("csrfmiddlewaretoken", token.as_str()), ("name", name), ("_save", "Save")];
        let added = browser.post_form("/admin/auth/group/add/", &fields).expect(302);
        assert_eq!(added.header("Location"), Some("/admin/auth/group/"));
        let list = browser.get("/admin/auth/group/").expect(200);
        let list = String::from_utf8(list.body).unwrap();
        assert!(list.contains("was added successfully"), "the message of the session");
        assert!(list.contains(&format!(">{name}</a>")), "the group {name}");
    }
    // The data outlives the worker.
    nginx.reload();
    let list = browser.get("/admin/auth/group/").expect(200);
    assert!(list.text().contains(">editors</a>"));
}

fn django_refuses_a_forged_form(engine: Engine) {
    let nginx = django(engine, "/").start();
    let mut browser = Browser::new(&nginx);
    browser.post_form("/protected", &[("name", "forged")]).expect(403);
    let token = token(&browser.get("/admin/login/").expect(200));
    let fields = [("csrfmiddlewaretoken", token.as_str()), ("name", "true")];
    assert_eq!(browser.post_form("/protected", &fields).expect(200).json()["name"], "true");
    browser.cookies.clear();
    browser.post_form("/protected", &fields).expect(403);
}

fn django_keeps_large_uploads_in_files(engine: Engine) {
    let nginx = django(engine, "/").start();
    let mut browser = Browser::new(&nginx);
    let class = |browser: &mut Browser, size| assert_takes_upload(browser, "/upload", size)["class"].clone();
    assert_eq!(class(&mut browser, 100_000), "InMemoryUploadedFile");
    assert_eq!(class(&mut browser, 10_000_000), "TemporaryUploadedFile");
}

fn django_runs_asynchronous_views(engine: Engine) {
    let nginx = django(engine, "/").start();
    for _ in 0..5 {
        assert_eq!(nginx.get("/async").expect(200).text(), "asynchronous");
    }
}

/// Django cannot be set up twice in a process: a first attempt that failed must leave nothing of it behind.
fn django_starts_once_a_missing_file_is_there(engine: Engine) {
    let site = django(engine, "/");
    let settings = site.prefix().join("project/settings.py");
    let source = fs::read_to_string(&settings).unwrap();
    let lacking = source.replace("\"of no use to anybody\"", "(BASE_DIR / \"secret\").read_text()");
    assert_ne!(source, lacking);
    fs::write(&settings, lacking).unwrap();
    let nginx = site.start();
    for _ in 0..2 {
        nginx.get("/hello/you").expect(500);
    }
    nginx.wait_log("FileNotFoundError");
    nginx.write("secret", "found");
    assert_eq!(nginx.get("/hello/you").expect(200).text(), "hello you");
    let mut browser = Browser::new(&nginx);
    log_in(&mut browser, PASSWORD).expect(302);
    browser.get("/admin/").expect(200);
}
