"""gunicorn's settings that the runner does not have, and its configuration file."""

import os
import sys
from dataclasses import dataclass
from typing import Any

from .problem import Problem
from .settings import BY_NAME

CONFIGURATION_FILE = "gunicorn.conf.py"


@dataclass(frozen=True)
class Unsupported:
    """A setting of gunicorn that has no effect here, or that is refused."""

    name: str
    # What there is to say about it: why it has no effect, or what to do instead.
    sentence: str
    flags: tuple[str, ...] = ()
    # The flag has a value.
    has_value: bool = True
    # The server would not do what the setting asks for.
    is_refused: bool = True
    # Values with which there is nothing to say: those that mean what happens here anyway. False, None, 0 and empty
    # values are always among them.
    usual: tuple[Any, ...] = ()

    def is_usual(self, value):
        return not value or value in self.usual or str(value) in map(str, self.usual)

    def message(self, shown_name):
        effect = "is not supported" if self.is_refused else "has no effect here"
        return f"{shown_name} {effect}: {self.sentence}"


def refused(name, sentence, *flags, usual=(), has_value=True):
    return Unsupported(name, sentence, flags, has_value, True, usual)


def without_effect(name, sentence, *flags, usual=(), has_value=True):
    return Unsupported(name, sentence, flags, has_value, False, usual)


EXPORT = "put the directives of nginx into the file that `ngx-wsgi config` prints."
SYSLOG = "write --error-logfile syslog:server=unix:/dev/log instead, and the same for --access-logfile."
STATUS = "`ngx-wsgi status`, `reload` and `stop` find the server without a socket."
LOGGERS = "configure `logging` in the application, and the access log with --access-logformat."
ASGI = "the server runs WSGI applications only."
DIRTY = "use a task queue such as Celery, RQ or Dramatiq."
PARSER = "nginx's parser is strict, and refuses such requests."
HTTP2 = "set the directive of nginx with this meaning in a file for --include."
SYNC_CLASSES = (
    "sync",
    "gthread",
    "gunicorn.workers.sync.SyncWorker",
    "gunicorn.workers.gthread.ThreadWorker",
)

