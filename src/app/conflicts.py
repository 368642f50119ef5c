"""Finds applications that cannot share this interpreter: one would get a module or the Django settings of another.

`sys.modules` has one module of a name, and Django has one set of settings. Alone in an interpreter, an application
imports what its own sys.path has; with others, it gets what one of them has loaded under that name. What counts is what
it really imports. While it is loaded, every import is noted, also that of a module which is there already. Of imports
within its functions, which run later, the statements are read.

Runs before loader.py, with the same globals.
"""

import importlib.machinery
import os
import re
import sys
import threading
import types

SETTINGS = "DJANGO_SETTINGS_MODULE"
INSTALLED = re.compile("/(site|dist)-packages/")
PathFinder = importlib.machinery.PathFinder

# Of the interpreter before it had an application.
first_path = frozenset(entry for entry in sys.path if isinstance(entry, str))
first_modules = frozenset(sys.modules)
first_settings = os.environ.get(SETTINGS)

# The applications that are loaded, by number, and the one that is being loaded.
neighbors = {}
loading = None


def refusal(problem, *sides):
    """Of two applications that cannot share an interpreter. A side is what one has, and which application it is."""
    remedy = '"wsgi_enable_subinterpreters on;"' if is_main else 'another "wsgi_interpreter"'
    lines = "".join(f"\n  {what}, of {title}" for what, title in sides)
    return ImportError(f"{problem}: {remedy} gives each application its own{lines}")


class Neighbor:
    """An application of this interpreter: where its code is, and what it has imported.

    `root` is the directory that its script is imported from; without one it is the module of the name `target`.
    """

    def __init__(self, number, title, root, target):
        self.number = number
        self.title = title
        self.root = root
        self.settings = None
        # Where the package of the script is, if another one of that name is imported in its place: name and directory.
        self.shadowed = None
        self.imports = set()
        self.thread = threading.get_ident()
        self.path_before = list(sys.path)
        self.settings_before = os.environ.get(SETTINGS)
        # While the variable is hidden: the class of os.environ, and what this application has set.
        self.environ = None
        self.asked = None
        self._directories = None
        self._sources = None
        # sys.path when it was last looked at, and what of it is its own.
        self._seen = None
        old = neighbors.get(number)
        self._inherited = old.directories() if old else []
        # Where another application has put its directory before, it is not in front.
        is_behind = root in sys.path and root not in first_path
        self._front = old._front if old else [root] if is_behind else []
        self.home = root or directory_of(PathFinder.find_spec(target.partition(".")[0], self.path()))

    def directories(self):
        """What sys.path has for its sake."""
        if self._directories is not None:
            return self._directories
        if self._seen and self._seen[0] == sys.path:
            return self._seen[1]
        forget_owners()
        before = list(self.path_before)
        added = []
        for entry in sys.path:
            if entry in before:
                before.remove(entry)
            elif isinstance(entry, str):
                added.append(entry)
        known = [self.root] if self.root and self.root not in first_path else []
        self._seen = list(sys.path), list(dict.fromkeys(known + self._inherited + added))
        return self._seen[1]

    def settled(self):
        """It is loaded: what others add to sys.path from now on is not its own."""
        self._directories = self.directories()
        self._sources = self.sources()
        neighbors[self.number] = self

    def path(self):
        """sys.path as it would have it alone, with what others have added behind that."""
        own = self.directories()
        foreign = {entry for other in self.others() for entry in other.directories()} - first_path - {*own}
        entries = [entry for entry in sys.path if isinstance(entry, str) and entry not in self._front]
        mine = [entry for entry in entries if entry not in foreign]
        # Behind what it has put in front itself.
        start = next((index for index, entry in enumerate(mine) if entry in self.path_before), len(mine))
        return mine[:start] + self._front + mine[start:] + [entry for entry in entries if entry in foreign]

    def others(self):
        return [other for other in everybody() if other.number != self.number]

    def sources(self):
        """The directories that have modules of its own, and may have some of a name that others have as well."""
        if self._sources is not None:
            return self._sources
        home = [self.home] if self.home and not INSTALLED.search(self.home + "/") else []
        return {os.path.realpath(directory) for directory in home + self.directories()}

    def owns(self, file):
        directories = [self.home, *self.directories()] if self.home else self.directories()
        insides = (file[len(directory) :] for directory in directories if file.startswith(directory + os.sep))
        return any(not INSTALLED.search(inside) for inside in insides)


