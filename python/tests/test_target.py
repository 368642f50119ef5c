"""The application that is named on the command line."""

import os
import tempfile
import unittest

from ngx_wsgi.problem import Problem
from ngx_wsgi.target import Target, parse


class Parse(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def parse(self, text):
        return parse(text, self.directory)

    def script(self, name):
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="ascii"):
            pass
        return path

    def test_modules(self):
        self.assertEqual(self.parse("mysite.wsgi"), Target("mysite.wsgi"))
        self.assertEqual(self.parse("mysite.wsgi:app.handler"), Target("mysite.wsgi", "app.handler"))
        self.assertEqual(self.parse("shop:create_app()"), Target("shop", "create_app()"))
        self.assertEqual(self.parse("café:straße"), Target("café", "straße"))
        self.assertEqual(self.parse("shop").with_callable(), "shop:application")

    def test_scripts(self):
        path = self.script("app.py")
        self.assertEqual(self.parse("app.py"), Target(path))
        self.assertEqual(self.parse("./app.py:app"), Target(path, "app"))
        self.assertEqual(self.parse(f"{path}:create()"), Target(path, "create()"))
        path = self.script("a b:c;d.py")
        self.assertEqual(self.parse("./a b:c;d.py:app"), Target(path, "app"))

    def test_a_name_with_wsgi_is_a_module_unless_there_is_a_file(self):
        self.assertEqual(self.parse("mysite.wsgi"), Target("mysite.wsgi"))
        path = self.script("mysite.wsgi")
        self.assertEqual(self.parse("mysite.wsgi"), Target(path))

    def test_what_is_wrong_is_said(self):
        for text, sentence in {
            "none.py": "there is no file",
            "a-b": "neither the name of a module",
            "a b": "neither the name of a module",
            "shop:create(1)": "gets no arguments",
            "shop:1": "not the name of a callable",
            "shop:": "not the name of a callable",
            'shop";': "neither the name of a module",
        }.items():
            with self.assertRaisesRegex(Problem, sentence):
                self.parse(text)
