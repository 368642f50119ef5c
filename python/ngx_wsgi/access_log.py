"""The format of the access log: gunicorn's atoms as nginx's variables."""

import re

from .problem import Problem

DEFAULT_FORMAT = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'

ATOMS = {
    "h": "${remote_addr}",
    "l": "-",
    "u": "${remote_user}",
    "t": "[${time_local}]",
    "r": "${request}",
    "m": "${request_method}",
    "U": "${uri}",
    "q": "${query_string}",
    "H": "${server_protocol}",
    "s": "${status}",
    "B": "${body_bytes_sent}",
    "b": "${body_bytes_sent}",
    "f": "${http_referer}",
    "a": "${http_user_agent}",
    "T": "${request_time}",
    "L": "${request_time}",
    "M": "${request_milliseconds}",
    "D": "${request_microseconds}",
    "p": "<${pid}>",
}

# Keys of environ that nginx has under another name.
ENVIRON = {
    "REQUEST_METHOD": "${request_method}",
    "REQUEST_URI": "${request_uri}",
    "PATH_INFO": "${uri}",
    "QUERY_STRING": "${query_string}",
    "REMOTE_ADDR": "${remote_addr}",
    "REMOTE_PORT": "${remote_port}",
    "SERVER_NAME": "${server_name}",
    "SERVER_PORT": "${server_port}",
    "SERVER_PROTOCOL": "${server_protocol}",
    "CONTENT_TYPE": "${content_type}",
    "CONTENT_LENGTH": "${content_length}",
    "wsgi.url_scheme": "${scheme}",
}

# nginx has the time in seconds with three decimals.
PARTS = {"request_milliseconds": "", "request_microseconds": "000"}


def maps(text):
    """Returns the lines that define the variables of a format that nginx itself does not have."""
    lines = []
    for name, zeros in PARTS.items():
        if f"${{{name}}}" in text:
            lines += [
                f"map $request_time ${name} {{",
                '    "0.000" 0;',
                rf'    "~^0\.00(?<digits>[0-9])$" "${{digits}}{zeros}";',
                rf'    "~^0\.0(?<digits>[0-9][0-9])$" "${{digits}}{zeros}";',
                rf'    "~^0\.(?<digits>[0-9]+)$" "${{digits}}{zeros}";',
                rf'    "~^(?<seconds>[0-9]+)\.(?<digits>[0-9]+)$" "$seconds${{digits}}{zeros}";',
                "}",
            ]
    return lines


def translate(text):
    """Returns the text of nginx's `log_format`. A format with a `$` is nginx's already.

    Raises Problem.
    """
    if "$" in text:
        return text
    parts = re.split(r"(%%|%\([^)]*\)[a-zA-Z]|%)", text)
    return "".join(variable(part) if part.startswith("%") else part for part in parts)


def variable(part):
    if part == "%%":
        return "%"
    found = re.fullmatch(r"%\((.*)\)s", part)
    if found and found[1] in ATOMS:
        return ATOMS[found[1]]
    if found and (field := re.fullmatch(r"\{([A-Za-z0-9_.-]+)\}([ioe])", found[1])):
        name, kind = field[1], field[2]
        plain = re.sub(r"[.-]", "_", name.lower())
        if kind == "i":
            return f"${{http_{plain}}}"
        if kind == "o":
            return f"${{sent_http_{plain}}}"
        if name.startswith("HTTP_"):
            return f"${{{plain}}}"
        if name in ENVIRON:
            return ENVIRON[name]
    raise Problem(
        f"--access-logformat: {part!r} is none of gunicorn's atoms that nginx can log; a format with nginx's own "
        "variables, such as $request_time, may have any of them."
    )
