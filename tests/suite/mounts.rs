//! Mount points of an application that several locations of a server have.

use crate::harness::{Engine, Nginx, Site, both_engines};

both_engines!(
    an_inner_location_keeps_the_mount,
    exact_locations_and_regular_expressions_are_within_a_prefix,
    directives_around_an_application_count,
    conditions_are_a_part_of_their_location,
    other_applications_and_servers_have_their_own,
    a_nested_location_has_the_application_only_if_it_names_it,
    the_urls_of_an_application_are_right_in_an_inner_location,
);

const APP: &str = "
def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [(environ['SCRIPT_NAME'] + ' ' + environ['PATH_INFO']).encode('latin-1')]

other = lambda environ, start_response: application(environ, start_response)
";

const PASS: &str = "wsgi_pass app.py;";

fn site(engine: Engine) -> Site {
    Site::new(engine).file("app.py", APP)
}

#[track_caller]
fn assert_mounts(nginx: &Nginx, table: &[(&str, &str)]) {
    for (path, mount) in table {
        let found = nginx.get(path).expect(200).text();
        assert_eq!(found, format!("{mount} {}", path.strip_prefix(mount).unwrap()), "{path}");
    }
}

fn an_inner_location_keeps_the_mount(engine: Engine) {
    // In whatever order they are written.
    let nginx = site(engine)
        .location("/app/admin/static", PASS)
        .location("^~ /app/admin/", &format!("{PASS} client_max_body_size 20m;"))
        .location("/app", PASS)
        .location("/apple", PASS)
        .location("/app/nested/", &format!("{PASS} location /app/nested/deep/ {{ {PASS} }}"))
        .start();
    assert_mounts(
        &nginx,
        &[
            ("/app", "/app"),
            ("/app/", "/app"),
            ("/app/x", "/app"),
            ("/app/admin/x", "/app"),
            ("/app/admin/static/x", "/app"),
            ("/apple/x", "/apple"),
            ("/app/nested/x", "/app"),
            ("/app/nested/deep/x", "/app"),
        ],
    );
    let nginx = site(engine).location("/", PASS).location("/admin/", PASS).start();
    assert_mounts(&nginx, &[("/", ""), ("/admin/", ""), ("/admin/x", "")]);
}

fn exact_locations_and_regular_expressions_are_within_a_prefix(engine: Engine) {
    let inner = format!("location ~ \\.pdf$ {{ {PASS} }} location ~ \\.d/ {{ location ~ \\.d/x {{ {PASS} }} }}");
    let nginx = site(engine)
        .location("/app/", &format!("{PASS} {inner}"))
        .location("= /app", PASS)
        .location("= /app/login", PASS)
        .location("= /outside", PASS)
        .location("~ ^/outside/", PASS)
        .location("/files/", "try_files /nothing @named;")
        .location("@named", PASS)
        .start();
    assert_mounts(
        &nginx,
        &[
            ("/app", "/app"),
            ("/app/login", "/app"),
            ("/app/x.pdf", "/app"),
            ("/app/a.d/x", "/app"),
            ("/outside", ""),
            ("/outside/x", ""),
            ("/files/x", ""),
        ],
    );
}

fn directives_around_an_application_count(engine: Engine) {
    let nginx = site(engine)
        .location("/app/", &format!("{PASS} wsgi_script_name /app/v1;"))
        .location("/app/v1/admin/", PASS)
        .location("/app/v1/own/", &format!("{PASS} wsgi_script_name /app/v1/own;"))
        .location("/app/v1/own/inner/", PASS)
        .location("/app/v1/none/", &format!("{PASS} wsgi_script_name \"\";"))
        .location("/host/", &format!("{PASS} wsgi_script_name /host/$arg_tenant;"))
        .location("/host/a/", PASS)
        .start();
    assert_mounts(
        &nginx,
        &[
            ("/app/v1/x", "/app/v1"),
            ("/app/v1/admin/x", "/app/v1"),
            ("/app/v1/own/x", "/app/v1/own"),
            ("/app/v1/own/inner/x", "/app/v1/own"),
            ("/app/v1/none/x", ""),
        ],
    );
    assert_eq!(nginx.get("/host/a/x?tenant=a").expect(200).text(), "/host/a /x");
    assert_eq!(nginx.get("/host/a/x?tenant=b").expect(200).text(), " /host/a/x");
}

fn conditions_are_a_part_of_their_location(engine: Engine) {
    let nginx = site(engine)
        .location("/app/", PASS)
        .location("/app/if/", &format!("{PASS} if ($arg_other) {{ wsgi_pass app.py other; }}"))
        .location("/app/only/", &format!("if ($arg_yes) {{ {PASS} }}"))
        .location("/app/limited/", &format!("{PASS} limit_except GET {{ {PASS} }}"))
        .start();
    assert_mounts(&nginx, &[("/app/if/x", "/app"), ("/app/limited/x", "/app")]);
    // Another application, which is not mounted around it.
    assert_eq!(nginx.get("/app/if/x?other=1").expect(200).text(), "/app/if /x");
    assert_eq!(nginx.get("/app/only/x?yes=1").expect(200).text(), "/app /only/x");
    assert_eq!(nginx.post("/app/limited/x", "").expect(200).text(), "/app /limited/x");
}

fn other_applications_and_servers_have_their_own(engine: Engine) {
    let nginx = site(engine)
        .listen("listen 127.0.0.1:@port@ default_server; server_name localhost;")
        .file("another.py", APP)
        .location("/", "wsgi_pass another.py;")
        .location("/app/", PASS)
        .location("/app/other/", "wsgi_pass app.py other;")
        .http("server { listen 127.0.0.1:@port@; server_name other; location / { wsgi_pass app.py; } }")
        .start();
    assert_mounts(&nginx, &[("/x", ""), ("/app/x", "/app"), ("/app/other/x", "/app/other")]);
    assert_eq!(nginx.request("GET", "/app/x", &[("Host", "other")], b"").expect(200).text(), " /app/x");
}

fn the_urls_of_an_application_are_right_in_an_inner_location(engine: Engine) {
    let app = "
from wsgiref.util import application_uri, request_uri

def application(environ, start_response):
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [f'{application_uri(environ)} {request_uri(environ)}'.encode()]
";
    let nginx = Site::new(engine).app(app).location("/admin/", "wsgi_pass app.py; client_max_body_size 1g;").start();
    let base = nginx.url("");
    assert_eq!(nginx.get("/admin/login").expect(200).text(), format!("{base}/ {base}/admin/login"));
}

fn a_nested_location_has_the_application_only_if_it_names_it(engine: Engine) {
    // One application with two values would be refused.
    let nested = "location /app/files/ { wsgi_env NAME inner; }";
    let nginx = site(engine)
        .file("html/app/files/x", "a file")
        .location("/app/", &format!("{PASS} wsgi_env NAME outer; {nested}"))
        .start();
    assert_mounts(&nginx, &[("/app/x", "/app")]);
    assert_eq!(nginx.get("/app/files/x").expect(200).text(), "a file");
}
