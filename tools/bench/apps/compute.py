"""Computes about 1 ms in Python; ten times that with the path /long."""


def compute(rounds):
    total = 0
    for number in range(rounds):
        total += number * number % 7
    return total


def application(environ, start_response):
    compute(260_000 if environ["PATH_INFO"] == "/long" else 26_000)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "8")])
    return [b"computed"]
