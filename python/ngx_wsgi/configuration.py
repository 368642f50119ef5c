"""nginx's configuration of a server, with comments."""

import glob
import os
import site
import sys

from . import access_log, runtime_directory, version
from .addresses import has_both_versions
from .problem import Problem
from .quoting import comment, quote, quote_constant

# nginx opens it again by this name.
STANDARD_OUTPUT = "/dev/stdout"


def write(options, installed, directory=None):
    """Returns the text. With a runtime directory it is for a server that the runner starts, otherwise for one of the
    administrator's. Raises Problem.
    """
    blocks = [
        header(directory),
        main(options, installed, directory),
        ["events {", *indented([f"worker_connections {options.worker_connections};"]), "}"],
        ["http {", *indented(joined(http_blocks(options, installed, directory))), "}"],
    ]
    return "\n".join(joined(blocks)) + "\n"


def joined(blocks):
    """Returns the lines of all blocks, with an empty line between two of them."""
    lines = []
    for block in filter(None, blocks):
        lines += ["", *block] if lines else block
    return lines


def indented(lines):
    return [f"    {line}" if line else "" for line in lines]


def header(directory):
    if directory:
        return [f"# Written by ngx-wsgi {version} at each start of the server; changes are lost."]
    return [
        f"# The server of `ngx-wsgi run` (ngx-wsgi {version}) with the same options, for an nginx of your own.",
        "#",
        "# The runner adds what nginx has defaults for: `daemon off`, the file of the process ID and the directories",
        "# of temporary files. Check it with `nginx -t -c FILE`, which imports the application. HUP reloads, QUIT",
        "# waits for running requests and exits, TERM exits at once.",
    ]


# ---- main --------------------------------------------------------------------------------------------------------


def main(options, installed, directory):
    lines = ["# The module, for this nginx and this Python.", f"load_module {quote(installed.module)};"]
    if options.user:
        lines += [
            "",
            "# The user of the workers, and so of the application.",
            f"user {quote(options.user)} {quote(options.group)};",
        ]
    lines += [
        "",
        f"worker_processes {options.workers};",
        "# Relative paths of files that the application opens.",
        f"working_directory {quote(options.chdir)};",
    ]
    if options.pidfile or directory:
        lines.append(f"pid {quote(options.pidfile or os.path.join(directory, 'nginx.pid'))};")
    lines += [
        "# It has the output of the application too.",
        f"error_log {error_log(options)};",
        "# Connections without a call, such as downloads, end a second after the calls.",
        f"worker_shutdown_timeout {options.graceful_timeout + 1}s;",
        *environment(options, directory),
    ]
    if not directory and options.umask is not None:
        lines += ["", f"# The umask {options.umask:04o} is inherited: set it where nginx is started (systemd: UMask=)."]
    return lines


def error_log(options):
    target = "stderr" if options.errorlog == "-" else quote(options.errorlog)
    return f"{target} {options.loglevel}"


def environment(options, directory):
    """Returns the lines that pass environment variables on, by name alone if the runner starts the server."""
    lines = ["", "# nginx removes all other variables from the environment."]
    if directory:
        names = {name for name in os.environ if name not in REMOVED} | {
            text.partition("=")[0] for text in options.raw_env
        }
        # The runner's own LD_LIBRARY_PATH is for nginx alone, not for programs that the application starts.
        return lines + [f"env {quote(name)};" for name in sorted(names)]
    return lines + [f"env {quote(text)};" for text in options.raw_env] if options.raw_env else []


# nginx takes sockets to inherit from these.
REMOVED = ("NGINX", "NGINX_BPF_MAPS")


# ---- http --------------------------------------------------------------------------------------------------------


def http_blocks(options, installed, directory):
    yield files(options, installed)
    yield connections(options, directory)
    yield logs(options)
    yield python(options)
    yield calls(options)
    yield reloading(options)
    yield trusted_proxies(options)
    yield server(options, installed)


