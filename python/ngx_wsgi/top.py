#!/usr/bin/python3
"""Shows the WSGI applications, workers and calls of an nginx in a terminal, as top shows processes.

It reads the JSON of a location with `wsgi_status`. This is a single file that needs only the standard library of Python
3.9 or later, so that it also runs without the rest of the package.
"""

import argparse
import base64
import collections
import contextlib
import getpass
import http.client
import json
import locale
import math
import os
import queue
import signal
import socket
import ssl
import sys
import textwrap
import threading
import time
import unicodedata
import urllib.parse

try:
    import curses
except ImportError:
    # A Python that was built without it. The tables as text do without.
    curses = None

VERSION = "0.2.0"

#: The version of the report's schema that this program reads.
SCHEMA = 1

DEFAULT_URL = "http://127.0.0.1/status"

#: Seconds to wait for a reply.
TIMEOUT = 10

#: Bytes of a reply at most.
MAX_REPLY = 64 * 1024 * 1024


class Problem(Exception):
    """A reason for the user why something is not shown, with the remedy."""


# ---- the status page -------------------------------------------------------------------------------------------------


class Address(collections.namedtuple("Address", "scheme host port socket path user password")):
    """Where the status page is. `socket` is the path of a Unix socket, or None."""

    def __str__(self):
        if self.socket:
            return f"unix:{self.socket}:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    def target(self, **parameters):
        """Returns the path with more parameters in its query."""
        separator = "&" if "?" in self.path else "?"
        return self.path + separator + urllib.parse.urlencode(parameters)


def parse_address(text):
    """Reads a URL, `HOST:PORT/PATH` or `unix:/SOCKET:/PATH`. Raises Problem."""
    rest = text[len("http://") :] if text.startswith("http://unix:") else text
    if rest.startswith("unix:"):
        path, _, target = rest[len("unix:") :].partition(":")
        if not path.startswith("/"):
            raise Problem(f"{text}: the path of a Unix socket is absolute, as in unix:/run/nginx.sock:/status.")
        return Address("http", "localhost", None, path, checked_path(target, text), None, None)
    try:
        parts = urllib.parse.urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise Problem(f"{text}: {error}.") from None
    if parts.scheme not in ("http", "https") or not host:
        raise Problem(f"{text}: give a URL of the status page, such as {DEFAULT_URL} or unix:/run/nginx.sock:/status.")
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    user, password = (None if part is None else urllib.parse.unquote(part) for part in (parts.username, parts.password))
    return Address(parts.scheme, host, port, None, checked_path(path, text), user, password)


def checked_path(path, text):
    """Returns the path of a request. Raises Problem."""
    path = path or "/status"
    if not path.startswith("/"):
        path = f"/{path}"
    if not path.isascii() or not path.isprintable() or " " in path:
        raise Problem(f"{text}: encode spaces and characters beyond ASCII in the path, as in %20.")
    return path


class UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Client:
    """Asks the status page."""

    def __init__(self, address, cafile=None, insecure=False, timeout=TIMEOUT):
        self.address = address
        self.timeout = timeout
        self.context = None
        if address.scheme == "https":
            try:
                self.context = ssl.create_default_context(cafile=cafile)
            except OSError as error:
                raise Problem(f"--cafile {cafile}: {error.strerror or 'no certificates in PEM form'}.") from None
            if insecure:
                self.context.check_hostname = False
                self.context.verify_mode = ssl.CERT_NONE

    def report(self):
        """Returns the report. Raises Problem."""
        return checked_report(self.ask(format="json"), self.address)

    def stack(self, call):
        """Returns the Python stack of a call, or None if it does not run (any more). Raises Problem."""
        reply = self.ask(stack=call)
        stack = reply.get("stack") if isinstance(reply, dict) else ""
        if stack is not None and (not isinstance(stack, str) or not stack):
            raise Problem(f"{self.address} has sent no stack: is it the status page?")
        return stack

    def ask(self, **parameters):
        """Returns the value of a JSON reply. Raises Problem."""
        try:
            status, reason, location, body = self.request(self.address.target(**parameters))
        except (OSError, http.client.HTTPException) as error:
            raise Problem(connection_problem(self.address, error)) from None
        if status != 200:
            raise Problem(status_problem(self.address, status, reason, location))
        if len(body) > MAX_REPLY:
            raise Problem(f"{self.address} has sent more than {MAX_REPLY >> 20} MB: is it the status page?")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise Problem(
                f"{self.address} has sent no JSON: is it the location with wsgi_status? A URL without a path means "
                "/status."
            ) from None

    def request(self, target):
        connection = self.connection()
        headers = {"Accept": "application/json", "User-Agent": f"ngx-wsgi-top/{VERSION}", "Connection": "close"}
        if self.address.user is not None:
            credentials = f"{self.address.user}:{self.address.password or ''}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(credentials).decode()}"
        with contextlib.closing(connection):
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
            return response.status, response.reason, response.getheader("Location"), response.read(MAX_REPLY + 1)

    def connection(self):
        address = self.address
        if address.socket:
            return UnixConnection(address.socket, self.timeout)
        if self.context:
            return http.client.HTTPSConnection(address.host, address.port, timeout=self.timeout, context=self.context)
        return http.client.HTTPConnection(address.host, address.port, timeout=self.timeout)


def connection_problem(address, error):
    """Returns a sentence about a connection that failed."""
    if isinstance(error, ConnectionRefusedError):
        return f"{address}: connection refused. Does nginx run, and listen there?"
    if isinstance(error, FileNotFoundError):
        return f"{address}: there is no such socket. Does nginx run, and listen there?"
    if isinstance(error, PermissionError):
        return f"{address}: this user may not connect to the socket; try as root or as nginx's user."
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"{address}: the certificate is not trusted ({error.verify_message}). --cafile FILE names a certificate "
            "to trust, --insecure trusts any."
        )
    if isinstance(error, ssl.SSLError):
        return f"{address}: no TLS ({error.reason or error}). Is it http instead of https?"
    if isinstance(error, socket.gaierror):
        return f"{address}: the name {address.host} is unknown ({error.strerror})."
    if isinstance(error, (TimeoutError, socket.timeout)):
        return f"{address}: no reply in time. Is it the right address, and is nginx too busy? --timeout waits longer."
    if isinstance(error, http.client.HTTPException):
        return f"{address}: this is no HTTP ({type(error).__name__}). Is it https instead of http?"
    return f"{address}: {error.strerror or error or type(error).__name__}."


def status_problem(address, status, reason, location):
    """Returns a sentence about a response that is no report."""
    if status == 401:
        if address.user is None:
            return f"{address} asks for a user and a password: give --user NAME."
        return f"{address} does not accept the user {printable(address.user)} with this password."
    if status == 403:
        return (
            f"{address} does not allow this client: without allow or auth_basic in its location, wsgi_status answers "
            "this machine only, and no proxy. Add `allow ADDRESS;` there, or run this program on that machine; nginx's "
            "error log has the reason."
        )
    if status == 404:
        return (
            f"{address}: there is no wsgi_status there. Add `location = /status {{ wsgi_status; }}` to the server of "
            "nginx, and `wsgi_status_zone status 1m;` to its http block, or give the URL of yours."
        )
    if status in (301, 302, 303, 307, 308) and location:
        return f"{address} redirects to {printable(location)}: give that URL, if it is the status page."
    return f"{address} answers {status} {printable(reason)}, no report: is it the location with wsgi_status?"


