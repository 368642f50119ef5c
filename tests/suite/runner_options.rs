//! The options of `ngx-wsgi`, each observed by its effect.

use crate::harness::{Project, Server, curl, is_for_everybody, is_root, make_certificate, venv, wait_for};
use crate::runner::{FACTS, HELLO};
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

/// Facts of a server with these options and one worker.
fn facts(project: &Project, options: &[&str]) -> Value {
    let server = project.serve(&[&["app", "--workers", "1"], options].concat());
    server.get("/").expect(200).json()
}

#[test]
fn bind_may_be_repeated_and_may_be_a_socket() {
    let project = Project::with_app(FACTS);
    let (second, sixth) = (project.another_port(), project.another_port());
    let binds = [format!("127.0.0.1:{second}"), format!("[::1]:{sixth}"), "unix:app.sock".to_owned()];
    let options = binds.iter().flat_map(|bind| ["--bind", bind]);
    let server = project.serve(&["app", "--workers", "1"].into_iter().chain(options).collect::<Vec<_>>());
    for url in [server.url("/"), format!("http://127.0.0.1:{second}/"), format!("http://[::1]:{sixth}/")] {
        curl(&[&url]).expect(200);
    }
    let socket = project.path("app.sock");
    curl(&["--unix-socket", socket.to_str().unwrap(), "http://localhost/"]).expect(200);
    assert!(server.said().contains(&format!("http://[::1]:{sixth}, unix:{}", socket.display())), "{}", server.said());
    server.quit();
    assert!(!socket.exists());
}

#[test]
fn all_addresses_of_ipv6_include_those_of_ipv4() {
    let project = Project::with_app(HELLO);
    let every = format!("[::]:{}", project.port());
    for binds in [&["--bind", every.as_str()][..], &["--bind", &every, "--bind", &project.address()]] {
        let server = project.runner(&[&["app", "--workers", "1"], binds].concat()).start();
        server.get("/").expect(200);
        curl(&[&format!("http://[::1]:{}/", project.port())]).expect(200);
        let ended = project.runner(&["app", "--bind", &every]).run();
        assert!(ended.stderr.contains("another program does already"), "{}", ended.stderr);
        server.quit();
    }
}

#[test]
fn a_socket_that_a_killed_server_has_left_is_replaced() {
    let project = Project::with_app(HELLO);
    drop(std::os::unix::net::UnixListener::bind(project.path("app.sock")).unwrap());
    let _server = project.serve(&["app", "--workers", "1", "--bind", "unix:app.sock"]);
    curl(&["--unix-socket", project.path("app.sock").to_str().unwrap(), "http://localhost/"]).expect(200);
}

#[test]
fn variables_of_the_environment_set_address_and_workers() {
    let project = Project::with_app(HELLO);
    let port = project.port().to_string();
    let server = project.runner(&["app"]).set("PORT", &port).set("WEB_CONCURRENCY", "3").start();
    server.get("/").expect(200);
    assert!(server.said().contains(&format!("on http://0.0.0.0:{port}\n")), "{}", server.said());
    wait_for("three workers", || (server.workers().len() == 3).then_some(()));
}

#[test]
fn the_variable_script_name_is_the_prefix_of_the_application() {
    let project = Project::with_app(FACTS);
    let arguments = ["app", "--workers", "1", "--bind", &project.address()];
    let server = project.runner(&arguments).set("SCRIPT_NAME", "/shop").start();
    for (path, script_name, path_info) in [("/shop/cart", "/shop", "/cart"), ("/shopping", "", "/shopping")] {
        let environ = server.get(path).expect(200).json()["environ"].clone();
        assert_eq!((&environ["SCRIPT_NAME"], &environ["PATH_INFO"]), (&script_name.into(), &path_info.into()));
    }
}

#[test]
fn the_default_number_of_workers_is_that_of_the_processors() {
    let project = Project::with_app(HELLO);
    let counted = project.python(&["-c", "from ngx_wsgi import processors; print(processors.count())"]).run().stdout;
    let server = project.serve(&["app"]);
    let counted: usize = counted.trim().parse().unwrap();
    wait_for("the workers", || (server.workers().len() == counted).then_some(()));
    let allowed = std::thread::available_parallelism().unwrap().get();
    assert_eq!(server.workers().len(), allowed);
}

