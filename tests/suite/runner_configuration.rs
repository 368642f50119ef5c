//! `ngx-wsgi config`, gunicorn.conf.py, and values that nginx's configuration has to quote.

use crate::harness::{Project, curl, is_root, make_certificate, wait_for};
use crate::runner::{FACTS, HELLO};

/// All options that have lines in a configuration.
const OPTIONS: [&str; 38] = [
    "app",
    "--workers",
    "2",
    "--threads",
    "2",
    "--timeout",
    "20",
    "--max-requests",
    "1000",
    "--spool-uploads",
    "1m",
    "--static",
    "/static/=files",
    "--include",
    "extra.conf",
    "--env",
    "GREETING=a \"b\" $c; {d}",
    "--access-logfile",
    "access.log",
    "--access-logformat",
    "%(h)s %(D)s",
    "--error-logfile",
    "error.log",
    "--reload",
    "--reload-extra-file",
    "files",
    "--pythonpath",
    "lib",
    "--certfile",
    "certificate.pem",
    "--keyfile",
    "key.pem",
    "--http2",
    "--pid",
    "nginx.pid",
    "--umask",
    "022",
    "--no-sendfile",
];

#[test]
fn the_printed_configuration_is_complete_and_an_nginx_serves_it() {
    if !is_root() {
        eprintln!("skipped: this needs root, as nginx's own directories of temporary files do");
        return;
    }
    let project = Project::with_app(FACTS);
    make_certificate(project.prefix());
    project.write("files/site.css", "body {}");
    project.write("lib/x.py", "");
    project.write("extra.conf", "location = /health { return 204; }\n");
    let printed = project.runner(&[&["config"], &OPTIONS[..], &["--bind", &project.address()]].concat()).run();
    assert!(printed.status.success(), "{}", printed.stderr);
    let text = printed.stdout;
    // No line of it is of the runner's own directory, or of its environment.
    assert!(!text.contains("/tmp/ngx-wsgi-0/") && !text.contains("\"TMPDIR\""), "{text}");
    assert!(text.matches("# ").count() > 10, "{text}");
    project.write("conf/server.conf", &text);
    let configuration = project.path("conf/server.conf");
    let prefix = project.prefix().to_str().unwrap().to_owned() + "/";
    let arguments = ["-e", "logs/start.log", "-p", &prefix, "-c", configuration.to_str().unwrap()];
    let checked = project.nginx(&[&arguments[..], &["-t"]].concat()).run();
    assert!(checked.status.success(), "{}", checked.stderr);
    let started = project.nginx(&arguments).run();
    assert!(started.status.success(), "{}", started.stderr);
    let url = format!("https://localhost:{}", project.port());
    let resolve = format!("localhost:{}:127.0.0.1", project.port());
    let ask = |path: &str| curl(&["--resolve", &resolve, "--http2", &format!("{url}{path}")]);
    let response = ask("/");
    assert_eq!(response.version, "2");
    let facts = response.expect(200).json();
    assert_eq!(facts["variables"]["GREETING"], "a \"b\" $c; {d}");
    assert_eq!(facts["cwd"], project.prefix().to_str().unwrap());
    assert_eq!(ask("/static/site.css").expect(200).text(), "body {}");
    ask("/health").expect(204);
    wait_for("the access log", || project.read("access.log").starts_with("127.0.0.1 ").then_some(()));
    let master = project.master("nginx.pid");
    master.signal(libc::SIGQUIT);
    master.wait_gone();
    // The master ends after its workers.
    wait_for("the end of nginx", || project.processes().is_empty().then_some(()));
}

#[test]
fn gunicorns_file_is_honoured_and_its_hooks_are_named() {
    let project = Project::with_app(FACTS);
    project.write(
        "gunicorn.conf.py",
        r#"
import os
bind = ["127.0.0.1:@port@"]
workers = 2 * 1
threads = 3
raw_env = ["FROM_FILE=" + os.path.basename(__file__)]
wsgi_app = "app:application"
pidfile = "nginx.pid"
tmp_upload_dir = os.path.join(os.path.dirname(__file__), "uploads")
loglevel = "notice"
proc_name = "shop"
preload_app = False

def post_fork(server, worker):
    raise RuntimeError("never runs")

def when_ready(server):
    raise RuntimeError("never runs")
"#,
    );
    let server = project.runner(&["--workers", "1", "--config", "gunicorn.conf.py"]).start();
    assert_eq!(server.get("/").json()["variables"]["FROM_FILE"], "gunicorn.conf.py");
    let said = server.said();
    let lines: Vec<&str> = said.lines().take(6).collect();
    assert!(lines[0].starts_with("ngx-wsgi: gunicorn.conf.py: proc_name has no effect here: "), "{said}");
    assert!(
        lines[1].starts_with("ngx-wsgi: gunicorn.conf.py: the hook post_fork is not supported and does not run: "),
        "{said}"
    );
    assert!(lines[2].starts_with("ngx-wsgi: gunicorn.conf.py: the hook when_ready is not supported"), "{said}");
    // The command line wins.
    assert_eq!(lines[4], "ngx-wsgi: 1 worker, 3 threads each");
    assert!(project.path("uploads").is_dir());
    assert_eq!(project.master("nginx.pid"), server.process());
}

