import unittest

from bench.summary import Summary


def samples(*rates):
    return [{"rate": rate, "cpu": 1 / rate, "memory": 8e6, "p99": 0.01} for rate in rates]


class Ratios(unittest.TestCase):
    def setUp(self):
        taken = {
            "hello nginx": samples(100, 200, 50),
            "hello loop": samples(100, 200, 50),
            "hello inline": samples(40, 90, 25),
            "hello other": samples(50, 90, 20),
        }
        self.summary = Summary(taken, unfit={}, facts=[])

    def test_the_limit_is_one_request_of_nginx_and_one_call(self):
        self.assertEqual(self.summary.limits("hello"), [50, 100, 25])

    def test_ratios_are_taken_within_rounds(self):
        self.assertEqual(self.summary.ratio("hello", "inline", "L"), 0.9)
        self.assertEqual(self.summary.ratio("hello", "inline", "other"), 1)

    def test_cpu_time_has_a_ratio_of_its_own(self):
        self.assertAlmostEqual(self.summary.ratio_of_cpu("hello", "inline"), 0.9)

    def test_the_spread_is_a_part_of_the_median(self):
        self.assertEqual(self.summary.spread("hello", "inline"), (25 / 40, 90 / 40))

    def test_the_fastest_server_has_the_highest_median(self):
        self.assertEqual(self.summary.best("hello", ["inline", "other", "absent"]), "other")

    def test_a_server_without_samples_has_no_numbers(self):
        self.assertIsNone(self.summary.middle("hello", "absent"))
        self.assertIsNone(self.summary.ratio("hello", "absent", "L"))
        self.assertIsNone(self.summary.own_memory("hello", "absent"))

    def test_a_busy_client_beside_an_idle_server_is_the_limit(self):
        taken = {
            "file idle": [{"rate": 10, "cpu": 0.02, "client": 0.99}],
            "file busy": [{"rate": 10, "cpu": 0.1, "client": 0.99}],
            "file loop": [{"rate": 10, "cpu": 0.02}],
        }
        summary = Summary(taken, unfit={}, facts=[])
        limited = [server for server in ("idle", "busy", "loop") if summary.is_limited_by_client("file", server)]
        self.assertEqual(limited, ["idle"])

    def test_memory_of_its_own_is_what_nginx_and_the_loop_do_not_have(self):
        self.assertEqual(self.summary.own_memory("hello", "inline"), -8e6)


if __name__ == "__main__":
    unittest.main()
