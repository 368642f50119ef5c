"""The command line of `ngx-wsgi`."""

import argparse
import os
import sys

from . import control, options, server, version
from .problem import Problem

DESCRIPTION = """Serves a WSGI application with nginx.

Commands:
  ngx-wsgi TARGET [options]         serve it; the same as `ngx-wsgi run TARGET`
  ngx-wsgi config TARGET [options]  print the nginx.conf of the same server, for an nginx of your own
  ngx-wsgi reload [--pid FILE]      check the application, then load it again without losing a request
  ngx-wsgi stop [--pid FILE]        end after the running requests; --now: at once
  ngx-wsgi status [--pid FILE]      list the running servers of this user

TARGET is a module, module:callable, module:factory(), or the path of a script. Without it the runner serves wsgi_app of
gunicorn.conf.py."""


def main(arguments=None):
    """Runs a command. Returns the status of the process."""
    arguments = sys.argv[1:] if arguments is None else arguments
    open_standard_streams()
    # The name of a file need not be UTF-8.
    sys.stdout.reconfigure(errors="surrogateescape")
    name = arguments[0] if arguments and arguments[0] in COMMANDS else "run"
    rest = arguments[1:] if arguments and arguments[0] == name else arguments
    try:
        return COMMANDS[name](name, rest)
    except Problem as problem:
        server.say(str(problem))
        return 2
    except OSError as error:
        # What cannot be foreseen, such as a full disk.
        server.say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 2
    except KeyboardInterrupt:
        # Ctrl-C before nginx runs, which was told as well.
        return 130


def open_standard_streams():
    """Opens /dev/null for each standard stream that the caller has closed: another file would get its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", closefd=False))


def serve(name, arguments):
    given, target = parse(name, arguments)
    resolved = options.resolve(given, target)
    return server.print_configuration(resolved) if name == "config" else server.run(resolved)


def parse(name, arguments):
    """Returns the options of the command line by their names, and the target."""
    parser = options.Parser(
        prog="ngx-wsgi" if name == "run" else f"ngx-wsgi {name}",
        usage="%(prog)s [TARGET] [options]",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", nargs="?", metavar="TARGET", help="the application")
    parser.add_argument("-v", "--version", action="version", version=f"ngx-wsgi {version}")
    options.add_to(parser)
    given = vars(parser.parse_args(arguments))
    return given, given.pop("target")


def manage(name, arguments):
    parser = options.Parser(
        prog=f"ngx-wsgi {name}", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-p", "--pid", metavar="FILE", help="the file of the process ID, or the ID itself")
    if name == "stop":
        parser.add_argument("--now", action="store_true", help="do not wait for running requests")
        given = parser.parse_args(arguments)
        return control.stop(given.pid, given.now)
    command = control.reload if name == "reload" else control.status
    return command(parser.parse_args(arguments).pid)


COMMANDS = {"run": serve, "config": serve, "reload": manage, "stop": manage, "status": manage}
