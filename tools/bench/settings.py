"""What the caller chooses, and where everything is. tools/bench.sh sets the variables."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
APPLICATIONS = REPOSITORY / "tools/bench/apps"
TEMPLATES = REPOSITORY / "tools/bench/templates"
PAGE = REPOSITORY / "BENCHMARKS.md"
CHART = REPOSITORY / "docs/images/benchmarks.svg"

# Below the build directory: the virtual environment, the results, and the files of the running servers.
BASE = Path(os.environ["BENCH_BASE"])
VENV = BASE / "venv"
RUN = BASE / "run"

MODULE = os.environ["BENCH_MODULE"]
NGINX = os.environ["NGINX"]


def number(name, default):
    """Returns the value of a variable of make; an empty one is not chosen."""
    return int(os.environ.get(name) or default)


ROUNDS = number("BENCH_ROUNDS", 5)
SECONDS = number("BENCH_SECONDS", 1)
RETRIES = number("BENCH_RETRIES", 2)
ONLY = os.environ.get("BENCH_ONLY", "").replace(",", " ").split()

# Of the client, in each workload that names no other number.
CONNECTIONS = 16
# Of each server that has threads.
THREADS = 4
# Seconds of CPU that other processes may use per second of a sample, on both cores together.
FOREIGN_LIMIT = 0.04
