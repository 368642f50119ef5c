"""Cost as work grows: measures the curves, and writes them to BENCHMARKS.md."""

from statistics import median

from . import settings
from .client import WrongResponse
from .curves import CURVES
from .markdown import number, replace_section, table
from .rounds import say
from .shape import describe

SECTION = "growth"
# The curves are long: by default they have fewer rounds than the comparison.
ROUNDS = settings.number("BENCH_ROUNDS", 2)


def selected():
    known = [curve.key for curve in CURVES]
    for word in settings.ONLY:
        if word not in known:
            raise SystemExit(f"BENCH_ONLY: {word} is none of: {' '.join(known)}")
    return [curve for curve in CURVES if not settings.ONLY or curve.key in settings.ONLY]


def run():
    """Returns the samples of each curve, kind and point."""
    curves = {}
    for _ in range(ROUNDS):
        for curve in selected():
            kinds = curves.setdefault(curve.key, {})
            for point in curve.points:
                for kind in curve.kinds:
                    try:
                        taken = curve.measure(kind, point)
                    except WrongResponse as error:
                        say(f"{curve.key}, {kind}, {point}: {error}")
                        continue
                    kinds.setdefault(kind, {}).setdefault(str(point), []).append(taken)
                    cost = f"{taken['cpu'] * 1e6:12.1f} us  {taken['memory'] / 1e6:8.1f} MB"
                    say(f"{curve.key:13} {kind:20} {point:10,}  {cost}")
    return curves


def section(curve, kinds):
    """Returns the table of a curve, with its shapes in the last row."""
    series = []
    for name, factor, title in curve.columns:
        for kind, samples in kinds.items():
            values = {int(x): factor * median(sample[name] for sample in taken) for x, taken in samples.items()}
            series.append((f"{title}, {kind}" if len(kinds) > 1 else title, values))
    rows = [
        [f"{point:,}", *(number(values[point]) if point in values else None for _, values in series)]
        for point in curve.points
    ]
    shapes = [describe(sorted(values.items()), *curve.each) if len(values) > 2 else None for _, values in series]
    body = table([curve.unit, *(title for title, _ in series)], [*rows, ["shape", *shapes]])
    failed = sum(
        sample.get("failed", 0) for samples in kinds.values() for taken in samples.values() for sample in taken
    )
    note = f"\n\nFailed requests: {failed}." if failed else ""
    return f"### {curve.title}\n\n{body}{note}"


def write(page, curves, facts):
    """Returns the page with the curves."""
    sections = [section(curve, curves[curve.key]) for curve in CURVES if curve.key in curves]
    known = dict(facts)
    when = f"{known['date']}, ngx-http-wsgi {known['ngx-http-wsgi']}. Rounds: {known['rounds']}."
    return replace_section(page, SECTION, "\n\n".join([when, *sections]))
