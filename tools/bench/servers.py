"""The servers: how each is started. Each has one worker process; those with threads have as many as the others."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import settings, templates, workloads

APACHE = shutil.which("apache2", path="/usr/sbin:/usr/bin")
APACHE_MODULES = Path("/usr/lib/apache2/modules")


class Site:
    """A workload on a server: where its files are, and the port."""

    def __init__(self, workload, port, directory):
        self.workload = workload
        self.port = port
        self.directory = directory
        self.configurations = []
        # Whether there is an application beside the static files.
        self.serves_application = True
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def application(self):
        return f"{self.workload.application}:application"

    def environment(self):
        """Returns the variables of the servers' processes."""
        variables = {}
        if self.workload.application == "file":
            variables["BENCH_FILE"] = str(workloads.large_file()[0])
        return variables

    def write(self, template, name, **values):
        """Writes a configuration and returns its path."""
        path = self.directory / name
        path.write_text(
            templates.render(
                template,
                port=self.port,
                as_root=os.geteuid() == 0,
                files=settings.BASE / "files",
                **values,
            )
        )
        self.configurations.append(path)
        return path

    def nginx(self, location, http=(), load_module=None, workers=1, server=(), connections=768):
        """Returns the command of an nginx."""
        configuration = self.write(
            "nginx.conf",
            "nginx.conf",
            location=location,
            http=http,
            server=server,
            load_module=load_module,
            workers=workers,
            connections=connections,
        )
        return [settings.NGINX, "-p", self.directory, "-e", "nginx.log", "-c", configuration]


def venv(program):
    """Returns the path of a program of the virtual environment."""
    return settings.VENV / "bin" / program


def ours(site, threads, http=(), process="", **options):
    """Returns the command of an nginx with the module. `process` is the argument of wsgi_pass for a process group."""
    http = [f"wsgi_python_home {settings.VENV};", *http]
    if threads != settings.THREADS:
        # The default is not written down.
        http.append(f"wsgi_threads {threads};")
    http += [f"wsgi_env {name} {value};" for name, value in site.environment().items()]
    location = [f"wsgi_pass {settings.APPLICATIONS}/{site.workload.application}.py{process};"]
    return site.nginx(location, http, load_module=settings.MODULE, **options)


def returning(body):
    """Returns the directives that send a response body. A parameter of nginx is shorter than 4 KB."""
    text = body.decode()
    if len(text) < 4000:
        return [f'return 200 "{text}";']
    piece, count = text[:1000], len(text) // 1000
    return [f'set $piece "{piece}";', f'return 200 "{"${piece}" * count}{text[count * 1000 :]}";']


def nginx(site, **options):
    workload = site.workload
    site.serves_application = False
    if workload.nginx == "file" and workload.application == "file":
        path = workloads.large_file()[0]
        return [site.nginx([f"alias {path.parent}/;", f"index {path.name};"], **options)]
    commands = [site.nginx(["default_type text/plain;", *returning(workload.body)], **options)]
    if workload.key == "static-compute":
        # Another process computes what the application does in the other servers.
        program = "import compute\nwhile True: compute.compute(260_000)"
        commands.append([venv("python"), "-c", program])
    return commands


def inline(site):
    return [ours(site, "off")]


def threads(site):
    return [ours(site, site.workload.threads)]


def in_group(site, threads):
    """Returns the command of an nginx with the module that runs the application in a process group of its own."""
    return [ours(site, threads, http=["wsgi_process_group application;"], process=" process=application")]


def group_inline(site):
    return in_group(site, "off")


def group_threads(site):
    return in_group(site, site.workload.threads)


def gunicorn(site, bind, *options):
    return [venv("gunicorn"), "--workers", 1, *options, "--bind", bind, site.application]


def gthread(site):
    return ("--worker-class", "gthread", "--threads", site.workload.threads)


def gunicorn_gthread(site):
    return [gunicorn(site, f"127.0.0.1:{site.port}", *gthread(site))]


def behind_nginx(site, back_end):
    """Returns the commands of a server and of an nginx that passes requests to it over a Unix socket, with HTTP."""
    http = [f"upstream application {{ server unix:{site.directory}/socket; keepalive 16; }}"]
    location = [
        "proxy_pass http://application;",
        "proxy_http_version 1.1;",
        'proxy_set_header Connection "";',
        "proxy_set_header Host $http_host;",
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
        "proxy_set_header X-Forwarded-Proto $scheme;",
        "proxy_redirect off;",
    ]
    return [back_end, site.nginx(location, http)]


def nginx_gunicorn_sync(site):
    return behind_nginx(site, gunicorn(site, f"unix:{site.directory}/socket"))


def nginx_gunicorn_gthread(site):
    return behind_nginx(site, gunicorn(site, f"unix:{site.directory}/socket", *gthread(site)))


