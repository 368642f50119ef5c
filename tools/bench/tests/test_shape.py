import unittest

from bench.shape import describe


class Shape(unittest.TestCase):
    def test_small_differences_are_flat(self):
        self.assertEqual(describe([(1, 20), (10, 24), (100, 22)]), "flat, within a factor of 1.20")

    def test_a_line_has_its_offset_and_slope(self):
        self.assertEqual(describe([(1, 12), (10, 30), (100, 210)]), "linear: 10.0 + 2.00 each, within 0%")

    def test_a_slope_may_be_given_for_a_larger_unit(self):
        points = [(1_000_000, 300), (2_000_000, 500), (4_000_000, 900)]
        self.assertEqual(describe(points, 1_000_000, "per MB"), "linear: 100 + 200 per MB, within 0%")

    def test_a_square_is_above_linear(self):
        self.assertTrue(describe([(1, 1), (10, 100), (100, 10_000)]).startswith("**above linear** from 1 to 10"))

    def test_one_step_above_linear_is_found(self):
        points = [(1, 10), (10, 11), (100, 12), (1000, 200), (10_000, 210)]
        self.assertEqual(describe(points), "**above linear** from 100 to 1,000: 16.7 times for 10.0 times")

    def test_a_root_is_below_linear(self):
        self.assertEqual(describe([(1, 1), (100, 10), (10_000, 100)]), "below linear: 100 times for 10,000 times")


if __name__ == "__main__":
    unittest.main()
