"""BENCHMARKS.md: the sections that a run makes anew."""

import shlex
from statistics import median

from . import bare_loop, processes, settings, wrk
from .bare_loop import LOOPS
from .goals import goals
from .markdown import fence, number, replace_section, table
from .servers import APACHE, SERVERS, Site
from .workloads import WORKLOADS

TITLES = {server.key: server.title for server in [*SERVERS, *LOOPS]}
NAMES = {workload.key: workload.title for workload in WORKLOADS}


def rate(workload, value):
    """Returns a rate in the unit of the workload: the file is 100 MB."""
    return None if value is None else number(value * 100 if workload.unit == "MB/s" else value)


def disturbance(summary):
    """Returns the number of samples, and of those during which other processes computed."""
    samples = [sample for taken in summary.samples.values() for sample in taken]
    return len(samples), sum(sample["foreign"] > settings.FOREIGN_LIMIT for sample in samples)


def conditions(summary):
    """Returns the machine, the versions, and how quiet the machine was."""
    count, disturbed = disturbance(summary)
    other = (
        f"during {disturbed} of {count} samples, more than {settings.FOREIGN_LIMIT:.0%} of a core, also when repeated"
    )
    return table(["", ""], [*summary.facts, ("other processes", other)])


def heading(workload):
    """Returns the title of a workload, with its unit if that is not the usual one."""
    return workload.title if workload.unit == "requests/s" else f"{workload.title} ({workload.unit})"


def overview(summary):
    """Returns the medians of all servers and workloads."""
    present = [workload for workload in WORKLOADS if any(summary.of(workload.key, key) for key in TITLES)]
    rows = []
    for key, title in TITLES.items():
        cells = [rate(workload, summary.middle(workload.key, key)) for workload in present]
        if any(cells):
            rows.append([title, *cells])
    limits = [summary.limits(workload.key) for workload in present]
    rows.append(
        ["L", *(rate(workload, median(values)) if values else None for workload, values in zip(present, limits))]
    )
    count, disturbed = disturbance(summary)
    warning = "**The machine was busy with other processes during this run: do not compare the rates.**\n\n"
    shown = table(["", *(heading(workload) for workload in present)], rows)
    return (warning if disturbed > count / 20 else "") + shown


def details(summary):
    """Returns a table of each workload."""
    parts = []
    for workload in WORKLOADS:
        rows = []
        for key, title in TITLES.items():
            samples = summary.of(workload.key, key)
            if samples:
                rows.append(detail(summary, workload, key, title))
        if not rows:
            continue
        header = [
            "",
            workload.unit,
            "spread",
            "of L",
            "of L by CPU",
            "p50 ms",
            "p99 ms",
            "CPU µs",
            "memory MB",
            "failed",
        ]
        parts.append(f"### {workload.title}\n\n{table(header, rows)}")
        for key, title in TITLES.items():
            reason = summary.unfit.get(f"{workload.key} {key}")
            if reason:
                parts.append(f"Not measured: {title}: {without_paths(reason.splitlines()[0])}.")
    return "\n\n".join(parts)


def detail(summary, workload, key, title):
    """Returns the row of a server."""
    lowest, highest = summary.spread(workload.key, key)
    ratios = summary.ratio(workload.key, key, "L"), summary.ratio_of_cpu(workload.key, key)
    shown = rate(workload, summary.middle(workload.key, key))
    if summary.is_limited_by_client(workload.key, key):
        shown += " \\*"
    row = [title, shown, f"{lowest - 1:+.0%} {highest - 1:+.0%}"]
    is_part_of_limit = key in ("nginx", *(loop.key for loop in LOOPS))
    row += [f"{ratio:.2f}" if ratio and not is_part_of_limit else None for ratio in ratios]
    if "p50" in summary.of(workload.key, key)[0]:
        row += [number(1000 * summary.middle(workload.key, key, name)) for name in ("p50", "p99")]
    else:
        row += [None, None]
    row.append(number(1e6 * summary.middle(workload.key, key, "cpu")))
    row.append(number(summary.middle(workload.key, key, "memory") / 1e6))
    row.append(sum(summary.values(workload.key, key, "failed")))
    return row


def memory(summary):
    """Returns the memory of the module beyond nginx, the interpreter and the application."""
    rows = []
    for workload in ("hello", "flask", "django"):
        for server in ("inline", "threads"):
            own = summary.own_memory(workload, server)
            if own is not None:
                parts = [summary.middle(workload, key, "memory") / 1e6 for key in (server, "nginx", "loop")]
                rows.append([NAMES[workload], TITLES[server], *map(number, parts), f"{own / 1e6:.1f}"])
    return table(["", "", "in all, MB", "nginx alone, MB", "bare loop, MB", "difference, MB"], rows)


def reached(summary):
    """Returns the goals and whether the run reaches them."""
    rows = []
    for goal in goals():
        value = goal.value(summary)
        if value is not None:
            answer = "yes" if goal.reached(value) else "**no**"
            rows.append([NAMES[goal.workload], TITLES[goal.server], goal.text, goal.shown(value), answer])
    return table(["workload", "server", "goal", "measured", "reached"], rows)


def without_paths(text):
    """Returns a text with short names in place of this machine's paths."""
    places = [
        (settings.NGINX, "nginx"),
        (APACHE or "apache2", "apache2"),
        (settings.MODULE, "ngx_http_wsgi_module.so"),
        (settings.VENV, "venv"),
        (settings.APPLICATIONS, "apps"),
        (settings.RUN, "run"),
        (settings.BASE, "bench"),
        (settings.REPOSITORY, "."),
    ]
    for path, name in places:
        text = text.replace(str(path), name)
    return text


def shell(command):
    return without_paths(shlex.join(map(str, command)))


def commands(_summary):
    """Returns each command and configuration, for the workload `hello`."""
    hello = WORKLOADS[0]
    parts = []
    for server in SERVERS:
        site = Site(hello, 8000, settings.RUN)
        lines = "\n".join(shell(processes.bound(command)) for command in server.commands(site))
        blocks = [fence("sh", lines)]
        for path in site.configurations:
            language = "nginx" if path.name == "nginx.conf" else "text"
            blocks.append(f"`{without_paths(str(path))}`:\n\n{fence(language, without_paths(path.read_text()))}")
        parts.append(
            f"<details><summary>{server.title.replace('`', '')}</summary>\n\n" + "\n\n".join(blocks) + "\n\n</details>"
        )
    loop = "\n".join(shell(bare_loop.command(loop, hello)) for loop in LOOPS)
    parts.append(f"<details><summary>bare loop</summary>\n\n{fence('sh', loop)}\n\n</details>")
    script = wrk.write_script(settings.RUN / "wrk.lua")
    client = shell(wrk.command(script, 8000, hello.path, hello.connections, hello.seconds))
    text = f"{fence('sh', client)}\n\n`run/wrk.lua`:\n\n{fence('text', script.read_text())}"
    parts.append(f"<details><summary>the client</summary>\n\n{text}\n\n</details>")
    return "\n\n".join(parts)


SECTIONS = {
    "conditions": conditions,
    "overview": overview,
    "details": details,
    "memory": memory,
    "goals": reached,
    "commands": commands,
}


def write(page, summary):
    """Returns the page with the results of a run."""
    for name, section in SECTIONS.items():
        page = replace_section(page, name, section(summary))
    return page
