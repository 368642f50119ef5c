"""Finds callables that cannot be WSGI applications: those of ASGI, and factories that are to be called first.

Each request would be a TypeError. Only their own code counts: what a callable says of itself in other ways
(`__wrapped__`, `__signature__`) need not be so, and one that says nothing (of C, a mock object) may be an application.

Runs before loader.py, with the same globals.
"""

import functools
import math
import types

CO_VARARGS, CO_COROUTINE, CO_ASYNC_GENERATOR = 0x04, 0x80, 0x200


def check_callable(called, name, call=None):
    """Refuses what is sure to fail when a request calls it with environ and start_response.

    `name` is what messages call it, `call` how wsgi_pass would name the application that it makes.
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
    """The Python function that runs when it is called, and how many of its arguments are there by then; or None."""
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
        # As a call finds it: neither in the object nor by its own ways to get attributes.
        function = next((vars(base)["__call__"] for base in kind.__mro__ if "__call__" in vars(base)), None)
        count = 1
    return (function, count) if type(function) is types.FunctionType else (None, 0)


def arguments_of(called):
    """How many positional arguments it needs, and how many it takes."""
    if type(called) is functools.partial:
        least, most = arguments_of(called.func)
        if called.keywords or any(argument is PLACEHOLDER for argument in called.args):
            return 0, math.inf
        return max(0, least - len(called.args)), max(0, most - len(called.args))
    if issubclass(type(called), type) and called.__new__ is object.__new__ and called.__init__ is object.__init__:
        return (0, 0) if type(called).__call__ is type.__call__ else (0, math.inf)
    function, count = function_of(called)
    if function is None:
        return 0, math.inf
    code = function.__code__
    least = code.co_argcount - len(function.__defaults__ or ())
    most = math.inf if code.co_flags & CO_VARARGS else code.co_argcount
    return max(0, least - count), max(0, most - count)


PLACEHOLDER = getattr(functools, "Placeholder", object())


def is_async(called):
    """Whether a call returns nothing that can be iterated, but what an event loop has to run."""
    while type(called) is functools.partial:
        called = called.func
    if issubclass(type(called), type):
        # A call makes an instance.
        return False
    function, _ = function_of(called)
    return function is not None and bool(function.__code__.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR))
