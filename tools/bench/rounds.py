"""The rounds: in each, all servers in turn for each workload, each round beginning with another server."""

import sys

from . import sample, settings
from .bare_loop import LOOPS
from .client import WrongResponse
from .servers import installed
from .workloads import WORKLOADS


def say(text):
    print(text, file=sys.stderr, flush=True)


def selected(items):
    """Returns those that BENCH_ONLY names, or all if it names none of them."""
    named = [item for item in items if item.key in settings.ONLY]
    return named or items


def check_selection():
    """Ends if BENCH_ONLY has a word that is the name of nothing."""
    known = {item.key for item in [*WORKLOADS, *installed(), *LOOPS]}
    for word in settings.ONLY:
        if word not in known:
            raise SystemExit(f"BENCH_ONLY: {word} is none of: {' '.join(sorted(known))}")


def takers(workload):
    """Returns the servers and loops of a workload, with the function that takes their sample."""
    chosen = selected([*installed(), *LOOPS])
    pairs = [(server, sample.of_server) for server in chosen if server not in LOOPS and server.takes(workload)]
    if workload.loop:
        pairs += [(loop, sample.of_loop) for loop in chosen if loop in LOOPS]
    return pairs


def twice(take, *arguments):
    """Takes a sample, and once again if the server failed: one failure in an hour would leave its row empty."""
    try:
        return take(*arguments)
    except WrongResponse:
        return take(*arguments)


def run():
    """Yields after each round the samples of each workload and server so far, and the reasons of those without any."""
    samples, unfit = {}, {}
    for round_number in range(settings.ROUNDS):
        for workload in selected(WORKLOADS):
            pairs = takers(workload)
            first = round_number * 5 % len(pairs)
            for taker, take in pairs[first:] + pairs[:first]:
                key = (workload.key, taker.key)
                if key in unfit:
                    continue
                try:
                    taken = twice(sample.undisturbed, take, taker, workload)
                except WrongResponse as error:
                    unfit[key] = str(error)
                    samples.pop(key, None)
                    say(f"{workload.key}, {taker.key}: {error}")
                    continue
                samples.setdefault(key, []).append(taken)
                say(
                    f"round {round_number + 1} of {settings.ROUNDS}  {workload.key:14}  {taker.key:20}  "
                    f"{taken['rate']:10.0f} /s  {taken['cpu'] * 1e6:9.1f} us  foreign {taken['foreign']:.2f}"
                )
        yield samples, unfit
