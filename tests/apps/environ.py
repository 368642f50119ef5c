"""Answers with what it was given: environ's plain values and the type of each, as JSON."""

import json


def application(environ, start_response):
    plain = (str, bool, int, tuple)
    answer = {
        "environ": {k: v for k, v in environ.items() if isinstance(v, plain)},
        "types": {k: type(v).__name__ for k, v in environ.items()},
        "dict": type(environ) is dict,
        "body": environ["wsgi.input"].read().decode("latin-1"),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]
