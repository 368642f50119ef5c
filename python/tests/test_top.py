"""ngx-wsgi-top: addresses, figures, texts, the layout, and the session without a terminal."""

import ast
import contextlib
import http.server
import io
import json
import os
import re
import socketserver
import sys
import tempfile
import threading
import tomllib
import unittest
from pathlib import Path

from ngx_wsgi import top
from ngx_wsgi.top import Problem, Quantile, Session, Span

REPOSITORY = Path(__file__).parents[2]
BOUNDS = (0.01, 0.1, 1.0)


def histogram(*counts):
    """Returns a histogram with so many times in each bucket, the last of them above all bounds."""
    buckets = [{"le": bound, "count": sum(counts[: index + 1])} for index, bound in enumerate(BOUNDS)]
    return {"count": sum(counts), "sum": 0.0, "buckets": buckets}


def counters(calls=0, errors=0, times=None, **others):
    result = {
        "calls": calls,
        "responses": {"1xx": 0, "2xx": calls - errors, "3xx": 0, "4xx": 0, "5xx": errors},
        "total_time": times or histogram(calls, 0, 0, 0),
        "queue_time": histogram(calls, 0, 0, 0),
        "header_time": histogram(calls, 0, 0, 0),
    }
    names = ["refused_queue_full", "refused_queue_timeout", "timed_out", "exceptions", "client_gone"]
    return dict.fromkeys([*names, "bytes_received", "bytes_sent"], 0) | result | others


def application(name="shop.wsgi", group=None, running=0, queued=0, exceptions=None, **figures):
    return {
        "name": name,
        "process_group": group,
        "running": running,
        "queued": queued,
        "counters": counters(**figures),
        "exceptions": exceptions or {},
    }


def code(version="1.0"):
    return {"version": version, "modified": 900.0, "loaded": 940.0, "import_time": 0.25}


def loaded(name="shop.wsgi", code=None, failure=None):
    return {"name": name, "interpreter": "main", "code": code, "loads": 1, "failure": failure}


def worker(pid=100, group=None, applications=(), busy=1, total=4, stuck=0, state="running", **others):
    threads = {"total": total, "busy": busy, "stuck": stuck}
    interpreter = {"name": "main", "gil": "shared", "copies": 1, "threads": threads, "queued": 0}
    details = {"state": state, "memory": 50 << 20, "cpu": 10.0, "threads": threads, "interpreters": [interpreter]}
    details |= {"applications": list(applications), "calls": []}
    fields = {"pid": pid, "number": pid - 100, "process_group": group, "started": 900.0, "calls": 5, "running": 0}
    return fields | {"queued": 0, "details": details, "applications": []} | others


def call(identity="100.1", path="/slow", time=1.5, state="running", **others):
    fields = {"id": identity, "application": "shop.wsgi", "process_group": None, "pid": 100, "state": state}
    fields |= {"method": "GET", "path": path, "client": "192.0.2.1", "time": time, "running_time": time}
    return fields | {"thread": "wsgi-1", "timed_out": False} | others


def event(summary="ValueError: no", text="Traceback\n  here", time=990.0):
    fields = {"time": time, "kind": "exception", "application": "shop.wsgi", "process_group": None, "pid": 100}
    return fields | {"summary": summary, "text": text}


def report(time=1000.0, since=500.0, **lists):
    names = ("applications", "workers", "ended_workers", "process_groups", "calls", "events")
    fields = {"schema": 1, "time": time, "since": since}
    fields["versions"] = {"module": "9.9.9", "nginx": "1.22.1", "python": "3.11.2"}
    return fields | {name: [] for name in names} | lists


def text_of(lines):
    return "\n".join("".join(span.text for span in line).rstrip() for line in lines)


def session(*reports, **arguments):
    result = Session("http://localhost/status", **arguments)
    for one in reports:
        result.got_report(one)
    assert result.problem is None, result.problem
    return result


