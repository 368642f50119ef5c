"""Options: where they come from, and which exclude each other."""

import os
import tempfile
import unittest
from unittest import mock

from ngx_wsgi import cli, options
from ngx_wsgi.addresses import Address
from ngx_wsgi.problem import Problem

VARIABLES = ("PORT", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "GUNICORN_CMD_ARGS")


class Case(unittest.TestCase):
    """A test in an empty directory, without variables that set options."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = os.path.realpath(directory.name)
        origin = os.getcwd()
        self.addCleanup(os.chdir, origin)
        os.chdir(self.directory)
        patch = mock.patch.dict(os.environ)
        patch.start()
        self.addCleanup(patch.stop)
        for name in VARIABLES:
            os.environ.pop(name, None)

    def write(self, name, text=""):
        path = os.path.join(self.directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def resolve(self, *arguments):
        return options.resolve(*cli.parse("run", arguments))

    def assert_refused(self, sentence, *arguments):
        with self.assertRaises(Problem) as raised:
            self.resolve(*arguments)
        self.assertIn(sentence, str(raised.exception))


class Defaults(Case):
    def test_defaults(self):
        resolved = self.resolve("app")
        self.assertEqual(resolved.bind, [Address("127.0.0.1", 8000)])
        self.assertEqual((resolved.timeout, resolved.graceful_timeout, resolved.keepalive), (30, 30, 75))
        self.assertEqual(resolved.forwarded_allow_ips, ["127.0.0.1", "::1"])
        self.assertEqual((resolved.accesslog, resolved.errorlog, resolved.spool_uploads), (None, "-", "10m"))
        self.assertEqual(resolved.chdir, self.directory)
        self.assertEqual(resolved.lines, [])

    def test_variables_of_the_environment(self):
        os.environ |= {"PORT": "9000", "WEB_CONCURRENCY": "7", "FORWARDED_ALLOW_IPS": "*"}
        resolved = self.resolve("app")
        self.assertEqual(resolved.bind, [Address("0.0.0.0", 9000)])
        self.assertEqual(resolved.workers, 7)
        self.assertEqual(resolved.forwarded_allow_ips, ["*"])
        self.assertEqual(self.resolve("app", "--workers", "2").workers, 2)

    def test_a_bad_variable_is_named(self):
        for name in ("PORT", "WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS"):
            with mock.patch.dict(os.environ, {name: "x y"}):
                self.assert_refused(f"the environment variable {name}: ", "app")
        with mock.patch.dict(os.environ, {"GUNICORN_CMD_ARGS": "--bind '"}):
            self.assert_refused("the environment variable GUNICORN_CMD_ARGS: No closing quotation; quote it", "app")


class CurrentDirectory(Case):
    def test_it_has_the_name_that_the_shell_has_for_it(self):
        link = os.path.join(self.directory, "current")
        os.symlink(".", link)
        for named, expected in {link: link, "/": self.directory, "/none": self.directory, "": self.directory}.items():
            os.environ["PWD"] = named
            self.assertEqual(self.resolve("app").chdir, expected)

    def test_one_that_has_been_removed_is_a_sentence(self):
        removed = tempfile.mkdtemp()
        os.chdir(removed)
        os.rmdir(removed)
        for os.environ["PWD"] in (removed, self.directory):
            self.assert_refused("the current directory has been removed", "app")


class Sources(Case):
    def test_the_command_line_wins_over_the_variable_and_that_over_the_file(self):
        self.write("gunicorn.conf.py", "workers = 2\nthreads = 2\ntimeout = 2\nbind = '127.0.0.1:9002'\n")
        os.environ["GUNICORN_CMD_ARGS"] = "--workers 3 --threads=3 --bind 127.0.0.1:9003"
        resolved = self.resolve("app", "--workers", "4")
        self.assertEqual((resolved.workers, resolved.threads, resolved.timeout), (4, 3, 2))
        self.assertEqual(resolved.bind, [Address("127.0.0.1", 9003)])

    def test_a_file_of_another_name(self):
        self.write("gunicorn.conf.py", "workers = 2\n")
        self.write(
            "conf/other.py", "import os\nworkers = 1 + 2\nwsgi_app = 'shop:app'\nchdir = os.path.dirname(__file__)\n"
        )
        resolved = self.resolve("-c", "conf/other.py")
        self.assertEqual((resolved.workers, str(resolved.target)), (3, "shop:app"))
        self.assertEqual(resolved.chdir, os.path.join(self.directory, "conf"))
        self.assertEqual(self.resolve("-c", "file:conf/other.py", "blog").target.code, "blog")

    def test_values_of_the_file_have_python_types(self):
        self.write(
            "gunicorn.conf.py",
            "bind = ['127.0.0.1:1', 'unix:a']\nreload = True\nraw_env = ['A=1']\numask = 0o27\nkeepalive = 5\n"
            "sendfile = False\npidfile = None\nloglevel = 'WARNING'\naccesslog = '-'\nunknown = object()\n",
        )
        resolved = self.resolve("app")
        self.assertEqual(resolved.bind, [Address("127.0.0.1", 1), Address(os.path.join(self.directory, "a"))])
        self.assertEqual((resolved.reload, resolved.raw_env, resolved.umask), (True, ["A=1"], 0o27))
        self.assertEqual((resolved.sendfile, resolved.pidfile, resolved.loglevel), (False, None, "warn"))

    def test_several_addresses_in_one_text(self):
        self.write("gunicorn.conf.py", "bind = '127.0.0.1:1,127.0.0.1:2'\n")
        self.assertEqual(len(self.resolve("app").bind), 2)

    def test_errors_of_the_file_have_its_name_and_line(self):
        path = self.write("gunicorn.conf.py", "\nworkers = (\n")
        self.assert_refused(f"{path}:2: ", "app")
        self.write("gunicorn.conf.py", "\n\n1 / 0\n")
        self.assert_refused(f"{path}:3: ZeroDivisionError: division by zero", "app")
        self.write("gunicorn.conf.py", "workers = 'many'\n")
        self.assert_refused("gunicorn.conf.py: workers = 'many': 'many' is not a number from 1 to 1024", "app")
        self.assert_refused("none.py: No such file", "-c", "none.py", "app")
        self.assert_refused("name a file", "-c", "python:settings", "app")

    def test_the_file_may_import_modules_beside_the_application(self):
        self.write("runner_test_sizes.py", "WORKERS = 5\n")
        self.write("gunicorn.conf.py", "from runner_test_sizes import WORKERS as workers\n")
        self.assertEqual(self.resolve("app").workers, 5)


class Refusals(Case):
    def test_bad_values_name_the_option(self):
        for arguments, sentence in {
            ("--workers", "0"): "argument -w/--workers: '0' is not a number from 1 to 1024",
            ("--threads", "on"): "'on' is not a number",
            ("--timeout", "1.5"): "--timeout: '1.5' is not a number",
            ("--umask", "999"): "is not a umask such as 022",
            ("--log-level", "loud"): "is not one of debug, info",
            ("--spool-uploads", "10 MB"): "is not a size such as 512k",
            ("--env", "NAME"): "is not NAME=VALUE",
            ("--static", "/static/"): "is not /URL/=DIRECTORY",
            ("--static", "/=/srv"): "/ belongs to the application",
            ("--bind", "8000"): "write :8000",
            ("--forwarded-allow-ips", "proxy"): "neither an address",
            ("--unknown",): "unrecognized arguments: --unknown (`ngx-wsgi --help` lists the options)",
            ("--work", "2"): "unrecognized arguments",
        }.items():
            self.assert_refused(sentence, "app", *arguments)

    def test_what_is_not_there(self):
        for flag in ("--certfile", "--include"):
            self.assert_refused(f"{flag} {self.directory}/none: there is no such file", "app", flag, "none")
        self.assert_refused("this is not a directory", "app", "--static", "/static/=none")
        self.assert_refused("this is not a directory", "app", "--chdir", "none")
        for flag in ("--access-logfile", "--error-logfile", "--pid"):
            self.assert_refused("/none is not a directory; create it first", "app", flag, "none/file")
        self.assert_refused("there is no application to serve")

    def test_options_that_need_another(self):
        file = self.write("file")
        for arguments, sentence in {
            ("--keyfile", file): "--keyfile needs --certfile",
            ("--http2",): "--http2 needs --certfile",
            ("--certfile", file, "--cert-reqs", "2"): "--cert-reqs needs --ca-certs",
            ("--subinterpreters", "--threads", "off"): "--subinterpreters needs threads",
            ("--daemon",): "--daemon needs --error-logfile FILE",
            ("--daemon", "--error-logfile", "log", "--access-logfile", "-"): "--daemon needs --access-logfile FILE",
            ("--static", "/a=.", "--static", "/a/=."): "two directories for one path",
        }.items():
            self.assert_refused(sentence, "app", *arguments)

    def test_user_and_group_are_for_root(self):
        with mock.patch("os.geteuid", return_value=12345):
            self.assert_refused("--user and --group need root", "app", "--user", "root")
            # It has no entry, as the user of a container.
            self.assert_refused("--user and --group need root", "app", "--group", "daemon")
        self.assert_refused(
            "--user nobody-of-that-name: this system has none of that name", "app", "--user", "nobody-of-that-name"
        )

    def test_root_may_choose_by_name_or_number(self):
        with mock.patch("os.geteuid", return_value=0):
            self.assertEqual(self.resolve("app", "--user", "1", "--group", "root").user, "daemon")
            self.assertEqual(self.resolve("app", "--user", "daemon").group, "daemon")
            self.assertEqual(self.resolve("app").user, "root")


class Values(Case):
    def test_the_last_value_of_a_variable_counts(self):
        self.assertEqual(self.resolve("app", "--env", "A=1", "--env", "B=1", "--env", "A=2").raw_env, ["A=2", "B=1"])

    def test_relative_paths_are_below_chdir(self):
        for name in ("site/key.pem", "site/extra.conf", "site/files/a"):
            self.write(name)
        below = os.path.join(self.directory, "site")
        resolved = self.resolve(
            "app", "--chdir", "site", "--certfile", "key.pem", "--include", "extra.conf", "--static", "/f=files",
            "--error-logfile", "e.log", "--pid", "a.pid", "--bind", "unix:a.sock", "--reload-extra-file", "files",
        )  # fmt: skip
        self.assertEqual(resolved.certfile, f"{below}/key.pem")
        self.assertEqual(resolved.include, [f"{below}/extra.conf"])
        self.assertEqual(resolved.static, [("/f/", f"{below}/files")])
        self.assertEqual((resolved.errorlog, resolved.pidfile), (f"{below}/e.log", f"{below}/a.pid"))
        self.assertEqual(resolved.bind, [Address(f"{below}/a.sock")])
        self.assertEqual(resolved.reload_extra_files, [f"{below}/files"])

    def test_umasks_are_read_as_gunicorn_does(self):
        for text, value in {"022": 0o22, "0o27": 0o27, "18": 18, "0": 0, "0x12": 18}.items():
            self.assertEqual(self.resolve("app", "--umask", text).umask, value)

    def test_an_address_counts_once(self):
        self.assertEqual(len(self.resolve("app", "-b", ":9000", "-b", "0.0.0.0:9000").bind), 1)
