"""A client that checks responses, and one that sends an exact number of requests."""

import hashlib
import http.client
import time

from . import request


class WrongResponse(Exception):
    """A server that does not send what the workload demands, or does not start."""


def connect(port):
    return http.client.HTTPConnection("127.0.0.1", port, timeout=30)


def send(connection, path, upload, headers=None):
    """Sends one request and returns the response."""
    method = "POST" if upload else "GET"
    connection.request(method, path, body=request.upload(upload) or None, headers=headers or request.HEADERS)
    return connection.getresponse()


def check(port, workload):
    """Compares a response with what the workload expects, byte for byte."""
    connection = connect(port)
    try:
        response = send(connection, workload.path, workload.upload)
        if response.status != 200:
            raise WrongResponse(f"status {response.status}")
        if isinstance(workload.body, bytes):
            correct = response.read() == workload.body
        else:
            length, file = workload.body
            digest, received = hashlib.sha256(), 0
            while piece := response.read(1 << 20):
                digest.update(piece)
                received += len(piece)
            correct = received == length and digest.hexdigest() == file()[1]
        if not correct:
            raise WrongResponse("another response body")
    except http.client.HTTPException as error:
        raise WrongResponse(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()


def check_status(port, path):
    """Requests a path, whose response has to have the status 200."""
    connection = connect(port)
    try:
        response = send(connection, path, 0)
        response.read()
        if response.status != 200:
            raise WrongResponse(f"status {response.status} of {path}")
    except http.client.HTTPException as error:
        raise WrongResponse(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()


def warm_up(port, workload, seconds=0.2):
    """Sends requests until Python and the allocators have what they keep."""
    end = time.monotonic() + seconds
    connection = connect(port)
    while time.monotonic() < end:
        send(connection, workload.path, workload.upload).read()
    connection.close()


def exactly(count, port, path="/", upload=0):
    """Sends a number of requests one after another, and returns the seconds that they took."""
    connection = connect(port)
    start = time.monotonic()
    for _ in range(count):
        response = send(connection, path, upload)
        while response.read(1 << 20):
            pass
        if response.status != 200:
            raise WrongResponse(f"status {response.status}")
    connection.close()
    return time.monotonic() - start
