"""Returns as many bytes as the path says."""

import functools


@functools.cache
def body(length):
    return b"x" * length


def application(environ, start_response):
    length = int(environ["PATH_INFO"].strip("/"))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(length))])
    return [body(length)]