def checked_report(report, address):
    """Returns a report, if it is one that this program can read. Raises Problem."""
    lists = ("applications", "workers", "ended_workers", "process_groups", "calls", "events")
    if not isinstance(report, dict) or not isinstance(report.get("schema"), int):
        raise Problem(f"{address} has sent no report: is it the location with wsgi_status?")
    if report["schema"] != SCHEMA:
        raise Problem(
            f"{address} has sent a report of schema {report['schema']}, and this program reads schema {SCHEMA}: use "
            "the ngx-wsgi-top of the same version as the module."
        )
    for name in lists:
        if not isinstance(report.get(name), list) or not all(isinstance(entry, dict) for entry in report[name]):
            raise Problem(f"{address} has sent a report without {name}: is it the location with wsgi_status?")
    return report


# ---- figures ---------------------------------------------------------------------------------------------------------

#: What calls did within a time. A figure that is unknown is None.
#: `rate` and `bytes_*` are by second, `errors` is the share of 5xx, percentiles are `Quantile`s.
Figures = collections.namedtuple("Figures", "rate errors p50 p95 p99 bytes_received bytes_sent")
UNKNOWN = Figures(*[None] * 7)

#: A quantile of times. If it is above the last bound of the histogram, `seconds` is that bound.
Quantile = collections.namedtuple("Quantile", "seconds is_above")


def quantile(histogram, before, share):
    """Returns the time that this share of the calls between two histograms did not exceed, or None without a call.

    Interpolates linearly within a bucket, as Prometheus' histogram_quantile does.
    """
    earlier = {bucket["le"]: bucket["count"] for bucket in before["buckets"]} if before else {}
    count = histogram["count"] - (before["count"] if before else 0)
    if count <= 0:
        return None
    rank = share * count
    lower, below = 0.0, 0
    for bucket in histogram["buckets"]:
        reached = bucket["count"] - earlier.get(bucket["le"], 0)
        if reached >= rank and reached > below:
            return Quantile(lower + (bucket["le"] - lower) * (rank - below) / (reached - below), False)
        lower, below = bucket["le"], reached
    return Quantile(lower, True)


def sum_of(counters):
    """Returns the sum of the counters of several applications, as far as `figures` needs them."""
    times = [one["total_time"] for one in counters]
    buckets = collections.Counter()
    for histogram in times:
        for bucket in histogram["buckets"]:
            buckets[bucket["le"]] += bucket["count"]
    return {
        "calls": sum(one["calls"] for one in counters),
        "responses": {"5xx": sum(one["responses"]["5xx"] for one in counters)},
        "bytes_received": sum(one["bytes_received"] for one in counters),
        "bytes_sent": sum(one["bytes_sent"] for one in counters),
        "total_time": {
            "count": sum(histogram["count"] for histogram in times),
            "buckets": [{"le": bound, "count": buckets[bound]} for bound in sorted(buckets)],
        },
    }


def figures(now, before, seconds):
    """Returns the figures of the time between two counters, `before` being None at 0."""

    def difference(read):
        return read(now) - (read(before) if before else 0)

    calls = difference(lambda counters: counters["calls"])
    if seconds <= 0 or calls < 0:
        return UNKNOWN
    errors = difference(lambda counters: counters["responses"]["5xx"])
    histogram = before["total_time"] if before else None
    return Figures(
        calls / seconds,
        errors / calls if calls else 0.0,
        *(quantile(now["total_time"], histogram, share) for share in (0.5, 0.95, 0.99)),
        difference(lambda counters: counters["bytes_received"]) / seconds,
        difference(lambda counters: counters["bytes_sent"]) / seconds,
    )


def key_of(application):
    return application["process_group"] or "", application["name"]


class Sample:
    """A report, with the figures of the time since the report before it."""

    def __init__(self, report, before=None):
        self.report = report
        self.time = report["time"]
        # Counters that began anew are not compared.
        if before and (before["since"] != report["since"] or before["time"] >= report["time"]):
            before = None
        self.seconds = report["time"] - before["time"] if before else None
        self.total = self.figures_of(
            sum_of([application["counters"] for application in report["applications"]]),
            before and sum_of([application["counters"] for application in before["applications"]]),
        )
        earlier = {key_of(one): one["counters"] for one in before["applications"]} if before else {}
        self.applications = {
            key_of(one): self.figures_of(one["counters"], earlier.get(key_of(one))) for one in report["applications"]
        }
        workers = {worker["pid"]: worker for worker in before["workers"]} if before else {}
        self.worker_rates = {
            worker["pid"]: self.by_second(worker, workers.get(worker["pid"]), lambda one: one["calls"])
            for worker in report["workers"]
        }
        self.worker_cpu = {
            worker["pid"]: self.by_second(worker, workers.get(worker["pid"]), cpu_of) for worker in report["workers"]
        }

    def figures_of(self, now, before):
        return UNKNOWN if self.seconds is None else figures(now, before, self.seconds)

    def by_second(self, now, before, read):
        """Returns the growth of a worker's counter by second, or None."""
        if self.seconds is None or not before or read(now) is None or read(before) is None:
            return None
        return max(0.0, (read(now) - read(before)) / self.seconds)

    def threads(self):
        """Returns the total, busy and stuck threads of all workers."""
        known = [worker["details"]["threads"] for worker in self.report["workers"] if worker["details"]]
        return tuple(sum(threads[name] for threads in known) for name in ("total", "busy", "stuck"))

    def code_of(self, application):
        """Returns what the workers have loaded of an application: process IDs and LoadedApplications."""
        return [
            (worker["pid"], loaded)
            for worker in self.report["workers"]
            if worker["process_group"] == application["process_group"] and worker["details"]
            for loaded in worker["details"]["applications"]
            if loaded["name"] == application["name"]
        ]


def cpu_of(worker):
    return worker["details"] and worker["details"]["cpu"]


def new_sample(report, before=None):
    """Returns a sample of a report that may lack fields. Raises Problem."""
    try:
        sample = Sample(report, before)
        # All that is shown is made once here, so that it can be made later.
        for table in TABLES.values():
            for row in table.rows(sample):
                table.cells(row, "utf-8")
                if table in TEXTS:
                    TEXTS[table](row)
        headline(sample, "")
        return sample
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Problem(
            f"the report cannot be read ({type(error).__name__}: {error}); is it that of wsgi_status?"
        ) from None


# ---- text ------------------------------------------------------------------------------------------------------------


def printable(text, encoding="utf-8"):
    """Returns a text whose characters are all visible and known to the terminal: others are escaped as in Python."""
    text = str(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(lambda character: printable_character(character, encoding), unicodedata.normalize("NFC", text)))


def printable_character(character, encoding):
    # Controls, formats such as those of bidirectional text, surrogates, private and unassigned ones, line separators;
    # also the variation selectors, after which terminals disagree about the width.
    is_hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") or (
        "\ufe00" <= character <= "\ufe0f"
    )
    if not is_hidden:
        try:
            character.encode(encoding)
            return character
        except UnicodeError:
            pass
    return character.encode("unicode_escape").decode("ascii")


