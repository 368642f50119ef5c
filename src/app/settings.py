"""Finds out which DJANGO_SETTINGS_MODULE each application wants, though all share one environment variable.

Django's wsgi.py sets the variable only if it is unset. So the thread that loads an application sees the value from
before any application was loaded, and the value that is set then is the one that this application wants.

Runs before conflicts.py, with the same globals.
"""

import os
import threading

SETTINGS = "DJANGO_SETTINGS_MODULE"
first_settings = os.environ.get(SETTINGS)


class HiddenSettings:
    """A context in which this thread has a value of its own for the variable.

    Threads that serve loaded applications, and the programs that they start, keep the value of the process.
    """

    def __enter__(self):
        thread, asked = threading.get_ident(), first_settings
        base = self.base = type(os.environ)

        def is_hidden(key):
            return key == SETTINGS and threading.get_ident() == thread

        class Environ(base):
            def __getitem__(self, key):
                if not is_hidden(key):
                    return super().__getitem__(key)
                if asked is None:
                    raise KeyError(key)
                return asked

            def __setitem__(self, key, value):
                nonlocal asked
                if is_hidden(key):
                    asked = value
                else:
                    super().__setitem__(key, value)

            def __delitem__(self, key):
                nonlocal asked
                if is_hidden(key):
                    asked = None
                else:
                    super().__delitem__(key)

            def __iter__(self):
                return (key for key in super().__iter__() if not is_hidden(key) or asked is not None)

        # Other modules may hold the object already, so it is changed and not replaced.
        os.environ.__class__ = Environ

    def __exit__(self, *_):
        os.environ.__class__ = self.base


class FirstSettings:
    """A context to load in while no application has set the variable. Restores its value on an error."""

    def __enter__(self):
        pass

    def __exit__(self, error, *_):
        if error and os.environ.get(SETTINGS) != first_settings:
            if first_settings is None:
                del os.environ[SETTINGS]
            else:
                os.environ[SETTINGS] = first_settings


def own_settings():
    """Returns the context to load an application in."""
    return FirstSettings() if os.environ.get(SETTINGS) == first_settings else HiddenSettings()
