"""The format of the access log."""

import unittest

from ngx_wsgi import access_log
from ngx_wsgi.problem import Problem


class Format(unittest.TestCase):
    def test_the_default_of_gunicorn(self):
        self.assertEqual(
            access_log.translate(access_log.DEFAULT_FORMAT),
            '${remote_addr} - ${remote_user} [${time_local}] "${request}" ${status} ${body_bytes_sent} '
            '"${http_referer}" "${http_user_agent}"',
        )

    def test_fields_of_headers_and_of_environ(self):
        for text, expected in {
            "%({X-Request-Id}i)s": "${http_x_request_id}",
            "%({Content-Type}o)s": "${sent_http_content_type}",
            "%({HTTP_HOST}e)s": "${http_host}",
            "%({QUERY_STRING}e)s": "${query_string}",
            "100%% %(D)s": "100% ${request_microseconds}",
        }.items():
            self.assertEqual(access_log.translate(text), expected)

    def test_each_atom_of_gunicorn_is_known(self):
        for atom in "hlutrmUqHsBbfaTMDLp":
            self.assertNotIn("%", access_log.translate(f"%({atom})s"))

    def test_times_are_variables_of_their_own(self):
        self.assertEqual(access_log.maps(access_log.translate("%(T)s")), [])
        lines = access_log.maps(access_log.translate("%(D)s"))
        self.assertEqual(lines[0], "map $request_time $request_microseconds {")
        self.assertIn('    "~^0\\.0(?<digits>[0-9][0-9])$" "${digits}000";', lines)

    def test_a_format_of_nginx_is_left_alone(self):
        self.assertEqual(access_log.translate("$request_time %"), "$request_time %")

    def test_what_nginx_cannot_log_is_refused(self):
        for text in ("%(x)s", "%(h)d", "%({wsgi.input}e)s", "%", "%({a b}i)s"):
            with self.assertRaisesRegex(Problem, "nginx's own variables"):
                access_log.translate(text)