#[test]
fn backlog_limits_the_connections_that_wait() {
    let project = Project::with_app(HELLO);
    let server = project.serve(&["app", "--workers", "1", "--backlog", "3"]);
    let worker = server.workers()[0];
    // Earlier connections do not wait any more.
    server.get("/").expect(200);
    worker.signal(libc::SIGSTOP);
    let connect = || TcpStream::connect_timeout(&server.address(), Duration::from_millis(300));
    let waiting: Vec<_> = std::iter::repeat_with(connect).map_while(Result::ok).take(20).collect();
    worker.signal(libc::SIGCONT);
    // The kernel keeps one more.
    assert_eq!(waiting.len(), 4);
}

#[test]
fn reuse_port_gives_each_worker_a_socket() {
    let project = Project::with_app(HELLO);
    let _server = project.serve(&["app", "--workers", "3", "--reuse-port"]);
    let address = format!(":{:04X} 00000000:0000 0A", project.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    assert_eq!(table.matches(&address).count(), 3);
}

const TOGETHER: &str = r#"
import threading
barrier = threading.Barrier(3)

def application(environ, start_response):
    try:
        barrier.wait(1 if environ["QUERY_STRING"] == "few" else 20)
        text = b"together"
    except threading.BrokenBarrierError:
        text = b"alone"
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text]
"#;

#[test]
fn threads_run_calls_at_the_same_time() {
    let project = Project::with_app(TOGETHER);
    for (threads, query, text) in [("3", "", "together"), ("2", "few", "alone")] {
        let server = project.serve(&["app", "--workers", "1", "--threads", threads]);
        let ask = || server.get(&format!("/?{query}")).expect(200).text();
        let texts = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(texts, [text; 3], "--threads {threads}");
    }
}

#[test]
fn threads_off_and_subinterpreters_choose_where_the_application_runs() {
    let project = Project::with_app(FACTS);
    assert_eq!(facts(&project, &["--threads", "off"])["thread"], "MainThread");
    assert_eq!(facts(&project, &[])["interpreter"], "main");
    assert_ne!(facts(&project, &["--subinterpreters"])["interpreter"], "main");
}

#[test]
fn worker_connections_limits_them() {
    let project = Project::with_app(HELLO);
    let server = project.serve(&["app", "--workers", "1", "--worker-connections", "16"]).alerts_expected("not enough");
    let connections: Vec<_> = (0..24).map(|_| TcpStream::connect(server.address()).unwrap()).collect();
    server.wait_said("16 worker_connections are not enough");
    drop(connections);
}

const SLEEPS: &str = r#"
import time

def application(environ, start_response):
    while environ["PATH_INFO"] == "/sleep":
        open("begun", "w").close()
        time.sleep(0.01)
    start_response("200 OK", [])
    return [b"awake"]
"#;

#[test]
fn timeout_ends_a_call() {
    let project = Project::with_app(SLEEPS);
    let server = project.serve(&["app", "--workers", "1", "--timeout", "1"]).errors_expected();
    server.get("/sleep").expect(504);
    server.get("/").expect(200);
}

#[test]
fn graceful_timeout_limits_the_wait_for_running_calls() {
    let project = Project::with_app(SLEEPS);
    let options = ["app", "--workers", "1", "--timeout", "0", "--graceful-timeout", "1"];
    let mut server = project.serve(&options);
    let mut connection = server.connect();
    connection.send("GET /sleep HTTP/1.1\r\nHost: localhost\r\n\r\n");
    wait_for("the call to begin", || project.path("begun").exists().then_some(()));
    server.signal(libc::SIGQUIT);
    assert!(server.wait_end().success());
    assert!(server.said().contains("aborting 1 call"), "{}", server.said());
}

#[test]
fn keep_alive_zero_closes_connections() {
    let project = Project::with_app(HELLO);
    let server = project.serve(&["app", "--workers", "1", "--keep-alive", "0"]);
    assert_eq!(server.get("/").expect(200).header("Connection"), Some("close"));
    server.quit();
    let server = project.serve(&["app", "--workers", "1", "--keep-alive", "5"]);
    assert_eq!(server.get("/").expect(200).header("Connection"), Some("keep-alive"));
}

