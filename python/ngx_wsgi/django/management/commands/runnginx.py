"""`manage.py runnginx`: serves the project with nginx."""

import argparse
import os
import sys

from django.apps import apps
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from .... import options as runner_options
from ....problem import Problem
from ....settings import BY_NAME
from ... import checks

# Django's commands have an option of this name with the same meaning.
OF_DJANGO = ("pythonpath",)


class Command(BaseCommand):
    help = "Serves WSGI_APPLICATION and the files of STATIC_ROOT with nginx. The options are those of ngx-wsgi."
    requires_system_checks = "__all__"
    # The arguments after the name of the command, if it runs from a command line.
    argv = None

    def add_arguments(self, parser):
        runner_options.add_to(parser, without=OF_DJANGO)

    def run_from_argv(self, argv):
        self.argv = argv[2:]
        super().run_from_argv(argv)

    def handle(self, *args, **keywords):
        if self.argv is None:
            raise CommandError(
                "runnginx becomes another program: run it as `manage.py runnginx`, not by call_command()."
            )
        try:
            arguments = self.runner_arguments(keywords)
        except Problem as problem:
            raise CommandError(str(problem)) from None
        sys.stdout.flush()
        # A clean process: this one has loaded the project.
        os.execv(sys.executable, [sys.executable, "-P", "-m", "ngx_wsgi", *arguments])

    def runner_arguments(self, keywords):
        """Returns the command line of the runner. Raises Problem."""
        given = {name: value for name, value in keywords.items() if name in {*BY_NAME, "lines"}}
        target = checks.target(settings)
        options = runner_options.resolve(given, target)
        checks.assert_servable(settings, options, apps.is_installed("django.contrib.staticfiles"))
        for warning in checks.warnings(settings, options):
            self.stderr.write(self.style.WARNING(warning))
        arguments = [target, *self.path(keywords["pythonpath"]), *without_options_of_django(self.argv)]
        static = checks.static_directory(settings)
        if static and settings.STATIC_URL not in dict(options.static):
            arguments += ["--static", static]
        return arguments

    def path(self, of_django):
        """Returns the option for the directory of manage.py, with that of Django's own option in front."""
        directories = [os.path.abspath(directory) for directory in sys.path[: 2 if of_django else 1]]
        directories = [directory for directory in directories if directory != os.getcwd()]
        for directory in directories:
            if "," in directory:
                raise Problem(f"{directory}: a path of modules cannot have a comma; rename the directory.")
        return ["--pythonpath", ",".join(directories)] if directories else []


def without_options_of_django(argv):
    """Returns the arguments that Django itself does not take."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flags, keywords in OPTIONS_OF_DJANGO.items():
        parser.add_argument(*flags, **keywords)
    return parser.parse_known_args(argv)[1]


WITHOUT_VALUE = {"action": "store_true"}
OPTIONS_OF_DJANGO = {
    ("-v", "--verbosity"): {},
    ("--settings",): {},
    ("--pythonpath",): {},
    ("--traceback",): WITHOUT_VALUE,
    ("--no-color",): WITHOUT_VALUE,
    ("--force-color",): WITHOUT_VALUE,
    ("--skip-checks",): WITHOUT_VALUE,
}