class Addresses(unittest.TestCase):
    def test_urls_and_their_short_forms(self):
        for text, shown in (
            ("http://127.0.0.1/status", "http://127.0.0.1/status"),
            ("127.0.0.1:8080/s", "http://127.0.0.1:8080/s"),
            ("localhost", "http://localhost/status"),
            ("https://example.com", "https://example.com/status"),
            ("http://[::1]:81/", "http://[::1]:81/"),
            ("unix:/run/nginx.sock:/status", "unix:/run/nginx.sock:/status"),
            ("http://unix:/run/nginx.sock:/s", "unix:/run/nginx.sock:/s"),
            ("unix:/run/nginx.sock", "unix:/run/nginx.sock:/status"),
        ):
            self.assertEqual(str(top.parse_address(text)), shown)

    def test_user_and_password_are_read_and_not_shown(self):
        address = top.parse_address("http://me:p%40ss@example.com/s?a=b")
        self.assertEqual((address.user, address.password), ("me", "p@ss"))
        self.assertEqual(str(address), "http://example.com/s?a=b")
        self.assertEqual(address.target(stack="1.2"), "/s?a=b&stack=1.2")

    def test_others_are_refused(self):
        for text in (
            "ftp://example.com/",
            "unix:run.sock",
            "http:///status",
            "http://a:b/",
            "http://a/b c",
            "http://a/é",
        ):
            with self.assertRaises(Problem, msg=text):
                top.parse_address(text)


class Figures(unittest.TestCase):
    def test_quantiles_are_interpolated_within_their_bucket(self):
        times = histogram(10, 10, 0, 0)
        self.assertEqual(top.quantile(times, None, 0.5), Quantile(0.01, False))
        self.assertEqual(top.quantile(times, None, 0.25), Quantile(0.005, False))
        self.assertAlmostEqual(top.quantile(times, None, 0.75).seconds, 0.055)

    def test_quantiles_are_those_of_the_time_between_two_reports(self):
        before = histogram(1000, 0, 0, 0)
        self.assertAlmostEqual(top.quantile(histogram(1000, 0, 10, 0), before, 0.5).seconds, 0.55)
        self.assertIsNone(top.quantile(before, before, 0.5))

    def test_quantiles_above_the_last_bound_say_so(self):
        self.assertEqual(top.quantile(histogram(1, 0, 0, 9), None, 0.5), Quantile(1.0, True))
        self.assertEqual(top.shown_quantile(Quantile(1.0, True)), ">1.00s")

    def test_empty_buckets_are_skipped(self):
        self.assertAlmostEqual(top.quantile(histogram(0, 0, 4, 0), None, 0.0).seconds, 0.1)

    def test_rates_are_by_second(self):
        now = counters(30, errors=5, bytes_sent=5000)
        rates = top.figures(now, counters(10), 5.0)
        self.assertEqual((rates.rate, rates.errors, rates.bytes_sent), (4.0, 0.25, 1000.0))
        self.assertEqual(top.figures(now, None, 5.0).rate, 6.0)
        self.assertEqual(top.figures(now, now, 5.0).errors, 0.0)

    def test_counters_that_began_again_have_no_rates(self):
        first = report(applications=[application(calls=50)], workers=[worker()])
        again = report(1002.0, since=1001.0, applications=[application(calls=10)], workers=[worker()])
        self.assertEqual(top.Sample(again, first).total, top.UNKNOWN)
        self.assertEqual(top.figures(counters(1), counters(2), 1.0), top.UNKNOWN)

    def test_applications_are_summed_up(self):
        applications = [application("a", calls=10, times=histogram(10, 0, 0, 0)), application("b", "shop")]
        later = [
            application("a", calls=20, times=histogram(10, 10, 0, 0)),
            application("b", "shop", calls=10, errors=4),
        ]
        sample = top.Sample(report(1010.0, applications=later), report(applications=applications))
        self.assertEqual((sample.total.rate, sample.total.errors), (2.0, 0.2))
        self.assertEqual(sample.total.p50, Quantile(0.01, False))
        self.assertEqual(sample.applications["shop", "b"].rate, 1.0)
        self.assertEqual(sample.applications["", "a"].rate, 1.0)

    def test_workers_have_rates_and_processor_time(self):
        later = worker(calls=25)
        later["details"]["cpu"] = 11.0
        sample = top.Sample(report(1010.0, workers=[later, worker(101)]), report(workers=[worker()]))
        self.assertEqual(sample.worker_rates, {100: 2.0, 101: None})
        self.assertEqual(sample.worker_cpu, {100: 0.1, 101: None})
        self.assertEqual(sample.threads(), (8, 2, 0))


