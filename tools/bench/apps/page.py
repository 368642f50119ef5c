"""Returns 10 KB."""

BODY = b"0123456789" * 1024


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(BODY)))])
    return [BODY]
