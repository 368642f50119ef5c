"""Prepares an interpreter of a worker before an application is loaded.

Runs once per interpreter. Globals: the native functions `_write`, `_flush`, `_record`, `_status`, `_log_number` and
`_enter_log`; `facts`, the attributes of the module `ngx_wsgi`; `path`, directories to put in front of sys.path;
`has_application_logs`, true if an application has a log of its own.

Modules that few workers need are imported where they are used: each interpreter would hold a megabyte for them.
"""

import _signal
import atexit
import functools
import io
import os
import site
import sys
import threading
import time
import types

try:
    import faulthandler
except ImportError:
    # An interpreter with a GIL of its own cannot import it.
    faulthandler = None


class LogStream(io.TextIOBase):
    """A text stream to nginx's error log. Each line is one record; lines of different threads are not mixed."""

    encoding = "utf-8"
    errors = "backslashreplace"
    newlines = None
    line_buffering = True
    mode = "w"

    def __init__(self, name, descriptor=None):
        self.name = name
        self.buffer = LogBuffer(self)
        self._descriptor = descriptor

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        _write(text)
        return len(text)

    def writelines(self, lines):
        for line in lines:
            self.write(line)

    def flush(self):
        _flush()

    def close(self):
        """Flushes. The log stays open, as other requests may write to it."""
        _flush()

    def reconfigure(self, **_):
        """Has no effect. Scripts call it on text streams."""

    def readable(self):
        return False

    def writable(self):
        return True

    def isatty(self):
        return False

    def fileno(self):
        if self._descriptor is not None:
            return self._descriptor
        raise io.UnsupportedOperation("this stream writes to nginx's error log and has no descriptor")

    def __repr__(self):
        return f"<ngx_wsgi log stream {self.name!r}>"


class LogBuffer(io.BufferedIOBase):
    """The binary buffer of a log stream."""

    mode = "wb"

    def __init__(self, text):
        self._text = text
        self.name = text.name

    def write(self, data):
        if isinstance(data, str):
            raise TypeError("a bytes-like object is required, not 'str'")
        with memoryview(data) as view:
            _write(bytes(view))
            return view.nbytes

    def flush(self):
        _flush()

    def close(self):
        _flush()

    def writable(self):
        return True

    def fileno(self):
        return self._text.fileno()


class FileWrapper:
    """`wsgi.file_wrapper` of PEP 3333: iterates over a file-like object in blocks."""

    def __init__(self, filelike, blksize=65536):
        self.filelike = filelike
        self.blksize = blksize
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __iter__(self):
        return self

    def __next__(self):
        block = self.filelike.read(self.blksize)
        if block:
            return block
        raise StopIteration


def regular_file(wrapper):
    """Returns descriptor and position of the open file behind a FileWrapper; None if it has to be read.

    This depends on the `read` method that the wrapper would call: Django's File and tempfile have that of the file,
    gzip.GzipFile does not.
    """
    read = getattr(wrapper.filelike, "read", None)
    if type(wrapper.filelike).__module__ == "tempfile":
        # Its wrapper only keeps the file open. Other wrappers of methods do more than that.
        read = getattr(read, "__wrapped__", read)
    source = getattr(read, "__self__", None)
    raw = source
    if type(source) in (io.BufferedReader, io.BufferedRandom):
        source.flush()
        raw = source.raw
    if type(raw) is not io.FileIO or not raw.readable():
        return None
    return raw.fileno(), source.tell()


class RequestTimeout(BaseException):
    """Raised in the thread of a call that runs longer than wsgi_request_timeout."""


def format_stack(frame):
    """Returns the stack of a frame as the lines of a traceback, outermost call first."""
    import traceback

    return "".join(traceback.format_stack(frame))


def print_error():
    """Prints the exception that is handled, without a module that may fail to be imported."""
    sys.__excepthook__(*sys.exc_info())


class Shutdown:
    """The callbacks of `ngx_wsgi.on_shutdown`, and the shutdown of an interpreter."""

    def __init__(self):
        self._functions = []

    def on_shutdown(self, function):
        """Decorator: `function()` is called once, on the main thread, when the worker or the interpreter ends."""
        if not callable(function):
            raise TypeError("on_shutdown() needs a callable")
        self._functions.append((function, _log_number()))
        return function

    def run(self, seconds):
        """Runs callbacks, joins threads for half of the time, and runs atexit handlers, as the end of a process does."""
        deadline = time.monotonic() + seconds / 2
        while self._functions:
            function, log_number = self._functions.pop()
            _enter_log(log_number)
            try:
                function()
            except BaseException:
                print_error()
        _enter_log(None)
        # Joining threads may take forever, so it is done on a daemon thread.
        joiner = threading.Thread(target=end_threads, name="ngx_wsgi shutdown", daemon=True)
        joiner.start()
        joiner.join(max(0.0, deadline - time.monotonic()))
        atexit._run_exitfuncs()


def end_threads():
    """Does the work of threading._shutdown(), which only the main thread may call, and which has no timeout.

    Lets the executors of concurrent.futures finish their jobs, then joins all non-daemon threads. Ignores threads that
    `threading` did not start, such as those of the server.
    """
    for function in reversed(getattr(threading, "_threading_atexits", [])):
        try:
            function()
        except BaseException:
            print_error()
    ignored = (threading.main_thread(), threading.current_thread())
    while threads := [
        thread
        for thread in threading.enumerate()
        if not (thread.daemon or thread in ignored or isinstance(thread, threading._DummyThread))
    ]:
        for thread in threads:
            thread.join()


