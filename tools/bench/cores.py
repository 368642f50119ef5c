"""The two cores of the benchmark, and what other processes use of them."""

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def siblings(core):
    """Returns the cores that share the hardware of a core."""
    text = Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text()
    found = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def choose():
    """Returns a core for the server and one for the client, which share no hardware if the machine has such a pair."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise SystemExit("The benchmark needs two cores: one for the server, one for the client.")
    server = usable[0]
    try:
        apart = [core for core in usable if core not in siblings(server)]
    except OSError:
        apart = []
    return server, (apart or usable[1:])[0]


SERVER, CLIENT = choose()
# This process computes little. It shares the client's core, so that the server's is free.
os.sched_setaffinity(0, {CLIENT})


def busy():
    """Returns the seconds that both cores have computed since the start, also for other virtual machines."""
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *values = line.split()
        if name in (f"cpu{SERVER}", f"cpu{CLIENT}"):
            user, nice, system, _idle, _wait, _irq, _softirq, steal = map(int, values[:8])
            # Interrupts are left out: some kernels count them in the time of the process that they interrupt as well.
            total += user + nice + system + steal
    return total / TICKS
