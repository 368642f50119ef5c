"""Calls a WSGI application in a loop, as a server would that costs nothing itself: what Python and the application need.

Arguments: the directory and the module of the application, the number of calls, and the environ as JSON. After each line
on stdin it makes these calls and prints a line.
"""

import gc
import importlib
import io
import json
import sys

directory, module, count, environ = sys.argv[1:]
sys.path.insert(0, directory)
application = importlib.import_module(module).application
gc.freeze()
template = json.loads(environ) | {
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.errors": sys.stderr,
    "wsgi.multithread": False,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
}


def start_response(status, headers, exc_info=None):
    global response_status
    response_status = status


def call(times):
    for _ in range(times):
        response = application({**template, "wsgi.input": io.BytesIO()}, start_response)
        for body in response:
            pass
        close = getattr(response, "close", None)
        if close is not None:
            close()
    return body


for _ in sys.stdin:
    call(int(count))
    assert response_status == "200 OK"
    print("done", flush=True)