def directory_of(spec):
    """The directory that a module is imported from; of an installed package its own, as others are beside it."""
    locations = list(spec.submodule_search_locations or ()) if spec else []
    file = locations[0] if locations else file_of(spec)
    if not file:
        return None
    return file if locations and INSTALLED.search(file) else os.path.dirname(file)


def file_of(spec):
    """The file that a module was loaded from, or the directory of one that is nothing but a directory."""
    if spec is None:
        return None
    if spec.has_location:
        return spec.origin
    locations = list(spec.submodule_search_locations) if is_directory(spec) else []
    return locations[0] if locations else None


def is_directory(spec):
    """Whether a module is nothing but a directory, or several."""
    return spec is not None and not spec.has_location and spec.submodule_search_locations is not None


def spec_of(module):
    """As it is there: a lazy module would be loaded, and some raise what they like."""
    if not issubclass(type(module), types.ModuleType):
        return None
    spec = object.__getattribute__(module, "__dict__").get("__spec__")
    return spec if isinstance(spec, importlib.machinery.ModuleSpec) else None


def is_loading_thread():
    # Another thread may end it at any time.
    now = loading
    return now is not None and now.thread == threading.get_ident()


# By file and by whether the thread loads an application: which one it belongs to. Every import asks for many files.
owners = {}


def owner(file):
    """The application that a file belongs to."""
    if file.startswith("<"):
        return None
    is_loading = is_loading_thread()
    if is_loading:
        # Forgets what is known if sys.path is another one.
        loading.directories()
    known = owners
    if (file, is_loading) not in known:
        known[file, is_loading] = find_owner(file, is_loading)
    return known[file, is_loading]


def forget_owners():
    """They may be others now. A thread that is looking for one keeps it to itself."""
    global owners
    owners = {}


def find_owner(file, is_loading):
    if is_loading and loading.owns(file):
        return loading
    found = [neighbor for neighbor in list(neighbors.values()) if neighbor.owns(file)]
    return max(found, key=lambda neighbor: len(neighbor.home or ""), default=None)


def importer():
    """The application whose code asks for an import on this thread, if it is known."""
    frame = sys._getframe(1)
    while frame:
        if found := owner(frame.f_code.co_filename):
            return found
        frame = frame.f_back
    return loading if is_loading_thread() else None


def find(name, path, target):
    """The spec of a module on `path`, or on what sys.path would be for the application that imports it if it were alone.

    What others have put in front of sys.path does not come before its own.
    """
    if path is None:
        found = importer() if neighbors else None
        path = found.path() if found else sys.path
    spec = PathFinder.find_spec(name, path, target)
    if neighbors and not is_loading_thread():
        check_late(file_of(spec))
    return spec


class OwnPaths:
    def find_spec(self, name, path=None, target=None):
        spec = find(name, path, target)
        # Modules of packages are found by others as well, who may know more of them.
        return spec if path is None else None


own_paths = OwnPaths()


class WatchedSpec(importlib.machinery.ModuleSpec):
    """Notes imports of a module that is loaded: whether it still is initializing is asked at each of them."""

    @property
    def _initializing(self):
        if is_loading_thread() and self.name not in loading.imports and importer() is loading:
            loading.imports.add(self.name)
        return vars(self).get("_initializing", False)

    @_initializing.setter
    def _initializing(self, value):
        vars(self)["_initializing"] = value


def watch(before, after):
    """Makes the specs of this class, of all modules that came with applications, ones of that class."""
    for name, module in list(sys.modules.items()):
        spec = spec_of(module) if name not in first_modules else None
        if type(spec) is before:
            spec.__class__ = after


def begin(number, title, root, target):
    """An application is to be loaded, on this thread. To be followed by `settle`, or else by `give_up`."""
    global loading
    neighbor = Neighbor(number, title, root, target)
    loading = neighbor
    forget_owners()
    if not neighbor.others():
        return neighbor
    if own_paths not in sys.meta_path:
        # To stay, as modules may be imported at any time.
        sys.meta_path.insert(sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else 0, own_paths)
    watch(importlib.machinery.ModuleSpec, WatchedSpec)
    if neighbor.settings_before != first_settings:
        hide_settings(neighbor)
    return neighbor


def end():
    global loading
    watch(WatchedSpec, importlib.machinery.ModuleSpec)
    if loading.environ:
        os.environ.__class__ = loading.environ
    loading = None
    forget_owners()


