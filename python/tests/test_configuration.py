"""The text of nginx.conf. tests/suite/runner_configuration.rs has nginx read it."""

import os
import re
from unittest import mock

from ngx_wsgi import configuration
from ngx_wsgi.installation import Installation
from ngx_wsgi.problem import Problem
from ngx_wsgi.quoting import comment, quote, quote_constant

from .test_options import Case

OLD = Installation("/usr/sbin/nginx", "/m.so", "/etc/nginx/mime.types", "nginx version: nginx/1.22.1\n")
NEW = Installation("/usr/sbin/nginx", "/m.so", "/etc/nginx/mime.types", "nginx version: nginx/1.28.3\n")


def unquote(word):
    """Reads a word in quotes as nginx does."""
    inner = re.fullmatch(r'"((?:[^"\\]|\\.)*)"', word, re.DOTALL)[1]
    return re.sub(r"\\([\"'\\trn])", lambda found: {"t": "\t", "r": "\r", "n": "\n"}.get(found[1], found[1]), inner)


class Quoting(Case):
    def test_nginx_reads_what_was_quoted(self):
        for value in ("a b", 'a"b', "a\\", '\\"', "a;{}#", "a\nb\r\tc", "\\n", "é", "$x", "'", ""):
            self.assertEqual(unquote(quote(value)), value)
            self.assertNotIn("\n", quote(value))

    def test_a_variable_is_refused_where_nginx_would_replace_it(self):
        self.assertEqual(quote_constant("/a b", "--static"), '"/a b"')
        with self.assertRaisesRegex(Problem, r"--static /a\$b: nginx takes the \$ in it for a variable"):
            quote_constant("/a$b", "--static")

    def test_a_comment_stays_on_its_line(self):
        self.assertEqual(comment("/a\nreturn 418;\x85\u2028"), "/a?return 418;??")


class Text(Case):
    def text(self, *arguments, installed=NEW, directory=None):
        return configuration.write(self.resolve("app", *arguments), installed, directory)

    def lines(self, *arguments, **keywords):
        return [line.strip() for line in self.text(*arguments, **keywords).splitlines()]

    def test_http2_is_a_directive_or_a_parameter(self):
        certificate = self.write("certificate.pem")
        arguments = ("--certfile", certificate, "--http2", "--bind", "127.0.0.1:9000")
        self.assertIn('listen "127.0.0.1:9000" ssl http2 backlog=2048;', self.lines(*arguments, installed=OLD))
        lines = self.lines(*arguments)
        self.assertIn('listen "127.0.0.1:9000" ssl backlog=2048;', lines)
        self.assertIn("http2 on;", lines)

    def test_the_directory_of_the_runner_is_in_the_configuration_of_the_runner_alone(self):
        self.assertIn('pid "/run/x/nginx.pid";', self.lines(directory="/run/x"))
        self.assertIn('client_body_temp_path "/run/x/body";', self.lines(directory="/run/x"))
        text = self.text()
        self.assertNotIn("temp_path", text)
        self.assertNotRegex(text, r"(?m)^pid ")

    def test_values_of_the_environment_are_printed_only_if_they_were_given_as_options(self):
        os.environ.pop("LD_LIBRARY_PATH", None)
        with mock.patch.dict("os.environ", {"SECRET": "hidden", "NGINX": "3"}):
            lines = self.lines("--env", "GREETING=a b", directory="/run/x")
            self.assertIn('env "SECRET";', lines)
            self.assertIn('env "GREETING";', lines)
            self.assertNotIn('env "NGINX";', lines)
            # The runner sets it for nginx. The application gets it only from its own environment.
            self.assertNotIn('env "LD_LIBRARY_PATH";', lines)
            text = self.text("--env", "GREETING=a b")
            self.assertIn('env "GREETING=a b";', text)
            self.assertNotIn("SECRET", text)

    def test_a_limit_that_is_not_given_is_gunicorns(self):
        self.assertNotIn("large_client_header_buffers", self.text())
        for arguments, expected in {
            ("--limit-request-line", "4094"): 8190,
            ("--limit-request-field_size", "2000"): 4094,
            ("--limit-request-line", "2000", "--limit-request-field_size", "1500"): 2000,
            ("--limit-request-line", "0"): 1_000_000,
        }.items():
            self.assertIn(f"large_client_header_buffers 4 {expected};", self.lines(*arguments))

    def test_the_variable_script_name_is_the_prefix_of_the_application(self):
        os.environ.pop("SCRIPT_NAME", None)
        self.assertNotIn("wsgi_script_name", self.text())
        self.assertIn('wsgi_script_name "/a b";', self.lines("--env", "SCRIPT_NAME=/a b/"))
        os.environ["SCRIPT_NAME"] = "shop"
        with self.assertRaisesRegex(Problem, "SCRIPT_NAME=shop: the prefix of URLs begins with a slash"):
            self.text()

    def test_patterns_in_names_of_files_are_no_patterns(self):
        installed = Installation("", "/m.so", "/srv/[x]/mime.types", "nginx version: nginx/1.28.3\n")
        self.assertIn('include "/srv/[[]x]/mime.types";', self.lines(installed=installed))
        self.write("[a].txt")
        self.assertIn(
            f'wsgi_reload_watch modules "{self.directory}/[[]a].txt" "{self.directory}/*.html";',
            self.lines("--reload", "--reload-extra-file", "[a].txt", "--reload-extra-file", "*.html"),
        )
        self.write("[x].conf")
        with self.assertRaisesRegex(Problem, "for a pattern"):
            self.text("--include", "[x].conf")

    def test_the_python_of_an_environment_and_of_a_system(self):
        with mock.patch("sys.prefix", "/srv/venv"):
            self.assertIn('wsgi_python_home "/srv/venv";', self.lines())
        with (
            mock.patch("sys.prefix", "/usr"),
            mock.patch("sys.base_prefix", "/usr"),
            mock.patch("sys.executable", "/usr/bin/python3"),
            mock.patch("site.ENABLE_USER_SITE", True),
            mock.patch("site.getusersitepackages", lambda: self.directory),
        ):
            lines = self.lines("--chdir", "/tmp")
            self.assertIn('wsgi_python_executable "/usr/bin/python3";', lines)
            self.assertIn(f'wsgi_python_path "/tmp" "{self.directory}";', lines)

    def test_a_name_that_is_not_utf_8_keeps_its_bytes(self):
        self.assertIn("a\udcff", self.text("--error-logfile", "a\udcff"))