# As in nginx's own uwsgi_params.
UWSGI_PARAMETERS = (
    "QUERY_STRING $query_string",
    "REQUEST_METHOD $request_method",
    "CONTENT_TYPE $content_type",
    "CONTENT_LENGTH $content_length",
    "REQUEST_URI $request_uri",
    "PATH_INFO $document_uri",
    "DOCUMENT_ROOT $document_root",
    "SERVER_PROTOCOL $server_protocol",
    "REQUEST_SCHEME $scheme",
    "REMOTE_ADDR $remote_addr",
    "REMOTE_PORT $remote_port",
    "SERVER_PORT $server_port",
    "SERVER_NAME $server_name",
)


def behind_nginx_with_uwsgi(site, *options):
    """Returns the commands of uWSGI and of an nginx that passes requests to it with its own protocol."""
    socket = site.directory / "socket"
    program = [venv("uwsgi"), "--master", "--processes", 1, *options, "--socket", socket]
    program += ["--virtualenv", settings.VENV, "--module", site.application]
    program += ["--single-interpreter", "--need-app", "--die-on-term", "--disable-logging"]
    location = [f"uwsgi_param {parameter};" for parameter in UWSGI_PARAMETERS]
    return [program, site.nginx([f"uwsgi_pass unix:{socket};", *location])]


def nginx_uwsgi(site):
    return behind_nginx_with_uwsgi(site)


def nginx_uwsgi_threads(site):
    return behind_nginx_with_uwsgi(site, "--threads", site.workload.threads)


def granian(site):
    program = [venv("granian"), "--interface", "wsgi", "--workers", 1, "--blocking-threads", site.workload.threads]
    return [[*program, "--host", "127.0.0.1", "--port", site.port, site.application]]


def waitress(site):
    program = [venv("waitress-serve"), "--threads", site.workload.threads]
    return [[*program, "--host", "127.0.0.1", "--port", site.port, site.application]]


def run_by_python(site, server):
    """Returns the command of a server that has no program of its own."""
    name = site.workload.application
    return [
        venv("python"),
        "-c",
        f"import {server}, {name}; {server}.run({name}.application, '127.0.0.1', {site.port})",
    ]


def bjoern(site):
    return [run_by_python(site, "bjoern")]


def fastpysgi(site):
    return [run_by_python(site, "fastpysgi")]


def apache(site, daemon):
    configuration = site.write(
        "apache.conf",
        "apache.conf",
        directory=site.directory,
        modules=APACHE_MODULES,
        daemon=daemon,
        threads=site.workload.threads,
        venv=settings.VENV,
        applications=settings.APPLICATIONS,
        application=site.workload.application,
    )
    return [[APACHE, "-D", "FOREGROUND", "-f", configuration]]


def apache_embedded(site):
    return apache(site, daemon=False)


def apache_daemon(site):
    return apache(site, daemon=True)


@dataclass(frozen=True)
class Server:
    key: str
    title: str
    commands: Callable
    # Whether several calls run at a time, as many as the workload has threads.
    threaded: bool = False
    # Whether it serves static files while the application runs.
    files: bool = False

    def takes(self, workload):
        """Returns whether the server takes part in a workload."""
        if self.key == "nginx":
            return workload.nginx != ""
        return workload.servers == "all" or (self.threaded if workload.servers == "threaded" else self.files)


SERVERS = [
    Server("nginx", "nginx alone", nginx),
    Server("inline", "ngx-http-wsgi, `wsgi_threads off`", inline),
    Server("threads", "ngx-http-wsgi", threads, threaded=True, files=True),
    Server("group-inline", "ngx-http-wsgi, process group, `wsgi_threads off`", group_inline, files=True),
    Server("group", "ngx-http-wsgi, process group", group_threads, threaded=True, files=True),
    Server("fastpysgi", "fastpysgi", fastpysgi),
    Server("bjoern", "bjoern", bjoern),
    Server("granian", "granian", granian, threaded=True),
    Server("waitress", "waitress", waitress, threaded=True),
    Server("gunicorn", "gunicorn gthread", gunicorn_gthread, threaded=True),
    Server("nginx-gunicorn-sync", "gunicorn sync behind nginx", nginx_gunicorn_sync, files=True),
    Server("nginx-gunicorn", "gunicorn gthread behind nginx", nginx_gunicorn_gthread, threaded=True, files=True),
    Server("nginx-uwsgi", "uWSGI behind nginx", nginx_uwsgi, files=True),
    Server("nginx-uwsgi-threads", "uWSGI with threads behind nginx", nginx_uwsgi_threads, threaded=True, files=True),
    Server("apache", "Apache mod_wsgi, embedded", apache_embedded, files=True),
    Server("apache-daemon", "Apache mod_wsgi, daemon process", apache_daemon, threaded=True, files=True),
]


def installed():
    """Returns the servers that this machine has."""
    has_apache = APACHE and (APACHE_MODULES / "mod_wsgi.so").exists()
    return [server for server in SERVERS if has_apache or not server.key.startswith("apache")]
