"""A second application: a factory, and a middleware for it."""


def create_api(name="api"):
    def application(environ, start_response):
        text = f"{name}: mounted at {environ['SCRIPT_NAME']!r}, asked for {environ['PATH_INFO']!r}\n"
        start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
        return [text.encode("latin-1")]

    return application


def middleware(application):
    """Wraps an application; this one adds a header to every response."""

    def wrapped(environ, start_response):
        def with_header(status, headers, exc_info=None):
            return start_response(status, [*headers, ("X-Api-Version", environ.get("api.version", "1"))], exc_info)

        return application(environ, with_header)

    return wrapped