class Texts(unittest.TestCase):
    def test_characters_that_command_a_terminal_are_escaped(self):
        for text, shown in (
            ("\x1b[2J\x07\r\n\t", r"\x1b[2J\x07\r\n\t"),
            ("\x9b1m\x7f", r"\x9b1m\x7f"),
            ("\u202eabc\u2066\u200b", r"\u202eabc\u2066\u200b"),
            ("\u2028\ud800\ue000\U000e0001", r"\u2028\ud800\ue000\U000e0001"),
            ("e\u0301 日本", "é 日本"),
            ("☺\ufe0f", "☺\\ufe0f"),
        ):
            self.assertEqual(top.printable(text), shown)
        self.assertEqual(top.printable("é日", "ascii"), r"\xe9\u65e5")
        self.assertEqual(top.printable("é日", "iso-8859-1"), r"é\u65e5")

    def test_widths_are_those_of_the_terminal(self):
        for text, width in (("abc", 3), ("日本", 4), ("x\u0323", 1), ("", 0)):
            self.assertEqual(top.width_of(text), width)

    def test_texts_are_padded_or_cut_to_a_width(self):
        for text, width, fitted in (
            ("abc", 5, "abc  "),
            ("abcdef", 4, "abc~"),
            ("日本語", 6, "日本語"),
            ("日本語", 5, "日本~"),
            ("日本語", 4, "日~ "),
            ("abc", 0, ""),
            ("日", 1, "~"),
        ):
            self.assertEqual(top.fitted(text, width), fitted)
            self.assertEqual(top.width_of(top.fitted(text, width)), width)
        self.assertEqual(top.fitted("7", 3, is_right=True), "  7")
        self.assertEqual(top.fitted("/srv/shop/wsgi.py", 10, keeps_end=True), "~p/wsgi.py")
        self.assertEqual(top.fitted("日本語", 4, keeps_end=True), "~語 ")

    def test_long_lines_are_wrapped(self):
        self.assertEqual(top.wrapped("abcdef", 4), ["abcd", "ef"])
        self.assertEqual(top.wrapped("日本語", 5), ["日本", "語"])
        self.assertEqual(top.wrapped("", 5), [""])
        self.assertEqual(top.wrapped("日本", 1), ["日", "本"])

    def test_numbers_are_short(self):
        rates = (0, 1.234, 9.996, 12.34, 99.96, 999.4, 999.6, 1234, 12345, 1.5e6, None)
        shown = ["0", "1.23", "10.0", "12.3", "100", "999", "1.00k", "1.23k", "12.3k", "1.50M", "-"]
        self.assertEqual([top.shown_rate(rate) for rate in rates], shown)
        self.assertEqual(
            [top.shown_size(size) for size in (512, 1023.7, 2048, 50 << 20)], ["512B", "1.00K", "2.00K", "50.0M"]
        )
        self.assertEqual(
            [top.shown_share(share) for share in (0, 0.004, 0.0996, 0.5, 1)], ["0%", "0.4%", "10%", "50%", "100%"]
        )

    def test_times_are_short(self):
        for seconds, shown in (
            (0, "0ms"),
            (0.00042, "0.4ms"),
            (0.0099, "9.9ms"),
            (0.00996, "10ms"),
            (0.25, "250ms"),
            (0.9996, "1.00s"),
            (9.999, "10.0s"),
            (59.5, "59.5s"),
            (125, "2m05s"),
            (3 * 3600 + 720, "3h12m"),
            (4 * 86400 + 7200, "4d02h"),
            (400 * 86400, "400d"),
            (-1, "0ms"),
            (float("inf"), "?"),
            (None, "-"),
        ):
            self.assertEqual(top.shown_time(seconds), shown)


