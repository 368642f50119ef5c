"""Runs the benchmark, or with the argument `growth` the curves of cost as work grows, and writes BENCHMARKS.md."""

import resource
import signal
import sys
from pathlib import Path

import psutil

from . import bare_loop, chart, growth, machine, markdown, report, results, rounds, settings, workloads
from .summary import Summary

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupted(_signal, _frame):
    """Ends the run; while it stops its servers a further signal has no effect."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def end_children():
    """Ends what an interruption has left between its start and its first line of care."""
    for child in psutil.Process().children(recursive=True):
        child.kill()


def benchmark():
    rounds.check_selection()
    bare_loop.build()
    for number, (samples, unfit) in enumerate(rounds.run(), 1):
        facts = list(machine.facts(number))
        results.save(results.BENCHMARK, samples=results.joined(samples), unfit=results.joined(unfit), facts=facts)


def publish(*sections):
    """Writes sections to the page, or to a copy below target/ if the run was only a part."""
    page = settings.PAGE.read_text()
    if results.BENCHMARK in sections:
        summary = Summary(**results.load(results.BENCHMARK))
        page = report.write(page, summary)
        if not settings.ONLY:
            chart.draw(summary)
    if results.GROWTH in sections:
        page = growth.write(page, **results.load(results.GROWTH))
    path = settings.BASE / settings.PAGE.name if settings.ONLY else settings.PAGE
    path.write_text(page)
    rounds.say(f"The results are in {path}")


def raise_limits():
    """Lets the servers and wrk, which inherit it, open as many files as this user may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(what):
    raise_limits()
    workloads.make_static_file()
    # A page without one of the sections shows now, not after the run.
    markdown.check_sections(settings.PAGE.read_text(), [*report.SECTIONS, growth.SECTION])
    if what == "benchmark":
        benchmark()
        publish(results.BENCHMARK)
    elif what == "growth":
        curves = growth.run()
        results.save(results.GROWTH, curves=curves, facts=list(machine.facts(growth.ROUNDS)))
        publish(results.GROWTH)
    elif what == "report":
        publish(*filter(Path.exists, (results.BENCHMARK, results.GROWTH)))
    else:
        raise SystemExit(f"{what}: benchmark, growth or report")


# Each way to end runs the code that stops the servers.
for number in SIGNALS:
    signal.signal(number, interrupted)
try:
    main(sys.argv[1] if len(sys.argv) > 1 else "benchmark")
except KeyboardInterrupt:
    raise SystemExit("Interrupted: the servers are stopped.") from None
finally:
    end_children()
