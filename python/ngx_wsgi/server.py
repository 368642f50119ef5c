"""The start of a server: checks, then nginx in the place of this process, below a terminal, or in the background."""

import os
import platform
import resource
import signal
import stat
import subprocess
import sys
import time

from . import addresses, configuration, installation, runtime_directory, terminal, version
from . import state as states
from .problem import Problem

# Seconds in which the workers of a server in the background start.
DAEMON_PATIENCE = 60


def say(text):
    print(f"ngx-wsgi: {text}", file=sys.stderr, flush=True)


def run(options):
    """Starts the server, or only checks it. Returns the status of the process if it does not become nginx."""
    for number in (signal.SIGTERM, signal.SIGQUIT):
        # The end of the runner ends the check too. As process 1 it would not end without a handler.
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    if not os.isatty(0):
        # It asks for a reload, which a server that has not started needs not; nginx handles it from its start on.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for line in options.lines:
        say(line)
    installed = installation.find()
    require_modules(installed, options)
    if options.check_config:
        return check_only(options, installed)
    directory = runtime_directory.path_of(options.bind)
    runtime_directory.create(directory, is_shared=bool(options.user))
    with runtime_directory.locked(directory):
        for address in options.bind:
            addresses.assert_free(address, addresses.has_both_versions(address, options.bind))
        state = prepare(options, installed, directory)
        if not check(state):
            say("not started, for the reason above.")
            return 1
        introduce(options, installed)
        return start(options, state)


def check_only(options, installed):
    """Checks in a directory that is removed again: a server with the same addresses may be running."""
    with runtime_directory.temporary(is_shared=bool(options.user)) as directory:
        is_right = check(prepare(options, installed, directory))
    if options.pidfile:
        remove_empty(options.pidfile)
    if not is_right:
        say("the check failed, for the reason above.")
        return 1
    say(f"{options.target} can be imported, and the configuration is right.")
    return 0


def prepare(options, installed, directory):
    """Writes the configuration, and sets what nginx inherits. Returns the state of the server."""
    runtime_directory.write(directory, "nginx.conf", configuration.write(options, installed, directory))
    prepare_process(options)
    return state_of(options, installed, directory)


def print_configuration(options):
    """Prints the configuration for an nginx of the administrator's."""
    for line in options.lines:
        say(line)
    print(configuration.write(options, installation.find()), end="")
    return 0


def require_modules(installed, options):
    """Raises Problem if nginx lacks a module that the configuration needs."""
    needed = {
        "--with-http_realip_module": True,
        "--with-http_ssl_module": options.certfile,
        "--with-http_v2_module": options.http2,
    }
    for argument, is_needed in needed.items():
        if is_needed and not installed.has(argument):
            raise Problem(
                f"{installed.nginx} was built without {argument}; name another nginx with NGX_WSGI_NGINX=PATH."
            )


def state_of(options, installed, directory):
    environment = {name: value for name, value in os.environ.items() if name not in configuration.REMOVED}
    environment |= dict(text.split("=", 1) for text in options.raw_env)
    if library := installation.library_path():
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [library, environment.get("LD_LIBRARY_PATH")]))
    command = [
        installed.nginx,
        "-e",
        "stderr",
        "-p",
        directory,
        "-c",
        os.path.join(directory, "nginx.conf"),
        "-g",
        "daemon off;",
    ]
    return states.State(
        target=str(options.target),
        addresses=[str(address) for address in options.bind],
        command=command,
        environment=environment,
        umask=options.umask if options.umask is not None else current_umask(),
        workers=options.workers,
        graceful_timeout=options.graceful_timeout,
    )


def current_umask():
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def prepare_process(options):
    """Sets what nginx inherits."""
    os.chdir(options.chdir)
    if options.umask is not None:
        os.umask(options.umask)
    # A connection is a descriptor, and the usual limit is as low as the number of connections.
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def check(state):
    """Runs `nginx -t`, which imports the application, and shows its output. Returns whether it succeeds."""
    checked = subprocess.run(
        [*state.command, "-t", "-q"],
        env=state.environment,
        umask=state.umask,
        stdin=subprocess.DEVNULL,
        # It opens the access log, and could not open a socket by name.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    output = checked.stderr.decode("utf-8", "replace")
    if checked.returncode != 0 and (sentence := installation.missing_library(output)):
        raise Problem(sentence)
    sys.stderr.write(output)
    sys.stderr.flush()
    return checked.returncode == 0


def remove_empty(path):
    """Removes the file of the process ID that `nginx -t` has left, if no server has written to it."""
    try:
        if os.path.getsize(path) == 0:
            os.unlink(path)
    except OSError:
        pass


def introduce(options, installed):
    scheme = "https" if options.certfile else "http"
    urls = ", ".join(address.url(scheme) for address in options.bind)
    engine = "the event loop" if options.threads == "off" else counted(options.threads or 4, "thread") + " each"
    nginx_version = ".".join(map(str, installed.nginx_version))
    say(f"serving {options.target} on {urls}")
    say(f"{counted(options.workers, 'worker')}, {engine}")
    say(f"version {version}, nginx {nginx_version}, Python {platform.python_version()}")


def counted(number, noun):
    return f"{number} {noun}" if int(number) == 1 else f"{number} {noun}s"


# ---- the process of nginx ----------------------------------------------------------------------------------------


def start(options, state):
    descriptor = states.keep(state)
    if options.accesslog == "-" and not can_open_standard_output():
        copy_standard_output()
    if options.daemon:
        return start_daemon(options, state)
    if os.isatty(0):
        return terminal.run(state.command, state.environment, descriptor)
    become(state.command, state.environment)


def become(command, environment):
    """Replaces this process by nginx."""
    # Python ignores it, and an ignored signal stays ignored. (nginx itself ignores SIGPIPE.)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execve(command[0], command, environment)
    except OSError as error:
        raise Problem(f"{command[0]} cannot be run: {error.strerror}.") from None


def can_open_standard_output():
    """Returns whether nginx can open its standard output by name. A socket, such as systemd's, cannot be opened."""
    try:
        os.close(os.open(configuration.STANDARD_OUTPUT, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK))
    except OSError:
        return False
    return not stat.S_ISSOCK(os.fstat(1).st_mode)


def copy_standard_output():
    """Puts a pipe in the place of standard output, and starts a process that copies from it until nginx has ended."""
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.dup2(read_end, 0)
        os.closerange(3, 256)
        # A service manager signals all processes. This one ends after the last line.
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        # PATH may name the directory of a virtual environment alone.
        os.execv("/bin/cat", ["cat"])
    os.dup2(write_end, 1)
    os.close(read_end)
    os.close(write_end)


def start_daemon(options, state):
    """Starts nginx in a session of its own. Returns when it serves, or has failed.

    nginx's own `daemon on` would set the umask to 0.
    """
    child = os.fork()
    if child == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        become(state.command, state.environment)
    end = time.monotonic() + DAEMON_PATIENCE
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            say(f"nginx has exited with status {os.waitstatus_to_exitcode(status)}: see {options.errorlog}.")
            return 1
        if len(states.workers_of(child)) >= options.workers:
            return 0
        time.sleep(0.02)
    raise Problem(
        f"nginx ({child}) has not started its workers within {DAEMON_PATIENCE} seconds; see {options.errorlog}."
    )
