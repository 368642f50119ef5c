"""Imports scripts as modules, in this interpreter and in the processes that multiprocessing starts from it.

Runs once in each interpreter, and again in each of those processes, so that they find the functions of scripts that are
sent to them. Globals: `source`, the source of this file; `scripts`, the paths of the scripts by their module names;
`is_child`, whether this is such a process.
"""

import importlib.machinery
import os
import sys


class ScriptLoader(importlib.machinery.SourceFileLoader):
    """Loads a script from source: byte code of the same second and size may belong to an older version."""

    def get_code(self, fullname):
        return self.source_to_code(self.get_data(self.path), self.path)


class ChildLoader(ScriptLoader):
    """Loads a script in a child process. If that fails, its functions raise the error when they are called.

    An exception here would end the process without a result, and a pool would start new ones for ever.
    """

    def exec_module(self, module):
        try:
            super().exec_module(module)
        except (Exception, SystemExit) as error:
            cause = error
        else:
            return

        def __getattr__(name):
            if name.startswith("__"):
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            return refuse

        def refuse(*_, **__):
            raise ImportError(
                f"{self.path!r} cannot be imported in a child process: {type(cause).__name__}: {cause}",
                name=module.__name__,
                path=self.path,
            ) from cause

        for name in [name for name in vars(module) if not name.startswith("__")]:
            delattr(module, name)
        module.__getattr__ = __getattr__


class ScriptFinder:
    """Finds scripts by their module names."""

    def find_spec(self, name, path=None, target=None):
        if name not in scripts:
            return None
        path = scripts[name]
        loader = (ChildLoader if is_child else ScriptLoader)(name, path)
        # As importlib.util.spec_from_file_location, whose module imports many others.
        spec = importlib.machinery.ModuleSpec(name, loader, origin=path)
        spec.has_location = True
        if loader.is_package(name):
            spec.submodule_search_locations = [os.path.dirname(path)]
        return spec


class MainName(str):
    """The name of __main__, which multiprocessing sends to each process first.

    Unpickling it runs the source of this file.
    """

    def __reduce__(self):
        names = {"__name__": __name__, "source": source, "scripts": dict(scripts), "is_child": True}
        return eval, (f"exec(source) or {str(self)!r}", names)


sys.meta_path.insert(0, ScriptFinder())
main = sys.modules["__main__"]
if main.__spec__ is None:
    main.__spec__ = importlib.machinery.ModuleSpec(MainName(main.__name__), None)
