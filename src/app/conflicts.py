"""Detects applications that cannot share this interpreter, because one would get a module of the other.

`sys.modules` has one module of each name, for all applications. Alone, an application finds a module in its own
directories (that of its script, and those that it adds to sys.path), or else in the common ones. A module for which two
applications would find different files is not imported, and no application is loaded beside it. One of the two may never
import that module, but the imports of functions cannot be known in advance.

Runs before loader.py and after settings.py, with the same globals.
"""

import importlib.machinery
import os
import sys
import threading
from collections import Counter

PathFinder = importlib.machinery.PathFinder

# State of the interpreter before the first application.
first_path = [entry for entry in sys.path if isinstance(entry, str)]
first_modules = frozenset(sys.modules)

# The applications of this interpreter by number, including the one that is being loaded.
neighbors = {}
loading = None

# A cache of the names of modules by directory.
listed = {}


class Neighbor:
    """An application of this interpreter.

    `root` is the directory that its script is imported from, `package` the name of the top-level package of the script.
    """

    def __init__(self, number, title, root, package):
        self.number = number
        self.title = title
        # The DJANGO_SETTINGS_MODULE that it wants.
        self.settings = None
        # The error of a refused import: the application may have caught it.
        self.refused = None
        self.thread = threading.get_ident()
        self.path_before = list(sys.path)
        self.root = root
        self.package = package
        self._inherited = neighbors[number].directories() if number in neighbors else []
        self._directories = None

    def directories(self):
        """Returns the entries of sys.path that it has added, in order, and its root."""
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
        """Records that it is loaded: later additions to sys.path are not its own."""
        self._directories = self.directories()

    def find(self, name):
        """Returns the file that it would get for a module if it were alone; None if there is none."""
        path = self.directories() + first_path
        parts = name.split(".")
        if parts[0] == self.package:
            # Wherever root is on sys.path: the script is part of this package.
            path.insert(0, self.root)
        for count in range(1, len(parts) + 1):
            try:
                spec = PathFinder.find_spec(".".join(parts[:count]), path)
            except (ImportError, KeyError, ValueError):
                return None
            if spec is None or spec.has_location:
                return spec and spec.origin
            # A namespace package, which may have parts in several directories.
            path = list(spec.submodule_search_locations or ())
        return None


def names_in(directory):
    """Returns the names of the modules that could be imported from a directory."""
    if directory not in listed:
        try:
            listed[directory] = {name.partition(".")[0] for name in os.listdir(directory)}
        except OSError:
            listed[directory] = set()
    return listed[directory]


def owned():
    """Returns the names of the modules in the directories of all applications, and of their packages."""
    applications = list(neighbors.values())
    names = {application.package for application in applications}
    return names.union(*(names_in(entry) for application in applications for entry in application.directories()))


def conflict(name):
    """Returns the error of importing a module for which two applications would find different files, or None."""
    found = {}
    for neighbor in list(neighbors.values()):
        if file := neighbor.find(name):
            found.setdefault(os.path.realpath(file), (file, neighbor.title))
    if len(found) < 2:
        return None
    return refusal(f"two applications of one interpreter have different modules of the name {name!r}", *found.values())


def refusal(problem, one, other, *_):
    """Returns the error for two applications that cannot share an interpreter, each given by its file and title."""
    remedy = '"wsgi_enable_subinterpreters on;"' if is_main else 'another "wsgi_interpreter"'
    sides = "".join(f"\n  {what}, of {title}" for what, title in (one, other))
    return ImportError(f"{problem}: {remedy} gives each application its own{sides}")


class ConflictFinder:
    """A finder that finds nothing, but refuses modules for which applications would find different files."""

    def find_spec(self, name, path=None, target=None):
        # For a submodule, the package itself was checked, unless it is a namespace package.
        if len(neighbors) < 2 or isinstance(path, list) or name.partition(".")[0] not in owned():
            return None
        if error := conflict(name):
            if loading and loading.thread == threading.get_ident():
                loading.refused = error
            raise error
        return None


sys.meta_path.insert(0, ConflictFinder())


def check_modules():
    """Refuses loaded modules for which applications would find different files.

    Of a namespace package, its submodules are checked.
    """
    names = owned() - first_modules if len(neighbors) > 1 else set()
    for name in list(sys.modules) if names else ():
        top = name.partition(".")[0]
        if top in names and (name == top or not getattr(sys.modules.get(top), "__file__", None)):
            if error := conflict(name):
                raise error


def check_settings():
    """Refuses Django settings that differ from those of the applications loaded before."""
    asked = os.environ.get(SETTINGS)
    # A value from the configuration does not matter without Django.
    loading.settings = asked if asked != first_settings or "django" in sys.modules else None
    found = {}
    for neighbor in neighbors.values():
        if name := neighbor.settings:
            file = neighbor.find(name)
            found.setdefault((name, file), (f"{SETTINGS}={name} ({file or 'not found'})", neighbor.title))
    if len(found) > 1:
        raise refusal("two applications of one interpreter have different settings of Django", *found.values())


class BeingLoaded:
    """A context in which an application is loaded on this thread. After an error it leaves nothing behind."""

    def __init__(self, number, title, root, package):
        self._number = number
        self._neighbor = Neighbor(number, title, root, package)
        self._settings = own_settings()

    def __enter__(self):
        global loading
        listed.clear()
        self._settings.__enter__()
        self._before = neighbors.get(self._number)
        neighbors[self._number] = loading = self._neighbor

    def __exit__(self, *error):
        global loading
        loading = None
        is_loaded = False
        try:
            self._settings.__exit__(*error)
            if error[0] is None:
                self._neighbor.settled()
                is_loaded = True
        finally:
            if not is_loaded:
                self._undo()

    def _undo(self):
        sys.path[:] = self._neighbor.path_before
        del neighbors[self._number]
        if self._before:
            neighbors[self._number] = self._before


def check_loaded():
    """Refuses a loaded application if it conflicts with others."""
    if loading.refused:
        raise loading.refused
    check_modules()
    check_settings()