def width_of(text):
    """Returns the number of columns that a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(map(character_width, text))


def character_width(character):
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def fitted(text, width, is_right=False, keeps_end=False):
    """Returns a printable text of exactly this width: padded, or cut with a mark at its end or at its beginning."""
    missing = width - width_of(text)
    if missing >= 0:
        return " " * missing + text if is_right else text + " " * missing
    if width <= 0:
        return ""
    kept, taken = [], 0
    for character in reversed(text) if keeps_end else text:
        taken += character_width(character)
        if taken > width - 1:
            break
        kept.append(character)
    cut = "~" + "".join(reversed(kept)) if keeps_end else "".join(kept) + "~"
    return cut + " " * (width - width_of(cut))


def wrapped(text, width):
    """Returns the lines of a printable line that is longer than the screen is wide."""
    lines, line, taken = [], [], 0
    for character in text:
        if taken + character_width(character) > max(width, 2):
            lines.append("".join(line))
            line, taken = [], 0
        line.append(character)
        taken += character_width(character)
    return [*lines, "".join(line)]


def scaled(number, step, units):
    """Returns a number with three digits and a unit, in at most five columns."""
    unit = 0
    # What is rounded to 1000 has the next unit.
    while number >= 999.5 and unit < len(units) - 1:
        number /= step
        unit += 1
    digits = (
        0
        if number >= 99.95 or (unit == 0 and (number == 0 or isinstance(number, int)))
        else 1
        if number >= 9.995
        else 2
    )
    return f"{number:.{digits}f}{units[unit]}"


def shown_rate(number):
    return "-" if number is None else scaled(number, 1000, ["", "k", "M", "G"])


def shown_count(number):
    return str(number) if number < 1_000_000 else scaled(number, 1000, ["", "k", "M", "G", "T", "P", "E"])


def shown_size(number):
    return "-" if number is None else scaled(number, 1024, ["B", "K", "M", "G", "T", "P", "E"])


def shown_share(share):
    if share is None:
        return "-"
    return "0%" if share == 0 else f"{share * 100:.1f}%" if share < 0.0995 else f"{share * 100:.0f}%"


def shown_quantile(value):
    return "-" if value is None else (">" if value.is_above else "") + shown_time(value.seconds)


def shown_time(seconds):
    """Returns a duration in at most six columns."""
    if seconds is None:
        return "-"
    if math.isinf(seconds) or math.isnan(seconds):
        return "?"
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        return "0ms" if seconds == 0 else f"{seconds * 1000:.{1 if seconds < 0.00995 else 0}f}ms"
    if seconds < 99.95:
        return f"{seconds:.{2 if seconds < 9.995 else 1}f}s"
    for unit, part, size in (("m", "s", 60), ("h", "m", 3600), ("d", "h", 86400)):
        whole = int(seconds) // size
        if unit == "d" or whole < {"m": 60, "h": 24}[unit]:
            smaller = {"m": 1, "h": 60, "d": 3600}[unit]
            return f"{whole}{unit}{int(seconds) % size // smaller:02}{part}" if whole < 100 else f"{whole}{unit}"
    raise AssertionError


def shown_clock(seconds):
    try:
        return time.strftime("%H:%M:%S", time.localtime(seconds))
    except (OverflowError, OSError, ValueError):
        return "?"


def shown_date(seconds):
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, OSError, ValueError):
        return "?"


# ---- tables ----------------------------------------------------------------------------------------------------------

#: A column. `sort` gives a row's key, `show` its text. A narrow screen loses the columns of the highest `rank` first.
#: Wide columns share the rest of the screen. Of a long text a column keeps the beginning, or the end as with a path.
#: `bad` says whether a value is to be noticed.
Column = collections.namedtuple("Column", "name show sort rank is_right is_wide keeps_end is_descending bad")

#: Characters that a column gets in full, a wide one at least.
WIDE = 20

#: A row: what identifies it, and what its columns are made from.
Row = collections.namedtuple("Row", "id entry sample")

#: A part of a line with a style: "", "bold", "head", "sorted", "selected" or "bad".
Span = collections.namedtuple("Span", "text style")


def column(
    name, show, sort=None, rank=1, is_wide=False, is_left=False, keeps_end=False, ascending=False, bad=lambda row: False
):
    is_right = not (is_left or is_wide)
    return Column(name, show, sort or show, rank, is_right, is_wide, keeps_end, is_right and not ascending, bad)


class Table:
    """Columns, and where their rows come from. `rows` lists the rows of a sample."""

    def __init__(self, name, columns, entries, identify, sort):
        self.name = name
        self.columns = columns
        self.entries = entries
        self.identify = identify
        self.sort = sort

    def rows(self, sample, sort=None, is_reversed=False):
        """Returns the rows in order. Of equal ones the order is that of the report."""
        rows = [Row(self.identify(entry), entry, sample) for entry in self.entries(sample)]
        by = self.column(sort or self.sort)
        return sorted(rows, key=lambda row: sort_key(by.sort(row)), reverse=by.is_descending != is_reversed)

    def column(self, name):
        return next(column for column in self.columns if column.name == name)

    def cells(self, row, encoding):
        return [printable(column.show(row), encoding) for column in self.columns]


def sort_key(value):
    """Orders unknown values before all others, and texts after numbers."""
    return (value is not None, isinstance(value, str), value if value is not None else 0)


def layout(columns, cells, width):
    """Returns the indexes and widths of the columns that a screen has room for, or without a width of all columns."""
    natural = [
        max([width_of(column.name), *(width_of(row[index]) for row in cells)]) for index, column in enumerate(columns)
    ]
    if width is None:
        return list(enumerate(natural))
    least = [min(size, WIDE) for size in natural]
    shown = []
    for index in sorted(range(len(columns)), key=lambda index: columns[index].rank):
        if sum(least[other] + 1 for other in [*shown, index]) - 1 > width and shown:
            break
        shown.append(index)
    shown.sort()
    spare = width - sum(least[index] + 1 for index in shown) + 1
    sizes = {index: least[index] for index in shown}
    wide = [index for index in shown if columns[index].is_wide]
    while spare > 0 and any(sizes[index] < natural[index] for index in wide):
        for index in wide:
            if spare > 0 and sizes[index] < natural[index]:
                sizes[index] += 1
                spare -= 1
    return [(index, min(sizes[index], width)) for index in shown]


def table_lines(table, rows, width, sort=None, selected=None, encoding="utf-8"):
    """Returns the head of a table and its rows as lines."""
    cells = [table.cells(row, encoding) for row in rows]
    places = layout(table.columns, cells, width)

    def line(texts, style_of):
        spans = []
        for index, size in places:
            if spans:
                spans.append(Span(" ", style_of(None)))
            spans.append(
                Span(
                    fitted(texts[index], size, table.columns[index].is_right, table.columns[index].keeps_end),
                    style_of(table.columns[index]),
                )
            )
        rest = width - line_width(spans) if width else 0
        return [*spans, Span(" " * rest, style_of(None))]

    lines = [line([one.name for one in table.columns], lambda one: "sorted" if one and one.name == sort else "head")]
    for row, texts in zip(rows, cells):
        if selected is not None and row.id == selected:
            lines.append(line(texts, lambda one: "selected"))
        else:
            lines.append(line(texts, lambda one, row=row: "bad" if one and one.bad(row) else ""))
    return lines


def line_width(line):
    return sum(width_of(span.text) for span in line)


def figure(name):
    """Returns what reads a figure of an application's row."""
    return lambda row: getattr(row.sample.applications[key_of(row.entry)], name)


