"""Responds if no back end is available."""


def application(environ, start_response):
    start_response(
        "503 Service Unavailable",
        [("Content-Type", "text/plain; charset=utf-8"), ("Retry-After", "30")],
    )
    return [b"We are working on it and will be back soon.\n"]
