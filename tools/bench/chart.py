"""The chart of BENCHMARKS.md: requests a second of each server, for four workloads."""

from statistics import median

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from . import settings
from .servers import SERVERS
from .workloads import WORKLOADS

SHOWN = ("hello", "flask", "django", "stream")
OURS, OTHERS, LIMIT = "#1b7f4d", "#6d8fbf", "#c0392b"


def draw(summary):
    """Writes the chart."""
    # Text stays text: the file is small, and no font is in it.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 8})
    figure = Figure(figsize=(9, 6.8), layout="constrained")
    figure.suptitle("Requests a second, one worker process on one core. Median; line: slowest and fastest round.")
    titles = {workload.key: workload.title for workload in WORKLOADS}
    for workload, axis in zip(SHOWN, figure.subplots(2, 2).flat):
        axis.set_title(titles[workload])
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        bars(axis, summary, workload)
        limits = summary.limits(workload)
        if limits:
            axis.axvline(median(limits), color=LIMIT, linestyle="--", linewidth=1)
            axis.text(median(limits), 0, " L", color=LIMIT)
    settings.CHART.parent.mkdir(exist_ok=True)
    figure.savefig(settings.CHART, facecolor="white", metadata={"Date": None})


def bars(axis, summary, workload):
    """Draws the servers of a workload, the fastest at the top."""
    present = [server for server in SERVERS if server.key != "nginx" and summary.of(workload, server.key)]
    present.sort(key=lambda server: summary.middle(workload, server.key))
    for server in present:
        rates = summary.values(workload, server.key, "rate")
        middle = median(rates)
        axis.barh(
            server.title.replace("`", ""),
            middle,
            color=OURS if server.title.startswith("ngx-http-wsgi") else OTHERS,
            xerr=[[middle - min(rates)], [max(rates) - middle]],
            error_kw={"lw": 1},
        )
