"""Returns the file that BENCH_FILE names with wsgi.file_wrapper, or in pieces where the server has none."""

import os

PATH = os.environ["BENCH_FILE"]


def application(environ, start_response):
    file = open(PATH, "rb")
    length = os.fstat(file.fileno()).st_size
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(length))])
    wrapper = environ.get("wsgi.file_wrapper")
    return wrapper(file, 65536) if wrapper else iter(lambda: file.read(65536), b"")