UNSUPPORTED = (
    refused(
        "worker_class",
        "requests run on threads (--threads), and nginx takes care of slow clients; keep gunicorn behind nginx's "
        "proxy_pass for an application that needs another class.",
        "-k",
        "--worker-class",
        usual=SYNC_CLASSES,
    ),
    refused(
        "preload_app",
        "Python starts in the workers, so that a reload loads all code again; leave it out. Before the start the "
        "application is imported once for a check.",
        "--preload",
        has_value=False,
    ),
    refused(
        "print_config",
        "run `ngx-wsgi config TARGET`, which prints nginx's configuration.",
        "--print-config",
        has_value=False,
    ),
    refused(
        "spew",
        "attach py-spy to a worker, or set wsgi_slow_request in a file for --include.",
        "--spew",
        has_value=False,
    ),
    refused("paste", "serve a script that calls paste.deploy.loadapp().", "--paste", "--paster"),
    refused("raw_paste_global_conf", "serve a script that calls paste.deploy.loadapp().", "--paste-global"),
    refused("protocol", "only HTTP is spoken.", "--protocol", usual=("http",)),
    refused("proxy_protocol", EXPORT, "--proxy-protocol", usual=("off",)),
    refused("root_path", "set the environment variable SCRIPT_NAME, as with --env SCRIPT_NAME=/prefix.", "--root-path"),
    refused(
        "secure_scheme_headers",
        "the scheme comes from X-Forwarded-Proto, which each common proxy can send.",
        usual=(
            {"X-FORWARDED-PROTOCOL": "ssl", "X-FORWARDED-PROTO": "https", "X-FORWARDED-SSL": "on"},
            {"X-FORWARDED-PROTO": "https"},
            {"X-Forwarded-Proto": "https"},
        ),
    ),
    refused(
        "header_map",
        "nginx drops headers with underscores; set underscores_in_headers in a file for --include to keep them.",
        "--header-map",
        usual=("drop",),
    ),
    refused("syslog", SYSLOG, "--log-syslog", has_value=False),
    refused("logconfig", LOGGERS, "--log-config"),
    refused("logconfig_dict", LOGGERS),
    refused("logconfig_json", LOGGERS, "--log-config-json"),
    refused("logger_class", LOGGERS, "--logger-class", usual=("gunicorn.glogging.Logger",)),
    refused(
        "statsd_host", "derive metrics from the access log, whose format may have nginx's variables.", "--statsd-host"
    ),
    refused(
        "http_protocols",
        "HTTP/1.1 is always offered, and HTTP/2 with --http2.",
        "--http-protocols",
        usual=("h1",),
    ),
    refused("http2_cleartext", "HTTP/2 needs --certfile and --http2.", "--http2-cleartext", usual=("off",)),
    refused("permit_obsolete_folding", PARSER, "--permit-obsolete-folding", has_value=False),
    refused("permit_unconventional_http_method", PARSER, "--permit-unconventional-http-method", has_value=False),
    refused("permit_unconventional_http_version", PARSER, "--permit-unconventional-http-version", has_value=False),
    refused("casefold_http_method", PARSER, "--casefold-http-method", has_value=False),
    refused("strip_header_spaces", PARSER, "--strip-header-spaces", has_value=False),
    refused("dirty_apps", DIRTY, "--dirty-app"),
    without_effect("dirty_workers", DIRTY, "--dirty-workers"),
    without_effect("dirty_timeout", DIRTY, "--dirty-timeout", usual=(300,)),
    without_effect("dirty_threads", DIRTY, "--dirty-threads", usual=(1,)),
    without_effect("dirty_graceful_timeout", DIRTY, "--dirty-graceful-timeout", usual=(30,)),
    without_effect("asgi_loop", ASGI, "--asgi-loop", usual=("auto",)),
    without_effect("asgi_lifespan", ASGI, "--asgi-lifespan", usual=("auto", "off")),
    without_effect("asgi_disconnect_grace_period", ASGI, "--asgi-disconnect-grace-period", usual=(3,)),
    without_effect("websocket_max_message_size", ASGI, "--websocket-max-message-size", usual=(16777216,)),
    without_effect("http_parser", "the parser is nginx's.", "--http-parser", usual=("auto",)),
    without_effect("http2_max_concurrent_streams", HTTP2, "--http2-max-concurrent-streams", usual=(100,)),
    without_effect("http2_initial_window_size", HTTP2, "--http2-initial-window-size", usual=(65535,)),
    without_effect("http2_max_frame_size", HTTP2, "--http2-max-frame-size", usual=(16384,)),
    without_effect("http2_max_header_list_size", HTTP2, "--http2-max-header-list-size", usual=(65536,)),
    without_effect(
        "limit_request_fields",
        "nginx limits the size of all headers, not their number.",
        "--limit-request-fields",
        usual=(100,),
    ),
    without_effect(
        "forwarder_headers",
        "SCRIPT_NAME and PATH_INFO never come from a header.",
        "--forwarder-headers",
        usual=("SCRIPT_NAME,PATH_INFO",),
    ),
    without_effect(
        "proxy_allow_ips", "the PROXY protocol is not spoken.", "--proxy-allow-from", usual=("127.0.0.1,::1",)
    ),
    without_effect(
        "uwsgi_allow_ips", "the uwsgi protocol is not spoken.", "--uwsgi-allow-from", usual=("127.0.0.1,::1",)
    ),
    without_effect("initgroups", "the groups of --user are always set.", "--initgroups", has_value=False),
    without_effect("worker_tmp_dir", "workers have no heartbeat file.", "--worker-tmp-dir"),
    without_effect(
        "reload_engine", "the kernel reports edits (inotify).", "--reload-engine", usual=("auto", "inotify")
    ),
    without_effect("proc_name", "processes have the names that nginx gives them.", "-n", "--name"),
    without_effect("default_proc_name", "processes have the names that nginx gives them.", usual=("gunicorn",)),
    without_effect(
        "capture_output",
        "the output of the application is always in the error log.",
        "--capture-output",
        has_value=False,
    ),
    without_effect(
        "enable_stdio_inheritance",
        "the output of the application is always in the error log.",
        "-R",
        "--enable-stdio-inheritance",
        has_value=False,
    ),
    without_effect("disable_redirect_access_to_syslog", SYSLOG, "--disable-redirect-access-to-syslog", has_value=False),
    without_effect("syslog_addr", SYSLOG, "--log-syslog-to", usual=("udp://localhost:514", "unix:///var/run/syslog")),
    without_effect("syslog_prefix", SYSLOG, "--log-syslog-prefix"),
    without_effect("syslog_facility", SYSLOG, "--log-syslog-facility", usual=("user",)),
    without_effect("statsd_prefix", "there is no statsd client.", "--statsd-prefix"),
    without_effect("dogstatsd_tags", "there is no statsd client.", "--dogstatsd-tags"),
    without_effect("enable_backlog_metric", "there is no statsd client.", "--enable-backlog-metric", has_value=False),
    without_effect("ssl_version", "TLS 1.2 and 1.3 are offered.", "--ssl-version", usual=(2,)),
    without_effect(
        "suppress_ragged_eofs", "nginx ends TLS itself.", "--suppress-ragged-eofs", usual=(True,), has_value=False
    ),
    without_effect("do_handshake_on_connect", "nginx ends TLS itself.", "--do-handshake-on-connect", has_value=False),
    without_effect(
        "control_socket", STATUS, "--control-socket", usual=(os.path.expanduser("~/.gunicorn/gunicorn.ctl"),)
    ),
    without_effect("control_socket_mode", STATUS, "--control-socket-mode", usual=(0o600,)),
    without_effect("control_socket_disable", STATUS, "--no-control-socket", has_value=False),
)