#[test]
fn max_requests_replaces_a_worker() {
    let project = Project::with_app(FACTS);
    let server = project.serve(&["app", "--workers", "1", "--max-requests", "2", "--max-requests-jitter", "1"]);
    let first = server.get("/").json()["pid"].clone();
    wait_for("another worker", || (server.get("/").json()["pid"] != first).then_some(()));
}

#[test]
fn spool_uploads_limits_bodies() {
    let project = Project::with_app(HELLO);
    let server = project.serve(&["app", "--workers", "1", "--spool-uploads", "2k"]).errors_expected();
    server.post("/", vec![b'a'; 2048]).expect(200);
    server.post("/", vec![b'a'; 2049]).expect(413);
    server.quit();
    // The default is 10 MB, not nginx's 1 MB.
    let server = project.serve(&["app", "--workers", "1"]).errors_expected();
    server.post("/", vec![b'a'; 10 << 20]).expect(200);
    server.post("/", vec![b'a'; (10 << 20) + 1]).expect(413);
}

#[test]
fn limits_of_the_request_line_and_of_headers() {
    let project = Project::with_app(HELLO);
    let options = ["app", "--workers", "1", "--limit-request-line", "2000", "--limit-request-field_size", "1500"];
    let server = project.serve(&options).errors_expected();
    server.get(&format!("/{}", "a".repeat(1900))).expect(200);
    server.get(&format!("/{}", "a".repeat(2100))).expect(414);
    server.request("GET", "/", &[("X-Long", &"a".repeat(2100))], b"").expect(400);
}

#[test]
fn chdir_and_pythonpath_find_modules_and_files() {
    let project = Project::with_app("1 / 0\n");
    project.write("site/app.py", &format!("import first, second\n{FACTS}"));
    project.write("one/first.py", "");
    project.write("site/two/second.py", "");
    let first = project.path("one");
    let paths = format!("{},two", first.display());
    let facts = facts(&project, &["--chdir", "site", "--pythonpath", &paths]);
    let site = project.path("site");
    assert_eq!(facts["cwd"], site.to_str().unwrap());
    let front: Vec<&str> =
        facts["path"].as_array().unwrap().iter().take(3).map(|path| path.as_str().unwrap()).collect();
    assert_eq!(front, [first.to_str().unwrap(), site.join("two").to_str().unwrap(), site.to_str().unwrap()]);
}

#[test]
fn the_umask_is_that_of_the_caller_or_the_option() {
    let project = Project::with_app(FACTS);
    assert_eq!(facts(&project, &["--umask", "0027"])["umask"], "0027");
    let arguments = ["app", "--workers", "1", "--bind", &project.address()];
    let server = project.runner(&arguments).wrapped_in(&["sh", "-c", "umask 037; exec \"$@\"", "sh"]).start();
    assert_eq!(server.get("/").json()["umask"], "0037");
}

#[test]
fn root_may_choose_the_user_and_the_group_of_the_workers() {
    if !is_root() || !is_for_everybody(&venv()) {
        eprintln!("skipped: this needs root, and a virtual environment that everybody can read");
        return;
    }
    let project = Project::with_app(FACTS);
    // The body is written to a file, by the worker.
    let arguments = ["app", "--workers", "1", "--user", "daemon", "--group", "mail"];
    let server = project.serve(&arguments);
    let response = server.post("/", vec![b'a'; 1 << 20]).expect(200).json();
    let daemon = crate::harness::ids("daemon").unwrap();
    assert_eq!(response["uid"], daemon.0);
    assert_eq!(response["gid"], 8);
    server.quit();
    let facts = facts(&project, &["--user", &daemon.0.to_string()]);
    assert_eq!((&facts["uid"], &facts["gid"]), (&daemon.0.into(), &daemon.1.into()));
}

