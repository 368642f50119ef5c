"""The machine and the versions of a run."""

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from . import cores, settings
from .servers import APACHE, APACHE_MODULES

PACKAGES = ("fastpysgi", "bjoern-binary", "granian", "waitress", "gunicorn", "uWSGI", "Flask", "Django")


def output(*command):
    """Returns the first line that a command prints to either output, or an empty text."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, cwd=settings.REPOSITORY)
    except OSError:
        return ""
    return ((result.stdout or result.stderr).splitlines() or [""])[0].strip()


def processor():
    match = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return match[1] if match else platform.machine()


def module_version():
    version = re.search(r'^version = "(.*)"', (settings.REPOSITORY / "Cargo.toml").read_text(), re.M)[1]
    commit = output("git", "rev-parse", "--short", "HEAD")
    return f"{version}, commit {commit}" if commit else version


def facts(rounds):
    """Returns pairs of a name and a value, for a run with a number of rounds."""
    distribution = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    yield "date", datetime.date.today().isoformat()
    yield "processor", f"{processor()}, {os.cpu_count()} cores"
    yield "cores", f"servers on {cores.SERVER}, client on {cores.CLIENT}"
    yield "system", f"{distribution}, Linux {platform.release()}"
    yield "ngx-http-wsgi", f"{module_version()}, built by `make build`"
    yield "nginx", output(settings.NGINX, "-v").partition("nginx/")[2]
    yield "Python", platform.python_version()
    if APACHE and (APACHE_MODULES / "mod_wsgi.so").exists():
        yield "Apache", output(APACHE, "-v").partition("Apache/")[2]
        yield "mod_wsgi", output("dpkg-query", "-W", "-f", "${Version}", "libapache2-mod-wsgi-py3")
    yield "wrk", output("wrk", "-v").split(" [")[0].removeprefix("wrk ")
    for package in PACKAGES:
        yield package, importlib.metadata.version(package)
    yield "rounds", f"{rounds}, with samples of {settings.SECONDS} s"
