"""Isolates a sub-interpreter from state that it would share with others in its process.

Runs once in each sub-interpreter, first. Globals: `variables`, its environment, bytes to bytes.
"""

import os
import sys
import threading

import _posixsubprocess


class Environment(os._Environ):
    """os.environ of this interpreter and of the programs that it starts, apart from that of the process."""

    def __delitem__(self, key):
        try:
            del variables[self.encodekey(key)]
        except KeyError:
            raise KeyError(key) from None


def putenv(name, value):
    """As os.putenv, for this interpreter. Called by os.environ."""
    name, value = os.fsencode(name), os.fsencode(value)
    if not name or b"=" in name:
        raise ValueError("illegal environment variable name")
    if b"\0" in name + value:
        raise ValueError("embedded null byte")
    variables[name] = value


def unsetenv(name):
    """As os.unsetenv, for this interpreter."""
    variables.pop(os.fsencode(name), None)


def isolate_environment():
    # Other modules may hold these objects already, so they are changed and not replaced.
    for environ in os.environ, os.environb:
        environ.__class__ = Environment
        environ._data = variables
    os.putenv = putenv
    os.unsetenv = unsetenv


def isolate_programs():
    """Passes os.environ to programs that would get the environment of the process."""
    fork_exec, execve = _posixsubprocess.fork_exec, os.execve

    def fork_exec_here(*arguments):
        if arguments[5] is None:
            environment = [name + b"=" + value for name, value in variables.items()]
            arguments = (*arguments[:5], environment, *arguments[6:])
        return fork_exec(*arguments)

    def execv(path, argv, /):
        """As os.execv, with os.environ of this interpreter."""
        execve(path, argv, os.environ)

    def here(spawn):
        def posix_spawn(path, argv, env=None, /, **options):
            return spawn(path, argv, os.environ if env is None else env, **options)

        posix_spawn.__doc__ = spawn.__doc__
        return posix_spawn

    def system(command):
        """As os.system, with os.environ of this interpreter."""
        import subprocess

        code = subprocess.call(os.fsencode(command), shell=True)
        return code << 8 if code >= 0 else -code

    _posixsubprocess.fork_exec = fork_exec_here
    if "subprocess" in sys.modules:
        sys.modules["subprocess"]._fork_exec = fork_exec_here
    os.execv = execv
    os.posix_spawn, os.posix_spawnp = here(os.posix_spawn), here(os.posix_spawnp)
    os.system = system


def refuse_fork():
    """Refuses forks: Python would end the child, as it has no main interpreter."""

    def refuse():
        raise RuntimeError(
            "a sub-interpreter cannot fork: use subprocess, or multiprocessing with the start method spawn, "
            "or wsgi_use_main_interpreter"
        )

    os.fork = os.forkpty = refuse


def become_main_thread():
    """Makes this thread the main thread of `threading`.

    From Python 3.13 on that would be the main thread of the process. Before, it is this thread, but with a thread state
    that no longer exists if a .pth file has imported `threading`.
    """
    main = threading.main_thread()
    with threading._active_limbo_lock:
        threading._active.pop(main._ident, None)
        main._set_ident()
        main._set_native_id()
        threading._active[main._ident] = main
    if not hasattr(main, "_set_tstate_lock"):
        main._handle = threading._make_thread_handle(main._ident)
    elif not (main._tstate_lock and main._tstate_lock.locked()):
        main._is_stopped = False
        main._set_tstate_lock()


isolate_environment()
isolate_programs()
refuse_fork()
become_main_thread()
