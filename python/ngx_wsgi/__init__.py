"""What `import ngx_wsgi` gives outside nginx: the names that applications use, for tests, shells and programs.

In a worker of nginx the module of this name is part of nginx: this file is not run there, and only its submodules are
imported.
"""

import atexit
import os
import sys

#: No nginx runs this process.
nginx_version = None
build_python_version = f"{sys.version_info.major}.{sys.version_info.minor}"
interpreter = "main"
worker_number = 0
#: Whether nginx imports applications for a check only.
checking = False


class RequestTimeout(BaseException):
    """Raised by a worker in a call that exceeds wsgi_request_timeout. Nothing raises it outside nginx."""


def on_shutdown(function):
    """Decorator: `function()` is called once, when the process ends."""
    if not callable(function):
        raise TypeError("on_shutdown() needs a callable")
    return atexit.register(function)


def status():
    """Returns what the status page of nginx shows, as a dictionary. There is none outside nginx."""
    raise RuntimeError("status() needs a worker of nginx")


def __getattr__(name):
    if name == "worker_pid":
        # A process that was forked has another one.
        return os.getpid()
    if name == "version":
        return globals().setdefault(name, _version())
    if name == "LogHandler":
        return globals().setdefault(name, _log_handler())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), "LogHandler", "version", "worker_pid"})


def _version():
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ngx-http-wsgi")
    except PackageNotFoundError:
        # The source tree, which is not installed.
        import tomllib

        with open(os.path.join(os.path.dirname(__file__), "../../Cargo.toml"), "rb") as file:
            return tomllib.load(file)["package"]["version"]


def _log_handler():
    # `logging` is imported only if it is needed.
    import logging

    class LogHandler(logging.StreamHandler):
        """Writes each record to standard error, which is nginx's error log in a worker."""

        __module__ = "ngx_wsgi"
        __qualname__ = "LogHandler"

        def __init__(self, level=logging.NOTSET):
            super().__init__()
            self.setLevel(level)

    return LogHandler