def shown_figure(name, show):
    read = figure(name)
    return lambda row: show(read(row))


def quantile_column(name, label, rank):
    read = figure(name)
    return column(label, shown_figure(name, shown_quantile), lambda row: read(row) and read(row).seconds, rank)


def shown_code(row):
    """Returns the version of an application's code, or what is wrong with it."""
    loaded = [one for _, one in row.sample.code_of(row.entry)]
    codes = [one["code"] for one in loaded if one["code"]]
    if any(one["failure"] for one in loaded):
        return "FAILED"
    if not codes:
        return "not loaded" if loaded else "-"
    versions = {code["version"] for code in codes}
    return "mixed" if len(versions) > 1 else versions.pop() or "loaded"


def loaded_for(row):
    """Returns for how long the newest code of an application has been loaded, or None."""
    times = [one["code"]["loaded"] for _, one in row.sample.code_of(row.entry) if one["code"]]
    return row.sample.time - max(times) if times else None


def refused(row):
    return row.entry["counters"]["refused_queue_full"] + row.entry["counters"]["refused_queue_timeout"]


def counter(name):
    return lambda row: row.entry["counters"][name]


def group_of(row):
    return row.entry["process_group"] or "-"


def detail(read):
    """Returns what reads the details of a worker's row; None if the worker did not say."""
    return lambda row: None if row.entry["details"] is None else read(row.entry["details"])


def state_of(row):
    return row.entry["details"]["state"] if row.entry["details"] else "no reply"


def shown_threads(row):
    threads = row.entry["details"] and row.entry["details"]["threads"]
    return f"{threads['busy']}/{threads['total']}" if threads else "-"


def shown_or_dash(show, read):
    def shown(row):
        value = read(row)
        return "-" if value is None else show(value)

    return shown


def call_state(row):
    return "timed out" if row.entry["timed_out"] else row.entry["state"]


def entry(name):
    return lambda row: row.entry[name]


APPLICATIONS = Table(
    "applications",
    [
        column("APPLICATION", entry("name"), rank=0, is_wide=True, keeps_end=True),
        column("GROUP", group_of, rank=6, is_left=True),
        column("REQ/S", shown_figure("rate", shown_rate), figure("rate"), rank=0),
        column(
            "ERR",
            shown_figure("errors", shown_share),
            figure("errors"),
            rank=1,
            bad=lambda row: bool(figure("errors")(row)),
        ),
        quantile_column("p50", "P50", 3),
        quantile_column("p95", "P95", 1),
        quantile_column("p99", "P99", 4),
        column("RUN", entry("running"), rank=1),
        column("QUEUE", entry("queued"), rank=1, bad=lambda row: row.entry["queued"] > 0),
        column("REFUSED", lambda row: shown_count(refused(row)), refused, rank=5),
        column("TIMEOUT", lambda row: shown_count(row.entry["counters"]["timed_out"]), counter("timed_out"), rank=5),
        column("EXC", lambda row: shown_count(row.entry["counters"]["exceptions"]), counter("exceptions"), rank=4),
        column("CALLS", lambda row: shown_count(row.entry["counters"]["calls"]), counter("calls"), rank=7),
        column("LOADED", lambda row: shown_time(loaded_for(row)), loaded_for, rank=8),
        column(
            "CODE",
            shown_code,
            rank=2,
            is_left=True,
            bad=lambda row: shown_code(row) in ("FAILED", "not loaded"),
        ),
    ],
    lambda sample: sample.report["applications"],
    key_of,
    "REQ/S",
)

WORKERS = Table(
    "workers",
    [
        column("WORKER", entry("pid"), rank=0, ascending=True),
        column("GROUP", group_of, lambda row: (group_of(row), row.entry["number"]), rank=2, is_left=True),
        column("NR", entry("number"), rank=5, ascending=True),
        column("STATE", state_of, rank=1, is_left=True, bad=lambda row: state_of(row) == "no reply"),
        column(
            "AGE",
            lambda row: shown_time(row.sample.time - row.entry["started"]),
            lambda row: row.sample.time - row.entry["started"],
            rank=3,
        ),
        column(
            "%CPU",
            shown_or_dash(lambda share: f"{share * 100:.0f}", lambda row: row.sample.worker_cpu[row.entry["pid"]]),
            lambda row: row.sample.worker_cpu[row.entry["pid"]],
            rank=2,
        ),
        column(
            "MEMORY",
            shown_or_dash(shown_size, detail(lambda details: details["memory"])),
            detail(lambda details: details["memory"]),
            rank=2,
        ),
        column(
            "THREADS",
            shown_threads,
            detail(lambda details: details["threads"]["busy"]),
            rank=1,
            bad=lambda row: (
                bool(row.entry["details"])
                and 0 < row.entry["details"]["threads"]["total"] <= row.entry["details"]["threads"]["busy"]
            ),
        ),
        column(
            "STUCK",
            shown_or_dash(str, detail(lambda details: details["threads"]["stuck"])),
            detail(lambda details: details["threads"]["stuck"]),
            rank=4,
            bad=lambda row: bool(row.entry["details"]) and row.entry["details"]["threads"]["stuck"] > 0,
        ),
        column("RUN", entry("running"), rank=3),
        column("QUEUE", entry("queued"), rank=1, bad=lambda row: row.entry["queued"] > 0),
        column(
            "REQ/S",
            lambda row: shown_rate(row.sample.worker_rates[row.entry["pid"]]),
            lambda row: row.sample.worker_rates[row.entry["pid"]],
            rank=3,
        ),
        column("CALLS", lambda row: shown_count(row.entry["calls"]), entry("calls"), rank=4),
    ],
    lambda sample: sample.report["workers"],
    lambda worker: worker["pid"],
    "GROUP",
)

ENDED_WORKERS = Table(
    "ended workers",
    [
        column("ENDED", entry("pid"), rank=0, ascending=True),
        column("GROUP", group_of, rank=2, is_left=True),
        column("NR", entry("number"), rank=5, ascending=True),
        column("REASON", entry("reason"), rank=0, is_left=True, bad=lambda row: row.entry["reason"] == "crash"),
        column("AT", lambda row: shown_date(row.entry["ended"]), entry("ended"), rank=1),
        column(
            "AGE",
            lambda row: shown_time(row.entry["ended"] - row.entry["started"]),
            lambda row: row.entry["ended"] - row.entry["started"],
            rank=3,
        ),
        column("CALLS", lambda row: shown_count(row.entry["calls"]), entry("calls"), rank=4),
    ],
    lambda sample: sample.report["ended_workers"],
    lambda worker: (worker["pid"], worker["started"]),
    "AT",
)

