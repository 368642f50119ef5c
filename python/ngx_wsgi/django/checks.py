"""Mistakes in the settings of a project that a production server would only show as broken pages."""

import os
from urllib.parse import urlsplit

from ..problem import Problem


def assert_servable(settings, options, has_static_files):
    """Refuses settings with which the site would be unsafe or would not work.

    `has_static_files` says whether django.contrib.staticfiles is installed. Raises Problem.
    """
    if settings.DEBUG:
        for address in options.bind:
            if not address.is_loopback():
                raise Problem(
                    f"DEBUG = True on {address}: its error pages show code and settings to each client. "
                    "Set DEBUG = False, or serve this machine alone with --bind 127.0.0.1:8000."
                )
        return
    if not settings.ALLOWED_HOSTS:
        raise Problem(
            "ALLOWED_HOSTS is empty, so each request would get 400. Set it to the names of the site, "
            'as in ALLOWED_HOSTS = ["www.example.com"].'
        )
    if has_static_files:
        assert_collected(settings)


def assert_collected(settings):
    url, root = settings.STATIC_URL, settings.STATIC_ROOT
    if is_elsewhere(url):
        return
    if not url:
        raise Problem(
            'STATIC_URL is not set, but django.contrib.staticfiles is installed. Set it, as in STATIC_URL = "static/".'
        )
    if not root:
        raise Problem(
            "STATIC_ROOT is not set, so there is no directory with the static files. Set it, as in "
            'STATIC_ROOT = BASE_DIR / "collected", and run `manage.py collectstatic`.'
        )
    if not os.path.isdir(root) or not os.listdir(root):
        raise Problem(f"STATIC_ROOT ({root}) is empty. Run `manage.py collectstatic`, which fills it.")


def static_directory(settings):
    """Returns the value of --static for the collected files, or None. Raises Problem."""
    url, root = settings.STATIC_URL, settings.STATIC_ROOT
    if not url or not root or is_elsewhere(url) or not os.path.isdir(root):
        return None
    if url.strip("/") == "":
        raise Problem(f'STATIC_URL = "{url}" takes the whole site. Set another one, as in STATIC_URL = "static/".')
    if "=" in url:
        raise Problem(f'STATIC_URL = "{url}" has a "=", with which --static cannot work. Set another one.')
    return f"{url}={os.path.abspath(root)}"


def is_elsewhere(url):
    """Returns whether another server has the files."""
    return bool(url) and bool(urlsplit(url).netloc)


def target(settings):
    """Returns the target of the runner for WSGI_APPLICATION. Raises Problem."""
    name = settings.WSGI_APPLICATION
    if not name:
        raise Problem('WSGI_APPLICATION is not set. Set it, as in WSGI_APPLICATION = "mysite.wsgi.application".')
    module, dot, attribute = name.rpartition(".")
    if not dot:
        raise Problem(
            f'WSGI_APPLICATION = "{name}" names no callable in a module, as "mysite.wsgi.application" does. Correct it.'
        )
    return f"{module}:{attribute}"


def warnings(settings, options):
    """Returns sentences on settings that are likely to be wrong, but may be right."""
    if settings.DEBUG:
        if not static_directory(settings):
            yield "DEBUG = True, and STATIC_ROOT is no directory: static files are not served; runserver serves them."
        return
    if settings.SECRET_KEY.startswith("django-insecure-"):
        yield "SECRET_KEY is the one that startproject has written: set a secret one before the site is public."
    if settings.SECURE_SSL_REDIRECT and not options.certfile:
        yield "SECURE_SSL_REDIRECT without --certfile: without a proxy that ends TLS, each page redirects to itself."
