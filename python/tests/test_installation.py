"""Where nginx, its module and libpython are."""

import os
import tempfile
import unittest
from unittest import mock

from ngx_wsgi import installation
from ngx_wsgi.problem import Problem

DESCRIPTION = """nginx version: nginx/1.28.3
built with OpenSSL 3.5.4
configure arguments: --prefix={prefix} --conf-path=conf/nginx.conf --with-cc-opt='-O2 -g' --with-http_v2_module
"""

MISSING = "nginx: [emerg] dlopen() failed (libpython3.11.so.1.0: cannot open shared object file: No such file) in x:1"


class Nginx(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def file(self, name, text=""):
        path = os.path.join(self.directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
        os.chmod(path, 0o755)
        return path

    def test_the_description_has_version_and_modules(self):
        installed = installation.Installation("nginx", "module", "types", DESCRIPTION.format(prefix="/x"))
        self.assertEqual(installed.nginx_version, (1, 28, 3))
        self.assertTrue(installed.has("--with-http_v2_module"))
        self.assertFalse(installed.has("--with-http_v3_module"))

    def test_the_types_are_those_of_the_nginx_that_is_named(self):
        types = self.file("conf/mime.types")
        with mock.patch.dict(os.environ, NGX_WSGI_NGINX="/x/nginx"):
            self.assertEqual(installation.types_of(DESCRIPTION.format(prefix=self.directory)), types)

    def test_a_file_that_is_missing_is_named_with_the_remedy(self):
        with (
            mock.patch.dict(os.environ, NGX_WSGI_NGINX="/none/nginx"),
            self.assertRaisesRegex(Problem, "NGX_WSGI_NGINX=/none/nginx: there is no such file"),
        ):
            installation.find()
        os.environ.pop("NGX_WSGI_NGINX", None)
        with (
            mock.patch("ngx_wsgi.installation.PACKAGE", installation.Path(self.directory)),
            self.assertRaisesRegex(
                Problem, "install the wheel of ngx-http-wsgi, or name the file with NGX_WSGI_NGINX="
            ),
        ):
            installation.find()

    def test_a_program_that_is_no_nginx_is_refused(self):
        program = self.file("nginx", "#!/bin/sh\necho wrong >&2\n")
        with self.assertRaisesRegex(Problem, "no nginx that runs here: wrong"):
            installation.describe(program)
        with self.assertRaisesRegex(Problem, "cannot be run: "):
            installation.describe(self.file("nginx", "\x7fELF"))


class Library(unittest.TestCase):
    def path(self, directory, **variables):
        variables = {"INSTSONAME": "libpython3.11.so.1.0", "LIBDIR": directory, "MULTIARCH": "x-linux-gnu"} | variables
        with (
            mock.patch("sysconfig.get_config_var", variables.get),
            mock.patch("os.path.isfile", lambda path: path == f"{directory}/libpython3.11.so.1.0"),
        ):
            return installation.library_path()

    def test_the_loader_is_told_about_unusual_directories_only(self):
        self.assertEqual(self.path("/home/me/.pyenv/versions/3.11.9/lib"), "/home/me/.pyenv/versions/3.11.9/lib")
        self.assertIsNone(self.path("/usr/lib/x-linux-gnu"))
        self.assertIsNone(self.path("/usr/lib"))
        self.assertIsNone(self.path("/opt/lib", INSTSONAME="libpython3.11.a"))
        self.assertIsNone(self.path("/opt/lib", LIBDIR="/none"))

    def sentence(self, prefix, is_debian):
        with (
            mock.patch("sys.base_prefix", prefix),
            mock.patch("os.path.isfile", lambda path: is_debian and path == "/usr/bin/dpkg"),
        ):
            return installation.missing_library(MISSING)

    def test_a_python_without_the_library_is_told_what_brings_it(self):
        self.assertIn("apt install libpython3.", self.sentence("/usr", True))
        self.assertIn("--enable-shared pyenv install", self.sentence("/home/me/.pyenv/versions/3.11.9", True))
        self.assertIn("./configure --enable-shared", self.sentence("/opt/python", False))
        self.assertIn("libpython3.11.so.1.0", self.sentence("/opt/python", False))

    def test_other_failures_are_left_to_nginx(self):
        self.assertIsNone(installation.missing_library("nginx: [emerg] unknown directive"))