def files(options, installed):
    return [
        # A path is a pattern for `include`.
        f"include {quote(glob.escape(installed.types))};",
        "default_type application/octet-stream;",
        f"sendfile {'on' if options.sendfile else 'off'};",
        "tcp_nopush on;",
        "server_tokens off;",
    ]


def connections(options, directory):
    lines = [
        f"keepalive_timeout {options.keepalive}s;",
        "# A larger request body gets 413. The body is read before the application is called.",
        f"client_max_body_size {options.spool_uploads};",
    ]
    if options.limit_request_line or options.limit_request_field_size:
        # nginx has one limit for both. A limit that is not given is gunicorn's.
        header_bytes = max(options.limit_request_line or 4094, options.limit_request_field_size or 8190)
        lines += ["# The request line, and each header.", f"large_client_header_buffers 4 {header_bytes};"]
    if directory:
        lines.append("# Bodies that do not fit into memory.")
        for directive, name in runtime_directory.TEMPORARY.items():
            path = os.path.join(directory, name)
            if directive == "client_body_temp_path" and options.tmp_upload_dir:
                path = options.tmp_upload_dir
            lines.append(f"{directive} {quote(path)};")
    elif options.tmp_upload_dir:
        lines.append(f"client_body_temp_path {quote(options.tmp_upload_dir)};")
    return lines


def logs(options):
    if not options.accesslog:
        return ["access_log off;"]
    text = access_log.translate(options.access_log_format)
    lines = access_log.maps(text)
    path = STANDARD_OUTPUT if options.accesslog == "-" else options.accesslog
    return [
        *lines,
        f"log_format requests {quote(text)};",
        f"access_log {quote_constant(path, '--access-logfile')} requests;",
    ]


def python(options):
    paths = [path for path in (options.pythonpath or "").split(",") if path]
    paths = [os.path.abspath(os.path.join(options.chdir, path)) for path in paths] + [options.chdir]
    lines = []
    if sys.prefix != sys.base_prefix:
        lines += [
            "# The virtual environment with the packages of the application.",
            f"wsgi_python_home {quote(sys.prefix)};",
        ]
    else:
        lines += [
            "# The Python with the packages of the application.",
            f"wsgi_python_executable {quote(sys.executable)};",
        ]
        # The module reads none itself.
        if site.ENABLE_USER_SITE and os.path.isdir(site.getusersitepackages()):
            paths.append(site.getusersitepackages())
    return lines + ["# The front of sys.path.", f"wsgi_python_path {' '.join(map(quote, paths))};"]


def calls(options):
    lines = []
    if options.threads:
        lines.append(f"wsgi_threads {options.threads};")
    if options.subinterpreters:
        lines.append("wsgi_enable_subinterpreters on;")
    return lines + [
        "# A call that runs longer gets 504, and its stack is logged. 0: no limit.",
        f"wsgi_request_timeout {options.timeout}s;",
        "# Running calls have this time when a worker exits.",
        f"wsgi_shutdown_timeout {options.graceful_timeout}s;",
        "# A worker is replaced after this number of calls, plus a random number up to the second one. 0: never.",
        f"wsgi_max_requests {options.max_requests} {options.max_requests_jitter};",
    ]


def reloading(options):
    if not options.reload:
        return []
    patterns = [pattern(path) for path in options.reload_extra_files]
    return [
        "# For development: an edit replaces the workers.",
        "wsgi_script_reloading on;",
        "wsgi_reload_mechanism process;",
        f"wsgi_reload_watch {' '.join(['modules', *map(quote, patterns)])};",
    ]


def pattern(path):
    """Returns the pattern of a file, of all files of a directory, or the pattern itself."""
    if os.path.isdir(path):
        return f"{glob.escape(path)}/**/*"
    return glob.escape(path) if os.path.exists(path) else path


