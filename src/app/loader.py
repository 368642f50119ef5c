"""Loads applications: a script by its path or a module by its name, its callable, and the middleware around it.

Globals: `is_main`, whether this is the main interpreter; `access_problem(path)`, a sentence on why the user of this
process cannot read a path, or None; and the names of scripts.py, callables.py, settings.py and conflicts.py.
"""

import importlib
import importlib.machinery
import os
import site
import sys
import threading
import time
import types
import zlib


class ImportRecorder:
    """A finder that finds nothing, but records the modules that this thread imports."""

    def __init__(self):
        self.names = []
        self._thread = threading.get_ident()

    def find_spec(self, name, path=None, target=None):
        if threading.get_ident() == self._thread:
            self.names.append(name)
        return None


# Byte code identifies its source by size and modification time in seconds. So it is neither written nor trusted while
# the source may still change within the same second.
SETTLED_AFTER = 2


class JustEdited:
    """Finds modules that have just been edited, and loads them from source, without byte code."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.stdlib_module_names:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if not spec or type(spec.loader) is not importlib.machinery.SourceFileLoader:
            return None
        try:
            age = time.time() - os.stat(spec.loader.path).st_mtime
        except OSError:
            return None
        if age > SETTLED_AFTER:
            return None
        spec.loader = ScriptLoader(spec.loader.name, spec.loader.path)
        return spec


just_edited = JustEdited()

# By script or module: the names of the modules that were first imported when that application was loaded.
imported = {}


def reload(number, title, script, module, callable_, middleware, files):
    """As `load`, but imports the script's module and those of `files` again. On failure restores the old ones."""
    files = set(files)
    names = {name for name, module in list(sys.modules.items()) if source_file(module) in files}
    names.add(script_module(script) if script else module)
    old = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    importlib.invalidate_caches()
    try:
        application = load(number, title, script, module, callable_, middleware, is_reloaded=True)
        # A module that was not imported again belongs to another application.
        for other in imported.keys() - {script or module}:
            for name in imported[other] & old.keys():
                sys.modules.setdefault(name, old[name])
        return application
    except BaseException:
        for name, module in old.items():
            sys.modules[name] = module
            parent, _, stem = name.rpartition(".")
            if parent in sys.modules:
                setattr(sys.modules[parent], stem, module)
        raise


def source_file(module):
    """Returns the source file of a module; None for a module that cannot be loaded twice."""
    if not issubclass(type(module), types.ModuleType):
        return None
    # Not by getattr: it would load a lazy module, and may raise anything.
    attributes = object.__getattribute__(module, "__dict__")
    loader = getattr(attributes.get("__spec__"), "loader", None)
    file = attributes.get("__file__")
    return file if isinstance(file, str) and isinstance(loader, importlib.machinery.SourceFileLoader) else None


def files_of(module):
    """Returns the file of a module, and those of all modules from outside the standard library and site-packages."""
    installed = os.path.join(os.path.dirname(os.__file__), "")
    files = {source_file(module) for module in list(sys.modules.values())}
    files = {file for file in files if file and not file.startswith(installed) and not is_installed(file)}
    return source_file(sys.modules.get(module)), sorted(files)


def description(script, module):
    """Returns the `__version__` of an application's module, None if it is no text, and the file of the module."""
    name = next((name for name, path in scripts.items() if path == script), None) if script else module
    loaded = sys.modules.get(name)
    if not issubclass(type(loaded), types.ModuleType):
        return None, script
    # Not by getattr: it would load a lazy module, and may raise anything.
    attributes = object.__getattribute__(loaded, "__dict__")
    version, file = attributes.get("__version__"), script or attributes.get("__file__")
    return version if type(version) is str else None, file if type(file) is str else None


def is_installed(file):
    """Whether it is in a directory of installed packages."""
    return "/site-packages/" in file or "/dist-packages/" in file


def load(number, title, script, module, callable_, middleware, is_reloaded):
    """Returns the WSGI callable. On failure removes the imported modules from sys.modules.

    `is_reloaded` if the files of the application may be edited at any time.
    """
    if is_reloaded and just_edited not in sys.meta_path:
        # It stays, as modules may be imported at any time.
        sys.meta_path.insert(0, just_edited)
    root, names = script_package(script) if script else (None, ())
    with BeingLoaded(number, title, root, names[0] if len(names) > 1 else None):
        recorder = ImportRecorder()
        sys.meta_path.insert(0, recorder)
        try:
            # Before code of the application runs.
            check_modules()
            application = make_application(script, module, callable_, middleware)
            check_loaded()
            imported[script or module] = set(recorder.names)
            return application
        except BaseException as error:
            refusal = find_access_problem(error) or find_refusal(error, recorder.names)
            forget(recorder.names)
            if refusal:
                raise refusal from error
            raise
        finally:
            # The application may have replaced the list.
            if recorder in sys.meta_path:
                sys.meta_path.remove(recorder)


def make_application(script, module, callable_, middleware):
    """Imports an application and wraps its middleware around it."""
    loaded = import_script(script) if script else import_module(module)
    application = find_callable(loaded, script or module, callable_, "wsgi_pass")
    name, is_factory = callable_
    call = f"{name}()"
    seen_as = (f"what {call} returned", None) if is_factory else (repr(name), call)
    for module, callable_ in reversed(middleware):
        wrap = find_callable(import_module(module), module, callable_, "wsgi_middleware")
        wrapped = wrap(application)
        if wrapped is not application:
            seen_as = f"what middleware {callable_[0]!r} of {module!r} returned", None
        application = wrapped
        if not callable(application):
            raise TypeError(f"middleware {callable_[0]!r} of {module!r} returned no callable")
    # The outermost only: middleware may turn one kind of application into another.
    check_callable(application, *seen_as)
    return application


