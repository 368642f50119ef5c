"""What the application costs in Python alone: the bare loop, in two builds of the same Python."""

import os
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from . import processes, request, settings
from .client import WrongResponse

PROGRAM = Path(__file__).with_name("loop.py")


@dataclass(frozen=True)
class Loop:
    key: str
    title: str
    # The program that runs Python.
    python: Path


LOOPS = [
    # The module has Python's shared library: this is its reference.
    Loop("loop", "bare loop, shared libpython", settings.BASE / "python-shared"),
    # Most other servers run in this one.
    Loop("loop-executable", "bare loop, `python3`", settings.VENV / "bin/python"),
]


def build():
    """Compiles the program that is linked with the shared library, and returns the command."""
    variable = sysconfig.get_config_var
    source = PROGRAM.with_suffix(".c")
    library = variable("LDLIBRARY").removeprefix("lib").removesuffix(".so")
    command = [
        "cc",
        "-O2",
        str(source),
        "-o",
        str(LOOPS[0].python),
        f"-I{variable('INCLUDEPY')}",
        f"-L{variable('LIBDIR')}",
        f"-l{library}",
        f"-Wl,-rpath,{variable('LIBDIR')}",
    ]
    subprocess.run(command, check=True)
    return command


def command(loop, workload):
    """Returns the command for a workload."""
    return processes.bound([loop.python, PROGRAM, workload.application, workload.upload, workload.seconds])


def environment():
    """Returns the variables of its process."""
    packages = next((settings.VENV / "lib").glob("python3*")) / "site-packages"
    return {"PYTHONPATH": f"{settings.APPLICATIONS}:{packages}"}


def run(loop, workload):
    """Returns the calls a second, the CPU seconds of a call, and the memory of the process in bytes."""
    headers = "\n".join(f"HTTP_{name.upper().replace('-', '_')}={value}" for name, value in request.HEADERS.items())
    result = subprocess.run(
        command(loop, workload),
        env={**os.environ, **environment()},
        cwd=settings.APPLICATIONS,
        input=headers,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise WrongResponse(result.stderr)
    rate, cpu, memory = result.stdout.split()
    return float(rate), float(cpu), int(memory)