class Layout(unittest.TestCase):
    def lines(self, table, sample, width):
        return top.table_lines(table, table.rows(sample), width)

    def test_lines_are_as_wide_as_the_screen(self):
        for name in ("shop.wsgi", "/srv/日本語/" * 20, "\x1b" * 50):
            one = report(
                applications=[application(name, "group" * 20, calls=5)],
                workers=[worker(applications=[loaded(name, code("9" * 200))])],
                calls=[call(path=name, method=name, client=name)],
                events=[event(name)],
            )
            sample = top.new_sample(one, None)
            for table in top.TABLES.values():
                for width in (*range(1, 40), 80, 81, 200, 500):
                    for line in self.lines(table, sample, width):
                        self.assertEqual(top.line_width(line), width, (table.name, line))

    def test_a_narrow_screen_keeps_the_columns_that_matter(self):
        sample = top.new_sample(report(applications=[application()]), None)
        names = text_of(self.lines(top.APPLICATIONS, sample, 36)).splitlines()[0].split()
        self.assertEqual(names, ["APPLICATION", "REQ/S", "ERR", "P95", "RUN", "QUEUE"])
        everything = text_of(self.lines(top.APPLICATIONS, sample, None)).splitlines()[0].split()
        self.assertEqual(everything, [column.name for column in top.APPLICATIONS.columns])

    def test_a_long_name_is_cut_and_no_other_column(self):
        sample = top.new_sample(report(calls=[call(path="/" + "x" * 300)]), None)
        line = text_of(self.lines(top.CALLS, sample, 80)).splitlines()[1]
        self.assertRegex(line, r"1\.50s running GET +/x+~ shop\.wsgi +- +192\.0\.2\.1")

    def test_lines_are_shared_out(self):
        self.assertEqual(top.shared_out([3, 100, 2], 15), [3, 10, 2])
        self.assertEqual(top.shared_out([10, 10], 5), [3, 2])
        self.assertEqual(top.shared_out([1, 1], 9), [1, 1])
        self.assertEqual(top.shared_out([4], -1), [0])


class Codes(unittest.TestCase):
    def shown(self, *workers):
        sample = top.new_sample(report(applications=[application()], workers=list(workers)), None)
        return top.shown_code(top.APPLICATIONS.rows(sample)[0])

    def test_the_code_of_all_workers_is_summed_up(self):
        failure = {"time": 950.0, "traceback": "Traceback"}
        one, two = loaded(code=code("1.0")), loaded(code=code("2.0"))
        self.assertEqual(self.shown(worker(applications=[one])), "1.0")
        self.assertEqual(self.shown(worker(applications=[one]), worker(101, applications=[two])), "mixed")
        self.assertEqual(self.shown(worker(applications=[loaded(code=code(None))])), "loaded")
        self.assertEqual(
            self.shown(worker(applications=[one]), worker(101, applications=[loaded(failure=failure)])), "FAILED"
        )
        self.assertEqual(self.shown(worker(applications=[loaded()])), "not loaded")
        self.assertEqual(self.shown(worker(101, group="other", applications=[one])), "-")


