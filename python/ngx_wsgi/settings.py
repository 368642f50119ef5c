"""The options of the runner, in one table: name, flags, meaning, default, and how a value is read."""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import access_log, addresses

# Levels of nginx's error log, and the names that Python and gunicorn have for them.
LOG_LEVELS = {
    "debug": "debug",
    "info": "info",
    "notice": "notice",
    "warn": "warn",
    "warning": "warn",
    "error": "error",
    "crit": "crit",
    "critical": "crit",
}


@dataclass(frozen=True)
class Setting:
    """One option. Where gunicorn has it, the name and the flags are gunicorn's."""

    name: str
    flags: tuple[str, ...]
    meaning: str
    metavar: str = ""
    # The default value; `default_text` describes it if it depends on the machine.
    default: Any = None
    default_text: str = ""
    # Reads a value; a ValueError has the sentence for the user. None: the option is a flag without a value.
    read: Callable[[str], Any] | None = str
    # The value of a flag that is given.
    flag_value: bool = True
    # The option may be repeated, and its value is the list of all values.
    repeated: bool = False

    def add_to(self, parser):
        """Adds the option to an argparse parser. An option that is not given leaves no trace in the result."""
        if not self.flags:
            return
        keywords = {"dest": self.name, "default": argparse.SUPPRESS, "help": self.help()}
        if self.read is None:
            keywords |= {"action": "store_const", "const": self.flag_value}
        else:
            keywords |= {"type": self.from_text, "metavar": self.metavar}
            if self.repeated:
                keywords["action"] = "append"
        parser.add_argument(*self.flags, **keywords)

    def help(self):
        text = f"{self.meaning} (default: {self.shown_default()})" if self.shown_default() else self.meaning
        return text.replace("%", "%%")

    def shown_default(self):
        is_shown = isinstance(self.default, (str, int)) and not isinstance(self.default, bool)
        return self.default_text or (str(self.default) if is_shown else "")

    def from_text(self, text):
        try:
            return self.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    def from_python(self, value):
        """Returns the value for one of a configuration file, in which numbers and lists are Python's.

        Raises ValueError.
        """
        if self.read is None:
            return bool(value)
        if not self.repeated:
            return self.read(str(value))
        if isinstance(value, str):
            value = value.split(",") if self.name == "bind" else [value]
        if not isinstance(value, (list, tuple, set)):
            raise ValueError("this is neither a string nor a list of strings")
        return [self.read(str(element)) for element in value]


# More would be no number of 32 bits for nginx.
LARGEST = 2**31 - 1


def number(minimum, maximum=LARGEST):
    def read(text):
        if not re.fullmatch(r"[0-9]{1,10}", text) or not minimum <= int(text) <= maximum:
            wanted = f"of {minimum} or more" if maximum == LARGEST else f"from {minimum} to {maximum}"
            raise ValueError(f"{text!r} is not a number {wanted}")
        return int(text)

    return read


def threads(text):
    return text if text == "off" else number(1, 1024)(text)


def size(text):
    if not re.fullmatch(r"[0-9]{1,12}[kKmMgG]?", text):
        raise ValueError(f"{text!r} is not a size such as 512k, 10m or 1g")
    return text


def header_limit(text):
    """Reads a number of bytes; 0 is the largest one, as nginx has no buffers without a limit."""
    return number(0, 1_000_000)(text) or 1_000_000


def umask(text):
    """Reads the number of a umask. A leading 0 means octal, as in gunicorn and in C."""
    digits = f"0o{text}" if re.fullmatch(r"0[0-7]+", text) else text
    try:
        value = int(digits, 0)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o777:
        raise ValueError(f"{text!r} is not a umask such as 022 or 0o027")
    return value


def log_level(text):
    try:
        return LOG_LEVELS[text.lower()]
    except KeyError:
        raise ValueError(f"{text!r} is not one of {', '.join(LOG_LEVELS)}") from None