PROCESS_GROUPS = Table(
    "process groups",
    [
        column("PROCESS GROUP", entry("name"), rank=0, is_wide=True),
        column("USER", entry("user"), rank=2, is_left=True),
        column("STATE", entry("state"), rank=0, is_left=True, bad=lambda row: row.entry["state"] not in GROUP_STATES),
        column("WORKERS", entry("workers"), rank=1),
        column("RESTARTS", entry("restarts"), rank=1, bad=lambda row: row.entry["restarts"] > 0),
    ],
    lambda sample: sample.report["process_groups"],
    lambda group: group["name"],
    "PROCESS GROUP",
)

#: The states in which a process group serves, or would with the next request.
GROUP_STATES = ("running", "idle")

CALLS = Table(
    "calls",
    [
        column("CALL", entry("id"), lambda row: (row.entry["pid"], row.entry["id"]), rank=7, is_left=True),
        column("TIME", lambda row: shown_time(row.entry["time"]), entry("time"), rank=0),
        column("STATE", call_state, rank=1, is_left=True, bad=lambda row: row.entry["timed_out"]),
        column("METHOD", entry("method"), rank=2, is_left=True),
        column("PATH", entry("path"), rank=0, is_wide=True),
        column("APPLICATION", entry("application"), rank=3, is_wide=True, keeps_end=True),
        column("GROUP", group_of, rank=6, is_left=True),
        column("CLIENT", entry("client"), rank=4, is_left=True),
        column("PID", entry("pid"), rank=5, ascending=True),
        column("THREAD", lambda row: row.entry["thread"] or "-", rank=6, is_left=True),
    ],
    lambda sample: sample.report["calls"],
    lambda call: call["id"],
    "TIME",
)

EVENTS = Table(
    "events",
    [
        column("AT", lambda row: shown_clock(row.entry["time"]), entry("time"), rank=0),
        column(
            "EVENT",
            lambda row: row.entry["kind"].replace("_", " "),
            rank=0,
            is_left=True,
            bad=lambda row: row.entry["kind"] not in ("loaded", "reloaded"),
        ),
        column("APPLICATION", entry("application"), rank=1, is_wide=True, keeps_end=True),
        column("GROUP", group_of, rank=4, is_left=True),
        column("PID", entry("pid"), rank=3, ascending=True),
        column("SUMMARY", entry("summary"), rank=0, is_wide=True),
    ],
    lambda sample: sample.report["events"],
    lambda event: (event["time"], event["pid"], event["kind"], event["summary"]),
    "AT",
)

TABLES = {table.name: table for table in (APPLICATIONS, WORKERS, ENDED_WORKERS, PROCESS_GROUPS, CALLS, EVENTS)}


def headline(sample, address, note="", encoding="utf-8"):
    """Returns the lines above the tables."""
    report, total = sample.report, sample.total
    versions = report["versions"]
    threads, busy, stuck = sample.threads()
    queued = sum(application["queued"] for application in report["applications"])
    running = sum(application["running"] for application in report["applications"])
    draining = sum(state_of(Row(None, worker, sample)) == "draining" for worker in report["workers"])
    software = f"module {versions['module']}, nginx {versions['nginx']}, Python {versions['python']}"
    return [
        [
            Span(f"ngx-wsgi-top {shown_clock(sample.time)}", "bold"),
            Span(f"  {note}" if note else "", "bad"),
            Span(printable(f"  {address}  {software}", encoding), ""),
        ],
        [
            Span("Requests: ", ""),
            Span(f"{shown_rate(total.rate)}/s", "bold"),
            Span("  errors: ", ""),
            Span(shown_share(total.errors), "bad" if total.errors else "bold"),
            Span("  p50: ", ""),
            Span(shown_quantile(total.p50), "bold"),
            Span("  p95: ", ""),
            Span(shown_quantile(total.p95), "bold"),
            Span("  p99: ", ""),
            Span(shown_quantile(total.p99), "bold"),
            Span(f"  in: {shown_size(total.bytes_received)}/s  out: {shown_size(total.bytes_sent)}/s", ""),
        ],
        [
            Span("Threads: ", ""),
            Span(f"{busy}/{threads} busy", "bad" if 0 < threads <= busy else "bold"),
            Span(f", {stuck} stuck" if stuck else "", "bad"),
            Span("  queue: ", ""),
            Span(shown_count(queued), "bad" if queued else "bold"),
            Span(f"  running: {shown_count(running)}  workers: {len(report['workers'])}", ""),
            Span(f", {draining} draining" if draining else "", ""),
        ],
    ]


# ---- texts -----------------------------------------------------------------------------------------------------------


def of_group(one):
    return f" in the process group {one['process_group']}" if one["process_group"] else ""


def application_text(row):
    """Returns all that is known of an application, as lines that may hold any character."""
    application, counters = row.entry, row.entry["counters"]
    lines = [
        f"application {application['name']}{of_group(application)}, since {shown_date(row.sample.report['since'])}",
        "",
        f"calls         {counters['calls']} ended, {application['running']} running, {application['queued']} queued",
        f"responses     {', '.join(f'{status}: {number}' for status, number in counters['responses'].items())}",
        f"refused       {counters['refused_queue_full']} as the queue was full, "
        f"{counters['refused_queue_timeout']} after wsgi_queue_timeout",
        f"timed out     {counters['timed_out']}",
        f"client gone   {counters['client_gone']}",
        f"bytes         {shown_size(counters['bytes_received'])} received, {shown_size(counters['bytes_sent'])} sent",
    ]
    for name in ("queue_time", "header_time", "total_time"):
        values = (shown_quantile(quantile(counters[name], None, share)) for share in (0.5, 0.95, 0.99))
        lines.append("{:13} p50: {}, p95: {}, p99: {}".format(name.replace("_", " "), *values))
    lines.append(f"exceptions    {counters['exceptions']}")
    by_number = sorted(application["exceptions"].items(), key=lambda item: -item[1])
    lines.extend(f"              {number:7} {name}" for name, number in by_number)
    for pid, loaded in row.sample.code_of(application):
        lines.extend(["", f"worker {pid}", *code_lines(loaded)])
    return lines


def code_lines(loaded):
    code, failure = loaded["code"], loaded["failure"]
    lines = [f"  interpreter {loaded['interpreter']}, loads: {loaded['loads']}"]
    if code:
        modified = f", file of {shown_date(code['modified'])}" if code["modified"] is not None else ""
        lines.append(
            f"  version {code['version'] or 'unknown'}{modified}, loaded {shown_date(code['loaded'])} in "
            f"{shown_time(code['import_time'])}"
        )
    if failure:
        lines.append(f"  failed to load at {shown_date(failure['time'])}:")
        lines.extend(f"    {line}" for line in failure["traceback"].splitlines())
    return lines


