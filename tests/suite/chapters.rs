//! The pages of docs/ that are followed step by step: their commands work as they are.

use crate::harness::{Conn, Machine, Page, Response, Site, wait_for};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

/// Returns the shell commands of a page, block by block.
fn blocks(page: &str) -> Vec<String> {
    let blocks = Page::read(page).blocks().into_iter();
    blocks.filter(|block| block.language == "sh").map(|block| block.text).collect()
}

/// Asks a site of the machine; more headers end with a line break each.
fn ask(machine: &Machine, host: &str, request: &str, headers: &str, body: &str) -> Response {
    let address = SocketAddr::from(([127, 0, 0, 1], machine.port()));
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}{length}");
    Conn::open(address).send(format!("{head}\r\n{body}")).response()
}

fn get(machine: &Machine, path: &str) -> Response {
    ask(machine, SITE, &format!("GET {path}"), "", "")
}

/// Runs blocks of a page. A reload of nginx takes a moment: commands that ask are repeated until the response contains `text`.
fn follow(machine: &Machine, blocks: &[String], text: &str) {
    assert!(blocks.iter().any(|block| block.starts_with("curl ")), "{blocks:?}");
    for block in blocks {
        if block.starts_with("curl ") {
            wait_for(&format!("{text:?} of {block}"), || machine.run(block).1.contains(text).then_some(()));
        } else {
            machine.paste(block);
        }
    }
}

const DJANGO: &str = "docs/django.md";
const SITE: &str = "www.example.com";

#[test]
fn the_django_page_makes_a_site_and_the_flask_page_another_beside_it() {
    let machine = Machine::new();
    follow(&machine, &blocks(DJANGO), "Hello from Django\n");
    follow(&machine, &blocks("docs/flask.md"), "Hello from Flask\n");

    assert_eq!(get(&machine, "/").expect(200).text(), "Hello from Django\n");
    let style = get(&machine, "/static/admin/css/base.css").expect(200);
    assert_eq!(style.header("Content-Type"), Some("text/css"));
    fs::write(machine.path("/srv/mysite/media/note.txt"), "noted").unwrap();
    let note = get(&machine, "/media/note.txt").expect(200);
    assert_eq!(note.header("X-Content-Type-Options"), Some("nosniff"));

    // The workers' user writes the database, and what makes entries at the command line is that user.
    let user = format!("sudo -u {} env DJANGO_SUPERUSER_PASSWORD=secret", machine.user());
    machine.paste(&format!(
        "cd /srv/mysite/app; {user} /srv/venv/bin/python manage.py createsuperuser --noinput --username me --email me@localhost"
    ));
    let form = get(&machine, "/admin/login/").expect(200);
    let cookie = form.header("Set-Cookie").unwrap().split(';').next().unwrap().to_owned();
    let token = cookie.split_once('=').unwrap().1;
    let headers = format!("Cookie: {cookie}\r\nContent-Type: application/x-www-form-urlencoded\r\n");
    let login = format!("csrfmiddlewaretoken={token}&username=me&password=secret&next=/admin/");
    ask(&machine, SITE, "POST /admin/login/", &headers, &login).expect(302);
    let log = machine.error_log();
    assert!(!log.contains("Traceback"), "{log}");
}

const MIGRATION: &str = "
from django.db import migrations

def change(apps, schema_editor):
    raise SystemExit(3)

class Migration(migrations.Migration):
    operations = [migrations.RunPython(change)]
";

#[test]
fn a_release_whose_migration_fails_is_not_brought_live() {
    let machine = Machine::new();
    let blocks = blocks(DJANGO);
    let (release, before) = blocks.split_last().unwrap();
    assert_eq!(release, "/srv/mysite/release.sh\n");
    follow(&machine, before, "Hello from Django\n");
    wait_for("the old workers to end", || (machine.workers().len() == 2).then_some(()));

    let workers = machine.workers();
    let reloads = machine.error_log().matches(" reconfiguring\n").count();
    let app = machine.path("/srv/mysite/app/mysite");
    let urls = fs::read_to_string(app.join("urls.py")).unwrap().replace("Hello from", "New");
    let settings = fs::read_to_string(app.join("settings.py")).unwrap() + "\nINSTALLED_APPS.append('mysite')\n";
    fs::write(app.join("urls.py"), urls).unwrap();
    fs::write(app.join("settings.py"), settings).unwrap();
    fs::create_dir(app.join("migrations")).unwrap();
    fs::write(app.join("migrations/__init__.py"), "").unwrap();
    fs::write(app.join("migrations/0001_initial.py"), MIGRATION).unwrap();
    let (succeeded, said) = machine.run(release);
    assert!(!succeeded && said.contains("Applying mysite.0001_initial"), "{said}");
    assert_eq!(machine.workers(), workers, "{said}");
    assert_eq!(machine.error_log().matches(" reconfiguring\n").count(), reloads, "nginx was told to reload");

    fs::write(app.join("migrations/0001_initial.py"), MIGRATION.replace("raise SystemExit(3)", "pass")).unwrap();
    machine.paste(release);
    wait_for("new workers", || machine.workers().iter().all(|worker| !workers.contains(worker)).then_some(()));
    assert_eq!(get(&machine, "/").expect(200).text(), "New Django\n");
}

/// A server that takes a WebSocket's handshake, sends back what it was asked, then what comes.
fn echo(listener: TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut asked = Vec::new();
    let mut byte = [0];
    while !asked.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        asked.push(byte[0]);
    }
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&asked).unwrap();
    stream.read_exact(&mut byte).unwrap();
    stream.write_all(&byte).unwrap();
}

#[test]
fn the_proxy_for_asgi_applications_passes_web_sockets() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let page = Page::read("docs/asgi.md");
    // The application's own URLs are below the location, and uvicorn tells it so.
    assert!(page.text.contains(" --root-path /live\n"));
    let location = page.blocks().into_iter().find(|block| block.language == "nginx").unwrap().text;
    let nginx = Site::plain().server(&location.replace("127.0.0.1:8000", &format!("127.0.0.1:{port}"))).start();
    let server = thread::spawn(|| echo(listener));

    let mut client = TcpStream::connect(nginx.address()).unwrap();
    let asked = "GET /live/x?y HTTP/1.1\r\nHost: www.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    client.write_all(asked.as_bytes()).unwrap();
    let mut said = Vec::new();
    let mut byte = [0];
    while said.windows(4).filter(|end| end == b"\r\n\r\n").count() < 2 {
        client.read_exact(&mut byte).unwrap();
        said.push(byte[0]);
    }
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with("HTTP/1.1 101 "), "{said}");
    for line in ["GET /x?y HTTP/1.1", "Host: www.example.com", "Upgrade: websocket", "Connection: Upgrade"] {
        assert!(said.contains(&format!("{line}\r\n")), "{line} in {said}");
    }
    client.write_all(b"z").unwrap();
    client.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"z");
    server.join().unwrap();
}
