"""The number of workers on a machine and in a container."""

import os
import tempfile
import unittest
from pathlib import Path

from ngx_wsgi import processors


class Count(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name)
        self.available = len(os.sched_getaffinity(0))

    def write(self, path, text):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def count(self):
        return processors.count(self.root)

    def test_without_a_limit_it_is_the_affinity(self):
        self.assertEqual(self.count(), self.available)
        self.write("proc/self/cgroup", "0::/a\n")
        self.write("sys/fs/cgroup/a/cpu.max", "max 100000\n")
        self.assertEqual(self.count(), self.available)

    def test_a_part_of_a_processor_is_one(self):
        self.write("proc/self/cgroup", "0::/a/b\n")
        self.write("sys/fs/cgroup/a/cpu.max", "50000 100000\n")
        self.write("sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
        self.assertEqual(self.count(), 1)

    def test_the_affinity_is_an_upper_bound(self):
        self.write("proc/self/cgroup", "0::/\n")
        self.write("sys/fs/cgroup/cpu.max", "100000000 100000\n")
        self.assertEqual(self.count(), self.available)

    def test_limits_are_rounded_up(self):
        self.write("proc/self/cgroup", "0::/\n")
        self.write("sys/fs/cgroup/cpu.max", "150000 100000\n")
        self.assertEqual(list(processors.limits(self.root)), [1.5])
        self.assertEqual(self.count(), min(2, self.available))

    def test_control_groups_of_version_1(self):
        self.write("proc/self/cgroup", "3:cpu,cpuacct:/a\n1:name=systemd:/a\n")
        self.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n")
        self.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n")
        self.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "100000\n")
        self.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n")
        self.assertEqual(list(processors.limits(self.root)), [1.0])
