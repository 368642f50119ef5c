"""The state of a running server: whose process it is."""

import os
import subprocess
import sys
import unittest

from ngx_wsgi.state import State, keep, server_of

STATE = State("app", ["127.0.0.1:8000"], ["/bin/true"], {}, 0o22, 1, 30)

# A process with the title and the file of a server, of this user or of another one.
PROCESS = """
import os, sys
if sys.argv[1:]:
    os.setresuid(*map(int, sys.argv[1:]))
print("ready", flush=True)
sys.stdin.read()
"""


class Owner(unittest.TestCase):
    def found(self, *users):
        descriptor = keep(STATE)
        self.addCleanup(os.close, descriptor)
        arguments = ["nginx: master process", "-c", PROCESS, *users]
        process = subprocess.Popen(
            arguments,
            executable=sys.executable,
            pass_fds=[descriptor],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with process:
            process.stdout.readline()
            server = server_of(process.pid, os.geteuid())
            process.stdin.close()
        return server

    def test_a_server_of_this_user_is_found(self):
        server = self.found()
        self.assertEqual((server.owner, server.state), (os.geteuid(), STATE))

    @unittest.skipUnless(os.geteuid() == 0, "only root can start a process of another user")
    def test_a_process_of_another_user_is_not_taken_for_one_of_root(self):
        self.assertIsNone(self.found("65534", "65534", "65534"))
        # As a program such as su, for which its caller chooses the title and the open files.
        self.assertIsNone(self.found("65534", "0", "0"))
