"""The middleware of `make run`: what a development server does beside running the application.

tools/run.sh gives the workers a copy of this file, and waits for the file "loaded" beside that copy.
"""

import os
import sys

import ngx_wsgi


def middleware(application):
    """Is called once the application has been loaded."""
    django = sys.modules.get("django.apps")
    if django is not None and django.apps.ready:
        application = with_django(application)
    if not ngx_wsgi.checking:
        with open(os.path.join(os.path.dirname(__file__), "loaded"), "w"):
            pass
    return application


def with_django(application):
    """Serves a project's static files where its runserver does, from where `collectstatic` takes them."""
    from django.apps import apps
    from django.conf import settings
    from django.http import Http404
    from django.urls import get_resolver
    from django.views.static import serve

    if getattr(settings, "ROOT_URLCONF", None):
        # The first request would do it. A mistake in a view is to be found before that, and new code that has one not
        # to be taken.
        get_resolver().url_patterns
    if not apps.is_installed("django.contrib.staticfiles") or not settings.STATIC_URL:
        return application

    from django.contrib.staticfiles.handlers import StaticFilesHandler

    class StaticFiles(StaticFilesHandler):
        def serve(self, request):
            try:
                return super().serve(request)
            except Http404:
                # Names with a hash are made by `collectstatic` only.
                if not settings.STATIC_ROOT:
                    raise
                return serve(request, self.file_path(request.path), document_root=settings.STATIC_ROOT)

    return StaticFiles(application)
