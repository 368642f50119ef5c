"""Finds applications that cannot share this interpreter: one would get a module of another.

`sys.modules` has one module of a name, for all of them. Alone, an application finds a module in its own directories (that
of its script, and what it adds to sys.path), or else where all look. No module is imported for which two applications
would find different files that way, whichever of them asks, and no application is loaded beside such a module. It may be
that one of the two never imports the module: what a function will import, and when, cannot be known.

Runs before loader.py and after settings.py, with the same globals.
"""

import contextlib
import importlib.machinery
import os
import sys
import threading
from collections import Counter

PathFinder = importlib.machinery.PathFinder

# Of the interpreter before it had an application.
first_path = [entry for entry in sys.path if isinstance(entry, str)]
first_modules = frozenset(sys.modules)

# The applications of this interpreter by number, the one that is being loaded among them.
neighbors = {}
loading = None

# The names of modules in directories that have been looked at.
listed = {}


class Neighbor:
    """An application of this interpreter.

    `root` is the directory that its script is imported from, `package` the name there of the package it is a part of.
    """

    def __init__(self, number, title, root, package):
        self.number = number
        self.title = title
        # DJANGO_SETTINGS_MODULE, as it asked for it.
        self.settings = None
        # What importing has failed for: the application may have gone on without.
        self.refused = None
        self.thread = threading.get_ident()
        self.path_before = list(sys.path)
        self.root = root
        self.package = package
        self._inherited = neighbors[number].directories() if number in neighbors else []
        self._directories = None

    def directories(self):
        """What sys.path has for its sake, in the order of sys.path."""
        if self._directories is not None:
            return self._directories
        left = Counter(entry for entry in self.path_before if isinstance(entry, str))
        added = []
        for entry in sys.path:
            if isinstance(entry, str) and not left[entry]:
                added.append(entry)
            left[entry] -= 1
        known = [self.root] if self.root and self.root not in first_path else []
        return added + [entry for entry in known + self._inherited if entry not in added]

    def settled(self):
        """It is loaded: what others add to sys.path from now on is not its own."""
        self._directories = self.directories()

    def find(self, name):
        """The file that it would get for a module if it were alone; None for one that has none."""
        path = self.directories() + first_path
        parts = name.split(".")
        if parts[0] == self.package:
            # Wherever it is on sys.path: the script is a part of this one.
            path.insert(0, self.root)
        for count in range(1, len(parts) + 1):
            try:
                spec = PathFinder.find_spec(".".join(parts[:count]), path)
            except (ImportError, KeyError, ValueError):
                return None
            if spec is None or spec.has_location:
                return spec and spec.origin
            # A directory without __init__.py, which may have parts in several places.
            path = list(spec.submodule_search_locations or ())
        return None


def names_in(directory):
    """The names of the modules that could be imported from there."""
    if directory not in listed:
        try:
            listed[directory] = {name.partition(".")[0] for name in os.listdir(directory)}
        except OSError:
            listed[directory] = set()
    return listed[directory]


def owned():
    """The names of modules in the directories of applications, and of their packages."""
    everybody = list(neighbors.values())
    names = {neighbor.package for neighbor in everybody}
    return names.union(*(names_in(one) for neighbor in everybody for one in neighbor.directories()))


def conflict(name):
    """The error of importing a module for which two applications would find different files; or None."""
    found = {}
    for neighbor in list(neighbors.values()):
        if file := neighbor.find(name):
            found.setdefault(os.path.realpath(file), (file, neighbor.title))
    if len(found) < 2:
        return None
    return refusal(f"two applications of one interpreter have different modules of the name {name!r}", *found.values())


def refusal(problem, one, other, *_):
    """Of two applications that cannot share an interpreter. A side is what one has, and which application it is."""
    remedy = '"wsgi_enable_subinterpreters on;"' if is_main else 'another "wsgi_interpreter"'
    sides = "".join(f"\n  {what}, of {title}" for what, title in (one, other))
    return ImportError(f"{problem}: {remedy} gives each application its own{sides}")


class Disputed:
    """A finder that finds nothing, but refuses modules for which applications would find different files."""

    def find_spec(self, name, path=None, target=None):
        # A package with a file of its own was looked at itself.
        if len(neighbors) < 2 or isinstance(path, list) or name.partition(".")[0] not in owned():
            return None
        if error := conflict(name):
            if loading and loading.thread == threading.get_ident():
                loading.refused = error
            raise error
        return None


sys.meta_path.insert(0, Disputed())


def check_modules():
    """Refuses modules that are loaded and for which applications would find different files.

    Of a package that is nothing but a directory, those in it count.
    """
    names = owned() - first_modules if len(neighbors) > 1 else set()
    for name in list(sys.modules) if names else ():
        top = name.partition(".")[0]
        if top in names and (name == top or not getattr(sys.modules.get(top), "__file__", None)):
            if error := conflict(name):
                raise error


def check_settings():
    """Refuses settings of Django that are not those of the applications before."""
    asked = os.environ.get(SETTINGS)
    # What the configuration has set for all is of no matter without Django.
    loading.settings = asked if asked != first_settings or "django" in sys.modules else None
    found = {}
    for neighbor in neighbors.values():
        if name := neighbor.settings:
            file = neighbor.find(name)
            found.setdefault((name, file), (f"{SETTINGS}={name} ({file or 'not found'})", neighbor.title))
    if len(found) > 1:
        raise refusal("two applications of one interpreter have different settings of Django", *found.values())


@contextlib.contextmanager
def being_loaded(number, title, root, package):
    """While it is entered, an application is loaded on this thread. After an error others find nothing of it."""
    global loading
    listed.clear()
    before = neighbors.get(number)
    neighbors[number] = loading = neighbor = Neighbor(number, title, root, package)
    try:
        with own_settings():
            yield
        neighbor.settled()
    except BaseException:
        sys.path[:] = neighbor.path_before
        del neighbors[number]
        if before:
            neighbors[number] = before
        raise
    finally:
        loading = None


def check_loaded():
    """Refuses an application that has been loaded."""
    if loading.refused:
        raise loading.refused
    check_modules()
    check_settings()
