"""gunicorn's settings: each one is supported, has no effect, or is refused with a remedy."""

import importlib.util
import unittest

from ngx_wsgi import gunicorn
from ngx_wsgi.settings import BY_NAME

from .test_options import Case

# The names that `gunicorn --print-config` of gunicorn 27.0 shows.
SETTINGS = """
access_log_format accesslog asgi_disconnect_grace_period asgi_lifespan asgi_loop backlog bind ca_certs capture_output
casefold_http_method cert_reqs certfile chdir check_config child_exit ciphers config control_socket
control_socket_disable control_socket_mode daemon default_proc_name dirty_apps dirty_graceful_timeout dirty_post_fork
dirty_threads dirty_timeout dirty_worker_exit dirty_worker_init dirty_workers disable_redirect_access_to_syslog
do_handshake_on_connect dogstatsd_tags enable_backlog_metric enable_stdio_inheritance errorlog forwarded_allow_ips
forwarder_headers graceful_timeout group header_map http2_cleartext http2_initial_window_size
http2_max_concurrent_streams http2_max_frame_size http2_max_header_list_size http_parser http_protocols initgroups
keepalive keyfile limit_request_field_size limit_request_fields limit_request_line logconfig logconfig_dict
logconfig_json logger_class loglevel max_requests max_requests_jitter nworkers_changed on_dirty_starting on_exit
on_reload on_starting paste permit_obsolete_folding permit_unconventional_http_method
permit_unconventional_http_version pidfile post_fork post_request post_worker_init pre_exec pre_fork pre_request
preload_app print_config proc_name protocol proxy_allow_ips proxy_protocol pythonpath raw_env raw_paste_global_conf
reload reload_engine reload_extra_files reuse_port root_path secure_scheme_headers sendfile spew ssl_context
ssl_version statsd_host statsd_prefix strip_header_spaces suppress_ragged_eofs syslog syslog_addr syslog_facility
syslog_prefix threads timeout tmp_upload_dir umask user uwsgi_allow_ips websocket_max_message_size when_ready
worker_abort worker_class worker_connections worker_exit worker_int worker_tmp_dir workers wsgi_app
""".split()

# The target of the command line.
TARGET = {"wsgi_app"}


class Table(unittest.TestCase):
    def test_each_setting_has_exactly_one_entry(self):
        tables = [set(BY_NAME), set(gunicorn.UNSUPPORTED_BY_NAME), set(gunicorn.HOOKS), TARGET]
        for name in SETTINGS:
            self.assertEqual(sum(name in table for table in tables), 1, name)
        known = set().union(*tables[1:])
        self.assertEqual(known - set(SETTINGS), set())

    def test_each_sentence_is_one(self):
        for name, sentence in {
            **{setting.name: setting.sentence for setting in gunicorn.UNSUPPORTED},
            **gunicorn.HOOKS,
        }.items():
            self.assertRegex(sentence, r"^[^A-Z\n]|^(HTTP|SCRIPT|TLS|Python)", name)
            self.assertTrue(sentence.endswith("."), name)

    @unittest.skipUnless(importlib.util.find_spec("gunicorn"), "gunicorn is not installed")
    def test_the_list_and_the_flags_are_those_of_the_installed_gunicorn(self):
        from gunicorn.config import make_settings

        flags = {name: tuple(setting.cli or ()) for name, setting in make_settings().items()}
        self.assertEqual(set(flags) | TARGET, set(SETTINGS))
        for name, entry in {**BY_NAME, **gunicorn.UNSUPPORTED_BY_NAME}.items():
            if name in flags:
                self.assertEqual(entry.flags, flags[name], name)


class File(Case):
    def test_hooks_are_named_and_the_server_starts(self):
        path = self.write("gunicorn.conf.py", "def post_fork(server, worker): pass\nwhen_ready = print\nworkers = 3\n")
        resolved = self.resolve("app")
        self.assertEqual(resolved.workers, 3)
        self.assertEqual(len(resolved.lines), 2)
        self.assertTrue(
            resolved.lines[0].startswith(
                f"{path.rpartition('/')[2]}: the hook post_fork is not supported and does not run: "
            )
        )

    def test_usual_values_are_silent(self):
        self.write(
            "gunicorn.conf.py",
            "preload_app = False\nworker_class = 'gthread'\nhttp_protocols = 'h1'\nlimit_request_fields = 100\n"
            "logconfig = None\nssl_version = 2\n",
        )
        self.assertEqual(self.resolve("app").lines, [])

    def test_a_setting_without_effect_is_said_in_a_line(self):
        self.write("gunicorn.conf.py", "proc_name = 'shop'\nworker_tmp_dir = '/dev/shm'\n")
        lines = self.resolve("app").lines
        self.assertEqual(len(lines), 2)
        self.assertIn("gunicorn.conf.py: proc_name has no effect here: ", lines[0])

    def test_a_setting_that_cannot_be_honoured_is_refused(self):
        for text in ("preload_app = True", "worker_class = 'gevent'", "logconfig_dict = {'version': 1}", "spew = 1"):
            self.write("gunicorn.conf.py", text + "\n")
            self.assert_refused(f"gunicorn.conf.py: {text.split()[0]} is not supported: ", "app")

    def test_a_value_of_another_type_is_refused(self):
        self.write("gunicorn.conf.py", "bind = 8000\n")
        self.assert_refused("gunicorn.conf.py: bind = 8000: this is neither a string nor a list of strings.", "app")

    def test_protocols_choose_http2(self):
        certificate = self.write("certificate.pem")
        for value, expected in {"'h1,h2'": True, "['h2', 'h1']": True, "'h1'": False}.items():
            self.write("gunicorn.conf.py", f"http_protocols = {value}\ncertfile = {certificate!r}\n")
            self.assertEqual(self.resolve("app").http2, expected)
        self.write("gunicorn.conf.py", "http_protocols = 'h1,h3'\n")
        self.assert_refused("http_protocols = 'h1,h3' is not supported", "app")


class Flags(Case):
    def test_flags_are_refused_with_a_remedy_or_said_in_a_line(self):
        self.assert_refused("--preload is not supported: Python starts in the workers", "app", "--preload")
        self.assert_refused("-k is not supported: requests run on threads", "app", "-k", "gevent")
        self.assertEqual(self.resolve("app", "-k", "gthread").lines, [])
        lines = self.resolve("app", "--name", "shop", "--capture-output").lines
        self.assertEqual(len(lines), 2)
        self.assertTrue(lines[0].startswith("--name has no effect here: "))

    def test_each_flag_of_the_table_is_known(self):
        for setting in gunicorn.UNSUPPORTED:
            for flag in setting.flags:
                arguments = [flag, "7"] if setting.has_value else [flag]
                if setting.is_refused:
                    self.assert_refused(f"{flag} is not supported: ", "app", *arguments)
                elif not setting.is_usual("7" if setting.has_value else True):
                    self.assertEqual(len(self.resolve("app", *arguments).lines), 1, flag)
