"""Yields 100 chunks of 1 KB, without a Content-Length."""

CHUNK = b"x" * 1024


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    for _ in range(100):
        yield CHUNK
