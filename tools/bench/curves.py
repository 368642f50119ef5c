"""The curves of `make bench-growth`: what grows, and how one point of a curve is measured."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from . import client, sample, servers, settings
from .workloads import WORKLOADS, Workload

BY_KEY = {workload.key: workload for workload in WORKLOADS}
HELLO = BY_KEY["hello"]
INLINE, THREADS = "wsgi_threads off", "threads"
ENGINES = {INLINE: "off", THREADS: settings.THREADS}
NGINX = "nginx alone"

# Bodies from this size on are measured with a fixed number of requests on one connection.
LARGE = 1_000_000
PER_MB = (1_000_000, "per MB")
SIZES = (1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)


def command(site, engine, **options):
    """Returns the commands of nginx alone or of an engine of the module."""
    return servers.nginx(site, **options) if engine == NGINX else [servers.ours(site, ENGINES[engine], **options)]


def measured(workload, commands, **load):
    """Starts a server, and returns a sample with the CPU time that the start took."""
    site = sample.new_site(workload)
    with sample.running(commands(site), site) as instance:
        start = settled(instance)
        client.warm_up(site.port, workload)
        return {**sample.load(instance, workload, **load), "start": start}


def settled(instance):
    """Waits until a server has started completely, and returns the CPU time that it took.

    A server responds to the first request while its other workers and interpreters still import their applications.
    """
    end = time.monotonic() + 30
    used = instance.cpu()
    while time.monotonic() < end:
        time.sleep(0.2)
        before, used = used, instance.cpu()
        if used == before:
            break
    return used


def request_headers(engine, count):
    headers = {f"X-Header-{number}": f"value-{number}" for number in range(count)}
    return measured(HELLO, lambda site: command(site, engine), headers=headers)


def of_size(workload, engine, size):
    """Returns the sample of a request with a large body, or with a large response."""
    if size < LARGE:
        return measured(workload, lambda site: command(site, engine))
    site = sample.new_site(workload)
    with sample.running(command(site, engine), site) as instance:
        count = max(10, 500_000_000 // size)
        cpu = instance.cpu()
        seconds = client.exactly(count, site.port, workload.path, workload.upload)
        cpu = instance.cpu() - cpu
        return {"rate": count / seconds, "cpu": cpu / count, "memory": instance.memory()}


def responses(engine, size):
    return of_size(Workload("sized", "", "sized", b"x" * size, path=f"/{size}"), engine, size)


def uploads(engine, size):
    return of_size(replace(BY_KEY["post"], body=b"%d" % size, upload=size), engine, size)


def connections(engine, count):
    # The sample is longer with more connections, as each has to be opened, and waits for all others.
    seconds = 2 * settings.SECONDS + count // 2500
    # By default 1000 calls wait at most; here each connection has one.
    options = {} if engine == NGINX else {"http": ["wsgi_queue 20000;"]}
    return measured(
        HELLO,
        lambda site: command(site, engine, connections=15_000, **options),
        connections=count,
        seconds=seconds,
    )


def threads(_engine, count):
    """Returns a sample of hello, with the rate of an application that sleeps."""
    hello = measured(replace(HELLO, threads=count), lambda site: [servers.ours(site, count)])
    sleep = replace(BY_KEY["sleep"], threads=count, connections=2 * count)
    return {**hello, "sleep": measured(sleep, lambda site: [servers.ours(site, count)])["rate"]}


def applications(kind, count):
    """Returns a sample of the last of several applications."""
    source = (settings.APPLICATIONS / "hello.py").read_text()
    workload = replace(HELLO, path=f"/{count - 1}")

    def commands(site):
        locations = []
        for number in range(count):
            path = site.directory / f"application_{number}.py"
            path.write_text(source)
            locations.append(f"location /{number} {{ wsgi_pass {path}; }}")
        http = ["wsgi_enable_subinterpreters on;"] if kind != "one interpreter" else []
        return [servers.ours(site, settings.THREADS, http, server=locations)]

    return measured(workload, commands)


def workers(engine, count):
    return measured(HELLO, lambda site: [servers.ours(site, ENGINES[engine], workers=count)])


CPU, MEMORY, START = ("cpu", 1e6, "CPU µs a request"), ("memory", 1e-6, "memory MB"), ("start", 1, "start, CPU s")
SLEEP = ("sleep", 1, "requests/s with 10 ms of sleep")


@dataclass(frozen=True)
class Curve:
    key: str
    title: str
    unit: str
    points: tuple
    kinds: tuple
    measure: Callable
    # Names in a sample, the factor to the unit that is shown, and the heading.
    columns: tuple
    # In what units a slope is given.
    each: tuple = (1, "each")


CURVES = [
    Curve(
        "headers",
        "Request headers",
        "headers",
        (1, 10, 50, 100, 200),
        (NGINX, INLINE, THREADS),
        request_headers,
        (CPU,),
    ),
    Curve("responses", "Response body", "bytes", SIZES, (INLINE, THREADS), responses, (CPU, MEMORY), PER_MB),
    Curve("uploads", "Request body", "bytes", SIZES, (INLINE, THREADS), uploads, (CPU, MEMORY), PER_MB),
    Curve(
        "connections",
        "Connections",
        "connections",
        (1, 10, 100, 1000, 10_000),
        (NGINX, INLINE, THREADS),
        connections,
        (CPU, MEMORY),
    ),
    Curve("threads", "Threads", "threads", (1, 2, 4, 8, 16, 32, 64), (THREADS,), threads, (CPU, SLEEP, MEMORY)),
    Curve(
        "applications",
        "Applications",
        "applications",
        (1, 10, 25, 50),
        ("one interpreter", "an interpreter each"),
        applications,
        (CPU, START, MEMORY),
    ),
    Curve(
        "workers", "Workers, on one core", "workers", (1, 2, 4, 8, 16), (INLINE, THREADS), workers, (CPU, START, MEMORY)
    ),
]