def give_up():
    """The application could not be loaded: others find nothing of it."""
    neighbor = loading
    for entry in neighbor.directories():
        if entry not in neighbor.path_before and entry in sys.path:
            sys.path.remove(entry)
    if not neighbor.environ and os.environ.get(SETTINGS) != neighbor.settings_before:
        if neighbor.settings_before is None:
            del os.environ[SETTINGS]
        else:
            os.environ[SETTINGS] = neighbor.settings_before


def hide_settings(neighbor):
    """Lets the thread that loads `neighbor` see the variable as it was before any application, and set it.

    So `setdefault` shows what is asked for. To other threads, which serve what is loaded, it stays as it is.
    """
    base = neighbor.environ = type(os.environ)
    neighbor.asked = first_settings

    class Environ(base):
        def __getitem__(self, key):
            if key != SETTINGS or not is_loading_thread():
                return super().__getitem__(key)
            if neighbor.asked is None:
                raise KeyError(key)
            return neighbor.asked

        def __setitem__(self, key, value):
            if key == SETTINGS and is_loading_thread():
                neighbor.asked = value
            else:
                super().__setitem__(key, value)

        def __delitem__(self, key):
            if key == SETTINGS and is_loading_thread():
                neighbor.asked = None
            else:
                super().__delitem__(key)

        def __iter__(self):
            hidden = is_loading_thread() and neighbor.asked is None
            return (key for key in super().__iter__() if not (hidden and key == SETTINGS))

    # It may be known to others already, so it is changed and not replaced.
    os.environ.__class__ = Environ


def settle(names):
    """The application was loaded, and has imported modules of these names anew."""
    neighbor = loading
    watched = sorted(neighbor.imports)
    neighbor.imports.update(names)
    if neighbor.others():
        # A module of a directory without __init__.py may be there as an attribute of that.
        directories = {name for name in watched if is_directory(spec_of(sys.modules.get(name)))}
        if directories:
            watched += sorted(imports_in_all(files_by_owner().get(neighbor, ()), directories, is_late=False))
        late = all_late_imports()
        for name in watched:
            check(neighbor, name, late)
        for one, names in late.items():
            check_package(one)
            for name in sorted(names):
                check(one, name, late)
    check_settings(neighbor)
    neighbor.settled()


def everybody():
    """The applications that are loaded, and the one that is being loaded."""
    now = loading
    loaded = [neighbor for neighbor in list(neighbors.values()) if not now or neighbor.number != now.number]
    return loaded + [now] if now else loaded


def check_late(file):
    """Looks at a module that is imported after its application was loaded, and was not looked at then."""
    neighbor = owner(file) if file else None
    needed = imports_in(file, contested(neighbor, {}), is_late=False) if neighbor else ()
    if needed:
        late = all_late_imports()
        for name in sorted(needed):
            check(neighbor, name, late)


def check(neighbor, name, late):
    """Refuses the import of a module by `neighbor` if the one of that name is another's, or is to be.

    `late` has the names that the functions of applications import.
    """
    name, wanted = locate(name, neighbor.path())
    if not wanted or name in first_modules:
        return
    loaded = file_of(spec_of(sys.modules.get(name)))
    if loaded:
        if not same(loaded, wanted):
            raise conflict(name, (loaded, title_of(name, loaded, neighbor)), (wanted, neighbor.title))
        return
    for other, names in late.items():
        if other is not neighbor and name in names:
            _, file = locate(name, other.path())
            if file and not same(file, wanted):
                raise conflict(name, (file, other.title), (wanted, neighbor.title))


def check_package(neighbor):
    """Refuses a script whose package is another application's package of that name."""
    if neighbor.shadowed:
        name, directory = neighbor.shadowed
        loaded = file_of(spec_of(sys.modules.get(name)))
        if loaded and owner(loaded) not in (None, neighbor):
            raise conflict(name, (loaded, title_of(name, loaded, neighbor)), (directory, neighbor.title))


def conflict(name, *sides):
    return refusal(f"two applications of one interpreter have different modules of the name {name!r}", *sides)


def title_of(name, file, but):
    """The application that a module was loaded for."""
    found = owner(file)
    if found in (None, but):
        importers = [one for one in everybody() if one is not but and name in one.imports]
        found = importers[0] if importers else None
    return found.title if found else "another application"


