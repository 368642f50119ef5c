"""Responds with the plain values of environ and the type of each, as JSON."""

import json


def application(environ, start_response):
    plain = (str, bool, int, tuple)
    body = {
        "environ": {k: v for k, v in environ.items() if isinstance(v, plain)},
        "types": {k: type(v).__name__ for k, v in environ.items()},
        "dict": type(environ) is dict,
        "body": environ["wsgi.input"].read().decode("latin-1"),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]
