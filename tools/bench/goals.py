"""The goals of the project, and whether a run reaches them."""

from collections.abc import Callable
from dataclasses import dataclass

from .servers import SERVERS

OURS = ("inline", "threads")
GROUPS = ("group-inline", "group")
PEERS = [server.key for server in SERVERS if server.key not in ("nginx", *OURS, *GROUPS)]
THREADED_PEERS = [server.key for server in SERVERS if server.key in PEERS and server.threaded]


@dataclass(frozen=True)
class Goal:
    workload: str
    server: str
    text: str
    # What a summary has for it, and the least or most that is wanted.
    value: Callable
    least: float | None = None
    most: float | None = None

    def reached(self, value):
        return value >= self.least if self.least is not None else value <= self.most

    def shown(self, value):
        return f"{value:.1f} MB" if "MB" in self.text else f"{value:.2f}"


def against(workload, server, other, least, text=None):
    """Returns the goal of a ratio to another server, or to L."""
    return Goal(
        workload, server, text or f"≥ {least:.2f} of {other}", lambda run: run.ratio(workload, server, other), least
    )


def against_best(workload, server, others, least, text):
    """Returns the goal of a ratio to the fastest of several servers."""

    def value(run):
        best = run.best(workload, others)
        return run.ratio(workload, server, best) if best else None

    return Goal(workload, server, text, value, least)


def memory(workload, server, most):
    """Returns the goal of a worker's memory beyond nginx, the interpreter and the application."""

    def value(run):
        own = run.own_memory(workload, server)
        return None if own is None else own / 1e6

    return Goal(workload, server, f"memory of its own ≤ {most} MB", value, most=most)


def goals():
    for workload in ("hello", "page", "environ"):
        yield against(workload, "inline", "L", 0.9)
        yield against(workload, "inline", "fastpysgi", 1.0, "level with fastpysgi")
        yield against(workload, "threads", "L", 0.75)
    for workload in ("flask", "django"):
        yield against(workload, "inline", "L", 0.92)
        yield against_best(workload, "inline", PEERS, 1.0, "above each other server")
        yield against(workload, "threads", "L", 0.85)
        yield against_best(workload, "threads", THREADED_PEERS, 1.0, "above each other server with threads")
        yield against(workload, "threads", "fastpysgi", 1.0, "level with fastpysgi")
    yield against("post", "inline", "L", 0.9)
    yield against("post", "threads", "L", 0.8)
    for server in OURS:
        yield against("post", server, "fastpysgi", 1.0, "above fastpysgi")
    for server in OURS:
        yield against("stream", server, "nginx-uwsgi", 2.0, "2 × uWSGI behind nginx")
    for server in OURS:
        yield against("file", server, "nginx", 0.95, "≥ 0.95 of nginx's static file")
    for workload in ("static-sleep", "static-compute"):
        yield against(workload, "threads", "nginx", 0.95, "≥ 0.95 of nginx alone")
        yield Goal(
            workload,
            "threads",
            "99th percentile ≤ 1.1 of nginx alone",
            lambda run, workload=workload: run.ratio(workload, "threads", "nginx", "p99"),
            most=1.1,
        )
    yield Goal(
        "sleep", "threads", "≥ 0.97 of 8 / 10 ms", lambda run: (run.middle("sleep", "threads") or 0) / 800 or None, 0.97
    )
    yield memory("hello", "inline", 2)
    yield memory("hello", "threads", 4)