def worker_text(row):
    worker, details = row.entry, row.entry["details"]
    lines = [
        f"worker {worker['pid']}, number {worker['number']}{of_group(worker)}, since {shown_date(worker['started'])}"
    ]
    lines.extend(["", f"calls         {worker['calls']} ended, {worker['running']} running, {worker['queued']} queued"])
    if details is None:
        return [*lines, "", "The worker did not reply in time: it is very busy, or stopped."]
    lines.append(f"state         {details['state']}")
    lines.append(f"memory        {shown_size(details['memory'])}")
    lines.append(f"processor     {shown_time(details['cpu'])}")
    lines.append(f"threads       {thread_text(details['threads'])}")
    for one in details["interpreters"]:
        copies = f", {one['copies']} copies" if one["copies"] > 1 else ""
        lines.append(
            f"interpreter   {one['name']}, GIL {one['gil']}{copies}: {thread_text(one['threads'])}, "
            f"{one['queued']} queued"
        )
    for loaded in details["applications"]:
        lines.extend(["", f"application {loaded['name']}", *code_lines(loaded)])
    return lines


def thread_text(threads):
    return f"{threads['busy']} of {threads['total']} busy, {threads['stuck']} stuck"


def call_text(row):
    call = row.entry
    running = "" if call["running_time"] is None else f", running for {shown_time(call['running_time'])}"
    return [
        f"{call['method']} {call['path']}",
        "",
        f"call          {call['id']}, {call_state(row)}, arrived {shown_time(call['time'])} ago{running}",
        f"application   {call['application']}{of_group(call)}",
        f"client        {call['client']}",
        f"worker        {call['pid']}, thread {call['thread'] or '-'}",
    ]


def event_text(row):
    event = row.entry
    return [
        f"{event['kind'].replace('_', ' ')} at {shown_date(event['time'])}",
        "",
        f"application   {event['application']}{of_group(event)}",
        f"worker        {event['pid']}",
        f"summary       {event['summary']}",
        "",
        *event["text"].splitlines(),
    ]


#: What ENTER shows of a row.
TEXTS = {APPLICATIONS: application_text, WORKERS: worker_text, CALLS: call_text, EVENTS: event_text}

HELP = f"""ngx-wsgi-top {VERSION} shows the WSGI applications of an nginx.

o  all: applications, workers, calls     a  applications, process groups
c  calls that wait, run or are sent      w  workers, and those that have ended
e  events: errors, loads, time-outs

UP DOWN PGUP PGDN HOME END   select a row
ENTER  the row in full; of a call also its Python stack (r: the stack now)
s  sort by the next column (S: by the one before)
R  reverse the order
p  pause                     SPACE  update now
h  this help                 q  leave a text, or the program

REQ/S, ERR, P50, P95, P99    requests a second, share of 5xx, and percentiles of
                             the time of requests, since the last update
RUN, QUEUE                   calls that run, and that wait for a thread
REFUSED, TIMEOUT, EXC        calls refused by wsgi_queue or wsgi_queue_timeout,
                             ended by wsgi_request_timeout, and failed by an
                             uncaught exception
CODE, LOADED                 __version__ of the application's module, and since
                             when its code is loaded"""


# ---- the session -----------------------------------------------------------------------------------------------------

#: Views by their keys: the name, the tables, and the table whose rows are selected.
View = collections.namedtuple("View", "tables main")
VIEWS = {
    "o": View((APPLICATIONS, WORKERS, CALLS), CALLS),
    "a": View((APPLICATIONS, PROCESS_GROUPS), APPLICATIONS),
    "w": View((WORKERS, ENDED_WORKERS), WORKERS),
    "c": View((CALLS,), CALLS),
    "e": View((EVENTS,), EVENTS),
}

#: Rows that are shown though there are none.
EMPTY = {
    "applications": "no application has been called",
    "workers": "no worker",
    "calls": "no call runs or waits",
    "events": "no event",
}


def shared_out(wanted, available):
    """Returns numbers of lines for tables that want so many. What one leaves of its share goes to the others."""
    given = [0] * len(wanted)
    while available > 0 and given != list(wanted):
        for index, number in enumerate(wanted):
            if given[index] < number and available > 0:
                given[index] += 1
                available -= 1
    return given


class Pager:
    """A text over the whole screen. `call` is the call whose stack it shows."""

    def __init__(self, lines, call=None):
        self.lines = lines
        self.stack = None
        self.call = call
        self.first = 0

    def shown(self, width, height, encoding):
        """Returns the lines of the screen."""
        text = [*self.lines, *([] if self.stack is None else ["", *self.stack])]
        all_lines = [part for line in text for part in wrapped(printable(line.expandtabs(), encoding), width)]
        self.first = max(0, min(self.first, len(all_lines) - height))
        return [[Span(line, "")] for line in all_lines[self.first : self.first + height]]


