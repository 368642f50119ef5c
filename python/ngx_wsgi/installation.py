"""The programs and files of the installed package: nginx, its module, the table of file types, and libpython."""

import os
import re
import shlex
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from .problem import Problem

PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Installation:
    nginx: str
    module: str
    types: str
    # The output of `nginx -V`.
    description: str

    @property
    def nginx_version(self):
        """The version as numbers, as in (1, 28, 3)."""
        found = re.search(r"nginx/([0-9.]+)", self.description)
        return tuple(map(int, found[1].split("."))) if found else (0,)

    def has(self, option):
        """Returns whether nginx was configured with the option."""
        return option in configure_arguments(self.description)


def find():
    """Finds the files. NGX_WSGI_NGINX and NGX_WSGI_MODULE name others than those of the package. Raises Problem."""
    nginx = file_of("NGX_WSGI_NGINX", "bin/nginx")
    module = file_of("NGX_WSGI_MODULE", "lib/ngx_http_wsgi_module.so")
    description = describe(nginx)
    return Installation(nginx, module, types_of(description), description)


def file_of(variable, name):
    named = os.environ.get(variable)
    path = os.path.abspath(named) if named else str(PACKAGE / name)
    if os.path.isfile(path):
        return path
    if named:
        raise Problem(f"{variable}={named}: there is no such file.")
    raise Problem(f"{path} is missing: install the wheel of ngx-http-wsgi, or name the file with {variable}=PATH.")


def describe(nginx):
    try:
        run = subprocess.run([nginx, "-V"], capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise Problem(f"{nginx} cannot be run: {error.strerror}; name another with NGX_WSGI_NGINX=PATH.") from None
    if run.returncode != 0 or "nginx version" not in run.stderr:
        raise Problem(
            f"{nginx} is no nginx that runs here: {run.stderr.strip()}; name another with NGX_WSGI_NGINX=PATH."
        )
    return run.stderr


def configure_arguments(description):
    found = re.search(r"^configure arguments:(.*)$", description, re.MULTILINE)
    return shlex.split(found[1]) if found else []


def types_of(description):
    """Returns the path of mime.types: the package's, or that beside the configuration of nginx."""
    paths = {"prefix": "/usr/local/nginx", "conf-path": "conf/nginx.conf"}
    for argument in configure_arguments(description):
        name, _, value = argument.removeprefix("--").partition("=")
        if name in paths:
            paths[name] = value
    of_nginx = os.path.join(paths["prefix"], os.path.dirname(paths["conf-path"]), "mime.types")
    candidates = [str(PACKAGE / "mime.types"), of_nginx, "/etc/nginx/mime.types"]
    if os.environ.get("NGX_WSGI_NGINX"):
        candidates = candidates[1:] + candidates[:1]
    for candidate in candidates:
        if os.path.isfile(candidate):
            return candidate
    raise Problem(
        f"there is no mime.types, neither {' nor '.join(candidates)}: install the package of nginx that has it."
    )


# ---- libpython ---------------------------------------------------------------------------------------------------

# Directories that the loader searches by itself.
SEARCHED = ("/lib", "/usr/lib", "/lib64", "/usr/lib64")


def library_path():
    """Returns the directory of libpython if the loader has to be told, or None."""
    name = sysconfig.get_config_var("INSTSONAME") or sysconfig.get_config_var("LDLIBRARY") or ""
    if ".so" not in name:
        # A Python that is linked statically; Debian's has the library in a package.
        return None
    for directory in (sysconfig.get_config_var("LIBDIR"), os.path.join(sys.base_prefix, "lib")):
        if directory and os.path.isfile(os.path.join(directory, name)):
            multiarch = sysconfig.get_config_var("MULTIARCH") or ""
            searched = {*SEARCHED, *(f"{parent}/{multiarch}" for parent in SEARCHED)}
            return None if directory in searched else directory
    return None


def missing_library(output):
    """Returns a sentence if nginx could not load its module because there is no libpython."""
    found = re.search(r"(libpython[0-9.]+\.so\S*): cannot open shared object file", output)
    if not found:
        return None
    name = found[1]
    number = f"{sys.version_info.major}.{sys.version_info.minor}"
    if os.path.isfile("/usr/bin/dpkg") and sys.base_prefix == "/usr":
        remedy = f"install it with: apt install libpython{number}"
    elif "/.pyenv/" in f"{sys.base_prefix}/" or os.environ.get("PYENV_ROOT", "//") in sys.base_prefix:
        remedy = (
            "install this Python again with: "
            f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force {sys.version.split()[0]}"
        )
    else:
        remedy = (
            "build this Python with ./configure --enable-shared, or use a Python that has it, "
            f"as Debian's with the package libpython{number}"
        )
    return f"the Python in {sys.base_prefix} has no shared library {name}, which nginx needs; {remedy}."
