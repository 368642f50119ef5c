"""DJANGO_SETTINGS_MODULE, which is one variable for all applications of the process: which settings each of them asks for.

Django's wsgi.py sets the variable only if it is not set. So the thread that loads an application sees it as it was before
any application, and what is set then is what this one asks for.

Runs before conflicts.py, with the same globals.
"""

import os
import threading

SETTINGS = "DJANGO_SETTINGS_MODULE"
first_settings = os.environ.get(SETTINGS)


class HiddenSettings:
    """While it is entered, the variable of this thread is another than that of the process.

    The threads that serve what is loaded, and the programs that they start, go on with that of the process.
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

        # Others may have the object already, so it is changed and not replaced.
        os.environ.__class__ = Environ

    def __exit__(self, *_):
        os.environ.__class__ = self.base


class FirstSettings:
    """No application has set the variable yet: it is that of the process, and comes back if there is an error."""

    def __enter__(self):
        pass

    def __exit__(self, error, *_):
        if error and os.environ.get(SETTINGS) != first_settings:
            if first_settings is None:
                del os.environ[SETTINGS]
            else:
                os.environ[SETTINGS] = first_settings


def own_settings():
    """What to enter while an application is loaded."""
    return FirstSettings() if os.environ.get(SETTINGS) == first_settings else HiddenSettings()