class Session:
    """What the user sees and does: keys in, lines out. It knows no terminal.

    `ask_stack` is called with the id of a call; `got_stack` takes the result. `ask_report` asks for a report at once.
    """

    def __init__(self, address, encoding="utf-8", ask_stack=lambda call: None, ask_report=lambda: None):
        self.address = address
        self.encoding = encoding
        self.ask_stack = ask_stack
        self.ask_report = ask_report
        self.sample = None
        self.problem = None
        self.view = "o"
        self.sorts = {}
        self.selected = {}
        self.is_paused = False
        self.has_ended = False
        self.pager = None
        # Of the table whose rows are selected: the rows and the columns that are shown.
        self.page = 1
        self.names = []

    # ---- what comes in

    def got_report(self, report):
        """Takes a report. A report that cannot be read is a problem."""
        if self.is_paused:
            return
        try:
            self.sample = new_sample(report, self.sample and self.sample.report)
            self.problem = None
        except Problem as problem:
            self.got_problem(problem)

    def got_problem(self, problem):
        self.problem = str(problem)

    def got_stack(self, call, stack):
        """Takes the stack of a call: a text, None or a Problem."""
        if self.pager is None or self.pager.call != call:
            return
        if stack is None:
            self.pager.stack = ["No Python code of this call runs now: it waits, is being sent, or has ended."]
        else:
            self.pager.stack = str(stack).splitlines()

    def key(self, key):
        """Takes a key: a character, or the name of one."""
        if self.pager:
            self.key_in_text(key)
        elif key in ("q", "ESC"):
            self.has_ended = key == "q"
        elif key in VIEWS:
            self.view = key
        elif key in ("h", "?"):
            self.pager = Pager(HELP.splitlines())
        elif key == "p":
            self.is_paused = not self.is_paused
        elif key == " ":
            self.is_paused = False
            self.ask_report()
        elif key in ("s", "S"):
            self.sort_by_next(1 if key == "s" else -1)
        elif key == "R":
            column, is_reversed = self.sort_of(self.main)
            self.sorts[self.main.name] = (column, not is_reversed)
        elif key == "ENTER":
            self.open_selected()
        else:
            self.move(key)

    # ---- rows

    @property
    def main(self):
        return VIEWS[self.view].main

    def sort_of(self, table):
        return self.sorts.get(table.name, (table.sort, False))

    def sort_by_next(self, step):
        names, current = self.names, self.sort_of(self.main)[0]
        place = names.index(current) + step if current in names else 0
        self.sorts[self.main.name] = (names[place % len(names)], False)

    def rows_of(self, table):
        return table.rows(self.sample, *self.sort_of(table)) if self.sample else []

    def place_in(self, rows):
        """Returns the place of the selected row; the first one's if it has gone."""
        selected = self.selected.get(self.main.name)
        return next((place for place, row in enumerate(rows) if row.id == selected), 0)

    def move(self, key):
        rows = self.rows_of(self.main)
        place = moved(key, self.place_in(rows), len(rows), self.page)
        if place is not None and rows:
            # The first move shows the selection at the first row.
            is_first = self.main.name not in self.selected and key == "DOWN"
            self.selected[self.main.name] = rows[0 if is_first else place].id

    def open_selected(self):
        rows = self.rows_of(self.main)
        if not rows:
            return
        row = rows[self.place_in(rows)]
        self.selected[self.main.name] = row.id
        if self.main is CALLS:
            self.pager = Pager(call_text(row), row.id)
            self.ask_for_stack()
        else:
            self.pager = Pager(TEXTS[self.main](row))

    def ask_for_stack(self):
        self.pager.stack = ["asking for the stack ..."]
        self.ask_stack(self.pager.call)

    def key_in_text(self, key):
        if key in ("q", "ESC", "ENTER", "h", "?"):
            self.pager = None
        elif key == "r" and self.pager.call:
            self.ask_for_stack()
        else:
            # The lines' number is known when they are shown.
            place = moved(key, self.pager.first, sys.maxsize, self.page)
            self.pager.first = self.pager.first if place is None else place

    # ---- what is shown

    def lines(self, width, height):
        """Returns the lines of a screen of this size."""
        if self.pager:
            self.page = max(1, height - 1)
            keys = "r: the stack now  " if self.pager.call else ""
            text = self.pager.shown(width, self.page, self.encoding)
            text += [[]] * (self.page - len(text))
            return [*text, [Span(fitted(f"UP DOWN PGUP PGDN: scroll  {keys}q: back", width), "head")]]
        if not self.sample:
            return [[Span(part, "")] for part in wrapped(self.problem or f"asking {self.address} ...", width)][:height]
        lines = [
            *headline(self.sample, self.address, "PAUSED" if self.is_paused else "", self.encoding),
            self.last_line(),
        ]
        return [cut(line, width) for line in [*lines, *self.table_lines(width, height - len(lines))][:height]]

    def last_line(self):
        """Returns the line below the headline: a problem, or the keys."""
        if self.problem:
            since = shown_clock(self.sample.time)
            return [Span(printable(f"no report since {since}: {self.problem}", self.encoding), "bad")]
        return [Span("o all  a applications  w workers  c calls  e events  s sort  h help  q quit", "")]

    def table_lines(self, width, height):
        """Returns the lines of the tables. What has no room is counted in a line."""
        tables = [(table, self.rows_of(table)) for table in VIEWS[self.view].tables]
        tables = [(table, rows) for table, rows in tables if rows or table.name in EMPTY]
        # The head of a table and a line between two. On a very small screen the last ones have none.
        while len(tables) > 1 and height < 4 * len(tables):
            tables.remove([pair for pair in tables if pair[0] is not self.main][-1])
        available = height - 2 * len(tables) + 1
        numbers = shared_out([max(1, len(rows)) for _, rows in tables], available)
        lines = []
        for (table, rows), number in zip(tables, numbers):
            if lines:
                lines.append([])
            lines.extend(self.lines_of(table, rows, width, number))
        return lines

    def lines_of(self, table, rows, width, number):
        first, selected = 0, None
        if table is self.main:
            self.page = max(1, number - 1)
            if table.name in self.selected and rows:
                place = self.place_in(rows)
                selected = rows[place].id
                first = max(0, min(place - number // 2, len(rows) - number))
        hidden = len(rows) - number
        last = first + number - (1 if hidden > 0 and number > 1 else 0)
        if selected is not None and place >= last:
            first, last = first + 1, last + 1
        lines = table_lines(table, rows[first:last], width, self.sort_of(table)[0], selected, self.encoding)
        if table is self.main:
            self.names = [name for name in (span.text.strip() for span in lines[0]) if name]
        if not rows:
            lines.append([Span(EMPTY[table.name], "")])
        elif hidden > 0 and number > 1:
            lines.append([Span(f"... {len(rows) - (last - first)} more", "")])
        return lines


def moved(key, place, number, page):
    """Returns the place after a key, or None if the key does not move."""
    steps = {"UP": -1, "DOWN": 1, "k": -1, "j": 1, "PGUP": -page, "PGDN": page, "HOME": -number, "END": number}
    return max(0, min(place + steps[key], number - 1)) if key in steps else None


def cut(line, width):
    """Returns a line that is not wider than the screen."""
    spans, rest = [], width
    for span in line:
        text = span.text if width_of(span.text) <= rest else fitted(span.text, rest)
        spans.append(Span(text, span.style))
        rest -= width_of(text)
        if rest <= 0:
            break
    return spans


# ---- the terminal ----------------------------------------------------------------------------------------------------


class Poller:
    """Threads that ask the status page. What they get is in `results`: methods of Session with their arguments."""

    def __init__(self, client, interval):
        self.client = client
        self.interval = interval
        self.results = queue.Queue()
        self.at_once = threading.Event()

    def start(self):
        threading.Thread(target=self.poll, daemon=True).start()

    def poll(self):
        # The second report comes soon, as the first one has no figures by the second.
        pause = min(1.0, self.interval)
        while True:
            self.at_once.wait(pause)
            self.at_once.clear()
            pause = self.interval
            try:
                self.results.put(("got_report", self.client.report()))
            except Problem as problem:
                self.results.put(("got_problem", problem))

    def ask_report(self):
        self.at_once.set()

    def ask_stack(self, call):
        threading.Thread(target=self.put_stack, args=[call], daemon=True).start()

    def put_stack(self, call):
        try:
            stack = self.client.stack(call)
        except Problem as problem:
            stack = problem
        self.results.put(("got_stack", call, stack))


#: Milliseconds between two looks at what has come in.
TICK = 100


class Screen:
    """The terminal, by way of curses."""

    def __init__(self, window, session, results):
        self.window = window
        self.session = session
        self.results = results
        self.styles = {"": curses.A_NORMAL, "bold": curses.A_BOLD, "head": curses.A_REVERSE, "bad": curses.A_BOLD}
        self.keys = {
            curses.KEY_UP: "UP",
            curses.KEY_DOWN: "DOWN",
            curses.KEY_PPAGE: "PGUP",
            curses.KEY_NPAGE: "PGDN",
            curses.KEY_HOME: "HOME",
            curses.KEY_END: "END",
            curses.KEY_ENTER: "ENTER",
            ord("\n"): "ENTER",
            ord("\r"): "ENTER",
            27: "ESC",
        }
        self.styles["sorted"] = curses.A_REVERSE | curses.A_BOLD
        self.styles["selected"] = curses.A_REVERSE
        with contextlib.suppress(curses.error):
            curses.curs_set(0)
        if curses.has_colors() and not os.environ.get("NO_COLOR"):
            curses.use_default_colors()
            curses.init_pair(1, curses.COLOR_RED, -1)
            self.styles["bad"] |= curses.color_pair(1)
        window.timeout(TICK)

    def run(self):
        while not self.session.has_ended:
            self.draw()
            while not self.take():
                pass

    def take(self):
        """Waits a moment for a key or a result. Returns whether there was one."""
        key = self.window.getch()
        if key == curses.KEY_RESIZE:
            curses.update_lines_cols()
            return True
        if key != -1:
            name = self.keys.get(key) or (chr(key) if 32 <= key < 127 else None)
            if name:
                self.session.key(name)
            return True
        has_result = False
        with contextlib.suppress(queue.Empty):
            while True:
                name, *arguments = self.results.get_nowait()
                getattr(self.session, name)(*arguments)
                has_result = True
        return has_result

    def draw(self):
        height, width = self.window.getmaxyx()
        self.window.erase()
        for row, line in enumerate(self.session.lines(width, height)[:height]):
            place = 0
            for text, style in line:
                # An error means the end of the screen: the cursor cannot go behind the last place.
                with contextlib.suppress(curses.error):
                    self.window.addstr(row, place, text, self.styles[style])
                place += width_of(text)
        self.window.refresh()


class Terminated(BaseException):
    """The program is to end, by a signal."""


def terminate(number, frame):
    raise Terminated(number)


def show(client, interval):
    """Shows the report in the terminal until the user quits."""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise Problem("this is no terminal: --once prints the tables as text.")
    if curses is None:
        raise Problem("this Python has no curses: --once prints the tables as text.")
    # A locale that is not installed leaves that of C.
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, "")
    # A first report outside of curses: a wrong address is told as by any program.
    first = client.report()
    poller = Poller(client, interval)
    encoding = locale.nl_langinfo(locale.CODESET) or "ascii"
    session = Session(client.address, encoding, poller.ask_stack, poller.ask_report)
    session.got_report(first)
    if session.problem:
        raise Problem(session.problem)
    # The time that curses waits after ESC for the rest of a key's sequence.
    os.environ.setdefault("ESCDELAY", "25")
    term = os.environ.get("TERM", "")
    try:
        curses.setupterm()
        can_move = curses.tigetstr("cup")
    except curses.error:
        raise Problem(f"the terminal {term!r} is unknown (TERM); set TERM=xterm, or use --once.") from None
    if not can_move:
        raise Problem(f"the terminal {term!r} (TERM) can only print lines; use --once or --batch.")

    def run(window):
        poller.start()
        Screen(window, session, poller.results).run()

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminate)
    curses.wrapper(run)


