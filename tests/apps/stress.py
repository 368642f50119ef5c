"""Calls of every kind, which count how they begin and end: what `harness::stress` asks for.

The byte at offset i of a response is i % 251, so that a response that is cut or mixed up is noticed.
"""

import gc
import json
import os
import sys
import threading
import time
import weakref
import zlib

PATTERN = bytes(i % 251 for i in range(251 * 4000))
FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stress.data")
# Several workers may write it at a time, and none is to find half of it.
with open(f"{FILE}.{os.getpid()}", "wb") as file:
    file.write(PATTERN)
os.rename(file.name, FILE)

lock = threading.Lock()
counts = dict.fromkeys(["started", "closed", "complete", "cut", "unread", "unwritten"], 0)
living = weakref.WeakSet()


class Call:
    """Lives as long as its environ, or the response if that lives longer."""


def count(name):
    with lock:
        counts[name] += 1


def pattern(size, block):
    for offset in range(0, size, block):
        start = offset % 251
        yield PATTERN[start : start + min(block, size - offset)]


def dripping(chunks):
    for chunk in chunks:
        time.sleep(0.001)
        yield chunk


class Response:
    def __init__(self, call, chunks, pause=0):
        self.call, self.chunks, self.pause = call, chunks, pause
        self.is_complete = False

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self.chunks)
        except StopIteration:
            self.is_complete = True
            raise

    def close(self):
        time.sleep(self.pause)
        self.chunks.close()
        count("complete" if self.is_complete else "cut")
        count("closed")


def read(body):
    size, checksum = 0, 1
    while piece := body.read(30_000):
        size += len(piece)
        checksum = zlib.adler32(piece, checksum)
    return f"{size} {checksum}".encode()


def written(write, size):
    try:
        for chunk in pattern(size, 20_000):
            write(chunk)
    except OSError:
        count("unwritten")


def state(environ, start_response):
    gc.collect()
    write = start_response("200 OK", [("Content-Type", "application/json")])
    of_calls = type(environ["wsgi.input"]), type(start_response), type(write)
    with lock:
        report = dict(counts, worker=os.getpid(), living=len(living), objects=len(gc.get_objects()), threads=threading.active_count())
    # An instance holds a reference to its class, so these are counts of what lives.
    report["of_calls"] = [sys.getrefcount(each) for each in of_calls]
    report["of_responses"] = [sys.getrefcount(each) for each in (environ["wsgi.file_wrapper"], Response)]
    return [json.dumps(report).encode()]


def application(environ, start_response):
    kind = environ["PATH_INFO"].rpartition("/")[2]
    if kind == "state":
        return state(environ, start_response)
    call = environ["stress.call"] = Call()
    living.add(call)
    count("started")
    size = int(environ["QUERY_STRING"] or 0)
    headers = [("Content-Type", "text/plain")]
    if kind == "closing":
        headers.append(("Content-Length", str(size)))
    if kind == "stream":
        start_response("200 OK", headers)
        return Response(call, pattern(size, 16_000))
    if kind == "drip":
        start_response("200 OK", headers)
        return Response(call, dripping(pattern(size, size // 4 + 1)))
    if kind == "closing":
        start_response("200 OK", headers)
        return Response(call, pattern(size, size), 0.003)
    if kind == "file":
        start_response("200 OK", headers + [("Content-Length", str(size))])
        file = open(FILE, "rb")
        close = file.close

        def closing():
            close()
            count("closed")

        file.close = closing
        return environ["wsgi.file_wrapper"](file)
    # A response without close() is over for the application when it returns.
    try:
        if kind == "read":
            body = read(environ["wsgi.input"])
        if kind == "slow":
            time.sleep(0.003)
        if kind == "asleep":
            time.sleep(3)
        while kind == "stuck":
            time.sleep(0.01)
        write = start_response("200 OK", headers)
        if kind == "read":
            return [body]
        if kind == "write":
            written(write, size)
            return []
        return [PATTERN[:size]]
    except OSError:
        count("unread")
        raise
    finally:
        count("closed")