def trusted_proxies(options):
    """Returns the lines that take the client's address and the scheme from a proxy, if that may be believed."""
    trusts_all = options.forwarded_allow_ips == ["*"]
    networks = ["0.0.0.0/0", "::/0"] if trusts_all else options.forwarded_allow_ips
    return [
        "# X-Forwarded-For and X-Forwarded-Proto are believed if they come from these proxies or from a unix socket.",
        *(f"set_real_ip_from {network};" for network in networks),
        "set_real_ip_from unix:;",
        "real_ip_header X-Forwarded-For;",
        # Where each address is a proxy's, the last one of the header is the only one that no client can choose.
        *([] if trusts_all else ["real_ip_recursive on;"]),
        "geo $realip_remote_addr $peer_is_proxy {",
        f"    default {int(trusts_all)};",
        *([] if trusts_all else (f"    {network} 1;" for network in networks)),
        "}",
        'map "$peer_is_proxy $realip_remote_addr $http_x_forwarded_proto" $forwarded_scheme {',
        '    default "";',
        r'    "~*^(1 \S+|0 unix:) https$" https;',
        r'    "~*^(1 \S+|0 unix:) http$" http;',
        "}",
    ]


# ---- server ------------------------------------------------------------------------------------------------------


def server(options, installed):
    # From this version on the parameter of `listen` is deprecated, and the directive exists.
    has_directive = installed.nginx_version >= (1, 25, 1)
    blocks = [
        [f"listen {listen(address, options, has_directive)};" for address in options.bind],
        tls(options, has_directive),
        application(options),
        *(static(url, path) for url, path in options.static),
        [f"include {quote(included(path))};" for path in options.include],
    ]
    return ["server {", *indented(joined(blocks)), "}"]


def listen(address, options, has_directive):
    words = [quote(address.listen())]
    if has_both_versions(address, options.bind):
        words.append("ipv6only=off")
    if options.certfile:
        words.append("ssl")
    if options.http2 and not has_directive:
        words.append("http2")
    words.append(f"backlog={options.backlog}")
    if options.reuse_port and address.port is not None:
        words.append("reuseport")
    return " ".join(words)


def tls(options, has_directive):
    if not options.certfile:
        return []
    lines = [
        f"ssl_certificate {quote_constant(options.certfile, '--certfile')};",
        f"ssl_certificate_key {quote_constant(options.keyfile or options.certfile, '--keyfile')};",
        "ssl_protocols TLSv1.2 TLSv1.3;",
        "ssl_session_cache shared:TLS:10m;",
    ]
    if options.ciphers:
        lines.append(f"ssl_ciphers {quote(options.ciphers)};")
    if options.ca_certs:
        lines.append(f"ssl_client_certificate {quote(options.ca_certs)};")
        lines.append(f"ssl_verify_client {('off', 'optional', 'on')[options.cert_reqs]};")
    if options.http2 and has_directive:
        lines.append("http2 on;")
    return lines


def application(options):
    return [
        "location / {",
        # With a callable, as a path may have a colon in it.
        f"    wsgi_pass {quote(options.target.with_callable())};",
        "    wsgi_var wsgi.url_scheme $forwarded_scheme if_not_empty;",
        *indented(script_name(options)),
        "}",
    ]


def script_name(options):
    """Returns the line for the environment variable SCRIPT_NAME, the prefix of the application under gunicorn."""
    variables = os.environ | dict(text.split("=", 1) for text in options.raw_env)
    prefix = variables.get("SCRIPT_NAME", "").rstrip("/")
    if not prefix:
        return []
    if not prefix.startswith("/"):
        raise Problem(f"the environment variable SCRIPT_NAME={prefix}: the prefix of URLs begins with a slash; add it.")
    return [f"wsgi_script_name {quote_constant(prefix, 'the environment variable SCRIPT_NAME')};"]


def static(url, directory):
    return [
        f"# Files of {comment(url)}, without Python.",
        f"location ^~ {quote(url)} {{",
        f"    alias {quote_constant(directory.rstrip('/') + '/', f'--static {url}=')};",
        "}",
    ]


def included(path):
    if glob.has_magic(path):
        raise Problem(f"--include {path}: nginx takes *, ? and [ for a pattern; choose a path without them.")
    return path
