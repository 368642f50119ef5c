//! Callables that are no WSGI applications: they are refused when they are loaded, and not at every request.

use crate::harness::{Engine, Site, both_engines, venv};

both_engines!(any_wsgi_callable_is_served, a_worker_says_the_same);

const SOURCE: &str = r#"
import functools
import unittest.mock

def respond(environ, start_response, body=b"fine"):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]

# ASGI.
async def function(scope, receive, send):
    pass

async def generator(environ, start_response):
    yield b""

class Instance:
    async def __call__(self, scope, receive, send):
        pass

instance = Instance()
method = instance.__call__
bound = functools.partial(function, None)

def three(scope, receive, send):
    pass

# Factories.
def create_app():
    return respond

def create_with_default(config=None):
    return respond

class Application:
    def __call__(self, environ, start_response):
        return respond(environ, start_response)

def create_async():
    return instance

def request_only(request):
    pass

# Applications.
def defaults(environ, start_response=None, more=None):
    return respond(environ, start_response)

def any_number(*arguments):
    return respond(*arguments)

def three_wanted(environ, start_response, body):
    return respond(environ, start_response, body)

partial = functools.partial(three_wanted, body=b"fine")
first = functools.partial(lambda config, *arguments: respond(*arguments), "config")

def give_body(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments, b"fine")
    return wrapper

decorated = give_body(three_wanted)

@functools.wraps(function)
def of_asynchronous(environ, start_response):
    return respond(environ, start_response)

class Iterates:
    def __init__(self, environ, start_response):
        self.response = respond(environ, start_response)

    def __iter__(self):
        return iter(self.response)

class Anything:
    def __getattr__(self, name):
        raise RuntimeError(name)

    def __call__(self, *arguments):
        return respond(*arguments)

anything = Anything()
made = Application()
static = type("Static", (), {"__call__": staticmethod(respond)})()
mock = unittest.mock.MagicMock(side_effect=respond)
specified = unittest.mock.create_autospec(respond, side_effect=respond)

class Signature:
    # A wrong signature.
    import inspect
    __signature__ = inspect.signature(three)

    def __call__(self, environ, start_response):
        return respond(environ, start_response)

signature = Signature()

# Middleware.
def middleware(application):
    return respond

def asynchronous(application):
    return instance

def same(application):
    return application
"#;

const ASGI: &str = "looks like an ASGI application; this module runs WSGI: proxy_pass to a server for ASGI";

/// The application of `app.py` that `wsgi_pass` names so.
fn site(site: Site, directives: &str) -> Site {
    site.file("app.py", SOURCE).http("wsgi_python_path @prefix@;").location("/", directives)
}

#[track_caller]
fn assert_refused(directives: &str, why: &str) {
    let check = site(Site::plain().http("wsgi_check on;"), directives).check();
    assert!(!check.ok, "accepted: {directives}");
    let said = check.output.lines().any(|line| line.contains("[emerg] wsgi_pass") && line.contains(why));
    assert!(said, "wanted: {why}\ngot: {}", check.output);
}

#[test]
fn asgi_is_refused() {
    for name in ["function", "generator", "instance", "method", "bound", "three"] {
        assert_refused(&format!("wsgi_pass app.py {name};"), &format!("TypeError: '{name}' {ASGI}"));
    }
    assert_refused("wsgi_pass app.py create_async();", &format!("what create_async() returned {ASGI}"));
    assert_refused(
        "wsgi_pass app.py made; wsgi_middleware app asynchronous;",
        &format!("what middleware 'asynchronous' of 'app' returned {ASGI}"),
    );
    // A result that it passes on is not its own.
    assert_refused("wsgi_pass app.py instance; wsgi_middleware app same;", &format!("'instance' {ASGI}"));
}

#[test]
fn django_has_another_callable_for_wsgi() {
    let source = "
from django.conf import settings
from django.core.asgi import get_asgi_application
settings.configure()
application = get_asgi_application()
";
    let site = Site::plain().http("wsgi_check on;").http(&format!("wsgi_python_home {};", venv().display()));
    let check = site.app(source).check();
    assert!(!check.ok && check.output.contains("use Django's get_wsgi_application"), "{}", check.output);
}

#[test]
fn a_factory_is_refused_with_how_to_write_it() {
    for name in ["create_app", "create_with_default", "Application"] {
        let why = format!("'{name}' looks like a factory, as it needs no arguments: write \"{name}()\"");
        assert_refused(&format!("wsgi_pass app.py {name};"), &why);
        assert_refused(&format!("wsgi_pass app:{name};"), &why);
    }
    for fine in ["create_app()", "create_with_default()", "Application()"] {
        site(Site::plain().http("wsgi_check on;"), &format!("wsgi_pass app.py {fine};")).check().assert_ok();
    }
    let why = "'request_only' cannot be called as application(environ, start_response): it takes 1 argument(s)";
    assert_refused("wsgi_pass app.py request_only;", why);
}

fn any_wsgi_callable_is_served(engine: Engine) {
    let names = [
        "respond",
        "defaults",
        "any_number",
        "partial",
        "first",
        "decorated",
        "of_asynchronous",
        "Iterates",
        "anything",
        "made",
        "made.__call__",
        "static",
        "mock",
        "specified",
        "signature",
    ];
    let mut all = Site::new(engine).http("wsgi_python_path @prefix@;").file("app.py", SOURCE);
    for name in names {
        all = all.location(&format!("/{name}"), &format!("wsgi_pass app.py {name};"));
    }
    // The object returned by the outermost middleware is called.
    let nginx = all
        .location("/around", "wsgi_pass app.py instance; wsgi_middleware app;")
        .location("/outer", "wsgi_pass app.py made; wsgi_middleware app; wsgi_middleware app asynchronous;")
        .start();
    for path in names.into_iter().chain(["around", "outer"]) {
        assert_eq!(nginx.get(&format!("/{path}")).expect(200).text(), "fine", "{path}");
    }
}

fn a_worker_says_the_same(engine: Engine) {
    let nginx = site(Site::new(engine), "wsgi_pass app.py instance;")
        .location("/fine", "wsgi_pass app.py;")
        .file("app.py", &format!("{SOURCE}\napplication = respond\n"))
        .errors_expected()
        .start();
    nginx.get("/").expect(500);
    assert!(nginx.wait_log("could not be loaded").contains(&format!("'instance' {ASGI}")), "{}", nginx.error_log());
    assert_eq!(nginx.get("/fine").expect(200).text(), "fine");
}
