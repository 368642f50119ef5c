"""What every interpreter of a worker has before an application is loaded.

Runs once an interpreter, with the native functions `_write`, `_flush` and `_record` and the values `facts` and `path`
in its globals.
"""

import atexit
import io
import os
import signal
import site
import sys
import threading
import time
import traceback
import types

try:
    import faulthandler
except ImportError:
    # It cannot be loaded in an interpreter with a GIL of its own.
    faulthandler = None


class LogStream(io.TextIOBase):
    """A text stream into nginx's error log: each line one record, never mixed between threads."""

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
        """The log stays open: another request may be writing to it."""
        _flush()

    def reconfigure(self, **_):
        """Accepted, as scripts do it to text streams, and without effect."""

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
    """The binary side of a log stream."""

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
    """`wsgi.file_wrapper` of PEP 3333: a file-like object in blocks."""

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
    """Descriptor and position of the open file behind a FileWrapper, where sending it is the same as reading it.

    What counts is whose `read` the wrapper would call: those of Django's File and of tempfile are their files' own,
    that of gzip.GzipFile is not.
    """
    read = getattr(wrapper.filelike, "read", None)
    if type(wrapper.filelike).__module__ == "tempfile":
        # It keeps its file open for as long as the method is there; others that wrap a method do more than that.
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
    """What runs in a frame of a thread, the outermost call first, as the lines of a traceback."""
    return "".join(traceback.format_stack(frame))


class Shutdown:
    """The callbacks of `ngx_wsgi.on_shutdown`, and the end of an interpreter."""

    def __init__(self):
        self._functions = []

    def on_shutdown(self, function):
        """Decorator: `function()` is called once, on the main thread, when the worker or the interpreter ends."""
        if not callable(function):
            raise TypeError("on_shutdown() needs a callable")
        self._functions.append(function)
        return function

    def run(self, seconds):
        """As the end of a Python process: callbacks, threads joined, atexit; the threads get half of the time."""
        deadline = time.monotonic() + seconds / 2
        while self._functions:
            function = self._functions.pop()
            try:
                function()
            except BaseException:
                traceback.print_exc()
        # Waiting for threads takes as long as it takes, so it is done on a thread that nobody has to wait for.
        joiner = threading.Thread(target=end_threads, name="ngx_wsgi shutdown", daemon=True)
        joiner.start()
        joiner.join(max(0.0, deadline - time.monotonic()))
        atexit._run_exitfuncs()


def end_threads():
    """What threading._shutdown() does, which only the main thread may call, without an end to its wait.

    First the executors of concurrent.futures finish their jobs, then every thread that is no daemon is joined. Threads
    that `threading` did not start, as those of the server, are left alone.
    """
    for function in reversed(getattr(threading, "_threading_atexits", [])):
        try:
            function()
        except BaseException:
            traceback.print_exc()
    left_alone = (threading.main_thread(), threading.current_thread())
    while threads := [
        thread
        for thread in threading.enumerate()
        if not (thread.daemon or thread in left_alone or isinstance(thread, threading._DummyThread))
    ]:
        for thread in threads:
            thread.join()


def signal_name(number):
    """As `signal.Signals` names it, which has no names for most of the real-time signals."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}" if number in signal.valid_signals() else str(number)


def guard_signals():
    """Keeps the application's signal handlers away from nginx, whose own they would replace."""
    install = signal.signal
    worker = os.getpid()

    def refuse(call):
        stack = "".join(traceback.format_stack(sys._getframe(2), limit=5))
        sys.stderr.write(
            f"{call} ignored: nginx handles the signals of its workers; "
            f"use ngx_wsgi.on_shutdown for clean-up\n{stack}"
        )

    def guarded(signalnum, handler):
        is_here = os.getpid() == worker and threading.current_thread() is threading.main_thread()
        if not is_here or signalnum not in signal.valid_signals():
            return install(signalnum, handler)
        refuse(f"signal.signal({signal_name(signalnum)})")
        return signal.getsignal(signalnum)

    def register(signum, *_, **__):
        refuse(f"faulthandler.register({signal_name(signum)})")

    guarded.__doc__ = install.__doc__
    signal.signal = guarded
    if faulthandler:
        faulthandler.register = register


def adopt_thread(name):
    """Makes this thread of the server one that `threading` knows.

    Threads that an application starts from it are no daemons then, as anywhere else.
    """
    thread = threading.current_thread()
    thread.name = name
    thread._daemonic = False


def leave_thread():
    """This thread of the server ends: `threading` would keep it among those that run."""
    with threading._active_limbo_lock:
        threading._active.pop(threading.get_ident(), None)


def check_executable():
    """multiprocessing would wait for ever for a process that cannot be started; without a path it fails at once."""
    if not (sys.executable and os.access(sys.executable, os.X_OK)):
        sys.executable = None


def add_paths(directories):
    """Puts `directories` and what their .pth files name in front of sys.path, once and in order."""
    before = list(sys.path)
    for directory in directories:
        if directory not in sys.path:
            site.addsitedir(directory)
    added = [entry for entry in sys.path if entry not in before]
    front = list(directories) + [entry for entry in added if entry not in directories]
    sys.path[:] = front + [entry for entry in sys.path if entry not in front]


def log_handler():
    """The class `ngx_wsgi.LogHandler`: made when it is asked for, as few applications want all of `logging` imported."""
    import logging

    class LogHandler(logging.Handler):
        """Writes each record to nginx's error log, at the level there that is nearest below its own."""

        __module__ = "ngx_wsgi"
        __qualname__ = "LogHandler"

        def emit(self, record):
            try:
                _record(record.levelno, self.format(record))
            except RecursionError:
                raise
            except Exception:
                self.handleError(record)

    return LogHandler


def public_module():
    """The module `ngx_wsgi` that applications import."""

    def __getattr__(name):
        if name != "LogHandler":
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        # Two threads may ask at the same time.
        return module.__dict__.setdefault(name, log_handler())

    module = types.ModuleType("ngx_wsgi", "The nginx worker that this code runs in.")
    RequestTimeout.__module__ = module.__name__
    module.RequestTimeout = RequestTimeout
    module.on_shutdown = shutdown.on_shutdown
    module.__getattr__ = __getattr__
    module.__dict__.update(facts)
    sys.modules[module.__name__] = module


shutdown = Shutdown()
sys.stdin = open(os.devnull)
sys.stdout = sys.__stdout__ = LogStream("<stdout>")
# For programs and C code: descriptor 2 is nginx's error log as well, but for descriptor 1 that is not so.
sys.stderr = sys.__stderr__ = LogStream("<stderr>", 2)
errors = LogStream("<wsgi.errors>")
guard_signals()
check_executable()
add_paths(path)
public_module()