class Sessions(unittest.TestCase):
    def test_all_tables_are_shown_in_80_by_24(self):
        first = report(applications=[application(calls=0)], workers=[worker(busy=4)], calls=[call()])
        later = report(
            1002.0, applications=[application(calls=40, errors=10, queued=2)], workers=[worker(busy=4)], calls=[call()]
        )
        lines = session(first, later).lines(80, 24)
        shown = text_of(lines)
        self.assertLessEqual(len(lines), 24)
        for part in ("Requests: 20.0/s", "errors: 25%", "Threads: 4/4 busy", "queue: 2", "shop.wsgi", "/slow"):
            self.assertIn(part, shown)
        spans = [span for line in lines for span in line]
        self.assertIn(Span("4/4 busy", "bad"), spans)

    def test_no_size_of_the_screen_breaks_it(self):
        calls = [call(f"100.{number}") for number in range(30)]
        events = [event(time=float(number)) for number in range(30)]
        applications = [application(f"app{number}") for number in range(20)]
        workers = [worker(100 + number) for number in range(10)]
        one = session(report(applications=applications, workers=workers, calls=calls, events=events))
        for view in "oawceh":
            one.key("q" if one.pager else view)
            one.key(view)
            for key in ("", "DOWN", "END", "PGUP"):
                one.key(key)
                for width, height in ((1, 1), (3, 2), (20, 5), (40, 9), (80, 24), (80, 6), (300, 100)):
                    lines = one.lines(width, height)
                    self.assertLessEqual(len(lines), height)
                    for line in lines:
                        self.assertLessEqual(top.line_width(line), width)

    def test_the_selected_row_is_on_the_screen_and_stays_selected(self):
        calls = [call(f"100.{number}", f"/path-{number}-", 100.0 - number) for number in range(40)]
        one = session(report(calls=calls))
        one.key("c")

        def selected():
            line = [line for line in one.lines(80, 24) if any(span.style == "selected" for span in line)]
            return re.search(r"/path-(\d+)-", text_of(line))[1]

        for keys, row in (("DOWN", "0"), ("DOWN", "1"), ("END", "39"), ("UP", "38"), ("HOME", "0"), ("PGDN", "18")):
            one.key(keys)
            self.assertEqual(selected(), row)
        # It moves up when others end.
        one.got_report(report(1001.0, calls=calls[10:]))
        self.assertEqual(selected(), "18")

    def test_rows_are_sorted_by_the_columns_that_are_shown(self):
        one = session(report(calls=[call("100.1", "/b", 1.0), call("100.2", "/a", 9.0)]))
        one.key("c")

        def paths():
            return re.findall(r"GET +(/\w)", text_of(one.lines(60, 24)))

        self.assertEqual(paths(), ["/a", "/b"])
        one.key("R")
        self.assertEqual(paths(), ["/b", "/a"])
        seen = set()
        for _ in one.names:
            one.key("s")
            seen.add(one.sort_of(top.CALLS)[0])
            self.assertIn("sorted", [span.style for line in one.lines(60, 24) for span in line])
        self.assertEqual(seen, set(one.names))
        self.assertLess(len(seen), len(top.CALLS.columns))
        while one.sort_of(top.CALLS)[0] != "PATH":
            one.key("S")
        self.assertEqual(paths(), ["/a", "/b"])

    def test_enter_asks_for_the_stack_of_a_call(self):
        asked = []
        one = session(report(calls=[call(path="/\x1b]0;evil\x07")]), ask_stack=asked.append)
        one.key("ENTER")
        self.assertEqual(asked, ["100.1"])
        self.assertIn("asking for the stack", text_of(one.lines(80, 24)))
        one.got_stack("100.9", "of another call")
        one.got_stack("100.1", 'File "a.py", line 3\n\ttime.sleep(1)')
        shown = text_of(one.lines(80, 24))
        self.assertIn('File "a.py", line 3\n        time.sleep(1)', shown)
        self.assertIn(r"GET /\x1b]0;evil\x07", shown)
        self.assertNotIn("another", shown)
        one.key("r")
        self.assertEqual(asked, ["100.1"] * 2)
        one.got_stack("100.1", None)
        self.assertIn("No Python code of this call runs now", text_of(one.lines(80, 24)))
        one.key("q")
        self.assertFalse(one.has_ended)
        one.key("q")
        self.assertTrue(one.has_ended)

    def test_enter_shows_applications_workers_and_events_in_full(self):
        failure = {"time": 950.0, "traceback": "Traceback\nSyntaxError: \x1b[2J"}
        one = session(
            report(
                applications=[application(exceptions={"ValueError": 3}, group="shop")],
                workers=[worker(group="shop", applications=[loaded(code=code("4.2"), failure=failure)])],
                events=[event(text="Traceback\n" + "  line\n" * 50 + "last")],
            )
        )
        for key, parts in (
            ("a", ["ValueError", "version 4.2", r"SyntaxError: \x1b[2J", "process group shop"]),
            ("w", ["memory        50.0M", "GIL shared", "4.2"]),
            ("e", ["exception at", "Traceback"]),
        ):
            one.key(key)
            one.key("ENTER")
            shown = text_of(one.lines(80, 24))
            for part in parts:
                self.assertIn(part, shown)
            if key == "e":
                one.key("END")
                self.assertIn("last", text_of(one.lines(80, 24)))
            one.key("ESC")

    def test_a_pause_keeps_what_is_shown(self):
        one = session(report(calls=[call(path="/first")]))
        one.key("p")
        one.got_report(report(1001.0, calls=[call(path="/second")]))
        shown = text_of(one.lines(80, 24))
        self.assertIn("/first", shown)
        self.assertIn("PAUSED", shown)
        one.key("p")
        one.got_report(report(1002.0, calls=[call(path="/second")]))
        self.assertIn("/second", text_of(one.lines(80, 24)))

    def test_a_problem_is_shown_above_the_last_report(self):
        one = session(report(calls=[call()]))
        one.got_problem(Problem("connection refused \x1b"))
        shown = text_of(one.lines(80, 24))
        self.assertIn("no report since", shown)
        self.assertIn("/slow", shown)
        one.got_report(report(1001.0))
        self.assertNotIn("no report since", text_of(one.lines(80, 24)))

    def test_a_report_of_another_form_is_a_problem(self):
        broken = [
            report(calls=[{"id": "1"}]),
            report(workers=[worker(details=3)]),
            report(applications=[application(name=None)]) | {"versions": None},
            report(applications=[application() | {"counters": {}}]),
            report() | {"time": "now"},
            report(events=[event() | {"text": None}]),
        ]
        for one in broken:
            with self.assertRaises(Problem, msg=str(one)[:100]):
                top.new_sample(one, report())


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with the status and body that the path names."""

    def do_GET(self):  # noqa: N802
        self.server.seen.append((self.path, dict(self.headers)))
        status, body = self.server.answers.get(self.path.partition("?")[0], (404, b""))
        if "stack=" in self.path:
            body = json.dumps({"stack": "File \x1b\nline"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", "http://example.com/")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

    def address_string(self):
        return ""


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class Clients(unittest.TestCase):
    def setUp(self):
        self.server = self.start(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def start(self, server):
        later = application(calls=10)
        server.answers = {
            "/status": (200, json.dumps(report(applications=[later], calls=[call(path="/日\x1b")])).encode()),
            "/html": (200, b"<html>"),
            "/other": (200, b"{}"),
            "/later": (200, json.dumps(report() | {"schema": 2}).encode()),
            "/lists": (200, json.dumps(report() | {"calls": {}}).encode()),
            "/deep": (200, b"[" * 100_000),
            "/401": (401, b""),
            "/403": (403, b""),
            "/301": (301, b""),
            "/500": (500, b""),
        }
        server.seen = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return server

    def run_top(self, *arguments):
        """Returns the status, standard output and standard error of the program."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = top.main(list(arguments))
        return status, out.getvalue(), err.getvalue()

    def test_once_prints_the_tables(self):
        status, out, err = self.run_top(f"{self.url}/status", "--once", "-d", "0.1")
        self.assertEqual((status, err), (0, ""))
        self.assertIn("shop.wsgi", out)
        self.assertIn(r"\x1b", out)
        self.assertNotIn("\x1b", out)
        self.assertEqual([line for line in out.splitlines() if line != line.rstrip()], [])
        self.assertEqual(self.server.seen[0][0], "/status?format=json")

    def test_batch_prints_several_times(self):
        _, out, _ = self.run_top(f"{self.url}/status", "-b", "-n", "2", "-d", "0.1")
        self.assertEqual(out.count("Requests:"), 2)

    def test_a_stack_is_printed(self):
        self.assertEqual(self.run_top(f"{self.url}/status", "--stack", "1.2"), (0, "File \\x1b\nline\n", ""))

    def test_what_is_no_call_has_no_stack(self):
        for text in ("17", "1.", ".2", "1.2.3", "GET"):
            with self.assertRaises(SystemExit) as ended, contextlib.redirect_stderr(io.StringIO()) as err:
                top.parser().parse_args(["--stack", text])
            self.assertEqual(ended.exception.code, 2)
            self.assertIn(f"invalid call value: '{text}'", err.getvalue())

    def test_problems_name_the_remedy(self):
        for path, part in (
            ("/missing", "wsgi_status_zone"),
            ("/401", "give --user NAME"),
            ("/403", "Add `allow ADDRESS;`"),
            ("/301", "redirects to http://example.com/"),
            ("/500", "answers 500"),
            ("/html", "no JSON"),
            ("/deep", "no JSON"),
            ("/other", "no report"),
            ("/later", "schema 2"),
            ("/lists", "without calls"),
        ):
            status, out, err = self.run_top(self.url + path, "--once")
            self.assertEqual((status, out), (1, ""), path)
            self.assertIn(part, err)
            self.assertNotIn("Traceback", err)

    def test_a_server_that_is_not_there_is_named(self):
        url = self.url.replace("127.0.0.1", "127.9.9.9")
        for address, part in (
            (url, "connection refused"),
            ("unix:/nonexistent.sock:/status", "no such socket"),
            ("http://name.invalid/", "is unknown"),
            (self.url.replace("http:", "https:"), "http instead of https"),
        ):
            status, _, err = self.run_top(address, "--once")
            self.assertEqual(status, 1)
            self.assertIn(part, err)

    def test_the_password_is_sent(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("päss\nmore")
            file.flush()
            self.run_top(f"{self.url}/status", "--stack", "1.2", "--user", "me", "--password-file", file.name)
        self.assertEqual(self.server.seen[-1][1]["Authorization"], "Basic bWU6cMOkc3M=")
        self.run_top(f"http://me:a%3Ab@{self.url[7:]}/status", "--stack", "1.2")
        self.assertEqual(self.server.seen[-1][1]["Authorization"], "Basic bWU6YTpi")
        for arguments, part in (
            (["--password-file", "/nonexistent"], "needs --user"),
            (["--user", "me", "--password-file", "/nonexistent"], "No such file"),
        ):
            status, _, err = self.run_top(f"{self.url}/status", *arguments)
            self.assertEqual(status, 1)
            self.assertIn(part, err)

    def test_a_unix_socket_is_asked(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "socket")
            self.start(UnixServer(path, Handler))
            status, out, _ = self.run_top(f"unix:{path}:/status", "--stack", "1.2")
            self.assertEqual((status, out), (0, "File \\x1b\nline\n"))

    def test_without_a_terminal_the_remedy_is_told(self):
        status, _, err = self.run_top(f"{self.url}/status")
        self.assertEqual(status, 1)
        self.assertIn("--once", err)

    def test_wrong_arguments_are_refused(self):
        for arguments in (["-d", "0"], ["-n", "x"], ["--delay", "nan"], ["a", "b"]):
            with self.assertRaises(SystemExit) as ended:
                self.run_top(*arguments)
            self.assertEqual(ended.exception.code, 2)


class File(unittest.TestCase):
    def test_version_is_that_of_the_module(self):
        with open(REPOSITORY / "Cargo.toml", "rb") as file:
            self.assertEqual(top.VERSION, tomllib.load(file)["package"]["version"])

    def test_it_needs_the_standard_library_alone_and_python_3_9(self):
        tree = ast.parse(Path(top.__file__).read_text(encoding="utf-8"), feature_version=(3, 9))
        names = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                names.add("." * node.level + (node.module or ""))
        self.assertLessEqual(names, sys.stdlib_module_names)


class Page(unittest.TestCase):
    """docs/ngx-wsgi-top.md has each option and each key."""

    def test_options_and_keys_are_documented(self):
        page = (REPOSITORY / "docs/ngx-wsgi-top.md").read_text(encoding="utf-8")
        for action in top.parser()._actions:
            for option in action.option_strings or [action.metavar]:
                self.assertIn(f"`{option}", page)
        for key in (*top.VIEWS, "s", "S", "R", "p", "h", "q", "r"):
            self.assertIn(f"| `{key}`", page.replace(", `", "| `"))
