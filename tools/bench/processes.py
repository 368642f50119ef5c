"""Processes of a server: started on its core, measured, and stopped whatever happens."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import psutil

from . import cores


def bound(command):
    """Returns a command that runs on the server's core."""
    return ["taskset", "-c", str(cores.SERVER), *map(str, command)]


class Group:
    """The processes that a command started, with their descendants."""

    def __init__(self, command, directory, environment, log):
        # nginx takes a variable of this name for the sockets of a binary that is upgraded.
        variables = {**os.environ, **environment}
        variables.pop("NGINX", None)
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                bound(command),
                cwd=directory,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def members(self):
        """Returns the processes that run now."""
        try:
            leader = psutil.Process(self.process.pid)
            return [leader, *leader.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu(self):
        """Returns the seconds of CPU that the processes have used."""
        total = 0
        for process in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def memory(self):
        """Returns the proportional set size of the processes, in bytes."""
        total = 0
        for process in self.members():
            with contextlib.suppress(OSError):
                total += proportional_set_size(process.pid)
        return total

    def ended(self):
        """Returns whether the first process has ended."""
        return self.process.poll() is not None

    def stop(self):
        """Ends the processes: politely, and soon after by force. Nothing is lost with them."""
        members = self.members()
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        _, alive = psutil.wait_procs(members, timeout=0.3)
        # Processes that were started meanwhile have the same process group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=3)
        self.process.wait()


def proportional_set_size(pid):
    """Returns the memory of a process in bytes, where a page that several processes share counts in parts."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
