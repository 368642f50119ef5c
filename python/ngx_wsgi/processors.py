"""The number of processors that this process may use."""

import math
import os
from pathlib import Path


def count(root=Path("/")):
    """Returns the number of processors: those of the affinity, within the limit of the control group."""
    available = len(os.sched_getaffinity(0))
    return max(1, min([available, *(math.ceil(limit) for limit in limits(root))]))


def limits(root):
    """Yields the limits of the control group of this process and of those that contain it."""
    for line in read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from limits_below(root / "sys/fs/cgroup", path, unified_limit)
        elif "cpu" in controllers.split(","):
            yield from limits_below(root / "sys/fs/cgroup" / controllers, path, legacy_limit)


def limits_below(mount, path, limit_of):
    directory = mount / path.lstrip("/")
    # In a container the path may be that of the host, and the group is at the root of the mount.
    for group in [directory, *directory.parents]:
        if (limit := limit_of(group)) is not None:
            yield limit
        if group == mount:
            break


def unified_limit(group):
    """Version 2: `cpu.max` has the quota, or "max", and the period."""
    words = read(group / "cpu.max").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else None


def legacy_limit(group):
    """Version 1: the quota is -1 if there is no limit."""
    quota, period = read(group / "cpu.cfs_quota_us"), read(group / "cpu.cfs_period_us")
    return int(quota) / int(period) if quota and period and int(quota) > 0 else None


def read(path):
    try:
        return path.read_text().strip()
    except OSError:
        return ""
