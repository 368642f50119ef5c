//! `wsgi_request_buffering off` with HTTP/2.

use crate::harness::{Curl, Nginx, Process, Site, curl, uses_process_group, wait_for};

use crate::streaming::{site, status_of_departure};

use std::process::{Command, Stdio};
use std::time::Duration;

fn http2(site: Site) -> Nginx {
    site.listen("listen 127.0.0.1:@port@ http2; server_name localhost;")
        .file("small", "abcdef")
        .file("large", &"x".repeat(3_000_000))
        .http("client_max_body_size 20m;")
        .start()
}

/// Uploads a file by HTTP/2, with its length or without.
fn upload(nginx: &Nginx, path: &str, file: &str, with_length: bool) -> Curl {
    let (url, file) = (nginx.url(path), nginx.prefix().join(file).display().to_string());
    let mut arguments = vec!["--http2-prior-knowledge", "-X", "POST", "-T", &file];
    if !with_length {
        arguments.extend(["-H", "Content-Length:"]);
    }
    arguments.push(&url);
    curl(&arguments)
}

#[test]
fn http2_bodies_are_read_while_they_come() {
    let nginx = http2(site());
    for with_length in [true, false] {
        assert_eq!(upload(&nginx, "/all", "small", with_length).expect(200).text(), "abcdef");
        assert_eq!(upload(&nginx, "/sum", "large", with_length).expect(200).text(), "3000000");
        let echoed = upload(&nginx, "/echo", "large", with_length).expect(200);
        assert_eq!(echoed.body.len(), 3_000_000);
        let told = if with_length { "started 6" } else { "started None" };
        assert_eq!(nginx.events()[0], told);
        std::fs::remove_file(nginx.prefix().join("events")).unwrap();
    }
}

/// The result of curl for a stream that the server resets without error (RFC 9113, section 8.1) depends on its version.
#[test]
fn http2_bodies_need_not_be_read() {
    let nginx = http2(site());
    for (path, file, size) in [("/ignore", "small", 7), ("/ignore", "large", 7), ("/part", "large", 3)] {
        let file = nginx.prefix().join(file).display().to_string();
        let url = nginx.url(path);
        let mut command = Command::new("curl");
        command.args(["-q", "-s", "--http2-prior-knowledge", "--max-time", "3", "-X", "POST", "-T", &file, &url]);
        command.stdout(Stdio::null()).status().expect("run curl");
        nginx.wait_access(&format!("200 POST {path} {size}"));
        assert_eq!(upload(&nginx, "/sum", "large", true).expect(200).text(), "3000000");
    }
}

#[test]
fn http2_clients_are_slowed_down_and_have_time() {
    let nginx = http2(site().http("client_body_timeout 200ms; client_body_buffer_size 64k;"));
    for with_length in [true, false] {
        let _ = std::fs::remove_file(nginx.prefix().join("go"));
        // While nginx's proxy cannot send more of a body by HTTP/2, it limits the time of the client all the same.
        let files = if uses_process_group() { &["small"][..] } else { &["small", "large"] };
        for file in files {
            std::thread::scope(|scope| {
                let uploaded = scope.spawn(|| upload(&nginx, "/hold", file, with_length));
                std::thread::sleep(Duration::from_millis(600));
                nginx.write("go", "");
                let size = if *file == "small" { 6 } else { 3_000_000 };
                assert_eq!(uploaded.join().unwrap().expect(200).text(), size.to_string(), "{with_length}");
            });
        }
    }
    let worker = Process(nginx.workers()[0]);
    assert!(worker.is_alive());
}

#[test]
fn http2_clients_that_leave_are_an_error_for_the_reader() {
    let nginx = http2(site());
    for with_length in [true, false] {
        let file = nginx.prefix().join("large").display().to_string();
        let mut command = Command::new("curl");
        command.args(["-q", "-s", "--http2-prior-knowledge", "--limit-rate", "100k", "--max-time", "1", "-T", &file]);
        if !with_length {
            command.args(["-H", "Content-Length:"]);
        }
        let left = command.args(["-X", "POST", &nginx.url("/all")]).status().expect("run curl");
        assert!(!left.success());
        wait_for("the error", || nginx.events().into_iter().nth(1));
        assert_eq!(nginx.events()[1], "failed ConnectionResetError");
        nginx.wait_access(&format!("{} POST /all", status_of_departure()));
        std::fs::remove_file(nginx.prefix().join("events")).unwrap();
        std::fs::remove_file(nginx.prefix().join("logs/access.log")).unwrap();
        nginx.signal(libc::SIGUSR1);
    }
}

#[test]
fn http2_limits_of_the_body_are_those_of_nginx() {
    let nginx = http2(site().server("client_max_body_size 1000;").errors_expected());
    let file = nginx.prefix().join("large").display().to_string();
    let url = nginx.url("/all");
    for (with_length, events) in [(true, &[][..]), (false, &["started None", "failed OSError"])] {
        let mut command = Command::new("curl");
        command.args(["-q", "-s", "--http2-prior-knowledge", "--max-time", "5", "-X", "POST", "-T", &file, &url]);
        if !with_length {
            command.args(["-H", "Content-Length:"]);
        }
        command.stdout(Stdio::null()).status().expect("run curl");
        let refused = || nginx.read("logs/access.log").matches("413 POST /all").count();
        wait_for("the refusal", || (refused() == 1 + usize::from(!with_length)).then_some(()));
        // For a process group nginx refuses the body before it has sent the request.
        if !uses_process_group() {
            nginx.wait_events(events);
        }
    }
    assert!(nginx.logged("Traceback").is_empty(), "{}", nginx.error_log());
}
