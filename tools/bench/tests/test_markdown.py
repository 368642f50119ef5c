import unittest

from bench.markdown import number, replace_section, table

PAGE = "before\n<!-- results: made by make bench -->\nold\n<!-- end of results -->\nafter\n"


class Sections(unittest.TestCase):
    def test_the_text_around_a_section_is_kept(self):
        page = replace_section(PAGE, "results", "new")
        self.assertTrue(page.startswith("before\n") and page.endswith("\nafter\n"))
        self.assertIn("\nnew\n", page)
        self.assertNotIn("old", page)

    def test_a_section_may_be_replaced_again(self):
        page = replace_section(PAGE, "results", "new")
        self.assertEqual(replace_section(page, "results", "new"), page)

    def test_a_page_without_the_section_is_refused(self):
        with self.assertRaises(SystemExit):
            replace_section(PAGE, "other", "new")


class Numbers(unittest.TestCase):
    def test_three_digits_are_shown(self):
        values = {123_456: "123,000", 1234: "1,230", 12.34: "12.3", 0.001234: "0.00123", 0: "0", 99.96: "100.0"}
        for value, text in values.items():
            self.assertEqual(number(value), text)

    def test_an_absent_cell_is_a_dash(self):
        self.assertEqual(table(["a", "b"], [[1, None]]), "| a | b |\n| --- | --- |\n| 1 | — |")


if __name__ == "__main__":
    unittest.main()
