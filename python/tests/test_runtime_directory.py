"""The directory of a running server."""

import os
import stat
import tempfile
import unittest
from unittest import mock

from ngx_wsgi import runtime_directory
from ngx_wsgi.addresses import Address
from ngx_wsgi.problem import Problem


class Directory(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        patch = mock.patch("tempfile.gettempdir", return_value=directory.name)
        patch.start()
        self.addCleanup(patch.stop)

    def path(self, *addresses):
        return runtime_directory.path_of(addresses or (Address("127.0.0.1", 8000),))

    def mode(self, path):
        return stat.S_IMODE(os.stat(path).st_mode)

    def test_the_same_server_has_the_same_directory_and_another_one_has_another(self):
        one, other = Address("127.0.0.1", 8000), Address("127.0.0.1", 8001)
        self.assertEqual(self.path(one, other), self.path(one, other))
        self.assertNotEqual(self.path(one), self.path(other))
        self.assertNotEqual(self.path(one), self.path(one, other))
        # A path must not lead out of the directory.
        self.assertEqual(os.path.dirname(self.path(Address("../../a"))), runtime_directory.parent())

    def test_other_users_cannot_look_into_it(self):
        path = self.path()
        runtime_directory.create(path, is_shared=False)
        self.assertEqual((self.mode(path), self.mode(os.path.dirname(path))), (0o700, 0o700))
        runtime_directory.create(path, is_shared=True)
        self.assertEqual((self.mode(path), self.mode(os.path.dirname(path))), (0o711, 0o711))

    def test_a_directory_that_another_user_prepared_is_not_trusted(self):
        parent = runtime_directory.parent()
        os.mkdir(parent)
        os.chmod(parent, 0o777)
        with self.assertRaisesRegex(Problem, "not trusted"):
            runtime_directory.create(self.path(), is_shared=False)
        os.rmdir(parent)
        os.symlink("/tmp", parent)
        with self.assertRaisesRegex(Problem, "not trusted"):
            runtime_directory.create(self.path(), is_shared=False)
        os.unlink(parent)
        os.mkdir(parent, 0o700)
        with mock.patch("os.geteuid", return_value=os.geteuid() + 1), self.assertRaisesRegex(Problem, "not trusted"):
            runtime_directory.assert_own(parent)

    def test_a_check_leaves_nothing(self):
        with runtime_directory.temporary(is_shared=False) as path:
            self.assertNotEqual(path, self.path())
            runtime_directory.write(path, "nginx.conf", "")
        self.assertEqual(os.listdir(runtime_directory.parent()), [])

    def test_one_server_starts_at_a_time(self):
        path = self.path()
        runtime_directory.create(path, is_shared=False)
        with (
            runtime_directory.locked(path),
            self.assertRaisesRegex(Problem, "running or about to start"),
            runtime_directory.locked(path),
        ):
            pass
        with runtime_directory.locked(path):
            pass

    def test_files_are_replaced_and_are_readable_for_the_user_alone(self):
        path = self.path()
        runtime_directory.create(path, is_shared=True)
        for text in ("one", "two \udcff"):
            runtime_directory.write(path, "nginx.conf", text)
        file = os.path.join(path, "nginx.conf")
        self.assertEqual(self.mode(file), 0o600)
        with open(file, "rb") as written:
            self.assertEqual(written.read(), b"two \xff")
        self.assertEqual(os.listdir(path), ["nginx.conf"])