#[test]
fn gunicorns_file_is_found_in_the_current_directory_and_its_mistakes_have_a_line() {
    let project = Project::with_app(HELLO);
    project.write("gunicorn.conf.py", "bind = '127.0.0.1:@port@'\nworkers = 1\n");
    let server = project.runner(&["app"]).start();
    server.get("/").expect(200);
    server.quit();
    project.write("gunicorn.conf.py", "workers = 1\nbind = 1 / 0\n");
    let ended = project.runner(&["app"]).run();
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.stderr.contains("gunicorn.conf.py:2: ZeroDivisionError: division by zero"), "{}", ended.stderr);
    project.write("gunicorn.conf.py", "worker_class = 'gevent'\n");
    let ended = project.runner(&["app"]).run();
    assert!(ended.stderr.contains("gunicorn.conf.py: worker_class is not supported: "), "{}", ended.stderr);
}

#[test]
fn gunicorns_variable_has_options_of_the_command_line() {
    let project = Project::with_app(FACTS);
    let runner = project.runner(&["app", "--bind", &project.address()]);
    let server = runner.set("GUNICORN_CMD_ARGS", "--workers=1 --env 'A=b c'").start();
    assert_eq!(server.get("/").json()["variables"]["A"], "b c");
    assert_eq!(server.workers().len(), 1);
}

/// Names that would end a word, a line or a directive of a configuration, or begin a variable.
const NAMES: [&str; 9] =
    ["a b", "a\"b", "a'b", "a;b", "a{b}", "a\\b\\\"", "a\nb; return 418;", "a#b", "d\u{e9}j\u{e0} \u{4f60}\u{597d}"];

#[test]
fn paths_with_any_character_are_right() {
    for name in NAMES {
        let project = Project::new();
        project.write(&format!("{name}/app.py"), FACTS);
        project.write(&format!("{name}/lib/found.py"), "");
        project.write(&format!("{name}/extra.conf"), "location = /health { return 204; }\n");
        let directory = project.path(name);
        make_certificate(&directory);
        let values =
            [("--chdir", name), ("--pythonpath", "lib"), ("--static", "/static/=."), ("--include", "extra.conf")];
        let files = [("--certfile", "certificate.pem"), ("--keyfile", "key.pem"), ("--error-logfile", "error.log")];
        let more = [("--access-logfile", "access.log"), ("--pid", "nginx.pid"), ("--bind", "unix:app.sock")];
        let variable = format!("NAME={name}");
        let mut arguments = vec!["./app.py", "--workers", "1", "--env", &variable];
        for (option, value) in [&values[..], &files, &more].concat() {
            arguments.extend([option, value]);
        }
        let server = project.serve(&arguments);
        let url = format!("https://127.0.0.1:{}", project.port());
        let facts = curl(&[&format!("{url}/")]).expect(200).json();
        assert_eq!(facts["cwd"], directory.to_str().unwrap());
        assert_eq!(facts["variables"]["NAME"], name);
        assert!(facts["path"].as_array().unwrap().contains(&directory.join("lib").to_str().unwrap().into()));
        curl(&[&format!("{url}/static/app.py")]).expect(200);
        curl(&[&format!("{url}/health")]).expect(204);
        for file in ["error.log", "access.log", "nginx.pid", "app.sock"] {
            assert!(directory.join(file).exists(), "{name:?}: {file}");
        }
        server.quit();
    }
}

#[test]
fn a_variable_of_nginx_in_a_path_is_refused_where_nginx_would_replace_it() {
    let project = Project::new();
    project.write("a$uri/app.py", FACTS);
    project.write("a$uri/files/x", "");
    let directory = project.path("a$uri");
    make_certificate(&directory);
    let server = project.serve(&["app", "--workers", "1", "--chdir", "a$uri"]);
    assert_eq!(server.get("/").json()["cwd"], directory.to_str().unwrap());
    server.quit();
    for options in [
        &["--static", "/files/=files"][..],
        &["--access-logfile", "access.log"],
        &["--certfile", "certificate.pem", "--keyfile", "key.pem"],
    ] {
        let ended = project.runner(&[&["app", "--chdir", "a$uri"], options].concat()).run();
        assert_eq!(ended.status.code(), Some(2), "{options:?}");
        assert!(ended.stderr.contains("nginx takes the $ in it for a variable"), "{}", ended.stderr);
    }
}

#[test]
fn a_static_url_is_a_plain_prefix() {
    let project = Project::with_app(HELLO);
    project.write("files/x", "file");
    for (url, path) in
        [("/a b/", "/a%20b/x"), ("/a\"; return 418; #/", "/a%22;%20return%20418;%20%23/x"), ("/~^.*$/", "/~^.*$/x")]
    {
        let server = project.serve(&["app", "--workers", "1", "--static", &format!("{url}=files")]);
        assert_eq!(server.get(path).expect(200).text(), "file", "{url}");
        assert_eq!(server.get("/other").expect(200).text(), "hello", "{url}");
        server.quit();
    }
}