def assignment(text):
    name, equals, _ = text.partition("=")
    if not equals or not name:
        raise ValueError(f"{text!r} is not NAME=VALUE")
    return text


def static(text):
    """Reads URL=DIRECTORY; the URL gets a slash at both ends."""
    url, equals, directory = text.partition("=")
    if not equals or not url.startswith("/") or not directory:
        raise ValueError(f"{text!r} is not /URL/=DIRECTORY")
    url = url.rstrip("/") + "/"
    if url == "/":
        raise ValueError(f"{text!r}: / belongs to the application; choose a path such as /static/")
    return url, directory


def certificate_verification(text):
    """Reads the number of gunicorn and of Python's module ssl."""
    return number(0, 2)(text)


SETTINGS = (
    Setting(
        "config",
        ("-c", "--config"),
        "Python file with settings in the form of gunicorn's",
        "FILE",
        default_text="./gunicorn.conf.py, if it exists",
    ),
    Setting(
        "bind",
        ("-b", "--bind"),
        "address to listen on: HOST:PORT, :PORT, [IPV6]:PORT or unix:PATH; may be repeated",
        "ADDRESS",
        default_text="127.0.0.1:8000; 0.0.0.0:$PORT if PORT is set",
        read=addresses.parse,
        repeated=True,
    ),
    Setting(
        "backlog",
        ("--backlog",),
        "connections that the kernel keeps until a worker accepts them",
        "N",
        2048,
        read=number(1, 65535),
    ),
    Setting(
        "reuse_port", ("--reuse-port",), "give each worker a listening socket of its own", read=None, default=False
    ),
    Setting(
        "workers",
        ("-w", "--workers"),
        "worker processes",
        "N",
        default_text="$WEB_CONCURRENCY, or the number of CPUs",
        read=number(1, 1024),
    ),
    Setting(
        "threads",
        ("--threads",),
        "threads of each worker, or off: run the application on the event loop",
        "N|off",
        default_text="4",
        read=threads,
    ),
    Setting(
        "worker_connections",
        ("--worker-connections",),
        "connections of each worker, waiting ones included",
        "N",
        1024,
        read=number(8, 1_000_000),
    ),
    Setting("timeout", ("-t", "--timeout"), "seconds that a call may run, 0: any time", "SECONDS", 30, read=number(0)),
    Setting(
        "graceful_timeout",
        ("--graceful-timeout",),
        "seconds that running calls have when a worker exits",
        "SECONDS",
        30,
        read=number(1),
    ),
    Setting(
        "keepalive",
        ("--keep-alive",),
        "seconds that an idle connection is kept, 0: close after each response",
        "SECONDS",
        75,
        read=number(0),
    ),
    Setting(
        "max_requests", ("--max-requests",), "calls after which a worker is replaced, 0: never", "N", 0, read=number(0)
    ),
    Setting(
        "max_requests_jitter",
        ("--max-requests-jitter",),
        "largest random number to add to --max-requests",
        "N",
        0,
        read=number(0),
    ),
    Setting("spool_uploads", ("--spool-uploads",), "largest request body, 0: any size", "SIZE", "10m", read=size),
    Setting("tmp_upload_dir", (), "directory of request bodies that do not fit into memory", "DIRECTORY"),
    Setting(
        "limit_request_line",
        ("--limit-request-line",),
        "bytes of the request line, 0: a million",
        "N",
        read=header_limit,
    ),
    Setting(
        "limit_request_field_size",
        ("--limit-request-field_size",),
        "bytes of a request header, 0: a million",
        "N",
        read=header_limit,
    ),
    Setting(
        "chdir",
        ("--chdir",),
        "directory to change to, which is also searched for modules",
        "DIRECTORY",
        default_text="the current directory",
    ),
    Setting(
        "pythonpath", ("--pythonpath",), "directories to search for modules first, with commas between them", "PATHS"
    ),
    Setting(
        "raw_env",
        ("-e", "--env"),
        "environment variable of the application; may be repeated",
        "NAME=VALUE",
        [],
        read=assignment,
        repeated=True,
    ),
    Setting("user", ("-u", "--user"), "user of the workers, only as root", "USER", default_text="the current user"),
    Setting("group", ("-g", "--group"), "group of the workers, only as root", "GROUP", default_text="that of the user"),
    Setting(
        "umask",
        ("-m", "--umask"),
        "umask of the server, octal with a leading 0",
        "UMASK",
        default_text="that of the caller",
        read=umask,
    ),
    Setting("certfile", ("--certfile",), "TLS certificate, with those that it depends on", "FILE"),
    Setting("keyfile", ("--keyfile",), "private key of the certificate", "FILE", default_text="in --certfile"),
    Setting("ca_certs", ("--ca-certs",), "certificates that those of clients are checked against", "FILE"),
    Setting(
        "cert_reqs",
        ("--cert-reqs",),
        "certificate of the client: 0 none, 1 optional, 2 required",
        "N",
        0,
        read=certificate_verification,
    ),
    Setting("ciphers", ("--ciphers",), "ciphers of TLS 1.2, in the format of OpenSSL", "CIPHERS"),
    Setting("http2", ("--http2",), "offer HTTP/2 on TLS connections", read=None, default=False),
    Setting(
        "forwarded_allow_ips",
        ("--forwarded-allow-ips",),
        "proxies whose X-Forwarded-For and X-Forwarded-Proto are believed, with commas between them, or *",
        "ADDRESSES",
        default_text="$FORWARDED_ALLOW_IPS, or 127.0.0.1,::1",
        read=addresses.parse_networks,
    ),
    Setting(
        "static",
        ("--static",),
        "directory of files that nginx serves itself; may be repeated",
        "/URL/=DIRECTORY",
        [],
        read=static,
        repeated=True,
    ),
    Setting(
        "include",
        ("--include",),
        "file with directives of nginx for the server block; may be repeated",
        "FILE",
        [],
        repeated=True,
    ),
    Setting(
        "accesslog",
        ("--access-logfile",),
        "access log, - is standard output; or syslog:…",
        "FILE",
        default_text="none",
    ),
    Setting(
        "access_log_format",
        ("--access-logformat",),
        "format of the access log, with gunicorn's atoms or, if it contains a $, with nginx's variables",
        "FORMAT",
        access_log.DEFAULT_FORMAT,
        default_text="gunicorn's",
    ),
    Setting("errorlog", ("--error-logfile", "--log-file"), "error log, - is standard error; or syslog:…", "FILE", "-"),
    Setting(
        "loglevel",
        ("--log-level",),
        "level of the error log: debug, info, notice, warn, error or crit",
        "LEVEL",
        "notice",
        read=log_level,
    ),
    Setting(
        "pidfile",
        ("-p", "--pid"),
        "file for the process ID of nginx's master process",
        "FILE",
        default_text="in the runtime directory",
    ),
    Setting("daemon", ("-D", "--daemon"), "run in the background; needs --error-logfile", read=None, default=False),
    Setting(
        "reload",
        ("--reload",),
        "replace the workers after an edit of the application's modules",
        read=None,
        default=False,
    ),
    Setting(
        "reload_extra_files",
        ("--reload-extra-file",),
        "further file, directory or pattern to watch; may be repeated",
        "FILE",
        [],
        repeated=True,
    ),
    Setting(
        "check_config",
        ("--check-config",),
        "check the configuration, import the application, and exit",
        read=None,
        default=False,
    ),
    Setting(
        "subinterpreters",
        ("--subinterpreters",),
        "run the application in a Python interpreter of its own",
        read=None,
        default=False,
    ),
    Setting("sendfile", ("--no-sendfile",), "do not use sendfile()", read=None, default=True, flag_value=False),
)

BY_NAME = {setting.name: setting for setting in SETTINGS}