#[test]
fn a_server_starts_as_any_user() {
    if !is_root() || !is_for_everybody(&venv()) || !is_for_everybody(crate::harness::module()) {
        eprintln!("skipped: this needs root, and files that everybody can read");
        return;
    }
    let project = Project::with_app(FACTS);
    fs::set_permissions(project.path("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    let nobody = ["setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups"];
    let arguments = ["app", "--workers", "1", "--pid", "tmp/nginx.pid", "--bind", &project.address()];
    let server = project.runner(&arguments).wrapped_in(&nobody).start();
    let response = server.post("/", vec![b'a'; 1 << 20]).expect(200).json();
    assert_eq!(response["uid"], crate::harness::ids("nobody").unwrap().0);
    let ended = project.runner(&["reload", "--pid", "tmp/nginx.pid"]).wrapped_in(&nobody).run();
    assert!(ended.status.success(), "{}", ended.stderr);
    // Root would run what that user has written.
    let ended = project.runner(&["reload", "--pid", "tmp/nginx.pid"]).run();
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.stderr.contains("belongs to another user; run `ngx-wsgi reload` as that user"), "{}", ended.stderr);
    let ended = project.runner(&["app", "--user", "root"]).wrapped_in(&nobody).run();
    assert!(ended.stderr.contains("--user and --group need root"), "{}", ended.stderr);
}

/// Serves over TLS; returns the server with its URL.
fn serve_tls<'p>(project: &'p Project, options: &[&str]) -> (Server<'p>, String) {
    make_certificate(project.prefix());
    let common = ["app", "--workers", "1", "--certfile", "certificate.pem", "--keyfile", "key.pem"];
    let server = project.serve(&[&common, options].concat());
    (server, format!("https://localhost:{}/", project.port()))
}

#[test]
fn tls_and_http2() {
    let project = Project::with_app(FACTS);
    let (server, url) = serve_tls(&project, &["--http2"]);
    assert!(server.said().contains("serving app on https://127.0.0.1:"), "{}", server.said());
    let resolve = format!("localhost:{}:127.0.0.1", project.port());
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        let response = curl(&["--resolve", &resolve, option, &url]);
        assert_eq!(response.version, version);
        let environ = response.expect(200).json()["environ"].clone();
        assert_eq!((&environ["wsgi.url_scheme"], &environ["HTTPS"]), (&"https".into(), &"on".into()));
    }
    server.quit();
    let (_server, url) = serve_tls(&project, &[]);
    assert_eq!(curl(&["--resolve", &resolve, "--http2", &url]).version, "1.1");
}

#[test]
fn one_file_may_have_the_certificate_and_the_key() {
    let project = Project::with_app(HELLO);
    make_certificate(project.prefix());
    project.write("both.pem", &(project.read("certificate.pem") + &project.read("key.pem")));
    let _server = project.serve(&["app", "--workers", "1", "--certfile", "both.pem"]);
    curl(&[&format!("https://127.0.0.1:{}/", project.port())]).expect(200);
}

#[test]
fn ciphers_and_certificates_of_clients() {
    let project = Project::with_app(HELLO);
    // The certificate of the server is its own authority.
    let options = ["--ca-certs", "certificate.pem", "--cert-reqs", "2", "--ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"];
    let (_server, _) = serve_tls(&project, &options);
    let url = format!("https://127.0.0.1:{}/", project.port());
    let (certificate, key) = (project.path("certificate.pem"), project.path("key.pem"));
    let own = ["--cert", certificate.to_str().unwrap(), "--key", key.to_str().unwrap()];
    curl(&[&url]).expect(400);
    curl(&[&own[..], &[&url]].concat()).expect(200);
    let with = |cipher: &str| {
        let output = Command::new("curl")
            .args(["-q", "-sSk", "--noproxy", "*", "--tls-max", "1.2", "--ciphers", cipher])
            .args(own)
            .arg(&url)
            .output()
            .expect("run curl");
        output.status.success()
    };
    assert!(with("ECDHE-ECDSA-AES128-GCM-SHA256"));
    assert!(!with("ECDHE-ECDSA-AES256-GCM-SHA384"));
}

/// The address and the scheme that the application sees for a request with the headers of a proxy.
fn forwarded(server: &Server<'_>, addresses: &str, scheme: &str) -> (String, String) {
    let headers = [("X-Forwarded-For", addresses), ("X-Forwarded-Proto", scheme)];
    let environ = server.request("GET", "/", &headers, b"").expect(200).json()["environ"].clone();
    let text = |key: &str| environ[key].as_str().unwrap().to_owned();
    (text("REMOTE_ADDR"), text("wsgi.url_scheme"))
}