# ---- the program -----------------------------------------------------------------------------------------------------


def batch_text(sample, address, encoding):
    """Returns all tables as text."""
    lines = headline(sample, address, "", encoding)
    for table in TABLES.values():
        rows = table.rows(sample)
        if rows:
            lines.extend([[], *table_lines(table, rows, None, encoding=encoding)])
    return "".join("".join(span.text for span in line).rstrip() + "\n" for line in lines)


def batch(client, interval, count):
    """Prints the tables after each interval, `count` times or until the reader leaves."""
    before = client.report()
    new_sample(before)
    while count is None or count > 0:
        time.sleep(interval)
        report = client.report()
        sample = new_sample(report, before)
        print(
            batch_text(sample, client.address, sys.stdout.encoding or "ascii"),
            end="" if count == 1 else "\n",
            flush=True,
        )
        before, count = report, count and count - 1


def print_stack(client, call):
    stack = client.stack(call)
    if stack is None:
        raise Problem(f"the call {printable(call)} runs no Python code: it waits, is being sent, or has ended.")
    for line in stack.splitlines():
        print(printable(line, sys.stdout.encoding or "ascii"))


def seconds(text):
    """Reads a number of seconds."""
    number = float(text)
    if not 0.1 <= number <= 86400:
        raise ValueError(text)
    return number


def call(text):
    """Reads the name of a call, as in the column CALL."""
    pid, _, number = text.partition(".")
    if not (pid.isdecimal() and number.isdecimal()):
        raise ValueError(text)
    return text


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def parser():
    result = argparse.ArgumentParser(
        "ngx-wsgi-top",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=textwrap.dedent(
            """\
            Shows the WSGI applications, workers and calls of an nginx, as top shows processes.

            It reads the JSON of a location with wsgi_status. The key h shows the other keys."""
        ),
        epilog="Exit status: 0, 1 if the page cannot be read, 2 for wrong arguments.",
    )
    result.add_argument(
        "url",
        metavar="URL",
        nargs="?",
        default=DEFAULT_URL,
        help=f"the status page (default: {DEFAULT_URL}); unix:/SOCKET:/PATH is a Unix socket",
    )
    result.add_argument(
        "-d", "--delay", metavar="SECONDS", type=seconds, default=2.0, help="time between two updates (default: 2)"
    )
    result.add_argument("-b", "--batch", action="store_true", help="print the tables as text after each delay")
    result.add_argument(
        "-n", "--count", metavar="NUMBER", type=positive, help="with --batch: end after so many updates"
    )
    result.add_argument("--once", action="store_true", help="print the tables once, with the figures of one delay")
    result.add_argument(
        "--stack",
        metavar="CALL",
        type=call,
        help="print the Python stack of a running call, by the CALL of the tables",
    )
    result.add_argument("-u", "--user", metavar="NAME", help="user for auth_basic; the password is asked for")
    result.add_argument("--password-file", metavar="FILE", help="file whose first line is the password")
    result.add_argument("--cafile", metavar="FILE", help="certificates to trust for https, in PEM form")
    result.add_argument("--insecure", action="store_true", help="trust any certificate")
    result.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=TIMEOUT,
        help=f"time to wait for a reply (default: {TIMEOUT})",
    )
    result.add_argument("-V", "--version", action="version", version=f"ngx-wsgi-top {VERSION}")
    return result


def with_password(address, user, file):
    """Returns the address with the user and the password that the arguments name. Raises Problem."""
    address = address if user is None else address._replace(user=user, password=None)
    if file is not None:
        if address.user is None:
            raise Problem("--password-file needs --user NAME.")
        try:
            with open(file, encoding="utf-8") as text:
                return address._replace(password=text.readline().rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise Problem(
                f"--password-file {file}: {getattr(error, 'strerror', None) or 'it is no text in UTF-8'}."
            ) from None
    if address.user is not None and address.password is None:
        if not sys.stdin.isatty():
            raise Problem("the password cannot be asked for without a terminal: give --password-file FILE.")
        return address._replace(password=getpass.getpass(f"Password of {printable(address.user)}: "))
    return address


def run(arguments):
    address = with_password(parse_address(arguments.url), arguments.user, arguments.password_file)
    client = Client(address, arguments.cafile, arguments.insecure, arguments.timeout)
    if arguments.stack:
        print_stack(client, arguments.stack)
    elif arguments.once or arguments.batch:
        batch(client, arguments.delay, 1 if arguments.once else arguments.count)
    elif arguments.count:
        raise Problem("--count needs --batch.")
    else:
        show(client, arguments.delay)


def main(words=None):
    arguments = parser().parse_args(words)
    try:
        run(arguments)
        return 0
    except Problem as problem:
        print(f"ngx-wsgi-top: {printable(problem, sys.stderr.encoding or 'ascii')}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader has left. Python would complain when it flushes once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Terminated as signalled:
        return 128 + signalled.args[0]


if __name__ == "__main__":
    sys.exit(main())
