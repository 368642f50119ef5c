"""How a running server was started, for `reload`, `stop` and `status`.

nginx keeps a memory file open from its start to its end, so that nothing is left of a server that was killed, and
secrets of the environment are in no directory. The kernel shows the file to those who may read the memory of nginx.
"""

import fcntl
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

NAME = "ngx-wsgi"
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


@dataclass
class State:
    target: str
    addresses: list[str]
    # nginx with its arguments; one more, such as -t, may be added.
    command: list[str]
    environment: dict[str, str]
    umask: int
    workers: int
    graceful_timeout: int


@dataclass
class Server:
    pid: int
    owner: int
    state: State


def keep(state):
    """Writes the state to a memory file that the programs started from here inherit. Returns its descriptor."""
    descriptor = os.memfd_create(NAME, os.MFD_ALLOW_SEALING)
    with open(descriptor, "w", encoding="ascii", closefd=False) as file:
        json.dump(asdict(state), file)
    # The workers have it too, perhaps with another user, and must not choose what a reload by root runs.
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    os.set_inheritable(descriptor, True)
    return descriptor


def running_servers():
    """Returns the servers of this user: the masters of nginx that have a state."""
    own = os.geteuid()
    servers = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (server := server_of(int(entry.name), own)):
            servers.append(server)
    return sorted(servers, key=lambda server: server.pid)


def server_of(pid, owner=None):
    """Returns the server whose master has this number, or None."""
    process = Path(f"/proc/{pid}")
    try:
        found_owner = owner_of(process)
        if found_owner is None or owner not in (None, found_owner):
            return None
        if not (process / "cmdline").read_bytes().startswith(b"nginx: master process"):
            return None
        for descriptor in (process / "fd").iterdir():
            if os.readlink(descriptor).startswith(f"/memfd:{NAME} "):
                return Server(pid, found_owner, State(**json.loads(descriptor.read_text(encoding="ascii"))))
    except (OSError, TypeError, ValueError):
        # It has just ended, belongs to another user, or is of another version.
        pass
    return None


def owner_of(process):
    """Returns the user of a process, or None if it has several.

    A program such as su is root's by its effective user, but its caller chooses its title and its open files.
    """
    users = re.search(r"^Uid:(.*)$", (process / "status").read_text(errors="replace"), re.MULTILINE)[1].split()
    return int(users[0]) if len(set(users)) == 1 else None


def workers_of(pid):
    """Returns the workers of a master that accept connections."""
    workers = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # After the name, which may contain anything: the state and the parent.
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            title = (entry / "cmdline").read_bytes().rstrip(b"\0 ")
        except OSError:
            continue
        if int(fields[1]) == pid and title == b"nginx: worker process":
            workers.add(int(entry.name))
    return workers