# The messages of extension modules that cannot be in more than one interpreter of a process.
REFUSALS = (
    "PyO3 modules do not yet support subinterpreters",
    "PyO3 modules may only be initialized once",
    # Cython
    "Interpreter change detected",
    # NumPy
    "cannot load module more than once per process",
)


def find_access_problem(error):
    """Returns an error that names the path that the user of the worker cannot read, if that is the cause of `error`."""
    while error:
        if isinstance(error, PermissionError) and isinstance(error.filename, (str, bytes)):
            if sentence := access_problem(error.filename):
                return PermissionError(sentence)
        # To Python, a directory that cannot be read does not exist, or is a package without modules.
        elif isinstance(error, ImportError) and error.name:
            for path in places_of(error.name):
                if sentence := access_problem(path):
                    return ImportError(f"{sentence}; {error}", name=error.name)
        elif isinstance(error, AttributeError) and is_directory(getattr(error, "obj", None)):
            for path in error.obj.__path__:
                if sentence := access_problem(path):
                    return ImportError(f"{sentence}; {error}")
        error = error.__cause__
    return None


def is_directory(module):
    """Whether it is a namespace package: a module that consists of directories only."""
    return isinstance(module, types.ModuleType) and not getattr(module, "__file__", None) and hasattr(module, "__path__")


def places_of(name):
    """Yields the paths where a module of this name and its parent packages are searched."""
    parts = name.split(".")
    # Python leaves out the directories of a virtual environment that it cannot read.
    directories = sys.path + site.getsitepackages()
    for count, part in enumerate(parts, 1):
        for directory in directories:
            if isinstance(directory, str):
                yield directory
                yield os.path.join(directory, part)
        directories = getattr(sys.modules.get(".".join(parts[:count])), "__path__", ())


def find_refusal(error, imported):
    """Returns an error with the remedy, if `error` comes from an extension module that refuses this interpreter."""
    if is_main:
        return None
    seen = set()
    while error and id(error) not in seen:
        seen.add(id(error))
        text = str(error) if isinstance(error, ImportError) else ""
        # The message of CPython in an interpreter with a GIL of its own.
        module, found, _ = text.removeprefix("module ").partition(" does not support loading in subinterpreters")
        if found:
            return ImportError(
                f"extension module {module!r} refuses an interpreter with a GIL of its own: set "
                '"wsgi_interpreter_gil shared" or "wsgi_use_main_interpreter on" for this application, '
                "or give it an nginx of its own",
                name=module,
            )
        if any(refusal in text for refusal in REFUSALS):
            module = getattr(error, "name", None) or (imported[-1] if imported else "?")
            return ImportError(
                f"extension module {module!r} refuses sub-interpreters: set "
                '"wsgi_use_main_interpreter on" for this application, or give it an nginx of its own',
                name=module,
            )
        error = error.__cause__ or error.__context__
    return None


def find_callable(module, source, callable_, directive):
    name, is_factory = callable_
    found = module
    for attribute in name.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            error = AttributeError(
                f"{source!r} has no {name!r}; the name of the callable is the second argument of {directive}"
            )
            error.obj = module
            raise error from None
    if is_factory:
        found = found()
    if not callable(found):
        raise TypeError(f"{name!r} of {source!r} is not callable, it is of type {type(found).__name__!r}")
    return found


def script_package(path):
    """Returns the directory that a script is imported from, and the parts of its module name there."""
    root, file = os.path.split(path)
    names = [os.path.splitext(file)[0]]
    while os.path.isfile(os.path.join(root, "__init__.py")) and os.path.dirname(root) != root:
        root, name = os.path.split(root)
        names.insert(0, name)
    return root, names


def script_module(path):
    """Returns the module name of a script: the one in its package, or else one made from its path."""
    directory, file = os.path.split(path)
    stem, extension = os.path.splitext(file)
    root, names = script_package(path)
    # As `python script.py` does; for a package, the directory that contains it.
    if root not in sys.path:
        sys.path.insert(0, root)
    if len(names) > 1 and extension == ".py" and all(name.isidentifier() for name in names):
        package = import_module(".".join(names[:-1]))
        if os.path.realpath(directory) in map(os.path.realpath, getattr(package, "__path__", ())):
            return ".".join(names)
        # Another package of the same name comes first on the path.
    # A dot in the name would make it part of a package.
    return f"_wsgi_{stem.replace('.', '_')}_{zlib.crc32(os.fsencode(path)):08x}"


def import_script(path):
    """Imports a script under the name that `script_module` returns."""
    name = script_module(path)
    scripts[name] = path
    return import_module(name)


def import_module(name):
    """Imports a module without frames of importlib in tracebacks."""
    __import__(name)
    return sys.modules[name]


def forget(names):
    """Removes the modules that a failed import has left behind.

    Modules of the standard library stay, and packages with extension modules, which cannot be initialised twice.
    """
    # A module may have been searched more than once.
    loaded = [name for name in dict.fromkeys(names) if name in sys.modules]
    fixed = set(sys.stdlib_module_names)
    for name in loaded:
        spec = getattr(sys.modules[name], "__spec__", None)
        if isinstance(getattr(spec, "loader", None), importlib.machinery.ExtensionFileLoader):
            fixed.add(name.partition(".")[0])
    for name in loaded:
        if name.partition(".")[0] not in fixed:
            del sys.modules[name]
    importlib.invalidate_caches()
