"""`import ngx_wsgi` outside nginx: the names that an application finds in a worker are there, and harmless."""

import logging
import os
import re
import subprocess
import sys
import tomllib
import unittest
from pathlib import Path

import ngx_wsgi

REPOSITORY = Path(__file__).parents[2]


def run(code):
    """Runs code in a fresh Python; returns what it has written to standard output and standard error."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "python")}
    command = [sys.executable, "-B", "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return result.stdout, result.stderr


class OutsideNginx(unittest.TestCase):
    def test_each_documented_name_is_there(self):
        page = (REPOSITORY / "docs/environ.md").read_text(encoding="utf-8")
        section = page.partition("## The Python module ngx_wsgi\n")[2].partition("\n## ")[0]
        cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
        names = [name for cell in cells for name in re.findall(r"`(\w+)", cell)]
        self.assertGreaterEqual(len(names), 10)
        for name in names:
            self.assertTrue(hasattr(ngx_wsgi, name), name)
            self.assertIn(name, dir(ngx_wsgi))

    def test_version_is_that_of_the_module(self):
        with open(REPOSITORY / "Cargo.toml", "rb") as file:
            self.assertEqual(ngx_wsgi.version, tomllib.load(file)["package"]["version"])

    def test_values_say_that_no_nginx_runs(self):
        self.assertIsNone(ngx_wsgi.nginx_version)
        self.assertIs(ngx_wsgi.checking, False)
        self.assertEqual(ngx_wsgi.worker_number, 0)
        self.assertEqual(ngx_wsgi.interpreter, "main")
        self.assertEqual(ngx_wsgi.build_python_version, "%d.%d" % sys.version_info[:2])

    def test_process_is_the_current_one_after_a_fork(self):
        code = "import os, ngx_wsgi; ngx_wsgi.worker_pid; os.fork() or print(ngx_wsgi.worker_pid == os.getpid())"
        self.assertEqual(run(code), ("True\n", ""))

    def test_shutdown_functions_run_once_at_exit_the_last_first(self):
        code = """
import ngx_wsgi

@ngx_wsgi.on_shutdown
def first():
    print("first")

ngx_wsgi.on_shutdown(lambda: print("second"))
print(callable(first))
"""
        self.assertEqual(run(code), ("True\nsecond\nfirst\n", ""))

    def test_shutdown_function_must_be_callable(self):
        with self.assertRaisesRegex(TypeError, "needs a callable"):
            ngx_wsgi.on_shutdown(None)

    def test_status_says_that_no_nginx_runs(self):
        with self.assertRaisesRegex(RuntimeError, "needs a worker of nginx"):
            ngx_wsgi.status()

    def test_timeout_is_not_caught_as_an_ordinary_exception(self):
        self.assertTrue(issubclass(ngx_wsgi.RequestTimeout, BaseException))
        self.assertFalse(issubclass(ngx_wsgi.RequestTimeout, Exception))

    def test_log_handler_writes_to_standard_error(self):
        self.assertIs(ngx_wsgi.LogHandler, ngx_wsgi.LogHandler)
        self.assertEqual(ngx_wsgi.LogHandler(logging.ERROR).level, logging.ERROR)
        code = """
import logging, ngx_wsgi
logging.basicConfig(handlers=[ngx_wsgi.LogHandler()], format="%(levelname)s %(message)s")
logging.warning("seen")
"""
        self.assertEqual(run(code), ("", "WARNING seen\n"))

    def test_import_needs_no_other_module(self):
        code = "import sys; before = set(sys.modules); import ngx_wsgi; print(set(sys.modules) - before - {'atexit'})"
        self.assertEqual(run(code), ("{'ngx_wsgi'}\n", ""))

    def test_unknown_name_is_an_attribute_error(self):
        with self.assertRaisesRegex(AttributeError, "has no attribute 'reload'"):
            ngx_wsgi.reload


if __name__ == "__main__":
    unittest.main()