#[test]
fn proxies_are_believed_if_they_are_named() {
    let project = Project::with_app(FACTS);
    let believed = ("192.0.2.7".to_owned(), "https".to_owned());
    let ignored = ("127.0.0.1".to_owned(), "http".to_owned());
    let server = project.serve(&["app", "--workers", "1"]);
    assert_eq!(forwarded(&server, "192.0.2.7", "https"), believed);
    // The proxies before the one that asks are passed over, the client's own claims are not.
    assert_eq!(forwarded(&server, "198.51.100.1, 192.0.2.7, 127.0.0.1", "https"), believed);
    assert_eq!(forwarded(&server, "192.0.2.7", "ftp").1, "http");
    server.quit();
    let server = project.serve(&["app", "--workers", "1", "--forwarded-allow-ips", "10.0.0.0/8,::1"]);
    assert_eq!(forwarded(&server, "192.0.2.7", "https"), ignored);
    server.quit();
    let runner = project.runner(&["app", "--workers", "1", "--bind", &project.address()]);
    let server = runner.set("FORWARDED_ALLOW_IPS", "10.0.0.1").start();
    assert_eq!(forwarded(&server, "192.0.2.7", "https"), ignored);
    server.quit();
    let server = project.serve(&["app", "--workers", "1", "--forwarded-allow-ips", "*"]);
    assert_eq!(forwarded(&server, "198.51.100.1, 192.0.2.7", "https"), believed);
    assert!(!server.said().contains("[warn]"), "{}", server.said());
}

#[test]
fn a_proxy_on_a_unix_socket_is_believed() {
    let project = Project::with_app(FACTS);
    let _server = project.serve(&["app", "--workers", "1", "--forwarded-allow-ips", "", "--bind", "unix:app.sock"]);
    let socket = project.path("app.sock");
    let headers = ["-H", "X-Forwarded-For: 192.0.2.7", "-H", "X-Forwarded-Proto: https"];
    let request = [&["--unix-socket", socket.to_str().unwrap(), "http://localhost/"], &headers[..]].concat();
    let environ = curl(&request).expect(200).json()["environ"].clone();
    assert_eq!((&environ["REMOTE_ADDR"], &environ["wsgi.url_scheme"]), (&"192.0.2.7".into(), &"https".into()));
}

#[test]
fn static_directories_and_included_directives() {
    let project = Project::with_app(HELLO);
    project.write("files/site.css", "body {}");
    project.write("media/a b.txt", "text");
    project.write("extra.conf", "add_header X-Extra yes;\nlocation = /health { return 204; }\n");
    project.write("more.conf", "location = /more { return 202; }\n");
    let options =
        ["--static", "/static/=files", "--static", "/media=media", "--include", "extra.conf", "--include", "more.conf"];
    let server = project.serve(&[&["app", "--workers", "1"], &options[..]].concat()).errors_expected();
    let style = server.get("/static/site.css").expect(200);
    assert_eq!((style.text(), style.header("Content-Type")), ("body {}".to_owned(), Some("text/css")));
    assert_eq!(server.get("/media/a%20b.txt").expect(200).text(), "text");
    server.get("/static/none.css").expect(404);
    server.get("/static/../app.py").expect(200);
    server.get("/health").expect(204);
    server.get("/more").expect(202);
    let page = server.get("/").expect(200);
    assert_eq!((page.text(), page.header("X-Extra")), ("hello".to_owned(), Some("yes")));
}

