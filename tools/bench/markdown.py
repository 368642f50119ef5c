"""Markdown: tables, numbers, and generated sections in a page that is written by hand otherwise."""

import math


def number(value):
    """Returns a number with three significant digits."""
    if not value:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def table(header, rows):
    """Returns a table. Cells that are None are a dash."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join("—" if cell is None else str(cell) for cell in line) + " |" for line in lines)


def fence(language, text):
    return f"```{language}\n{text.strip()}\n```"


def check_sections(page, names):
    """Ends if a section is missing."""
    for name in names:
        replace_section(page, name, "")


def replace_section(page, name, text):
    """Returns the page with another text between the two comments of a section."""
    begin, end = f"<!-- {name}: made by make bench -->\n", f"<!-- end of {name} -->"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise SystemExit(f"BENCHMARKS.md has no section {name}.")
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"
