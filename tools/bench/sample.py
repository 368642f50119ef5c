"""One sample: a server is started alone, checked, loaded for some seconds, measured and stopped."""

import contextlib
import resource
import shutil
import socket
import time

from . import bare_loop, client, cores, processes, settings, wrk
from .client import WrongResponse
from .servers import Site
from .workloads import FILE_SIZE

# The part of the requests that may fail. A server that fails more is not measured, as failing is fast.
FAILED_LIMIT = 0.01


def free_port():
    """Returns a port that no other server has."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Running:
    """The processes of a server that has answered correctly."""

    def __init__(self, groups, site):
        self.groups = groups
        self.site = site

    def cpu(self):
        return sum(group.cpu() for group in self.groups)

    def memory(self):
        return sum(group.memory() for group in self.groups)

    def ended(self):
        return any(group.ended() for group in self.groups)


def log_of(directory):
    """Returns the ends of the logs of a server that did not start."""
    logs = [path.read_text(errors="replace").strip()[-500:] for path in sorted(directory.glob("*.log"))]
    return "\n".join(filter(None, logs))


def wait_for_response(groups, site):
    """Waits until the server sends the right response."""
    end = time.monotonic() + 20
    while True:
        try:
            client.check(site.port, site.workload)
            if site.workload.background and site.serves_application:
                # The application may start later than the static files.
                client.check_status(site.port, site.workload.background[0])
            return
        except (OSError, WrongResponse) as error:
            # A proxy responds with 502 until the server behind it has started.
            ended = any(group.ended() for group in groups)
            if ended or time.monotonic() > end or (isinstance(error, WrongResponse) and "502" not in str(error)):
                raise WrongResponse(f"{error}\n{log_of(site.directory)}") from error
        time.sleep(0.02)


@contextlib.contextmanager
def running(commands, site):
    """Runs the commands of a server while the body of the with statement runs."""
    groups = []
    try:
        for number, command in enumerate(commands):
            log = site.directory / f"output-{number}.log"
            groups.append(processes.Group(command, settings.APPLICATIONS, site.environment(), log))
        wait_for_response(groups, site)
        yield Running(groups, site)
    finally:
        for group in reversed(groups):
            group.stop()


def new_site(workload):
    """Returns an empty directory and a free port."""
    directory = settings.RUN
    shutil.rmtree(directory, ignore_errors=True)
    return Site(workload, free_port(), directory)


def own_cpu():
    """Returns the seconds of CPU of this process and of those that it has waited for, such as wrk."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@contextlib.contextmanager
def background(site):
    """Has a second client use the application, if the workload says so, while the body of the with statement runs."""
    if not site.workload.background or not site.serves_application:
        yield
        return
    script = wrk.write_script(site.directory / "background.lua")
    path, connections = site.workload.background
    other = wrk.Load(script, site.port, path, connections, 60)
    try:
        yield
    finally:
        other.stop()


def load(server, workload, path=None, connections=None, headers=None, seconds=None):
    """Loads a server, and returns the numbers of one sample."""
    site = server.site
    script = wrk.write_script(site.directory / "wrk.lua", workload.upload, headers)
    path, connections = path or workload.path, connections or workload.connections
    seconds = seconds or workload.seconds
    foreign = cores.busy() - server.cpu() - own_cpu()
    with background(site):
        cpu, client_cpu = server.cpu(), own_cpu()
        numbers = wrk.Load(script, site.port, path, connections, seconds).result()
        cpu, client_cpu = server.cpu() - cpu, own_cpu() - client_cpu
    memory = server.memory()
    foreign = cores.busy() - server.cpu() - own_cpu() - foreign
    # Large responses count in parts.
    count = numbers["bytes"] / FILE_SIZE if workload.key == "file" else numbers["requests"]
    if server.ended():
        raise WrongResponse("the server ended under load")
    if not count:
        raise WrongResponse("no response")
    failed = numbers["failed"]
    if failed > FAILED_LIMIT * (numbers["requests"] + failed):
        raise WrongResponse(f"{failed} of {numbers['requests'] + failed} requests failed")
    return {
        "rate": count / numbers["seconds"],
        "p50": numbers["p50"],
        "p99": numbers["p99"],
        "cpu": cpu / count,
        "client": client_cpu / numbers["seconds"],
        "memory": memory,
        "failed": failed,
        "foreign": max(0.0, foreign) / seconds,
    }


def of_server(server, workload):
    """Returns a sample of a server."""
    site = new_site(workload)
    with running(server.commands(site), site) as instance:
        client.warm_up(site.port, workload)
        return load(instance, workload)


def of_loop(loop, workload):
    """Returns a sample of the bare loop."""
    before = cores.busy() - own_cpu()
    rate, cpu, memory = bare_loop.run(loop, workload)
    foreign = cores.busy() - own_cpu() - before
    return {"rate": rate, "cpu": cpu, "memory": memory, "failed": 0, "foreign": max(0.0, foreign) / workload.seconds}


def undisturbed(take, *arguments):
    """Takes a sample, again if other processes computed meanwhile; returns the least disturbed one."""
    best = take(*arguments)
    for _ in range(settings.RETRIES):
        if best["foreign"] <= settings.FOREIGN_LIMIT:
            break
        # What disturbed it may end.
        time.sleep(1)
        best = min(best, take(*arguments), key=lambda sample: sample["foreign"])
    return best
