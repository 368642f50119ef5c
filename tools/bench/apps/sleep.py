"""Waits 10 ms, as for a database; 100 ms with the path /long."""

import time


def application(environ, start_response):
    time.sleep(0.1 if environ["PATH_INFO"] == "/long" else 0.01)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"slept"]
