"""The load: wrk on a core of its own."""

import json
import subprocess

from . import cores, request, templates
from .client import WrongResponse


def command(script, port, path, connections, seconds):
    """Returns the command of a load."""
    return [
        "taskset",
        "-c",
        str(cores.CLIENT),
        "wrk",
        "--threads",
        "1",
        "--connections",
        str(connections),
        "--duration",
        f"{seconds}s",
        "--timeout",
        "20s",
        "--script",
        str(script),
        f"http://127.0.0.1:{port}{path}",
    ]


class Load:
    """wrk as a process, and what it found."""

    def __init__(self, script, port, path, connections, seconds):
        line = command(script, port, path, connections, seconds)
        self.process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def result(self):
        """Waits for the end, and returns the numbers."""
        try:
            output, _ = self.process.communicate()
        except BaseException:
            self.stop()
            raise
        for line in output.splitlines():
            if line.startswith("{"):
                return json.loads(line)
        raise WrongResponse(f"wrk printed no result:\n{output}")

    def stop(self):
        """Ends wrk early."""
        self.process.kill()
        self.process.wait()


def write_script(path, upload=0, headers=None):
    """Writes wrk's script for a request."""
    text = templates.render("wrk.lua", upload=upload, headers=headers or request.HEADERS)
    path.write_text(text)
    return path
