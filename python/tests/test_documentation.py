"""docs/ngx-wsgi.md: its table has each option, with its default and its meaning."""

import unittest
from pathlib import Path

from ngx_wsgi.settings import SETTINGS

PAGE = Path(__file__).parents[2] / "docs/ngx-wsgi.md"


def row(setting):
    """Returns the row of the table, as the page must have it."""
    flags = [f"`{flag}`" for flag in setting.flags] or [f"`{setting.name}` in the file"]
    if setting.metavar and setting.flags:
        flags[-1] = f"`{setting.flags[-1]} {setting.metavar}`"
    cells = [", ".join(flags), setting.shown_default(), setting.meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells).replace("|  |", "| |") + " |"


class Page(unittest.TestCase):
    def test_the_table_is_that_of_the_settings(self):
        text = PAGE.read_text(encoding="utf-8")
        rows = text.partition("| option | default | meaning |\n| --- | --- | --- |\n")[2].partition("\n\n")[0]
        self.assertEqual(rows.splitlines(), list(map(row, SETTINGS)))