UNSUPPORTED_BY_NAME = {setting.name: setting for setting in UNSUPPORTED}

IN_THE_MASTER = "no Python runs in nginx's master process; use the service manager (ExecStartPre=, ExecStopPost=)."
IN_THE_WORKER = "code at the top of the application's module runs once in each worker."
AROUND_REQUESTS = "wrap the application in WSGI middleware."
AT_THE_END = "register a function with ngx_wsgi.on_shutdown() or atexit."

HOOKS = {
    "on_starting": IN_THE_MASTER,
    "on_reload": IN_THE_MASTER,
    "when_ready": IN_THE_MASTER,
    "pre_fork": IN_THE_MASTER,
    "pre_exec": IN_THE_MASTER,
    "child_exit": IN_THE_MASTER,
    "nworkers_changed": IN_THE_MASTER,
    "on_exit": IN_THE_MASTER,
    "post_fork": IN_THE_WORKER,
    "post_worker_init": IN_THE_WORKER,
    "pre_request": AROUND_REQUESTS,
    "post_request": AROUND_REQUESTS,
    "worker_int": AT_THE_END,
    "worker_exit": AT_THE_END,
    "worker_abort": "--timeout raises ngx_wsgi.RequestTimeout in the call, and logs its stack.",
    "ssl_context": "set ssl_… directives of nginx in a file for --include.",
    "on_dirty_starting": DIRTY,
    "dirty_post_fork": DIRTY,
    "dirty_worker_init": DIRTY,
    "dirty_worker_exit": DIRTY,
}


def read_configuration(path, directory):
    """Executes a configuration file. Returns the values of the runner's settings, the target if the file names one, and
    lines about the settings that have no effect.

    Raises Problem.
    """
    names = execute(path, directory)
    values, lines = {}, []
    for name, value in names.items():
        if name in BY_NAME and name != "config":
            if value is None:
                continue
            try:
                values[name] = BY_NAME[name].from_python(value)
            except ValueError as error:
                raise Problem(f"{path}: {name} = {value!r}: {error}.") from None
        elif name in HOOKS and callable(value):
            lines.append(f"{path}: the hook {name} is not supported and does not run: {HOOKS[name]}")
        elif name == "http_protocols":
            values |= {"http2": True} if offers_http2(value, path) else {}
        elif name in UNSUPPORTED_BY_NAME and not UNSUPPORTED_BY_NAME[name].is_usual(value):
            setting = UNSUPPORTED_BY_NAME[name]
            if setting.is_refused:
                raise Problem(setting.message(f"{path}: {name}"))
            lines.append(setting.message(f"{path}: {name}"))
    return values, names.get("wsgi_app"), lines


def offers_http2(value, path):
    protocols = value.replace(" ", "").split(",") if isinstance(value, str) else list(value)
    if set(protocols) - {"h1", "h2"}:
        raise Problem(UNSUPPORTED_BY_NAME["http_protocols"].message(f"{path}: http_protocols = {value!r}"))
    return "h2" in protocols


def execute(path, directory):
    """Returns the names that the file defines."""
    if path.startswith("python:"):
        raise Problem(f"--config {path}: settings in a module are not supported; name a file.")
    path = os.path.join(directory, path.removeprefix("file:"))
    # It may import modules beside the application, as under gunicorn.
    sys.path.insert(0, directory)
    names = {"__builtins__": __builtins__, "__name__": "__config__", "__file__": path}
    try:
        with open(path, "rb") as file:
            exec(compile(file.read(), path, "exec"), names)
    except OSError as error:
        if error.filename != path:
            raise
        raise Problem(f"--config {path}: {error.strerror}.") from None
    except SyntaxError as error:
        raise Problem(f"{error.filename}:{error.lineno}: {error.msg}; correct the file.") from None
    except Exception as error:
        raise Problem(f"{place(error, path)}: {type(error).__name__}: {error}; correct the file.") from error
    finally:
        sys.path.remove(directory)
    return names


def place(error, path):
    """Returns the file and the last line of it that the exception has passed."""
    line, traceback = 0, error.__traceback__
    while traceback:
        if traceback.tb_frame.f_code.co_filename == path:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return f"{path}:{line}"
