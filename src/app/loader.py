"""Loads applications: a script by its path or a module by its name, its callable, the middleware around it.

`is_main` in the globals says whether this is the main interpreter.
"""

import importlib
import importlib.machinery
import importlib.util
import os
import sys
import threading
import zlib


class ScriptLoader(importlib.machinery.SourceFileLoader):
    """Loads a script from its text: byte code of the same second and size would be that of an older text."""

    def get_code(self, fullname):
        return self.source_to_code(self.get_data(self.path), self.path)


class ImportRecorder:
    """A finder that finds nothing, but notes what this thread imports."""

    def __init__(self):
        self.names = []
        self._thread = threading.get_ident()

    def find_spec(self, name, path=None, target=None):
        if threading.get_ident() == self._thread:
            self.names.append(name)
        return None


def load(script, module, callable_, middleware):
    """Returns the WSGI callable; on failure leaves sys.modules as if nothing had been imported."""
    recorder = ImportRecorder()
    sys.meta_path.insert(0, recorder)
    try:
        loaded = import_script(script, recorder) if script else importlib.import_module(module)
        application = find_callable(loaded, script or module, callable_, "wsgi_pass")
        for module, callable_ in reversed(middleware):
            wrap = find_callable(importlib.import_module(module), module, callable_, "wsgi_middleware")
            application = wrap(application)
            if not callable(application):
                raise TypeError(f"middleware {callable_[0]!r} of {module!r} returned no callable")
        return application
    except BaseException as error:
        refusal = find_refusal(error, recorder.names)
        forget(recorder.names)
        if refusal:
            raise refusal from error
        raise
    finally:
        # The application may have made a list of its own.
        if recorder in sys.meta_path:
            sys.meta_path.remove(recorder)


# What extension modules say that cannot be in more than one interpreter of a process.
REFUSALS = (
    "PyO3 modules do not yet support subinterpreters",
    "PyO3 modules may only be initialized once",
    # Cython
    "Interpreter change detected",
    # NumPy
    "cannot load module more than once per process",
)


def find_refusal(error, imported):
    """The error that says what to do, if `error` comes of an extension module that refuses this interpreter."""
    if is_main:
        return None
    seen = set()
    while error and id(error) not in seen:
        seen.add(id(error))
        text = str(error) if isinstance(error, ImportError) else ""
        # What CPython says where the interpreter has a GIL of its own.
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


def find_callable(module, place, callable_, directive):
    name, is_factory = callable_
    found = module
    for attribute in name.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise AttributeError(
                f"{place!r} has no {name!r}; the name of the callable is the second argument of {directive}"
            ) from None
    if is_factory:
        found = found()
    if not callable(found):
        raise TypeError(f"{name!r} of {place!r} is not callable, it is of type {type(found).__name__!r}")
    return found


def import_script(path, recorder):
    """Imports a script: as a part of its package if it is in one, else under a name made from its path."""
    directory, file = os.path.split(path)
    stem, extension = os.path.splitext(file)
    root, names = directory, [stem]
    while os.path.isfile(os.path.join(root, "__init__.py")) and os.path.dirname(root) != root:
        root, name = os.path.split(root)
        names.insert(0, name)
    # As `python script.py` does, and for a package the directory that it is imported from.
    if root not in sys.path:
        sys.path.insert(0, root)
    name = f"_wsgi_{stem}_{zlib.crc32(os.fsencode(path)):08x}"
    package = None
    if len(names) > 1 and extension == ".py" and all(name.isidentifier() for name in names):
        parent = importlib.import_module(".".join(names[:-1]))
        # Another package of the same name may come first on the path.
        if os.path.realpath(directory) in map(os.path.realpath, parent.__path__):
            package, name = parent, ".".join(names)
    if name in sys.modules:
        return sys.modules[name]
    loader = ScriptLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    recorder.names.append(name)
    if package:
        setattr(package, stem, module)
    loader.exec_module(module)
    return module


def forget(names):
    """Removes modules that a failed import left behind.

    Not those of the standard library, nor packages with extension modules: those cannot be initialised twice.
    """
    loaded = [name for name in names if name in sys.modules]
    fixed = set(sys.stdlib_module_names)
    for name in loaded:
        spec = getattr(sys.modules[name], "__spec__", None)
        if isinstance(getattr(spec, "loader", None), importlib.machinery.ExtensionFileLoader):
            fixed.add(name.partition(".")[0])
    for name in loaded:
        if name.partition(".")[0] not in fixed:
            del sys.modules[name]
    importlib.invalidate_caches()
