"""The options of a server: command line, GUNICORN_CMD_ARGS, gunicorn.conf.py and defaults, and what excludes what."""

import argparse
import contextlib
import grp
import os
import pwd
import shlex
from types import SimpleNamespace

from . import gunicorn, processors
from . import target as targets
from .problem import Problem
from .settings import BY_NAME, SETTINGS


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence; the usage would be a page."""

    def __init__(self, **keywords):
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message):
        raise Problem(f"{message} (`{self.prog} --help` lists the options)")


class UnsupportedAction(argparse.Action):
    """An option of gunicorn that is refused, or that has no effect."""

    def __init__(self, option_strings, dest, setting):
        nargs = None if setting.has_value else 0
        super().__init__(option_strings, dest, nargs, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        self.setting = setting

    def __call__(self, parser, namespace, value, option_string=None):
        if self.setting.has_value and self.setting.is_usual(value):
            return
        message = self.setting.message(option_string)
        if self.setting.is_refused:
            raise Problem(message)
        namespace.lines = [*getattr(namespace, "lines", []), message]


def add_to(parser, without=()):
    """Adds all options to a parser, but those of these names."""
    for setting in SETTINGS:
        if setting.name not in without:
            setting.add_to(parser)
    for setting in gunicorn.UNSUPPORTED:
        if setting.flags and setting.name not in without:
            parser.add_argument(*setting.flags, action=UnsupportedAction, setting=setting, dest=setting.name)


def resolve(given, target):
    """Returns all options: `given` has those of the command line. Raises Problem."""
    given = dict(given)
    lines = given.pop("lines", [])
    of_environment = parse_environment()
    lines = of_environment.pop("lines", []) + lines
    origin = current_directory()
    of_file = {}
    if path := (of_environment | given).get("config") or default_file(origin):
        of_file, of_file_target, of_file_lines = gunicorn.read_configuration(path, origin)
        target = target or of_file_target
        lines = of_file_lines + lines
    values = defaults() | of_file | of_environment | given
    return complete(SimpleNamespace(**values, lines=lines), target, origin)


def current_directory():
    """Returns the current directory by the name that the shell has for it, as gunicorn does: a deployment may let a
    symbolic link in it lead to another release before a reload.
    """
    named = os.environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if os.path.isabs(named) and os.path.samefile(named, "."):
            return named
    try:
        return os.getcwd()
    except FileNotFoundError:
        raise Problem("the current directory has been removed; change to one that exists.") from None


def parse_environment():
    parser = Parser(prog="GUNICORN_CMD_ARGS", add_help=False)
    add_to(parser)
    try:
        words = shlex.split(os.environ.get("GUNICORN_CMD_ARGS", ""))
    except ValueError as error:
        raise Problem(f"the environment variable GUNICORN_CMD_ARGS: {error}; quote it as for a shell.") from None
    return vars(parser.parse_args(words))


def default_file(directory):
    return gunicorn.CONFIGURATION_FILE if os.path.isfile(os.path.join(directory, gunicorn.CONFIGURATION_FILE)) else None


def defaults():
    """Returns the default values, some of which the environment sets. Raises Problem."""
    values = {setting.name: setting.default for setting in SETTINGS}
    port = os.environ.get("PORT")
    values["bind"] = [of_environment("bind", "PORT", f"0.0.0.0:{port}" if port else "127.0.0.1:8000")]
    workers = os.environ.get("WEB_CONCURRENCY")
    values["workers"] = of_environment("workers", "WEB_CONCURRENCY", workers) if workers else processors.count()
    trusted = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1,::1")
    values["forwarded_allow_ips"] = of_environment("forwarded_allow_ips", "FORWARDED_ALLOW_IPS", trusted)
    return values


def of_environment(name, variable, text):
    try:
        return BY_NAME[name].read(text)
    except ValueError as error:
        raise Problem(f"the environment variable {variable}: {error}.") from None


def complete(options, target, origin):
    """Makes paths absolute, and refuses options that exclude each other or name what is not there."""
    options.chdir = os.path.abspath(os.path.join(origin, options.chdir or ""))
    if not os.path.isdir(options.chdir):
        raise Problem(f"--chdir {options.chdir}: this is not a directory.")
    if not target:
        raise Problem(
            "there is no application to serve: name it, as in `ngx-wsgi mysite.wsgi:application`, "
            f"or set wsgi_app in {gunicorn.CONFIGURATION_FILE}."
        )
    options.target = targets.parse(target, options.chdir)
    options.bind = list(dict.fromkeys(address.below(options.chdir) for address in options.bind))
    if not options.bind:
        raise Problem("there is no address to listen on; leave --bind out, or give one.")
    for name in ("certfile", "keyfile", "ca_certs", "pidfile", "tmp_upload_dir"):
        if getattr(options, name):
            setattr(options, name, absolute(options, getattr(options, name)))
    for name in ("accesslog", "errorlog"):
        if is_file(getattr(options, name)):
            setattr(options, name, absolute(options, getattr(options, name)))
    # Of several values of a variable the last one counts; of several directives the first one would.
    options.raw_env = list({text.partition("=")[0]: text for text in options.raw_env}.values())
    options.include = [absolute(options, path) for path in options.include]
    options.static = [(url, absolute(options, directory)) for url, directory in options.static]
    options.reload_extra_files = [absolute(options, path) for path in options.reload_extra_files]
    assert_files(options)
    assert_combination(options)
    options.user, options.group = user_and_group(options.user, options.group)
    return options


def absolute(options, path):
    return os.path.abspath(os.path.join(options.chdir, path))


def is_file(log):
    return log and log != "-" and not log.startswith("syslog:")


def assert_files(options):
    for flag, path in (
        ("--certfile", options.certfile),
        ("--keyfile", options.keyfile),
        ("--ca-certs", options.ca_certs),
        *(("--include", path) for path in options.include),
    ):
        if path and not os.path.isfile(path):
            raise Problem(f"{flag} {path}: there is no such file.")
    for url, directory in options.static:
        if not os.path.isdir(directory):
            raise Problem(f"--static {url}={directory}: this is not a directory.")
    urls = [url for url, _ in options.static]
    for url in urls:
        if urls.count(url) > 1:
            raise Problem(f"--static {url}: two directories for one path; give each a path of its own.")
    for flag, path in (
        ("--access-logfile", options.accesslog),
        ("--error-logfile", options.errorlog),
        ("--pid", options.pidfile),
    ):
        if is_file(path) and not os.path.isdir(os.path.dirname(path)):
            raise Problem(f"{flag} {path}: {os.path.dirname(path)} is not a directory; create it first.")


def assert_combination(options):
    if options.keyfile and not options.certfile:
        raise Problem("--keyfile needs --certfile, the certificate of the key.")
    if options.http2 and not options.certfile:
        raise Problem("--http2 needs --certfile: browsers speak HTTP/2 over TLS only.")
    if options.cert_reqs and not options.ca_certs:
        raise Problem("--cert-reqs needs --ca-certs, the certificates that those of clients are checked against.")
    if options.subinterpreters and options.threads == "off":
        raise Problem("--subinterpreters needs threads: leave --threads off out.")
    if options.daemon and not is_file(options.errorlog):
        raise Problem("--daemon needs --error-logfile FILE: a server in the background has no standard error.")
    if options.daemon and options.accesslog == "-":
        raise Problem(
            "--daemon needs --access-logfile FILE in place of -: a server in the background has no standard output."
        )


def user_and_group(user, group):
    """Returns the names of the user and the group of the workers; nginx's `user` takes no numbers."""
    own = os.geteuid()
    if user is None and group is None:
        return (user_name(own), group_name(os.getegid())) if own == 0 else (None, None)
    entry = entry_of(pwd.getpwuid, pwd.getpwnam, user, "--user") if user is not None else None
    named = entry_of(grp.getgrgid, grp.getgrnam, group, "--group") if group is not None else None
    if own != 0:
        # The user of a container may have no entry.
        if (entry and entry.pw_uid != own) or (named and named.gr_gid != os.getegid()):
            raise Problem("--user and --group need root: start the server as this user instead, or with sudo.")
        return None, None
    entry = entry or pwd.getpwuid(own)
    return entry.pw_name, named.gr_name if named else group_name(entry.pw_gid)


def entry_of(by_number, by_name, text, flag):
    try:
        return by_number(int(text)) if str(text).isdigit() else by_name(text)
    except KeyError:
        raise Problem(f"{flag} {text}: this system has none of that name; create it first.") from None


def user_name(number):
    return pwd.getpwuid(number).pw_name


def group_name(number):
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        raise Problem(f"the group {number} has no name on this system; choose another with --group.") from None
