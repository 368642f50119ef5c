"""Middleware of `make run`: adds the parts of a development server to the application.

tools/run.sh puts a copy of this file on the workers' path, and waits for the file "loaded" beside that copy.
"""

import os
import sys

import ngx_wsgi


def middleware(application):
    """Wraps the application once it has been loaded."""
    django = sys.modules.get("django.apps")
    if django is not None and django.apps.ready:
        application = with_django(application)
    if not ngx_wsgi.checking:
        with open(os.path.join(os.path.dirname(__file__), "loaded"), "w"):
            pass
    return application


def with_django(application):
    """Serves the static files of a project as runserver does, from the directories that `collectstatic` reads."""
    from django.apps import apps
    from django.conf import settings
    from django.http import Http404
    from django.urls import get_resolver
    from django.views.static import serve

    if getattr(settings, "ROOT_URLCONF", None):
        # Imports the views, as the first request would: an error in a view is reported now, and new code that has one is
        # not used.
        get_resolver().url_patterns
    if not apps.is_installed("django.contrib.staticfiles") or not settings.STATIC_URL:
        return application

    from django.contrib.staticfiles.handlers import StaticFilesHandler

    class StaticFiles(StaticFilesHandler):
        def serve(self, request):
            try:
                return super().serve(request)
            except Http404:
                # Only `collectstatic` creates files whose names have a hash.
                if not settings.STATIC_ROOT:
                    raise
                return serve(request, self.file_path(request.path), document_root=settings.STATIC_ROOT)

    return StaticFiles(application)
