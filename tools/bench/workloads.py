"""The workloads: an application, the request, and the response that each server has to send byte for byte."""

import functools
import hashlib
from dataclasses import dataclass, field

from . import settings

FILE_SIZE = 100_000_000
UPLOAD_SIZE = 65536


@dataclass(frozen=True)
class Workload:
    key: str
    title: str
    application: str
    # The response, or its length and SHA-256 if it is large.
    body: object
    path: str = "/"
    upload: int = 0
    threads: int = settings.THREADS
    connections: int = settings.CONNECTIONS
    # What nginx alone does in the same place: "return", "file", or "" if it has nothing like it.
    nginx: str = "return"
    # Whether the bare loop runs this application.
    loop: bool = True
    # Servers that take part: "all", "threaded", or "files" for those that serve static files as well.
    servers: str = "all"
    # A path that one more client asks for meanwhile, and its connections.
    background: tuple = ()
    # The unit of the first column.
    unit: str = "requests/s"
    seconds: int = field(default=settings.SECONDS)


@functools.cache
def large_file():
    """Returns the path and SHA-256 of a file of 100 MB, which is made once."""
    path = settings.BASE / "files/large"
    path.parent.mkdir(parents=True, exist_ok=True)
    block = hashlib.shake_256(b"benchmark").digest(1_000_000)
    if not path.exists() or path.stat().st_size != FILE_SIZE:
        with open(path, "wb") as file:
            for _ in range(FILE_SIZE // len(block)):
                file.write(block)
    digest = hashlib.sha256()
    for _ in range(FILE_SIZE // len(block)):
        digest.update(block)
    return path, digest.hexdigest()


PAGE = b"0123456789" * 1024


def make_static_file():
    """Writes the small static file."""
    path = settings.BASE / "files/static/page.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PAGE)


WORKLOADS = [
    Workload("hello", "Hello", "hello", b"hello"),
    Workload("page", "10 KB", "page", PAGE),
    Workload("environ", "environ is read", "reads_environ", b"read"),
    Workload("flask", "Flask", "flask_app", b"Hello from Flask"),
    Workload("django", "Django", "django_app", b"Hello from Django"),
    Workload("post", "POST of 64 KB", "post", b"65536", upload=UPLOAD_SIZE),
    Workload("stream", "100 chunks of 1 KB", "stream", b"x" * 102400, nginx=""),
    Workload(
        "file",
        "file_wrapper, 100 MB",
        "file",
        (FILE_SIZE, large_file),
        nginx="file",
        loop=False,
        connections=4,
        unit="MB/s",
        seconds=2 * settings.SECONDS,
    ),
    Workload(
        "static-sleep",
        "Static file while the application sleeps",
        "sleep",
        PAGE,
        path="/static/page.txt",
        nginx="file",
        loop=False,
        servers="files",
        background=("/long", settings.THREADS),
    ),
    Workload(
        "static-compute",
        "Static file while the application computes",
        "compute",
        PAGE,
        path="/static/page.txt",
        nginx="file",
        loop=False,
        servers="files",
        background=("/long", 1),
    ),
    Workload(
        "sleep", "10 ms of sleep, 8 threads", "sleep", b"slept", nginx="", loop=False, servers="threaded", threads=8
    ),
    Workload("compute", "1 ms of Python", "compute", b"computed"),
]
