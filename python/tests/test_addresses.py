"""Addresses: the forms that gunicorn reads, and whether an address is free."""

import os
import socket
import tempfile
import unittest
from unittest import mock

from ngx_wsgi.addresses import Address, assert_free, has_both_versions, parse, parse_networks
from ngx_wsgi.problem import Problem


class Parse(unittest.TestCase):
    def test_forms_of_gunicorn(self):
        for text, address in {
            "127.0.0.1:9000": Address("127.0.0.1", 9000),
            "127.0.0.1": Address("127.0.0.1", 8000),
            ":9000": Address("0.0.0.0", 9000),
            "tcp://127.0.0.1:9000": Address("127.0.0.1", 9000),
            "[::1]:9000": Address("::1", 9000),
            "[::1]": Address("::1", 8000),
            "unix:/run/app.sock": Address("/run/app.sock"),
            "unix:///run/app.sock": Address("/run/app.sock"),
            "unix:app.sock": Address("app.sock"),
        }.items():
            self.assertEqual(parse(text), address, text)

    def test_other_forms_are_refused_with_a_remedy(self):
        for text, sentence in {
            "8000": "write :8000",
            "fd://3": "name the address here",
            "unix:": "write unix:PATH",
            "127.0.0.1:0": "from 1 to 65535",
            "127.0.0.1:65536": "from 1 to 65535",
            "127.0.0.1:http": "from 1 to 65535",
            "[::g]:80": "'[::g]:80'",
            'a";b:80': "neither HOST:PORT nor unix:PATH",
            "a b": "neither HOST:PORT nor unix:PATH",
        }.items():
            with self.assertRaises(ValueError) as raised:
                parse(text)
            self.assertIn(sentence, str(raised.exception))

    def test_networks(self):
        self.assertEqual(parse_networks("127.0.0.1, 10.0.0.0/8,::1"), ["127.0.0.1", "10.0.0.0/8", "::1"])
        self.assertEqual(parse_networks("127.0.0.1,*"), ["*"])
        self.assertEqual(parse_networks(""), [])
        with self.assertRaises(ValueError):
            parse_networks("proxy.example.com")

    def test_texts_for_nginx_and_for_people(self):
        self.assertEqual(Address("::1", 80).listen(), "[::1]:80")
        self.assertEqual(Address("localhost", 80).listen(), "127.0.0.1:80")
        self.assertEqual(Address("/run/a").listen(), "unix:/run/a")
        self.assertEqual(Address("127.0.0.1", 80).url("https"), "https://127.0.0.1:80")

    def test_all_addresses_of_ipv6_have_ipv4_too_unless_another_address_has_it(self):
        every = Address("::", 80)
        others = [Address("/run/a"), Address("::1", 80), Address("0.0.0.0", 81)]
        self.assertTrue(has_both_versions(every, [every, *others]))
        self.assertFalse(has_both_versions(every, [every, Address("0.0.0.0", 80)]))
        for address in (Address("::1", 80), Address("0.0.0.0", 80), Address("/run/a")):
            self.assertFalse(has_both_versions(address, [address]))

    def test_only_loopback_addresses_are_for_this_machine_alone(self):
        for address, expected in {
            Address("127.0.0.1", 80): True,
            Address("localhost", 80): True,
            Address("::1", 80): True,
            Address("/run/a"): True,
            Address("0.0.0.0", 80): False,
            Address("::", 80): False,
        }.items():
            self.assertEqual(address.is_loopback(), expected, address)


class Free(unittest.TestCase):
    def test_a_port_in_use_is_one_sentence(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = Address("127.0.0.1", server.getsockname()[1])
            with self.assertRaisesRegex(Problem, rf"cannot listen on {address}: another program .* --bind 127.0.0.1:"):
                assert_free(address)
        assert_free(address)

    def test_no_client_is_accepted_meanwhile(self):
        with socket.socket() as tried:
            tried.bind(("127.0.0.1", 0))
            port = tried.getsockname()[1]
        with mock.patch("socket.socket.listen", side_effect=AssertionError("a client could connect")):
            assert_free(Address("127.0.0.1", port))

    def test_a_foreign_address_is_named(self):
        with self.assertRaisesRegex(Problem, "this machine has no such address"):
            assert_free(Address("192.0.2.1", 8000))

    def test_a_socket_that_was_left_behind_is_removed_and_one_in_use_is_not(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "app.sock")
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path)
                server.listen()
                with self.assertRaisesRegex(Problem, "another program does already"):
                    assert_free(Address(path))
            self.assertTrue(os.path.exists(path))
            assert_free(Address(path))
            self.assertFalse(os.path.exists(path))

    def test_a_file_is_not_removed(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "data")
            with open(path, "w", encoding="ascii") as file:
                file.write("kept")
            with self.assertRaisesRegex(Problem, "is not a socket"):
                assert_free(Address(path))
            self.assertTrue(os.path.exists(path))
            with self.assertRaisesRegex(Problem, "is not a directory"):
                assert_free(Address(os.path.join(directory, "none", "app.sock")))

    def test_the_path_of_a_socket_has_a_limit(self):
        with self.assertRaisesRegex(Problem, "107 bytes"):
            assert_free(Address("/tmp/" + "a" * 200))
