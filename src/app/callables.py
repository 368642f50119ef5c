"""Detects callables that cannot be WSGI applications: ASGI applications, and factories that were not called.

With them, every request would be a TypeError. Only their code is examined: `__wrapped__` and `__signature__` may not
match it. A callable without Python code (a function in C, a mock object) may be an application.

Runs before loader.py, with the same globals.
"""

import functools
import types

INFINITE = float("inf")
CO_VARARGS, CO_COROUTINE, CO_ASYNC_GENERATOR = 0x04, 0x80, 0x200


def check_callable(called, name, call=None):
    """Refuses a callable that is certain to fail when it is called with environ and start_response.

    `name` is its name in messages; `call` is the wsgi_pass argument for the application that it creates as a factory.
    """
    least, most = arguments_of(called)
    # ASGI calls application(scope, receive, send).
    if is_async(called) or least == 3:
        raise TypeError(f"{name} looks like an ASGI application; this module runs WSGI: {way_out(called)}")
    if least == 0 and most < 2:
        remedy = f': write "{call}"' if call else ""
        raise TypeError(f"{name} looks like a factory, as it needs no arguments{remedy}")
    if not least <= 2 <= most:
        count = f"needs {least}" if least > 2 else f"takes {most}"
        raise TypeError(f"{name} cannot be called as application(environ, start_response): it {count} argument(s)")


def way_out(called):
    proxy = "proxy_pass to a server for ASGI, such as uvicorn"
    if type(called).__module__.partition(".")[0] == "django":
        return f"use Django's get_wsgi_application, or {proxy}"
    return proxy


def function_of(called):
    """Returns the Python function that a call runs, or None, and the number of its arguments that are already bound."""
    kind = type(called)
    if kind is types.FunctionType:
        return called, 0
    if kind is types.MethodType:
        function, count = called.__func__, 1
    elif issubclass(kind, type):
        if kind.__call__ is not type.__call__ or called.__new__ is not object.__new__:
            return None, 0
        function, count = called.__init__, 1
    else:
        # As a call finds it: on the class, without __getattr__.
        function = next((vars(base)["__call__"] for base in kind.__mro__ if "__call__" in vars(base)), None)
        count = 1
    return (function, count) if type(function) is types.FunctionType else (None, 0)


def arguments_of(called):
    """Returns the least and the greatest number of positional arguments that it takes."""
    if type(called) is functools.partial:
        least, most = arguments_of(called.func)
        if called.keywords or any(argument is PLACEHOLDER for argument in called.args):
            return 0, INFINITE
        return max(0, least - len(called.args)), max(0, most - len(called.args))
    if issubclass(type(called), type) and called.__new__ is object.__new__ and called.__init__ is object.__init__:
        return (0, 0) if type(called).__call__ is type.__call__ else (0, INFINITE)
    function, count = function_of(called)
    if function is None:
        return 0, INFINITE
    code = function.__code__
    least = code.co_argcount - len(function.__defaults__ or ())
    most = INFINITE if code.co_flags & CO_VARARGS else code.co_argcount
    return max(0, least - count), max(0, most - count)


PLACEHOLDER = getattr(functools, "Placeholder", object())


def is_async(called):
    """Whether a call returns a coroutine or an async generator."""
    while type(called) is functools.partial:
        called = called.func
    if issubclass(type(called), type):
        # A call creates an instance.
        return False
    function, _ = function_of(called)
    return function is not None and bool(function.__code__.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR))
