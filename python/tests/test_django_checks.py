"""The settings that runnginx refuses. Django itself is not needed."""

import os
import tempfile
import unittest
from types import SimpleNamespace

from ngx_wsgi.addresses import Address
from ngx_wsgi.django import checks
from ngx_wsgi.problem import Problem

LOOPBACK, PUBLIC = Address("127.0.0.1", 8000), Address("0.0.0.0", 8000)


class Checks(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = directory.name
        with open(os.path.join(self.root, "site.css"), "w", encoding="ascii"):
            pass

    def settings(self, **changes):
        right = {
            "DEBUG": False,
            "ALLOWED_HOSTS": ["www.example.com"],
            "STATIC_URL": "/static/",
            "STATIC_ROOT": self.root,
            "WSGI_APPLICATION": "mysite.wsgi.application",
            "SECRET_KEY": "secret",
            "SECURE_SSL_REDIRECT": False,
        }
        return SimpleNamespace(**right | changes)

    def check(self, address=PUBLIC, has_static_files=True, **changes):
        checks.assert_servable(self.settings(**changes), SimpleNamespace(bind=[address]), has_static_files)

    def assert_refused(self, sentence, **keywords):
        with self.assertRaisesRegex(Problem, sentence):
            self.check(**keywords)

    def test_right_settings_are_accepted(self):
        self.check()

    def test_debug_is_for_this_machine_alone(self):
        self.assert_refused("Set DEBUG = False", DEBUG=True)
        self.check(LOOPBACK, DEBUG=True, ALLOWED_HOSTS=[], STATIC_ROOT=None)
        self.check(Address("/run/app.sock"), DEBUG=True)

    def test_allowed_hosts_are_needed(self):
        self.assert_refused("ALLOWED_HOSTS is empty", ALLOWED_HOSTS=[])

    def test_static_files_are_collected(self):
        self.assert_refused("STATIC_ROOT is not set", STATIC_ROOT=None)
        self.assert_refused("STATIC_URL is not set", STATIC_URL=None)
        self.assert_refused("collectstatic", STATIC_ROOT=os.path.join(self.root, "none"))
        empty = os.path.join(self.root, "empty")
        os.mkdir(empty)
        self.assert_refused("is empty. Run `manage.py collectstatic`", STATIC_ROOT=empty)
        self.check(STATIC_ROOT=None, has_static_files=False)
        self.check(STATIC_ROOT=None, STATIC_URL="https://static.example.com/")

    def test_the_directory_for_nginx(self):
        self.assertEqual(checks.static_directory(self.settings()), f"/static/={self.root}")
        self.assertIsNone(checks.static_directory(self.settings(STATIC_URL="https://static.example.com/")))
        self.assertIsNone(checks.static_directory(self.settings(STATIC_ROOT=None)))
        with self.assertRaisesRegex(Problem, "takes the whole site"):
            checks.static_directory(self.settings(STATIC_URL="/"))
        with self.assertRaisesRegex(Problem, '"="'):
            checks.static_directory(self.settings(STATIC_URL="/a=b/"))

    def test_the_application(self):
        self.assertEqual(checks.target(self.settings()), "mysite.wsgi:application")
        for name in (None, "application"):
            with self.assertRaisesRegex(Problem, "WSGI_APPLICATION"):
                checks.target(self.settings(WSGI_APPLICATION=name))

    def warnings(self, certfile=None, **changes):
        return " ".join(checks.warnings(self.settings(**changes), SimpleNamespace(certfile=certfile)))

    def test_what_may_be_right_is_only_said(self):
        self.assertEqual(self.warnings(), "")
        self.assertIn("SECRET_KEY", self.warnings(SECRET_KEY="django-insecure-x"))
        self.assertIn("SECURE_SSL_REDIRECT", self.warnings(SECURE_SSL_REDIRECT=True))
        self.assertEqual(self.warnings(certfile="x", SECURE_SSL_REDIRECT=True), "")
        self.assertIn("static files are not served", self.warnings(DEBUG=True, STATIC_ROOT=None))