def locate(name, path):
    """The first part of a dotted name that is a file, or a package with one, and that file."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        try:
            spec = PathFinder.find_spec(name, path)
        except (ImportError, KeyError, ValueError):
            return name, None
        if spec is None or spec.has_location:
            return name, spec and spec.origin
        # A directory without __init__.py.
        path = list(spec.submodule_search_locations or ())
    return name, path[0] if path else None


def same(one, other):
    return os.path.realpath(one) == os.path.realpath(other)


def contested(neighbor, known):
    """The names of modules in the directories of `neighbor` that others have as well, or have loaded from elsewhere.

    `known` keeps the names of directories that have been looked at.
    """

    def names_in_all(directories):
        return set().union(*(known.get(one) or known.setdefault(one, names_in(one)) for one in directories))

    sources = neighbor.sources()
    theirs = set().union(*(other.sources() for other in everybody() if other is not neighbor)) - sources
    their_names = names_in_all(theirs)
    found = set()
    for name in names_in_all(sources) - first_modules:
        if name in their_names:
            found.add(name)
        elif loaded := file_of(spec_of(sys.modules.get(name))):
            _, wanted = locate(name, neighbor.path())
            if wanted and not same(loaded, wanted):
                found.add(name)
    return found


def names_in(directory):
    """The names of all top-level modules that could be imported from there."""
    names = set()
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return names
    for entry in entries:
        stem, dot, _ = entry.name.partition(".")
        if stem.isidentifier() and (entry.name.endswith((".py", ".pyc", ".so")) if dot else entry.is_dir()):
            names.add(stem)
    return names


def all_late_imports():
    """By application: the modules of contested names that its functions import."""
    known = {}
    names = {one: contested(one, known) for one in everybody()}
    if not any(names.values()):
        return dict.fromkeys(names, frozenset())
    files = files_by_owner()
    return {one: imports_in_all(files.get(one, ()), names[one], is_late=True) for one in names}


def files_by_owner():
    """The files of the modules that are loaded, by application."""
    found = {}
    for name, module in list(sys.modules.items()):
        file = file_of(spec_of(module)) if name not in first_modules else None
        if file and (one := owner(file)):
            found.setdefault(one, []).append(file)
    return found


def imports_in_all(files, names, is_late):
    return set().union(*(imports_in(file, names, is_late) for file in files))


# Functions that import the module whose name they get.
IMPORTERS = {"__import__", "import_module", "import_string"}


def imports_in(file, names, is_late):
    """The modules below these top-level names that a file imports; with `is_late` only what its functions do."""
    if not names:
        return set()
    # Most interpreters do without it.
    import ast

    try:
        with open(file, "rb") as stream:
            text = stream.read()
        # Most files have none of the names.
        if not re.search(rb"\b(%s)\b" % "|".join(sorted(names)).encode(), text):
            return set()
        tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError):
        return set()
    found = set()
    nodes = [(tree, not is_late)]
    while nodes:
        node, counts = nodes.pop()
        if counts:
            found.update(imported_by(node, ast))
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            children = node.orelse
        else:
            children = ast.iter_child_nodes(node)
        counts = counts or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        nodes.extend((child, counts) for child in children)
    return {name for name in found if name.partition(".")[0] in names}


def imported_by(node, ast):
    """The modules that one statement or expression imports by name."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        function = node.func
        called = getattr(function, "attr", None) or getattr(function, "id", None)
        name = node.args[0].value
        if called in IMPORTERS and isinstance(name, str):
            return [name]
    return []


def check_settings(neighbor):
    """Refuses settings of Django that are not those of the applications before."""
    # Of this thread, if it is hidden.
    asked = os.environ.get(SETTINGS)
    # What was there before it began is its own only if it uses Django.
    if asked and (asked != first_settings or any(name.partition(".")[0] == "django" for name in neighbor.imports)):
        neighbor.settings = asked
    elif old := neighbors.get(neighbor.number):
        # Loaded anew, and not all of it.
        neighbor.settings = old.settings
    if neighbor.settings:
        _, wanted = locate(asked := neighbor.settings, neighbor.path())
        for other in neighbor.others():
            if not other.settings:
                continue
            _, file = locate(other.settings, other.path())
            if other.settings != asked or (file and wanted and not same(file, wanted)):
                raise refusal(
                    "two applications of one interpreter have different settings of Django",
                    (f"{SETTINGS}={other.settings} ({file or 'not found'})", other.title),
                    (f"{SETTINGS}={asked} ({wanted or 'not found'})", neighbor.title),
                )