#[test]
fn logs_go_where_the_options_say() {
    let slow = HELLO.replace("    start", "    print('called')\n    time.sleep(0.12)\n    start");
    let project = Project::with_app(&format!("import time\n{slow}"));
    let options = ["--access-logfile", "-", "--error-logfile", "error.log"];
    let server = project.serve(&[&["app", "--workers", "1"], &options[..]].concat());
    let agent = [("User-Agent", "\"quoted\""), ("Referer", "r")];
    server.request("GET", "/path?q=1", &agent, b"").expect(200);
    let line = wait_for("the access log", || project.read("logs/stdout").lines().next().map(str::to_owned));
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(line.ends_with(r#"] "GET /path?q=1 HTTP/1.1" 200 5 "r" "\x22quoted\x22""#), "{line}");
    wait_for("the error log", || project.read("error.log").contains("called").then_some(()));
    assert!(!server.said().contains("called"));
    server.quit();

    let format = "%(m)s %(U)s %(q)s %(s)s %({X-Id}i)s %({Content-Type}o)s %(M)s %(D)s";
    let options = ["--access-logfile", "access.log", "--access-logformat", format, "--log-level", "error"];
    let server = project.serve(&[&["app", "--workers", "1"], &options[..]].concat()).errors_expected();
    server.request("POST", "/a?b=c", &[("X-Id", "7")], b"").expect(200);
    let line = wait_for("the access log", || project.read("access.log").lines().next().map(str::to_owned));
    let words: Vec<&str> = line.split(' ').collect();
    assert_eq!(words[..6], ["POST", "/a", "b=c", "200", "7", "text/plain"], "{line}");
    // A tenth of a second and more.
    let milliseconds: u64 = words[6].parse().expect("milliseconds");
    assert!(milliseconds >= 100, "{line}");
    assert_eq!(words[7], (milliseconds * 1000).to_string(), "{line}");
    assert!(!server.said().contains("[notice]"), "{}", server.said());
    server.quit();

    let options = ["--access-logfile", "nginx.log", "--access-logformat", "$wsgi_app {$status}; \"$uri\""];
    let server = project.serve(&[&["app", "--workers", "1"], &options[..]].concat()).errors_expected();
    assert!(server.said().contains("[notice]"), "{}", server.said());
    server.get("/x").expect(200);
    wait_for("the access log", || (project.read("nginx.log") == "app {200}; \"/x\"\n").then_some(()));
}

#[test]
fn an_access_log_on_a_socket_is_copied_there() {
    // As below systemd, whose socket nginx cannot open by name, with the PATH of a unit that names no system directory.
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    let project = Project::with_app(HELLO);
    let (mut journal, output) = UnixStream::pair().unwrap();
    journal.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
    let arguments = ["app", "--workers", "1", "--access-logfile", "-", "--bind", &project.address()];
    let runner = project.runner(&arguments).wrapped_in(&["env", "PATH=/srv/venv/bin"]);
    let server = runner.stdout(output.into()).start();
    server.get("/logged").expect(200);
    server.quit();
    let mut text = String::new();
    journal.read_to_string(&mut text).unwrap();
    assert!(text.contains("\"GET /logged HTTP/1.1\" 200 5"), "{text}");
}

#[test]
fn sendfile_can_be_switched_off() {
    let project = Project::with_app(HELLO);
    for (options, line) in [(&[][..], "sendfile on;"), (&["--no-sendfile"], "sendfile off;")] {
        let printed = project.runner(&[&["config", "app"], options].concat()).run().stdout;
        assert!(printed.contains(line), "{printed}");
    }
}

#[test]
fn the_pid_file_is_that_of_the_master_and_is_removed() {
    let project = Project::with_app(HELLO);
    let server = project.serve(&["app", "--workers", "1", "--pid", "nginx.pid"]);
    assert_eq!(project.master("nginx.pid"), server.process());
    server.quit();
    assert!(!project.path("nginx.pid").exists());
}

#[test]
fn each_option_is_tried_here() {
    let project = Project::new();
    let help = project.runner(&["--help"]).run().stdout;
    let tests: String = ["", "_configuration", "_control", "_django", "_options", "_terminal"]
        .map(|part| fs::read_to_string(crate::harness::in_repository(&format!("tests/suite/runner{part}.rs"))).unwrap())
        .concat();
    let options: Vec<&str> = help
        .lines()
        .filter(|line| line.starts_with("  -"))
        .filter_map(|line| line.split([' ', ',']).find(|word| word.starts_with("--")))
        .collect();
    assert!(options.len() > 40, "{help}");
    for option in options {
        assert!(tests.contains(&format!("\"{option}\"")), "{option} is not tried");
    }
}

#[test]
fn only_the_given_address_is_listened_on() {
    let project = Project::with_app(HELLO);
    let _server = project.serve(&["app", "--workers", "1"]);
    let other = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), project.port()));
    assert!(TcpStream::connect(other).is_err());
}
