"""Addresses to listen on, and networks of proxies: reads them, and tries whether an address is free."""

import errno
import ipaddress
import os
import re
import socket
import stat
from dataclasses import dataclass

from .problem import Problem

DEFAULT_PORT = 8000


@dataclass(frozen=True)
class Address:
    """A TCP address or a unix socket."""

    # A path, if the port is None.
    host: str
    port: int | None = None

    def __str__(self):
        return f"unix:{self.host}" if self.port is None else f"{self.bracketed}:{self.port}"

    @property
    def bracketed(self):
        return f"[{self.host}]" if ":" in self.host else self.host

    def url(self, scheme):
        return str(self) if self.port is None else f"{scheme}://{self}"

    def below(self, directory):
        """Returns it with the path of a unix socket made absolute."""
        return self if self.port is not None else Address(os.path.normpath(os.path.join(directory, self.host)))

    def is_loopback(self):
        """Returns whether only this machine can connect."""
        return self.port is None or ipaddress.ip_address(self.numeric()).is_loopback

    def numeric(self):
        """Returns the host as a number; nginx would listen on each address of a name, of which some may not exist."""
        try:
            return str(ipaddress.ip_address(self.host))
        except ValueError:
            pass
        try:
            return socket.gethostbyname(self.host)
        except (OSError, UnicodeError) as error:
            raise Problem(f"--bind {self}: the name {self.host!r} is unknown ({error}); give an address.") from None

    def listen(self):
        """Returns the address for nginx's `listen`."""
        if self.port is None:
            return f"unix:{self.host}"
        return str(Address(self.numeric(), self.port))


def parse(text):
    """Reads an address in gunicorn's form. Raises ValueError."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        # As in unix:///run/app.sock.
        path = f"/{path.lstrip('/')}" if path.startswith("//") else path
        if not path:
            raise ValueError(f"{text!r} has no path: write unix:PATH")
        return Address(path)
    if text.startswith("fd://"):
        raise ValueError(
            f"{text!r}: sockets of systemd are not supported; name the address here, and remove the .socket unit"
        )
    rest = text.removeprefix("tcp://")
    if found := re.fullmatch(r"\[([^\]]*)\](?::(.*))?", rest):
        host, port = found[1], found[2]
    elif re.fullmatch(r"[0-9]+", rest):
        raise ValueError(f"{text!r} is no address: write :{text} for this port of all addresses")
    else:
        host, _, port = rest.partition(":")
    if port and not (re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise ValueError(f"{text!r}: the port is not a number from 1 to 65535")
    host = host or "0.0.0.0"
    if not re.fullmatch(r"[0-9A-Za-z.:_-]+", host):
        raise ValueError(f"{text!r} is neither HOST:PORT nor unix:PATH")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from None
    return Address(host, int(port or DEFAULT_PORT))


def parse_networks(text):
    """Reads a list of addresses and networks, or `*` for all. Raises ValueError."""
    elements = [element.strip() for element in text.split(",") if element.strip()]
    if "*" in elements:
        return ["*"]
    for element in elements:
        try:
            ipaddress.ip_network(element, strict=False)
        except ValueError:
            raise ValueError(f"{element!r} is neither an address, a network such as 10.0.0.0/8, nor *") from None
    return elements


def has_both_versions(address, addresses):
    """Returns whether `[::]` is for IPv4 too, as the system has it by default and gunicorn leaves it: not if another of
    the addresses has the port for IPv4.
    """
    if address.port is None or address.numeric() != "::":
        return False
    return all(":" in other.numeric() for other in addresses if other.port == address.port)


def assert_free(address, both_versions=False):
    """Raises Problem if nginx could not listen on the address. Removes a socket that no process listens on."""
    if address.port is None:
        assert_path_is_free(address.host)
        return
    numeric = address.numeric()
    family = socket.AF_INET6 if ":" in numeric else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                tried.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both_versions)
            # Without listen(): a client that connects now would be accepted, and lost.
            tried.bind((numeric, address.port))
    except OSError as error:
        raise Problem(f"cannot listen on {address}: {remedy(error, address)}") from None


def remedy(error, address):
    if error.errno == errno.EADDRINUSE:
        other = f"{address.bracketed}:{address.port + 1 if address.port < 65535 else DEFAULT_PORT}"
        return f"another program does already; stop it, or choose another port, as in --bind {other}."
    if error.errno == errno.EACCES:
        return "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE; choose a higher one."
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; 0.0.0.0 stands for all of them."
    return f"{error.strerror}; choose another address with --bind."


def assert_path_is_free(path):
    # The size of sun_path, with the zero byte at its end.
    if len(os.fsencode(path)) > 107:
        raise Problem(f"--bind unix:{path}: the path of a socket may have 107 bytes; choose a shorter one.")
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise Problem(f"--bind unix:{path}: {directory} is not a directory; create it first.")
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        if not os.access(directory, os.W_OK | os.X_OK):
            raise Problem(f"--bind unix:{path}: {directory} is not writable for this user; choose another.") from None
        return
    if not stat.S_ISSOCK(mode):
        raise Problem(f"--bind unix:{path}: this file is not a socket; choose another path.")
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as tried:
            tried.connect(path)
    except ConnectionRefusedError:
        # A server that was killed has left it.
        remove_left(path)
    except OSError as error:
        raise Problem(f"cannot listen on unix:{path}: {error.strerror}; choose another path.") from None
    else:
        raise Problem(f"cannot listen on unix:{path}: another program does already; stop it, or choose another path.")


def remove_left(path):
    try:
        os.unlink(path)
    except OSError as error:
        raise Problem(
            f"unix:{path} was left by a server that has ended, and cannot be removed ({error.strerror}); remove it."
        ) from None
