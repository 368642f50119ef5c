"""Numbers from samples: medians, spreads, ratios of paired rounds, and the limit that nginx and Python set together."""

from statistics import median

# The part of a second that a core computes when it is the limit.
BUSY = 0.9


class Summary:
    """The samples of a run, by workload and server."""

    def __init__(self, samples, unfit, facts):
        self.samples = samples
        self.unfit = unfit
        self.facts = facts

    def of(self, workload, server):
        """Returns the samples of a server, one of each round; an empty list if there are none."""
        return self.samples.get(f"{workload} {server}", [])

    def values(self, workload, server, name):
        return [sample[name] for sample in self.of(workload, server)]

    def middle(self, workload, server, name="rate"):
        """Returns the median of a number, or None."""
        values = self.values(workload, server, name)
        return median(values) if values else None

    def spread(self, workload, server):
        """Returns the lowest and the highest rate as parts of the median."""
        rates = self.values(workload, server, "rate")
        return min(rates) / median(rates), max(rates) / median(rates)

    def limits(self, workload):
        """Returns L of each round, 1 / (1 / nginx + 1 / loop): one request of nginx, then one call in Python."""
        nginx = self.values(workload, "nginx", "rate")
        loop = self.values(workload, "loop", "rate")
        return [1 / (1 / a + 1 / b) for a, b in zip(nginx, loop)]

    def ratio(self, workload, server, other, name="rate"):
        """Returns the median ratio of two servers in the same rounds, or None; `other` may be "L"."""
        divisors = self.limits(workload) if other == "L" else self.values(workload, other, name)
        ratios = [value / divisor for value, divisor in zip(self.values(workload, server, name), divisors)]
        return median(ratios) if ratios else None

    def ratio_of_cpu(self, workload, server):
        """Returns the CPU time of nginx and of the loop as a part of that of a server, or None."""
        parts = [self.values(workload, key, "cpu") for key in ("nginx", "loop", server)]
        ratios = [(nginx + loop) / own for nginx, loop, own in zip(*parts)]
        return median(ratios) if ratios else None

    def is_limited_by_client(self, workload, server):
        """Returns whether the core of the client was busy, and that of the server was not."""
        if "client" not in self.of(workload, server)[0]:
            return False
        own = self.middle(workload, server, "cpu") * self.middle(workload, server)
        return self.middle(workload, server, "client") > BUSY > own

    def best(self, workload, servers):
        """Returns the fastest of some servers, or None."""
        present = [server for server in servers if self.of(workload, server)]
        return max(present, key=lambda server: self.middle(workload, server), default=None)

    def own_memory(self, workload, server):
        """Returns the memory that a server has beyond nginx, the interpreter and the application, in bytes, or None."""
        parts = [self.middle(workload, key, "memory") for key in (server, "nginx", "loop")]
        return None if None in parts else parts[0] - parts[1] - parts[2]
