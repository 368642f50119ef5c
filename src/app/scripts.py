"""Scripts as modules, in this interpreter and in the processes that multiprocessing starts from it.

Runs once in each interpreter, and again in each of those processes, which are to find the functions of scripts that they
are sent. In the globals are this text, `source`, and `scripts`, the paths of the scripts by the names of their modules;
`is_child` in such a process.
"""

import importlib.machinery
import importlib.util
import sys


class ScriptLoader(importlib.machinery.SourceFileLoader):
    """Loads a script from its text: byte code of the same second and size would be that of an older text."""

    def get_code(self, fullname):
        return self.source_to_code(self.get_data(self.path), self.path)


class ChildLoader(ScriptLoader):
    """Loads a script in a child process; when that fails, whatever is called of it says so.

    If it raised, the process would end without an answer, and a pool would start another one for ever.
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
    """Finds the scripts."""

    def find_spec(self, name, path=None, target=None):
        if name not in scripts:
            return None
        loader = (ChildLoader if is_child else ScriptLoader)(name, scripts[name])
        return importlib.util.spec_from_file_location(name, scripts[name], loader=loader)


class MainName(str):
    """The name of __main__, which multiprocessing sends to each process before anything else.

    To unpickle it is to run this text.
    """

    def __reduce__(self):
        names = {"__name__": __name__, "source": source, "scripts": dict(scripts), "is_child": True}
        return eval, (f"exec(source) or {str(self)!r}", names)


sys.meta_path.insert(0, ScriptFinder())
main = sys.modules["__main__"]
if main.__spec__ is None:
    main.__spec__ = importlib.machinery.ModuleSpec(MainName(main.__name__), None)
