"""The application to serve: a module, a callable in it, a factory, or the path of a script."""

import os
import re
from dataclasses import dataclass

from .problem import Problem

NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"


@dataclass(frozen=True)
class Target:
    """The arguments of `wsgi_pass`."""

    # The name of a module, or the absolute path of a script.
    code: str
    # Empty for the default, `application`.
    callable: str = ""

    def with_callable(self):
        return f"{self.code}:{self.callable or 'application'}"

    def __str__(self):
        return f"{self.code}:{self.callable}" if self.callable else self.code


def parse(text, directory):
    """Reads a target; the path of a script is relative to the directory. Raises Problem."""
    code, colon, name = text.rpartition(":")
    if not colon or "/" in name:
        code, colon, name = text, "", ""
    if colon and not re.fullmatch(rf"{NAME}(\(\))?", name):
        if "(" in name:
            raise Problem(
                f"{text}: a factory gets no arguments here; write a function that calls it with them, "
                "and name this one, with (), instead."
            )
        raise Problem(f"{text}: {name!r} is not the name of a callable, as in module:application.")
    path = os.path.join(directory, code)
    if "/" in code or code.endswith(".py") or (code.endswith(".wsgi") and os.path.isfile(path)):
        path = os.path.abspath(path)
        if not os.path.isfile(path):
            raise Problem(f"{text}: there is no file {path}.")
        return Target(path, name)
    if not re.fullmatch(NAME, code):
        raise Problem(f"{text}: {code!r} is neither the name of a module nor the path of a script.")
    return Target(code, name)
