"""nginx below a terminal: Ctrl-C drains, and nginx ends with the terminal and with the runner."""

import contextlib
import os
import signal
import sys
import termios

PR_SET_PDEATHSIG = 1

# Signals that are passed on as they are.
FORWARDED = (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
HANDLED = {*FORWARDED, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}


def run(command, environment, descriptor):
    """Runs nginx to its end. Returns its status."""
    # Imported here, as libffi keeps a file open: with a closed standard stream it would take that stream's number.
    import ctypes

    # Loaded here, as the child process should do little before it becomes nginx.
    libc = ctypes.CDLL(None)
    # Signals wait until they are asked for, so that none is lost or interrupts.
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    runner = os.getpid()
    nginx = os.fork()
    if nginx == 0:
        become_child(libc, runner, command, environment)
    # nginx has it.
    os.close(descriptor)
    return supervise(nginx)


def become_child(libc, runner, command, environment):
    # A group of its own: Ctrl-C is for the runner alone.
    os.setpgid(0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != runner:
        os._exit(1)
    for number in (signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    # It writes to the terminal from the background.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    try:
        os.execve(command[0], command, environment)
    finally:
        os._exit(127)


def supervise(nginx):
    is_draining = False
    while True:
        number = signal.sigwait(HANDLED)
        if number == signal.SIGCHLD:
            status = reap(nginx)
            if status is not None:
                return status
        elif number == signal.SIGINT:
            if not is_draining:
                write("waiting for running requests; Ctrl-C again ends them")
            os.kill(nginx, signal.SIGTERM if is_draining else signal.SIGQUIT)
            is_draining = True
        elif number == signal.SIGHUP and is_terminal_gone():
            os.kill(nginx, signal.SIGQUIT)
        else:
            os.kill(nginx, number)


def reap(nginx):
    """Waits for all children that have ended: as process 1, the runner has the orphans too.

    Returns the status of nginx if it is one of them.
    """
    result = None
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return result
        if not ended:
            return result
        if ended == nginx:
            code = os.waitstatus_to_exitcode(status)
            result = code if code >= 0 else 128 - code


def is_terminal_gone():
    try:
        termios.tcgetattr(0)
    except termios.error:
        return True
    return False


def write(text):
    # The terminal may be gone.
    with contextlib.suppress(OSError):
        print(f"\nngx-wsgi: {text}", file=sys.stderr, flush=True)
