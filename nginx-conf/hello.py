"""A small application that shows data of its request."""


def application(environ, start_response):
    host = environ.get("HTTP_HOST", environ["SERVER_NAME"])
    path = environ["SCRIPT_NAME"] + environ["PATH_INFO"]
    lines = [
        "Hello from Python inside nginx",
        f"url: {environ['wsgi.url_scheme']}://{host}{path}",
        f"client: {environ['REMOTE_ADDR']}",
        "",
    ]
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return ["\n".join(lines).encode("latin-1")]