def signal_name(number):
    """Returns the name of a signal. `signal.Signals` has no names for most real-time signals."""
    import signal

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number in signal.valid_signals() else str(number)


def guard_signals():
    """Keeps applications from replacing nginx's signal handlers.

    `signal.signal` calls `_signal.signal`, which is replaced here, so that `signal` need not be imported.
    """
    install = _signal.signal
    worker = os.getpid()

    def refuse(call):
        import traceback

        frame = sys._getframe(2)
        if frame.f_globals.get("__name__") == "signal":
            frame = frame.f_back
        stack = "".join(traceback.format_stack(frame, limit=5))
        sys.stderr.write(
            f"{call} ignored: nginx handles the signals of its workers; "
            f"use ngx_wsgi.on_shutdown for clean-up\n{stack}"
        )

    @functools.wraps(install)
    def guarded(signalnum, handler, /):
        is_here = os.getpid() == worker and threading.current_thread() is threading.main_thread()
        if not is_here or signalnum not in _signal.valid_signals():
            return install(signalnum, handler)
        refuse(f"signal.signal({signal_name(signalnum)})")
        return _signal.getsignal(signalnum)

    def register(signum, *_, **__):
        refuse(f"faulthandler.register({signal_name(signum)})")

    _signal.signal = guarded
    if faulthandler:
        faulthandler.register = register


def adopt_thread(name):
    """Registers this thread of the server in `threading`.

    It is no daemon, so the threads that an application starts from it are none by default, as in any program.
    """
    thread = threading.current_thread()
    thread.name = name
    thread._daemonic = False


def leave_thread():
    """Removes this thread of the server from `threading`, before it ends."""
    with threading._active_limbo_lock:
        threading._active.pop(threading.get_ident(), None)


def check_executable():
    """Unsets a sys.executable that cannot be run: multiprocessing then fails at once instead of waiting forever."""
    if not (sys.executable and os.access(sys.executable, os.X_OK)):
        sys.executable = None


def add_paths(directories):
    """Puts `directories`, and the entries of their .pth files, in front of sys.path, once and in order."""
    before = list(sys.path)
    for directory in directories:
        if directory not in sys.path:
            site.addsitedir(directory)
    added = [entry for entry in sys.path if entry not in before]
    front = list(directories) + [entry for entry in added if entry not in directories]
    sys.path[:] = front + [entry for entry in sys.path if entry not in front]


def log_handler():
    """Creates the class `ngx_wsgi.LogHandler` on first use, so that `logging` is only imported if it is needed."""
    import logging

    class LogHandler(logging.Handler):
        """Writes each record to nginx's error log, at the nearest level not above its own."""

        __module__ = "ngx_wsgi"
        __qualname__ = "LogHandler"

        def emit(self, record):
            try:
                # The second argument is made first: it sets the text of the traceback.
                _record(record.levelno, self.format(record), record.exc_text or "")
            except RecursionError:
                raise
            except Exception:
                self.handleError(record)

    return LogHandler


def status():
    """Returns what the status page shows, as a dictionary."""
    report = _status()
    if report is None:
        raise RuntimeError('status() needs "wsgi_status_zone" in the http block')
    import json

    return json.loads(report)


def let_threads_inherit_logs():
    """Has threads that an application starts write to its log. Only for workers with `wsgi_log`."""
    import _thread

    def inheriting(start):
        @functools.wraps(start)
        def start_thread(function, *arguments, **keywords):
            number = _log_number()
            if number is None:
                return start(function, *arguments, **keywords)

            # The method of a `threading.Thread`, most often.
            name = getattr(getattr(function, "__self__", None), "name", None)

            def run(*arguments, **keywords):
                _enter_log(number, name)
                try:
                    return function(*arguments, **keywords)
                finally:
                    # Logs a line without an end, with the name of the thread.
                    _enter_log(number, name)

            return start(run, *arguments, **keywords)

        return start_thread

    for module in (_thread, threading):
        for name in ("start_new_thread", "start_joinable_thread"):
            name = f"_{name}" if module is threading else name
            if start := getattr(module, name, None):
                setattr(module, name, inheriting(start))


def package_path():
    """Returns the directories of the package `ngx_wsgi` on the current sys.path, where its submodules are."""
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("ngx_wsgi")
    return list(spec.submodule_search_locations or ()) if spec else []


def public_module():
    """Creates the module `ngx_wsgi` that applications import.

    The Python package of the same name cannot replace it, but has submodules, such as `ngx_wsgi.django`.
    """

    def __getattr__(name):
        if name == "__path__":
            return package_path()
        if name != "LogHandler":
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        # Two threads may do so at the same time.
        return module.__dict__.setdefault(name, log_handler())

    module = types.ModuleType("ngx_wsgi", "The nginx worker that this code runs in.")
    RequestTimeout.__module__ = status.__module__ = module.__name__
    module.RequestTimeout = RequestTimeout
    module.on_shutdown = shutdown.on_shutdown
    module.status = status
    module.__getattr__ = __getattr__
    module.__dict__.update(facts)
    sys.modules[module.__name__] = module


shutdown = Shutdown()
sys.stdin = open(os.devnull)
sys.stdout = sys.__stdout__ = LogStream("<stdout>")
# Descriptor 2 is nginx's error log, too, for programs and C code. Descriptor 1 is not.
sys.stderr = sys.__stderr__ = LogStream("<stderr>", 2)
errors = LogStream("<wsgi.errors>")
guard_signals()
check_executable()
add_paths(path)
public_module()
if has_application_logs:
    let_threads_inherit_logs()
