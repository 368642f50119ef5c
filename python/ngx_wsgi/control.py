"""`ngx-wsgi reload`, `stop` and `status`."""

import os
import select
import signal
import time

from . import state as states
from .problem import Problem
from .server import check, counted, say

# A reload imports the application in the master once more and then in each worker.
RELOAD_PATIENCE = 120


def find(pidfile):
    """Returns the server of the file, or the only one of this user. Raises Problem."""
    if pidfile:
        return server_of_file(pidfile)
    servers = states.running_servers()
    if not servers:
        raise Problem("no server of this user is running; name the server of another one with --pid FILE, as root.")
    if len(servers) > 1:
        listed = "; ".join(map(description, servers))
        raise Problem(f"several servers of this user are running, name one with --pid NUMBER or --pid FILE: {listed}.")
    return servers[0]


def description(server):
    return f"{server.pid} serves {server.state.target} on {' '.join(server.state.addresses)}"


def server_of_file(pidfile):
    """Returns the server whose process ID is in the file, or is given itself. Raises Problem."""
    text = pidfile
    if not pidfile.isdigit() or os.path.exists(pidfile):
        try:
            with open(pidfile, encoding="ascii", errors="replace") as file:
                text = file.read().strip()
        except FileNotFoundError:
            raise Problem(f"--pid {pidfile}: there is no such file, so the server is not running.") from None
        except OSError as error:
            raise Problem(f"--pid {pidfile}: {error.strerror}.") from None
    server = states.server_of(int(text)) if text.isdigit() else None
    if not server:
        raise Problem(
            f"--pid {pidfile}: {text!r} is no server that this user may control; it has ended, or belongs to another."
        )
    return server


def reload(pidfile):
    """Checks the configuration and the application, then lets nginx load them again, until all workers are new."""
    server = find(pidfile)
    # The check runs the program, and the code, that the user of the server has chosen.
    if server.owner != os.geteuid():
        raise Problem(f"the server {server.pid} belongs to another user; run `ngx-wsgi reload` as that user.")
    if not check(server.state):
        say("not reloaded, for the reason above; the running workers keep serving.")
        return 1
    before = states.workers_of(server.pid)
    send(server, signal.SIGHUP)
    end = time.monotonic() + RELOAD_PATIENCE
    while time.monotonic() < end:
        now = states.workers_of(server.pid)
        if len(now) >= server.state.workers and not now & before:
            say(f"reloaded {server.state.target}: {counted(len(now), 'new worker')}")
            return 0
        time.sleep(0.02)
    raise Problem(
        f"nginx ({server.pid}) has not replaced its workers within {RELOAD_PATIENCE} seconds; see its error log."
    )


def stop(pidfile, at_once):
    """Waits until the server has ended: after its running requests, or at once."""
    server = find(pidfile)
    patience = 10 if at_once else server.state.graceful_timeout + 10
    try:
        descriptor = os.pidfd_open(server.pid)
    except ProcessLookupError:
        return 0
    send(server, signal.SIGTERM if at_once else signal.SIGQUIT)
    ended, _, _ = select.select([descriptor], [], [], patience)
    if not ended:
        raise Problem(
            f"nginx ({server.pid}) is still running after {patience} seconds; `ngx-wsgi stop --now` ends its requests."
        )
    say(f"stopped {server.state.target}")
    return 0


def send(server, number):
    try:
        os.kill(server.pid, number)
    except ProcessLookupError:
        raise Problem(f"the server {server.pid} has just ended.") from None
    except PermissionError:
        raise Problem(f"the server {server.pid} belongs to another user; run this as root or as that user.") from None


def status(pidfile):
    """Prints a line for each server. Returns 1 if there is none."""
    servers = [server_of_file(pidfile)] if pidfile else states.running_servers()
    for server in servers:
        state = server.state
        workers = counted(len(states.workers_of(server.pid)), "worker")
        print(f"{server.pid}  {state.target}  {' '.join(state.addresses)}  {workers}")
    if not servers:
        say("no server of this user is running.")
        return 1
    return 0
